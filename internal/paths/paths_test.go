package paths

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.WriteFile(filepath.Join(home, "key"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := Read("~/key"); err != nil || string(data) != "content" {
		t.Errorf("%q, %v", data, err)
	}
	for path, want := range map[string]string{
		"~/nope":    filepath.Join(home, "nope") + ": no such file",
		home:        home + ": is a directory",
		"/dev/zero": "/dev/zero: it is larger than 256 MiB",
	} {
		if data, err := Read(path); err == nil || !strings.Contains(err.Error(), want) || data != nil {
			t.Errorf("%s: %d bytes, %v; want %q", path, len(data), err, want)
		}
	}
	if _, err := ReadAll(strings.NewReader(strings.Repeat("x", 10)), "stdin"); err != nil {
		t.Error(err)
	}
}
