package ui

import (
	"io"
	"os"

	"golang.org/x/term"
)

// Width is how wide text for w may be, or 0 if it need not be cut, as in files and pipes.
func Width(w io.Writer) int {
	size := terminalSize(w)
	if size == nil {
		return 0
	}
	width, _, err := size()
	if err != nil {
		return 0
	}
	return width
}

// Color reports whether text for w may have colors.
func Color(w io.Writer) bool {
	return terminalSize(w) != nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// liveSize is the size of a terminal on which text can and should be redrawn in place; otherwise nil.
func liveSize(w io.Writer) func() (width, height int, err error) {
	if t := os.Getenv("TERM"); t == "" || t == "dumb" || os.Getenv("NO_COLOR") != "" || os.Getenv("CI") != "" {
		return nil
	}
	return terminalSize(w)
}

func terminalSize(w io.Writer) func() (width, height int, err error) {
	switch w := w.(type) {
	case *canvas:
		return func() (int, int, error) { return w.width, w.height, nil }
	case interface{ Fd() uintptr }:
		if term.IsTerminal(int(w.Fd())) {
			return func() (int, int, error) {
				width, height, err := term.GetSize(int(w.Fd()))
				if err == nil && (width <= 0 || height <= 0) { // a serial line, or a terminal that nobody has told its size yet
					return 80, 24, nil
				}
				return width, height, err
			}
		}
	}
	return nil
}
