package fault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/hostside/system"
)

// Packets are dropped by tables of nftables that belong to one fault: to delete them heals it, and touches nobody else's rules. Packets
// that arrive are dropped before connections are tracked and addresses translated, so that those that this host forwards to its pods are
// dropped, too; packets that leave are dropped after their destination was translated. What pods of different hosts exchange is in
// packets between the hosts (VXLAN).
//
// A program of this host that sends a packet that is dropped may be told (EPERM), which a cut cable would not do. TCP treats it as lost.

// cutting drops packets.
type cutting struct{ *machine }

func (c cutting) look(_ context.Context, r *record) error {
	if _, err := tablesOf(r.Request, caller{}, nil); err != nil {
		return err
	}
	list := strings.Join(r.Peers, ", ")
	switch {
	case r.Kind == kindLoss:
		r.What = fmt.Sprintf("%d%% of the packets that are exchanged with %s are dropped", r.Percent, list)
	case r.Target == targetIncoming:
		r.What = "packets from " + list + " are dropped"
	case r.Target == targetOutgoing:
		r.What = "packets to " + list + " are dropped"
	case r.Target == targetVRRP:
		r.What = "packets of VRRP that are exchanged with " + list + " are dropped"
	case r.Target == targetEtcdPeers:
		r.What = "packets that the etcd members here and on " + list + " exchange are dropped"
	default:
		r.What = "packets that are exchanged with " + list + " are dropped"
	}
	return nil
}

func (c cutting) inject(_ context.Context, r *record) error {
	from, found := callerOf(c.at("/proc"), os.Getpid())
	if found && slices.Contains(r.Peers, from.address.String()) {
		r.What += fmt.Sprintf(", except for SSH with %s", from.address)
	}
	tables, err := tablesOf(r.Request, from, c.devices(r.Peers))
	if err != nil {
		return err
	}
	missing, err := c.addTables(tableName(r.ID), tables)
	if len(missing) > 0 {
		r.What += "; " + strings.Join(missing, "; ")
	}
	return err
}

func (c cutting) heal(_ context.Context, r record) error { return c.removeTables(tableName(r.ID)) }

func tableName(id string) string { return "quorate-fault-" + id }

// caller is the other end of the SSH connection through which a fault is injected. It stays reachable: it is to heal the fault.
type caller struct {
	address netip.Addr
	// port is this host's, to which it can connect again.
	port uint16
}

// callerOf finds the caller of a process: sshd tells the programs that it starts, and sudo does not pass that on.
func callerOf(proc string, pid int) (caller, bool) {
	const generations = 20
	for range generations {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		for variable := range strings.SplitSeq(string(system.ReadAll(filepath.Join(dir, "environ"))), "\x00") {
			if value, ok := strings.CutPrefix(variable, "SSH_CONNECTION="); ok {
				return parseCaller(value)
			}
		}
		parent, err := strconv.Atoi(status(dir, "PPid"))
		if err != nil || parent <= 1 {
			break
		}
		pid = parent
	}
	return caller{}, false
}

// parseCaller reads SSH_CONNECTION: the client's address and port, and the server's.
func parseCaller(text string) (caller, bool) {
	f := strings.Fields(text)
	if len(f) != 4 {
		return caller{}, false
	}
	address, err := netip.ParseAddr(f[0])
	port, perr := strconv.ParseUint(f[3], 10, 16)
	return caller{address.Unmap(), uint16(port)}, err == nil && perr == nil
}

// table is a table of nftables.
type table struct {
	family nftables.TableFamily
	// addresses are the elements of its set.
	addresses []netip.Addr
	chains    []chain
	// without says what is missing without this table, if it is optional.
	without string
	// suffix distinguishes tables of one family.
	suffix string
}

// The messages of neighbor discovery (RFC 4861).
const neighborSolicitation, neighborAdvertisement = 135, 136

// set is the name of the set of addresses in each table.
const set = "peers"

type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	device   string
	rules    [][]expr.Any
}

// direction says where the parts of a packet are that is received or sent.
type direction struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	// onDevice is the hook for what is not IP.
	onDevice *nftables.ChainHook
	link     expr.MetaKey
	// Offsets of the peer's address in the headers of IPv4 and IPv6, and of both ports in those of TCP and UDP.
	peer, peer6, peerPort, ownPort uint32
}

// peerAt is where the peer's address is in packets with addresses of a size.
func (d direction) peerAt(size uint32) uint32 {
	if size == net.IPv6len {
		return d.peer6
	}
	return d.peer
}

const (
	sourceAddress, destinationAddress   = 12, 16
	sourceAddress6, destinationAddress6 = 8, 24
	sourcePort, destinationPort         = 0, 2
	// in packets of ARP between Ethernet and IPv4
	arpSender, arpTarget = 14, 24
	// in packets of IPv6: the protocol, ICMPv6's type, and the address that a neighbor solicitation or advertisement is about
	nextHeader, icmp6Type, ndpTarget = 6, 40, 48
)

var (
	received = direction{"received", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainHookIngress, expr.MetaKeyIIFNAME, sourceAddress, sourceAddress6, sourcePort, destinationPort}
	sent     = direction{"sent", nftables.ChainHookPostrouting, nftables.ChainPriorityMangle, nftables.ChainHookEgress, expr.MetaKeyOIFNAME, destinationAddress, destinationAddress6, destinationPort, sourcePort}
)

// etcdPeerPort is where etcd members listen for each other.
const etcdPeerPort = 2380

// protocolVRRP is the number of VRRP among the protocols of IP.
const protocolVRRP = 112

// tablesOf are the tables that drop the packets of a fault. Devices are the network interfaces through which the peers are reached.
func tablesOf(r Request, from caller, devices []string) ([]table, error) {
	peers, err := parsePeers(r.Peers)
	if err != nil {
		return nil, err
	}
	directions := []direction{received, sent}
	// which are the packets with the peers that are dropped: those that match any of these.
	which := func(direction) [][]expr.Any { return [][]expr.Any{nil} }
	whole := false
	switch kind := r.Kind + " " + r.Target; kind {
	case kindCut + " " + targetHost, kindCut + " " + targetLink:
		whole = true
	case kindCut + " " + targetIncoming:
		directions, whole = directions[:1], true
	case kindCut + " " + targetOutgoing:
		directions, whole = directions[1:], true
	case kindCut + " " + targetVRRP:
		if len(peers) == 0 {
			return nil, impossible("keepalived on this host has no peers")
		}
		which = func(direction) [][]expr.Any { return [][]expr.Any{protocol(protocolVRRP)} }
	case kindCut + " " + targetEtcdPeers:
		if len(peers) == 0 {
			return nil, impossible("the etcd member on this host is the only one")
		}
		which = func(d direction) [][]expr.Any {
			return [][]expr.Any{tcp(d.ownPort, etcdPeerPort), tcp(d.peerPort, etcdPeerPort)}
		}
	case kindLoss + " " + targetHost, kindLoss + " " + targetLink:
		if r.Percent < 1 || r.Percent > 100 {
			return nil, fmt.Errorf("the fault %s: %d%% of the packets: it must be between 1 and 100", r.ID, r.Percent)
		}
		which = func(direction) [][]expr.Any { return [][]expr.Any{byChance(r.Percent)} }
	default:
		return nil, fmt.Errorf("the fault %s: a host injects no %s of %q", r.ID, r.Kind, r.Target)
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("the fault %s has no peers", r.ID)
	}
	var out, resolution []table
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		own := slices.DeleteFunc(slices.Clone(peers), func(a netip.Addr) bool { return a.Is6() != (family == nftables.TableFamilyIPv6) })
		if len(own) == 0 {
			continue
		}
		t := table{family: family, addresses: own}
		for _, d := range directions {
			c := chain{name: d.name, hook: d.hook, priority: d.priority}
			// A virtual IP among the peers may be this host's own.
			c.rules = append(c.rules, slices.Concat(onLoopback(d), verdict(expr.VerdictAccept)))
			if from.address.IsValid() && from.address.Is6() == own[0].Is6() {
				c.rules = append(c.rules, slices.Concat(field(expr.PayloadBaseNetworkHeader, d.peerAt(t.size()), from.address.AsSlice()), tcp(d.ownPort, from.port), verdict(expr.VerdictAccept)))
			}
			for _, w := range which(d) {
				c.rules = append(c.rules, slices.Concat(inSet(d.peerAt(t.size()), t.size()), w, verdict(expr.VerdictDrop)))
			}
			t.chains = append(t.chains, c)
		}
		out = append(out, t)
		others := slices.DeleteFunc(slices.Clone(own), func(a netip.Addr) bool { return a == from.address })
		if whole && len(devices) > 0 && len(others) > 0 {
			resolution = append(resolution, addressResolution(directions, others, devices))
		}
	}
	return append(out, resolution...), nil
}

// size is that of the table's addresses in bytes.
func (t table) size() uint32 { return uint32(t.addresses[0].BitLen() / 8) }

// addressResolution drops what ARP, or the neighbor discovery of IPv6, says about the peers, which are of one family. A holder of the virtual IP that is cut off goes on announcing it, and would
// draw the clients away from its successor. keepalived sends that past the hooks of IP and of ARP.
func addressResolution(directions []direction, peers []netip.Addr, devices []string) table {
	t := table{family: nftables.TableFamilyNetdev, addresses: peers, without: "ARP is not cut"}
	about := []([]expr.Any){
		slices.Concat(meta(expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)), inSet(arpSender, t.size())),
		slices.Concat(meta(expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)), inSet(arpTarget, t.size())),
	}
	if peers[0].Is6() {
		t.suffix, t.without, about = "6", "neighbor discovery is not cut", nil
		for _, kind := range []byte{neighborSolicitation, neighborAdvertisement} {
			about = append(about, slices.Concat(meta(expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)),
				field(expr.PayloadBaseNetworkHeader, nextHeader, []byte{unix.IPPROTO_ICMPV6}), field(expr.PayloadBaseNetworkHeader, icmp6Type, []byte{kind}), inSet(ndpTarget, t.size())))
		}
	}
	for _, d := range directions {
		for i, device := range devices {
			c := chain{name: d.name + strconv.Itoa(i), hook: d.onDevice, priority: nftables.ChainPriorityFilter, device: device}
			for _, a := range about {
				c.rules = append(c.rules, slices.Concat(a, verdict(expr.VerdictDrop)))
			}
			t.chains = append(t.chains, c)
		}
	}
	return t
}

func parsePeers(texts []string) (out []netip.Addr, _ error) {
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("the peer %q is no IP address", text)
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

// Parts of rules. Each of them uses the first register.

func field(base expr.PayloadBase, offset uint32, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(value))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

func inSet(offset, size uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}
}

func meta(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func onLoopback(d direction) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return meta(d.link, name)
}

func protocol(number byte) []expr.Any { return meta(expr.MetaKeyL4PROTO, []byte{number}) }

func tcp(offset uint32, port uint16) []expr.Any {
	return slices.Concat(protocol(unix.IPPROTO_TCP), field(expr.PayloadBaseTransportHeader, offset, binary.BigEndian.AppendUint16(nil, port)))
}

// byChance draws a number below 100, and compares it as the kernel compares: byte by byte, the most significant one first.
func byChance(percent int) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, uint32(percent))},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// addTables adds tables of a name, each in one transaction.
func addTables(name string, all []table) (missing []string, err error) {
	if err := removeTables(name); err != nil {
		return nil, err
	}
	for _, t := range all {
		switch err := addTable(name, t); {
		case err == nil:
		case t.without != "":
			missing = append(missing, t.without+": "+err.Error())
		case unsupported(err):
			return missing, impossible("the kernel of this host cannot drop these packets with nftables: %v", err)
		default:
			return missing, fmt.Errorf("adding rules to nftables: %w", err)
		}
	}
	return missing, nil
}

// unsupported says that the kernel has no nftables, or lacks a part of it.
func unsupported(err error) bool {
	return slices.ContainsFunc([]error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT, unix.EINVAL}, func(e error) bool { return errors.Is(err, e) })
}

func addTable(name string, t table) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	nt := conn.AddTable(&nftables.Table{Name: name + t.suffix, Family: t.family})
	s := &nftables.Set{Table: nt, Name: set, KeyType: nftables.TypeIPAddr}
	if t.size() == net.IPv6len {
		s.KeyType = nftables.TypeIP6Addr
	}
	var elements []nftables.SetElement
	for _, a := range t.addresses {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := conn.AddSet(s, elements); err != nil {
		return err
	}
	for _, c := range t.chains {
		nc := conn.AddChain(&nftables.Chain{Name: c.name, Table: nt, Type: nftables.ChainTypeFilter, Hooknum: c.hook, Priority: c.priority, Device: c.device})
		for _, rule := range c.rules {
			for _, e := range rule {
				if l, is := e.(*expr.Lookup); is {
					l.SetID = s.ID
				}
			}
			conn.AddRule(&nftables.Rule{Table: nt, Chain: nc, Exprs: rule})
		}
	}
	return conn.Flush()
}

// removeTables removes all tables of a name. That there are none is no error, nor that the kernel has no nftables.
func removeTables(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	all, err := conn.ListTables()
	if err != nil {
		if unsupported(err) {
			return nil
		}
		return fmt.Errorf("listing tables of nftables: %w", err)
	}
	for _, t := range all {
		if t.Name != name && t.Name != name+"6" {
			continue
		}
		conn.DelTable(t)
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing a table of nftables: %w", err)
		}
	}
	return nil
}

// devicesTo are the network interfaces through which addresses are reached. One that cannot be reached has none.
func devicesTo(peers []string) (out []string) {
	for _, p := range peers {
		routes, err := netlink.RouteGet(net.ParseIP(p))
		if err != nil {
			continue
		}
		for _, r := range routes {
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 || slices.Contains(out, link.Attrs().Name) {
				continue
			}
			out = append(out, link.Attrs().Name)
		}
	}
	return out
}
