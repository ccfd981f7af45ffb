package ui

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"regexp"
	"sync"
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
	// keyBack is no key: somebody else had the terminal meanwhile, as after Ctrl-Z, and the cursor is somewhere else.
	keyBack
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

// otherKey is what a terminal sends for a key with a sequence of its own. The letter at its end is none that somebody pressed.
var otherKey = regexp.MustCompile(`^\x1b(\[\[?[0-?]*[ -/]*[@-~]|O.)`)

// keysIn are the keys in what was read. Others are ignored.
func keysIn(read string) (out []key) {
	for read != "" {
		n := max(len(otherKey.FindString(read)), 1)
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

// keyboard is a terminal that hands over each key as it is pressed, without an echo, as long as this program is in the foreground.
type keyboard struct {
	fd          int
	before, own unix.Termios

	mu           sync.Mutex
	taken, ended bool
}

// foreground says that keys are for this program. Whoever reads from a terminal, or changes it, in the background is stopped.
func (k *keyboard) foreground() bool {
	group, err := unix.IoctlGetInt(k.fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// resumable says that a shell waits for this program, and can resume it if it stops: its group is not that of the session itself.
func resumable() bool {
	session, err := unix.Getsid(0)
	return err == nil && session != unix.Getpgrp()
}

// take changes the terminal. It says whether it had to.
func (k *keyboard) take() (changed bool, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.taken || k.ended {
		return false, nil
	}
	if err := unix.IoctlSetTermios(k.fd, unix.TCSETSW, &k.own); err != nil {
		return false, err
	}
	k.taken = true
	return true, nil
}

// giveBack makes the terminal what it was. In the background, whoever has it has done so.
func (k *keyboard) giveBack() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.taken && k.foreground() {
		unix.IoctlSetTermios(k.fd, unix.TCSETSW, &k.before) //nolint:errcheck // the terminal is gone
	}
	k.taken = false
}

// end is giveBack for good.
func (k *keyboard) end() {
	k.mu.Lock()
	k.ended = true
	k.mu.Unlock()
	k.giveBack()
}

// readKeys has a terminal hand over each key as it is pressed, without an echo, until the context ends. Signals, such as that of Ctrl-C, stay what they are:
// while the program is stopped (Ctrl-Z), the terminal is as it was. restore ends that, and may be called more than once. The channel is nil if in is no
// terminal, or if somebody else has it, as when this program runs in the background.
func readKeys(ctx context.Context, in io.Reader) (keys <-chan key, restore func()) {
	none := func() {}
	file, is := in.(interface{ Fd() uintptr })
	if !is {
		return nil, none
	}
	k := &keyboard{fd: int(file.Fd())}
	if !k.foreground() || !term.IsTerminal(k.fd) {
		return nil, none
	}
	before, err := unix.IoctlGetTermios(k.fd, unix.TCGETS)
	if err != nil {
		return nil, none
	}
	k.before, k.own = *before, *before
	k.own.Lflag &^= unix.ICANON | unix.ECHO
	k.own.Cc[unix.VMIN], k.own.Cc[unix.VTIME] = 1, 0
	if _, err := k.take(); err != nil {
		return nil, none
	}
	out := make(chan key)
	go k.read(ctx, out)
	return out, k.end
}

// read sends the keys that are pressed, until the context ends or the terminal is gone.
func (k *keyboard) read(ctx context.Context, out chan<- key) {
	defer close(out)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTSTP, unix.SIGCONT, unix.SIGQUIT)
	defer signal.Stop(signals)
	send := func(pressed key) bool {
		select {
		case out <- pressed:
			return true
		case <-ctx.Done():
			return false
		}
	}
	b := make([]byte, 64)
	for ctx.Err() == nil {
		select {
		case s := <-signals:
			if s == unix.SIGTSTP && !resumable() {
				continue
			}
			k.giveBack() // after SIGCONT, the shell may have changed it: it is taken again
			switch s {
			case unix.SIGTSTP: // its default is not back after signal.Reset
				unix.Kill(unix.Getpid(), unix.SIGSTOP) //nolint:errcheck // one may always stop oneself
				for s != unix.SIGCONT {
					select {
					case s = <-signals:
					case <-ctx.Done():
						return
					}
				}
			case unix.SIGQUIT: // the program ends, and says what each goroutine does
				k.end()
				signal.Reset(unix.SIGQUIT)
				unix.Kill(unix.Getpid(), unix.SIGQUIT) //nolint:errcheck // one may always end oneself
				return
			}
			continue
		default:
		}
		if !k.foreground() { // somebody resumed the program in the background
			select {
			case <-ctx.Done():
			case <-time.After(keyLook):
			}
			continue
		}
		changed, err := k.take()
		if err != nil || changed && !send(keyBack) {
			return
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, int(keyLook.Milliseconds())) //nolint:gosec // file descriptors are small
		if n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		n, err = unix.Read(k.fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		for _, pressed := range keysIn(string(b[:n])) {
			if !send(pressed) {
				return
			}
		}
	}
}
