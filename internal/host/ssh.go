package host

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"
)

// Target says how to reach a host.
type Target struct {
	Name    string
	Address string
	Port    int
	User    string
	// KeyFile is a private key, a public key whose private key the agent has, or a certificate of one of them. A certificate that is next
	// to a key (-cert.pub) is used as well. Empty stands for the keys of the agent and the usual ones.
	KeyFile        string
	KnownHostsFile string
	// HostKey is the key that the host must have: a fingerprint (SHA256:…) or a public key. If it is empty, known_hosts
	// decides.
	HostKey string
	Jump    string // user@address:port; several are separated by commas
	// JumpKeyFiles are the keys for the jump hosts, in their order, each like KeyFile. Without any, KeyFile is for all of them.
	JumpKeyFiles []string
	// Patience is how long it may take, and its jump host as well.
	Patience Patience
	// Notice is told about a host key that was recorded because it was seen for the first time.
	Notice func(string)

	// relay is set for a jump host.
	relay bool
}

// Dial connects to the host, makes sure that it has exactly this binary, and starts the host side. If the binary is there,
// this takes one TCP connection, one SSH handshake and one session.
func Dial(ctx context.Context, t Target) (*Conn, error) {
	d := newDialer(accessOf(ctx))
	s, err := d.session(ctx, t)
	if err != nil {
		d.close()
		return nil, err
	}
	c := d.conn(t, s)
	c.after = d.close
	return c, nil
}

func (d *dialer) conn(t Target, s *session) *Conn {
	c := connOf(t.Name, s)
	c.redial = func(ctx context.Context) (*session, error) { return d.session(ctx, t) }
	return c
}

func (d *dialer) session(ctx context.Context, t Target) (*session, error) {
	client, key, err := d.client(ctx, t)
	if err != nil {
		return nil, err
	}
	if refused := d.access.admit(t, key); refused != nil {
		client.Close()
		return nil, refused
	}
	s, err := d.startHostSide(ctx, t, client)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("%s (%s): %w", t.Name, t.Address, err)
	}
	s.unconfirmed = d.access.unconfirmed(key)
	return s, nil
}

func (d *dialer) startHostSide(ctx context.Context, t Target, client *ssh.Client) (*session, error) {
	if d.access.Installed {
		s, err := d.serveOver(ctx, client, t, "", ask())
		switch {
		case errors.Is(err, errNoBinary):
			err = errors.New("the host has no copy of quorate: run `quorate apply`")
		case saysOtherBuild(err):
			err = ErrOtherBuild
		}
		return s, err
	}
	me, err := executable()
	if err != nil {
		return nil, err
	}
	s, err := d.serveOver(ctx, client, t, me.arch, serveScript(me))
	if other, ok := errors.AsType[*machineError](err); ok {
		if me, err = executableFor(other.machine); err != nil {
			return nil, err
		}
		s, err = d.serveOver(ctx, client, t, me.arch, serveScript(me))
	}
	if errors.Is(err, errNoBinary) {
		if err = d.upload(ctx, client, t, me); err != nil {
			return nil, err
		}
		if s, err = d.serveOver(ctx, client, t, me.arch, serveScript(me)); errors.Is(err, errNoBinary) {
			// On a mount with noexec, `test -x` is false for every file (from Linux 5.8 on).
			if err = d.noexec(ctx, client, t); err == nil {
				err = errors.New("the program that was just uploaded is not there")
			}
		}
	}
	return s, err
}

var errNoBinary = errors.New("the host does not have this binary")

// ready is what the host side prints before it speaks HTTP/2. Until then stdout may contain what a shell prints.
const ready = "quorate host ready\n"

// Ready greets the caller; the host side sends it first.
func Ready(w io.Writer) error { _, err := io.WriteString(w, ready); return err }

// serveOver runs the script that starts the host side, with a binary for an architecture; empty for the copy that the host has of its own.
func (d *dialer) serveOver(ctx context.Context, client *ssh.Client, t Target, arch, script string) (*session, error) {
	p, err := d.run(ctx, client, t, script, ready)
	if err != nil {
		return nil, d.whyNotStarted(ctx, client, t, arch, err)
	}
	// The whole connection ends, and not only its SSH session: to close a session is a message, and a write that waits for
	// a host that is gone would go on waiting. stdin.Close must not be called: in x/crypto/ssh it races with Write, and
	// HTTP/2 may be acknowledging something at that moment.
	pipe := &pipeConn{Reader: p.stdout, Writer: p.stdin, closed: make(chan struct{}), close: func() { client.Close() }}
	s, err := newSession(ctx, pipe)
	if err != nil {
		return nil, err
	}
	s.ssh, s.stderr, s.sudoAsked = client, p.stderr, p.asked
	return s, nil
}
