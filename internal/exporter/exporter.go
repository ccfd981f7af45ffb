// Package exporter serves the metrics of a cluster to Prometheus, on the control planes: over TLS, and only to those whom the cluster lets
// read them. It observes nothing, and has access to nothing else: another unit writes what it serves.
package exporter

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Path is where the metrics are. Who reads them must be allowed to get this nonResourceURL.
const Path = "/metrics"

const (
	// retryAfter is the time between two attempts to serve, and renewAfter the least time between two starts for want of credentials: whoever renews them
	// restarts the unit, and may have failed to.
	retryAfter = 10 * time.Second
	renewAfter = 5 * time.Minute
	// mostConnections is more than several Prometheus servers have.
	mostConnections = 64
	// headerTimeout also limits how long a connection may say nothing, and writeTimeout how long a client may take to read.
	headerTimeout = 5 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// tellAfter is the time between two lines of the log about an API that cannot be asked: strangers can have it asked.
	tellAfter = time.Minute
	// probeAfter is the time between two questions whether the API answers, while nobody asks for metrics.
	probeAfter = time.Minute
)

// Server serves metrics until its context ends.
type Server struct {
	// Address is where, as host:port.
	Address string
	// CertificateFile holds the certificate and its key, and KubeconfigFile the credentials with which the API is asked who may read. They are read
	// when it begins: whoever renews them restarts the unit.
	CertificateFile, KubeconfigFile string
	// Memory is the file in which it remembers who may read, for the time after a restart.
	Memory string
	// Metrics are what is served.
	Metrics prometheus.Gatherer
	// Log is called when what keeps it from serving changes, with an empty text when nothing does; and now and then while the API cannot be
	// asked who may read. Several goroutines may call it.
	Log func(problem string)

	mu      sync.Mutex
	noted   bool // that it serves, or why not
	problem string
	told    time.Time // when it last logged that the API cannot be asked
}

// Run serves until the context ends. What keeps it from serving is not an error: it tries again. Without credentials that are of use, it ends after a while, so
// that it is started with others.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		err := s.serve(ctx)
		s.note(err)
		wait, again := after(err, time.Since(began))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		if !again {
			return
		}
	}
}

// after says what follows an attempt to serve that took so long: how long it waits, and whether it tries again or ends. It does not wait if it served for long:
// the credentials with which it is started next may be others.
func after(err error, took time.Duration) (wait time.Duration, again bool) {
	if _, useless := errors.AsType[*credentialsError](err); useless {
		return max(0, renewAfter-took), false
	}
	return retryAfter, true
}

// credentialsError says that the credentials are of no use: they are not there yet, or have expired.
type credentialsError struct {
	what string
	err  error
}

func (e *credentialsError) Error() string {
	return fmt.Sprintf("%s: %v; %s renews it (`journalctl -u quorate-approver`)", e.what, e.err, hostconfig.ApproverService)
}

func (e *credentialsError) Unwrap() error { return e.err }

// Problem is why nobody can read the metrics now; empty if nothing is known to be wrong, and known only after it tried.
func (s *Server) Problem() (problem string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem, s.noted
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

// serve serves until the context ends, which is no error, or until the certificate has expired.
func (s *Server) serve(ctx context.Context) error {
	cert, err := s.certificate()
	if err != nil {
		return err
	}
	api, err := openAPI(s.KubeconfigFile)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Address)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil
	case err != nil:
		return fmt.Errorf("listening for Prometheus: %w", err)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, cert.Leaf.NotAfter, errExpired)
	defer cancel()
	a := &access{api: api, now: time.Now, memory: s.Memory, forgot: func(err error) { s.unasked("who may read the metrics cannot be remembered: " + err.Error()) }}
	a.recall()
	go a.probe(ctx)
	return s.serveOn(ctx, listener, cert, a)
}

// ofServer is what a credentialsError says of the certificate.
const ofServer = "the certificate to serve metrics with cannot be used"

var errExpired = &credentialsError{ofServer, errors.New("it has expired")}

func (s *Server) serveOn(ctx context.Context, listener net.Listener, cert *tls.Certificate, a *access) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // with HTTP/2, one connection of a stranger could have hundreds of tokens reviewed at a time
	limits := newSources(time.Now)
	server := &http.Server{Handler: s.handler(a, limits), Protocols: &protocols, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog:  log.New(io.Discard, "", 0), // what strangers send is no news
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}}}
	s.note(nil)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.ServeTLS(netutil.LimitListener(limits.listener(listener), mostConnections), "", "")
	switch {
	case context.Cause(ctx) == error(errExpired):
		return errExpired
	case ctx.Err() != nil || errors.Is(err, http.ErrServerClosed):
		return nil
	}
	return err
}

// handler answers requests for the metrics of those who may read them.
func (s *Server) handler(a *access, limits *sources) http.Handler {
	served := promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: mostConnections})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // only who may read keeps one of the few connections
		switch {
		case !limits.request(r.RemoteAddr):
			w.Header().Set("Retry-After", "10")
			http.Error(w, "too many requests from this address", http.StatusTooManyRequests)
			return
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
			served.ServeHTTP(w, r)
		case stranger:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "a bearer token of this cluster is required", http.StatusUnauthorized)
		case forbidden:
			http.Error(w, why, http.StatusForbidden)
		case undecided:
			s.unasked(why)
			http.Error(w, "the API cannot be asked who may read the metrics: the journal of "+hostconfig.ExporterUnit+" says why", http.StatusServiceUnavailable)
		}
	})
}

// certificate reads the certificate, unless it has expired.
func (s *Server) certificate() (*tls.Certificate, error) {
	text, err := os.ReadFile(s.CertificateFile)
	if err != nil {
		return nil, &credentialsError{ofServer, err}
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, &credentialsError{ofServer, err}
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, errExpired
	}
	return &pair, nil
}

// mostSnapshot is more than the metrics of a cluster of thousands of nodes take.
const mostSnapshot = 64 << 20

// Snapshot reads the last snapshot in a directory, and when its unit last said that it holds.
func Snapshot(dir string) (s metrics.Snapshot, said time.Time, _ error) {
	f, err := os.Open(filepath.Join(dir, facts.SnapshotName))
	if err != nil {
		return s, said, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, said, err
	}
	if info.Size() > mostSnapshot {
		return s, said, &fs.PathError{Op: "read", Path: f.Name(), Err: errors.New("it is too large")}
	}
	err = json.NewDecoder(io.LimitReader(f, mostSnapshot)).Decode(&s)
	return s, info.ModTime(), err
}
