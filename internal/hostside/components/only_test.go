package components

import (
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"quorate.dev/quorate/internal/hostside/system"
)

// TestEnded: what could not be read is not taken for a process that has ended. Its lease would go to another leader while it leads.
func TestEnded(t *testing.T) {
	stat := func(state, start string) string {
		return "7 (kube) scheduler) " + state + " 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 9 0 " + start + " 1 1"
	}
	p := Process{PID: 7, start: 4711}
	for name, tc := range map[string]struct {
		stat string
		err  error
		want bool
	}{
		"it runs":                             {stat("S", "4711"), nil, false},
		"it is stopped":                       {stat("T", "4711"), nil, false},
		"it waits for a disk":                 {stat("D", "4711"), nil, false},
		"its parent has not noticed its end":  {stat("Z", "4711"), nil, true},
		"another process has its ID":          {stat("S", "4712"), nil, true},
		"nobody has its ID":                   {"", &fs.PathError{Op: "open", Err: syscall.ENOENT}, true},
		"it ended while its file was read":    {"", &fs.PathError{Op: "read", Err: syscall.ESRCH}, true},
		"too many files are open":             {"", &fs.PathError{Op: "open", Err: syscall.EMFILE}, false},
		"there is no memory":                  {"", &fs.PathError{Op: "read", Err: syscall.ENOMEM}, false},
		"the file is empty":                   {"", nil, false},
		"the file is of an unknown structure": {"7 (kube-scheduler) S 1", nil, false},
	} {
		if got := p.ended(tc.stat, tc.err); got != tc.want {
			t.Errorf("%s: ended %t", name, got)
		}
	}
}

// TestAProcessEnds follows a real one.
func TestAProcessEnds(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() //nolint:errcheck // it may have ended
	start, ok := system.StartTicks(statFile(cmd.Process.Pid))
	p := Process{PID: cmd.Process.Pid, start: start}
	if !ok || p.Ended() {
		t.Fatalf("%+v has ended", p)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if p.Ended() {
		t.Error("a process that is stopped has ended")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !p.Ended(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process that was killed, and that nobody has waited for, still runs")
		}
	}
	_ = cmd.Wait()
	if !p.Ended() {
		t.Error("a process that is gone still runs")
	}
	start, _ = system.StartTicks(statFile(os.Getpid()))
	if other := (Process{PID: os.Getpid(), start: start + 1}); !other.Ended() {
		t.Error("a process that began at another time counts as this one")
	}
}
