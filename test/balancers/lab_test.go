//go:build lab

package balancers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/spec"
)

const program = "/usr/local/bin/balancers"

// site is a lab with three API servers, three load balancers, of which the spec names two at first, a machine for clients, and
// a machine outside the cluster.
type site struct {
	*lab.Lab
	cluster *spec.Cluster
	vip     string
	ca, key string
}

func newSite(t *testing.T) *site {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	name := fmt.Sprintf("balancers-%d", os.Getpid())
	t.Cleanup(func() {
		if err := lab.DeleteByName(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	var machines []lab.Machine
	for i, m := range []string{"api-a", "api-b", "api-c", "lb-a", "lb-b", "lb-c", "client", "stranger"} {
		machines = append(machines, lab.Machine{Name: m, Zone: string("abc"[i%3])})
	}
	programs := []lab.File{{Path: program, Source: self, Mode: 0o755}}
	for path, variable := range map[string]string{"/usr/sbin/haproxy": "HAPROXY", "/usr/sbin/keepalived": "KEEPALIVED"} {
		if other := os.Getenv(variable); other != "" { // another release
			programs = append(programs, lab.File{Path: path, Source: other, Mode: 0o755})
		}
	}
	l, err := lab.Create(t.Context(), lab.Config{Name: name, Zones: []string{"a", "b", "c"}, Machines: machines, VirtualIPs: 1, Files: programs})
	must(t, err)
	s := &site{Lab: l, vip: l.VirtualIPs()[0].String(), cluster: spec.DefaultLab("site")}
	s.cluster.Spec.LoadBalancer.Address = s.vip
	s.cluster.Spec.Hosts = nil
	for _, m := range l.Machines() {
		h := spec.Host{Name: m.Name, Address: m.Address.String()}
		switch {
		case strings.HasPrefix(m.Name, "api-"):
			h.Roles = []string{spec.RoleControlPlane}
		case m.Name == "lb-a" || m.Name == "lb-b":
			h.Roles = []string{spec.RoleLoadBalancer}
		default:
			continue
		}
		s.cluster.Spec.Hosts = append(s.cluster.Spec.Hosts, h)
	}
	s.certificates(t)
	return s
}

// with is the cluster with one more load balancer.
func (s *site) with(t *testing.T, name string) *spec.Cluster {
	t.Helper()
	m, err := s.Machine(name)
	must(t, err)
	c := *s.cluster
	c.Spec.Hosts = append(slices.Clone(c.Spec.Hosts), spec.Host{Name: name, Address: m.Address.String(), Roles: []string{spec.RoleLoadBalancer}})
	return &c
}

func (s *site) certificates(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	must(t, err)
	s.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"api.site.internal"}}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	s.key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	for _, m := range s.apiServers() {
		s.put(t, m, "/etc/api/cert", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		s.put(t, m, "/etc/api/key", s.key)
		s.startAPI(t, m)
	}
}

func (s *site) apiServers() []string { return []string{"api-a", "api-b", "api-c"} }

func (s *site) startAPI(t *testing.T, machine string) {
	t.Helper()
	s.put(t, machine, "/etc/api/etcd", "ok")
	s.run(t, machine, "systemctl reset-failed api 2>/dev/null; systemd-run --quiet --unit=api --property=CPUAccounting=yes --setenv=GOMAXPROCS=2 "+program+" serve /etc/api")
}

// run runs a script in a machine and returns its output.
func (s *site) run(t *testing.T, machine, script string) string {
	t.Helper()
	out, err := s.try(t.Context(), machine, script)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", machine, script, err, out)
	}
	return out
}

func (s *site) try(ctx context.Context, machine, script string) (string, error) {
	var out bytes.Buffer
	err := s.Exec(ctx, machine, []string{"sh", "-c", script}, nil, &out, &out)
	return strings.TrimSpace(out.String()), err
}

func (s *site) put(t *testing.T, machine, path, content string) {
	t.Helper()
	must(t, s.Exec(t.Context(), machine, []string{"sh", "-c", "mkdir -p $(dirname " + path + ") && cat > " + path}, strings.NewReader(content), io.Discard, os.Stderr))
}

// do runs an operation of the host side in a machine.
func do[Out any](t *testing.T, s *site, machine, command string, in any) (out Out, err error) {
	t.Helper()
	data, err := json.Marshal(in)
	must(t, err)
	var stdout, stderr bytes.Buffer
	if err := s.Exec(t.Context(), machine, []string{program, command}, bytes.NewReader(data), &stdout, &stderr); err != nil {
		return out, fmt.Errorf("%w: %s", err, &stderr)
	}
	return out, json.Unmarshal(stdout.Bytes(), &out)
}

// configure configures a load balancer of a cluster and returns the files that changed.
func (s *site) configure(t *testing.T, c *spec.Cluster, machine string, m manner) []string {
	t.Helper()
	changed, err := do[[]string](t, s, machine, "configure", configuration{Cluster: *c, Name: machine, CA: s.ca, Manner: m})
	if err != nil {
		t.Fatalf("configuring %s: %v", machine, err)
	}
	return changed
}

func (s *site) read(t *testing.T, machine string) facts.Balancer {
	t.Helper()
	b, err := do[facts.Balancer](t, s, machine, "read", s.vip)
	must(t, err)
	return b
}

// holders are the machines whose kernel has the virtual IP.
func (s *site) holders(ctx context.Context) (out []string) {
	for _, m := range []string{"lb-a", "lb-b", "lb-c", "stranger"} {
		if addresses, err := s.try(ctx, m, "ip -br addr show"); err == nil && strings.Contains(addresses, " "+s.vip+"/") {
			out = append(out, m)
		}
	}
	return out
}

func (s *site) holder(t *testing.T) string {
	t.Helper()
	var holders []string
	eventually(t, 15*time.Second, "one load balancer has the virtual IP", func() bool {
		holders = s.holders(t.Context())
		return len(holders) == 1
	})
	return holders[0]
}

// whole waits until every load balancer sends clients to every API server.
func (s *site) whole(t *testing.T, lbs ...string) {
	t.Helper()
	for _, lb := range lbs {
		eventually(t, 30*time.Second, lb+" sends clients to every API server", func() bool {
			b := s.read(t, lb)
			return b.Healthy && len(b.Backends) == 3 && !slices.ContainsFunc(b.Backends, func(x facts.Backend) bool { return !x.Healthy })
		})
	}
}

// timeline collects the results of clients.
type timeline struct {
	mu     sync.Mutex
	events []event
}

// clients start sending requests, and stop with the test.
func (s *site) clients(t *testing.T) *timeline {
	t.Helper()
	return s.start(t, clientsRequest{})
}

// start starts the clients that are asked for.
func (s *site) start(t *testing.T, request clientsRequest) *timeline {
	t.Helper()
	request.Address, request.Name, request.CA = s.vip+":6443", "api.site.internal", s.ca
	config, err := json.Marshal(request)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	l := &timeline{}
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Exec(ctx, "client", []string{program, "clients", string(config)}, nil, w, os.Stderr) //nolint:errcheck // it ends with the test
		w.Close()
	})
	wg.Go(func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				l.mu.Lock()
				l.events = append(l.events, e)
				l.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return l
}

// outcome is what clients experienced in an interval.
type outcome struct {
	newGap, http2Gap       time.Duration // the longest time without an answer: of all new connections, of the worst HTTP/2 client
	newFailed, http2Failed int
	reconnects             int // of HTTP/2 clients
	moved                  int // HTTP/2 clients that connected again at least once
	justSent               int // of the failed HTTP/2 requests, those whose connection was closed when they had hardly been sent
	slowOK, slowFailed     int // requests of slow clients
}

// hardlySent is how young a request is that a client sent while its connection was being closed.
const hardlySent = 50 * time.Millisecond

func (l *timeline) between(from, to time.Time) (o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := map[int]time.Time{}
	gap := map[int]time.Duration{}
	moved := map[int]bool{}
	for i := range 1 + http2Clients {
		last[i] = from
	}
	for _, e := range l.events {
		switch {
		case e.At.Before(from) || e.At.After(to):
		case e.Client > http2Clients:
			if e.OK {
				o.slowOK++
			} else if !e.Dial && e.Took > hardlySent {
				o.slowFailed++
			}
		case e.Dial:
			if e.Client > 0 {
				o.reconnects++
				moved[e.Client] = true
			}
		case e.OK:
			gap[e.Client] = max(gap[e.Client], e.At.Sub(last[e.Client]))
			last[e.Client] = e.At
		case e.Client == 0:
			o.newFailed++
		default:
			o.http2Failed++
			if e.Took <= hardlySent {
				o.justSent++
			}
		}
	}
	for i := range 1 + http2Clients {
		g := max(gap[i], to.Sub(last[i]))
		if i == 0 {
			o.newGap = g
		} else {
			o.http2Gap = max(o.http2Gap, g)
		}
	}
	o.moved = len(moved)
	return o
}

// calm waits until no client has failed for a while.
func (l *timeline) calm(t *testing.T, quiet time.Duration) {
	t.Helper()
	begin := time.Now()
	defer func() {
		if t.Failed() {
			t.Logf("failures of clients: %v", l.reasons(begin))
		}
	}()
	eventually(t, time.Minute, "clients are calm", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		answered := map[int]bool{}
		for _, e := range l.events {
			if time.Since(e.At) > quiet || e.Dial || e.Client > http2Clients {
				continue
			}
			if !e.OK {
				return false
			}
			answered[e.Client] = true
		}
		return len(answered) == 1+http2Clients
	})
}

// reasons are the last failures of clients.
func (l *timeline) reasons(from time.Time) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if !e.At.Before(from) && !e.OK && !e.Dial {
			out = append(out, fmt.Sprintf("client %d at %.1fs: %s", e.Client, e.At.Sub(from).Seconds(), e.Why))
		}
	}
	return out[:min(len(out), 12)]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
