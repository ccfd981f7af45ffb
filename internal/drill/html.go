package drill

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/page"
	"quorate.dev/quorate/internal/ui"
)

//go:embed report.html.tmpl
var htmlText string

var htmlTemplate = page.New("report.html", htmlText, nil)

const (
	// htmlDetails is how many outcomes a page describes in detail: first those that are not as promised, then the worst repeat of each
	// fault. A soak has thousands.
	htmlDetails = 60
	// htmlColumns and htmlCloseColumns are into how many intervals the time of a picture is divided at most: the whole drill, and one fault.
	htmlColumns, htmlCloseColumns = 600, 120
	// htmlCloseLanes is how many kinds of clients the picture of one fault shows.
	htmlCloseLanes = 8
	// htmlPicturedHosts is how many hosts of a zone the picture of the topology shows, if they were not faulted.
	htmlPicturedHosts = 8
)

// htmlPage is what the template shows.
type htmlPage struct {
	*Report
	Policy, Title string
	Verdict       htmlVerdict
	Tiles         []htmlTile
	Facts         []htmlFact
	Topology      template.HTML
	Hosts         []htmlHost
	Timeline      template.HTML
	Column        string // how long one column of the timeline is
	Lanes         []htmlLaneRow
	Rows          []htmlRow
	Repeated      bool
	Details       []*htmlDetail
	Undetailed    int
	Quiet         []htmlClient
	QuietLasted   string
	Ranges        []htmlRange
	RangeScale    template.HTML
	Skipped       []htmlSkipped
	Promises      []htmlPromise
	Ledger        []htmlFact
	Pace          string
	Command       string
}

// htmlVerdict is the whole report in a word and a few sentences. Class is good, warn, or bad, as everywhere on the page.
type htmlVerdict struct {
	Word, Class string
	Sentences   []string
}

type htmlTile struct{ Figure, Caption, Class string }

type htmlFact struct{ Name, Value, Class string }

type htmlHost struct {
	Name, Zone, Roles string
	Faults            []int
}

// htmlFigure is one figure of a table, with a note below it.
type htmlFigure struct{ Text, Note, Class string }

// htmlRow is one outcome in the table.
type htmlRow struct {
	Number                                                      int
	Name, Target, Roles, Repeat                                 string
	Reads, Writes, Streams, Inside, Failed, Disruption, Margins htmlFigure
	Detected, Leaders, Moved                                    string
	Verdict, Class                                              string
	Detailed                                                    bool
}

// htmlDetail is one outcome in detail.
type htmlDetail struct {
	htmlRow
	Open            bool
	Facts           []htmlFact
	Missed, Invalid []string
	Picture         template.HTML
	Clients         []htmlClient
}

// htmlClient is what one kind of client experienced.
type htmlClient struct {
	Kind, Requests          string
	Failed, Gap, Disruption htmlFigure
	Phases, Errors          string
	Before, During, After   htmlLatency
}

type htmlLatency struct{ P50, P99, Max string }

type htmlSkipped struct {
	Why   string
	Names []string
}

type htmlPromise struct{ Faults, Clients, Gap, Failed, Disruption, Margins string }

// WriteHTML writes the report as one page that needs nothing else. Everything on it can be read without a script, and printed.
func (r *Report) WriteHTML(w io.Writer) error {
	if err := htmlTemplate.Execute(w, r.page()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

func (r *Report) page() htmlPage {
	p := htmlPage{
		Report: r, Policy: page.Policy(r.Ledger.History), Verdict: r.htmlVerdict(), Tiles: r.htmlTiles(), Facts: r.htmlFacts(),
		Ledger: r.htmlLedger(), Promises: htmlPromises(r.Objectives), Skipped: htmlSkips(r.Skipped),
		Pace: page.Milliseconds(r.Environment.PaceMs), Command: r.htmlCommand(),
	}
	p.Title = "Drill of " + r.Cluster + ": " + p.Verdict.Word
	repeats := map[string]int{}
	for _, o := range r.Faults {
		repeats[o.Name]++
	}
	detailed := r.htmlDetailed()
	seen := map[string]int{}
	for i, o := range r.Faults {
		seen[o.Name]++
		row := r.htmlRow(i, o)
		row.Detailed = detailed[i]
		if n := repeats[o.Name]; n > 1 {
			p.Repeated = true
			row.Repeat = fmt.Sprintf("repeat %d of %d", seen[o.Name], n)
		}
		p.Rows = append(p.Rows, row)
		if row.Detailed {
			p.Details = append(p.Details, r.htmlDetail(row, o))
		}
	}
	p.Undetailed = len(r.Faults) - len(p.Details)
	p.Hosts = r.htmlHosts()
	if len(r.Topology) > 0 {
		p.Topology = r.drawTopology(p.Hosts)
	}
	if from, to := r.span(); len(r.Timeline) > 0 && from < to {
		lanes, size := lanesOf(r.Timeline, from, to, htmlColumns)
		p.Timeline = drawTime(timePicture{
			id: "timeline", title: "What clients experienced during the drill", description: r.htmlTimeInWords(lanes),
			width: 900, from: from, size: size, zero: float64(from), lanes: lanes, marks: r.marks(), names: true,
		})
		p.Column, p.Lanes = page.Duration(time.Duration(size)*time.Second), laneRows(lanes, from, size)
	}
	if r.Quiet != nil {
		p.Quiet = r.htmlClients("", r.Quiet.Clients)
		p.QuietLasted = page.Duration(time.Duration(r.Quiet.Seconds * float64(time.Second)))
	}
	if p.Repeated {
		p.Ranges, p.RangeScale = r.htmlRanges(), drawRangeScale()
	}
	return p
}

// htmlCounts counts the outcomes.
func (r *Report) htmlCounts() (kept, missed, invalid int) {
	for _, o := range r.Faults {
		switch _, class := htmlJudgement(o); class {
		case "good":
			kept++
		case "bad":
			missed++
		default:
			invalid++
		}
	}
	return kept, missed, invalid
}

func htmlJudgement(o Outcome) (words, class string) {
	switch {
	case o.Pass:
		return "kept", "good"
	case len(o.Invalid) > 0:
		return "could not be judged", "warn"
	}
	return "missed", "bad"
}

// htmlLost says that the evidence speaks against the cluster, whatever became of the rest of the drill.
func (r *Report) htmlLost() bool {
	linearizable, _ := r.Ledger.linearizable()
	return r.Ledger.Lost > 0 || linearizable == "no" || r.Ledger.WatchGaps > 0
}

// linearizable takes "unknown: why" apart.
func (l Ledger) linearizable() (word, why string) {
	word, why, _ = strings.Cut(l.Linearizable, ": ")
	return word, why
}

func (r *Report) htmlVerdict() htmlVerdict {
	kept, missed, invalid := r.htmlCounts()
	v := htmlVerdict{Word: "FAIL", Class: "bad"}
	switch {
	case r.Pass && r.Interrupted == "" && len(r.Faults) > 0:
		v.Word, v.Class = "PASS", "good"
	case missed > 0 || r.htmlLost():
	case r.Interrupted != "":
		v.Word, v.Class = "INCOMPLETE", "warn"
	case len(r.Faults) == 0:
		v.Word, v.Class = "NO RESULT", "warn"
	}
	add := func(format string, args ...any) { v.Sentences = append(v.Sentences, fmt.Sprintf(format, args...)) }
	if len(r.Faults) == 0 {
		add("No fault was injected, so nothing is proven.")
	} else {
		text := fmt.Sprintf("%d of %s kept their objective", kept, ui.Plural(len(r.Faults), "fault"))
		var rest []string
		if missed > 0 {
			rest = append(rest, fmt.Sprintf("%d missed it", missed))
		}
		if invalid > 0 {
			rest = append(rest, fmt.Sprintf("%d could not be judged", invalid))
		}
		if len(rest) > 0 {
			text += "; " + strings.Join(rest, " and ")
		}
		add("%s.", text)
	}
	if r.Ledger.Acknowledged > 0 {
		add("%s of %s acknowledged writes were lost.", page.Count(r.Ledger.Lost), page.Count(r.Ledger.Acknowledged))
	}
	switch word, why := r.Ledger.linearizable(); word {
	case "yes":
		add("The history of all reads and writes is linearizable.")
	case "no":
		add("The history of reads and writes is not linearizable: a client read something that no order of the writes explains.")
	case "unknown":
		add("It is not known whether the history is linearizable: %s.", why)
	}
	if r.Ledger.WatchGaps > 0 {
		add("Watches missed events or could not resume %s.", htmlTimes(r.Ledger.WatchGaps))
	}
	if r.Interrupted != "" {
		add("The drill ended early: %s.", strings.TrimSuffix(r.Interrupted, "."))
	}
	return v
}

func htmlTimes(n int) string {
	if n == 1 {
		return "once"
	}
	return page.Count(n) + " times"
}

func (r *Report) htmlTiles() (out []htmlTile) {
	kept, missed, invalid := r.htmlCounts()
	if all := len(r.Faults); all > 0 {
		class := "good"
		switch {
		case missed > 0:
			class = "bad"
		case invalid > 0:
			class = "warn"
		}
		out = append(out, htmlTile{fmt.Sprintf("%d of %d", kept, all), "faults kept their objective", class})
	}
	if r.Ledger.Acknowledged > 0 {
		class := "good"
		if r.Ledger.Lost > 0 {
			class = "bad"
		}
		out = append(out, htmlTile{fmt.Sprintf("%s of %s", page.Count(r.Ledger.Lost), page.Count(r.Ledger.Acknowledged)), "acknowledged writes lost", class})
	}
	switch word, _ := r.Ledger.linearizable(); word {
	case "yes":
		out = append(out, htmlTile{"yes", "linearizable history", "good"})
	case "no":
		out = append(out, htmlTile{"no", "linearizable history", "bad"})
	case "unknown":
		out = append(out, htmlTile{"unknown", "linearizable history", "warn"})
	}
	if f, found := r.Digest().Longest(); found && f.Outage > 0 {
		out = append(out, htmlTile{page.Duration(f.Outage), "longest outage through the endpoint (" + f.Name + ")", ""})
	}
	return out
}

func (r *Report) htmlFacts() []htmlFact {
	zones := map[string]bool{}
	for _, h := range r.Topology {
		if h.Zone != "" {
			zones[h.Zone] = true
		}
	}
	hosts := ui.Plural(len(r.Topology), "host")
	if len(zones) > 0 {
		hosts += " in " + ui.Plural(len(zones), "zone")
	}
	where := "separate hosts"
	if r.Environment.Processors > 0 {
		where += ", the first of which has " + ui.Plural(r.Environment.Processors, "processor")
	}
	if r.Environment.Lab {
		where = "a lab: all hosts are machines on one computer with " + ui.Plural(r.Environment.Processors, "processor")
	}
	facts := []htmlFact{
		{Name: "Cluster", Value: r.Cluster}, {Name: "Kubernetes", Value: r.Kubernetes}, {Name: "Quorate", Value: r.Quorate},
		{Name: "When", Value: htmlWhen(r.Began, r.Ended)}, {Name: "Hosts", Value: hosts}, {Name: "Environment", Value: where},
		{Name: "Kernel", Value: r.Environment.Kernel}, {Name: "etcd topology", Value: r.Environment.Topology},
		{Name: "Failover profile", Value: r.Environment.Profile}, {Name: "Seed", Value: strconv.FormatUint(r.Seed, 10)},
	}
	if r.Environment.PaceMs > 0 {
		facts = append(facts, htmlFact{Name: "Pace of a client", Value: "a request every " + page.Milliseconds(r.Environment.PaceMs)})
	}
	return slices.DeleteFunc(facts, func(f htmlFact) bool { return f.Value == "" })
}

const htmlSecond = "15:04:05"

func htmlWhen(from, to time.Time) string {
	if from.IsZero() {
		return ""
	}
	from, to = from.UTC(), to.UTC()
	if to.Before(from) {
		return from.Format(time.DateTime) + " UTC"
	}
	end := to.Format(htmlSecond)
	if from.Format(time.DateOnly) != to.Format(time.DateOnly) {
		end = to.Format(time.DateTime)
	}
	return from.Format(time.DateTime) + " to " + end + " UTC (" + page.Duration(to.Sub(from)) + ")"
}

func (r *Report) htmlLedger() []htmlFact {
	l := r.Ledger
	if l.Acknowledged == 0 && l.Operations == 0 && l.Lost == 0 {
		return []htmlFact{{Name: "Acknowledged writes", Value: "none, so nothing is proven", Class: "warn"}}
	}
	lost := htmlFact{Name: "Acknowledged writes lost", Value: page.Count(l.Lost), Class: "good"}
	if l.Lost > 0 {
		lost.Class = "bad"
	}
	linearizable := htmlFact{Name: "Linearizable", Value: l.Linearizable, Class: "warn"}
	switch word, _ := l.linearizable(); word {
	case "yes":
		linearizable.Class = "good"
	case "no":
		linearizable.Class = "bad"
	case "":
		linearizable.Value = "not checked"
	}
	if l.Operations > 0 {
		linearizable.Value += fmt.Sprintf(" (%s operations on %s)", page.Count(l.Operations), ui.Plural(l.Keys, "key"))
	}
	facts := []htmlFact{
		{Name: "Acknowledged writes", Value: page.Count(l.Acknowledged)}, lost,
		{Name: "Writes that failed or timed out", Value: page.Count(l.Unknown)}, linearizable,
	}
	watched := slices.ContainsFunc(r.Faults, func(o Outcome) bool {
		_, c, _ := worstClient(o, func(_, operation, _ string) bool { return operation == string(probe.Watch) })
		return c.Requests > 0
	})
	switch {
	case l.WatchGaps > 0:
		facts = append(facts, htmlFact{Name: "Watches", Value: "missed events or could not resume " + htmlTimes(l.WatchGaps), Class: "bad"})
	case watched:
		facts = append(facts, htmlFact{Name: "Watches", Value: "every event once, in order", Class: "good"})
	}
	return facts
}

// splitKind takes the name of a kind of client apart.
func splitKind(kind string) (path, operation, connection string) {
	path, rest, _ := strings.Cut(kind, "/")
	operation, connection, _ = strings.Cut(rest, "/")
	return path, operation, connection
}

// often says that an operation is repeated so often that the longest gap says something: watches, lists, what is watched, and those whose
// history is checked have gaps of their own.
func often(operation string) bool {
	switch probe.Operation(operation) {
	case probe.Watch, probe.Beat, probe.Register, probe.List, probe.Ready:
		return false
	}
	return true
}

func outside(path, operation, _ string) bool { return path == "endpoint" && often(operation) }

// inside are the clients in the cluster. A client of a local API server goes without it for as long as that is down, and is not meant to
// do anything else.
func inside(path, operation, _ string) bool {
	return path != "endpoint" && path != "local-api-server" && often(operation)
}

// worstClient is the client with the longest gap.
func worstClient(o Outcome, of func(path, operation, connection string) bool) (kind string, worst ClientResult, found bool) {
	for _, k := range slices.Sorted(maps.Keys(o.Clients)) {
		if c := o.Clients[k]; of(splitKind(k)) && (!found || c.GapMs > worst.GapMs) {
			kind, worst, found = k, c, true
		}
	}
	return kind, worst, found
}

// promised is what was promised to a kind of client for a fault: an objective without limits if that was nothing.
func (r *Report) promised(fault, kind string) Objective {
	o, _ := ObjectiveFor(r.Objectives, fault, kind)
	return o
}

// above is the class of a figure that has a limit; nil is none.
func above[N int | int64](n N, limit *N) string {
	if limit != nil && n > *limit {
		return "bad"
	}
	return ""
}

func (r *Report) htmlGap(o Outcome, note bool, of func(path, operation, connection string) bool) htmlFigure {
	kind, c, found := worstClient(o, of)
	if !found {
		return htmlFigure{Text: "–"}
	}
	f := htmlFigure{Text: page.Milliseconds(c.GapMs), Class: above(c.GapMs, r.promised(o.Name, kind).MaxGapMs)}
	if note {
		f.Note = kind
	}
	return f
}

func (r *Report) htmlRow(i int, o Outcome) htmlRow {
	words, class := htmlJudgement(o)
	row := htmlRow{Number: i + 1, Name: o.Name, Target: o.Target, Roles: strings.Join(o.Roles, ", "), Verdict: words, Class: class,
		Detected: "not while it lasted", Leaders: "unknown", Moved: page.Count(o.PodsMoved)}
	row.Reads = r.htmlGap(o, false, func(path, operation, connection string) bool {
		return path == "endpoint" && operation == string(probe.Read) && connection == string(probe.New)
	})
	row.Writes = r.htmlGap(o, false, func(path, operation, _ string) bool { return path == "endpoint" && operation == string(probe.Write) })
	row.Streams = r.htmlGap(o, false, func(path, operation, connection string) bool {
		return outside(path, operation, connection) && connection == string(probe.HTTP2)
	})
	row.Inside = r.htmlGap(o, true, inside)
	requests, failed, disruption := 0, 0, 0
	for _, c := range o.Clients {
		requests, failed, disruption = requests+c.Requests, failed+c.Failed, max(disruption, c.DisruptionSeconds)
	}
	row.Failed = htmlFigure{Text: page.Count(failed), Note: "of " + page.Count(requests)}
	row.Disruption = htmlFigure{Text: page.Count(disruption)}
	if o.DetectMs != nil {
		row.Detected = page.Milliseconds(*o.DetectMs)
	}
	row.Margins = htmlFigure{Text: "never", Class: "bad"}
	if o.MarginsBackMs != nil {
		row.Margins = htmlFigure{Text: page.Milliseconds(*o.MarginsBackMs)}
	}
	if o.LeaderChanges >= 0 {
		row.Leaders = page.Count(o.LeaderChanges)
	}
	if o.PodsMoved > 0 && o.PodsMovedMs != nil {
		row.Moved += ", in " + page.Milliseconds(*o.PodsMovedMs)
	}
	return row
}

// htmlDetailed chooses the outcomes that are described in detail.
func (r *Report) htmlDetailed() map[int]bool {
	chosen := map[int]bool{}
	choose := func(i int) {
		if len(chosen) < htmlDetails {
			chosen[i] = true
		}
	}
	worst := map[string]int{} // by name
	for i, o := range r.Faults {
		if !o.Pass {
			choose(i)
			continue
		}
		if j, known := worst[o.Name]; !known || longestGap(o) > longestGap(r.Faults[j]) {
			worst[o.Name] = i
		}
	}
	for _, i := range slices.Sorted(maps.Values(worst)) {
		choose(i)
	}
	for i := range r.Faults {
		choose(i)
	}
	return chosen
}

func longestGap(o Outcome) int64 {
	_, c, _ := worstClient(o, outside)
	return c.GapMs
}

func (r *Report) htmlDetail(row htmlRow, o Outcome) *htmlDetail {
	d := &htmlDetail{htmlRow: row, Open: !o.Pass, Missed: o.Missed, Invalid: o.Invalid, Clients: r.htmlClients(o.Name, o.Clients)}
	lasted := "once"
	if o.Healed.After(o.Injected) {
		lasted = page.Duration(o.Healed.Sub(o.Injected))
	}
	m := o.Margins
	survives := []string{ui.Plural(m.ControlPlanes, "control plane"), ui.Plural(m.Etcd, "etcd member")}
	if m.LoadBalancers != nil {
		survives = append(survives, ui.Plural(*m.LoadBalancers, "load balancer"))
	}
	survives = append(survives, ui.Plural(m.Zones, "zone"))
	d.Facts = []htmlFact{
		{Name: "Injected", Value: o.Injected.UTC().Format(htmlSecond) + " UTC on " + o.Target}, {Name: "Lasted", Value: lasted},
		{Name: "Margins before", Value: "the cluster could lose " + cluster.List(survives) + " (each on its own)"},
		{Name: "Detected after", Value: row.Detected}, {Name: "Margins back after", Value: row.Margins.Text, Class: row.Margins.Class},
		{Name: "etcd leader changes", Value: row.Leaders}, {Name: "Replicas created elsewhere", Value: row.Moved},
		{Name: "Longest time without a write", Value: page.Milliseconds(o.WriteOutageMs)},
	}
	if row.Roles != "" {
		d.Facts = slices.Insert(d.Facts, 1, htmlFact{Name: "Role of the target", Value: row.Roles})
	}
	if o.LostWrites > 0 {
		d.Facts = append(d.Facts, htmlFact{Name: "Writes lost", Value: page.Count(o.LostWrites), Class: "bad"})
	}
	d.Picture = r.drawOutcome(row, o)
	return d
}

// htmlClients are the rows of a table of clients. An empty name of a fault stands for the time before the first fault.
func (r *Report) htmlClients(fault string, clients map[string]ClientResult) (out []htmlClient) {
	quantiles := func(l Latency) htmlLatency {
		if l.Max <= 0 {
			return htmlLatency{"–", "–", "–"}
		}
		return htmlLatency{page.Milliseconds(l.P50), page.Milliseconds(l.P99), page.Milliseconds(l.Max)}
	}
	for _, kind := range sortedKinds(slices.Collect(maps.Keys(clients))) {
		c := clients[kind]
		var limits Objective
		if fault != "" {
			limits = r.promised(fault, kind)
		}
		row := htmlClient{Kind: kind, Requests: page.Count(c.Requests), Phases: counted(c.Phases), Errors: counted(c.Errors),
			Failed:     htmlFigure{Text: page.Count(c.Failed), Class: above(c.Failed, limits.MaxFailed)},
			Gap:        htmlFigure{Text: page.Milliseconds(c.GapMs), Class: above(c.GapMs, limits.MaxGapMs)},
			Disruption: htmlFigure{Text: page.Count(c.DisruptionSeconds), Class: above(c.DisruptionSeconds, limits.MaxDisruptionSeconds)},
			Before:     quantiles(c.Before), During: quantiles(c.During), After: quantiles(c.After)}
		if c.During.Max <= 0 && fault == "" {
			row.During = row.Before
		}
		out = append(out, row)
	}
	return out
}

// counted lists descriptions by how often they were seen, the most frequent first.
func counted[K ~string](counts map[K]int) string {
	keys := slices.Sorted(maps.Keys(counts))
	slices.SortStableFunc(keys, func(a, b K) int { return counts[b] - counts[a] })
	var out []string
	for _, k := range keys {
		out = append(out, page.Count(counts[k])+" × "+string(k))
	}
	return strings.Join(out, "; ")
}

// kindPaths begin the names of kinds of clients, in the order in which a page lists them.
var kindPaths = []string{"endpoint", "kubernetes-service", "local-api-server", "service", "node-port", "pod", "dns"}

func sortedKinds(kinds []string) []string {
	rank := func(kind string) int {
		path, _, _ := splitKind(kind)
		if i := slices.Index(kindPaths, path); i >= 0 {
			return i
		}
		return len(kindPaths)
	}
	slices.Sort(kinds)
	slices.SortStableFunc(kinds, func(a, b string) int { return rank(a) - rank(b) })
	return kinds
}

func htmlSkips(skipped []Skipped) (out []htmlSkipped) {
	for _, s := range skipped {
		name := s.Name
		if s.Target != "" {
			name += " on " + s.Target
		}
		i := slices.IndexFunc(out, func(x htmlSkipped) bool { return x.Why == s.Why })
		if i < 0 {
			i, out = len(out), append(out, htmlSkipped{Why: s.Why})
		}
		out[i].Names = append(out[i].Names, name)
	}
	return out
}

func htmlPromises(objectives []Objective) (out []htmlPromise) {
	count := func(n *int) string {
		if n == nil {
			return "no limit"
		}
		return page.Count(*n)
	}
	duration := func(ms *int64) string {
		if ms == nil {
			return "no limit"
		}
		return page.Milliseconds(*ms)
	}
	for _, o := range objectives {
		clients := o.Clients
		if clients == "" {
			clients = "all"
		}
		out = append(out, htmlPromise{o.Faults, clients, duration(o.MaxGapMs), count(o.MaxFailed), count(o.MaxDisruptionSeconds), duration(o.MaxMarginsBackMs)})
	}
	return out
}

// htmlHosts are the hosts with the numbers of the faults that were injected on them.
func (r *Report) htmlHosts() []htmlHost {
	out := make([]htmlHost, len(r.Topology))
	for i, h := range r.Topology {
		out[i] = htmlHost{Name: h.Name, Zone: h.Zone, Roles: strings.Join(h.Roles, ", ")}
	}
	for n, o := range r.Faults {
		zone, whole := strings.CutPrefix(o.Target, "zone/")
		ends := strings.Split(o.Target, ":")
		for i, h := range out {
			if whole && h.Zone == zone || !whole && slices.Contains(ends, h.Name) {
				out[i].Faults = append(out[i].Faults, n+1)
			}
		}
	}
	return out
}

// span is the time of the drill in seconds since 1970.
func (r *Report) span() (from, to int64) {
	from, to = r.Began.Unix(), r.Ended.Unix()+1
	for _, s := range r.Timeline {
		from, to = min(from, s.Second), max(to, s.Second+1)
	}
	return from, to
}

// htmlCommand is how to repeat the drill.
func (r *Report) htmlCommand() string {
	words := []string{"quorate", "drill"}
	if r.Seed > 0 {
		words = append(words, "--seed", strconv.FormatUint(r.Seed, 10))
	}
	var names []string
	repeats := 0
	for _, o := range r.Faults {
		if !slices.Contains(names, o.Name) {
			names = append(names, o.Name)
		}
	}
	for _, s := range r.Summaries {
		repeats = max(repeats, s.Repeats)
	}
	if repeats > 1 {
		words = append(words, "--repeat", strconv.Itoa(repeats))
	}
	if len(names) > 0 {
		slices.Sort(names)
		words = append(words, "--only", ui.Quote(strings.Join(names, ",")))
	}
	return strings.Join(words, " ")
}
