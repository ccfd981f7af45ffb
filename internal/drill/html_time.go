package drill

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/page"
	"quorate.dev/quorate/internal/ui"
)

// A picture of time has the faults on top and one lane for each kind of client below. Time is divided into columns of equal length, of which
// each lane shows the worst second: a second without an answer must not disappear among the others of an hour.

// timeCell is one column of a lane.
type timeCell struct {
	known      bool
	ok, failed int
	share      float64 // of requests that failed, in the worst second
	slowest    float64 // in milliseconds
}

type timeLane struct {
	kind  string
	cells []timeCell
}

// lanesOf divides a time, in seconds since 1970, into at most so many columns. size is how many seconds a column has.
func lanesOf(samples []Sample, from, to int64, columns int) (lanes []timeLane, size int64) {
	size = (to - from + int64(columns) - 1) / int64(columns)
	for _, round := range []int64{1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600, 900, 1800, 3600} {
		if size <= round {
			size = round
			break
		}
	}
	n := int((to - from + size - 1) / size)
	byKind := map[string][]timeCell{}
	for _, s := range samples {
		if s.Second < from || s.Second >= to {
			continue
		}
		cells := byKind[s.Client]
		if cells == nil {
			cells = make([]timeCell, n)
			byKind[s.Client] = cells
		}
		c := &cells[(s.Second-from)/size]
		c.known = true
		c.ok, c.failed, c.slowest = c.ok+s.OK, c.failed+s.Failed, max(c.slowest, s.Slowest)
		if all := s.OK + s.Failed; all > 0 {
			c.share = max(c.share, float64(s.Failed)/float64(all))
		}
	}
	for _, kind := range sortedKinds(slices.Collect(maps.Keys(byKind))) {
		lanes = append(lanes, timeLane{kind, byKind[kind]})
	}
	return lanes, size
}

// timeMark is a fault in a picture of time. Times are seconds since 1970.
type timeMark struct {
	number            int
	name, text, class string
	from, to, back    float64
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func markOf(number int, o Outcome) timeMark {
	words, class := htmlJudgement(o)
	m := timeMark{number: number, name: o.Name, class: class, from: unixSeconds(o.Injected), to: max(unixSeconds(o.Injected), unixSeconds(o.Healed))}
	m.back = m.to
	m.text = fmt.Sprintf("Fault %d: %s on %s, %s", number, o.Name, o.Target, words)
	if o.MarginsBackMs != nil {
		m.back += float64(*o.MarginsBackMs) / 1000
	}
	return m
}

func (r *Report) marks() (out []timeMark) {
	for i, o := range r.Faults {
		out = append(out, markOf(i+1, o))
	}
	return out
}

// The measures of a picture of time in pixels.
const (
	timeLabels                     = 190 // the names of the lanes
	timeMargin                     = 12
	laneHeight                     = 36
	failureHeight                  = 10 // of which failures take the top
	latencyHeight                  = 22 // and latencies the bottom
	faultHeight                    = 12
	nameHeight, nameRows           = 14, 7
	characterWidth                 = 6.1 // of names and numbers
	axisHeight                     = 24
	fastestLatency, latencyDecades = 1.0, 4 // latencies are drawn from 1 ms to 10⁴ ms
	closeAfter                     = 45     // how many seconds after the end of a fault its own picture shows
)

type timePicture struct {
	id, title, description string
	width                  int // of the columns together
	from, size             int64
	zero                   float64 // what the axis counts from
	lanes                  []timeLane
	marks                  []timeMark
	names                  bool // of the faults, in addition to their numbers
}

// px writes a coordinate.
func px(x float64) string {
	if x = math.Round(x*10) / 10; x == 0 {
		return "0" // and not -0
	}
	return strconv.FormatFloat(x, 'f', -1, 64)
}

// drawTime draws the picture as an inline SVG. It needs the style sheet of the page.
func drawTime(p timePicture) template.HTML {
	columns := 0
	for _, l := range p.lanes {
		columns = max(columns, len(l.cells))
	}
	to := float64(p.from + int64(columns)*p.size)
	x := func(t float64) float64 {
		part := (t - float64(p.from)) / (to - float64(p.from))
		return timeLabels + min(max(part, 0), 1)*float64(p.width)
	}
	right := float64(timeLabels + p.width)
	names, numbers, rows := p.labels(x, right)
	top := rows*nameHeight + nameHeight // of the bars of faults
	first := top + faultHeight + 6      // of the lanes
	bottom := first + len(p.lanes)*laneHeight
	width, height := timeLabels+p.width+timeMargin, bottom+axisHeight

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="time" role="img" aria-labelledby="%s-t %s-d" viewBox="0 0 %d %d" width="%d" height="%d">`, p.id, p.id, width, height, width, height)
	fmt.Fprintf(&b, `<title id="%s-t">%s</title><desc id="%s-d">%s</desc>`, p.id, html.EscapeString(p.title), p.id, html.EscapeString(p.description))
	for i, l := range p.lanes {
		l.draw(&b, first+i*laneHeight, float64(p.width)/float64(columns))
	}
	p.axis(&b, x, to, first, bottom)
	for _, m := range p.marks {
		from := x(m.from)
		wide := max(x(m.to)-from, 2)
		fmt.Fprintf(&b, `<g class="fault %s"><title>%s</title><rect class="band" x="%s" y="%d" width="%s" height="%d"/>`, m.class, html.EscapeString(m.text), px(from), top, px(wide), bottom-top)
		if back := x(m.back) - from; back > wide {
			fmt.Fprintf(&b, `<rect class="back" x="%s" y="%d" width="%s" height="%d"/>`, px(from), top+faultHeight/2-2, px(back), 4)
		}
		fmt.Fprintf(&b, `<rect class="bar" x="%s" y="%d" width="%s" height="%d"/></g>`, px(from), top, px(wide), faultHeight)
	}
	if rows > 0 || len(numbers) > 0 {
		fmt.Fprintf(&b, `<text x="0" y="%d">faults</text>`, top+faultHeight-1)
	}
	for _, n := range numbers {
		fmt.Fprintf(&b, `<text class="detail" x="%s" y="%d">%s</text>`, px(n.x), top-3, n.text)
	}
	for _, n := range names {
		fmt.Fprintf(&b, `<path class="lead" d="M%s %dV%d"/><text class="detail" x="%s" y="%d">%s</text>`, px(n.at), n.row*nameHeight+3, top-nameHeight+2, px(n.x), n.row*nameHeight+11, html.EscapeString(n.text))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // every text was escaped
}

type timeLabel struct {
	at, x float64 // of the fault, and of the beginning of the text
	row   int
	text  string
}

// labels places the numbers of the faults right above their bars, and their names above, where there is room. A name is in a row
// below which all rows are free, so that the line from it to its bar crosses no other name.
func (p *timePicture) labels(x func(float64) float64, right float64) (names, numbers []timeLabel, rows int) {
	if !p.names {
		return nil, nil, 0
	}
	place := func(at float64, text string) timeLabel {
		return timeLabel{at: at, x: max(0, min(at, right-float64(len(text))*characterWidth)), text: text}
	}
	var free [nameRows]float64
	end := 0.0
	for _, m := range slices.SortedStableFunc(slices.Values(p.marks), func(a, b timeMark) int { return cmp.Compare(a.from, b.from) }) {
		n := place(x(m.from), strconv.Itoa(m.number))
		if n.x < end {
			continue // the bar has a title, and the table has all names
		}
		end = n.x + float64(len(n.text))*characterWidth + 3
		numbers = append(numbers, n)
		n = place(n.at, m.name)
		for n.row = range nameRows {
			if slices.Max(free[n.row:]) <= n.x {
				free[n.row] = n.x + float64(len(n.text))*characterWidth + 8
				names, rows = append(names, n), max(rows, n.row+1)
				break
			}
		}
	}
	return names, numbers, rows
}

// draw draws what the clients of one kind experienced. wide is the width of a column, which is the unit of the paths.
func (l timeLane) draw(b *strings.Builder, y int, wide float64) {
	base := y + laneHeight - 3
	fmt.Fprintf(b, `<g><text class="lane" x="0" y="%d">%s</text>`, y+laneHeight/2+6, html.EscapeString(ui.Truncate(l.kind, 30)))
	var latencies, some, most, none strings.Builder
	high := 0 // of the column before
	end := func() {
		if high > 0 {
			fmt.Fprintf(&latencies, "V%dz", base)
		}
		high = 0
	}
	cellRuns(l.cells, func(c timeCell) int {
		if !c.known || c.ok == 0 {
			return 0
		}
		return int(math.Round(min(max(math.Log10(max(c.slowest, fastestLatency))/latencyDecades, 0), 1)*(latencyHeight-1))) + 1
	}, func(from, to, height int) {
		switch {
		case height == 0:
			end()
			return
		case high == 0:
			fmt.Fprintf(&latencies, "M%d %d", from, base)
		}
		fmt.Fprintf(&latencies, "v%dh%d", high-height, to-from)
		high = height
	})
	end()
	cellRuns(l.cells, func(c timeCell) int {
		switch {
		case !c.known:
			return -1
		case c.failed == 0:
			return 0
		}
		return 2 * max(1, int(math.Round(c.share*failureHeight/2)))
	}, func(from, to, height int) {
		out, y := &some, y+1+failureHeight
		switch {
		case height == 0:
			return
		case height < 0:
			out, y, height = &none, base, 3
		case height > failureHeight/2:
			out = &most
		}
		fmt.Fprintf(out, "M%d %dv-%dh%dv%dz", from, y, height, to-from, height)
	})
	for _, part := range []struct {
		class string
		path  *strings.Builder
	}{{"latency", &latencies}, {"none", &none}, {"some", &some}, {"most", &most}} {
		if part.path.Len() > 0 {
			fmt.Fprintf(b, `<path class="%s" transform="translate(%d)scale(%s 1)" d="%s"/>`, part.class, timeLabels, strconv.FormatFloat(wide, 'f', 4, 64), part.path)
		}
	}
	right := px(timeLabels + float64(len(l.cells))*wide)
	fmt.Fprintf(b, `<path class="base" d="M%d %dH%s"/><path class="second" d="M%d %dH%s"/></g>`, timeLabels, base, right, timeLabels, base-1-latencyHeight*3/4, right)
}

// cellRuns calls do for each interval of columns that are drawn alike.
func cellRuns(cells []timeCell, key func(timeCell) int, do func(from, to, key int)) {
	from := 0
	for i := range cells {
		if i+1 == len(cells) || key(cells[i+1]) != key(cells[from]) {
			do(from, i+1, key(cells[from]))
			from = i + 1
		}
	}
}

// axis draws at most about ten times.
func (p *timePicture) axis(b *strings.Builder, x func(float64) float64, to float64, first, bottom int) {
	step := 86400.0
	for _, s := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800} {
		if (to-float64(p.from))/s <= 10 {
			step = s
			break
		}
	}
	for k := math.Ceil((float64(p.from) - p.zero) / step); p.zero+k*step <= to; k++ {
		at := x(p.zero + k*step)
		text := px(k*step) + " s"
		switch {
		case step >= 1800:
			text = px(k*step/3600) + " h"
		case step >= 60:
			text = px(k*step/60) + " min"
		}
		anchor := ""
		if at > float64(timeLabels+p.width)-20 {
			anchor = ` text-anchor="end"`
		}
		fmt.Fprintf(b, `<path class="tick" d="M%s %dV%d"/><text class="detail" x="%s" y="%d"%s>%s</text>`, px(at), first, bottom+4, px(at), bottom+17, anchor, strings.Replace(text, "-", "−", 1))
	}
}

// htmlTimeInWords is the picture of the whole drill for those who do not see it.
func (r *Report) htmlTimeInWords(lanes []timeLane) string {
	text := ui.Plural(len(r.Faults), "fault") + " over time, and " + ui.Plural(len(lanes), "kind") + " of clients."
	var calm []string
	for _, l := range lanes {
		failed, columns := 0, 0
		for _, c := range l.cells {
			if failed += c.failed; c.failed > 0 {
				columns++
			}
		}
		if failed == 0 {
			calm = append(calm, l.kind)
			continue
		}
		text += fmt.Sprintf(" %s: %s failed, in %s of the picture.", l.kind, ui.Plural(failed, "request"), ui.Plural(columns, "column"))
	}
	if len(calm) > 0 {
		text += " Without a failure: " + strings.Join(calm, ", ") + "."
	}
	return text
}

// htmlLaneRow is an interval of a lane in the table with the data of the timeline: all of it, or one in which every column has failures.
type htmlLaneRow struct{ Kind, When, Requests, Failed, Slowest string }

// laneRows are the data of the timeline. A lane with many intervals of failures ends with the sum of the rest.
func laneRows(lanes []timeLane, from, size int64) (out []htmlLaneRow) {
	const most = 40
	at := func(column int) string { return time.Unix(from+int64(column)*size, 0).UTC().Format(htmlSecond) }
	for _, l := range lanes {
		row := func(when string, cells []timeCell) htmlLaneRow {
			var sum timeCell
			for _, c := range cells {
				sum.ok, sum.failed, sum.slowest = sum.ok+c.ok, sum.failed+c.failed, max(sum.slowest, c.slowest)
			}
			return htmlLaneRow{Kind: l.kind, When: when, Requests: page.Count(sum.ok + sum.failed), Failed: page.Count(sum.failed), Slowest: page.Milliseconds(sum.slowest)}
		}
		out = append(out, row("the whole drill", l.cells))
		n, rest, more := 0, []timeCell(nil), 0
		cellRuns(l.cells, func(c timeCell) int { return min(c.failed, 1) }, func(from, to, failed int) {
			if failed == 0 {
				return
			}
			if n++; n > most {
				rest, more = append(rest, l.cells[from:to]...), more+1
				return
			}
			out = append(out, row(at(from)+"–"+at(to), l.cells[from:to]))
		})
		if more > 0 {
			out = append(out, row(ui.Plural(more, "more interval"), rest))
		}
	}
	return out
}

// drawOutcome draws the time around one fault: the kinds of clients with failures, and those that waited longest.
func (r *Report) drawOutcome(row htmlRow, o Outcome) template.HTML {
	m := markOf(row.Number, o)
	from, to := int64(m.from)-5, int64(math.Ceil(min(m.back, m.to+closeAfter)))+10
	var samples []Sample
	for _, s := range r.Timeline {
		if s.Second >= from && s.Second < to {
			samples = append(samples, s)
		}
	}
	lanes, size := lanesOf(samples, from, to, htmlCloseColumns)
	if len(lanes) == 0 {
		return ""
	}
	if len(lanes) > htmlCloseLanes {
		worst := slices.SortedStableFunc(slices.Values(lanes), func(a, b timeLane) int {
			x, y := o.Clients[a.kind], o.Clients[b.kind]
			return cmp.Or(cmp.Compare(min(y.Failed, 1), min(x.Failed, 1)), cmp.Compare(y.GapMs, x.GapMs))
		})[:htmlCloseLanes]
		lanes = slices.DeleteFunc(lanes, func(l timeLane) bool {
			return !slices.ContainsFunc(worst, func(w timeLane) bool { return w.kind == l.kind })
		})
	}
	return drawTime(timePicture{
		id: fmt.Sprintf("close%d", row.Number), title: fmt.Sprintf("What clients experienced around fault %d, %s", row.Number, o.Name),
		description: "The kinds of clients that the fault hit worst. The table below has their figures.",
		width:       640, from: from, size: size, zero: m.from, lanes: lanes, marks: []timeMark{m},
	})
}
