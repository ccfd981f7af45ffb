package bundle

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// eventually waits for a condition that another process brings about. The deadline is the test's end,
// not a claim about speed.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(time.Minute); !condition(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestMissingToolsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	want := map[string]string{
		runtime.GOARCH: "gcc libc6-dev libseccomp-dev pkg-config",
		otherArch:      map[string]string{"amd64": "gcc-x86-64-linux-gnu libc6-dev-amd64-cross pkg-config", "arm64": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross pkg-config"}[otherArch],
	}
	for arch, packages := range want {
		_, err := findC(t.Context(), arch)
		var missing *MissingToolsError
		if !errors.As(err, &missing) {
			t.Fatalf("%s: got %v", arch, err)
		}
		if !slices.Equal(missing.Packages, Requirements(arch)) {
			t.Errorf("%s: names %v, but all of %v are missing", arch, missing.Packages, Requirements(arch))
		}
		if want := "apt-get install -y --no-install-recommends " + packages; !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestOldGoIsNamed(t *testing.T) {
	_, err := findGo(t.Context(), "go9.9")
	var old *GoError
	if !errors.As(err, &old) || old.Found == "" || old.Need != "go9.9" {
		t.Errorf("got %v", err)
	}
	found, err := findGo(t.Context(), "go1.26.0")
	if err != nil || found.goVersion != old.Found {
		t.Errorf("got %+v %v", found, err)
	}
}

func TestDownloadError(t *testing.T) {
	for name, c := range map[string]struct {
		output, hint string // no hint: not a download's failure
	}{
		"no network":     {"go: x@v1: Get \"https://proxy/x\": dial tcp: lookup proxy: no such host", "DNS"},
		"refused":        {"go: x@v1: Get \"https://proxy/x\": dial tcp 127.0.0.1:1: connect: connection refused", "network"},
		"forbidden":      {"go: x@v1: reading https://proxy/x: 403 Forbidden\n\tserver response: not available.", "one that does"},
		"tampered":       {"verifying x@v1: checksum mismatch\n\tgo.sum: h1:a", "do not use"},
		"switched off":   {"go: x@v1: module lookup disabled by GOPROXY=off", "GOPROXY is off"},
		"a syntax error": {"main.go:1:1: expected 'package'", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cause := &CommandError{What: "list", Output: c.output, Err: &exec.ExitError{}}
			err := downloadError("the modules of x", cause)
			var download *DownloadError
			if is := errors.As(err, &download); is != (c.hint != "") {
				t.Fatalf("got %T %v", err, err)
			}
			if download != nil && (!strings.Contains(download.Hint, c.hint) || download.What != "the modules of x") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCommandErrorKeepsTheEnd(t *testing.T) {
	claimed := 0
	c := command{what: "try", stderr: func(line string) bool {
		if line == "claimed" {
			claimed++
			return true
		}
		return false
	}}
	_, err := c.output(t.Context(), "sh", "-c", `for i in $(seq 100); do echo "line $i" >&2; echo claimed >&2; done; printf 'no newline' >&2; exit 3`)
	var failed *CommandError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	lines := strings.Split(failed.Output, "\n")
	if len(lines) != tailLines || lines[len(lines)-1] != "no newline" || lines[len(lines)-2] != "line 100" || claimed != 100 {
		t.Errorf("kept %d lines, %d claimed: %q", len(lines), claimed, failed.Output)
	}
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	file := filepath.Join(t.TempDir(), "pid")
	ended := make(chan error, 1)
	go func() {
		_, err := command{what: "wait"}.output(ctx, "sh", "-c", `sleep 600 & echo $! >"$0.new"; mv "$0.new" "$0"; wait`, file)
		ended <- err
	}()
	var grandchild int
	eventually(t, "the grandchild started", func() bool {
		raw, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		grandchild, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		return err == nil
	})
	reason := errors.New("the user pressed Ctrl-C")
	cancel(reason)
	if err := <-ended; !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the grandchild ended", func() bool { return !alive(grandchild) })
}

// alive is false for zombies too: nobody may be there to reap an orphan.
func alive(pid int) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(raw[strings.LastIndex(string(raw), ")")+1:]))
	return fields[0] != "Z" && fields[0] != "X"
}

func TestLockWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("a free lock made it wait") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := lock(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("a held lock was given: %v", err)
	}
	second, err := lock(t.Context(), path, unlock)
	if err != nil {
		t.Fatal(err)
	}
	second()
}
