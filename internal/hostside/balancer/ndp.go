package balancer

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probe6 asks for an IPv6 address with neighbor solicitations from an address of this host. Those from the unspecified address mean that
// the sender wants the address for itself (RFC 4862): a machine that has just started, and still looks whether another one has its address,
// would give it up.
func probe6(ctx context.Context, link *net.Interface, from, address netip.Addr, how pace) ([]string, error) {
	ask := func(s *os.File, link *net.Interface, address netip.Addr) error {
		return solicit(s, link, from, address)
	}
	return probing{"neighbor discovery", openNDP, ask, parseAdvertisement}.run(ctx, link, address, how)
}

// neighbors6 finds the hardware addresses of some IPv6 addresses in the kernel's table.
func neighbors6(link *net.Interface, of []string) map[string]string {
	out := map[string]string{}
	known, err := netlink.NeighList(link.Index, unix.AF_INET6)
	if err != nil {
		return out // as without a table for IPv4: the others may know them
	}
	for _, n := range known {
		if n.HardwareAddr != nil && n.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) == 0 && slices.Contains(of, n.IP.String()) {
			out[n.IP.String()] = n.HardwareAddr.String()
		}
	}
	return out
}

// The parts of the packets of neighbor discovery (RFC 4861): IPv6's header, then ICMPv6 with the address in question, then options.
const (
	ip6Header       = 40
	ip6Next, ip6Src = 6, 8
	ndpTarget       = ip6Header + 8
	ndpOptions      = ndpTarget + 16
	ndpHopLimit     = 255

	neighborSolicitation  = 135
	neighborAdvertisement = 136
	sourceLinkAddress     = 1
	targetLinkAddress     = 2
)

// openNDP opens a socket that receives neighbor advertisements and nothing else of IPv6, because that may be all traffic of the host.
func openNDP(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	const loadByte, jumpIfEqual, end = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: loadByte, K: ip6Next},
		{Code: jumpIfEqual, K: unix.IPPROTO_ICMPV6, Jf: 3},
		{Code: loadByte, K: ip6Header},
		{Code: jumpIfEqual, K: neighborAdvertisement, Jf: 1},
		{Code: end, K: 1 << 16},
		{Code: end},
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IPV6), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "ndp"), nil
}

// solicit asks for the address at its solicited-node multicast address.
func solicit(s *os.File, link *net.Interface, from, address netip.Addr) error {
	a := address.As16()
	to := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IPV6), Ifindex: link.Index, Halen: 6, Addr: [8]byte{0x33, 0x33, 0xff, a[13], a[14], a[15]}}
	return sendTo(s, solicitation(from, link.HardwareAddr, address), to)
}

// solicitation also says which hardware address the sender has, so that whoever answers need not ask for it.
func solicitation(from netip.Addr, mac net.HardwareAddr, address netip.Addr) []byte {
	a, sender := address.As16(), from.As16()
	body := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	body = append(append(body, sourceLinkAddress, 1), mac...)
	group := []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]}
	packet := []byte{6 << 4, 0, 0, 0, 0, byte(len(body)), unix.IPPROTO_ICMPV6, ndpHopLimit}
	packet = append(packet, sender[:]...)
	packet = append(packet, group...)
	packet = append(packet, body...)
	binary.BigEndian.PutUint16(packet[ip6Header+2:], checksum6(packet))
	return packet
}

// checksum6 is that of a packet of ICMPv6, whose own field counts as zero: the sum over both addresses, the length, the protocol, and
// what follows the header of IPv6.
func checksum6(packet []byte) uint16 {
	body := slices.Clone(packet[ip6Header:])
	body[2], body[3] = 0, 0
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{packet[ip6Src:ip6Header], body} {
		for i, b := range part {
			if i%2 == 0 {
				sum += uint32(b) << 8
			} else {
				sum += uint32(b)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parseAdvertisement returns who has which address, according to a neighbor advertisement. One that a router has forwarded is forged.
func parseAdvertisement(packet []byte) (net.HardwareAddr, netip.Addr, bool) {
	if len(packet) < ndpOptions || packet[0]>>4 != 6 || packet[ip6Next] != unix.IPPROTO_ICMPV6 || packet[7] != ndpHopLimit || packet[ip6Header] != neighborAdvertisement {
		return nil, netip.Addr{}, false
	}
	address := netip.AddrFrom16([16]byte(packet[ndpTarget:ndpOptions]))
	for options := packet[ndpOptions:]; len(options) >= 8; {
		size := int(options[1]) * 8 // in units of eight bytes
		if size == 0 || size > len(options) {
			break
		}
		if options[0] == targetLinkAddress && size == 8 {
			return net.HardwareAddr(options[2:8]), address, true
		}
		options = options[size:]
	}
	return nil, netip.Addr{}, false
}
