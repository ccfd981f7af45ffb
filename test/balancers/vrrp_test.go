//go:build lab

package balancers

import (
	"context"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/reach"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/vip"
)

// watchHolders polls the kernels of all load balancers, and returns the greatest number of simultaneous holders and the number
// of changes.
func (s *site) watchHolders(t *testing.T) (stop func() (most int, history []string)) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	most := 0
	var history []string
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			h := s.holders(ctx)
			if ctx.Err() != nil {
				return
			}
			most = max(most, len(h))
			if now := strings.Join(h, "+"); len(history) == 0 || history[len(history)-1] != now {
				history = append(history, now)
			}
		}
	}()
	return func() (int, []string) { cancel(); <-done; return most, history }
}

// TestVirtualIP adds, removes, and forgets load balancers, and probes the network for the holders of the virtual IP.
func TestVirtualIP(t *testing.T) {
	s := newSite(t)
	asks := func(t *testing.T, machine string) facts.AddressHolders {
		t.Helper()
		m, err := s.Machine(machine)
		must(t, err)
		seen, err := do[facts.AddressHolders](t, s, machine, "who-has", balancer.WhoHasRequest{Address: s.vip, From: []string{m.Address.String()}})
		must(t, err)
		return seen
	}
	// who returns the holders that the load balancers of the cluster find, and those that any machine would find.
	who := func(t *testing.T, c *spec.Cluster, askers ...string) (holders, strangers []string) {
		t.Helper()
		obs := &facts.Observation{Hosts: map[string]facts.Host{}}
		seen := map[string]facts.AddressHolders{}
		for _, m := range askers {
			seen[m] = asks(t, m)
		}
		for _, h := range c.BalancerHosts() {
			if own, ok := seen[h.Name]; ok {
				obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Addresses: []facts.Address{{IP: h.Address, MAC: own.MAC}}}}
			}
		}
		all := vip.Holders(c, obs, seen)
		for _, h := range all {
			holders = append(holders, h.String())
		}
		for _, h := range vip.Strangers(all) {
			strangers = append(strangers, h.String())
		}
		return holders, strangers
	}

	t.Run("before the build it is free", func(t *testing.T) {
		if holders, _ := who(t, s.cluster, "lb-a", "lb-b"); len(holders) > 0 {
			t.Errorf("%v have it", holders)
		}
	})
	t.Run("another machine has it and drops the port", func(t *testing.T) {
		s.run(t, "stranger", "nft add table inet x && nft 'add chain inet x in { type filter hook input priority 0; }' && nft add rule inet x in tcp dport 6443 drop && ip addr add "+s.vip+"/24 dev eth0")
		mac := s.run(t, "stranger", "cat /sys/class/net/eth0/address")
		if _, strangers := who(t, s.cluster, "lb-a", "lb-b"); len(strangers) != 1 || !strings.Contains(strangers[0], mac) {
			t.Errorf("strangers: %v, want %s", strangers, mac)
		}
		s.run(t, "stranger", "ip addr del "+s.vip+"/24 dev eth0 && nft delete table inet x")
	})

	for _, lb := range []string{"lb-a", "lb-b"} {
		s.configure(t, s.cluster, lb, ours)
	}
	s.whole(t, "lb-a", "lb-b")
	holder := s.holder(t)
	standby := map[string]string{"lb-a": "lb-b", "lb-b": "lb-a"}[holder]
	t.Run("the holder answers", func(t *testing.T) {
		if holders, strangers := who(t, s.cluster, "lb-a", "lb-b"); !slices.Equal(holders, []string{holder}) || len(strangers) > 0 {
			t.Errorf("holders %v, strangers %v; %s has it", holders, strangers, holder)
		}
		if seen := asks(t, standby); seen.Has || len(seen.Answers) != 1 {
			t.Errorf("the standby sees %+v", seen)
		}
		if seen := asks(t, holder); !seen.Has || len(seen.Answers) != 0 {
			t.Errorf("the holder sees %+v", seen)
		}
	})

	address := func(name string) string { m, _ := s.Machine(name); return m.Address.String() }
	wider := s.with(t, "lb-c")
	t.Run("a peer that is not there yet moves nothing", func(t *testing.T) {
		stop := s.watchHolders(t)
		for _, lb := range []string{standby, holder} {
			if changed := s.configure(t, wider, lb, ours); !slices.Equal(changed, []string{"/etc/keepalived/keepalived.conf"}) {
				t.Errorf("%s: changed %v", lb, changed)
			}
			eventually(t, 10*time.Second, lb+" knows the new peer", func() bool { return slices.Contains(s.read(t, lb).Peers, address("lb-c")) })
		}
		after(t, 3*time.Second)
		if most, history := stop(); most != 1 || len(history) != 1 {
			t.Errorf("holders: %v", history)
		}
	})
	t.Run("a load balancer that everybody knows starts as a standby", func(t *testing.T) {
		stop := s.watchHolders(t)
		s.configure(t, wider, "lb-c", ours)
		s.whole(t, "lb-c")
		for range 3 {
			s.run(t, "lb-c", "systemctl restart keepalived")
			after(t, time.Second)
		}
		if most, history := stop(); most != 1 || len(history) != 1 {
			t.Errorf("holders: %v", history)
		}
		if b := s.read(t, "lb-c"); b.Active || len(b.Peers) != 2 {
			t.Errorf("the new load balancer: %+v", b)
		}
	})
	t.Run("reloads in any order move nothing", func(t *testing.T) {
		stop := s.watchHolders(t)
		for range 3 {
			for _, lb := range []string{"lb-c", "lb-a", "lb-b"} {
				s.run(t, lb, "systemctl reload keepalived haproxy")
			}
		}
		after(t, 2*time.Second)
		if most, history := stop(); most != 1 || len(history) != 1 {
			t.Errorf("holders: %v", history)
		}
	})
	t.Run("the others do not know a load balancer that starts", func(t *testing.T) {
		// The order of the steps avoids this. It is the reason for WhoHas.
		for _, lb := range []string{"lb-a", "lb-b"} {
			s.configure(t, s.cluster, lb, ours)
		}
		s.run(t, "lb-c", "systemctl restart keepalived")
		// From now on two machines have the address, until the watchdog of the other holder finds a machine that is none of its peers.
		eventually(t, 15*time.Second, "lb-c takes the virtual IP, too", func() bool { return slices.Contains(s.holders(t.Context()), "lb-c") })
		mac := s.run(t, "lb-c", "cat /sys/class/net/eth0/address")
		if holders, strangers := who(t, s.cluster, "lb-a", "lb-b"); len(strangers) != 1 || !strings.Contains(strangers[0], mac) { // lb-c is not in the spec
			t.Errorf("holders %v, strangers %v; want %s", holders, strangers, mac)
		}
		if holders, strangers := who(t, wider, "lb-a", "lb-b", "lb-c"); !slices.Contains(holders, "lb-c") || len(strangers) != 0 {
			t.Errorf("as a load balancer of the spec: holders %v, strangers %v", holders, strangers)
		}
		s.run(t, "lb-c", "systemctl stop keepalived")
		for _, lb := range []string{"lb-a", "lb-b"} {
			eventually(t, 30*time.Second, lb+" may have the virtual IP again", func() bool { return strings.TrimSpace(s.run(t, lb, "cat "+hostconfig.FaultFile)) == "0" })
		}
		eventually(t, 10*time.Second, "one machine holds it again", func() bool { return len(s.holders(t.Context())) == 1 })
		if holders, strangers := who(t, s.cluster, "lb-a", "lb-b"); len(holders) != 1 || len(strangers) != 0 {
			t.Errorf("afterwards: holders %v, strangers %v", holders, strangers)
		}
	})
	holder = s.holder(t)
	standby = map[string]string{"lb-a": "lb-b", "lb-b": "lb-a"}[holder]
	t.Run("a holder that stands aside", func(t *testing.T) {
		_, err := do[struct{}](t, s, holder, "stand-aside", true)
		must(t, err)
		eventually(t, 5*time.Second, "the standby takes over", func() bool { return slices.Equal(s.holders(t.Context()), []string{standby}) })
		_, err = do[struct{}](t, s, holder, "stand-aside", false)
		must(t, err)
		after(t, 2*time.Second)
		if now := s.holders(t.Context()); !slices.Equal(now, []string{standby}) {
			t.Errorf("the address moved back: %v", now)
		}
	})
	t.Run("a router between load balancers", func(t *testing.T) { routed(t, s) })
}

// routed probes a load balancer with VRRP, directly and through a router.
func routed(t *testing.T, s *site) {
	for _, lb := range []string{"lb-a", "lb-b"} {
		s.run(t, lb, "systemctl stop keepalived")
	}
	to, err := s.Machine("lb-a")
	must(t, err)
	router, err := s.Machine("stranger")
	must(t, err)
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		done <- s.Exec(ctx, "lb-a", []string{program, "listen", to.Address.String()}, r, writer(func(b []byte) { said <- string(b) }), nil)
	}()
	select {
	case <-said:
	case err := <-done:
		t.Fatal(err)
	}
	dial := func() facts.Reach {
		out, err := do[[]facts.Reach](t, s, "client", "dial", []reach.DialTarget{{Path: facts.Path{To: "listener", Address: to.Address.String(), Proto: facts.VRRP}, Answers: true}})
		must(t, err)
		return out[0]
	}
	if got := dial(); got.Outcome != facts.Reached {
		t.Errorf("directly: %+v", got)
	}
	s.run(t, "stranger", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0")
	s.run(t, "client", "ip route add "+to.Address.String()+"/32 via "+router.Address.String())
	if got := dial(); got.Outcome != facts.Routed || got.Detail != "TTL 254" {
		t.Errorf("through a router: %+v", got)
	}
	w.Close()
	var exit *exec.ExitError
	if err := <-done; err != nil && !asExit(err, &exit) {
		t.Error(err)
	}
}
