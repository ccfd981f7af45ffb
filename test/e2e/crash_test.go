//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/test/e2e/parts"
)

// crashes are the counts of one operation, or of all. The last line that `make test-crash` prints is that of all as JSON.
type crashes struct {
	KillPoints int `json:"killPoints"` // runs that were killed with SIGKILL
	AtBegin    int `json:"atBegin"`    // of them, when a step had begun
	InMiddle   int `json:"inMiddle"`   // at a moment of its length
	AtEnd      int `json:"atEnd"`      // when it had ended before that moment
	PowerOffs  int `json:"powerOffs"`  // runs during which a host lost its power
	Operations int `json:"operations"`
	// Converged are the kills and power-offs of those operations after which nothing was left to do, when they were run again.
	Converged int `json:"converged"`
	// Unfinished are the operations of which that cannot be said.
	Unfinished     []string `json:"unfinished,omitempty"`
	SecondClusters int      `json:"secondClusters"` // how often another cluster was there than before
	AckedWrites    int      `json:"ackedWrites"`
	LostWrites     int      `json:"lostWrites"`
}

func (c *crashes) add(o crashes) {
	c.KillPoints += o.KillPoints
	c.AtBegin += o.AtBegin
	c.InMiddle += o.InMiddle
	c.AtEnd += o.AtEnd
	c.PowerOffs += o.PowerOffs
	c.Operations += o.Operations
	c.Converged += o.Converged
	c.Unfinished = append(c.Unfinished, o.Unfinished...)
	c.SecondClusters += o.SecondClusters
	c.AckedWrites += o.AckedWrites
	c.LostWrites += o.LostWrites
}

// What of TestCrash is run, if not all of it: the whole of it takes many hours. Its moments follow from -seed.
var (
	series     = flag.String("series", "", "TestCrash: kills or power-offs; both if it is empty")
	operations = flag.String("operations", "", "TestCrash: the operations to interrupt, separated by commas; others are made only if these need them. All if it is empty")
	part       = flag.String("part", "", "TestCrash: I/N interrupts at every N-th step, beginning with the I-th; N runs interrupt at all of them")
	topology   = flag.String("topology", spec.TopologyStacked, "TestCrash: stacked or external")
	accumulate = flag.Bool("accumulate", false, "TestCrash: go on after earlier runs: add to their counts in artifacts/crash-parts.json, and leave out what they have finished")
	stopAfter  = flag.Duration("stop-after", 0, "TestCrash: begin to interrupt no other operation after this time; -accumulate goes on with the rest (0: never)")
)

const (
	kills     = "kills"
	powerOffs = "power-offs"
)

// crashOperations are the names of the operations, in their order.
var crashOperations = []string{"build", "add", "remove", "replace", "replace-etcd", "maintain", "undo", "upgrade", "rollback", "slower", "faster", "reset"}

// crashPlan is what of TestCrash is run.
type crashPlan struct {
	series     []string
	operations []string
	part, of   int
	topology   string
	seed       uint64
}

// crashPlanOf reads the flags.
func crashPlanOf(series, operations, part, topology string, whole bool, seed uint64) (crashPlan, error) {
	p := crashPlan{series: []string{kills}, operations: []string{"build", "replace", "reset"}, part: 1, of: 1, topology: topology, seed: seed}
	if whole {
		p.series = append(p.series, powerOffs)
		p.operations = slices.Clone(crashOperations)
	}
	if series != "" {
		p.series = []string{series}
	}
	if operations != "" {
		p.operations = strings.Split(operations, ",")
	}
	if part != "" {
		if n, err := fmt.Sscanf(part, "%d/%d", &p.part, &p.of); n != 2 || err != nil || p.part < 1 || p.part > p.of {
			return p, fmt.Errorf("-part %s: it is I/N, with I from 1 to N", part)
		}
	}
	if topology != spec.TopologyStacked && topology != spec.TopologyExternal {
		return p, fmt.Errorf("-topology %s: it is %s or %s", topology, spec.TopologyStacked, spec.TopologyExternal)
	}
	for _, s := range p.series {
		if s != kills && s != powerOffs {
			return p, fmt.Errorf("-series %s: it is %s or %s", s, kills, powerOffs)
		}
	}
	for _, o := range p.operations {
		if !slices.Contains(crashOperations, o) {
			return p, fmt.Errorf("-operations %s: there are %s", o, strings.Join(crashOperations, ", "))
		}
		if o == "replace-etcd" && operations != "" && topology != spec.TopologyExternal {
			return p, fmt.Errorf("-operations %s: it needs -topology %s", o, spec.TopologyExternal)
		}
	}
	if p.seed == 0 {
		p.seed = rand.Uint64()
	}
	return p, nil
}

// TestCrash makes every operation while its caller is killed again and again: once when a step begins, and once in the middle of
// it, at a moment that is drawn from the whole length of the step. The next run goes on from there, and is killed at the next such point. In a second
// series, a host loses its power in the middle of each step: the host of the step, or any one. Its disk keeps only what had reached it, and
// the next run begins as soon as the host can be reached again. How long steps take is seen when each operation is made once without being
// interrupted. Without -whole, it is a sample of the kills at the steps of some operations, and such a run is left out.
func TestCrash(t *testing.T) {
	plan, err := crashPlanOf(*series, *operations, *part, *topology, *whole, *seed)
	if err != nil {
		t.Fatal(err)
	}
	counts, err := openCounts(filepath.Join(artifacts, "crash-parts.json"), *accumulate)
	if err != nil {
		t.Fatal(err)
	}
	lengths, err := openLengths(filepath.Join(artifacts, "crash-steps.json"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s draws its moments and hosts with -seed %d\n", t.Name(), plan.seed)
	defer func() { // also if earlier runs have finished all of it
		data, _ := json.Marshal(counts.total())
		printArtifact(t, "crash.json", string(data)+"\n")
	}()
	parts.Of(t, func(run func(string, func(*testing.T)) bool) {
		for _, name := range plan.series {
			if t.Failed() {
				break
			}
			run(name, func(t *testing.T) {
				k := &crash{plan: plan, counts: counts, lengths: lengths, byPower: name == powerOffs}
				k.run(t)
				if rest := slices.DeleteFunc(slices.Clone(plan.operations), func(o string) bool { return !k.possible(o) || counts.finished(k.key(o)) }); len(rest) > 0 {
					fmt.Printf("%s: left for another run: %s\n", t.Name(), strings.Join(rest, ", "))
				}
			})
		}
	})
}

// crash is what one operation after another is made with.
type crash struct {
	plan    crashPlan
	counts  *crashCounts
	lengths *stepLengths
	// byPower has hosts lose their power, instead of killing the caller.
	byPower bool
	c       *cluster
	h       *changingHosts
	uid     string // of the cluster; empty while there is none
	spares  int    // machines that have replaced others
}

// crashOperation is one operation, made once.
type crashOperation struct {
	name    string
	prepare func(*testing.T)
	args    []string
	// left returns what the operation has left undone; nil: the plan has no steps.
	left func(*testing.T, context.Context) error
	// after is called when nothing is left.
	after func(*testing.T)
}

// interrupts says that one of the operations is to be interrupted, and was not yet, and that there is time for it.
func (k *crash) interrupts(names ...string) bool {
	if *stopAfter > 0 && time.Since(thisRun.begin) > *stopAfter {
		return false
	}
	return slices.ContainsFunc(names, func(name string) bool {
		return slices.Contains(k.plan.operations, name) && k.possible(name) && !k.counts.finished(k.key(name))
	})
}

// possible says that the cluster has what the operation is about.
func (k *crash) possible(name string) bool {
	return name != "replace-etcd" || k.plan.topology == spec.TopologyExternal
}

// key is what the counts of an operation are noted under.
func (k *crash) key(name string) string {
	kind := kills
	if k.byPower {
		kind = powerOffs
	}
	return fmt.Sprintf("%s/%s/%s/%d of %d", k.plan.topology, kind, name, k.plan.part, k.plan.of)
}

// rehearses says that one of the operations is to be interrupted, and that it is not known how long its steps take.
func (k *crash) rehearses(names ...string) bool {
	return *whole && slices.ContainsFunc(names, func(name string) bool { return k.interrupts(name) && !k.lengths.rehearsed(k.operationKey(name)) })
}

func (k *crash) operationKey(name string) string { return k.plan.topology + "/" + name }

func (k *crash) run(t *testing.T) {
	if !k.interrupts(k.plan.operations...) {
		t.Skip("earlier runs have finished all of it, or there is no time left")
	}
	c := newCluster(t, "e2e-crash")
	k.c = c
	before := traces(t, c.name)
	ctx := testContext(t)
	options := spec.InitOptions{Name: c.name, Workers: 1}
	if k.plan.topology == spec.TopologyExternal {
		// Etcd holds the quorum, so that two control planes are enough. They have the load balancers, too.
		options.Topology, options.ControlPlanes, options.LoadBalancers = spec.TopologyExternal, 2, -1
	}
	s := shapeOf(t, options)
	if *whole {
		s.Spec.Kubernetes.Version = formerVersion
	}
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	shape := filepath.Join(c.dir, "spec.yaml")
	if err := os.WriteFile(shape, text, 0o600); err != nil {
		t.Fatal(err)
	}
	create := []string{"lab", "create", "--empty", "-f", shape}
	if k.byPower {
		create = append(create, "--own-disks")
	}
	c.must(t, ctx, create...)
	file := c.specFile() // with the machines' addresses
	k.h = &changingHosts{c: c, spec: file}
	build := crashOperation{name: "build", args: []string{"apply", "-f", file}}
	reset := crashOperation{name: "reset", args: []string{"reset", "--all", "--yes", "-f", file}, left: func(t *testing.T, ctx context.Context) error { return k.leftOn(t, ctx, k.hosts(t)...) }}
	if k.rehearses("build", "reset") {
		t.Run("build and reset without interruption", func(t *testing.T) {
			k.rehearse(t, build)
			k.rehearse(t, reset)
			// What is built later begins with empty machines.
			c.must(t, ctx, "down", "--name", c.name)
			c.must(t, ctx, create...)
			k.uid = ""
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	if t.Run("build", func(t *testing.T) { k.operation(t, build) }); t.Failed() {
		t.FailNow()
	}
	if t.Run("in use", k.inUse); t.Failed() {
		t.FailNow()
	}
	if k.interrupts("reset") {
		k.uid = ""
		t.Run("reset", func(t *testing.T) { k.operation(t, reset) })
	}
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// inUse makes the operations that clients must not notice, while they write. Those that are made together leave the cluster as it was.
func (k *crash) inUse(t *testing.T) {
	ctx := testContext(t)
	var all [][]crashOperation
	for _, together := range k.changes(ctx) {
		if k.interrupts(namesOf(together)...) {
			all = append(all, together)
		}
	}
	if len(all) == 0 {
		return
	}
	k.h.p = k.c.clients(t, ctx)
	for _, together := range all {
		names := namesOf(together)
		if !k.interrupts(names...) { // the time is over
			continue
		}
		if k.rehearses(names...) {
			t.Run(strings.Join(names, " and ")+" without interruption", func(t *testing.T) {
				for _, o := range together {
					k.rehearse(t, o)
				}
			})
		}
		for _, o := range together {
			if t.Failed() {
				t.FailNow()
			}
			t.Run(o.name, func(t *testing.T) { k.operation(t, o) })
		}
	}
}

func namesOf(operations []crashOperation) (out []string) {
	for _, o := range operations {
		out = append(out, o.name)
	}
	return out
}

// changes are the operations on a cluster that is in use.
func (k *crash) changes(ctx context.Context) [][]crashOperation {
	apply := []string{"apply", "-f", k.h.spec}
	edit := func(name string, change func(*spec.Cluster)) crashOperation {
		return crashOperation{name: name, args: apply, prepare: func(t *testing.T) { k.h.edit(t, change) }}
	}
	version := func(name, v string) crashOperation {
		return edit(name, func(s *spec.Cluster) { s.Spec.Kubernetes.Version = v })
	}
	profile := func(name, p string) crashOperation {
		return edit(name, func(s *spec.Cluster) { s.Spec.Failover.Profile = p })
	}
	const spare = "worker-z"
	add := crashOperation{name: "add", args: apply, prepare: func(t *testing.T) {
		fresh := k.h.machine(t, ctx, spare, "c", spec.RoleWorker)
		k.h.edit(t, func(s *spec.Cluster) { s.Spec.Hosts = append(s.Spec.Hosts, fresh) })
	}}
	drop := edit("remove", func(s *spec.Cluster) { remove(s, spare) })
	drop.after = func(t *testing.T) { k.discard(t, ctx, spare) }
	all := [][]crashOperation{
		{add, drop},
		{k.replaceHost(ctx, "replace", spec.RoleControlPlane, "cp")},
		{
			{name: "maintain", args: []string{"maintain", "-f", k.h.spec, "cp-b"}},
			{name: "undo", args: []string{"maintain", "-f", k.h.spec, "--undo", "cp-b"}},
		},
		{version("upgrade", spec.DefaultVersion), version("rollback", formerVersion)},
		{profile("slower", spec.ProfileStandard), profile("faster", spec.ProfileFast)},
	}
	if k.plan.topology == spec.TopologyExternal {
		all = slices.Insert(all, 2, []crashOperation{k.replaceHost(ctx, "replace-etcd", spec.RoleEtcd, "etcd")})
	}
	return all
}

// replaceHost replaces the host with a role in the zone a by a new machine.
func (k *crash) replaceHost(ctx context.Context, name, role, prefix string) crashOperation {
	old := ""
	return crashOperation{name: name, args: []string{"apply", "-f", k.h.spec}, prepare: func(t *testing.T) {
		k.spares++
		fresh := k.h.machine(t, ctx, fmt.Sprintf("%s-x%d", prefix, k.spares), "a", role)
		k.h.edit(t, func(s *spec.Cluster) {
			i := slices.IndexFunc(s.Spec.Hosts, func(h spec.Host) bool { return h.Has(role) && h.Zone == "a" })
			old = s.Spec.Hosts[i].Name
			remove(s, old)
			s.Spec.Hosts = append(s.Spec.Hosts, fresh)
		})
	}, after: func(t *testing.T) { k.discard(t, ctx, old) }}
}

// discard expects that a host that has left is as it was found, and removes its machine.
func (k *crash) discard(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	if err := k.leftOn(t, ctx, name); err != nil {
		t.Error(err)
	}
	if err := k.c.lab(t).RemoveMachine(ctx, name); err != nil {
		t.Fatal(err)
	}
}

// leftOn returns what a cluster has left on hosts. The program of the last command that looked at them does not count.
func (k *crash) leftOn(t *testing.T, ctx context.Context, hosts ...string) error {
	var errs []error
	for _, h := range hosts {
		left := k.c.ssh(t, ctx, h, "ls -d /etc/kubernetes /var/lib/etcd /var/lib/kubelet /opt/quorate 2>/dev/null; ls /var/lib/quorate 2>/dev/null | grep -vx bin || true")
		if left != "" {
			errs = append(errs, fmt.Errorf("%s was not reset: %s", h, left))
		}
	}
	return errors.Join(errs...)
}

// hosts are the names of the spec's hosts.
func (k *crash) hosts(t *testing.T) (out []string) {
	t.Helper()
	s, err := spec.Load(k.h.spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range s.Spec.Hosts {
		out = append(out, h.Name)
	}
	return out
}

const (
	// convergence is how long an operation may make no progress: what a kill has left behind may need some time, such as a lease, an election, or a machine
	// that starts. The user is told to run it again. A single run may take longer than that.
	convergence = 5 * time.Minute
	tries       = 3
	// callerWaits is how long the caller may go on after a host has lost its power. Then the user ends it.
	callerWaits = 20 * time.Second
	// unknownLength stands for that of a step which no run has finished yet, such as one that only removes what an interrupted one has left.
	unknownLength = 1500 * time.Millisecond
	// sampled is how much of a step the moments of a sample are drawn from: it is to be short.
	sampled = 5 * time.Second
)

// moment is when in a step a run is interrupted.
type moment string

const (
	atBegin  moment = "begin"
	inMiddle moment = "middle"
	atEnd    moment = "end" // instead of in the middle: the step was over before
)

// point is where a run is interrupted. first is the first word of the step, which is its host if it has one.
type point struct {
	step, first string
	moment      moment
}

// ordeal is one operation that is interrupted again and again. One that is spared is only made.
type ordeal struct {
	name   string
	spared bool
	// chosen are the steps that were seen, and whether runs are interrupted at them.
	chosen map[string]bool
	// reached are the steps at which a run was interrupted, by moment.
	reached map[moment]map[string]bool
}

func newOrdeal(name string, spared bool) *ordeal {
	return &ordeal{name: name, spared: spared, chosen: map[string]bool{}, reached: map[moment]map[string]bool{atBegin: {}, inMiddle: {}}}
}

// reach notes that a run is interrupted at a point. Each step has one in its middle, also if it had ended before.
func (o *ordeal) reach(p point) point {
	if p.moment == atBegin {
		o.reached[atBegin][p.step] = true
	} else {
		o.reached[inMiddle][p.step] = true
	}
	return p
}

// wants says that a run is to be interrupted at this moment of a step. Cuts of the power come in the middle of steps only.
func (k *crash) wants(o *ordeal, step string, m moment) bool {
	if o.spared || k.byPower && m == atBegin {
		return false
	}
	if _, seen := o.chosen[step]; !seen {
		o.chosen[step] = k.plan.takes(o.name, step, len(o.chosen), *whole)
	}
	return o.chosen[step] && !o.reached[m][step]
}

// takes says that a step belongs to the part of the steps that is interrupted. In a sample, it is the second step that is seen, the tenth, and so on.
func (p crashPlan) takes(operation, step string, seen int, whole bool) bool {
	if !whole {
		return seen%8 == 1
	}
	return int(hashOf(operation, step)%uint64(p.of)) == p.part-1
}

func hashOf(words ...string) uint64 {
	h := fnv.New64a()
	for _, w := range words {
		h.Write([]byte(w + "\n")) //nolint:errcheck // it cannot fail
	}
	return h.Sum64()
}

// chance draws for one step. Steps run in parallel, so what is drawn must not depend on their order.
func (k *crash) chance(o *ordeal, step string) *rand.Rand {
	return rand.New(rand.NewPCG(k.plan.seed, hashOf(k.plan.topology, fmt.Sprint(k.byPower), o.name, step)))
}

// delay is when in a step a run is interrupted.
func (k *crash) delay(o *ordeal, step string) time.Duration {
	length, known := k.lengths.of(k.operationKey(o.name), step)
	if !known || length <= 0 {
		length = unknownLength
	}
	if !*whole {
		length = min(length, sampled)
	}
	return time.Duration(k.chance(o, step).Int64N(int64(length)))
}

// next reads what a run says until a point at which it is to be interrupted. It returns false if the run ends before. Of steps that run in parallel,
// the one whose moment comes first counts; the others have theirs in a later run.
func (k *crash) next(ctx context.Context, r *running, o *ordeal) (point, bool) {
	type armed struct {
		point
		at time.Time
	}
	var all []armed
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				return point{}, false
			}
			r.said.WriteString(line + "\n")
			e, is := stepEventOf(line)
			switch {
			case !is:
			case e.begins && k.wants(o, e.step, atBegin):
				return o.reach(point{e.step, e.first, atBegin}), true
			case e.begins && k.wants(o, e.step, inMiddle):
				all = append(all, armed{point{e.step, e.first, inMiddle}, time.Now().Add(k.delay(o, e.step))})
				slices.SortStableFunc(all, func(a, b armed) int { return a.at.Compare(b.at) })
				due.Reset(time.Until(all[0].at))
			case !e.begins:
				k.lengths.learn(k.operationKey(o.name), e.step, e.took, o.spared)
				if slices.ContainsFunc(all, func(a armed) bool { return a.step == e.step }) {
					return o.reach(point{e.step, e.first, atEnd}), true
				}
			}
		case <-due.C:
			if len(all) > 0 {
				return o.reach(all[0].point), true
			}
		case <-ctx.Done():
			return point{}, false
		}
	}
}

// rehearse makes an operation without interrupting it, and sees how long its steps take.
func (k *crash) rehearse(t *testing.T, o crashOperation) {
	t.Helper()
	k.make(t, o, newOrdeal(o.name, true), &crashes{})
	if !t.Failed() {
		k.lengths.finish(t, k.operationKey(o.name))
	}
}

// operation makes one, and interrupts it at each of its steps, if it is one of those to interrupt. It fails the test if the operation does not end
// well when nothing more is done to it.
func (k *crash) operation(t *testing.T, o crashOperation) {
	t.Helper()
	if !k.interrupts(o.name) {
		k.make(t, o, newOrdeal(o.name, true), &crashes{})
		return
	}
	key := k.key(o.name)
	n := crashes{Operations: 1, Unfinished: []string{key}}
	defer func() { // also when the test is over
		k.counts.put(t, key, n)
		k.lengths.save(t)
	}()
	i := newOrdeal(o.name, false)
	k.make(t, o, i, &n)
	points := n.KillPoints + n.PowerOffs
	t.Logf("%d points at %d of %d steps", points, len(i.reached[inMiddle]), len(i.chosen))
	if points == 0 && k.plan.of == 1 {
		t.Error("no step was reached")
	}
	n.Converged, n.Unfinished = points, nil
}

// make makes an operation, and interrupts it, until nothing is left to do.
func (k *crash) make(t *testing.T, o crashOperation, i *ordeal, n *crashes) {
	t.Helper()
	ctx := testContext(t)
	if o.prepare != nil {
		o.prepare(t)
	}
	for failed, progress := 0, time.Now(); ; {
		r := k.c.start(t, ctx, slices.Concat(o.args, []string{"--verbose"})...)
		at, interrupt := k.next(ctx, r, i)
		if interrupt && k.byPower {
			k.powerOff(t, ctx, r, i, at)
			n.PowerOffs++
			failed, progress = 0, time.Now()
			k.glimpse(t, ctx, o, n)
			continue
		}
		if interrupt {
			r.signal(t, ctx, syscall.SIGKILL, 0)
		}
		code, all := r.wait(t)
		if ctx.Err() != nil {
			t.Fatalf("%v: exit status %d: %s", context.Cause(ctx), code, tail(all, 600))
		}
		if interrupt && code == -1 {
			n.killed(at.moment)
			failed, progress = 0, time.Now()
			k.glimpse(t, ctx, o, n)
			continue
		}
		if code == 0 {
			break
		}
		if failed++; failed >= tries && time.Since(progress) > convergence {
			t.Fatalf("it does not converge: exit status %d: %s", code, all)
		}
		t.Logf("after %d points: exit status %d: %s", n.KillPoints+n.PowerOffs, code, tail(all, 600))
		pause(ctx, 5*time.Second)
	}
	left := o.left
	if left == nil {
		look := k.c.looks(t, ctx, "-f", k.h.spec)
		left = func(*testing.T, context.Context) error {
			_, err := look()
			return err
		}
	}
	eventually(t, ctx, "nothing is left to do", func() error { return left(t, ctx) })
	if k.h.p != nil && o.name != "reset" {
		k.readBack(t, ctx, n)
	}
	if o.name != "reset" {
		eventually(t, ctx, "the API answers", func() error { return k.sameCluster(t, ctx, n) })
	}
	if o.after != nil {
		o.after(t)
	}
}

func (n *crashes) killed(m moment) {
	n.KillPoints++
	switch m {
	case atBegin:
		n.AtBegin++
	case inMiddle:
		n.InMiddle++
	case atEnd:
		n.AtEnd++
	}
}

// powerOff cuts the power of the host of a step, or of any one, ends the run that goes on without it, and powers the host on. It returns when the host can be
// reached, and not only when the cluster on it works: that is when its owner runs the command again.
func (k *crash) powerOff(t *testing.T, ctx context.Context, r *running, o *ordeal, at point) {
	t.Helper()
	l := k.c.lab(t)
	lost := at.first
	if !slices.ContainsFunc(l.Machines(), func(m lab.Machine) bool { return m.Name == lost }) {
		hosts := k.hosts(t)
		lost = hosts[k.chance(o, at.step+", a host").IntN(len(hosts))]
	}
	// Not with the command: the moment counts, and a process takes long to start on a busy computer.
	if err := l.PowerOff(ctx, lost); err != nil {
		t.Fatal(err)
	}
	impatient := time.AfterFunc(callerWaits, func() { _ = r.process.Kill() }) // an error is that it has ended
	code, all := r.wait(t)
	impatient.Stop()
	t.Logf("%s (%s): %s lost its power: exit status %d: %s", at.step, at.moment, lost, code, tail(all, 300))
	if err := l.PowerOn(ctx, lost); err != nil {
		t.Fatal(err)
	}
}

// glimpse notes in the middle of a build which cluster there is, if there is one: a later run must not begin another one.
func (k *crash) glimpse(t *testing.T, ctx context.Context, o crashOperation, n *crashes) {
	t.Helper()
	if o.name != "build" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	_ = k.sameCluster(t, ctx, n) // an error is that there is none yet
}

// sameCluster asks the API which cluster it is, and counts one that has taken the place of another.
func (k *crash) sameCluster(t *testing.T, ctx context.Context, n *crashes) error {
	t.Helper()
	r := k.c.run(ctx, "kubeconfig", "-f", k.h.spec)
	if r.code != 0 {
		return errors.New(r.String())
	}
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(r.stdout))
	if err != nil {
		return err
	}
	config.Timeout = 5 * time.Second
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ns, err := api.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if now := string(ns.UID); now != k.uid {
		if k.uid != "" {
			n.SecondClusters++
			t.Errorf("it is another cluster: %s instead of %s", now, k.uid)
		}
		k.uid = now
	}
	return nil
}

// readBack counts the writes that clients made during an operation, and those of them that are lost.
func (k *crash) readBack(t *testing.T, ctx context.Context, n *crashes) {
	t.Helper()
	eventually(t, ctx, "the writes are read back", func() error {
		lost, acked, err := k.h.p.Trim(ctx)
		n.AckedWrites += acked
		n.LostWrites += len(lost)
		if len(lost) > 0 {
			t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), acked, lost)
		}
		return err
	})
}

// crashCounts are the counts of operations, in a file that is written after each of them.
type crashCounts struct {
	file string
	by   map[string]crashes
}

// openCounts goes on with a file that exists, or begins again.
func openCounts(file string, goOn bool) (*crashCounts, error) {
	c := &crashCounts{file: file, by: map[string]crashes{}}
	if !goOn {
		return c, nil
	}
	return c, readJSON(file, &c.by)
}

// finished says that the counts of an operation are those of one that converged.
func (c *crashCounts) finished(key string) bool {
	n, known := c.by[key]
	return known && len(n.Unfinished) == 0
}

// put replaces the counts of an operation that was made before.
func (c *crashCounts) put(t *testing.T, key string, n crashes) {
	t.Helper()
	c.by[key] = n
	writeJSON(t, c.file, c.by)
}

func (c *crashCounts) total() (out crashes) {
	for _, key := range slices.Sorted(maps.Keys(c.by)) {
		out.add(c.by[key])
	}
	return out
}

// stepLengths are how long steps take. They are kept in a file, so that runs of single parts need not see all of them again.
type stepLengths struct {
	file string
	seen struct {
		// Rehearsed are the operations that were made without interruption.
		Rehearsed map[string]bool `json:"rehearsed"`
		// Nanoseconds are by operation and step, and by operation and kind of step.
		Nanoseconds map[string]time.Duration `json:"nanoseconds"`
	}
}

func openLengths(file string) (*stepLengths, error) {
	l := &stepLengths{file: file}
	err := readJSON(file, &l.seen)
	if l.seen.Rehearsed == nil {
		l.seen.Rehearsed = map[string]bool{}
	}
	if l.seen.Nanoseconds == nil {
		l.seen.Nanoseconds = map[string]time.Duration{}
	}
	return l, err
}

func (l *stepLengths) rehearsed(operation string) bool { return l.seen.Rehearsed[operation] }

func (l *stepLengths) finish(t *testing.T, operation string) {
	t.Helper()
	l.seen.Rehearsed[operation] = true
	l.save(t)
}

func (l *stepLengths) save(t *testing.T) {
	t.Helper()
	writeJSON(t, l.file, l.seen)
}

// hostName is the name of a machine of these tests in a step.
var hostName = regexp.MustCompile(`\b(cp|etcd|worker|lb)-[a-z]\d*\b`)

// kindOf is a step without the names of hosts: the same step on another one takes about as long.
func kindOf(step string) string { return hostName.ReplaceAllString(step, "$1") }

// learn notes how long a step took. What was seen without interruption counts more: after one, much of a step may be done already.
func (l *stepLengths) learn(operation, step string, took time.Duration, undisturbed bool) {
	if took <= 0 { // it has failed
		return
	}
	for _, key := range []string{operation + "/" + step, operation + "/" + kindOf(step)} {
		if _, known := l.seen.Nanoseconds[key]; !known || undisturbed {
			l.seen.Nanoseconds[key] = took
		}
	}
}

// of is how long a step takes in an operation.
func (l *stepLengths) of(operation, step string) (time.Duration, bool) {
	for _, key := range []string{operation + "/" + step, operation + "/" + kindOf(step)} {
		if length, known := l.seen.Nanoseconds[key]; known {
			return length, true
		}
	}
	return 0, false
}

// readJSON reads a file that may not exist.
func readJSON(file string, into any) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func writeJSON(t *testing.T, file string, from any) {
	t.Helper()
	data, err := json.MarshalIndent(from, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, append(data, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
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
			if e, is := stepEventOf(line); is && e.begins && wanted(e.step, e.first) {
				return e.step, e.first
			}
		case <-ctx.Done():
			return "", ""
		}
	}
}

func tail(text string, length int) string { return text[max(0, len(text)-length):] }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func TestCrashPlan(t *testing.T) {
	for name, c := range map[string]struct {
		series, operations, part, topology string
		want                               string
	}{
		"all":                  {"", "", "", "stacked", "[kills power-offs] 12 operations, 1 of 1"},
		"a part":               {powerOffs, "add,remove", "2/3", "external", "[power-offs] 2 operations, 2 of 3"},
		"no such series":       {"reboots", "", "", "stacked", "-series reboots: it is kills or power-offs"},
		"no such operation":    {"", "add,shrink", "", "stacked", "-operations shrink: there are " + strings.Join(crashOperations, ", ")},
		"no such part":         {"", "", "3/2", "stacked", "-part 3/2: it is I/N, with I from 1 to N"},
		"a part without an of": {"", "", "3", "stacked", "-part 3: it is I/N, with I from 1 to N"},
		"no such topology":     {"", "", "", "star", "-topology star: it is stacked or external"},
		"no etcd hosts":        {"", "replace-etcd", "", "stacked", "-operations replace-etcd: it needs -topology external"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := crashPlanOf(c.series, c.operations, c.part, c.topology, true, 1)
			got := fmt.Sprintf("%v %d operations, %d of %d", p.series, len(p.operations), p.part, p.of)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	parts := map[string]int{}
	for n := range 3 {
		for _, step := range []string{"cp-a reset the host", "cp-b reset the host", "verify the cluster", "lb-a configure the load balancer"} {
			if (crashPlan{part: n + 1, of: 3}).takes("reset", step, 0, true) {
				parts[step]++
			}
		}
	}
	for step, n := range parts {
		if n != 1 {
			t.Errorf("%s is in %d of 3 parts", step, n)
		}
	}
	if len(parts) != 4 {
		t.Errorf("some steps are in no part: %v", parts)
	}
}

func TestStepEvents(t *testing.T) {
	for line, want := range map[string]stepEvent{
		"   1.2s  cp-a    join as a control plane …":                                   {step: "cp-a join as a control plane", first: "cp-a", begins: true},
		"  1m05s  cp-a    join as a control plane … done 1m02s":                        {step: "cp-a join as a control plane", first: "cp-a", took: 62 * time.Second},
		"   4.0s          verify the cluster … failed after 0.4s: no API":              {step: "verify the cluster", first: "verify"},
		"   4.0s  cp-a    join as a control plane … it waits for the member":           {},
		"            and what it says in the second line":                              {},
		"   9.0s  cp-a    join as a control plane … still running after 1m00s":         {},
		"could not join as a control plane on cp-b: the member was not there … at all": {},
	} {
		if got, is := stepEventOf(line); got != want || is != (want != stepEvent{}) {
			t.Errorf("%q: %+v, %t, want %+v", line, got, is, want)
		}
	}
}

// TestCrashPoints: runs are interrupted at each step when it begins and in its middle, and also if steps run in parallel.
func TestCrashPoints(t *testing.T) {
	says := func(lines ...string) *running {
		r := &running{lines: make(chan string, len(lines))}
		for _, line := range lines {
			r.lines <- "   1.0s  " + line
		}
		return r
	}
	lengths, err := openLengths(filepath.Join(t.TempDir(), "steps.json"))
	if err != nil {
		t.Fatal(err)
	}
	k := &crash{plan: crashPlan{operations: []string{"add", "remove", "replace-etcd"}, part: 1, of: 1, topology: "stacked", seed: 7}, lengths: lengths,
		counts: &crashCounts{by: map[string]crashes{"stacked/kills/add/1 of 1": {}, "stacked/kills/remove/1 of 1": {Unfinished: []string{"x"}}}}}
	for name, want := range map[string]bool{"add": false, "remove": true, "replace": false, "replace-etcd": false} {
		if got := k.interrupts(name); got != want {
			t.Errorf("%s is interrupted: %t", name, got)
		}
	}
	at := func(o *ordeal, r *running) string {
		close(r.lines)
		p, interrupt := k.next(t.Context(), r, o)
		if !interrupt {
			return "the run has ended"
		}
		return p.step + " " + string(p.moment)
	}
	before := *whole
	*whole = true
	t.Cleanup(func() { *whole = before })

	undisturbed := newOrdeal("add", true)
	if got := at(undisturbed, says("cp-a one …", "cp-b one …", "cp-a one … done 1h00m", "cp-b one … done 1h00m")); got != "the run has ended" {
		t.Errorf("without interruption: %s", got)
	}
	if length, known := lengths.of("stacked/add", "cp-c one"); !known || length != time.Hour {
		t.Errorf("the same step on another host takes %s, %t", length, known)
	}
	if _, known := lengths.of("stacked/reset", "cp-a one"); known {
		t.Error("a step is known of another operation")
	}
	o := newOrdeal("add", false)
	for _, want := range []string{"cp-a one begin", "cp-b one begin", "cp-a one end", "cp-b one end", "the run has ended"} {
		if got := at(o, says("cp-a one …", "cp-b one …", "cp-a one … done 0.5s", "cp-b one … done 0.5s")); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if length, _ := lengths.of("stacked/add", "cp-a one"); length != time.Hour {
		t.Errorf("an interrupted run has changed the length to %s", length)
	}
	lengths.learn("stacked/add", "cp-a one", time.Millisecond, true)
	o = newOrdeal("add", false)
	o.reached[atBegin]["cp-a one"], o.reached[atBegin]["cp-b one"] = true, true
	r := says("cp-b one …", "cp-a one …")
	if p, interrupt := k.next(t.Context(), r, o); !interrupt || p.step != "cp-a one" || p.moment != inMiddle {
		t.Errorf("of two steps, the run is interrupted at %+v", p)
	}
	first, again := k.delay(o, "cp-b one"), k.delay(o, "cp-b one")
	k.plan.seed++
	if other := k.delay(o, "cp-b one"); first != again || other == first {
		t.Errorf("moments %s and %s with one seed, %s with another one", first, again, other)
	}
	if total := (&crashCounts{by: map[string]crashes{"a": {KillPoints: 2, Converged: 2}, "b": {PowerOffs: 1, LostWrites: 1, Unfinished: []string{"b"}}}}).total(); total.KillPoints != 2 ||
		total.PowerOffs != 1 || total.Converged != 2 || total.LostWrites != 1 || !slices.Equal(total.Unfinished, []string{"b"}) {
		t.Errorf("%+v", total)
	}
}
