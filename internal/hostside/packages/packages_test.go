package packages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInterrupted: a package manager that was interrupted when the host lost its power refuses to install anything until it is repaired.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho "+name+" \"$@\" >>"+log+"\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	half := filepath.Join(dir, "half")
	m := manager{
		install: []string{script("install", "test ! -e "+half+" || { echo 'E: dpkg was interrupted, you must manually run it' >&2; exit 100; }\ntest ! -e "+dir+"/fails\n"), "--yes"},
		refresh: []string{script("refresh", "")},
		repair:  []string{script("repair", "rm "+half+"\n")}, interrupted: managers["debian"].interrupted,
	}
	for _, c := range []struct {
		name, left, want string
		fails            bool
	}{
		{name: "nothing was interrupted", want: "install --yes haproxy"},
		{name: "interrupted", left: "half", want: "install --yes haproxy; repair; install --yes haproxy"},
		{name: "it fails for another reason", left: "fails", want: "install --yes haproxy; refresh; install --yes haproxy", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(log, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.left != "" {
				if err := os.WriteFile(filepath.Join(dir, c.left), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := install(t.Context(), m, []string{"haproxy"})
			said, rerr := os.ReadFile(log)
			if rerr != nil {
				t.Fatal(rerr)
			}
			if got := strings.ReplaceAll(strings.TrimSuffix(string(said), "\n"), "\n", "; "); got != c.want || (err != nil) != c.fails {
				t.Errorf("%q, %v, want %q", got, err, c.want)
			}
		})
	}
}
