package files

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"quorate.dev/quorate/internal/confidential"
	"quorate.dev/quorate/internal/facts"
)

// TestShow: what may contain a secret, what is large, and what is not text stays on the host.
func TestShow(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"text": "a\n", "empty": "", "key.key": "x", "login": "password = x\n", "escape": "\x1b[2J", "turned": "a\u202eb", "binary": "\xff\xfe",
		"large": strings.Repeat("x", facts.MaxShown+1), "most": strings.Repeat("x", facts.MaxShown),
		"hosts": "password = x\n# BEGIN quorate c\n1.1.1.1 a\n# END quorate c\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		content, withheld string
		missing           bool
	}{
		"text":    {content: "a\n"},
		"empty":   {},
		"most":    {content: strings.Repeat("x", facts.MaxShown)},
		"hosts#c": {content: "1.1.1.1 a\n"}, // the rest of the file belongs to others
		"hosts#d": {missing: true},
		"none":    {missing: true},
		"key.key": {withheld: confidential.ByPlace},
		"login":   {withheld: confidential.ByContent},
		"escape":  {withheld: "it is not a text file"},
		"turned":  {withheld: "it is not a text file"},
		"binary":  {withheld: "it is not a text file"},
		"large":   {withheld: "it has more than 128 KiB"},
		"fifo":    {withheld: "it is not a regular file"},
		"dir":     {withheld: "it is not a regular file"},
	} {
		got, err := show(filepath.Join(dir, name))
		if (err != nil) != want.missing || got.Content != want.content || got.Withheld != want.withheld {
			t.Errorf("%s: %q, withheld %q, %v", name, got.Content[:min(len(got.Content), 20)], got.Withheld, err)
		}
	}
}
