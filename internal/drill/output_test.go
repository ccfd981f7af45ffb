package drill

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// shown is a small report: one fault that kept its objective, one that missed it, and one that cannot be judged.
func shown() *Report {
	began := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	clients := func(reads, writes, streams, pods int64, failed int) map[string]ClientResult {
		one := func(gap int64, failed int) ClientResult {
			return ClientResult{GapMs: gap, Requests: 280, Failed: failed, DisruptionSeconds: failed / 20, Before: Latency{3.5, 9, 21}, During: Latency{4, 40, 81.5}, After: Latency{3.5, 9, 22}}
		}
		return map[string]ClientResult{"endpoint/read/new": one(reads, failed), "endpoint/write/new": one(writes, failed), "endpoint/read/http2": one(streams, 0), "endpoint/watch/http2": one(900, 0),
			"kubernetes-service/read/new": one(pods, failed)}
	}
	margins := quorum.Margins{ControlPlanes: 1, Etcd: 1, LoadBalancers: new(1), Zones: 1}
	r := &Report{
		Cluster: "prod", Quorate: "v0.9.0 6b6585d", Kubernetes: "v1.37.2", Began: began, Ended: at(185), Seed: 7,
		Environment: Environment{Lab: true, Processors: 2, Kernel: "6.18.5", Profile: "fast", Topology: "stacked", PaceMs: 50},
		Topology:    []HostInfo{{"cp-a", "a", []string{"control-plane"}}, {"lb-a", "a", []string{"load-balancer"}}},
		Objectives: []Objective{
			{Faults: "*", Clients: "endpoint,kubernetes-service", MaxGapMs: new(int64(1200)), MaxMarginsBackMs: new(int64(120000))},
			{Faults: "*", Clients: "endpoint/write", MaxFailed: new(50)},
		},
		Quiet: &Quiet{Seconds: 10, Clients: clients(60, 70, 240, 80, 0)},
		Faults: []Outcome{
			{Name: "kill/etcd/leader", Target: "cp-b", Roles: []string{"etcd leader"}, Injected: at(20), Healed: at(20), Clients: clients(690, 700, 900, 1100, 6), WriteOutageMs: 700,
				DetectMs: new(int64(1100)), MarginsBackMs: new(int64(4200)), LeaderChanges: 1, Margins: margins},
			{Name: "hang/etcd/leader", Target: "cp-a", Roles: []string{"etcd leader"}, Injected: at(60), Healed: at(70), Clients: clients(9800, 700, 10400, 2200, 106), WriteOutageMs: 700,
				DetectMs: new(int64(2300)), MarginsBackMs: new(int64(8000)), LeaderChanges: 1, Margins: margins},
			{Name: "power-off/zone/b", Target: "zone/b", Roles: []string{"virtual IP"}, Injected: at(120), Healed: at(135), Clients: clients(640, 650, 700, 900, 3), WriteOutageMs: 650,
				MarginsBackMs: new(int64(21000)), LeaderChanges: -1, PodsMoved: 2, PodsMovedMs: new(int64(11800)), Margins: margins, Invalid: []string{"service/echo/kept on w-c ran in 3 of 15 seconds"}},
		},
		Skipped: []Skipped{{"fill/disk/leader", "", "the machines of this lab share a disk with this computer"}, {"fill/disk/follower", "", "the machines of this lab share a disk with this computer"},
			{"power-off/zone/a", "zone/a", "stopping zone a leaves 1 of 3 working etcd members in the worst case, and 2 are needed"}},
		Ledger:   Ledger{Acknowledged: 2410, Unknown: 112, Linearizable: "yes", Operations: 9120, Keys: 4},
		Timeline: []Sample{{Second: began.Unix(), Client: "endpoint/read/new", OK: 20, Slowest: 21}},
	}
	for i := range r.Faults {
		Judge(&r.Faults[i], r.Objectives)
	}
	r.Summarize()
	r.Advice = []string{"In 1 fault that missed an objective, etcd elected another leader. With its election timeout of 1s, an election begins after 1s to 2s. The members support 500ms: set spec.failover.electionTimeout to `500ms`, and see what `quorate plan` says."}
	return r
}

// textOf is a report as text without colors.
func textOf(t *testing.T, r *Report, width int) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b, width, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func junitOf(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestOutput(t *testing.T) {
	r := shown()
	golden.Compare(t, "small.txt", textOf(t, r, 120))
	golden.Compare(t, "small-80.txt", textOf(t, r, 80))
	golden.Compare(t, "small.junit.xml", junitOf(t, r))
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "small.json", data.String())
	var again Report
	if err := json.Unmarshal(data.Bytes(), &again); err != nil || !reflect.DeepEqual(&again, r) {
		t.Errorf("the report cannot be read back: %v", err)
	}
}

// odd are reports in which something is missing, or there is much of it.
func odd() map[string]*Report {
	repeated := shown()
	for range 19 {
		repeated.Faults = append(repeated.Faults, shown().Faults...)
	}
	repeated.Faults[3].Target = "cp-c"
	repeated.Summarize()
	lost := shown()
	lost.Ledger = Ledger{Acknowledged: 2410, Lost: 2, Linearizable: "no", WatchGaps: 1}
	lost.Interrupted = "interrupt"
	long := shown()
	long.Faults[0].Name, long.Faults[0].Target = "hang/kube-controller-manager/follower", "control-plane-1.frankfurt.example.com:control-plane-2.frankfurt.example.com"
	long.Faults[1].MarginsBackMs = nil
	long.Faults[2].Clients = map[string]ClientResult{}
	undecided := shown()
	undecided.Ledger.Linearizable = "unknown: not decided within 2m0s"
	return map[string]*Report{"empty": {Cluster: "prod"}, "repeated": repeated, "lost": lost, "long": long, "undecided": undecided}
}

// No line is wider than the terminal, and nothing is lost on a narrow one.
func TestTextFits(t *testing.T) {
	reports := odd()
	reports["small"] = shown()
	for name, r := range reports {
		for _, width := range []int{80, 100, 120, 200} {
			text := textOf(t, r, width)
			for line := range strings.Lines(text) {
				if cells := ui.Cells(strings.TrimRight(line, "\n")); cells > width {
					t.Errorf("%s: %d cells in a width of %d: %s", name, cells, width, line)
				}
				if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
					t.Errorf("%s: spaces at the end of %q", name, line)
				}
			}
			for _, o := range r.Faults {
				if !strings.Contains(text, o.Name) {
					t.Errorf("%s: %s is missing at a width of %d", name, o.Name, width)
				}
			}
		}
		wide := textOf(t, r, 0)
		for _, o := range r.Faults {
			if !strings.Contains(wide, o.Name+" ") {
				t.Errorf("%s: %s is missing", name, o.Name)
			}
		}
	}
}

func TestTextOfOddReports(t *testing.T) {
	reports := odd()
	for name, parts := range map[string][]string{
		"empty":     {"NO RESULT: No fault was injected, so nothing is proven."},
		"repeated":  {"2 places", "20/20 pass", "0/20 pass", "! hang/etcd/leader on cp-a (etcd leader) missed its objective:", "FAIL: 20 of 60 faults kept their objective; 20 missed it and 20 could not be judged."},
		"lost":      {"2 of 2,410 acknowledged writes were lost", "missed events or could not resume once", "The drill ended early: interrupt."},
		"long":      {"never"},
		"undecided": {"unknown: not decided within 2m0s", "FAIL:"},
	} {
		text := textOf(t, reports[name], 0)
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q is missing in\n%s", name, part, text)
			}
		}
	}
	evil := shown()
	evil.Faults[1].Missed[0] = "a\nb\x1b[2Jc"
	if text := textOf(t, evil, 0); !strings.Contains(text, "  - a b [2Jc\n") {
		t.Errorf("an error can steer the terminal:\n%q", text)
	}
	// A figure above its limit is red, and so is the verdict.
	var b strings.Builder
	if err := shown().WriteText(&b, 0, true); err != nil {
		t.Fatal(err)
	}
	for _, red := range []string{"\x1b[31m9.80\x1b[0m", "\x1b[31m2.20\x1b[0m", "\x1b[31mmissed\x1b[0m", "\x1b[33minvalid\x1b[0m", "\x1b[32mpass\x1b[0m"} {
		if !strings.Contains(b.String(), red) {
			t.Errorf("%q is missing in\n%s", red, b.String())
		}
	}
	if strings.Contains(b.String(), "\x1b[31m0.70") {
		t.Error("a figure within its limit is red")
	}
}

// countedSuites are what a CI system reads.
type countedSuites struct {
	Suites []struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Cases    []struct {
			Name    string `xml:"name,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func TestJUnitAgreesWithTheVerdict(t *testing.T) {
	reports := odd()
	reports["small"] = shown()
	passed := shown()
	passed.Faults = passed.Faults[:1]
	passed.Summarize()
	reports["passed"] = passed
	evil := shown()
	evil.Cluster, evil.Faults[1].Missed[0], evil.Faults[1].Target = "<&\"'>", "</failure>\x00\x1b]]>", "a\nb"
	reports["evil"] = evil
	for name, r := range reports {
		var got countedSuites
		text := junitOf(t, r)
		d := xml.NewDecoder(strings.NewReader(text))
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		for {
			rest, err := d.Token()
			if space, is := rest.(xml.CharData); is && len(bytes.TrimSpace(space)) == 0 {
				continue
			}
			if err != io.EOF {
				t.Errorf("%s: more than one document: %v, %v", name, rest, err)
			}
			break
		}
		if len(got.Suites) != 1 {
			t.Fatalf("%s: %d suites", name, len(got.Suites))
		}
		s := got.Suites[0]
		var names []string
		failures, errs, skipped := 0, 0, 0
		for _, c := range s.Cases {
			names = append(names, c.Name)
			if c.Failure != nil {
				failures++
			}
			if c.Error != nil {
				errs++
			}
			if c.Skipped != nil {
				skipped++
			}
		}
		if s.Tests != len(s.Cases) || s.Failures != failures || s.Errors != errs || s.Skipped != skipped || skipped != len(r.Skipped) {
			t.Errorf("%s: %d tests, %d failures, %d errors, %d skipped, and there are %d, %d, %d, %d", name, s.Tests, s.Failures, s.Errors, s.Skipped, len(s.Cases), failures, errs, skipped)
		}
		if bad := failures+errs > 0; bad == r.Pass {
			t.Errorf("%s: %d failures and %d errors, and the drill passes: %t", name, failures, errs, r.Pass)
		}
		if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("%s: two cases have the same name: %v", name, names)
		}
	}
	if !passed.Pass {
		t.Error("no report passes, so nothing was shown")
	}
}

const drillPage = "../../docs/drill.md"

// between is the part of a page between two marks.
func between(t *testing.T, page, mark string) string {
	t.Helper()
	_, rest, begins := strings.Cut(page, "<!-- "+mark+" -->\n")
	text, _, ends := strings.Cut(rest, "<!-- /"+mark+" -->")
	if !begins || !ends {
		t.Fatalf("%s has no part %s", drillPage, mark)
	}
	return text
}

// faultsTable has a row for all kinds and targets that have the same roles.
func faultsTable() string {
	var b strings.Builder
	b.WriteString("| kind | target | role |\n|---|---|---|\n")
	quoted := func(word string) string { return "`" + word + "`" }
	for i := 0; i < len(allFaults); {
		targets := allFaults[i].targets
		var kinds []string
		for ; i < len(allFaults) && reflect.DeepEqual(allFaults[i].targets, targets); i++ {
			kinds = append(kinds, quoted(string(allFaults[i].kind)))
		}
		for j := 0; j < len(targets); {
			var names, roles []string
			for _, role := range targets[j].roles {
				roles = append(roles, quoted(string(role)))
			}
			if targets[j].target == Zone {
				roles = []string{"the name of the zone"}
			}
			for same := targets[j].roles; j < len(targets) && slices.Equal(targets[j].roles, same); j++ {
				names = append(names, quoted(string(targets[j].target)))
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.Join(kinds, ", "), strings.Join(names, ", "), strings.Join(roles, ", "))
		}
	}
	return b.String()
}

// The tables of the documentation are what the code says.
func TestDocumentation(t *testing.T) {
	data, err := os.ReadFile(drillPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	if got, want := between(t, page, "faults"), faultsTable(); got != want {
		t.Errorf("the faults of the page are\n%s\nand should be\n%s", got, want)
	}
	var promises strings.Builder
	promises.WriteString("| faults | clients | longest gap | margins back |\n|---|---|---|---|\n")
	fast, standard := DefaultObjectives(spec.ProfileFast), DefaultObjectives(spec.ProfileStandard)
	for i, o := range fast {
		limit := func(of func(Objective) *int64) string {
			ms := of(o)
			if ms == nil {
				return ""
			}
			text := exactly(*ms)
			if other := of(standard[i]); *other != *ms {
				text += "; with `standard` " + exactly(*other)
			}
			return text
		}
		clients := ""
		if o.Clients != "" {
			clients = "`" + o.Clients + "`"
		}
		fmt.Fprintf(&promises, "| `%s` | %s | %s | %s |\n", o.Faults, clients, limit(func(o Objective) *int64 { return o.MaxGapMs }), limit(func(o Objective) *int64 { return o.MaxMarginsBackMs }))
	}
	if got := between(t, page, "objectives"); got != promises.String() {
		t.Errorf("the objectives of the page are\n%s\nand should be\n%s", got, promises.String())
	}
	for _, row := range usual {
		if name := row[len(row)-1]; !strings.Contains(page, "`"+name+"`") {
			t.Errorf("the page does not name %s, which a drill injects if nobody chooses", name)
		}
	}
	if want := textOf(t, shown(), 110); !strings.Contains(page, want) {
		t.Errorf("the page does not show\n%s", want)
	}
	// Every key of the JSON report is described.
	seen := map[reflect.Type]bool{}
	var visit func(x reflect.Type)
	visit = func(x reflect.Type) {
		for x.Kind() == reflect.Pointer || x.Kind() == reflect.Slice || x.Kind() == reflect.Map {
			x = x.Elem()
		}
		if x.Kind() != reflect.Struct || x == reflect.TypeFor[time.Time]() || seen[x] {
			return
		}
		seen[x] = true
		for i := range x.NumField() {
			key, _, _ := strings.Cut(x.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(page, "`"+key+"`") && !strings.Contains(page, "`"+key+"[]`") {
				t.Errorf("the page does not describe the key %s of %s", key, x.Name())
			}
			visit(x.Field(i).Type)
		}
	}
	visit(reflect.TypeFor[Report]())
}
