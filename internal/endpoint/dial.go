// Package endpoint probes the cluster's endpoint from every host and from the caller: whether its name resolves to the load
// balancer, whether the load balancer answers, and with which certificates. Judge and Missing say what that means; they are
// pure.
package endpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/spec"
)

// Request says what to look up and to dial.
type Request struct {
	Name string `json:"name"`
	Port string `json:"port"`
	// Address is dialed; when it is empty, what the name resolves to.
	Address string `json:"address,omitempty"`
	// Family is that of the endpoint: the first of the cluster.
	Family spec.Family `json:"family,omitempty"`
	// CA is the cluster's in PEM, once there is one.
	CA      string        `json:"ca,omitempty"`
	Timeout time.Duration `json:"timeout"`
	// Connections is how many to make, one after the other. The answer's outcome is the last one's.
	Connections int `json:"connections"`
}

// Outcome is the result of a connection.
type Outcome string

// The outcomes of connections.
const (
	Refused  Outcome = "refused"  // nobody listens there
	Closed   Outcome = "closed"   // accepted, and closed immediately: a load balancer that has no server yet
	Timeout  Outcome = "timeout"  // no answer at all
	NoRoute  Outcome = "no-route" // the network reports that there is no route
	Silent   Outcome = "silent"   // accepted, and then nothing: a load balancer that waits for a server
	Plain    Outcome = "plain"    // something answers, but not with TLS
	Stranger Outcome = "stranger" // a certificate that the cluster's CA has not signed for this name
	Trusted  Outcome = "trusted"  // an API server of this cluster
	Failed   Outcome = "failed"   // anything else, in Detail
)

// Answer is the result from one place.
type Answer struct {
	// Addresses are what the name resolves to there; without any, Unresolved says why.
	Addresses  []string `json:"addresses,omitempty"`
	Unresolved string   `json:"unresolved,omitempty"`
	// Dialed is empty when there was no address to dial.
	Dialed  string  `json:"dialed,omitempty"`
	Outcome Outcome `json:"outcome,omitempty"`
	Detail  string  `json:"detail,omitempty"`
	// Servers counts the connections that each server certificate answered, by its SHA-256.
	Servers map[string]int `json:"servers,omitempty"`
}

// lookupTimeout is longer than a healthy resolver takes, and shorter than the C library's timeout.
const lookupTimeout = 3 * time.Second

// Dial resolves the name and connects, from the host that it runs on.
var Dial = host.Define("endpoint.dial", func(ctx context.Context, r Request) (Answer, error) { return dial(ctx, r), nil }, host.Reads)

func dial(ctx context.Context, r Request) Answer {
	a := Answer{Servers: map[string]int{}}
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	found, err := lookupName(lookup, r)
	cancel()
	for _, ip := range found {
		a.Addresses = append(a.Addresses, ip.Unmap().String())
	}
	slices.Sort(a.Addresses)
	if len(found) == 0 {
		a.Unresolved = reason(err)
	}
	address := r.Address
	if address == "" && len(a.Addresses) > 0 {
		address = a.Addresses[0]
	}
	if address == "" {
		return a
	}
	a.Dialed = net.JoinHostPort(address, r.Port)
	for range max(r.Connections, 1) {
		if ctx.Err() != nil {
			break
		}
		var leaf string
		if a.Outcome, leaf, a.Detail = handshake(ctx, (&net.Dialer{}).DialContext, a.Dialed, r); leaf != "" {
			a.Servers[leaf]++
		}
	}
	return a
}

// lookupName resolves the name to addresses of the family that clients need. If the endpoint has no address in the spec, the other family will do.
func lookupName(ctx context.Context, r Request) ([]netip.Addr, error) {
	networks := []string{"ip4", "ip6"}
	if r.Family == spec.IPv6 {
		slices.Reverse(networks)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, networks[0], r.Name)
	if len(found) == 0 && r.Address == "" {
		if others, failed := net.DefaultResolver.LookupNetIP(ctx, networks[1], r.Name); failed == nil {
			return others, nil
		}
	}
	return found, err
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// handshake connects and receives the server's certificate, but sends no request.
func handshake(ctx context.Context, dial dialer, address string, r Request) (o Outcome, leaf, detail string) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return unconnected(err), "", reason(err)
	}
	defer conn.Close()
	// Accept any certificate, so that a wrong one can be reported; it is checked below.
	client := tls.Client(conn, &tls.Config{ServerName: r.Name, InsecureSkipVerify: true}) //nolint:gosec // nothing is sent
	if err := client.HandshakeContext(ctx); err != nil {
		return unanswered(err), "", reason(err)
	}
	chain := client.ConnectionState().PeerCertificates
	leaf = fingerprint(chain[0])
	if why := distrust(chain, r); why != "" {
		return Stranger, leaf, why
	}
	return Trusted, leaf, ""
}

func unconnected(err error) Outcome {
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return NoRoute
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Failed
}

func unanswered(err error) Outcome {
	var (
		network net.Error
		record  tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Closed
	case errors.As(err, &record):
		return Plain
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return Silent
	}
	return Failed
}

// distrust says why the certificate is not one of this cluster's API servers; empty when it is.
func distrust(chain []*x509.Certificate, r Request) string {
	leaf := chain[0]
	whose := "a certificate of " + cmp.Or(leaf.Subject.CommonName, "no name") + ", issued by " + cmp.Or(leaf.Issuer.CommonName, "no name")
	if r.CA == "" {
		return whose
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(r.CA))
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: r.Name}); err != nil {
		return whose + " (" + err.Error() + ")"
	}
	return ""
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// reason is the innermost part of an error: what went wrong, without the address, which is already known.
func reason(err error) string {
	if err == nil {
		return "no address"
	}
	var (
		dns *net.DNSError
		op  *net.OpError
	)
	switch {
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return strings.TrimPrefix(err.Error(), "tls: ")
}
