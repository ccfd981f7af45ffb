package observe

import (
	"context"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/facts"
)

// APIService reads where nodes send what pods send to the API's Service.
func APIService(ctx context.Context, client kubernetes.Interface, version string) (*facts.APIService, error) {
	list, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + facts.APIServiceName, ResourceVersion: version})
	if err != nil {
		return nil, err
	}
	out := &facts.APIService{Slices: map[string][]string{}}
	for _, s := range list.Items {
		out.Slices[s.Name] = ready(s)
	}
	old, err := client.CoreV1().Endpoints(metav1.NamespaceDefault).Get(ctx, facts.APIServiceName, metav1.GetOptions{ResourceVersion: version})
	if apierrors.IsNotFound(err) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, subset := range old.Subsets {
		for _, a := range subset.Addresses {
			for _, p := range subset.Ports {
				out.Endpoints = append(out.Endpoints, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	slices.Sort(out.Endpoints)
	return out, nil
}

// ready are the addresses of a slice to which kube-proxy sends connections. An address of which the slice does not say whether it is
// ready is.
func ready(s discoveryv1.EndpointSlice) []string {
	out := []string{}
	for _, e := range s.Endpoints {
		if r := e.Conditions.Ready; r != nil && !*r {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil {
				continue
			}
			for _, a := range e.Addresses {
				out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
			}
		}
	}
	slices.Sort(out)
	return out
}
