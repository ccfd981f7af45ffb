package ui

import (
	"slices"
	"testing"
	"time"
)

func TestTruncate(t *testing.T) {
	for _, c := range []struct {
		line  Line
		width int
		want  string
	}{
		{T("abc"), 3, "abc"},
		{T("abcd"), 3, "ab…"},
		{T("abcd"), 0, ""},
		{T("日本語"), 6, "日本語"},
		{T("日本語"), 5, "日本…"},
		{T("日本語"), 4, "日…"},
		{T("e\u0301e\u0301e\u0301"), 2, "e\u0301…"},
		{Line{{"ab", Red}, {"cd", Bold}}, 4, "abcd"},
		{Line{{"ab", Red}, {"cd", Bold}}, 3, "ab…"},
		{Line{{"ab", Red}, {"cd", Bold}}, 2, "a…"},
		{Line{{"ab", Red}, {"", Bold}}, 2, "ab"},
	} {
		got := c.line.Truncate(c.width)
		if got.String(false) != c.want || got.Width() > c.width {
			t.Errorf("%v in %d cells: %q, want %q", c.line, c.width, got.String(false), c.want)
		}
	}
}

func TestLineString(t *testing.T) {
	l := Line{{"a", Red}, {" b ", Plain}}.Pad(10)
	if got := l.String(true); got != "\x1b[31ma\x1b[0m b" {
		t.Errorf("%q", got)
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"one two three", 7, []string{"one two", "three"}},
		{"one two", 0, []string{"one two"}},
		{"abcdefgh ij", 3, []string{"abc", "def", "gh", "ij"}},
		{"日本語", 3, []string{"日", "本", "語"}},
		{"日", 1, []string{"日"}},
		{"", 5, []string{""}},
	} {
		if got := Wrap(c.text, c.width); !slices.Equal(got, c.want) {
			t.Errorf("%q in %d cells: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                            "0.0s",
		4240 * time.Millisecond:      "4.2s",
		59940 * time.Millisecond:     "59.9s",
		59990 * time.Millisecond:     "1m00s",
		65 * time.Second:             "1m05s",
		time.Hour - time.Millisecond: "1h00m",
		2*time.Hour + 3*time.Minute:  "2h03m",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 20 << 20: "20.0 MiB", 3 << 29: "1.5 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// TestHostsDoNotCommandTheTerminal: what a host wrote is shown, and does nothing.
func TestHostsDoNotCommandTheTerminal(t *testing.T) {
	l := Line{{Text: "a\x1b]0;title\x07 \u009b2J\rb", Style: Red}, {Text: " \x1b[2J"}}
	if got, want := l.String(true), "\x1b[31ma]0;title 2Jb\x1b[0m [2J"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\r\nc":                         "a b c",
		"\x1b[31mred\x1b[0m":                "red",
		"\x1b]0;title\x07x\x1b]8;;u\x1b\\y": "xy",
		"bell\a \x1bc reset \x9b2J":         "bell reset ?2J",
		"end\x1b":                           "end",
		"日本語 ✔":                             "日本語 ✔",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
