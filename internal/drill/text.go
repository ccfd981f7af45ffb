package drill

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/page"
	"quorate.dev/quorate/internal/ui"
)

const (
	// textDetails is of how many outcomes the text says what was missed; the other formats have all.
	textDetails = 40
	// textNothing stands for a figure that was not measured.
	textNothing = "–"
	textLegend  = "In seconds: the longest time between two successes of clients of the endpoint (NEW: reads with a new connection for each; WRITE: writes; HTTP/2: " +
		"the worst connection) and of clients in pods (PODS: the worst of all); until the fault was found (FOUND); from its end until the margins were " +
		"back (BACK). FAILED are failed requests at the endpoint."
)

// textHeads are the names of the figures of a row.
var textHeads = []string{"NEW", "WRITE", "HTTP/2", "FAILED", "PODS", "FOUND", "BACK"}

// textRow is one fault: what was measured of it, in the order of textHeads.
type textRow struct {
	name, target string
	cells        []ui.Span
	verdict      ui.Span
}

// WriteText writes the report for people. A width of 0 does not break lines.
func (r *Report) WriteText(w io.Writer, width int, color bool) error {
	var b strings.Builder
	line := func(spans ...ui.Span) { b.WriteString(ui.Line(spans).String(color) + "\n") }
	paragraph := func(head, text string, style ui.Style) {
		indent, room := ui.Cells(head), 0
		if width > 0 {
			room = max(width-indent, 20)
		}
		for _, part := range ui.Wrap(oneLine(text), room) {
			line(ui.Span{Text: head}, ui.Span{Text: part, Style: style})
			head = strings.Repeat(" ", indent)
		}
	}
	paragraph("", r.headline(), ui.Bold)
	if rows := r.textRows(); len(rows) > 0 {
		b.WriteByte('\n')
		paragraph("", textLegend, ui.Dim)
		b.WriteByte('\n')
		for _, l := range textTable(rows, width) {
			line(l...)
		}
	}
	r.textProblems(paragraph, func() { b.WriteByte('\n') })
	for _, text := range r.Advice {
		b.WriteByte('\n')
		paragraph("→ ", text, ui.Plain)
	}
	if skipped := htmlSkips(r.Skipped); len(skipped) > 0 {
		b.WriteString("\nNot injected:\n")
		for _, s := range skipped {
			paragraph("  - ", s.Why+": "+strings.Join(s.Names, ", "), ui.Plain)
		}
	}
	b.WriteString("\nLedger:\n")
	for _, f := range r.htmlLedger() {
		paragraph("  - ", f.Name+": "+f.Value, styleOf(f.Class))
	}
	b.WriteByte('\n')
	v := r.htmlVerdict()
	paragraph("", v.Word+": "+strings.Join(v.Sentences, " "), styleOf(v.Class))
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine takes out of a text what would break the line or steer the terminal: errors quote what hosts and clusters said.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// styleOf is the color of what is good, warn, or bad on a page.
func styleOf(class string) ui.Style {
	switch class {
	case "bad":
		return ui.Red
	case "warn":
		return ui.Yellow
	case "good":
		return ui.Green
	}
	return ui.Plain
}

// headline says what was drilled.
func (r *Report) headline() string {
	parts := []string{"Kubernetes " + r.Kubernetes, r.Environment.Topology + " etcd", "failover profile " + r.Environment.Profile}
	if r.Environment.Lab {
		parts = append(parts, "a lab on "+ui.Plural(r.Environment.Processors, "processor"))
	}
	parts = append(parts, fmt.Sprintf("seed %d", r.Seed))
	if d := r.Ended.Sub(r.Began); d > 0 {
		parts = append(parts, ui.Duration(d))
	}
	return r.Cluster + ": " + strings.Join(parts, ", ")
}

// textRows are one row for each fault, with the worst figures of its repeats, and one for the time before the first fault.
func (r *Report) textRows() (out []textRow) {
	if r.Quiet != nil {
		quiet := Outcome{Name: "(no fault)", Clients: r.Quiet.Clients}
		row := r.textRow(quiet.Name, []Outcome{quiet})
		row.cells[len(row.cells)-1], row.verdict = ui.Span{Text: textNothing}, ui.Span{}
		out = append(out, row)
	}
	var names []string
	outcomes := map[string][]Outcome{}
	for _, o := range r.Faults {
		if outcomes[o.Name] == nil {
			names = append(names, o.Name)
		}
		outcomes[o.Name] = append(outcomes[o.Name], o)
	}
	for _, name := range names {
		out = append(out, r.textRow(name, outcomes[name]))
	}
	return out
}

func (r *Report) textRow(name string, repeats []Outcome) textRow {
	row := textRow{name: name, verdict: textVerdict(repeats)}
	var targets []string
	for _, o := range repeats {
		if !slices.Contains(targets, o.Target) {
			targets = append(targets, o.Target)
		}
	}
	if row.target = targets[0]; len(targets) > 1 {
		row.target = ui.Plural(len(targets), "place")
	}
	// The figures of outcomes that cannot be judged are shown only if there are no others.
	judged := slices.DeleteFunc(slices.Clone(repeats), func(o Outcome) bool { return len(o.Invalid) > 0 })
	if len(judged) == 0 {
		judged = repeats
	}
	gap := func(of func(path, operation, connection string) bool) ui.Span {
		out, worst := ui.Span{Text: textNothing}, int64(-1)
		for _, o := range judged {
			kind, c, found := worstClient(o, of)
			if !found || c.GapMs <= worst {
				continue
			}
			worst = c.GapMs
			out = ui.Span{Text: textSeconds(worst)}
			if limit, _ := ObjectiveFor(r.Objectives, o.Name, kind); limit.MaxGapMs != nil && worst > *limit.MaxGapMs {
				out.Style = ui.Red
			}
		}
		return out
	}
	requests, failed := 0, 0
	var found, back ui.Span
	found.Text = textNothing
	latest, slowest := int64(-1), int64(-1)
	for _, o := range judged {
		for kind, c := range o.Clients {
			if outside(splitKind(kind)) {
				requests, failed = requests+c.Requests, failed+c.Failed
			}
		}
		if o.DetectMs != nil && *o.DetectMs > latest {
			latest = *o.DetectMs
			found.Text = textSeconds(latest)
		}
		switch {
		case o.MarginsBackMs == nil:
			back = ui.Span{Text: "never", Style: ui.Red}
		case *o.MarginsBackMs > slowest && back.Style == ui.Plain:
			slowest = *o.MarginsBackMs
			back.Text = textSeconds(slowest)
		}
	}
	row.cells = []ui.Span{
		gap(func(path, operation, connection string) bool {
			return path == "endpoint" && operation == string(probe.Read) && connection == string(probe.New)
		}),
		gap(func(path, operation, _ string) bool { return path == "endpoint" && operation == string(probe.Write) }),
		gap(func(path, operation, connection string) bool {
			return outside(path, operation, connection) && connection == string(probe.HTTP2)
		}),
		{Text: fmt.Sprintf("%d/%d", failed, requests)}, gap(inside), found, back,
	}
	return row
}

func textVerdict(repeats []Outcome) ui.Span {
	passed, missed := 0, 0
	for _, o := range repeats {
		switch {
		case o.Pass:
			passed++
		case len(o.Invalid) == 0:
			missed++
		}
	}
	style := ui.Green
	switch {
	case missed > 0:
		style = ui.Red
	case passed < len(repeats):
		style = ui.Yellow
	}
	switch {
	case len(repeats) > 1:
		return ui.Span{Text: fmt.Sprintf("%d/%d pass", passed, len(repeats)), Style: style}
	case passed > 0:
		return ui.Span{Text: "pass", Style: style}
	case missed > 0:
		return ui.Span{Text: "missed", Style: style}
	}
	return ui.Span{Text: "invalid", Style: style}
}

// textSeconds writes milliseconds as seconds with about three digits.
func textSeconds(ms int64) string {
	switch s := (time.Duration(ms) * time.Millisecond).Seconds(); {
	case s < 10:
		return fmt.Sprintf("%.2f", s)
	case s < 100:
		return fmt.Sprintf("%.1f", s)
	default:
		return fmt.Sprintf("%.0f", s)
	}
}

// textTable aligns rows. Each fault has one line if that fits into the width, and otherwise two: what it is, and its figures.
func textTable(rows []textRow, width int) (out []ui.Line) {
	const space = "  "
	names, targets, verdicts := len("FAULT"), len("TARGET"), len("VERDICT")
	columns := make([]int, len(textHeads))
	for i, h := range textHeads {
		columns[i] = len(h)
	}
	for _, row := range rows {
		names, targets, verdicts = max(names, ui.Cells(row.name)), max(targets, ui.Cells(row.target)), max(verdicts, ui.Cells(row.verdict.Text))
		for i, c := range row.cells {
			columns[i] = max(columns[i], ui.Cells(c.Text))
		}
	}
	figures := func(cells []ui.Span) (l ui.Line) {
		for i, c := range cells {
			l = append(l, ui.Span{Text: space + strings.Repeat(" ", columns[i]-ui.Cells(c.Text))}, c)
		}
		return l
	}
	var heads []ui.Span
	for _, h := range textHeads {
		heads = append(heads, ui.Span{Text: h})
	}
	all := names + len(space) + targets + figures(heads).Width() + len(space) + verdicts
	narrow := width > 0 && all > width
	for _, row := range append([]textRow{{"FAULT", "TARGET", heads, ui.Span{Text: "VERDICT"}}}, rows...) {
		l := append(ui.Line{{Text: row.name}}.Pad(names), ui.Span{Text: space + row.target})
		l = l.Pad(names + len(space) + targets)
		if !narrow {
			l = append(l, figures(row.cells)...)
			out = append(out, append(l, ui.Span{Text: space}, row.verdict))
			continue
		}
		// The verdict stays in sight; a long name is cut.
		room := max(width-len(space)-verdicts, 1)
		l = l.Truncate(room).Pad(min(room, names+len(space)+targets))
		out = append(out, append(l, ui.Span{Text: space}, row.verdict), figures(row.cells).Truncate(width))
	}
	return out
}

// textProblems says of each outcome that has not passed why.
func (r *Report) textProblems(paragraph func(head, text string, style ui.Style), blank func()) {
	shown, more := 0, 0
	for _, o := range r.Faults {
		if o.Pass {
			continue
		}
		if shown++; shown > textDetails {
			more++
			continue
		}
		blank()
		words, style := " missed its objective:", ui.Red
		if len(o.Invalid) > 0 {
			words, style = " cannot be judged:", ui.Yellow
		}
		where := o.Target
		if len(o.Roles) > 0 {
			where += " (" + strings.Join(o.Roles, ", ") + ")"
		}
		paragraph("! ", o.Name+" on "+where+words, style)
		for _, why := range slices.Concat(o.Invalid, o.Missed) {
			paragraph("  - ", why, ui.Plain)
		}
	}
	if more > 0 {
		blank()
		paragraph("", fmt.Sprintf("%s more did not pass; the output of -o json has all of them.", page.Count(more)), ui.Plain)
	}
}

// ledgerProblems are what the ledger says against the cluster, and what it does not know.
func (r *Report) ledgerProblems() (wrong, unknown []string) {
	l := r.Ledger
	if l.Lost > 0 {
		wrong = append(wrong, fmt.Sprintf("%s of %s acknowledged writes were lost", page.Count(l.Lost), page.Count(l.Acknowledged)))
	}
	if l.WatchGaps > 0 {
		wrong = append(wrong, "watches missed events or could not resume "+htmlTimes(l.WatchGaps))
	}
	switch verdict, why, _ := strings.Cut(l.Linearizable, ": "); verdict {
	case linearizable:
	case "no":
		wrong = append(wrong, "the history of reads and writes is not linearizable")
	case "":
		unknown = append(unknown, "whether the history is linearizable was not checked")
	default:
		unknown = append(unknown, "whether the history is linearizable is not known: "+why)
	}
	return wrong, unknown
}

// ledgerSentences are the figures of the ledger, for a log.
func (r *Report) ledgerSentences() (out []string) {
	for _, f := range r.htmlLedger() {
		out = append(out, f.Name+": "+f.Value)
	}
	return out
}
