//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/spec"
)

// crashes are counted. The last line that `make test-crash` prints is this as JSON.
type crashes struct {
	KillPoints  int `json:"killPoints"` // runs that were killed with SIGKILL
	PowerOffs   int `json:"powerOffs"`  // runs during which a host lost its power
	Operations  int `json:"operations"`
	Converged   int `json:"converged"` // operations after which nothing was left to do
	AckedWrites int `json:"ackedWrites"`
	LostWrites  int `json:"lostWrites"`
}

// What of TestCrash is run, if not all of it: the whole of it takes hours.
var (
	series     = flag.String("series", "", "kills or power-offs; both if it is empty")
	operations = flag.String("operations", "", "the operations to interrupt, separated by commas; the others are only made. All if it is empty")
)

// TestCrash makes every operation while its caller is killed again and again: once when a step begins, and once in the middle of
// it. The next run goes on from there, and is killed at the step after that. In a second series, a host loses its power in the
// middle of each step: the host of the step, or any one. Its disk keeps only what had reached it. Without -whole, it is a sample of the kills at
// the steps of some operations.
func TestCrash(t *testing.T) {
	var n crashes
	if *series != "power-offs" {
		t.Run("kills", func(t *testing.T) { crashSeries(t, &n, false) })
	}
	if *whole && *series != "kills" && !t.Failed() {
		t.Run("power-offs", func(t *testing.T) { crashSeries(t, &n, true) })
	}
	data, _ := json.Marshal(n)
	printArtifact(t, "crash.json", string(data)+"\n")
}

func crashSeries(t *testing.T, n *crashes, byPower bool) {
	c := newCluster(t, "e2e-crash")
	before := traces(t, c.name)
	ctx := testContext(t)
	file := filepath.Join(c.dir, "spec.yaml")
	s := shapeOf(t, spec.InitOptions{Name: c.name, Workers: 1})
	if *whole {
		s.Spec.Kubernetes.Version = formerVersion
	}
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	create := []string{"lab", "create", "--empty", "-f", file}
	if byPower {
		create = append(create, "--own-disks")
	}
	c.must(t, ctx, create...)
	file = c.specFile() // with the machines' addresses
	k := &crash{crashes: n, c: c, h: &changingHosts{c: c, spec: file}, byPower: byPower}
	t.Run("build", func(t *testing.T) { k.operation(t, "build", []string{"apply", "-f", file}) })
	if t.Failed() {
		t.FailNow()
	}
	if t.Run("in use", k.inUse); t.Failed() {
		t.FailNow()
	}
	k.uid = ""
	t.Run("reset", func(t *testing.T) {
		k.nothingLeft = func(ctx context.Context) error {
			for _, h := range []string{"cp-b", "cp-c", "worker-a"} {
				if left := c.ssh(t, ctx, h, "ls -d /etc/kubernetes /var/lib/etcd /var/lib/kubelet 2>/dev/null; ls /var/lib/quorate 2>/dev/null | grep -vx bin || true"); left != "" {
					return fmt.Errorf("%s was not reset: %s", h, left)
				}
			}
			return nil
		}
		k.operation(t, "reset", []string{"reset", "--all", "--yes", "-f", file})
	})
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// inUse makes the operations that clients must not notice, while they write.
func (k *crash) inUse(t *testing.T) {
	ctx := testContext(t)
	c, file := k.c, k.h.spec
	_, api := c.client(t, ctx)
	k.api, k.uid = api, clusterUID(t, ctx, api)
	k.h.p = c.clients(t, ctx)
	add := func(t *testing.T) {
		fresh := k.h.machine(t, ctx, "worker-z", "c", spec.RoleWorker)
		k.h.edit(t, func(s *spec.Cluster) { s.Spec.Hosts = append(s.Spec.Hosts, fresh) })
	}
	replace := func(old, name, zone string) func(*testing.T) {
		return func(t *testing.T) {
			fresh := k.h.machine(t, ctx, name, zone, spec.RoleControlPlane)
			k.h.edit(t, func(s *spec.Cluster) {
				remove(s, old)
				s.Spec.Hosts = append(s.Spec.Hosts, fresh)
			})
		}
	}
	version := func(v string) func(*testing.T) {
		return func(t *testing.T) { k.h.edit(t, func(s *spec.Cluster) { s.Spec.Kubernetes.Version = v }) }
	}
	profile := func(name string) func(*testing.T) {
		return func(t *testing.T) { k.h.edit(t, func(s *spec.Cluster) { s.Spec.Failover.Profile = name }) }
	}
	apply, nothing := []string{"apply", "-f", file}, func(*testing.T) {}
	for _, o := range sample([]struct {
		name    string
		prepare func(*testing.T)
		args    []string
	}{
		{"add", add, apply},
		{"remove", func(t *testing.T) { k.h.edit(t, func(s *spec.Cluster) { remove(s, "worker-z") }) }, apply},
		{"replace", replace("cp-a", "cp-x", "a"), apply},
		{"maintain", nothing, []string{"maintain", "-f", file, "cp-b"}},
		{"end the maintenance", nothing, []string{"maintain", "-f", file, "--undo", "cp-b"}},
		{"upgrade", version(spec.DefaultVersion), apply},
		{"roll back", version(formerVersion), apply},
		{"slower", profile(spec.ProfileStandard), apply},
		{"faster", profile(spec.ProfileFast), apply},
	}, 2) {
		t.Run(o.name, func(t *testing.T) {
			o.prepare(t)
			k.operation(t, o.name, o.args)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	lost, acked, err := k.h.p.Lost(ctx)
	if err != nil || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
	k.AckedWrites += acked
	k.LostWrites += len(lost)
}

// crash counts, and is what one operation after another is made with.
type crash struct {
	*crashes
	c   *cluster
	h   *changingHosts
	api kubernetes.Interface
	uid string // of the cluster; empty while there is none
	// byPower has hosts lose their power, instead of killing the caller.
	byPower     bool
	nothingLeft func(context.Context) error // after the operation; nil: the plan has no steps
}

const (
	// convergence is how long an operation may make no progress: what a kill has left behind may need some time, such as a lease, an election, or a machine
	// that starts. The user is told to run it again.
	convergence = 5 * time.Minute
	// callerWaits is how long the caller may go on after a host has lost its power. Then the user ends it.
	callerWaits = 20 * time.Second
)

// operation makes one, and interrupts it at each of its steps. It fails the test if the operation does not end well when nothing more
// is done to it.
func (k *crash) operation(t *testing.T, name string, args []string) {
	t.Helper()
	ctx := testContext(t)
	visits, chosen := map[string]int{}, map[string]bool{}
	points, progress := 0, time.Now()
	undisturbed := *operations != "" && !slices.Contains(strings.Split(*operations, ","), name)
	if !undisturbed {
		k.Operations++
	}
	for {
		r := k.c.start(t, ctx, append(args, "--verbose")...)
		step, first := r.atStep(ctx, func(step, first string) bool {
			if undisturbed {
				return false
			}
			if visits[step]++; visits[step] == 1 {
				chosen[step] = *whole || len(visits)%8 == 2 // the second step, the tenth, and so on
			}
			return chosen[step] && visits[step] <= k.visits()
		})
		lost, impatient := "", (*time.Timer)(nil)
		if step != "" {
			delay := time.Duration(0)
			if visits[step] > 1 || k.byPower {
				delay = rand.N(1500 * time.Millisecond) // the moment is the test's parameter
			}
			if k.byPower {
				lost = k.loseHost(t, ctx, first, delay)
				impatient = time.AfterFunc(callerWaits, func() { _ = r.process.Kill() }) // an error is that it has ended
			} else {
				r.signal(t, ctx, syscall.SIGKILL, delay)
			}
			points++
			progress = time.Now()
		}
		code, all := r.wait(t)
		if lost != "" {
			impatient.Stop()
			k.PowerOffs++
			t.Logf("%s: %s lost its power: exit status %d: %s", step, lost, code, tail(all, 300))
			k.c.must(t, ctx, "lab", "--lab", k.c.name, "heal", "power-off", lost)
			continue
		}
		if code == -1 {
			k.KillPoints++
			continue
		}
		if code == 0 {
			break
		}
		if time.Since(progress) > convergence {
			t.Fatalf("it does not converge: exit status %d: %s", code, all)
		}
		t.Logf("after %d points: exit status %d: %s", points, code, tail(all, 600))
		pause(ctx, 5*time.Second)
	}
	t.Logf("%d points", points)
	if points == 0 && !undisturbed {
		t.Error("no step was reached")
	}
	done := k.nothingLeft
	if done == nil {
		look := k.c.looks(t, ctx, "-f", k.h.spec)
		done = func(context.Context) error {
			_, err := look()
			return err
		}
	}
	eventually(t, ctx, "nothing is left to do", func() error { return done(ctx) })
	if k.uid != "" {
		if now := clusterUID(t, ctx, k.api); now != k.uid {
			t.Errorf("it is another cluster: %s instead of %s", now, k.uid)
		}
	}
	if !undisturbed {
		k.Converged++
	}
}

// visits is how often one step is the end of a run.
func (k *crash) visits() int {
	if k.byPower {
		return 1
	}
	return 2
}

// loseHost cuts the power of a host after a delay: the one that is named, or any one if there is none of that name.
func (k *crash) loseHost(t *testing.T, ctx context.Context, name string, delay time.Duration) string {
	t.Helper()
	machines := k.c.lab(t).Machines()
	if !slices.ContainsFunc(machines, func(m lab.Machine) bool { return m.Name == name }) {
		name = machines[rand.N(len(machines))].Name
	}
	pause(ctx, delay)
	k.c.must(t, ctx, "lab", "--lab", k.c.name, "fault", "power-off", name)
	return name
}

// atStep reads what a command says until it begins a step that is wanted. It returns the step and its first word, which is its
// host if it has one; both are empty if the command ended before.
func (r *running) atStep(ctx context.Context, wanted func(step, first string) bool) (step, first string) {
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				return "", ""
			}
			r.said.WriteString(line + "\n")
			begins, is := strings.CutSuffix(line, " …")
			words := strings.Fields(begins)
			if !is || len(words) < 2 || !strings.HasSuffix(words[0], "s") {
				continue
			}
			step := strings.Join(words[1:], " ")
			if !wanted(step, words[1]) {
				continue
			}
			return step, words[1]
		case <-ctx.Done():
			return "", ""
		}
	}
}

func clusterUID(t *testing.T, ctx context.Context, api kubernetes.Interface) string {
	t.Helper()
	var uid string
	eventually(t, ctx, "the API answers", func() error {
		ns, err := api.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		if err == nil {
			uid = string(ns.UID)
		}
		return err
	})
	return uid
}

func tail(text string, length int) string { return text[max(0, len(text)-length):] }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
