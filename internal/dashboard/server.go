package dashboard

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"quorate.dev/quorate/internal/page"
)

// Limits of the server. It is for a few browsers of one person or one team.
const (
	headerTimeout = 5 * time.Second
	// writeTimeout is for one write: a browser that reads nothing for so long has lost its connection.
	writeTimeout   = 15 * time.Second
	idleTimeout    = time.Minute
	endTimeout     = 2 * time.Second
	maxHeader      = 16 << 10
	maxConnections = 64
	maxStreams     = 16
	// beatEach is how often a stream says something if nothing changes. The script waits a bit more than twice as long.
	beatEach = 10 * time.Second
	// tokenBytes are as many random bytes as the keys of modern ciphers have.
	tokenBytes = 32
)

// Server serves what a Feed last found, to whoever has the token, and changes nothing.
type Server struct {
	feed     *Feed
	token    string
	sum      [sha256.Size]byte // of the token
	host     func(string) bool
	live     []byte
	policy   string
	streams  chan struct{}
	listener net.Listener
	leaf     *x509.Certificate // nil without TLS
}

// NewServer listens on an address, host:port, where the port may be 0. Without a certificate, the address must be a loopback address: the token and the
// page would cross the network in the clear. With one, requests must name a host for which it is valid.
func NewServer(ctx context.Context, address string, certificate *tls.Certificate, feed *Feed) (*Server, error) {
	document, err := live()
	if err != nil {
		return nil, err
	}
	s := &Server{feed: feed, live: document, policy: page.LivePolicy(string(document)), streams: make(chan struct{}, maxStreams)}
	random := make([]byte, tokenBytes)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	s.token = base64.RawURLEncoding.EncodeToString(random)
	s.sum = sha256.Sum256([]byte(s.token))
	if err := checkAddress(address, certificate != nil); err != nil {
		return nil, err
	}
	s.host = loopbackName
	if certificate != nil {
		if s.leaf = certificate.Leaf; s.leaf == nil {
			return nil, errors.New("the certificate was not parsed")
		}
		s.host = func(name string) bool { return s.leaf.VerifyHostname(name) == nil }
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// The name localhost may lead to another address.
	if at, is := listener.Addr().(*net.TCPAddr); certificate == nil && (!is || !at.IP.IsLoopback()) {
		listener.Close() //nolint:errcheck // nobody has connected
		return nil, &AddressError{address, inTheClear}
	}
	s.listener = netutil.LimitListener(listener, maxConnections)
	if certificate != nil {
		s.listener = tls.NewListener(s.listener, &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	return s, nil
}

// AddressError says that an address is not one to listen on.
type AddressError struct{ Address, Why string }

func (e *AddressError) Error() string { return e.Address + ": " + e.Why }

// inTheClear is why an address is refused without TLS.
const inTheClear = "it is no loopback address, and without TLS whoever is on the way could read the token; pass --tls-cert and --tls-key, or listen on 127.0.0.1 and forward the port (ssh -L)"

func checkAddress(address string, secure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return &AddressError{address, "it must be an address and a port, such as 127.0.0.1:8080"}
	}
	if !secure && !loopbackName(host) {
		return &AddressError{address, inTheClear}
	}
	return nil
}

// loopbackName says that a name is one of this machine itself. Other names are refused even if they lead here: a page of somebody else's can have its
// name lead anywhere (DNS rebinding).
func loopbackName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// URL is the address of the page.
func (s *Server) URL() string {
	at := s.listener.Addr().String()
	if s.leaf == nil {
		return "http://" + at + "/"
	}
	// It may listen on all addresses, and the browser checks the name.
	_, port, _ := net.SplitHostPort(at)
	named := slices.IndexFunc(s.leaf.DNSNames, func(name string) bool { return !strings.Contains(name, "*") })
	switch {
	case named >= 0:
		at = net.JoinHostPort(s.leaf.DNSNames[named], port)
	case len(s.leaf.IPAddresses) > 0:
		at = net.JoinHostPort(s.leaf.IPAddresses[0].String(), port)
	}
	return "https://" + at + "/"
}

// Link is what a person opens: the address, and the token in a fragment, which browsers send to nobody. It is a secret.
func (s *Server) Link() string { return s.URL() + "#token=" + s.token }

// Serve serves until the context ends, which is no error.
func (s *Server) Serve(ctx context.Context) error {
	web := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if web.Shutdown(ending) != nil {
			web.Close() //nolint:errcheck // nothing is left to be done
		}
	})
	defer stop()
	if err := web.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler answers requests that name this machine and have the token. The page itself needs no token: it is empty, and a link may lead to it.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { write(w, s.live) })
	mux.HandleFunc("GET /events", s.authorized(s.serveEvents))
	mux.HandleFunc("GET /page", s.authorized(s.servePage))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", s.policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !s.host(hostOf(r.Host)) {
			http.Error(w, "this dashboard does not answer to that name: use the address that quorate dashboard printed", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// hostOf is the name in a Host header.
func hostOf(header string) string {
	if host, _, err := net.SplitHostPort(header); err == nil {
		return host
	}
	return strings.Trim(header, "[]")
}

// authorized lets those in who have the token, and do not come from another site. How long that takes says nothing about the token.
func (s *Server) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			http.Error(w, "this dashboard answers no requests of other pages", http.StatusForbidden)
			return
		}
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		sum := sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(sum[:], s.sum[:]) != 1 || !bearer {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token is missing or wrong: open the link that quorate dashboard printed", http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func write(w http.ResponseWriter, document []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(document) //nolint:errcheck // the browser is gone
}

// servePage serves one copy of the page, as Page.Snapshot writes it.
func (s *Server) servePage(w http.ResponseWriter, _ *http.Request) {
	v, _ := s.feed.View()
	var b bytes.Buffer
	if err := v.page.Snapshot(&b); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", page.Policy()) // of a page without a script
	write(w, b.Bytes())
}

// message is one event: the parts of the page that differ from those that were sent before.
type message struct {
	Title    string `json:"title"`
	Stale    bool   `json:"stale"`
	Announce string `json:"announce,omitempty"`
	Parts    []part `json:"parts"`
}

type part struct {
	ID   string `json:"id"`
	HTML string `json:"html"`
}

// serveEvents sends the parts of the page, and those that change, until the browser is gone or the server ends.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, fmt.Sprintf("%d browsers follow this dashboard already", maxStreams), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Time{}) != nil { // that of the request would end the stream
		return
	}
	sent := map[string]string{}
	beat := time.NewTicker(beatEach)
	defer beat.Stop()
	for {
		v, changed := s.feed.View()
		data, err := json.Marshal(v.since(sent))
		if err != nil {
			return
		}
		// Each write has its own deadline: the stream lasts, and a browser that reads nothing does not keep it.
		if control.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-beat.C:
		}
	}
}
