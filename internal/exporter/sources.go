package exporter

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// One address gets a part of what the server can do, so that it cannot keep the others out. Several Prometheus servers behind one address stay far below that.
const (
	// sourceConnections is how many connections one address can have at a time.
	sourceConnections = 8
	// Connections and requests are counted together: an address can begin sourceBurst of them at once, and sourceRate a second after that. Each
	// connection costs a handshake, and each request may cost a question to the API.
	sourceBurst = 40
	sourceRate  = 5
	// mostSources is how many addresses are known at a time. Those that have no connections are forgotten after seconds.
	mostSources = 10000
)

// sources counts what addresses take.
type sources struct {
	now func() time.Time

	mu  sync.Mutex
	all map[netip.Prefix]*source
}

type source struct {
	open int     // connections
	left float64 // of the burst
	at   time.Time
}

func newSources(now func() time.Time) *sources {
	return &sources{now: now, all: map[netip.Prefix]*source{}}
}

// sourceOf is what counts as one address: for IPv6, the network that one machine usually has. False if it is none.
func sourceOf(address string) (netip.Prefix, bool) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{}, false
	}
	ip, bits := a.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	return p, err == nil
}

// take takes one of what an address may begin. It returns nil if nothing is left.
func (s *sources) take(address string) *source {
	key, ok := sourceOf(address)
	if !ok {
		return nil
	}
	now := s.now()
	x := s.all[key]
	if x == nil {
		if len(s.all) >= mostSources {
			for k, old := range s.all {
				if old.refill(now); old.open == 0 && old.left >= sourceBurst {
					delete(s.all, k)
				}
			}
		}
		if len(s.all) >= mostSources {
			return nil
		}
		x = &source{left: sourceBurst, at: now}
		s.all[key] = x
	}
	if x.refill(now); x.left < 1 {
		return nil
	}
	x.left--
	return x
}

func (x *source) refill(now time.Time) {
	x.left = min(sourceBurst, x.left+max(0, now.Sub(x.at).Seconds())*sourceRate)
	x.at = now
}

// request says whether an address may make another request now.
func (s *sources) request(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(address) != nil
}

// connect says whether an address may have another connection, and returns what ends it.
func (s *sources) connect(address string) (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.take(address)
	if x == nil || x.open >= sourceConnections {
		return nil, false
	}
	x.open++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		x.open--
	}), true
}

// listener accepts connections within the limits, and closes the others immediately.
func (s *sources) listener(l net.Listener) net.Listener { return &limitedListener{l, s} }

type limitedListener struct {
	net.Listener
	sources *sources
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if end, ok := l.sources.connect(c.RemoteAddr().String()); ok {
			return &limitedConn{c, end}, nil
		}
		c.Close()
	}
}

type limitedConn struct {
	net.Conn
	end func()
}

func (c *limitedConn) Close() error {
	defer c.end()
	return c.Conn.Close()
}
