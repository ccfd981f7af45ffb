package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/ui"
)

// HAProxy stops giving new connections to an API server that fails its checks, and leaves the old ones alone. Closing them is
// right if the server hangs or is gone: HTTP/2 clients would stay with it until their own timeout. It is wrong if the server
// is only busy: all its clients would connect and list again elsewhere, and make the next server busy. A check cannot
// distinguish the two, so the code below looks more closely before it closes anything.
const (
	careInterval = 150 * time.Millisecond
	// waitsLong is how many looks in a row must find the same check unanswered before the server is looked at more closely.
	// A check takes milliseconds, so one look seldom meets one.
	waitsLong = 2
	// hungAfter is how long nothing may have arrived from a server on any connection before it counts as hung. A server
	// that gets as little as a twentieth of a CPU still sends something several times a second.
	hungAfter = 700 * time.Millisecond
	// timesSlower is how many times as long as another server takes to answer nothing may arrive. One that answers within
	// milliseconds changes nothing. Where every answer takes a tenth of a second, CPU time is short, and silence proves less.
	timesSlower = 20
	// A server that answers within mistakenWithin of being taken for hung was only busy. Each time that happens it gets
	// twice as long, up to hungAtMost, until it has been sound for trustedAfter.
	mistakenWithin = 10 * time.Second
	hungAtMost     = 10 * time.Second
	trustedAfter   = 10 * time.Minute
	// probePatience is how long the closer look waits for a TLS handshake.
	probePatience = 300 * time.Millisecond
	// notReadyAfter is how long a server may say that it is not ready, and another one that it is, before its connections
	// are closed. After an election the servers become ready up to 1.5 s apart: one asks etcd again within a second (half of
	// --etcd-readycheck-timeout, which is 2 s by default), and HAProxy asks it within 0.5 s, and once more 0.2 s later.
	notReadyAfter = 1500 * time.Millisecond
	// slowAfter is the same while the checks of a server are not all answered in time. It may be short of CPU time, or its etcd of a disk, and
	// still be serving requests. A server whose etcd hangs says so in time, every time.
	slowAfter = 3 * time.Second
	// endsWithin is the same for a server that is drained. It is not ready because it stops, and ends its connections itself: within
	// the half minute that the kubelet gives it.
	endsWithin = 35 * time.Second
	// closeAgain is how soon the connections of one server are closed a second time.
	closeAgain = time.Second
)

// sighting is one API server as HAProxy sees it at one moment.
type sighting struct {
	name, address string
	up            bool   // it gets new connections: ready, its etcd included
	waits         bool   // a check that includes etcd has begun and not ended
	check         string // the last one that ended, in HAProxy's code
	blind         string // the last check that excludes etcd
	sessions      int    // over all pools
	drained       bool   // it is about to stop, or has not started again
}

// The outcomes of checks that say that a server may hang or be gone. A timeout after the TLS handshake (L7TOUT) counts only
// for checks without etcd: the others wait for etcd's answer.
var (
	unanswered = []string{"L4TOUT", "L4CON", "L6TOUT"}
	answered   = []string{"L7OK", "L7OKC", "L6OK", "L4OK"}
)

// suspicious says that a check found the server not to answer at all. One that is drained and refuses connections stops: it has closed
// its listener, and finishes what is under way on the connections that it has.
func (s sighting) suspicious() bool {
	silent := func(check string) bool {
		return slices.Contains(unanswered, check) && !(s.drained && check == "L4CON")
	}
	return silent(s.check) || silent(s.blind) || s.blind == "L7TOUT"
}

// sound says that HAProxy gives the server new connections, and that its last check succeeded.
func (s sighting) sound() bool { return s.up && slices.Contains(answered, s.check) }

// clear says that the server answers checks in time: apart from etcd it is ready, and it says that with etcd it is not.
func (s sighting) clear() bool { return s.check == "L7STS" && slices.Contains(answered, s.blind) }

// sightings reads what HAProxy's statistics say about each API server.
func sightings(rows []stats, drained []string) []sighting {
	var out []sighting
	for _, row := range rows {
		if row["pxname"] != hostconfig.PoolWithEtcd || row["svname"] == "BACKEND" {
			continue
		}
		s := sighting{name: row["svname"], address: row["addr"], up: row.up(), waits: strings.HasPrefix(row["check_status"], "*"), check: row.check(), sessions: sessions(rows, row["svname"]),
			drained: slices.Contains(drained, row["svname"])}
		for _, other := range rows {
			if other["pxname"] == hostconfig.PoolWithoutEtcd && other["svname"] == s.name {
				s.blind = other.check()
			}
		}
		out = append(out, s)
	}
	return out
}

// care decides whose connections are closed. Its times are readings of a monotonic clock.
type care struct {
	downSince, clearSince, soundSince, saidNo, closed map[string]time.Duration
	waits                                             map[string]int // looks in a row that found a check unanswered
	// patience is how long nothing may arrive from a server; accused is when it was last taken for hung, until it answers.
	patience, accused map[string]time.Duration
}

func newCare() *care {
	m := func() map[string]time.Duration { return map[string]time.Duration{} }
	return &care{m(), m(), m(), m(), m(), map[string]int{}, m(), m()}
}

// verdict is a server whose connections must be closed, and why. Down says that it must get no new ones either, although
// HAProxy has not seen enough failed checks yet.
type verdict struct {
	server, why string
	down        bool
}

// opinion is what a closer look at a suspicious server, and at another one, found.
type opinion struct {
	silent  time.Duration // since anything arrived from the server
	answers bool          // a new connection was answered
	another time.Duration // how long the fastest other server took to answer one at the same time; 0 if none did in time
}

// look reads HAProxy's statistics. It returns the servers that may hang and have connections, and those that are sound.
func (c *care) look(now time.Duration, seen []sighting) (suspects, sound []sighting) {
	for _, s := range seen {
		if c.waits[s.name]++; !s.waits {
			c.waits[s.name] = 0
		}
		switch {
		case s.sessions > 0 && (s.suspicious() || c.waits[s.name] >= waitsLong):
			suspects = append(suspects, s)
		case s.sound():
			sound = append(sound, s)
		}
		since(c.soundSince, s.name, s.sound(), now)
		c.rehabilitate(s, now)
		since(c.downSince, s.name, !s.up, now)
		since(c.clearSince, s.name, !s.up && s.clear(), now)
		if s.check == "L7STS" {
			c.saidNo[s.name] = now
		}
	}
	return suspects, sound
}

// rehabilitate notes that a server which was taken for hung answers.
func (c *care) rehabilitate(s sighting, now time.Duration) {
	if !s.sound() {
		return
	}
	if at, ok := c.accused[s.name]; ok {
		delete(c.accused, s.name)
		if now-at <= mistakenWithin {
			c.patience[s.name] = min(2*c.hungAfter(s.name), hungAtMost)
		}
	}
	if now-c.soundSince[s.name] >= trustedAfter {
		delete(c.patience, s.name)
	}
}

// hungAfter is how long nothing may arrive from a server.
func (c *care) hungAfter(server string) time.Duration { return max(c.patience[server], hungAfter) }

// judge is called after each look. The opinions are by server name; a server without one is not suspected.
func (c *care) judge(now time.Duration, seen []sighting, opinions map[string]opinion) (out []verdict) {
	for _, s := range seen {
		if at, ok := c.closed[s.name]; s.sessions == 0 || ok && now-at < closeAgain {
			continue
		}
		if o, ok := opinions[s.name]; ok && o.another > 0 && !o.answers && o.silent >= max(c.hungAfter(s.name), timesSlower*o.another) {
			c.accused[s.name] = now
			out = append(out, verdict{s.name, fmt.Sprintf("it answers nobody and has sent nothing for %s", ui.Duration(o.silent)), true})
			continue
		}
		down, isDown := c.downSince[s.name]
		no, said := c.saidNo[s.name]
		if isDown && said && no >= down && c.notReadyForLong(s, down, now) && c.anotherSound(s.name, seen, now) {
			out = append(out, verdict{s.name, "it has not been ready for " + ui.Duration(now-down) + ", and others are", false})
		}
	}
	for _, v := range out {
		c.closed[v.server] = now
	}
	return out
}

// notReadyForLong reports whether a server that has been down since then has had its time to become ready.
func (c *care) notReadyForLong(s sighting, down, now time.Duration) bool {
	if s.drained {
		return now-down >= endsWithin
	}
	clearly, ok := c.clearSince[s.name]
	return now-down >= slowAfter || ok && now-clearly >= notReadyAfter
}

// anotherSound reports whether another server has been sound for long enough: it has a leader, so this is no election.
func (c *care) anotherSound(name string, seen []sighting, now time.Duration) bool {
	return slices.ContainsFunc(seen, func(s sighting) bool {
		at, ok := c.soundSince[s.name]
		return s.name != name && ok && now-at >= notReadyAfter
	})
}

// since keeps the time since which something holds.
func since(m map[string]time.Duration, name string, holds bool, now time.Duration) {
	if _, ok := m[name]; !holds {
		delete(m, name)
	} else if !ok {
		m[name] = now
	}
}

// views hands what careForServers reads of HAProxy's statistics to one other user, so that HAProxy is asked once for both.
type views struct{ last atomic.Pointer[view] }

// view is one answer of HAProxy, or the reason why there is none.
type view struct {
	rows []stats
	err  error
}

// errNoView says that HAProxy has not been asked since the last view was taken.
var errNoView = errors.New("HAProxy has not been asked since")

// take returns the latest view, and each view only once. A look that is repeated proves nothing more.
func (v *views) take() ([]stats, error) {
	if last := v.last.Swap(nil); last != nil {
		return last.rows, last.err
	}
	return nil, errNoView
}

// careForServers closes the connections of API servers that hang, are gone, or are not ready, until ctx ends. It is the only regular reader of
// HAProxy's statistics, and shows each answer to others.
func careForServers(ctx context.Context, logger *log.Logger, read func(context.Context) ([]stats, error), shown *views) {
	c := newCare()
	tick := time.NewTicker(careInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rows, err := read(ctx)
		shown.last.Store(&view{rows, err}) // its user only reads the rows, and so does the code below
		if err != nil {
			continue // whether HAProxy works is judged elsewhere
		}
		drained := remembered()
		drainAgain(ctx, logger, rows, drained)
		seen := sightings(rows, drained)
		opinions := lookCloser(ctx, c, seen)
		for _, v := range c.judge(monotonic(), seen, opinions) {
			act(ctx, logger, v, rows)
		}
	}
}

// readyPools are those whose checks find out that a server hangs.
var readyPools = []string{hostconfig.PoolWithEtcd, hostconfig.PoolWithoutEtcd}

func act(ctx context.Context, logger *log.Logger, v verdict, rows []stats) {
	if v.down {
		for _, pool := range having(rows, v.server, readyPools) {
			if err := tell(ctx, "set server "+pool+"/"+v.server+" health down"); err != nil {
				logger.Printf("taking API server %s out of the pool %s: %v", v.server, pool, err)
			}
		}
	}
	if err := shutdown(ctx, rows, v.server); err != nil {
		logger.Printf("closing the connections to API server %s: %v", v.server, err)
		return
	}
	logger.Printf("closed %s to API server %s: %s", ui.Plural(sessions(rows, v.server), "connection"), v.server, v.why)
}

// lookCloser examines the suspects: when the kernel last received anything from them, and whether they answer a new connection
// now, while another server does.
func lookCloser(ctx context.Context, c *care, seen []sighting) map[string]opinion {
	suspects, sound := c.look(monotonic(), seen)
	if len(suspects) == 0 || len(sound) == 0 {
		return nil
	}
	probed := slices.Concat(suspects, sound[:min(2, len(sound))])
	took := make([]time.Duration, len(probed))
	var wg sync.WaitGroup
	for i, s := range probed {
		wg.Go(func() { took[i] = handshake(ctx, s.address) })
	}
	wg.Wait()
	another := time.Duration(0)
	for _, t := range took[len(suspects):] {
		if t > 0 && (another == 0 || t < another) {
			another = t
		}
	}
	silent, err := silences(slices.ContainsFunc(suspects, func(s sighting) bool { return strings.HasPrefix(s.address, "[") }))
	if err != nil {
		return nil // without the kernel's answer nothing is closed
	}
	out := map[string]opinion{}
	for i, s := range suspects {
		out[s.name] = opinion{silent: silent[s.address], answers: took[i] > 0, another: another}
	}
	return out
}

// handshake is how long a server takes to complete a TLS handshake, or 0 if it does not in time. It proves that the process runs, and
// nothing else, so the certificate does not matter.
func handshake(ctx context.Context, address string) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	begun := monotonic()
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address) //nolint:gosec // see above
	if err != nil {
		return 0
	}
	conn.Close()
	return max(monotonic()-begun, time.Nanosecond)
}
