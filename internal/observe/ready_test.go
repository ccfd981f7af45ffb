package observe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/spec"
)

// TestMain has the environment name a proxy, which must not be used.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY"} {
		os.Setenv(name, "http://127.0.0.1:9") //nolint:errcheck // the tests would notice
	}
	os.Exit(m.Run())
}

const apiName = "api.test.internal"

// apiServer answers /readyz, with a certificate of its own that is also its CA.
func apiServer(t *testing.T, h http.HandlerFunc) (address, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, DNSNames: []string{apiName},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestAnswers keeps three things apart: the server is ready, it is not, for a reason, and it could not be asked.
func TestAnswers(t *testing.T) {
	good, ca := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	unready, itsCA := apiServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\nreadyz check failed\n") //nolint:errcheck // the test would notice
	})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	free.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })

	session := func() *host.Conn {
		c, err := host.Local(context.WithoutCancel(t.Context()), "cp-a")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ended := session()
	ended.Close()
	keyFile, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := sshtest.Start(t.Context(), sshtest.Options{Key: public, NoForwarding: true})
	if err != nil {
		t.Fatal(err)
	}
	remote, err := host.Dial(t.Context(), server.Target("cp-a", keyFile, filepath.Join(t.TempDir(), "known_hosts")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remote.Close() })
	if a := askReady(t.Context(), remote, good, apiName, ca); !a.OK {
		t.Errorf("a host whose sshd forwards nothing: %+v", a)
	}
	server.Stall()

	for name, tc := range map[string]struct {
		conn             *host.Conn
		address, ca      string
		ok               bool
		problem, unknown string
	}{
		"ready":                    {session(), good, ca, true, "", ""},
		"not ready":                {session(), unready, itsCA, false, "500 Internal Server Error; etcd failed: reason withheld", ""},
		"nobody listens":           {session(), nobody, ca, false, "connection refused", ""},
		"another certificate":      {session(), unready, ca, false, "x509", ""},
		"no answer":                {session(), silent.Addr().String(), ca, false, "no answer within 2s", ""},
		"the session ended":        {ended, good, ca, false, "", "the session ended"},
		"the host does not answer": {remote, good, ca, false, "", "no answer within 2s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := askReady(context.WithoutCancel(t.Context()), tc.conn, tc.address, apiName, tc.ca)
			if a.OK != tc.ok || (a.Problem == "") != (tc.problem == "") || (a.Unknown == "") != (tc.unknown == "") ||
				!strings.Contains(a.Problem, tc.problem) || !strings.Contains(a.Unknown, tc.unknown) {
				t.Errorf("got %+v", a)
			}
		})
	}
}

func TestAskers(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*spec.Cluster, *facts.Observation)
		want   []string
	}{
		"workers come first":         {nil, []string{"worker-a", "worker-b", "worker-c"}},
		"in different zones":         {func(c *spec.Cluster, _ *facts.Observation) { c.Spec.Hosts[4].Zone = "a" }, []string{"worker-a", "worker-c", "cp-b"}},
		"hosts that cannot be asked": {func(_ *spec.Cluster, o *facts.Observation) { delete(o.Hosts, "worker-a"); delete(o.Hosts, "worker-b") }, []string{"worker-c", "cp-a", "cp-b"}},
		"no workers": {func(c *spec.Cluster, _ *facts.Observation) {
			c.Spec.Hosts = append(c.Spec.Hosts[:3:3], c.Spec.Hosts[6:]...)
		}, []string{"cp-a", "cp-b", "cp-c"}},
		"only load balancers":            {func(c *spec.Cluster, _ *facts.Observation) { c.Spec.Hosts = c.Spec.Hosts[6:] }, []string{"lb-b"}},
		"only the holder of the address": {func(c *spec.Cluster, _ *facts.Observation) { c.Spec.Hosts = c.Spec.Hosts[6:7] }, []string{"lb-a"}},
		"nobody":                         {func(_ *spec.Cluster, o *facts.Observation) { clear(o.Hosts) }, nil},
	} {
		c := spec.DefaultLab("test")
		c.Spec.Hosts = []spec.Host{
			{Name: "cp-a", Roles: []string{spec.RoleControlPlane}, Zone: "a"}, {Name: "cp-b", Roles: []string{spec.RoleControlPlane}, Zone: "b"},
			{Name: "cp-c", Roles: []string{spec.RoleControlPlane}, Zone: "c"}, {Name: "worker-a", Roles: []string{spec.RoleWorker}, Zone: "a"},
			{Name: "worker-b", Roles: []string{spec.RoleWorker}, Zone: "b"}, {Name: "worker-c", Roles: []string{spec.RoleWorker}, Zone: "c"},
			{Name: "lb-a", Roles: []string{spec.RoleLoadBalancer}, Zone: "a"}, {Name: "lb-b", Roles: []string{spec.RoleLoadBalancer}, Zone: "b"},
		}
		obs := &facts.Observation{Hosts: map[string]facts.Host{}}
		for _, h := range c.Spec.Hosts {
			seen := facts.Host{Facts: &facts.Facts{}}
			if c.Balances(h) {
				seen.Balancer = &facts.Balancer{Active: h.Name == "lb-a"}
			}
			obs.Hosts[h.Name] = seen
		}
		if tc.change != nil {
			tc.change(c, obs)
		}
		if got := Askers(c, obs); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
