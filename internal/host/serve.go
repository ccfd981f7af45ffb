package host

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve answers operations on one connection until the caller hangs up or ctx ends.
func Serve(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
	conn := newPipeConn(in, out)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{op}", serveHTTP)
	srv := &http.Server{Handler: mux, Protocols: h2c(), HTTP2: &http.HTTP2Config{
		// Whole bundles pass through here; the default window of 1 MiB would make a fast link wait.
		MaxReceiveBufferPerStream:     16 << 20,
		MaxReceiveBufferPerConnection: 32 << 20,
		// A caller whose machine vanished never closes the session. Without an answer to a ping
		// this side ends, and with it the lease that this process holds.
		SendPingTimeout: 15 * time.Second,
		PingTimeout:     15 * time.Second,
	}}
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err := srv.Serve(&oneConn{conn: conn})
	<-conn.closed
	srv.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// oneConn is a listener that accepts exactly one connection.
type oneConn struct {
	once sync.Once
	conn *pipeConn
}

func (l *oneConn) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = l.conn })
	if c != nil {
		return c, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return pipeAddr{} }

// pipeConn makes a net.Conn of a reader and a writer. Deadlines are not supported: both ends of the
// session end by closing.
type pipeConn struct {
	io.Reader
	io.Writer
	once   sync.Once
	close  func()
	closed chan struct{}
}

func newPipeConn(r io.ReadCloser, w io.WriteCloser) *pipeConn {
	return &pipeConn{Reader: r, Writer: w, close: func() { w.Close(); r.Close() }, closed: make(chan struct{})}
}

func (c *pipeConn) Close() error {
	c.once.Do(func() { close(c.closed); c.close() })
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr              { return pipeAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr             { return pipeAddr{} }
func (c *pipeConn) SetDeadline(time.Time) error      { return nil }
func (c *pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *pipeConn) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "session" }
