package main

import (
	"context"
	"maps"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/scale"
	"quorate.dev/quorate/internal/spec"
)

// api is what an API server reports, with so many requests of each kind: fast ones below 50 ms, and slow ones between one and two seconds.
func api(started string, fast, slow int) string {
	n := strconv.Itoa
	series := func(verb, resource, subresource, scope string) string {
		labels := `verb="` + verb + `",group="",version="v1",resource="` + resource + `",subresource="` + subresource + `",scope="` + scope + `",component="apiserver"`
		const name = "apiserver_request_sli_duration_seconds"
		return name + `_bucket{` + labels + `,le="0.05"} ` + n(fast) + "\n" + name + `_bucket{` + labels + `,le="1"} ` + n(fast) + "\n" + name + `_bucket{` + labels + `,le="2"} ` + n(fast+slow) + "\n" +
			name + `_bucket{` + labels + `,le="+Inf"} ` + n(fast+slow) + "\n" + name + `_sum{` + labels + `} 1` + "\n" + name + `_count{` + labels + `} ` + n(fast+slow) + "\n"
	}
	return "# TYPE apiserver_request_sli_duration_seconds histogram\n" + series("PATCH", "nodes", "status", "resource") + series("PUT", "leases", "", "resource") + series("LIST", "pods", "", "cluster") +
		series("WATCH", "pods", "", "cluster") + series("GET", "pods", "log", "resource") + series("DELETECOLLECTION", "pods", "", "namespace") +
		"# TYPE apiserver_flowcontrol_rejected_requests_total counter\napiserver_flowcontrol_rejected_requests_total{reason=\"queue-full\"} " + n(slow) + "\n" +
		"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds " + started + "\n"
}

func parsed(t *testing.T, text string) families {
	t.Helper()
	f, err := parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestLatencies: what was counted in between is judged by the objective of its kind, and only that.
func TestLatencies(t *testing.T) {
	before, after := &snapshot{at: time.Unix(0, 0), api: map[string]families{"cp-a": parsed(t, api("5", 1000, 500))}}, &snapshot{at: time.Unix(60, 0), api: map[string]families{"cp-a": parsed(t, api("5", 1990, 510))}}
	p := phase("steady", before, after)
	want := map[string]bool{"PATCH resource": true, "PUT resource": true, "LIST cluster": true,
		"PATCH resource nodes/status": true, "PUT resource leases": true, "LIST cluster pods": true}
	if len(p.Latencies) != len(want) {
		t.Errorf("%+v", p.Latencies)
	}
	for _, l := range p.Latencies {
		if !want[l.Kind] || l.Count != 1000 || !l.Met {
			t.Errorf("%+v", l)
		}
	}
	if p.Rejected != 10 || p.Seconds != 60 {
		t.Errorf("%+v", p)
	}
	after.api["cp-a"] = parsed(t, api("5", 1900, 600)) // one in ten is slow
	for _, l := range phase("steady", before, after).Latencies {
		if want := strings.HasPrefix(l.Kind, "LIST cluster"); l.Met != want || l.P99 < 1.8 || l.P99 > 2 {
			t.Errorf("%+v", l)
		}
	}
	after.api["cp-a"] = parsed(t, api("7", 100, 0)) // it was started again, and counts from zero
	for _, l := range phase("steady", before, after).Latencies {
		if l.Count != 100 || !l.Met {
			t.Errorf("after a restart: %+v", l)
		}
	}
	after.api["cp-a"] = parsed(t, api("7", 99, 0)) // too few of each resource
	if got := phase("steady", before, after).Latencies; len(got) != 3 {
		t.Errorf("%+v", got)
	}
}

// TestLeasesHideNothing: a resource that is slow is a miss, however many fast requests there are about others.
func TestLeasesHideNothing(t *testing.T) {
	calls := map[string]histogram{}
	series := func(name string, fast, slow int) string {
		const metric = "apiserver_request_sli_duration_seconds"
		labels := `verb="PUT",group="` + name + `",resource="things",subresource="",scope="resource"`
		return metric + `_bucket{` + labels + `,le="1"} ` + strconv.Itoa(fast) + "\n" + metric + `_bucket{` + labels + `,le="2"} ` + strconv.Itoa(fast+slow) + "\n" +
			metric + `_bucket{` + labels + `,le="+Inf"} ` + strconv.Itoa(fast+slow) + "\n" + metric + `_sum{` + labels + "} 1\n" + metric + `_count{` + labels + `} ` + strconv.Itoa(fast+slow) + "\n"
	}
	f := parsed(t, "# TYPE apiserver_request_sli_duration_seconds histogram\n"+series("many", 100_000, 0)+series("slow", 0, 200))
	for _, kind := range []func(*dto.Metric) string{call, callOf} {
		merge(calls, between(nil, f, "apiserver_request_sli_duration_seconds", kind))
	}
	met := map[string]bool{}
	for _, l := range latencies(calls) {
		met[l.Kind] = l.Met
	}
	if want := map[string]bool{"PUT resource": true, "PUT resource things.many": true, "PUT resource things.slow": false}; !maps.Equal(met, want) {
		t.Errorf("%v", met)
	}
}

func TestQuantile(t *testing.T) {
	h := histogram{0.1: 50, 0.2: 90, math.Inf(1): 100}
	for part, want := range map[float64]float64{0.5: 0.1, 0.7: 0.15, 0.9: 0.2} {
		if got, over := h.quantile(part); math.Abs(got-want) > 1e-9 || over {
			t.Errorf("%g: %g, %v", part, got, over)
		}
	}
	if got, over := h.quantile(0.99); got != 0.2 || !over {
		t.Errorf("above the last bound: %g, %v", got, over)
	}
	if got, over := (histogram{}).quantile(0.99); got != 0 || over {
		t.Errorf("nothing: %g, %v", got, over)
	}
}

// TestUsage: memory is that of the end, and CPU what was used in between, of all hosts together.
func TestUsage(t *testing.T) {
	read := func(text string) map[string]Usage {
		u, err := processes(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	before := map[string]map[string]Usage{"cp-a": read("etcd 102400 100\nkube-apiserver 1024000 200\nsystemd 1 1\n"), "cp-b": read("etcd 102400 50\n")}
	after := map[string]map[string]Usage{"cp-a": read("  etcd  204800  130\nkube-apiserver 2048000 260\nTLS worker 7 1\n"), "cp-b": read("etcd 102400 20\n")}
	got := usage(before, after, 60)
	if len(got) != 2 || got[0].Program != "kube-apiserver" || got[0].Cores != 1 || got[0].MemoryMiB != 2000 || got[1].Processes != 2 || got[1].Cores != 0.5 || got[1].MemoryMiB != 300 {
		t.Errorf("%+v", got)
	}
	if _, err := processes("etcd many 3\n"); err == nil {
		t.Error("a line that is none is taken")
	}
}

// TestScrape: one late answer does not count, and a program that never answers does.
func TestScrape(t *testing.T) {
	for name, tc := range map[string]struct{ late, asked int }{"in time": {0, 1}, "late once": {1, 2}, "never": {scrapeAttempts, scrapeAttempts}} {
		asked, stored := 0, false
		store, err := scrape(t.Context(), 10*time.Millisecond, func(ctx context.Context) (func(), error) {
			if asked++; asked <= tc.late {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return func() { stored = true }, nil
		})
		if err == nil {
			store()
		}
		if asked != tc.asked || stored != (tc.late < scrapeAttempts) || stored != (err == nil) {
			t.Errorf("%s: asked %d times, stored %v, %v", name, asked, stored, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	asked := 0
	if _, err := scrape(ctx, time.Second, func(ctx context.Context) (func(), error) { asked++; return nil, ctx.Err() }); asked != 1 || err == nil {
		t.Errorf("interrupted: asked %d times, %v", asked, err)
	}
}

// TestVerdict: every objective counts, and outages during faults are the drill's to judge.
func TestVerdict(t *testing.T) {
	late := Latency{Kind: "PUT resource", P99: 1.5, Objective: 1}
	for name, tc := range map[string]struct {
		r    Result
		want string
	}{
		"good":               {Result{Phases: []Phase{{Name: "steady", Latencies: []Latency{{Kind: "GET resource", Met: true}}}}}, ""},
		"late":               {Result{Phases: []Phase{{Name: "steady", Latencies: []Latency{late}}}}, "PUT resource take 1.500 s"},
		"late during faults": {Result{Phases: []Phase{{Name: "faults", Latencies: []Latency{late}}}}, ""},
		"late afterwards":    {Result{Phases: []Phase{{Name: "a minute after the faults", Latencies: []Latency{late}}}}, "a minute after"},
		"not read":           {Result{Phases: []Phase{{Name: "steady", Missing: []string{"etcd on cp-a"}}}}, "could not be read: etcd on cp-a"},
		"no pods":            {Result{Scaled: &Scaled{Pods: &scale.PodsReport{Wanted: 10}}}, "of no pod is known"},
		"slow pods":          {Result{Scaled: &Scaled{Pods: &scale.PodsReport{Startup: scale.Quantiles{P99: 6000}}}}, "start within 6.0 s"},
		"an outage":          {Result{Faults: []Fault{{Name: "kill/etcd/leader", Target: "cp-a", Missed: []string{"no write for 9 s"}}}}, "no write for 9 s"},
		"lost":               {Result{Ledger: &drill.Ledger{Lost: 2}}, "2 acknowledged writes were lost"},
	} {
		tc.r.judge()
		if got := strings.Join(tc.r.Misses, "\n"); !strings.Contains(got, tc.want) || tc.r.Pass != (tc.want == "") {
			t.Errorf("%s: pass %v, %q", name, tc.r.Pass, got)
		}
		var out strings.Builder
		if tc.r.print(&out); tc.want != "" && !strings.Contains(out.String(), tc.want) {
			t.Errorf("%s: it does not print %q:\n%s", name, tc.want, out.String())
		}
	}
}

// TestShapes: the clusters that are built are valid, and their range of pods has room for all nodes.
func TestShapes(t *testing.T) {
	for _, nodes := range []int{1, 200, 1000, 4900} {
		c := shape(options{nodes: nodes, pods: 30 * nodes, profile: spec.ProfileFast})
		if errs := spec.Validate(c, spec.Options{Lab: true}); len(errs) > 0 {
			t.Errorf("%d nodes: %v", nodes, errs)
		}
		if planned, _ := c.Planned(); planned != nodes+5 {
			t.Errorf("%d nodes: planned for %d", nodes, planned)
		}
	}
}
