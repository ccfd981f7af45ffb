package ui

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// key is what somebody presses who watches.
type key int

const (
	keyQuit key = iota + 1
	keyPause
	keyNow
	keyUp
	keyDown
	keyPageUp
	keyPageDown
	keyFirst
	keyLast
)

// keyBytes are what terminals send for keys. Longer ones come first where one begins with the other.
var keyBytes = []struct {
	bytes string
	key   key
}{
	{"\x1b[A", keyUp}, {"\x1bOA", keyUp}, {"\x1b[B", keyDown}, {"\x1bOB", keyDown}, {"\x1b[5~", keyPageUp}, {"\x1b[6~", keyPageDown},
	{"\x1b[H", keyFirst}, {"\x1bOH", keyFirst}, {"\x1b[1~", keyFirst}, {"\x1b[F", keyLast}, {"\x1bOF", keyLast}, {"\x1b[4~", keyLast},
	{"q", keyQuit}, {"Q", keyQuit}, {" ", keyPause}, {"p", keyPause}, {"r", keyNow}, {"k", keyUp}, {"j", keyDown}, {"b", keyPageUp}, {"f", keyPageDown}, {"g", keyFirst}, {"G", keyLast},
}

// keysIn are the keys in what was read. Others are ignored.
func keysIn(read string) (out []key) {
	for read != "" {
		n := 1
		for _, k := range keyBytes {
			if len(k.bytes) <= len(read) && read[:len(k.bytes)] == k.bytes {
				out, n = append(out, k.key), len(k.bytes)
				break
			}
		}
		read = read[n:]
	}
	return out
}

// keyLook is how often the reader of keys looks whether it is still needed.
const keyLook = 200 * time.Millisecond

// readKeys has a terminal hand over each key as it is pressed, without an echo, until the context ends. Signals, such as that of Ctrl-C, stay what they are.
// restore ends that. The channel is nil if in is no terminal, or if somebody else has it, as when this program runs in the background.
func readKeys(ctx context.Context, in io.Reader) (keys <-chan key, restore func()) {
	none := func() {}
	file, is := in.(interface{ Fd() uintptr })
	if !is {
		return nil, none
	}
	fd := int(file.Fd())
	if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() || !term.IsTerminal(fd) {
		return nil, none
	}
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, none
	}
	now := *before
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETSW, &now); err != nil {
		return nil, none
	}
	out := make(chan key)
	go func() {
		defer close(out)
		b := make([]byte, 64)
		for ctx.Err() == nil {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(keyLook.Milliseconds())) //nolint:gosec // file descriptors are small
			if n == 0 || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			if n, err = unix.Read(fd, b); err != nil || n == 0 {
				return
			}
			for _, k := range keysIn(string(b[:n])) {
				select {
				case out <- k:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, func() { unix.IoctlSetTermios(fd, unix.TCSETSW, before) } //nolint:errcheck // the terminal is gone
}
