package balancer

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
)

// Only a handover of the virtual IP and a reload close connections to API servers that go on: nobody sends GOAWAY then, and HAProxy cannot, because it
// does not look into the connections. A connection that is closed while a request is under way costs its client that request. So the
// connections are watched: one whose last bytes came from the API server, and that has been silent since, is between two requests. A
// client that sees the end of such a connection opens another one, and nothing has failed. What remains is a request that the client sends
// after HAProxy has listed the connection as silent and before the end of the connection has reached the client: staleAfter, and the time
// of one packet.
const (
	// sessionPace is how often HAProxy is asked for its sessions, unless that takes long.
	sessionPace = 20 * time.Millisecond
	// betweenRequests is how long a connection must be silent after an answer.
	betweenRequests = 40 * time.Millisecond
	// silentAnyway is how long a connection must be silent after anything else: a frame that needs no answer, or a request that
	// takes long.
	silentAnyway = time.Second
	// longLived is how long a connection must have been open: a younger one may be of a client that makes one for each request, and
	// ends on its own.
	longLived = 700 * time.Millisecond
	// staleAfter is how old what HAProxy says of its sessions may be when connections are closed because of it: a request that comes in
	// this time fails. Near the end of the time for closing, an older list is used as well.
	staleAfter = 15 * time.Millisecond
	// closedTogether is how many sessions one call of HAProxy closes. A call may have 16 KiB.
	closedTogether = 100
)

// session is a connection through HAProxy.
type session struct {
	id, backend, server string
	in, out             int64 // bytes from the client, and to it
}

var (
	sessionLine   = regexp.MustCompile(`^(0x[0-9a-f]+): \[`)
	sessionServer = regexp.MustCompile(`^\s+server=(\S+) \(`)
	sessionPool   = regexp.MustCompile(`^\s+backend=(\S+) \(`)
	sessionBytes  = regexp.MustCompile(`^\s+(req|res)=0x\S+ \(.*\btotal=(\d+)`)
)

// parseSessions reads the answer to `show sess all`: those that are connected to an API server.
func parseSessions(text string) (out []session) {
	var s *session
	for line := range strings.Lines(text) {
		if m := sessionLine.FindStringSubmatch(line); m != nil {
			out = append(out, session{id: m[1]})
			s = &out[len(out)-1]
			continue
		}
		if s == nil {
			continue
		}
		if m := sessionServer.FindStringSubmatch(line); m != nil {
			s.server = m[1]
		} else if m := sessionPool.FindStringSubmatch(line); m != nil {
			s.backend = m[1]
		} else if m := sessionBytes.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[2], 10, 64)
			if m[1] == "req" {
				s.in = n
			} else {
				s.out = n
			}
		}
	}
	return slices.DeleteFunc(out, func(s session) bool { return !slices.Contains(hostconfig.Pools, s.backend) || s.server == "" })
}

// watched is what is known of a connection over time.
type watched struct {
	first, changed time.Time
	in, out        int64
	answered       bool // the last bytes went to the client, or there were none
	asked          bool // the last bytes came from the client
}

// manners say which connections are closed.
type manners struct {
	// age is how long a connection must have been open.
	age time.Duration
	// unknown is how long one must be silent of which nobody saw which way its last bytes went.
	unknown time.Duration
	// since leaves alone what was seen before, if it is not zero.
	since time.Time
}

// polite are the manners while there is time.
var polite = manners{age: longLived, unknown: silentAnyway}

// sessionWatch finds connections that can be closed without a client noticing.
type sessionWatch map[string]*watched

// see takes a look at the connections at a moment, and returns those that are between two requests.
func (w sessionWatch) see(now time.Time, sessions []session, m manners) (idle []string) {
	for _, s := range sessions {
		k := w[s.id]
		if k == nil {
			w[s.id] = &watched{first: now, changed: now, in: s.in, out: s.out, answered: s.in == 0}
			continue
		}
		if s.in != k.in || s.out != k.out {
			k.answered = s.out != k.out
			k.asked = !k.answered
			k.in, k.out, k.changed = s.in, s.out, now
			continue
		}
		enough := m.unknown
		switch {
		case k.answered:
			enough = betweenRequests
		case k.asked:
			enough = silentAnyway
		}
		if !k.first.Before(m.since) && now.Sub(k.first) >= m.age && now.Sub(k.changed) >= enough {
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

// closeBetweenRequests closes all connections of a worker as soon as they are between two requests, until none is left or the time is over. It
// returns how many it closed.
func closeBetweenRequests(ctx context.Context, of worker, w sessionWatch, until time.Time, m manners) (closed int, err error) {
	for {
		begin := time.Now()
		text, err := of.commands(ctx, "show sess all")
		if err != nil {
			return closed, err
		}
		sessions := parseSessions(text)
		idle := w.see(begin, sessions, m)
		if took := time.Since(begin); took > staleAfter && begin.Add(3*took).Before(until) {
			idle = nil // a request may have come since HAProxy looked, and there is time for another look
		}
		if err := of.shutdown(ctx, idle); err != nil {
			return closed, err
		}
		closed += len(idle)
		for _, id := range idle {
			delete(w, id)
		}
		if len(idle) == len(sessions) || time.Now().After(until) {
			return closed, nil
		}
		select {
		case <-ctx.Done():
			return closed, context.Cause(ctx)
		case <-time.After(max(sessionPace, 4*time.Since(begin))):
		}
	}
}
