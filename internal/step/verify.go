package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// verifyTimeout is how long a cluster may take to settle after the last change.
const verifyTimeout = 5 * time.Minute

// await waits until a gate opens.
func await(ctx context.Context, e *Env, s plan.Step, g plan.Gate) error {
	ctx, cancel := withDeadline(ctx, verifyTimeout, "waiting for "+string(g))
	defer cancel()
	open := 0
	return poll(ctx, e, s, func(obs *facts.Observation) []string {
		if g != plan.GateTakeover {
			return etcdProblems(obs)
		}
		if out := takeoverProblems(e.Cluster, s.Host, obs); len(out) > 0 {
			open = 0
			return out
		}
		// One probe that fails can look as if there were nothing to keep.
		if open++; open < openLooks {
			return []string{"looking again before the balancer on " + s.Host + " is touched"}
		}
		return nil
	})
}

// openLooks is how many looks in a row must find the virtual IP safe.
const openLooks = 3

// takeoverProblems say why the host should keep its balancer as it is for now: it has the virtual IP, clients get an answer
// there, and none of the others could give one.
func takeoverProblems(c *spec.Cluster, host string, obs *facts.Observation) (out []string) {
	if b := obs.Hosts[host].Balancer; b == nil || !b.Active || !obs.Endpoint.Reachable {
		return nil
	}
	for _, h := range c.BalancerHosts() {
		o := obs.Hosts[h.Name]
		if h.Name == host || o.Facts == nil {
			continue
		}
		if o.Balancer != nil && o.Balancer.Healthy && slices.ContainsFunc(o.Balancer.Backends, func(s facts.Backend) bool { return s.Healthy }) {
			return nil
		}
		out = append(out, h.Name+" is not ready to take the virtual IP from "+host)
	}
	return out
}

func verify(ctx context.Context, e *Env, s plan.Step) error {
	ctx, cancel := withDeadline(ctx, verifyTimeout, "settling")
	defer cancel()
	// The API alone is cheap to ask. Asking every host for everything, over and over, would take processor time from
	// the very programs that are waited for.
	err := retry(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		client, err := e.api(ctx)
		if err != nil {
			return err
		}
		api, err := observe.API(ctx, client)
		if err != nil {
			return err
		}
		return e.lacking(s, apiShortcomings(e.Cluster, api, func(name string) bool { return e.Seen.Hosts[name].Facts != nil }))
	})
	if err != nil {
		return err
	}
	whole := func() error {
		return poll(ctx, e, s, func(obs *facts.Observation) []string { return Shortcomings(e.Cluster, obs) })
	}
	traffic := func() error { return tryPodTraffic(ctx, e, s) }
	if err := together([]func() error{whole, traffic}, func(f func() error) error { return f() }); err != nil {
		return err
	}
	return meetAll(ctx, e, s)
}

// lacking shows what is still missing, and is an error as long as anything is.
func (e *Env) lacking(s plan.Step, left []string) error {
	if len(left) == 0 {
		return nil
	}
	all := strings.Join(left, "; ")
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, ID: s.ID, Title: s.Title, Detail: all})
	return errors.New(all)
}

// poll observes until problems finds none, and shows what is still missing meanwhile.
func poll(ctx context.Context, e *Env, s plan.Step, problems func(*facts.Observation) []string) error {
	return retry(ctx, time.Second, func(ctx context.Context) error {
		return e.lacking(s, problems(observe.Observe(ctx, e.Cluster, e.Conns)))
	})
}

func etcdProblems(obs *facts.Observation) []string {
	var out []string
	for _, m := range obs.Etcd {
		switch {
		case !m.Healthy:
			out = append(out, "etcd member "+m.Name+" is not healthy")
		case m.Learner:
			out = append(out, "etcd member "+m.Name+" is still learning")
		}
	}
	if len(obs.Etcd) == 0 {
		out = append(out, "no etcd member answers")
	}
	return out
}

// Shortcomings lists in what the cluster is not yet what the spec says; hosts that cannot be reached are left out,
// because whoever asks knows of them.
func Shortcomings(c *spec.Cluster, obs *facts.Observation) []string {
	if obs.API == nil {
		return []string{"no apiserver answers"}
	}
	out := apiShortcomings(c, obs.API, func(name string) bool { return obs.Hosts[name].Facts != nil })
	out = append(out, etcdShortcomings(c, obs)...)
	holders := 0
	for _, h := range c.Spec.Hosts {
		seen := obs.Hosts[h.Name]
		if seen.Facts == nil {
			continue
		}
		if h.Has(spec.RoleControlPlane) {
			if seen.APIServer == nil || !*seen.APIServer {
				out = append(out, "apiserver on "+h.Name+" is not ready")
			}
		}
		if c.Balances(h) {
			problems, active := balancerShortcomings(c, h.Name, seen.Balancer, obs)
			out = append(out, problems...)
			holders += active
		}
	}
	if len(c.BalancerHosts()) > 0 && holders != 1 {
		out = append(out, fmt.Sprintf("%d balancers hold the virtual IP", holders))
	}
	if !obs.Endpoint.Reachable {
		out = append(out, "the endpoint does not answer: "+obs.Endpoint.Error)
	}
	return out
}

// etcdShortcomings asks of an etcd that is looked after that every member is a healthy voter, and of one that is not
// that it is there.
func etcdShortcomings(c *spec.Cluster, obs *facts.Observation) (out []string) {
	if c.ExistingEtcd() && len(obs.Etcd) == 0 {
		return []string{"no endpoint of the existing etcd answers"}
	}
	voters := map[string]facts.EtcdMember{}
	for _, m := range obs.Etcd {
		voters[m.Name] = m
	}
	for _, h := range c.EtcdHosts() {
		if m := voters[h.Name]; obs.Hosts[h.Name].Facts != nil && (!m.Healthy || m.Learner) {
			out = append(out, "etcd member "+h.Name+" is not a healthy voter")
		}
	}
	return out
}

func apiShortcomings(c *spec.Cluster, api *facts.API, reachable func(host string) bool) (out []string) {
	nodes := map[string]facts.Node{}
	for _, n := range api.Nodes {
		nodes[n.Name] = n
	}
	waiting := false // for the network that the user will install
	for _, h := range c.Spec.Hosts {
		n := nodes[h.Name]
		switch {
		case !h.IsNode() || !reachable(h.Name):
		case n.Ready && n.Short != "":
			out = append(out, "node "+h.Name+" takes no pods: "+n.Short)
		case n.Ready:
		case n.NoNetwork && c.Spec.Network.CNI == spec.CNINone:
			waiting = true
		case n.NotReady != "":
			out = append(out, "node "+h.Name+" is not Ready: "+n.NotReady)
		default:
			out = append(out, "node "+h.Name+" is not Ready")
		}
	}
	if waiting {
		return out // CoreDNS runs in pods
	}
	if api.DNSReady < 2 || api.DNSNodes < 2 {
		missing := fmt.Sprintf("CoreDNS has %d ready replicas on %d nodes", api.DNSReady, api.DNSNodes)
		if api.DNSNotReady != "" {
			missing += " (" + api.DNSNotReady + ")"
		}
		out = append(out, missing)
	}
	return out
}

func balancerShortcomings(c *spec.Cluster, name string, b *facts.Balancer, obs *facts.Observation) (out []string, active int) {
	if b == nil || !b.Healthy {
		return []string{"HAProxy on " + name + " does not answer"}, 0
	}
	if b.Active {
		active = 1
	}
	up := map[string]bool{}
	for _, s := range b.Backends {
		up[s.Name] = s.Healthy
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if obs.Hosts[h.Name].Facts != nil && !up[h.Name] {
			out = append(out, "balancer "+name+" does not see "+h.Name)
		}
	}
	return out, active
}
