package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/leases"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

const (
	// leadershipTimeout is for everything that one host leads.
	leadershipTimeout = 3 * time.Minute
	// stopGrace is how long a controller manager or scheduler may take to end.
	stopGrace = 10 * time.Second
	// electionAttempts is how often a leader is stopped until another one takes over: the one that was stopped is started
	// again, and can be the first to ask for the lease.
	electionAttempts = 4
	electionPatience = 30 * time.Second
)

// moveLeadership has others lead what the host leads: etcd, and the leases of the controller manager and the scheduler.
func moveLeadership(ctx context.Context, e *Env, s plan.Step) error {
	ctx, cancel := withDeadline(ctx, leadershipTimeout, "moving leadership away from "+s.Host)
	defer cancel()
	h, _ := e.Present.Host(s.Host)
	if slices.ContainsFunc(e.Present.EtcdHosts(), func(m spec.Host) bool { return m.Name == s.Host }) {
		if err := e.moveEtcdLeader(ctx, s); err != nil {
			return err
		}
	}
	if !h.Has(spec.RoleControlPlane) {
		return nil
	}
	for _, name := range []string{facts.ControllerManager, facts.Scheduler} {
		if err := e.moveLease(ctx, s, name); err != nil {
			return fmt.Errorf("moving the leadership of %s: %w", name, err)
		}
	}
	return nil
}

func (e *Env) moveEtcdLeader(ctx context.Context, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	return retry(ctx, time.Second, func(ctx context.Context) error {
		state := e.observe(ctx)
		var to []facts.EtcdMember
		for _, m := range state.Seen.Etcd {
			if _, away := state.Maintenance(state.MemberHost(m)); state.MemberHost(m) != s.Host && m.Healthy && !m.Learner && !away && !state.Lags(m) {
				to = append(to, m)
			}
		}
		leader, err := etcd.MoveLeader(ctx, etcd.On(h.Name, h.Address, c, nil, e.Seen), to)
		if err == nil && leader != "" {
			e.note(s, leader+" leads etcd now")
		}
		return err
	})
}

// moveLease stops the leader on the host and gives its lease back, which a controller manager does not do itself. Nothing else
// than a leader that has ended makes that safe.
func (e *Env) moveLease(ctx context.Context, s plan.Step, name string) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	for range electionAttempts {
		lease, err := e.lease(ctx, client, name)
		if err != nil {
			return err
		}
		if !e.holds(s.Host, lease) {
			return nil
		}
		permit, err := e.permit(ctx, s)
		if err != nil {
			return err
		}
		if _, err := containerd.StopContainer.Make(ctx, c, permit, containerd.StopRequest{Container: name, GraceSeconds: int64(stopGrace.Seconds())}); err != nil {
			return err
		}
		if err := e.awaitElection(ctx, client, name, lease); err != nil {
			return err
		}
		if lease, err = e.lease(ctx, client, name); err == nil && !e.holds(s.Host, lease) {
			e.note(s, holderOf(lease)+" leads the "+strings.TrimPrefix(name, "kube-")+"s now")
		}
	}
	lease, err := e.lease(ctx, client, name)
	if err == nil && e.holds(s.Host, lease) {
		err = fmt.Errorf("the one on %s took the lease again after each of %d attempts", s.Host, electionAttempts)
	}
	return err
}

func (e *Env) lease(ctx context.Context, client *kube.Client, name string) (lease *coordinationv1.Lease, err error) {
	err = retry(ctx, time.Second, func(ctx context.Context) error {
		lease, err = client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
		return err
	})
	return lease, err
}

// awaitElection gives the lease of a leader that has ended back, and waits for the next one.
func (e *Env) awaitElection(ctx context.Context, client *kube.Client, name string, old *coordinationv1.Lease) error {
	ctx, cancel := withDeadline(ctx, electionPatience, "the election")
	defer cancel()
	return retry(ctx, 250*time.Millisecond, func(ctx context.Context) error {
		lease, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case holderIdentity(lease) == holderIdentity(old):
			if _, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).Update(ctx, leases.Freed(lease), metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
				return err
			}
			return errors.New("its lease is free, and nobody has taken it yet")
		case holderIdentity(lease) == "":
			return errors.New("nobody has taken its lease yet")
		}
		return nil
	})
}

func holderIdentity(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// holderOf is the host name in a lease: leaders append an ID of their own to it.
func holderOf(l *coordinationv1.Lease) string {
	name, _, _ := strings.Cut(holderIdentity(l), "_")
	return name
}

func (e *Env) holds(host string, l *coordinationv1.Lease) bool {
	hostname := host
	if f := e.Seen.Hosts[host].Facts; f != nil && f.Hostname != "" {
		hostname = f.Hostname
	}
	return holderOf(l) != "" && strings.EqualFold(holderOf(l), hostname)
}

// moveVirtualIP has another load balancer take the virtual IP from the host. Once it has, nothing gives it back.
func moveVirtualIP(ctx context.Context, e *Env, s plan.Step) error {
	state := e.observe(ctx)
	if !state.Holds(s.Host) {
		return nil
	}
	t := takeover{e: e, addresses: state.HeldBy(s.Host), handOver: true}
	if len(t.addresses) == 0 { // what it has could not be read
		t.addresses = []string{e.at().Spec.LoadBalancer.Address}
	}
	for _, h := range e.Present.BalancerHosts() {
		if state.Seen.Hosts[h.Name].Facts != nil {
			t.balancers = append(t.balancers, h.Name)
		}
	}
	defer t.returnAll(ctx)
	// Load balancers that are in maintenance must not take it.
	for _, name := range state.InMaintenance() {
		if name != s.Host && slices.Contains(t.balancers, name) {
			var err error
			if t.permit, err = e.permitFor(ctx, s, cluster.Change{Verb: cluster.Move, Part: cluster.VirtualIP, Subject: name}); err != nil {
				return err
			}
			t.aside = append(t.aside, name)
			if err := t.standAside(ctx, name, true); err != nil {
				return err
			}
		}
	}
	if _, err := t.move(ctx, s, s.Host); err != nil {
		return err
	}
	e.note(s, strings.Join(t.said, ", "))
	return nil
}
