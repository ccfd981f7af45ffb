package bundle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

func export(t *testing.T, b *Bundle) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := b.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestExportComesBackTheSame(t *testing.T) {
	b := synthetic(t)
	file := export(t, b)
	if !bytes.Equal(file, export(t, b)) {
		t.Error("two exports differ")
	}

	t.Setenv("QUORATE_CACHE", t.TempDir())
	back, err := Import(t.Context(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if back.Dir() != DefaultDir("v1.0.0") || back.Digest() != b.Digest() || !slices.Equal(back.Blobs(), b.Blobs()) {
		t.Errorf("came back as %s %s", back.Dir(), back.Digest())
	}
	if damages, err := back.Verify(t.Context()); err != nil || len(damages) != 0 {
		t.Errorf("damaged: %v %v", damages, err)
	}
	if !bytes.Equal(file, export(t, back)) {
		t.Error("the import exports other bytes")
	}
}

func TestImportMendsWhatIsThere(t *testing.T) {
	b := synthetic(t)
	file := export(t, b)
	if err := os.Remove(b.blobPath(b.Host().Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	back, err := Import(t.Context(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if damages, err := back.Verify(t.Context()); err != nil || len(damages) != 0 {
		t.Errorf("still damaged: %v %v", damages, err)
	}
	leftNothing(t, filepath.Dir(back.Dir()), "v1.0.0-"+b.Arch())
}

func TestImportRefuses(t *testing.T) {
	file := export(t, synthetic(t))
	flipped := bytes.Clone(file)
	const magic, header = 257, 512 // where a tar header says ustar, and where the content begins
	flipped[bytes.LastIndex(file, []byte("ustar"))-magic+header] ^= 1

	cases := map[string]struct {
		file []byte
		want string
	}{
		"nothing":        {nil, "truncated, or not a bundle"},
		"no archive":     {bytes.Repeat([]byte("x"), 2048), "read the archive"},
		"a changed byte": {flipped, "damaged: its content is"},
		"a stranger":     {withFile(t, file, "etc/passwd", "x"), "etc/passwd: has no place in a bundle"},
		"a way out":      {withFile(t, file, "blobs/sha256/../../../x", "x"), "has no place in a bundle"},
		"a false name":   {withFile(t, file, "blobs/sha256/"+strings.Repeat("0", 64), "x"), "damaged: its content is"},
	}
	// Wherever it ends too early: between files as well as within one.
	for cut := 512; cut < len(file)-2048; cut += 512 {
		cases[fmt.Sprintf("cut after %d blocks", cut/512)] = struct {
			file []byte
			want string
		}{file[:cut], ""}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			t.Setenv("QUORATE_CACHE", cache)
			_, err := Import(t.Context(), bytes.NewReader(c.file))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			leftNothing(t, filepath.Join(cache, "bundles"))
		})
	}
}

// leftNothing fails if there is more in dir than lock files and what is expected.
func leftNothing(t *testing.T, dir string, expected ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".lock-") && !slices.Contains(expected, e.Name()) {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// withFile appends a file to an archive.
func withFile(t *testing.T, archive []byte, name, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(archiveHeader(name, int64(len(content)))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestImageArchiveLeavesOut(t *testing.T) {
	b := synthetic(t)
	shared := image(t, b, "server").Layers[0].Digest
	for name, c := range map[string]struct {
		have  func(string) bool
		count int
	}{
		"nothing there":  {nil, 6}, // two manifests, two configurations, two layers
		"the shared one": {func(d string) bool { return d == shared }, 5},
		"all of it":      {func(string) bool { return true }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := b.ImageArchive(t.Context(), &out, c.have); err != nil {
				t.Fatal(err)
			}
			var blobs []string
			var index specs.Index
			r := tar.NewReader(&out)
			for {
				h, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				switch h.Name {
				case "oci-layout":
				case "index.json":
					if err := json.NewDecoder(r).Decode(&index); err != nil {
						t.Fatal(err)
					}
				default:
					blobs = append(blobs, h.Name)
				}
			}
			if len(blobs) != c.count {
				t.Errorf("%d blobs: %v", len(blobs), blobs)
			}
			for _, blob := range blobs {
				if c.have != nil && blob == archiveName(shared) {
					t.Error("sent what the receiver has")
				}
			}
			var names []string
			for _, d := range index.Manifests {
				names = append(names, d.Annotations[annotationImageName])
			}
			if want := []string{"example.test/server:v1.0.0", "example.test/net/proxy:v2"}; !slices.Equal(names, want) {
				t.Errorf("images %v, want %v", names, want)
			}
		})
	}
}
