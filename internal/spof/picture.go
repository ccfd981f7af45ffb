package spof

import (
	"fmt"
	"html"
	"strings"

	"quorate.dev/quorate/internal/faulttree"
)

// A tree is drawn from the left to the right: the capability, the gates below it, and the parts of the cluster. A part is one box that
// also names what the part fails with. A part that several gates need is drawn for each of them.

// drawn is one box of a picture.
type drawn struct {
	title, detail string
	class         string // gate, part, single, failed, or more
	inputs        []*drawn
	x, y          int
}

// The measures of a picture in pixels.
const (
	boxWidth, boxHeight = 264, 44
	columnGap, rowGap   = 46, 10
	// maxInputs is how many inputs of a gate are drawn: a gate of 200 workers says no more than one of a few.
	maxInputs = 8
	// titleRoom and detailRoom are how many characters fit into a box.
	titleRoom, detailRoom = 38, 46
)

// draw makes the boxes of a tree. single are the elements that take the top away alone.
func (m *model) draw(id faulttree.ID, single map[Element]bool) *drawn {
	n := m.tree.Node(id)
	title := m.titles[id]
	if causes, is := m.parts[id]; is {
		d := &drawn{title: title, class: "part"}
		if len(causes) > 1 {
			d.detail = "fails with " + strings.Join(words(causes[1:]), ", ")
		}
		for _, e := range causes {
			if single[e] {
				d.class = "single"
			}
		}
		if len(n.Inputs) == 1 && m.tree.Node(n.Inputs[0]).Kind == faulttree.Failed {
			d.class = "failed"
		}
		return d
	}
	switch n.Kind {
	case faulttree.Leaf:
		e := m.elements[n.Element]
		d := &drawn{title: e.String(), class: "part"}
		if single[e] {
			d.class = "single"
		}
		return d
	case faulttree.Failed:
		return &drawn{title: "is the case now", class: "failed"}
	}
	d := &drawn{title: title, class: "gate"}
	switch count := len(n.Inputs); {
	case n.K == 1 && count == 1:
	case n.K <= 1:
		d.detail = "if any of these fails"
	case n.K >= count:
		d.detail = fmt.Sprintf("if all %d of these fail", count)
	default:
		d.detail = fmt.Sprintf("if %d of these %d fail", n.K, count)
	}
	for i, in := range n.Inputs {
		if i == maxInputs-1 && len(n.Inputs) > maxInputs {
			d.inputs = append(d.inputs, &drawn{title: fmt.Sprintf("… and %d more", len(n.Inputs)-i), class: "more"})
			break
		}
		d.inputs = append(d.inputs, m.draw(in, single))
	}
	return d
}

// place gives every box its place, and returns the first free row.
func (d *drawn) place(column, row int) int {
	d.x = column * (boxWidth + columnGap)
	if len(d.inputs) == 0 {
		d.y = row * (boxHeight + rowGap)
		return row + 1
	}
	for _, in := range d.inputs {
		row = in.place(column+1, row)
	}
	d.y = (d.inputs[0].y + d.inputs[len(d.inputs)-1].y) / 2
	return row
}

func (d *drawn) each(f func(*drawn)) {
	f(d)
	for _, in := range d.inputs {
		in.each(f)
	}
}

// picture is the tree of a capability as an inline SVG. It needs the style sheet of the page.
func (m *model) picture(c capability, number int) string {
	single := map[Element]bool{}
	for _, set := range m.cuts(c.top, 1) {
		if len(set) == 1 && m.inherent(set[0], c.name) == "" {
			single[set[0]] = true
		}
	}
	top := m.draw(c.top, single)
	top.place(0, 0)
	width, height := 0, 0
	top.each(func(d *drawn) { width, height = max(width, d.x+boxWidth), max(height, d.y+boxHeight) })
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="t%d d%d" viewBox="-2 -2 %d %d" width="%d" height="%d">`, number, number, width+4, height+4, width+4, height+4)
	fmt.Fprintf(&b, `<title id="t%d">%s</title><desc id="d%d">%s</desc>`, number, html.EscapeString("Fault tree of "+c.name), number, html.EscapeString(top.sentence()))
	top.each(func(d *drawn) {
		for _, in := range d.inputs {
			x1, y1, x2, y2 := d.x+boxWidth, d.y+boxHeight/2, in.x, in.y+boxHeight/2
			fmt.Fprintf(&b, `<path class="edge" d="M%d %dH%dV%dH%d"/>`, x1, y1, x1+columnGap/2, y2, x2)
		}
	})
	top.each(func(d *drawn) {
		fmt.Fprintf(&b, `<g class="%s"><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="6"/>`, d.class, html.EscapeString(strings.TrimSpace(d.title+". "+d.detail)), d.x, d.y, boxWidth, boxHeight)
		mark := map[string]string{"single": "⚠ ", "failed": "✘ "}[d.class]
		if d.detail == "" {
			fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`, d.x+10, d.y+27, html.EscapeString(shorten(mark+d.title, titleRoom)))
		} else {
			fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><text class="detail" x="%d" y="%d">%s</text>`, d.x+10, d.y+19, html.EscapeString(shorten(mark+d.title, titleRoom)),
				d.x+10, d.y+35, html.EscapeString(shorten(d.detail, detailRoom)))
		}
		b.WriteString(`</g>`)
	})
	b.WriteString(`</svg>`)
	return b.String()
}

// sentence is the picture for those who do not see it.
func (d *drawn) sentence() string {
	text := strings.TrimSpace(d.title + " " + d.detail)
	if len(d.inputs) == 0 {
		return text
	}
	var parts []string
	for _, in := range d.inputs {
		parts = append(parts, in.sentence())
	}
	return text + ": (" + strings.Join(parts, "; ") + ")"
}

func shorten(text string, room int) string {
	r := []rune(text)
	if len(r) <= room {
		return text
	}
	return string(r[:room-1]) + "…"
}
