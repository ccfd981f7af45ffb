package drill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/spec"
)

// measured are the kinds of clients that a drill has.
var measured = []string{
	"endpoint/read/new", "endpoint/read/kept", "endpoint/read/http2", "endpoint/write/new", "endpoint/write/http2", "endpoint/cached-read/http2", "endpoint/beat/new", "endpoint/watch/kept", "endpoint/watch/http2", "endpoint/list/new",
	"kubernetes-service/read/new", "kubernetes-service/read/http2", "kubernetes-service/watch/http2", "local-api-server/read/kept", "service/get/new", "service/echo/kept", "node-port/get/new", "dns/lookup", "pod/get/new",
}

// quick is an outcome in which all clients were served quickly.
func quick(name string) Outcome {
	o := Outcome{Name: name, MarginsBackMs: new(int64(4000)), Clients: map[string]ClientResult{}}
	for _, kind := range measured {
		o.Clients[kind] = ClientResult{GapMs: 60, Requests: 200}
	}
	return o
}

func TestDefaultObjectives(t *testing.T) {
	type want map[string]int64 // milliseconds by kind of client
	for _, profile := range []string{spec.ProfileFast, spec.ProfileStandard} {
		all := DefaultObjectives(profile)
		replaced := map[string]int64{spec.ProfileFast: 15000, spec.ProfileStandard: 370000}[profile]
		for fault, gaps := range map[string]want{
			"power-off/host/leader":        {"endpoint/read/new": 1200, "endpoint/write/http2": 1200, "endpoint/watch/http2": 1700, "kubernetes-service/read/new": 1700, "kubernetes-service/read/http2": 5500, "service/get/new": replaced, "dns/lookup": replaced},
			"hang/haproxy/holder":          {"endpoint/read/http2": 1200, "endpoint/watch/kept": 1700, "service/get/new": 1500, "pod/get/new": 1500, "dns/lookup": 1500},
			"kill/kube-apiserver/follower": {"endpoint/read/new": 300, "endpoint/write/new": 300, "endpoint/read/http2": 500, "endpoint/watch/http2": 800, "service/echo/kept": 1500},
			"kill/etcd/leader":             {"endpoint/read/new": 1200, "endpoint/read/http2": 1200, "endpoint/watch/http2": 1700},
			"kill/kubelet/worker":          {"endpoint/read/new": 300, "service/get/new": replaced},
		} {
			for kind, ms := range gaps {
				o, ok := ObjectiveFor(all, fault, kind)
				if !ok || o.MaxGapMs == nil || *o.MaxGapMs != ms {
					t.Errorf("%s: %s of %s: %v, want %d", profile, fault, kind, o.MaxGapMs, ms)
				}
			}
			for _, kind := range []string{"endpoint/list/new", "local-api-server/read/kept"} {
				if o, _ := ObjectiveFor(all, fault, kind); o.MaxGapMs != nil {
					t.Errorf("%s: something is promised to %s: %d", fault, kind, *o.MaxGapMs)
				}
			}
			o := quick(fault)
			if Judge(&o, all); !o.Pass {
				t.Errorf("%s: %v, %v", fault, o.Missed, o.Invalid)
			}
			o = quick(fault)
			for kind := range o.Clients {
				if !strings.HasPrefix(kind, "endpoint/") {
					delete(o.Clients, kind)
				}
			}
			if Judge(&o, Outside(all)); !o.Pass {
				t.Errorf("%s without pods: %v, %v", fault, o.Missed, o.Invalid)
			}
			if Judge(&o, all); o.Pass || len(o.Invalid) == 0 {
				t.Errorf("%s: nobody has measured pods, and it passes", fault)
			}
		}
	}
	if !slices.EqualFunc(DefaultObjectives("fast"), DefaultObjectives("fast"), func(a, b Objective) bool { return a.Faults == b.Faults && a.Clients == b.Clients }) {
		t.Error("the objectives are not always the same")
	}
	// Every objective is for something that exists.
	f := clustertest.Whole()
	faults, skipped := Catalogue(cluster.Evaluate(f.Spec, f.Seen), everything)
	if err := CheckObjectives(DefaultObjectives(spec.ProfileFast), faults, skipped, measured); err != nil {
		t.Error(err)
	}
}

func TestObjectiveFor(t *testing.T) {
	all := []Objective{
		{Faults: "*", MaxGapMs: new(int64(1000)), MaxFailed: new(10)},
		{Faults: "kill", Clients: "endpoint", MaxGapMs: new(int64(300))},
		{Faults: "kill/etcd,hang/etcd", MaxGapMs: new(int64(2000)), MaxMarginsBackMs: new(int64(9000))},
		{Faults: "*", Clients: "dns", MaxFailed: new(0)},
	}
	for _, tc := range []struct {
		fault, client string
		gap           int64
		failed        int
		back          bool
	}{
		{"hang/haproxy/holder", "endpoint/read/new", 1000, 10, false},
		{"kill/haproxy/holder", "endpoint/read/new", 300, 10, false},
		{"kill/haproxy/holder", "service/get/new", 1000, 10, false},
		{"kill/etcd/leader", "endpoint/read/new", 2000, 10, true},
		{"hang/etcd/leader", "dns/lookup", 2000, 0, true},
	} {
		o, ok := ObjectiveFor(all, tc.fault, tc.client)
		if !ok || *o.MaxGapMs != tc.gap || *o.MaxFailed != tc.failed || (o.MaxMarginsBackMs != nil) != tc.back || o.MaxDisruptionSeconds != nil {
			t.Errorf("%s, %s: %+v", tc.fault, tc.client, o)
		}
	}
	if _, ok := ObjectiveFor(all[1:2], "hang/etcd/leader", "endpoint/read/new"); ok {
		t.Error("an objective for another fault counts")
	}
	if _, ok := ObjectiveFor(all[1:2], "kill/etcd/leader", "dns/lookup"); ok {
		t.Error("an objective for other clients counts")
	}
	if *all[0].MaxGapMs != 1000 || *all[0].MaxFailed != 10 {
		t.Error("the objectives were changed")
	}
}

func TestJudge(t *testing.T) {
	gap := func(faults, clients string, ms int64) Objective {
		return Objective{Faults: faults, Clients: clients, MaxGapMs: &ms}
	}
	for name, tc := range map[string]struct {
		objectives []Objective
		change     func(*Outcome)
		missed     []string // parts of each
		invalid    []string
	}{
		"kept":                             {objectives: []Objective{gap("*", "endpoint", 60)}},
		"no limits":                        {objectives: []Objective{{Faults: "*"}}, change: func(o *Outcome) { o.Clients["endpoint/read/new"] = ClientResult{GapMs: 1e6, Requests: 1, Failed: 1} }},
		"a gap":                            {objectives: []Objective{gap("kill", "endpoint/read", 59)}, missed: []string{"endpoint/read/http2: 60ms without a success; at most 59ms was promised", "endpoint/read/kept", "endpoint/read/new"}},
		"one millisecond":                  {objectives: []Objective{gap("*", "dns", 1200)}, change: func(o *Outcome) { o.Clients["dns/lookup"] = ClientResult{GapMs: 1201, Requests: 9} }, missed: []string{"dns/lookup: 1.201s without a success; at most 1.2s was promised"}},
		"failed requests":                  {objectives: []Objective{{Faults: "*", Clients: "dns", MaxFailed: new(0)}}, change: func(o *Outcome) { o.Clients["dns/lookup"] = ClientResult{Requests: 9, Failed: 2} }, missed: []string{"dns/lookup: 2 of 9 requests failed; at most 0 was promised"}},
		"disruption":                       {objectives: []Objective{{Faults: "*", MaxDisruptionSeconds: new(1)}}, change: func(o *Outcome) { o.Clients["dns/lookup"] = ClientResult{Requests: 9, DisruptionSeconds: 2} }, missed: []string{"dns/lookup: 2 seconds of disruption; at most 1 was promised"}},
		"slow margins":                     {objectives: []Objective{{Faults: "*", MaxMarginsBackMs: new(int64(3999))}}, missed: []string{"the margins came back after 4s; within 3.999s was promised"}},
		"no margins":                       {objectives: []Objective{{Faults: "*", Clients: "endpoint", MaxMarginsBackMs: new(int64(5000))}}, change: func(o *Outcome) { o.MarginsBackMs = nil }, missed: []string{"the margins did not come back; within 5s was promised"}},
		"no margins, and nothing promised": {objectives: []Objective{gap("*", "", 60)}, change: func(o *Outcome) { o.MarginsBackMs = nil }},
		"margins that nobody waited for": {objectives: []Objective{{Faults: "*", MaxMarginsBackMs: new(int64(5000))}}, change: func(o *Outcome) { o.MarginsBackMs, o.Invalid = nil, []string{"interrupted: interrupt"} },
			invalid: []string{"interrupted: interrupt"}},
		"a lost write":      {objectives: []Objective{gap("*", "", 60)}, change: func(o *Outcome) { o.LostWrites = 1 }, missed: []string{"1 acknowledged write is lost"}},
		"nothing promised":  {objectives: []Objective{gap("hang", "", 1)}, invalid: []string{"no objective matches this fault"}},
		"no objectives":     {invalid: []string{"no objective matches this fault"}},
		"no such client":    {objectives: []Objective{gap("*", "node-port/echo,dns", 60)}, invalid: []string{"no client of the kind node-port/echo has sent a request"}},
		"no clients":        {objectives: []Objective{gap("*", "", 60)}, change: func(o *Outcome) { o.Clients = nil }, invalid: []string{"no client of the kind * has sent a request"}},
		"a silent client":   {objectives: []Objective{gap("*", "dns,service", 60)}, change: func(o *Outcome) { o.Clients["service/echo/kept"] = ClientResult{} }, invalid: []string{"service/echo/kept: no request was sent"}},
		"a silent kind":     {objectives: []Objective{gap("*", "dns", 60)}, change: func(o *Outcome) { o.Clients["dns/lookup"] = ClientResult{GapMs: 9} }, invalid: []string{"no client of the kind dns has", "dns/lookup: no request was sent"}},
		"missing elsewhere": {objectives: []Objective{gap("*", "", 60), gap("hang", "nothing", 60)}},
		"already invalid":   {objectives: []Objective{gap("*", "dns", 1)}, change: func(o *Outcome) { o.Invalid = []string{"starved"} }, missed: []string{"dns/lookup"}, invalid: []string{"starved"}},
		"already missed":    {objectives: []Objective{gap("*", "dns", 60)}, change: func(o *Outcome) { o.Missed = []string{"the cluster is not what it was"} }, missed: []string{"the cluster is not what it was"}},
	} {
		o := quick("kill/etcd/leader")
		o.Pass = true
		if tc.change != nil {
			tc.change(&o)
		}
		for range 2 { // judging twice changes nothing
			Judge(&o, tc.objectives)
			same := func(got, want []string) bool {
				return slices.EqualFunc(got, want, func(got, want string) bool { return strings.Contains(got, want) })
			}
			if !same(o.Missed, tc.missed) || !same(o.Invalid, tc.invalid) || o.Pass != (len(tc.missed)+len(tc.invalid) == 0) {
				t.Errorf("%s: missed %q, invalid %q, pass %t", name, o.Missed, o.Invalid, o.Pass)
			}
		}
	}
}

func TestOutside(t *testing.T) {
	var kept []string
	for _, o := range Outside([]Objective{
		{Faults: "a", MaxGapMs: new(int64(1))}, {Faults: "b", Clients: "endpoint/read", MaxGapMs: new(int64(1))}, {Faults: "c", Clients: "dns,pod/*", MaxFailed: new(1)},
		{Faults: "d", Clients: "dns,endpoint", MaxFailed: new(1)}, {Faults: "e", Clients: "*/read", MaxDisruptionSeconds: new(1)}, {Faults: "f", Clients: "dns", MaxMarginsBackMs: new(int64(1))},
	}) {
		kept = append(kept, o.Faults)
	}
	if fmt.Sprint(kept) != "[a b d e f]" {
		t.Error(kept)
	}
}

func TestObjectivesOfTheUser(t *testing.T) {
	c := &spec.Cluster{}
	c.Spec.Drill.Objectives = []spec.Objective{{Faults: "kill/*", Clients: "endpoint", MaxGap: "1.2s", MaxFailed: new(0)}, {Faults: "*", MaxDisruptionSeconds: new(3), MaxMarginsBack: "2m"}}
	own, err := ParseObjectives([]byte("objectives:\n- {faults: kill/*, clients: endpoint, maxGap: 1.2s, maxFailed: 0}\n- {faults: '*', maxDisruptionSeconds: 3, maxMarginsBack: 2m}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for where, got := range map[string][]Objective{"spec": FromSpec(c), "file": own} {
		if len(got) != 2 || got[0].Faults != "kill/*" || got[0].Clients != "endpoint" || *got[0].MaxGapMs != 1200 || *got[0].MaxFailed != 0 || got[0].MaxMarginsBackMs != nil || got[0].MaxDisruptionSeconds != nil ||
			got[1].Clients != "" || got[1].MaxGapMs != nil || got[1].MaxFailed != nil || *got[1].MaxDisruptionSeconds != 3 || *got[1].MaxMarginsBackMs != 120000 {
			t.Errorf("%s: %+v", where, got)
		}
	}
	if _, err := ParseObjectives([]byte("objectives:\n- {fault: kill, maxGap: 1s}\n")); err == nil || !strings.Contains(err.Error(), "line 2: objectives[0].fault: unknown field `fault`; did you mean `faults`?") {
		t.Error(err)
	}
	if len(FromSpec(&spec.Cluster{})) != 0 {
		t.Error("a spec without objectives has some")
	}
}

func TestCheckObjectives(t *testing.T) {
	skipped := []Skipped{{Name: "power-off/zone/b", Why: "only in a lab"}}
	for patterns, want := range map[[2]string]string{
		{"kill/*", ""}:                 "",
		{"hang/etcd,kill", "endpoint"}: "",
		{"power-off/zone/b", ""}:       "", // it exists, and cannot be injected here
		{"kil/*", ""}:                  "no fault matches `kil/*`; did you mean `kill/*`?",
		{"kill,stop/etcd", ""}:         "no fault matches `stop/etcd`",
		{"*", "endpiont/read"}:         "no kind of client matches `endpiont/read`; did you mean `endpoint/read`?",
		{"*", "dns,service/get/kept"}:  "no kind of client matches `service/get/kept`; did you mean `service/get/new`?",
	} {
		err := CheckObjectives([]Objective{{Faults: "*"}, {Faults: patterns[0], Clients: patterns[1]}}, someFaults, skipped, measured)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", patterns, err, want)
		}
	}
	if err := CheckObjectives([]Objective{{Faults: "*", Clients: "anything"}}, someFaults, nil, nil); err != nil {
		t.Errorf("without kinds of clients: %v", err)
	}
}

// nearestRank is the definition: the smallest of the figures that is not exceeded by the given part of them.
func nearestRank(all []int64, percent int) int64 {
	best := slices.Max(all)
	for _, x := range all {
		within := 0
		for _, y := range all {
			if y <= x {
				within++
			}
		}
		if within*100 >= percent*len(all) {
			best = min(best, x)
		}
	}
	return best
}

func TestSummariesAgainstTheDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		report := Report{Ledger: Ledger{Linearizable: "yes"}}
		gaps := map[[2]string][]int64{} // by fault and client
		repeats, valid, passed := map[string]int{}, map[string]int{}, map[string]int{}
		for range 1 + r.IntN(40) {
			o := Outcome{Name: []string{"a", "b", "c"}[r.IntN(3)], Pass: r.IntN(3) > 0, Clients: map[string]ClientResult{}}
			if !o.Pass && r.IntN(2) == 0 {
				o.Invalid = []string{"starved"}
			}
			for _, kind := range []string{"x", "y"} {
				if r.IntN(5) == 0 {
					continue // it was not measured
				}
				c := ClientResult{GapMs: r.Int64N(20)}
				o.Clients[kind] = c
				if o.Invalid == nil {
					gaps[[2]string{o.Name, kind}] = append(gaps[[2]string{o.Name, kind}], c.GapMs)
				}
			}
			repeats[o.Name]++
			if o.Invalid == nil {
				valid[o.Name]++
			}
			if o.Pass {
				passed[o.Name]++
			}
			report.Faults = append(report.Faults, o)
		}
		report.Summarize()
		report.Summarize() // twice is the same as once
		if len(report.Summaries) != len(repeats) || report.Summaries[0].Name != report.Faults[0].Name {
			t.Fatalf("%d summaries of %d faults", len(report.Summaries), len(repeats))
		}
		figures := 0
		for _, s := range report.Summaries {
			if s.Repeats != repeats[s.Name] || s.Valid != valid[s.Name] || s.Passed != passed[s.Name] {
				t.Fatalf("%+v, want %d, %d, %d", s, repeats[s.Name], valid[s.Name], passed[s.Name])
			}
			for kind, got := range s.Gaps {
				figures++
				all := gaps[[2]string{s.Name, kind}]
				if want := (Spread{nearestRank(all, 50), nearestRank(all, 95), slices.Max(all)}); got != want {
					t.Fatalf("%v: %+v, want %+v", all, got, want)
				}
			}
		}
		if figures != len(gaps) {
			t.Fatalf("%d of %d figures", figures, len(gaps))
		}
	}
}

func TestADrillPasses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Report)
		pass   bool
	}{
		"all faults":       {func(*Report) {}, true},
		"one missed":       {func(r *Report) { r.Faults[1].Pass = false }, false},
		"no faults":        {func(r *Report) { r.Faults = nil }, false},
		"interrupted":      {func(r *Report) { r.Interrupted = "interrupt" }, false},
		"lost writes":      {func(r *Report) { r.Ledger.Lost = 1 }, false},
		"missed events":    {func(r *Report) { r.Ledger.WatchGaps = 1 }, false},
		"not linearizable": {func(r *Report) { r.Ledger.Linearizable = "no" }, false},
		"undecided":        {func(r *Report) { r.Ledger.Linearizable = "unknown: not decided within 2m0s" }, false},
		"not checked":      {func(r *Report) { r.Ledger.Linearizable = "" }, false},
		"some skipped":     {func(r *Report) { r.Skipped = []Skipped{{Name: "a", Why: "b"}} }, true},
	} {
		r := &Report{Faults: []Outcome{{Name: "a", Pass: true}, {Name: "b", Pass: true}}, Ledger: Ledger{Acknowledged: 10, Linearizable: "yes"}, Began: time.Unix(0, 0), Ended: time.Unix(9, 0)}
		tc.change(r)
		if r.Summarize(); r.Pass != tc.pass {
			t.Errorf("%s: %t", name, r.Pass)
		}
	}
}
