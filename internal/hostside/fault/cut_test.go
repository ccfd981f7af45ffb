package fault

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// packet is what a rule sees of a packet.
type packet struct {
	device    string
	ethertype uint16
	network   []byte
	protocol  byte
	transport []byte
}

// ip is a packet between two addresses and ports.
func ip(from, to string, protocol byte, fromPort, toPort uint16) packet {
	header := make([]byte, 20)
	copy(header[12:], netip.MustParseAddr(from).AsSlice())
	copy(header[16:], netip.MustParseAddr(to).AsSlice())
	return packet{device: "eth0", ethertype: unix.ETH_P_IP, network: header, protocol: protocol,
		transport: binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, fromPort), toPort)}
}

func arp(sender, target string) packet {
	body := make([]byte, 28)
	copy(body[14:], netip.MustParseAddr(sender).AsSlice())
	copy(body[24:], netip.MustParseAddr(target).AsSlice())
	return packet{device: "eth0", ethertype: unix.ETH_P_ARP, network: body}
}

// drops says whether a chain drops a packet, as the kernel would decide, if the number that is drawn is this one.
func drops(t *testing.T, tb table, c chain, p packet, drawn uint32) bool {
	t.Helper()
	for _, rule := range c.rules {
		if v := evaluate(t, tb, rule, p, drawn); v != nil {
			return *v == expr.VerdictDrop
		}
	}
	return false
}

func evaluate(t *testing.T, tb table, rule []expr.Any, p packet, drawn uint32) *expr.VerdictKind {
	t.Helper()
	var register []byte
	for _, e := range rule {
		switch e := e.(type) {
		case *expr.Meta:
			switch e.Key {
			case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
				register = append([]byte(p.device), make([]byte, 16-len(p.device))...)
			case expr.MetaKeyL4PROTO:
				register = []byte{p.protocol}
			case expr.MetaKeyPROTOCOL:
				register = binary.BigEndian.AppendUint16(nil, p.ethertype)
			default:
				t.Fatalf("meta %d", e.Key)
			}
		case *expr.Payload:
			from := p.network
			if e.Base == expr.PayloadBaseTransportHeader {
				from = p.transport
			}
			if int(e.Offset+e.Len) > len(from) {
				return nil
			}
			register = from[e.Offset : e.Offset+e.Len]
		case *expr.Lookup:
			if e.SetName != set || !slices.ContainsFunc(tb.addresses, func(a netip.Addr) bool { return bytes.Equal(a.AsSlice(), register) }) {
				return nil
			}
		case *expr.Numgen:
			if e.Modulus != 100 {
				t.Fatalf("modulus %d", e.Modulus)
			}
			register = binary.NativeEndian.AppendUint32(nil, drawn)
		case *expr.Byteorder:
			register = binary.BigEndian.AppendUint32(nil, binary.NativeEndian.Uint32(register))
		case *expr.Cmp:
			order := bytes.Compare(register, e.Data)
			if len(register) != len(e.Data) || e.Op == expr.CmpOpEq && order != 0 || e.Op == expr.CmpOpLt && order >= 0 {
				return nil
			}
		case *expr.Verdict:
			return &e.Kind
		default:
			t.Fatalf("expression %T", e)
		}
	}
	return nil
}

const (
	tcpProtocol = unix.IPPROTO_TCP
	udpProtocol = unix.IPPROTO_UDP
)

func TestCuts(t *testing.T) {
	const own, peer, other, virtual = "10.0.0.11", "10.0.0.12", "10.0.0.99", "10.0.0.100"
	type expected struct {
		packet
		incoming bool
		what     string
	}
	in := func(what string, p packet) expected { return expected{p, true, what} }
	out := func(what string, p packet) expected { return expected{p, false, what} }
	loopback := ip(own, virtual, tcpProtocol, 40000, 6443)
	loopback.device = "lo"
	packets := []expected{
		in("a request", ip(peer, own, tcpProtocol, 40000, 6443)),
		in("an answer", ip(peer, own, tcpProtocol, 6443, 40000)),
		in("for a pod", ip(peer, "10.244.0.5", tcpProtocol, 40000, 80)),
		in("pods", ip(peer, own, udpProtocol, 40000, 8472)),
		in("VRRP", ip(peer, own, protocolVRRP, 0, 0)),
		in("etcd, from its client", ip(peer, own, tcpProtocol, 40000, 2380)),
		in("etcd, from its server", ip(peer, own, tcpProtocol, 2380, 40000)),
		in("etcd, of another protocol", ip(peer, own, udpProtocol, 2380, 2380)),
		in("SSH", ip(peer, own, tcpProtocol, 40000, 22)),
		in("from the virtual IP", ip(virtual, own, tcpProtocol, 6443, 40000)),
		in("from outside", ip(other, own, tcpProtocol, 40000, 6443)),
		in("loopback", loopback),
		out("a request", ip(own, peer, tcpProtocol, 40000, 6443)),
		out("from a pod", ip("10.244.0.5", peer, tcpProtocol, 40000, 6443)),
		out("VRRP", ip(own, peer, protocolVRRP, 0, 0)),
		out("etcd, from its client", ip(own, peer, tcpProtocol, 40000, 2380)),
		out("etcd, from its server", ip(own, peer, tcpProtocol, 2380, 40000)),
		out("SSH", ip(own, peer, tcpProtocol, 22, 40000)),
		out("SSH to the peer", ip(own, peer, tcpProtocol, 40000, 22)),
		out("to the virtual IP", ip(own, virtual, tcpProtocol, 40000, 6443)),
		out("to the outside", ip(own, other, tcpProtocol, 6443, 40000)),
		out("loopback", loopback),
	}
	everything := func(incoming, outgoing bool) (all []string) {
		for _, p := range packets {
			outside := strings.Contains(p.what, "outside") || p.what == "loopback"
			if !outside && (p.incoming && incoming || !p.incoming && outgoing) {
				all = append(all, fmt.Sprintf("%s %t", p.what, p.incoming))
			}
		}
		return all
	}
	without := func(all []string, not ...string) []string {
		return slices.DeleteFunc(all, func(s string) bool { return slices.Contains(not, s) })
	}
	ssh, _ := parseCaller(peer + " 50000 " + own + " 22")
	etcdOnly := []string{"etcd, from its client true", "etcd, from its server true", "etcd, from its client false", "etcd, from its server false"}
	for _, tc := range []struct {
		kind, target string
		from         caller
		drawn        uint32
		want         []string
	}{
		{kindCut, targetHost, caller{}, 0, everything(true, true)},
		{kindCut, targetHost, ssh, 0, without(everything(true, true), "SSH true", "SSH false")},
		{kindCut, targetLink, ssh, 0, without(everything(true, true), "SSH true", "SSH false")},
		{kindCut, targetIncoming, caller{}, 0, everything(true, false)},
		{kindCut, targetOutgoing, ssh, 0, without(everything(false, true), "SSH false")},
		{kindCut, targetVRRP, caller{}, 0, []string{"VRRP true", "VRRP false"}},
		{kindCut, targetEtcdPeers, caller{}, 0, etcdOnly},
		{kindLoss, targetHost, ssh, 29, without(everything(true, true), "SSH true", "SSH false")},
		{kindLoss, targetHost, ssh, 30, nil},
		{kindLoss, targetHost, ssh, 99, nil},
	} {
		r := Request{ID: "x", Kind: tc.kind, Target: tc.target, Peers: []string{peer, virtual}, Percent: 30}
		all, err := tablesOf(r, tc.from, nil)
		if err != nil || len(all) != 1 || all[0].family != nftables.TableFamilyIPv4 {
			t.Fatalf("%+v: %+v, %v", r, all, err)
		}
		var got []string
		for _, p := range packets {
			for _, c := range all[0].chains {
				if incoming := *c.hook == *nftables.ChainHookPrerouting; incoming == p.incoming && drops(t, all[0], c, p.packet, tc.drawn) {
					got = append(got, fmt.Sprintf("%s %t", p.what, p.incoming))
				}
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s %s, %d: drops\n%q, and not\n%q", tc.kind, tc.target, tc.drawn, got, tc.want)
		}
	}
}

// TestARP: a host that is cut off does not announce a virtual IP, and hears nobody announce it. The caller's next packet still finds its
// way.
func TestARP(t *testing.T) {
	const own, peer, virtual = "10.0.0.11", "10.0.0.12", "10.0.0.100"
	announcement, fromPeer, toPeer, outside := arp(virtual, virtual), arp(peer, own), arp(own, peer), arp("10.0.0.1", own)
	for _, tc := range []struct {
		target string
		from   string
		hooks  []*nftables.ChainHook
		drops  []packet
	}{
		{targetHost, "192.0.2.1 1 10.0.0.11 22", []*nftables.ChainHook{nftables.ChainHookIngress, nftables.ChainHookIngress, nftables.ChainHookEgress, nftables.ChainHookEgress}, []packet{announcement, fromPeer, toPeer}},
		{targetLink, peer + " 1 10.0.0.11 22", []*nftables.ChainHook{nftables.ChainHookIngress, nftables.ChainHookIngress, nftables.ChainHookEgress, nftables.ChainHookEgress}, []packet{announcement}},
		{targetOutgoing, "192.0.2.1 1 10.0.0.11 22", []*nftables.ChainHook{nftables.ChainHookEgress, nftables.ChainHookEgress}, []packet{announcement, fromPeer, toPeer}},
	} {
		from, _ := parseCaller(tc.from)
		all, err := tablesOf(Request{Kind: kindCut, Target: tc.target, Peers: []string{peer, virtual}}, from, []string{"eth0", "eth1"})
		if err != nil || len(all) != 2 || all[1].family != nftables.TableFamilyNetdev || all[1].without == "" {
			t.Fatalf("%+v, %v", all, err)
		}
		names := map[string]bool{}
		for i, c := range all[1].chains {
			if i >= len(tc.hooks) || *c.hook != *tc.hooks[i] || c.device != []string{"eth0", "eth1"}[i%2] || names[c.name] {
				t.Errorf("%s: chain %+v", tc.target, c)
			}
			names[c.name] = true
			for _, p := range []packet{announcement, fromPeer, toPeer, outside, ip(peer, own, tcpProtocol, 1, 2)} {
				want := slices.ContainsFunc(tc.drops, func(d packet) bool { return d.ethertype == p.ethertype && bytes.Equal(d.network, p.network) })
				if got := drops(t, all[1], c, p, 0); got != want {
					t.Errorf("%s, chain %s: drops %+v: %t", tc.target, c.name, p, got)
				}
			}
		}
		if len(all[1].chains) != len(tc.hooks) {
			t.Errorf("%s: %d chains", tc.target, len(all[1].chains))
		}
	}
	for _, target := range []string{targetVRRP, targetEtcdPeers} {
		if all, err := tablesOf(Request{Kind: kindCut, Target: target, Peers: peers}, caller{}, []string{"eth0"}); err != nil || len(all) != 1 {
			t.Errorf("%s: %+v, %v", target, all, err)
		}
		if _, err := tablesOf(Request{Kind: kindCut, Target: target}, caller{}, nil); !IsImpossible(err) {
			t.Errorf("%s without peers: %v", target, err)
		}
	}
}

// TestTheCallerIsFound among the processes that started this one, also through sudo.
func TestTheCallerIsFound(t *testing.T) {
	f := newFake(t)
	for pid, parent := range map[int]int{500: 1, 501: 500, 502: 501, 503: 502, 600: 1} {
		f.runs(pid, parent, 1, "")
	}
	f.put("/proc/501/environ", "PATH=/bin\x00SSH_CONNECTION=10.0.0.1 50000 10.0.0.11 2222\x00HOME=/root\x00")
	f.put("/proc/502/environ", "SUDO_USER=admin\x00")
	want := caller{netip.MustParseAddr("10.0.0.1"), 2222}
	for pid, found := range map[int]bool{503: true, 501: true, 500: false, 600: false, 700: false} {
		if got, ok := callerOf(f.at("/proc"), pid); ok != found || ok && got != want {
			t.Errorf("%d: %+v, %t", pid, got, ok)
		}
	}
	for text, want := range map[string]string{"::ffff:10.0.0.1 1 ::ffff:10.0.0.11 22": "10.0.0.1", "fd00::1 1 fd00::2 22": "fd00::1", "10.0.0.1 1": "", "a b c d": "", "": ""} {
		got, ok := parseCaller(text)
		if ok != (want != "") || ok && got.address.String() != want {
			t.Errorf("%q: %+v, %t", text, got, ok)
		}
	}
	// Without an address of IPv4, there is nothing to keep open among peers that are.
	six, _ := parseCaller("fd00::1 1 fd00::2 22")
	with, err := tablesOf(Request{Kind: kindCut, Target: targetHost, Peers: peers}, six, nil)
	without, werr := tablesOf(Request{Kind: kindCut, Target: targetHost, Peers: peers}, caller{}, nil)
	if err != nil || werr != nil || len(with[0].chains[0].rules) != len(without[0].chains[0].rules) {
		t.Errorf("%v, %v", err, werr)
	}
}

// ip6 is ip for IPv6, and ndp a message of neighbor discovery about an address.
func ip6(from, to string, protocol byte, fromPort, toPort uint16) packet {
	header := make([]byte, 40)
	header[6] = protocol
	copy(header[8:], netip.MustParseAddr(from).AsSlice())
	copy(header[24:], netip.MustParseAddr(to).AsSlice())
	return packet{device: "eth0", ethertype: unix.ETH_P_IPV6, network: header, protocol: protocol,
		transport: binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, fromPort), toPort)}
}

func ndp(kind byte, about string) packet {
	p := ip6("fe80::1", "ff02::1", unix.IPPROTO_ICMPV6, 0, 0)
	p.network = append(append(p.network, kind, 0, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(about).AsSlice()...)
	return p
}

// TestCutsActOnBothFamilies: the peers of each family have a table, and what remains open for the caller is in that of its own.
func TestCutsActOnBothFamilies(t *testing.T) {
	const own, peer, virtual, own6, peer6, virtual6 = "10.0.0.11", "10.0.0.12", "10.0.0.100", "fd00::11", "fd00::12", "fd00::100"
	for _, tc := range []struct {
		what string
		from string
		packet
		incoming, drops bool
	}{
		{"IPv4", "", ip(peer, own, tcpProtocol, 40000, 6443), true, true},
		{"IPv6", "", ip6(peer6, own6, tcpProtocol, 40000, 6443), true, true},
		{"IPv6, sent", "", ip6(own6, peer6, udpProtocol, 1, 8472), false, true},
		{"from a virtual IP", "", ip6(virtual6, own6, tcpProtocol, 6443, 40000), true, true},
		{"from outside", "", ip6("fd00::99", own6, tcpProtocol, 40000, 6443), true, false},
		{"SSH of the caller", peer6 + " 50000 " + own6 + " 22", ip6(peer6, own6, tcpProtocol, 50000, 22), true, false},
		{"SSH of another one", peer + " 50000 " + own + " 22", ip6(peer6, own6, tcpProtocol, 50000, 22), true, true},
		{"SSH of the caller, IPv4", peer + " 50000 " + own + " 22", ip(peer, own, tcpProtocol, 50000, 22), true, false},
		{"an announcement", "", ndp(136, virtual6), true, true},
		{"a question about a peer", "", ndp(135, peer6), false, true},
		{"a question about this host", "", ndp(135, own6), true, false},
		{"a router's announcement", "", ndp(134, peer6), true, false},
		{"ARP", "", arp(peer, own), true, true},
	} {
		from, _ := parseCaller(tc.from)
		all, err := tablesOf(Request{Kind: kindCut, Target: targetHost, Peers: []string{peer, virtual, peer6, virtual6}}, from, []string{"eth0"})
		if err != nil || len(all) != 4 || all[2].family != nftables.TableFamilyNetdev || all[3].family != nftables.TableFamilyNetdev || all[2].suffix == all[3].suffix {
			t.Fatalf("%s: %+v, %v", tc.what, all, err)
		}
		got := false
		for _, tb := range all {
			switch {
			case tb.family == nftables.TableFamilyIPv4 && tc.ethertype != unix.ETH_P_IP, tb.family == nftables.TableFamilyIPv6 && tc.ethertype != unix.ETH_P_IPV6:
				continue // the kernel does not show it there
			}
			for _, c := range tb.chains {
				if incoming := *c.hook == *nftables.ChainHookPrerouting || *c.hook == *nftables.ChainHookIngress; incoming == tc.incoming && drops(t, tb, c, tc.packet, 0) {
					got = true
				}
			}
		}
		if got != tc.drops {
			t.Errorf("%s: dropped: %t", tc.what, got)
		}
	}
}
