package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/host"
)

// client sends single requests to one endpoint.
type client struct {
	base *url.URL
	http http.RoundTripper
	free func() // closes its connections
}

// newConnections makes a client that opens a connection for each request. No request is ever sent twice, because Go silently
// repeats requests only on reused connections.
func newConnections(config *rest.Config) (*client, error) {
	return newClient(config, func(t *http.Transport) {
		t.DisableKeepAlives = true
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{} // HTTP/2 would share one
	})
}

// oneConnection makes a client that holds one HTTP/2 connection, with the health checks of client-go, and opens another one
// only when the connection is lost.
func oneConnection(config *rest.Config) (*client, error) {
	return newClient(config, func(t *http.Transport) { utilnet.SetTransportDefaults(t) })
}

func newClient(config *rest.Config, prepare func(*http.Transport)) (*client, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	trust, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	// The endpoint is measured, never a proxy.
	t := &http.Transport{TLSClientConfig: trust, DialContext: config.Dial, Proxy: host.Direct}
	prepare(t)
	wrapped, err := rest.HTTPWrappersForConfig(config, t)
	if err != nil {
		return nil, err
	}
	return &client{base: base, http: wrapped, free: t.CloseIdleConnections}, nil
}

// send sends one request and returns how it failed, if it did.
func (c *client) send(ctx context.Context, method, path, contentType, body string) (failure string) {
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), content)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return describe(err)
	}
	defer resp.Body.Close()
	// An incomplete response is a failure.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return describe(err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Sprintf("HTTP %d", resp.StatusCode)
	}
	return ""
}

// describe describes a failure without the addresses and ports that would make each one unique.
func describe(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &op) && op.Err != nil:
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
