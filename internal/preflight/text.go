package preflight

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/findings"
	"quorate.dev/quorate/internal/ui"
)

// Text writes the report for people. A width of 0 does not break lines.
func (r *Report) Text(w io.Writer, width int, color bool) error {
	var b strings.Builder
	line := func(l ui.Line) { b.WriteString(l.String(color) + "\n") }
	verdict := ui.Span{Text: "no errors", Style: ui.Green}
	switch {
	case r.Errors > 0:
		verdict = ui.Span{Text: ui.Plural(r.Errors, "error"), Style: ui.Red}
		if r.Warnings > 0 {
			verdict.Text += ", " + ui.Plural(r.Warnings, "warning")
		}
	case r.Warnings > 0:
		verdict = ui.Span{Text: "no errors, " + ui.Plural(r.Warnings, "warning"), Style: ui.Yellow}
	}
	line(ui.Line{{Text: r.Cluster, Style: ui.Bold}, {Text: "  " + ui.Plural(r.Hosts, "host") + "  "}, verdict})
	for i := range r.Findings {
		line(nil)
		for _, l := range findings.Lines(r.Findings[i:i+1], width, true) {
			line(l)
		}
	}
	if len(r.Ignored) > 0 {
		var checks []string
		for _, f := range r.Ignored {
			checks = append(checks, f.Rule)
		}
		slices.Sort(checks)
		fmt.Fprintf(&b, "\nIgnored because of --ignore: %s\n", strings.Join(slices.Compact(checks), ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
