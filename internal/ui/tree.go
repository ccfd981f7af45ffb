package ui

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/progress"
)

const (
	frameEvery = 100 * time.Millisecond
	// settledAfter is how long a host must be idle before it is collapsed: most idle hosts are between two steps.
	settledAfter = time.Second
	// errorRows is how much of an error the live tree shows; the last frame has all of it.
	errorRows = 3
	// timeWidth is the column of elapsed times with the gap before it.
	timeWidth = 9
)

// tree draws hosts as branches and their steps as leaves.
type tree struct {
	*model
	paint         painter
	verbose       bool
	size          func() (width, height int, err error)
	glyphs        glyphs
	logs          []string
	frames        int
	level         level // never decreases before a resize: a tree that keeps collapsing and expanding cannot be read
	column        int   // where times begin, for the same reason
	width, height int
}

type glyphs struct {
	spinner                   []string
	done, failed, interrupted string
	tee, corner, rail         string
}

var unicodeGlyphs = glyphs{
	spinner: []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"},
	done:    "✔", failed: "✘", interrupted: "–", tee: "├─", corner: "╰─", rail: "│ ",
}

// The console's own font has few glyphs.
var consoleGlyphs = glyphs{
	spinner: []string{"|", "/", "-", "\\"},
	done:    "+", failed: "x", interrupted: "-", tee: "├─", corner: "└─", rail: "│ ",
}

func newTree(opts Options, now time.Time) *tree {
	t := &tree{model: newModel(now), verbose: opts.Verbose, size: opts.size, glyphs: unicodeGlyphs}
	if os.Getenv("TERM") == "linux" {
		t.glyphs = consoleGlyphs
	}
	return t
}

func (*tree) pace() (time.Duration, bool) { return frameEvery, false }

func (t *tree) log(_ time.Time, line string) { t.logs = append(t.logs, clean(line)) }

func (t *tree) event(now time.Time, e progress.Event) {
	if t.model.event(now, e) == nil {
		t.log(now, noteLine(e))
	}
}

func (t *tree) render(now time.Time, final bool) []byte {
	width, height, err := t.size()
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	if width != t.width || height != t.height {
		t.width, t.height, t.level, t.column = width, height, 0, 0
	}
	t.frames++
	logs := t.logs
	t.logs = nil
	return t.paint.frame(logs, t.draw(t.layout(now, final)), width, height)
}

// level is how much of the tree is collapsed so that it fits the screen.
type level int

const (
	unfolded   level = iota
	callerDone       // the caller's finished steps share one row
	hostsDone        // the finished steps of a busy host are a number next to its name
	settled          // hosts without work share one row
	single           // running steps are next to their host's name
)

// row is one row before its columns are aligned.
type row struct {
	left        Line
	time        string
	detail      string
	detailStyle Style
	rank        rank
}

// rank is which rows are dropped first if even the collapsed tree is too high.
type rank int

const (
	bad rank = iota
	busy
	idle
)

// layout is the least collapsed tree that fits.
func (t *tree) layout(now time.Time, final bool) []row {
	if final {
		if t.verbose || t.branches[0].count(done) <= 6 {
			return t.rows(now, unfolded, true)
		}
		return t.rows(now, callerDone, true)
	}
	room := max(t.height-2, 0) // one for the summary, one for the cursor
	rows := t.rows(now, t.level, false)
	for len(rows) > room && t.level < single {
		t.level++
		rows = t.rows(now, t.level, false)
	}
	summed := len(rows) > 0 && t.height > 1
	if rows = crop(rows, room); summed {
		rows = append(rows, row{left: Line{{"  " + t.summary(now), Dim}}, rank: idle})
	}
	return rows
}

// crop keeps the most important rows, in their order, and counts the others.
func crop(rows []row, room int) []row {
	if len(rows) <= room {
		return rows
	}
	if room == 0 {
		return nil
	}
	order := make([]int, len(rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(rows[a].rank - rows[b].rank) })
	keep := order[:room-1]
	slices.Sort(keep)
	var out []row
	for _, i := range keep {
		out = append(out, rows[i])
	}
	return append(out, row{left: Line{{fmt.Sprintf("  … %d more", len(rows)-len(keep)), Dim}}, rank: idle})
}

func (t *tree) summary(now time.Time) string {
	var n [3]int
	for _, b := range t.branches {
		for s := range n {
			n[s] += b.count(state(s))
		}
	}
	out := fmt.Sprintf("%s · %d done · %d running", Duration(now.Sub(t.begin)), n[done], n[running])
	if n[failed] > 0 {
		out += fmt.Sprintf(" · %d failed", n[failed])
	}
	return out
}

func (t *tree) rows(now time.Time, lv level, final bool) []row {
	out := t.caller(now, lv, final)
	var folded []string
	for _, b := range t.branches[1:] {
		quiet := b.count(running)+b.count(failed) == 0 && (final || now.Sub(b.ended) >= settledAfter)
		switch {
		case !quiet || t.verbose && lv == unfolded:
			out = append(out, t.host(b, now, lv, final)...)
		case lv >= settled:
			folded = append(folded, b.host)
		default:
			out = append(out, row{left: Line{{t.glyphs.done, Green}, {" " + b.host, Bold}}, time: Duration(b.worked()),
				detail: Plural(len(b.steps), "step"), detailStyle: Dim, rank: idle})
		}
	}
	if len(folded) > 0 {
		out = append(out, row{left: Line{{t.glyphs.done, Green}, {" " + strings.Join(folded, ", "), Plain}}, rank: idle})
	}
	return out
}

func (t *tree) caller(now time.Time, lv level, final bool) []row {
	b := t.branches[0]
	var out []row
	if n := b.count(done); lv >= callerDone && n > 1 {
		out = append(out, row{left: Line{{t.glyphs.done, Green}, {" " + Plural(n, "step"), Plain}}, time: Duration(b.worked()), rank: idle})
	} else {
		lv = unfolded
	}
	for _, s := range b.steps {
		if lv == unfolded || s.state != done {
			out = append(out, t.step(s, nil, "  ", now, final)...)
		}
	}
	return out
}

func (t *tree) host(b *branch, now time.Time, lv level, final bool) []row {
	head := row{left: Line{{"  ", Plain}, {b.host, Bold}}, rank: busy}
	if b.count(failed) > 0 {
		head.left, head.rank = Line{{t.glyphs.failed + " ", Red}, {b.host, Bold}}, bad
	}
	shown := b.steps
	if n := b.count(done); lv >= hostsDone && n > 0 {
		head.left = append(head.left, Span{fmt.Sprintf("  %d done", n), Dim})
		shown = slices.DeleteFunc(slices.Clone(shown), func(s *step) bool { return s.state == done })
	}
	var out []row
	if lv >= single && len(shown) == b.count(running) && len(shown) > 0 {
		for _, s := range shown {
			out = append(out, t.step(s, Line{{b.host, Bold}}.Pad(t.longest()+2), "", now, final)...)
		}
		return out
	}
	out = append(out, head)
	for i, s := range shown {
		fork, rail := t.glyphs.tee, t.glyphs.rail
		if i == len(shown)-1 {
			fork, rail = t.glyphs.corner, "  "
		}
		rows := t.step(s, nil, "  "+rail+"   ", now, final)
		rows[0].left = append(Line{{"  " + fork + " ", Dim}}, rows[0].left...)
		out = append(out, rows...)
	}
	return out
}

func (t *tree) longest() (n int) {
	for _, b := range t.branches {
		n = max(n, Cells(b.host))
	}
	return n
}

// step is the row of a step and, if it has failed, of its error.
func (t *tree) step(s *step, who Line, indent string, now time.Time, final bool) []row {
	r := row{time: Duration(s.age(now)), detail: s.detail, detailStyle: Dim}
	var glyph Span
	title := Span{Text: s.title}
	switch {
	case s.state == failed:
		glyph, title.Style, r.rank = Span{t.glyphs.failed, Red}, Red, bad
	case s.state == done:
		glyph, r.rank = Span{t.glyphs.done, Green}, idle
		if !t.verbose {
			r.detail = "" // its progress no longer matters
		}
	case final:
		glyph, r.detail, r.detailStyle = Span{t.glyphs.interrupted, Yellow}, "interrupted", Yellow
	default:
		glyph, r.rank = Span{t.glyphs.spinner[t.frames%len(t.glyphs.spinner)], Cyan}, busy
	}
	r.left = append(append(Line{glyph, {Text: " "}}, who...), title)
	out := []row{r}
	if s.err == "" {
		return out
	}
	var text []string
	for l := range strings.SplitSeq(s.err, "\n") {
		text = append(text, Wrap(l, t.width-1-Cells(indent))...)
	}
	if len(text) > errorRows && !final && !t.verbose {
		text = append(text[:errorRows-1], text[errorRows-1]+" …")
	}
	for _, l := range text {
		out = append(out, row{left: Line{{indent, Dim}, {l, Red}}, rank: bad})
	}
	return out
}

// draw aligns the columns. Titles are cut in favor of times, and details in favor of both.
func (t *tree) draw(rows []row) []string {
	limit := t.width - 1
	for _, r := range rows {
		if r.time != "" {
			t.column = max(t.column, r.left.Width())
		}
	}
	t.column = min(t.column, max(limit-timeWidth, 1))
	if limit >= 60 {
		t.column = min(t.column, limit*2/3)
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		l := r.left
		if r.time != "" {
			l = append(l.Truncate(t.column).Pad(t.column), Span{fmt.Sprintf("%*s", timeWidth, r.time), Dim})
		}
		if left := limit - l.Width() - 2; r.detail != "" && left >= 6 {
			l = append(l, Span{Text: "  "}, Span{Truncate(r.detail, left), r.detailStyle})
		}
		out[i] = l.Truncate(limit).String(true)
	}
	return out
}
