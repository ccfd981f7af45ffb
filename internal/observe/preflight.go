package observe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/inspect"
	"quorate.dev/quorate/internal/hostside/reach"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const (
	// inspectTimeout is longer than the slowest name lookup of an inspection.
	inspectTimeout = 30 * time.Second
	// clockSamples are taken of each clock; the one that took the shortest time counts.
	clockSamples = 3
	// maxPacket is the largest IP packet; the MTU of a loopback interface is larger.
	maxPacket = 65535
)

// Preflight collects everything that preflight evaluates in addition to an observation: from all hosts in parallel, in a
// constant number of round trips. Quick leaves out what takes time and is never an error. With names, only paths from or to
// these hosts are tried.
func Preflight(ctx context.Context, s *cluster.State, conns *host.Set, quick bool, only []string) *facts.Preflight {
	p, asked := newProbe(ctx, s, conns)
	p.each(asked, func(ctx context.Context, h spec.Host, conn *host.Conn) error {
		var wg sync.WaitGroup
		defer wg.Wait()
		if p.c.Balances(h) {
			wg.Go(func() { p.virtualIP(ctx, h, conn) })
		}
		return p.inspect(ctx, h, conn, s.Facts(h.Name), quick)
	})
	// Not earlier, because hosts that are busy with their inspections answer late.
	p.each(asked, p.clock)
	p.reach(asked, only)
	slices.SortFunc(p.seen.Reach, func(a, b facts.Reach) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Port, b.Port))
	})
	return p.seen
}

// Inspect collects of that only what each host tells of itself.
func Inspect(ctx context.Context, s *cluster.State, conns *host.Set) *facts.Preflight {
	p, asked := newProbe(ctx, s, conns)
	p.each(asked, func(ctx context.Context, h spec.Host, conn *host.Conn) error {
		return p.inspect(ctx, h, conn, s.Facts(h.Name), true)
	})
	return p.seen
}

// newProbe returns the hosts that can be asked as well.
func newProbe(ctx context.Context, s *cluster.State, conns *host.Set) (p *probe, asked []spec.Host) {
	p = &probe{ctx: ctx, s: s, c: s.Spec, conns: conns, seen: &facts.Preflight{Hosts: map[string]facts.Inspection{}, Clocks: map[string]facts.Clock{}, Errors: map[string]string{}, VirtualIP: map[string]facts.AddressHolders{}}}
	for _, h := range p.c.Spec.Hosts {
		if s.Reachable(h.Name) {
			asked = append(asked, h)
		}
	}
	return p, asked
}

type probe struct {
	ctx   context.Context
	s     *cluster.State
	c     *spec.Cluster
	conns *host.Set

	mu   sync.Mutex
	seen *facts.Preflight
}

// each queries all hosts in parallel, and records errors.
func (p *probe) each(hosts []spec.Host, ask func(context.Context, spec.Host, *host.Conn) error) {
	ctx, cancel := context.WithTimeoutCause(p.ctx, inspectTimeout, fmt.Errorf("no answer within %s", inspectTimeout))
	defer cancel()
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(func() {
			conn, err := p.conns.Get(h.Name)
			if err == nil {
				err = ask(ctx, h, conn)
			}
			if err != nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.seen.Errors[h.Name] = err.Error()
				delete(p.seen.Hosts, h.Name)
			}
		})
	}
	wg.Wait()
}

func (p *probe) inspect(ctx context.Context, h spec.Host, conn *host.Conn, f *facts.Facts, quick bool) error {
	request := facts.InspectRequest{Name: h.Name, Address: h.Address, PodCIDR: p.c.Spec.Network.PodCIDR, Quick: quick, Balances: p.c.Balances(h), Repositories: len(hostconfig.Lacks(p.c, h, f)) > 0}
	if at := p.s.PodTrafficAddresses(h); len(at) > 0 && at[0] != h.Address { // all of them are on one interface
		request.PodTraffic = at[0]
	}
	for _, port := range preflight.Ports(p.c, h) {
		request.Ports = append(request.Ports, port.Number)
	}
	in, err := inspect.Inspect.On(ctx, conn, request)
	if err != nil {
		return err
	}
	if preflight.MeasuresDisk(p.c, h, f) {
		if in.EtcdFsync, err = inspect.MeasureFsync.On(ctx, conn, hostconfig.EtcdDataDir); err != nil {
			in.EtcdFsyncError = err.Error() // the disk may be full, and what else was found says so
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Hosts[h.Name] = in
	return nil
}

// virtualIP asks a load balancer which machines have the virtual IP.
func (p *probe) virtualIP(ctx context.Context, h spec.Host, conn *host.Conn) {
	seen, err := balancer.WhoHas.On(ctx, conn, balancer.WhoHasRequest{Address: p.s.Reached().Endpoint().Address, From: h.VIPAddresses()})
	if err != nil {
		seen.Unknown = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.VirtualIP[h.Name] = seen
}

// clock compares a host's clock with the caller's. The host read its clock at some moment between request and reply, so the
// difference can be wrong by half of that time.
func (p *probe) clock(ctx context.Context, h spec.Host, conn *host.Conn) error {
	var best facts.Clock
	for i := range clockSamples {
		begin := time.Now()
		there, err := inspect.ReadClock.On(ctx, conn, struct{}{})
		if err != nil {
			return err
		}
		half := time.Since(begin) / 2
		if i == 0 || half < best.Uncertainty {
			best = facts.Clock{Ahead: there.Sub(begin.Add(half)), Uncertainty: half}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Clocks[h.Name] = best
	return nil
}

// reach tries every path: all hosts listen, all hosts dial, all hosts stop listening.
func (p *probe) reach(hosts []spec.Host, only []string) {
	type place struct{ host, address string }
	listening := map[place]reach.Listening{}
	p.each(hosts, func(ctx context.Context, h spec.Host, conn *host.Conn) error {
		var all []preflight.Listener
		// If a cluster's programs may be about to start, their ports must not be used even if they are free at this moment.
		switch {
		case p.s.Gains(h):
			all = []preflight.Listener{preflight.BalancerListener(p.c, h, p.s)}
		case !p.s.Joined(h) && !p.s.Facts(h.Name).Kubernetes.Begun:
			all = preflight.Listeners(p.c, h, p.s)
		}
		for _, l := range all {
			opened, err := reach.Listen.On(ctx, conn, reach.ListenRequest{Name: h.Name, Address: l.Address, TCP: l.TCP, UDP: l.UDP, VRRP: l.VRRP})
			if err != nil {
				return err
			}
			p.mu.Lock()
			listening[place{h.Name, l.Address}] = opened
			p.mu.Unlock()
		}
		return nil
	})
	targets, paths := map[string][]reach.DialTarget{}, map[facts.Path]reach.DialTarget{}
	for _, path := range slices.Concat(preflight.Paths(p.c, only, p.s), p.fromFormer(only)) {
		l, asked := listening[place{path.To, path.Address}], false
		target := reach.DialTarget{Path: path}
		switch path.Proto {
		case facts.TCP:
			target.Answers = slices.Contains(l.TCP, path.Port)
			// A program that already listens there shows the path as well, and an address on which nothing can listen has its
			// own finding.
			asked = target.Answers || p.held(path.To, path.Address, path.Port)
		case facts.UDP:
			asked = slices.Contains(l.UDP, path.Port)
			target.Answers, target.Size = true, min(p.seen.Hosts[path.From].MTU, p.seen.Hosts[path.To].MTU, maxPacket)
		case facts.VRRP:
			asked, target.Answers = l.VRRP, true
		}
		if asked {
			targets[path.From], paths[path] = append(targets[path.From], target), target
		}
	}
	// Nothing is decided on a single attempt: a failed path is tried again after the others.
	hosts = slices.Concat(hosts, slices.DeleteFunc(p.s.Departing(), func(h spec.Host) bool { return !p.s.Reachable(h.Name) }))
	for _, r := range p.dial(hosts, targets) {
		if r.Outcome == facts.Reached && (r.Size == 0 || r.Fits) {
			p.seen.Reach = append(p.seen.Reach, r)
			delete(paths, r.Path)
		}
	}
	again := map[string][]reach.DialTarget{}
	for path, target := range paths {
		again[path.From] = append(again[path.From], target)
	}
	p.seen.Reach = append(p.seen.Reach, p.dial(hosts, again)...)
	p.each(hosts, func(ctx context.Context, h spec.Host, conn *host.Conn) error {
		for at, l := range listening {
			if at.host != h.Name {
				continue
			}
			if _, err := reach.Hush.On(ctx, conn, l.Token); err != nil {
				return err
			}
		}
		return nil
	})
}

// fromFormer are the paths of VRRP from load balancers that the spec does not have any more. Until they stop, the new ones must hear
// them: one that does not would take the virtual IP, too.
func (p *probe) fromFormer(only []string) []facts.Path {
	return slices.DeleteFunc(preflight.Paths(p.s.Present(), only, p.s), func(path facts.Path) bool {
		from, stays := p.c.Host(path.From)
		return path.Proto != facts.VRRP || stays && p.c.Balances(from)
	})
}

func (p *probe) dial(hosts []spec.Host, targets map[string][]reach.DialTarget) (out []facts.Reach) {
	if len(targets) == 0 {
		return nil
	}
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h spec.Host) bool { return len(targets[h.Name]) == 0 })
	p.each(hosts, func(ctx context.Context, h spec.Host, conn *host.Conn) error {
		results, err := reach.DialAll.On(ctx, conn, targets[h.Name])
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		out = append(out, results...)
		return nil
	})
	return out
}

// held reports whether a program listens on the port at an address of the host. A program that listens only on a virtual IP,
// as HAProxy next to kube-apiserver does, or only on loopback says nothing about the path to the host.
func (p *probe) held(name, address string, port int) bool {
	return slices.ContainsFunc(p.seen.Hosts[name].Listeners, func(l facts.Listener) bool { return l.Port == port && l.Accepts(address) })
}
