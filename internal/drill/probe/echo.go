package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lookupTimeout is less than the five seconds after which resolvers repeat a query: a lost one is a failure.
const lookupTimeout = 4 * time.Second

// lookup looks a name up as programs in pods do: both kinds of addresses at the same time. A query that is not answered is a failure,
// even if the other one is. Go's resolver alone would say "no such host" if the query for an IPv4 address gets lost, because
// the one for an IPv6 address was answered, and has no record.
func lookup(ctx context.Context, resolve func(ctx context.Context, network, name string) error, name string) failure {
	answers := make(chan error, 2)
	for _, network := range []string{"ip4", "ip6"} {
		go func() { answers <- resolve(ctx, network, name) }()
	}
	var none failure
	found := false
	for range 2 {
		err := <-answers
		var why *net.DNSError
		switch {
		case err == nil:
			found = true
		case errors.As(err, &why) && why.IsNotFound:
			none = failure{Header, described(why)}
		case errors.As(err, &why) && !why.IsTimeout:
			return failure{Header, described(why)}
		default:
			return failure{Header, TimedOut}
		}
	}
	if found {
		return failure{}
	}
	return none
}

// described says which server gave an answer, which in pods is the address of a Service, and leaves out the port of the query.
func described(why *net.DNSError) string {
	text := why.Err
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	if why.Server == "" {
		return text
	}
	return text + ", says " + why.Server
}

// dialer opens the connection of a query.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// query sends one query of one kind.
func (d dialer) query(ctx context.Context, network, name string) error {
	last := &rcode{dial: d}
	// A resolver of its own: lookups of the same name with the same resolver share one query.
	_, err := (&net.Resolver{PreferGo: true, Dial: last.open}).LookupNetIP(ctx, network, name)
	var why *net.DNSError
	if errors.As(err, &why) && why.IsNotFound {
		why.Err = last.String()
	}
	return err
}

// rcode remembers what the last answer said: Go does not tell a name that does not exist from one without an address.
type rcode struct {
	dial dialer
	last atomic.Int32
}

func (r *rcode) String() string {
	switch r.last.Load() {
	case 0:
		return "no address"
	case 3:
		return "NXDOMAIN"
	}
	return "no such host"
}

func (r *rcode) open(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := r.dial(ctx, network, address)
	if udp, ok := c.(*net.UDPConn); ok && err == nil {
		return answered{udp, r}, nil
	}
	return c, err
}

// answered reads the response code of each answer.
type answered struct {
	*net.UDPConn
	code *rcode
}

func (a answered) Read(b []byte) (int, error) {
	n, err := a.UDPConn.Read(b)
	if n > 3 {
		a.code.last.Store(int32(b[3] & 0xf))
	}
	return n, err
}

// Bye is the line with which the server of an Echo client says that it is about to stop: the client opens another connection, and ends this one
// when everything that it sent has come back. Long-lived connections end with the pod that serves them, and protocols that are made for them
// say so before, such as HTTP/2 with GOAWAY.
const Bye = "bye"

// echo holds one TCP connection, and sends lines that are to come back. A connection on which one does not come back in time is given up, as
// clients do that live long: one to a host that has vanished would otherwise look open for a quarter of an hour.
type echo struct {
	address string
	record  *record

	mu   sync.Mutex
	conn *echoConn
	next int
}

// echoConn is one connection. Its fields belong to the mutex of its echo.
type echoConn struct {
	net.Conn
	waiting map[string]chan failure
	given   failure // why it was given up, if it was
}

func (e *echo) send(ctx context.Context) failure {
	conn, line, answer, failed := e.write(ctx)
	if failed.text != "" {
		return failed
	}
	select {
	case failed := <-answer:
		return failed
	case <-ctx.Done():
		late := failure{Header, TimedOut}
		e.mu.Lock()
		delete(conn.waiting, line)
		if e.conn == conn {
			e.conn = nil
		}
		e.giveUp(conn, late)
		e.mu.Unlock()
		return late
	}
}

// giveUp closes a connection. Lines that wait for it fail as the first one did.
func (e *echo) giveUp(conn *echoConn, why failure) {
	if conn.given.text == "" {
		conn.given = why
	}
	conn.Close()
}

// write writes a line, and opens a connection first if there is none.
func (e *echo) write(ctx context.Context) (conn *echoConn, line string, answer chan failure, failed failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == nil {
		opened, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.address)
		if err != nil {
			return nil, "", nil, failure{Dial, describe(err)}
		}
		e.conn = &echoConn{Conn: opened, waiting: map[string]chan failure{}}
		go e.read(e.conn)
	}
	conn = e.conn
	e.next++
	line, answer = fmt.Sprint(e.next), make(chan failure, 1)
	conn.waiting[line] = answer
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(deadline)
	}
	// If this fails, the reader notices too, and answers.
	if _, err := fmt.Fprintln(conn, line); err != nil {
		e.giveUp(conn, failure{Body, describe(err)})
	}
	return conn, line, answer, failure{}
}

// read answers the lines that wait, until the connection ends. If the server did not say so before, that is a failure of its own.
func (e *echo) read(conn *echoConn) {
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		e.mu.Lock()
		if err == nil {
			line = strings.TrimSpace(line)
			if answer := conn.waiting[line]; answer != nil {
				answer <- failure{}
				delete(conn.waiting, line)
			}
			if line == Bye && e.conn == conn {
				e.conn = nil // the next line opens another one
			}
			over := e.conn != conn && len(conn.waiting) == 0
			e.mu.Unlock()
			if over {
				conn.Close()
				return
			}
			continue
		}
		lost := failure{Body, describe(err)}
		if conn.given.text != "" {
			lost = conn.given
		}
		for _, answer := range conn.waiting {
			answer <- lost
		}
		closed := e.conn != conn // by us, or the server said so
		if !closed {
			e.conn = nil
		}
		unnoticed := len(conn.waiting) == 0 && !closed
		e.mu.Unlock()
		conn.Close()
		if unnoticed {
			now := time.Now()
			e.record.add(now, now, lost)
		}
		return
	}
}

func (e *echo) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		e.conn.Close()
		e.conn = nil
	}
}
