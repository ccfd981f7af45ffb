//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// TestInterrupted kills runs in the middle of everything that they do, and has the next one finish the job.
func TestInterrupted(t *testing.T) {
	c := newCluster(t, "e2e-kill")
	before := traces(t, c.name)
	ctx := testContext(t)
	file := filepath.Join(c.dir, "spec.yaml")
	text, err := spec.Init(spec.InitOptions{Name: c.name, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("while machines are made", func(t *testing.T) {
		for _, delay := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond} {
			r := c.start(t, ctx, "up", "-f", file)
			r.signal(t, ctx, syscall.SIGKILL, delay)
		}
		r := c.start(t, ctx, "up", "-f", file)
		r.signal(t, ctx, os.Interrupt, time.Second)
		if code, all := r.wait(t); code != 1 || !strings.Contains(all, "interrupted") || !strings.Contains(all, "run the same command again") {
			t.Errorf("up after Ctrl-C: exit status %d: %s", code, all)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	c.must(t, ctx, "lab", "create", "-f", file)

	steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
	t.Run("two at once", func(t *testing.T) {
		one := c.start(t, ctx, "apply", "-f", file, "--verbose")
		if !one.reaches(ctx, title(t, steps, plan.MakePKI)) {
			_, all := one.wait(t)
			t.Fatalf("apply does not begin: %s", all)
		}
		two := c.run(ctx, "apply", "-f", file)
		if two.code != 1 || !strings.Contains(two.stderr, "another run is changing this host") {
			t.Errorf("the second run: %s", two)
		}
		one.signal(t, ctx, syscall.SIGKILL, 0)
		one.wait(t)
	})
	t.Run("while the cluster is built", func(t *testing.T) {
		for _, when := range []struct {
			kind  plan.Kind
			state string // of the first step of the kind
			delay time.Duration
			by    os.Signal
		}{
			{plan.MakePKI, "…", 200 * time.Millisecond, syscall.SIGKILL},
			{plan.MakePKI, "… done", 0, syscall.SIGKILL},
			{plan.StartControlPlane, "…", 300 * time.Millisecond, syscall.SIGKILL},
			{plan.StartControlPlane, "…", time.Second, os.Interrupt},
			{plan.StartControlPlane, "… done", 0, syscall.SIGKILL},
			{plan.InitCluster, "…", 2 * time.Second, syscall.SIGKILL},
			{plan.InitCluster, "… done", 0, syscall.SIGKILL},
			{plan.JoinWorker, "…", time.Second, syscall.SIGKILL},
			{plan.Verify, "…", 500 * time.Millisecond, os.Interrupt},
		} {
			r := c.start(t, ctx, "apply", "-f", file, "--verbose")
			if !r.reaches(ctx, title(t, steps, when.kind)+" "+when.state) {
				code, all := r.wait(t)
				if code != 0 {
					t.Fatalf("apply fails before it comes to %s: exit status %d: %s", when.kind, code, all)
				}
				t.Logf("an earlier run had come further than %s %s", when.kind, when.state)
				continue
			}
			r.signal(t, ctx, when.by, when.delay)
			code, all := r.wait(t)
			switch {
			case when.by == syscall.SIGKILL && code == -1:
			case when.by == os.Interrupt && code == 1 && strings.Contains(all, "interrupted"):
			case code == 0 && when.kind == plan.Verify:
			default:
				t.Errorf("%s at %s %s: exit status %d: %s", when.by, when.kind, when.state, code, all)
			}
			t.Logf("%s at %s %s", when.by, when.kind, when.state)
		}
	})

	r := c.must(t, ctx, "apply", "-f", file)
	t.Logf("the last run took %s", r.took)
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("after all there are steps: %+v", steps)
	}
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// title finds how the progress calls the steps of a kind.
func title(t *testing.T, steps []plan.Step, kind plan.Kind) string {
	t.Helper()
	for _, s := range steps {
		if s.Kind == kind {
			return s.Title
		}
	}
	t.Fatalf("the plan has no step %s", kind)
	return ""
}

// running is a command that has not ended.
type running struct {
	pid   int
	lines chan string
	said  strings.Builder
	end   chan int
}

// start begins a command whose progress is read line by line.
func (c *cluster) start(t *testing.T, ctx context.Context, args ...string) *running {
	t.Helper()
	cmd := c.command(ctx, args...)
	cmd.Stdout = io.Discard
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{pid: cmd.Process.Pid, lines: make(chan string, 4096), end: make(chan int, 1)}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			r.lines <- lines.Text()
		}
		close(r.lines)
		cmd.Wait() //nolint:errcheck // the status says it
		r.end <- cmd.ProcessState.ExitCode()
	}()
	return r
}

// reaches waits for a line that contains the words. It is false when the command ends without.
func (r *running) reaches(ctx context.Context, words string) bool {
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				return false
			}
			r.said.WriteString(line + "\n")
			if strings.Contains(line, words) {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// signal sends one after a delay, unless the command ends before.
func (r *running) signal(t *testing.T, ctx context.Context, s os.Signal, after time.Duration) {
	t.Helper()
	select {
	case <-time.After(after):
	case <-ctx.Done():
	}
	if err := syscall.Kill(r.pid, s.(syscall.Signal)); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// wait returns the exit status, -1 for a killed command, and all that was said.
func (r *running) wait(t *testing.T) (int, string) {
	t.Helper()
	for line := range r.lines {
		r.said.WriteString(line + "\n")
	}
	return <-r.end, r.said.String()
}
