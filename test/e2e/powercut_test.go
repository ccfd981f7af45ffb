//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/bundle"
	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// TestPowerCut builds a cluster on machines that lose what had not reached their disks, and cuts the power of all of them
// again and again. Then it updates the programs of the resulting cluster.
func TestPowerCut(t *testing.T) {
	c := newCluster(t, "e2e-cut")
	before := traces(t, c.name)
	ctx := testContext(t)
	file := filepath.Join(c.dir, "spec.yaml")
	text, err := spec.Init(spec.InitOptions{Name: c.name, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "lab", "create", "--empty", "--own-disks", "-f", file)
	cuts := 0
	type cut struct {
		at    plan.Kind
		state string
		delay time.Duration
	}
	for _, cut := range sample([]cut{
		{plan.InstallBundle, "…", 300 * time.Millisecond},
		{plan.InstallBundle, "… done", 0},
		{plan.ImportImages, "…", time.Second},
		{plan.MakePKI, "… done", 0},
		{plan.StartKubelet, "… done", 0},
		{plan.StartControlPlane, "… done", 0},
		{plan.InitCluster, "… done", 0},
	}, 0, 4, 6) {
		steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
		if !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind == cut.at }) {
			t.Logf("nothing is left of %s", cut.at)
			continue
		}
		r := c.start(t, ctx, "apply", "-f", file, "--verbose")
		if !r.reaches(ctx, title(t, steps, cut.at)+" "+cut.state) {
			code, all := r.wait(t)
			t.Fatalf("apply ends before it comes to %s: exit status %d: %s", cut.at, code, all)
		}
		select {
		case <-time.After(cut.delay):
		case <-ctx.Done():
		}
		cutPower(t, ctx, c)
		if code, all := r.wait(t); code == 0 {
			t.Errorf("apply succeeds without its hosts: %s", all)
		}
		c.must(t, ctx, "lab", "heal")
		cuts++
	}
	if cuts < 3 {
		t.Errorf("the power was cut only %d times", cuts)
	}
	c.must(t, ctx, "apply", "-f", file)
	c.whole(t, ctx)
	t.Run("writes that were acknowledged", func(t *testing.T) { acknowledged(t, ctx, c) })
	t.Run("damaged programs", func(t *testing.T) { damagedProgram(t, ctx, c, file) })
	t.Run("another bundle", func(t *testing.T) { anotherBundle(t, ctx, c, file) })
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// cutPower cuts the power of all machines.
func cutPower(t *testing.T, ctx context.Context, c *cluster) {
	t.Helper()
	for _, zone := range c.lab(t).Zones() {
		c.must(t, ctx, "lab", "fault", "power-off", "zone/"+zone)
	}
}

// acknowledged cuts the power of everything right after writes were acknowledged, and reads them when the cluster is back.
func acknowledged(t *testing.T, ctx context.Context, c *cluster) {
	_, api := c.client(t, ctx)
	maps := api.CoreV1().ConfigMaps("default")
	const writes = 50
	for n := range writes {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("write-%d", n)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	cutPower(t, ctx, c)
	c.must(t, ctx, "lab", "heal")
	eventually(t, ctx, "the writes are there", func() error {
		list, err := maps.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		found := 0
		for _, m := range list.Items {
			if strings.HasPrefix(m.Name, "write-") {
				found++
			}
		}
		if found != writes {
			t.Fatalf("%d of %d writes are there", found, writes)
		}
		return nil
	})
	c.whole(t, ctx)
}

// damagedProgram truncates a program, as a power cut may do: status reports it, and apply installs it again.
func damagedProgram(t *testing.T, ctx context.Context, c *cluster, file string) {
	c.ssh(t, ctx, "worker-a", "truncate -s 0 $(readlink -f /usr/local/bin/runc)")
	s, _, err := c.status(ctx)
	if err != nil || !slices.ContainsFunc(s.Problems, func(p model.Finding) bool {
		return p.Rule == model.RulePrograms && slices.Contains(p.Subjects, "worker-a")
	}) {
		t.Errorf("status: %v, %v", s.Problems, err)
	}
	c.must(t, ctx, "apply", "-f", file)
	c.ssh(t, ctx, "worker-a", "runc --version")
	c.whole(t, ctx)
}

// anotherBundle updates all programs to a bundle with another digest, one after the other, and removes the previous bundle.
func anotherBundle(t *testing.T, ctx context.Context, c *cluster, file string) {
	have, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	t.Setenv("QUORATE_CACHE", cache)
	dir := bundle.DefaultDir(spec.DefaultVersion)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", have.Dir(), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var index map[string]any
	if err := json.Unmarshal(have.Index(), &index); err != nil {
		t.Fatal(err)
	}
	index["annotations"].(map[string]any)["example.test/another"] = "yes"
	raw, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	encoded := strings.TrimPrefix(other.Digest(), "sha256:")

	_, api := c.client(t, ctx)
	containers := func() map[string]int32 {
		out := map[string]int32{}
		pods, err := api.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods.Items {
			for _, s := range p.Status.ContainerStatuses {
				out[p.Namespace+"/"+p.Name+"/"+s.Name+"/"+s.ContainerID] = s.RestartCount
			}
		}
		return out
	}
	before := containers()
	const programs = "for p in containerd kubelet; do readlink /proc/$(systemctl show --value --property=MainPID $p)/exe; done; ls /opt/quorate/programs"
	switched := 0
	for _, s := range planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")) {
		if s.Kind == plan.SwitchPrograms && s.Change != nil {
			switched++
		}
	}
	if switched != 8 { // containerd and the kubelet of four nodes
		t.Errorf("%d restarts are planned", switched)
	}
	c.must(t, ctx, "apply", "-f", file)
	for _, m := range c.lab(t).Machines() {
		if !strings.HasPrefix(m.Name, "cp-") && !strings.HasPrefix(m.Name, "worker-") {
			continue
		}
		out := c.ssh(t, ctx, m.Name, programs)
		lines := strings.Fields(out)
		want := "/opt/quorate/programs/" + encoded + "/"
		bundles := slices.DeleteFunc(slices.Clone(lines), func(name string) bool { return len(name) != len(encoded) })
		if !slices.Equal(bundles, []string{encoded}) || !strings.HasPrefix(lines[0], want) || !strings.HasPrefix(lines[1], want) {
			t.Errorf("%s runs from %s", m.Name, out)
		}
	}
	// Containers outlive the programs that started them.
	after := containers()
	for name := range before {
		if _, same := after[name]; !same {
			t.Errorf("%s did not survive the update", name)
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("after the update there are steps: %+v", steps)
	}
	c.whole(t, ctx)
}
