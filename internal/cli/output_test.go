package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// asCommand has the test binary be quorate.
const asCommand = "QUORATE_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// process runs a command line in a process of its own, in an empty folder.
func process(t *testing.T, stdout, stderr *os.File, args ...string) (ended *exec.ExitError, errors string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), asCommand+"=yes", "QUORATE_STATE="+t.TempDir(), "QUORATE_CACHE="+t.TempDir())
	cmd.Stdout = stdout
	var text bytes.Buffer
	cmd.Stderr = &text
	if stderr != nil {
		cmd.Stderr = stderr
	}
	err := cmd.Run()
	if err != nil {
		ended = err.(*exec.ExitError) //nolint:errorlint // of exec itself
	}
	return ended, text.String()
}

// closedPipe is a pipe that nobody reads.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	t.Cleanup(func() { w.Close() })
	return w
}

// TestTheReaderEnds: a command that only reads ends as other programs do, and one that may change something goes on. Neither complains.
func TestTheReaderEnds(t *testing.T) {
	closed := closedPipe(t)
	for _, args := range [][]string{{"version"}, {"help"}, {"completion", "bash"}, {"version", "--help"}} {
		ended, says := process(t, closed, nil, args...)
		if ended == nil || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE || says != "" {
			t.Errorf("%s: it ended with %v, and says %q", args, ended, says)
		}
	}
	if ended, says := process(t, closed, nil, "init", "--to", "-"); ended != nil || says != "" {
		t.Errorf("init: it ended with %v, and says %q", ended, says)
	}
	file := t.TempDir() + "/cluster.yaml"
	if ended, _ := process(t, nil, closed, "init", "--to", file); ended != nil {
		t.Errorf("init, whose progress nobody reads: it ended with %v", ended)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestAFullDevice: a result that was not written is an error.
func TestAFullDevice(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"version"}, {"version", "-o", "json"}, {"help"}, {"completion", "bash"}, {"init", "--to", "-"}, {"validate", "--schema"}} {
		ended, says := process(t, full, nil, args...)
		if ended == nil || ended.ExitCode() != exitFailed || !strings.HasPrefix(says, "quorate: writing the output: ") || !strings.Contains(says, syscall.ENOSPC.Error()) {
			t.Errorf("%s: it ended with %v, and says %q", args, ended, says)
		}
	}
}

// failing is a file that cannot be written.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestOutputThatIsLost: only a command that may end anywhere learns that its output is lost. That a reader has ended is no failure.
func TestOutputThatIsLost(t *testing.T) {
	for _, tc := range []struct {
		err          error
		goesOn       bool
		told, failed bool
	}{
		{syscall.EPIPE, false, true, true}, {syscall.EPIPE, true, false, false},
		{syscall.ENOSPC, false, true, true}, {syscall.ENOSPC, true, false, true},
	} {
		_, o := remembering(failing{tc.err})
		o.goesOn = tc.goesOn
		_, err := io.WriteString(o, "a line")
		if told := errors.Is(err, tc.err); told != tc.told || (o.err != nil) != tc.failed {
			t.Errorf("%v, goes on: %t: the caller gets %v, and %v is left", tc.err, tc.goesOn, err, o.err)
		}
	}
}

// TestTheStatusOfLostOutput: whatever the result is, it did not arrive. What failed before that is said.
func TestTheStatusOfLostOutput(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want int
		says string
	}{
		"done":        {nil, exitFailed, "quorate: writing the output: no space left on device\nOnly the output is lost: the command did everything else.\n"},
		"changes":     {&statusError{exitChanges}, exitFailed, "quorate: writing the output: no space left on device\n"},
		"not written": {fmt.Errorf("the plan: %w", syscall.ENOSPC), exitFailed, "quorate: writing the output: no space left on device\n"},
		"wrong usage": {usageError{errors.New("no spec")}, exitUsage, "quorate: no spec\n"},
	} {
		var says bytes.Buffer
		a := &app{err: &says, printed: &output{err: syscall.ENOSPC, goesOn: true}}
		if code := a.ended(tc.err); code != tc.want || says.String() != tc.says {
			t.Errorf("%s: exit status %d; it says %q", name, code, says.String())
		}
	}
}

// TestCommandsThatOnlyRead: a command that is not known to only read is carried out to its end. Whoever adds one decides.
func TestCommandsThatOnlyRead(t *testing.T) {
	want := []string{"audit", "audit cis", "backup list", "bundle list", "bundle sources", "bundle verify", "bundle versions", "certs", "completion bash", "completion fish", "completion powershell", "completion zsh",
		"drill history", "help", "lab list", "monitoring access", "monitoring rules", "monitoring scrape", "plan", "preflight", "size", "status", "validate", "version"}
	changes := []string{"apply", "backup", "backup fetch", "backup verify", "bundle build", "bundle export", "bundle import", "bundle pull", "bundle push", "certs renew", "certs rotate", "certs rotate-encryption-key",
		"dashboard", "down", "drill", "init", "kubeconfig", "lab create", "lab delete", "lab exec", "lab fault", "lab heal", "lab requirements", "lab scale", "lab ssh", "maintain", "monitoring dashboards", "recover", "repair",
		"reset", "restore", "up", "watch"}
	var have, other []string
	var walk func(c *cobra.Command)
	a := &app{}
	a.out, a.printed = remembering(io.Discard)
	walk = func(c *cobra.Command) {
		name := strings.TrimPrefix(c.CommandPath(), "quorate ")
		switch {
		case name == "host" || strings.HasPrefix(name, "host "):
			if c.Annotations[readsAnnotation] != "" {
				t.Errorf("%s works on a host", name)
			}
		case c.Annotations[readsAnnotation] != "":
			have = append(have, name)
		case c.Annotations[readsAnnotation] == "" && c.Runnable() && (!c.HasSubCommands() || slices.Contains(changes, name)):
			other = append(other, name)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root := a.root()
	root.InitDefaultHelpCmd()
	walk(root)
	slices.Sort(have)
	slices.Sort(other)
	if !slices.Equal(have, want) {
		t.Errorf("only read: %q, want %q", have, want)
	}
	if !slices.Equal(other, changes) {
		t.Errorf("the others: %q, want %q", other, changes)
	}
}
