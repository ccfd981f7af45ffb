package balancer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

// WhoHasRequest is a query for the machines that have an address.
type WhoHasRequest struct {
	Address string `json:"address"` // that is asked for
	// From are addresses of this host. The question goes through the interface of the one whose network contains the address, or else of the last one.
	From []string `json:"from"`
	// Peers are addresses whose hardware addresses are looked up in the kernel's table of neighbors.
	Peers []string `json:"peers,omitempty"`
	// Quick sends fewer probes. It is for questions that are asked again and again.
	Quick bool `json:"quick,omitempty"`
}

// pace is how often and how long is asked. There are several probes, because one may get lost, or the answer be late on a
// busy machine.
type pace struct {
	probes         int
	interval, last time.Duration
}

var (
	thorough = pace{4, 150 * time.Millisecond, 300 * time.Millisecond}
	quick    = pace{2, 100 * time.Millisecond, 200 * time.Millisecond}
)

// sendPatience is how long the kernel may take to accept a probe.
const sendPatience = time.Second

// WhoHas sends ARP probes for an address, as RFC 5227 describes for the detection of duplicate addresses, and returns who
// answered or announced it within three quarters of a second (quickly: 0.3 seconds). No cache changes because of a probe. For an IPv6
// address, the probes are neighbor solicitations (RFC 4861), from which others learn nothing but this host's own hardware address.
// The host's own kernel does not answer: AddressHolders.Has says whether this host has the address.
var WhoHas = host.Define("node.who-has", whoHas)

func whoHas(ctx context.Context, r WhoHasRequest) (facts.AddressHolders, error) {
	var out facts.AddressHolders
	address, err := netip.ParseAddr(r.Address)
	if err != nil {
		return out, fmt.Errorf("%q is not an IP address", r.Address)
	}
	own := facts.Facts{Addresses: system.Addresses()}
	source := own.InNetworkOf(r.Address, r.From...)
	if lost := own.LostFor(r.Address, r.From...); lost != "" { // in another network, nobody would answer
		source = lost
	}
	at, ok := own.Interface(source)
	if !ok {
		return out, fmt.Errorf("no interface of this host has the address %s", source)
	}
	link, err := net.InterfaceByName(at.Interface)
	if err != nil {
		return out, fmt.Errorf("interface %s: %w", at.Interface, err)
	}
	if len(link.HardwareAddr) != 6 {
		return out, fmt.Errorf("interface %s has no Ethernet address, so nobody can be asked through it", link.Name)
	}
	out.Interface, out.MAC = link.Name, link.HardwareAddr.String()
	_, out.Has = own.Interface(r.Address)
	how := thorough
	if r.Quick {
		how = quick
	}
	if address.Is6() {
		from, err := netip.ParseAddr(source)
		if err != nil || !from.Is6() {
			return out, fmt.Errorf("%q is not an IPv6 address, from which %s could be asked for", source, address)
		}
		out.Answers, err = probe6(ctx, link, from, address, how)
		out.Peers = neighbors6(link, r.Peers)
		return out, err
	}
	out.Answers, err = probe(ctx, link, address, how)
	if table, unread := os.ReadFile("/proc/net/arp"); unread == nil {
		out.Peers = neighbors(string(table), link.Name, r.Peers)
	}
	return out, err
}

// neighbors finds the hardware addresses of some IP addresses in the kernel's table, which has a head line and the columns IP
// address, type, flags, hardware address, mask and device.
func neighbors(table, link string, of []string) map[string]string {
	const complete = 2
	out := map[string]string{}
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) != 6 || words[5] != link || !slices.Contains(of, words[0]) {
			continue
		}
		if flags, err := strconv.ParseUint(words[2], 0, 32); err == nil && flags&complete != 0 {
			out[words[0]] = words[3]
		}
	}
	return out
}

func probe(ctx context.Context, link *net.Interface, address netip.Addr, how pace) ([]string, error) {
	return probing{"ARP", openARP, send, parseARP}.run(ctx, link, address, how)
}

// probing is how machines are asked for an address of one family.
type probing struct {
	name  string
	open  func(index int) (*os.File, error)
	send  func(*os.File, *net.Interface, netip.Addr) error
	parse func(packet []byte) (net.HardwareAddr, netip.Addr, bool)
}

func (p probing) run(ctx context.Context, link *net.Interface, address netip.Addr, how pace) ([]string, error) {
	s, err := p.open(link.Index)
	if err != nil {
		return nil, fmt.Errorf("sending %s probes on %s: %w", p.name, link.Name, err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.SetDeadline(time.Now()) }) //nolint:errcheck // it ends soon
	defer stop()
	var answers []string
	for i := range how.probes {
		// A card that sends nothing any more lets packets queue up, until the kernel takes none.
		if err := s.SetWriteDeadline(time.Now().Add(sendPatience)); err != nil {
			return nil, fmt.Errorf("sending %s probes on %s: %w", p.name, link.Name, err)
		}
		if err := p.send(s, link, address); err != nil {
			return nil, fmt.Errorf("sending %s probes on %s: %w", p.name, link.Name, err)
		}
		wait := how.interval
		if i == how.probes-1 {
			wait = how.last
		}
		if answers, err = p.listen(ctx, s, link.HardwareAddr, address, wait, answers); err != nil {
			return nil, fmt.Errorf("waiting for %s replies on %s: %w", p.name, link.Name, err)
		}
	}
	slices.Sort(answers)
	return slices.Compact(answers), nil
}

// listen collects the hardware addresses of the machines that claim the address.
func (p probing) listen(ctx context.Context, s *os.File, own net.HardwareAddr, address netip.Addr, wait time.Duration, found []string) ([]string, error) {
	if err := s.SetReadDeadline(time.Now().Add(wait)); err != nil { // a write has its own
		return nil, err
	}
	packet := make([]byte, 128)
	for {
		n, err := s.Read(packet)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return found, nil
		case err != nil:
			return nil, err
		}
		if mac, ip, ok := p.parse(packet[:n]); ok && ip == address && !bytes.Equal(mac, own) {
			found = append(found, mac.String())
		}
	}
}

func openARP(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP), Ifindex: index}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "arp"), nil
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// An ARP packet for IPv4 over Ethernet: a header of eight bytes, then the sender's and the target's addresses.
var arpHeader = []byte{0, 1, 8, 0, 6, 4}

const (
	arpRequest = 1
	arpSize    = 28
)

func send(s *os.File, link *net.Interface, address netip.Addr) error {
	packet := binary.BigEndian.AppendUint16(slices.Clone(arpHeader), arpRequest)
	packet = append(packet, link.HardwareAddr...)
	packet = append(packet, make([]byte, 4+6)...) // a probe: the sender has no address yet, and the target's hardware address is unknown
	packet = append(packet, address.AsSlice()...)
	to := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP), Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return sendTo(s, packet, to)
}

func sendTo(s *os.File, packet []byte, to unix.Sockaddr) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), packet, 0, to)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// parseARP returns the sender of a request or a reply.
func parseARP(packet []byte) (net.HardwareAddr, netip.Addr, bool) {
	if len(packet) < arpSize || !bytes.Equal(packet[:6], arpHeader) {
		return nil, netip.Addr{}, false
	}
	return net.HardwareAddr(packet[8:14]), netip.AddrFrom4([4]byte(packet[14:18])), true
}
