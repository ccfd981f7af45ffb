package balancer

import (
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
)

// Only a handover of the virtual IP and a reload close connections to API servers that go on: nobody sends GOAWAY then, and HAProxy cannot, because it
// does not look into the connections. A connection that is closed while a request is under way costs its client that request. So
// Quorate asks the kernel which side sent bytes last: a connection through which the API server sent something last, and that has been
// silent since, is between two requests. HAProxy's byte counters cannot tell: if a client sends its next request right after an
// answer, both counters have grown by the next look. A client that sees the end of such a connection opens another one, and nothing
// has failed. What remains is a request that the client sends after the kernel was asked and before the end of the connection has
// reached the client: staleAfter, and the time of one packet.
const (
	// sessionPace is how often connections are looked at, unless that takes long.
	sessionPace = 20 * time.Millisecond
	// betweenRequests is how long a connection must be silent after an answer.
	betweenRequests = 40 * time.Millisecond
	// silentAnyway is how long a connection must be silent after anything that the client sent: a frame that needs no answer, or
	// a request that takes long.
	silentAnyway = time.Second
	// longLived is how long a connection must have been open: a younger one may be of a client that makes one for each request, and
	// ends on its own, or is not through with its TLS handshake.
	longLived = 700 * time.Millisecond
	// staleAfter is how long closing connections may begin after the kernel was asked about them: a request that comes in this time
	// fails. Near the end of the last phase of closing, an older answer is used as well.
	staleAfter = 15 * time.Millisecond
	// closedTogether is how many sessions one call of HAProxy closes. A call may have 16 KiB.
	closedTogether = 100
)

// session is a connection through HAProxy, and so two of the kernel's.
type session struct {
	id, backend    string
	client, server connection
}

// The answer to `show sess all` has some lines for each session; these name the ends of its two connections.
var (
	sessionLine = regexp.MustCompile(`^(0x[0-9a-f]+): \[.* source=(\S+)`)
	sessionEnd  = regexp.MustCompile(`^\s+(frontend|backend|server)=(\S+) \(.* addr=(\S+)`)
)

// parseSessions reads the answer to `show sess all`: those that are connected to an API server.
func parseSessions(text string) (out []session) {
	var s *session
	for line := range strings.Lines(text) {
		if m := sessionLine.FindStringSubmatch(line); m != nil {
			out = append(out, session{id: m[1], client: connection{peer: endpoint(m[2])}})
			s = &out[len(out)-1]
			continue
		}
		m := sessionEnd.FindStringSubmatch(line)
		if m == nil || s == nil {
			continue
		}
		switch at := endpoint(m[3]); m[1] {
		case "frontend":
			s.client.local = at
		case "backend":
			s.backend, s.server.local = m[2], at
		case "server":
			s.server.peer = at
		}
	}
	return slices.DeleteFunc(out, func(s session) bool {
		return !slices.Contains(hostconfig.Pools, s.backend) || !s.server.peer.IsValid()
	})
}

// endpoint reads an address and a port as HAProxy writes them: with or without brackets, by its version.
func endpoint(text string) netip.AddrPort {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return netip.AddrPort{}
	}
	address, err := netip.ParseAddr(strings.Trim(text[:colon], "[]"))
	port, err2 := strconv.ParseUint(text[colon+1:], 10, 16)
	if err != nil || err2 != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(port))
}

// manners say which connections are closed.
type manners struct {
	// age is how long a connection must have been open.
	age time.Duration
	// asked is how long one must be silent through which the client sent something last.
	asked time.Duration
	// last says that the connections that are left end in any case. Other manners follow otherwise, and with them more looks.
	last bool
}

// polite are the manners while there is time.
var polite = manners{age: longLived, asked: silentAnyway}

// use reports whether connections are closed now, after the kernel was asked about them in a look that began at begin. When the time is nearly over and
// nothing follows, an old answer is better than none.
func (m manners) use(begin, asked, now, until time.Time) bool {
	return now.Sub(asked) <= staleAfter || m.last && !begin.Add(3*now.Sub(begin)).Before(until)
}

// sessionWatch knows when each session was seen first.
type sessionWatch map[string]time.Time

// see takes a look at the sessions at a moment, and returns those whose connections can be closed without a client noticing.
func (w sessionWatch) see(now time.Time, sessions []session, arrived map[connection]received, m manners) (idle []string) {
	for _, s := range sessions {
		first, known := w[s.id]
		if !known {
			w[s.id] = now
			continue
		}
		client, ok := arrived[s.client]
		server, ok2 := arrived[s.server]
		if !ok || !ok2 || now.Sub(first) < m.age {
			continue // one that is being established or ends is no longer the kernel's, or not yet
		}
		enough := m.asked
		if !client.anything || server.anything && server.silent < client.silent {
			enough = betweenRequests
		}
		if min(client.silent, server.silent) >= enough {
			idle = append(idle, s.id)
		}
	}
	return idle
}

// shutdown closes sessions of a worker. Some may have ended in the meantime.
func (w worker) shutdown(ctx context.Context, ids []string) error {
	// Together, because each call takes time in which a request may come.
	for some := range slices.Chunk(ids, closedTogether) {
		var commands []string
		for _, id := range some {
			commands = append(commands, "shutdown session "+id)
		}
		if _, err := w.commands(ctx, commands...); err != nil {
			return err
		}
	}
	return nil
}

// look takes a look at the sessions of a worker. It returns how many there are, those that are between two requests, and when the kernel
// was asked about them.
func (w sessionWatch) look(ctx context.Context, of worker, m manners) (all int, idle []string, asked time.Time, err error) {
	text, err := of.commands(ctx, "show sess all")
	if err != nil {
		return 0, nil, asked, err
	}
	sessions := parseSessions(text)
	asked = time.Now()
	arrived, err := arrivals(slices.ContainsFunc(sessions, func(s session) bool { return s.client.local.Addr().Is6() || s.server.peer.Addr().Is6() }))
	if err != nil {
		return 0, nil, asked, err
	}
	return len(sessions), w.see(asked, sessions, arrived, m), asked, nil
}

// closeBetweenRequests closes all connections of a worker as soon as they are between two requests, until none is left or the time is over. It
// returns how many it closed, and how many were left.
func closeBetweenRequests(ctx context.Context, of worker, w sessionWatch, until time.Time, m manners) (closed, left int, err error) {
	for {
		begin := time.Now()
		all, idle, asked, err := w.look(ctx, of, m)
		if err != nil {
			return closed, left, err
		}
		if !m.use(begin, asked, time.Now(), until) {
			idle = nil // a request may have come since the kernel was asked, and another look follows
		}
		if err := of.shutdown(ctx, idle); err != nil {
			return closed, left, err
		}
		closed += len(idle)
		for _, id := range idle {
			delete(w, id)
		}
		if left = all - len(idle); left == 0 || time.Now().After(until) {
			return closed, left, nil
		}
		if err := pause(ctx, begin); err != nil {
			return closed, left, err
		}
	}
}

// pause waits until the next look, which is later when the last one, begun at begin, took long: HAProxy has clients to serve.
func pause(ctx context.Context, begin time.Time) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(max(sessionPace, 4*time.Since(begin))):
		return nil
	}
}
