//go:build lab

package balancers

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// manner says who configures the load balancers, and how.
type manner string

const (
	// ours is how Quorate does it.
	ours manner = ""
	// byHand is what `quorate plan --by-hand` has an operator do: Quorate's settings, without Quorate on the host.
	byHand manner = "by hand"
	// documented is the example in kubeadm's "High Availability Considerations", with the defaults of keepalived and HAProxy wherever it says nothing.
	documented manner = "documented"
)

const (
	// statsSocket is how the tests see what HAProxy thinks of its servers. The example has none, and nothing else depends on it.
	statsSocket = "/run/haproxy/tests.sock"
	// checkAPIServer is the example's script.
	checkAPIServer = "/etc/keepalived/check_apiserver.sh"
	getTimeout     = 2 * time.Second
)

// documentedBalancer has every setting of the example, and no other. The first load balancer is the MASTER.
func documentedBalancer(c *spec.Cluster, h spec.Host, link string) facts.Desired {
	address := c.Spec.LoadBalancer.Address
	var servers strings.Builder
	for _, cp := range c.HostsWith(spec.RoleControlPlane) {
		fmt.Fprintf(&servers, "    server %s %s:6443 check\n", cp.Name, cp.Address)
	}
	state, priority := "BACKUP", 100
	if c.BalancerHosts()[0].Name == h.Name {
		state, priority = "MASTER", 101
	}
	haproxy := `global
    log /dev/log local0
    log /dev/log local1 notice
    daemon
    stats socket ` + statsSocket + ` mode 600

defaults
    mode http
    log global
    option httplog
    option dontlognull
    option http-server-close
    option forwardfor except 127.0.0.0/8
    option redispatch
    retries 1
    timeout http-request 10s
    timeout queue 20s
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    timeout http-keep-alive 10s
    timeout check 10s

frontend apiserver
    bind *:6443
    mode tcp
    option tcplog
    default_backend apiserverbackend

backend apiserverbackend
    option httpchk GET /healthz
    http-check expect status 200
    mode tcp
    option ssl-hello-chk
    balance roundrobin
` + servers.String()
	keepalived := fmt.Sprintf(`global_defs {
    router_id LVS_DEVEL
}
vrrp_script check_apiserver {
    script "%s"
    interval 3
    weight -2
    fall 10
    rise 2
}
vrrp_instance VI_1 {
    state %s
    interface %s
    virtual_router_id 51
    priority %d
    authentication {
        auth_type PASS
        auth_pass 42
    }
    virtual_ipaddress {
        %s
    }
    track_script {
        check_apiserver
    }
}
`, checkAPIServer, state, link, priority, address)
	// As the example's curl: an answer of any status will do. The machines of the lab have no curl.
	script := fmt.Sprintf("#!/bin/sh\n%[1]s get https://localhost:6443/ || exit 1\nif ip addr | grep -q %[2]s; then\n    %[1]s get https://%[2]s:6443/ || exit 1\nfi\n", program, address)
	units := []string{"haproxy.service", "keepalived.service"}
	return facts.Desired{Files: []facts.File{
		// Debian's unit mounts a socket for logs that these machines need not have.
		{Path: "/etc/systemd/system/haproxy.service.d/00-documented.conf", Content: "[Service]\nBindReadOnlyPaths=\n", Restart: units},
		{Path: "/etc/haproxy/haproxy.cfg", Content: haproxy, Restart: units},
		{Path: checkAPIServer, Mode: 0o755, Content: script, Restart: units},
		{Path: "/etc/keepalived/keepalived.conf", Content: keepalived, Restart: units},
	}, Enable: units}
}

// get succeeds if an address answers over TLS, whoever it is and whatever it says.
func get(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // the example says --insecure
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// allServe waits until every load balancer sends clients to every API server.
func (s *site) allServe(t *testing.T, m manner, lbs ...string) {
	t.Helper()
	if m != documented {
		s.whole(t, lbs...)
		return
	}
	for _, lb := range lbs {
		eventually(t, 30*time.Second, lb+" sends clients to every API server", func() bool {
			out, err := s.try(t.Context(), lb, "echo 'show stat' | socat - UNIX-CONNECT:"+statsSocket)
			up := 0
			for line := range strings.Lines(out) {
				if f := strings.Split(line, ","); len(f) > 17 && f[0] == "apiserverbackend" && f[1] != "BACKEND" && f[17] == "UP" {
					up++
				}
			}
			return err == nil && up == len(s.apiServers())
		})
	}
}
