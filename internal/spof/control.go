package spof

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/faulttree"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// control makes the trees of what the control plane and the nodes do.
func (m *model) control() {
	network := m.leaf(Element{Network, ""})
	pods := m.leaf(Element{PodNetwork, ""})

	memberHosts, members := m.partsOf(quorum.Members)
	majority := m.tooMany(quorum.Members, fmt.Sprintf("etcd has no majority: %d of %d members fail", len(members)-quorum.Members.Need(len(members))+1, len(members)), members)

	// An API server whose own etcd member fails leaves the pool: it uses no other one.
	servers := map[string]faulttree.ID{}
	serverHosts, apiServers := m.partsOf(quorum.APIServers)
	for i, host := range serverHosts {
		if at := slices.Index(memberHosts, host); at >= 0 && m.c.StackedEtcd() {
			servers[host] = m.any("the API server on "+host+" cannot serve", apiServers[i], members[at])
		} else {
			servers[host] = apiServers[i]
		}
	}
	endpoint := m.endpoint(serverHosts, servers)
	api := m.any("no API server answers at the endpoint", majority, endpoint, network)

	controllers := m.controllers(quorum.ControllerManagers, "controller-manager.conf", "no controller manager works", servers, endpoint)
	schedulers := m.controllers(quorum.Schedulers, "scheduler.conf", "no scheduler works", servers, endpoint)
	places := m.places(servers, endpoint)
	scheduling := m.any("no pod is scheduled", majority, schedulers, places, network)
	newPods := []faulttree.ID{majority, schedulers, controllers, places, network, pods}
	writes := []faulttree.ID{api}
	if m.w != nil {
		everything, podsOnly := m.webhooks()
		writes = append(writes, everything...)
		newPods = append(append(newPods, everything...), podsOnly...)
	}

	m.capable(APIReads, m.any("the API cannot be read", api))
	m.capable(APIWrites, m.any("nothing can be changed through the API", writes...))
	m.capable(Scheduling, scheduling)
	m.capable(NewPods, m.any("no new pod starts", newPods...))
	if m.c.Spec.Network.CNI != spec.CNINone || m.s != nil {
		m.capable(ClusterDNS, m.any("pods cannot resolve names", m.dns(), network, pods))
	}
	_, workers := m.partsOf(quorum.Workers)
	m.capable(ServiceTraffic, m.any("no node carries traffic of Services", m.tooMany(quorum.Workers, "every worker fails", workers), network, pods))
}

// endpoint fails when clients reach no API server: every load balancer fails or has no server left, or the one that has the virtual
// IP has no server left. That one works, so no other load balancer takes the address over.
func (m *model) endpoint(hosts []string, servers map[string]faulttree.ID) faulttree.ID {
	at := m.c.Endpoint()
	in := []faulttree.ID{m.leaf(Element{DNSName, at.Name})}
	every := func(title string, names []string) faulttree.ID {
		var all []faulttree.ID
		for _, name := range names {
			all = append(all, servers[name])
		}
		return m.gate(m.tree.And(all...), title, &reason{kind: Kind(quorum.APIServers.Name)})
	}
	if m.c.Spec.LoadBalancer.Type == spec.BalancerExternal {
		in = append(in, m.leaf(Element{YourBalancer, cmp.Or(at.Address, at.Name)}), every("every API server fails", hosts))
		return m.any("clients reach no API server", in...)
	}
	in = append(in, m.leaf(Element{VirtualIP, at.Address}))
	var holders []string
	if m.s != nil {
		holders, _ = m.s.Holders()
	}
	balancerHosts, balancers := m.partsOf(quorum.Balancers)
	pools := map[string]faulttree.ID{} // by the servers in it
	var paths []faulttree.ID
	for i, host := range balancerHosts {
		names := m.pool(host, hosts)
		id, made := pools[strings.Join(names, " ")]
		if !made {
			title := "every API server fails"
			if len(names) < len(hosts) {
				title = "every API server in the pool of " + host + " fails"
			}
			id = every(title, names)
			pools[strings.Join(names, " ")] = id
		}
		if slices.Contains(holders, host) {
			in = append(in, id)
		}
		paths = append(paths, m.any("clients get no answer through "+host, balancers[i], id))
	}
	if len(pools) == 1 && len(balancerHosts) > 0 { // the usual case: a simpler tree says the same
		for _, id := range pools {
			in = append(in, id)
		}
		in = slices.Compact(in)
		paths = balancers
	}
	in = append(in, m.gate(m.tree.And(paths...), "every load balancer fails", &reason{kind: Kind(quorum.Balancers.Name)}))
	return m.any("clients reach no API server", in...)
}

// pool are the API servers to which a load balancer sends clients.
func (m *model) pool(balancer string, hosts []string) []string {
	if m.s == nil {
		return hosts
	}
	b := m.s.Seen.Hosts[balancer].Balancer
	if b == nil || len(b.Backends) == 0 {
		return hosts
	}
	return slices.DeleteFunc(slices.Clone(hosts), func(host string) bool {
		i := slices.IndexFunc(b.Backends, func(x facts.Backend) bool { return x.Name == host })
		what := ""
		switch {
		case i < 0:
			what = "is not in the pool of " + balancer
		case b.Backends[i].Drained:
			what = "is drained on " + balancer
		case !b.Backends[i].Healthy && m.s.APIServer(host).OK:
			what = "is not reached by " + balancer
		default:
			return false
		}
		m.broken = append(m.broken, broken{Kind(quorum.APIServers.Name), "the API server on " + host + ", which " + what})
		return true
	})
}

// controllers fails when none of the programs works. They use the API server of their own host, unless their kubeconfig says that they
// use the endpoint.
func (m *model) controllers(k quorum.Kind, conf, title string, servers map[string]faulttree.ID, endpoint faulttree.ID) faulttree.ID {
	hosts, ids := m.partsOf(k)
	for i, host := range hosts {
		uses, local := servers[host]
		if m.s != nil {
			if f := m.s.Facts(host); f != nil && f.Kubernetes.Servers[conf] != "" {
				if u, err := url.Parse(f.Kubernetes.Servers[conf]); err == nil && u.Hostname() == m.c.Endpoint().Name {
					uses, local = endpoint, true
				}
			}
		}
		if local {
			ids[i] = m.any("the "+k.Name+" on "+host+" cannot work", ids[i], uses)
		}
	}
	return m.tooMany(k, title, ids)
}

// places fails when no node can take pods and start them. The kubelets of workers use the endpoint, those of control planes their own API server. A node
// whose kubelet does not report that it is alive is tainted after some seconds, and the scheduler leaves it out.
func (m *model) places(servers map[string]faulttree.ID, endpoint faulttree.ID) faulttree.ID {
	hosts, ids := m.partsOf(quorum.Workers)
	var workers, own []faulttree.ID
	for i, host := range hosts {
		if server, has := servers[host]; has {
			own = append(own, m.any("no pod starts on "+host, ids[i], server))
		} else {
			workers = append(workers, ids[i])
		}
	}
	why := func() *reason { return &reason{kind: Kind(quorum.Workers.Name)} }
	switch {
	case len(own) == 0:
		return m.any("no pod starts on workers", m.tooMany(quorum.Workers, "every worker fails", workers), endpoint)
	case len(workers) == 0:
		return m.tooMany(quorum.Workers, "no pod starts on any node", own)
	}
	return m.gate(m.tree.And(
		m.any("no pod starts on workers", m.gate(m.tree.And(workers...), "every worker fails", why()), endpoint),
		m.gate(m.tree.And(own...), "no pod starts on control planes", why())), "no pod starts on any node", nil)
}

// dns fails when no replica of CoreDNS works. Where they will be is the scheduler's choice as long as they were not observed: then it is
// only known that they are on different nodes.
func (m *model) dns() faulttree.ID {
	why := &reason{kind: CoreDNS}
	title := "no CoreDNS replica works"
	if m.s != nil && m.w != nil && m.w.Unknown[facts.PodsPart] == "" {
		var in []faulttree.ID
		why.pods = &workload{name: "kube-system/coredns", kind: "Deployment"}
		for _, p := range m.w.Pods {
			if p.DNS && p.Node != "" {
				why.pods.pods = append(why.pods.pods, p)
				in = append(in, m.replica(Element{CoreDNS, p.Name}, p))
			}
		}
		return m.gate(m.tree.And(in...), title, why)
	}
	nodes := m.anyNode()
	replica := func(name string) faulttree.ID {
		return m.any("CoreDNS replica "+name+" fails", m.leaf(Element{CoreDNS, name}), nodes)
	}
	if m.s == nil {
		return m.gate(m.tree.And(replica("1"), replica("2")), title, why)
	}
	if m.s.Seen.API == nil {
		m.unknown["CoreDNS"] = cmp.Or(m.s.Seen.APIError, "the API could not be read")
		if !m.assume {
			return m.gate(m.tree.Or(m.tree.Failed()), title, why)
		}
		return m.gate(m.tree.And(replica("1"), replica("2")), title, why)
	}
	var in []faulttree.ID
	for i := range m.s.Seen.API.DNSNodes {
		in = append(in, replica(fmt.Sprint(i+1)))
	}
	return m.gate(m.tree.And(in...), title, why)
}

// replica is a pod with the node on which it is.
func (m *model) replica(e Element, p facts.Pod) faulttree.ID {
	if !p.Ready {
		id := m.tree.Or(m.tree.Failed())
		m.titles[id], m.parts[id] = e.String()+": not ready", []Element{e}
		m.broken = append(m.broken, broken{e.Kind, e.String() + " (it is not ready)"})
		return id
	}
	m.host(p.Node)
	m.contain(e, Element{Host, p.Node})
	return m.together(e)
}

// anyNode fails when all nodes do.
func (m *model) anyNode() faulttree.ID {
	var in []faulttree.ID
	for _, h := range m.c.Spec.Hosts {
		if h.IsNode() {
			in = append(in, m.host(h.Name))
		}
	}
	return m.gate(m.tree.And(in...), "every node fails", nil)
}

// data makes the tree of losing what is in etcd for good.
func (m *model) data() {
	command := m.leaf(Element{Command, ""})
	var disks []faulttree.ID
	for i := range m.placements {
		switch p := m.placements[i]; p.Member {
		case quorum.Absent, quorum.Learner:
		default:
			disks = append(disks, m.leaf(Element{Disk, p.Host}))
		}
	}
	lost := []faulttree.ID{command}
	if len(disks) > 0 {
		lost = append(lost, m.gate(m.tree.And(disks...), "the disks of all etcd members are lost", nil))
	}
	top := m.tree.And(m.any("the cluster's objects are lost", lost...), m.backup())
	m.capable(ClusterData, m.gate(top, "the cluster's objects cannot be brought back", &reason{kind: BackupStore}))
}

// backup fails when there is none.
func (m *model) backup() faulttree.ID {
	none := func(title string) faulttree.ID { return m.gate(m.tree.Or(m.tree.Failed()), title, nil) }
	b := m.c.Spec.Backup
	if !b.Given() {
		return none("there is no backup")
	}
	store := Element{BackupStore, cmp.Or(b.Directory, b.SFTP.Address, b.S3.Endpoint)}
	if m.s != nil {
		switch seen := m.s.Seen.Backups; {
		case seen == nil || seen.Report == nil && seen.Unknown != "":
			m.unknown["the last backup"] = "it was not asked for"
			if seen != nil {
				m.unknown["the last backup"] = seen.Unknown
			}
			if !m.assume {
				m.broken = append(m.broken, broken{BackupStore, "the last backup (unknown)"})
				return none("whether there is a backup is unknown")
			}
		case seen.Report == nil || seen.Report.Last == nil:
			m.broken = append(m.broken, broken{BackupStore, "backups (there has never been a good one)"})
			return none("there has never been a good backup")
		case seen.Report.FromTheFuture():
			m.broken = append(m.broken, broken{BackupStore, "the last backup (a wrong clock dated it)"})
			return none("a wrong clock dated the last backup")
		}
	}
	for _, h := range m.c.Spec.Hosts {
		if host, _, _ := net.SplitHostPort(b.SFTP.Address); host != "" && (host == h.Address || host == h.Name) {
			m.contain(store, Element{Disk, h.Name})
		}
	}
	return m.together(store)
}

// expiries finds the control planes and etcd hosts whose certificates expire soon and together: within a day. Before that, apply renews
// them, one host after the other. Kubelets renew theirs.
func (m *model) expiries() map[string]string {
	if m.s == nil {
		return nil
	}
	first := map[string]time.Time{}
	for _, c := range m.s.Certificates() { // the first to expire comes first
		manual := strings.HasPrefix(c.Name, "pki/") && !strings.HasSuffix(c.Name, "ca.crt") || c.Name == "controller-manager.conf" || c.Name == "scheduler.conf"
		if _, has := first[c.Host]; manual && !has {
			first[c.Host] = c.Expires
		}
	}
	hosts := slices.SortedFunc(maps.Keys(first), func(a, b string) int { return cmp.Or(first[a].Compare(first[b]), cmp.Compare(a, b)) })
	out := map[string]string{}
	for i := 0; i < len(hosts); {
		n := i
		for n < len(hosts) && first[hosts[n]].Sub(first[hosts[i]]) < 24*time.Hour {
			n++
		}
		if n-i > 1 && first[hosts[i]].Sub(m.s.Seen.Time) < cluster.ExpiresSoon {
			for _, h := range hosts[i:n] {
				out[h] = first[hosts[i]].Format(time.DateOnly)
			}
		}
		i = n
	}
	return out
}

// inherent says why this cluster could not have closed a single point of failure; empty if it could have.
func (m *model) inherent(e Element, capability string) string {
	switch e.Kind {
	case Network:
		return "the hosts have one network. If parts of it fail separately, name them with failsWith"
	case VirtualIP:
		return "it is one address, and it moves between the load balancers"
	case DNSName:
		return "clients know the API by one name. The hosts have it in /etc/hosts; other clients depend on your DNS"
	case YourBalancer:
		return "how many failures your own load balancer survives cannot be observed"
	case WebhookServer:
		return "how many servers it has cannot be observed"
	case PodNetwork:
		return "a cluster has one pod network. Each node has an agent of its own, and goes on without it"
	case Command:
		if capability != ClusterData {
			return "an administrator may do everything. Quorate's own commands refuse what is unsafe"
		}
	case Machine, Region, Zone, Shared, Host:
		if len(m.all) > 0 && len(m.spread[e]) >= len(m.all) {
			if e.Kind == Machine {
				return "all hosts are on this machine"
			}
			return "all hosts are in it, or are it"
		}
	}
	return ""
}
