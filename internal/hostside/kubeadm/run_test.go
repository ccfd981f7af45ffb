package kubeadm

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// configuration holds a secret.
func configuration(secret string) string { return "token: " + secret + "\n" }

// fakeKubeadm reads its configuration as kubeadm does, more than once, and its second input, and is then busy.
const fakeKubeadm = `#!/bin/sh
for last; do :; done
dir=$(dirname "$0")
cat "$last" "$last" /proc/self/fd/4 > "$dir/read"
echo $$ > "$dir/new" && mv "$dir/new" "$dir/pid"
exec sleep 60
`

// TestMain lets the test's own binary be the host side that is killed.
func TestMain(m *testing.M) {
	if secret := os.Getenv("HOST_SIDE"); secret != "" {
		kubeadmCommand{args: []string{"join"}, inputs: []string{configuration(secret), "discovery\n"}}.run(context.Background()) //nolint:errcheck // it is killed
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestTokensDieWithTheSession kills the host side while kubeadm runs: the token that it was given is then in no file.
func TestTokensDieWithTheSession(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kubeadm"), []byte(fakeKubeadm), 0o700); err != nil {
		t.Fatal(err)
	}
	secret := rand.Text()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	hostSide := exec.CommandContext(ctx, self)
	hostSide.Env = append(os.Environ(), "HOST_SIDE="+secret, "PATH="+dir+":"+os.Getenv("PATH"))
	if err := hostSide.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for tick := time.NewTicker(20 * time.Millisecond); pid == 0; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("kubeadm was not started")
		}
		if text, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
			if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended with its parent
	arguments, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || strings.Contains(string(arguments), secret) {
		t.Errorf("arguments %q, %v", arguments, err)
	}
	if err := hostSide.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	hostSide.Wait() //nolint:errcheck // killed
	if read, err := os.ReadFile(filepath.Join(dir, "read")); err != nil || string(read) != configuration(secret)+configuration(secret)+"discovery\n" {
		t.Errorf("kubeadm read %q, %v", read, err)
	}
	if err := os.Remove(filepath.Join(dir, "read")); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{dir, "/run/quorate", os.TempDir()} {
		err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil && d != nil && d.IsDir():
				return fs.SkipDir
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil || !d.Type().IsRegular():
				return err
			}
			if info, err := d.Info(); err != nil || info.Size() > 4096 || time.Since(info.ModTime()) > time.Hour {
				return nil
			}
			if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), secret) {
				t.Errorf("the token is in %s", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSuperAdminIsOnOneControlPlane: no role takes its rights away, so only the host that initialises the cluster needs it.
func TestSuperAdminIsOnOneControlPlane(t *testing.T) {
	const phase = "kubeconfig/super-admin"
	if strings.Contains(skippedPhases(true), phase) || !strings.Contains(skippedPhases(false), phase) {
		t.Errorf("%s and %s", skippedPhases(true), skippedPhases(false))
	}
}
