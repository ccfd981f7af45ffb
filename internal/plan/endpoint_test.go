package plan

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// reachable completes a finished cluster with everything that names its endpoint.
func reachable(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := finished(t, c)
	at := c.Endpoint()
	obs.API.Kubeadm.ServingNames = sorted(at.Names())
	obs.API.Servers = map[string]string{"cluster-info": at.Server(), facts.KubeProxy: at.Server()}
	for _, agent := range agents {
		namespace, name, _ := strings.Cut(agent.daemonSet, "/")
		obs.API.DaemonSets = append(obs.API.DaemonSets, facts.DaemonSet{Namespace: namespace, Name: name, Desired: 5, Current: 5, Ready: 5, Updated: 5})
	}
	for _, h := range c.Spec.Hosts {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		switch {
		case h.Has(spec.RoleControlPlane):
			k.ServingNames = append([]string{h.Name, h.Address}, at.Names()...)
			local := "https://" + h.Address + ":6443"
			k.Servers = map[string]string{"admin.conf": at.Server(), "controller-manager.conf": local, "scheduler.conf": local, "kubelet.conf": local}
		case h.IsNode():
			k.Servers = map[string]string{"kubelet.conf": at.Server()}
		}
	}
	return obs
}

// served are the endpoints of a load balancer's desired configuration.
func served(d *facts.Desired) []string {
	for _, f := range d.Files {
		if f.Path == hostconfig.HAProxyFile {
			return hostconfig.Served(f.Content)
		}
	}
	return nil
}

// applyStep changes an observation as a step of a plan changes the cluster.
func applyStep(t *testing.T, c *spec.Cluster, obs *facts.Observation, s Step) {
	t.Helper()
	moved := func(server string) string {
		for _, from := range s.Endpoint.From {
			if server == from.Server() {
				return s.Endpoint.To.Server()
			}
		}
		return server
	}
	seen := obs.Hosts[s.Host]
	if s.Desired != nil {
		for _, f := range s.Desired.Files {
			seen.Facts.Files[f.Key()] = f.Sum()
		}
		if names := served(s.Desired); names != nil {
			seen.Balancer.Endpoints = names
		}
	}
	switch s.Kind {
	case RememberEndpoints:
		obs.API.Endpoints = s.Record
	case RecordSpec:
		obs.API.Record = s.Record
	case RecordVerified:
		obs.API.Verified = s.Record
	case WidenCertificate:
		seen.Facts.Kubernetes.ServingNames = append(seen.Facts.Kubernetes.ServingNames, s.Endpoint.Names...)
	case StoreEndpoint:
		k := obs.API.Kubeadm
		k.ServingNames = append(slices.DeleteFunc(k.ServingNames, func(n string) bool { return slices.Contains(s.Endpoint.FormerNames, n) }), s.Endpoint.Names...)
		k.ServingNames = sorted(k.ServingNames)
		if s.Endpoint.To.Name != "" {
			k.Endpoint, obs.API.Servers["cluster-info"] = s.Endpoint.To.HostPort(), moved(obs.API.Servers["cluster-info"])
		}
	case MoveClients:
		for conf, server := range seen.Facts.Kubernetes.Servers {
			seen.Facts.Kubernetes.Servers[conf] = moved(server)
		}
	case PublishEndpoint:
		publishIn(obs, s)
	case MoveAgents:
		obs.API.Servers[facts.KubeProxy] = moved(obs.API.Servers[facts.KubeProxy])
		for i := range obs.API.DaemonSets {
			obs.API.DaemonSets[i].Endpoint = s.Endpoint.To.String()
		}
	}
	obs.Hosts[s.Host] = seen
	if s.Host == "" {
		delete(obs.Hosts, "")
	}
	alwaysServed(t, c, obs)
}

// alwaysServed is the property of every change of an endpoint: whatever a client has been told is served by all load balancers, and
// every API server has a certificate for it.
func alwaysServed(t *testing.T, c *spec.Cluster, obs *facts.Observation) {
	t.Helper()
	record, err := spec.ParseRecord([]byte(obs.API.Record))
	if err != nil {
		t.Fatal(err)
	}
	used := []string{record.Cluster().Endpoint().Server(), obs.API.Servers["cluster-info"], obs.API.Servers[facts.KubeProxy], "https://" + obs.API.Kubeadm.Endpoint}
	for _, h := range c.Spec.Hosts {
		for _, server := range obs.Hosts[h.Name].Facts.Kubernetes.Servers {
			used = append(used, server)
		}
	}
	for _, at := range obs.API.Service.Slices[facts.OwnSlice] {
		for _, h := range c.BalancerHosts() {
			if !slices.ContainsFunc(obs.Hosts[h.Name].Balancer.Endpoints, func(text string) bool {
				e, err := hostconfig.ParseServed(text)
				return err == nil && net.JoinHostPort(e.Address, e.Port) == at
			}) {
				t.Fatalf("pods use %s, and %s serves %v", at, h.Name, obs.Hosts[h.Name].Balancer.Endpoints)
			}
		}
	}
	for _, server := range used {
		at := strings.TrimPrefix(server, "https://")
		name, _, _ := strings.Cut(at, ":")
		for _, h := range c.Spec.Hosts {
			names := obs.Hosts[h.Name].Facts.Kubernetes.ServingNames
			if h.Has(spec.RoleControlPlane) && !slices.Contains(names, name) {
				t.Fatalf("a client uses %s, and the certificate of %s is for %v", at, h.Name, names)
			}
			if b := obs.Hosts[h.Name].Balancer; b != nil && !strings.HasSuffix(name, h.Address) && !local(c, name) &&
				!slices.ContainsFunc(b.Endpoints, func(e string) bool { return strings.HasPrefix(e, at+"@") }) {
				t.Fatalf("a client uses %s, and %s serves %v", at, h.Name, b.Endpoints)
			}
		}
	}
}

// local says that the name is the address of a host.
func local(c *spec.Cluster, name string) bool {
	return slices.ContainsFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Address == name })
}

var endpointEdits = map[string]func(*spec.Cluster){
	"port":    func(c *spec.Cluster) { c.Spec.ControlPlane.Endpoint = "api.test.internal:443" },
	"name":    func(c *spec.Cluster) { c.Spec.ControlPlane.Endpoint = "kube.test.internal:6443" },
	"address": func(c *spec.Cluster) { c.Spec.LoadBalancer.Address = "10.0.0.101" },
	"all": func(c *spec.Cluster) {
		c.Spec.ControlPlane.Endpoint, c.Spec.LoadBalancer.Address = "kube.test.internal:443", "10.0.0.101"
	},
	"network": func(c *spec.Cluster) { c.Spec.LoadBalancer.Address = "192.0.2.100"; front(c) },
}

// front gives the load balancers addresses in a second network.
func front(c *spec.Cluster) {
	for i, h := range c.Spec.Hosts {
		if c.Balances(h) {
			c.Spec.Hosts[i].FrontAddress = frontOf(h)
		}
	}
}

func frontOf(h spec.Host) string { return strings.Replace(h.Address, "10.0.0.", "192.0.2.", 1) }

// started is a cluster before a change of its endpoint.
func started(t *testing.T) *facts.Observation {
	c := testCluster()
	obs := reachable(t, c)
	obs.API.Service = &facts.APIService{Slices: map[string][]string{facts.OwnSlice: {"10.0.0.100:6443"}}, Endpoints: []string{"10.0.0.100:6443"}}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.Arguments = map[string]map[string]string{facts.APIServer: noneLists(c)}
	}
	for _, h := range c.BalancerHosts() {
		f := obs.Hosts[h.Name].Facts
		f.Addresses = append(f.Addresses, facts.Address{IP: frontOf(h), Prefix: 24, Interface: "eth1"})
		d := hostconfig.Balancer(c, h, obs.Hosts[h.Name].Facts, "CA")
		obs.Hosts[h.Name].Balancer.Endpoints = served(&d)
	}
	// Every API server has a certificate for its own address.
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		for _, o := range c.HostsWith(spec.RoleControlPlane) {
			k.ServingNames = append(k.ServingNames, o.Address)
		}
	}
	return obs
}

// makeSteps makes the first steps of the plan for a spec: all of them for a negative number.
func makeSteps(t *testing.T, c *spec.Cluster, obs *facts.Observation, steps int) (left int) {
	t.Helper()
	p := build(t, c, obs)
	for i, s := range p.Steps {
		if i == steps {
			return len(p.Steps) - i
		}
		applyStep(t, c, obs, s)
	}
	return 0
}

// TestEndpointChange ends every change with nothing left to do, and with nothing that refers to the former endpoint, wherever a run
// is interrupted.
func TestEndpointChange(t *testing.T) {
	for name, edit := range endpointEdits {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			edit(c)
			stride := 3 // the changes of one part are parts of the change of all
			if name == "all" {
				stride = 1
			}
			for killed := 0; ; killed += stride {
				obs := started(t)
				left := makeSteps(t, c, obs, killed)
				makeSteps(t, c, obs, -1)
				ended(t, c, obs)
				if left == 0 {
					break
				}
			}
		})
	}
}

func ended(t *testing.T, c *spec.Cluster, obs *facts.Observation) {
	t.Helper()
	if p := build(t, c, obs); !p.Empty() {
		t.Fatalf("something is left to do: %v", kindsOf(p))
	}
	if at := net.JoinHostPort(c.Endpoint().Address, c.Endpoint().Port); !obs.API.Service.Only(at) {
		t.Errorf("pods use %+v instead of %s", *obs.API.Service, at)
	}
	want := c.Endpoint().HostPort() + "@" + c.Endpoint().Address
	for _, h := range c.BalancerHosts() {
		if got := obs.Hosts[h.Name].Balancer.Endpoints; !slices.Equal(got, []string{want}) {
			t.Errorf("%s serves %v", h.Name, got)
		}
	}
	for _, d := range obs.API.DaemonSets { // its pods have the addresses that names had when they started
		if d.Endpoint != "" && d.Endpoint != c.Endpoint().String() {
			t.Errorf("the pods of %s were restarted for %s", d.Name, d.Endpoint)
		}
	}
	if obs.API.Endpoints != "" || !slices.Equal(obs.API.Kubeadm.ServingNames, sorted(c.Endpoint().Names())) {
		t.Errorf("the cluster remembers %s, certificates are for %v", obs.API.Endpoints, obs.API.Kubeadm.ServingNames)
	}
}

// TestEndpointEditedWhileItChanges takes a change back, or edits it again, wherever it is.
func TestEndpointEditedWhileItChanges(t *testing.T) {
	other := func(c *spec.Cluster) { c.Spec.ControlPlane.Endpoint = "third.test.internal:8443" }
	for name, edits := range map[string][]func(*spec.Cluster){
		"all, and back":      {endpointEdits["all"]},
		"all, and another":   {endpointEdits["all"], other},
		"address, and back":  {endpointEdits["address"]},
		"network, and back":  {endpointEdits["network"]},
		"port, and back":     {endpointEdits["port"]},
		"both, and back":     {endpointEdits["address"], endpointEdits["port"]},
		"address, then port": {endpointEdits["address"], endpointEdits["port"]},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := testCluster(), testCluster()
			edits[0](first)
			switch {
			case !strings.HasSuffix(name, "back"):
				edits[1](second)
			case len(edits) > 1:
				edits[1](first)
			case name == "network, and back": // the addresses of hosts stay
				front(second)
			}
			for killed := 0; ; killed++ {
				obs := started(t)
				left := makeSteps(t, first, obs, killed)
				makeSteps(t, second, obs, -1)
				ended(t, second, obs)
				if left == 0 {
					break
				}
			}
		})
	}
}

// TestFrontAddressesAreNotTakenBack while a virtual IP in their network is served: the load balancers would move it to another interface one after another.
func TestFrontAddressesAreNotTakenBack(t *testing.T) {
	edited, before := testCluster(), testCluster()
	endpointEdits["network"](edited)
	for killed := 0; ; killed++ {
		obs := started(t)
		left := makeSteps(t, edited, obs, killed)
		p, err := Build(cluster.Evaluate(before, obs), testBundle)
		var r *cluster.Refusal
		switch serves := obs.API.Endpoints != "" || recorded(t, obs).Endpoint().Address == "192.0.2.100"; {
		case serves && !errors.As(err, &r):
			t.Fatalf("after %d steps: planned %v, error %v", killed, p, err)
		case !serves && err != nil:
			t.Fatalf("after %d steps: %v", killed, err)
		}
		if left == 0 {
			break
		}
	}
}

func recorded(t *testing.T, obs *facts.Observation) *spec.Cluster {
	t.Helper()
	r, err := spec.ParseRecord([]byte(obs.API.Record))
	if err != nil {
		t.Fatal(err)
	}
	return r.Cluster()
}

// TestLoadBalancersHearEachOther while the virtual IP moves to another network: those that have an address have it on the same interface, and are
// peers of each other there.
func TestLoadBalancersHearEachOther(t *testing.T) {
	c := testCluster()
	endpointEdits["network"](c)
	obs := started(t)
	configs := map[string]string{}
	keep := func(host string, d *facts.Desired) {
		for _, f := range d.Files {
			if f.Path == hostconfig.KeepalivedFile {
				configs[host] = f.Content
			}
		}
	}
	for _, h := range testCluster().BalancerHosts() {
		d := hostconfig.Balancer(testCluster(), h, obs.Hosts[h.Name].Facts, "CA")
		keep(h.Name, &d)
	}
	moved := 0
	for _, s := range build(t, c, obs).Steps {
		applyStep(t, c, obs, s)
		if s.Desired == nil || s.Host == "" {
			continue
		}
		keep(s.Host, s.Desired)
		for _, vip := range []string{"10.0.0.100", "192.0.2.100"} {
			var sources, links []string
			var instances []string
			for _, h := range c.BalancerHosts() {
				_, rest, has := strings.Cut(configs[h.Name], "vrrp_instance api-"+vip+" {")
				if !has {
					continue
				}
				instance, _, _ := strings.Cut(rest, "\n}\n")
				instances = append(instances, instance)
				sources, links = append(sources, wordAfter(instance, "unicast_src_ip")), append(links, wordAfter(instance, "interface"))
			}
			for i, instance := range instances {
				for j, source := range sources {
					if i != j && !strings.Contains(instance, "        "+source+" min_ttl") {
						t.Fatalf("after %s: %s of %s does not hear %s:\n%s", s.ID, vip, sources[i], source, instance)
					}
				}
				want := "eth0"
				if vip == "192.0.2.100" {
					want, moved = "eth1", moved+1
				}
				if links[i] != want {
					t.Fatalf("after %s: %s is on %s", s.ID, vip, links[i])
				}
			}
		}
	}
	if moved == 0 {
		t.Error("nothing moved")
	}
}

// wordAfter is the word after another one.
func wordAfter(text, word string) string {
	f := strings.Fields(text)
	if i := slices.Index(f, word); i >= 0 && i+1 < len(f) {
		return f[i+1]
	}
	return ""
}

// TestAHostDiesWhileTheEndpointChanges: it can be removed, before anything else, and the change goes on without it.
func TestAHostDiesWhileTheEndpointChanges(t *testing.T) {
	c := testCluster()
	endpointEdits["all"](c)
	for killed := 0; ; killed++ {
		obs := started(t)
		left := makeSteps(t, c, obs, killed)
		dies(obs, "worker-b")
		smaller := testCluster()
		endpointEdits["all"](smaller)
		without(smaller, "worker-b")
		p := build(t, smaller, obs)
		gone := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == DeleteNode })
		moves := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == TryEndpoint || s.Kind == MoveClients })
		if gone < 0 || moves >= 0 && moves < gone {
			t.Fatalf("after %d steps: %v", killed, outline(p))
		}
		if left == 0 {
			break
		}
	}
}

// TestAPIServersThatDoNotShareTheirPort: HAProxy could not listen next to them.
func TestAPIServersThatDoNotShareTheirPort(t *testing.T) {
	c := testCluster()
	c.Spec.ControlPlane.Endpoint = "api.test.internal:8443"
	for i, h := range c.Spec.Hosts {
		if h.Has(spec.RoleControlPlane) {
			c.Spec.Hosts[i].Roles = append(slices.Clone(h.Roles), spec.RoleLoadBalancer)
		}
	}
	obs := reachable(t, c)
	c.Spec.ControlPlane.Endpoint = "api.test.internal:6443"
	unshared(obs, "cp-a", "cp-b", "cp-c")
	p, err := Build(cluster.Evaluate(c, obs), testBundle)
	if r, ok := err.(*cluster.Refusal); !ok || r.Rule != RuleEndpoint || !strings.Contains(r.Fix, "permit-port-sharing") {
		t.Errorf("plan %v, error %v", p, err)
	}
}

// TestEndpointOrder has certificates first, then both endpoints, then clients, and the end of the old one last.
func TestEndpointOrder(t *testing.T) {
	c := testCluster()
	endpointEdits["all"](c)
	p := build(t, c, started(t))
	at := func(kind Kind, detail string) (first, last int) {
		first = -1
		for i, s := range p.Steps {
			if s.Kind == kind && (detail == "" || s.Detail == detail) {
				if last = i; first < 0 {
					first = i
				}
			}
		}
		if first < 0 {
			t.Fatalf("no step %s %s in %v", kind, detail, kindsOf(p))
		}
		return first, last
	}
	order := []struct {
		kind   Kind
		detail string
	}{{CheckAddress, ""}, {RememberEndpoints, ""}, {WidenCertificate, ""}, {Configure, "both-endpoints"}, {TryEndpoint, ""}, {StoreEndpoint, "endpoint"}, {MoveClients, ""}, {MoveAgents, ""}, {PublishEndpoint, ""}, {RecordSpec, "endpoint"}, {Configure, "load-balancer"}}
	for i := range order[1:] {
		_, before := at(order[i].kind, order[i].detail)
		after, _ := at(order[i+1].kind, order[i+1].detail)
		if order[i].kind == RememberEndpoints {
			before, _ = at(RememberEndpoints, "")
		}
		if before > after {
			t.Errorf("%s comes after %s", order[i].kind, order[i+1].kind)
		}
	}
	for _, s := range p.Steps {
		worker := strings.HasPrefix(s.Host, "worker")
		if s.Kind == MoveClients && (s.Change != nil) != worker {
			t.Errorf("%s: the kubelet of a control plane uses its local API server, and only the others restart", s.ID)
		}
	}
	_, drop := at(Configure, "load-balancer")
	if step := p.Steps[drop]; step.Host != "lb-a" {
		t.Errorf("the holder of the virtual IP is not the last one: %s", step.Host)
	}
}

// TestEndpointRefusals refuses what would leave a client behind or take an address away.
func TestEndpointRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		edit   func(*spec.Cluster)
		break_ func(*facts.Observation)
		want   string
	}{
		"another network": {func(c *spec.Cluster) { c.Spec.LoadBalancer.Address = "10.9.0.1" }, nil, "not in the network"},
		"a host's address": {func(c *spec.Cluster) { c.Spec.LoadBalancer.Address = "10.0.0.101" }, func(o *facts.Observation) {
			f := o.Hosts["worker-a"].Facts
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.0.0.101"})
		}, "worker-a has the address"},
		"a network that has the virtual IP already": {func(c *spec.Cluster) {
			for i, h := range c.Spec.Hosts {
				if address := map[string]string{"lb-a": "10.0.0.98", "lb-b": "10.0.0.99"}[h.Name]; address != "" {
					c.Spec.Hosts[i].FrontAddress = address
				}
			}
		}, func(o *facts.Observation) {
			o.Hosts["lb-a"].Facts.Addresses[1] = facts.Address{IP: "10.0.0.98", Prefix: 27, Interface: "eth1"}
			o.Hosts["lb-b"].Facts.Addresses[1] = facts.Address{IP: "10.0.0.99", Prefix: 27, Interface: "eth1"}
		}, "is also in the network of the frontAddress 10.0.0.98 of lb-a"},
		"no front addresses": {func(c *spec.Cluster) { c.Spec.LoadBalancer.Address = "192.0.2.100" }, nil, "not in the network of the load balancer lb-a (10.0.0."},
		"a front address that is not there": {endpointEdits["network"], func(o *facts.Observation) {
			o.Hosts["lb-b"].Facts.Addresses[1].IP = "198.51.100.7"
		}, "not in the network of the load balancer lb-b (192.0.2."},
		"a host that is down":          {endpointEdits["port"], func(o *facts.Observation) { o.Hosts["worker-b"] = facts.Host{Error: "no route"} }, "worker-b cannot be changed"},
		"a key that is kept elsewhere": {endpointEdits["name"], func(o *facts.Observation) { o.Hosts["cp-b"].Facts.Kubernetes.MissingPKI = []string{"ca.key"} }, "key of the cluster's CA"},
		"a controller manager": {endpointEdits["port"], func(o *facts.Observation) {
			o.Hosts["cp-b"].Facts.Kubernetes.Servers["controller-manager.conf"] = "https://api.test.internal:6443"
		}, "controller-manager.conf"},
		"a host that joins": {func(c *spec.Cluster) {
			endpointEdits["port"](c)
			c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "worker-z", Address: "10.0.0.80", Zone: "a", Roles: []string{spec.RoleWorker}})
		}, func(o *facts.Observation) {
			o.Hosts["worker-z"] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
		}, "worker-z is to join"},
		"a host that leaves": {func(c *spec.Cluster) {
			endpointEdits["port"](c)
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-b" })
		}, nil, "worker-b is to leave"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			tc.edit(c)
			obs := started(t)
			if tc.break_ != nil {
				tc.break_(obs)
			}
			if r := refusalOf(t, c, obs); !strings.Contains(r.Why, tc.want) {
				t.Errorf("refused by %s: %s", r.Rule, r.Why)
			}
		})
	}
}

// TestEndpointsAreKeptWithoutTheAPI: nobody can read which endpoints clients use, so load balancers and hosts keep those that are
// served.
func TestEndpointsAreKeptWithoutTheAPI(t *testing.T) {
	c := testCluster()
	endpointEdits["all"](c)
	obs := started(t)
	obs.API, obs.APIError = nil, "down"
	s := cluster.Evaluate(c, obs)
	b := &builder{State: s, c: c, bundle: testBundle}
	b.keepEndpoints()
	if got := b.c.Endpoint(); got != testCluster().Endpoint() {
		t.Errorf("%v", got)
	}
}

// TestHostsKeepTheirEndpointWithoutTheAPI: with an external load balancer, or one that an older version of Quorate configured, nothing
// says which endpoint clients use but the hosts themselves.
func TestHostsKeepTheirEndpointWithoutTheAPI(t *testing.T) {
	for name, prepare := range map[string]func(*spec.Cluster, *facts.Observation){
		"external": func(c *spec.Cluster, obs *facts.Observation) {
			c.Spec.LoadBalancer.Type = spec.BalancerExternal
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
		},
		"an older HAProxy": func(c *spec.Cluster, obs *facts.Observation) {
			for _, h := range c.BalancerHosts() {
				obs.Hosts[h.Name].Balancer.Endpoints = nil
			}
		},
	} {
		for edit, change := range endpointEdits {
			t.Run(name+", "+edit, func(t *testing.T) {
				c := testCluster()
				obs := reachable(t, c)
				prepare(c, obs)
				change(c)
				obs.API, obs.APIError = nil, "down"
				obs.Hosts["cp-b"].Facts.Units["kubelet.service"] = "inactive"
				p := build(t, c, obs)
				for _, s := range p.Steps {
					if s.Desired == nil {
						continue
					}
					if s.Detail == "load-balancer" && edit != "address" && edit != "network" {
						t.Errorf("%s serves %v", s.ID, served(s.Desired))
					}
					for _, f := range s.Desired.Files {
						if f.Path == "/etc/hosts" {
							t.Errorf("%s writes %s", s.ID, f.Content)
						}
					}
				}
				if len(p.Steps) == 0 {
					t.Error("the kubelet is not started")
				}
			})
		}
	}
}
