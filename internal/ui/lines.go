package ui

import (
	"fmt"
	"strings"
	"time"

	"quorate.dev/quorate/internal/progress"
)

// How often plain lines report a step that takes long. A shorter step gets one line, when it ends.
const (
	announceAfter = 2 * time.Second
	noteEvery     = 5 * time.Second
	aliveEvery    = time.Minute
)

// lines shows progress in a log. Lines cannot be taken back, so there are few.
type lines struct {
	*model
	verbose bool
	out     strings.Builder
	column  int // width of the hosts' names
	said    map[*step]said
}

type said struct {
	at     time.Time
	detail string
}

func newLines(verbose bool, now time.Time) *lines {
	return &lines{model: newModel(now), verbose: verbose, column: 6, said: map[*step]said{}}
}

func (*lines) pace() (time.Duration, bool) { return time.Second, true }

func (v *lines) log(now time.Time, line string) { v.print(now, "", clean(line)) }

func (v *lines) event(now time.Time, e progress.Event) {
	s := v.model.event(now, e)
	switch {
	case s == nil:
		v.log(now, noteLine(e))
	case s.state == running:
		if e.Kind == progress.Start && v.verbose {
			v.say(now, s, "")
		}
	case s.state == done:
		v.print(now, s.host, fmt.Sprintf("%s … done %s", s.title, Duration(s.elapsed)))
	case s.state == failed:
		first, rest, more := strings.Cut(s.err, "\n")
		v.print(now, s.host, fmt.Sprintf("%s … failed after %s: %s", s.title, Duration(s.elapsed), first))
		if more {
			indent := strings.Repeat(" ", 9+v.column+2)
			v.out.WriteString(indent + strings.ReplaceAll(rest, "\n", "\n"+indent) + "\n")
		}
	}
}

func (v *lines) render(now time.Time, final bool) []byte {
	pause := noteEvery
	if v.verbose {
		pause = time.Second
	}
	for _, b := range v.branches {
		for _, s := range b.steps {
			if s.state != running || final {
				continue
			}
			last, known := v.said[s]
			switch since := now.Sub(last.at); {
			case !known:
				if s.age(now) >= announceAfter {
					v.say(now, s, s.detail)
				}
			case s.detail != last.detail && since >= pause:
				v.say(now, s, s.detail)
			case since >= aliveEvery:
				v.say(now, s, "still running after "+Duration(s.age(now)))
			}
		}
	}
	out := v.out.String()
	v.out.Reset()
	return []byte(out)
}

func (v *lines) say(now time.Time, s *step, what string) {
	v.said[s] = said{now, s.detail}
	if what != "" {
		what = " " + what
	}
	v.print(now, s.host, s.title+" …"+what)
}

func (v *lines) print(now time.Time, host, text string) {
	v.column = max(v.column, Cells(host))
	fmt.Fprintf(&v.out, "%7s  %s%s  %s\n", Duration(now.Sub(v.begin)), host, strings.Repeat(" ", v.column-Cells(host)), text)
}
