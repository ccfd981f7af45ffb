package system

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// TestAddressesThatTheKernelDoesNotUse: an address that another machine has stays on its interface, and looks like any other one.
func TestAddressesThatTheKernelDoesNotUse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread() // and never unlocked: this thread ends with the test
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
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(other)}))
	network := func(last string) *net.IPNet {
		return &net.IPNet{IP: net.ParseIP("fd00::" + last), Mask: net.CIDRMask(64, 128)}
	}
	there, err := netlink.NewHandleAt(other)
	must(err)
	defer there.Close()
	peer, err := there.LinkByName("eth0")
	must(err)
	must(there.LinkSetUp(peer))
	must(there.AddrAdd(peer, &netlink.Addr{IPNet: network("1"), Flags: unix.IFA_F_NODAD}))
	own, err := netlink.LinkByName("eth0")
	must(err)
	must(netlink.LinkSetUp(own))
	must(netlink.AddrAdd(own, &netlink.Addr{IPNet: network("1")}))
	must(netlink.AddrAdd(own, &netlink.Addr{IPNet: network("2"), Flags: unix.IFA_F_NODAD}))
	has := func() (taken, free facts.Address) {
		f := facts.Facts{Addresses: Addresses()}
		taken, _ = f.Interface("fd00::1")
		free, _ = f.Interface("fd00::2")
		return taken, free
	}
	if taken, free := has(); taken.Unusable() == "" || free.Unusable() != "" || free.IP == "" {
		t.Errorf("while the kernel looks: %+v %+v", taken, free)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		taken, free := has()
		if taken.Duplicate && !taken.Tentative && free.Unusable() == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v %+v", taken, free)
		}
	}
}
