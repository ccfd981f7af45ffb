package spof

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/page"
)

//go:embed report.html.tmpl
var pageText string

var pageTemplate = page.New("report.html", pageText, nil)

const (
	// picturesOfWorkloads is how many trees of workloads with a finding a page shows.
	picturesOfWorkloads = 12
	// pairsOnPage is how many pairs of failures it lists.
	pairsOnPage = 200
)

// pageData is what the template shows.
type pageData struct {
	Report
	Source, Verdict string
	OK              bool
	Core, Others    []pageRow
	Findings        []pageFinding
	MorePairs       int
	Unknown         []pageUnknown
	Pictures        []pagePicture
	WorkloadsWhole  int // those that are not in the table, because they survive everything
}

type pageRow struct {
	Name, Words, Class string
}

type pageFinding struct {
	Title, Loss, Fix, Class, Label string
	Capabilities                   []string
	Also                           string
}

type pageUnknown struct{ What, Why string }

type pagePicture struct {
	Name string
	SVG  template.HTML
	Open bool
}

// HTML writes the report as one page that needs nothing else, with a picture of each tree.
func HTML(w io.Writer, r Report) error {
	p := pageData{Report: r, Source: r.source(), Verdict: r.Verdict(), OK: r.OK()}
	interesting := map[string]bool{}
	for _, c := range r.Capabilities {
		row := pageRow{Name: c.Name, Words: c.words(), Class: "good"}
		switch {
		case c.State == Lost:
			row.Class = "bad"
		case c.State == Unknown || c.Single > 0:
			row.Class = "warn"
		}
		interesting[c.Name] = row.Class != "good"
		switch {
		case !ofWorkload(c.Name):
			p.Core = append(p.Core, row)
		case row.Class != "good":
			p.Others = append(p.Others, row)
		case strings.HasPrefix(c.Name, WorkloadPrefix):
			p.WorkloadsWhole++
		}
	}
	shown, also := r.roots()
	pairs := 0
	for _, f := range shown {
		if f.Rule == RulePair {
			if pairs++; pairs > pairsOnPage {
				p.MorePairs++
				continue
			}
		}
		x := pageFinding{Title: strings.ToUpper(f.Summary[:1]) + f.Summary[1:] + ".", Loss: f.Loss, Fix: f.Fix, Capabilities: some(f.Capabilities, ""), Also: listed(some(also[key(f.Elements)], ""), f.Size), Class: "info", Label: "for information"}
		switch {
		case f.Severity.Rank() <= cluster.Warning.Rank():
			x.Class, x.Label = "warn", "warning"
		case f.Rule == RulePair:
			x.Label = "two failures"
		}
		p.Findings = append(p.Findings, x)
	}
	for _, what := range slices.Sorted(maps.Keys(r.Unknown)) {
		p.Unknown = append(p.Unknown, pageUnknown{what, r.Unknown[what]})
	}
	drawn := 0
	for i, c := range r.model.capabilities {
		if ofWorkload(c.name) {
			if !interesting[c.name] || drawn == picturesOfWorkloads {
				continue
			}
			drawn++
		}
		p.Pictures = append(p.Pictures, pagePicture{Name: c.name, SVG: template.HTML(r.model.picture(c, i)), Open: interesting[c.name] || i == 0}) //nolint:gosec // picture escapes every text
	}
	if err := pageTemplate.Execute(w, p); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
