package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n--- got\n%s--- want\n%s", file, got, want)
	}
}

var now = time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)

// fixture is a whole cluster: three control planes, two workers and two balancers in three zones.
type fixture struct {
	c   *spec.Cluster
	obs *facts.Observation
}

func whole() fixture {
	c := &spec.Cluster{Metadata: spec.Metadata{Name: "lab"}}
	c.Spec.ControlPlane.Endpoint = "api.lab.internal:6443"
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	obs := &facts.Observation{Time: now, Hosts: map[string]facts.Host{}, Endpoint: facts.Endpoint{Reachable: true},
		API: &facts.API{Version: "v1.37.2", Initialised: true, DNSSpread: true, DNSReady: 2, DNSNodes: 2}}
	backends := []facts.Backend{{Name: "cp-a", Healthy: true}, {Name: "cp-b", Healthy: true}, {Name: "cp-c", Healthy: true}}
	for i, name := range []string{"cp-a", "cp-b", "cp-c", "w-a", "w-b", "lb-a", "lb-b"} {
		role, zone, _ := strings.Cut(name, "-")
		h := spec.Host{Name: name, Zone: zone, Address: fmt.Sprintf("10.0.0.%d", 11+i),
			Roles: []string{map[string]string{"cp": spec.RoleControlPlane, "w": spec.RoleWorker, "lb": spec.RoleLoadBalancer}[role]}}
		c.Spec.Hosts = append(c.Spec.Hosts, h)
		seen := facts.Host{Facts: &facts.Facts{Time: now.Add(time.Duration(i) * time.Millisecond)}}
		if h.IsNode() {
			obs.API.Nodes = append(obs.API.Nodes, facts.Node{Name: name, Ready: true, Version: "v1.37.2"})
			seen.Facts.Kubernetes = facts.Kubernetes{CA: "PEM", KubeletConfig: true, Certificates: []facts.Certificate{{Name: "kubelet-client", Expires: now.AddDate(1, 0, 0)}}}
		}
		switch role {
		case "cp":
			seen.APIServer = new(true)
			seen.Facts.Kubernetes.Established = true
			obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: name, Healthy: true, Started: true, Leader: i == 1, DBSizeBytes: 21 << 17})
			seen.Facts.Kubernetes.Certificates = append(seen.Facts.Kubernetes.Certificates, facts.Certificate{Name: "pki/apiserver.crt", Expires: now.AddDate(1, 0, -i)})
		case "lb":
			seen.Balancer = &facts.Balancer{Healthy: true, Active: name == "lb-a", Backends: slices.Clone(backends)}
		}
		obs.Hosts[name] = seen
	}
	c.Default()
	return fixture{c, obs}
}

// dies takes hosts away, with all that the others then see of them.
func (f fixture) dies(names ...string) {
	for _, name := range names {
		f.obs.Hosts[name] = facts.Host{Error: name + ": dial tcp: i/o timeout"}
		for i, n := range f.obs.API.Nodes {
			f.obs.API.Nodes[i].Ready = n.Ready && n.Name != name
		}
		for i, m := range f.obs.Etcd {
			if m.Name == name {
				f.obs.Etcd[i] = facts.EtcdMember{Name: name, Started: true}
			}
		}
		for _, h := range f.obs.Hosts {
			if h.Balancer != nil {
				for i, b := range h.Balancer.Backends {
					h.Balancer.Backends[i].Healthy = b.Healthy && b.Name != name
				}
			}
		}
	}
}

// external moves etcd to hosts of its own.
func (f fixture) external() {
	f.c.Spec.ControlPlane.Topology = spec.TopologyExternal
	f.c.Spec.ControlPlane.Placement = spec.PlacementRegional
	f.c.Spec.Hosts = slices.DeleteFunc(f.c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "cp-c" })
	f.obs.API.Nodes = slices.DeleteFunc(f.obs.API.Nodes, func(n facts.Node) bool { return n.Name == "cp-c" })
	for _, h := range f.obs.Hosts {
		if h.Balancer != nil {
			h.Balancer.Backends = h.Balancer.Backends[:2]
		}
	}
	for i, zone := range []string{"a", "b", "c"} {
		name := "etcd-" + zone
		f.c.Spec.Hosts = append(f.c.Spec.Hosts, spec.Host{Name: name, Zone: zone, Address: fmt.Sprintf("10.0.0.%d", 41+i), Roles: []string{spec.RoleEtcd}})
		f.obs.Hosts[name] = facts.Host{Facts: &facts.Facts{Time: now, Kubernetes: facts.Kubernetes{EtcdData: true, Established: true,
			Certificates: []facts.Certificate{{Name: "pki/etcd/server.crt", Expires: now.AddDate(1, 0, 0)}}}}}
		f.obs.Etcd[i].Name = name
	}
}

// existing has the control planes use an etcd of somebody else's.
func (f fixture) existing() {
	f.c.Spec.ControlPlane.Topology = spec.TopologyExternal
	f.c.Spec.Etcd = spec.Etcd{Endpoints: []string{"https://e1:2379", "https://e2:2379"}, CAFile: "ca", CertFile: "crt", KeyFile: "key"}
	for i := range f.obs.Etcd {
		f.obs.Etcd[i].Name = fmt.Sprintf("their-%d", i+1)
	}
}

func (f fixture) silent() {
	f.obs.API = nil
	f.obs.Endpoint = facts.Endpoint{Error: "context deadline exceeded"}
	for name, h := range f.obs.Hosts {
		if h.APIServer != nil {
			h.APIServer = new(false)
			f.obs.Hosts[name] = h
		}
		if h.Balancer != nil {
			for i := range h.Balancer.Backends {
				h.Balancer.Backends[i].Healthy = false
			}
		}
	}
}

func margins(controlPlanes, etcd, loadBalancers, zones int) quorum.Margins {
	return quorum.Margins{ControlPlanes: controlPlanes, Etcd: etcd, LoadBalancers: &loadBalancers, Zones: zones}
}

func TestStatus(t *testing.T) {
	lost := margins(-1, -1, 1, -1)
	for _, c := range []struct {
		name     string
		change   func(fixture)
		margins  quorum.Margins
		problems []string // severity and the beginning of the summary
	}{
		{"healthy", func(fixture) {}, margins(1, 1, 1, 1), nil},
		{"dead-host", func(f fixture) { f.dies("cp-b") }, margins(0, 0, 1, 0), []string{
			"warning: host cp-b cannot be reached: dial tcp: i/o timeout",
			"warning: no margin: the cluster does not survive the loss of a control plane, or an etcd member, or zone a"}},
		{"dead-zone", func(f fixture) { f.dies("cp-b", "w-b", "lb-b") }, margins(0, 0, 0, 0), []string{
			"warning: zone b cannot be reached (cp-b, w-b, lb-b): dial tcp",
			"warning: no margin"}},
		{"lost-quorum", func(f fixture) {
			f.dies("cp-a", "cp-b")
			f.obs.Etcd[2].Healthy, f.obs.Etcd[2].Leader = false, false
			f.silent()
		}, lost, []string{
			"critical: etcd has lost its quorum: 0 of 3 members are healthy, and 2 are needed",
			"critical: no API server answers",
			"critical: the endpoint api.lab.internal:6443 does not answer: context deadline exceeded",
			"warning: host cp-a", "warning: host cp-b",
			"warning: etcd member cp-c is not healthy", "warning: the API server of cp-c is not ready"}},
		{"no-api", func(f fixture) { f.silent() }, margins(-1, 1, 1, -1), []string{
			"critical: no API server answers", "critical: the endpoint", "warning: the API server of cp-a", "warning: the API server of cp-b", "warning: the API server of cp-c"}},
		{"fresh", func(f fixture) {
			for name, h := range f.obs.Hosts {
				f.obs.Hosts[name] = facts.Host{Facts: &facts.Facts{Time: h.Facts.Time}}
			}
			f.obs.API, f.obs.Etcd, f.obs.Endpoint = nil, nil, facts.Endpoint{Error: "no control plane runs"}
		}, lost0(), []string{"info: there is no cluster on these hosts yet"}},
		{"nothing-reachable", func(f fixture) {
			f.dies("cp-a", "cp-b", "cp-c", "w-a", "w-b", "lb-a", "lb-b")
			f.obs.API, f.obs.Etcd, f.obs.Endpoint = nil, nil, facts.Endpoint{Error: "no control plane runs"}
		}, margins(-1, -1, -1, -1), []string{"critical: no host can be reached, so nothing is known of the cluster; cp-a: dial tcp: i/o timeout"}},
		{"no-balancer", func(f fixture) {
			f.dies("lb-a", "lb-b")
			f.obs.Endpoint = facts.Endpoint{Error: "no route to host"}
		}, margins(1, 1, -1, -1), []string{"critical: no balancer works", "critical: the endpoint", "warning: host lb-a", "warning: host lb-b"}},
		{"node-not-ready", func(f fixture) { f.obs.API.Nodes[3].Ready = false }, margins(1, 1, 1, 1), []string{"warning: node w-a is not ready"}},
		{"node-absent", func(f fixture) { f.obs.API.Nodes = f.obs.API.Nodes[:4] }, margins(1, 1, 1, 1), []string{"warning: node w-b is not in the cluster"}},
		{"stranger", func(f fixture) {
			f.obs.API.Nodes = append(f.obs.API.Nodes, facts.Node{Name: "cp-d", Ready: true, Version: "v1.37.2",
				Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "topology.kubernetes.io/zone": "d"}})
			f.obs.Etcd = append(f.obs.Etcd, facts.EtcdMember{Name: "cp-d", Started: true})
		}, margins(0, 0, 1, 0), []string{"warning: node cp-d is in the cluster, but not in the spec", "warning: etcd member cp-d is not healthy", "warning: no margin"}},
		{"etcd-learner", func(f fixture) { f.obs.Etcd[2].Learner = true }, margins(0, 0, 1, 0), []string{
			"warning: etcd member cp-c is still learning", "warning: no margin"}},
		{"etcd-unstarted", func(f fixture) { f.obs.Etcd[2] = facts.EtcdMember{Name: "cp-c", Learner: true} }, margins(0, 0, 1, 0), []string{
			"warning: etcd member cp-c was added, but has never started", "warning: no margin"}},
		{"etcd-missing", func(f fixture) { f.obs.Etcd = f.obs.Etcd[:2] }, margins(0, 0, 1, 0), []string{
			"warning: etcd has no member on cp-c", "warning: no margin"}},
		{"hung-balancer", func(f fixture) {
			f.obs.Hosts["lb-a"].Balancer.Healthy = false
			f.obs.Hosts["lb-a"].Balancer.Backends = nil
		}, margins(1, 1, 0, 0), []string{
			"warning: HAProxy on lb-a does not answer", "warning: no margin: the cluster does not survive the loss of the last balancer, or zone b"}},
		{"dead-balancer", func(f fixture) { f.dies("lb-a"); f.obs.Hosts["lb-b"].Balancer.Active = true }, margins(1, 1, 0, 0), []string{
			"warning: host lb-a cannot be reached", "warning: no margin"}},
		{"backend-down", func(f fixture) { f.obs.Hosts["lb-b"].Balancer.Backends[1].Healthy = false }, margins(1, 1, 1, 1), []string{
			"warning: balancer lb-b does not reach the API server of cp-b, which is ready"}},
		{"backend-unknown", func(f fixture) { f.obs.Hosts["lb-b"].Balancer.Backends = f.obs.Hosts["lb-b"].Balancer.Backends[:2] }, margins(1, 1, 1, 1), []string{
			"warning: balancer lb-b does not know the control plane cp-c"}},
		{"virtual-ip-nowhere", func(f fixture) {
			f.obs.Hosts["lb-a"].Balancer.Active = false
			f.obs.Endpoint = facts.Endpoint{Error: "no route to host"}
		}, margins(1, 1, 1, 1), []string{"critical: the endpoint api.lab.internal:6443 does not answer: no route to host", "critical: no balancer holds the virtual IP 10.0.0.100"}},
		{"virtual-ip-twice", func(f fixture) { f.obs.Hosts["lb-b"].Balancer.Active = true }, margins(1, 1, 1, 1), []string{
			"critical: lb-a and lb-b hold the virtual IP 10.0.0.100 at once"}},
		{"short-of-disk", func(f fixture) { f.obs.API.Nodes[3].Short = "kubelet has disk pressure" }, margins(1, 1, 1, 1), []string{
			"warning: node w-a takes no new pods, and may lose those that it has: kubelet has disk pressure"}},
		{"dns-one-node", func(f fixture) { f.obs.API.DNSNodes = 1 }, margins(1, 1, 1, 1), []string{"warning: all CoreDNS replicas are on one node"}},
		{"dns-one-replica", func(f fixture) {
			f.obs.API.DNSReady, f.obs.API.DNSNodes, f.obs.API.DNSNotReady = 1, 1, "dns on cp-b: CrashLoopBackOff"
		}, margins(1, 1, 1, 1), []string{
			"warning: only one CoreDNS replica is ready: dns on cp-b: CrashLoopBackOff"}},
		{"dns-none", func(f fixture) { f.obs.API.DNSReady, f.obs.API.DNSNodes = 0, 0 }, margins(1, 1, 1, 1), []string{"critical: no CoreDNS replica"}},
		{"certificates", func(f fixture) {
			k := f.obs.Hosts["cp-b"].Facts.Kubernetes.Certificates
			k[0].Expires, k[1].Expires = now.AddDate(0, 0, 20), now.AddDate(0, 0, 25)
			f.obs.Hosts["cp-c"].Facts.Kubernetes.Certificates[1].Expires = now.Add(26 * time.Hour)
		}, margins(1, 1, 1, 1), []string{"critical: certificate pki/apiserver.crt on cp-c expires in 26 hours",
			"warning: certificate kubelet-client on cp-b expires in 20 days, and 1 more certificate soon after"}},
		{"certificate-expired", func(f fixture) { f.obs.Hosts["w-a"].Facts.Kubernetes.Certificates[0].Expires = now.AddDate(0, 0, -1) }, margins(1, 1, 1, 1),
			[]string{"critical: certificate kubelet-client on w-a expired on 2026-08-02"}},
		{"clock", func(f fixture) { f.obs.Hosts["w-b"].Facts.Time = now.Add(-time.Minute) }, margins(1, 1, 1, 1), []string{"warning: the clock of w-b is 1m00s behind the others"}},
		{"swap", func(f fixture) {
			f.obs.Hosts["w-a"].Facts.SwapBytes = 1
			f.obs.Hosts["w-b"].Facts.SwapBytes = 1
			f.obs.Hosts["lb-a"].Facts.SwapBytes = 1
		}, margins(1, 1, 1, 1), []string{"warning: swap is on: w-a, w-b;"}},
		{"drained", func(f fixture) {
			for _, name := range []string{"lb-a", "lb-b"} {
				b := f.obs.Hosts[name].Balancer.Backends
				b[0].Sessions, b[1].Drained, b[2].Sessions = 3, true, 4
			}
		}, margins(1, 1, 1, 1), []string{"info: cp-b is drained: lb-a and lb-b send it no new clients"}},
		{"balancers-beside-control-planes", func(f fixture) {
			backends := f.obs.Hosts["lb-a"].Balancer.Backends
			f.c.Spec.Hosts = f.c.Spec.Hosts[:5]
			for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
				h := f.obs.Hosts[name]
				h.Balancer = &facts.Balancer{Healthy: true, Active: name == "cp-b", Backends: backends}
				f.obs.Hosts[name] = h
			}
		}, margins(1, 1, 2, 1), nil},
		{"external-balancer", func(f fixture) {
			f.c.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal}
			f.c.Spec.Hosts = f.c.Spec.Hosts[:5]
		}, quorum.Margins{ControlPlanes: 1, Etcd: 1, Zones: 1}, nil},
		{"zonal", func(f fixture) {
			f.c.Spec.ControlPlane.Placement = spec.PlacementZonal
			for i := range f.c.Spec.Hosts {
				f.c.Spec.Hosts[i].Zone = "a"
			}
		}, margins(1, 1, 1, 0), []string{"info: zonal placement: all 3 control planes are in zone a, and while that zone is down so is the API"}},
		{"external-etcd", func(f fixture) { f.external() }, margins(1, 1, 1, 1), nil},
		{"external-etcd-dead-host", func(f fixture) { f.external(); f.dies("etcd-b") }, margins(1, 0, 1, 0), []string{
			"warning: host etcd-b cannot be reached", "warning: no margin: the cluster does not survive the loss of an etcd member, or zone a"}},
		{"external-etcd-ill", func(f fixture) { f.external(); f.obs.Etcd[2].Healthy = false }, margins(1, 0, 1, 0), []string{
			"warning: etcd member etcd-c is not healthy", "warning: no margin"}},
		{"external-etcd-certificates", func(f fixture) {
			f.external()
			f.obs.Hosts["etcd-a"].Facts.Kubernetes.Certificates[0].Expires = now.AddDate(0, 0, 9)
		}, margins(1, 1, 1, 1), []string{"warning: certificate pki/etcd/server.crt on etcd-a expires in 9 days"}},
		{"existing-etcd", func(f fixture) { f.existing() }, margins(2, 1, 1, 1), nil},
		{"existing-etcd-ill", func(f fixture) { f.existing(); f.obs.Etcd[1].Healthy = false }, margins(2, 0, 1, 1), []string{
			"warning: etcd member their-2 is not healthy", "warning: no margin: the cluster does not survive the loss of an etcd member"}},
		{"existing-etcd-gone", func(f fixture) { f.existing(); f.silent(); f.obs.Etcd = nil }, margins(-1, -1, 1, -1), []string{
			"critical: no endpoint of your etcd answers", "critical: no API server answers", "critical: the endpoint",
			"warning: the API server of cp-a", "warning: the API server of cp-b", "warning: the API server of cp-c"}},
		{"built-without-margin", func(f fixture) {
			f.c.Spec.Hosts = slices.DeleteFunc(f.c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "lb-b" })
		}, margins(1, 1, 0, 0), []string{"warning: no margin: the cluster does not survive the loss of the last balancer, or zone a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := whole()
			c.change(f)
			s := FromObservation(f.c, f.obs)
			if got, want := fmt.Sprint(text(s.Margins)), fmt.Sprint(text(c.margins)); got != want {
				t.Errorf("margins %s, want %s", got, want)
			}
			var got []string
			for _, p := range s.Problems {
				got = append(got, string(p.Severity)+": "+p.Summary)
				if p.Fix == "" {
					t.Errorf("%q has no fix", p.Summary)
				}
			}
			if !slices.EqualFunc(got, c.problems, strings.HasPrefix) {
				t.Errorf("problems\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.problems, "\n  "))
			}
			var out bytes.Buffer
			if err := Text(&out, s, 100, false); err != nil {
				t.Fatal(err)
			}
			golden(t, c.name, out.Bytes())
		})
	}
}

// lost0 is a cluster that is not there: no member, no server, and balancers that do not answer.
// TestOthersCluster shows what can be seen of a cluster before it is adopted, and alarms nobody.
func TestOthersCluster(t *testing.T) {
	f := whole()
	for _, h := range f.obs.Hosts {
		h.Facts.Kubernetes.Established = false
		if h.Balancer != nil {
			h.Balancer.Backends, h.Balancer.Others = nil, &facts.OthersBalancing{}
		}
	}
	s := FromObservation(f.c, f.obs)
	if text(s.Margins) != text(margins(1, 1, 1, 1)) || len(s.Problems) != 3 {
		t.Errorf("margins %s, problems %+v", text(s.Margins), s.Problems)
	}
	for _, p := range s.Problems {
		if p.Severity != Info || !strings.Contains(p.Summary, "by Quorate") {
			t.Errorf("%+v", p)
		}
	}
}

func lost0() quorum.Margins { return margins(-1, -1, -1, -1) }

func text(m quorum.Margins) string {
	b, _ := json.Marshal(m)
	return string(b)
}

func TestJSON(t *testing.T) {
	f := whole()
	b, err := json.MarshalIndent(FromObservation(f.c, f.obs), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "json", append(b, '\n'))
}

// TestArraysAreNeverNull also holds where nothing at all is known.
func TestArraysAreNeverNull(t *testing.T) {
	f := whole()
	f.obs = &facts.Observation{Time: now}
	for _, h := range []func(){func() {}, func() { f.c.Spec.Hosts = nil }} {
		h()
		s := FromObservation(f.c, f.obs)
		s.Margins.LoadBalancers = new(0) // which is a number or null
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "null") {
			t.Errorf("%s", b)
		}
	}
}

func TestTextFits(t *testing.T) {
	f := whole()
	f.dies("cp-b", "w-b", "lb-b")
	s := FromObservation(f.c, f.obs)
	var out bytes.Buffer
	if err := Text(&out, s, 40, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "narrow", out.Bytes())
	out.Reset()
	if err := Text(&out, s, 0, true); err != nil {
		t.Fatal(err)
	}
	golden(t, "color", out.Bytes())
}

func TestSummary(t *testing.T) {
	f := whole()
	parts := []Part{{"requirements", 300 * time.Millisecond}, {"bundle", 400 * time.Millisecond}, {"lab", 9800 * time.Millisecond}, {"cluster", 24100 * time.Millisecond}}
	for _, c := range []struct {
		name string
		use  Use
	}{
		{"summary-lab", Use{Kubeconfig: "/var/lib/quorate/lab/kubeconfig", Spec: "/var/lib/quorate/lab/cluster.yaml", Lab: true, Parts: parts}},
		{"summary-hosts", Use{Kubeconfig: "/home/me/my kube/config", Spec: "prod.yaml", Parts: parts[1:2]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Summary(&out, FromObservation(f.c, f.obs), c.use, 80, false); err != nil {
				t.Fatal(err)
			}
			golden(t, c.name, out.Bytes())
		})
	}
}
