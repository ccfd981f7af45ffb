package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"

	"components.quorate.dev/flannel/health"
)

// namespace moves the test to a network namespace of its own, and returns how to start goroutines there.
func namespace(t *testing.T) (start func(func())) {
	t.Helper()
	needsRoot(t)
	runtime.LockOSThread() // and never unlocked: this thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return func(f func()) {
		go func() {
			runtime.LockOSThread()
			if err := netns.Set(ns); err != nil {
				t.Error(err)
			}
			f()
		}()
	}
}

// step is a subtest on the same thread. t.Run would start it on another one, in the machine's own network namespace.
func step(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Log(name)
	f(t)
}

// node1 is a node of the overlay with two peers, as flannel's backend leaves it.
type node1 struct {
	overlay *overlay
	link    netlink.Link
}

func vxlanLease(t *testing.T, cidr, public, mac string) lease.Lease {
	t.Helper()
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(vxlanData{VNI: 1, VtepMAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	if n.IP.To4() == nil {
		return lease.Lease{EnableIPv6: true, IPv6Subnet: ip.FromIP6Net(n), Attrs: lease.LeaseAttrs{BackendType: "vxlan", PublicIPv6: ip.FromIP6(net.ParseIP(public)), BackendV6Data: data}}
	}
	return lease.Lease{EnableIPv4: true, Subnet: ip.FromIPNet(n), Attrs: lease.LeaseAttrs{BackendType: "vxlan", PublicIP: ip.FromIP(net.ParseIP(public)), BackendData: data}}
}

// values are addresses of a family in these tests.
type values struct {
	subnet, public [4]string // by node; the first is not used
}

var valuesOf = map[ipFamily]values{
	ipv4Family: {[4]string{1: "10.244.1.0", "10.244.2.0", "10.244.3.0"}, [4]string{1: "192.0.2.1", "192.0.2.2", "192.0.2.3"}},
	ipv6Family: {[4]string{1: "fd00:10:244:1::", "fd00:10:244:2::", "fd00:10:244:3::"}, [4]string{1: "2001:db8::1", "2001:db8::2", "2001:db8::3"}},
}

func (f ipFamily) subnetLen() string {
	if f == ipv6Family {
		return "/64"
	}
	return "/24"
}

func newNode(t *testing.T, family ipFamily) node1 {
	t.Helper()
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	v := valuesOf[family]
	vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: family.links + "1", HardwareAddr: mac, MTU: 1430}, VxlanId: 1, Port: 8472, SrcAddr: net.ParseIP(v.public[1])}
	if err := netlink.LinkAdd(vxlan); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(vxlan.Name)
	if err != nil {
		t.Fatal(err)
	}
	book := &leaseBook{}
	own := vxlanLease(t, v.subnet[1]+family.subnetLen(), v.public[1], mac.String())
	for _, l := range []lease.Lease{
		own,
		vxlanLease(t, v.subnet[2]+family.subnetLen(), v.public[2], "02:00:00:00:00:02"),
		vxlanLease(t, v.subnet[3]+family.subnetLen(), v.public[3], "02:00:00:00:00:03"),
		{Subnet: ip.IP4Net{IP: 1, PrefixLen: 24}, EnableIPv4: true, Attrs: lease.LeaseAttrs{BackendType: "host-gw"}}, // no business of the overlay's
	} {
		book.note([]lease.Event{{Type: lease.EventAdded, Lease: l}})
	}
	for subnet, l := range book.leases {
		l.since = time.Now().Add(-settling)
		book.leases[subnet] = l
	}
	o, err := newOverlay(family, &subnet.Config{}, own, book)
	if err != nil {
		t.Fatal(err)
	}
	return node1{o, link}
}

// problems is what a part finds, in short.
func problems(t *testing.T, p part) []string {
	t.Helper()
	faults, err := p(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range faults {
		out = append(out, f.objects...)
	}
	return out
}

func restoreAll(t *testing.T, p part) {
	t.Helper()
	faults, err := p(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if err := f.restore(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if left := problems(t, p); left != nil {
		t.Fatalf("after restoring everything: %q", left)
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

func readReport(t *testing.T, file string) health.Report {
	t.Helper()
	var r health.Report
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOverlayComesBack(t *testing.T)     { overlayComesBack(t, ipv4Family) }
func TestIPv6OverlayComesBack(t *testing.T) { overlayComesBack(t, ipv6Family) }

// What other programs remove from the kernel comes back on the event, long before the next resync.
func overlayComesBack(t *testing.T, family ipFamily) {
	start := namespace(t)
	n := newNode(t, family)
	v, name, find := valuesOf[family], family.links+"1", family.neighbors+" entry "
	restoreAll(t, n.overlay.compare)
	file := filepath.Join(t.TempDir(), "health.json")
	k := &keeper{resync: time.Hour, pause: time.Millisecond, file: file,
		watch: watched{overlays: []*overlay{n.overlay}}.watch, parts: []part{n.overlay.compare}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	start(func() { k.run(ctx); close(ended) })
	defer func() { cancel(); <-ended }()
	eventually(t, "the first report", func() bool { _, err := os.Stat(file); return err == nil })

	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	routes := func() []netlink.Route {
		all, err := netlink.RouteList(n.link, family.netlink)
		must(err)
		return slices.DeleteFunc(all, func(r netlink.Route) bool { return r.Gw == nil })
	}
	neighbors := func(family int) []netlink.Neigh {
		all, err := netlink.NeighList(n.link.Attrs().Index, family)
		must(err)
		return all
	}
	for _, c := range []struct {
		name string
		lose func()
		want []string // in the report, after the kinds
	}{
		{"ip route flush", func() {
			if len(routes()) != 2 {
				t.Fatalf("routes at first: %v", routes())
			}
			for _, r := range routes() {
				must(netlink.RouteDel(&r))
			}
		}, []string{"routes: route to " + v.subnet[2] + family.subnetLen() + " (node " + v.public[2] + ")", "routes: route to " + v.subnet[3] + family.subnetLen() + " (node " + v.public[3] + ")"}},
		{"ip neigh flush", func() {
			for _, e := range neighbors(family.netlink) {
				if e.State&netlink.NUD_PERMANENT != 0 {
					must(netlink.NeighDel(&e))
				}
			}
		}, []string{"neighbors: " + find + v.subnet[2] + " 02:00:00:00:00:02", "neighbors: " + find + v.subnet[3] + " 02:00:00:00:00:03"}},
		{"bridge fdb del", func() {
			for _, e := range neighbors(unix.AF_BRIDGE) {
				e.Family, e.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
				must(netlink.NeighDel(&e))
			}
		}, []string{"neighbors: forwarding entry 02:00:00:00:00:02 to " + v.public[2], "neighbors: forwarding entry 02:00:00:00:00:03 to " + v.public[3]}},
		{"ip addr flush", func() {
			must(netlink.AddrDel(n.link, &netlink.Addr{IPNet: n.overlay.address}))
		}, []string{"interface: " + name + ": its address " + n.overlay.address.String() + " is missing"}},
		{"ip link set down", func() { must(netlink.LinkSetDown(n.link)) },
			[]string{"interface: " + name + ": down", "routes: route to " + v.subnet[2] + family.subnetLen()}},
		{"another MAC address", func() {
			must(netlink.LinkSetHardwareAddr(n.link, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
		}, []string{"interface: " + name + ": its MAC address is not 02:00:00:00:00:01"}},
	} {
		step(t, c.name, func(t *testing.T) {
			begun := time.Now()
			c.lose()
			reported := func() (out []string) {
				for _, p := range readReport(t, file).Problems {
					if p.Restored == nil || p.LastSeen.Before(begun) {
						continue
					}
					for _, o := range p.Objects {
						out = append(out, string(p.Kind)+": "+o)
					}
				}
				return out
			}
			eventually(t, fmt.Sprint("the report of ", c.want), func() bool {
				got := reported()
				return !slices.ContainsFunc(c.want, func(w string) bool {
					return !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) })
				})
			})
			eventually(t, "everything to be restored", func() bool { return problems(t, n.overlay.compare) == nil })
		})
	}
	if r := readReport(t, file); len(r.Remaining()) != 0 || r.SyncError != "" {
		t.Errorf("at the end: %+v", r)
	}
}

// Events do not tell all: the resync finds an entry that was replaced.
func TestResyncFindsWhatNoEventTells(t *testing.T) {
	start := namespace(t)
	n := newNode(t, ipv4Family)
	restoreAll(t, n.overlay.compare)
	k := &keeper{resync: 20 * time.Millisecond, file: filepath.Join(t.TempDir(), "health.json"), parts: []part{n.overlay.compare},
		watch: func(func()) (func(), error) { return nil, errors.New("no sockets today") }}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	start(func() { k.run(ctx); close(ended) })
	defer func() { cancel(); <-ended }()
	wrong := netlink.Neigh{LinkIndex: n.link.Attrs().Index, State: netlink.NUD_PERMANENT, Type: syscall.RTN_UNICAST,
		IP: net.IPv4(10, 244, 2, 0), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	if err := netlink.NeighSet(&wrong); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the entry to be right again", func() bool { return problems(t, n.overlay.compare) == nil })
}

// The backend makes its interface again. What belongs to it is not reported, and cannot be restored, before.
func TestInterfaceIsMissing(t *testing.T) {
	namespace(t)
	n := newNode(t, ipv4Family)
	if err := netlink.LinkDel(n.link); err != nil {
		t.Fatal(err)
	}
	faults, err := n.overlay.compare(t.Context())
	if err != nil || len(faults) != 1 || faults[0].kind != health.Interface || faults[0].restore != nil || n.overlay.index.Load() != 0 {
		t.Errorf("%+v %v", faults, err)
	}
}

// The backend does not follow its interface of IPv6. It gets its index back, which the backend uses when other nodes come, and all that
// belongs to it.
func TestIPv6InterfaceComesBack(t *testing.T) {
	namespace(t)
	n := newNode(t, ipv6Family)
	restoreAll(t, n.overlay.compare)
	if err := netlink.LinkDel(n.link); err != nil {
		t.Fatal(err)
	}
	seen, left, err := repair(t.Context(), n.overlay.compare)
	if err != nil || len(left) != 0 || !slices.Contains(seen[health.Interface], "flannel-v6.1: missing") || len(seen[health.Routes]) != 2 || len(seen[health.Neighbors]) != 4 {
		t.Fatalf("%v %v %v", seen, left, err)
	}
	link, err := netlink.LinkByName("flannel-v6.1")
	if err != nil {
		t.Fatal(err)
	}
	was, is := n.link.(*netlink.Vxlan), link.(*netlink.Vxlan)
	if is.Index != was.Index || is.HardwareAddr.String() != was.HardwareAddr.String() || is.MTU != was.MTU || is.VxlanId != was.VxlanId || is.Port != was.Port ||
		!is.SrcAddr.Equal(was.SrcAddr) || is.Learning != was.Learning || is.GBP != was.GBP {
		t.Errorf("was %+v\nis  %+v", was, is)
	}
}

// The leases of an IPv6 cluster have no IPv4 subnet that could tell them apart.
func TestLeasesOfIPv6(t *testing.T) {
	book := &leaseBook{}
	three := vxlanLease(t, "fd00:10:244:3::/64", "2001:db8::3", "02:00:00:00:00:03")
	for _, l := range []lease.Lease{vxlanLease(t, "fd00:10:244:2::/64", "2001:db8::2", "02:00:00:00:00:02"), three} {
		book.note([]lease.Event{{Type: lease.EventAdded, Lease: l}})
	}
	if len(book.leases) != 2 {
		t.Errorf("%d leases", len(book.leases))
	}
	book.note([]lease.Event{{Type: lease.EventRemoved, Lease: three}})
	if len(book.leases) != 1 {
		t.Errorf("%d leases after one left", len(book.leases))
	}
}

// The backend gets its time to act on a change, and a lease that was removed is expected no longer.
func TestLeaseBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan []lease.LeaseWatchResult)
		book := &leaseBook{Manager: leases{sent: sent}}
		received := make(chan []lease.LeaseWatchResult)
		ended := make(chan error, 1)
		go func() { ended <- book.WatchLeases(t.Context(), received) }()
		event := func(kind lease.EventType, cidr string) {
			t.Helper()
			sent <- []lease.LeaseWatchResult{{Events: []lease.Event{{Type: kind, Lease: vxlanLease(t, cidr, "192.0.2.2", "02:00:00:00:00:02")}}}}
			if r := <-received; len(r) != 1 || len(r[0].Events) != 1 || r[0].Events[0].Type != kind {
				t.Errorf("the backend is told %v", r)
			}
		}
		event(lease.EventAdded, "10.244.2.0/24")
		if got := book.settled(); got != nil {
			t.Errorf("expected before the backend acted: %v", got)
		}
		time.Sleep(settling) // of the test's own clock, as below
		event(lease.EventAdded, "10.244.3.0/24")
		if got := book.settled(); len(got) != 1 || got[0].Subnet.String() != "10.244.2.0/24" {
			t.Errorf("got %v", got)
		}
		event(lease.EventRemoved, "10.244.2.0/24")
		time.Sleep(settling)
		if got := book.settled(); len(got) != 1 || got[0].Subnet.String() != "10.244.3.0/24" {
			t.Errorf("got %v", got)
		}
		close(sent)
		if _, open := <-received; open {
			t.Error("the backend is not told of the end")
		}
		if err := <-ended; !errors.Is(err, errEnd) {
			t.Error(err)
		}
	})
}

var errEnd = errors.New("end")

type leases struct {
	subnet.Manager
	sent chan []lease.LeaseWatchResult
}

func (l leases) WatchLeases(_ context.Context, receiver chan []lease.LeaseWatchResult) error {
	for r := range l.sent {
		receiver <- r
	}
	close(receiver)
	return errEnd
}

// The table that queues packets for policies comes back, with its addresses.
func TestPoliciesComeBack(t *testing.T) {
	start := namespace(t)
	x := &xtables{families: []ipFamily{ipv4Family, ipv6Family}}
	x.write = x.apply
	for _, a := range []string{"10.244.0.2", "10.244.0.3", "fd00:10:244::2", "fd00:10:244::3"} {
		x.have = append(x.have, netip.MustParseAddr(a))
	}
	if err := x.write(x.have, false); err != nil {
		t.Fatal(err)
	}
	x.written = true
	if got := problems(t, x.compare); got != nil {
		t.Fatalf("at first: %q", got)
	}
	file := filepath.Join(t.TempDir(), "health.json")
	k := &keeper{resync: time.Hour, pause: time.Millisecond, file: file, watch: watched{tables: []string{xtablesTable}}.watch,
		parts: []part{x.compare}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	start(func() { k.run(ctx); close(ended) })
	defer func() { cancel(); <-ended }()
	eventually(t, "the first report", func() bool { _, err := os.Stat(file); return err == nil })
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	lastRule := func(f ipFamily, all int) {
		rules, err := nft.GetRules(f.xtablesTable(), &nftables.Chain{Name: "postrouting", Table: f.xtablesTable()})
		if err != nil || len(rules) != all {
			t.Fatalf("%d rules: %v", len(rules), err)
		}
		if err := nft.DelRule(rules[all-1]); err != nil {
			t.Fatal(err)
		}
	}
	address := func(f ipFamily, key nftables.SetDatatype) {
		if err := nft.SetDeleteElements(&nftables.Set{Name: xtablesSet, Table: f.xtablesTable(), KeyType: key},
			[]nftables.SetElement{{Key: f.only(x.have)[0].AsSlice()}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, want string
		lose       func()
	}{
		{"all tables", "chain postrouting of table ip kube-network-policies-xt: missing; chain postrouting of table ip6 kube-network-policies-xt: missing",
			func() { nft.FlushRuleset() }},
		{"the rules", "chain postrouting of table ip kube-network-policies-xt: missing", func() { nft.FlushTable(ipv4Family.xtablesTable()) }},
		{"the rules of IPv6", "chain postrouting of table ip6 kube-network-policies-xt: missing", func() { nft.FlushTable(ipv6Family.xtablesTable()) }},
		{"one rule", "chain postrouting of table ip kube-network-policies-xt: changed", func() { lastRule(ipv4Family, 4) }},
		{"one rule of IPv6", "chain postrouting of table ip6 kube-network-policies-xt: changed", func() { lastRule(ipv6Family, 5) }},
		{"an address", "set podips of table ip kube-network-policies-xt: changed", func() { address(ipv4Family, nftables.TypeIPAddr) }},
		{"an address of IPv6", "set podips of table ip6 kube-network-policies-xt: changed", func() { address(ipv6Family, nftables.TypeIP6Addr) }},
	} {
		step(t, c.name, func(t *testing.T) {
			begun := time.Now()
			c.lose()
			if err := nft.Flush(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the report", func() bool {
				return slices.ContainsFunc(readReport(t, file).Problems, func(p health.Problem) bool {
					return p.Kind == health.Rules && p.Restored != nil && p.LastSeen.After(begun) && strings.Join(p.Objects, "; ") == c.want
				})
			})
			if got := problems(t, x.compare); got != nil {
				t.Errorf("after that: %q", got)
			}
		})
	}
	if err := x.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, x.compare); got != nil {
		t.Errorf("after flanneld removed it: %q", got)
	}
}

type network struct{ l *lease.Lease }

func (n network) Lease() *lease.Lease { return n.l }
func (network) MTU() int              { return 1450 }
func (network) Run(context.Context)   {}

// flannel's own package makes its rules with the program nft.
func TestFlannelRulesComeBack(t *testing.T) {
	start := namespace(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("flannel makes its rules with the program nft, which is not installed") // `make test-lab` installs it and runs this
	}
	_, pods, _ := net.ParseCIDR("10.244.0.0/16")
	own := vxlanLease(t, "10.244.1.0/24", "192.0.2.1", "02:00:00:00:00:01")
	_, pods6, _ := net.ParseCIDR("fd00:10:244::/56")
	own.IPv6Subnet = vxlanLease(t, "fd00:10:244:1::/64", "2001:db8::1", "02:00:00:00:00:01").IPv6Subnet
	rules := flannelRules(options{ipMasq: true, forward: true},
		&subnet.Config{EnableIPv4: true, Network: ip.FromIPNet(pods), EnableIPv6: true, IPv6Network: ip.FromIP6Net(pods6)}, network{&own})
	if err := rules.apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, rules.compare); got != nil {
		t.Fatalf("at first: %q", got)
	}
	file := filepath.Join(t.TempDir(), "health.json")
	k := &keeper{resync: time.Hour, pause: time.Millisecond, file: file, parts: []part{rules.compare},
		watch: watched{tables: []string{"flannel-ipv4", "flannel-ipv6"}}.watch}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	start(func() { k.run(ctx); close(ended) })
	defer func() { cancel(); <-ended }()
	eventually(t, "the first report", func() bool { _, err := os.Stat(file); return err == nil })
	for _, c := range []struct{ command, want string }{
		{"flush ruleset", "chain postrtg of table ip flannel-ipv4: missing; chain forward of table ip flannel-ipv4: missing; " +
			"chain postrtg of table ip6 flannel-ipv6: missing; chain forward of table ip6 flannel-ipv6: missing"},
		{"flush chain ip6 flannel-ipv6 postrtg", "chain postrtg of table ip6 flannel-ipv6: missing"},
		{"delete table ip flannel-ipv4", "chain postrtg of table ip flannel-ipv4: missing; chain forward of table ip flannel-ipv4: missing"},
		{"flush chain ip flannel-ipv4 postrtg", "chain postrtg of table ip flannel-ipv4: missing"},
		{"insert rule ip flannel-ipv4 forward drop", "chain forward of table ip flannel-ipv4: changed"},
	} {
		step(t, c.command, func(t *testing.T) {
			begun := time.Now()
			if out, err := exec.Command("nft", strings.Fields(c.command)...).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			eventually(t, "the report", func() bool {
				return slices.ContainsFunc(readReport(t, file).Problems, func(p health.Problem) bool {
					return p.Restored != nil && p.LastSeen.After(begun) && strings.Join(p.Objects, "; ") == c.want
				})
			})
			if got := problems(t, rules.compare); got != nil {
				t.Errorf("after that: %q", got)
			}
		})
	}
}

// Rules that the kernel does not keep are a problem that remains, and says why.
func TestRulesThatDoNotCome(t *testing.T) {
	namespace(t)
	r := &ruleset{chains: []chain{{unix.NFPROTO_IPV4, "flannel-ipv4", "forward"}}, set: func(context.Context) error { return nil }}
	file := filepath.Join(t.TempDir(), "health.json")
	k := &keeper{file: file, parts: []part{r.compare}}
	for range 3 {
		if k.sync(t.Context()) {
			t.Error("all is well")
		}
	}
	left := readReport(t, file).Remaining()
	if len(left) != 1 || left[0].Times != 1 || !strings.Contains(left[0].Error, "missing right after it was created") ||
		!slices.Equal(left[0].Objects, []string{"chain forward of table ip flannel-ipv4: missing"}) {
		t.Errorf("%+v", left)
	}
	r.set = func(context.Context) error {
		nft, err := nftables.New()
		if err != nil {
			return err
		}
		table := nft.AddTable(&nftables.Table{Name: "flannel-ipv4", Family: nftables.TableFamilyIPv4})
		nft.AddRule(&nftables.Rule{Table: table, Chain: nft.AddChain(&nftables.Chain{Name: "forward", Table: table})})
		return nft.Flush()
	}
	if !k.sync(t.Context()) {
		t.Error("all is not well")
	}
	if p := readReport(t, file).Problems; len(p) != 1 || p[0].Restored == nil || p[0].Error != "" || p[0].Times != 1 {
		t.Errorf("%+v", p)
	}
}

// A part that cannot be compared is unknown: its problems do not count as restored, and the report does not claim that all was compared.
func TestUnknownIsNotRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			faults  []fault
			unknown error
		)
		file := filepath.Join(t.TempDir(), "health.json")
		k := &keeper{file: file, parts: []part{func(context.Context) ([]fault, error) { return faults, unknown }}}
		gone := fault{health.Interface, []string{"flannel.1: missing"}, nil}

		faults = []fault{gone}
		k.sync(t.Context())
		first := time.Now()
		time.Sleep(time.Minute) // of the test's own clock, as below
		faults, unknown = nil, errors.New("netlink is ill")
		if k.sync(t.Context()) {
			t.Error("all is well")
		}
		r := readReport(t, file)
		if !r.LastSync.Equal(first) || r.SyncError != "netlink is ill" || len(r.Remaining()) != 1 {
			t.Errorf("%+v", r)
		}
		time.Sleep(time.Minute)
		unknown = nil
		if !k.sync(t.Context()) {
			t.Error("all is not well")
		}
		r = readReport(t, file)
		if !r.LastSync.Equal(time.Now()) || r.SyncError != "" || len(r.Remaining()) != 0 || !r.Problems[0].Restored.Equal(time.Now()) || !r.Problems[0].FirstSeen.Equal(first) {
			t.Errorf("%+v", r)
		}
	})
}

// Restoring one object can cost others: they are restored, too, before the report is written.
func TestOneLossCausesAnother(t *testing.T) {
	var up, routes bool
	p := func(context.Context) (out []fault, _ error) {
		if !up {
			out = append(out, fault{health.Interface, []string{"down"}, func(context.Context) error { up, routes = true, false; return nil }})
		}
		if up && !routes {
			out = append(out, fault{health.Routes, []string{"missing"}, func(context.Context) error { routes = true; return nil }})
		}
		return out, nil
	}
	seen, left, err := repair(t.Context(), p)
	if err != nil || len(seen) != 2 || len(left) != 0 || !routes {
		t.Errorf("%v %v %v", seen, left, err)
	}
}

// What is lost again and again is one problem, and a report does not grow without end.
func TestReportIsBounded(t *testing.T) {
	var faults []fault
	lost := func(objects ...string) fault {
		return fault{health.Routes, objects, func(context.Context) error { faults = nil; return nil }}
	}
	file := filepath.Join(t.TempDir(), "health.json")
	k := &keeper{file: file, parts: []part{func(context.Context) ([]fault, error) { return faults, nil }}}
	for range 3 {
		faults = []fault{lost("a", "b")}
		k.sync(t.Context())
	}
	if p := readReport(t, file).Problems; len(p) != 1 || p[0].Times != 3 || p[0].Restored == nil {
		t.Errorf("%+v", p)
	}
	for i := range 2 * health.MaxProblems {
		var many []string
		for j := range i + 1 {
			many = append(many, fmt.Sprint(j))
		}
		faults = []fault{lost(many...)}
		k.sync(t.Context())
	}
	p := readReport(t, file).Problems
	if len(p) != health.MaxProblems {
		t.Errorf("%d problems", len(p))
	}
	if last := p[len(p)-1]; last.Count != 2*health.MaxProblems || len(last.Objects) != health.MaxObjects {
		t.Errorf("%+v", last)
	}
}

func TestFilesComeBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "10-flannel.conflist")
	p := missingFile(file, func() error { return os.WriteFile(file, []byte("ours"), 0o600) })
	restoreAll(t, p)
	if err := os.WriteFile(file, []byte("with another plugin"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, p); got != nil {
		t.Errorf("another program's change: %q", got)
	}
}

// The controller of network policies can be made to write its rules again only through the handler that it adds.
func TestControllerIsAsked(t *testing.T) {
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	policies := &recordedInformer{NetworkPolicyInformer: factory.Networking().V1().NetworkPolicies()}
	if _, err := networkpolicy.NewController(client, policies, factory.Core().V1().Namespaces(), factory.Core().V1().Pods(), nil, nil, nil, nil,
		networkpolicy.Config{NodeName: "self", NRIdisabled: true}); err != nil {
		t.Fatal(err)
	}
	if len(policies.handlers) != 1 {
		t.Fatalf("the controller adds %d handlers for policies", len(policies.handlers))
	}
	h := &handler{}
	policies.handlers = append(policies.handlers, h)
	if err := policies.Informer().GetStore().Add(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "all"}}); err != nil {
		t.Fatal(err)
	}
	policies.renew()
	if h.updates != 1 {
		t.Errorf("%d updates", h.updates)
	}
}

type handler struct{ updates int }

func (*handler) OnAdd(any, bool)     {}
func (h *handler) OnUpdate(any, any) { h.updates++ }
func (*handler) OnDelete(any)        {}

func TestStale(t *testing.T) {
	now := time.Now()
	r := health.Report{ResyncSeconds: 30, LastSync: now.Add(-89 * time.Second)}
	if r.Stale(now) || !r.Stale(now.Add(2*time.Second)) {
		t.Error("a report is stale after three times its resync")
	}
}
