package status

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/findings"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Text writes the status for people. A width of 0 does not cut lines.
func Text(w io.Writer, s Status, width int, color bool) error {
	p := &page{width: width, color: color}
	p.line(s.header()...)
	p.nodes(s)
	p.etcd(s)
	p.loadBalancers(s)
	p.blank()
	if len(s.Etcd.Members) > 0 {
		if s.Margins.LoadBalancers == nil {
			p.field("load balancer", ui.Span{Text: "your own; how many failures it survives cannot be observed"})
		}
		words, style := s.Survives()
		p.field("survives", ui.Span{Text: words, Style: style})
	}
	if runs := s.Programs(); runs != "" {
		p.field("runs", ui.Span{Text: runs})
	}
	// The approver's is valid for days, and renewed by itself.
	if i := slices.IndexFunc(s.Certificates, func(c Certificate) bool { return c.Name != facts.ApproverCertificate }); i >= 0 {
		c := s.Certificates[i]
		p.field("certificates", ui.Span{Text: fmt.Sprintf("the first %s: %s on %s", cluster.Expiry(c.Expires, s.time()), c.Name, c.Host)})
	}
	if s.Etcd.Compared != nil {
		p.field("etcd data", Compared(s.Etcd.Compared))
	}
	if s.Backups != nil {
		p.field("backup", s.Backups.Words())
	}
	if s.Watch != nil {
		p.field(map[bool]string{true: "observed", false: "repairs"}[s.Watch.OnlyObserves], s.Watch.Words())
	}
	p.problems(s)
	_, err := io.WriteString(w, p.b.String())
	return err
}

// Programs lists the versions that programs run, and where, if one runs in several.
func (s Status) Programs() string {
	var out []string
	for i, v := range s.Versions {
		text := v.Program + " " + v.Version
		if i > 0 && s.Versions[i-1].Program == v.Program || i+1 < len(s.Versions) && s.Versions[i+1].Program == v.Program {
			text += " (" + strings.Join(v.Hosts, ", ") + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// Compared says whether the members of etcd have the same data.
func Compared(c *cluster.Comparison) ui.Span {
	at := fmt.Sprintf("at revision %d", c.Revision)
	if c.By != "" {
		at += fmt.Sprintf(", compared by %s %s ago", c.By, ui.Duration(time.Duration(c.AgeSeconds)*time.Second))
	}
	out := ui.Span{Text: fmt.Sprintf("the same on %s, %s", cluster.List(slices.Sorted(maps.Keys(c.Hashes))), at)}
	switch {
	case len(c.Hashes) == 1:
		out = ui.Span{Text: fmt.Sprintf("only %s could be asked, %s", slices.Collect(maps.Keys(c.Hashes))[0], at), Style: ui.Yellow}
	case !c.Same() && c.Agreed:
		out = ui.Span{Text: fmt.Sprintf("%s %s from a majority, %s", cluster.List(c.Differ), map[bool]string{true: "differs", false: "differ"}[len(c.Differ) == 1], at), Style: ui.Red}
	case !c.Same():
		out = ui.Span{Text: "it differs, and no majority agrees, " + at, Style: ui.Red}
	}
	if len(c.Missing) > 0 {
		out.Text += "; not compared: " + strings.Join(c.Missing, ", ")
		if out.Style == ui.Plain {
			out.Style = ui.Yellow
		}
	}
	return out
}

// Words says which backup is the last good one.
func (b Backups) Words() ui.Span {
	schedule := "one every " + b.Every
	if b.Every == spec.BackupNever {
		schedule = "no schedule"
	}
	switch {
	case b.Unknown != "":
		return ui.Span{Text: "unknown: " + b.Unknown, Style: ui.Yellow}
	case b.Last == nil:
		return ui.Span{Text: "none yet; " + schedule, Style: ui.Yellow}
	}
	age := ui.Duration(time.Duration(b.Last.AgeSeconds) * time.Second)
	return ui.Span{Text: fmt.Sprintf("the last good one is %s old, taken by %s: %s (%s); %s", age, b.Last.Host, b.Last.File, ui.Bytes(b.Last.Bytes), schedule)}
}

// Words says who observes and repairs, and what was last done.
func (w Watch) Words() ui.Span {
	works, last := 0, WatchUnit{}
	for _, u := range w.Units {
		if u.Works {
			works++
		}
		if u.At.After(last.At) {
			last = u
		}
	}
	text, style := fmt.Sprintf("by the control planes: %s leads, the unit works on %d of %d", w.Leader, works, len(w.Units)), ui.Plain
	if w.Leader == "" {
		text, style = fmt.Sprintf("none of the control planes leads; the unit works on %d of %d", works, len(w.Units)), ui.Yellow
	}
	serve := 0
	for _, u := range w.Units {
		if u.Metrics != "" {
			serve++
		}
	}
	if serve > 0 {
		text += fmt.Sprintf("; metrics can be read on %d", serve)
	}
	if last.Last != "" {
		text += fmt.Sprintf("; last, at %s: %s", last.At.UTC().Format("2006-01-02 15:04:05 UTC"), last.Last)
	}
	return ui.Span{Text: text, Style: style}
}

func (s Status) time() time.Time {
	if s.at.IsZero() { // read from JSON
		return time.Now()
	}
	return s.at
}

func (s Status) header() ui.Line {
	e := s.Endpoint
	at, style := e.VirtualIP, ui.Plain
	if e.Holder != "" {
		at += " on " + e.Holder
	}
	switch {
	case e.Problem != "":
		style = ui.Red
	case !e.Reachable:
		style = ui.Yellow
	}
	l := ui.Line{{Text: s.Cluster, Style: ui.Bold}, {Text: "  " + cmp.Or(s.Version, "version unknown")}, {Text: "  "}, {Text: e.Address, Style: style}}
	if at != "" {
		l = append(l, ui.Span{Text: " (" + at + ")", Style: ui.Dim})
	}
	return append(l, ui.Span{Text: "  "}, s.Verdict())
}

// Verdict is the whole status in a word or two.
func (s Status) Verdict() ui.Span {
	switch {
	case len(s.Problems) > 0 && s.Problems[0].Severity == cluster.Critical:
		return ui.Span{Text: "critical", Style: ui.Red}
	case s.Stage == cluster.Absent:
		return ui.Span{Text: "not built", Style: ui.Yellow}
	case s.Stage == cluster.Undetermined:
		return ui.Span{Text: "unknown", Style: ui.Yellow}
	case s.Stage == cluster.Partial:
		return ui.Span{Text: "not complete", Style: ui.Yellow}
	case len(s.Problems) > 0 && s.Problems[0].Severity == cluster.Error:
		return ui.Span{Text: "degraded", Style: ui.Red}
	case len(s.Problems) > 0 && s.Problems[0].Severity == cluster.Warning:
		return ui.Span{Text: "degraded", Style: ui.Yellow}
	}
	return ui.Span{Text: "healthy", Style: ui.Green}
}

// page collects lines that fit.
type page struct {
	b     strings.Builder
	width int
	color bool
}

func (p *page) blank() { p.b.WriteByte('\n') }

func (p *page) line(spans ...ui.Span) {
	l := ui.Line(spans)
	if p.width > 0 {
		l = l.Truncate(p.width)
	}
	p.whole(l)
}

// whole writes a line that is not cut: it is there to be copied, or fits already.
func (p *page) whole(l ui.Line) { p.b.WriteString(l.String(p.color) + "\n") }

// wrapped writes text after a head, its other lines aligned below the first.
func (p *page) wrapped(head ui.Line, text ui.Span) {
	indent := head.Width()
	width := 0
	if p.width > 0 {
		width = max(p.width-indent, 20)
	}
	for _, part := range ui.Wrap(text.Text, width) {
		p.line(append(head, ui.Span{Text: part, Style: text.Style})...)
		head = ui.Line{}.Pad(indent)
	}
}

func (p *page) field(name string, text ui.Span) {
	p.wrapped(ui.Line{{Text: name, Style: ui.Dim}}.Pad(15), text)
}

// table aligns rows below their heads, after a blank line; without rows there is no table.
func (p *page) table(heads []string, rows [][]ui.Span) {
	if len(rows) == 0 {
		return
	}
	p.blank()
	widths := make([]int, len(heads))
	head := make([]ui.Span, len(heads))
	for i, h := range heads {
		head[i] = ui.Span{Text: h, Style: ui.Dim}
	}
	rows = slices.Insert(rows, 0, head)
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], ui.Cells(cell.Text))
		}
	}
	for _, r := range rows {
		var l ui.Line
		at := 0
		for i, cell := range r {
			l = append(l.Pad(at), cell)
			at += widths[i] + 2
		}
		p.line(l...)
	}
}

func (p *page) nodes(s Status) {
	var rows [][]ui.Span
	for _, n := range s.Nodes {
		ready := ui.Span{Text: "no", Style: ui.Red}
		switch {
		case s.inMaintenance(n.Name):
			ready = maintenance
		case n.Ready && n.Cordoned:
			ready = ui.Span{Text: "cordoned", Style: ui.Yellow}
		case n.Ready:
			ready = ui.Span{Text: "yes", Style: ui.Green}
		case n.Unknown != "":
			ready = unknown
		case n.Version == "":
			ready = ui.Span{Text: "absent", Style: ui.Red}
		}
		rows = append(rows, []ui.Span{{Text: n.Name, Style: ui.Bold}, ready, {Text: strings.Join(n.Roles, ", ")}, dash(n.Zone), dash(n.Address), dash(n.Version)})
	}
	p.table([]string{"NODE", "READY", "ROLES", "ZONE", "ADDRESS", "VERSION"}, rows)
}

// MemberState is the state of a member of etcd in a word or two.
func (s Status) MemberState(m Member) ui.Span {
	switch {
	case s.inMaintenance(m.Name):
		return maintenance
	case m.Unknown != "":
		return unknown
	case !m.Started:
		return ui.Span{Text: "not started", Style: ui.Yellow}
	case !m.Healthy:
		return ui.Span{Text: "unhealthy", Style: ui.Red}
	case m.Learner:
		return ui.Span{Text: "learner", Style: ui.Yellow}
	case m.Behind > 0:
		return ui.Span{Text: "behind", Style: ui.Yellow}
	case m.Leader:
		return ui.Span{Text: "leader", Style: ui.Green}
	}
	return ui.Span{Text: "voter", Style: ui.Green}
}

func (p *page) etcd(s Status) {
	var rows [][]ui.Span
	for _, m := range s.Etcd.Members {
		size := ""
		if m.DBSizeBytes > 0 {
			size = ui.Bytes(m.DBSizeBytes)
		}
		rows = append(rows, []ui.Span{{Text: m.Name, Style: ui.Bold}, s.MemberState(m), dash(size)})
	}
	p.table([]string{"ETCD", "STATE", "SIZE"}, rows)
}

// BalancerState is the state of a load balancer in a word or two.
func (s Status) BalancerState(b LoadBalancer) ui.Span {
	switch {
	case s.inMaintenance(b.Name):
		return maintenance
	case b.Unknown != "":
		return unknown
	case !b.Configured:
		return ui.Span{Text: "not set up", Style: ui.Yellow}
	case !b.Healthy:
		return ui.Span{Text: "unhealthy", Style: ui.Red}
	}
	return ui.Span{Text: "healthy", Style: ui.Green}
}

func (p *page) loadBalancers(s Status) {
	var rows [][]ui.Span
	for _, b := range s.LoadBalancers {
		holds := ""
		if b.Active {
			holds = s.Endpoint.VirtualIP
		}
		rows = append(rows, []ui.Span{{Text: b.Name, Style: ui.Bold}, s.BalancerState(b), dash(holds), b.Servers()})
	}
	p.table([]string{"LOAD BALANCER", "STATE", "VIRTUAL IP", "API SERVERS"}, rows)
}

// maintenance is the state of what may be powered off at any moment.
var maintenance = ui.Span{Text: "maintenance", Style: ui.Yellow}

func (s Status) inMaintenance(host string) bool {
	return slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.Name == host && h.Maintenance != nil })
}

// unknown is the state of what could not be queried.
var unknown = ui.Span{Text: "unknown", Style: ui.Yellow}

// Servers says how many API servers take requests, and which do not.
func (b LoadBalancer) Servers() ui.Span {
	var down, drained []string
	sessions := 0
	for _, s := range b.Backends {
		sessions += s.Sessions
		switch {
		case !s.Healthy:
			down = append(down, s.Name)
		case s.Drained:
			drained = append(drained, s.Name)
		}
	}
	busy := ""
	if sessions > 0 {
		busy = ", " + ui.Plural(sessions, "connection")
	}
	switch n := len(b.Backends); {
	case n == 0:
		return dash("")
	case len(down) > 0:
		return ui.Span{Text: fmt.Sprintf("%d of %d, without %s", n-len(down)-len(drained), n, cluster.List(append(down, drained...))) + busy, Style: ui.Yellow}
	case len(drained) > 0:
		return ui.Span{Text: fmt.Sprintf("%d of %d, %s drained", n-len(drained), n, cluster.List(drained)) + busy}
	default:
		return ui.Span{Text: fmt.Sprintf("all %d", n) + busy}
	}
}

func dash(s string) ui.Span {
	if s == "" {
		return ui.Span{Text: "–", Style: ui.Dim}
	}
	return ui.Span{Text: s}
}

// Survives are the margins in words: what may be lost, and what may not.
func (s Status) Survives() (string, ui.Style) {
	m := s.Margins
	type kind struct {
		n          int
		noun, none string
	}
	kinds := []kind{{m.ControlPlanes, "control plane", "a control plane"}, {m.Etcd, "etcd member", "an etcd member"}, {m.Zones, "zone", "a zone"}}
	if m.LoadBalancers != nil {
		kinds = slices.Insert(kinds, 2, kind{*m.LoadBalancers, "load balancer", "a load balancer"})
	}
	var may, mayNot []string
	for _, k := range kinds {
		switch {
		case k.n > 0:
			may = append(may, ui.Plural(k.n, k.noun))
		case k.n == 0:
			mayNot = append(mayNot, k.none)
		default:
			return "nothing more: too little is known to work", ui.Red
		}
	}
	switch {
	case len(mayNot) == 0:
		return "the loss of " + strings.Join(may, ", "), ui.Green
	case len(may) == 0:
		return "no loss of " + strings.Join(mayNot, ", "), ui.Yellow
	default:
		return fmt.Sprintf("the loss of %s; not of %s", strings.Join(may, ", "), strings.Join(mayNot, ", ")), ui.Yellow
	}
}

func (p *page) problems(s Status) {
	if len(s.Problems) > 0 && !strings.HasSuffix(p.b.String(), "\n\n") {
		p.blank()
	}
	for _, l := range findings.Lines(s.Problems, p.width, false) {
		p.whole(l)
	}
}
