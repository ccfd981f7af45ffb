package ui

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// screen is a small terminal: enough of one to see what a user would.
type screen struct {
	mu            sync.Mutex
	width, height int
	cells         [][]rune // the scrolled-off rows first, then the visible ones
	top, row, col int      // the first visible row; the cursor in cells
	noWrap        bool
	hidden        bool
	writes        int
}

func newScreen(width, height int) *screen { return &screen{width: width, height: height} }

func (s *screen) size() (int, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.width, s.height, nil
}

// resize wraps rows that have become too long anew, as terminals do.
func (s *screen) resize(width, height int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, cursor := s.cells, s.row
	s.width, s.height, s.cells, s.row, s.top = width, height, nil, 0, 0
	for i, line := range old {
		if i == cursor {
			s.row = len(s.cells)
		}
		for len(line) > width {
			s.cells, line = append(s.cells, line[:width]), line[width:]
		}
		s.cells = append(s.cells, line)
	}
	s.scroll()
}

var control = regexp.MustCompile(`^\x1b\[(\??)(\d*)(?:;\d+)*([A-Za-z])`)

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	for text := string(b); text != ""; {
		if m := control.FindStringSubmatch(text); m != nil {
			s.control(m[1] == "?", m[2], m[3])
			text = text[len(m[0]):]
			continue
		}
		r, n := utf8.DecodeRuneInString(text)
		text = text[n:]
		switch r {
		case '\r':
			s.col = 0
		case '\n':
			s.row++
			s.scroll()
		case '\x1b':
			panic(fmt.Sprintf("the terminal does not know %q", text[:min(len(text), 10)]))
		default:
			s.put(r)
		}
	}
	return len(b), nil
}

func (s *screen) control(private bool, arg, final string) {
	n := 0
	fmt.Sscan(arg, &n)
	switch {
	case private && n == 7:
		s.noWrap = final == "l"
	case private && n == 25:
		s.hidden = final == "l"
	case private || final == "m":
	case final == "A":
		s.row = max(s.row-n, s.top)
	case final == "K":
		s.line()
		s.cells[s.row] = s.cells[s.row][:min(s.col, len(s.cells[s.row]))]
	case final == "J":
		s.line()
		s.cells[s.row] = s.cells[s.row][:min(s.col, len(s.cells[s.row]))]
		s.cells = s.cells[:s.row+1]
	default:
		panic("the terminal does not know " + arg + final)
	}
}

func (s *screen) put(r rune) {
	w := Cells(string(r))
	if s.col+w > s.width {
		if s.noWrap {
			return
		}
		s.row, s.col = s.row+1, 0
		s.scroll()
	}
	s.line()
	for len(s.cells[s.row]) < s.col+w {
		s.cells[s.row] = append(s.cells[s.row], ' ')
	}
	s.cells[s.row][s.col] = r
	for i := 1; i < w; i++ {
		s.cells[s.row][s.col+i] = 0 // the second half of a wide rune
	}
	s.col += w
}

func (s *screen) line() {
	for len(s.cells) <= s.row {
		s.cells = append(s.cells, nil)
	}
}

func (s *screen) scroll() { s.top = max(s.top, s.row-s.height+1, 0) }

// String is everything that was ever shown, scrolled off or not, and where the cursor rests.
func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, line := range s.cells {
		b.WriteString(strings.TrimRight(strings.ReplaceAll(string(line), "\x00", ""), " ") + "\n")
	}
	if s.hidden || s.noWrap || s.col != 0 || s.row != strings.Count(strings.TrimRight(b.String(), "\n"), "\n")+1 {
		fmt.Fprintf(&b, "THE CURSOR IS AT %d,%d, hidden %t, no wrap %t\n", s.row, s.col, s.hidden, s.noWrap)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
