package host

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// graceTimeout is how long Serve waits for running operations when the caller disconnects.
const graceTimeout = 30 * time.Second

var errHungUp = errors.New("the caller disconnected")

// ServeStdio is Serve on stdin and stdout, with the greeting that the caller waits for.
func ServeStdio(ctx context.Context) error { return serveStdio(ctx, nil) }

// ServeLimited is ServeStdio for a caller that may not do everything: its key is admitted for one purpose (command= in authorized_keys).
func ServeLimited(ctx context.Context, l Limits) error { return serveStdio(ctx, &l) }

func serveStdio(ctx context.Context, l *Limits) error {
	// Without this, writing to a lost session would kill the process, and with it operations that must end in order.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if err := Ready(os.Stdout); err != nil {
		return err
	}
	return serve(ctx, os.Stdin, os.Stdout, l)
}

// Serve answers operations on one connection until the caller disconnects or ctx ends. It then cancels the running operations
// and waits up to half a minute for them, because they may change the host until they have ended.
func Serve(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
	return serve(ctx, in, out, nil)
}

func serve(ctx context.Context, in io.ReadCloser, out io.WriteCloser, l *Limits) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn := newPipeConn(in, out)
	var running inFlight
	mux := http.NewServeMux()
	mux.HandleFunc("POST /"+dialOp, l.serveDial)
	mux.HandleFunc("POST /{op}", l.serveOperation)
	srv := &http.Server{Handler: running.count(mux), Protocols: h2c(), HTTP2: &http.HTTP2Config{
		// Each watch, each client of etcd and each probe is a stream.
		MaxConcurrentStreams: 1000,
		// Whole bundles pass through here; the default window of 1 MiB would slow a fast link down. Larger values than
		// these are invalid, and invalid values mean the default.
		MaxReceiveBufferPerStream:     4<<20 - 1,
		MaxReceiveBufferPerConnection: 4<<20 - 1,
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
	cancel(errHungUp)
	srv.Close()
	running.wait(graceTimeout)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// inFlight counts the requests that are being served.
type inFlight struct {
	mu      sync.Mutex
	ended   bool
	running sync.WaitGroup
}

func (f *inFlight) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		if f.ended {
			f.mu.Unlock()
			return
		}
		f.running.Add(1)
		f.mu.Unlock()
		defer f.running.Done()
		h.ServeHTTP(w, r)
	})
}

// wait rejects new requests, and waits for those that are running.
func (f *inFlight) wait(limit time.Duration) {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		f.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
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

// pipeConn makes a net.Conn from a reader and a writer. Deadlines are not supported: both ends of the session end by closing.
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
