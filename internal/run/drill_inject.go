package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/spec"
)

// podsPatience is how long the pods may take to be listed.
const podsPatience = 10 * time.Second

// lossPercent is how many packets a fault of the kind loss drops. It is what TCP gets over, and what nobody would call a working network.
const lossPercent = 20

// pressPercent is how much of the available memory a fault of the kind press takes, and slowBytes how fast a slow disk is written: a tenth of what etcd's
// documentation asks of a disk.
const (
	pressPercent = 90
	slowBytes    = 1 << 20
)

// inject injects a fault. It has happened, or has begun, when inject returns.
func (d *drilling) inject(ctx context.Context, permit cluster.Permit, i drill.Injection) error {
	// A name of its own: a host takes two requests of one name for a repetition.
	d.injected++
	d.id = fmt.Sprintf("%s%d-%s-%s", faultPrefix, d.injected, i.Kind, i.Target)
	switch plug := d.options.Plug; {
	case plug != nil && plug.Does(i):
		return plug.Inject(ctx, i)
	case i.Kind == drill.Overload:
		return d.overload(i)
	}
	// Everything that fails together is injected at the same moment.
	return d.onHosts(i, func(h spec.Host) error {
		conn, err := d.Conns.Get(h.Name)
		if err != nil {
			return err
		}
		_, err = fault.Inject.Make(ctx, conn, permit, d.request(i, h))
		return err
	})
}

// heal ends a fault.
func (d *drilling) heal(ctx context.Context, i drill.Injection) error {
	if i.Kind == drill.Reboot {
		return nil
	}
	switch plug := d.options.Plug; {
	case plug != nil && plug.Does(i):
		return plug.Heal(ctx, i)
	case i.Kind == drill.Overload:
		if d.load != nil {
			d.load.end()
			d.load = nil
		}
		return nil
	}
	return d.onHosts(i, func(h spec.Host) error {
		conn, err := d.Conns.Get(h.Name)
		if err != nil {
			return err
		}
		_, err = fault.Heal.On(ctx, conn, []string{d.id})
		return err
	})
}

// overload sends one API server more lists than it can answer.
func (d *drilling) overload(i drill.Injection) (err error) {
	h, known := d.Cluster.Host(i.Host)
	if !known {
		return fmt.Errorf("%s is not a host of the spec", i.Host)
	}
	d.load, err = startOverload(d.Cluster, d.config, h)
	return err
}

// onHosts does something on every host of a fault, in parallel.
func (d *drilling) onHosts(i drill.Injection, do func(spec.Host) error) error {
	hosts := d.hosts(i)
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for n, name := range hosts {
		h, _ := d.Cluster.Host(name)
		wg.Go(func() {
			if err := do(h); err != nil {
				errs[n] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// addressesIn are the addresses of all hosts, by name.
func addressesIn(s *cluster.State) map[string][]string {
	out := map[string][]string{}
	for _, h := range s.Spec.Spec.Hosts {
		out[h.Name] = s.AllAddresses(h)
	}
	return out
}

// addressesOf are the addresses of a host in all networks.
func (d *drilling) addressesOf(h spec.Host) []string {
	if all := d.addresses[h.Name]; len(all) > 0 {
		return all
	}
	return h.AllAddresses()
}

// request is what one host of a fault is told.
func (d *drilling) request(i drill.Injection, on spec.Host) fault.Request {
	r := fault.Request{ID: d.id, Kind: string(i.Kind), Target: string(i.Target)}
	if !i.Once() {
		r.Lasts = i.Lasts + switchAfter
	}
	if i.Kind == drill.Stop { // the host waits until the program has ended: an API server serves for half a minute after it was told to stop
		r.Lasts += fault.EndPatience
	}
	peers := func(which func(spec.Host) bool) (out []string) {
		for _, h := range d.Cluster.Spec.Hosts {
			if h.Name != on.Name && which(h) {
				out = append(out, d.addressesOf(h)...)
			}
		}
		return out
	}
	// Clients reach a load balancer at the virtual IP, wherever they are.
	everybody := func() []string {
		out := peers(func(spec.Host) bool { return true })
		if address := d.Cluster.Spec.LoadBalancer.Address; len(d.Cluster.BalancerHosts()) > 0 && address != "" {
			out = append(out, address)
		}
		return out
	}
	switch i.Target {
	case drill.VRRP:
		balancers := d.Cluster.BalancerHosts()
		r.Peers = peers(func(h spec.Host) bool {
			return slices.ContainsFunc(balancers, func(b spec.Host) bool { return b.Name == h.Name })
		})
	case drill.EtcdPeers:
		members := d.Cluster.EtcdHosts()
		r.Peers = peers(func(h spec.Host) bool {
			return slices.ContainsFunc(members, func(m spec.Host) bool { return m.Name == h.Name })
		})
	case drill.Link:
		r.Peers = peers(func(h spec.Host) bool { return h.Name == i.Peer })
	case drill.Zone:
		// A host that is cut with its zone still reaches the others there.
		r.Peers = peers(func(h spec.Host) bool { return h.Zone != on.Zone })
	case drill.Host, drill.Incoming, drill.Outgoing:
		r.Peers = everybody()
	}
	if i.Kind == drill.Cut && i.Target == drill.Zone {
		r.Target = string(drill.Host)
	}
	switch i.Kind {
	case drill.Loss:
		r.Percent, r.Peers = lossPercent, everybody()
	case drill.Press:
		r.Percent = pressPercent
	case drill.Slow:
		r.BytesPerSecond = slowBytes
	}
	return r
}

// movedPods counts the replicas that were created since a moment, and returns in how many milliseconds the last of them was ready; nil if one is not
// ready yet.
func (d *drilling) movedPods(ctx context.Context, since time.Time) (n int, took *int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, podsPatience)
	defer cancel()
	pods, err := d.api.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return 0, nil, err
	}
	last, all := time.Time{}, true
	for _, p := range pods.Items {
		replica := slices.ContainsFunc(p.OwnerReferences, func(r metav1.OwnerReference) bool { return r.Kind == "ReplicaSet" || r.Kind == "StatefulSet" })
		// The API knows whole seconds.
		if !replica || p.Spec.NodeSelector[facts.SimulatedLabel] != "" || p.CreationTimestamp.Time.Before(since.Truncate(time.Second)) {
			continue
		}
		n++
		ready := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		if ready < 0 {
			all = false
			continue
		}
		if at := p.Status.Conditions[ready].LastTransitionTime.Time; at.After(last) {
			last = at
		}
	}
	if n > 0 && all {
		took = new(max(0, last.Sub(since).Milliseconds()))
	}
	return n, took, nil
}
