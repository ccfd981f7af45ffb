package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/spec"
)

func lines(commands []command) (out []string) {
	for _, c := range commands {
		out = append(out, c.host+": "+c.line)
	}
	return out
}

func TestDocumentedOrder(t *testing.T) {
	c, err := shape(spec.TopologyStacked)
	if err != nil {
		t.Fatal(err)
	}
	plain, workaround := documentedCommands(c, false), documentedCommands(c, true)
	text := strings.Join(lines(plain), "\n")
	last := -1
	for _, part := range []string{
		"cp-a: kubeadm upgrade plan", "cp-a: kubeadm upgrade apply --yes " + to, ": kubectl drain cp-a", "cp-a: systemctl restart kubelet", ": kubectl uncordon cp-a",
		"cp-b: kubeadm upgrade node", ": kubectl drain cp-b", ": kubectl uncordon cp-b", ": kubectl uncordon cp-c", "worker-a: kubeadm upgrade node", ": kubectl uncordon worker-b",
	} {
		at := strings.Index(text, part)
		if at <= last {
			t.Errorf("%q is at %d, the one before it at %d, in\n%s", part, at, last, text)
		}
		last = at
	}
	if n := strings.Count(text, "upgrade apply"); n != 1 {
		t.Errorf("kubeadm upgrade apply runs %d times", n)
	}
	// The workaround adds two lines on each control plane, and changes nothing else.
	var added []string
	for _, line := range lines(workaround) {
		if strings.Contains(line, "pkill") || strings.Contains(line, "sleep") {
			added = append(added, line)
		}
	}
	if len(added) != 2*3 || len(workaround) != len(plain)+len(added) || !strings.HasPrefix(added[0], "cp-a: pkill -TERM") {
		t.Errorf("the workaround adds %v", added)
	}
	// kubeadm does not upgrade an external etcd.
	if c, err = shape(spec.TopologyExternal); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(lines(documentedCommands(c, false)), "\n"); strings.Contains(text, "etcd-a") || !strings.Contains(text, "cp-c: kubeadm upgrade node") {
		t.Errorf("with external etcd:\n%s", text)
	}
}

func TestRepeats(t *testing.T) {
	for _, c := range []struct {
		line  string
		tries int
		since time.Duration
		want  bool
	}{
		{"kubectl uncordon cp-a", 20, time.Minute, true},
		{"kubectl uncordon cp-a", 1, patience, false},
		{"kubeadm upgrade apply --yes " + to, 2, time.Hour, true},
		{"kubeadm upgrade apply --yes " + to, 3, time.Minute, false},
		{"systemctl restart kubelet", 1, 0, false},
	} {
		if got := (command{"cp-a", c.line}).repeats(c.tries, c.since); got != c.want {
			t.Errorf("%s after %d tries and %s: %t", c.line, c.tries, c.since, got)
		}
	}
}

func result(path string, o probe.Operation, failed int, phase probe.Phase) probe.Result {
	r := probe.Result{Client: probe.Client{Path: path, Operation: o, Connection: probe.New}}
	r.Requests, r.Failed, r.Phases, r.Disruption = 2000, failed, map[probe.Phase]int{phase: failed}, failed/20
	r.Latencies, r.Slowest, r.Longest = probe.Latencies{20: 2000}, 7*time.Millisecond, 60*time.Millisecond
	return r
}

func TestOutcome(t *testing.T) {
	own := result(clients.OwnServer+"cp-a", probe.Read, 400, probe.Dial)
	own.Longest, own.Slowest = 20*time.Second, 3*time.Second // it waited for a server that started
	o := outcome{AllowedElections: 3, Elections: 3, Excused: map[string]probe.Excuse{own.Client.String(): {Requests: 400, Slowest: time.Second}}, Results: []probe.Result{
		result("endpoint", probe.Read, 0, probe.Dial), own,
		result("endpoint", probe.Watch, 0, probe.Body),
		result("DNS", probe.Lookup, 0, probe.Header),
		result(clients.OwnServer+"cp-a", probe.Ready, 40, probe.Status), // only tells of the shutdown
	}}
	o.Results[0].Repeated, o.Results[0].Slowest = 3, 1200*time.Millisecond // a second, as the API server asked
	o.Results[2].Longest, o.Results[4].Longest = 1900*time.Millisecond, time.Minute
	if what := o.noticed(); !o.unnoticed() || o.disruption() != 0 || len(what) > 0 {
		t.Errorf("a server that is replaced is not there meanwhile: %q", what)
	}
	for name, edit := range map[string]func(*outcome){
		"an API request":             func(o *outcome) { o.Results[0].Failed = 1 },
		"a request that was begun":   func(o *outcome) { o.Results[1].Failed++; o.Results[1].Phases[probe.Header] = 1 },
		"a server that was not told": func(o *outcome) { o.Excused = map[string]probe.Excuse{own.Client.String(): {Requests: 399}} },
		"a watch":                    func(o *outcome) { o.Results[2].Failed = 1 },
		"a lookup":                   func(o *outcome) { o.Results[3].Failed = 1 },
		"a late connection":          func(o *outcome) { o.LateConnections = 1 },
		"a write":                    func(o *outcome) { o.LostWrites = 1 },
		"too many elections":         func(o *outcome) { o.Elections = 4 },
		"a client that did not work": func(o *outcome) { o.Invalid = []string{"x"} },
		"a slow request":             func(o *outcome) { o.Results[0].Slowest = 1900 * time.Millisecond },
		"its only server is slow": func(o *outcome) {
			o.Excused = map[string]probe.Excuse{own.Client.String(): {Requests: 400, Slowest: 2 * time.Second}}
		},
		"a slow lookup":    func(o *outcome) { o.Results[3].Slowest = 3 * time.Second },
		"a gap":            func(o *outcome) { o.Results[0].Longest = 1600 * time.Millisecond },
		"a gap of a watch": func(o *outcome) { o.Results[2].Longest = 2100 * time.Millisecond },
	} {
		other := o
		other.Results = slices.Clone(o.Results)
		if edit(&other); other.unnoticed() {
			t.Errorf("%s fails, and nobody notices", name)
		}
		// What is not quiet before a change invalidates its outcome.
		after := outcome{AllowedElections: 3}
		if after.after(other); len(after.Invalid) == 0 || after.unnoticed() {
			t.Errorf("%s fails before the change, and the outcome is valid", name)
		}
	}
	quiet := o
	quiet.Elections = 0
	var after outcome
	if after.after(quiet); len(after.Invalid) > 0 {
		t.Errorf("it was quiet, and the outcome is not valid: %q", after.Invalid)
	}
}

// log is what a summary is made from: lines of some seconds.
func log(s *probe.Summary, c probe.Client, from, to int64, edit func(*probe.Second)) {
	for at := from; at < to; at++ {
		l := probe.Second{At: at, Result: probe.Result{Client: c}}
		l.Requests = 20
		if edit != nil {
			edit(&l)
		}
		s.Add(l)
	}
}

func TestJudge(t *testing.T) {
	a, b := spec.Host{Name: "cp-a"}, spec.Host{Name: "cp-b"}
	ready := func(h spec.Host) probe.Client {
		return probe.Client{Path: clients.OwnServer + h.Name, Operation: probe.Ready, Connection: probe.Kept, Address: "https://" + h.Name}
	}
	readyA, readyB, endpoint := ready(a), ready(b), probe.Client{Path: "endpoint", Operation: probe.Read, Connection: probe.New}
	for name, c := range map[string]struct {
		serials, tells []probe.Client
		silent         bool // contender
		starved        []string
		late           int
		invalid        []string
	}{
		"all is known": {serials: []probe.Client{readyA, readyB}, tells: []probe.Client{readyA, readyB}, late: 1},
		"one says nothing": {serials: []probe.Client{readyA, readyB}, tells: []probe.Client{readyA}, late: 1,
			invalid: []string{"API server of cp-b did not announce that it stops, so late connections to it are not known"}},
		"one is not known": {serials: []probe.Client{readyB}, tells: []probe.Client{readyA, readyB},
			invalid: []string{"API server of cp-a announced that it stops, and its certificate is not known, so late connections to it are not known"}},
		"kubeadm's say nothing": {serials: []probe.Client{readyA, readyB}, silent: true},
		"a client is not there": {serials: []probe.Client{readyA, readyB}, tells: []probe.Client{readyA, readyB}, late: 1, starved: []string{"it logged nothing"},
			invalid: []string{"it logged nothing"}},
	} {
		s := probe.NewSummary(time.Unix(100, 0), time.Unix(200, 0))
		for _, r := range []probe.Client{readyA, readyB} {
			log(s, r, 90, 200, func(l *probe.Second) {
				if l.At == 90 && slices.Contains(c.serials, r) { // long before the change
					l.Connected = map[string][]int64{r.Path: {90100}}
				}
				if l.At >= 150 && l.At < 155 && slices.Contains(c.tells, r) {
					l.Failed, l.FailedAt = 20, map[string]int64{probe.ShuttingDown: l.At * 1000}
				}
			})
		}
		log(s, endpoint, 154, 155, func(l *probe.Second) { l.Connected = map[string][]int64{readyA.Path: {154500}} })
		var o outcome
		o.judge(s, c.starved, []spec.Host{a, b}, !c.silent)
		if o.LateConnections != c.late || !slices.Equal(o.Invalid, c.invalid) {
			t.Errorf("%s: %d late connections, not valid: %q", name, o.LateConnections, o.Invalid)
		}
	}
}

// TestReplaced makes the cluster after a control plane was replaced.
func TestReplaced(t *testing.T) {
	c, err := shape(spec.TopologyStacked)
	if err != nil {
		t.Fatal(err)
	}
	old := c.HostsWith(spec.RoleControlPlane)[0]
	next := old
	next.Name = successor(old.Name)
	after := exchanged(c, old.Name, next)
	if _, left := after.Host(old.Name); left || len(after.Spec.Hosts) != len(c.Spec.Hosts) {
		t.Errorf("hosts afterwards: %v", after.Spec.Hosts)
	}
	if _, still := c.Host(old.Name); !still {
		t.Error("the former cluster has changed too")
	}
	text, err := spec.Marshal(after)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spec.Check(text, "the cluster afterwards", spec.Options{Versions: []string{from, to}, Lab: true}); err != nil {
		t.Error(err)
	}
}

func TestChoose(t *testing.T) {
	for flags, want := range map[[3]string]string{
		{"", "", "stacked"}:                           "quorate: upgrade rollback maintain replace; documented: upgrade; documented-sigterm: upgrade; ",
		{"", "", "external"}:                          "quorate: upgrade rollback maintain replace; documented: upgrade; ",
		{"quorate", "", "stacked"}:                    "quorate: upgrade rollback maintain replace; ",
		{"documented", "", "stacked"}:                 "documented: upgrade; ",
		{"", "maintain,replace", "external"}:          "quorate: maintain replace; ",
		{"quorate", "replace,upgrade", "stacked"}:     "quorate: upgrade replace; ",
		{"quorate", "rollback", "stacked"}:            "error: -ways rollback: a rollback needs an upgrade before it",
		{"", "drill", "stacked"}:                      "error: -ways drill: there are upgrade, rollback, maintain, replace",
		{"other", "", "stacked"}:                      "error: -only other: there are quorate, documented, documented-sigterm",
		{"documented-sigterm", "maintain", "stacked"}: "error: -only documented-sigterm -ways maintain: documented-sigterm does none of that",
		{"documented-sigterm", "", "external"}:        "error: -only documented-sigterm: the workaround is for an etcd that kubeadm upgrades, and it does not upgrade an external one",
		{"", "", "star"}:                              "error: -topology star: it is stacked or external",
	} {
		chosen, err := choose(flags[0], flags[1], flags[2])
		got := ""
		for _, c := range chosen {
			got += c.name + ":"
			for _, w := range c.ways {
				got += " " + w.name
			}
			got += "; "
		}
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", flags, got, want)
		}
	}
}

func TestLastLine(t *testing.T) {
	fails := func(contender, way string, seconds float64, failed int) outcome {
		return outcome{Contender: contender, Way: way, Seconds: seconds, AllowedElections: 3, Elections: 3, Results: []probe.Result{result("endpoint", probe.Read, failed, probe.Dial)}}
	}
	kept, replaced := fails("quorate", "maintain", 200, 0), fails("quorate", "replace", 400, 0)
	kept.Results[0].Repeated, kept.Results[0].Slowest, kept.LateConnections = 4, 1200*time.Millisecond, 2
	replaced.Elections, replaced.LostWrites = 2, 1
	line := lastLine([]outcome{fails("quorate", "upgrade", 150, 0), fails("quorate", "rollback", 140, 1), kept, replaced, fails("documented", "upgrade", 300, 70), fails("documented-sigterm", "upgrade", 370, 30)})
	text, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"failedApiRequests": 1, "failedWorkloadRequests": 0, "disruptionSeconds1Hz": 0, "seconds": 150.0, "documentedSeconds": 300.0,
		"documentedFailedApiRequests": 70, "ratio": 0.5, "unnoticed": false, "sigtermSeconds": 370.0, "sigtermFailedApiRequests": 30,
		"rollbackSeconds": 140.0, "maintainSeconds": 200.0, "replaceSeconds": 400.0, "repeatedApiRequests": 4, "lateConnections": 2, "lostWrites": 1, "longestGapSeconds": 0.06, "slowestApiRequestSeconds": 1.2} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v, in %s", key, line[key], want, text)
		}
	}
	if !strings.Contains(string(text), `"elections":{"maintain":3,"replace":2,"rollback":3,"upgrade":3}`) || !strings.Contains(string(text), `"allowedElections":{"maintain":3,`) {
		t.Errorf("elections of each way: %s", text)
	}
	if line := lastLine([]outcome{fails("documented", "upgrade", 300, 70)}); line["ratio"] != nil || line["seconds"] != nil {
		t.Errorf("without Quorate: %v", line)
	}
	none := lastLine(nil)
	for _, key := range []string{"failedApiRequests", "failedWorkloadRequests", "disruptionSeconds1Hz", "seconds", "documentedSeconds", "documentedFailedApiRequests", "ratio"} {
		if value, there := none[key]; !there || value != nil {
			t.Errorf("%s of nothing is %v, and is there: %t", key, value, there)
		}
	}
	bad := fails("quorate", "upgrade", 150, 0)
	bad.Invalid = []string{"x"}
	if line := lastLine([]outcome{bad, fails("quorate", "rollback", 140, 0)}); line["unnoticed"] != false || !slices.Equal(line["invalid"].([]string), []string{"quorate/upgrade"}) {
		t.Errorf("what is not valid counts: %v", line)
	}
}
