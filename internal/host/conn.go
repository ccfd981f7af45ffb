package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// replyLimit bounds how much of the caller's memory one reply may take. The host is not trusted.
	replyLimit = 16 << 20
	// redialPause is how long no new connection to a host is tried after one has failed: callers that query it in a loop
	// should not wait for a connection each time.
	redialPause = 10 * time.Second
)

// Conn is a host that answers operations. It is safe for use by several goroutines.
//
// If its session is lost, the next call opens a new one. A call that was running fails with a *SessionError, unless its
// operation only reads: then it is repeated once.
type Conn struct {
	name string
	// redial opens another session; nil if that is not possible.
	redial func(context.Context) (*session, error)
	// after runs when the Conn is closed.
	after func()

	now atomic.Pointer[session]

	turn   chan struct{} // a semaphore for the fields below
	failed error         // why the last attempt to open another session failed
	tried  time.Time     // when that was
	closed bool
	again  []func(context.Context) error // see OnNewSession
}

func connOf(name string, s *session) *Conn {
	c := &Conn{name: name, turn: make(chan struct{}, 1)}
	c.now.Store(s)
	c.turn <- struct{}{}
	return c
}

// session is one run of the host side.
type session struct {
	ssh    *ssh.Client // nil for a local one
	pipe   *pipeConn
	http   *http.ClientConn
	stderr *tail
	// unconfirmed is set while nobody has confirmed the host key.
	unconfirmed *UnconfirmedError
	// sudoAsked says that sudo has asked for the user's password.
	sudoAsked bool
}

func newSession(ctx context.Context, pipe *pipeConn) (*session, error) {
	tr := &http.Transport{
		Protocols:   h2c(),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return pipe, nil },
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	// One session is one connection. A Transport's pool would dial again when the connection is lost; a ClientConn does not.
	cc, err := tr.NewClientConn(ctx, "http", "host:80")
	if err != nil {
		return nil, fmt.Errorf("speaking to the host side: %w", err)
	}
	return &session{pipe: pipe, stderr: &tail{}, http: cc}, nil
}

func (s *session) close() {
	s.pipe.Close()
	if s.ssh != nil {
		s.ssh.Close()
	}
}

// err says why the session is over; nil while it is not.
func (s *session) err() error {
	select {
	case <-s.pipe.closed:
	default:
		return nil
	}
	if said := s.stderr.String(); said != "" {
		return fmt.Errorf("the host side stopped: %s", said)
	}
	return errors.New("the session ended")
}

// Local runs the host side in this process, for tests of operations: through the same protocol, without SSH.
func Local(ctx context.Context, name string) (*Conn, error) {
	s, err := localSession(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	return connOf(name, s), nil
}

func localSession(ctx context.Context, name string, l *Limits) (*session, error) {
	fromServer, toClient := io.Pipe()
	fromClient, toServer := io.Pipe()
	go serve(ctx, fromClient, toClient, l) //nolint:errcheck // ends with the pipe
	s, err := newSession(ctx, newPipeConn(fromServer, toServer))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// Name is the host's name in the spec.
func (c *Conn) Name() string { return c.name }

// Close ends the session; the host side ends with it.
func (c *Conn) Close() error {
	<-c.turn
	defer func() { c.turn <- struct{}{} }()
	if !c.closed && c.after != nil {
		defer c.after()
	}
	c.closed = true
	c.now.Load().close()
	return nil
}

// Err says why the session is over; nil while it is not. After an error that does not show it, such as that of another
// protocol on top of a connection of DialContext, Err distinguishes a lost host from an answer.
func (c *Conn) Err() error {
	if err := c.now.Load().err(); err != nil {
		return &SessionError{Host: c.name, Err: err}
	}
	return nil
}

// SudoAsked says that sudo on the host has asked for the user's password before the session began.
func (c *Conn) SudoAsked() bool { return c.now.Load().sudoAsked }

// OnNewSession calls f each time that a lost session has been replaced, before anything else uses the new one. If f
// fails, the new session is not used. A caller that holds something for the time of a session, such as a lease, takes it
// again in f. Calls that f makes with its context use the new session.
func (c *Conn) OnNewSession(f func(ctx context.Context) error) {
	<-c.turn
	defer func() { c.turn <- struct{}{} }()
	c.again = append(c.again, f)
}

// renewal is in the context of the functions of OnNewSession.
type renewal struct {
	conn    *Conn
	session *session
}

type renewalKey struct{}

// session returns the session, or opens another one if it is over.
func (c *Conn) session(ctx context.Context) (*session, error) {
	if r, ok := ctx.Value(renewalKey{}).(renewal); ok && r.conn == c {
		return r.session, nil
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, &SessionError{Host: c.name, Err: context.Cause(ctx)}
	}
	now := c.now.Load()
	over := now.err()
	switch {
	case over == nil:
		return now, nil
	case c.redial == nil || c.closed:
		return nil, &SessionError{Host: c.name, Err: over}
	case c.failed != nil && time.Since(c.tried) < redialPause:
		return nil, c.failed
	}
	s, err := c.redial(ctx)
	if err == nil {
		renewed := context.WithValue(ctx, renewalKey{}, renewal{c, s})
		for _, f := range c.again {
			if err = f(renewed); err != nil {
				s.close()
				break
			}
		}
	}
	if err != nil {
		err = &SessionError{Host: c.name, Err: fmt.Errorf("%w; the session cannot be opened again: %w", over, err)}
		if ctx.Err() == nil {
			c.failed, c.tried = err, time.Now()
		}
		return nil, err
	}
	now.close()
	c.now.Store(s)
	c.failed = nil
	return s, nil
}

func (c *Conn) call(ctx context.Context, op string, kind Kind, in any, body io.Reader, out any) error {
	req, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: request for %s: %w", c.name, op, err)
	}
	for again := false; ; again = true {
		s, err := c.session(ctx)
		if err != nil {
			return err
		}
		if kind&Secret != 0 && s.unconfirmed != nil {
			return s.unconfirmed
		}
		err = c.exchange(ctx, s, op, req, body, out)
		if err == nil || again || kind&Reads == 0 || body != nil || s.err() == nil || c.redial == nil || ctx.Err() != nil {
			return err
		}
	}
}

func (c *Conn) exchange(ctx context.Context, s *session, op string, req []byte, body io.Reader, out any) error {
	var payload io.Reader = bytes.NewReader(req)
	if body != nil {
		payload = io.MultiReader(payload, body)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://host/"+op, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	resp, err := s.http.RoundTrip(r)
	if err != nil {
		return c.unanswered(ctx, s, op, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.readError(resp, op)
	}
	reply := &io.LimitedReader{R: resp.Body, N: replyLimit}
	if err := json.NewDecoder(reply).Decode(out); err != nil {
		if reply.N <= 0 {
			return fmt.Errorf("%s: reading the reply of %s: it is larger than %d MiB", c.name, op, replyLimit>>20)
		}
		if s.err() != nil || ctx.Err() != nil {
			return c.unanswered(ctx, s, op, err)
		}
		return fmt.Errorf("%s: reading the reply of %s: %w", c.name, op, err)
	}
	return nil
}

// readError returns the error that the host answered.
func (c *Conn) readError(resp *http.Response, op string) error {
	msg, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil && len(msg) == 0 {
		return &SessionError{Host: c.name, Op: op, Err: err}
	}
	return &Error{Host: c.name, Op: op, Message: strings.TrimSpace(string(msg)), cause: causeOf(resp.Header.Get(causeHeader))}
}

// unanswered says why there was no answer.
func (c *Conn) unanswered(ctx context.Context, s *session, op string, err error) error {
	switch over := s.err(); {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case over != nil:
		err = over
	}
	return &SessionError{Host: c.name, Op: op, Err: err}
}
