package reset

import (
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// TestOnlyTheClustersRulesAreRemoved runs in a network namespace of its own.
func TestOnlyTheClustersRulesAreRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	defer ns.Close()
	conn, err := nftables.New()
	if err != nil {
		t.Skipf("no nftables: %v", err)
	}
	accept := nftables.ChainPolicyAccept
	// As iptables makes it: base chains of its own, which lead to the chains of flannel and kube-proxy.
	base := func(table *nftables.Table, name string, leadTo ...string) {
		c := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept})
		for _, to := range leadTo {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: to}}})
		}
	}
	chain := func(table *nftables.Table, name string) {
		c := conn.AddChain(&nftables.Chain{Name: name, Table: table})
		conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Counter{}}})
	}
	table := func(name string) *nftables.Table {
		return conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	}
	nat := table("nat")
	for _, c := range []string{"FLANNEL-POSTRTG", "KUBE-POSTROUTING", "DOCKER"} {
		chain(nat, c)
	}
	base(nat, "POSTROUTING", "FLANNEL-POSTRTG", "DOCKER", "KUBE-POSTROUTING")
	mangle := table("mangle")
	chain(mangle, "KUBE-KUBELET-CANARY")
	base(mangle, "POSTROUTING")
	chain(table("kube-proxy"), "services")
	chain(table("mine"), "input")
	base(table("empty"), "postrouting")
	if err := conn.Flush(); err != nil {
		t.Skipf("no nftables: %v", err)
	}
	for _, name := range []string{"cni0", "flannel.1", "eth0"} {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Skipf("no bridges: %v", err)
		}
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.0.0.11/24", "10.0.0.100/24"} {
		address, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(eth, address); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(eth); err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{"10.244.1.0/24", "192.168.7.0/24"} {
		_, network, err := net.ParseCIDR(dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: network, Gw: net.ParseIP("10.0.0.12")}); err != nil {
			t.Fatal(err)
		}
	}

	removed, err := clearNetwork(request)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"interface cni0", "interface flannel.1", "address 10.0.0.100", "route 10.244.1.0/24", "table kube-proxy", "chain nat FLANNEL-POSTRTG", "chain nat KUBE-POSTROUTING", "table mangle"} {
		if !slices.Contains(removed, want) {
			t.Errorf("%q is not among %q", want, removed)
		}
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, l := range tables {
		left = append(left, l.Name)
	}
	slices.Sort(left)
	if got := strings.Join(left, " "); got != "empty mine nat" {
		t.Errorf("tables are left: %s", got)
	}
	post := &nftables.Chain{Name: "POSTROUTING", Table: nat}
	if rules, err := conn.GetRules(nat, post); err != nil || len(rules) != 1 {
		t.Errorf("rules in nat's base chain: %d, %v", len(rules), err)
	}
	if _, err := netlink.LinkByName("eth0"); err != nil {
		t.Error(err)
	}
	if addresses, err := netlink.AddrList(eth, netlink.FAMILY_V4); err != nil || len(addresses) != 1 {
		t.Errorf("addresses: %v, %v", addresses, err)
	}
	if again, err := clearNetwork(request); err != nil || len(again) > 0 {
		t.Errorf("a second time: %q, %v", again, err)
	}
}
