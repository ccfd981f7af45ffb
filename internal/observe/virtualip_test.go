package observe

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/spec"
)

// TestLoadBalancersAreAskedForTheVirtualIP: each load balancer asks its network, and nobody else does. The loopback interface
// has no network to ask, so the answer is why.
func TestLoadBalancersAreAskedForTheVirtualIP(t *testing.T) {
	keyFile, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := sshtest.Start(t.Context(), sshtest.Options{Key: public})
	if err != nil {
		t.Fatal(err)
	}
	c := spec.DefaultLab("test")
	c.Spec.LoadBalancer.Address = "127.0.0.100"
	c.Spec.Hosts = []spec.Host{{Name: "worker-a", Roles: []string{spec.RoleWorker}}, {Name: "lb-a", Roles: []string{spec.RoleLoadBalancer}}, {Name: "lb-b", Roles: []string{spec.RoleLoadBalancer}}}
	var targets []host.Target
	for i := range c.Spec.Hosts {
		h := &c.Spec.Hosts[i]
		h.Address = "127.0.0." + strconv.Itoa(i+1)
		targets = append(targets, server.Target(h.Name, keyFile, filepath.Join(t.TempDir(), "known_hosts")))
	}
	conns := host.DialAll(t.Context(), targets)
	t.Cleanup(conns.Close)
	obs := Observe(t.Context(), c, conns)
	for _, h := range c.Spec.Hosts {
		seen := obs.Hosts[h.Name]
		if seen.Facts == nil {
			t.Fatal(seen.Error)
		}
		switch {
		case h.Name == "worker-a" && seen.VirtualIP != nil:
			t.Errorf("a worker asked: %+v", seen.VirtualIP)
		case h.Name == "worker-a":
		case seen.VirtualIP == nil || !strings.Contains(seen.VirtualIP.Unknown, "interface"):
			t.Errorf("%s found %+v", h.Name, seen.VirtualIP)
		}
	}
	if r := whoHas(c, c.Spec.Hosts[1]); r.Address != "127.0.0.100" || r.From != "127.0.0.2" || !slices.Equal(r.Peers, []string{"127.0.0.3"}) {
		t.Errorf("lb-a asks %+v", r)
	}
}
