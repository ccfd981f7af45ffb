// Package reach tests the network paths between hosts, with temporary listeners on ports where nothing listens yet.
package reach

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// ListenRequest opens temporary listeners on ports that the cluster will use, where nothing listens yet.
type ListenRequest struct {
	Name    string
	Address string
	TCP     []int
	UDP     []int
	VRRP    bool
}

// Listening is what was opened. A port that is not in it is in use, or could not be opened.
type Listening struct {
	Token string
	TCP   []int
	UDP   []int
	VRRP  bool
}

// listenFor is how long listeners exist if they are not closed. They also end with the session.
const listenFor = time.Minute

// The texts of a probe: the question, and the answer, which is followed by the host's name.
var (
	probeAsk    = []byte("quorate preflight?\n")
	probeAnswer = []byte("quorate preflight! ")
)

var open struct {
	sync.Mutex
	stop map[string]func()
}

// Listen opens the listeners and returns immediately; Hush closes them. Each answers with the host's name, so that the client
// knows which host it has reached.
var Listen = host.Define("node.listen", func(_ context.Context, in ListenRequest) (Listening, error) {
	out := Listening{Token: rand.Text()}
	var closers []func() error
	for _, port := range in.TCP {
		l, err := net.Listen(family("tcp", in.Address), net.JoinHostPort(in.Address, strconv.Itoa(port)))
		if err != nil {
			continue // the inspection shows which program has the port, and the facts whether the address can be used
		}
		closers, out.TCP = append(closers, l.Close), append(out.TCP, port)
		go greet(l, in.Name)
	}
	for _, port := range in.UDP {
		c, err := net.ListenPacket(family("udp", in.Address), net.JoinHostPort(in.Address, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		closers, out.UDP = append(closers, c.Close), append(out.UDP, port)
		go answer(c, in.Name)
	}
	if in.VRRP {
		if c, err := listenVRRP(in.Address); err == nil {
			closers, out.VRRP = append(closers, c.Close), true
			go answerVRRP(c, in.Name)
		}
	}
	stop := sync.OnceFunc(func() {
		for _, c := range closers {
			c() //nolint:errcheck // nothing was written to it
		}
	})
	timer := time.AfterFunc(listenFor, stop)
	open.Lock()
	defer open.Unlock()
	if open.stop == nil {
		open.stop = map[string]func(){}
	}
	open.stop[out.Token] = func() { timer.Stop(); stop() }
	return out, nil
})

// Hush closes what Listen opened.
var Hush = host.Define("node.hush", func(_ context.Context, token string) (struct{}, error) {
	open.Lock()
	defer open.Unlock()
	if stop := open.stop[token]; stop != nil {
		stop()
	}
	delete(open.stop, token)
	return struct{}{}, nil
})

func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a TCP connection has deadlines
		c.Write(append(probeAnswer[:len(probeAnswer):len(probeAnswer)], name+"\n"...))
		c.Close()
	}
}

func answer(c net.PacketConn, name string) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && bytes.HasPrefix(buf[:n], probeAsk) {
			c.WriteTo(fmt.Appendf(nil, "%s%s %d\n", probeAnswer, name, n), from) //nolint:errcheck // the other side asks again
		}
	}
}

// VRRP over either family, as package net names it.
const vrrp4, vrrp6 = "ip4:112", "ip6:112"

// family is the network of package net for the family of an address. It is never both: a name or a mapped address must not decide.
func family(protocol, address string) string {
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() {
		return protocol + "6"
	}
	return protocol + "4"
}

func vrrp(address string) string { return family("ip", address) + ":112" }

// headers is the size of the headers of IP and UDP.
func headers(address string) int {
	if family("ip", address) == "ip6" {
		return 40 + 8
	}
	return 20 + 8
}

func listenVRRP(address string) (*net.IPConn, error) {
	var l net.ListenConfig
	if vrrp(address) == vrrp6 {
		l.Control = option(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
	}
	c, err := l.ListenPacket(context.Background(), vrrp(address), address)
	if err != nil {
		return nil, err
	}
	return c.(*net.IPConn), nil
}

// answerVRRP also returns the TTL with which the question arrived. keepalived ignores advertisements that a router has
// forwarded.
func answerVRRP(c *net.IPConn, name string) {
	buf, control := make([]byte, 1<<16), make([]byte, 128)
	for {
		// Unlike ReadFrom, ReadMsgIP gives a packet of IPv4 with its IP header. The kernel keeps that of IPv6.
		n, oobn, _, from, err := c.ReadMsgIP(buf, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		question, ttl := buf[:n], 0
		if from.IP.To4() != nil {
			question, ttl = packetOf(question)
		} else {
			ttl = hopLimit(control[:oobn])
		}
		if bytes.HasPrefix(question, probeAsk) {
			c.WriteTo(fmt.Appendf(nil, "%s%s %d ttl=%d\n", probeAnswer, name, n, ttl), from) //nolint:errcheck // the other side asks again
		}
	}
}

// packetOf is the content and the TTL of a packet of IPv4; nothing of one that is too short.
func packetOf(packet []byte) (content []byte, ttl int) {
	const at = 8
	if len(packet) == 0 {
		return nil, 0
	}
	if header := int(packet[0]&0x0f) * 4; header > at && len(packet) >= header {
		return packet[header:], int(packet[at])
	}
	return nil, 0
}

// hopLimit is that of a packet of IPv6, from what the kernel tells about it.
func hopLimit(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

// DialTarget is one path to try. With Answers the other side is one of Listen's listeners and says its name.
type DialTarget struct {
	facts.Path
	Answers bool
	Size    int // of the largest IP packet that should get through, for UDP
}

// A path is tested long enough for several packets, because any of them may be lost: TCP retransmits its first one after a
// second.
const (
	tcpTimeout = 2500 * time.Millisecond
	udpTries   = 3
	udpTimeout = 600 * time.Millisecond
	// dialsAtOnce limits the parallel connections of one host.
	dialsAtOnce = 64
)

// DialAll tests paths from this host, many in parallel.
var DialAll = host.Define("node.dial", func(ctx context.Context, targets []DialTarget) ([]facts.Reach, error) {
	out := make([]facts.Reach, len(targets))
	var g errgroup.Group
	g.SetLimit(dialsAtOnce)
	for i, t := range targets {
		g.Go(func() error { out[i] = dial(ctx, t); return nil })
	}
	g.Wait() //nolint:errcheck // each failure is a result
	return out, ctx.Err()
}, host.Reads)

func dial(ctx context.Context, t DialTarget) facts.Reach {
	begin := time.Now()
	r := facts.Reach{Path: t.Path}
	switch t.Proto {
	case facts.TCP:
		r.Connected, r.Outcome, r.Detail = dialTCP(ctx, t)
	case facts.UDP:
		r.Outcome, r.Detail = ask(ctx, family("udp", t.Address), net.JoinHostPort(t.Address, strconv.Itoa(t.Port)), t.To, 0)
		if r.Outcome == facts.Reached && t.Size > 0 {
			fits, _ := ask(ctx, family("udp", t.Address), net.JoinHostPort(t.Address, strconv.Itoa(t.Port)), t.To, t.Size-headers(t.Address))
			r.Size, r.Fits = t.Size, fits == facts.Reached
		}
	case facts.VRRP:
		r.Outcome, r.Detail = ask(ctx, vrrp(t.Address), t.Address, t.To, 0)
	}
	r.After = time.Since(begin)
	return r
}

func dialTCP(ctx context.Context, t DialTarget) (connected time.Duration, _ facts.Outcome, detail string) {
	begin := time.Now()
	c, err := (&net.Dialer{Timeout: tcpTimeout}).DialContext(ctx, family("tcp", t.Address), net.JoinHostPort(t.Address, strconv.Itoa(t.Port)))
	if err != nil {
		outcome, detail := OutcomeOf(err)
		return 0, outcome, detail
	}
	defer c.Close()
	connected = time.Since(begin)
	if !t.Answers {
		return connected, facts.Reached, ""
	}
	c.SetDeadline(time.Now().Add(tcpTimeout)) //nolint:errcheck // a TCP connection has deadlines
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		outcome, detail := OutcomeOf(err)
		return connected, outcome, detail
	}
	outcome, detail := who(buf[:n], t.To)
	return connected, outcome, detail
}

// who reports whether an answer came from the host.
func who(answer []byte, name string) (facts.Outcome, string) {
	rest, ok := bytes.CutPrefix(answer, probeAnswer)
	said, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
	switch {
	case !ok:
		return facts.Impostor, "a program other than Quorate answers"
	case string(said) != name:
		return facts.Impostor, string(said) + " answers"
	}
	return facts.Reached, ""
}

// ask sends a datagram and waits for the answer of the host. With a size it must arrive unfragmented.
func ask(ctx context.Context, network, address, name string, size int) (facts.Outcome, string) {
	result, detail := facts.TimedOut, ""
	for range udpTries {
		result, detail = askOnce(ctx, network, address, name, size)
		if result != facts.TimedOut || ctx.Err() != nil {
			break
		}
	}
	return result, detail
}

func askOnce(ctx context.Context, network, address, name string, size int) (facts.Outcome, string) {
	d := net.Dialer{}
	switch {
	case size > 0 && network == "udp6":
		d.Control = option(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	case size > 0:
		d.Control = option(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	case network == vrrp6:
		d.Control = option(unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, vrrpTTL)
	case network == vrrp4:
		d.Control = option(unix.IPPROTO_IP, unix.IP_TTL, vrrpTTL)
	}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return OutcomeOf(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(udpTimeout)) //nolint:errcheck // sockets have deadlines
	question := append(probeAsk[:len(probeAsk):len(probeAsk)], make([]byte, max(0, size-len(probeAsk)))...)
	if _, err := c.Write(question); err != nil {
		return OutcomeOf(err)
	}
	buf := make([]byte, 512)
	for {
		// Unlike Read, ReadFrom gives raw sockets the packet without its IP header.
		n, _, err := c.(net.PacketConn).ReadFrom(buf)
		if err != nil {
			return OutcomeOf(err)
		}
		// A raw socket also receives other packets of the protocol, including the other host's questions.
		if bytes.HasPrefix(buf[:n], probeAnswer) {
			return answered(buf[:n], name)
		}
	}
}

// answered judges an answer. One to a VRRP question also says with which TTL the question arrived.
func answered(answer []byte, name string) (facts.Outcome, string) {
	outcome, detail := who(answer, name)
	if _, ttl, ok := bytes.Cut(bytes.TrimSpace(answer), []byte(" ttl=")); ok && outcome == facts.Reached && string(ttl) != strconv.Itoa(vrrpTTL) {
		return facts.Routed, "TTL " + string(ttl)
	}
	return outcome, detail
}

// vrrpTTL is the TTL of keepalived's advertisements. Each router on the path decrements it.
const vrrpTTL = 255

// option sets an option of a protocol on a socket.
func option(level, name, value int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) })
		return errors.Join(cerr, err)
	}
}

// OutcomeOf classifies the result of an attempt to reach something.
func OutcomeOf(err error) (facts.Outcome, string) {
	var timeout net.Error
	switch {
	case err == nil:
		return facts.Reached, ""
	case errors.Is(err, syscall.ECONNREFUSED):
		return facts.Refused, ""
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return facts.Unreachable, rootOf(err)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return facts.TimedOut, ""
	}
	return facts.Failed, rootOf(err)
}

func rootOf(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}
