package bundle

import (
	"archive/tar"
	"io"
	"os"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

const archOfHere = runtime.GOARCH

type configFile = v1.ConfigFile

func descriptor(os, arch string) v1.Descriptor {
	return v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}
}

// filesOf are the files in an image's layers.
func filesOf(t *testing.T, b *Bundle, i Image) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, l := range i.Layers {
		f, err := os.Open(b.blobPath(l.Digest))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				files[h.Name] = string(raw)
			}
		}
	}
	return files
}

// otherArch is an architecture for which bundles can be made, and not this machine's.
var otherArch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
