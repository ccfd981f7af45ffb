package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Family says which IP families the machines of a lab have addresses of.
type Family string

// The families of labs. The address of a dual-stack machine is that of IPv4, and the one of IPv6 is its second.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
	Dual Family = "dual"
)

// Families are those that a lab can have.
var Families = []Family{IPv4, IPv6, Dual}

func (f Family) four() bool { return f != IPv6 }
func (f Family) six() bool  { return f == IPv6 || f == Dual }

// labRange6 are the IPv6 addresses that stand for those of labRange: unique local addresses (RFC 4193) that contain the IPv4 address, so
// that a claim on a subnet is one on both.
var labRange6 = netip.MustParsePrefix("fd51:c612::/31")

// subnet6 is the network of a lab's IPv6 addresses, fd51:c612:500::/64 for 198.18.5.0/24.
func subnet6(subnet netip.Prefix) netip.Prefix {
	b := subnet.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x51, b[0], b[1], b[2]}), 64)
}

// to6 is the IPv6 address that stands for one of IPv4, fd51:c612:500::b for 198.18.5.11.
func to6(a netip.Addr) netip.Addr {
	if !a.Is4() {
		return a
	}
	b := a.As4()
	return netip.AddrFrom16([16]byte{0xfd, 0x51, b[0], b[1], b[2], 15: b[3]})
}

// to4 is the reverse of to6.
func to4(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte{b[2], b[3], b[4], b[15]})
}

// address is the machine's, or another one's, in a lab of the family: that of IPv4 where there is one.
func (f Family) address(four netip.Addr) netip.Addr {
	if f.four() {
		return to4(four)
	}
	return to6(four)
}

// all are the addresses of a machine, with the size of their networks.
func (f Family) all(a netip.Addr) (out []netip.Prefix) {
	if f.four() {
		out = append(out, netip.PrefixFrom(to4(a), 24))
	}
	if f.six() {
		out = append(out, netip.PrefixFrom(to6(a), 64))
	}
	return out
}

// onLink is an address for an interface. One of IPv6 can be used immediately: nobody else has it, and looking for duplicates would take a second.
func onLink(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// setLink6 sets settings of IPv6 of an interface in the namespace of the calling thread. Without IPv6 in the kernel, only a lab that does
// not need it can be created.
func setLink6(link string, settings map[string]string) error {
	dir := filepath.Join("/proc/sys/net/ipv6/conf", link)
	for key, value := range settings {
		if err := os.WriteFile(filepath.Join(dir, key), []byte(value), 0); err != nil {
			return fmt.Errorf("set %s of the interface %s: %w", key, link, err)
		}
	}
	return nil
}

// checkFamily returns an error if this computer's kernel has no IPv6 and the family needs it.
func checkFamily(f Family) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); f.six() && err != nil {
		return &Problem{What: "the kernel of this computer has no IPv6", Err: err, Why: "the machines of this lab need IPv6 addresses",
			Fix: "start it without `ipv6.disable=1` (see /proc/cmdline), or create a lab of the family ipv4"}
	}
	return nil
}

// Family is the family of the lab's machines.
func (l *Lab) Family() Family { return l.rec.family() }

// Second is the address in IPv6 that belongs to one of a dual-stack lab in IPv4: of a machine, or a virtual IP.
func (l *Lab) Second(a netip.Addr) (netip.Addr, bool) {
	if l.Family() != Dual {
		return netip.Addr{}, false
	}
	return to6(a), true
}
