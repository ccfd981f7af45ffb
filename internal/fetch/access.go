package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"quorate.dev/quorate/internal/paths"
)

// Access is how a source of files or images is reached, beyond its address.
type Access struct {
	// CAFile holds CA certificates to trust in addition to the system's.
	CAFile string
	// Username and PasswordFile are for servers that require a login.
	Username, PasswordFile string
}

// Transport sends requests over TLS. It allows plain HTTP only to the loopback interface.
func (a Access) Transport() (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if a.CAFile != "" {
		pem, err := paths.Read(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA certificates: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA certificates: %s contains no certificate in PEM format", a.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return secure{t}, nil
}

// Password reads the password. It is empty without a user name.
func (a Access) Password() (string, error) {
	if a.Username == "" {
		return "", nil
	}
	raw, err := paths.Read(a.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read the password of %s: %w", a.Username, err)
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

// Client downloads files from base and, with the user's name and password, from nowhere else.
func (a Access) Client(base string) (*Client, error) {
	t, err := a.Transport()
	if err != nil {
		return nil, err
	}
	password, err := a.Password()
	if err != nil {
		return nil, err
	}
	if a.Username == "" {
		return &Client{HTTP: t}, nil
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("parse the address of the mirror: %w", err)
	}
	return &Client{HTTP: basic{t, u.Host, a.Username, password}}, nil
}

// secure refuses to send anything unencrypted over a network.
type secure struct{ next http.RoundTripper }

func (s secure) RoundTrip(r *http.Request) (*http.Response, error) {
	if ip := net.ParseIP(r.URL.Hostname()); r.URL.Scheme != "https" && r.URL.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, Final("the server does not speak TLS", "set up https on the server: without it, an attacker could change what is served")
	}
	return s.next.RoundTrip(r)
}

// basic logs in at one host only: a redirect must not carry a password elsewhere.
type basic struct {
	next           http.RoundTripper
	host           string
	user, password string
}

func (b basic) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == b.host {
		r = r.Clone(r.Context())
		r.SetBasicAuth(b.user, b.password)
	}
	return b.next.RoundTrip(r)
}
