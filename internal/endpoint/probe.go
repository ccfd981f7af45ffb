package endpoint

import (
	"context"
	"net"
	"sync"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// How long a connection may take. An address that no machine has yet, as a virtual IP before the build, is met with
// silence, and whoever has it already answers at once.
const (
	patience        = 3 * time.Second
	patienceManaged = time.Second
)

// Probe is what was found from one place.
type Probe struct {
	// Host is where from; empty for the caller.
	Host   string
	Answer Answer
	// Err is why the host could not be asked.
	Err error
}

// Everywhere looks at the endpoint from every host that was observed and from the caller, all at once.
func Everywhere(ctx context.Context, c *spec.Cluster, obs *facts.Observation, conns *host.Set) []Probe {
	r := Request{Name: hostconfig.EndpointHost(c), Port: hostconfig.EndpointPort(c), Address: c.Spec.LoadBalancer.Address,
		CA: authority(obs), Timeout: patience, Connections: 1}
	if c.Spec.LoadBalancer.Type != spec.BalancerExternal {
		r.Timeout = patienceManaged
	}
	return everywhere(ctx, c, obs, conns, r)
}

func everywhere(ctx context.Context, c *spec.Cluster, obs *facts.Observation, conns *host.Set, r Request) []Probe {
	var from []string
	for _, h := range c.Spec.Hosts {
		if obs.Hosts[h.Name].Facts != nil {
			from = append(from, h.Name)
		}
	}
	from = append(from, "")
	out := make([]Probe, len(from))
	var wg sync.WaitGroup
	for i, name := range from {
		wg.Go(func() {
			p := Probe{Host: name}
			if name == "" {
				p.Answer = dial(ctx, r)
			} else if conn, err := conns.Get(name); err != nil {
				p.Err = err
			} else {
				p.Answer, p.Err = Dial.On(ctx, conn, r)
			}
			out[i] = p
		})
	}
	wg.Wait()
	return out
}

func authority(obs *facts.Observation) string {
	for _, h := range obs.Hosts {
		if h.Facts != nil && h.Facts.Kubernetes.CA != "" {
			return h.Facts.Kubernetes.CA
		}
	}
	return ""
}

// perPlace is how many connections each place makes in a row to meet every server.
const perPlace = 6

// Meeting is whom connections to the endpoint met.
type Meeting struct {
	// Want are the control planes that can be asked, by the SHA-256 of the certificate that each serves.
	Want map[string]string
	// Met counts connections by the certificate that answered.
	Met map[string]int
	// Lost are the places that got no trusted answer at the end, with what they got.
	Lost []Probe
	// Places counts where connections were made from.
	Places int
}

// Meet connects to the endpoint again and again, from every host and the caller, to see which apiservers are behind it:
// each has a serving certificate of its own.
func Meet(ctx context.Context, c *spec.Cluster, obs *facts.Observation, conns *host.Set) Meeting {
	m := Meeting{Want: map[string]string{}, Met: map[string]int{}}
	r := Request{Name: hostconfig.EndpointHost(c), Port: hostconfig.EndpointPort(c), Address: c.Spec.LoadBalancer.Address,
		CA: authority(obs), Timeout: patience, Connections: perPlace}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		conn, err := conns.Get(h.Name)
		if err != nil || obs.Hosts[h.Name].Facts == nil {
			continue
		}
		if _, leaf, _ := handshake(ctx, conn.DialContext, net.JoinHostPort(h.Address, hostconfig.APIPort), r); leaf != "" {
			m.Want[h.Name] = leaf
		}
	}
	for _, p := range everywhere(ctx, c, obs, conns, r) {
		m.Places++
		for leaf, n := range p.Answer.Servers {
			m.Met[leaf] += n
		}
		if p.Err != nil || p.Answer.Outcome != Trusted {
			m.Lost = append(m.Lost, p)
		}
	}
	return m
}
