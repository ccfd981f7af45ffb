package step

import (
	"context"
	"reflect"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
)

// apiServers is the slice in which API servers list themselves.
func apiServers(addresses ...string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: facts.APIServiceName, Labels: map[string]string{discoveryv1.LabelServiceName: facts.APIServiceName}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: addresses}},
		Ports: []discoveryv1.EndpointPort{{Name: new(servicePort), Port: new(int32(6443))}},
	}
}

// TestPublish: pods reach the endpoint before and after API servers stop listing themselves, and nothing is left of them then. Every part
// can be repeated.
func TestPublish(t *testing.T) {
	const at, moved = "10.0.0.100:6443", "10.0.0.101:443"
	ctx, client := t.Context(), fake.NewClientset(apiServers("10.0.0.11"))
	for _, tc := range []struct {
		change plan.ServiceChange
		want   facts.APIService
	}{
		{plan.ServiceChange{Address: at}, facts.APIService{Slices: map[string][]string{facts.APIServiceName: {"10.0.0.11:6443"}, facts.OwnSlice: {at}}}},
		{plan.ServiceChange{Address: at, Only: true}, facts.APIService{Slices: map[string][]string{facts.OwnSlice: {at}}, Endpoints: []string{at}}},
		{plan.ServiceChange{Address: moved, Only: true}, facts.APIService{Slices: map[string][]string{facts.OwnSlice: {moved}}, Endpoints: []string{moved}}},
	} {
		for range 2 {
			if err := publish(ctx, client, tc.change); err != nil {
				t.Fatalf("%+v: %v", tc.change, err)
			}
			if got := served(t, ctx, client); !reflect.DeepEqual(*got, tc.want) {
				t.Errorf("%+v: got %+v, want %+v", tc.change, *got, tc.want)
			}
		}
	}
	slice, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, facts.OwnSlice, metav1.GetOptions{})
	if err != nil || len(slice.Ports) != 1 || slice.Ports[0].Name == nil || *slice.Ports[0].Name != "https" || slice.AddressType != discoveryv1.AddressTypeIPv4 {
		t.Errorf("kube-proxy does not find the port in %+v: %v", slice, err)
	}
	old, err := client.CoreV1().Endpoints(metav1.NamespaceDefault).Get(ctx, facts.APIServiceName, metav1.GetOptions{})
	if err != nil || old.Labels[discoveryv1.LabelSkipMirror] != "true" {
		t.Errorf("a controller copies %+v: %v", old, err)
	}
}

// TestWithdraw: pods never lose the API.
func TestWithdraw(t *testing.T) {
	ctx, client := t.Context(), fake.NewClientset()
	if err := publish(ctx, client, plan.ServiceChange{Address: "10.0.0.100:6443", Only: true}); err != nil {
		t.Fatal(err)
	}
	if err := withdraw(ctx, client); err == nil {
		t.Error("the only address of the Service is removed")
	}
	if got := served(t, ctx, client).Addresses(); len(got) != 1 {
		t.Fatalf("addresses: %v", got)
	}
	if _, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(ctx, apiServers("10.0.0.11"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := withdraw(ctx, client); err != nil {
			t.Fatal(err)
		}
	}
	if got := served(t, ctx, client).Addresses(); !reflect.DeepEqual(got, []string{"10.0.0.11:6443"}) {
		t.Errorf("addresses: %v", got)
	}
}

func served(t *testing.T, ctx context.Context, client kubernetes.Interface) *facts.APIService {
	t.Helper()
	got, err := observe.APIService(ctx, client, "")
	if err != nil {
		t.Fatal(err)
	}
	return got
}
