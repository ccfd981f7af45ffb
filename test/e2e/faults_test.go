//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/status"
)

// sane is the longest outage after which writes still count as continuing. The real times depend on the computer, so they are
// printed and not checked.
const sane = time.Minute

// calm is how long everything must work before a fault counts as survived, or as healed.
const calm = 5 * time.Second

// fault is something that breaks, and how it is healed.
type fault struct {
	name         string
	inject, heal func(t *testing.T, ctx context.Context)
	// part is the machine or zone that is gone in the meantime and cannot be queried.
	part string
}

// outcome is what clients experienced while a part was gone, and while it came back.
type outcome struct {
	Fault       string        `json:"fault"`
	During      probe.Report  `json:"during"`
	Return      probe.Report  `json:"return"`
	StatusTook  time.Duration `json:"statusTookNanoseconds"`
	MarginsBack time.Duration `json:"marginsBackNanoseconds"`
	Healed      bool          `json:"healed"`
}

// faults breaks each part of the cluster in turn, while clients read and write.
func faults(t *testing.T, c *cluster) {
	ctx := testContext(t)
	s := c.whole(t, ctx)
	p := c.clients(t, ctx)
	outcomes := []outcome{}
	rest := time.Now()
	if err := p.Calm(ctx, 2*calm); err != nil {
		t.Fatal(err)
	}
	quiet, err := p.Between(ctx, rest, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	outcomes = append(outcomes, outcome{Fault: "(none)", During: quiet})

	for _, f := range allFaults(c, s) {
		t.Run(f.name, func(t *testing.T) {
			o := suffer(t, testContext(t), c, p, f)
			outcomes = append(outcomes, o)
			if t.Failed() {
				c.collect(t, "failed")
			}
		})
	}
	printArtifact(t, "outages.txt", table(outcomes))
	data, _ := json.MarshalIndent(outcomes, "", "  ")
	printArtifact(t, "outages.json", string(data))
}

// clients start to read and write, and stop with the test.
func (c *cluster) clients(t *testing.T, ctx context.Context) *probe.Prober {
	t.Helper()
	config, _ := c.client(t, ctx)
	ownClock()
	p, err := probe.Start(ctx, config, probe.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := p.Calm(ctx, calm); err != nil {
		t.Fatal(err)
	}
	return p
}

// allFaults are the faults, or a sample of them. It begins with the parts that have a special role, so that no earlier fault moves it away from them.
func allFaults(c *cluster, s status.Status) (out []fault) {
	powerOff := func(target string) fault {
		return fault{name: "power-off " + target, part: strings.TrimPrefix(target, "zone/"), inject: c.labDo("fault", "power-off", target), heal: c.labDo("heal", "power-off", target)}
	}
	members := slices.Clone(s.Etcd.Members)
	slices.SortStableFunc(members, func(a, b status.Member) int { return first(a.Leader) - first(b.Leader) })
	for _, m := range sample(members, 0) {
		out = append(out, powerOff(m.Name))
	}
	balancers := slices.Clone(s.LoadBalancers)
	slices.SortStableFunc(balancers, func(a, b status.LoadBalancer) int { return first(a.Active) - first(b.Active) })
	for _, b := range sample(balancers, 0) {
		out = append(out, powerOff(b.Name))
	}
	var zones []string
	for _, n := range s.Nodes {
		if !slices.Contains(zones, n.Zone) {
			zones = append(zones, n.Zone)
		}
	}
	for _, z := range sample(zones, 1) {
		out = append(out, powerOff("zone/"+z))
	}
	return append(out, sample([]fault{c.hang("haproxy", "haproxy", holder), c.hang("apiserver", "kube-apiserver", func(s status.Status) string { return s.Etcd.Members[0].Name }),
		c.hang("etcd", "etcd", leader), c.kill("etcd", "etcd", leader)}, 0, 1, 2)...)
}

func first(yes bool) int {
	if yes {
		return 0
	}
	return 1
}

func holder(s status.Status) string { return s.Endpoint.Holder }

func leader(s status.Status) string {
	for _, m := range s.Etcd.Members {
		if m.Leader {
			return m.Name
		}
	}
	return ""
}

// labDo turns a lab command into a step.
func (c *cluster) labDo(args ...string) func(*testing.T, context.Context) {
	return func(t *testing.T, ctx context.Context) {
		t.Helper()
		c.must(t, ctx, append([]string{"lab", "--lab", c.name}, args...)...)
	}
}

// hang suspends a program, as a bug or a bad disk may: it accepts connections but does not answer.
func (c *cluster) hang(what, program string, where func(status.Status) string) fault {
	machine := ""
	return fault{
		name: "hang " + what,
		inject: func(t *testing.T, ctx context.Context) {
			s, _, err := c.status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			machine = where(s)
			if err := c.lab(t).Exec(ctx, machine, []string{"sh", "-c", "kill -STOP $(pidof " + program + ")"}, nil, nil, nil); err != nil {
				t.Fatal(err)
			}
		},
		heal: func(t *testing.T, ctx context.Context) {
			// By then, a working one may have replaced it.
			_ = c.lab(t).Exec(ctx, machine, []string{"sh", "-c", "kill -CONT $(pidof " + program + ")"}, nil, nil, nil)
		},
	}
}

// kill ends a program once. Whatever runs it starts it again.
func (c *cluster) kill(what, program string, where func(status.Status) string) fault {
	return fault{
		name: "kill " + what,
		inject: func(t *testing.T, ctx context.Context) {
			s, _, err := c.status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.lab(t).Exec(ctx, where(s), []string{"sh", "-c", "kill -KILL $(pidof " + program + ")"}, nil, nil, nil); err != nil {
				t.Fatal(err)
			}
		},
		heal: func(*testing.T, context.Context) {},
	}
}

// suffer injects one fault into a cluster with full margins, heals it after all clients have recovered, and waits for full
// margins.
func suffer(t *testing.T, ctx context.Context, c *cluster, p *probe.Prober, f fault) (o outcome) {
	before := c.whole(t, ctx)
	o.Fault = f.name + roles(before, f.part)
	ctx, cancel := context.WithTimeoutCause(ctx, 2*patience, fmt.Errorf("the fault is not over after %s", 2*patience))
	defer cancel()

	injected := time.Now()
	f.inject(t, ctx)
	mended := false
	t.Cleanup(func() {
		if !mended { // for the faults that follow
			f.heal(t, context.WithoutCancel(ctx))
		}
	})
	if err := p.Calm(ctx, calm); err != nil {
		c.collect(t, "during")
		t.Fatalf("clients do not get over it: %v; since the fault: %s", err, report(p, injected))
	}
	during, r, err := c.status(ctx)
	o.StatusTook = r.took
	switch {
	case err != nil:
		t.Error(err)
	case f.part != "" && (len(during.Problems) == 0 || shortOf(during) == nil):
		t.Errorf("status finds nothing wrong: %s", r)
	}
	healed := time.Now()
	if o.During, err = p.Between(ctx, injected, healed); err != nil {
		t.Fatal(err)
	}
	f.heal(t, ctx)
	mended = true
	c.whole(t, ctx)
	o.MarginsBack = time.Since(healed)
	if err := p.Calm(ctx, calm); err != nil {
		t.Fatalf("clients find no rest after the return: %v; since then: %s", err, report(p, healed))
	}
	if o.Return, err = p.Between(ctx, healed, time.Now()); err != nil {
		t.Fatal(err)
	}
	if longest := max(o.During.Longest(), o.Return.Longest()); longest > sane {
		t.Errorf("an outage of %s", longest)
	}
	lost, acked, err := p.Lost(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), acked, lost)
	}
	o.Healed = true
	fmt.Printf("%-40s %s\n", o.Fault, row(o))
	return o
}

// roles describes the special roles of a part.
func roles(s status.Status, part string) string {
	var out []string
	zone := map[string]bool{}
	for _, n := range s.Nodes {
		zone[n.Name] = n.Zone == part
	}
	for _, m := range s.Etcd.Members {
		if m.Leader && (m.Name == part || zone[m.Name]) {
			out = append(out, "etcd leader")
		}
	}
	for _, b := range s.LoadBalancers {
		if b.Active && (b.Name == part || strings.HasSuffix(b.Name, "-"+part)) {
			out = append(out, "VIP holder")
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, ", ") + ")"
}

func report(p *probe.Prober, since time.Time) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, _ := p.Between(ctx, since, time.Now())
	data, _ := json.Marshal(r)
	return string(data)
}

func row(o outcome) string {
	cell := func(x probe.Outage) string { return fmt.Sprintf("%.2f/%d", x.Longest.Seconds(), x.Failed) }
	return strings.Join([]string{cell(o.During.New), cell(o.During.Writes), cell(o.During.HTTP2), cell(o.Return.New), cell(o.Return.Writes), cell(o.Return.HTTP2),
		fmt.Sprintf("%.1f", o.MarginsBack.Seconds()), fmt.Sprintf("%.1f", o.StatusTook.Seconds())}, "\t")
}

func table(outcomes []outcome) string {
	var b strings.Builder
	b.WriteString("Longest time between two successes, in seconds / failed requests, for clients that open a connection for each\n" +
		"request (20 a second), for writes (20 a second) and for the worst of six HTTP/2 connections (5 a second each).\n\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tNEW\tWRITE\tHTTP/2\tRETURN: NEW\tWRITE\tHTTP/2\tMARGINS BACK\tSTATUS TOOK")
	for _, o := range outcomes {
		fmt.Fprintf(w, "%s\t%s\n", o.Fault, row(o))
	}
	w.Flush()
	return b.String()
}
