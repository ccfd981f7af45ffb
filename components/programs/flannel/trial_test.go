package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"components.quorate.dev/flannel/health"
)

const prefix = "flannel.alpha.coreos.com"

func node(name, cidr string, ready corev1.ConditionStatus) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{prefix + "/public-ip": "192.0.2.1"}},
		Spec:       corev1.NodeSpec{PodCIDR: cidr},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func TestPeersAreThoseThatCouldAnswer(t *testing.T) {
	without := node("without-a-subnet", "10.244.5.0/24", corev1.ConditionTrue)
	without.Annotations = nil
	leaving := node("leaving", "10.244.6.0/24", corev1.ConditionTrue)
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	got := peersIn(ipv4Family, []corev1.Node{
		node("self", "10.244.0.0/24", corev1.ConditionFalse),
		node("ready", "10.244.1.0/24", corev1.ConditionTrue),
		node("waiting-too", "10.244.2.0/24", corev1.ConditionFalse),
		node("dead", "10.244.3.0/24", corev1.ConditionUnknown),
		node("no-range", "", corev1.ConditionTrue),
		without, leaving,
	}, "self", prefix)
	want := []peer{
		{"ready", netip.MustParseAddr("10.244.1.0"), "192.0.2.1"},
		{"waiting-too", netip.MustParseAddr("10.244.2.0"), "192.0.2.1"},
	}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// A node of a dual-stack cluster has a range of each family, in the cluster's order.
func TestPeersOfEachFamily(t *testing.T) {
	both := node("both", "10.244.1.0/24", corev1.ConditionTrue)
	both.Spec.PodCIDRs = []string{"10.244.1.0/24", "fd00:10:244:1::/64"}
	both.Annotations[prefix+"/public-ipv6"] = "2001:db8::1"
	six := node("six", "fd00:10:244:2::/64", corev1.ConditionTrue)
	six.Annotations = map[string]string{prefix + "/public-ipv6": "2001:db8::2"}
	four := node("four", "10.244.3.0/24", corev1.ConditionTrue)
	for family, want := range map[ipFamily][]peer{
		ipv4Family: {{"both", netip.MustParseAddr("10.244.1.0"), "192.0.2.1"}, {"four", netip.MustParseAddr("10.244.3.0"), "192.0.2.1"}},
		ipv6Family: {{"both", netip.MustParseAddr("fd00:10:244:1::"), "2001:db8::1"}, {"six", netip.MustParseAddr("fd00:10:244:2::"), "2001:db8::2"}},
	} {
		if got := peersIn(family, []corev1.Node{both, six, four}, "self", prefix); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %v\nwant %v", family, got, want)
		}
	}
}

// api has nodes, and keeps what is said to it.
type api struct {
	nodes   []corev1.Node
	ill     func(list int) bool // whether it fails to list the nodes
	lists   int
	patches []string
}

func (a *api) List(context.Context, metav1.ListOptions) (*corev1.NodeList, error) {
	a.lists++
	if a.ill != nil && a.ill(a.lists) {
		return nil, errors.New("ill")
	}
	return &corev1.NodeList{Items: a.nodes}, nil
}

func (a *api) PatchStatus(_ context.Context, name string, patch []byte) (*corev1.Node, error) {
	a.patches = append(a.patches, name+" "+string(patch))
	return nil, nil
}

// needsRoot skips what only root may do: raw sockets and network namespaces. For root a failure there is one of the test.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("raw sockets and network namespaces need root")
	}
}

// On loopback every address of 127/8 answers; packets for other networks do not leave it.
func TestTrial(t *testing.T) {
	needsRoot(t)
	try := func(t *testing.T, patient time.Duration, nodes ...corev1.Node) (*api, error) {
		a := &api{nodes: append(nodes, node("self", "127.0.9.0/24", corev1.ConditionFalse))}
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		return a, (&trial{nodes: a, node: "self", prefix: prefix, family: ipv4Family, own: netip.MustParseAddr("127.0.0.1"), mtu: 1450}).run(ctx)
	}
	t.Run("alone", func(t *testing.T) {
		if _, err := try(t, time.Second); err != nil {
			t.Error(err)
		}
	})
	t.Run("all others dead", func(t *testing.T) {
		if _, err := try(t, time.Second, node("dead", "127.0.1.0/24", corev1.ConditionUnknown)); err != nil {
			t.Error(err)
		}
	})
	t.Run("a peer answers", func(t *testing.T) {
		if _, err := try(t, 5*time.Second, node("peer", "127.0.1.0/24", corev1.ConditionTrue)); err != nil {
			t.Error(err)
		}
	})
	t.Run("one of two answers", func(t *testing.T) {
		if _, err := try(t, 10*time.Second, node("peer", "127.0.1.0/24", corev1.ConditionTrue), node("silent", "240.0.0.0/24", corev1.ConditionTrue)); err != nil {
			t.Error(err)
		}
	})
	t.Run("none answers", func(t *testing.T) {
		silent := node("silent", "240.0.0.0/24", corev1.ConditionTrue)
		a, err := try(t, patience+2*longest, silent)
		if err == nil {
			t.Fatal("the node would take pods")
		}
		if len(a.patches) != 1 {
			t.Fatalf("the node says %d times why", len(a.patches))
		}
		for _, part := range []string{`"NetworkUnavailable"`, `"True"`, noPodTraffic, "silent (192.0.2.1)", "8472", "1500 bytes"} {
			if !strings.Contains(a.patches[0], part) {
				t.Errorf("%s is not in %s", part, a.patches[0])
			}
		}
	})
}

// The same with IPv6, on an interface on which the kernel looks for duplicates of an address before it uses it. The peer has its address as
// the anycast address of its network, so that it answers from another one.
func TestIPv6Trial(t *testing.T) {
	namespace(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	self, err := netns.Get()
	must(err)
	defer self.Close()
	other, err := netns.New()
	must(err)
	defer other.Close()
	must(os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644)) // routers have anycast addresses
	must(netns.Set(self))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "flannel-v6.1", MTU: 1430}, PeerName: "flannel-v6.1", PeerNamespace: netlink.NsFd(other)}))
	network := func(subnet int) *net.IPNet {
		return &net.IPNet{IP: net.ParseIP(fmt.Sprintf("fd00:10:244:%d::", subnet)), Mask: net.CIDRMask(64, 128)}
	}
	address := &net.IPNet{IP: net.ParseIP("fd00:10:244:2::2"), Mask: net.CIDRMask(64, 128)}
	for _, end := range []struct {
		ns     netns.NsHandle
		own    *netlink.Addr
		behind *net.IPNet
	}{
		{other, &netlink.Addr{IPNet: address, Flags: unix.IFA_F_NODAD}, network(1)},
		{self, &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP("fd00:10:244:1::"))}, network(2)},
	} {
		inside, err := netlink.NewHandleAt(end.ns)
		must(err)
		defer inside.Close()
		link, err := inside.LinkByName("flannel-v6.1")
		must(err)
		must(inside.LinkSetUp(link))
		must(inside.AddrAdd(link, end.own))
		must(inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: end.behind}))
	}
	own := netip.MustParseAddr("fd00:10:244:1::")
	six := func(name, cidr string) corev1.Node {
		n := node(name, cidr, corev1.ConditionTrue)
		n.Annotations = map[string]string{prefix + "/public-ipv6": "2001:db8::1"}
		return n
	}
	silent := six("silent", "fd00:dead::/64")
	try := func(patient time.Duration, nodes ...corev1.Node) (*api, error) {
		a := &api{nodes: append(nodes, six("self", "fd00:10:244:1::/64"))}
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		return a, (&trial{nodes: a, node: "self", prefix: prefix, family: ipv6Family, link: "flannel-v6.1", own: own, mtu: 1430}).run(ctx)
	}
	step(t, "a peer answers", func(t *testing.T) {
		if _, err := try(10*time.Second, six("peer", "fd00:10:244:2::/64"), silent); err != nil {
			t.Error(err)
		}
	})
	step(t, "none answers", func(t *testing.T) {
		a, err := try(patience+2*longest, silent, node("of-ipv4", "127.0.1.0/24", corev1.ConditionTrue))
		if err == nil {
			t.Fatal("the node would take pods")
		}
		if len(a.patches) != 1 {
			t.Fatalf("the node says %d times why", len(a.patches))
		}
		for _, part := range []string{"the IPv6 pod network from silent (2001:db8::1)", "8472", "1500 bytes", "ICMPv6"} {
			if !strings.Contains(a.patches[0], part) {
				t.Errorf("%s is not in %s", part, a.patches[0])
			}
		}
	})
}

// An address that another machine has is never usable, and the kernel does not look again. The node says so, and the keeper has the kernel look again.
func TestIPv6TrialWithADuplicate(t *testing.T) {
	namespace(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	other, err := netns.New()
	must(err)
	defer other.Close()
	self, err := netns.New() // on this thread from now on
	must(err)
	defer self.Close()
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "flannel-v6.1", MTU: 1430}, PeerName: "flannel-v6.1", PeerNamespace: netlink.NsFd(other)}))
	own := netip.MustParseAddr("fd00:10:244:1::")
	network := netlink.NewIPNet(own.AsSlice())
	there, err := netlink.NewHandleAt(other)
	must(err)
	defer there.Close()
	taken, err := there.LinkByName("flannel-v6.1")
	must(err)
	must(there.LinkSetUp(taken))
	must(there.AddrAdd(taken, &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD}))
	link, err := netlink.LinkByName("flannel-v6.1")
	must(err)
	must(netlink.LinkSetUp(link))
	must(netlink.AddrAdd(link, &netlink.Addr{IPNet: network}))

	a := &api{nodes: []corev1.Node{node("self", "fd00:10:244:1::/64", corev1.ConditionTrue)}}
	try := func(patient time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		return (&trial{nodes: a, node: "self", prefix: prefix, family: ipv6Family, link: "flannel-v6.1", own: own, mtu: 1430}).run(ctx)
	}
	if err := try(patience + 2*time.Second); err == nil {
		t.Fatal("the node would take pods, although another machine has its address")
	}
	if len(a.patches) != 1 {
		t.Fatalf("the node says %d times why: %q", len(a.patches), a.patches)
	}
	for _, part := range []string{`"NetworkUnavailable"`, `"True"`, "fd00:10:244:1::", "flannel-v6.1", "another machine has it", "dadfailed"} {
		if !strings.Contains(a.patches[0], part) {
			t.Errorf("%s is not in %s", part, a.patches[0])
		}
	}
	o := &overlay{family: ipv6Family, leases: &leaseBook{}, name: "flannel-v6.1", mac: link.Attrs().HardwareAddr, address: network, own: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(64, 128)}}
	must(there.AddrDel(taken, &netlink.Addr{IPNet: network}))
	seen, left, err := repair(t.Context(), o.compare)
	if err != nil || len(left) > 0 || len(seen[health.Interface]) != 1 || !strings.Contains(seen[health.Interface][0], "another machine has its address fd00:10:244:1::/128") {
		t.Errorf("%v %v %v", seen, left, err)
	}
	if err := try(10 * time.Second); err != nil {
		t.Errorf("after the other machine gave it up: %v", err)
	}
}

// Of more nodes than a sample each list would yield other names, and each other name a write.
func TestTrialAmongMany(t *testing.T) {
	needsRoot(t)
	a := &api{ill: func(list int) bool { return list != 3 }} // at first, and from the second time on that peers are known
	for i := range sample + 8 {
		a.nodes = append(a.nodes, node(fmt.Sprint("silent-", i), fmt.Sprintf("240.0.%d.0/24", i), corev1.ConditionTrue))
	}
	ctx, cancel := context.WithTimeout(t.Context(), relist+2*longest)
	defer cancel()
	if err := (&trial{nodes: a, node: "self", prefix: prefix, family: ipv4Family, own: netip.MustParseAddr("127.0.0.1"), mtu: 1450}).run(ctx); err == nil {
		t.Error("the node would take pods")
	}
	if a.lists != 4 {
		t.Errorf("the nodes are listed %d times", a.lists)
	}
	if len(a.patches) != 1 || !strings.Contains(a.patches[0], fmt.Sprintf("and %d more", sample-3)) {
		t.Errorf("the node says %q", a.patches)
	}
}

func TestReaderOutlivesErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pinger{family: ipv4Family, id: 7, payload: []byte("p"), ended: make(chan struct{}), answered: map[netip.Addr]chan struct{}{}}
		of := netip.MustParseAddr("10.244.1.0").As16()
		reply, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: 7, Seq: 1, Data: append(of[:], 'p')}}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		reads := 0
		p.receive(func(b []byte) (int, *net.IPAddr, error) {
			switch reads++; reads {
			case 1:
				return 0, nil, unix.ENOBUFS
			case 2:
				return copy(b, reply), &net.IPAddr{IP: net.IPv4(10, 244, 1, 0)}, nil
			}
			return 0, nil, &net.OpError{Op: "read", Err: net.ErrClosed}
		})
		if !closed(p.expect(netip.MustParseAddr("10.244.1.0"))) {
			t.Error("the answer after an error is lost")
		}
		close(p.ended)
		begin := time.Now()
		p.receive(func([]byte) (int, *net.IPAddr, error) { return 0, nil, unix.ENOBUFS })
		if time.Since(begin) > firstWait {
			t.Error("the reader outlives the trial")
		}
	})
}

func TestNamesAreFew(t *testing.T) {
	var many []peer
	for _, name := range []string{"d", "c", "b", "a", "e"} {
		many = append(many, peer{name: name, public: "1"})
	}
	if got := names(many); got != "b (1), c (1), d (1) and 2 more" {
		t.Error(got)
	}
}

func TestPolicyAddresses(t *testing.T) {
	pod := func(namespace, name, on, ip string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Spec: corev1.PodSpec{NodeName: on},
			Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}}}
	}
	web := map[string]string{"app": "web"}
	x := &selection{"self", cache.NewStore(cache.MetaNamespaceKeyFunc), cache.NewStore(cache.MetaNamespaceKeyFunc)}
	done := pod("shop", "done", "self", "10.244.0.9", web)
	done.Status.Phase = corev1.PodSucceeded
	for _, p := range []*corev1.Pod{
		pod("shop", "web", "self", "10.244.0.2", web), pod("shop", "db", "self", "10.244.0.3", nil), pod("shop", "away", "other", "10.244.1.2", web),
		pod("other", "web", "self", "10.244.0.4", web), done,
	} {
		if err := x.pods.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if got := x.addresses(); len(got) != 0 {
		t.Errorf("without policies: %v", got)
	}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: web}}}
	if err := x.policies.Add(policy); err != nil {
		t.Fatal(err)
	}
	if got := x.addresses(); len(got) != 1 || got[0].String() != "10.244.0.2" {
		t.Errorf("got %v", got)
	}
	both := pod("shop", "both", "self", "10.244.0.5", web)
	both.Status.PodIPs = append(both.Status.PodIPs, corev1.PodIP{IP: "fd00:10:244::5"})
	if err := x.pods.Add(both); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(x.addresses()); got != "[10.244.0.2 10.244.0.5 fd00:10:244::5]" {
		t.Errorf("got %s", got)
	}
}

// What the kernel refuses once is tried again, and what would change nothing is not tried.
func TestTableFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			refuse = 0
			writes []string
		)
		x := &xtables{selection: selection{"self", cache.NewStore(cache.MetaNamespaceKeyFunc), cache.NewStore(cache.MetaNamespaceKeyFunc)}, changed: make(chan struct{}, 1)}
		x.write = func(a []netip.Addr, remove bool) error {
			writes = append(writes, fmt.Sprint(a, remove))
			if refuse > 0 {
				refuse--
				return unix.ENOBUFS
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- x.run(ctx) }()
		expect := func(want ...string) {
			t.Helper()
			time.Sleep(5 * again) // of the test's own clock
			synctest.Wait()
			if !slices.Equal(writes, want) {
				t.Errorf("got %q, want %q", writes, want)
			}
			writes = nil
		}
		pod := func(on, ip string) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "on-" + on}, Spec: corev1.PodSpec{NodeName: on}, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}}}
		}
		here, away := pod("self", "10.244.0.2"), pod("other", "10.244.1.2")
		for _, err := range []error{x.pods.Add(here), x.pods.Add(away), x.policies.Add(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "all"}})} {
			if err != nil {
				t.Fatal(err)
			}
		}
		h := x.handler()
		h.OnAdd(away, false)
		h.OnUpdate(away, away)
		h.OnDelete(cache.DeletedFinalStateUnknown{Obj: away})
		expect()
		refuse = 2
		h.OnAdd(&networkingv1.NetworkPolicy{}, false)
		expect("[10.244.0.2] false", "[10.244.0.2] false", "[10.244.0.2] false")
		h.OnUpdate(here, here)
		expect()
		if err := x.pods.Delete(here); err != nil {
			t.Fatal(err)
		}
		h.OnDelete(cache.DeletedFinalStateUnknown{Obj: here})
		expect("[] false")
		refuse = 1
		cancel()
		expect("[] true", "[] true")
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// What the kernel refuses is in the report, with its reason: pods are not protected.
func TestRefusedRulesAreReported(t *testing.T) {
	refuse := true
	x := &xtables{selection: selection{"self", cache.NewStore(cache.MetaNamespaceKeyFunc), cache.NewStore(cache.MetaNamespaceKeyFunc)}}
	x.write = func([]netip.Addr, bool) error {
		if refuse {
			return unix.ENOENT
		}
		return nil
	}
	if got := problems(t, x.compare); got != nil {
		t.Errorf("before the first attempt: %q", got)
	}
	if err := x.sync(); !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	seen, left, err := repair(t.Context(), x.compare)
	if err != nil || len(seen[health.Rules]) != 1 || left[health.Rules].objects[0] != "network policies: not enforced" || !errors.Is(left[health.Rules].err, unix.ENOENT) {
		t.Errorf("%v %v %v", seen, left, err)
	}
	refuse = false
	if _, left, err := repair(t.Context(), x.compare); err != nil || len(left) != 0 || !x.written {
		t.Errorf("%v %v", left, err)
	}
}

// The kernel's verdict on the rules counts, not ours.
func TestKernelTakesTheRules(t *testing.T) {
	needsRoot(t)
	runtime.LockOSThread() // and never unlocked: this thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	x := &xtables{families: []ipFamily{ipv4Family, ipv6Family}}
	for range 2 { // the second replaces the first
		if err := x.apply([]netip.Addr{netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("fd00:10:244::2")}, false); err != nil {
			t.Fatal(err)
		}
	}
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables := func() int {
		all, err := nft.ListTables()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := tables(); n != 2 {
		t.Errorf("%d tables", n)
	}
	if err := x.apply(nil, true); err != nil || tables() != 0 {
		t.Errorf("%v, %d tables are left", err, tables())
	}
	if err := canQueue(); err != nil {
		t.Logf("nftables cannot queue here: %v", err)
	}
	if n := tables(); n != 0 {
		t.Errorf("trying left %d tables", n)
	}
}
