//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/drill"
)

// drilled drills faults as a user does. How long the outages are depends on this computer, so a missed objective is no failure of a
// test: what was measured must be there, the loss of a host must be seen, nothing may be lost, and the cluster must be what it was.
func (c *cluster) drilled(t *testing.T, ctx context.Context, names []string, args ...string) (out drill.Report) {
	t.Helper()
	r := c.run(ctx, append([]string{"drill", "-f", c.specFile(), "--only", strings.Join(names, ","), "--lasts", "8s", "--pace", "200ms", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != 0 && r.code != 4 {
		t.Fatalf("%v: %s", err, r)
	}
	if len(out.Faults) != len(names) {
		t.Errorf("%d of %d faults were injected: %+v", len(out.Faults), len(names), out.Skipped)
	}
	for _, o := range out.Faults {
		if o.MarginsBackMs == nil || o.LostWrites > 0 {
			t.Errorf("%s on %s: %+v", o.Name, o.Target, o)
		}
		if drill.Match("power-off", o.Name) && o.DetectMs == nil {
			t.Errorf("%s on %s: status finds nothing wrong", o.Name, o.Target)
		}
		for _, kind := range []string{"endpoint/read/new", "endpoint/write/new", "endpoint/read/http2"} {
			switch x := o.Clients[kind]; {
			case x.Requests == 0:
				t.Errorf("%s on %s: no requests of %s", o.Name, o.Target, kind)
			case x.GapMs > sane.Milliseconds():
				t.Errorf("%s on %s: an outage of %d ms of %s", o.Name, o.Target, x.GapMs, kind)
			}
		}
		fmt.Printf("drill: %s on %s: new reads without an answer for %d ms, writes for %d ms, margins back after %d ms; %s\n", o.Name, o.Target,
			o.Clients["endpoint/read/new"].GapMs, o.WriteOutageMs, value(o.MarginsBackMs), strings.Join(append(o.Missed, o.Invalid...), "; "))
	}
	if out.Ledger.Acknowledged == 0 || out.Ledger.Lost > 0 || out.Ledger.Operations == 0 || out.Ledger.Linearizable != "yes" {
		t.Errorf("the ledger: %+v", out.Ledger)
	}
	return out
}

// drills drills faults of every kind of part: of those that have a special role, and of zones; with -whole, it also powers off every control plane and load balancer.
func drills(t *testing.T, c *cluster) {
	ctx := testContext(t)
	c.whole(t, ctx)
	dir := t.TempDir()
	page, unit := filepath.Join(dir, "drill.html"), filepath.Join(dir, "drill.xml")
	names := sample([]string{"kill/kube-apiserver/follower", "hang/kube-apiserver/follower", "hang/etcd/leader", "hang/haproxy/holder", "power-off/host/leader", "power-off/host/holder", "power-off/zone/b",
		"kill/etcd/leader", "kill/haproxy/holder", "power-off/host/on=cp-a", "power-off/host/on=cp-b", "power-off/host/on=cp-c", "power-off/host/on=lb-a", "power-off/host/on=lb-b", "power-off/zone/a", "power-off/zone/c", "cut/vrrp/holder", "stop/keepalived/standby"}, 0, 1, 2, 3, 4, 5, 6)
	list := c.must(t, ctx, "drill", "-f", c.specFile(), "--list", "--only", strings.Join(names, ",")).stdout
	for _, name := range names {
		if !strings.Contains(list, name) {
			t.Errorf("--list has no %s: %s", name, list)
		}
	}
	c.exits(t, ctx, 2, "drill", "-f", c.specFile(), "--only", "explode/etcd/leader")

	r := c.drilled(t, ctx, names, "--html", page, "--junit", unit)
	if noted := c.ssh(t, ctx, "cp-a", "kubectl -n kube-system get configmap quorate -o 'jsonpath={.data.last-drill}'"); !strings.Contains(noted, r.Faults[0].Name) {
		t.Errorf("the cluster does not remember the drill: %q", noted)
	}
	for _, o := range r.Faults {
		for _, kind := range []string{"kubernetes-service/read/new", "service/get/new", "dns/lookup"} {
			if o.Clients[kind].Requests == 0 {
				t.Errorf("%s on %s: no requests of %s", o.Name, o.Target, kind)
			}
		}
	}
	var table strings.Builder
	if err := r.WriteOutages(&table); err != nil {
		t.Fatal(err)
	}
	printArtifact(t, "outages.txt", table.String())
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(artifacts, "outages.json"), data, 0o644); err != nil {
		t.Error(err)
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
	hung := func() (out []string) {
		for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
			if c.ssh(t, ctx, h, "ls /run/quorate/faults 2>/dev/null || true") != "" {
				out = append(out, h)
			}
		}
		return out
	}
	killed := func(lasts string) {
		t.Helper()
		cmd := c.command(ctx, "drill", "-f", c.specFile(), "--only", "hang/kube-scheduler/leader", "--lasts", lasts, "--no-pods", "--pace", "200ms")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
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
	}
	killed("5m") // longer than two commands take on any computer; the second one heals it
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
	killed("20s")
	eventually(t, ctx, "the host heals the fault on its own", func() error {
		if left := hung(); len(left) > 0 {
			return fmt.Errorf("faults are left on %v", left)
		}
		return nil
	})
	c.whole(t, ctx)
}

func value(ms *int64) int64 {
	if ms == nil {
		return -1
	}
	return *ms
}
