package observe

//lint:file-ignore SA1019 The Endpoints object of the API's Service exists in every cluster.

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"quorate.dev/quorate/internal/facts"
)

// TestAPIService reads every slice of the Service, whoever wrote it, and no slice of another one.
func TestAPIService(t *testing.T) {
	slice := func(name, service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints: endpoints, Ports: []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(6443))}}}
	}
	at := func(address string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	}
	client := fake.NewClientset(
		slice("kubernetes", facts.APIServiceName, at("10.0.0.12", nil), at("10.0.0.11", new(true)), at("10.0.0.13", new(false))),
		slice(facts.OwnSlice, facts.APIServiceName, at("10.0.0.100", new(true))),
		slice("empty", facts.APIServiceName),
		slice("web", "web", at("10.244.0.7", nil)),
		&corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: facts.APIServiceName}, Subsets: []corev1.EndpointSubset{
			{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.12"}, {IP: "10.0.0.11"}}, Ports: []corev1.EndpointPort{{Name: "https", Port: 6443}}}}},
	)
	got, err := APIService(t.Context(), client, "")
	if err != nil {
		t.Fatal(err)
	}
	want := &facts.APIService{
		Slices:    map[string][]string{"kubernetes": {"10.0.0.11:6443", "10.0.0.12:6443"}, facts.OwnSlice: {"10.0.0.100:6443"}, "empty": {}},
		Endpoints: []string{"10.0.0.11:6443", "10.0.0.12:6443"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if all := got.Addresses(); !reflect.DeepEqual(all, []string{"10.0.0.100:6443", "10.0.0.11:6443", "10.0.0.12:6443"}) {
		t.Errorf("addresses: %v", all)
	}
	if got.Only("10.0.0.100:6443") {
		t.Error("API servers are among the addresses")
	}
	none, err := APIService(t.Context(), fake.NewClientset(), "")
	if err != nil || len(none.Slices)+len(none.Endpoints) > 0 {
		t.Errorf("a cluster without them: %+v, %v", none, err)
	}
}
