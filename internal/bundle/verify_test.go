package bundle

import (
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
)

// hurt changes a stored blob.
var hurt = map[string]struct {
	do   func(path string) error
	want string
}{
	"one bit": {func(path string) error {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		raw[len(raw)/2] ^= 1
		return os.WriteFile(path, raw, 0o600)
	}, "has the digest sha256:"},
	"cut short": {func(path string) error { return os.Truncate(path, 3) }, "has 3 bytes instead of "},
	"grown": {func(path string) error {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, append(raw, "more"...), 0o600)
	}, "has "},
	"gone": {os.Remove, "is missing"},
}

func TestDamageIsFoundAndNamed(t *testing.T) {
	for name, harm := range hurt {
		t.Run(name, func(t *testing.T) {
			b := synthetic(t)
			layer := image(t, b, "proxy").Layers[0].Digest
			if err := harm.do(b.blobPath(layer)); err != nil {
				t.Fatal(err)
			}
			damages, err := b.Verify(t.Context())
			if err != nil || len(damages) != 1 {
				t.Fatalf("found %v, %v", damages, err)
			}
			d := damages[0]
			owners := []string{"example.test/server:v1.0.0", "example.test/net/proxy:v2", "example.test/host:v1.0.0", "component tools"}
			if d.Digest != layer || !strings.HasPrefix(d.Problem, harm.want) || !reflect.DeepEqual(d.BelongsTo, owners) {
				t.Errorf("found %+v", d)
			}

			var damaged *DamageError
			if err := b.Export(t.Context(), io.Discard); !errors.As(err, &damaged) || damaged.Damages[0].Digest != layer {
				t.Errorf("a damaged bundle was exported: %v", err)
			}
			if err := b.ImageArchive(t.Context(), io.Discard, nil); !errors.As(err, &damaged) {
				t.Errorf("a damaged layer was sent: %v", err)
			}
		})
		t.Run(name+", a manifest", func(t *testing.T) {
			b := synthetic(t)
			if err := harm.do(b.blobPath(b.Host().Manifest.Digest)); err != nil {
				t.Fatal(err)
			}
			var damaged *DamageError
			if _, err := Open(b.Dir()); !errors.As(err, &damaged) || damaged.Damages[0].BelongsTo[0] != b.Host().Name {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

func TestAssemblingAgainMends(t *testing.T) {
	b := synthetic(t)
	if err := os.Remove(b.blobPath(b.Host().Layers[1].Digest)); err != nil {
		t.Fatal(err)
	}
	mended := synthetic(t)
	if damages, err := mended.Verify(t.Context()); err != nil || len(damages) != 0 || mended.Digest() != b.Digest() {
		t.Errorf("after assembling again: %v %v", damages, err)
	}
}
