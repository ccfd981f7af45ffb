//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"quorate.dev/quorate/internal/spec"
)

func TestDevReset(t *testing.T) {
	c := newCluster(t, "e2e-reset")
	ctx := testContext(t)
	text, err := spec.Init(spec.InitOptions{Name: c.name, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "spec.yaml")
	write(t, file, text)
	c.must(t, ctx, "lab", "create", "--empty", "-f", file)
	before := c.found(t, ctx, []string{"cp-a", "cp-b", "cp-c", "worker-a", "lb-a", "lb-b"})
	c.must(t, ctx, "apply", "-f", file)
	resetsAll(t, ctx, c, file, before)
}
