package ui

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// live is a view that somebody scrolls, pauses, and ends with keys. It is made again and again meanwhile.
type live struct {
	w     io.Writer
	every time.Duration
	size  func() (width, height int, err error)
	view  func(context.Context, io.Writer) error
	// restore makes the terminal what it was before keys were read from it.
	restore func()
	// resized says that the terminal has another size.
	resized <-chan os.Signal

	painter painter
	rows    []string // of the last view, without the row with the keys
	made    time.Time
	top     int // the first row that is shown
	paused  bool
}

// run shows the view until ctx ends, the view fails, or somebody ends it.
func (l *live) run(ctx context.Context, keys <-chan key) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // and with it, a view that is being made
	type view struct {
		rows []string
		err  error
	}
	views := make(chan view, 1)
	busy := false
	look := func() error {
		width, height, err := l.size()
		if err != nil || busy {
			return err
		}
		busy = true
		go func() { // keys are answered meanwhile
			defer func() {
				if p := recover(); p != nil { // nobody else does before the program ends
					l.restore()
					panic(p)
				}
			}()
			c := &canvas{width: width - 1, height: height}
			err := l.view(ctx, c)
			views <- view{strings.Split(strings.TrimRight(c.String(), "\n"), "\n"), err}
		}()
		return nil
	}
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	err := look()
	for err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if !l.paused {
				err = look()
			}
		case v := <-views:
			busy = false
			switch {
			case ctx.Err() != nil:
				return nil
			case v.err != nil:
				return v.err
			case !l.paused || l.made.IsZero(): // whoever pauses wants to see something
				l.rows, l.made = v.rows, time.Now()
				err = l.draw()
			}
		case <-l.resized:
			if !l.made.IsZero() {
				err = l.draw() // what fits of it
			}
			if err == nil && !l.paused {
				err = look()
			}
		case k, open := <-keys:
			switch {
			case !open:
				keys = nil // the terminal is gone, and the signal of that ends ctx
			case k == keyQuit:
				return nil
			case k == keyBack:
				l.painter = painter{} // below what was written meanwhile
				if !l.made.IsZero() {
					err = l.draw()
				}
			default:
				if now := l.press(k); now {
					err = look()
				}
				if err == nil && !l.made.IsZero() {
					err = l.draw()
				}
			}
		}
	}
	return err
}

// press does what a key says. It says whether the view is to be made now.
func (l *live) press(k key) (now bool) {
	_, height, err := l.size()
	if err != nil {
		height = 0
	}
	page := max(l.room(height)-1, 1)
	switch k {
	case keyPause:
		l.paused = !l.paused
		return !l.paused
	case keyNow:
		l.paused = false
		return true
	case keyUp:
		l.top--
	case keyDown:
		l.top++
	case keyPageUp:
		l.top -= page
	case keyPageDown:
		l.top += page
	case keyFirst:
		l.top = 0
	case keyLast:
		l.top = len(l.rows)
	}
	return false
}

// room is how many rows of the view fit: one is for the keys, and one is where the cursor rests.
func (l *live) room(height int) int { return max(height-2, 1) }

// draw shows the part of the view that fits.
func (l *live) draw() error {
	width, height, err := l.size()
	if err != nil {
		return err
	}
	room := l.room(height)
	l.top = max(min(l.top, len(l.rows)-room), 0)
	shown := l.rows[l.top:min(l.top+room, len(l.rows))]
	rows := append(shown[:len(shown):len(shown)], Line{{Text: l.keys(len(shown), width-1), Style: Dim}}.String(true))
	rows = rows[:min(len(rows), max(height-1, 1))] // a terminal of two rows has no room for the keys
	_, err = l.w.Write(l.painter.frame(nil, rows, width, height))
	return err
}

// keys is the last row: when the view was made, what part of it is shown, and which keys there are. Where that is too long, the key that ends the view stays.
func (l *live) keys(shown, width int) string {
	state, part, scroll, pause := "as of "+l.made.Format(time.TimeOnly), "", "", "space pause"
	if l.paused {
		state, pause = state+", paused", "space go on"
	}
	if shown < len(l.rows) {
		part, scroll = fmt.Sprintf("; rows %d to %d of %d", l.top+1, l.top+shown, len(l.rows)), ", ↑ ↓ scroll"
	}
	const now, quit = ", r now", "q quit"
	for _, text := range []string{
		state + part + scroll + "; " + pause + now + ", " + quit,
		state + part + "; " + pause + now + ", " + quit,
		state + "; " + pause + ", " + quit,
		state + "; " + quit,
	} {
		if Cells(text) <= width {
			return text
		}
	}
	return Truncate(quit, width)
}
