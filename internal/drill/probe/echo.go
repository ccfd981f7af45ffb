package probe

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// lookupTimeout is less than the five seconds after which resolvers repeat a query: a lost one is a failure.
const lookupTimeout = 4 * time.Second

// lookup looks a name up as programs in pods do.
func lookup(ctx context.Context, name string) failure {
	if _, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, name); err != nil {
		return failure{Header, describe(err)}
	}
	return failure{}
}

// echo holds one TCP connection, and sends lines that are to come back.
type echo struct {
	address string
	record  *record

	mu      sync.Mutex
	conn    net.Conn
	next    int
	waiting map[string]chan failure
}

func (e *echo) send(ctx context.Context) failure {
	line, answer, failed := e.write(ctx)
	if failed.text != "" {
		return failed
	}
	select {
	case failed := <-answer:
		return failed
	case <-ctx.Done():
		e.mu.Lock()
		delete(e.waiting, line)
		e.mu.Unlock()
		return failure{Header, TimedOut}
	}
}

// write writes a line, and opens a connection first if there is none.
func (e *echo) write(ctx context.Context) (line string, answer chan failure, failed failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.address)
		if err != nil {
			return "", nil, failure{Dial, describe(err)}
		}
		e.conn, e.waiting = conn, map[string]chan failure{}
		go e.read(conn, e.waiting)
	}
	e.next++
	line, answer = fmt.Sprint(e.next), make(chan failure, 1)
	e.waiting[line] = answer
	if deadline, ok := ctx.Deadline(); ok {
		e.conn.SetWriteDeadline(deadline)
	}
	// If this fails, the reader notices too, and answers.
	if _, err := fmt.Fprintln(e.conn, line); err != nil {
		e.conn.Close()
	}
	return line, answer, failure{}
}

// read answers the lines that wait, until the connection is lost. That is a failure of its own.
func (e *echo) read(conn net.Conn, waiting map[string]chan failure) {
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		e.mu.Lock()
		if err == nil {
			line = strings.TrimSpace(line)
			if answer := waiting[line]; answer != nil {
				answer <- failure{}
				delete(waiting, line)
			}
			e.mu.Unlock()
			continue
		}
		lost := failure{Body, describe(err)}
		for _, answer := range waiting {
			answer <- lost
		}
		closed := e.conn != conn // by us
		if !closed {
			e.conn = nil
		}
		unnoticed := len(waiting) == 0 && !closed
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
