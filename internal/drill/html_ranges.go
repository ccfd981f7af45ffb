package drill

import (
	"fmt"
	"html"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/page"
)

// htmlRange is how the longest gap of one fault is distributed over its repeats, for the kind of client that it hit worst.
type htmlRange struct {
	Name, Client, Repeats string
	P50, P95, Max, Limit  string
	Class                 string
	Plot                  template.HTML
	All                   []htmlSpread
}

// htmlSpread is the same for one kind of client.
type htmlSpread struct{ Kind, P50, P95, Max, Limit, Class string }

func (r *Report) htmlRanges() (out []htmlRange) {
	for n, s := range r.Summaries {
		if s.Repeats < 2 {
			continue
		}
		row := htmlRange{Name: s.Name, Repeats: fmt.Sprintf("%d of %d", s.Passed, s.Repeats)}
		if invalid := s.Repeats - s.Valid; invalid > 0 {
			row.Repeats += fmt.Sprintf(" (%d could not be judged)", invalid)
		}
		worst := ""
		for _, kind := range sortedKinds(slices.Collect(maps.Keys(s.Gaps))) {
			row.All = append(row.All, r.htmlSpread(s.Name, kind, s.Gaps[kind]))
			if !outside(splitKind(kind)) && !inside(splitKind(kind)) {
				continue
			}
			if worst == "" || s.Gaps[kind].Max > s.Gaps[worst].Max {
				worst = kind
			}
		}
		if worst != "" {
			x := r.htmlSpread(s.Name, worst, s.Gaps[worst])
			row.Client, row.P50, row.P95, row.Max, row.Limit, row.Class = worst, x.P50, x.P95, x.Max, x.Limit, x.Class
			row.Plot = r.drawRange(n, s.Name, worst, s.Gaps[worst])
		}
		out = append(out, row)
	}
	return out
}

func (r *Report) htmlSpread(fault, kind string, s Spread) htmlSpread {
	x := htmlSpread{Kind: kind, P50: page.Milliseconds(s.P50), P95: page.Milliseconds(s.P95), Max: page.Milliseconds(s.Max), Limit: "no limit"}
	if limit := r.promised(fault, kind).MaxGapMs; limit != nil {
		x.Limit, x.Class = page.Milliseconds(*limit), above(s.Max, limit)
	}
	return x
}

// The measures of a range plot in pixels, and what it shows: 10 ms to 100 s on a logarithmic scale.
const (
	rangeWidth, rangeHeight, rangeMargin = 280, 26, 18
	rangeFrom, rangeDecades              = 10.0, 4
)

var rangeTicks = []struct {
	ms    int64
	label string
}{{10, "10 ms"}, {100, "0.1 s"}, {1000, "1 s"}, {10000, "10 s"}, {100000, "100 s"}}

func rangeX(ms int64) float64 {
	part := math.Log10(max(float64(ms), rangeFrom)/rangeFrom) / rangeDecades
	return rangeMargin + min(part, 1)*(rangeWidth-2*rangeMargin)
}

// drawRange draws p50 as a point, p95 as a line, the maximum as the end of the bar, and the limit as a dashed line.
func (r *Report) drawRange(number int, fault, kind string, s Spread) template.HTML {
	const middle = rangeHeight / 2
	text := fmt.Sprintf("%s for %s: p50 %s, p95 %s, max %s", fault, kind, page.Milliseconds(s.P50), page.Milliseconds(s.P95), page.Milliseconds(s.Max))
	limit := r.promised(fault, kind).MaxGapMs
	if limit != nil {
		text += ", objective " + page.Milliseconds(*limit)
	}
	class := strings.TrimSpace("range " + above(s.Max, limit))
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="%s" role="img" aria-labelledby="range%d" viewBox="0 0 %d %d" width="%d" height="%d"><title id="range%d">%s</title>`,
		class, number, rangeWidth, rangeHeight, rangeWidth, rangeHeight, number, html.EscapeString(text))
	for _, t := range rangeTicks {
		fmt.Fprintf(&b, `<path class="tick" d="M%s 0V%d"/>`, px(rangeX(t.ms)), rangeHeight)
	}
	from, to := rangeX(s.P50), rangeX(s.Max)
	fmt.Fprintf(&b, `<rect class="span" x="%s" y="%d" width="%s" height="6"/>`, px(from), middle-3, px(max(to-from, 1)))
	fmt.Fprintf(&b, `<path class="p95" d="M%s %dV%d"/><circle class="p50" cx="%s" cy="%d" r="5"/>`, px(rangeX(s.P95)), middle-8, middle+8, px(from), middle)
	if limit != nil {
		fmt.Fprintf(&b, `<path class="limit" d="M%s 0V%d"/>`, px(rangeX(*limit)), rangeHeight)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // every text was escaped
}

// drawRangeScale labels the ticks of all range plots.
func drawRangeScale() template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="range-scale" viewBox="0 0 %d 16" width="%d" height="16"><title id="range-scale">Logarithmic scale from 10 ms to 100 s</title>`, rangeWidth, rangeWidth)
	for _, t := range rangeTicks {
		fmt.Fprintf(&b, `<text class="detail" text-anchor="middle" x="%s" y="12">%s</text>`, px(rangeX(t.ms)), t.label)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // it is always the same
}
