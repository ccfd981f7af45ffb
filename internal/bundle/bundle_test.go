package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestAssembledBundleOpens(t *testing.T) {
	b := synthetic(t)
	if b.Version() != "v1.0.0" || b.Dir() != DefaultDir("v1.0.0") || b.Arch() == "" {
		t.Errorf("opened %s %s in %s", b.Version(), b.Arch(), b.Dir())
	}
	server, proxy := image(t, b, "server"), image(t, b, "proxy")
	if server.Name != "example.test/server:v1.0.0" {
		t.Errorf("server is called %s, not what kubeadm wants", server.Name)
	}
	if len(b.Images()) != 2 || b.Host().Name != "example.test/host:v1.0.0" {
		t.Errorf("images %v, host %v", b.Images(), b.Host())
	}
	if server.Layers[0] != proxy.Layers[0] || server.Layers[0] != b.Host().Layers[0] {
		t.Error("the shared layer is not shared")
	}
	// Three manifests, three configurations, three layers.
	if n := len(b.Blobs()); n != 9 {
		t.Errorf("%d blobs: %v", n, b.Blobs())
	}
	var sum int64
	for _, blob := range b.Blobs() {
		info, err := os.Stat(b.blobPath(blob.Digest))
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if b.Size() != sum {
		t.Errorf("Size %d, on disk %d", b.Size(), sum)
	}
	want := Component{
		Name: "tools", Version: "v1", Contents: map[string]string{"helper": "v9"},
		Digest: server.Layers[0].Digest, Size: server.Layers[0].Size, Images: []string{"server", "proxy", "host"},
	}
	if got := b.Components()[2]; !reflect.DeepEqual(got, want) {
		t.Errorf("component\n%+v, want\n%+v", got, want)
	}
	if damages, err := b.Verify(t.Context()); err != nil || len(damages) != 0 {
		t.Errorf("a fresh bundle: %v %v", damages, err)
	}
}

func TestDigestIsStable(t *testing.T) {
	first, second := synthetic(t).Digest(), ""
	t.Setenv("QUORATE_CACHE", t.TempDir())
	if second = synthetic(t).Digest(); first != second {
		t.Errorf("the same components gave %s and %s", first, second)
	}
}

func TestList(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	if all, err := List(); err != nil || len(all) != 0 {
		t.Fatalf("an empty cache: %v %v", all, err)
	}
	b := synthetic(t)
	broken := filepath.Join(filepath.Dir(b.Dir()), "v0-broken")
	if err := os.Mkdir(broken, 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := List()
	if len(all) != 1 || all[0].Digest() != b.Digest() {
		t.Errorf("listed %v", all)
	}
	if err == nil || !strings.Contains(err.Error(), "v0-broken") {
		t.Errorf("the broken one is not named: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct{ index, want string }{
		"no JSON":      {`{`, "read index.json"},
		"other layout": {`{"schemaVersion":2}`, "not a bundle"},
		"no host":      {`{"annotations":{"quorate.dev/kubernetes":"v1","quorate.dev/arch":"amd64"}}`, "no host image"},
		"bad digest": {`{"annotations":{"quorate.dev/kubernetes":"v1","quorate.dev/arch":"amd64"},"manifests":[
			{"digest":"sha256:../../etc/passwd","annotations":{"io.containerd.image.name":"x"}}]}`, "invalid checksum digest"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(c.index), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "quorate bundle build") {
		t.Errorf("an empty folder: %v", err)
	}
}
