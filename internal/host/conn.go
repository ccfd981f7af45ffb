package host

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Conn is a host that answers operations. It is safe for use by several goroutines.
type Conn struct {
	name   string
	ssh    *ssh.Client // nil for a local one
	pipe   *pipeConn
	http   http.RoundTripper
	stderr *tail
	after  func() // runs when the session is closed
}

func newConn(ctx context.Context, name string, pipe *pipeConn) (*Conn, error) {
	tr := &http.Transport{
		Protocols:   h2c(),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return pipe, nil },
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	// One session is one connection. A Transport's pool would dial anew when it is gone; a ClientConn does not.
	cc, err := tr.NewClientConn(ctx, "http", "host:80")
	if err != nil {
		return nil, fmt.Errorf("%s: speaking to the host side: %w", name, err)
	}
	return &Conn{name: name, pipe: pipe, stderr: &tail{}, http: cc}, nil
}

// Local runs the host side in this process: for tests of operations, through the very same protocol.
func Local(ctx context.Context, name string) (*Conn, error) {
	fromServer, toClient := io.Pipe()
	fromClient, toServer := io.Pipe()
	go Serve(ctx, fromClient, toClient) //nolint:errcheck // ends with the pipe
	return newConn(ctx, name, newPipeConn(fromServer, toServer))
}

// Name is the host's name in the spec.
func (c *Conn) Name() string { return c.name }

// Close ends the session; the host side ends with it.
func (c *Conn) Close() error {
	c.pipe.Close()
	if c.after != nil {
		defer c.after()
	}
	if c.ssh != nil {
		return c.ssh.Close()
	}
	return nil
}

// DialContext opens a connection from the host to addr, through the SSH session: this is how the caller
// reaches an apiserver or an etcd member that listens on the host's loopback.
func (c *Conn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.ssh == nil {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	return c.ssh.DialContext(ctx, network, addr)
}

func (c *Conn) call(ctx context.Context, op string, in any, body io.Reader, out any) error {
	req, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: request for %s: %w", c.name, op, err)
	}
	var payload io.Reader = bytes.NewReader(req)
	if body != nil {
		payload = io.MultiReader(payload, body)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://host/"+op, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	resp, err := c.http.RoundTrip(r)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %s: %w", c.name, op, context.Cause(ctx))
		}
		if tail := c.stderr.String(); tail != "" {
			return fmt.Errorf("%s: %s: the host side stopped: %s", c.name, op, tail)
		}
		return fmt.Errorf("%s: %s: the session ended: %w", c.name, op, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		msg, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return &Error{Host: c.name, Op: op, Message: strings.TrimSpace(string(msg))}
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s: reading the reply of %s: %w", c.name, op, err)
	}
	return nil
}
