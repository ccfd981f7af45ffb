// Package findings shows findings to people, in the same form everywhere.
package findings

import (
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/ui"
)

var marks = map[cluster.Severity]ui.Span{
	cluster.Critical: {Text: "✘ ", Style: ui.Red}, cluster.Error: {Text: "✘ ", Style: ui.Red},
	cluster.Warning: {Text: "! ", Style: ui.Yellow}, cluster.Info: {Text: "· ", Style: ui.Cyan},
}

// minRoom is the width that text gets even on a terminal that is narrower.
const minRoom = 20

// Lines are the findings, each as what is wrong and what to do about it, wrapped to the width. A width of 0 does not wrap. With
// rules, the ID of its rule follows what is wrong.
func Lines(all []cluster.Finding, width int, rules bool) (out []ui.Line) {
	for _, f := range all {
		mark, summary := marks[f.Severity], f.Summary
		if rules {
			summary += " (" + f.Rule + ")"
		}
		out = append(out, wrapped(ui.Line{mark}, summary, mark.Style, width)...)
		for i, part := range strings.Split(f.Fix, "\n") {
			head := ui.Line{{Text: "  → ", Style: ui.Dim}}
			if i > 0 {
				head = ui.Line{}.Pad(head.Width())
			}
			out = append(out, wrapped(head, part, ui.Plain, width)...)
		}
	}
	return out
}

// wrapped puts text after a head, with its other lines aligned below the first.
func wrapped(head ui.Line, text string, style ui.Style, width int) (out []ui.Line) {
	indent, room := head.Width(), 0
	if width > 0 {
		room = max(width-indent, minRoom)
	}
	for _, part := range ui.Wrap(text, room) {
		out = append(out, append(head, ui.Span{Text: part, Style: style}))
		head = ui.Line{}.Pad(indent)
	}
	return out
}
