package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

const (
	expiresSoon = 30 * 24 * time.Hour
	expiresNow  = 7 * 24 * time.Hour
	// maxSkew is longer than a host may take to answer: clocks that differ by less may only have been read later.
	maxSkew = 6 * time.Second
	// quotaWarning and quotaCritical are parts of etcd's quota; at the whole quota etcd refuses every write.
	quotaWarning, quotaCritical = 0.8, 0.95
	// defaultQuota is etcd's own, where a member does not tell.
	defaultQuota = 2 << 30
)

const (
	fixPower  = "Power it on, or repair its network (in a lab: `quorate lab heal`). It rejoins automatically."
	fixApply  = "Run `quorate apply`."
	fixStatus = "Run `quorate status` again in a moment; if it stays, check the host."
)

// findings collects what is wrong.
type findings struct {
	*State
	out []Finding
}

func (f *findings) add(rule string, sev Severity, unmet bool, subject, summary, fix string) {
	x := Finding{Rule: rule, Severity: sev, Summary: summary, Fix: fix, Unmet: unmet}
	if subject != "" {
		x.Subjects = []string{subject}
	}
	f.out = append(f.out, x)
}

// Findings lists everything that is wrong, the worst first, and causes before their consequences. What follows from a host
// that cannot be reached is left out: whoever brings that host back has repaired it too.
func (s *State) Findings() []Finding {
	f := &findings{State: s, out: []Finding{}}
	if f.blind() {
		return f.out
	}
	exists := s.stage != Absent && s.stage != Undetermined
	if exists {
		f.lost()
		f.endpoint()
	}
	f.hosts()
	f.identity()
	if s.stage == Foreign {
		f.add("foreign-cluster", Info, false, "", "this cluster was not built by Quorate", "`quorate plan` shows what adopting it would change; `quorate apply --adopt` does it.")
	}
	if exists {
		f.nodes()
		f.etcd()
		f.controlPlanes()
		f.loadBalancers()
		f.drained()
		f.components()
		f.dns()
		f.margins()
	} else {
		f.add("no-cluster", Info, true, "", "there is no cluster on these hosts yet", "`quorate apply` builds it.")
	}
	for _, w := range spec.Warnings(s.Spec) {
		f.add("chosen", Info, false, "", w.Message, w.Fix)
	}
	f.certificates()
	f.clocks()
	f.swap()
	slices.SortStableFunc(f.out, func(a, b Finding) int { return cmp.Compare(a.Severity.Rank(), b.Severity.Rank()) })
	return f.out
}

// Unmet are the findings because of which the cluster does not match its spec. What cannot be reached is left out: whoever
// asks learns of it from Unreachable.
func (s *State) Unmet() (out []Finding) {
	for _, f := range s.Findings() {
		if f.Unmet {
			out = append(out, f)
		}
	}
	return out
}

// UnmetInAPI is the part of Unmet that the API alone tells: nodes and CoreDNS.
func (s *State) UnmetInAPI() (out []Finding) {
	f := &findings{State: s}
	if s.Seen.API == nil {
		f.api()
	}
	f.nodes()
	f.dns()
	for _, x := range f.out {
		if x.Unmet {
			out = append(out, x)
		}
	}
	return out
}

// blind reports that no host can be reached.
func (f *findings) blind() bool {
	hosts := f.Spec.Spec.Hosts
	if len(hosts) == 0 || slices.ContainsFunc(hosts, func(h spec.Host) bool { return f.Reachable(h.Name) }) {
		return false
	}
	f.add("no-host", Critical, true, "", fmt.Sprintf("no host can be reached, so nothing is known about the cluster; %s: %s", hosts[0].Name, f.whyUnreachable(hosts[0].Name)),
		"Check this machine's network and the SSH key.")
	return true
}

// lost reports what the cluster has too little of to work, and what of that could not be queried.
func (f *findings) lost() {
	f.etcdMajority()
	if f.Seen.API == nil && f.stage != Partial {
		f.api()
	}
	if f.managed() {
		working, asked := 0, true
		for _, h := range f.Spec.BalancerHosts() {
			a := f.LoadBalancer(h.Name)
			asked = asked && a.Known()
			if a.OK {
				working++
			}
		}
		if working == 0 && asked {
			f.add("load-balancers", Critical, true, "", "no load balancer works: clients cannot reach the API by its name", "Bring one of "+list(names(f.Spec.BalancerHosts()))+" back.")
		}
	}
}

func (f *findings) etcdMajority() {
	voters, up := quorum.Count(f.placements, quorum.Member)
	need := quorum.Majority(voters)
	if up >= need {
		return
	}
	unknown := 0
	for _, p := range f.placements {
		if p.Member == quorum.Unknown {
			unknown++
		}
	}
	switch {
	case voters == 0 && f.Spec.ExistingEtcd():
		f.add("etcd-majority", Critical, true, "", "no endpoint of your etcd answers"+after(": ", f.Seen.EtcdError)+"; nothing can be changed in the cluster",
			"Bring it back: "+strings.Join(f.Spec.Spec.Etcd.Endpoints, ", ")+".")
	case voters == 0:
	case up+unknown >= need:
		f.add("etcd-unknown", Critical, true, "", fmt.Sprintf("whether etcd has a majority is unknown: %d of %d members are known to work, %d are needed, and %d could not be queried%s", up, voters, need, unknown, f.membersText()),
			"Make the members reachable for Quorate; it asks them through SSH sessions to their hosts.")
	default:
		f.add("etcd-majority", Critical, true, "", fmt.Sprintf("etcd has lost its majority: %d of %d members work, and %d are needed; nothing can be changed in the cluster%s", up, voters, need, f.membersText()),
			fmt.Sprintf("Bring at least %d of the failed members back.", need-up))
	}
}

// api reports that the API could not be read, and separates API servers that are down from ones that nobody could ask.
func (f *findings) api() {
	down, unknown := 0, 0
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		switch a := f.APIServer(h.Name); {
		case a.OK:
			// It answers /readyz, so whatever kept the API from being read is not the server.
			f.add("api-unreadable", Critical, true, h.Name, "the API server on "+h.Name+" is ready, but the API could not be read"+after(": ", f.Seen.APIError), fixStatus)
			return
		case a.Known():
			down++
		default:
			unknown++
		}
	}
	if unknown > 0 {
		f.add("api-unknown", Critical, true, "", fmt.Sprintf("no API server is known to answer: %d do not, and %d could not be queried%s", down, unknown, after("; ", f.Seen.APIError)), "Bring the control planes back.")
		return
	}
	f.add("api", Critical, true, "", "no API server answers"+after(": ", f.Seen.APIError), "Bring the control planes back. `quorate apply` then starts what is stopped and restores what is misconfigured on them.")
}

func (f *findings) managed() bool { return f.Spec.Spec.LoadBalancer.Type == spec.BalancerManaged }

func (f *findings) endpoint() {
	address, vip := f.Spec.Spec.ControlPlane.Endpoint, f.Spec.Spec.LoadBalancer.Address
	if f.stage != Partial || f.Seen.API != nil {
		switch e := f.Endpoint(); {
		case e.OK:
		case !e.Known():
			f.add("endpoint-unknown", Warning, true, "", "whether the endpoint "+address+" answers is unknown: "+e.Unknown, fixStatus)
		default:
			fix := "Bring an API server back first."
			if f.Seen.API != nil && f.managed() {
				fix = "`quorate apply` restores the load balancers. Check that " + cmp.Or(vip, address) + " is reachable from the hosts."
			} else if f.Seen.API != nil {
				fix = "Check your load balancer, and that " + cmp.Or(vip, address) + " is reachable from the hosts."
			}
			f.add("endpoint", Critical, true, "", "the endpoint "+address+" does not answer: "+e.Problem, fix)
		}
		if caller := f.Seen.Endpoint.Caller; caller != nil && !caller.OK && f.Endpoint().OK {
			f.add("endpoint-from-here", Info, false, "", "this machine does not reach the endpoint "+address+" ("+caller.Problem+caller.Unknown+"); the hosts do", "kubectl on this machine needs a route to "+cmp.Or(vip, address)+". Quorate does not need one.")
		}
	}
	if !f.managed() {
		return
	}
	holders, unknown := f.Holders()
	switch {
	case len(holders) > 1:
		f.add("virtual-ip-holders", Critical, true, "", fmt.Sprintf("%s have the virtual IP %s at the same time: they do not receive each other's VRRP advertisements", list(holders), vip),
			"Allow VRRP (IP protocol 112) between "+list(holders)+".")
	case len(holders) == 0 && len(unknown) == 0 && len(f.Spec.BalancerHosts()) > 0:
		f.add("virtual-ip-holders", Critical, true, "", "no load balancer has the virtual IP "+vip, "`quorate apply` starts what is stopped. On "+f.Spec.BalancerHosts()[0].Name+", `systemctl status keepalived haproxy` shows more.")
	}
}

// hosts reports what cannot be reached, by zone or by host.
func (f *findings) hosts() {
	all := f.Spec.Spec.Hosts
	dead := map[string]int{}
	for _, h := range all {
		if !f.Reachable(h.Name) {
			dead[h.Zone]++
		}
	}
	for _, h := range all {
		if f.Reachable(h.Name) {
			continue
		}
		var mates []string
		for _, o := range all {
			if o.Zone == h.Zone {
				mates = append(mates, o.Name)
			}
		}
		switch {
		case h.Zone == "" || len(mates) == 1 || dead[h.Zone] < len(mates):
			f.add("host", Warning, false, h.Name, fmt.Sprintf("host %s cannot be reached: %s", h.Name, f.whyUnreachable(h.Name)), fixPower)
		case mates[0] == h.Name:
			f.add("zone", Warning, false, h.Zone, fmt.Sprintf("zone %s cannot be reached (%s): %s", h.Zone, strings.Join(mates, ", "), f.whyUnreachable(h.Name)),
				"Restore the zone's power or network (in a lab: `quorate lab heal`). Its hosts rejoin automatically.")
		}
	}
}

// identity reports hosts and load balancers that belong to another cluster.
func (f *findings) identity() {
	for _, r := range f.Conflicts() {
		f.add(r.Rule, Critical, true, "", r.Why, r.Fix)
	}
}

func (f *findings) nodes() {
	if f.Seen.API == nil {
		return
	}
	noNetwork := f.Spec.Spec.Network.CNI == spec.CNINone
	for _, h := range f.Spec.Spec.Hosts {
		if !h.IsNode() || !f.Reachable(h.Name) {
			continue
		}
		switch n := f.Node(h.Name); {
		case n == nil:
			f.add("node", Warning, true, h.Name, "node "+h.Name+" is not in the cluster", "`quorate apply` joins it.")
		case !n.Ready && n.NoNetwork:
			f.add("node", Warning, !noNetwork, h.Name, "node "+h.Name+" is not ready: "+n.NotReady, "Check the firewalls and the network between it and the other nodes, and the pod network's own pods on it.")
		case !n.Ready:
			f.add("node", Warning, true, h.Name, "node "+h.Name+" is not ready"+after(": ", n.NotReady), "On "+h.Name+", `journalctl -u kubelet -n 50` shows why.")
		case n.Short != "":
			f.add("node-pressure", Warning, true, h.Name, "node "+h.Name+" accepts no new pods and may evict those that it has: "+n.Short, "Make room on "+h.Name+": `df -h /var/lib`, `free -m` and `journalctl -u kubelet | grep -i evict` show what it is short of.")
		}
	}
	for _, n := range f.Strangers() {
		fix := "Add it to the spec. Or remove it: `kubectl drain " + n.Name + " --ignore-daemonsets`, `kubectl delete node " + n.Name + "`, and `kubeadm reset` on the host."
		if _, member := f.Member(n.Name); member {
			fix = "Add it to the spec. Or remove it, its etcd member first: `kubectl drain " + n.Name + " --ignore-daemonsets`, `kubeadm reset` on the host (which removes the member), then `kubectl delete node " + n.Name + "`."
		}
		f.add("stranger", Warning, true, n.Name, "node "+n.Name+" is in the cluster, but not in the spec", fix)
	}
}

func (f *findings) etcd() {
	clusters := map[string][]string{}
	for _, m := range f.Seen.Etcd {
		if m.ClusterID != "" {
			clusters[m.ClusterID] = append(clusters[m.ClusterID], m.Name)
		}
		if _, ours := f.Spec.Host(m.Name); ours && !f.Reachable(m.Name) {
			continue
		}
		switch {
		case m.Unknown != "":
			f.add("etcd-member-unknown", Warning, true, m.Name, "etcd member "+m.Name+" could not be queried: "+m.Unknown, fixStatus)
		case !m.Started:
			f.add("etcd-member", Warning, true, m.Name, "etcd member "+m.Name+" was added, but has never started", "`quorate apply` finishes its join.")
		case !m.Healthy:
			f.add("etcd-member", Warning, true, m.Name, "etcd member "+m.Name+" is not healthy"+after(": ", m.Problem), f.whereEtcdLogs(m.Name))
		case m.Learner:
			f.add("etcd-learner", Warning, true, m.Name, "etcd member "+m.Name+" is still a learner and has no vote", "Wait until it has caught up; `quorate apply` then continues.")
		}
		f.etcdSize(m)
		for _, alarm := range m.Alarms {
			f.add("etcd-alarm", Critical, true, m.Name, fmt.Sprintf("etcd member %s has raised the alarm %s", m.Name, alarm), alarmFix(alarm))
		}
	}
	if len(clusters) > 1 {
		var parts []string
		for _, id := range slices.Sorted(maps.Keys(clusters)) {
			parts = append(parts, id+" ("+strings.Join(clusters[id], ", ")+")")
		}
		f.add("etcd-clusters", Critical, true, "", "the etcd members belong to different clusters: "+strings.Join(parts, "; "),
			"Stop the members of the cluster that has the wrong data (on its hosts: `systemctl stop kubelet`, then stop the etcd container), before clients write to both.")
	}
	if f.Seen.Etcd == nil || f.stage == Partial {
		return
	}
	for _, h := range f.Spec.EtcdHosts() {
		if _, is := f.Member(h.Name); !is && f.Reachable(h.Name) {
			f.add("etcd-member", Warning, true, h.Name, "etcd has no member on "+h.Name, "`quorate apply` adds it.")
		}
	}
}

func (f *findings) etcdSize(m facts.EtcdMember) {
	quota := cmp.Or(m.QuotaBytes, defaultQuota)
	used := float64(m.DBSizeBytes) / float64(quota)
	sev := Warning
	switch {
	case used >= quotaCritical:
		sev = Critical
	case used < quotaWarning:
		return
	}
	f.add("etcd-quota", sev, false, m.Name, fmt.Sprintf("the database of etcd member %s uses %.0f %% of its quota of %d MiB; at the quota, etcd refuses every write", m.Name, 100*used, quota>>20),
		"Delete what is not needed (`kubectl get --raw /metrics | grep apiserver_storage_objects` shows what there is most of), then defragment: on each etcd host in turn, `etcdutl defrag` or `etcdctl defrag`.")
}

func alarmFix(alarm string) string {
	if alarm == "CORRUPT" {
		return "Its data differs from that of the others. Stop it, and do not copy its data anywhere; the other members have the right data."
	}
	return "Make room: delete objects, compact, defragment every member, then `etcdctl alarm disarm`."
}

// whereEtcdLogs is where a member's own words are.
func (f *findings) whereEtcdLogs(host string) string {
	switch {
	case f.Spec.StackedEtcd():
		return "On " + host + ", `tail /var/log/pods/kube-system_etcd-*/etcd/*.log` shows why."
	case f.Spec.ManagedEtcd():
		return "On " + host + ", `journalctl -u etcd -n 50` shows why."
	}
	return "Check it on " + host + ". It is your etcd; Quorate does not change it."
}

func (f *findings) controlPlanes() {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if !f.JoinedControlPlane(h.Name) && (f.Facts(h.Name) == nil || !f.Facts(h.Name).Kubernetes.KubeletConfig) {
			continue // it has not joined yet, which is said of its node, or it cannot be reached
		}
		for _, pod := range []string{"kube-apiserver", facts.ControllerManager, facts.Scheduler} {
			a, name := f.component(h.Name, pod), pod
			if pod == "kube-apiserver" {
				a = f.APIServer(h.Name)
			}
			switch {
			case a.OK:
			case !a.Known():
				f.add("control-plane-unknown", Warning, true, h.Name, fmt.Sprintf("%s on %s could not be queried: %s", name, h.Name, a.Unknown), fixStatus)
			case !slices.Contains(f.Facts(h.Name).Kubernetes.Manifests, pod):
				f.add("control-plane", Warning, true, h.Name, fmt.Sprintf("%s does not run on %s: its manifest is missing", name, h.Name), "`quorate apply` writes it again.")
			default:
				f.add("control-plane", Warning, true, h.Name, fmt.Sprintf("%s on %s is not healthy: %s", name, h.Name, a.Problem), fmt.Sprintf("On %s, `tail /var/log/pods/kube-system_%s-*/%s/*.log` shows why.", h.Name, pod, pod))
			}
		}
	}
}

func (f *findings) loadBalancers() {
	if !f.managed() {
		return
	}
	for _, h := range f.Spec.BalancerHosts() {
		if !f.Reachable(h.Name) {
			continue
		}
		b := f.Seen.Hosts[h.Name].Balancer
		a := f.LoadBalancer(h.Name)
		switch {
		case !a.Known():
			f.add("load-balancer-unknown", Warning, true, h.Name, "the load balancer on "+h.Name+" could not be queried: "+a.Unknown, fixStatus)
			continue
		case !a.OK && b != nil && b.Others != nil:
			f.add("load-balancer", Warning, true, h.Name, "HAProxy on "+h.Name+" does not answer", "On "+h.Name+", check `systemctl status haproxy keepalived`.")
			continue
		case !a.OK:
			f.add("load-balancer", Warning, true, h.Name, "the load balancer on "+h.Name+" does not work: "+a.Problem, "`quorate apply` configures and starts it. On "+h.Name+", `journalctl -u haproxy -n 50` shows why.")
			continue
		case b.Others != nil && len(b.Backends) == 0:
			f.add("load-balancer-foreign", Info, false, h.Name, "the load balancer on "+h.Name+" was not set up by Quorate, so its servers are not known", "`quorate apply` sets it up; `quorate plan` shows how.")
			continue
		}
		for _, cp := range f.Spec.HostsWith(spec.RoleControlPlane) {
			if !f.APIServer(cp.Name).OK {
				continue
			}
			i := slices.IndexFunc(b.Backends, func(x facts.Backend) bool { return x.Name == cp.Name })
			switch {
			case i < 0:
				f.add("load-balancer-server", Warning, true, h.Name, "the load balancer on "+h.Name+" does not know the control plane "+cp.Name, "`quorate apply` configures it.")
			case !b.Backends[i].Healthy && !b.Backends[i].Drained:
				f.add("load-balancer-server", Warning, true, h.Name, fmt.Sprintf("the load balancer on %s does not reach the API server on %s, which is ready (%s)", h.Name, cp.Name, b.Backends[i].Check),
					fmt.Sprintf("On %s, try `curl -k https://%s:6443/readyz`. Allow TCP port 6443 between the two.", h.Name, cp.Address))
			}
		}
	}
}

// drained reports control planes that get no clients on purpose: that is easily forgotten.
func (f *findings) drained() {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		var on []string
		for _, lb := range f.Spec.BalancerHosts() {
			if b := f.Seen.Hosts[lb.Name].Balancer; b != nil && slices.ContainsFunc(b.Backends, func(x facts.Backend) bool { return x.Name == h.Name && x.Drained }) {
				on = append(on, lb.Name)
			}
		}
		if len(on) > 0 {
			f.add("drained", Info, false, h.Name, fmt.Sprintf("control plane %s is drained: the load balancers on %s send it no new clients", h.Name, list(on)), "Run `quorate drain --undo "+h.Name+"` when its maintenance is over.")
		}
	}
}

// components reports the other programs of the cluster on each host.
func (f *findings) components() {
	for _, h := range f.Spec.Spec.Hosts {
		seen := f.Seen.Hosts[h.Name]
		if seen.Facts == nil || h.IsNode() && !seen.Facts.Kubernetes.KubeletConfig {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(seen.Components)) {
			if name == facts.ControllerManager || name == facts.Scheduler {
				continue // judged with the control plane
			}
			c := seen.Components[name]
			switch {
			case c.OK:
			case !c.Known():
				f.add("component-unknown", Warning, true, h.Name, fmt.Sprintf("%s on %s could not be queried: %s", name, h.Name, c.Unknown), fixStatus)
			default:
				f.add("component", Warning, true, h.Name, fmt.Sprintf("%s on %s does not work: %s", name, h.Name, c.Problem), componentFix(name, h.Name))
			}
		}
	}
}

func componentFix(name, host string) string {
	switch name {
	case facts.KubeProxy:
		return "`kubectl -n kube-system logs -l k8s-app=kube-proxy --tail=50` shows why."
	case facts.Flannel:
		return "`quorate apply` restarts the pod network's agent on " + host + ". `kubectl -n kube-flannel logs -l app=flannel --tail=50` shows why."
	}
	return "`quorate apply` starts it. On " + host + ", `journalctl -u " + name + " -n 50` shows why."
}

func (f *findings) dns() {
	api := f.Seen.API
	if api == nil || !api.Initialised || len(api.Nodes) < 2 {
		return
	}
	waiting := f.Spec.Spec.Network.CNI == spec.CNINone && slices.ContainsFunc(api.Nodes, func(n facts.Node) bool { return n.NoNetwork })
	const describe = "`kubectl -n kube-system describe pods -l k8s-app=kube-dns` shows more."
	switch {
	case api.DNSReady == 0:
		f.add("dns", Critical, !waiting, "", "no CoreDNS replica is ready, so pods cannot resolve names"+after(": ", api.DNSNotReady), describe)
	case api.DNSReady == 1:
		f.add("dns", Warning, !waiting, "", "only one CoreDNS replica is ready"+after(": ", api.DNSNotReady), describe)
	case api.DNSNodes < 2 && !api.DNSSpread:
		f.add("dns", Warning, true, "", "all CoreDNS replicas are on one node", "`quorate apply` spreads them.")
	case api.DNSNodes < 2:
		f.add("dns", Warning, true, "", "all CoreDNS replicas are on one node", "`kubectl -n kube-system rollout restart deployment coredns` spreads them again.")
	}
}

// margins reports, in one finding, what must not fail next. In a zonal placement a failed zone stops the cluster by design.
func (f *findings) margins() {
	m := f.Margins()
	var next []string
	if m.ControlPlanes == 0 {
		next = append(next, "a control plane")
	}
	if m.Etcd == 0 {
		next = append(next, "an etcd member")
	}
	if m.LoadBalancers != nil && *m.LoadBalancers == 0 {
		next = append(next, "the last load balancer")
	}
	if m.Zones == 0 && f.Spec.Spec.ControlPlane.Placement != spec.PlacementZonal {
		_, worst := quorum.ZoneMargin(f.placements)
		next = append(next, "zone "+strings.Join(worst, ", zone "))
	}
	if len(next) == 0 {
		return
	}
	fix := "Repair what is listed here before anything else is stopped."
	if !f.anyNotUp() {
		fix = "Spread more hosts over more zones in the spec (three control planes in three zones, two load balancers in two), then run `quorate apply`."
	}
	f.add("margin", Warning, false, "", "the cluster does not survive the loss of "+strings.Join(next, ", or "), fix)
}

func (f *findings) certificates() {
	type certificate struct {
		host string
		facts.Certificate
	}
	var all []certificate
	for _, h := range f.Spec.Spec.Hosts {
		if seen := f.Facts(h.Name); seen != nil {
			for _, c := range seen.Kubernetes.Certificates {
				all = append(all, certificate{h.Name, c})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b certificate) int { return a.Expires.Compare(b.Expires) })
	// Certificates that are renewed in the same way and expire in the same period are one finding.
	type group struct {
		severity Severity
		fix      string
		expired  bool
	}
	count, first := map[group]int{}, map[group]certificate{}
	var order []group
	for _, c := range all {
		left := c.Expires.Sub(f.Seen.Time)
		if left >= expiresSoon {
			break
		}
		g := group{Warning, f.renewal(c.host, c.Certificate), left <= 0}
		if left < expiresNow {
			g.severity = Critical
		}
		if count[g]++; count[g] == 1 {
			first[g] = c
			order = append(order, g)
		}
	}
	for _, g := range order {
		c := first[g]
		summary := fmt.Sprintf("certificate %s on %s %s", c.Name, c.host, expiry(c.Expires, f.Seen.Time))
		if n := count[g] - 1; n > 0 {
			summary += fmt.Sprintf(", and %d more with the same remedy", n)
		}
		f.add("certificate", g.severity, false, c.host, summary, g.fix)
	}
}

// The names under which observations report the kubelet's own certificates.
const kubeletClient, kubeletServer = "kubelet-client", "kubelet-server"

// renewal is how a certificate is renewed.
func (f *findings) renewal(host string, c facts.Certificate) string {
	const onEtcdHosts = "On every etcd host: `for c in etcd-server etcd-peer apiserver-etcd-client; do kubeadm certs renew $c; done`. "
	h, _ := f.Spec.Host(host)
	client := strings.HasSuffix(c.Name, "apiserver-etcd-client.crt")
	expired := !c.Expires.After(f.Seen.Time)
	switch {
	case c.Name == kubeletClient && expired:
		return "The kubelet cannot renew an expired certificate. Run `quorate apply`: it signs a new one."
	case c.Name == kubeletClient, c.Name == kubeletServer:
		return "The kubelet renews it automatically while it reaches the API. If it does not, run `systemctl restart kubelet` there."
	case h.Has(spec.RoleEtcd):
		return onEtcdHosts + "etcd reads them again automatically, and `quorate apply` hands the client certificate to the control planes."
	case client && f.Spec.ManagedEtcd():
		return onEtcdHosts + "`quorate apply` then hands it to the control planes."
	case client && f.Spec.ExistingEtcd():
		return "Put a new one into " + f.Spec.Spec.Etcd.CertFile + " and its key into " + f.Spec.Spec.Etcd.KeyFile + "; `quorate apply` then hands it to the control planes."
	}
	return "On one control plane after the other: run `kubeadm certs renew all`, reboot it, and wait until `quorate status` shows it as healthy."
}

// expiry says in words when something expires.
func expiry(t, now time.Time) string {
	switch left := t.Sub(now); {
	case left <= 0:
		return "expired on " + t.Format(time.DateOnly)
	case left < 48*time.Hour:
		return fmt.Sprintf("expires in %d hours", int(left.Hours()))
	default:
		return fmt.Sprintf("expires in %d days", int(left.Hours()/24))
	}
}

// clocks compares the hosts' clocks with the median, which is right unless most of them are wrong.
func (f *findings) clocks() {
	type clock struct {
		host string
		time time.Time
	}
	var clocks []clock
	for _, h := range f.Spec.Spec.Hosts {
		if seen := f.Facts(h.Name); seen != nil && !seen.Time.IsZero() {
			clocks = append(clocks, clock{h.Name, seen.Time})
		}
	}
	if len(clocks) < 2 {
		return
	}
	sorted := slices.SortedFunc(slices.Values(clocks), func(a, b clock) int { return a.time.Compare(b.time) })
	median := sorted[(len(sorted)-1)/2].time
	for _, c := range clocks {
		if skew := c.time.Sub(median); skew.Abs() > maxSkew {
			word := "ahead of"
			if skew < 0 {
				word = "behind"
			}
			f.add("clock", Warning, false, c.host, fmt.Sprintf("the clock of %s is %s %s the others; leases and certificates depend on it", c.host, skew.Abs().Round(time.Second), word),
				"On "+c.host+": `timedatectl set-ntp true`.")
		}
	}
}

func (f *findings) swap() {
	var on []string
	for _, h := range f.Spec.Spec.Hosts {
		if seen := f.Facts(h.Name); seen != nil && h.IsNode() && seen.SwapBytes > 0 && seen.Container == "" {
			on = append(on, h.Name)
		}
	}
	if len(on) > 0 {
		f.add("swap", Warning, false, "", "swap is on: "+strings.Join(on, ", ")+"; the memory limits of pods do not hold there", "On each of them: `swapoff -a`, and remove it from /etc/fstab.")
	}
}

func names(hosts []spec.Host) (out []string) {
	for _, h := range hosts {
		out = append(out, h.Name)
	}
	return out
}

// list joins words: a, b and c.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
