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

// A connection that is closed while a request is under way costs its client that request. HAProxy does not look into the
// connections, so they are watched: one whose last bytes came from the API server, and that has been silent since, is between
// two requests. A client that sees the end of such a connection opens another one, and nothing has failed.
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
	answered       bool // the last bytes went to the client
}

// sessionWatch finds connections that can be closed without a client noticing.
type sessionWatch map[string]*watched

// see takes a look at the connections at a moment, and returns those that are between two requests.
func (w sessionWatch) see(now time.Time, sessions []session) (idle []string) {
	for _, s := range sessions {
		k := w[s.id]
		if k == nil {
			w[s.id] = &watched{first: now, changed: now, in: s.in, out: s.out}
			continue
		}
		if s.in != k.in || s.out != k.out {
			k.answered = s.out != k.out
			k.in, k.out, k.changed = s.in, s.out, now
			continue
		}
		silent := now.Sub(k.changed)
		if now.Sub(k.first) >= longLived && (k.answered && silent >= betweenRequests || silent >= silentAnyway) {
			idle = append(idle, s.id)
		}
	}
	return idle
}

// closeBetweenRequests closes the connections of some servers as soon as they are between two requests, until none is left or the
// time is over. It returns how many it closed, and how many are left.
func closeBetweenRequests(ctx context.Context, w sessionWatch, until time.Time, which func(session) bool) (closed, left int, err error) {
	for {
		begin := time.Now()
		text, err := haproxyCommand(ctx, "show sess all")
		if err != nil {
			return closed, left, err
		}
		sessions := slices.DeleteFunc(parseSessions(text), func(s session) bool { return !which(s) })
		for _, id := range w.see(begin, sessions) {
			// It may have ended in the meantime.
			if _, err := haproxyCommand(ctx, "shutdown session "+id); err != nil {
				return closed, left, err
			}
			delete(w, id)
			closed++
			sessions = slices.DeleteFunc(sessions, func(s session) bool { return s.id == id })
		}
		if left = len(sessions); left == 0 || time.Now().After(until) {
			return closed, left, nil
		}
		select {
		case <-ctx.Done():
			return closed, left, context.Cause(ctx)
		case <-time.After(max(sessionPace, 4*time.Since(begin))):
		}
	}
}
