package components

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// fakeKernel has tables of rules and an overlay.
type fakeKernel struct {
	tables map[string]map[string]chain
	err    error
}

func (k fakeKernel) chains(family, table string) (map[string]chain, error) {
	return k.tables[family+" "+table], k.err
}

func (k fakeKernel) overlay(c flannelConfig) (facts.Answer, *facts.Overlay) {
	return facts.Answer{OK: true}, &facts.Overlay{Backend: c.Backend.Type}
}

func TestKubeProxy(t *testing.T) {
	whole := map[string]map[string]chain{"ip kube-proxy": {"nat-prerouting": {true, 1}, "services": {false, 2}, "firewall-check": {false, 0}}}
	port, _ := serve(t, false, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/livez" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	old, _ := serve(t, false, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	config := func(mode, port string) string {
		return "mode: " + mode + "\nhealthzBindAddress: 0.0.0.0:" + port + "\nbindAddress: 0.0.0.0\n"
	}
	for name, tc := range map[string]struct {
		config      string
		kernel      fakeKernel
		kind, words string
	}{
		"well":            {config("nftables", port), fakeKernel{tables: whole}, "ok", ""},
		"before 1.28":     {config("nftables", old), fakeKernel{tables: whole}, "ok", ""},
		"down":            {config("nftables", closed(t)), fakeKernel{tables: whole}, "problem", "nothing listens"},
		"ruleset flushed": {config("nftables", port), fakeKernel{}, "problem", "the nftables table ip kube-proxy is missing"},
		"table flushed":   {config("nftables", port), fakeKernel{tables: map[string]map[string]chain{"ip kube-proxy": {"nat-prerouting": {true, 0}, "services": {false, 2}}}}, "problem", "the chain nat-prerouting of the nftables table ip kube-proxy has no rules"},
		"chain flushed":   {config("nftables", port), fakeKernel{tables: map[string]map[string]chain{"ip kube-proxy": {"nat-prerouting": {true, 1}, "services": {false, 0}}}}, "problem", "the chain services"},
		"chain deleted":   {config("nftables", port), fakeKernel{tables: map[string]map[string]chain{"ip kube-proxy": {"nat-prerouting": {true, 1}}}}, "problem", "the chain services of the nftables table ip kube-proxy is missing"},
		"hooks deleted":   {config("nftables", port), fakeKernel{tables: map[string]map[string]chain{"ip kube-proxy": {"services": {false, 1}}}}, "problem", "no base chain"},
		"both families": {config("nftables", port) + "clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\n", fakeKernel{tables: map[string]map[string]chain{
			"ip kube-proxy": whole["ip kube-proxy"], "ip6 kube-proxy": whole["ip kube-proxy"]}}, "ok", ""},
		"IPv6 flushed":        {config("nftables", port) + "clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\n", fakeKernel{tables: whole}, "problem", "the nftables table ip6 kube-proxy is missing"},
		"kernel unreadable":   {config("nftables", port), fakeKernel{err: errors.New("no permission")}, "unknown", "no permission"},
		"its own iptables":    {config("iptables", port), fakeKernel{}, "ok", ""},
		"not a configuration": {"mode: [", fakeKernel{}, "unknown", "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.kernel = tc.kernel
			h.runs(42, 2, "/", "/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf")
			h.put("/proc/42/root/var/lib/kube-proxy/config.conf", tc.config)
			is(t, name, h.ask(facts.KubeProxy).Answer, tc.kind, tc.words)
		})
	}
	is(t, "no process", newHost(t).ask(facts.KubeProxy).Answer, "problem", "kube-proxy does not run")
}

func TestFlannel(t *testing.T) {
	const config = `{"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}`
	whole := fakeKernel{tables: map[string]map[string]chain{"ip flannel-ipv4": {"forward": {true, 2}, "postrtg": {true, 6}}}}
	forwardOnly := fakeKernel{tables: map[string]map[string]chain{"ip flannel-ipv4": {"forward": {true, 2}}}}
	well, _ := serve(t, false, func(int64, http.ResponseWriter, *http.Request) {})
	sick, _ := serve(t, false, func(_ int64, w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the route to 10.244.3.0/24 is missing", http.StatusServiceUnavailable)
	})
	for name, tc := range map[string]struct {
		args        []string
		config      string
		kernel      fakeKernel
		kind, words string
	}{
		"well":              {[]string{"--ip-masq", "--kube-subnet-mgr"}, config, whole, "ok", ""},
		"reports health":    {[]string{"--ip-masq", "--healthz-port=" + well}, config, whole, "ok", ""},
		"reports a problem": {[]string{"--ip-masq", "--healthz-port=" + sick}, config, whole, "problem", "10.244.3.0/24 is missing"},
		"flushed":           {[]string{"--ip-masq"}, config, fakeKernel{}, "problem", "table ip flannel-ipv4 is missing"},
		"half flushed":      {[]string{"--ip-masq"}, config, forwardOnly, "problem", "the chain postrtg"},
		"no masquerading":   {nil, config, forwardOnly, "ok", ""},
		"with iptables":     {[]string{"--ip-masq"}, strings.Replace(config, "true", "false", 1), fakeKernel{}, "ok", ""},
		"no configuration":  {nil, "{", whole, "unknown", "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.kernel = tc.kernel
			h.runs(42, 2, "/", append([]string{"/opt/bin/flanneld"}, tc.args...)...)
			h.put("/proc/42/root/etc/kube-flannel/net-conf.json", tc.config)
			h.put("/proc/42/root/run/flannel/subnet.env", "x")
			is(t, name, h.ask(facts.Flannel).Answer, tc.kind, tc.words)
		})
	}
	h := newHost(t)
	is(t, "no process", h.ask(facts.Flannel).Answer, "problem", "flanneld does not run")
	h.runs(42, 2, "/", "/opt/bin/flanneld")
	h.put("/proc/42/root/etc/kube-flannel/net-conf.json", config)
	is(t, "no subnet", h.ask(facts.Flannel).Answer, "problem", "subnet.env is missing")
}

// TestFlannelReport judges what Quorate's flanneld writes.
func TestFlannelReport(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) string { return now.Add(-d).Format(time.RFC3339) }
	const restored = `{"kind": "rules", "objects": ["chain forward"], "count": 1, "times": 12, "lastSeen": "2026-11-26T11:59:00Z", "restored": "2026-11-26T11:59:01Z"}`
	const remains = `{"kind": "routes", "objects": ["10.244.3.0/24"], "count": 3, "times": 1, "lastSeen": "2026-11-26T11:59:50Z", "error": "no such device"}`
	for name, tc := range map[string]struct{ report, kind, words string }{
		"whole":        {`{"lastSync": "` + ago(20*time.Second) + `", "resyncSeconds": 30, "problems": []}`, "ok", ""},
		"restored":     {`{"lastSync": "` + ago(20*time.Second) + `", "resyncSeconds": 30, "problems": [` + restored + `]}`, "ok", ""},
		"remains":      {`{"lastSync": "` + ago(20*time.Second) + `", "resyncSeconds": 30, "problems": [` + restored + `,` + remains + `]}`, "problem", "flanneld cannot restore routes: 10.244.3.0/24; and 2 more (no such device)"},
		"stale":        {`{"lastSync": "` + ago(100*time.Second) + `", "resyncSeconds": 30, "syncError": "no permission", "problems": []}`, "problem", "for 1m40s: no permission"},
		"never synced": {`{"resyncSeconds": 30, "problems": []}`, "problem", "has never compared"},
		"damaged":      {`{`, "unknown", "its report could not be read"},
	} {
		path := filepath.Join(t.TempDir(), "health.json")
		if err := os.WriteFile(path, []byte(tc.report), 0o600); err != nil {
			t.Fatal(err)
		}
		answer, all := judgeReport(path, now)
		is(t, name, answer, tc.kind, tc.words)
		if strings.Contains(tc.report, `"restored"`) && (len(all) != 1 || all[0].What != "rules: chain forward" || all[0].Times != 12) {
			t.Errorf("%s: restored %+v", name, all)
		}
	}
	answer, _ := judgeReport(filepath.Join(t.TempDir(), "missing"), now)
	is(t, "a flanneld without a report", answer, "ok", "")

	h := newHost(t)
	h.runs(42, 2, "/", "/opt/bin/flanneld")
	h.put("/proc/42/root/etc/kube-flannel/net-conf.json", `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`)
	h.put("/proc/42/root/run/flannel/subnet.env", "x")
	h.put("/proc/42/root/run/flannel/health.json", `{"lastSync": "2020-01-01T00:00:00Z", "resyncSeconds": 30, "problems": []}`)
	h.kernel = fakeKernel{}
	is(t, "a flanneld that hangs", h.ask(facts.Flannel).Answer, "problem", "has not compared")
}

// inNamespace gives the test a network of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	own, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("a network namespace needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(before); err != nil {
			t.Error(err)
		}
		before.Close()
		own.Close()
	})
}

// TestRulesInTheKernel flushes real rules.
func TestRulesInTheKernel(t *testing.T) {
	inNamespace(t)
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Name: "flannel-ipv4", Family: nftables.TableFamilyIPv4})
	forward := conn.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	jumped := conn.AddChain(&nftables.Chain{Name: "jumped-to", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "jumped-to"}}})
	conn.AddRule(&nftables.Rule{Table: table, Chain: jumped, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}})
	// The same chain in another table must not be mistaken for it.
	other := conn.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyIPv4})
	conn.AddChain(&nftables.Chain{Name: "postrtg", Table: other})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	a := &attempt{reader: newReader("/", "/proc")}
	is(t, "whole", a.whole("ip", "flannel-ipv4", "forward", "jumped-to"), "ok", "")
	is(t, "a chain of another table", a.whole("ip", "flannel-ipv4", "postrtg"), "problem", "the chain postrtg of the nftables table ip flannel-ipv4 is missing")
	is(t, "another family", a.whole("ip6", "flannel-ipv4"), "problem", "the nftables table ip6 flannel-ipv4 is missing")
	conn.FlushChain(jumped)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	is(t, "a chain that must have rules", a.whole("ip", "flannel-ipv4", "jumped-to"), "problem", "the chain jumped-to")
	is(t, "a chain that need not", a.whole("ip", "flannel-ipv4"), "ok", "")
	conn.FlushChain(forward)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	is(t, "a chain that the kernel enters", a.whole("ip", "flannel-ipv4"), "problem", "the chain forward of the nftables table ip flannel-ipv4 has no rules")
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	is(t, "flushed", a.whole("ip", "flannel-ipv4"), "problem", "is missing")
}

// TestOverlayInTheKernel builds what flannel's vxlan backend builds for two other nodes, and takes it apart.
func TestOverlayInTheKernel(t *testing.T) {
	inNamespace(t)
	var config flannelConfig
	config.Network, config.Backend.Type = "10.244.0.0/16", "vxlan"
	look := func() (facts.Answer, *facts.Overlay) { return netfilter{}.overlay(config) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, _ := look()
	is(t, "nothing there", a, "problem", "the interface flannel.1 is missing")

	vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472}
	if err := netlink.LinkAdd(vxlan); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("the kernel has no vxlan")
	} else {
		must(err)
	}
	a, _ = look()
	is(t, "down", a, "problem", "flannel.1 is down")
	must(netlink.LinkSetUp(vxlan))
	a, _ = look()
	is(t, "no address", a, "problem", "flannel.1 has no address")
	must(netlink.AddrAdd(vxlan, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("10.244.0.0"), Mask: net.CIDRMask(32, 32)}}))

	type node struct{ gw, mac, host string }
	mac := func(n node) net.HardwareAddr {
		m, err := net.ParseMAC(n.mac)
		must(err)
		return m
	}
	hop := func(n node) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: vxlan.Index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: net.ParseIP(n.gw), HardwareAddr: mac(n)}
	}
	end := func(n node) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: vxlan.Index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: net.ParseIP(n.host), HardwareAddr: mac(n)}
	}
	for _, n := range []node{{"10.244.1.0", "02:00:00:00:00:01", "198.18.0.12"}, {"10.244.2.0", "02:00:00:00:00:02", "198.18.0.13"}} {
		must(netlink.NeighAdd(hop(n)))
		must(netlink.NeighAppend(end(n)))
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: vxlan.Index, Gw: net.ParseIP(n.gw), Dst: &net.IPNet{IP: net.ParseIP(n.gw).To4(), Mask: net.CIDRMask(24, 32)}, Flags: int(netlink.FLAG_ONLINK)}))
	}
	a, o := look()
	is(t, "whole", a, "ok", "")
	if want := []facts.PodRoute{{Subnet: "10.244.1.0/24", Node: "198.18.0.12"}, {Subnet: "10.244.2.0/24", Node: "198.18.0.13"}}; o == nil || o.Backend != "vxlan" || !slices.Equal(o.Routes, want) {
		t.Fatalf("%+v", o)
	}

	// A dual-stack cluster has an interface for each family.
	config.EnableIPv6, config.IPv6Network = true, "fd00:10:244::/56"
	a, _ = look()
	is(t, "no second interface", a, "problem", "the interface flannel-v6.1 is missing")
	six := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel-v6.1"}, VxlanId: 1, Port: 8472, SrcAddr: net.ParseIP("2001:db8::1")}
	must(netlink.LinkAdd(six))
	must(netlink.LinkSetUp(six))
	a, _ = look()
	is(t, "only the kernel's own address", a, "problem", "flannel-v6.1 has no address")
	must(netlink.AddrAdd(six, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00:10:244::"), Mask: net.CIDRMask(128, 128)}}))
	a, _ = look()
	is(t, "both", a, "ok", "")

	second := node{"10.244.2.0", "02:00:00:00:00:02", "198.18.0.13"}
	must(netlink.NeighDel(end(second)))
	if _, o = look(); o == nil || o.Routes[1].Node != "" || !strings.Contains(o.Routes[1].Lacks, "10.244.2.0") {
		t.Errorf("without its host: %+v", o)
	}
	must(netlink.NeighAppend(end(second)))
	must(netlink.NeighDel(hop(second)))
	if _, o = look(); o == nil || o.Routes[1].Lacks == "" {
		t.Errorf("without its hardware address: %+v", o)
	}
	must(netlink.RouteDel(&netlink.Route{LinkIndex: vxlan.Index, Dst: &net.IPNet{IP: net.ParseIP("10.244.2.0").To4(), Mask: net.CIDRMask(24, 32)}}))
	if _, o = look(); o == nil || len(o.Routes) != 1 {
		t.Errorf("without its route: %+v", o)
	}
}
