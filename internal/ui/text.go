package ui

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"
)

// Style is how a piece of text looks where color is allowed. Only the sixteen colors of the terminal's own theme are legible
// on every background.
type Style string

// The styles.
const (
	Plain  Style = ""
	Bold   Style = "1"
	Dim    Style = "2"
	Red    Style = "31"
	Green  Style = "32"
	Yellow Style = "33"
	Cyan   Style = "36"
)

// Span is text of one style.
type Span struct {
	Text  string
	Style Style
}

// Line is one line of text.
type Line []Span

// T makes a Line of one plain span.
func T(text string) Line { return Line{{Text: text}} }

// Width is the number of cells that the line takes.
func (l Line) Width() (n int) {
	for _, s := range l {
		n += Cells(s.Text)
	}
	return n
}

// Pad adds spaces up to the width.
func (l Line) Pad(width int) Line {
	if gap := width - l.Width(); gap > 0 {
		return append(l[:len(l):len(l)], Span{Text: strings.Repeat(" ", gap)})
	}
	return l
}

// Truncate cuts the line to at most width cells, the last of which is then an ellipsis.
func (l Line) Truncate(width int) Line {
	if l.Width() <= width {
		return l
	}
	var out Line
	for i, s := range l {
		w := Cells(s.Text)
		// The ellipsis needs a cell, unless nothing follows.
		if w < width || w == width && l[i+1:].Width() == 0 {
			out, width = append(out, s), width-w
			continue
		}
		return append(out, Span{Truncate(s.Text+"…", width), s.Style})
	}
	return out
}

// String renders the line with or without colors, without the padding at its end. Control characters are left out: much of what is shown was
// written by hosts, and a terminal would obey them.
func (l Line) String(color bool) string {
	var b strings.Builder
	end := len(l)
	for end > 0 && strings.TrimSpace(l[end-1].Text) == "" {
		end--
	}
	for i, s := range l[:end] {
		if i == end-1 {
			s.Text = strings.TrimRight(s.Text, " ")
		}
		s.Text = strings.Map(printable, s.Text)
		if color && s.Style != Plain {
			fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m", s.Style, s.Text)
		} else {
			b.WriteString(s.Text)
		}
	}
	return b.String()
}

// printable drops control characters, which take no cell, other than the two that only move on.
func printable(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return -1
	}
	return r
}

// widths does not look at the locale: with an East Asian one it would count the tree's own lines as two cells wide,
// which most terminals do not.
var widths = &runewidth.Condition{}

// Cells is the number of cells that the text takes.
func Cells(s string) int { return widths.StringWidth(s) }

// Truncate cuts text to at most width cells, the last of which is then an ellipsis.
func Truncate(s string, width int) string {
	if width <= 0 {
		return ""
	}
	return widths.Truncate(s, width, "…")
}

// Wrap breaks text into lines of at most width cells, between words where it can. Without a width it is one line.
func Wrap(s string, width int) []string {
	if width <= 0 {
		return []string{s}
	}
	var out []string
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "":
			line = word
		case Cells(line)+1+Cells(word) <= width:
			line += " " + word
		default:
			out, line = append(out, line), word
		}
		for Cells(line) > width {
			head := widths.Truncate(line, width, "")
			if head == "" { // not even one rune fits
				break
			}
			out, line = append(out, head), line[len(head):]
		}
	}
	return append(out, line)
}

// Duration writes a duration as short as is useful to people: 4.2s, 1m05s, 2h03m.
func Duration(d time.Duration) string {
	if t := d.Round(100 * time.Millisecond); t < time.Minute {
		return fmt.Sprintf("%.1fs", t.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// Bytes writes a size: 20.5 MiB.
func Bytes(n int64) string {
	f, unit := float64(n), 0
	for ; f >= 1024 && unit < 4; unit++ {
		f /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[unit-1])
}

// Plural writes a count with its noun: 1 zone, 2 zones.
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

var escape = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?`)

// clean turns text into one line without control sequences for the terminal.
func clean(s string) string {
	s = escape.ReplaceAllString(strings.ToValidUTF8(s, "?"), "")
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// cleanLines is clean for text of several lines; empty ones are dropped.
func cleanLines(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		if line = clean(line); line != "" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

func cut(b []byte) (line, rest []byte, found bool) { return bytes.Cut(b, []byte("\n")) }

var unquoted = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// Quote quotes a word for a shell.
func Quote(s string) string {
	if unquoted.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
