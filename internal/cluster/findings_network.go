package cluster

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

func (s *State) managed() bool { return s.Spec.Spec.LoadBalancer.Type == spec.BalancerManaged }

// noLoadBalancer reports that none works, or that nobody can tell. An endpoint that answers proves that one does.
func (f *findings) noLoadBalancer() {
	if !f.managed() || f.Endpoint().OK {
		return
	}
	var unknown []string
	for _, h := range f.Spec.BalancerHosts() {
		switch a := f.LoadBalancer(h.Name); {
		case a.OK:
			return
		case !a.Known():
			unknown = append(unknown, h.Name)
		}
	}
	all := f.Spec.BalancerHosts()
	switch {
	case len(all) == 0:
	case len(unknown) > 0:
		f.unmet(RuleLoadBalancer, Critical, "no load balancer is known to work: "+List(unknown)+" could not be queried", "Bring back what cannot be reached.", Names(all)...)
	default:
		who := "clients"
		if f.podsUseEndpoint() {
			who = "clients and pods"
		}
		f.unmet(RuleLoadBalancer, Critical, "no load balancer works: "+who+" cannot reach the API at the endpoint", "`quorate apply` configures and starts them. What is wrong with each of them is listed here.", Names(all)...)
	}
}

// podsUseEndpoint says that Quorate made the endpoint an address of the Service through which pods reach the API.
func (s *State) podsUseEndpoint() bool {
	return s.Seen.API != nil && s.Seen.API.Service != nil && len(s.Seen.API.Service.Slices[facts.OwnSlice]) > 0
}

// apiService reports that pods do not reach the API, or that some of their connections fail for good. The API servers themselves remove
// one that died, as long as one of them lists itself.
func (f *findings) apiService() {
	if f.Seen.API == nil || f.Seen.API.Service == nil {
		return
	}
	service := "the Service default/" + facts.APIServiceName
	addresses := f.Seen.API.Service.Addresses()
	if len(addresses) == 0 {
		f.unmet(RuleAPIService, Critical, "pods do not reach the API: "+service+" has no address", f.byApply("gives it the address of the endpoint, if the API servers do not list themselves"))
		return
	}
	if !f.podsUseEndpoint() || slices.ContainsFunc(f.present.HostsWith(spec.RoleControlPlane), f.listsItself) {
		return
	}
	var others []string
	for _, a := range addresses {
		if !slices.ContainsFunc(append(f.FormerEndpoints(), f.Spec.Endpoint()), func(e spec.Endpoint) bool { return net.JoinHostPort(e.Address, e.Port) == a }) {
			others = append(others, a)
		}
	}
	if len(others) > 0 {
		f.add(RuleAPIService, Warning, "connections of pods to "+List(others)+" fail whenever nothing answers there: these are addresses of "+service+", and no API server removes them",
			f.byApply("removes every address but that of the endpoint"))
	}
}

// listsItself says that the API server of a host may list itself as an address of the API's Service.
func (f *findings) listsItself(h spec.Host) bool {
	seen := f.Facts(h.Name)
	return seen == nil || seen.Kubernetes.Arguments[facts.APIServer][hostconfig.ReconcilerArgument] != hostconfig.NoReconciler
}

// endpoint reports how the endpoint answers. Only the hosts' view matters to the cluster.
func (f *findings) endpoint() {
	address, vip := f.present.Spec.ControlPlane.Endpoint, f.present.Spec.LoadBalancer.Address
	e := f.Endpoint()
	switch {
	case e.OK:
		if c := f.Seen.Endpoint.Caller; c != nil && !c.OK {
			f.add(RuleEndpointFromHere, Info, "the endpoint "+address+" answers the hosts, but not this machine: "+c.Problem+c.Unknown,
				"To use kubectl on this machine, give it a route to "+cmp.Or(vip, address)+". Quorate does not need one.")
		}
	case !e.Known():
		f.unmet(RuleEndpoint, Warning, "it is unknown whether the endpoint "+address+" answers: "+e.Unknown, fixStatus)
	default:
		fix := "Bring an API server back first."
		if f.Seen.API != nil && f.managed() {
			fix = f.byApply("restores the load balancers") + " Check that " + cmp.Or(vip, address) + " can be reached from the hosts."
		} else if f.Seen.API != nil {
			fix = "Check your load balancer, and that " + cmp.Or(vip, address) + " can be reached from the hosts."
		}
		f.unmet(RuleEndpoint, Critical, "the endpoint "+address+" does not answer: "+e.Problem, fix)
	}
}

// virtualIP reports who has the virtual IP, unless it is exactly one load balancer.
func (f *findings) virtualIP() {
	all := f.present.BalancerHosts()
	if !f.managed() || len(all) == 0 {
		return
	}
	vip := f.present.Spec.LoadBalancer.Address
	f.othersWithVirtualIP(vip)
	holders, unknown := f.Holders()
	strange := slices.DeleteFunc(slices.Clone(holders), func(name string) bool { return slices.Contains(Names(all), name) })
	switch {
	case len(strange) > 0:
		f.unmet(RuleVirtualIP, Critical, List(strange)+plural(len(strange), " has", " have")+" the virtual IP "+vip+", but the spec does not have "+plural(len(strange), "it as a load balancer", "them as load balancers"),
			"Stop keepalived there (`systemctl disable --now keepalived`), or remove the address from the interface (`ip address del`).", holders...)
	case slices.ContainsFunc(holders, func(name string) bool { return !f.Reachable(name) }) && len(holders) > 1:
		gone := slices.DeleteFunc(slices.Clone(holders), f.Reachable)
		f.unmet(RuleVirtualIP, Critical, fmt.Sprintf("%s have the virtual IP %s at the same time: %s cannot be reached over SSH, and still answers for the address", List(holders), vip, List(gone)),
			"Power "+List(gone)+" off, or repair it.", holders...)
	case len(holders) > 1:
		f.unmet(RuleVirtualIP, Critical, fmt.Sprintf("%s have the virtual IP %s at the same time: they do not receive each other's VRRP advertisements", List(holders), vip),
			"Allow VRRP (IP protocol 112) between "+List(holders)+".", holders...)
	case len(holders) == 1:
	case len(unknown) > 0:
		// Where a host cannot be reached, that is the finding that keeps the spec from being met, or not.
		judge := f.add
		if slices.ContainsFunc(unknown, f.Reachable) {
			judge = f.unmet
		}
		judge(RuleVirtualIP, Warning, "which load balancer has the virtual IP "+vip+" is unknown: "+List(unknown)+" could not be queried", fixStatus, unknown...)
	default:
		f.unmet(RuleVirtualIP, Critical, "no load balancer has the virtual IP "+vip, "`quorate apply` starts what is stopped. On "+all[0].Name+", `systemctl status keepalived haproxy` shows more.", Names(all)...)
	}
}

// othersWithVirtualIP reports machines outside the spec that have the virtual IP: clients reach them and the load balancer in
// turn. Whether there are any is known only if a load balancer could ask its network.
func (f *findings) othersWithVirtualIP(address string) {
	for _, s := range f.StrangersWithVirtualIP() {
		f.unmet(RuleVirtualIP, Critical, fmt.Sprintf("%s, which is not in the spec, has the virtual IP %s: clients connect sometimes to it and sometimes to the load balancers", s, address),
			"Find that machine (`ip neigh`, the switches' tables). If it was a load balancer of this cluster, stop it there: `systemctl disable --now keepalived haproxy`. Otherwise take the address away from it.", s.SeenBy...)
	}
	var why []string
	for _, h := range f.Spec.BalancerHosts() {
		switch asked := f.Seen.Hosts[h.Name].VirtualIP; {
		case asked == nil:
		case asked.Unknown == "":
			return
		default:
			why = append(why, h.Name+": "+strings.TrimPrefix(asked.Unknown, h.Name+": "))
		}
	}
	if len(why) > 0 {
		f.add(RuleVirtualIP, Info, "whether machines outside the spec have the virtual IP "+address+" too is unknown: "+strings.Join(why, "; "),
			"If you removed a load balancer from the spec, check that keepalived does not run there any more.")
	}
}

// loadBalancers reports what is wrong with each of them.
func (f *findings) loadBalancers() {
	if !f.managed() {
		return
	}
	for _, h := range f.Spec.BalancerHosts() {
		b, a := f.Seen.Hosts[h.Name].Balancer, f.LoadBalancer(h.Name)
		switch {
		case !a.Known(): // it cannot be reached, or is reported with the other programs that could not be queried
		case !a.OK && b != nil && b.Others != nil:
			f.unmet(RuleLoadBalancer, Warning, "the load balancer on "+h.Name+" does not work: "+a.Problem, "On "+h.Name+", `systemctl status haproxy keepalived` shows why.", h.Name)
		case !a.OK:
			f.unmet(RuleLoadBalancer, Warning, "the load balancer on "+h.Name+" does not work: "+a.Problem, "`quorate apply` configures and starts it. On "+h.Name+", `journalctl -u haproxy -n 50` shows why.", h.Name)
		case b.Others != nil && len(b.Backends) == 0:
			f.add(RuleLoadBalancer, Info, "the load balancer on "+h.Name+" was not set up by Quorate, so its servers are not known", "`quorate plan` shows how Quorate would set it up; `quorate apply` does it.", h.Name)
		default:
			f.servers(h, b)
			f.noTakeover(h)
		}
	}
}

// servers reports API servers that are ready and get no clients from a load balancer that works.
func (f *findings) servers(h spec.Host, b *facts.Balancer) {
	for _, cp := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if !f.APIServer(cp.Name).OK {
			continue
		}
		i := slices.IndexFunc(b.Backends, func(x facts.Backend) bool { return x.Name == cp.Name })
		switch {
		case i < 0:
			f.unmet(RuleBalancerServer, Warning, "the load balancer on "+h.Name+" does not know the control plane "+cp.Name, "`quorate apply` configures it.", h.Name, cp.Name)
		case !b.Backends[i].Healthy && !b.Backends[i].Drained:
			f.unused(h, cp, b.Backends[i].Check)
		}
	}
}

// unused reports an API server that is ready, and that the checks of a load balancer have found to be down. A check that was answered
// since then is no sign of a network that does not let it through.
func (f *findings) unused(h, cp spec.Host, check string) {
	summary := fmt.Sprintf("the load balancer on %s does not reach the API server on %s, which is ready%s", h.Name, cp.Name, after(": its check says ", check))
	fix := fmt.Sprintf("On %s, try `curl -k https://%s/readyz`. Allow TCP port 6443 from %s to %s.", h.Name, net.JoinHostPort(cp.Address, hostconfig.APIPort), h.Name, cp.Name)
	switch {
	case strings.HasPrefix(check, "L7OK"):
		summary = fmt.Sprintf("the load balancer on %s does not use the API server on %s yet: its last check succeeded, and more have to", h.Name, cp.Name)
		fix = "Run `quorate status` again in a moment."
	case strings.HasPrefix(check, "L7STS"):
		summary = fmt.Sprintf("the load balancer on %s does not use the API server on %s, which is ready now: it answered the last check with an error (%s)", h.Name, cp.Name, check)
		fix = "Run `quorate status` again in a moment. If this persists, look at `journalctl -u haproxy -n 50` on " + h.Name + "."
	}
	f.unmet(RuleBalancerServer, Warning, summary, fix, h.Name, cp.Name)
}

// noTakeover reports a load balancer that would never take the virtual IP.
func (f *findings) noTakeover(h spec.Host) {
	if k := f.keepalived(h.Name); !k.OK && k.Known() {
		f.unmet(RuleLoadBalancer, Warning, "the load balancer on "+h.Name+" does not take part in the failover of the virtual IP: "+k.Problem, "`quorate apply` starts keepalived. On "+h.Name+", `journalctl -u keepalived -n 50` shows why.", h.Name)
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
			f.add(RuleDrained, Info, fmt.Sprintf("control plane %s is drained: the load balancers on %s send it no new clients", h.Name, List(on)), "`quorate maintain --undo "+h.Name+"` puts it back.", h.Name)
		}
	}
}

// DNSSpread reports whether CoreDNS's replicas are kept on different nodes, and in different zones where the spec asks for that. The API must
// have been read.
func (s *State) DNSSpread() bool {
	return s.Seen.API.DNSSpread && s.Seen.API.DNSInZones == s.Spec.DNSInZones()
}

// dns reports too few replicas of CoreDNS. Where the nodes wait for the user's own pod network, its pods cannot run yet.
func (f *findings) dns() {
	api := f.Seen.API
	if api == nil || !api.Initialised || f.Spec.Spec.Network.CNI == spec.CNINone && slices.ContainsFunc(api.Nodes, func(n facts.Node) bool { return n.NoNetwork }) {
		return
	}
	switch {
	case api.DNSReady == 0:
		f.unmet(RuleDNS, Critical, "no CoreDNS replica is ready, so pods cannot resolve names"+after(": ", api.DNSNotReady), f.fixDNS())
	case len(api.Nodes) < 2: // there is no second node for another replica
	case api.DNSReady == 1:
		f.unmet(RuleDNS, Warning, "only one CoreDNS replica is ready"+after(": ", api.DNSNotReady), f.fixDNS())
	case api.DNSReplacing: // for a moment, both may be ready
		f.unmet(RuleDNS, Warning, "replicas of CoreDNS with a former configuration are being replaced"+after(": ", api.DNSNotReady), f.fixDNS())
	case api.DNSNodes < 2:
		f.unmet(RuleDNS, Warning, "all CoreDNS replicas are on one node", f.fixDNS())
	case f.dnsZone() != "" && len(f.resolving()) == len(api.DNSOn): // apply does not wait for anything else: the scheduler put them there
		f.add(RuleDNS, Warning, "all CoreDNS replicas are in zone "+f.dnsZone(), f.fixDNS())
	}
}

// fixDNS is what to do about replicas of CoreDNS that are not ready, or not apart.
func (s *State) fixDNS() string {
	switch api := s.Seen.API; {
	case api.DNSReady < 2 || api.DNSReplacing:
		return "`kubectl -n kube-system describe pods -l k8s-app=kube-dns` shows more."
	case !s.DNSSpread():
		return "`quorate apply` spreads them."
	}
	return "`kubectl -n kube-system rollout restart deployment coredns` spreads them again."
}
