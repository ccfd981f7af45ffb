package packages

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// TestAnotherPackageManager has an apt-get that does not find a package before its lists were refreshed, while something else refreshes
// them, as on a virtual machine that has just started.
func TestAnotherPackageManager(t *testing.T) {
	const lock = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
	for name, tc := range map[string]struct {
		says     string // while the lists cannot be refreshed
		attempts int    // until they can
		patience time.Duration
		want     string
		ran      []string
	}{
		"ends soon":      {lock, 3, time.Minute, "", []string{"install", "update", "update", "update", "install"}},
		"is not running": {"", 1, time.Minute, "", []string{"install", "update", "install"}},
		"hangs":          {lock, 1000, 0, "held by process 7", []string{"install", "update"}},
		"is no problem":  {"E: Failed to fetch http://mirror/InRelease", 1000, time.Minute, "Failed to fetch", []string{"install", "update"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := strings.NewReplacer("DIR", dir, "SAYS", tc.says, "ATTEMPTS", strconv.Itoa(tc.attempts)).Replace(`#!/bin/sh
case "$*" in
*update*)
	echo update >>DIR/log
	if [ $(grep -c update DIR/log) -lt ATTEMPTS ]; then echo "SAYS" >&2; exit 100; fi
	echo >DIR/lists ;;
*)
	echo install >>DIR/log
	if [ ! -e DIR/lists ]; then echo "E: Unable to locate package haproxy" >&2; exit 100; fi ;;
esac
`)
			if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			before, pause := lockPatience, lockPause
			defer func() { lockPatience, lockPause = before, pause }()
			lockPatience, lockPause = tc.patience, time.Millisecond
			if tc.patience == 0 {
				lockPause = time.Hour
			}
			err := install(t.Context(), managers[facts.Debian], []string{"haproxy"})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			log, err := os.ReadFile(filepath.Join(dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			if ran := strings.Fields(string(log)); !slices.Equal(ran, tc.ran) {
				t.Errorf("ran %v, want %v", ran, tc.ran)
			}
		})
	}
}
