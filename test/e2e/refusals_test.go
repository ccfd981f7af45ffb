//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/spec"
)

// refusals runs apply with specs that it must refuse, and checks that it says why and changes nothing.
func refusals(t *testing.T, c *cluster) {
	ctx := testContext(t)
	text, err := os.ReadFile(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	original := string(text)
	write := func(text string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "cluster.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	refused := func(code int, file string, words ...string) {
		t.Helper()
		r := c.exits(t, ctx, code, "apply", "-f", file)
		for _, w := range words {
			if !strings.Contains(r.stderr, w) {
				t.Errorf("the message does not name %q: %s", w, r)
			}
		}
	}

	t.Run("a field that is misspelt", func(t *testing.T) {
		refused(2, write(strings.Replace(original, "topology:", "topologie:", 1)), "topologie", "topology")
	})
	t.Run("an even number of control planes", func(t *testing.T) {
		parsed, err := spec.Load(c.specFile())
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range parsed.Spec.Hosts {
			if h.Name == "cp-c" {
				parsed.Spec.Hosts = append(parsed.Spec.Hosts[:i:i], parsed.Spec.Hosts[i+1:]...)
				break
			}
		}
		even, err := spec.Marshal(parsed)
		if err != nil {
			t.Fatal(err)
		}
		refused(2, write(string(even)), "control plane")
	})
	t.Run("a version that no bundle has", func(t *testing.T) {
		refused(2, write(regexp.MustCompile(`version: v\S+`).ReplaceAllString(original, "version: v1.2.3")), "v1.2.3")
	})
	t.Run("a key that no host accepts", func(t *testing.T) {
		key := filepath.Join(t.TempDir(), "key")
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		file := write(regexp.MustCompile(`keyFile: .*`).ReplaceAllString(original, "keyFile: "+key))
		r := c.exits(t, ctx, 3, "apply", "-f", file)
		if !strings.Contains(r.stderr, "no key was accepted") || !strings.Contains(r.stderr, "authorized_keys") {
			t.Errorf("got %s", r)
		}
	})
	t.Run("a host that is dead", func(t *testing.T) {
		c.must(t, ctx, "lab", "--lab", c.name, "fault", "power-off", "worker-b")
		t.Cleanup(func() { c.must(t, testContext(t), "lab", "--lab", c.name, "heal") })
		r := c.exits(t, ctx, 1, "apply")
		if !strings.Contains(r.stderr, "worker-b") || !strings.Contains(r.stderr, "run quorate apply again") {
			t.Errorf("got %s", r)
		}
	})
	c.whole(t, ctx)
	c.unchanged(t, ctx)
}
