package kube

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	// unreadyPatience is how long a client waits for an API server that refuses a request and is not ready. It takes a few seconds to read its
	// roles, and longer on a busy host.
	unreadyPatience = 30 * time.Second
	unreadyInterval = 200 * time.Millisecond
)

// patient repeats requests that an API server refuses with 403 (Forbidden) while it is not ready. One that has just started listens before it
// has read the roles and who has them, and refuses even the administrator's requests. Load balancers keep clients away from it, but
// the clients here choose a server themselves.
type patient struct{ http.RoundTripper }

// RoundTrip returns the server's answer. A request that is refused is repeated once, when the server is ready.
func (p patient) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusForbidden || req.Body != nil && req.GetBody == nil {
		return resp, err
	}
	within, cancel := context.WithTimeout(req.Context(), unreadyPatience)
	defer cancel()
	for !p.ready(within, req) {
		select {
		case <-within.Done():
			return resp, nil // the server's answer says more than that there was no better one in time
		case <-time.After(unreadyInterval):
		}
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return resp, nil
		}
	}
	_, _ = io.Copy(io.Discard, resp.Body) // the connection can then be used again
	resp.Body.Close()
	return p.RoundTripper.RoundTrip(again)
}

// ready asks the server of a request whether it is ready. HTTP/2 uses the connection of the request, so it is the same server.
func (p patient) ready(ctx context.Context, to *http.Request) bool {
	u := url.URL{Scheme: to.URL.Scheme, Host: to.URL.Host, Path: "/readyz"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false
	}
	req.Host = to.Host
	if authorization := to.Header.Get("Authorization"); authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := p.RoundTripper.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}
