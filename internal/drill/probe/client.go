package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/host"
)

// Connection is how a client uses its connections.
type Connection string

const (
	// New opens a connection for each request. No request is ever sent twice, because Go silently repeats requests only on reused
	// connections.
	New Connection = "new"
	// Kept keeps HTTP/1.1 connections, or the one TCP connection of an Echo, open between requests.
	Kept Connection = "kept"
	// HTTP2 holds one HTTP/2 connection, with the health checks of client-go, and opens another one only when the connection is
	// lost.
	HTTP2 Connection = "http2"
)

// Phase is the part of a request in which it failed.
type Phase string

const (
	// Dial is the TCP connection.
	Dial Phase = "dial"
	// TLS is the handshake.
	TLS Phase = "tls"
	// Header is everything from the request to the header of its response: the server had the connection and did not answer.
	Header Phase = "header"
	// Body is the rest of the response, or a stream that has begun.
	Body Phase = "body"
	// Status is a complete response that is an error.
	Status Phase = "status"
)

// failure is how a request failed. It is zero if the request succeeded.
type failure struct {
	phase Phase
	text  string
}

// client sends single requests to one address.
type client struct {
	base *url.URL
	http http.RoundTripper
	free func() // closes its connections
	// met is told of every TLS connection: the serial number of the server's certificate, which tells API servers behind one address
	// apart. It may be nil.
	met func(serial string)
	// again is told of every request that is repeated because the server asked for it. Without it, none is repeated.
	again func()
}

// repeats is how often client-go repeats a request that an API server asks to repeat.
const repeats = 10

func newClient(config *rest.Config, connection Connection) (*client, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	trust, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	// The address is measured, never a proxy.
	t := &http.Transport{TLSClientConfig: trust, DialContext: config.Dial, Proxy: host.Direct}
	switch connection {
	case New, Kept:
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{} // HTTP/2 would share one
		t.DisableKeepAlives = connection == New
	case HTTP2:
		utilnet.SetTransportDefaults(t)
	default:
		return nil, fmt.Errorf("a client over HTTP has no connections of the kind %q", connection)
	}
	wrapped, err := rest.HTTPWrappersForConfig(config, t)
	if err != nil {
		return nil, err
	}
	return &client{base: base, http: wrapped, free: t.CloseIdleConnections}, nil
}

// send sends one request and returns how it failed, if it did.
func (c *client) send(ctx context.Context, method, path, contentType, body string) failure {
	resp, failed := c.open(ctx, method, path, contentType, body)
	if failed.text != "" {
		return failed
	}
	defer resp.Body.Close()
	// An incomplete response is a failure.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return failure{Body, describe(err)}
	}
	return failure{}
}

// open sends one request and returns its response, whose body the caller closes. As client-go does, it repeats what the server asks to
// repeat.
func (c *client) open(ctx context.Context, method, path, contentType, body string) (resp *http.Response, failed failure) {
	failed = c.repeating(ctx, func() (failed failure, wait time.Duration) {
		resp, failed, wait, _ = c.once(ctx, method, path, contentType, body)
		return failed, wait
	})
	return resp, failed
}

// repeating sends a request until the server no longer asks to repeat it after some time, as often as client-go does.
func (c *client) repeating(ctx context.Context, send func() (failure, time.Duration)) failure {
	for n := 0; ; n++ {
		failed, wait := send()
		if failed.text != ComeAgain || c.again == nil || n == repeats {
			return failed
		}
		if n == 0 {
			c.again()
		}
		select {
		case <-ctx.Done():
			return failed
		case <-time.After(wait):
		}
	}
}

// object sends one request and returns the object in its response.
func (c *client) object(ctx context.Context, method, path, contentType, body string) (corev1.ConfigMap, failure) {
	resp, failed := c.open(ctx, method, path, contentType, body)
	if failed.text != "" {
		return corev1.ConfigMap{}, failed
	}
	return object(resp)
}

// object reads the object in a response, and closes the response.
func object(resp *http.Response) (o corev1.ConfigMap, failed failure) {
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return corev1.ConfigMap{}, failure{Body, describe(err)}
	}
	return o, failure{}
}

// once sends one request. If the server asks to repeat it, it also returns after which time. sent says that the server may have received
// the request: the transport had a connection for it.
func (c *client) once(ctx context.Context, method, path, contentType, body string) (resp *http.Response, failed failure, wait time.Duration, sent bool) {
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	path, query, _ := strings.Cut(path, "?")
	to := c.base.JoinPath(path)
	to.RawQuery = query
	progress := &trace{met: c.met}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, progress.hooks()), method, to.String(), content)
	if err != nil {
		return nil, failure{Dial, err.Error()}, 0, false
	}
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err = c.http.RoundTrip(req)
	if err != nil {
		return nil, failure{progress.phase(), describe(err)}, 0, progress.sent.Load()
	}
	if resp.StatusCode/100 == 2 {
		return resp, failure{}, 0, true
	}
	defer resp.Body.Close()
	// Only the beginning of the body matters: the list of an API server's checks is short.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 8192))
	if bytes.Contains(text, []byte("[-]shutdown failed")) {
		return nil, failure{Status, ShuttingDown}, 0, true
	}
	// The conditions of client-go.
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode/100 == 5 {
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			return nil, failure{Status, ComeAgain}, time.Duration(seconds) * time.Second, true
		}
	}
	return nil, rejected(resp.StatusCode), 0, true
}

// rejected is how a request failed whose answer has this status.
func rejected(status int) failure { return failure{Status, fmt.Sprintf("HTTP %d", status)} }

// trace remembers how far a request came. A transport calls its hooks from several goroutines.
type trace struct {
	handshake, connected atomic.Bool
	// sent says that a connection was there for the request at some time: unlike connected, it stays when Go begins again with another one.
	sent atomic.Bool
	met  func(string)
}

func (t *trace) hooks() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		// If a connection that was kept is lost, Go begins again with another one.
		GetConn: func(string) {
			t.handshake.Store(false)
			t.connected.Store(false)
		},
		TLSHandshakeStart: func() { t.handshake.Store(true) },
		TLSHandshakeDone: func(s tls.ConnectionState, err error) {
			if err == nil && t.met != nil && len(s.PeerCertificates) > 0 {
				t.met(s.PeerCertificates[0].SerialNumber.String())
			}
		},
		GotConn: func(httptrace.GotConnInfo) {
			t.sent.Store(true)
			t.connected.Store(true)
		},
		// Nothing is written without a connection, but the proof that nothing was must not depend on one hook.
		WroteHeaders: func() { t.sent.Store(true) },
	}
}

func (t *trace) phase() Phase {
	switch {
	case t.connected.Load():
		return Header
	case t.handshake.Load():
		return TLS
	}
	return Dial
}

// describe describes a failure without the addresses and ports that would make each one unique.
func describe(err error) string {
	var op *net.OpError
	var lookup *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &lookup):
		return lookup.Err
	case errors.As(err, &op) && op.Err != nil:
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
