package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
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
	dialTimeout = 10 * time.Second
	binDir      = "/var/lib/quorate/bin"
)

// Dial connects to the host, makes sure that this very binary is there, and starts its host side.
// With the binary in place that is one TCP connection, one SSH handshake and one session.
func Dial(ctx context.Context, t Target) (*Conn, error) {
	client, err := dialSSH(ctx, t)
	if err != nil {
		return nil, err
	}
	me, err := executable()
	if err != nil {
		client.Close()
		return nil, err
	}
	remote := binDir + "/" + me.digest + "/quorate"
	c, err := serveOver(ctx, client, t, remote)
	if errors.Is(err, errNoBinary) {
		if err = upload(ctx, client, t, me, remote); err == nil {
			c, err = serveOver(ctx, client, t, remote)
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

func serveOver(ctx context.Context, client *ssh.Client, t Target, remote string) (*Conn, error) {
	session, err := client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	stdin, err := session.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr := &tail{}
	session.Stderr = stderr
	if err := session.Start(sudo(t) + "sh -c 'test -x " + remote + " || exit 127; exec " + remote + " host serve'"); err != nil {
		return nil, fmt.Errorf("starting the host side: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	out := bufio.NewReader(stdout)
	for {
		line, err := out.ReadString('\n')
		if line == ready {
			break
		}
		if err != nil {
			var exit *ssh.ExitError
			if werr := session.Wait(); errors.As(werr, &exit) && exit.ExitStatus() == 127 {
				return nil, errNoBinary
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("the host side did not start: %s%s", stderr, sudoAdvice(t, stderr.String()))
		}
	}
	// Closing the session ends stdin too. stdin.Close itself must not be called: in x/crypto/ssh it races with Write,
	// and HTTP/2 may be acknowledging something at that moment.
	pipe := &pipeConn{Reader: out, Writer: stdin, closed: make(chan struct{}), close: func() { session.Close() }}
	c, err := newConn(ctx, t.Name, pipe)
	if err != nil {
		return nil, err
	}
	c.ssh, c.stderr = client, stderr
	return c, nil
}

func sudo(t Target) string {
	if t.User == "root" {
		return ""
	}
	return "sudo -n "
}

func sudoAdvice(t Target, stderr string) string {
	if t.User != "root" && strings.Contains(stderr, "password") {
		return "; allow " + t.User + " to use sudo without a password, or connect as root"
	}
	return ""
}

func dialSSH(ctx context.Context, t Target) (*ssh.Client, error) {
	config, err := clientConfig(t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	addr := net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	var nc net.Conn
	if t.Jump != "" {
		nc, err = dialThrough(ctx, t, addr)
	} else {
		nc, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: no SSH connection to %s: %w; is the host up, the address right, and the port open?", t.Name, addr, err)
	}
	nc.SetDeadline(time.Now().Add(dialTimeout)) //nolint:errcheck // a conn without deadlines is bounded by ctx
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	cc, chans, reqs, err := ssh.NewClientConn(nc, addr, config)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s: SSH to %s@%s: %w", t.Name, t.User, addr, explain(err, t))
	}
	nc.SetDeadline(time.Time{}) //nolint:errcheck // see above
	return ssh.NewClient(cc, chans, reqs), nil
}

func dialThrough(ctx context.Context, t Target, addr string) (net.Conn, error) {
	j := Target{Name: "jump host", KeyFile: t.KeyFile, KnownHostsFile: t.KnownHostsFile, User: t.User, Port: 22, Address: t.Jump, Notice: t.Notice}
	if u, rest, ok := strings.Cut(t.Jump, "@"); ok {
		j.User, j.Address = u, rest
	}
	if h, p, err := net.SplitHostPort(j.Address); err == nil {
		j.Address = h
		if j.Port, err = strconv.Atoi(p); err != nil {
			return nil, fmt.Errorf("jump host %q: bad port", t.Jump)
		}
	}
	client, err := dialSSH(ctx, j)
	if err != nil {
		return nil, err
	}
	nc, err := client.DialContext(ctx, "tcp", addr)
	if err != nil {
		client.Close()
		return nil, err
	}
	return &jumped{Conn: nc, via: client}, nil
}

// jumped closes the jump host's connection together with the one that runs through it.
type jumped struct {
	net.Conn
	via *ssh.Client
}

func (j *jumped) Close() error { j.Conn.Close(); return j.via.Close() }

func clientConfig(t Target) (*ssh.ClientConfig, error) {
	auth, err := authMethods(t)
	if err != nil {
		return nil, err
	}
	known, err := hostKeys(t)
	if err != nil {
		return nil, err
	}
	return &ssh.ClientConfig{User: t.User, Auth: auth, HostKeyCallback: known.check, HostKeyAlgorithms: known.algorithms(t), Timeout: dialTimeout}, nil
}

func explain(err error, t Target) error {
	var keyErr *knownhosts.KeyError
	switch {
	case errors.As(err, &keyErr):
		return fmt.Errorf("the host key is not the one on record: the machine was reinstalled, or somebody is in between; "+
			"if you know why, remove its line with: ssh-keygen -R %s -f %s", t.Address, t.KnownHostsFile)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("no key was accepted for user %s: put the public key into the host's authorized_keys, or set ssh.keyFile", t.User)
	}
	return err
}
