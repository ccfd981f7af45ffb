// Package exporter serves the metrics of a cluster to Prometheus, on the control planes: over TLS, and only to those whom the cluster lets
// read them.
package exporter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Path is where the metrics are. Who reads them must be allowed to get this nonResourceURL.
const Path = "/metrics"

const (
	// retryAfter is the time between two attempts to serve.
	retryAfter = 10 * time.Second
	// mostConnections is more than several Prometheus servers have.
	mostConnections = 64
	// headerTimeout also limits how long a connection may say nothing, and writeTimeout how long a client may take to read.
	headerTimeout = 5 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// tellAfter is the time between two lines of the log about an API that cannot be asked: strangers can have it asked.
	tellAfter = time.Minute
)

// Server serves metrics until its context ends.
type Server struct {
	// Address is where, as host:port.
	Address string
	// CertificateFile holds the certificate and its key, and KubeconfigFile the credentials with which the API is asked who may read. Both are
	// read again when they change, and may come later.
	CertificateFile, KubeconfigFile string
	// Metrics are what is served.
	Metrics prometheus.Collector
	// Log is called when what keeps it from serving changes, with an empty text when nothing does; and now and then while the API cannot be
	// asked who may read. Several goroutines may call it.
	Log func(problem string)

	mu      sync.Mutex
	noted   bool // that it serves, or why not
	problem string
	told    time.Time // when it last logged that the API cannot be asked
}

// Run serves. What keeps it from serving is not an error: it tries again.
func (s *Server) Run(ctx context.Context) {
	cert := &certificate{path: s.CertificateFile}
	handler, err := s.handler(&access{api: &kubeAPI{path: s.KubeconfigFile}, now: time.Now})
	for err == nil && ctx.Err() == nil {
		s.note(s.serve(ctx, cert, handler))
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	s.note(err)
}

// Problem is why nobody can read the metrics now; empty if nothing is known to be wrong.
func (s *Server) Problem() string {
	s.mu.Lock()
	problem := s.problem
	s.mu.Unlock()
	if problem == "" {
		if _, err := (&certificate{path: s.CertificateFile}).get(nil); err != nil {
			return err.Error()
		}
		if _, err := os.Stat(s.KubeconfigFile); err != nil {
			return "it cannot ask the API who may read them: " + err.Error()
		}
	}
	return problem
}

func (s *Server) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	changed := text != s.problem || !s.noted
	s.problem, s.noted = text, true
	s.mu.Unlock()
	if changed && s.Log != nil {
		s.Log(text)
	}
}

// unasked logs why the API could not be asked who may read.
func (s *Server) unasked(why string) {
	s.mu.Lock()
	due := time.Since(s.told) >= tellAfter
	if due {
		s.told = time.Now()
	}
	s.mu.Unlock()
	if due && s.Log != nil {
		s.Log(why)
	}
}

// serve serves until the context ends, which is no error.
func (s *Server) serve(ctx context.Context, cert *certificate, handler http.Handler) error {
	if _, err := cert.get(nil); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Address)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil
	case err != nil:
		return fmt.Errorf("listening for Prometheus: %w", err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true) // with HTTP/2, one connection of a stranger could have hundreds of tokens reviewed at a time
	server := &http.Server{Handler: handler, Protocols: &protocols, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog:  log.New(io.Discard, "", 0), // what strangers send is no news
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}}
	s.note(nil)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err = server.ServeTLS(netutil.LimitListener(listener, mostConnections), "", "")
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler answers requests for the metrics of those who may read them.
func (s *Server) handler(a *access) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(s.Metrics); err != nil {
		return nil, err
	}
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: mostConnections})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // only who may read keeps one of the few connections
		switch {
		case r.URL.Path != Path:
			http.NotFound(w, r)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET is answered", http.StatusMethodNotAllowed)
			return
		}
		switch v, why := a.of(r.Context(), bearer(r)); v {
		case allowed:
			w.Header().Del("Connection")
			metrics.ServeHTTP(w, r)
		case stranger:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "a bearer token of this cluster is required", http.StatusUnauthorized)
		case forbidden:
			http.Error(w, why, http.StatusForbidden)
		case undecided:
			s.unasked(why)
			http.Error(w, "the API cannot be asked who may read the metrics: the journal of "+hostconfig.WatchUnit+" says why", http.StatusServiceUnavailable)
		}
	}), nil
}

// certificate is a certificate with its key in a file, which is read again when it changes.
type certificate struct {
	path string

	mu   sync.Mutex
	read fs.FileInfo
	pair *tls.Certificate
}

// get is the certificate, unless it cannot be read or has expired.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err != nil {
		return nil, fmt.Errorf("there is no certificate to serve metrics with: %w; %s makes it (`journalctl -u quorate-approver`)", err, hostconfig.ApproverService)
	}
	if c.pair == nil || !unchanged(c.read, info) {
		text, err := os.ReadFile(c.path)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(text, text)
		if err != nil {
			return nil, fmt.Errorf("the certificate to serve metrics with in %s: %w", c.path, err)
		}
		c.pair, c.read = &pair, info
	}
	if time.Now().After(c.pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate to serve metrics with has expired at %s; %s renews it (`journalctl -u quorate-approver`)", c.pair.Leaf.NotAfter.UTC().Format(time.RFC3339), hostconfig.ApproverService)
	}
	return c.pair, nil
}

// unchanged says that a file has the content that it had: a new content is a new file (see package durable).
func unchanged(before, now fs.FileInfo) bool {
	return before != nil && os.SameFile(before, now) && before.Size() == now.Size() && before.ModTime().Equal(now.ModTime())
}

// Report says how a server is.
func (s *Server) Report() *facts.ExporterReport {
	return &facts.ExporterReport{Address: s.Address, Problem: s.Problem()}
}
