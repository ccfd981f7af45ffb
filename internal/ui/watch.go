package ui

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Watch shows what view writes, again and again until ctx ends or view fails: in place on a terminal, one text after
// the other elsewhere. view writes to the writer that it is given, which [Width] and [Color] know. The end of
// ctx is no error: it is how a watch ends.
//
// If in is a terminal as well, keys scroll the view, pause it, and end it; the last row says which.
func Watch(ctx context.Context, in io.Reader, w io.Writer, every time.Duration, view func(context.Context, io.Writer) error) error {
	size := liveSize(w)
	if size != nil {
		reading, cancel := context.WithCancel(ctx)
		defer cancel()
		keys, restore := readKeys(reading, in)
		defer restore()
		if keys != nil {
			resized := make(chan os.Signal, 1)
			signal.Notify(resized, unix.SIGWINCH)
			defer signal.Stop(resized)
			l := &live{w: w, every: every, size: size, view: view, restore: restore, resized: resized}
			return l.run(ctx, keys)
		}
	}
	return watch(ctx, w, every, size, view)
}

// canvas stands for a terminal while the text for it is made. It is one column narrower, because terminals differ in where a
// row that fills the last column leaves the cursor.
type canvas struct {
	bytes.Buffer
	width, height int
}

func watch(ctx context.Context, w io.Writer, every time.Duration, size func() (int, int, error), view func(context.Context, io.Writer) error) error {
	var p painter
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		var out bytes.Buffer
		var err error
		if size == nil {
			err = view(ctx, &out)
		} else {
			var width, height int
			if width, height, err = size(); err != nil {
				return err
			}
			c := &canvas{width: width - 1, height: height}
			err = view(ctx, c)
			rows := strings.Split(strings.TrimRight(c.String(), "\n"), "\n")
			out.Write(p.frame(nil, clip(rows, height-1), width, height))
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(out.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// clip keeps what fits the screen, and indicates that there is more.
func clip(rows []string, room int) []string {
	if room = max(room, 1); len(rows) <= room {
		return rows
	}
	return append(rows[:room-1], "… "+Plural(len(rows)-room+1, "more line"))
}
