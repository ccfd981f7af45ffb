package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/progress"
)

// seconds of fake time.
func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

type job struct {
	host, title string
	begin, end  float64
	err         string
}

// cluster is a build on seven hosts: what is done before its host is missing.
var cluster = func() (out []job) {
	out = []job{{"", "base image (Debian bookworm)", 0, 3, ""}, {"", "switches and keys", 3, 3.4, ""}}
	for i, h := range []string{"cp-a", "cp-b", "cp-c", "w-a", "w-b"} {
		d := float64(i) / 10
		out = append(out, job{h, "boot", 3.4, 5 + d, ""}, job{h, "install v1.37.2", 5 + d, 7 + d, ""},
			job{h, "configure the node", 7 + d, 8 + d, ""}, job{h, "import the images", 7 + d, 10 + d, ""})
		last := job{h, "join as a worker", 12, 16 + d, ""}
		if strings.HasPrefix(h, "cp") {
			last = job{h, "start the control plane", 10 + d, 14 + d, ""}
		}
		if h == "cp-b" {
			last.err = "cp-b: kubeadm: exit status 1: the kubelet did not become healthy; its log ends with\n\x1b[31mrunning with swap on is not supported\x1b[0m\r\n\tplease\tdisable swap"
		}
		out = append(out, last)
	}
	for _, h := range []string{"lb-a", "lb-b"} {
		out = append(out, job{h, "boot", 3.4, 5, ""}, job{h, "configure the load balancer", 5, 7, ""})
	}
	return append(out, job{"", "verify the whole cluster", 17, 19, ""})
}()

// play runs the jobs in fake time, with a note every second.
func play(sink progress.Sink, jobs []job) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, j := range jobs {
		wg.Go(func() {
			// A little after the frames, and each at a moment of its own, so that their order is certain.
			time.Sleep(seconds(j.begin) + time.Millisecond + time.Duration(i)*time.Microsecond)
			id := j.host + "/" + j.title
			progress.Track(context.Background(), sink, j.host, id, j.title, func(context.Context) error {
				end := time.After(seconds(j.end - j.begin))
				tick := time.NewTicker(seconds(0.99))
				defer tick.Stop()
				for n := 1; ; n++ {
					select {
					case <-tick.C:
						sink.Emit(progress.Event{Kind: progress.Note, Host: j.host, ID: id, Detail: fmt.Sprintf("blob %d of 9, 日本語のとても長い説明文です", n)})
					case <-end:
						if j.err != "" {
							return errors.New(j.err)
						}
						return nil
					}
				}
			})
		})
	}
}

func TestTree(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		verbose       bool
		at            []float64
	}{
		{"tree-wide", 100, 50, false, []float64{0.55, 6.25, 15.05}},
		{"tree-verbose", 100, 50, true, []float64{9.05}},
		{"tree-80x24", 80, 24, false, []float64{4.05, 9.05, 15.05}},
		{"tree-low", 80, 12, false, []float64{4.05, 9.05, 15.05, 18.05}},
		{"tree-tiny", 28, 6, false, []float64{9.05, 15.05}},
		{"tree-one-row", 12, 2, false, []float64{9.05}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("TERM", "xterm")
			synctest.Test(t, func(t *testing.T) {
				s := newScreen(c.width, c.height)
				p, done := NewProgress(s, Options{Verbose: c.verbose, size: s.size})
				var wg sync.WaitGroup
				wg.Go(func() { play(p, cluster) })
				begin := time.Now()
				var out strings.Builder
				for _, at := range c.at {
					time.Sleep(time.Until(begin.Add(seconds(at))))
					synctest.Wait()
					fmt.Fprintf(&out, "── after %.1f s\n%s", at, s)
				}
				wg.Wait()
				done()
				fmt.Fprintf(&out, "── at the end\n%s", s)
				golden.Compare(t, c.name+".golden", out.String())
				if limit := int(time.Since(begin)/frameEvery) + 2; s.writes > limit {
					t.Errorf("%d writes are more than %d, one for each frame", s.writes, limit)
				}
			})
		})
	}
}

func TestTreeInterrupted(t *testing.T) {
	t.Setenv("TERM", "linux")
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(60, 20)
		p, done := NewProgress(s, Options{size: s.size})
		p.Emit(progress.Event{Kind: progress.Start, Host: "cp-a", ID: "x", Title: "boot"})
		time.Sleep(seconds(1.25))
		done()
		done()
		p.Emit(progress.Event{Kind: progress.Start, ID: "late", Title: "too late"})
		fmt.Fprint(p, "after the end\r\n")
		golden.Compare(t, "tree-interrupted.golden", s.String())
	})
}

func TestLogsAppearAboveTheTree(t *testing.T) {
	t.Setenv("TERM", "xterm")
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(40, 6)
		p, done := NewProgress(s, Options{size: s.size})
		p.Emit(progress.Event{Kind: progress.Start, ID: "a", Title: "first"})
		for i := range 8 {
			time.Sleep(seconds(0.2))
			fmt.Fprintf(p, "log %d", i)
			time.Sleep(seconds(0.2))
			fmt.Fprint(p, " ends\n")
		}
		p.Emit(progress.Event{Kind: progress.Note, Host: "cp-a", ID: "unknown", Title: "was left half-made", Detail: "making it anew, which takes some time"})
		time.Sleep(seconds(0.2))
		p.Emit(progress.Event{Kind: progress.Done, ID: "a"})
		fmt.Fprint(p, "never ended")
		done()
		golden.Compare(t, "tree-logs.golden", s.String())
	})
}

func TestResize(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, to := range [][2]int{{20, 30}, {100, 30}, {60, 40}} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScreen(60, 30)
				p, done := NewProgress(s, Options{size: s.size})
				for _, id := range []string{"first", "second", "third"} {
					p.Emit(progress.Event{Kind: progress.Start, Host: "cp-a", ID: id, Title: "the " + id + " of a few steps"})
					p.Emit(progress.Event{Kind: progress.Note, Host: "cp-a", ID: id, Detail: "a detail that fills the whole row of the terminal"})
				}
				time.Sleep(seconds(0.25))
				s.resize(to[0], to[1])
				time.Sleep(seconds(0.2))
				for row := range strings.Lines(s.String()) {
					if w := Cells(strings.TrimRight(row, "\n")); w >= to[0] {
						t.Errorf("a row has %d cells of %d: %q", w, to[0], row)
					}
				}
				if n := strings.Count(s.String(), "cp-a"); n != 1 {
					t.Errorf("the host is there %d times:\n%s", n, s)
				}
				done()
			})
		})
	}
}

func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	t.Setenv("TERM", "xterm")
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(60, 30)
		_, done := NewProgress(s, Options{size: s.size})
		time.Sleep(time.Minute)
		done()
		if s.writes > 0 {
			t.Errorf("%d writes without any event", s.writes)
		}
	})
}

func TestLines(t *testing.T) {
	for name, verbose := range map[string]bool{"lines": false, "lines-verbose": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p, done := NewProgress(&out, Options{Verbose: verbose})
				play(p, []job{
					{"", "short", 0, 0.5, ""},
					{"cp-a", "long", 0.1, 14.2, ""},
					{"a-host-with-a-long-name", "fails", 3, 9, "exit status 1\nwith a \x1b]0;title\x07second line\n\n"},
				})
				p.Emit(progress.Event{Kind: progress.Start, Host: "w-a", ID: "silent", Title: "silent"})
				p.Emit(progress.Event{Kind: progress.Note, ID: "other", Title: "waiting: another quorate is building"})
				time.Sleep(150 * time.Second)
				fmt.Fprint(p, "a log line\n")
				done()
				golden.Compare(t, name+".golden", out.String())
			})
		})
	}
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p, done := NewProgress(&out, Options{JSON: true})
		play(p, []job{{"cp-a", "boot", 0, 1.5, "no\npower"}})
		fmt.Fprint(p, "a log line\n")
		done()
		var kinds []progress.Kind
		for line := range strings.Lines(out.String()) {
			var e progress.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Time.IsZero() {
				t.Errorf("%s has no time", line)
			}
			kinds = append(kinds, e.Kind)
		}
		if got, want := fmt.Sprint(kinds), "[start note fail note]"; got != want {
			t.Errorf("got %s, want %s:\n%s", got, want, &out)
		}
	})
}

// TestManyAtOnce is for the race detector.
func TestManyAtOnce(t *testing.T) {
	t.Setenv("TERM", "xterm")
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(80, 24)
		p, done := NewProgress(s, Options{size: s.size})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				host := fmt.Sprint("host-", i%10)
				progress.Track(t.Context(), p, host, fmt.Sprint(i), "work", func(context.Context) error {
					time.Sleep(seconds(float64(i) / 10))
					fmt.Fprintln(p, "log of", i)
					return nil
				})
			})
		}
		wg.Wait()
		done()
	})
}

func TestWatch(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(40, 5)
		ctx, cancel := context.WithTimeout(t.Context(), seconds(5))
		defer cancel()
		n := 0
		err := watch(ctx, s, 2*time.Second, s.size, func(_ context.Context, w io.Writer) error {
			n++
			fmt.Fprintf(w, "view %d of width %d, colour %t\n%s", n, Width(w), Color(w), strings.Repeat("row\n", 6-n))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := s.String(), "view 3 of width 39, colour true\nrow\nrow\nrow\n"; got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
	var out bytes.Buffer
	failure := errors.New("no such cluster")
	err := Watch(t.Context(), strings.NewReader("q"), &out, time.Second, func(_ context.Context, w io.Writer) error {
		if Width(w) != 0 || Color(w) {
			t.Errorf("a buffer has width %d, colour %t", Width(w), Color(w))
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
}

// TestLive: keys scroll a view, stop it, and end it, while it is made again and again.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(100, 6)
		n := 0
		l := &live{w: s, every: 2 * time.Second, size: s.size, restore: func() {}, view: func(_ context.Context, w io.Writer) error {
			n++
			for i := range 9 {
				fmt.Fprintf(w, "view %d row %d\n", n, i+1)
			}
			return nil
		}}
		keys, ended := make(chan key), make(chan error, 1)
		go func() { ended <- l.run(t.Context(), keys) }()
		shows := func(view, first int, paused, pause string) {
			t.Helper()
			synctest.Wait()
			var want strings.Builder
			for row := first; row < first+4; row++ {
				fmt.Fprintf(&want, "view %d row %d\n", view, row)
			}
			fmt.Fprintf(&want, "as of %s%s; rows %d to %d of 9, ↑ ↓ scroll; space %s, r now, q quit\n", l.made.Format(time.TimeOnly), paused, first, first+3, pause)
			if got := s.String(); got != want.String() {
				t.Errorf("got\n%swant\n%s", got, want.String())
			}
		}
		shows(1, 1, "", "pause")
		keys <- keyUp
		shows(1, 1, "", "pause")
		keys <- keyDown
		shows(1, 2, "", "pause")
		keys <- keyPageDown
		shows(1, 5, "", "pause")
		keys <- keyLast
		shows(1, 6, "", "pause")
		keys <- keyPause
		time.Sleep(seconds(5))
		shows(1, 6, ", paused", "go on")
		keys <- keyPause
		shows(2, 6, "", "pause")
		keys <- keyFirst
		shows(2, 1, "", "pause")
		time.Sleep(seconds(2))
		shows(3, 1, "", "pause")
		keys <- keyNow
		shows(4, 1, "", "pause")
		keys <- keyQuit
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestPausedAtOnce: whoever pauses before the first view is made sees that one.
func TestPausedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(100, 6)
		l := &live{w: s, every: 2 * time.Second, size: s.size, restore: func() {}, view: func(_ context.Context, w io.Writer) error {
			time.Sleep(time.Second)
			fmt.Fprintln(w, "the view")
			return nil
		}}
		keys, ended := make(chan key), make(chan error, 1)
		go func() { ended <- l.run(t.Context(), keys) }()
		keys <- keyPause
		time.Sleep(seconds(5))
		synctest.Wait()
		if got := s.String(); !strings.HasPrefix(got, "the view\n") || !strings.Contains(got, ", paused") {
			t.Errorf("got\n%s", got)
		}
		keys <- keyBack // as after Ctrl-Z: what was shown stays, and the view is drawn again below
		synctest.Wait()
		if got := s.String(); strings.Count(got, "the view\n") != 2 {
			t.Errorf("got\n%s", got)
		}
		keys <- keyQuit
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestResizedWhilePaused: a terminal that has become narrower shows what fits of the view that was made for the wider one, and nothing that was above it
// is lost. A view that is not paused is made again.
func TestResizedWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(100, 20)
		fmt.Fprint(s, "$ quorate status --watch\r\n")
		n := 0
		resized := make(chan os.Signal)
		l := &live{w: s, every: time.Hour, size: s.size, restore: func() {}, resized: resized, view: func(_ context.Context, w io.Writer) error {
			n++
			for range 3 {
				fmt.Fprintln(w, n, strings.Repeat("x", Width(w)-3))
			}
			return nil
		}}
		keys, ended := make(chan key), make(chan error, 1)
		go func() { ended <- l.run(t.Context(), keys) }()
		shows := func(what string, view, width int) {
			t.Helper()
			synctest.Wait()
			lines := strings.Split(strings.TrimSuffix(s.String(), "\n"), "\n")
			if len(lines) != 5 || lines[0] != "$ quorate status --watch" || !strings.HasSuffix(lines[4], "q quit") {
				t.Fatalf("%s:\n%s", what, s)
			}
			for _, line := range lines[1:4] {
				if !strings.HasPrefix(line, fmt.Sprint(view, " xxx")) || Cells(line) > width {
					t.Fatalf("%s:\n%s", what, s)
				}
			}
		}
		shows("before", 1, 100)
		keys <- keyPause
		s.resize(50, 20)
		resized <- unix.SIGWINCH
		shows("resized", 1, 50)
		for range 3 {
			keys <- keyDown
			shows("a key", 1, 50)
		}
		keys <- keyPause
		shows("not paused", 2, 50)
		s.resize(40, 20)
		resized <- unix.SIGWINCH
		shows("resized again", 3, 40)
		keys <- keyQuit
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLiveOnTinyTerminals: a view never scrolls the terminal, and whoever watches sees how to end it, if one row is left for that.
func TestLiveOnTinyTerminals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for height, want := range map[int][]string{2: {"row 1 of 9"}, 3: {"row 1 of 9", "q quit"}, 4: {"row 1 of 9", "row 2 of 9", "q quit"}} {
			s := newScreen(18, height)
			n := 0
			l := &live{w: s, every: time.Second, size: s.size, restore: func() {}, view: func(_ context.Context, w io.Writer) error {
				n++
				for i := range 9 {
					fmt.Fprintf(w, "row %d of 9, %d\n", i+1, n)
				}
				return nil
			}}
			keys, ended := make(chan key), make(chan error, 1)
			go func() { ended <- l.run(t.Context(), keys) }()
			time.Sleep(seconds(5.5))
			synctest.Wait()
			got := strings.Split(strings.TrimSuffix(s.String(), "\n"), "\n")
			if !slices.EqualFunc(got, want, strings.HasPrefix) {
				t.Errorf("of %d rows:\n%s", height, s)
			}
			keys <- keyQuit
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestTheRowWithTheKeys: it fits, and says how to end the view as long as there is room for that.
func TestTheRowWithTheKeys(t *testing.T) {
	l := &live{rows: make([]string, 50), top: 10, paused: true, made: time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)}
	for width, want := range map[int]string{
		99: "as of 12:00:00, paused; rows 11 to 30 of 50, ↑ ↓ scroll; space go on, r now, q quit",
		79: "as of 12:00:00, paused; rows 11 to 30 of 50; space go on, r now, q quit",
		59: "as of 12:00:00, paused; space go on, q quit",
		39: "as of 12:00:00, paused; q quit",
		19: "q quit",
		4:  "q q…",
		0:  "",
	} {
		if got := l.keys(20, width); got != want {
			t.Errorf("%d cells: %q, want %q", width, got, want)
		}
	}
}

// TestATerminalWithoutASize: nobody has told it, as on a serial line.
func TestATerminalWithoutASize(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no terminals: %v", err)
	}
	defer master.Close()
	for _, tc := range []struct{ set, want unix.Winsize }{{unix.Winsize{}, unix.Winsize{Col: 80, Row: 24}}, {unix.Winsize{Col: 132, Row: 50}, unix.Winsize{Col: 132, Row: 50}}} {
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &tc.set); err != nil {
			t.Fatal(err)
		}
		size := terminalSize(master)
		if size == nil {
			t.Fatal("it is no terminal")
		}
		if width, height, err := size(); err != nil || width != int(tc.want.Col) || height != int(tc.want.Row) {
			t.Errorf("%d x %d, %v", width, height, err)
		}
	}
}

func TestKeys(t *testing.T) {
	for read, want := range map[string][]key{
		"":                       nil,
		"q":                      {keyQuit},
		"\x1b[A\x1b[B":           {keyUp, keyDown},
		"x \x1b[6~j":             {keyPause, keyPageDown, keyDown},
		"\x1b":                   nil,
		"\x1b[1~\x1b[4~\x1bOHgG": {keyFirst, keyLast, keyFirst, keyFirst, keyLast},
		// Keys that have no meaning here: of the keypad, Ctrl with an arrow, and function keys.
		"\x1bOq\x1bOp\x1b[1;5A":       nil,
		"\x1b[15~\x1bOP\x1b[[A\x1b[Z": nil,
		"\x1b[15~q":                   {keyQuit},
	} {
		if got := keysIn(read); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", read, got, want)
		}
	}
}
