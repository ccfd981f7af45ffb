package hostconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func cluster() *spec.Cluster {
	c := spec.DefaultLab("test")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("10.0.0.%d", 11+i)
	}
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	return c
}

func file(t *testing.T, d facts.Desired, path string) string {
	t.Helper()
	i := slices.IndexFunc(d.Files, func(f facts.File) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("no %s", path)
	}
	return d.Files[i].Content
}

func TestEveryNameResolvesOnEveryHost(t *testing.T) {
	c := cluster()
	hosts := file(t, Hosts(c), "/etc/hosts")
	for _, h := range c.Spec.Hosts {
		if !strings.Contains(hosts, h.Address+" "+h.Name+"\n") {
			t.Errorf("%s does not resolve:\n%s", h.Name, hosts)
		}
	}
	if !strings.Contains(hosts, "10.0.0.100 api.test.internal\n") {
		t.Errorf("the endpoint does not resolve:\n%s", hosts)
	}
}

func TestRuntimeFollowsTheHost(t *testing.T) {
	for _, tc := range []struct {
		facts facts.Facts
		want  []string
	}{
		{facts.Facts{CgroupV2: true, CanLowerOOMScore: true}, []string{"SystemdCgroup = true", "restrict_oom_score_adj = false", "sandbox = 'pause:1'"}},
		{facts.Facts{}, []string{"SystemdCgroup = false", "restrict_oom_score_adj = true"}},
	} {
		config := file(t, Runtime(&tc.facts, "pause:1"), "/etc/containerd/config.toml")
		for _, want := range tc.want {
			if !strings.Contains(config, want) {
				t.Errorf("%+v: no %q in\n%s", tc.facts, want, config)
			}
		}
	}
}

func TestBalancersShareOneAddress(t *testing.T) {
	c := cluster()
	lbs := c.HostsWith(spec.RoleLoadBalancer)
	priorities := map[string]bool{}
	for _, h := range lbs {
		d := Balancer(c, h, &facts.Facts{Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "ens3"}}}, "CA")
		keepalived := file(t, d, "/etc/keepalived/keepalived.conf")
		for _, want := range []string{"interface ens3\n", "10.0.0.100/24 dev ens3\n", "unicast_src_ip " + h.Address + "\n", "nopreempt\n", "haproxy weight -254\n"} {
			if !strings.Contains(keepalived, want) {
				t.Errorf("%s: no %q in\n%s", h.Name, want, keepalived)
			}
		}
		for _, other := range lbs {
			if peer := "        " + other.Address + " min_ttl 255\n"; strings.Contains(keepalived, peer) == (other.Name == h.Name) {
				t.Errorf("%s: wrong peers in\n%s", h.Name, keepalived)
			}
		}
		_, after, _ := strings.Cut(keepalived, "    priority ")
		priority, _, _ := strings.Cut(after, "\n")
		priorities[priority] = true
		haproxy := file(t, d, "/etc/haproxy/haproxy.cfg")
		for _, cp := range c.HostsWith(spec.RoleControlPlane) {
			if strings.Count(haproxy, "server "+cp.Name+" "+cp.Address+":6443\n") != len(Pools) {
				t.Errorf("%s is not in every pool of\n%s", cp.Name, haproxy)
			}
		}
		if file(t, d, HAProxyCA) != "CA" {
			t.Error("HAProxy has another CA")
		}
	}
	if len(priorities) != len(lbs) {
		t.Errorf("balancers have equal priorities: %v", priorities)
	}
}

// TestOrderOfHostsChangesNothing on a load balancer: every changed file is a reload or a restart.
func TestOrderOfHostsChangesNothing(t *testing.T) {
	c := cluster()
	c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "lb-c", Address: "10.0.0.99", Roles: []string{spec.RoleLoadBalancer}})
	f := &facts.Facts{}
	before := map[string][]facts.File{}
	for _, h := range c.BalancerHosts() {
		before[h.Name] = Balancer(c, h, f, "CA").Files
	}
	slices.Reverse(c.Spec.Hosts)
	for _, h := range c.BalancerHosts() {
		for i, file := range Balancer(c, h, f, "CA").Files {
			if old := before[h.Name][i]; file.Content != old.Content {
				t.Errorf("%s on %s:\n%s\nwas\n%s", file.Path, h.Name, file.Content, old.Content)
			}
		}
	}
}

// TestAddedHostsReloadLittle: a worker changes nothing on a load balancer, a load balancer changes only who keepalived's
// peers are, and neither restarts a program.
func TestAddedHostsReloadLittle(t *testing.T) {
	c := cluster()
	lb := c.BalancerHosts()[0]
	f := &facts.Facts{}
	before := Balancer(c, lb, f, "CA").Files
	for _, tc := range []struct {
		role   string
		reload []string
	}{
		{spec.RoleWorker, nil},
		{spec.RoleLoadBalancer, []string{keepalivedUnit}},
		{spec.RoleControlPlane, []string{haproxyUnit}},
	} {
		more := cluster()
		more.Spec.Hosts = append([]spec.Host{{Name: "another", Address: "10.0.0.99", Roles: []string{tc.role}}}, more.Spec.Hosts...)
		var reload []string
		for i, file := range Balancer(more, lb, f, "CA").Files {
			if file.Content == before[i].Content {
				continue
			}
			reload = append(reload, file.Reload...)
			if len(file.Restart) > 0 {
				t.Errorf("a new %s restarts %v", tc.role, file.Restart)
			}
			if vrrp := priorityOf(file.Content); vrrp != priorityOf(before[i].Content) {
				t.Errorf("a new %s changes keepalived's priority to %s", tc.role, vrrp)
			}
		}
		if !slices.Equal(reload, tc.reload) {
			t.Errorf("a new %s reloads %v, want %v", tc.role, reload, tc.reload)
		}
	}
}

func priorityOf(keepalived string) string {
	_, after, _ := strings.Cut(keepalived, "    priority ")
	priority, _, _ := strings.Cut(after, "\n")
	return priority
}

func TestPrioritiesDiffer(t *testing.T) {
	var hosts []spec.Host
	for i := range 60 {
		hosts = append(hosts, spec.Host{Name: fmt.Sprintf("lb-%d", i)})
	}
	taken := map[int]string{}
	for _, h := range hosts {
		p := vrrpPriority(hosts, h.Name)
		if other := taken[p]; other != "" || p < 1 || p > 254 {
			t.Errorf("%s has the priority %d, as has %q", h.Name, p, other)
		}
		taken[p] = h.Name
	}
}

// TestHAProxyChecksEtcd: an API server whose etcd is dead or hangs leaves the first pool, and stays in the second while none has
// etcd. A check never closes a connection, and nothing but inter bounds it.
func TestHAProxyChecksEtcd(t *testing.T) {
	c := cluster()
	config := file(t, Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA"), HAProxyFile)
	at := -1
	for _, pool := range Pools {
		i := strings.Index(config, "\nbackend "+pool+"\n")
		if i <= at {
			t.Fatalf("the pool %s is not in its place:\n%s", pool, config)
		}
		at = i
	}
	uri := func(pool string) string {
		_, backend, _ := strings.Cut(config, "\nbackend "+pool+"\n")
		backend, _, _ = strings.Cut(backend, "\nbackend ")
		_, check, _ := strings.Cut(backend, "http-check send meth GET uri ")
		uri, _, _ := strings.Cut(check, " ")
		return uri
	}
	if with, without := uri(PoolWithEtcd), uri(PoolWithoutEtcd); with != "/readyz?exclude=etcd" || without != "/readyz?exclude=etcd&exclude=etcd-readiness" {
		t.Errorf("the checks ask for %q and %q", with, without)
	}
	for _, never := range []string{"shutdown-sessions", "\n    timeout check"} {
		if strings.Contains(config, never) {
			t.Errorf("%q in\n%s", never, config)
		}
	}
}

// TestHAProxyIsNotRoot: the process that every client talks to cannot read the cluster's keys, and it leaves a trace.
func TestHAProxyIsNotRoot(t *testing.T) {
	c := cluster()
	d := Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA")
	global, _, _ := strings.Cut(file(t, d, HAProxyFile), "\ndefaults\n")
	for _, want := range []string{"\n    user haproxy\n", "\n    group haproxy\n", "\n    chroot /var/lib/haproxy\n", "\n    log stderr "} {
		if !strings.Contains(global, want) {
			t.Errorf("no %q in\n%s", want, global)
		}
	}
	if unit := file(t, d, haproxyDropInFile); !strings.Contains(unit, "InaccessiblePaths=-/etc/kubernetes") {
		t.Errorf("the master process sees the cluster's keys:\n%s", unit)
	}
	byHand := file(t, PlainBalancer(c, c.BalancerHosts()[0]), HAProxyFile)
	if !strings.Contains(byHand, "\n    user haproxy\n") || !strings.Contains(byHand, "\n    chroot ") {
		t.Errorf("by hand:\n%s", byHand)
	}
}

// TestOtherClustersAreNotHeard: VRRP's router ID is a hash of the virtual IP, which two clusters of one network may share. They
// do not hear each other, because keepalived takes advertisements from its peers only, and uses no address of the router ID.
func TestOtherClustersAreNotHeard(t *testing.T) {
	c := cluster()
	config := file(t, Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA"), KeepalivedFile)
	if !strings.Contains(config, "vrrp_check_unicast_src") || !strings.Contains(config, "unicast_peer") || strings.Contains(config, "use_vmac") {
		t.Errorf("%s", config)
	}
}

// TestNoClientUsesUpAllConnections: a source has a limit, and the cluster's networks have a reserve.
func TestNoClientUsesUpAllConnections(t *testing.T) {
	c := cluster()
	for i := range 40 {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprintf("far-%d", i), Address: fmt.Sprintf("10.1.%d.5", i), Roles: []string{spec.RoleWorker}})
	}
	config := file(t, Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA"), HAProxyFile)
	for line := range strings.Lines(config) {
		if words := strings.Fields(line); len(words) > 60 {
			t.Errorf("HAProxy does not accept a line of %d words", len(words))
		}
	}
	for _, want := range []string{" 10.0.0.0/24", " 10.1.39.0/24", " " + c.Spec.Network.PodCIDR, "greedy sc0_conn_cur gt 500", "excessive sc0_conn_cur gt 1000", "fe_conn gt 6000", "maxconn 8000"} {
		if !strings.Contains(config, want) {
			t.Errorf("no %q in\n%s", want, config)
		}
	}
	for condition, rules := range map[string]int{"reject if greedy !cluster": 2, "reject if excessive": 2, "reject if crowded !cluster": 2, "sc-inc-gpc0(0) if greedy !cluster or excessive or crowded !cluster\n": 1, "track-sc0 src": 1} {
		if n := strings.Count(config, condition); n != rules {
			t.Errorf("%d rules %q in\n%s", n, condition, config)
		}
	}
	if n := strings.Count(config, "10.0.0.0/24"); n != 1 {
		t.Errorf("one network is listed %d times", n)
	}
}

// TestConnectionsAreConfigurable: all limits follow, and the unit allows as many files as the largest number needs, because
// systemd would have to restart HAProxy for more.
func TestConnectionsAreConfigurable(t *testing.T) {
	c := cluster()
	for n, want := range map[int][]string{
		0:                   {"maxconn 8000\n", "sc0_conn_cur gt 500\n", "sc0_conn_cur gt 1000\n", "fe_conn gt 6000\n"},
		spec.MinConnections: {"maxconn 1000\n", "sc0_conn_cur gt 62\n", "sc0_conn_cur gt 125\n", "fe_conn gt 750\n"},
		spec.MaxConnections: {"maxconn 100000\n", "sc0_conn_cur gt 6250\n", "sc0_conn_cur gt 12500\n", "fe_conn gt 75000\n"},
	} {
		c.Spec.LoadBalancer.MaxConnections = n
		d := Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA")
		for _, w := range want {
			if config := file(t, d, HAProxyFile); !strings.Contains(config, w) {
				t.Errorf("%d: no %q in\n%s", n, w, config)
			}
		}
		if unit := file(t, d, haproxyDropInFile); !strings.Contains(unit, "\nLimitNOFILE=204000\n") {
			t.Errorf("%s", unit)
		}
	}
}

// TestHAProxyAndAPIServerShareAPort: on a control plane HAProxy takes the virtual IP's connections and leaves the rest.
func TestHAProxyAndAPIServerShareAPort(t *testing.T) {
	c := cluster()
	if SharesAPIPort(c) {
		t.Error("balancers on hosts of their own share a port with nobody")
	}
	own := file(t, Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA"), "/etc/haproxy/haproxy.cfg")
	if !strings.Contains(own, "bind :6443 ") {
		t.Errorf("a balancer on a host of its own:\n%s", own)
	}
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
	for _, port := range []string{"6443", "8443"} {
		c.Spec.ControlPlane.Endpoint = "api.test.internal:" + port
		if SharesAPIPort(c) != (port == APIPort) {
			t.Errorf("port %s is shared: %v", port, SharesAPIPort(c))
		}
		for _, h := range c.HostsWith(spec.RoleControlPlane) {
			d := Balancer(c, h, &facts.Facts{}, "CA")
			if config := file(t, d, "/etc/haproxy/haproxy.cfg"); !strings.Contains(config, "bind 10.0.0.100:"+port+" ") || strings.Count(config, h.Address+":6443\n") != len(Pools) {
				t.Errorf("%s:\n%s", h.Name, config)
			}
			if d.Sysctls["net.ipv4.ip_nonlocal_bind"] != "1" || !strings.Contains(file(t, d, balancerSysctls), "ip_nonlocal_bind = 1") {
				t.Errorf("HAProxy on %s cannot listen on an address that another host has", h.Name)
			}
		}
	}
	c.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal}
	if SharesAPIPort(c) || len(Lacks(c, c.Spec.Hosts[0], &facts.Facts{Lacks: []string{"haproxy"}})) > 0 {
		t.Error("the user's own balancer needs nothing of the control planes")
	}
	if hosts := file(t, Hosts(c), "/etc/hosts"); strings.Contains(hosts, "api.test.internal") {
		t.Errorf("an address that only DNS knows is pinned:\n%s", hosts)
	}
}

func TestMissing(t *testing.T) {
	d := facts.Desired{Files: []facts.File{{Path: "/a", Content: "x"}, {Path: "/b", Content: "y"}}, Enable: []string{"containerd.service", "kubelet.service"}}
	f := &facts.Facts{Files: map[string]string{"/a": d.Files[0].Sum(), "/b": "other"}, Units: map[string]string{"containerd.service": "failed", "kubelet.service": "inactive"}}
	if got := Missing(d, f); !slices.Equal(got, []string{"/b differs", "containerd.service is failed"}) {
		t.Errorf("%q", got)
	}
	d.Files[0].Restart, f.Pending = []string{"containerd.service"}, []string{"containerd.service", "haproxy.service"}
	if got := Missing(d, f); !slices.Equal(got, []string{"/b differs", "containerd.service has not loaded its files", "containerd.service is failed"}) {
		t.Errorf("after an interrupted step: %q", got)
	}
	f.Pending = nil
	f.Kubernetes.KubeletConfig = true
	if got := Missing(d, f); len(got) != 3 {
		t.Errorf("a configured kubelet that does not run is not missing: %q", got)
	}
	d = facts.Desired{Self: SelfPath}
	for found, want := range map[facts.Copy][2]int{"": {}, facts.SameCopy: {}, facts.OtherCopy: {1, 0}, facts.MissingCopy: {1, 1}} {
		f := &facts.Facts{Self: found}
		if missing, drift := Missing(d, f), Drift(d, f); len(missing) != want[0] || len(drift) != want[1] {
			t.Errorf("a copy of quorate that is %q: %q, drift %q", found, missing, drift)
		}
	}
}

// TestMissingSettings has everything in place that TestMissing looks at, and spoils what is set beside contents and states.
func TestMissingSettings(t *testing.T) {
	d := facts.Desired{
		Files:   []facts.File{{Path: "/etc/a", Content: "x", Mode: 0o600}, {Path: "/etc/hosts", Block: "b", Content: "y"}},
		Modules: []string{"br_netfilter", "overlay"},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"},
		Enable:  []string{"containerd.service"},
	}
	host := func() *facts.Facts {
		return &facts.Facts{
			Files: map[string]string{"/etc/a": d.Files[0].Sum(), "/etc/hosts#b": d.Files[1].Sum()},
			Modes: map[string]facts.Mode{"/etc/a": {Bits: 0o600, Owner: "root", Group: "root"}, "/etc/hosts": {Bits: 0o640, Owner: "admin", Group: "admin"}},
			Units: map[string]string{"containerd.service": "active"}, Enabled: map[string]string{"containerd.service": "enabled"},
			// A kernel without bridge netfilter has no such setting.
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
			Modules: map[string]facts.Feature{"br_netfilter": facts.Unknown, "overlay": facts.Present},
		}
	}
	if got := Missing(d, host()); len(got) > 0 {
		t.Fatalf("nothing is missing: %q", got)
	}
	for want, spoil := range map[string]func(*facts.Facts){
		"/etc/a has mode 644 instead of 600":                                func(f *facts.Facts) { f.Modes["/etc/a"] = facts.Mode{Bits: 0o644, Owner: "root", Group: "root"} },
		"/etc/a belongs to alice:users instead of root:root":                func(f *facts.Facts) { f.Modes["/etc/a"] = facts.Mode{Bits: 0o600, Owner: "alice", Group: "users"} },
		"net.ipv4.ip_forward is 0 instead of 1":                             func(f *facts.Facts) { f.Sysctls["net.ipv4.ip_forward"] = "0" },
		"net.bridge.bridge-nf-call-iptables is 0 instead of 1":              func(f *facts.Facts) { f.Sysctls["net.bridge.bridge-nf-call-iptables"] = "0" },
		"the kernel module br_netfilter is not loaded":                      func(f *facts.Facts) { f.Modules["br_netfilter"] = facts.Loadable },
		"containerd.service is disabled: it would not start after a reboot": func(f *facts.Facts) { f.Enabled["containerd.service"] = "disabled" },
		"containerd.service is masked: it would not start after a reboot":   func(f *facts.Facts) { f.Enabled["containerd.service"] = "masked" },
		"/etc/a is missing": func(f *facts.Facts) { delete(f.Files, "/etc/a") },
	} {
		f := host()
		spoil(f)
		if got := Missing(d, f); !slices.Equal(got, []string{want}) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f := host()
	f.Modules["br_netfilter"], f.Container = facts.Loadable, "lxc"
	if got := Missing(d, f); len(got) > 0 {
		t.Errorf("a container cannot load modules: %q", got)
	}
}

// TestMissingClaimsNothingUnknown: what could not be read is neither missing nor wrong.
func TestMissingClaimsNothingUnknown(t *testing.T) {
	d := facts.Desired{Files: []facts.File{{Path: "/etc/a", Content: "x"}, {Path: "/etc/b", Content: "x"}}, Enable: []string{"containerd.service"}}
	f := &facts.Facts{Unknown: map[string]string{"/etc/a": "input/output error", facts.UnitsPart: "no answer within 2s"}}
	if got := Missing(d, f); !slices.Equal(got, []string{"/etc/b is missing"}) {
		t.Errorf("%q", got)
	}
}

// TestRestartsWithoutUnits: where systemd did not answer, a unit may run and may not. What runs restarts or reloads, and what does not starts.
func TestRestartsWithoutUnits(t *testing.T) {
	d := facts.Desired{
		Files:  []facts.File{{Path: "/etc/a", Content: "x", Restart: []string{"a.service"}}, {Path: "/etc/b", Content: "x", Reload: []string{"b.service"}}},
		Enable: []string{"a.service", "b.service", "c.timer", "kubelet.service"},
	}
	f := &facts.Facts{Unknown: map[string]string{facts.UnitsPart: "no answer within 2s"}}
	restarts, starts := Restarts(d, f)
	if !slices.Equal(restarts, []string{"a.service"}) || !slices.Equal(starts, []string{"a.service", "b.service", "c.timer"}) {
		t.Errorf("restarts %q, starts %q", restarts, starts)
	}
	if got := Reloads(d, f); !slices.Equal(got, []string{"b.service"}) {
		t.Errorf("reloads %q", got)
	}
}

// TestRequestAsksForAllThatIsCompared would fail when a file was compared that no host is asked about: it would then be
// missing forever.
func TestRequestAsksForAllThatIsCompared(t *testing.T) {
	c := cluster()
	c.Spec.Backup = spec.Backup{Directory: "/srv/backups", Every: "6h"}
	r := Request(c)
	for _, path := range append([]string{facts.BackupScheduleFile}, BackupUnitFiles...) { // also when the spec has none any more
		if !slices.Contains(Request(cluster()).Files, path) {
			t.Errorf("nobody asks for %s", path)
		}
	}
	for _, d := range []facts.Desired{Hosts(c), Runtime(&facts.Facts{}, "p"), ControlPlane(c), Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA"),
		Balancer(c, c.HostsWith(spec.RoleControlPlane)[0], &facts.Facts{}, "CA"),
		Etcd(c.Spec.Hosts[0], &facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true}}, facts.EtcdTimers{})} {
		for name := range d.Sysctls {
			if !slices.Contains(r.Sysctls, name) {
				t.Errorf("no host is asked for %s", name)
			}
		}
		for _, m := range d.Modules {
			if !slices.Contains(r.Modules, m) {
				t.Errorf("no host is asked for the module %s", m)
			}
		}
		for _, f := range d.Files {
			if !slices.Contains(r.Files, f.Key()) {
				t.Errorf("nobody asks for %s", f.Key())
			}
		}
		for _, u := range d.Enable {
			if !slices.Contains(r.Units, u) {
				t.Errorf("nobody asks for %s", u)
			}
		}
	}
}

func TestPlainBalancerNeedsNoQuorate(t *testing.T) {
	c := cluster()
	h := c.HostsWith(spec.RoleLoadBalancer)[0]
	d := PlainBalancer(c, h)
	haproxy, keepalived := file(t, d, HAProxyFile), file(t, d, KeepalivedFile)
	for text, wants := range map[string][]string{
		haproxy:    {"default-server check check-ssl verify none check-sni api.test.internal\n", "/readyz?exclude=etcd"},
		keepalived: {"script " + haproxyScript + "\n", "track_script {", "interface INTERFACE\n", "10.0.0.100/PREFIX dev INTERFACE\n"},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}
	for _, f := range d.Files {
		for _, wrong := range []string{HAProxyCA, "quorate", WatchdogUnit, SelfPath} {
			if strings.Contains(strings.NewReplacer(HAProxySocket, "", HAProxyMasterSocket, "").Replace(f.Content), wrong) {
				t.Errorf("%s speaks of %s", f.Path, wrong)
			}
		}
	}
}

// TestUnitsAndChecksUseTheSameProgram: a copy of HAProxy in /usr/local must neither check a configuration that another copy runs
// with, nor count as the one that the unit runs.
func TestUnitsAndChecksUseTheSameProgram(t *testing.T) {
	c := cluster()
	h, _ := c.Host("lb-a")
	d := Balancer(c, h, &facts.Facts{}, "CA")
	for _, program := range balancerPrograms {
		path := ProgramPath(program)
		if path != "/usr/sbin/"+program {
			t.Errorf("%s is %s", program, path)
		}
		if !slices.ContainsFunc(d.Files, func(f facts.File) bool { return len(f.Check) > 0 && f.Check[0] == path }) {
			t.Errorf("nothing is checked with %s", path)
		}
		if !slices.ContainsFunc(d.Files, func(f facts.File) bool {
			return strings.HasPrefix(f.Path, "/etc/systemd/system/"+program+".service.d/") && strings.Contains(f.Content, "="+path+" ")
		}) {
			t.Errorf("no unit runs %s", path)
		}
	}
	for _, program := range nodePrograms {
		if ProgramPath(program) != program { // the kubelet calls it by its name
			t.Errorf("%s is %s", program, ProgramPath(program))
		}
	}
}
