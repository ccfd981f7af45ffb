//go:build lab

package balancers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/spec"
)

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func asExit(err error, exit **exec.ExitError) bool { return errors.As(err, exit) }

// TestHAProxy checks how HAProxy runs, what it logs, what it refuses, and what a reload costs.
func TestHAProxy(t *testing.T) {
	s := newSite(t)
	// RHEL's unit has neither a runtime directory nor a mount for the log; its socket is elsewhere.
	s.put(t, "lb-a", "/etc/systemd/system/haproxy.service", `[Unit]
Description=HAProxy as on RHEL
After=network-online.target

[Service]
EnvironmentFile=-/etc/sysconfig/haproxy
Environment="CONFIG=/etc/haproxy/haproxy.cfg" "PIDFILE=/run/haproxy.pid" "CFGDIR=/etc/haproxy/conf.d"
ExecStartPre=/usr/sbin/haproxy -f $CONFIG -f $CFGDIR -c -q $OPTIONS
ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -f $CFGDIR -p $PIDFILE $OPTIONS
ExecReload=/usr/sbin/haproxy -f $CONFIG -f $CFGDIR -c -q $OPTIONS
ExecReload=/bin/kill -USR2 $MAINPID
KillMode=mixed
SuccessExitStatus=143
Type=notify

[Install]
WantedBy=multi-user.target
`)
	s.run(t, "lb-a", "rm -rf /run/haproxy /etc/tmpfiles.d/haproxy.conf && systemctl daemon-reload")
	for _, lb := range []string{"lb-a", "lb-b"} {
		s.configure(t, s.cluster, lb, ours)
	}
	s.whole(t, "lb-a", "lb-b")
	s.holder(t)
	journal := func(lb string) string {
		return s.run(t, lb, "journalctl --no-pager -o cat -u haproxy -u quorate-watchdog")
	}
	logs := func(t *testing.T, lb, text string) {
		t.Helper()
		eventually(t, 10*time.Second, lb+" logs "+text, func() bool { return strings.Contains(journal(lb), text) })
	}

	for _, lb := range []string{"lb-a", "lb-b"} {
		t.Run("unprivileged on "+lb, func(t *testing.T) {
			for _, pid := range strings.Fields(s.run(t, lb, "pgrep -P $(cat /run/haproxy.pid)")) {
				status := s.run(t, lb, "grep -E '^(Uid|CapEff|NoNewPrivs):' /proc/"+pid+"/status; readlink /proc/"+pid+"/root")
				uid := s.run(t, lb, "id -u haproxy")
				for _, want := range []string{"Uid:\t" + uid + "\t" + uid, "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "/var/lib/haproxy"} {
					if !strings.Contains(status, want) {
						t.Errorf("process %s: no %q in %s", pid, want, status)
					}
				}
			}
			if got := s.run(t, lb, "stat -c '%U %a' /run/haproxy/quorate.sock /run/quorate/haproxy-fault"); got != "root 600\nroot 644" {
				t.Errorf("the socket and the fault file: %s", got)
			}
			if out, err := s.try(t.Context(), lb, "mkdir -p /etc/kubernetes/pki && echo key >/etc/kubernetes/pki/ca.key && systemctl restart haproxy && nsenter -t $(cat /run/haproxy.pid) -m cat /etc/kubernetes/pki/ca.key"); err == nil {
				t.Errorf("the master process reads the cluster's key: %s", out)
			}
		})
	}
	s.whole(t, "lb-a", "lb-b")
	holder := s.holder(t)

	t.Run("servers that go and come are logged", func(t *testing.T) {
		s.run(t, "api-a", "systemctl kill -s KILL api")
		logs(t, holder, "Server control-planes/api-a is DOWN")
		s.run(t, "api-a", "systemctl stop api || true")
		s.startAPI(t, "api-a")
		logs(t, holder, "Server control-planes/api-a is UP")
		s.whole(t, "lb-a", "lb-b")
	})
	t.Run("normal connections are not logged", func(t *testing.T) {
		before := strings.Count(journal(holder), "\n")
		l := s.clients(t)
		l.calm(t, 5*time.Second)
		if lines := strings.Count(journal(holder), "\n") - before; lines > 60 { // 40 connections a second, some of which clients reset
			t.Errorf("%d lines in a few seconds of normal work:\n%s", lines, journal(holder))
		}
	})
	t.Run("one client cannot use up all connections", func(t *testing.T) {
		vip := s.vip + ":6443" // and the client has an address in the network of the cluster's hosts, like a node with its pods
		if open, err := strconv.Atoi(s.run(t, "stranger", program+" hold "+vip)); err != nil || open != 1000 {
			t.Errorf("%d connections of one client stay open, %v", open, err)
		}
		logs(t, holder, " PR ")
		if n := strings.Count(journal(holder), " PR "); n > 12 {
			t.Errorf("%d refusals are logged", n)
		}
	})
	t.Run("a configuration that HAProxy rejects changes nothing", func(t *testing.T) {
		pid := s.run(t, holder, "cat /run/haproxy.pid; sha256sum /etc/haproxy/haproxy.cfg")
		_, err := do[[]string](t, s, holder, "configure", configuration{Cluster: *s.cluster, Name: holder, CA: s.ca, Edit: [2]string{"option tcplog", "option nonsense"}})
		if err == nil || !strings.Contains(err.Error(), "nonsense") {
			t.Errorf("the error does not quote HAProxy: %v", err)
		}
		_, err = do[[]string](t, s, holder, "configure", configuration{Cluster: *s.cluster, Name: holder, CA: s.ca, Edit: [2]string{"interface eth0", "interface"}})
		if err == nil || !strings.Contains(err.Error(), "keepalived.conf is not valid") {
			t.Errorf("keepalived: %v", err)
		}
		if now := s.run(t, holder, "cat /run/haproxy.pid; sha256sum /etc/haproxy/haproxy.cfg"); now != pid {
			t.Errorf("was %s, is %s", pid, now)
		}
	})
	t.Run("a reload cuts no request that is under way", func(t *testing.T) {
		l := s.start(t, clientsRequest{Slow: true})
		l.calm(t, 3*time.Second)
		from := time.Now()
		more := *s.cluster
		more.Spec.Hosts = append(slices.Clone(more.Spec.Hosts), spec.Host{Name: "api-d", Address: "198.18.255.1", Roles: []string{spec.RoleControlPlane}})
		for _, lb := range []string{"lb-a", "lb-b"} {
			if changed := s.configure(t, &more, lb, ours); !slices.Equal(changed, []string{"/etc/haproxy/haproxy.cfg"}) {
				t.Errorf("changed %v", changed)
			}
		}
		after(t, 30*time.Second) // hard-stop-after
		o := l.between(from, time.Now())
		// A request that a client sends while its connection is being closed is lost: nobody but the client could avoid that.
		if o.moved != http2Clients || o.newFailed > 0 || o.http2Failed > o.justSent || o.justSent > http2Clients/4 || o.slowFailed > 0 || o.slowOK < 10 {
			t.Errorf("after the old process ended: %+v: %v", o, l.reasons(from))
		}
		fmt.Printf("reload: %d clients connected again, %d requests failed that had just been sent, worst gap %s\n", o.moved, o.justSent, o.http2Gap)
		if now := s.holder(t); now != holder {
			t.Errorf("the virtual IP moved to %s", now)
		}
		for _, lb := range []string{"lb-a", "lb-b"} {
			s.configure(t, s.cluster, lb, ours)
		}
		s.whole(t, "lb-a", "lb-b")
	})
	t.Run("a handover leaves no connection behind", func(t *testing.T) {
		from := s.holder(t)
		waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stdin, end := io.Pipe()
		var out bytes.Buffer
		done := make(chan error, 1)
		go func() {
			done <- s.Exec(waiting, "stranger", []string{program, "wait", s.vip + ":6443"}, stdin, &out, &out)
		}()
		after(t, 2*time.Second)
		closed, err := do[int](t, s, from, "hand-over", []string{s.vip})
		must(t, err)
		if to := s.holder(t); to == from {
			t.Errorf("%s still has the virtual IP", to)
		}
		after(t, time.Second)
		must(t, end.Close())
		must(t, <-done)
		var opened, left int
		if _, err := fmt.Sscan(out.String(), &opened, &left); err != nil || opened < 40 || closed == 0 || left > 0 {
			t.Errorf("%d were closed; opened, and left behind: %s", closed, out.String())
		}
		fmt.Printf("handover: %d connections of a client that only waits, %d of them left behind\n", opened, left)
		s.whole(t, "lb-a", "lb-b")
	})
	t.Run("drain", func(t *testing.T) {
		l := s.clients(t)
		l.calm(t, 3*time.Second)
		drained := func() facts.Backend {
			b := s.read(t, s.holder(t)).Backends
			return b[slices.IndexFunc(b, func(x facts.Backend) bool { return x.Name == "api-b" })]
		}
		had := drained().Sessions
		if had == 0 {
			t.Fatal("api-b has no connections that could be cut")
		}
		from := time.Now()
		for _, lb := range []string{"lb-a", "lb-b"} {
			_, err := do[struct{}](t, s, lb, "set-pool", balancer.PoolRequest{Server: "api-b", Drain: true})
			must(t, err)
		}
		after(t, 2*time.Second)
		if b := drained(); !b.Drained || b.Sessions == 0 || b.Sessions > had {
			t.Errorf("it had %d connections: %+v", had, b)
		}
		s.run(t, "api-b", "systemctl stop api") // it is not ready for 5 seconds, and then sends GOAWAY
		if b := drained(); !b.Drained || b.Sessions > 0 {
			t.Errorf("%+v", b)
		}
		after(t, 2*time.Second)
		o := l.between(from, time.Now())
		if o.newFailed+o.http2Failed > 0 || o.moved == 0 {
			t.Errorf("%+v: %v", o, l.reasons(from))
		}
		fmt.Printf("drain: %d clients connected again, no request failed, worst gap %s\n", o.moved, o.http2Gap)
		s.startAPI(t, "api-b") // as after a maintenance: it works before it joins the pools
		after(t, 3*time.Second)
		from = time.Now()
		for _, lb := range []string{"lb-a", "lb-b"} {
			s.run(t, lb, "systemctl reload haproxy")
		}
		after(t, 3*time.Second)
		if b := drained(); !b.Drained || b.Sessions > 0 {
			t.Errorf("after a reload: %+v", b)
		}
		// Even while no server has an etcd leader and another pool serves.
		for _, m := range s.apiServers() {
			s.put(t, m, "/etc/api/etcd", "electing")
		}
		after(t, 6*time.Second)
		if b := drained(); b.Sessions > 0 {
			t.Errorf("during an election: %+v", b)
		}
		for _, m := range s.apiServers() {
			s.put(t, m, "/etc/api/etcd", "ok")
		}
		if o := l.between(from, from.Add(3*time.Second)); o.newFailed > 0 {
			t.Errorf("new connections failed: %v", l.reasons(from))
		}
	})
}
