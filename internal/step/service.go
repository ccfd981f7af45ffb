package step

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applydiscoveryv1 "k8s.io/client-go/applyconfigurations/discovery/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// servicePort is the name of the port of the API's Service. kube-proxy finds the addresses of a port by its name.
const servicePort = "https"

// publishEndpoint makes the endpoint an address of the API's Service, or the only one.
func publishEndpoint(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	return e.onAPI(ctx, "making "+s.Service.Address+" an address of the Service default/"+facts.APIServiceName, func(ctx context.Context) error {
		return publish(ctx, client, *s.Service)
	})
}

// publish can be repeated. The endpoint is an address before others are removed.
func publish(ctx context.Context, client kubernetes.Interface, change plan.ServiceChange) error {
	host, text, err := net.SplitHostPort(change.Address)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return err
	}
	family := discoveryv1.AddressTypeIPv4
	if spec.FamilyOf(host) == spec.IPv6 {
		family = discoveryv1.AddressTypeIPv6
	}
	slice := applydiscoveryv1.EndpointSlice(facts.OwnSlice, metav1.NamespaceDefault).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: facts.APIServiceName, discoveryv1.LabelManagedBy: "quorate.dev"}).
		WithAddressType(family).
		WithEndpoints(applydiscoveryv1.Endpoint().WithAddresses(host).WithConditions(applydiscoveryv1.EndpointConditions().WithReady(true))).
		WithPorts(applydiscoveryv1.EndpointPort().WithName(servicePort).WithProtocol(corev1.ProtocolTCP).WithPort(int32(port)))
	if _, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Apply(ctx, slice, force); err != nil {
		return err
	}
	if !change.Only {
		return nil
	}
	// Some clients still read Endpoints, and the API's conformance tests compare them with the slices. The label keeps a controller from
	// making another slice of them.
	endpoints := applycorev1.Endpoints(facts.APIServiceName, metav1.NamespaceDefault).
		WithLabels(map[string]string{discoveryv1.LabelSkipMirror: "true"}).
		WithSubsets(applycorev1.EndpointSubset().WithAddresses(applycorev1.EndpointAddress().WithIP(host)).
			WithPorts(applycorev1.EndpointPort().WithName(servicePort).WithProtocol(corev1.ProtocolTCP).WithPort(int32(port))))
	if _, err := client.CoreV1().Endpoints(metav1.NamespaceDefault).Apply(ctx, endpoints, force); err != nil {
		return err
	}
	have, err := observe.APIService(ctx, client, "")
	if err != nil {
		return err
	}
	for name := range have.Slices {
		if name == facts.OwnSlice {
			continue
		}
		if err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{}); ignoreAbsent(err) != nil {
			return err
		}
	}
	if have, err = observe.APIService(ctx, client, ""); err != nil {
		return err
	}
	if !have.Only(change.Address) {
		return fmt.Errorf("it also has %s, and Endpoints %s: an API server may still list itself", cluster.List(have.Addresses()), cluster.List(have.Endpoints))
	}
	return nil
}

// withdrawEndpoint ends that the endpoint is an address of the API's Service, when it has another one.
func withdrawEndpoint(ctx context.Context, e *Env, _ plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	return e.onAPI(ctx, "waiting until the API servers are addresses of the Service default/"+facts.APIServiceName, func(ctx context.Context) error {
		return withdraw(ctx, client)
	})
}

func withdraw(ctx context.Context, client kubernetes.Interface) error {
	have, err := observe.APIService(ctx, client, "")
	if err != nil {
		return err
	}
	own := have.Slices[facts.OwnSlice]
	if !slices.ContainsFunc(have.Addresses(), func(a string) bool { return !slices.Contains(own, a) }) {
		return fmt.Errorf("no API server lists itself, and pods would lose the API without %s", facts.OwnSlice)
	}
	return ignoreAbsent(client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(ctx, facts.OwnSlice, metav1.DeleteOptions{}))
}
