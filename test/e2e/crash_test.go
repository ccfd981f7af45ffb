//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
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

// TestCrash makes every operation while its caller is killed again and again: once when a step begins, and once in the middle of
// it. The next run goes on from there, and is killed at the step after that. In a second series, a host loses its power in the
// middle of each of its steps. Without -whole, it is a sample of the steps of some operations.
func TestCrash(t *testing.T) {
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
	c.must(t, ctx, "lab", "create", "--empty", "-f", file)
	file = c.specFile() // with the machines' addresses
	k := &crash{c: c, h: &changingHosts{c: c, spec: file}}
	t.Run("build", func(t *testing.T) { k.operation(t, []string{"apply", "-f", file}) })
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
		k.operation(t, []string{"reset", "--all", "--yes", "-f", file})
	})
	data, _ := json.Marshal(k.crashes)
	printArtifact(t, "crash.json", string(data)+"\n")
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
			k.operation(t, o.args)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	if *whole {
		for _, o := range []struct {
			name    string
			prepare func(*testing.T)
		}{{"replace, and a host dies", replace("cp-x", "cp-y", "a")}, {"upgrade, and a host dies", version(spec.DefaultVersion)}} {
			t.Run(o.name, func(t *testing.T) {
				o.prepare(t)
				k.byPower = true
				k.operation(t, apply)
			})
		}
		k.byPower = false
	}
	lost, acked, err := k.h.p.Lost(ctx)
	if err != nil || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
	k.AckedWrites, k.LostWrites = acked, len(lost)
}

// crash counts, and is what one operation after another is made with.
type crash struct {
	crashes
	c   *cluster
	h   *changingHosts
	api kubernetes.Interface
	uid string // of the cluster; empty while there is none
	// byPower has hosts lose their power, instead of killing the caller.
	byPower     bool
	nothingLeft func(context.Context) error // after the operation; nil: the plan has no steps
}

// operation makes one, and kills it at each of its steps. It fails the test if the operation does not end well when nothing more
// is done to it.
func (k *crash) operation(t *testing.T, args []string) {
	t.Helper()
	ctx := testContext(t)
	k.Operations++
	visits, chosen := map[string]int{}, map[string]bool{}
	failures, points := 0, 0
	machines := k.c.lab(t).Machines()
	isMachine := func(name string) bool {
		return slices.ContainsFunc(machines, func(m lab.Machine) bool { return m.Name == name })
	}
	for {
		r := k.c.start(t, ctx, append(args, "--verbose")...)
		step, first := r.atStep(ctx, func(step, first string) bool {
			if k.byPower && !isMachine(first) {
				return false
			}
			if visits[step]++; visits[step] == 1 {
				chosen[step] = *whole || len(visits)%5 == 2 // the second step, the seventh, and so on
			}
			return chosen[step] && visits[step] <= k.visits()
		})
		if step != "" {
			delay := time.Duration(0)
			if visits[step] > 1 || k.byPower {
				delay = rand.N(1500 * time.Millisecond) // the moment is the test's parameter
			}
			if !k.byPower {
				r.signal(t, ctx, syscall.SIGKILL, delay)
			} else {
				k.loseHost(t, ctx, first, delay)
			}
			points++
			failures = 0 // it got further
		}
		code, all := r.wait(t)
		if step != "" && k.byPower {
			k.PowerOffs++
			k.c.must(t, ctx, "lab", "--lab", k.c.name, "heal", "power-off", first)
			continue
		}
		if code == -1 {
			k.KillPoints++
			continue
		}
		if code == 0 {
			break
		}
		// What a kill has left behind may need some time, such as a lease or an election: the user is told to run it again.
		if failures++; failures > 5 {
			t.Fatalf("it does not converge: exit status %d: %s", code, all)
		}
		t.Logf("after %d points: exit status %d: %s", points, code, tail(all, 600))
		pause(ctx, 5*time.Second)
	}
	t.Logf("%d points", points)
	if points == 0 {
		t.Error("no step was reached")
	}
	done := k.nothingLeft
	if done == nil {
		done = func(ctx context.Context) error {
			if r := k.c.run(ctx, "plan", "-f", k.h.spec, "--detailed-exitcode"); r.code != 0 {
				return errors.New(r.String())
			}
			return nil
		}
	}
	eventually(t, ctx, "nothing is left to do", func() error { return done(ctx) })
	if k.uid != "" {
		if now := clusterUID(t, ctx, k.api); now != k.uid {
			t.Errorf("it is another cluster: %s instead of %s", now, k.uid)
		}
	}
	k.Converged++
}

// visits is how often one step is the end of a run.
func (k *crash) visits() int {
	if k.byPower {
		return 1
	}
	return 2
}

// loseHost cuts the power of a host after a delay.
func (k *crash) loseHost(t *testing.T, ctx context.Context, host string, delay time.Duration) {
	t.Helper()
	pause(ctx, delay)
	k.c.must(t, ctx, "lab", "--lab", k.c.name, "fault", "power-off", host)
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
