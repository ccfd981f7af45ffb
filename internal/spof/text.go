package spof

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/findings"
	"quorate.dev/quorate/internal/ui"
)

// shownPairs is how many pairs of failures the text lists; -o json has all of them.
const shownPairs = 20

// Text writes the report for people. A width of 0 does not cut lines.
func Text(w io.Writer, r Report, width int, color bool) error {
	var b strings.Builder
	line := func(spans ...ui.Span) { b.WriteString(ui.Line(spans).String(color) + "\n") }
	verdict, style := r.Verdict(), ui.Green
	if !r.OK() {
		style = ui.Yellow
	}
	line(ui.Span{Text: r.Cluster, Style: ui.Bold}, ui.Span{Text: "  " + r.source() + "  "}, ui.Span{Text: verdict, Style: style})
	b.WriteByte('\n')
	for _, c := range r.Capabilities {
		if ofWorkload(c.Name) && c.State == Works {
			continue
		}
		state := ui.Span{Text: c.words()}
		switch {
		case c.State == Lost:
			state.Style = ui.Red
		case c.State == Unknown || c.Single > 0:
			state.Style = ui.Yellow
		}
		line(append(ui.Line{{Text: c.Name}}.Pad(17), ui.Span{Text: " "}, state)...)
	}
	if n := r.workloads(); n > 0 {
		bad := 0
		for _, c := range r.Capabilities {
			if strings.HasPrefix(c.Name, WorkloadPrefix) && c.State == Works && c.Single > 0 {
				bad++
			}
		}
		text := ui.Plural(n, "workload") + ", of which " + fmt.Sprint(bad) + " do not survive a single failure"
		if bad == 0 {
			text = ui.Plural(n, "workload") + ", each of which survives any single failure"
		}
		line(append(ui.Line{{Text: "workloads"}}.Pad(17), ui.Span{Text: " " + text})...)
	}
	shown, also := r.roots()
	pairs := 0
	for _, f := range shown {
		if f.Size > 1 && f.Rule == RulePair {
			if pairs++; pairs > shownPairs {
				continue
			}
		}
		b.WriteByte('\n')
		x := f.Finding
		x.Summary += ". " + f.Loss
		if others := also[key(f.Elements)]; len(others) > 0 {
			x.Summary += " The same happens with " + listed(some(others, ""), f.Size) + "."
		}
		for _, l := range findings.Lines([]cluster.Finding{x}, width, false) {
			line(l...)
		}
	}
	if pairs > shownPairs {
		fmt.Fprintf(&b, "\n%d more pairs of failures are in the output of -o json.\n", pairs-shownPairs)
	}
	if len(r.Unknown) > 0 {
		b.WriteString("\nCould not be queried, and counts neither as up nor as down:\n")
		for _, what := range slices.Sorted(maps.Keys(r.Unknown)) {
			wrap(&b, what+": "+r.Unknown[what], width)
		}
	}
	if len(r.Inherent) > 0 {
		b.WriteString("\nNot reported, because this cluster could not have closed it:\n")
		for _, x := range r.Inherent {
			wrap(&b, x.Element.String()+": "+x.Why, width)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// listed joins the elements of findings, which contain an "and" themselves if there are several.
func listed(names []string, size int) string {
	if size > 1 {
		return strings.Join(names, "; ")
	}
	return cluster.List(names)
}

func wrap(b *strings.Builder, text string, width int) {
	room := 0
	if width > 0 {
		room = max(width-4, 20)
	}
	head := "  - "
	for _, part := range ui.Wrap(text, room) {
		b.WriteString(head + part + "\n")
		head = "    "
	}
}

// source says what was looked at.
func (r Report) source() string {
	switch {
	case r.From == FromCluster:
		return "as it is now"
	case r.Note != "":
		return "from the spec alone (" + r.Note + ")"
	}
	return "from the spec alone"
}

// Verdict is the whole report in a few words.
func (r Report) Verdict() string {
	single := 0
	for _, f := range r.Findings {
		if f.Size == 1 && len(f.Contains) == 0 && !f.Possible && f.Rule == RuleSingle {
			single++
		}
	}
	lost := slices.ContainsFunc(r.Capabilities, func(c Capability) bool { return c.State == Lost })
	switch {
	case lost:
		return "something does not work already"
	case single > 0:
		return ui.Plural(single, "single point") + " of failure"
	case len(r.Unknown) > 0:
		return "not everything could be queried"
	case !r.OK():
		return "no single point of failure, and something to correct"
	}
	return "no single point of failure"
}

// words say how a capability stands.
func (c Capability) words() string {
	because := ""
	if len(c.Because) > 0 {
		because = ": " + strings.Join(c.Because, "; ")
	}
	switch {
	case c.State == Lost:
		return "does not work now" + because
	case c.State == Unknown:
		return "unknown" + because
	case c.Single == 0:
		return "survives any single failure"
	case c.Name == Maintenance:
		return "blocked by " + ui.Plural(c.Single, "disruption budget")
	}
	return fmt.Sprintf("lost with any of %d", c.Single)
}

func (r Report) workloads() (n int) {
	for _, c := range r.Capabilities {
		if strings.HasPrefix(c.Name, WorkloadPrefix) {
			n++
		}
	}
	return n
}

// roots are the findings without those that only contain another one, which are listed by the elements of that one.
func (r Report) roots() (shown []Finding, also map[string][]string) {
	also = map[string][]string{}
	for _, f := range r.Findings {
		if len(f.Contains) == 0 {
			shown = append(shown, f)
			continue
		}
		name := cluster.List(words(f.Elements))
		if to := key(f.Contains); !slices.Contains(also[to], name) {
			also[to] = append(also[to], name)
		}
	}
	return shown, also
}
