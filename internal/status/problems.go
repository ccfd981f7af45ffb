package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

const (
	expiresSoon = 30 * 24 * time.Hour
	expiresNow  = 7 * 24 * time.Hour
	// maxSkew is more than the time within which a host must answer: what differs by less may only have answered late.
	maxSkew = 6 * time.Second
)

// kubeletClient and kubeletServer are how observations call the certificates that are not kubeadm's to renew.
const (
	kubeletClient = "kubelet-client"
	kubeletServer = "kubelet-server"
)

const revive = "power it on or mend its network (in a lab: `quorate lab heal`); it rejoins by itself"

// problems lists what is wrong, causes before consequences. What follows from a host that cannot be reached is left
// out: whoever brings that host back has mended it all.
func (j judge) problems(s *Status, placements []quorum.Placement) []Problem {
	f := findings{judge: j, s: s, out: []Problem{}}
	if f.blind() {
		return f.out
	}
	if j.built {
		f.lost()
		f.endpoint()
	}
	f.hosts()
	if j.obs.Others() {
		f.add(Info, "this cluster was not built by Quorate", "`quorate plan` shows what adopting it would change; `quorate apply --adopt` does it")
	}
	if j.built {
		f.nodes()
		f.etcd()
		f.apiServers()
		f.balancers()
		f.drained()
		f.dns()
		f.margins(placements)
	} else {
		f.add(Info, "there is no cluster on these hosts yet", "`quorate apply` builds it")
	}
	f.chosen()
	f.certificates()
	f.clocks()
	f.swap()
	slices.SortStableFunc(f.out, func(a, b Problem) int { return cmp.Compare(a.Severity.rank(), b.Severity.rank()) })
	return f.out
}

func (s Severity) rank() int { return slices.Index([]Severity{Critical, Warning, Info}, s) }

type findings struct {
	judge
	s   *Status
	out []Problem
}

func (f *findings) add(s Severity, summary, fix string) {
	f.out = append(f.out, Problem{Severity: s, Summary: summary, Fix: fix})
}

// lost reports what the cluster has not enough of to work.
func (f *findings) lost() {
	e := f.s.Etcd
	switch {
	case e.Margin < 0 && len(e.Members) == 0 && f.c.ExistingEtcd():
		f.add(Critical, "no endpoint of your etcd answers; nothing can be changed in the cluster", "bring it back: "+strings.Join(f.c.Spec.Etcd.Endpoints, ", "))
	case e.Margin < 0:
		var failed []string
		voters := 0
		for _, m := range e.Members {
			if m.Learner {
				continue
			}
			if voters++; !m.Healthy {
				failed = append(failed, m.Name)
			}
		}
		healthy := voters - len(failed)
		f.add(Critical, fmt.Sprintf("etcd has lost its quorum: %d of %s are healthy, and %d are needed; nothing can be changed in the cluster", healthy, ui.Plural(voters, "member"), e.Quorum),
			fmt.Sprintf("bring back at least %d of %s", e.Quorum-healthy, strings.Join(failed, ", ")))
	}
	if f.obs.API == nil {
		f.add(Critical, "no API server answers", "bring the control planes back; `quorate apply` then puts right what is stopped or misconfigured on them")
	}
	if b := f.s.LoadBalancers; len(b) > 0 && !slices.ContainsFunc(b, func(b LoadBalancer) bool { return b.Healthy }) {
		f.add(Critical, "no balancer works: clients cannot reach the API by its name", "bring one of "+strings.Join(names(b), ", ")+" back")
	}
}

func names(b []LoadBalancer) (out []string) {
	for _, b := range b {
		out = append(out, b.Name)
	}
	return out
}

func (f *findings) endpoint() {
	e := f.s.Endpoint
	if !e.Reachable {
		fix := "see whether this machine can reach " + cmp.Or(e.VirtualIP, e.Address)
		if f.managed() && f.obs.API != nil {
			fix += "; `quorate apply` puts the balancers right"
		} else if f.obs.API == nil {
			fix = "it needs an API server first"
		}
		summary := "the endpoint " + e.Address + " does not answer"
		if f.obs.Endpoint.Error != "" {
			summary += ": " + f.obs.Endpoint.Error
		}
		f.add(Critical, summary, fix)
	}
	if !f.managed() {
		return
	}
	var holders []string
	asked := true
	for _, b := range f.s.LoadBalancers {
		if b.Active {
			holders = append(holders, b.Name)
		}
		asked = asked && f.reachable(b.Name)
	}
	switch {
	case len(holders) > 1:
		f.add(Critical, fmt.Sprintf("%s hold the virtual IP %s at once: they do not hear each other", list(holders), e.VirtualIP),
			"let VRRP (IP protocol 112) pass between "+list(holders))
	case len(holders) == 0 && asked && len(f.s.LoadBalancers) > 0:
		f.add(Critical, "no balancer holds the virtual IP "+e.VirtualIP, "on "+f.s.LoadBalancers[0].Name+": `systemctl status keepalived haproxy`; `quorate apply` starts what is stopped")
	}
}

// blind reports that no host can be reached, and with it the end of all knowledge.
func (f *findings) blind() bool {
	all := f.c.Spec.Hosts
	if len(all) == 0 || slices.ContainsFunc(all, func(h spec.Host) bool { return f.reachable(h.Name) }) {
		return false
	}
	f.add(Critical, "no host can be reached, so nothing is known of the cluster; "+all[0].Name+": "+f.reason(all[0]),
		"see whether this machine has a way to them, and the right SSH key")
	return true
}

// hosts reports what cannot be reached, zone by zone or host by host.
func (f *findings) hosts() {
	all := f.c.Spec.Hosts
	var dead []spec.Host
	zones := map[string]int{}
	for _, h := range all {
		if !f.reachable(h.Name) {
			dead = append(dead, h)
			zones[h.Zone]++
		}
	}
	for _, h := range dead {
		var mates []string
		for _, o := range all {
			if o.Zone == h.Zone {
				mates = append(mates, o.Name)
			}
		}
		switch {
		case h.Zone == "" || len(mates) == 1 || zones[h.Zone] < len(mates):
			f.add(Warning, fmt.Sprintf("host %s cannot be reached: %s", h.Name, f.reason(h)), revive)
		case mates[0] == h.Name:
			f.add(Warning, fmt.Sprintf("zone %s cannot be reached (%s): %s", h.Zone, strings.Join(mates, ", "), f.reason(h)),
				"bring the zone's power or network back (in a lab: `quorate lab heal`); its hosts rejoin by themselves")
		}
	}
}

func (f *findings) reason(h spec.Host) string {
	return cmp.Or(strings.TrimPrefix(f.obs.Hosts[h.Name].Error, h.Name+": "), "it was not asked")
}

func (f *findings) nodes() {
	if f.obs.API == nil {
		return
	}
	for _, h := range f.c.Spec.Hosts {
		if !h.IsNode() || !f.reachable(h.Name) {
			continue
		}
		switch n := f.node(h.Name); {
		case n == nil:
			f.add(Warning, "node "+h.Name+" is not in the cluster", "`quorate apply` joins it")
		case !n.Ready && n.NoNetwork:
			f.add(Warning, "node "+h.Name+" is not ready: "+n.NotReady, "look at the firewalls and the network between it and the other nodes, and at the pod network's own pods there")
		case !n.Ready:
			f.add(Warning, "node "+h.Name+" is not ready", "on "+h.Name+": `journalctl -u kubelet -n 50` says why")
		case n.Short != "":
			f.add(Warning, "node "+h.Name+" takes no new pods, and may lose those that it has: "+n.Short, "make room on "+h.Name+": `df -h /var/lib`, `free -m` and `journalctl -u kubelet | grep -i evict` show what it is short of")
		}
	}
	for _, n := range f.strangers() {
		f.add(Warning, "node "+n.Name+" is in the cluster, but not in the spec", fmt.Sprintf("add it to the spec, or remove it: `kubectl drain %[1]s --ignore-daemonsets && kubectl delete node %[1]s`", n.Name))
	}
}

func (f *findings) etcd() {
	for _, m := range f.obs.Etcd {
		if _, ours := f.c.Host(m.Name); ours && !f.reachable(m.Name) {
			continue
		}
		switch {
		case !m.Started:
			f.add(Warning, "etcd member "+m.Name+" was added, but has never started", "`quorate apply` finishes its join")
		case !m.Healthy:
			f.add(Warning, "etcd member "+m.Name+" is not healthy", fmt.Sprintf(f.whyEtcd(), m.Name))
		case m.Learner:
			f.add(Warning, "etcd member "+m.Name+" is still learning: it has no vote yet", "wait until it has caught up; `quorate apply` then goes on")
		}
	}
	if f.obs.Etcd == nil {
		return
	}
	for _, h := range f.c.EtcdHosts() {
		if !slices.ContainsFunc(f.obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == h.Name }) && f.reachable(h.Name) {
			f.add(Warning, "etcd has no member on "+h.Name, "`quorate apply` adds it")
		}
	}
}

// whyEtcd is where a member says what is wrong with it; %s stands for its name.
func (f *findings) whyEtcd() string {
	switch {
	case f.c.StackedEtcd():
		return "on %s: `tail /var/log/pods/kube-system_etcd-*/etcd/*.log` says why"
	case f.c.ManagedEtcd():
		return "on %s: `journalctl -u etcd -n 50` says why"
	}
	return "see why on %s; it is your etcd, and Quorate leaves it alone"
}

func (f *findings) apiServers() {
	for _, h := range f.c.HostsWith(spec.RoleControlPlane) {
		// Without an identity it has not joined yet, which is said of its node.
		if seen := f.obs.Hosts[h.Name]; seen.Facts != nil && seen.Facts.Kubernetes.KubeletConfig && !f.apiServer(h.Name) {
			f.add(Warning, "the API server of "+h.Name+" is not ready", fmt.Sprintf("on %s: `tail /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log` says why", h.Name))
		}
	}
}

func (f *findings) apiServer(host string) bool {
	ready := f.obs.Hosts[host].APIServer
	return ready != nil && *ready
}

func (f *findings) balancers() {
	for _, b := range f.s.LoadBalancers {
		if !f.reachable(b.Name) {
			continue
		}
		if !b.Healthy {
			fix := "on " + b.Name + ": `systemctl restart haproxy`; `quorate apply` if it was never configured"
			if f.othersBalance(b.Name) {
				fix = "on " + b.Name + ": `systemctl status haproxy keepalived`"
			}
			f.add(Warning, "HAProxy on "+b.Name+" does not answer", fix)
			continue
		}
		if f.othersBalance(b.Name) && len(b.Backends) == 0 {
			f.add(Info, "the balancer "+b.Name+" was not set up by Quorate: whom it sends clients to cannot be seen", "`quorate apply` sets it up, after `quorate plan` has shown how")
			continue
		}
		for _, h := range f.c.HostsWith(spec.RoleControlPlane) {
			if !f.apiServer(h.Name) {
				continue
			}
			i := slices.IndexFunc(b.Backends, func(s Backend) bool { return s.Name == h.Name })
			switch {
			case i < 0:
				f.add(Warning, "balancer "+b.Name+" does not know the control plane "+h.Name, "`quorate apply` configures it")
			case !b.Backends[i].Healthy && !b.Backends[i].Drained:
				f.add(Warning, fmt.Sprintf("balancer %s does not reach the API server of %s, which is ready", b.Name, h.Name),
					fmt.Sprintf("on %s: `curl -k https://%s:6443/readyz`; let TCP port 6443 pass between the two", b.Name, h.Address))
			}
		}
	}
}

func (f *findings) othersBalance(host string) bool {
	b := f.obs.Hosts[host].Balancer
	return b != nil && b.Others != nil
}

// drained reports whom the balancers send no clients on purpose: that is easily forgotten.
func (f *findings) drained() {
	for _, h := range f.c.HostsWith(spec.RoleControlPlane) {
		var on []string
		for _, b := range f.s.LoadBalancers {
			if slices.ContainsFunc(b.Backends, func(s Backend) bool { return s.Name == h.Name && s.Drained }) {
				on = append(on, b.Name)
			}
		}
		if len(on) > 0 {
			f.add(Info, h.Name+" is drained: "+list(on)+" send it no new clients", "`quorate drain --undo "+h.Name+"` when its maintenance is over")
		}
	}
}

func (f *findings) dns() {
	api := f.obs.API
	if api == nil || !api.Initialised || len(api.Nodes) < 2 {
		return
	}
	const restart, describe = "`kubectl -n kube-system rollout restart deployment coredns`", "`kubectl -n kube-system describe pods -l k8s-app=kube-dns` says more"
	switch {
	case api.DNSReady == 0:
		f.add(Critical, strings.TrimSuffix("no CoreDNS replica is ready, so pods cannot resolve names: "+api.DNSNotReady, ": "), describe)
	case api.DNSReady == 1:
		f.add(Warning, strings.TrimSuffix("only one CoreDNS replica is ready: "+api.DNSNotReady, ": "), describe)
	case api.DNSNodes < 2 && !api.DNSSpread:
		f.add(Warning, "all CoreDNS replicas are on one node", "`quorate apply` spreads them")
	case api.DNSNodes < 2:
		f.add(Warning, "all CoreDNS replicas are on one node", restart+" spreads them again")
	}
}

// margins reports, in one problem, what must not fail next. In a zonal placement the zone is meant to be one.
func (f *findings) margins(placements []quorum.Placement) {
	m := f.s.Margins
	var next []string
	if m.ControlPlanes == 0 {
		next = append(next, "a control plane")
	}
	if m.Etcd == 0 {
		next = append(next, "an etcd member")
	}
	if m.LoadBalancers != nil && *m.LoadBalancers == 0 {
		next = append(next, "the last balancer")
	}
	if m.Zones == 0 && f.c.Spec.ControlPlane.Placement != spec.PlacementZonal {
		_, worst := quorum.ZoneMargin(placements)
		next = append(next, "zone "+strings.Join(worst, ", zone "))
	}
	if len(next) == 0 {
		return
	}
	fix := "mend what is listed here before anything else is stopped"
	if !slices.ContainsFunc(placements, func(p quorum.Placement) bool {
		return p.Voter == quorum.Down || p.APIServer == quorum.Down || p.Balancer == quorum.Down
	}) {
		fix = "spread more hosts over more zones in the spec (three control planes in three zones, two balancers in two), then `quorate apply`"
	}
	f.add(Warning, "no margin: the cluster does not survive the loss of "+strings.Join(next, ", or "), fix)
}

// chosen repeats what the spec allows and what it costs: it belongs to every look at the margins.
func (f *findings) chosen() {
	for _, w := range spec.Warnings(f.c) {
		f.add(Info, w.Message, w.Fix)
	}
}

func (f *findings) certificates() {
	first := map[Severity]Certificate{}
	count := map[Severity]int{}
	for _, c := range f.s.Certificates { // in the order in which they expire
		left := c.Expires.Sub(f.obs.Time)
		severity := Warning
		if left < expiresNow {
			severity = Critical
		} else if left >= expiresSoon {
			break
		}
		if count[severity]++; count[severity] == 1 {
			first[severity] = c
		}
	}
	for severity, c := range first {
		summary := fmt.Sprintf("certificate %s on %s %s", c.Name, c.Host, expiry(c.Expires, f.obs.Time))
		if n := count[severity] - 1; n > 0 {
			summary += fmt.Sprintf(", and %s soon after", ui.Plural(n, "more certificate"))
		}
		if c.Name == kubeletClient || c.Name == kubeletServer {
			f.add(severity, summary, "the kubelet renews it by itself while it reaches the API; on "+c.Host+": `systemctl restart kubelet`")
			continue
		}
		f.add(severity, summary, f.renewal(c))
	}
}

// renewal is how a certificate of kubeadm's gets a new date.
func (f *findings) renewal(c Certificate) string {
	const onEtcdHosts = "on every etcd host: `for c in etcd-server etcd-peer apiserver-etcd-client; do kubeadm certs renew $c; done`; "
	h, _ := f.c.Host(c.Host)
	client := strings.HasSuffix(c.Name, "apiserver-etcd-client.crt")
	switch {
	case h.Has(spec.RoleEtcd):
		return onEtcdHosts + "etcd reads them again by itself, and `quorate apply` hands the clients' to the control planes"
	case client && f.c.ManagedEtcd():
		return onEtcdHosts + "`quorate apply` then hands it to the control planes"
	case client && f.c.ExistingEtcd():
		return "put a new one into " + f.c.Spec.Etcd.CertFile + " and its key into " + f.c.Spec.Etcd.KeyFile + "; `quorate apply` then hands it to the control planes"
	}
	return "on one control plane after the other: `kubeadm certs renew all`, then reboot it and wait until it is back in `quorate status`"
}

// expiry says in words when something expires.
func expiry(t, now time.Time) string {
	switch left := t.Sub(now); {
	case left <= 0:
		return "expired on " + t.Format(time.DateOnly)
	case left < 48*time.Hour:
		return "expires in " + ui.Plural(int(left.Hours()), "hour")
	default:
		return "expires in " + ui.Plural(int(left.Hours()/24), "day")
	}
}

// clocks compares the hosts' clocks with the middle one: that is right unless most are wrong.
func (f *findings) clocks() {
	type clock struct {
		host string
		time time.Time
	}
	var clocks []clock
	for _, h := range f.c.Spec.Hosts {
		if seen := f.obs.Hosts[h.Name].Facts; seen != nil && !seen.Time.IsZero() {
			clocks = append(clocks, clock{h.Name, seen.Time})
		}
	}
	if len(clocks) < 2 {
		return
	}
	sorted := slices.SortedFunc(slices.Values(clocks), func(a, b clock) int { return a.time.Compare(b.time) })
	middle := sorted[(len(sorted)-1)/2].time
	for _, c := range clocks {
		if skew := c.time.Sub(middle); skew.Abs() > maxSkew {
			word := "ahead of"
			if skew < 0 {
				word = "behind"
			}
			f.add(Warning, fmt.Sprintf("the clock of %s is %s %s the others: leases and certificates depend on it", c.host, ui.Duration(skew.Abs()), word),
				"on "+c.host+": `timedatectl set-ntp true`")
		}
	}
}

func (f *findings) swap() {
	var on []string
	for _, h := range f.c.Spec.Hosts {
		if seen := f.obs.Hosts[h.Name].Facts; seen != nil && h.IsNode() && seen.SwapBytes > 0 && seen.Container == "" {
			on = append(on, h.Name)
		}
	}
	if len(on) > 0 {
		f.add(Warning, "swap is on: "+strings.Join(on, ", ")+"; memory limits of pods do not hold there", "on each: `swapoff -a`, and take it out of /etc/fstab")
	}
}

// list joins words: a, b and c.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
