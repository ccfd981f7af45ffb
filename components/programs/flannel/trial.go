package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	mathrand "math/rand/v2"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// How a node tries the overlay before it takes pods.
const (
	firstWait = 30 * time.Millisecond // for answers to the first packets; doubled each time
	longest   = 2 * time.Second
	grace     = 500 * time.Millisecond // for the other peers once one has answered
	patience  = 3 * time.Second        // until the API is told what is waited for
	relist    = 10 * time.Second       // until the API is asked for the peers again
	retell    = 30 * time.Second       // until the API is told another reason
	sample    = 32                     // peers that are tried, chosen at random: each of 200 nodes need not try all others
)

// A node that was held back says so in its condition NetworkUnavailable, with this reason.
const noPodTraffic = "NoPodTraffic"

// trial sends packets of full size over the overlay to the nodes that are in it already. The kernel answers there, so that
// nothing has to listen; an answer proves both directions, and that the way carries what pods will send.
type trial struct {
	nodes  nodeClient
	node   string // this one's name
	prefix string // of flannel's annotations
	family ipFamily
	link   string // the overlay's interface
	own    netip.Addr
	mtu    int // of the overlay

	begun  time.Time
	told   string // what the API was told last
	toldAt time.Time
}

// nodeClient is what a trial needs of the API.
type nodeClient interface {
	List(context.Context, metav1.ListOptions) (*corev1.NodeList, error)
	PatchStatus(ctx context.Context, node string, patch []byte) (*corev1.Node, error)
}

// peer is another node of the overlay.
type peer struct {
	name    string
	overlay netip.Addr
	public  string
}

// run returns when a peer has answered and the others had their time to, or when there is nobody to try. As long as peers
// are alive and none answers it goes on.
func (t *trial) run(ctx context.Context) error {
	p, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	var (
		answered time.Time // when the first did
		peers    []peer
		listed   time.Time
	)
	t.begun = time.Now()
	for wait := firstWait; ; wait = min(2*wait, longest) {
		// Not at every attempt: all nodes of a large cluster may be waiting, and each list has all of them in it.
		if len(peers) == 0 || time.Since(listed) >= relist {
			found, err := t.peers(ctx)
			switch {
			case err != nil:
				klog.Errorf("list the other nodes: %v", err) // those that are known may still answer
			case len(found) == 0:
				klog.Infof("No other node in the overlay of %s is alive: there is no pod traffic to test", t.family)
				return nil
			default:
				peers = found
			}
			listed = time.Now()
		}
		if !answered.IsZero() {
			wait = min(wait, grace-time.Since(answered))
		}
		silent := p.try(ctx, peers, wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(silent) < len(peers) && answered.IsZero() {
			answered = time.Now()
		}
		if !answered.IsZero() && (len(silent) == 0 || time.Since(answered) >= grace) {
			klog.Infof("Tested pod traffic with %s for %s: %d of %d nodes answer", t.family, time.Since(t.begun).Round(time.Millisecond), len(peers)-len(silent), len(peers))
			if len(silent) > 0 {
				klog.Warningf("No answer over the overlay of %s from %s", t.family, names(silent))
			}
			return nil
		}
		if len(silent) > 0 && answered.IsZero() {
			t.complain(ctx, complaint(t.family, silent, t.mtu))
		}
	}
}

// complain tells the API what is waited for, if that has taken long enough. Another sample has other names in it: that alone is not worth a write to
// the API each time.
func (t *trial) complain(ctx context.Context, why string) {
	if time.Since(t.begun) < patience || why == t.told || t.told != "" && time.Since(t.toldAt) < retell {
		return
	}
	klog.Warning(why)
	if err := t.tell(ctx, why); err != nil {
		klog.Errorf("report it to the API: %v", err)
		return
	}
	t.told, t.toldAt = why, time.Now()
}

// peers asks for the nodes that should answer, at most a sample of them.
func (t *trial) peers(ctx context.Context) ([]peer, error) {
	// From the API server's memory: a node that came a moment ago tries this one.
	list, err := t.nodes.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	found := peersIn(t.family, list.Items, t.node, t.prefix)
	if len(found) > sample {
		mathrand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
		found = found[:sample]
	}
	return found, nil
}

// peersIn are the nodes that have a subnet and a kubelet that is alive. One that is not Ready counts all the same: in a new
// cluster all of them wait for each other's answers. One whose kubelet has gone silent does not, or the death of all
// others would keep a node from coming back.
func peersIn(family ipFamily, nodes []corev1.Node, self, prefix string) (out []peer) {
	for _, n := range nodes {
		alive := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status != corev1.ConditionUnknown
		})
		public := n.Annotations[prefix+family.annotation]
		if n.Name == self || !alive || public == "" || n.DeletionTimestamp != nil {
			continue
		}
		ranges := n.Spec.PodCIDRs
		if len(ranges) == 0 {
			ranges = []string{n.Spec.PodCIDR}
		}
		for _, r := range ranges {
			if cidr, err := netip.ParsePrefix(r); err == nil && family.of(cidr.Addr()) {
				out = append(out, peer{n.Name, cidr.Masked().Addr(), public})
				break
			}
		}
	}
	return out
}

// complaint is what an operator has to know.
func complaint(family ipFamily, silent []peer, mtu int) string {
	over, icmp := "the pod network", "ICMP"
	if family == ipv6Family {
		over, icmp = "the IPv6 pod network", "ICMPv6"
	}
	return fmt.Sprintf("no answer over %s from %s: pods here could not reach theirs. Allow UDP port 8472 (VXLAN) between the nodes, with packets of %d bytes, "+
		"and echo requests (%s) in the pod network; the node becomes Ready automatically when one of them answers", over, names(silent), mtu+family.overhead, icmp)
}

func names(peers []peer) string {
	const shown = 3
	var out []string
	for _, p := range peers[:min(shown, len(peers))] {
		out = append(out, p.name+" ("+p.public+")")
	}
	slices.Sort(out)
	text := strings.Join(out, ", ")
	if more := len(peers) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// tell sets the node's condition, which also keeps pods away from it. That the lease is complete ends it.
func (t *trial) tell(ctx context.Context, why string) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: noPodTraffic, Message: why,
		LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now(),
	}}}})
	if err != nil {
		return err
	}
	_, err = t.nodes.PatchStatus(ctx, t.node, patch)
	return err
}

// pinger asks addresses of the overlay for echoes.
type pinger struct {
	family  ipFamily
	conn    *net.IPConn
	id      uint16
	payload []byte        // after the address that is asked
	ended   chan struct{} // by close

	mu       sync.Mutex
	answered map[netip.Addr]chan struct{}
}

const icmpHeader = 8

// asked is the length of the address that each request begins with. The source of an answer need not be that address: the kernel
// answers for the first address of an IPv6 network with another one, if it is the anycast address of an interface, too.
const asked = 16

// open waits until the address can be used: an IPv6 address cannot while the kernel looks for duplicates of it, nor after it has found one. The kernel never looks
// again then; the keeper makes it do so. As long as it takes, the node's condition says what is wrong.
func (t *trial) open(ctx context.Context) (*pinger, error) {
	t.begun = time.Now()
	for {
		p, err := newPinger(t.family, t.own, t.mtu)
		if t.family != ipv6Family || !errors.Is(err, unix.EADDRNOTAVAIL) {
			return p, err
		}
		t.complain(ctx, t.unusable())
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(firstWait):
		}
	}
}

// unusable says why the address cannot be used.
func (t *trial) unusable() string {
	why := "the interface does not have it"
	link, err := netlink.LinkByName(t.link)
	if err == nil {
		var all []netlink.Addr
		if all, err = netlink.AddrList(link, t.family.netlink); err == nil {
			for _, a := range all {
				if a.IP.Equal(t.own.AsSlice()) {
					why = stateOf(a)
				}
			}
		}
	}
	if err != nil {
		why = err.Error()
	}
	return fmt.Sprintf("the address %s of this node in the IPv6 pod network, on its interface %s, cannot be used: %s; pods here could not reach those of other nodes", t.own, t.link, why)
}

// stateOf says why the kernel does not use an address.
func stateOf(a netlink.Addr) string {
	switch {
	case a.Flags&unix.IFA_F_DADFAILED != 0:
		return "another machine has it, as the kernel found when it looked for duplicates (dadfailed). Remove the address from that machine, or disconnect that machine: this node tries again by itself"
	case a.Flags&unix.IFA_F_TENTATIVE != 0:
		return "the kernel has not ended its search for duplicates (tentative). Is the interface up?"
	}
	return "the kernel refuses it"
}

func newPinger(family ipFamily, own netip.Addr, mtu int) (*pinger, error) {
	network, ipHeader := "ip4:icmp", 20
	if family == ipv6Family {
		network, ipHeader = "ip6:ipv6-icmp", 40
	}
	conn, err := net.ListenIP(network, &net.IPAddr{IP: own.AsSlice()})
	if err != nil {
		return nil, fmt.Errorf("open a socket on the overlay's address %s: %w", own, err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var serr error
		// Without fragments: what is too large for the way must not arrive in pieces.
		err = raw.Control(func(fd uintptr) {
			if family == ipv6Family {
				serr = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
				return
			}
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		})
		if err == nil {
			err = serr
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("prepare the socket on the overlay: %w", err)
	}
	p := &pinger{family: family, conn: conn, payload: make([]byte, mtu-ipHeader-icmpHeader-asked), ended: make(chan struct{}), answered: map[netip.Addr]chan struct{}{}}
	var seed [2]byte
	rand.Read(seed[:]) //nolint:errcheck // never fails, as its documentation says
	rand.Read(p.payload)
	p.id = binary.BigEndian.Uint16(seed[:])
	go p.receive(conn.ReadFromIP)
	return p, nil
}

func (p *pinger) close() {
	close(p.ended)
	p.conn.Close()
}

// try asks all peers that have not answered yet, waits, and returns those that are silent still.
func (p *pinger) try(ctx context.Context, peers []peer, wait time.Duration) (silent []peer) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	var pending []chan struct{}
	for _, peer := range peers {
		done := p.expect(peer.overlay)
		pending = append(pending, done)
		if !closed(done) {
			// An error is a way that does not exist yet: silence.
			_ = p.send(peer.overlay)
		}
	}
	over := false
	for i, done := range pending {
		if !over {
			select {
			case <-done:
			case <-timeout.C:
				over = true
			case <-ctx.Done():
				over = true
			}
		}
		if !closed(done) {
			silent = append(silent, peers[i])
		}
	}
	if len(peers) == 0 {
		select {
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
	return silent
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (p *pinger) expect(a netip.Addr) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered[a] == nil {
		p.answered[a] = make(chan struct{})
	}
	return p.answered[a]
}

func (p *pinger) send(to netip.Addr) error {
	address := to.As16()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.id), Seq: 1, Data: slices.Concat(address[:], p.payload)}}
	if p.family == ipv6Family {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	raw, err := m.Marshal(nil) // the kernel adds the checksum of ICMPv6
	if err != nil {
		return err
	}
	_, err = p.conn.WriteToIP(raw, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// receive is the only reader: it ends with the trial, and not with an error that the kernel reports once, or no answer would
// ever be seen.
func (p *pinger) receive(read func([]byte) (int, *net.IPAddr, error)) {
	buffer := make([]byte, math.MaxUint16)
	var reply icmp.Type = ipv4.ICMPTypeEchoReply
	if p.family == ipv6Family {
		reply = ipv6.ICMPTypeEchoReply
	}
	for {
		n, _, err := read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			klog.Errorf("read answers from the overlay: %v", err)
			select {
			case <-p.ended:
				return
			case <-time.After(firstWait):
			}
			continue
		}
		m, err := icmp.ParseMessage(reply.Protocol(), buffer[:n])
		if err != nil || m.Type != reply {
			continue
		}
		echo, ok := m.Body.(*icmp.Echo)
		if !ok || echo.ID != int(p.id) || len(echo.Data) < asked || !slices.Equal(echo.Data[asked:], p.payload) {
			continue
		}
		if done := p.expect(netip.AddrFrom16([asked]byte(echo.Data)).Unmap()); !closed(done) {
			close(done) // only this goroutine closes
		}
	}
}
