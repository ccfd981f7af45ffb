package preflight

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/ui"
)

var styles = map[Severity]ui.Style{Error: ui.Red, Warning: ui.Yellow, Info: ui.Dim}

// Text writes the report for people. A width of 0 does not break lines.
func (r *Report) Text(w io.Writer, width int, color bool) error {
	var b strings.Builder
	line := func(l ui.Line) { b.WriteString(l.String(color) + "\n") }
	verdict := ui.Span{Text: "nothing stands in the way", Style: ui.Green}
	switch {
	case r.Errors > 0:
		verdict = ui.Span{Text: ui.Plural(r.Errors, "error"), Style: ui.Red}
		if r.Warnings > 0 {
			verdict.Text += ", " + ui.Plural(r.Warnings, "warning")
		}
	case r.Warnings > 0:
		verdict = ui.Span{Text: ui.Plural(r.Warnings, "warning") + ", nothing stands in the way", Style: ui.Yellow}
	}
	line(ui.Line{{Text: r.Cluster, Style: ui.Bold}, {Text: "  " + ui.Plural(r.Hosts, "host") + "  "}, verdict})
	const indent = "         "
	text := func(s string) {
		room := 0
		if width > 0 {
			room = max(width-len(indent), 30)
		}
		for _, part := range ui.Wrap(s, room) {
			b.WriteString(indent + part + "\n")
		}
	}
	for _, f := range r.Findings {
		line(nil)
		head := ui.Line{{Text: string(f.Severity), Style: styles[f.Severity]}}.Pad(len(indent))
		line(append(head, ui.Span{Text: few(f.Hosts), Style: ui.Bold}, ui.Span{Text: "  " + f.Check, Style: ui.Dim}))
		text(f.Summary)
		text("fix: " + f.Fix)
	}
	if len(r.Ignored) > 0 {
		var checks []string
		for _, f := range r.Ignored {
			checks = append(checks, f.Check)
		}
		slices.Sort(checks)
		fmt.Fprintf(&b, "\nIgnored, as you asked: %s\n", strings.Join(slices.Compact(checks), ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
