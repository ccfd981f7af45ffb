package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how a cluster gets another endpoint: name, port, virtual IP, or several of them. Certificates come first, then the
// load balancers serve both endpoints, then clients move, and the old endpoint ends last. What is left to do follows from what
// certificates, kubeconfigs, and load balancers are. The cluster remembers every endpoint that a client may have, so that an edit in
// the middle of a change, or one that takes it back, leaves no client behind.

// RuleEndpoint says what an endpoint must be to take over from another one.
const RuleEndpoint = "new-endpoint"

// EndpointChange is a part of the change of an endpoint.
type EndpointChange struct {
	// To is the new endpoint, and From are those that clients may still use.
	To   spec.Endpoint   `json:"to,omitzero"`
	From []spec.Endpoint `json:"from,omitempty"`
	// Names get into the API servers' certificates, and FormerNames are no longer part of new ones.
	Names       []string `json:"names,omitempty"`
	FormerNames []string `json:"formerNames,omitempty"`
}

// endpointMoves says that a client may still use an endpoint that is not that of the spec.
func (b *builder) endpointMoves() bool {
	former := b.FormerEndpoints()
	if record, err := b.Record(); err == nil && record != nil && slices.Contains(former, record.Cluster().Endpoint()) {
		return true
	}
	used := func(server string) bool {
		return slices.ContainsFunc(former, func(e spec.Endpoint) bool { return e.HostPort() != b.c.Endpoint().HostPort() && e.Server() == server })
	}
	api := b.Seen.API
	if api != nil && (slices.ContainsFunc(slices.Collect(maps.Values(api.Servers)), used) || api.Kubeadm != nil && used("https://"+api.Kubeadm.Endpoint)) {
		return true
	}
	if b.any(func(k facts.Kubernetes) bool {
		return slices.ContainsFunc(slices.Collect(maps.Values(k.Servers)), used)
	}) {
		return true
	}
	return slices.ContainsFunc(former, func(e spec.Endpoint) bool { return b.addressUsed(e) || b.podsUse(e) })
}

// addressUsed says that clients may use the address of a former endpoint although they use the name of the spec's: the names resolve to
// it on a node, or pods were restarted because of it. Only the change of an endpoint that is taken back leaves that behind.
func (b *builder) addressUsed(former spec.Endpoint) bool {
	to := b.c.Endpoint()
	if former.Name != to.Name || former.Address == to.Address {
		return false
	}
	if b.Seen.API != nil && slices.ContainsFunc(b.Seen.API.DaemonSets, func(d facts.DaemonSet) bool { return d.Endpoint == former.String() }) {
		return true
	}
	return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool {
		f := b.Facts(h.Name)
		return f != nil && h.IsNode() && len(hostconfig.Missing(b.endpointHosts(), f)) > 0
	})
}

// refuseEndpoint is everything because of which no endpoint is changed.
func (b *builder) refuseEndpoint() error {
	if !b.endpointMoves() {
		return nil
	}
	if b.changesVersion() {
		return oneThing("the endpoint is to change, and so is the version")
	}
	for _, h := range b.Departing() { // one that is dead is removed first: nothing on it can be moved
		if b.Reachable(h.Name) {
			return oneThing("the endpoint is to change, and " + h.Name + " is to leave the cluster")
		}
	}
	if len(b.Retiring()) > 0 {
		return oneThing("the endpoint is to change, and " + b.Retiring()[0].Name + " is no longer to be a load balancer")
	}
	if b.sharesPort() {
		return refused(RuleEndpoint, "the new endpoint has port "+hostconfig.APIPort+", load balancers run on the control planes, and their API servers were not set up to share that port",
			"Let the API servers share it first: keep the former endpoint, set `permit-port-sharing: \"true\"` in spec.settings.apiServer.extraArgs, and run `quorate apply`. Then change the endpoint. Or choose another port.")
	}
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		switch {
		case f == nil:
			r := refused(RuleEndpoint, fmt.Sprintf("the endpoint is to change, and %s cannot be changed: %s", h.Name, b.Unreachable()[h.Name]),
				"Bring it up, or end its maintenance: a host that stays behind would lose the API when the old endpoint ends. A host that is gone for good can be removed from the spec first.")
			r.Transient = true
			return r
		case h.IsNode() && !f.Kubernetes.KubeletConfig, b.c.Balances(h) && !b.balances(h):
			return oneThing("the endpoint is to change, and " + h.Name + " is to join")
		case h.Has(spec.RoleControlPlane) && len(b.missingNames(h)) > 0 && !b.APIServer(h.Name).OK:
			r := refused(RuleEndpoint, fmt.Sprintf("the endpoint is to change, and the API server on %s, which needs a certificate for it, does not work", h.Name),
				"Run `quorate apply` with the former endpoint first: it starts what is stopped. Then change the endpoint.")
			r.Transient = true
			return r
		case h.Has(spec.RoleControlPlane) && slices.Contains(f.Kubernetes.MissingPKI, "ca.key") && len(b.missingNames(h)) > 0:
			return refused(RuleEndpoint, fmt.Sprintf("the API server on %s needs a certificate for %s, and the key of the cluster's CA is not there", h.Name, cluster.List(b.missingNames(h))),
				"Put the key there until `quorate apply` is done (/etc/kubernetes/pki/ca.key). Or have your CA sign /etc/kubernetes/pki/apiserver.crt on each control plane with these names in addition to those that it has.")
		}
		for _, conf := range []string{"controller-manager.conf", "scheduler.conf"} {
			if server := f.Kubernetes.Servers[conf]; slices.ContainsFunc(b.FormerEndpoints(), func(e spec.Endpoint) bool { return e.Server() == server }) {
				return refused(RuleEndpoint, fmt.Sprintf("/etc/kubernetes/%s on %s uses the endpoint, and its program reads it only when it starts", conf, h.Name),
					"Let it use its local API server, as kubeadm configures it: write `server: https://"+net.JoinHostPort(h.Address, hostconfig.APIPort)+"` into the file, and restart the program by moving its manifest out of /etc/kubernetes/manifests and back, on one control plane at a time.")
			}
		}
	}
	return b.refuseAddress(b.c.Endpoint())
}

// refuseAddress refuses a virtual IP that the load balancers cannot have.
func (b *builder) refuseAddress(to spec.Endpoint) error {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	const choose = "Choose another address (loadBalancer.address)."
	for _, e := range b.FormerEndpoints() {
		if e.Address != to.Address && hostconfig.RouterID(e.Address) == hostconfig.RouterID(to.Address) {
			return refused(RuleEndpoint, fmt.Sprintf("%s and %s have the same identifier in VRRP (%d), and the load balancers must have both for a while", e.Address, to.Address, hostconfig.RouterID(to.Address)), choose)
		}
	}
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if _, has := f.Interface(to.Address); has && !b.c.Balances(h) {
			return refused(RuleEndpoint, h.Name+" has the address "+to.Address+", and is no load balancer", choose)
		}
		if own := f.InNetworkOf(to.Address, h.VIPAddresses()...); b.c.Balances(h) && !f.OnLink(own, to.Address) {
			return refused(RuleEndpoint, fmt.Sprintf("the address %s is not in the network of the load balancer %s (%s)", to.Address, h.Name, own),
				"Choose a free address of that network (loadBalancer.address). All load balancers must be in it.")
		}
	}
	return nil
}

// refuseFronts refuses addresses for load balancers that would move a virtual IP of the cluster to another interface. Load balancers that have changed and those
// that have not would not hear each other, and both take it. A new virtual IP in the other network has no such moment.
func (b *builder) refuseFronts() error {
	edits, err := b.Edits()
	if err != nil {
		return nil // refused already
	}
	for _, h := range b.c.BalancerHosts() {
		f := b.Facts(h.Name)
		if f == nil || b.Gains(h) {
			continue
		}
		edited := slices.ContainsFunc(edits, func(e spec.Edit) bool { return e.Host == h.Name && strings.HasSuffix(e.Path, ".frontAddress") })
		for _, served := range append(b.FormerEndpoints(), b.Present().Endpoint()) {
			own := f.InNetworkOf(served.Address, h.VIPAddresses()...)
			if edited && own != h.Address && f.OnLink(h.Address, served.Address) {
				return refused(RuleEndpoint, fmt.Sprintf("the load balancers have the virtual IP %s in the network of their address, and it is also in the network of the frontAddress %s of %s", served.Address, h.FrontAddress, h.Name),
					"Give the load balancers frontAddresses in a network of its own, with another virtual IP (loadBalancer.address): they serve both until everything in the cluster has moved.")
			}
			i := slices.IndexFunc(f.Addresses, func(a facts.Address) bool { return a.IP != served.Address && f.OnLink(a.IP, served.Address) })
			if i >= 0 && !f.OnLink(own, served.Address) && served.Address != b.c.Endpoint().Address { // the edit that began to move it there was taken back
				return refused(RuleEndpoint, fmt.Sprintf("the load balancers still serve the virtual IP %s in the network of %s on %s, and the spec does not say that this is an address of %s", served.Address, f.Addresses[i].IP, f.Addresses[i].Interface, h.Name),
					"Put the frontAddress of each load balancer back into the spec. To take a change of the endpoint back, it is enough to edit loadBalancer.address.")
			}
		}
	}
	return nil
}

// moveEndpoint is the order in which a cluster gets another endpoint, if clients may use one that is not that of the spec, up to the moment from which nothing in it uses the old one.
// After that, the ordinary configuration of hosts and load balancers ends the old one.
func (b *builder) moveEndpoint(hosts []spec.Host) {
	to, from := b.c.Endpoint(), b.FormerEndpoints()
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("%s ends at the end of this plan. Before that, let DNS and the clients outside of the cluster use %s: `quorate kubeconfig` writes a kubeconfig for it", endpointList(from), to))
	b.beginWith(b.checkAddress(to))
	b.beginWith(b.rememberEndpoints(from))
	for _, h := range b.controlPlanesInTurn() { // certificates first
		b.widenCertificate(h)
	}
	b.beginWith(b.storeNames(b.all()...))
	for _, h := range b.balancersInTurn() { // then both endpoints
		b.serveBoth(h, b.all()...)
	}
	b.beginWith(b.add(Step{Kind: TryEndpoint, Title: "try the new endpoint from every host", Endpoint: &EndpointChange{To: to},
		Reason: "no client moves to " + to.String() + " before the API answers there"}, b.all()...))
	b.beginWith(b.storeEndpoint())
	for _, h := range b.controlPlanesInTurn() { // then clients
		if s := b.moveClients(h, b.last); s != nil {
			b.last = s
		}
	}
	b.inLanes(slices.DeleteFunc(slices.Clone(hosts), func(h spec.Host) bool { return !h.IsNode() || h.Has(spec.RoleControlPlane) || !b.clientsStale(h) }), b.all(),
		func(h spec.Host, after ...*Step) *Step { return b.moveClients(h, after...) })
	b.applyManifests(b.all()...)
	b.moveAgents(b.all()...)
	b.publishEndpoint(b.all()...)
	if s := b.recordEndpoint(b.all()...); s != nil { // from here on, the cluster is reached at the new endpoint
		b.beginWith(s)
		b.last = s
	} else {
		b.beginWith(b.all()...)
	}
}

func endpointList(all []spec.Endpoint) string {
	var out []string
	for _, e := range all {
		out = append(out, e.String())
	}
	return strings.Join(out, ", ")
}

// checkAddress makes sure that nobody outside of the cluster has the new virtual IP: keepalived would take it away.
func (b *builder) checkAddress(to spec.Endpoint) *Step {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerManaged || !slices.ContainsFunc(b.FormerEndpoints(), func(e spec.Endpoint) bool { return e.Address != to.Address }) {
		return nil
	}
	return b.add(Step{Kind: CheckAddress, Title: "check that the address " + to.Address + " is free", Endpoint: &EndpointChange{To: to},
		Reason: "the load balancers would take it away from a machine that has it"})
}

// rememberEndpoints notes in the cluster which endpoints clients may have from now on.
func (b *builder) rememberEndpoints(from []spec.Endpoint) *Step {
	text, err := json.Marshal(append([]spec.Endpoint{b.c.Endpoint()}, from...))
	if err != nil {
		panic(fmt.Sprintf("plan: endpoints cannot be written: %v", err)) // they are text
	}
	if b.Seen.API.Endpoints == string(text) {
		return nil
	}
	return b.add(Step{Kind: RememberEndpoints, Title: "remember both endpoints in the cluster", Record: string(text),
		Reason: "as long as a client may use " + endpointList(from) + ", it is served"})
}

// forgetEndpoints ends the change of an endpoint.
func (b *builder) forgetEndpoints(after ...*Step) {
	if b.Seen.API == nil || b.Seen.API.Endpoints == "" && !b.endpointMoves() {
		return
	}
	keep := b.c.Endpoint().Names()
	var less []string
	for _, e := range b.FormerEndpoints() {
		for _, name := range e.Names() {
			if !slices.Contains(keep, name) && !slices.Contains(less, name) {
				less = append(less, name)
			}
		}
	}
	var stored *Step
	if len(less) > 0 {
		stored = b.add(Step{Kind: StoreEndpoint, Detail: "former-names", Title: "remove the old endpoint from kubeadm's configuration", Endpoint: &EndpointChange{FormerNames: less},
			Reason: "certificates that are made from now on are not for it; those that exist keep its name, which harms nobody"}, after...)
	}
	b.add(Step{Kind: RememberEndpoints, Detail: "forget", Title: "forget the old endpoint", Reason: "nothing uses it, and no load balancer serves it"}, append(after, stored)...)
}

// missingNames are the names of the new endpoint that the certificate of an API server lacks.
func (b *builder) missingNames(h spec.Host) []string {
	have := b.Facts(h.Name).Kubernetes.ServingNames
	return slices.DeleteFunc(b.c.Endpoint().Names(), func(name string) bool { return slices.Contains(have, name) })
}

// widenCertificate gives an API server a certificate for the new endpoint as well. Nothing restarts: an API server reads its
// certificate again when the file changes.
func (b *builder) widenCertificate(h spec.Host) {
	missing := b.missingNames(h)
	if len(missing) == 0 {
		return
	}
	s := b.add(Step{Kind: WidenCertificate, Host: h.Name, Title: "add the new endpoint to the API server's certificate", Endpoint: &EndpointChange{To: b.c.Endpoint(), Names: missing},
		Reason: "it is not valid for " + cluster.List(missing) + "; the API server reads it again without a restart"})
	b.beginWith(s) // one at a time: a certificate that does not work stays the only one
}

// storeNames has control planes that are restored get certificates for both endpoints.
func (b *builder) storeNames(after ...*Step) *Step {
	k := b.Seen.API.Kubeadm
	names := b.c.Endpoint().Names()
	if k == nil || !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(k.ServingNames, name) }) {
		return nil
	}
	return b.add(Step{Kind: StoreEndpoint, Detail: "names", Title: "add the new endpoint to kubeadm's configuration", Endpoint: &EndpointChange{Names: names},
		Reason: "certificates that are made from now on are for " + cluster.List(names) + " as well"}, after...)
}

// both is the spec while load balancers serve all endpoints. It has the endpoint that the cluster recorded, for which every API
// server certainly has a certificate.
func (b *builder) both() *spec.Cluster {
	return b.Present().AlsoServing(append([]spec.Endpoint{b.c.Endpoint()}, b.FormerEndpoints()...)...)
}

// serveBoth lets a load balancer serve all endpoints.
func (b *builder) serveBoth(h spec.Host, after ...*Step) {
	f := b.Facts(h.Name)
	d := hostconfig.Balancer(b.both(), h, f, b.CA(), b.balancersAmong(b.Removed())...)
	missing := hostconfig.Missing(d, f)
	if len(missing) == 0 {
		return
	}
	restarts, _ := hostconfig.Restarts(d, f)
	s := Step{Kind: Configure, Host: h.Name, Detail: "both-endpoints", Title: "serve both endpoints", Desired: &d,
		Reason: reasons(missing) + loads(restarts, hostconfig.Reloads(d, f)), Change: change(cluster.Reload, cluster.LoadBalancer, h.Name)}
	if len(restarts) > 0 {
		s.Change.Verb = cluster.Restart
	}
	b.at[h.Name].both = b.addInTurn(s, after...)
}

// storeEndpoint has hosts that join, and clients that discover the cluster, use the new endpoint.
func (b *builder) storeEndpoint() *Step {
	to, api := b.c.Endpoint(), b.Seen.API
	info := api.Servers["cluster-info"]
	if (api.Kubeadm == nil || api.Kubeadm.Endpoint == to.HostPort()) && (info == "" || info == to.Server()) {
		return nil
	}
	return b.add(Step{Kind: StoreEndpoint, Detail: "endpoint", Title: "store the new endpoint in the cluster", Endpoint: &EndpointChange{To: to, From: b.FormerEndpoints()},
		Reason: "the ConfigMaps kubeadm-config and cluster-info name another one"})
}

// endpointHosts is the part of /etc/hosts that Quorate writes while clients move: new connections go to the new endpoint.
func (b *builder) endpointHosts() facts.Desired {
	return hostconfig.Hosts(b.c.AlsoServing(b.FormerEndpoints()...))
}

// usesEndpoint says that the host's kubelet reaches the API through an endpoint: that of a control plane uses its local API server.
func (b *builder) usesEndpoint(h spec.Host) bool {
	server := b.Facts(h.Name).Kubernetes.Servers["kubelet.conf"]
	return slices.ContainsFunc(append(b.FormerEndpoints(), b.c.Endpoint()), func(e spec.Endpoint) bool { return e.Server() == server })
}

// staleConfs are the kubeconfigs of a host that name an endpoint of which clients move away.
func (b *builder) staleConfs(h spec.Host) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(b.Facts(h.Name).Kubernetes.Servers)) {
		server := b.Facts(h.Name).Kubernetes.Servers[name]
		if server != b.c.Endpoint().Server() && slices.ContainsFunc(b.FormerEndpoints(), func(e spec.Endpoint) bool { return e.Server() == server }) {
			out = append(out, name)
		}
	}
	return out
}

func (b *builder) clientsStale(h spec.Host) bool {
	f := b.Facts(h.Name)
	return len(b.staleConfs(h)) > 0 || len(hostconfig.Missing(b.endpointHosts(), f)) > 0 || f.Kubernetes.KubeletDue && b.usesEndpoint(h)
}

// moveClients has a host use the new endpoint.
func (b *builder) moveClients(h spec.Host, after ...*Step) *Step {
	if !b.clientsStale(h) {
		return nil
	}
	d := b.endpointHosts()
	var why []string
	if confs := b.staleConfs(h); len(confs) > 0 {
		why = append(why, cluster.List(confs)+" must name the new endpoint")
	}
	why = append(why, hostconfig.Missing(d, b.Facts(h.Name))...)
	s := Step{Kind: MoveClients, Host: h.Name, Title: "move to the new endpoint", Desired: &d, Endpoint: &EndpointChange{To: b.c.Endpoint(), From: b.FormerEndpoints()}}
	if len(why) == 0 {
		why = append(why, "the kubelet did not restart since its endpoint was changed")
	}
	if s.Reason = reasons(why) + "; nothing restarts"; b.usesEndpoint(h) {
		s.Restart, s.Change = []string{"kubelet.service"}, change(cluster.Restart, cluster.Node, h.Name)
		s.Reason = reasons(why) + "; the kubelet restarts, and containers go on"
	}
	return b.add(s, append(after, b.ofKind(TryEndpoint, StoreEndpoint)...)...)
}

// moveAgents restarts the pods on all nodes that use the endpoint: kube-proxy, whose kubeconfig is in the cluster, and flannel, unless
// it restarts because its manifest names the endpoint. Both read the addresses of names only when they start.
func (b *builder) moveAgents(after ...*Step) {
	to, api := b.c.Endpoint(), b.Seen.API
	var pods []string
	for _, agent := range agents {
		i := slices.IndexFunc(api.DaemonSets, func(d facts.DaemonSet) bool { return d.Namespace+"/"+d.Name == agent.daemonSet })
		restarted := slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Kind == ApplyManifest && s.Manifest == agent.component })
		if i >= 0 && api.DaemonSets[i].Endpoint != to.String() && !restarted {
			pods = append(pods, agent.daemonSet)
		}
	}
	proxy := api.Servers[facts.KubeProxy]
	if len(pods) == 0 && (proxy == "" || proxy == to.Server()) {
		return
	}
	b.addInTurn(Step{Kind: MoveAgents, Title: "move kube-proxy and the pod network to the new endpoint", Pods: pods, Endpoint: &EndpointChange{To: to, From: b.FormerEndpoints()},
		Reason: "they use the endpoint; their pods are replaced one after another", Change: change(cluster.Restart, cluster.PodNetwork, "")}, after...)
}

// recordEndpoint stores the new endpoint in the cluster, with everything else as it was recorded.
func (b *builder) recordEndpoint(after ...*Step) *Step {
	record, err := b.Record()
	if err != nil || record == nil || record.Cluster().Endpoint() == b.c.Endpoint() {
		return nil
	}
	return b.add(recordStep(record.Cluster().WithEndpoint(b.c.Endpoint()), "endpoint", "record the new endpoint in the cluster",
		"everything in the cluster uses it: from now on, so does Quorate, and the old one can end"), after...)
}

// keepEndpoints keeps the endpoints that there are, as long as nobody can read which ones clients use. A load balancer says what it
// serves. Without one, or with one that an older version of Quorate configured, hosts keep what their /etc/hosts says.
func (b *builder) keepEndpoints() {
	b.keepsEndpoint = true
	for _, h := range b.c.BalancerHosts() {
		seen := b.Seen.Hosts[h.Name].Balancer
		if seen == nil || len(seen.Endpoints) == 0 {
			continue
		}
		var served []spec.Endpoint
		for _, text := range seen.Endpoints {
			if e, err := hostconfig.ParseServed(text); err == nil {
				served = append(served, e)
			}
		}
		if len(served) > 0 {
			b.keepsEndpoint = false
			if len(served) > 1 || served[0] != b.c.Endpoint() {
				b.c = b.c.WithEndpoint(served[0]).AlsoServing(served[1:]...)
			}
			return
		}
	}
}

// usesAnother says that a kubeconfig on a host that can be queried names neither the spec's endpoint nor the API server of a control
// plane: clients use another endpoint.
func (b *builder) usesAnother() bool {
	local := []string{b.c.Endpoint().Server()}
	for _, h := range b.Present().HostsWith(spec.RoleControlPlane) {
		local = append(local, "https://"+net.JoinHostPort(h.Address, hostconfig.APIPort))
	}
	return b.any(func(k facts.Kubernetes) bool {
		return slices.ContainsFunc(slices.Collect(maps.Values(k.Servers)), func(server string) bool { return server != "" && !slices.Contains(local, server) })
	})
}

// keepsServing says that a load balancer may serve another endpoint than the spec's, and must go on with it.
func (b *builder) keepsServing(h spec.Host) bool {
	return b.keepsEndpoint && b.balances(h) && b.usesAnother()
}
