package reset

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/hostside/found"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// TestALoadBalancerIsRemovedAlone: what it had is as it was found, and everything else of the cluster is untouched, wherever a run
// was killed.
func TestALoadBalancerIsRemovedAlone(t *testing.T) {
	for killed := -1; ; killed++ {
		m := newMachine(t)
		m.skeleton()
		before := m.files()
		m.build(false)
		built := m.files()
		m.actions = killed
		_, err := m.target().removeBalancer(t.Context(), request)
		finished := err == nil
		if m.actions = -1; errors.Is(err, errKilled) {
			_, err = m.target().removeBalancer(t.Context(), request)
		}
		if err != nil {
			t.Fatal(err)
		}
		after := m.files()
		for _, p := range slices.Concat(ofBalancer, markOfBalancer, stateOfBalancer) {
			if p.kind == file && after[p.path] != before[p.path] {
				t.Errorf("killed after %d: %s is %q, and was %q", killed, p.path, after[p.path], before[p.path])
			}
		}
		if got := strings.TrimSpace(after["/proc/sys/net/ipv4/ip_nonlocal_bind"]); got != "0" {
			t.Errorf("killed after %d: ip_nonlocal_bind is %s", killed, got)
		}
		for path, content := range built {
			mine := strings.Contains(path, "haproxy") || strings.Contains(path, "keepalived") || strings.Contains(path, "watchdog") || strings.Contains(path, "balancer") ||
				strings.Contains(path, "nonlocal") || strings.Contains(path, "found") || strings.Contains(path, "/.quorate-")
			if !mine && after[path] != content {
				t.Errorf("killed after %d: %s was changed", killed, path)
			}
		}
		if u := m.unitsNow["haproxy.service"]; u.Enabled != "enabled" || u.Active != "active" {
			t.Errorf("killed after %d: haproxy is %+v", killed, u)
		}
		for _, unit := range []string{"kubelet.service", containerdUnit} {
			if u := m.unitsNow[unit]; u != nil && u.Active != "active" {
				t.Errorf("killed after %d: %s was stopped", killed, unit)
			}
		}
		record, err := found.Host{Root: m.root, Units: m.units}.Read()
		if err != nil {
			t.Fatal(err)
		}
		if _, noted := record.Files[hostconfig.HAProxyFile]; noted || len(record.Files) == 0 {
			t.Errorf("killed after %d: noted are %d files", killed, len(record.Files))
		}
		if killed >= 0 && finished {
			return
		}
	}
}

func TestALoadBalancerOfAnotherClusterStays(t *testing.T) {
	m := newMachine(t)
	m.build(false)
	other := request
	other.Cluster = "other"
	if _, err := m.target().removeBalancer(t.Context(), other); err == nil {
		t.Error("it was removed")
	}
	if _, err := os.Stat(m.root + hostconfig.HAProxyFile); err != nil {
		t.Error(err)
	}
}
