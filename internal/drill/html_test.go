package drill

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/page/pagetest"
	"quorate.dev/quorate/internal/quorum"
)

// drilledKind is a kind of client of the report that tests show, and what it experiences of a fault.
type drilledKind struct {
	name      string
	perSecond int
	factor    float64 // of the gap of a fault
	baseMs    float64 // latency
}

var drilledKinds = []drilledKind{
	{"endpoint/read/new", 20, 1, 9}, {"endpoint/read/kept", 20, 1.1, 3}, {"endpoint/read/http2", 30, 1.7, 2.4}, {"endpoint/cached-read/new", 20, 0.6, 7},
	{"endpoint/write/new", 20, 1.1, 14}, {"endpoint/watch/http2", 2, 1.2, 0}, {"endpoint/list/new", 1, 1, 60},
	{"kubernetes-service/read/new", 60, 2.2, 8}, {"kubernetes-service/read/http2", 15, 3.1, 3}, {"local-api-server/read/new", 60, 0.5, 6},
	{"service/get/new", 60, 0.3, 2}, {"service/echo/kept", 60, 0.2, 1}, {"node-port/get/new", 60, 0.3, 2}, {"pod/echo/kept", 60, 0.2, 1}, {"dns/lookup", 60, 0.4, 1.5},
}

// drilledFault is a fault of that report.
type drilledFault struct {
	name, target string
	roles        []string
	lasts        int // seconds; 0 for once
	gaps         [2]int64
	share        float64 // of requests that fail meanwhile
	leader       int
	moved        int
}

var drilledFaults = []drilledFault{
	{"kill/kube-apiserver/any", "cp-b", nil, 0, [2]int64{280, 240}, 0.3, 0, 0},
	{"hang/kube-apiserver/any", "cp-c", nil, 10, [2]int64{160, 190}, 0.4, 0, 0},
	{"kill/etcd/leader", "cp-a", []string{"etcd leader"}, 0, [2]int64{690, 700}, 0.8, 1, 0},
	{"hang/etcd/leader", "cp-a", []string{"etcd leader"}, 10, [2]int64{9800, 690}, 0.35, 1, 0},
	{"power-off/host/follower", "cp-b", nil, 12, [2]int64{150, 170}, 0.3, 0, 3},
	{"hang/haproxy/holder", "lb-a", []string{"virtual IP"}, 10, [2]int64{640, 700}, 1, 0, 0},
	{"cut/link/any", "cp-a:cp-b", []string{"etcd leader"}, 10, [2]int64{120, 130}, 0.1, 0, 0},
	{"power-off/zone/b", "zone/b", []string{"virtual IP"}, 15, [2]int64{650, 690}, 0.6, 1, 5},
}

// noise is a number from 0 to 1 that is always the same.
func noise(keys ...any) float64 {
	h := fnv.New32a()
	fmt.Fprint(h, keys...)
	return float64(h.Sum32()%1000) / 1000
}

// drilled is a report with eight faults, of which each was injected twice.
func drilled() *Report {
	began := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	limit := func(n int64) *int64 { return &n }
	two := 2
	r := &Report{
		Cluster: "prod", Quorate: "v0.9.0 6b6585d", Kubernetes: "v1.37.2", Began: began, Seed: 42,
		Environment: Environment{Lab: true, Processors: 2, Kernel: "6.18.5", Profile: "fast", Topology: "stacked", PaceMs: 50},
		Topology: []HostInfo{
			{"cp-a", "a", []string{"control-plane"}}, {"cp-b", "b", []string{"control-plane"}}, {"cp-c", "c", []string{"control-plane"}},
			{"lb-a", "a", []string{"load-balancer"}}, {"lb-b", "b", []string{"load-balancer"}},
			{"w-a", "a", []string{"worker"}}, {"w-b", "b", []string{"worker"}}, {"w-c", "c", []string{"worker"}},
		},
		Objectives: []Objective{
			{Faults: "*", Clients: "endpoint/*", MaxGapMs: limit(1200), MaxMarginsBackMs: limit(60000)},
			{Faults: "*", Clients: "kubernetes-service/*", MaxGapMs: limit(5000), MaxDisruptionSeconds: &two},
			{Faults: "kill/kube-apiserver", Clients: "endpoint/read,endpoint/cached-read,endpoint/write", MaxGapMs: limit(500)},
		},
		Skipped: []Skipped{
			{"slow/disk/leader", "", "the kernel has no I/O controller for this disk"},
			{"fill/disk/any", "", "the kernel has no I/O controller for this disk"},
			{"power-off/zone/a", "zone/a", "rule `etcd-quorum`: 2 of 3 members would be left, and 2 are needed"},
		},
		Ledger: Ledger{Acknowledged: 18240, Unknown: 31, Linearizable: "yes", Operations: 61340, Keys: 12},
	}
	r.Quiet = &Quiet{Seconds: 10, Clients: map[string]ClientResult{}}
	for _, k := range drilledKinds {
		r.Quiet.Clients[k.name] = ClientResult{GapMs: int64(1200/k.perSecond) + 4, Requests: 10 * k.perSecond, During: k.latency(1)}
	}
	at := 20
	for repeat := range 2 {
		for i, f := range drilledFaults {
			o := f.outcome(began.Add(time.Duration(at)*time.Second+time.Duration(i)*130*time.Millisecond), repeat)
			if f.name == "power-off/zone/b" && repeat == 1 {
				o.Invalid, o.DetectMs = []string{"pod/echo/kept on w-c sent 12 requests instead of 60 in 4 seconds from 12:10:03"}, nil
			}
			Judge(&o, r.Objectives)
			r.Faults = append(r.Faults, o)
			at += f.lasts + 28
		}
	}
	r.Ended = began.Add(time.Duration(at) * time.Second)
	r.Timeline = samplesOf(r, at)
	r.Summarize()
	return r
}

func (k drilledKind) latency(times float64) Latency {
	return Latency{P50: k.baseMs * times, P99: k.baseMs * 4 * times, Max: k.baseMs * 9 * times}
}

func (f drilledFault) outcome(at time.Time, repeat int) Outcome {
	detect, back, moved := int64(1100+140*repeat), int64(4200+f.lasts*310), int64(11800)
	o := Outcome{Name: f.name, Target: f.target, Roles: f.roles, Injected: at, Healed: at.Add(time.Duration(f.lasts) * time.Second), Clients: map[string]ClientResult{},
		DetectMs: &detect, MarginsBackMs: &back, LeaderChanges: f.leader, PodsMoved: f.moved, Margins: quorum.Margins{ControlPlanes: 1, Etcd: 1, Zones: 1}}
	balancers := 1
	o.Margins.LoadBalancers = &balancers
	if f.moved > 0 {
		o.PodsMovedMs = &moved
	}
	if f.lasts == 0 {
		o.DetectMs = nil
	}
	for _, k := range drilledKinds {
		gap := int64(float64(f.gaps[repeat]) * k.factor)
		failed := int(float64(gap) / 1000 * float64(k.perSecond) * f.share)
		c := ClientResult{GapMs: max(gap, int64(1000/k.perSecond)), Requests: (f.lasts + 14) * k.perSecond, Failed: failed, DisruptionSeconds: int(gap / 1000),
			Before: k.latency(1), During: k.latency(3), After: k.latency(1.1)}
		if failed > 0 {
			c.Phases = map[probe.Phase]int{probe.Header: failed - failed/3}
			c.Errors = map[string]int{probe.TimedOut: failed - failed/3}
			if failed/3 > 0 {
				c.Phases[probe.Dial], c.Errors["connection refused"] = failed/3, failed/3
			}
		}
		o.Clients[k.name] = c
	}
	o.WriteOutageMs = o.Clients["endpoint/write/new"].GapMs
	return o
}

// samplesOf is what the clients of a report experienced in each second.
func samplesOf(r *Report, length int) (out []Sample) {
	for second := range length {
		if second > 300 && second < 318 {
			continue // nobody looked
		}
		at := r.Began.Add(time.Duration(second) * time.Second)
		for _, k := range drilledKinds {
			s := Sample{Second: at.Unix(), Client: k.name, OK: k.perSecond, Slowest: k.baseMs * (1.5 + 3*noise(second, k.name))}
			for _, o := range r.Faults {
				c := o.Clients[k.name]
				if from, to := o.Injected.Unix(), o.Injected.Add(time.Duration(c.GapMs)*time.Millisecond).Unix(); c.Failed > 0 && at.Unix() >= from && at.Unix() <= to {
					s.Failed = min(k.perSecond, max(1, c.Failed/int(to-from+1)))
					s.OK, s.Slowest = k.perSecond-s.Failed, min(float64(c.GapMs), 2000)
				}
			}
			out = append(out, s)
		}
	}
	return out
}

func htmlReports() map[string]*Report {
	advised := drilled()
	advised.Advice = []string{"In 1 fault that missed an objective, etcd elected another leader. The members support 500ms: set spec.failover.electionTimeout to `500ms`."}
	interrupted := drilled()
	interrupted.Faults = interrupted.Faults[:2]
	interrupted.Summaries, interrupted.Skipped, interrupted.Quiet = nil, nil, nil
	interrupted.Faults[1].Invalid, interrupted.Faults[1].Pass = []string{"interrupted: interrupt"}, false
	interrupted.Interrupted, interrupted.Environment.Lab = "interrupt", false
	interrupted.Ended = interrupted.Began.Add(70 * time.Second)
	interrupted.Timeline = slices.DeleteFunc(interrupted.Timeline, func(s Sample) bool { return s.Second > interrupted.Ended.Unix() })
	interrupted.Ledger = Ledger{Acknowledged: 1400, Linearizable: "unknown: not decided within 2m0s"}
	illegal := drilled()
	illegal.Faults, illegal.Timeline, illegal.Summaries = illegal.Faults[3:4], nil, nil
	illegal.Faults[0].MarginsBackMs, illegal.Faults[0].LeaderChanges = nil, -1
	illegal.Ledger = Ledger{Acknowledged: 912, Lost: 2, Unknown: 1, Linearizable: "no", Operations: 2310, Keys: 1, WatchGaps: 1,
		History: `<!doctype html><html lang="en"><head><title>History</title><style>body { background: white; color: black }</style></head><body><p id="history">?</p><script>document.getElementById("history").textContent = "read 41 after 42 < 43"</script></body></html>`}
	return map[string]*Report{
		"report":             advised,
		"report-empty":       {Cluster: "prod", Quorate: "v0.9.0 6b6585d", Kubernetes: "v1.37.2", Began: drilled().Began, Ended: drilled().Began.Add(30 * time.Second), Faults: []Outcome{}},
		"report-interrupted": interrupted,
		"report-illegal":     illegal,
	}
}

func written(t *testing.T, r *Report) string {
	t.Helper()
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func TestHTML(t *testing.T) {
	for name, verdict := range map[string]string{"report": "FAIL", "report-empty": "NO RESULT", "report-interrupted": "INCOMPLETE", "report-illegal": "FAIL"} {
		t.Run(name, func(t *testing.T) {
			r := htmlReports()[name]
			page := written(t, r)
			golden.Compare(t, name+".html", page)
			pagetest.SelfContained(t, page)
			if again := written(t, r); again != page {
				t.Error("the same report gives different pages")
			}
			if !strings.Contains(page, ">"+verdict+"</p>") {
				t.Errorf("the verdict is not %s", verdict)
			}
		})
	}
}

func TestHTMLOfAPass(t *testing.T) {
	r := drilled()
	r.Pass = true
	for i := range r.Faults {
		r.Faults[i].Pass, r.Faults[i].Missed, r.Faults[i].Invalid = true, nil, nil
	}
	page := written(t, r)
	for _, want := range []string{">PASS</p>", "16 of 16 faults kept their objective.", "0 of 18,240 acknowledged writes were lost.", "The history of all reads and writes is linearizable.",
		"quorate drill --seed 42 --repeat 2 --only "} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not contain %q", want)
		}
	}
}

// Names come from clusters: none of them becomes a part of the page.
func TestHTMLEscapesNames(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	r := drilled()
	r.Cluster, r.Kubernetes, r.Environment.Kernel, r.Interrupted = evil, evil, evil, evil
	r.Ledger.History = evil
	for i := range r.Topology {
		r.Topology[i].Name, r.Topology[i].Zone, r.Topology[i].Roles = evil, evil, []string{evil}
	}
	for i := range r.Timeline {
		r.Timeline[i].Client = evil
	}
	for i := range r.Faults {
		o := &r.Faults[i]
		o.Name, o.Target, o.Roles, o.Missed, o.Invalid, o.Pass = evil, evil, []string{evil}, []string{evil}, []string{evil}, false
		o.Clients = map[string]ClientResult{evil: {GapMs: 12, Failed: 1, Requests: 2, Errors: map[string]int{evil: 1}, Phases: map[probe.Phase]int{evil: 1}}}
	}
	r.Skipped = []Skipped{{evil, evil, evil}}
	r.Objectives = []Objective{{Faults: evil, Clients: evil}}
	r.Summaries = []Summary{{Name: evil, Repeats: 2, Gaps: map[string]Spread{evil: {1, 2, 3}}}}
	page := written(t, r)
	if strings.Contains(page, "<script") {
		t.Error("a name became a script")
	}
	pagetest.SelfContained(t, page)
}

// A soak of three hours, and 40 faults with 20 repeats each.
func TestHTMLStaysSmall(t *testing.T) {
	r := drilled()
	one := r.Faults
	r.Faults, r.Timeline = nil, nil
	for i := range 800 {
		o := one[i%len(one)]
		o.Name = fmt.Sprintf("kill/kube-apiserver/any-%d", i%40)
		o.Injected = r.Began.Add(time.Duration(i) * 13 * time.Second)
		o.Healed = o.Injected.Add(10 * time.Second)
		r.Faults = append(r.Faults, o)
	}
	r.Ended = r.Began.Add(10400 * time.Second)
	for second := range int64(10400) {
		for _, k := range drilledKinds {
			r.Timeline = append(r.Timeline, Sample{Second: r.Began.Unix() + second, Client: k.name, OK: 20, Failed: int(noise(second, k.name) * 1.2 * 10), Slowest: 1000 * noise(k.name, second)})
		}
	}
	begin := time.Now()
	page := written(t, r)
	t.Logf("%d bytes in %s", len(page), time.Since(begin))
	if len(page) > 2_000_000 {
		t.Errorf("the page has %d bytes", len(page))
	}
	if !strings.Contains(page, "The details of the other 740 are in the JSON report.") {
		t.Error("the page does not say that details are missing")
	}
}

// A second without an answer is seen among 18 good ones.
func TestLanesShowTheWorstSecond(t *testing.T) {
	var samples []Sample
	for second := range int64(10800) {
		s := Sample{Second: second, Client: "endpoint/read/new", OK: 20, Slowest: 5}
		if second == 5000 {
			s.OK, s.Failed = 0, 20
		}
		samples = append(samples, s)
	}
	lanes, size := lanesOf(samples, 0, 10800, htmlColumns)
	if len(lanes) != 1 || size != 20 || len(lanes[0].cells) != 540 {
		t.Fatalf("%d lanes with columns of %d s", len(lanes), size)
	}
	for i, c := range lanes[0].cells {
		if want := map[bool]float64{true: 1, false: 0}[i == 250]; c.share != want || !c.known {
			t.Errorf("column %d has %+v", i, c)
		}
	}
	rows := laneRows(lanes, 0, size)
	if len(rows) != 2 || rows[1].When != "01:23:20–01:23:40" || rows[1].Failed != "20" || rows[1].Requests != "400" {
		t.Errorf("%+v", rows)
	}
}

func TestLabelsDoNotOverlap(t *testing.T) {
	p := timePicture{names: true}
	for i := range 60 {
		p.marks = append(p.marks, timeMark{number: i + 1, name: "kill/kube-controller-manager/leader", from: float64(i * 11)})
	}
	names, numbers, rows := p.labels(func(x float64) float64 { return timeLabels + x }, timeLabels+700)
	if len(numbers) < 30 || len(names) < 10 || rows != nameRows {
		t.Errorf("%d numbers, %d names, %d rows", len(numbers), len(names), rows)
	}
	overlap := func(a, b timeLabel) bool {
		return a.x < b.x+float64(len(b.text))*characterWidth && b.x < a.x+float64(len(a.text))*characterWidth
	}
	for i, a := range names {
		for _, b := range names[i+1:] {
			if a.row == b.row && overlap(a, b) {
				t.Errorf("%+v and %+v overlap", a, b)
			}
		}
	}
	for i, a := range numbers {
		for _, b := range numbers[i+1:] {
			if overlap(a, b) {
				t.Errorf("%+v and %+v overlap", a, b)
			}
		}
	}
}

// What went wrong is described in any case, and then the worst repeat of each fault.
func TestDetailsAreOfTheWorst(t *testing.T) {
	r := &Report{}
	for i := range 200 {
		r.Faults = append(r.Faults, Outcome{Name: fmt.Sprint(i % 50), Pass: i != 199, Clients: map[string]ClientResult{"endpoint/read/new": {GapMs: int64(i % 51)}}})
	}
	chosen := r.htmlDetailed()
	if len(chosen) != htmlDetails || !chosen[199] {
		t.Errorf("%d chosen, the missed one: %t", len(chosen), chosen[199])
	}
	for name := range 49 {
		worst := name
		for i := name; i < 200; i += 50 {
			if r.Faults[i].Clients["endpoint/read/new"].GapMs > r.Faults[worst].Clients["endpoint/read/new"].GapMs {
				worst = i
			}
		}
		if !chosen[worst] {
			t.Errorf("the worst repeat of %d was not chosen", name)
		}
	}
}
