package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// program is a shell script that runs on a host as root.
type program struct {
	session *ssh.Session
	stdin   io.WriteCloser
	stdout  *bufio.Reader
	stderr  *tail
}

// start runs a script as root, through sudo where the user is somebody else, and returns once it has printed the line that
// says that it is there. Nothing may be written to it before: until then its stdin is that of sudo, too.
func (d *dialer) start(ctx context.Context, client *ssh.Client, t Target, script, greeting string) (*program, error) {
	session, err := client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	p := &program{session: session, stderr: &tail{}}
	if p.stdin, err = session.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout = bufio.NewReader(stdout)
	command, asker := d.sudo(t, p)
	session.Stderr = asker
	ctx, cancel := context.WithTimeoutCause(ctx, sessionTimeout, fmt.Errorf("it did not answer within %s", sessionTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	if err := session.Start(command + "sh -c '" + script + "'"); err != nil {
		return nil, fmt.Errorf("starting a program: %w", err)
	}
	for {
		line, err := p.stdout.ReadString('\n')
		if line == greeting {
			return p, nil
		}
		if err == nil {
			continue // a shell's own words
		}
		werr := session.Wait()
		session.Close()
		switch {
		case asker.denied():
			return nil, fmt.Errorf("sudo does not accept the password of %s", t.User)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		if werr == nil {
			werr = io.ErrUnexpectedEOF
		}
		return nil, &startError{err: werr, said: p.stderr.String() + d.sudoAdvice(t, p.stderr.String())}
	}
}

// startError is a program that ended before it began.
type startError struct {
	err  error
	said string
}

func (e *startError) Error() string {
	if e.said != "" {
		return e.said
	}
	return e.err.Error()
}

func (e *startError) Unwrap() error { return e.err }

// sudo is the command that makes root of the target's user, and what watches over its stderr.
func (d *dialer) sudo(t Target, p *program) (string, *asker) {
	a := &asker{tail: p.stderr}
	switch {
	case t.User == "root":
		return "", a
	case d.access.SudoPassword == "":
		return "sudo -n ", a
	}
	// Nobody but sudo can know these words, so nobody else can ask for the password.
	a.prompt = []byte("quorate-sudo-" + rand.Text())
	a.reply = func() {
		io.WriteString(p.stdin, d.access.SudoPassword+"\n") //nolint:errcheck // sudo would ask again
	}
	a.giveUp = func() { p.session.Close() }
	return "sudo -S -p " + string(a.prompt) + " ", a
}

// asker keeps what a program says on stderr, and answers sudo's question when it comes: the first time with the password,
// the second by giving up, because the password was wrong.
type asker struct {
	*tail
	prompt        []byte
	reply, giveUp func()

	mu      sync.Mutex
	pending []byte
	asked   int
}

func (a *asker) Write(b []byte) (int, error) {
	if len(a.prompt) == 0 {
		return a.tail.Write(b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = append(a.pending, b...)
	for {
		before, after, found := bytes.Cut(a.pending, a.prompt)
		if !found {
			break
		}
		a.tail.Write(before) //nolint:errcheck // it never fails
		a.pending = bytes.Clone(after)
		if a.asked++; a.asked == 1 {
			a.reply()
		} else {
			a.giveUp()
		}
	}
	// What may be the beginning of the question waits for its end.
	if i := bytes.LastIndexByte(a.pending, '\n'); i >= 0 {
		a.tail.Write(a.pending[:i+1]) //nolint:errcheck // it never fails
		a.pending = bytes.Clone(a.pending[i+1:])
	}
	return len(b), nil
}

func (a *asker) denied() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked > 1
}

func (d *dialer) sudoAdvice(t Target, stderr string) string {
	switch {
	case t.User == "root":
		return ""
	case strings.Contains(stderr, "must have a tty"):
		return "; take requiretty out of its sudoers"
	case strings.Contains(stderr, "password is required"):
		return "; allow " + t.User + " to use sudo without a password, or give it with --ask-sudo-password or in " + SudoPasswordVariable
	case strings.Contains(stderr, "not found"):
		return "; install sudo there, or connect as root"
	}
	return ""
}

// SudoPasswordVariable is the environment variable that the commands read the password of sudo from.
const SudoPasswordVariable = "QUORATE_SUDO_PASSWORD"
