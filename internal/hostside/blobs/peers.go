package blobs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/distribute"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/host"
)

// Hosts pass blobs on to each other over TLS. The certificate is created for this purpose and pinned by its fingerprint, and
// the token keeps out all other clients. Both are sent only inside SSH sessions. A host listens from the moment that the first
// other host needs it until the caller's call ends.

// unclaimed is how long a listener waits for the call that serves on it.
const unclaimed = 30 * time.Second

// peerPatience is how long another host may be silent before the caller is asked instead.
const peerPatience = 5 * time.Second

// offers are listeners that are not served yet, by token.
var offers = struct {
	sync.Mutex
	open map[string]net.Listener
}{open: map[string]net.Listener{}}

// Offer makes this host listen on one of its own addresses, on a port that the kernel chooses.
var Offer = host.Define("bundle.offer", func(_ context.Context, address string) (distribute.Offer, error) {
	return offer(address)
}, host.Secret, host.Secret)

func offer(address string) (distribute.Offer, error) {
	cert, err := newCertificate()
	if err != nil {
		return distribute.Offer{}, fmt.Errorf("creating a certificate for passing blobs on: %w", err)
	}
	plain, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return distribute.Offer{}, fmt.Errorf("listening to pass blobs on: %w", err)
	}
	l := tls.NewListener(&limited{Listener: plain, from: map[string]int{}}, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	token := make([]byte, 32)
	rand.Read(token) //nolint:errcheck // never fails, as its documentation says
	fingerprint := sha256.Sum256(cert.Certificate[0])
	o := distribute.Offer{Address: l.Addr().String(), Fingerprint: hex.EncodeToString(fingerprint[:]), Token: hex.EncodeToString(token)}
	offers.Lock()
	defer offers.Unlock()
	offers.open[o.Token] = l
	time.AfterFunc(unclaimed, func() {
		if l := claim(o.Token); l != nil {
			l.Close()
		}
	})
	return o, nil
}

func claim(token string) net.Listener {
	offers.Lock()
	defer offers.Unlock()
	l := offers.open[token]
	delete(offers.open, token)
	return l
}

func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	// Its dates are not checked, because the clocks of hosts may differ. The certificate and its key exist only until the call
	// ends.
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// Serve answers on what Offer opened, until the caller ends the call.
var Serve = host.Define("bundle.serve", func(ctx context.Context, o distribute.Offer) (struct{}, error) {
	return struct{}{}, Host.serve(ctx, o.Token)
}, host.Secret, host.Secret)

func (s Store) serve(ctx context.Context, token string) error {
	l := claim(token)
	if l == nil {
		return errors.New("this listener no longer exists")
	}
	srv := &http.Server{
		Handler: s.handler(token), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
		// Connections of strangers are not logged: they do not concern the user who runs an installation.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// patient closes the connection of a client that does not read what it requested.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// stalled is how long a client may take for one piece of a blob.
const stalled = 30 * time.Second

func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(stalled)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

// Connections that a host accepts at the same time, from all addresses and from one. A source serves a few hosts at a time, each with one
// connection; all other clients are strangers.
const (
	maxConnections = 64
	maxFromOne     = 8
)

// limited closes excess connections.
type limited struct {
	net.Listener
	mu   sync.Mutex
	open int
	from map[string]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err == nil && l.enter(from) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		c.Close()
	}
}

func (l *limited) enter(from string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= maxConnections || l.from[from] >= maxFromOne {
		return false
	}
	l.open++
	l.from[from]++
	return true
}

func (l *limited) leave(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[from]--; l.from[from] == 0 {
		delete(l.from, from)
	}
}

type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (s Store) handler(token string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
			http.Error(w, "unknown client", http.StatusUnauthorized)
			return
		}
		d, err := digest.Parse(r.PathValue("digest"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f, err := os.Open(s.file(d))
		if err != nil {
			http.Error(w, "this host does not have it", http.StatusNotFound)
			return
		}
		defer f.Close()
		http.ServeContent(&patient{ResponseWriter: w, control: http.NewResponseController(w)}, r, "", time.Time{}, f)
	})
	return mux
}

// FetchRequest asks a host to get a blob from another. The other host is not trusted: what it sends is used only if it has the
// size and the digest.
type FetchRequest struct {
	Blob distribute.Blob
	From distribute.Offer
}

// Another host must have at least this average speed; otherwise the caller sends the blob. A host that sends a byte now and
// then could otherwise delay an installation for any time.
const (
	slowest = 256 << 10 // bytes per second
	grace   = 30 * time.Second
)

func deadline(size int64) time.Duration {
	return grace + time.Duration(size)*time.Second/slowest
}

// Fetch gets one blob from another host and stores it.
var Fetch = host.Define("bundle.fetch", func(ctx context.Context, r FetchRequest) (struct{}, error) {
	return struct{}{}, Host.fetch(ctx, r)
}, host.Secret, host.Secret)

func (s Store) fetch(ctx context.Context, r FetchRequest) error {
	if r.Blob.Size <= 0 {
		return fmt.Errorf("blob %s: its size is not known, so nothing would limit what is received", r.Blob.Digest)
	}
	return s.get(ctx, r, deadline(r.Blob.Size))
}

func (s Store) get(ctx context.Context, r FetchRequest, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it takes longer than %s", limit.Round(time.Second)))
	defer cancel()
	t := &http.Transport{
		// No proxy: hosts of one cluster reach each other directly or not at all.
		DialContext:         (&net.Dialer{Timeout: peerPatience}).DialContext,
		TLSHandshakeTimeout: peerPatience,
		DisableCompression:  true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// There is no CA and no name to verify; the certificate must have the fingerprint.
			InsecureSkipVerify: true, //nolint:gosec // VerifyConnection is stricter
			VerifyConnection: func(c tls.ConnectionState) error {
				sum := sha256.Sum256(c.PeerCertificates[0].Raw)
				if hex.EncodeToString(sum[:]) != r.From.Fingerprint {
					return fetch.Final("another server answers there: the certificate is not the announced one", "")
				}
				return nil
			},
		},
	}
	defer t.CloseIdleConnections()
	c := fetch.Client{Patience: peerPatience, HTTP: bearer{t, r.From.Token}}
	target := s.file(r.Blob.Digest)
	defer os.Remove(target + ".part") //nolint:errcheck // gone after a success; another source starts from the beginning
	if err := durable.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return c.Get(ctx, fetch.File{What: "blob", URL: "https://" + r.From.Address + "/blobs/" + r.Blob.Digest.String(), Digest: r.Blob.Digest,
		Size: r.Blob.Size, Origin: "the bundle"}, target)
}

type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}
