package plan

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// repairFixture is a cluster in which nothing is wrong, and which recorded its spec.
func repairFixture(external bool) clustertest.Fixture {
	f := clustertest.Whole()
	if external {
		f.External()
	}
	for _, h := range f.Spec.Spec.Hosts {
		f.Configured(h)
		seen := f.Seen.Hosts[h.Name].Facts
		for key, file := range map[string]facts.File{"": hostconfig.Hosts(f.Spec).Files[0]} {
			_ = key
			seen.Files[file.Key()] = file.Sum()
		}
		if seen.Units == nil {
			seen.Units = map[string]string{}
		}
		for u := range seen.Enabled {
			seen.Units[u] = "active"
		}
		if h.IsNode() {
			for i, n := range f.Seen.API.Nodes {
				if n.Name == h.Name {
					s := (&builder{State: cluster.Evaluate(f.Spec, f.Seen), c: f.Spec}).labelStep(h, "")
					f.Seen.API.Nodes[i].Labels, f.Seen.API.Nodes[i].Taints = s.Labels, s.Taints
				}
			}
			if external && h.Has(spec.RoleControlPlane) {
				k := f.Kubernetes(h.Name)
				k.EtcdClient, k.EtcdCA = "client", "CA"
			}
		}
		if h.Has(spec.RoleLoadBalancer) {
			for _, o := range f.Spec.BalancerHosts() {
				if o.Name != h.Name {
					f.Seen.Hosts[h.Name].Balancer.Peers = append(f.Seen.Hosts[h.Name].Balancer.Peers, o.Address)
				}
			}
		}
	}
	f.Record()
	return f
}

// repairsOf are the repairs of a fixture, as name/host of those that are done and with "refused " before those that are not.
func repairsOf(t *testing.T, f clustertest.Fixture) (keys []string, all []Repair) {
	t.Helper()
	all, _, err := Repairs(cluster.Evaluate(f.Spec, f.Seen), Bundle{})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range all {
		key := r.Name + "/" + r.Host
		if r.Refused != nil {
			key = "refused " + key
			if r.Plan != nil {
				t.Errorf("%s has a plan", key)
			}
		} else {
			checkOrder(t, r.Plan)
		}
		same := slices.IndexFunc(all, func(o Repair) bool { return o.Key() == r.Key() })
		if r.Problem == "" || r.Looks < 2 || r.AnHour < 1 || &all[same] != &all[i] {
			t.Errorf("%+v", r)
		}
		keys = append(keys, key)
	}
	return keys, all
}

func fails(m *facts.EtcdMember, problem string) {
	m.Healthy, m.Problem, m.Leader = false, problem, false
}

// TestRepairs breaks one thing after another, and compares what is repaired.
func TestRepairs(t *testing.T) {
	for name, tc := range map[string]struct {
		external bool
		breaks   func(clustertest.Fixture)
		want     []string
	}{
		"nothing":                          {false, func(clustertest.Fixture) {}, nil},
		"nothing, with an etcd of its own": {true, func(clustertest.Fixture) {}, nil},
		"a missing manifest": {false, func(f clustertest.Fixture) {
			k := f.Kubernetes("cp-b")
			k.Manifests = slices.DeleteFunc(k.Manifests, func(p string) bool { return p == facts.Scheduler })
		}, []string{"manifest/cp-b"}},
		"a manifest that was set aside": {false, func(f clustertest.Fixture) {
			k := f.Kubernetes("cp-b")
			k.Manifests, k.Withdrawn = k.Manifests[:3], []string{facts.Scheduler}
		}, []string{"stopped/cp-b"}},
		"a manifest that was set aside for a maintenance": {false, func(f clustertest.Fixture) {
			k := f.Kubernetes("cp-b")
			k.Manifests, k.Withdrawn = k.Manifests[:3], []string{facts.Scheduler}
			f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}}
		}, nil},
		"a stopped unit":  {false, func(f clustertest.Fixture) { f.Seen.Hosts["w-a"].Facts.Units["kubelet.service"] = "inactive" }, []string{"units/w-a"}},
		"a disabled unit": {false, func(f clustertest.Fixture) { f.Seen.Hosts["w-a"].Facts.Enabled["kubelet.service"] = "disabled" }, []string{"units/w-a"}},
		"a stopped member": {true, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Seen.Hosts["etcd-c"].Facts.Units["etcd.service"] = "failed"
		}, []string{"units/etcd-c"}},
		"a member that hangs": {true, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "no answer within 2s")
			f.Seen.Etcd[2].ClusterID = ""
		}, []string{"hung/etcd-c"}},
		"a member without a leader waits for others": {true, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "it has no leader")
		}, nil},
		"no client certificate for etcd": {true, func(f clustertest.Fixture) {
			for _, h := range f.Spec.EtcdHosts() {
				k := f.Kubernetes(h.Name)
				k.EtcdClient, k.EtcdCA = "client", "CA"
			}
			f.Kubernetes("cp-b").EtcdClient = ""
		}, []string{"etcd-client/cp-b"}},
		"a disruption budget that an interrupted drain has relaxed": {false, func(f clustertest.Fixture) {
			f.Spec.Spec.Monitoring.Prometheus.Install = true
			f.Seen.API.Prometheus = &facts.Prometheus{Relaxed: []string{"quorate-monitoring/prometheus"}}
		}, []string{"budget/"}},
		"a load balancer that is stopped": {false, func(f clustertest.Fixture) {
			f.Seen.Hosts["lb-b"].Facts.Units["haproxy.service"] = "inactive"
			f.Change("lb-b", func(h *facts.Host) { h.Balancer.Healthy = false })
		}, []string{"load-balancer/lb-b"}},
		"a load balancer that hangs": {false, func(f clustertest.Fixture) {
			f.Change("lb-b", func(h *facts.Host) { h.Balancer.Healthy = false })
			f.Component("lb-b", facts.HAProxy, clustertest.Problem("no answer"))
		}, []string{"hung/lb-b"}},
		"both load balancers hang": {false, func(f clustertest.Fixture) {
			for _, lb := range []string{"lb-a", "lb-b"} {
				f.Change(lb, func(h *facts.Host) { h.Balancer.Healthy = false })
				f.Component(lb, facts.HAProxy, clustertest.Problem("no answer"))
			}
			f.AnswerEndpoint(clustertest.Problem("no answer"))
		}, []string{"hung/lb-a", "hung/lb-b"}},
		"an agent that does not work": {false, func(f clustertest.Fixture) { f.Component("w-a", facts.Flannel, clustertest.Problem("no route")) }, []string{"agent/w-a"}},
		"both agents of a node": {false, func(f clustertest.Fixture) {
			f.Component("w-a", facts.Flannel, clustertest.Problem("no route"))
			f.Component("w-a", facts.KubeProxy, clustertest.Problem("no rules"))
		}, []string{"agent/w-a", "agent/w-a"}},
		"unknown is not broken": {false, func(f clustertest.Fixture) { f.Component("w-a", facts.Flannel, clustertest.Unknown("busy")) }, nil},
		"a dead host":           {false, func(f clustertest.Fixture) { f.Dies("cp-c") }, nil},
		"a host in maintenance": {false, func(f clustertest.Fixture) {
			f.Seen.API.Maintenance = map[string]facts.Maintenance{"w-a": {Ready: true}}
			f.Seen.Hosts["w-a"].Facts.Units["kubelet.service"] = "inactive"
		}, nil},
		"a host that is yet to join": {false, func(f clustertest.Fixture) {
			h := spec.Host{Name: "w-z", Zone: "a", Address: "10.0.0.99", Roles: []string{spec.RoleWorker}}
			f.Spec.Spec.Hosts = append(f.Spec.Spec.Hosts, h)
			f.Seen.Hosts["w-z"] = facts.Host{Facts: &facts.Facts{}}
		}, nil},
		"an edit is not applied": {false, func(f clustertest.Fixture) {
			f.Spec.Spec.LoadBalancer.MaxConnections = 2000
			f.Seen.Hosts["lb-b"].Facts.Units["keepalived.service"] = "inactive"
			delete(f.Seen.Hosts["cp-a"].Facts.Files, "/etc/modules-load.d/quorate.conf")
		}, []string{"units/cp-a", "load-balancer/lb-b"}},
		"another version of Quorate": {false, func(f clustertest.Fixture) {
			f.Seen.Hosts["cp-a"].Facts.Self = facts.OtherCopy
			f.Seen.Hosts["cp-a"].Facts.Files["/etc/modules-load.d/quorate.conf"] = "other"
		}, nil},
		"a file that was changed": {false, func(f clustertest.Fixture) {
			f.Seen.Hosts["cp-a"].Facts.Files["/etc/modules-load.d/quorate.conf"] = "other"
		}, []string{"units/cp-a"}},
		"a damaged member": {false, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: "walpb: crc mismatch"}
		}, []string{"etcd-data/cp-c"}},
		"a damaged member whose unit has failed": {true, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Kubernetes("etcd-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: "walpb: crc mismatch"}
			f.Seen.Hosts["etcd-c"].Facts.Units["etcd.service"] = "failed"
		}, []string{"etcd-data/etcd-c"}},
		"a damaged member without its manifest": {false, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: "walpb: crc mismatch"}
			f.Kubernetes("cp-c").Manifests = f.Kubernetes("cp-c").Manifests[1:]
		}, []string{"etcd-data/cp-c"}},
		"a learner with older data than it acknowledged": {true, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Seen.Etcd[2].Learner = true
			f.Kubernetes("etcd-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdForgot, Said: "tocommit(9) is out of range"}
			f.Seen.Hosts["etcd-c"].Facts.Units["etcd.service"] = "failed"
		}, []string{"etcd-data/etcd-c"}},
		"a damaged member while another one is down": {false, func(f clustertest.Fixture) {
			f.Dies("cp-b")
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: "walpb: crc mismatch"}
		}, nil},
		"a member that lags":                      {false, func(f clustertest.Fixture) { f.Seen.Etcd[2].Behind = 12000 }, []string{"etcd-lag/cp-c"}},
		"a member that lags on a host of its own": {true, func(f clustertest.Fixture) { f.Seen.Etcd[2].Behind = 12000 }, []string{"etcd-lag/etcd-c"}},
		"a member that catches up":                {false, func(f clustertest.Fixture) { f.Seen.Etcd[2].Behind, f.Seen.Etcd[2].CatchesUp = 12000, true }, nil},
		"a member that lags in a maintenance": {false, func(f clustertest.Fixture) {
			f.Seen.Etcd[2].Behind = 12000
			f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-c": {Ready: true}}
		}, nil},
		"a member that lags while another one is down": {false, func(f clustertest.Fixture) {
			f.Dies("cp-b")
			f.Seen.Etcd[2].Behind = 12000
		}, []string{"refused etcd-lag/cp-c"}},
		"a member that others say has other data": {false, func(f clustertest.Fixture) { // one look, of some minutes ago
			c := &facts.EtcdComparison{Hashes: map[string]facts.EtcdHash{}}
			for i, m := range f.Seen.Etcd {
				c.Hashes[m.ID] = facts.EtcdHash{Revision: 9, Hash: uint32(i / 2)}
			}
			f.Seen.Hosts["cp-a"].Facts.Watch = &facts.Watch{Report: &facts.WatchReport{Compared: c}}
		}, nil},
		"a full disk damages nothing": {false, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdDiskFull, Said: "no space left on device"}
		}, nil},
		"a full disk with old snapshots": {false, func(f clustertest.Fixture) {
			f.Kubernetes("cp-c").Removable = 1 << 30
			f.Seen.Hosts["cp-c"].Facts.DiskFreeBytes = 1 << 20
		}, []string{"disk/cp-c"}},
		"a disk without any space": {false, func(f clustertest.Fixture) {
			f.Kubernetes("cp-c").Removable = 1 << 30
			f.Seen.Hosts["cp-c"].Facts.DiskBytes = 40 << 30
		}, []string{"disk/cp-c"}},
		"a full disk with nothing of Quorate's": {false, func(f clustertest.Fixture) {
			f.Seen.Hosts["cp-c"].Facts.DiskFreeBytes = 1 << 20
			f.Seen.Hosts["cp-c"].Facts.Kept = []facts.Kept{{Path: facts.KeptDir + "/prod", Bytes: 1 << 30}}
		}, nil},
		"a control plane without a member": {false, func(f clustertest.Fixture) {
			f.Seen.Etcd = f.Seen.Etcd[:2]
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdRemoved}
		}, []string{"etcd-rejoin/cp-c"}},
		"an interrupted rejoin": {false, func(f clustertest.Fixture) {
			f.Seen.Etcd[2].Learner = true
		}, []string{"etcd-rejoin/cp-c"}},
		"no space": {false, func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd {
				m := &f.Seen.Etcd[i]
				m.Healthy, m.Problem, m.Alarms, m.Raised = false, "it has raised the alarm NOSPACE", []string{"NOSPACE"}, []string{"NOSPACE"}
			}
		}, []string{"etcd-space/"}},
		"an alarm of nobody": {false, func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd {
				m := &f.Seen.Etcd[i]
				m.Healthy, m.Problem, m.Alarms = false, "it has raised the alarm CORRUPT", []string{"CORRUPT"}
			}
		}, []string{"etcd-alarm/"}},
		"a drained control plane": {false, func(f clustertest.Fixture) {
			f.Change("lb-a", func(h *facts.Host) { h.Balancer.Backends[1].Drained = true })
		}, []string{"drained/cp-b"}},
		"an expired identity": {false, func(f clustertest.Fixture) {
			f.Kubernetes("w-a").Certificates = []facts.Certificate{{Name: "kubelet-client", Expires: clustertest.Now.AddDate(0, 0, -1)}}
		}, []string{"kubelet-identity/w-a"}},
		"pods without an address for the API": {false, func(f clustertest.Fixture) {
			for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
				f.Kubernetes(cp).Arguments = map[string]map[string]string{facts.APIServer: noneLists(f.Spec)}
			}
			f.Seen.API.Service = &facts.APIService{}
		}, []string{"api-service/"}},
		"API servers that list themselves": {false, func(f clustertest.Fixture) {
			for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
				f.Kubernetes(cp).Arguments = map[string]map[string]string{facts.APIServer: {}}
			}
			f.Seen.API.Service = &facts.APIService{Slices: map[string][]string{facts.APIServiceName: {"10.0.0.11:6443"}}}
		}, nil},
		"CoreDNS on one node":  {false, func(f clustertest.Fixture) { f.Seen.API.DNSSpread = false }, []string{"dns/"}},
		"CoreDNS in one zone":  {false, func(f clustertest.Fixture) { f.Seen.API.DNSInZones = false }, []string{"dns/"}},
		"a label that is gone": {false, func(f clustertest.Fixture) { delete(f.Seen.API.Nodes[3].Labels, ZoneLabel) }, []string{"labels/w-a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := repairFixture(tc.external)
			tc.breaks(f)
			if got, all := repairsOf(t, f); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q: %+v", got, tc.want, all)
			}
		})
	}
}

// TestAnUntrustedMemberIsReplaced: it leaves etcd before its data is set aside, and joins with an empty directory.
func TestAnUntrustedMemberIsReplaced(t *testing.T) {
	for name, tc := range map[string]struct {
		external bool
		breaks   func(clustertest.Fixture)
		host     string
		want     []Kind
	}{
		"stopped": {false, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdForgot, Said: "tocommit"}
			f.Change("cp-c", func(h *facts.Host) { h.APIServer = new(clustertest.Problem("etcd")) })
		}, "cp-c", []Kind{StopPrograms, RemoveMember, SetAsideEtcd, RejoinEtcd, Mark, StartPrograms}},
		"running, and the leader": {false, func(f clustertest.Fixture) {
			for i, hash := range []uint32{1, 2, 1} {
				f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 9, Hash: hash}
			}
		}, "cp-b", []Kind{MoveLeadership, LeavePools, StopPrograms, RemoveMember, SetAsideEtcd, RejoinEtcd, Mark, StartPrograms, JoinPools}},
		"with the alarm": {true, func(f clustertest.Fixture) {
			m := &f.Seen.Etcd[2]
			m.Healthy, m.Problem, m.Alarms, m.Raised = false, "it has raised the alarm CORRUPT", []string{"CORRUPT"}, []string{"CORRUPT"}
		}, "etcd-c", []Kind{RemoveMember, EndAlarms, SetAsideEtcd, JoinEtcd, Mark}},
		"a learner": {false, func(f clustertest.Fixture) {
			fails(&f.Seen.Etcd[2], "connection refused")
			f.Seen.Etcd[2].Learner = true
			f.Kubernetes("cp-c").EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdForgot, Said: "tocommit(9) is out of range"}
			f.Change("cp-c", func(h *facts.Host) { h.APIServer = new(clustertest.Problem("etcd")) })
		}, "cp-c", []Kind{StopPrograms, RemoveMember, SetAsideEtcd, RejoinEtcd, Mark, StartPrograms}},
		"a learner whose data was replaced": {true, func(f clustertest.Fixture) {
			f.Seen.Etcd[2].Learner, f.Seen.Etcd[2].WentBack = true, "it was in term 7 of etcd before, and later in term 5"
		}, "etcd-c", []Kind{RemoveMember, SetAsideEtcd, JoinEtcd, Mark}},
	} {
		t.Run(name, func(t *testing.T) {
			f := repairFixture(tc.external)
			tc.breaks(f)
			keys, all := repairsOf(t, f)
			if len(all) != 1 || keys[0] != "etcd-data/"+tc.host {
				t.Fatalf("got %q: %+v", keys, all)
			}
			var got []Kind
			for i, s := range all[0].Plan.Steps {
				got = append(got, s.Kind)
				if i > 0 && len(s.Needs) == 0 {
					t.Errorf("%s waits for nothing", s.ID)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// TestUnneededBundles are removed from a full disk, unless the version may be about to change: everything that the version before needs stays until
// every host runs the new one.
func TestUnneededBundles(t *testing.T) {
	fixture := func() clustertest.Fixture {
		f := repairFixture(false)
		for _, h := range f.Spec.Spec.Hosts {
			if seen := f.Seen.Hosts[h.Name].Facts; h.IsNode() {
				seen.Binaries, seen.Images, seen.Programs = "sha256:b", "sha256:b", map[string]string{facts.Kubelet: "sha256:b"}
			}
		}
		seen := f.Seen.Hosts["cp-c"].Facts
		seen.DiskFreeBytes, seen.Unused = 1<<20, map[string]int64{"sha256:a": 300 << 20, "sha256:0": 1 << 20, "": 5 << 20}
		return f
	}
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		want   []string // bundles; no repair if there are none
	}{
		"all run from one bundle":             {func(clustertest.Fixture) {}, []string{"sha256:0", "sha256:a"}},
		"there is space":                      {func(f clustertest.Fixture) { f.Seen.Hosts["cp-c"].Facts.DiskFreeBytes = 1 << 40 }, nil},
		"a host runs from the former one":     {func(f clustertest.Fixture) { f.Seen.Hosts["w-a"].Facts.Binaries = "sha256:a" }, nil},
		"one program does":                    {func(f clustertest.Fixture) { f.Seen.Hosts["w-a"].Facts.Programs[facts.Kubelet] = "sha256:a" }, nil},
		"a host cannot be queried":            {func(f clustertest.Fixture) { f.Dies("w-a") }, nil},
		"the spec has another version now":    {func(f clustertest.Fixture) { f.Spec.Spec.Kubernetes.Version = "v1.38.0" }, nil},
		"a bundle that only others use stays": {func(f clustertest.Fixture) { f.Seen.Hosts["cp-c"].Facts.Unused["sha256:b"] = 7 }, []string{"sha256:0", "sha256:a"}},
	} {
		f := fixture()
		tc.change(f)
		keys, all := repairsOf(t, f)
		i := slices.Index(keys, "disk/cp-c")
		if i < 0 {
			if tc.want != nil {
				t.Errorf("%s: %q", name, keys)
			}
			continue
		}
		if steps := all[i].Plan.Steps; len(steps) != 1 || steps[0].Kind != FreeDisk || !slices.Equal(steps[0].Bundles, tc.want) || !strings.Contains(all[i].Problem, "301 MiB") {
			t.Errorf("%s: %+v", name, all[i])
		}
	}
}

// TestAMemberThatLags is restarted first. If that did not help, it is replaced, and not again the same day: then its host is too slow.
func TestAMemberThatLags(t *testing.T) {
	restarted := facts.Tried{Repair: "etcd-lag", How: "restart", AgoSeconds: 600}
	replaced := facts.Tried{Repair: "etcd-lag", How: "replace", AgoSeconds: 3600}
	long := restarted
	long.AgoSeconds = 7200
	replace := []Kind{LeavePools, StopPrograms, RemoveMember, SetAsideEtcd, RejoinEtcd, Mark, StartPrograms, JoinPools}
	for name, tc := range map[string]struct {
		external bool
		tried    []facts.Tried
		how      string
		want     []Kind // none if it is refused
	}{
		"at first":                              {false, nil, "restart", []Kind{LeavePools, RestartPrograms, JoinPools}},
		"at first, on a host of its own":        {true, nil, "restart", []Kind{RestartUnit}},
		"after a restart":                       {false, []facts.Tried{restarted}, "replace", replace},
		"after a restart, on a host of its own": {true, []facts.Tried{restarted}, "replace", []Kind{RemoveMember, SetAsideEtcd, JoinEtcd, Mark}},
		"long after a restart":                  {false, []facts.Tried{long}, "restart", []Kind{LeavePools, RestartPrograms, JoinPools}},
		"after both":                            {false, []facts.Tried{restarted, replaced}, "replace", nil},
		"hours after both":                      {false, []facts.Tried{long, replaced}, "replace", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := repairFixture(tc.external)
			f.Seen.Etcd[2].Behind = 12000
			f.Seen.Hosts[f.Seen.Etcd[2].Name].Facts.Tried = tc.tried
			_, all := repairsOf(t, f)
			if len(all) != 1 || all[0].Name != "etcd-lag" || all[0].How != tc.how || all[0].Key() != "etcd-lag/"+f.Seen.Etcd[2].Name+"/" || (all[0].Refused != nil) != (tc.want == nil) {
				t.Fatalf("%+v", all)
			}
			if tc.want == nil {
				return
			}
			var got []Kind
			for _, s := range all[0].Plan.Steps {
				got = append(got, s.Kind)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// TestApplyLeavesUntrustedLearners to a repair: it neither has one go on with its data nor starts it.
func TestApplyLeavesUntrustedLearners(t *testing.T) {
	for name, c := range map[string]*spec.Cluster{"cp-c": testCluster(), "etcd-c": external()} {
		obs := finished(t, c)
		if !c.StackedEtcd() {
			obs = finishedExternal(t, c)
		}
		for i := range obs.Etcd {
			obs.Etcd[i].ID = obs.Etcd[i].Name
		}
		fails(&obs.Etcd[2], "connection refused")
		obs.Etcd[2].Learner = true
		obs.Hosts[name].Facts.Kubernetes.EtcdFailure = &facts.EtcdFailure{Cause: facts.EtcdForgot, Said: "tocommit(9) is out of range"}
		for _, s := range build(t, c, obs).Steps {
			if s.Host == name && (s.Kind == RejoinEtcd || s.Kind == JoinEtcd || s.Kind == RestoreControlPlane || s.Desired != nil && slices.Contains(s.Desired.Enable, hostconfig.EtcdUnit)) {
				t.Errorf("%+v", s)
			}
		}
		if _, r := cluster.Evaluate(c, obs).Allow(*change(cluster.Add, cluster.EtcdMember, name)); r == nil || r.Rule != cluster.RuleOldData {
			t.Errorf("%s may go on with its data: %v", name, r)
		}
	}
}

// TestMembersAreDefragmentedOneByOne, the leader last.
func TestMembersAreDefragmentedOneByOne(t *testing.T) {
	f := repairFixture(false)
	f.Seen.Etcd[0].Problem, f.Seen.Etcd[0].Healthy = "it has raised the alarm NOSPACE", false
	f.Seen.Etcd[0].Alarms, f.Seen.Etcd[0].Raised = []string{"NOSPACE"}, []string{"NOSPACE"}
	_, all := repairsOf(t, f)
	if len(all) != 1 || all[0].Refused != nil {
		t.Fatalf("%+v", all)
	}
	var got []string
	for _, s := range all[0].Plan.Steps {
		got = append(got, string(s.Kind)+" "+s.Host)
	}
	if want := []string{"compact-etcd ", "defragment-etcd cp-a", "defragment-etcd cp-c", "defragment-etcd cp-b", "end-alarms "}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	// With one member down, none of the others can be spared.
	f.Dies("cp-c")
	_, all = repairsOf(t, f)
	if len(all) != 1 || all[0].Refused == nil || all[0].Refused.Rule != cluster.RuleEnough {
		t.Errorf("%+v", all)
	}
}

// TestNothingIsRepairedThatIsNoCluster of Quorate's.
func TestNothingIsRepairedThatIsNoCluster(t *testing.T) {
	for name, breaks := range map[string]func(clustertest.Fixture){
		"empty":   func(f clustertest.Fixture) { f.Empty() },
		"foreign": func(f clustertest.Fixture) { f.Marks(false) },
		"unknown": func(f clustertest.Fixture) { f.Silent(); f.Marks(false); f.Dies("cp-a", "cp-b", "cp-c") },
		"no host": func(f clustertest.Fixture) { f.Silent(); f.Dies(cluster.Names(f.Spec.Spec.Hosts)...) },
	} {
		t.Run(name, func(t *testing.T) {
			f := repairFixture(false)
			breaks(f)
			all, _, err := Repairs(cluster.Evaluate(f.Spec, f.Seen), Bundle{})
			var r *cluster.Refusal
			if !errors.As(err, &r) || len(all) > 0 {
				t.Errorf("%v, %+v", err, all)
			}
		})
	}
}

// TestRepairsChangeNoVersion and no setting, whatever is broken: a step of such a kind is in no repair.
func TestRepairsChangeNoVersion(t *testing.T) {
	f := repairFixture(false)
	f.Spec.Spec.Kubernetes.Version = "v1.38.0"
	f.Spec.Spec.Failover.Profile = spec.ProfileStandard
	f.Seen.Hosts["w-a"].Facts.Units["kubelet.service"] = "inactive"
	f.Kubernetes("cp-b").Manifests = f.Kubernetes("cp-b").Manifests[1:]
	_, all := repairsOf(t, f)
	for _, r := range all {
		for _, s := range r.Plan.Steps {
			if s.Change != nil && (s.Change.Kubernetes != "" || s.Change.Etcd != "") || slices.Contains([]Kind{UpgradeControlPlane, UpgradeNode, SwitchPrograms, StoreSettings, RecordSpec}, s.Kind) {
				t.Errorf("%s: %s", r.Key(), s.ID)
			}
		}
	}
	_, notes, err := Repairs(cluster.Evaluate(f.Spec, f.Seen), Bundle{})
	if err != nil || !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "the spec was edited") }) {
		t.Errorf("%q, %v", notes, err)
	}
}

// TestDocumentationHasTheRepairs: the table in docs/repair.md is the one in the code. UPDATE_DOCS=1 writes it.
func TestDocumentationHasTheRepairs(t *testing.T) {
	const file, begin, end = "../../docs/repair.md", "<!-- repairs -->\n", "<!-- /repairs -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), begin)
	_, after, found := strings.Cut(rest, end)
	if !found {
		t.Fatalf("%s has no table of repairs", file)
	}
	var table strings.Builder
	table.WriteString("| repair | what is broken | what is done | observations that must agree | attempts in an hour |\n|---|---|---|---|---|\n")
	for _, r := range Repaired() {
		table.WriteString("| `" + r[0] + "` | " + strings.Join(r[1:], " | ") + " |\n")
	}
	want := before + begin + table.String() + end + after
	if want == string(text) {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("the table in %s is not the code's; UPDATE_DOCS=1 go test ./internal/plan writes it", file)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestAHostNotesItsMaintenance: while the API does not answer, the host's own note is what says that whoever works there stopped a unit. A
// note that was forgotten counts for nothing while the API answers, and the end of a maintenance removes it.
func TestAHostNotesItsMaintenance(t *testing.T) {
	f := repairFixture(false)
	f.Seen.Hosts["w-a"].Facts.Units["kubelet.service"] = "inactive"
	f.Seen.Hosts["lb-b"].Facts.Units["keepalived.service"] = "inactive"
	want := []string{"units/w-a", "load-balancer/lb-b"}
	of := func(name string) {
		t.Helper()
		keys, _ := repairsOf(t, f)
		for _, key := range want {
			if !slices.Contains(keys, key) && !slices.Contains(keys, "refused "+key) {
				t.Errorf("%s: %q", name, keys)
			}
		}
	}
	for _, host := range []string{"w-a", "lb-b"} {
		f.Kubernetes(host).Maintenance = &facts.Maintenance{Ready: true}
	}
	of("the API says that they are in none")
	if p, err := EndMaintenance(cluster.Evaluate(f.Spec, f.Seen), targetOf(t, f.Spec, "w-a")); err != nil || !slices.Equal(kindsOf(p)[LeaveMaintenance], []string{"w-a"}) {
		t.Errorf("nothing removes the note: %v, %v", p, err)
	}
	f.Silent()
	keys, _ := repairsOf(t, f)
	if slices.ContainsFunc(keys, func(k string) bool { return strings.HasSuffix(k, "/w-a") || strings.HasSuffix(k, "/lb-b") }) {
		t.Errorf("hosts in maintenance are repaired: %q", keys)
	}
	_, notes, err := Repairs(cluster.Evaluate(f.Spec, f.Seen), Bundle{})
	if err != nil || !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, "w-a notes that it is in maintenance") }) {
		t.Errorf("%q, %v", notes, err)
	}
	for _, host := range []string{"w-a", "lb-b"} {
		f.Kubernetes(host).Maintenance = nil
	}
	of("they note none")
}

// TestALostHostComesBack: nothing starts the data of a member that etcd does not have any more, neither a repair nor apply. It is kept aside, and the host
// joins etcd again.
func TestALostHostComesBack(t *testing.T) {
	for name, tc := range map[string]struct {
		external bool
		host     string
		back     func(clustertest.Fixture)
	}{
		"a control plane": {false, "cp-c", func(f clustertest.Fixture) {
			k := f.Kubernetes("cp-c")
			k.Manifests = slices.DeleteFunc(k.Manifests, func(p string) bool { return p == "etcd" })
			f.Change("cp-c", func(h *facts.Host) { a := clustertest.Problem("etcd does not answer"); h.APIServer = &a })
		}},
		"an etcd host": {true, "etcd-c", func(f clustertest.Fixture) { f.Seen.Hosts["etcd-c"].Facts.Units["etcd.service"] = "inactive" }},
		"an etcd host whose unit is disabled": {true, "etcd-c", func(f clustertest.Fixture) {
			f.Seen.Hosts["etcd-c"].Facts.Units["etcd.service"], f.Seen.Hosts["etcd-c"].Facts.Enabled["etcd.service"] = "inactive", "disabled"
		}},
	} {
		f := repairFixture(tc.external)
		f.Seen.Etcd = slices.DeleteFunc(f.Seen.Etcd, func(m facts.EtcdMember) bool { return m.Name == tc.host })
		tc.back(f)
		keys, all := repairsOf(t, f)
		if !slices.Contains(keys, "etcd-rejoin/"+tc.host) {
			t.Errorf("%s: %v", name, keys)
		}
		check := func(by string, steps []Step) {
			aside := false
			for _, s := range steps {
				if s.Host != tc.host {
					continue
				}
				aside = aside || s.Kind == SetAsideEtcd
				starts := s.Kind == RestoreControlPlane && slices.Contains(s.Pods, "etcd") || s.Desired != nil && slices.Contains(s.Desired.Enable, hostconfig.EtcdUnit) ||
					s.Kind == RestartUnit && slices.Contains(s.Restart, hostconfig.EtcdUnit) || s.Kind == StartPrograms && slices.Contains(s.Pods, "etcd")
				if starts && !aside {
					t.Errorf("%s: %s starts what the host has: %+v", name, by, s)
				}
			}
		}
		for _, r := range all {
			if r.Plan != nil {
				check("the repair "+r.Name, r.Plan.Steps)
			}
		}
		if p, err := Build(cluster.Evaluate(f.Spec, f.Seen), Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}); err == nil {
			check("apply", p.Steps)
		}
	}
}

// TestAFormerMemberThatAllAPIServersUse comes back, so that none of them is asked. Apply refuses and says what to do, and the repair that it names needs no API.
func TestAFormerMemberThatAllAPIServersUse(t *testing.T) {
	f := repairFixture(true)
	f.Seen.EtcdAbandoned = slices.Clone(f.Seen.Etcd[2:])
	f.Seen.EtcdAbandoned[0].ClusterID = "c0"
	f.Seen.Etcd = f.Seen.Etcd[:2]
	for _, host := range []string{"cp-a", "cp-b"} {
		k := f.Kubernetes(host)
		k.EtcdAbandoned, k.Flags = []string{"c0"}, map[string]string{facts.EtcdServersFlag: "https://10.0.0.41:2379,https://10.0.0.42:2379,https://10.0.0.43:2379"}
	}
	f.Seen.API, f.Seen.APIError = nil, "no control plane that can be reached runs an API server"
	var r *cluster.Refusal
	if _, err := Build(cluster.Evaluate(f.Spec, f.Seen), Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}); !errors.As(err, &r) || r.Rule != cluster.RuleOneEtcd || !strings.Contains(r.Fix, "quorate repair") {
		t.Errorf("apply: %v", err)
	}
	_, all := repairsOf(t, f)
	i := slices.IndexFunc(all, func(x Repair) bool { return x.Name == "etcd-rejoin" && x.Host == "etcd-c" })
	if i < 0 || all[i].Refused != nil || len(kindsOf(all[i].Plan)[SetAsideEtcd]) != 1 || len(kindsOf(all[i].Plan)[JoinEtcd]) != 1 {
		t.Errorf("it is not repaired: %+v", all)
	}
	f.Kubernetes("cp-b").Flags[facts.EtcdServersFlag] = "https://10.0.0.41:2379,https://10.0.0.42:2379"
	if _, err := Build(cluster.Evaluate(f.Spec, f.Seen), Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}); errors.As(err, &r) && r.Rule == cluster.RuleOneEtcd {
		t.Errorf("an API server that can be asked does not answer, and what brings it back comes first: %v", err)
	}
}

// TestTheOldMajorityComesBack: after a recovery from cp-a, the machines that were declared lost boot as they were. They have a quorum of the
// cluster that was replaced, and serve. Apply refuses, and a repair stops each of them, keeps its data, and has it join again.
func TestTheOldMajorityComesBack(t *testing.T) {
	f := repairFixture(false)
	f.Seen.EtcdAbandoned = slices.Clone(f.Seen.Etcd[1:])
	for i := range f.Seen.EtcdAbandoned {
		f.Seen.EtcdAbandoned[i].ClusterID = "c0"
	}
	f.Seen.Etcd = f.Seen.Etcd[:1]
	f.Seen.Etcd[0].Leader = true
	for _, lb := range []string{"lb-a", "lb-b"} { // as the recovery left them
		f.Seen.Hosts[lb].Balancer.Backends[1].Drained, f.Seen.Hosts[lb].Balancer.Backends[2].Drained = true, true
	}
	var r *cluster.Refusal
	if _, err := Build(cluster.Evaluate(f.Spec, f.Seen), Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}); !errors.As(err, &r) || r.Rule != cluster.RuleOneEtcd || !strings.Contains(r.Fix, "quorate repair") {
		t.Errorf("apply: %v", err)
	}
	_, all := repairsOf(t, f)
	var repaired []string
	for _, x := range all {
		if x.Name == "drained" {
			t.Errorf("clients are sent to what was replaced: %+v", x)
		}
		if x.Name != "etcd-rejoin" {
			continue
		}
		if x.Refused != nil || !strings.Contains(x.Problem, "cluster c0, which a recovery has replaced") {
			t.Fatalf("%s: %s, refused %+v", x.Host, x.Problem, x.Refused)
		}
		repaired = append(repaired, x.Host)
		var kinds []Kind
		for _, s := range x.Plan.Steps {
			if s.Host == x.Host || s.Kind == RemoveMember {
				kinds = append(kinds, s.Kind)
			}
		}
		at := func(k Kind) int { return slices.Index(kinds, k) }
		if at(RemoveMember) >= 0 || at(StopPrograms) < 0 || at(SetAsideEtcd) < at(StopPrograms) || at(RejoinEtcd) < at(SetAsideEtcd) || at(StartPrograms) < at(RejoinEtcd) || at(JoinPools) < at(StartPrograms) {
			t.Errorf("%s: %v", x.Host, kinds)
		}
	}
	if !slices.Equal(repaired, []string{"cp-b", "cp-c"}) {
		t.Errorf("repaired are %v", repaired)
	}

	// Without an API, apply brings back what counts, and leaves the others alone.
	f.Silent()
	f.Kubernetes("cp-b").Manifests = nil
	f.Seen.Etcd, f.Seen.EtcdError = nil, "no member answers"
	if p, err := Build(cluster.Evaluate(f.Spec, f.Seen), Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}); err == nil {
		for _, s := range p.Steps {
			if s.Kind == RestoreControlPlane && slices.Contains(s.Pods, "etcd") {
				t.Errorf("what was replaced is started: %+v", s)
			}
		}
	}

	// Nobody knows which of two clusters counts.
	f = repairFixture(false)
	f.Seen.Etcd[2].ClusterID = "c2"
	if _, _, err := Repairs(cluster.Evaluate(f.Spec, f.Seen), Bundle{}); !errors.As(err, &r) || r.Rule != cluster.RuleOneEtcd {
		t.Errorf("repairs of two clusters: %v", err)
	}
	if _, err := Build(cluster.Evaluate(f.Spec, f.Seen), Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}); !errors.As(err, &r) || r.Rule != cluster.RuleOneEtcd {
		t.Errorf("apply on two clusters: %v", err)
	}
}

// TestExpiredCertificates are apply's, and the repair says so: without an API, nothing is restarted because of them.
func TestExpiredCertificates(t *testing.T) {
	f := repairFixture(false)
	for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
		k := f.Kubernetes(cp)
		k.Certificates = append(k.Certificates, facts.Certificate{Name: "pki/apiserver-kubelet-client.crt", Expires: clustertest.Now.AddDate(0, 0, -1)})
		f.Component(cp, facts.Kubelet, clustertest.Problem("certificate has expired"))
	}
	if keys, _ := repairsOf(t, f); slices.ContainsFunc(keys, func(k string) bool { return strings.Contains(k, "certificates") }) {
		t.Errorf("the API answers: %v", keys)
	}
	f.Seen.API, f.Seen.APIError = nil, "certificate has expired"
	keys, all := repairsOf(t, f)
	if len(all) == 0 || keys[0] != "refused certificates/" || !strings.Contains(all[0].Refused.Fix, "quorate apply") || !strings.Contains(all[0].Problem, "cp-a") {
		t.Errorf("%v", keys)
	}
	if slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "hung/") }) {
		t.Errorf("restarts do not help: %v", keys)
	}
}
