package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// program is a shell script that runs on a host as root.
type program struct {
	session *ssh.Session
	stdin   io.WriteCloser
	stdout  *bufio.Reader
	stderr  *tail
	asked   bool // sudo has asked for the password
}

// run runs a script as root, through sudo for users other than root, and returns once the script has printed the greeting.
// Nothing may be written to it before, because sudo reads the same stdin.
func (d *dialer) run(ctx context.Context, client *ssh.Client, t Target, script, greeting string) (*program, error) {
	timeout := t.Patience.full().Start
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it did not answer within %s", timeout))
	defer cancel()
	session, err := newSSHSession(ctx, client)
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
	p.stdout = bufio.NewReaderSize(stdout, tailSize)
	command, asker := d.sudo(t, p)
	session.Stderr = asker
	stop := context.AfterFunc(ctx, func() { client.Close() }) // to close the session is a message that a frozen host does not take
	defer stop()
	if err := session.Start(command + "sh -c '" + script + "'"); err != nil {
		return nil, fmt.Errorf("starting a program: %w", err)
	}
	said, err := awaitGreeting(p.stdout, greeting)
	if err == nil {
		asker.settle()
		p.asked = asker.times() > 0
		return p, nil
	}
	werr := session.Wait()
	session.Close()
	asker.settle()
	if asker.times() > 1 {
		return nil, fmt.Errorf("sudo does not accept the password of %s", t.User)
	}
	if question := asker.unanswered(); question != "" {
		return nil, fmt.Errorf("sudo asks %s for something that Quorate does not answer: %q. If it is the password, as a module of PAM asks for it, add `Defaults passprompt_override` to its sudoers file. If it is a second factor, allow %[1]s to use sudo without it", t.User, question)
	}
	if ctx.Err() != nil {
		werr = context.Cause(ctx)
	}
	if werr == nil {
		werr = io.ErrUnexpectedEOF
	}
	return nil, &startError{err: werr, stdout: said, stderr: p.stderr.String(), advice: d.sudoAdvice(t, p.stderr.String())}
}

// newSSHSession opens a session. The whole connection ends with ctx: a host that froze after the login answers no message.
func newSSHSession(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	stop := context.AfterFunc(ctx, func() { client.Close() })
	session, err := client.NewSession()
	if !stop() && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return session, err
}

// awaitGreeting reads up to the greeting, which ends a line, and returns the last of what came before. A login shell may
// print anything before it, also without ending the line.
func awaitGreeting(r *bufio.Reader, greeting string) (before string, err error) {
	said := &tail{}
	for {
		part, err := r.ReadSlice('\n')
		said.Write(part) //nolint:errcheck // it never fails
		if before, ok := strings.CutSuffix(said.raw(), greeting); ok {
			return before, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return said.String(), err
		}
	}
}

// startError says that a program ended, or did not print its greeting in time.
type startError struct {
	err            error
	stdout, stderr string
	advice         string
}

func (e *startError) Error() string {
	var said []string
	if e.stderr != "" {
		said = append(said, e.stderr)
	}
	if e.stdout != "" {
		said = append(said, "it printed: "+lastLines(e.stdout, 5))
	}
	var exit *ssh.ExitError
	if len(said) == 0 || e.stderr == "" || !errors.As(e.err, &exit) {
		said = append([]string{e.err.Error()}, said...)
	}
	return strings.Join(said, "; ") + e.advice
}

func (e *startError) Unwrap() error { return e.err }

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// sudo returns the command that runs a program as root, and the reader of its stderr.
func (d *dialer) sudo(t Target, p *program) (string, *asker) {
	a := &asker{tail: p.stderr}
	switch {
	case t.User == "root":
		return "", a
	case d.access.SudoPassword == "":
		return "sudo -n ", a
	}
	// Only sudo knows this prompt, so no other program can ask for the password.
	a.prompt = []byte("quorate-sudo-" + rand.Text())
	a.reply = func() {
		io.WriteString(p.stdin, d.access.SudoPassword+"\n") //nolint:errcheck // sudo would ask again
	}
	a.giveUp = func() { p.session.Close() }
	return "sudo -S -p " + string(a.prompt) + " ", a
}

// asker keeps what a program prints on stderr, and answers sudo's prompt: the first one with the password. It gives up at the
// second one, because the password was wrong.
type asker struct {
	*tail
	prompt        []byte
	reply, giveUp func()

	mu       sync.Mutex
	pending  []byte
	asked    int
	question string // that stood there for questionPatience
	waiting  *time.Timer
}

// questionPatience is how long a line that looks like a question may be the last thing that was printed.
const questionPatience = 5 * time.Second

// notice waits for the end of a question that is none of sudo's own: somebody else asks, and nobody will answer.
func (a *asker) notice() {
	if a.waiting != nil {
		a.waiting.Stop()
		a.waiting = nil
	}
	lines := strings.Split(a.tail.raw()+string(a.pending), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if !strings.HasSuffix(last, ":") && !strings.HasSuffix(last, "?") {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(questionPatience, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.waiting == timer { // nothing followed
			a.question = last
			a.giveUp()
		}
	})
	a.waiting = timer
}

// unanswered is the question that nobody answered; empty if there was none.
func (a *asker) unanswered() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return printable(a.question)
}

func (a *asker) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.prompt) == 0 {
		return a.tail.Write(b)
	}
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
	// Only text that may be the beginning of the prompt is held back.
	if i := len(a.pending) - len(a.prompt) + 1; i > 0 {
		a.tail.Write(a.pending[:i]) //nolint:errcheck // it never fails
		a.pending = bytes.Clone(a.pending[i:])
	}
	a.notice()
	return len(b), nil
}

// settle stops waiting for prompts.
func (a *asker) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tail.Write(a.pending) //nolint:errcheck // it never fails
	a.pending, a.prompt = nil, nil
	if a.waiting != nil {
		a.waiting.Stop()
		a.waiting = nil
	}
}

// times is how often sudo has asked. The second time, the password was wrong.
func (a *asker) times() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

func (d *dialer) sudoAdvice(t Target, stderr string) string {
	switch {
	case t.User == "root":
		return ""
	case strings.Contains(stderr, "must have a tty"):
		return "; remove requiretty from its sudoers file"
	case strings.Contains(stderr, "password is required"), strings.Contains(stderr, "interactive authentication is required"): // sudo-rs says the latter
		return "; allow " + t.User + " to use sudo without a password, or give it with --ask-sudo-password or in " + SudoPasswordVariable
	case strings.Contains(stderr, "not found"):
		return "; install sudo there, or connect as root"
	}
	return ""
}

// SudoPasswordVariable is the environment variable that the commands read the password of sudo from.
const SudoPasswordVariable = "QUORATE_SUDO_PASSWORD"
