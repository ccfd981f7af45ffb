package system

import (
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// Addresses are the host's own global unicast addresses.
func Addresses() []facts.Address {
	var out []facts.Address
	type place struct {
		link int
		ip   string
	}
	flags := map[place]int{}
	six, _ := netlink.AddrList(nil, netlink.FAMILY_V6) // without them, all count as usable: whoever needs one finds out
	for _, a := range six {
		flags[place{a.LinkIndex, a.IP.String()}] = a.Flags
	}
	links, _ := net.Interfaces()
	for _, link := range links {
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				bits, _ := n.Mask.Size()
				is := flags[place{link.Index, n.IP.String()}]
				duplicate := is&unix.IFA_F_DADFAILED != 0
				out = append(out, facts.Address{IP: n.IP.String(), Prefix: bits, Interface: link.Name, MAC: link.HardwareAddr.String(),
					Duplicate: duplicate, Tentative: is&unix.IFA_F_TENTATIVE != 0 && is&unix.IFA_F_OPTIMISTIC == 0 && !duplicate})
			}
		}
	}
	return out
}
