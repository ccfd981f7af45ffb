package ui

import (
	"bytes"
	"fmt"
	"regexp"
)

// painter redraws rows in place. Between frames, the cursor is below the rows and everything that a frame switches off is on
// again, so that the terminal stays usable whenever the process dies, even by SIGKILL.
type painter struct {
	rows  []string
	width int // of the terminal when they were drawn
}

const (
	// Synchronized output: the terminal shows the frame when it is complete. Terminals that do not support it ignore it.
	beginFrame = "\x1b[?2026h\x1b[?25l"
	endFrame   = "\x1b[?25h\x1b[?2026l"
	// Without wrapping, a row whose width was misjudged loses its last cells and does not break the whole picture.
	noWrap, wrap = "\x1b[?7l", "\x1b[?7h"
)

// frame returns the bytes that put logs above the rows and the rows where the last ones were; nothing if nothing
// has changed. Rows must be narrower than the terminal.
func (p *painter) frame(logs, rows []string, width, height int) []byte {
	resized := p.width != 0 && p.width != width
	var b bytes.Buffer
	changed := resized || len(logs) > 0 || len(rows) != len(p.rows)
	b.WriteString(beginFrame + "\r")
	if up := p.height(width, height); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	if resized {
		b.WriteString("\x1b[J") // rows that the terminal has wrapped again have moved
	}
	for _, l := range logs {
		b.WriteString(l + "\x1b[K\r\n")
	}
	b.WriteString(noWrap)
	for i, r := range rows {
		if same := i < len(p.rows) && p.rows[i] == r && len(logs) == 0 && !resized; !same {
			b.WriteString(r + "\x1b[K")
			changed = true
		}
		b.WriteString("\r\n")
	}
	b.WriteString("\x1b[J" + wrap + endFrame)
	p.rows, p.width = rows, width
	if !changed {
		return nil
	}
	return b.Bytes()
}

// height is how far above the cursor the last frame begins: a terminal that has become narrower has wrapped its rows, and the
// cursor cannot move above the top of one that has become lower. A row that was wider than the terminal was cut.
func (p *painter) height(width, height int) (n int) {
	for _, r := range p.rows {
		n += 1 + max(min(visible(r), p.width)-1, 0)/max(width, 1)
	}
	return min(n, max(height-1, 0))
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// visible is the width of rendered text.
func visible(s string) int { return Cells(sgr.ReplaceAllString(s, "")) }
