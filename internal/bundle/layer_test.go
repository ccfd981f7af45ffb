package bundle

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func TestLayerIsTheSameWhateverTheDisk(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode, at time.Time) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	entries := func(age time.Duration, mode os.FileMode) []entry {
		at := time.Now().Add(-age)
		return []entry{
			{name: "usr/bin/tool", mode: 0o755, source: file("tool", "tool", mode, at), netBindService: true},
			{name: "usr/bin/alias", link: "tool"},
			{name: "tmp", mode: 0o1777, dir: true},
		}
	}
	first, err := writeLayer(filepath.Join(dir, "1"), entries(time.Hour, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	other := entries(time.Minute, 0o644)
	slices.Reverse(other)
	second, err := writeLayer(filepath.Join(dir, "2"), other)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(first, second) {
		t.Errorf("layers differ: %+v, %+v", first, second)
	}

	f, err := os.Open(filepath.Join(dir, "1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain := digest.SHA256.Digester()
	type file0 struct {
		Name, Link string
		Type       byte
		Mode       int64
	}
	var got []file0
	r := tar.NewReader(io.TeeReader(z, plain.Hash()))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, file0{h.Name, h.Linkname, h.Typeflag, h.Mode})
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s belongs to %d:%d since %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		capability := h.PAXRecords["SCHILY.xattr.security.capability"]
		if want := h.Name == "usr/bin/tool"; (capability != "") != want {
			t.Errorf("%s: capability %x", h.Name, capability)
		}
		if capability != "" && len(capability) != 20 {
			t.Errorf("the kernel wants 20 bytes, not %x", capability)
		}
	}
	want := []file0{
		{"tmp/", "", tar.TypeDir, 0o1777},
		{"usr/", "", tar.TypeDir, 0o755},
		{"usr/bin/", "", tar.TypeDir, 0o755},
		{"usr/bin/alias", "tool", tar.TypeSymlink, 0o777},
		{"usr/bin/tool", "", tar.TypeReg, 0o755},
	}
	if !slices.Equal(got, want) {
		t.Errorf("layer holds\n%v, want\n%v", got, want)
	}
	if _, err := io.Copy(io.Discard, io.TeeReader(z, plain.Hash())); err != nil {
		t.Fatal(err)
	}
	if plain.Digest() != first.DiffID {
		t.Errorf("DiffID %s, content %s", first.DiffID, plain.Digest())
	}
}
