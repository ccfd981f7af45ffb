package system

import (
	"net"

	"quorate.dev/quorate/internal/facts"
)

// Addresses are the host's own global unicast addresses.
func Addresses() []facts.Address {
	var out []facts.Address
	links, _ := net.Interfaces()
	for _, link := range links {
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				bits, _ := n.Mask.Size()
				out = append(out, facts.Address{IP: n.IP.String(), Prefix: bits, Interface: link.Name, MAC: link.HardwareAddr.String()})
			}
		}
	}
	return out
}
