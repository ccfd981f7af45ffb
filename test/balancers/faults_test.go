//go:build lab

package balancers

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	hostfault "quorate.dev/quorate/internal/hostside/fault"
)

// TestFaults injects faults into machines, as a drill does on hosts, heals them, and lets their switches heal them.
func TestFaults(t *testing.T) {
	s := newSite(t)
	for _, lb := range []string{"lb-a", "lb-b"} {
		s.configure(t, s.cluster, lb, ours)
	}
	s.whole(t, "lb-a", "lb-b")
	address := func(name string) string { m, _ := s.Machine(name); return m.Address.String() }
	reaches := func(from, to string) bool {
		_, err := s.try(t.Context(), from, "ping -c1 -W1 "+to)
		return err == nil
	}
	inject := func(t *testing.T, machine string, r hostfault.Request) hostfault.Injected {
		t.Helper()
		got, err := do[hostfault.Injected](t, s, machine, "inject-fault", r)
		must(t, err)
		t.Logf("%s: %s", machine, got.What)
		return got
	}
	heal := func(t *testing.T, machine string, ids ...string) {
		t.Helper()
		healed, err := do[[]string](t, s, machine, "heal-faults", ids)
		must(t, err)
		if len(ids) > 0 && !slices.Equal(healed, ids) {
			t.Errorf("%s: healed %v instead of %v", machine, healed, ids)
		}
	}
	// clean waits until nothing of a fault is left on a machine.
	clean := func(t *testing.T, machine string, patience time.Duration) {
		t.Helper()
		left := ""
		eventually(t, patience, "nothing is left of the fault on "+machine, func() bool {
			left = s.run(t, machine, "systemctl list-units --all --plain --no-legend 'quorate-fault-*'; nft list tables | grep quorate-fault; ls -A /run/quorate/faults 2>/dev/null; ls -d /run/systemd/system/*.d/90-quorate* 2>/dev/null; true")
			return left == ""
		})
		if all, err := do[[]hostfault.Current](t, s, machine, "faults", struct{}{}); err != nil || len(all) > 0 {
			t.Errorf("%+v, %v", all, err)
		}
	}
	roles := func(t *testing.T) (holder, standby string) {
		t.Helper()
		holder = s.holder(t)
		return holder, map[string]string{"lb-a": "lb-b", "lb-b": "lb-a"}[holder]
	}

	t.Run("a cut that its switch heals", func(t *testing.T) {
		r := hostfault.Request{ID: "cut", Kind: "cut", Target: "host", Peers: []string{address("api-b")}, Lasts: 8 * time.Second}
		for range 2 { // a fault is as good the second time
			inject(t, "api-a", r)
		}
		if reaches("api-a", address("api-b")) || reaches("api-b", address("api-a")) {
			t.Error("it is cut, and packets pass")
		}
		if !reaches("api-a", address("api-c")) || !reaches("api-c", address("api-a")) {
			t.Error("another machine is cut off, too")
		}
		if all, err := do[[]hostfault.Current](t, s, "api-a", "faults", struct{}{}); err != nil || len(all) != 1 || all[0].ID != "cut" {
			t.Errorf("%+v, %v", all, err)
		}
		clean(t, "api-a", 20*time.Second)
		if !reaches("api-a", address("api-b")) || !reaches("api-b", address("api-a")) {
			t.Error("it is healed, and packets do not pass")
		}
	})

	t.Run("one direction", func(t *testing.T) {
		port := 7777
		arrives := func(from, to string) bool { // whether or not there is an answer
			port++
			s.run(t, to, fmt.Sprintf("rm -f /run/arrived; systemd-run --quiet --collect timeout 10 socat -u UDP4-RECVFROM:%[1]d CREATE:/run/arrived && while ! ss -lun | grep -q :%[1]d; do :; done", port))
			s.try(t.Context(), from, fmt.Sprintf("for i in 1 2 3; do echo x | socat -u - UDP4-SENDTO:%s:%d; done", address(to), port)) //nolint:errcheck // what is dropped here is an error
			after(t, 500*time.Millisecond)
			return s.run(t, to, "cat /run/arrived 2>/dev/null; true") == "x"
		}
		for target, want := range map[string][2]bool{"incoming": {false, true}, "outgoing": {true, false}} {
			inject(t, "api-a", hostfault.Request{ID: target, Kind: "cut", Target: target, Peers: []string{address("api-b")}, Lasts: time.Minute})
			if got := [2]bool{arrives("api-b", "api-a"), arrives("api-a", "api-b")}; got != want {
				t.Errorf("%s: %v, want %v", target, got, want)
			}
			heal(t, "api-a", target)
		}
		clean(t, "api-a", 5*time.Second)
	})

	t.Run("loss", func(t *testing.T) {
		inject(t, "api-a", hostfault.Request{ID: "loss", Kind: "loss", Target: "host", Percent: 30, Peers: []string{address("api-b")}, Lasts: time.Minute})
		// An echo is lost with one chance, and its answer with the same: about half of them.
		out, _ := s.try(t.Context(), "api-a", "ping -q -c 100 -i 0.02 -W 1 "+address("api-b"))
		heal(t, "api-a", "loss")
		m := regexp.MustCompile(`([0-9.]+)% packet loss`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("ping says %q", out)
		}
		if lost, err := strconv.ParseFloat(m[1], 64); err != nil || lost < 25 || lost > 80 {
			t.Errorf("%s%% are lost", m[1])
		}
		clean(t, "api-a", 5*time.Second)
	})

	t.Run("VRRP", func(t *testing.T) {
		holder, standby := roles(t)
		inject(t, holder, hostfault.Request{ID: "vrrp", Kind: "cut", Target: "vrrp", Peers: []string{address(standby)}, Lasts: time.Minute})
		eventually(t, 10*time.Second, "both load balancers have the virtual IP", func() bool { return len(s.holders(t.Context())) == 2 })
		if !reaches(holder, address(standby)) {
			t.Error("more than VRRP is cut")
		}
		heal(t, holder, "vrrp")
		s.holder(t)
		clean(t, holder, 5*time.Second)
	})

	t.Run("a cut holder does not draw clients away from its successor", func(t *testing.T) {
		holder, standby := roles(t)
		mac := s.run(t, standby, "cat /sys/class/net/eth0/address")
		reaches("client", s.vip)
		inject(t, holder, hostfault.Request{ID: "cut", Kind: "cut", Target: "host", Peers: []string{address(standby), s.vip}, Lasts: time.Minute})
		at := func() string { return s.run(t, "client", "ip neigh show "+s.vip) }
		eventually(t, 10*time.Second, "the client has learned where the virtual IP is", func() bool { return strings.Contains(at(), mac) })
		for end := time.Now().Add(12 * time.Second); time.Now().Before(end); { // keepalived repeats its announcements every 10 s
			reaches("client", s.vip)
			if now := at(); !strings.Contains(now, mac) {
				t.Fatalf("the client takes the host that is cut off for the holder: %s instead of %s", now, mac)
			}
			after(t, time.Second)
		}
		heal(t, holder, "cut")
		s.holder(t)
		clean(t, holder, 5*time.Second)
	})

	t.Run("a hung program", func(t *testing.T) {
		holder, standby := roles(t)
		got := inject(t, holder, hostfault.Request{ID: "hang", Kind: "hang", Target: "haproxy", Lasts: 20 * time.Second})
		if len(got.PIDs) < 2 { // the master and a worker
			t.Errorf("%+v", got)
		}
		state := func() string {
			return s.run(t, holder, "cat "+fmt.Sprintf("/proc/%d/status", got.PIDs[0])+" 2>/dev/null | grep State; true")
		}
		if !strings.Contains(state(), "T (stopped)") {
			t.Errorf("it is %q", state())
		}
		eventually(t, 10*time.Second, "the virtual IP moves", func() bool { return slices.Contains(s.holders(t.Context()), standby) })
		heal(t, holder, "hang")
		if strings.Contains(state(), "T (stopped)") {
			t.Error("it is healed, and stopped")
		}
		clean(t, holder, 5*time.Second)
		s.whole(t, holder)
	})

	t.Run("a killed program", func(t *testing.T) {
		holder, _ := roles(t)
		pid := s.run(t, holder, "systemctl show --value --property=MainPID keepalived")
		got := inject(t, holder, hostfault.Request{ID: "kill", Kind: "kill", Target: "keepalived"})
		if len(got.PIDs) == 0 || strconv.Itoa(got.PIDs[0]) != pid || !got.Until.IsZero() {
			t.Errorf("%+v, and its main process was %s", got, pid)
		}
		eventually(t, 10*time.Second, "systemd starts it again", func() bool {
			now := s.run(t, holder, "systemctl show --value --property=MainPID keepalived")
			return now != "0" && now != pid
		})
		heal(t, holder)
		clean(t, holder, 5*time.Second)
		s.holder(t)
	})

	t.Run("a stopped program", func(t *testing.T) {
		_, standby := roles(t)
		inject(t, standby, hostfault.Request{ID: "stop", Kind: "stop", Target: "haproxy", Lasts: 15 * time.Second})
		state := func() string { return s.run(t, standby, "systemctl is-active haproxy; true") }
		if got := state(); got != "inactive" {
			t.Errorf("it is %s", got)
		}
		if out, err := s.try(t.Context(), standby, "systemctl restart haproxy"); err == nil || state() != "inactive" {
			t.Errorf("it can be started: %s, %s", out, state())
		}
		clean(t, standby, 30*time.Second) // by its switch
		eventually(t, 10*time.Second, "it is started again", func() bool { return state() == "active" })
		s.whole(t, standby)
	})

	t.Run("a load", func(t *testing.T) {
		inject(t, "api-a", hostfault.Request{ID: "press", Kind: "press", Target: "cpu", Lasts: 5 * time.Second})
		if got := s.run(t, "api-a", "systemctl list-units --plain --no-legend 'quorate-fault-press_*-load.service' | grep -c running"); got != "1" {
			t.Errorf("%s loads run", got)
		}
		clean(t, "api-a", 20*time.Second)
	})

	t.Run("what is not possible here", func(t *testing.T) {
		for why, r := range map[string]hostfault.Request{
			"computer below it": {Kind: "reboot", Target: "host"},
			"is not its own":    {Kind: "fill", Target: "disk", Lasts: time.Minute},
			"shares its memory": {Kind: "press", Target: "memory", Percent: 1, Lasts: time.Minute},
			"kubelet.service":   {Kind: "stop", Target: "kubelet", Lasts: time.Minute},
			"cannot be stopped": {Kind: "stop", Target: "coredns", Lasts: time.Minute},
		} {
			r.ID = "impossible"
			if got, err := do[hostfault.Injected](t, s, "api-a", "inject-fault", r); err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%s of %s: %+v, %v", r.Kind, r.Target, got, err)
			}
		}
		clean(t, "api-a", time.Second)
	})
}
