package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/crypto/ssh"
)

// Target says how to reach a host.
type Target struct {
	Name           string
	Address        string
	Port           int
	User           string
	KeyFile        string
	KnownHostsFile string
	Jump           string // user@address:port
	// Notice is told of a host key that was recorded because it was seen for the first time.
	Notice func(string)
}

const (
	binDir = "/var/lib/quorate/bin"
	// sessionTimeout bounds how long a host that lets us in may take to start a program.
	sessionTimeout = time.Minute
)

// Dial connects to the host, makes sure that this very binary is there, and starts its host side.
// With the binary in place that is one TCP connection, one SSH handshake and one session.
func Dial(ctx context.Context, t Target) (*Conn, error) {
	d := newDialer(accessOf(ctx))
	c, err := d.dial(ctx, t)
	if err != nil {
		d.close()
		return nil, err
	}
	c.after = d.close
	return c, nil
}

func (d *dialer) dial(ctx context.Context, t Target) (*Conn, error) {
	client, err := d.client(ctx, t)
	if err != nil {
		return nil, err
	}
	me, err := executable()
	if err != nil {
		client.Close()
		return nil, err
	}
	remote := binDir + "/" + me.digest + "/quorate"
	c, err := d.serveOver(ctx, client, t, remote)
	if errors.Is(err, errNoBinary) {
		if err = d.upload(ctx, client, t, me, remote); err == nil {
			c, err = d.serveOver(ctx, client, t, remote)
		}
	}
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("%s (%s): %w", t.Name, t.Address, err)
	}
	return c, nil
}

var errNoBinary = errors.New("the host does not have this binary")

// ready is what the host side prints before it speaks HTTP/2: until then stdout may hold a shell's words.
const ready = "quorate host ready\n"

// Ready greets the caller; `quorate host serve` sends it first.
func Ready(w io.Writer) error { _, err := io.WriteString(w, ready); return err }

func (d *dialer) serveOver(ctx context.Context, client *ssh.Client, t Target, remote string) (*Conn, error) {
	p, err := d.start(ctx, client, t, "test -x "+remote+" || exit 127; exec "+remote+" host serve", ready)
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitStatus() == 127:
		return nil, errNoBinary
	case errors.As(err, &exit) && exit.ExitStatus() == 126:
		return nil, fmt.Errorf("the host cannot run this program, which is for linux/%s: %w", runtime.GOARCH, err)
	case err != nil:
		return nil, fmt.Errorf("the host side did not start: %w", err)
	}
	// Closing the session ends stdin too. stdin.Close itself must not be called: in x/crypto/ssh it races with Write,
	// and HTTP/2 may be acknowledging something at that moment.
	pipe := &pipeConn{Reader: p.stdout, Writer: p.stdin, closed: make(chan struct{}), close: func() { p.session.Close() }}
	c, err := newConn(ctx, t.Name, pipe)
	if err != nil {
		return nil, err
	}
	c.ssh, c.stderr = client, p.stderr
	return c, nil
}
