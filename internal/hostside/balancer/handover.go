package balancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

// Connections do not move with an address. Those through this host are closed before the virtual IP leaves, between two requests if they ever are, and
// new ones are kept waiting for that moment: their first packet is dropped, and the client's kernel sends it again, after a second,
// to whoever has the address then.
const (
	// learnFor is how long connections are watched before any is closed.
	learnFor = longLived + 100*time.Millisecond
	// closeFor is how long connections are closed while new ones wait.
	closeFor = 500 * time.Millisecond
	// restFor is how long young connections are closed then. The client's kernel sends the first packet of a new connection again after a
	// second, and by then the address should have moved.
	restFor = 300 * time.Millisecond
	// holdFor is after how long the kernel lets new connections in again, even if this program is killed.
	holdFor = closeFor + restFor + goneWithin + takenWithin + time.Second
	// goneWithin is how long keepalived may take to give the address away.
	goneWithin = 2 * time.Second
	// takenWithin is how long the successor may take to announce the address. Until then, packets for it still arrive here. A host
	// that forwards packets would send them to the successor, which would send them back.
	takenWithin = time.Second
)

// holdTable is the nftables table that exists during a handover.
const holdTable = "quorate-handover"

// HandOver gives the virtual IPs away, and closes the connections through this host before that without breaking requests. It
// returns how many were closed. The address stays away for as long as after StandAside. If new connections cannot be kept waiting,
// for example because the kernel has no nftables, the address moves all the same.
var HandOver = host.DefineChange("node.hand-over", func(ctx context.Context, virtualIPs []string) (closed int, err error) {
	w := sessionWatch{}
	if err := learn(ctx, w); err != nil {
		return 0, stepAside() // a HAProxy that does not answer has no connections that could be saved, and without the kernel's answer none can be
	}
	release, err := hold(virtualIPs)
	if err == nil {
		defer release()
		for _, phase := range []struct {
			takes time.Duration
			manners
		}{{closeFor, polite}, {restFor, urgent}} {
			n, _, err := closeBetweenRequests(ctx, present, w, time.Now().Add(phase.takes), phase.manners)
			if closed += n; err != nil {
				return closed, err
			}
		}
	}
	if err := stepAside(); err != nil {
		return closed, err
	}
	for end := time.Now().Add(goneWithin); time.Now().Before(end) && ctx.Err() == nil; {
		have := facts.Facts{Addresses: system.Addresses()}
		if !slices.ContainsFunc(virtualIPs, func(address string) bool { _, has := have.Interface(address); return has }) {
			break
		}
		time.Sleep(sessionPace)
	}
	if release != nil {
		time.Sleep(takenWithin)
	}
	return closed, nil
})

// urgent are the manners when the address is about to leave. A young connection that is between two requests is of a client that keeps it, or it
// would have ended by now. If that client only waits for events, it would not learn that its connection ended with the address until its
// own check of it, and a kube-proxy kept sending pods to an API server that had stopped, for half a minute. A request that is under way may
// still be answered while keepalived gives the address away, and the next one tells the client.
var urgent = manners{asked: silentAnyway, last: true}

// learn watches the connections for a while and closes none.
func learn(ctx context.Context, w sessionWatch) error {
	for end := time.Now().Add(learnFor); time.Now().Before(end); {
		begin := time.Now()
		if _, _, _, err := w.look(ctx, present, polite); err != nil {
			return err
		}
		if err := pause(ctx, begin); err != nil {
			return err
		}
	}
	return nil
}

// hold drops the first packets of new connections to the addresses, whether or not this host has them. It ends with release, or after
// holdFor.
func hold(virtualIPs []string) (release func(), err error) {
	var held, held6 []nftables.SetElement
	for _, address := range virtualIPs {
		ip, err := netip.ParseAddr(address)
		switch e := (nftables.SetElement{Key: ip.AsSlice(), Timeout: holdFor}); {
		case err != nil:
			return nil, fmt.Errorf("the virtual IP %q is no IP address", address)
		case ip.Is4():
			held = append(held, e)
		default:
			held6 = append(held6, e)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var tables []*nftables.Table
	if len(held) > 0 {
		t, err := addHold(conn, nftables.TableFamilyIPv4, nftables.TypeIPAddr, 16, held)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	if len(held6) > 0 {
		t, err := addHold(conn, nftables.TableFamilyIPv6, nftables.TypeIP6Addr, 24, held6)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("keeping new connections to %s waiting: %w", strings.Join(virtualIPs, " and "), err)
	}
	return func() {
		for _, t := range tables {
			conn.DelTable(t)
		}
		conn.Flush() //nolint:errcheck // the set's timeout ends it as well
	}, nil
}

// addHold adds the table of one family. destination is where an IP header has the address that a packet is for.
func addHold(conn *nftables.Conn, family nftables.TableFamily, key nftables.SetDatatype, destination uint32, held []nftables.SetElement) (*nftables.Table, error) {
	table := conn.AddTable(&nftables.Table{Name: holdTable, Family: family})
	conn.FlushTable(table)
	set := &nftables.Set{Table: table, Name: "held", KeyType: key, HasTimeout: true, Timeout: holdFor}
	if err := conn.AddSet(set, held); err != nil {
		return nil, err
	}
	chain := conn.AddChain(&nftables.Chain{Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle})
	const flags = 13                // the offset in the header of TCP
	const syn, ofThese = 0x02, 0x17 // SYN, of FIN, SYN, RST and ACK
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: key.Bytes},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{ofThese}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return table, nil
}
