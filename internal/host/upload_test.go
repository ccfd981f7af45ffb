package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// onHost runs a script as the login shell of a host would, with this folder in the place of the host's.
func onHost(t *testing.T, dir, script, stdin string) (stdout string, status int) {
	t.Helper()
	script = strings.NewReplacer("/var/lib/quorate", dir+"/lib", "/run/quorate", dir+"/run").Replace(script)
	if strings.Contains(script, "'") {
		t.Fatal("the script has single quotes, in which it is sent")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = []string{"PATH=/nonexistent"} // as a sudo policy may have it
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestScripts runs what is sent to hosts: a binary that is not whole is never started, and is replaced.
func TestScripts(t *testing.T) {
	const program = "#!/bin/sh\necho started \"$@\"\n"
	path := filepath.Join(t.TempDir(), "quorate")
	if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	me, err := selfOf(path, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(binary string) error{
		"missing":                     nil,
		"empty":                       func(b string) error { return os.Truncate(b, 0) },
		"truncated":                   func(b string) error { return os.Truncate(b, int64(len(program)-3)) },
		"truncated, in the same boot": func(b string) error { return os.Truncate(b, int64(len(program)-3)) },
		"not executable":              func(b string) error { return os.Chmod(b, 0o644) },
		"full of zeros":               func(b string) error { return os.WriteFile(b, make([]byte, len(program)), 0o755) },
		"of another build": func(b string) error {
			return os.WriteFile(b, []byte(strings.Replace(program, "started", "STARTED", 1)), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			binary := filepath.Join(host, "lib", "bin", me.digest, "quorate")
			if damage != nil {
				if _, status := onHost(t, host, uploadScript(me), program); status != 0 {
					t.Fatalf("uploading: status %d", status)
				}
				if err := damage(binary); err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(name, "same boot") {
					if err := os.RemoveAll(filepath.Join(host, "run")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if out, status := onHost(t, host, serveScript(me), ""); status != noBinary {
				t.Fatalf("it was started: %q, status %d", out, status)
			}
			if out, status := onHost(t, host, uploadScript(me), program); status != 0 || out != uploading {
				t.Fatalf("uploading: %q, status %d", out, status)
			}
			for range 2 {
				if out, status := onHost(t, host, serveScript(me), ""); status != 0 || out != "started host serve\n" {
					t.Fatalf("starting: %q, status %d", out, status)
				}
			}
		})
	}
	t.Run("an upload that ends early", func(t *testing.T) {
		host := t.TempDir()
		if _, status := onHost(t, host, uploadScript(me), program[:10]); status == 0 {
			t.Error("half of a binary was taken")
		}
		if left, _ := filepath.Glob(filepath.Join(host, "lib", "bin", me.digest, ".*")); len(left) > 0 {
			t.Errorf("it left %v", left)
		}
		if _, status := onHost(t, host, serveScript(me), ""); status != noBinary {
			t.Errorf("status %d", status)
		}
	})
}

func TestNoexecMount(t *testing.T) {
	const mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" +
		"40 22 8:2 / /var rw,nosuid,noexec,relatime shared:2 - ext4 /dev/sda2 rw\n" +
		"41 40 8:3 / /var/log rw,relatime - ext4 /dev/sda3 rw\n"
	for path, want := range map[string]string{"/var/lib/quorate/bin": "/var", "/var/log/x": "", "/variable": "", "/usr": ""} {
		if got := noexecMount(mounts, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := noexecMount(mounts+"42 40 8:4 / /var rw,relatime - ext4 /dev/sda4 rw\n", "/var/lib"); got != "" {
		t.Errorf("the mount on top of it counts, not %q", got)
	}
}

// TestSudoAdvice: sudo and sudo-rs have different words for the same thing.
func TestSudoAdvice(t *testing.T) {
	for _, said := range []string{"sudo: a password is required\n", "sudo: interactive authentication is required\n"} {
		if advice := (&dialer{}).sudoAdvice(Target{User: "ops"}, said); !strings.Contains(advice, "--ask-sudo-password") {
			t.Errorf("%q: %q", said, advice)
		}
	}
}
