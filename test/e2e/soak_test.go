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
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/status"
)

var (
	soak = flag.Duration("soak", 0, "how long TestSoak breaks things while quorate watch repairs them (0: not at all)")
	seed = flag.Uint64("seed", 0, "what TestSoak breaks, and in which order; when TestCrash interrupts a step (0: by chance)")
)

const (
	// complete is how long a soak has to be to draw every fault once.
	complete = time.Hour
	// harmless is for how long no write may be accepted while something is repaired: what an election and a change of the load balancer
	// take on a busy computer.
	harmless = 15 * time.Second
)

// soaked is counted. The last line of `make test-soak` is this as JSON.
type soaked struct {
	Seconds float64 `json:"seconds"`
	// Seed is what was drawn with: the same one draws the same faults in the same order.
	Seed uint64 `json:"seed"`
	// Faults is how many there were, Drawn how often each, and NotDrawn those for which there was no time.
	Faults   int            `json:"faults"`
	Drawn    map[string]int `json:"drawn"`
	NotDrawn []string       `json:"notDrawn"`
	// Repaired, RepairsFailed and NotMade, because they would have been unsafe or were tried too often, are repairs of quorate watch.
	Repaired      int `json:"repaired"`
	RepairsFailed int `json:"repairsFailed"`
	NotMade       int `json:"notMade"`
	// Elsewhere are repairs on hosts that the fault at that time did not concern.
	Elsewhere int `json:"repairsElsewhere"`
	// Worse counts the faults after which an invariant did not hold: full margins and no problems, the same members, nodes, and load balancers, no
	// client that fails, no outage of more than a minute, no repair during which clients could not write, and no acknowledged write lost.
	Worse int `json:"worse"`
	// LongestOutageSeconds is the longest time without a successful request of one of the clients, in all faults and repairs.
	LongestOutageSeconds float64 `json:"longestOutageSeconds"`
	AckedWrites          int     `json:"ackedWrites"`
	LostWrites           int     `json:"lostWrites"`
}

// labFault is a fault of the lab, and what can be its target. It heals after a while.
type labFault struct {
	kind, shape string
	target      func(chance *rand.Rand, machines, zones []string) string
}

// labFaults are all of them, with all targets that each can have.
func labFaults() []labFault {
	one := func(chance *rand.Rand, list []string) string { return list[chance.IntN(len(list))] }
	two := func(chance *rand.Rand, list []string) string {
		order := chance.Perm(len(list))
		return list[order[0]] + ":" + list[order[1]]
	}
	machine := func(chance *rand.Rand, machines, _ []string) string { return one(chance, machines) }
	zone := func(chance *rand.Rand, _, zones []string) string { return one(chance, zones) }
	machineLink := func(chance *rand.Rand, machines, _ []string) string { return two(chance, machines) }
	zoneLink := func(chance *rand.Rand, _, zones []string) string { return two(chance, zones) }
	return []labFault{
		{"power-off", "machine", machine}, {"power-off", "zone", zone},
		{"freeze", "machine", machine},
		{"cut", "machine", machine}, {"cut", "zone", zone}, {"cut", "link between machines", machineLink}, {"cut", "link between zones", zoneLink},
	}
}

// trouble is what happens to the cluster: a fault of the lab, or something that does not heal by itself.
type trouble struct {
	name   string
	fault  *labFault
	broken *broken
}

// deck are all troubles by chance: a fault of the lab and something that is broken in turn.
func deck(chance *rand.Rand) (out []trouble) {
	labs := labFaults()
	// Filling etcd changes its configuration, and the image is of a member that was stopped for it: a repair of that is none. They have tests of
	// their own.
	all := slices.DeleteFunc(breakages(), func(b broken) bool { return b.name == "no space" || b.name == "old disk image" })
	chance.Shuffle(len(labs), func(i, j int) { labs[i], labs[j] = labs[j], labs[i] })
	chance.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i := range max(len(labs), len(all)) {
		if i < len(labs) {
			out = append(out, trouble{name: labs[i].kind + " " + labs[i].shape, fault: &labs[i]})
		}
		if i < len(all) {
			out = append(out, trouble{name: all[i].name, broken: &all[i]})
		}
	}
	return out
}

// soaking is a cluster under load to which things happen, while quorate watch repairs what does not heal by itself.
type soaking struct {
	*cluster
	p     *probe.Prober
	said  string // the file with what quorate watch says
	parts string // of the cluster
	n     soaked
}

// TestSoak breaks things by chance, under load, while quorate watch repairs what does not heal by itself.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("make test-soak runs it")
	}
	k := &soaking{n: soaked{Seed: *seed, Drawn: map[string]int{}, NotDrawn: []string{}}}
	if k.n.Seed == 0 {
		k.n.Seed = 1 + uint64(rand.Uint32())
	}
	fmt.Printf("The seed is %d. To draw the same again: make test-soak SOAK=%s SEED=%d\n", k.n.Seed, *soak, k.n.Seed)
	defer func() { // also if it fails
		data, err := json.Marshal(k.n)
		if err != nil {
			t.Error(err)
		}
		printArtifact(t, "soak.json", string(data)+"\n")
	}()
	k.cluster = newCluster(t, "e2e-soak")
	ctx, cancel := context.WithTimeout(interrupted, *soak+30*time.Minute)
	defer cancel()
	k.knowsAllFaults(t, ctx)
	k.must(t, ctx, "up", "--name", k.name)
	k.parts = partsOf(k.whole(t, ctx))
	k.p = k.clients(t, ctx)
	ended, stop := k.watch(t, ctx)
	begin := time.Now()
	defer func() {
		k.n.Seconds = time.Since(begin).Seconds()
		stop()
		k.count(t)
	}()
	chance := rand.New(rand.NewPCG(k.n.Seed, 0))
	var left []trouble
	for draw := uint64(1); time.Since(begin) < *soak && ctx.Err() == nil; draw++ {
		select {
		case err := <-ended:
			t.Fatalf("quorate watch ended: %v", err)
		default:
		}
		if len(left) == 0 {
			left = deck(chance)
		}
		x := left[0]
		left = left[1:]
		// What is drawn depends on the seed alone, and not on how the cluster is.
		own := rand.New(rand.NewPCG(k.n.Seed, draw))
		if !t.Run(fmt.Sprintf("%d %s", draw, x.name), func(t *testing.T) { k.suffers(t, ctx, x, own, begin) }) {
			k.n.Worse++
			break // what happens to a broken cluster says nothing
		}
		if err := k.trim(t, ctx); err != nil { // what clients remember must not fill etcd
			t.Log(err)
		}
	}
	if ctx.Err() != nil {
		t.Errorf("the soak was ended: %v", context.Cause(ctx))
	}
	for _, x := range deck(chance) {
		if k.n.Drawn[x.name] == 0 {
			k.n.NotDrawn = append(k.n.NotDrawn, x.name)
		}
	}
	slices.Sort(k.n.NotDrawn)
	if *soak >= complete && len(k.n.NotDrawn) > 0 && !t.Failed() {
		t.Errorf("not drawn were %q: give it more time", k.n.NotDrawn)
	}
}

// knowsAllFaults expects that every kind of fault that the lab has is drawn.
func (k *soaking) knowsAllFaults(t *testing.T, ctx context.Context) {
	t.Helper()
	kinds := 0
	for line := range strings.Lines(k.must(t, ctx, "__complete", "lab", "fault", "").stdout) {
		kind, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if kind == "" || strings.HasPrefix(kind, ":") { // the last line is for the shell
			continue
		}
		if kinds++; !slices.ContainsFunc(labFaults(), func(f labFault) bool { return f.kind == kind }) {
			t.Errorf("the lab has the fault %s, which is never drawn", kind)
		}
	}
	if kinds == 0 {
		t.Error("the lab does not say which faults it has")
	}
}

// watch starts quorate watch. It tells when that has ended; stop ends it.
func (k *soaking) watch(t *testing.T, ctx context.Context) (ended <-chan error, stop func()) {
	t.Helper()
	k.said = filepath.Join(t.TempDir(), "watch.jsonl")
	file, err := os.Create(k.said)
	if err != nil {
		t.Fatal(err)
	}
	watching := k.command(ctx, "watch", "-f", k.specFile(), "-o", "json", "--compare-etcd", "1m")
	watching.Stdout, watching.Stderr = file, os.Stderr
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- watching.Wait()
		close(done)
	}()
	return done, func() {
		defer file.Close()
		_ = watching.Process.Signal(os.Interrupt)
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				t.Errorf("quorate watch: %v", err)
			}
		case <-time.After(2 * time.Minute):
			t.Error("quorate watch does not end")
			_ = watching.Process.Kill()
		}
	}
}

// mended are the lines of quorate watch.
func (k *soaking) mended(t *testing.T) (out []run.Mended) {
	t.Helper()
	text, err := os.ReadFile(k.said)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var m run.Mended
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, m)
	}
	return out
}

// made are the repairs that were tried since a moment.
func made(all []run.Mended, since time.Time) []run.Mended {
	return slices.DeleteFunc(all, func(m run.Mended) bool {
		return m.Outcome != run.Repaired && m.Outcome != run.RepairFailed || m.Began.Before(since)
	})
}

// count counts what was repaired, and what was lost.
func (k *soaking) count(t *testing.T) {
	for _, m := range k.mended(t) {
		fmt.Println(m)
		switch m.Outcome {
		case run.Repaired:
			k.n.Repaired++
		case run.RepairFailed:
			k.n.RepairsFailed++
		default:
			k.n.NotMade++
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := k.trim(t, ctx); err != nil {
		t.Error(err)
	}
}

// trim checks that nothing was lost, and forgets what it has checked. Where the API cannot be asked, the next call checks it.
func (k *soaking) trim(t *testing.T, ctx context.Context) error {
	lost, acked, err := k.p.Trim(ctx)
	k.n.AckedWrites, k.n.LostWrites = k.n.AckedWrites+acked, k.n.LostWrites+len(lost)
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), acked, lost)
	}
	return err
}

// partsOf names the members, nodes, and load balancers of a cluster. No repair changes which there are.
func partsOf(s status.Status) string {
	var members, nodes, balancers []string
	for _, m := range s.Etcd.Members {
		members = append(members, m.Name)
	}
	for _, n := range s.Nodes {
		nodes = append(nodes, n.Name)
	}
	for _, b := range s.LoadBalancers {
		balancers = append(balancers, b.Name)
	}
	for _, list := range [][]string{members, nodes, balancers} {
		slices.Sort(list)
	}
	return fmt.Sprintf("members %v, nodes %v, load balancers %v", members, nodes, balancers)
}

// suffers has one trouble happen to a cluster with full margins, and checks afterwards that nothing is worse than before.
func (k *soaking) suffers(t *testing.T, ctx context.Context, x trouble, chance *rand.Rand, since time.Time) {
	defer func() {
		if t.Failed() {
			k.collect(t, "failed")
		}
	}()
	s := k.whole(t, ctx)
	begin := time.Now()
	var what string
	var concerned map[string]bool
	if x.fault != nil {
		what, concerned = k.fault(t, ctx, *x.fault, chance)
	} else {
		what, concerned = k.breaks(t, ctx, *x.broken, s, begin)
	}
	if what == "" {
		return
	}
	k.n.Drawn[x.name]++
	k.n.Faults++
	over := time.Now()
	fmt.Printf("%7.0fs  %s\n", begin.Sub(since).Seconds(), what)
	s = k.whole(t, ctx)
	k.quiet(t, ctx, k.p, begin)
	if parts := partsOf(s); parts != k.parts {
		t.Errorf("the cluster has %s, and had %s", parts, k.parts)
	}
	k.outages(t, ctx, x, begin, over, concerned)
}

// outages checks how long clients were not served during a fault, and during the repairs after it.
func (k *soaking) outages(t *testing.T, ctx context.Context, x trouble, begin, over time.Time, concerned map[string]bool) {
	t.Helper()
	end := time.Now()
	excused := func(from, to time.Time) bool {
		stood := k.stoodStill(t, ctx, from, to)
		for _, why := range stood {
			fmt.Printf("          this does not count: %s\n", why)
		}
		return len(stood) > 0
	}
	met, err := k.p.Between(ctx, begin, end)
	if err != nil {
		t.Fatal(err)
	}
	k.n.LongestOutageSeconds = max(k.n.LongestOutageSeconds, met.Longest().Seconds())
	if met.Longest() > sane && !excused(begin, end) {
		t.Errorf("an outage of %s", met.Longest())
	}
	for _, m := range made(k.mended(t), begin) {
		fmt.Printf("          %s\n", m)
		if m.Host != "" && !concerned[m.Host] {
			k.n.Elsewhere++
			fmt.Printf("          %s was not concerned\n", m.Host)
		}
		if x.fault != nil && m.Began.Before(over) {
			continue // the fault may be what keeps clients from writing
		}
		until := m.Began.Add(time.Duration(m.Seconds * float64(time.Second)))
		met, err := k.p.Between(ctx, m.Began, until)
		if err != nil {
			t.Fatal(err)
		}
		if met.Writes.Longest > harmless && !excused(m.Began, until) {
			t.Errorf("a repair made things worse: no client could write for %s: %s", met.Writes.Longest, m)
		}
	}
}

// fault injects a fault of the lab, and heals it after a while: mostly before quorate watch would do anything about it, and sometimes long after.
func (k *soaking) fault(t *testing.T, ctx context.Context, f labFault, chance *rand.Rand) (what string, concerned map[string]bool) {
	t.Helper()
	all := k.lab(t).Machines()
	var machines, zones []string
	for _, m := range all {
		machines = append(machines, m.Name)
		if zone := "zone/" + m.Zone; !slices.Contains(zones, zone) {
			zones = append(zones, zone)
		}
	}
	target := f.target(chance, machines, zones)
	long := time.Duration(10+chance.IntN(50)) * time.Second
	if chance.IntN(4) == 0 {
		long += 2 * time.Minute
	}
	concerned = map[string]bool{}
	for end := range strings.SplitSeq(target, ":") {
		for _, m := range all {
			if m.Name == end || "zone/"+m.Zone == end {
				concerned[m.Name] = true
			}
		}
	}
	k.labDo("fault", f.kind, target)(t, ctx)
	select {
	case <-time.After(long):
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
	k.labDo("heal", f.kind, target)(t, ctx)
	return fmt.Sprintf("%s %s for %s", f.kind, target, long), concerned
}

// breaks breaks what does not heal by itself, where quorate watch has repaired such things least often, and waits until it has repaired this. It does
// nothing, and returns nothing, if it was repaired there as often as it is in an hour.
func (k *soaking) breaks(t *testing.T, ctx context.Context, x broken, s status.Status, begin time.Time) (what string, concerned map[string]bool) {
	t.Helper()
	recent := made(k.mended(t), begin.Add(-time.Hour))
	tried := func(host string) (n int) {
		for _, m := range recent {
			if m.Name == x.repair && m.Host == host {
				n++
			}
		}
		return n
	}
	on := breakageOf(s, k.cluster, false)
	on.touched = map[string]bool{}
	var followers, controlPlanes, workers, standby []string
	for _, m := range s.Etcd.Members {
		if !m.Leader {
			followers = append(followers, m.Name)
		}
	}
	for _, n := range s.Nodes {
		if strings.HasPrefix(n.Name, "cp-") {
			controlPlanes = append(controlPlanes, n.Name)
		} else {
			workers = append(workers, n.Name)
		}
	}
	for _, b := range s.LoadBalancers {
		if !b.Active {
			standby = append(standby, b.Name)
		}
	}
	limit := 3 // docs/repair.md
	var where *string
	var among []string
	switch x.repair {
	case "etcd-data":
		where, among, limit = &on.member, followers, 2
	case "manifest":
		where, among = &on.controlPlane, controlPlanes
	case "load-balancer":
		where, among = &on.balancer, standby
	default:
		where, among = &on.worker, workers
	}
	if len(among) == 0 {
		t.Fatalf("there is nothing to break for the repair %s", x.repair)
	}
	*where = slices.MinFunc(among, func(a, b string) int { return tried(a) - tried(b) })
	if tried(*where) >= limit {
		fmt.Printf("          %s is left out: %s was repaired as often on %s as it is in an hour\n", x.name, x.repair, *where)
		return "", nil
	}
	x.breaks(t, ctx, on)
	poll(t, ctx, 2*time.Second, "quorate watch repairs it", func() error {
		all := k.mended(t)
		if !slices.ContainsFunc(all, func(m run.Mended) bool {
			return m.Name == x.repair && m.Outcome == run.Repaired && !m.Began.Before(begin)
		}) {
			return fmt.Errorf("it has not said that it made the repair %s: %v", x.repair, all[max(0, len(all)-3):])
		}
		return nil
	})
	return x.name + " on " + *where, on.touched
}
