//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// TestColocatedBalancer builds a cluster with load balancers on the control planes, drains a control plane, and powers off the
// one that has the virtual IP.
func TestColocatedBalancer(t *testing.T) {
	c := newCluster(t, "e2e-colocated")
	before := traces(t, c.name)
	ctx := testContext(t)
	example, err := filepath.Abs("../../examples/lab-colocated-balancer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := c.must(t, ctx, "up", "-f", example, "--name", c.name)
	if !strings.Contains(r.stderr, "test the takeover of the virtual IP … done") {
		t.Errorf("no takeover was tested: %s", r)
	}
	s := c.whole(t, ctx)
	if len(s.LoadBalancers) != 3 {
		t.Fatalf("not every control plane balances: %+v", s.LoadBalancers)
	}
	listeners := c.ssh(t, ctx, s.Endpoint.Holder, "ss -ltnH 'sport = :6443'")
	if !strings.Contains(listeners, s.Endpoint.VirtualIP+":6443") || !strings.Contains(listeners, "*:6443") {
		t.Errorf("HAProxy and kube-apiserver do not share the port:\n%s", listeners)
	}
	c.unchanged(t, ctx, "-f", c.specFile())

	t.Run("under load", func(t *testing.T) { colocatedFaults(t, c, s) }) // its clients are gone before the cluster is
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// colocatedFaults drains a control plane and breaks the holder of the virtual IP while clients read and write.
func colocatedFaults(t *testing.T, c *cluster, s status.Status) {
	p := c.clients(t, testContext(t))
	t.Run("maintenance", func(t *testing.T) {
		ctx := testContext(t)
		i := slices.IndexFunc(s.Etcd.Members, func(m status.Member) bool { return m.Name != s.Endpoint.Holder })
		name := s.Etcd.Members[i].Name
		if before := connections(t, ctx, c, name); before == 0 {
			t.Error("nobody was connected before")
		}
		c.must(t, ctx, "maintain", "-f", c.specFile(), name)
		drained := time.Now()
		// A connection that the API server has ended stays until its client has closed it, too.
		poll(t, ctx, 200*time.Millisecond, "clients close what the API server has ended", func() error {
			if left := connections(t, ctx, c, name); left > 0 {
				return fmt.Errorf("%d connections", left)
			}
			return nil
		})
		for range 3 { // clients open twenty new connections a second throughout
			if left := connections(t, ctx, c, name); left > 0 {
				t.Errorf("%d connections to a drained control plane", left)
			}
		}
		// No client should notice what stops now. How well clients are served depends on the computer, so it is printed and
		// not checked.
		c.labDo("fault", "power-off", name)(t, ctx)
		if err := p.Calm(ctx, calm); err != nil {
			t.Fatal(err)
		}
		during, err := p.Between(ctx, drained, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		printMet(t, "power-off-in-maintenance", time.Since(drained), during)
		now, _, err := c.status(ctx)
		if err != nil || !slices.ContainsFunc(now.Problems, func(p model.Finding) bool { return strings.Contains(p.Summary, name+" is in maintenance") }) {
			t.Errorf("status does not say that %s is in maintenance: %+v, %v", name, now.Problems, err)
		}
		c.labDo("heal", "power-off", name)(t, ctx)
		c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", name)
		c.whole(t, ctx)
	})
	t.Run("faults of the holder", func(t *testing.T) {
		ctx := testContext(t)
		c.whole(t, ctx)
		names := sample([]string{"power-off/host/holder", "hang/haproxy/holder"}, 0) // TestCluster has them, too
		c.drilled(t, ctx, names, "--no-pods")
		if *whole { // whoever has the virtual IP by now
			c.drilled(t, ctx, []string{"hang/kube-apiserver/on=" + c.whole(t, ctx).Endpoint.Holder}, "--no-pods")
		}
	})
	h := &changingHosts{c: c, spec: c.specFile(), p: p}
	t.Run("they move to hosts of their own", func(t *testing.T) { h.balancersMoveAway(t, testContext(t)) })
	if *whole {
		t.Run("and back", func(t *testing.T) { h.balancersMoveBack(t, testContext(t)) })
	}
}

// connections counts the connections to a control plane through any load balancer.
func connections(t *testing.T, ctx context.Context, c *cluster, name string) (n int) {
	t.Helper()
	s, _, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, lb := range s.LoadBalancers {
		for _, b := range lb.Backends {
			if b.Name == name {
				n += b.Sessions
			}
		}
	}
	return n
}

// TestExternalBalancer builds a cluster behind a user's own HAProxy, after that has been configured correctly.
func TestExternalBalancer(t *testing.T) {
	besideAnother(t)
	const own = "worker-b" // the user's machine, which is not in the spec
	c := newCluster(t, "e2e-external")
	ctx := testContext(t)
	file := filepath.Join(c.dir, "lab.yaml")
	text, err := spec.Init(spec.InitOptions{Name: c.name, LoadBalancers: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "lab", "create", "-f", file)

	parsed, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	balancer, _ := parsed.Host(own)
	parsed.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal, Address: balancer.Address}
	parsed.Spec.Hosts = slices.DeleteFunc(parsed.Spec.Hosts, func(h spec.Host) bool { return h.Name == own })
	text, err = spec.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(c.dir, "external.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); steps[0].Kind != plan.ProbeEndpoint {
		t.Errorf("the first step is %s", steps[0].ID)
	}
	refused := func(t *testing.T, words ...string) {
		t.Helper()
		r := c.exits(t, ctx, 3, "apply", "-f", file)
		for _, w := range words {
			if !strings.Contains(r.stderr, w) {
				t.Errorf("no %q in %s", w, r)
			}
		}
		for _, h := range parsed.Spec.Hosts {
			c.ssh(t, ctx, h.Name, "test ! -e /etc/kubernetes && ! grep -q quorate /etc/hosts")
		}
	}
	at := balancer.Address + ":6443"
	t.Run("another API behind it", func(t *testing.T) {
		c.put(t, ctx, own, "/etc/haproxy/own.pem", selfSigned(t, "kube-apiserver"))
		c.haproxy(t, ctx, own, "frontend api\n    mode http\n    bind :6443 ssl crt /etc/haproxy/own.pem\n    http-request return status 403\n")
		refused(t, at, "a certificate of kube-apiserver", "another cluster's API")
	})
	pool := func(control ...string) string {
		var b strings.Builder
		b.WriteString("frontend api\n    bind :6443\n    default_backend api\nbackend api\n    default-server check inter 500ms\n")
		for _, name := range control {
			h, _ := parsed.Host(name)
			fmt.Fprintf(&b, "    server %s %s:6443\n", name, h.Address)
		}
		return b.String()
	}
	c.haproxy(t, ctx, own, pool("cp-a", "cp-b"))
	t.Run("one host has no way", func(t *testing.T) {
		c.labDo("fault", "cut", "cp-b:"+own)(t, ctx)
		defer c.labDo("heal")(t, ctx)
		refused(t, at, "cannot be reached from cp-b:", "firewall")
	})
	t.Run("nobody has a way", func(t *testing.T) {
		c.labDo("fault", "cut", own)(t, ctx)
		defer c.labDo("heal")(t, ctx)
		refused(t, at, "from cp-a, cp-b, cp-c, worker-a and this machine")
	})
	if t.Failed() {
		t.FailNow()
	}

	// A pool without one of the control planes works, and looks complete from every host. Only connecting to every control
	// plane reveals it.
	r := c.start(t, ctx, "apply", "-f", file, "--verbose")
	if !r.reaches(ctx, "cp-c is not behind the endpoint") {
		code, all := r.wait(t)
		t.Fatalf("nobody misses cp-c: exit status %d: %s", code, all)
	}
	c.haproxy(t, ctx, own, pool("cp-a", "cp-b", "cp-c"))
	if code, all := r.wait(t); code != 0 {
		t.Fatalf("exit status %d: %s", code, all)
	}
	c.unchanged(t, ctx, "-f", file)
	out := c.must(t, ctx, "status", "-f", file, "-o", "json").stdout
	if flat := strings.Join(strings.Fields(out), ""); !strings.Contains(flat, `"loadBalancers":null`) || !strings.Contains(flat, `"problems":[]`) || !strings.Contains(flat, `"reachable":true`) {
		t.Errorf("status: %s", out)
	}
}

// haproxy sets up a user's own load balancer.
func (c *cluster) haproxy(t *testing.T, ctx context.Context, machine, config string) {
	t.Helper()
	c.put(t, ctx, machine, "/etc/haproxy/haproxy.cfg", "defaults\n    mode tcp\n    timeout connect 2s\n    timeout client 1h\n    timeout server 1h\n"+config)
	c.ssh(t, ctx, machine, "systemctl restart haproxy")
}

// selfSigned returns a self-signed certificate and its key, in PEM.
func selfSigned(t *testing.T, name string, addresses ...net.IP) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: addresses, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}
