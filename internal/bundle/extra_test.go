package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/components"
)

// TestExtra: a component that no bundle contains is made once, and each call gets its program.
func TestExtra(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	c := components.Component{Name: "tool", Version: "v1", Texts: map[string]string{"usr/local/bin/tool": "#!/bin/sh\n"}}
	for _, name := range []string{"first", "from the cache"} {
		file := filepath.Join(t.TempDir(), "tool")
		if err := Extra(t.Context(), c, "usr/local/bin/tool", file, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		content, err := os.ReadFile(file)
		if err != nil || string(content) != "#!/bin/sh\n" {
			t.Errorf("%s: %q, %v", name, content, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o100 == 0 {
			t.Errorf("%s: it cannot be executed: %v, %v", name, info, err)
		}
	}
	if err := Extra(t.Context(), c, "usr/local/bin/other", filepath.Join(t.TempDir(), "other"), nil); err == nil || !strings.Contains(err.Error(), "no program usr/local/bin/other") {
		t.Errorf("%v", err)
	}
}
