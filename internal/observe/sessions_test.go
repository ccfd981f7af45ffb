package observe

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/spec"
)

// sessions are to servers that reject port forwarding, one for each host of the spec.
func sessions(t *testing.T, c *spec.Cluster) *host.Set {
	t.Helper()
	keyFile, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := sshtest.Start(t.Context(), sshtest.Options{Key: public, NoForwarding: true})
	if err != nil {
		t.Fatal(err)
	}
	var targets []host.Target
	for _, h := range c.Spec.Hosts {
		targets = append(targets, server.Target(h.Name, keyFile, filepath.Join(t.TempDir(), "known_hosts")))
	}
	conns := host.DialAll(t.Context(), targets)
	t.Cleanup(conns.Close)
	return conns
}

// TestTheHostsAskTheEndpoint, each through its own session, whether or not the caller has a route to it.
func TestTheHostsAskTheEndpoint(t *testing.T) {
	address, ca := apiServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }) //nolint:errcheck // the client says it
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	c := spec.DefaultLab("test")
	c.Spec.ControlPlane.Endpoint, c.Spec.LoadBalancer.Address = apiName+":"+port, "127.0.0.1"
	c.Spec.Hosts = []spec.Host{{Name: "worker-a", Roles: []string{spec.RoleWorker}, Zone: "a"}, {Name: "worker-b", Roles: []string{spec.RoleWorker}, Zone: "b"}}
	obs := &facts.Observation{Hosts: map[string]facts.Host{}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{CA: ca}}}
	}
	got := endpoint(t.Context(), c, sessions(t, c), obs)
	if len(got.Hosts) != 2 || !got.Hosts["worker-b"].OK || !got.Hosts["worker-a"].OK || got.Unknown != "" {
		t.Errorf("%+v", got)
	}
	if got.Caller == nil || !got.Caller.OK {
		t.Errorf("the caller: %+v", got.Caller)
	}
}

// TestLoadBalancersAreAskedForTheVirtualIP: each load balancer asks its network, and nobody else does. The loopback interface
// has no network to ask, so the answer is why.
func TestLoadBalancersAreAskedForTheVirtualIP(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.LoadBalancer.Address = "127.0.0.100"
	c.Spec.Hosts = []spec.Host{{Name: "worker-a", Roles: []string{spec.RoleWorker}}, {Name: "lb-a", Roles: []string{spec.RoleLoadBalancer}}, {Name: "lb-b", Roles: []string{spec.RoleLoadBalancer}}}
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = "127.0.0." + strconv.Itoa(i+1)
	}
	conns := sessions(t, c)
	obs := Observe(t.Context(), c, conns, Hosts{})
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
	if r := whoHas(c, c.Spec.Hosts[1]); r.Address != "127.0.0.100" || !slices.Equal(r.From, []string{"127.0.0.2"}) || !slices.Equal(r.Peers, []string{"127.0.0.3"}) {
		t.Errorf("lb-a asks %+v", r)
	}
}
