package dashboard

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/page"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
	"quorate.dev/quorate/internal/ui"
)

// What a page has room for. What is left out is counted, and the JSON of the command that is named there has it.
const (
	mostFindings = 60
	mostSteps    = 120
	mostEvents   = 60
	mostNames    = 6 // of hosts, in a sentence
	mostDrills   = 20
)

// Text is a text with its class: good, warn, bad, or empty. A class never says more than the words do.
type Text struct{ Words, Class string }

// Fact is a name with its value.
type Fact struct{ Name, Value, Class string }

// Page is the model of a page. Everything on it is a text that is ready to be shown.
type Page struct {
	Title, Cluster string
	// Known says that the cluster was observed at least once.
	Known    bool
	Observed string
	Stale    *StaleText
	Verdict  Text
	Survives Text
	Margins  []Margin
	Facts    []Fact

	Findings     []Finding
	MoreFindings int

	Zones    []Zone
	Hosts    []HostRow
	HostsSum string

	Members   []MemberRow
	EtcdFacts []Fact

	Balancers []BalancerRow
	Endpoint  []Fact

	Plan Plan

	Events     []Event
	MoreEvents int
	EventNotes []string

	Timeline template.HTML
	Dates    []DateRow
	Backups  []Fact

	Drills     []DrillRow
	MoreDrills int
}

// StaleText says since when nothing is known.
type StaleText struct{ Since, Why string }

// Margin is how many more failures of a kind the cluster survives.
type Margin struct {
	Figure, Caption, Note, Class string
}

// Finding is one of cluster.State.Findings.
type Finding struct{ Label, Class, Title, Fix, Rule string }

// Of makes the model of a page.
func Of(in Input) *Page {
	p := &Page{Title: "Quorate", Verdict: Text{"waiting for the first observation", "warn"}}
	if in.Stale != nil {
		p.Stale = &StaleText{moment(in.Stale.Since), ended(in.Stale.Why)}
	}
	p.drills(in.Drills)
	s := in.State
	if s == nil {
		p.plan(in.Plan)
		if p.Stale != nil {
			p.Verdict = Text{"unknown", "warn"}
			p.Stale.Since = ""
		}
		return p
	}
	x := status.Of(s)
	p.Known, p.Cluster, p.Observed = true, x.Cluster, moment(s.Seen.Time)
	p.summary(s, x)
	p.findings(x.Problems)
	p.hosts(s, x)
	p.etcd(x)
	p.balancers(x)
	p.plan(in.Plan)
	p.events(in, x)
	p.dates(s, x)
	p.Title = p.Cluster + ": " + p.Verdict.Words
	if p.Stale != nil {
		p.Title = p.Cluster + ": stale"
	}
	return p
}

// moment writes a time. All times of a page are UTC, as those in the logs of hosts are.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateTime + " UTC")
}

// class is that of a style of the terminal.
func class(s ui.Style) string {
	return map[ui.Style]string{ui.Green: "good", ui.Yellow: "warn", ui.Red: "bad"}[s]
}

func textOf(s ui.Span) Text { return Text{s.Text, class(s.Style)} }

func (p *Page) summary(s *cluster.State, x status.Status) {
	p.Verdict = textOf(x.Verdict())
	if s.Exists() {
		words, style := x.Survives()
		p.Survives = Text{words, class(style)}
		p.Margins = margins(s)
	}
	endpoint := x.Endpoint.Address
	if ip := x.Endpoint.VirtualIP; ip != "" {
		endpoint += " (" + ip + ")"
	}
	zones := map[string]bool{}
	for _, h := range s.Spec.Spec.Hosts {
		zones[h.Zone] = true
	}
	p.Facts = []Fact{
		{"Kubernetes", cmp.Or(x.Version, "unknown"), ""},
		{"Endpoint", endpoint, ""},
		{"Hosts", ui.Plural(len(s.Spec.Spec.Hosts), "host") + " in " + ui.Plural(len(zones), "zone"), ""},
	}
	if runs := x.Programs(); runs != "" {
		p.Facts = append(p.Facts, Fact{"Runs", runs, ""})
	}
	if x.Watch != nil {
		t := textOf(x.Watch.Words())
		p.Facts = append(p.Facts, Fact{"Repairs", t.Words, t.Class})
	}
}

// margins are the margins as far as they are known: with what could not be queried counted as failed, and counted as working. Where the two differ,
// the first is what the cluster is known to survive.
func margins(s *cluster.State) (out []Margin) {
	worst := s.Margins()
	better := worst
	if placements, unknown := hoped(s.Placements()); unknown {
		better = quorum.Survives(placements)
	}
	add := func(noun string, known, possible int) { out = append(out, margin(noun, known, max(known, possible))) }
	add("control plane", worst.ControlPlanes, better.ControlPlanes)
	add("etcd member", worst.Etcd, better.Etcd)
	switch {
	case worst.LoadBalancers == nil:
		out = append(out, Margin{Figure: "?", Caption: "load balancer of your own: how many failures it survives cannot be observed"})
	case better.LoadBalancers == nil:
		add("load balancer", *worst.LoadBalancers, *worst.LoadBalancers)
	default:
		add("load balancer", *worst.LoadBalancers, *better.LoadBalancers)
	}
	add("zone", worst.Zones, better.Zones)
	return out
}

// hoped are placements in which everything works that could not be queried. It says whether there is anything.
func hoped(placements []quorum.Placement) (out []quorum.Placement, unknown bool) {
	out = slices.Clone(placements)
	for i := range out {
		for _, part := range quorum.Parts {
			if at := part(&out[i]); *at == quorum.Unknown {
				*at, unknown = quorum.Up, true
			}
		}
	}
	return out, unknown
}

func margin(noun string, known, possible int) Margin {
	m := Margin{Figure: fmt.Sprint(known), Caption: noun + "s may fail", Class: "good"}
	switch {
	case known < 0 && possible >= 0:
		return Margin{Figure: "unknown", Caption: noun + "s: too few are known to work", Class: "warn",
			Note: "What could not be queried counts neither as working nor as failed."}
	case known < 0:
		return Margin{Figure: "lost", Caption: noun + "s: too few of them work", Class: "bad"}
	case known == 0:
		m.Caption, m.Class = noun+"s may fail: the next one is an outage", "warn"
		if possible > 0 {
			m.Caption = noun + "s may fail, as far as is known"
		}
	case known == 1:
		m.Caption = noun + " may fail"
	}
	if possible > known {
		m.Note = fmt.Sprintf("%d, if everything works that could not be queried.", possible)
	}
	return m
}

// severities are the labels and classes of findings.
var severities = map[cluster.Severity]Text{
	cluster.Critical: {"critical", "bad"}, cluster.Error: {"error", "bad"}, cluster.Warning: {"warning", "warn"}, cluster.Info: {"for information", ""},
}

func (p *Page) findings(all []cluster.Finding) {
	for i, f := range all {
		if i == mostFindings {
			p.MoreFindings = len(all) - i
			return
		}
		label := severities[f.Severity]
		p.Findings = append(p.Findings, Finding{Label: label.Words, Class: label.Class, Title: sentence(f.Summary), Fix: f.Fix, Rule: f.Rule})
	}
}

// programs are names that are never written with a capital letter.
var programs = []string{facts.Etcd, facts.Kubelet, facts.Containerd, facts.Flannel, facts.Keepalived}

// sentence makes a sentence of a summary. One that begins with the name of a program, or of what looks like a host, keeps its first letter.
func sentence(text string) string {
	word, _, _ := strings.Cut(text, " ")
	if word != "" && word[0] < utf8.RuneSelf && !strings.ContainsAny(word, "-./_`:0123456789") && !slices.Contains(programs, word) {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	return ended(text)
}

// ended ends a sentence, unless it has an end already. Some errors end with a question.
func ended(text string) string {
	if strings.HasSuffix(text, ".") || strings.HasSuffix(text, "?") {
		return text
	}
	return text + "."
}

// identity of a finding: see Changes.
func identity(f cluster.Finding) string {
	return f.Rule + " " + strings.Join(slices.Sorted(slices.Values(f.Subjects)), " ")
}

// MemberRow is a member of etcd, and BalancerRow a load balancer.
type (
	MemberRow struct {
		Name                              string
		State                             Text
		Why, Version, Size, Quota, Behind string
	}
	BalancerRow struct {
		Name       string
		State      Text
		Why, Holds string
		Servers    Text
		Backends   []BackendRow
	}
	BackendRow struct {
		Balancer, Name string
		State          Text
		Sessions       string
		Check          string
	}
)

func (p *Page) etcd(x status.Status) {
	for _, m := range x.Etcd.Members {
		row := MemberRow{Name: m.Name, State: textOf(x.MemberState(m)), Why: cmp.Or(m.Problem, m.Unknown), Version: cmp.Or(m.Version, "–"), Size: "–", Quota: "–", Behind: "–"}
		if m.DBSizeBytes > 0 {
			row.Size = ui.Bytes(m.DBSizeBytes)
			if m.InUseBytes > 0 {
				row.Size += ", " + ui.Bytes(m.InUseBytes) + " in use"
			}
			row.Behind = "no"
		}
		if m.QuotaBytes > 0 {
			row.Quota = fmt.Sprintf("%d %% of %s", 100*m.DBSizeBytes/m.QuotaBytes, ui.Bytes(m.QuotaBytes))
		}
		if m.Behind > 0 {
			row.Behind = page.Count(int(m.Behind)) + " entries"
		}
		if len(m.Alarms) > 0 {
			row.Why = strings.TrimPrefix(row.Why+"; alarm: "+strings.Join(m.Alarms, ", "), "; ")
		}
		p.Members = append(p.Members, row)
	}
	if len(p.Members) == 0 {
		return
	}
	p.EtcdFacts = []Fact{{"Topology", x.Etcd.Topology, ""}, {"Quorum", fmt.Sprintf("%d of %s must work", x.Etcd.Quorum, ui.Plural(len(x.Etcd.Members), "member")), ""}}
	if c := x.Etcd.Compared; c != nil {
		t := textOf(status.Compared(c))
		p.EtcdFacts = append(p.EtcdFacts, Fact{"Data", t.Words, t.Class})
	}
}

func (p *Page) balancers(x status.Status) {
	e := x.Endpoint
	answers := Fact{Name: "Answers", Value: "the hosts get answers from it", Class: "good"}
	switch {
	case e.Problem != "":
		answers.Value, answers.Class = "no: "+e.Problem, "bad"
	case !e.Reachable:
		answers.Value, answers.Class = "unknown: "+cmp.Or(e.Unknown, "no host could query it"), "warn"
	}
	p.Endpoint = []Fact{{Name: "Endpoint", Value: e.Address}, answers}
	if e.VirtualIP != "" {
		p.Endpoint = append(p.Endpoint, Fact{Name: "Virtual IP", Value: e.VirtualIP + ", " + cmp.Or(heldBy(e.Holder), "no load balancer is known to have it")})
	}
	for _, b := range x.LoadBalancers {
		row := BalancerRow{Name: b.Name, State: textOf(x.BalancerState(b)), Why: cmp.Or(b.Problem, b.Unknown), Holds: "–", Servers: textOf(b.Servers())}
		if b.Active {
			row.Holds = "yes"
		}
		for _, s := range b.Backends {
			state := Text{"healthy", "good"}
			switch {
			case !s.Healthy:
				state = Text{"unhealthy", "bad"}
			case s.Drained:
				state = Text{"drained", "warn"}
			}
			row.Backends = append(row.Backends, BackendRow{b.Name, s.Name, state, page.Count(s.Sessions), cmp.Or(s.Check, "–")})
		}
		p.Balancers = append(p.Balancers, row)
	}
}

func heldBy(host string) string {
	if host == "" {
		return ""
	}
	return "on " + host
}

// Plan is what apply would do now.
type Plan struct {
	// Words says it in a sentence. Fix is what to do, if the plan is refused.
	Words Text
	Fix   string
	Steps []StepRow
	More  int
	// Notes are warnings, what stays as it is, and what is left alone.
	Notes []Text
}

// StepRow is a step, on several hosts if they have the same one.
type StepRow struct{ Hosts, Title, Reason, Survives string }

func (p *Page) plan(in Planned) {
	switch {
	case in.Refused != nil:
		p.Plan = Plan{Words: Text{"Refused (" + in.Refused.Rule + "): " + in.Refused.Why, "bad"}, Fix: in.Refused.Fix}
	case in.Plan == nil:
		p.Plan = Plan{Words: Text{"Unknown: " + cmp.Or(in.Unknown, "it was not made"), "warn"}}
	default:
		p.Plan = planOf(in.Plan)
	}
}

func planOf(x *plan.Plan) (out Plan) {
	switch {
	case !x.Empty():
		out.Words.Words = ui.Plural(len(x.Steps), "step") + ". Steps on different hosts run in parallel."
	case len(x.Unmet) > 0:
		out.Words = Text{"There are no steps to run, but the cluster does not match its spec: see the findings.", "warn"}
	case len(x.Unreachable) > 0:
		out.Words = Text{"Nothing to do: the part of the cluster that could be observed matches its spec.", "warn"}
	default:
		out.Words = Text{"Nothing to do: the cluster matches its spec.", "good"}
	}
	if x.Adopts {
		out.Notes = append(out.Notes, Text{"The cluster was not built by Quorate. `quorate apply --adopt` adopts it with these steps and rebuilds nothing.", ""})
	}
	if len(x.Unreachable) > 0 {
		out.Notes = append(out.Notes, Text{ended("Skipped, because they could not be reached: " + because(x.Unreachable)), "warn"})
	}
	for _, w := range x.Warnings {
		out.Notes = append(out.Notes, Text{ended("Warning: " + w), "warn"})
	}
	for _, n := range x.Notes {
		out.Notes = append(out.Notes, Text{ended("Unchanged: " + n), ""})
	}
	rows := stepRows(x.Steps)
	if len(rows) > mostSteps {
		rows, out.More = rows[:mostSteps], len(rows)-mostSteps
	}
	out.Steps = rows
	return out
}

// stepRows lists equal steps on several hosts once. A step that reduces what the cluster survives has a row of its own: one such step follows the other.
func stepRows(steps []plan.Step) []StepRow {
	type row struct {
		StepRow
		hosts []string
	}
	var rows []*row
	known := map[[3]string]*row{}
	for _, s := range steps {
		key := [3]string{string(s.Kind), s.Title, s.Reason}
		if r := known[key]; r != nil && s.Change == nil && s.Margins == nil && s.Host != "" {
			r.hosts = append(r.hosts, s.Host)
			continue
		}
		r := &row{StepRow: StepRow{Title: s.Title, Reason: s.Reason, Survives: "–"}}
		if s.Host != "" {
			r.hosts = []string{s.Host}
		}
		if s.Margins != nil {
			r.Survives = meanwhile(*s.Margins)
		} else if s.Change == nil && s.Host != "" {
			known[key] = r
		}
		rows = append(rows, r)
	}
	out := make([]StepRow, len(rows))
	for i, r := range rows {
		out[i] = r.StepRow
		out[i].Hosts = cmp.Or(names(r.hosts), "the cluster")
	}
	return out
}

// meanwhile are the margins while a step is made, in the worst case.
func meanwhile(m quorum.Margins) string {
	parts := []string{ui.Plural(max(m.ControlPlanes, 0), "control plane"), ui.Plural(max(m.Etcd, 0), "etcd member")}
	if m.LoadBalancers != nil {
		parts = append(parts, ui.Plural(max(*m.LoadBalancers, 0), "load balancer"))
	}
	return strings.Join(parts, ", ")
}

// names lists hosts, and counts those for which there is no room.
func names(hosts []string) string {
	if len(hosts) <= mostNames+1 {
		return cluster.List(hosts)
	}
	return strings.Join(hosts[:mostNames], ", ") + fmt.Sprintf(" and %d more", len(hosts)-mostNames)
}

// because lists hosts, and the API by its empty name, with the reason if that is the same for all of them.
func because(why map[string]string) string {
	var hosts []string
	reasons := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(why)) {
		hosts = append(hosts, cmp.Or(name, "the API"))
		reasons[why[name]] = true
	}
	text := names(hosts)
	if len(reasons) == 1 {
		for reason := range reasons {
			text += " (" + reason + ")"
		}
	}
	return text
}

// Event is something that happened.
type Event struct {
	When, Words, Detail, Label, Class string
	at                                time.Time
}

func (p *Page) events(in Input, x status.Status) {
	for _, r := range in.Repairs.All {
		e := Event{at: r.Began, Label: "repaired", Class: "good", Words: repairWords(r), Detail: r.Problem}
		switch {
		case r.Held:
			e.Label, e.Class, e.Words, e.Detail = "not repaired", "warn", r.Problem, ""
		case r.Error != "":
			e.Label, e.Class, e.Detail = "repair failed", "bad", r.Problem+": "+r.Error
		case r.Ended.IsZero():
			e.Label, e.Class, e.Detail = "repair", "warn", r.Problem+": it is being repaired, or the repair was cut short"
		}
		p.Events = append(p.Events, e)
	}
	for _, c := range in.Changes {
		e := Event{at: c.At, Label: "found", Class: severities[c.Finding.Severity].Class, Words: sentence(c.Finding.Summary)}
		switch {
		case c.Unknown:
			e.Label, e.Class = "unknown", "warn"
			e.Words += " Whether it is gone is unknown: its host cannot be queried any more."
		case c.Gone:
			e.Label, e.Class = "gone", "good"
		}
		p.Events = append(p.Events, e)
	}
	slices.SortStableFunc(p.Events, func(a, b Event) int { return b.at.Compare(a.at) })
	if n := len(p.Events); n > mostEvents {
		p.Events, p.MoreEvents = p.Events[:mostEvents], n-mostEvents
	}
	for i := range p.Events {
		p.Events[i].When = moment(p.Events[i].at)
	}
	if !in.Since.IsZero() {
		p.EventNotes = append(p.EventNotes, "Findings that came and went are listed since "+moment(in.Since)+", when this dashboard was started.")
	}
	p.EventNotes = append(p.EventNotes, "The hosts remember repairs for a week, and the API for an hour which repairs were not made.")
	if len(in.Repairs.Unknown) > 0 {
		p.EventNotes = append(p.EventNotes, ended("Could not be asked what was repaired: "+because(in.Repairs.Unknown)))
	}
	if x.Watch != nil {
		for _, u := range x.Watch.Units {
			if u.Hindered != "" {
				p.EventNotes = append(p.EventNotes, ended("The unit on "+u.Host+" repairs nothing now: "+u.Hindered))
			}
		}
	}
}

func repairWords(r Repair) string {
	text := r.Name
	if len(r.Hosts) > 0 {
		text += " on " + names(r.Hosts)
	}
	if by, _, _ := strings.Cut(r.By, ","); by != "" {
		text += ", by " + by
	}
	return text
}

// DrillRow is the report of a drill.
type DrillRow struct {
	ID, File, When, Verdict, Class string
	Facts                          []Fact
	Faults                         []DrillFault
}

// DrillFault is one fault of it.
type DrillFault struct{ Name, Target, Outage, Client, Verdict, Class string }

func (p *Page) drills(all []Drill) {
	type digested struct {
		row   DrillRow
		began time.Time
	}
	var rows []digested
	for i, x := range all {
		d := x.Report.Digest()
		row := DrillRow{ID: fmt.Sprintf("drill-%d", i+1), File: x.File, Verdict: d.Word, Class: d.Class, When: moment(d.Began)}
		row.Facts = []Fact{{"Faults", fmt.Sprintf("%d of %d kept their objective", d.Kept, len(d.Faults)), ""}}
		if longest, found := d.Longest(); found {
			row.Facts = append(row.Facts, Fact{"Longest outage", page.Duration(longest.Outage) + " (" + longest.Name + ")", ""})
		}
		if d.Acknowledged > 0 {
			lost := Fact{"Writes lost", page.Count(d.Lost) + " of " + page.Count(d.Acknowledged), "good"}
			if d.Lost > 0 {
				lost.Class = "bad"
			}
			row.Facts = append(row.Facts, lost)
		}
		if d.Interrupted != "" {
			row.Facts = append(row.Facts, Fact{"Ended early", d.Interrupted, "warn"})
		}
		for _, f := range d.Faults {
			fault := DrillFault{Name: f.Name, Target: f.Target, Outage: "–", Client: cmp.Or(f.Client, "–"), Verdict: f.Verdict, Class: f.Class}
			if f.Client != "" {
				fault.Outage = page.Duration(f.Outage)
			}
			row.Faults = append(row.Faults, fault)
		}
		rows = append(rows, digested{row, d.Began})
	}
	slices.SortStableFunc(rows, func(a, b digested) int { return b.began.Compare(a.began) })
	for i, r := range rows {
		if i == mostDrills {
			p.MoreDrills = len(rows) - i
			break
		}
		p.Drills = append(p.Drills, r.row)
	}
}

// worker says that a host has no other role.
func worker(h spec.Host) bool { return len(h.Roles) == 1 && h.Has(spec.RoleWorker) }
