package system

import (
	"context"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate.dev/quorate/internal/durable"
)

// TestMain is also the host side of a session that is killed: see TestProgramsOfAKilledSession.
func TestMain(m *testing.M) {
	if script := os.Getenv("TEST_SESSION"); script != "" {
		c := Command{Name: "sh", Args: []string{"-c", script}, Finish: os.Getenv("TEST_FINISH") != ""}
		c.Run(context.Background()) //nolint:errcheck // this process is killed before
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// await waits for a condition that another process brings about.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within ten seconds", what)
		}
	}
}

// pidIn reads a process ID that a script wrote.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	var pid int
	await(t, "a process ID in "+file, func() bool {
		var err error
		pid, err = strconv.Atoi(ReadTrimmed(file))
		return err == nil
	})
	return pid
}

func gone(pid int) func() bool {
	return func() bool { // a zombie has ended, too; nobody may collect it here
		stat := ReadTrimmed("/proc/" + strconv.Itoa(pid) + "/stat")
		return stat == "" || strings.Contains(stat, ") Z ")
	}
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	stopTimeout = 100 * time.Millisecond
	for name, script := range map[string]string{
		"obedient":  "sleep 1000 & echo $! >child; wait",
		"stubborn":  "trap '' TERM; (while :; do sleep 1; done) & echo $! >child; wait",
		"ends well": "trap 'exit 0' TERM; sleep 1000 & echo $! >child; wait",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, "sh", "-c", "cd "+dir+"; "+script) }()
			child := pidIn(t, filepath.Join(dir, "child"))
			why := errors.New("the caller disconnected")
			cancel(why)
			err := <-ended
			if name != "ends well" && !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
			await(t, "the child's end", gone(child))
		})
	}
}

// TestProgramsOfAKilledSession: nothing that a session started may go on when the session's process is killed, but for
// what must be finished.
func TestProgramsOfAKilledSession(t *testing.T) {
	dir := t.TempDir()
	session := func(script string, env ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(append(os.Environ(), "TEST_SESSION=cd "+dir+"; "+script), env...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it is gone already
		return cmd
	}
	killed := session("echo $$ >killed; exec sleep 1000")
	finishes := session("echo $$ >finishes; while ! test -e go; do sleep 0.01; done; echo a long text; echo done >result", "TEST_FINISH=yes")
	one, two := pidIn(t, filepath.Join(dir, "killed")), pidIn(t, filepath.Join(dir, "finishes"))
	for _, s := range []*exec.Cmd{killed, finishes} {
		if err := errors.Join(s.Process.Kill()); err != nil {
			t.Fatal(err)
		}
		s.Wait() //nolint:errcheck // it was killed
	}
	await(t, "the end of a program", gone(one))
	if gone(two)() {
		t.Error("what must be finished was ended, too")
	}
	if err := durable.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the result", func() bool { return ReadTrimmed(filepath.Join(dir, "result")) == "done" })
}

// TestWhatMustBeFinishedIsFinished although its context ends.
func TestWhatMustBeFinishedIsFinished(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	c := Command{Name: "sh", Args: []string{"-c", "cd " + dir + "; echo $$ >pid; while ! test -e go; do sleep 0.01; done"}, Finish: true}
	go func() { ended <- c.Run(ctx) }()
	pidIn(t, filepath.Join(dir, "pid"))
	cancel()
	if err := durable.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "http_proxy", "no_proxy", "KUBECONFIG", "LANG"} {
		t.Setenv(name, "from-the-session")
	}
	out, err := Command{Name: "env", Env: []string{"OWN=1"}}.Output(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "from-the-session") || !strings.Contains(string(out), "OWN=1\n") || !strings.Contains(string(out), "PATH=") {
		t.Errorf("a program got\n%s", out)
	}
	mask := syscall.Umask(0o077)
	defer syscall.Umask(mask)
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value) // puts it back afterwards
	}
	if err := Isolate(); err != nil {
		t.Fatal(err)
	}
	if len(os.Environ()) != 3 || os.Getenv("KUBECONFIG") != "" || os.Getenv("PATH") == "" {
		t.Errorf("this process has %v", os.Environ())
	}
	if m := syscall.Umask(0o022); m != 0o022 {
		t.Errorf("umask %o", m)
	}
	for wanted, c := range map[bool]Command{false: {Name: "env"}, true: {Name: "env", Proxies: true}} {
		out, err := c.Output(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"HTTPS_PROXY", "http_proxy", "no_proxy"} {
			if has := strings.Contains(string(out), name+"=from-the-session\n"); has != wanted {
				t.Errorf("%s: %v, want %v", name, has, wanted)
			}
		}
		if strings.Contains(string(out), "KUBECONFIG") {
			t.Errorf("a program got\n%s", out)
		}
	}
}

func TestOutputOfAFailure(t *testing.T) {
	out, err := Output(t.Context(), "sh", "-c", "echo inactive; echo the reason >&2; exit 3")
	var exit *exec.ExitError
	if string(out) != "inactive\n" || !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := Output(t.Context(), "/does/not/exist"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	got, err := Command{Name: "cat", Stdin: strings.NewReader("hello")}.Output(t.Context())
	if err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestOnlyThisPackageStartsPrograms: every other way of starting one would lose the lease, the group, and the environment.
func TestOnlyThisPackageStartsPrograms(t *testing.T) {
	files := token.NewFileSet()
	for _, dir := range []string{"..", "../../endpoint", "../../etcd", "../../host"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || path == "../system/command.go" {
				return err
			}
			f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, i := range f.Imports {
				if i.Path.Value == `"os/exec"` && strings.Contains(string(source), "exec.Command") || strings.Contains(string(source), "os.StartProcess") {
					t.Errorf("%s starts programs by itself: use system.Command", path)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
