package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	// connectTimeout is for the TCP connection alone: what does not answer by then is dead or out of reach.
	connectTimeout = 10 * time.Second
	// bannerTimeout is how long sshd may take to say its first word. A frozen machine accepts connections and says nothing.
	bannerTimeout = 20 * time.Second
	// handshakeTimeout begins when the handshake does, not while it waits for its turn: many handshakes at once are work,
	// here and on a jump host.
	handshakeTimeout = 30 * time.Second
	// handshakesAtOnce bounds them. Connecting is not bounded: dead hosts would hold up the others.
	handshakesAtOnce = 32
)

// dialer connects to many hosts with what they share: keys, known hosts, jump hosts.
type dialer struct {
	access *Access
	turns  chan struct{}

	mu    sync.Mutex
	known map[string]*knownKeys
	jumps map[string]*jump
}

func newDialer(a *Access) *dialer {
	return &dialer{access: a, turns: make(chan struct{}, handshakesAtOnce), known: map[string]*knownKeys{}, jumps: map[string]*jump{}}
}

// close ends the connections to jump hosts, and all that run through them.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.jumps {
		if j.client != nil {
			j.client.Close()
		}
	}
}

func (d *dialer) client(ctx context.Context, t Target) (*ssh.Client, error) {
	config, err := d.config(t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	addr := net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	nc, err := d.connect(ctx, t, addr)
	if err != nil {
		return nil, fmt.Errorf("%s: no SSH connection to %s: %w; is the host up, the address right, and the port open?", t.Name, addr, err)
	}
	client, err := d.handshake(ctx, nc, addr, config)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s: SSH to %s@%s: %w", t.Name, t.User, addr, explain(err, t))
	}
	return client, nil
}

func (d *dialer) connect(ctx context.Context, t Target, addr string) (net.Conn, error) {
	dial := (&net.Dialer{}).DialContext
	if t.Jump != "" {
		via, err := d.jump(ctx, t)
		if err != nil {
			return nil, err
		}
		dial = via.DialContext
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("no answer within %s", connectTimeout))
	defer cancel()
	nc, err := dial(ctx, "tcp", addr)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nc, err
}

func (d *dialer) handshake(ctx context.Context, nc net.Conn, addr string, config *ssh.ClientConfig) (*ssh.Client, error) {
	nc, err := banner(ctx, nc)
	if err != nil {
		return nil, err
	}
	select {
	case d.turns <- struct{}{}:
		defer func() { <-d.turns }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("no SSH handshake within %s", handshakeTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	cc, chans, reqs, err := ssh.NewClientConn(nc, addr, config)
	if !stop() && ctx.Err() != nil {
		if err == nil {
			cc.Close()
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(cc, chans, reqs), nil
}

// banner waits for the server's first byte, before the handshake takes a turn that others wait for. It sets no deadline: a
// connection through a jump host has none.
func banner(ctx context.Context, nc net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bannerTimeout, fmt.Errorf("the port is open, but sshd said nothing within %s", bannerTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	r := bufio.NewReaderSize(nc, 4096)
	if _, err := r.Peek(1); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("sshd hung up at once: %w", err)
	}
	return &peeked{nc, r}, nil
}

// peeked is a connection of which something was read already.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// jump is one connection to a jump host: all hosts behind it share it, as sshd takes only so many at a time.
type jump struct {
	once   sync.Once
	client *ssh.Client
	err    error
}

func (d *dialer) jump(ctx context.Context, t Target) (*ssh.Client, error) {
	to, err := jumpTarget(t)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprint(to.User, "@", to.Address, ":", to.Port, " ", to.KeyFile, " ", to.KnownHostsFile)
	d.mu.Lock()
	j := d.jumps[name]
	if j == nil {
		j = &jump{}
		d.jumps[name] = j
	}
	d.mu.Unlock()
	j.once.Do(func() {
		client, err := d.client(ctx, to)
		d.mu.Lock()
		defer d.mu.Unlock()
		j.client, j.err = client, err
	})
	return j.client, j.err
}

// jumpTarget reads user@address:port; what is left out is the host's own user, and port 22.
func jumpTarget(t Target) (Target, error) {
	j := Target{Name: "jump host", KeyFile: t.KeyFile, KnownHostsFile: t.KnownHostsFile, User: t.User, Port: 22, Address: t.Jump, Notice: t.Notice}
	if u, rest, ok := strings.Cut(t.Jump, "@"); ok {
		j.User, j.Address = u, rest
	}
	if h, p, err := net.SplitHostPort(j.Address); err == nil {
		j.Address = h
		if j.Port, err = strconv.Atoi(p); err != nil {
			return j, fmt.Errorf("jump host %q: bad port", t.Jump)
		}
	}
	return j, nil
}

func (d *dialer) config(t Target) (*ssh.ClientConfig, error) {
	auth, err := d.access.methods(t.KeyFile)
	if err != nil {
		return nil, err
	}
	known, err := d.hostKeys(t)
	if err != nil {
		return nil, err
	}
	return &ssh.ClientConfig{User: t.User, Auth: auth, HostKeyCallback: known.check, HostKeyAlgorithms: known.algorithms(t)}, nil
}

// hostKeys reads a known_hosts file once for all hosts.
func (d *dialer) hostKeys(t Target) (*knownKeys, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.known[t.KnownHostsFile]
	if k == nil {
		var err error
		if k, err = hostKeys(t.KnownHostsFile); err != nil {
			return nil, err
		}
		d.known[t.KnownHostsFile] = k
	}
	own := *k
	own.notice = t.Notice
	return &own, nil
}

func explain(err error, t Target) error {
	var keyErr *knownhosts.KeyError
	switch {
	case errors.As(err, &keyErr):
		return fmt.Errorf("the host key is not the one on record: the machine was reinstalled, or somebody is in between; "+
			"if you know why, remove its line with: ssh-keygen -R %s -f %s", knownhosts.Normalize(net.JoinHostPort(t.Address, strconv.Itoa(t.Port))), t.KnownHostsFile)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("no key was accepted for user %s: put the public key into the host's authorized_keys, or set ssh.keyFile", t.User)
	}
	return err
}
