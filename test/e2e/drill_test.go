//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/drill"
)

// drills drills a few faults as a user does. How long the outages are depends on this computer, so a missed objective is no failure of the
// test: what was measured must be there, nothing may be lost, and the cluster must be what it was.
func drills(t *testing.T, c *cluster) {
	ctx := testContext(t)
	c.whole(t, ctx)
	dir := t.TempDir()
	page, unit := filepath.Join(dir, "drill.html"), filepath.Join(dir, "drill.xml")
	names := sample([]string{"kill/kube-apiserver/follower", "power-off/host/holder", "hang/etcd/leader", "kill/haproxy/holder", "cut/vrrp/holder", "stop/keepalived/standby"}, 0, 1)
	list := c.must(t, ctx, "drill", "-f", c.specFile(), "--list").stdout
	for _, name := range names {
		if !strings.Contains(list, name) {
			t.Errorf("--list has no %s: %s", name, list)
		}
	}
	c.exits(t, ctx, 2, "drill", "-f", c.specFile(), "--only", "explode/etcd/leader")

	r := c.run(ctx, "drill", "-f", c.specFile(), "--only", strings.Join(names, ","), "--lasts", "8s", "--pace", "200ms", "--html", page, "--junit", unit, "-o", "json")
	var report drill.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 0 && r.code != 4 {
		t.Fatalf("%v: %s", err, r)
	}
	if len(report.Faults) != len(names) {
		t.Errorf("%d of %d faults were injected: %+v", len(report.Faults), len(names), report.Skipped)
	}
	for _, o := range report.Faults {
		if o.MarginsBackMs == nil || o.LostWrites > 0 {
			t.Errorf("%s on %s: %+v", o.Name, o.Target, o)
		}
		for _, kind := range []string{"endpoint/read/new", "endpoint/write/new", "endpoint/read/http2", "kubernetes-service/read/new", "service/get/new", "dns/lookup"} {
			if o.Clients[kind].Requests == 0 {
				t.Errorf("%s on %s: no requests of %s", o.Name, o.Target, kind)
			}
		}
		fmt.Printf("drill: %s on %s: new reads without an answer for %d ms, writes for %d ms, margins back after %d ms; %s\n", o.Name, o.Target,
			o.Clients["endpoint/read/new"].GapMs, o.WriteOutageMs, value(o.MarginsBackMs), strings.Join(append(o.Missed, o.Invalid...), "; "))
	}
	if report.Ledger.Acknowledged == 0 || report.Ledger.Lost > 0 || report.Ledger.Operations == 0 || report.Ledger.Linearizable != "yes" {
		t.Errorf("the ledger: %+v", report.Ledger)
	}
	for _, file := range []string{page, unit} {
		if data, err := os.ReadFile(file); err != nil || len(data) < 1000 {
			t.Errorf("%s: %d bytes, %v", file, len(data), err)
		}
	}
	if out := c.ssh(t, ctx, "worker-a", "ls /run/quorate/faults 2>/dev/null || true"); out != "" {
		t.Errorf("left of a drill: %s", out)
	}

	// A caller that is gone: the host heals the fault on its own, and the next drill says what is left until then.
	cmd := c.command(ctx, "drill", "-f", c.specFile(), "--only", "hang/kube-scheduler/leader", "--lasts", "60s", "--no-pods", "--pace", "200ms")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := func() (out []string) {
		for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
			if c.ssh(t, ctx, h, "ls /run/quorate/faults 2>/dev/null || true") != "" {
				out = append(out, h)
			}
		}
		return out
	}
	eventually(t, ctx, "a scheduler hangs", func() error {
		if len(hung()) != 1 {
			return fmt.Errorf("on %v", hung())
		}
		return nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if r := c.exits(t, ctx, 1, "drill", "-f", c.specFile(), "--only", "hang/kube-scheduler/leader", "--no-pods"); !strings.Contains(r.stderr, "--heal") {
		t.Errorf("a drill with leftovers: %s", r)
	}
	if r := c.must(t, ctx, "drill", "-f", c.specFile(), "--heal"); !strings.Contains(r.stdout, "Healed") {
		t.Errorf("--heal: %s", r)
	}
	if left := hung(); len(left) > 0 {
		t.Errorf("faults are left on %v", left)
	}
	c.whole(t, ctx)
}

func value(ms *int64) int64 {
	if ms == nil {
		return -1
	}
	return *ms
}
