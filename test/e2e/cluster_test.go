//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/status"
)

// cluster is a cluster that tests use through the user's commands.
type cluster struct {
	name string
	dir  string // the commands' working directory: empty, so that no ./cluster.yaml is found by chance
}

// newCluster names a cluster, removes what an earlier run with that name left behind, and makes sure that this one is removed
// in the end.
func newCluster(t *testing.T, name string) *cluster {
	t.Helper()
	inTime(t)
	c := &cluster{name: name, dir: t.TempDir()}
	c.must(t, testContext(t), "down", "--name", name)
	t.Cleanup(func() {
		if t.Failed() {
			c.collect(t, "end")
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleaningUp)
		defer cancel()
		if r := c.run(ctx, "down", "--name", name); r.code != 0 {
			t.Errorf("quorate down: %s", r)
		}
	})
	return c
}

// besideAnother lets a test run when all others are done, next to another one of its kind. It is for tests in which little depends on how
// fast the machine is: they count no failed requests and no traces on this machine. Each names its cluster in every command.
func besideAnother(t *testing.T) {
	t.Helper()
	t.Parallel()
}

// result is the result of a command.
type result struct {
	args           []string
	code           int
	stdout, stderr string
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("quorate %s: exit status %d after %s\n%s%s", strings.Join(r.args, " "), r.code, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// command prepares the binary under test. Canceling ctx sends it an interrupt, like Ctrl-C.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	return cmd
}

func (c *cluster) run(ctx context.Context, args ...string) result {
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err := cmd.Run()
	r := result{args: args, stdout: stdout.String(), stderr: stderr.String(), took: time.Since(begin)}
	if r.code = cmd.ProcessState.ExitCode(); r.code == 0 && err != nil {
		r.code = -1
	}
	if ctx.Err() != nil {
		r.stderr += "\n(" + context.Cause(ctx).Error() + ")"
	}
	return r
}

// must is run for a command that must succeed.
func (c *cluster) must(t *testing.T, ctx context.Context, args ...string) result {
	t.Helper()
	return c.exits(t, ctx, 0, args...)
}

// exits is run for a command that must end with the given status.
func (c *cluster) exits(t *testing.T, ctx context.Context, code int, args ...string) result {
	t.Helper()
	r := c.run(ctx, args...)
	if r.code != code {
		t.Fatalf("want exit status %d: %s", code, r)
	}
	return r
}

// put writes a file on a machine.
func (c *cluster) put(t *testing.T, ctx context.Context, machine, path, content string) {
	t.Helper()
	var said bytes.Buffer
	command := "mkdir -p $(dirname " + path + "); cat >" + path
	if err := c.lab(t).Exec(ctx, machine, []string{"sh", "-ec", command}, strings.NewReader(content), &said, &said); err != nil {
		t.Fatalf("writing %s on %s: %v: %s", path, machine, err, said.String())
	}
}

// ssh runs a command on a machine.
func (c *cluster) ssh(t *testing.T, ctx context.Context, machine, command string) string {
	t.Helper()
	return strings.TrimSpace(c.must(t, ctx, "lab", "--lab", c.name, "ssh", machine, command).stdout)
}

// labDo turns a lab command into a step.
func (c *cluster) labDo(args ...string) func(*testing.T, context.Context) {
	return func(t *testing.T, ctx context.Context) {
		t.Helper()
		c.must(t, ctx, append([]string{"lab", "--lab", c.name}, args...)...)
	}
}

// specFile is where up wrote the cluster's spec.
func (c *cluster) specFile() string { return paths.State("clusters", c.name, "cluster.yaml") }

func (c *cluster) lab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.Open(c.name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (c *cluster) status(ctx context.Context) (status.Status, result, error) {
	return c.statusOf(ctx, c.specFile())
}

// statusOf is status for a spec that was not made by up.
func (c *cluster) statusOf(ctx context.Context, file string) (status.Status, result, error) {
	r := c.run(ctx, "status", "-f", file, "-o", "json")
	var s status.Status
	if r.code != 0 {
		return s, r, errors.New(r.String())
	}
	return s, r, json.Unmarshal([]byte(r.stdout), &s)
}

// lacks is what a cluster lacks for full margins and no problems.
func lacks(s status.Status) (out []string) {
	m := s.Margins
	for name, full := range map[string]bool{"control planes": m.ControlPlanes == 1, "etcd": m.Etcd == 1, "zones": m.Zones == 1,
		"load balancers": len(s.LoadBalancers) == 0 || m.LoadBalancers != nil && *m.LoadBalancers == len(s.LoadBalancers)-1} {
		if !full {
			out = append(out, "margin of "+name)
		}
	}
	return append(out, problems(s)...)
}

// problems names the problems of a cluster.
func problems(s status.Status) (out []string) {
	for _, p := range s.Problems {
		out = append(out, p.Rule+" "+strings.Join(p.Subjects, " "))
	}
	return out
}

// shortOf says what a cluster lacks for full margins and no problems.
func shortOf(s status.Status) error {
	if len(lacks(s)) == 0 {
		return nil
	}
	text, _ := json.Marshal(map[string]any{"margins": s.Margins, "problems": s.Problems})
	return errors.New(string(text))
}

// passing tells what is wrong only now and then: on a busy computer checks and answers are late all the time, but not always the same. For the
// first half of patience it excuses nothing.
type passing struct {
	begin  time.Time
	looks  int
	always []string // what was wrong at every look since then
}

// excuses says that nothing of what is wrong at this look has been wrong all the time.
func (p *passing) excuses(wrong []string) bool {
	if p.begin.IsZero() {
		p.begin = time.Now()
	}
	if time.Since(p.begin) < patience/2 {
		return false
	}
	if p.looks++; p.looks == 1 {
		p.always = wrong
	}
	p.always = slices.DeleteFunc(p.always, func(w string) bool { return !slices.Contains(wrong, w) })
	return p.looks > 2 && len(wrong) > 0 && len(p.always) == 0
}

// settles waits until nothing is wrong but what passes. A look returns the names of what is wrong, and an error that says it in full. An
// error without names is never excused.
func settles(t *testing.T, ctx context.Context, pace time.Duration, what string, look func() (wrong []string, err error)) {
	t.Helper()
	var p passing
	poll(t, ctx, pace, what, func() error {
		wrong, err := look()
		if err != nil && p.excuses(wrong) {
			t.Logf("nothing was wrong at every look; at the last one: %q", wrong)
			return nil
		}
		return err
	})
}

// whole waits until the cluster survives the loss of any one of its parts.
func (c *cluster) whole(t *testing.T, ctx context.Context) status.Status {
	t.Helper()
	return c.wholeBy(t, ctx, c.specFile())
}

// wholeBy is whole for a spec.
func (c *cluster) wholeBy(t *testing.T, ctx context.Context, file string) (s status.Status) {
	t.Helper()
	// Polling uses CPU time that the cluster needs to recover.
	settles(t, ctx, 2*time.Second, "full margins and no problems", func() (_ []string, err error) {
		if s, _, err = c.statusOf(ctx, file); err != nil {
			return nil, err
		}
		return lacks(s), shortOf(s)
	})
	return s
}

// unchanged checks that there is nothing to do for a spec: no step, from the first look on. The arguments are those of plan.
func (c *cluster) unchanged(t *testing.T, ctx context.Context, args ...string) {
	t.Helper()
	look := c.looks(t, ctx, args...)
	poll(t, ctx, time.Second, "the cluster matches its spec", func() error {
		steps, err := look()
		if len(steps) > 0 {
			t.Fatalf("the plan has steps: %v", err)
		}
		return err
	})
}

// looks returns what looks whether a cluster matches its spec. Besides the steps that are left to do, it returns an error until nothing is
// wrong but what passes.
func (c *cluster) looks(t *testing.T, ctx context.Context, args ...string) func() ([]plan.Step, error) {
	args = append([]string{"plan", "-o", "json", "--detailed-exitcode"}, args...)
	var passes passing
	return func() ([]plan.Step, error) {
		r := c.run(ctx, args...)
		if r.code == 0 {
			return nil, nil
		}
		if r.code != 5 {
			return nil, errors.New(r.String())
		}
		var p plan.Plan
		if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
			t.Fatalf("%v in %s", err, r)
		}
		if len(p.Steps) > 0 {
			return p.Steps, errors.New(r.String())
		}
		wrong := slices.Collect(maps.Keys(p.Unreachable))
		for _, f := range p.Unmet {
			wrong = append(wrong, f.Rule+" "+strings.Join(f.Subjects, " "))
		}
		if passes.excuses(wrong) {
			t.Logf("nothing was wrong at every look; at the last one: %q", wrong)
			return nil, nil
		}
		return nil, errors.New(r.String())
	}
}

// client uses the kubeconfig that quorate gives to the caller.
func (c *cluster) client(t *testing.T, ctx context.Context) (*rest.Config, *kubernetes.Clientset) {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(c.must(t, ctx, "kubeconfig", "-f", c.specFile()).stdout))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 50, 100
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return config, api
}

// patience is how long anything that happens automatically may take.
const patience = 4 * time.Minute

// eventually calls f until it succeeds, and fails the test if it never does.
func eventually(t *testing.T, ctx context.Context, what string, f func() error) {
	t.Helper()
	poll(t, ctx, 300*time.Millisecond, what, f)
}

func poll(t *testing.T, ctx context.Context, pace time.Duration, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	for {
		begin := time.Now()
		err := f()
		if err == nil {
			return
		}
		// On a slow machine, looking takes long as well: it must not take most of the time.
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v; at last: %v", what, context.Cause(ctx), err)
		case <-time.After(max(pace, 2*time.Since(begin))):
		}
	}
}

// evidence is what is collected from a machine after a failure.
var evidence = map[string]string{
	"journal":    "journalctl --no-pager --boot --lines 4000",
	"processes":  "ps -eo pid,ppid,stat,lstart,args",
	"network":    "ip address; ip route; nft list ruleset 2>/dev/null | head -400",
	"pods":       "for f in /var/log/pods/*/*/*.log; do echo \"== $f\"; tail -n 150 $f; done",
	"haproxy":    "cat /etc/haproxy/haproxy.cfg; echo 'show stat' | timeout 3 nc -U /run/haproxy/quorate.sock",
	"kubernetes": "KUBECONFIG=/etc/kubernetes/admin.conf timeout 20 kubectl get nodes,pods,events -A -o wide",
}

// collect keeps what can explain a failure.
func (c *cluster) collect(t *testing.T, moment string) {
	l, err := lab.Open(c.name)
	if err != nil {
		return // nothing was created, or everything is gone
	}
	dir := filepath.Join(artifacts, strings.ReplaceAll(t.Name(), "/", "-")+"-"+moment)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Log(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, m := range l.Machines() {
		for name, command := range evidence {
			var out bytes.Buffer
			if err := l.Exec(ctx, m.Name, []string{"sh", "-c", command}, nil, &out, &out); err != nil {
				fmt.Fprintln(&out, err)
			}
			os.WriteFile(filepath.Join(dir, m.Name+"-"+name+".log"), out.Bytes(), 0o644)
		}
	}
	_, r, _ := c.status(ctx)
	os.WriteFile(filepath.Join(dir, "status.json"), []byte(r.String()), 0o644)
	t.Logf("what the machines say is in %s", dir)
}

// printArtifact prints a text and saves it.
func printArtifact(t *testing.T, name, text string) {
	t.Helper()
	fmt.Printf("\n%s\n", text)
	if err := os.MkdirAll(artifacts, 0o755); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(artifacts, name), []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}
