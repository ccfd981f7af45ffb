package endpoint

import (
	"context"
	"net"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// How long a connection may take. An address that no machine has yet, such as a virtual IP before the build, does not answer,
// and a machine that already has it answers immediately.
const (
	patience        = 3 * time.Second
	patienceManaged = time.Second
)

// Probe is what was found from one place.
type Probe struct {
	// Host is where from; empty for the caller.
	Host   string
	Answer Answer
	// Err is why the host could not be queried.
	Err error
}

// Everywhere probes the endpoint from every host that was observed and from the caller, in parallel.
func Everywhere(ctx context.Context, s *cluster.State, conns *host.Set) []Probe {
	r := request(s, 1)
	if s.Spec.Spec.LoadBalancer.Type != spec.BalancerExternal && !s.Exists() {
		r.Timeout = patienceManaged
	}
	return everywhere(ctx, s, conns, r)
}

func request(s *cluster.State, connections int) Request {
	at := s.Reached().Endpoint()
	return Request{Name: at.Name, Port: at.Port, Address: at.Address, Family: s.Spec.Spec.Network.First(),
		CA: s.CA(), Timeout: patience, Connections: connections}
}

func everywhere(ctx context.Context, s *cluster.State, conns *host.Set, r Request) []Probe {
	var from []string
	for _, h := range s.Spec.Spec.Hosts {
		if s.Reachable(h.Name) {
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

// perPlace is how many connections each place makes in a row to meet every server.
const perPlace = 6

// Meeting is which servers connections to the endpoint reached.
type Meeting struct {
	// Want are the control planes that can be queried, by the SHA-256 of the certificate that each serves.
	Want map[string]string
	// Met counts connections by the certificate that answered.
	Met map[string]int
	// Lost are the places that got no trusted answer at the end, with what they got.
	Lost []Probe
	// Places counts where connections were made from.
	Places int
}

// Meet connects to the endpoint repeatedly, from every host and the caller, to find which API servers are behind it: each has
// its own serving certificate.
func Meet(ctx context.Context, s *cluster.State, conns *host.Set) Meeting {
	m := Meeting{Want: map[string]string{}, Met: map[string]int{}}
	r := request(s, perPlace)
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		conn, err := conns.Get(h.Name)
		if err != nil || !s.Reachable(h.Name) {
			continue
		}
		if _, leaf, _ := handshake(ctx, conn.DialContext, net.JoinHostPort(h.Address, hostconfig.APIPort), r); leaf != "" {
			m.Want[h.Name] = leaf
		}
	}
	for _, p := range everywhere(ctx, s, conns, r) {
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
