package spec

import (
	"net"
	"slices"
)

// Endpoint is where clients reach the API: the name and port of spec.controlPlane.endpoint, and spec.loadBalancer.address.
type Endpoint struct {
	Name string `json:"name"`
	Port string `json:"port"`
	// Address is empty for an external load balancer whose address only DNS knows.
	Address string `json:"address,omitempty"`
}

// Server is the endpoint as a kubeconfig names it.
func (e Endpoint) Server() string { return "https://" + e.HostPort() }

// HostPort is the endpoint as the spec names it.
func (e Endpoint) HostPort() string { return net.JoinHostPort(e.Name, e.Port) }

// String also says at which address it is.
func (e Endpoint) String() string {
	if e.Address == "" {
		return e.HostPort()
	}
	return e.HostPort() + " at " + e.Address
}

// Names are the names and addresses for which API servers need a certificate.
func (e Endpoint) Names() []string {
	return slices.DeleteFunc([]string{e.Name, e.Address}, func(s string) bool { return s == "" })
}

// Endpoint is the endpoint of the spec.
func (c *Cluster) Endpoint() Endpoint {
	e := Endpoint{Name: c.Spec.ControlPlane.Endpoint, Port: DefaultPort, Address: c.Spec.LoadBalancer.Address}
	if name, port, err := net.SplitHostPort(e.Name); err == nil {
		e.Name, e.Port = name, port
	}
	return e
}

// Endpoints are the endpoint of the spec, and those that are served beside it while the endpoint changes.
func (c *Cluster) Endpoints() []Endpoint { return append([]Endpoint{c.Endpoint()}, c.also...) }

// WithEndpoint returns a copy of the spec with another endpoint, and none beside it.
func (c *Cluster) WithEndpoint(e Endpoint) *Cluster {
	out := *c
	out.Spec.ControlPlane.Endpoint, out.Spec.LoadBalancer.Address, out.also = e.HostPort(), e.Address, nil
	return &out
}

// AlsoServing returns a copy of the spec with endpoints that are served beside its own. No file can say that: it holds only while
// the endpoint of a cluster changes.
func (c *Cluster) AlsoServing(endpoints ...Endpoint) *Cluster {
	out := *c
	out.also = nil
	for _, e := range endpoints {
		if !slices.Contains(out.Endpoints(), e) {
			out.also = append(out.also, e)
		}
	}
	return &out
}
