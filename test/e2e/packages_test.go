//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/plan"
)

// packages removes keepalived from a load balancer and runs apply, which installs it with the machine's own apt-get. Lab
// machines reach no mirror, so theirs is a directory.
func packages(t *testing.T, c *cluster) {
	const host, name = "lb-b", "keepalived"
	ctx := testContext(t)
	dir := t.TempDir()
	download := exec.CommandContext(ctx, "apt-get", "download", name)
	download.Dir = dir
	if out, err := download.CombinedOutput(); err != nil {
		t.Fatalf("apt-get download: %v: %s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("%v, %v", debs, err)
	}
	control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", debs[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	deb, err := os.ReadFile(debs[0])
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Sprintf("%s\nFilename: ./%s.deb\nSize: %d\nSHA256: %x\n\n", strings.TrimSpace(string(control)), name, len(deb), sha256.Sum256(deb))
	c.put(t, ctx, host, "/var/repo/"+name+".deb", string(deb))
	c.put(t, ctx, host, "/var/repo/Packages", index)
	c.put(t, ctx, host, "/etc/apt/sources.list", "deb [trusted=yes] file:/var/repo ./\n")
	c.do(t, ctx, host, "systemctl stop "+name+"; dpkg --remove --force-depends "+name+"; rm -f /etc/apt/sources.list.d/*")

	steps := planned(t, c.must(t, ctx, "plan", "-o", "json"))
	i := slices.IndexFunc(steps, func(s plan.Step) bool { return s.Kind == plan.InstallPackages })
	if i < 0 || steps[i].Host != host || !strings.Contains(steps[i].Reason, "apt-get install -y "+name) {
		t.Fatalf("the plan does not install it: %+v", steps)
	}
	c.must(t, ctx, "apply")
	c.whole(t, ctx)
	c.unchanged(t, ctx)
}
