//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// TestInterrupted kills runs at every kind of step, and lets the next run finish the work.
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

	plannedNow := func(t *testing.T) []plan.Step {
		t.Helper()
		return planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
	}
	hits := 0
	// interrupt interrupts one run of apply at a step of the kind, if there is one left.
	interrupt := func(t *testing.T, kind plan.Kind, state string, delay time.Duration, by os.Signal) {
		t.Helper()
		steps := plannedNow(t)
		if !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind == kind }) {
			t.Logf("nothing is left of %s: an earlier run had come further", kind)
			return
		}
		r := c.start(t, ctx, "apply", "-f", file, "--verbose")
		if !r.reaches(ctx, title(t, steps, kind)+" "+state) {
			code, all := r.wait(t)
			t.Fatalf("apply ends before it comes to %s %s: exit status %d: %s", kind, state, code, all)
		}
		r.signal(t, ctx, by, delay)
		code, all := r.wait(t)
		switch {
		case by == syscall.SIGKILL && code == -1, by == os.Interrupt && code == 1 && strings.Contains(all, "interrupted"):
			hits++
			t.Logf("%s at %s %s", by, kind, state)
		case code == 0 && kind == plan.Verify:
			t.Logf("%s at %s came too late", by, kind)
		default:
			t.Errorf("%s at %s %s: exit status %d: %s", by, kind, state, code, all)
		}
	}
	t.Run("from the keys to the first start", func(t *testing.T) {
		interrupt(t, plan.MakePKI, "…", 100*time.Millisecond, syscall.SIGKILL)
		interrupt(t, plan.MakePKI, "… done", 0, syscall.SIGKILL)
		interrupt(t, plan.StartKubelet, "…", 100*time.Millisecond, syscall.SIGKILL)
	})
	t.Run("two at once", func(t *testing.T) {
		one := c.start(t, ctx, "apply", "-f", file, "--verbose")
		if !one.reaches(ctx, title(t, plannedNow(t), plan.InitCluster)+" …") {
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
		interrupt(t, plan.InitCluster, "…", 500*time.Millisecond, syscall.SIGKILL)
		interrupt(t, plan.InitCluster, "…", 500*time.Millisecond, os.Interrupt)
		interrupt(t, plan.InitCluster, "… done", 0, syscall.SIGKILL)
		interrupt(t, plan.StartControlPlane, "…", 300*time.Millisecond, syscall.SIGKILL)
		interrupt(t, plan.UseLocalAPI, "…", 300*time.Millisecond, syscall.SIGKILL)
		interrupt(t, plan.Verify, "…", 500*time.Millisecond, os.Interrupt)
	})
	if hits < 4 {
		t.Errorf("only %d runs were interrupted", hits)
	}

	r := c.must(t, ctx, "apply", "-f", file)
	t.Logf("the last run took %s", r.took)
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("after all there are steps: %+v", steps)
	}
	ownServers(t, ctx, c)
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// ownServers checks that the kubelet of each control plane uses the local API server, by its kubeconfig and by its
// connections.
func ownServers(t *testing.T, ctx context.Context, c *cluster) {
	t.Helper()
	for _, machine := range []string{"cp-a", "cp-b", "cp-c"} {
		servers := strings.Fields(c.ssh(t, ctx, machine, "cd /etc/kubernetes && sed -n 's/^ *server: //p' kubelet.conf controller-manager.conf"))
		if len(servers) != 2 || servers[0] != servers[1] {
			t.Errorf("%s: kubelet and controllers go to %v", machine, servers)
			continue
		}
		address := strings.TrimPrefix(servers[0], "https://")
		if peers := c.ssh(t, ctx, machine, "ss -Htnp state established | grep '\"kubelet\"' | awk '{print $4}'"); !strings.Contains(peers, address) {
			t.Errorf("%s: the kubelet speaks to %s, not to %s", machine, strings.Fields(peers), address)
		}
	}
}

// title returns the title of the steps of a kind in the progress output.
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

// running is a running command.
type running struct {
	process *os.Process
	lines   chan string
	said    strings.Builder
	end     chan int
}

// start starts a command whose progress is read line by line.
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
	r := &running{process: cmd.Process, lines: make(chan string, 4096), end: make(chan int, 1)}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			r.lines <- lines.Text()
		}
		close(r.lines)
		cmd.Wait() //nolint:errcheck // the exit status shows it
		r.end <- cmd.ProcessState.ExitCode()
	}()
	return r
}

// stepEvent is a line of progress in which a step begins or ends.
type stepEvent struct {
	step   string // its host, if it has one, and its title
	first  string // the first word of that: its host, if it has one
	begins bool
	took   time.Duration // of a step that has succeeded
}

// stepEventOf reads a line of plain progress. It returns false for a line that says something else.
func stepEventOf(line string) (stepEvent, bool) {
	words := strings.Fields(line)
	if len(words) < 3 || !strings.HasSuffix(words[0], "s") {
		return stepEvent{}, false
	}
	text := strings.Join(words[1:], " ")
	if step, begins := strings.CutSuffix(text, " …"); begins {
		return stepEvent{step: step, first: words[1], begins: true}, true
	}
	if step, took, ends := strings.Cut(text, " … done "); ends {
		length, err := time.ParseDuration(took)
		return stepEvent{step: step, first: words[1], took: length}, err == nil
	}
	if step, _, failed := strings.Cut(text, " … failed after "); failed {
		return stepEvent{step: step, first: words[1]}, true
	}
	return stepEvent{}, false
}

// reaches waits for a line that contains the words. It returns false if the command ends without printing them.
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
	if err := r.process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// wait returns the exit status, -1 for a killed command, and the whole output.
func (r *running) wait(t *testing.T) (int, string) {
	t.Helper()
	for line := range r.lines {
		r.said.WriteString(line + "\n")
	}
	return <-r.end, r.said.String()
}
