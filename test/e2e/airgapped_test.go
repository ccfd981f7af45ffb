//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// TestAirGapped moves a bundle from a mirror of published releases through a registry into a file, and from the file onto
// machines without internet access. Then it damages the bundle on the hosts.
func TestAirGapped(t *testing.T) {
	warm, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, "e2e-air")
	ctx := testContext(t)
	base := paths.Cache("lab")
	m := startMirror(t)
	m.publish(t, warm)

	emptyCache(t, base)
	pull := append([]string{"bundle", "pull", "-o", "json", "--releases", m.URL + "/files", "--registry", m.registry() + "/mirrored"}, m.flags...)
	signed := append(pull, "--signatures", "all", "--public-key", m.key(t))
	unsigned := c.exits(t, ctx, 3, signed...)
	if !strings.Contains(unsigned.stderr, "refused (signature)") || !strings.Contains(unsigned.stderr, "the signature is missing") {
		t.Errorf("unsigned: %s", unsigned)
	}
	m.seal(t)
	mirrored := digestOf(t, c.must(t, ctx, signed...))
	if !m.interrupted.Load() {
		t.Error("the mirror was never away")
	}
	wrong := c.exits(t, ctx, 1, "bundle", "push", m.registry()+"/team/quorate:v1", "--ca-file", m.flags[1])
	if !strings.Contains(wrong.stderr, "401") || !strings.Contains(wrong.stderr, "password") {
		t.Errorf("without a login: %s", wrong)
	}
	ref := strings.TrimSpace(c.must(t, ctx, append([]string{"bundle", "push", m.registry() + "/team/quorate:v1"}, m.flags...)...).stdout)
	if !strings.HasSuffix(ref, "@"+mirrored) {
		t.Errorf("pushed %s as %s", mirrored, ref)
	}
	emptyCache(t, base)
	if pulled := digestOf(t, c.must(t, ctx, append([]string{"bundle", "pull", "-o", "json", ref}, m.flags...)...)); pulled != mirrored {
		t.Fatalf("pushed %s, pulled %s", mirrored, pulled)
	}
	carried := filepath.Join(t.TempDir(), "quorate-bundle.tar")
	c.must(t, ctx, "bundle", "export", carried)
	m.Close()

	// From here on, only the file is available.
	emptyCache(t, base)
	t.Setenv("GOPROXY", "off")
	file := airGappedSpec(t, c, carried, mirrored)
	if r := c.exits(t, ctx, 1, "bundle", "verify"); !strings.Contains(r.stderr, "no bundle here") {
		t.Errorf("the cache is not empty: %s", r)
	}
	c.must(t, ctx, "lab", "create", "--empty", "-f", file)
	found := c.found(t, ctx, []string{"cp-a", "cp-b", "cp-c"})
	r := c.must(t, ctx, "apply", "-f", file, "--verbose")
	t.Logf("apply on machines that had nothing: %s", r.took)
	if !strings.Contains(r.stderr, "from cp-") {
		t.Errorf("no host passed anything on: %s", r)
	}
	c.unchanged(t, ctx, "-f", file)
	c.must(t, ctx, "bundle", "verify", "-f", file)
	// A kubelet that frees space must not remove an image that this host cannot pull again.
	if pinned := strings.TrimSpace(c.ssh(t, ctx, "cp-b", "ctr -n k8s.io images ls | grep /coredns/ | grep -c io.cri-containerd.pinned=pinned || true")); pinned != "1" {
		t.Errorf("the kubelet may remove an image that no container uses just now: %s", c.ssh(t, ctx, "cp-b", "ctr -n k8s.io images ls"))
	}
	for _, machine := range []string{"cp-a", "cp-b", "cp-c"} {
		if got := c.ssh(t, ctx, machine, "ss -Hltnp | grep -c quorate || true"); got != "0" {
			t.Errorf("%s: %s listeners are left", machine, got)
		}
	}
	t.Run("harm on hosts", func(t *testing.T) { harmedHosts(t, ctx, c, file) })
	t.Run("harm here", func(t *testing.T) { harmedCaller(t, ctx, c, file, carried) })
	t.Run("reset", func(t *testing.T) { resetsAll(t, ctx, c, file, found) })
}

// emptyCache gives commands a cache with the lab's Debian image but without a bundle.
func emptyCache(t *testing.T, base string) {
	t.Helper()
	cache := t.TempDir()
	if err := os.Symlink(base, filepath.Join(cache, "lab")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUORATE_CACHE", cache)
}

func digestOf(t *testing.T, r result) string {
	t.Helper()
	var b struct{ Digest string }
	if err := json.Unmarshal([]byte(r.stdout), &b); err != nil || b.Digest == "" {
		t.Fatalf("%v in %s", err, r)
	}
	return b.Digest
}

func airGappedSpec(t *testing.T, c *cluster, file, digest string) string {
	t.Helper()
	text, err := spec.Init(spec.InitOptions{Name: c.name, Workers: -1})
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "source: modules", "source: bundle\n    file: "+file+"\n    digest: "+digest, 1)
	path := filepath.Join(c.dir, "spec.yaml")
	write(t, path, []byte(changed))
	return path
}

// harmedHosts removes an image from one host and changes a byte of one on another host, and checks that both are reported and
// repaired.
func harmedHosts(t *testing.T, ctx context.Context, c *cluster, file string) {
	pause := strings.TrimSpace(c.ssh(t, ctx, "cp-b", "ctr -n k8s.io images ls -q | grep /pause:"))
	c.ssh(t, ctx, "cp-b", "ctr -n k8s.io images rm "+pause)
	const flip = `f=$(ls -S %s | head -1); printf '\377' | dd of=%s/$f bs=1 seek=1000 conv=notrunc status=none; echo $f`
	const content = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
	blob := c.ssh(t, ctx, "cp-c", strings.ReplaceAll(flip, "%s", content))
	// The host's own copy, which could be used for the repair, is damaged in the same way.
	c.ssh(t, ctx, "cp-c", strings.ReplaceAll(flip, "%s", "/var/lib/quorate/bundle/blobs/sha256"))

	r := c.exits(t, ctx, 1, "bundle", "verify", "-f", file)
	for _, words := range []string{"cp-a has all", "cp-b: " + pause + " is missing", "cp-c: ", blob} {
		if !strings.Contains(r.stdout, words) {
			t.Errorf("verify does not say %q: %s", words, r)
		}
	}
	steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
	for _, host := range []string{"cp-b", "cp-c"} {
		found := false
		for _, s := range steps {
			found = found || s.Host == host && s.Kind == plan.ImportImages && strings.Contains(s.Reason, "registry.k8s.io/")
		}
		if !found {
			t.Errorf("no step names an image of %s: %+v", host, steps)
		}
	}
	c.must(t, ctx, "apply", "-f", file)
	c.must(t, ctx, "bundle", "verify", "-f", file)
	c.unchanged(t, ctx, "-f", file)
}

// harmedCaller damages the bundle from which a host would be repaired. Nothing may be changed then.
func harmedCaller(t *testing.T, ctx context.Context, c *cluster, file, carried string) {
	b, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		t.Fatal(err)
	}
	pause, ok := b.Image("pause")
	if !ok {
		t.Fatal("no pause in the bundle")
	}
	layer := strings.Replace(pause.Layers[0].Digest, ":", "/", 1)
	if err := os.Truncate(filepath.Join(b.Dir(), "blobs", layer), 1); err != nil {
		t.Fatal(err)
	}
	c.unchanged(t, ctx, "-f", file) // a cluster that needs nothing is not affected
	c.ssh(t, ctx, "cp-b", "ctr -n k8s.io images rm "+pause.Name)
	r := c.exits(t, ctx, 3, "apply", "-f", file)
	for _, words := range []string{pause.Name, "is damaged", "Nothing was changed"} {
		if !strings.Contains(r.stderr, words) {
			t.Errorf("the refusal does not say %q: %s", words, r)
		}
	}
	c.must(t, ctx, "bundle", "import", carried)
	c.must(t, ctx, "apply", "-f", file)
	c.must(t, ctx, "bundle", "verify", "-f", file)
}
