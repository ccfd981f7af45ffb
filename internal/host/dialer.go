package host

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Patience is how long a host may take at each stage of a connection. Zero stands for that of a run that changes something, which
// leaves a host alone that it takes for unreachable. An upload has no limit as long as it advances.
type Patience struct {
	// Connect is for the TCP connection alone: a host that does not answer in this time is dead or unreachable. The kernel asks at
	// 0, 1, 3, and 7 s.
	Connect time.Duration
	// Banner is how long sshd may take to send its first byte. A frozen machine accepts connections and sends nothing.
	Banner time.Duration
	// Login starts with the handshake, not while it waits for its turn: many parallel handshakes need CPU time, here and on a jump
	// host.
	Login time.Duration
	// Start is how long a program may take to start after the login.
	Start time.Duration
}

// Brief is the patience of commands that change nothing. A host that is taken for unreachable because it is slow costs them an
// answer; one that is dead costs them only this time, which covers three attempts of the kernel to connect.
var Brief = Patience{Connect: 4 * time.Second, Banner: 4 * time.Second, Login: 10 * time.Second, Start: 10 * time.Second}

// full replaces what is zero.
func (p Patience) full() Patience {
	return Patience{Connect: cmp.Or(p.Connect, 10*time.Second), Banner: cmp.Or(p.Banner, 20*time.Second), Login: cmp.Or(p.Login, 30*time.Second), Start: cmp.Or(p.Start, time.Minute)}
}

const (
	// ackTimeout is how long a host may leave what was sent to it unacknowledged, before the kernel gives the connection up.
	// Sessions through a jump host depend on it: they cannot end while nothing can be sent to the jump host.
	ackTimeout = time.Minute
	// keysAtOnce is how many keys are tried in one connection, because sshd ends it after MaxAuthTries (6, and 3 or 4 on hardened
	// hosts). An agent may have more keys.
	keysAtOnce = 3
	// handshakesAtOnce limits parallel handshakes. Parallel connections are not limited, because dead hosts would delay the
	// others.
	handshakesAtOnce = 32
)

// dialer connects to many hosts and holds what they share: keys, known hosts, jump hosts.
type dialer struct {
	access *Access
	turns  chan struct{}

	mu    sync.Mutex
	jumps map[string]*jump
}

func newDialer(a *Access) *dialer {
	return &dialer{access: a, turns: make(chan struct{}, handshakesAtOnce), jumps: map[string]*jump{}}
}

// close closes the connections to jump hosts, and with them all connections through them.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.jumps {
		j.close()
	}
}

// client logs in. The key is set if nothing is known about the host's key: see Access.admit.
func (d *dialer) client(ctx context.Context, t Target) (*ssh.Client, *newKey, error) {
	addr := withPort(t)
	signers, err := d.access.signers(t.KeyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	check, err := d.access.checker(t)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	algorithms := check.algorithms()
	keys := slices.Collect(slices.Chunk(signers, keysAtOnce))
	// Each refused login counts for what bans addresses: what was accepted once comes first.
	if i := slices.IndexFunc(keys, func(some []ssh.Signer) bool { return d.access.wasAccepted(t.User, addr, some[0]) }); i > 0 {
		keys = slices.Concat(keys[i:i+1], keys[:i], keys[i+1:])
	}
	var last *HostKeyError
	for {
		signed := false // a client signs with the keys that the host says it accepts
		config := &ssh.ClientConfig{User: t.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(witnessed(keys[0], &signed)...)}, HostKeyAlgorithms: algorithms,
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { return check.check(key) }}
		nc, err := d.connect(ctx, t, addr)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		client, err := d.handshake(ctx, nc, addr, config, t.Patience.full())
		if err == nil {
			d.access.accept(t.User, addr, keys[0][0])
			return client, check.unknown, nil
		}
		nc.Close()
		var wrong *HostKeyError
		var negotiation *ssh.AlgorithmNegotiationError
		switch {
		case errors.As(err, &negotiation) && last != nil:
			err = last // the host has no key of another type
		case errors.As(check.err, &wrong):
			// The fingerprint in the spec may be that of another of the host's keys.
			if last != nil {
				wrong.Have = append(last.Have, wrong.Have...)
			}
			last = wrong
			tried := algorithmsOf(check.presented.Type())
			algorithms = slices.DeleteFunc(slices.Clone(algorithms), func(a string) bool { return slices.Contains(tried, a) })
			if check.pin != nil && check.pin.Type() == "" && len(algorithms) > 0 {
				continue
			}
			err = wrong
		case refusesKeys(err) && len(keys) > 1 && !signed:
			keys = keys[1:]
			continue
		default:
			err = d.explain(err, t, signed)
		}
		return nil, nil, fmt.Errorf("%s: SSH to %s@%s: %w", t.Name, t.User, addr, err)
	}
}

func (d *dialer) connect(ctx context.Context, t Target, addr string) (net.Conn, error) {
	dial := (&net.Dialer{Control: giveUpAfter(ackTimeout)}).DialContext
	if t.Jump != "" {
		via, err := d.jump(ctx, t)
		if err != nil {
			return nil, err
		}
		dial = via.DialContext
	}
	timeout := t.Patience.full().Connect
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	begin := time.Now()
	nc, err := dial(ctx, "tcp", addr)
	if errors.Is(err, syscall.EHOSTUNREACH) && time.Since(begin) < time.Second {
		// The kernel has asked for the host's hardware address before, perhaps while the host was still down. It asks again now.
		nc, err = dial(ctx, "tcp", addr)
	}
	if err != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)) {
		<-ctx.Done() // the dialer's timer for the same moment was first
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if refused := (*ssh.OpenChannelError)(nil); errors.As(err, &refused) && refused.Reason == ssh.Prohibited {
		return nil, fmt.Errorf("no SSH connection to %s: the jump host does not forward it (%w); set AllowTcpForwarding to yes or local in the sshd_config of the jump host, and check PermitOpen", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("no SSH connection to %s: %w; is the host up, the address right, and the port open?", addr, err)
	}
	return nc, nil
}

// giveUpAfter has the kernel end a connection whose peer acknowledges nothing for that long.
func giveUpAfter(d time.Duration) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) (err error) {
		if cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		}); cerr != nil {
			return cerr
		}
		return err
	}
}

func (d *dialer) handshake(ctx context.Context, nc net.Conn, addr string, config *ssh.ClientConfig, p Patience) (*ssh.Client, error) {
	nc, err := banner(ctx, nc, p.Banner)
	if err != nil {
		return nil, err
	}
	select {
	case d.turns <- struct{}{}:
		defer func() { <-d.turns }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.Login, fmt.Errorf("no SSH handshake within %s", p.Login))
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
func banner(ctx context.Context, nc net.Conn, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the port is open, but sshd sent nothing within %s", timeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	r := bufio.NewReaderSize(nc, 4096)
	if _, err := r.Peek(1); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("sshd closed the connection immediately: %w", err)
	}
	return &peeked{nc, r}, nil
}

// peeked is a connection from which the first bytes were already read.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// jump is one connection to a jump host. All hosts behind it share it, because sshd limits the number of connections.
type jump struct {
	mu     sync.Mutex
	client *ssh.Client
	ended  chan struct{} // closed when the connection ends
	err    error         // why there is no connection
}

func (j *jump) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.client != nil {
		j.client.Close()
	}
}

func (d *dialer) jump(ctx context.Context, t Target) (*ssh.Client, error) {
	to, err := jumpTarget(t)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprint(to.User, "@", to.Address, ":", to.Port, " ", to.KeyFile, " ", to.KnownHostsFile, " ", to.Jump, " ", to.JumpKeyFiles)
	d.mu.Lock()
	j := d.jumps[name]
	if j == nil {
		j = &jump{}
		d.jumps[name] = j
	}
	d.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.err != nil:
		return nil, j.err
	case j.client != nil:
		select {
		case <-j.ended: // and is dialed again
		default:
			return j.client, nil
		}
	}
	client, key, err := d.client(ctx, to)
	if err != nil {
		if j.client == nil {
			j.err = err // the other hosts need not wait for the same failure
		}
		return nil, err
	}
	d.access.admit(to, key)
	ended := make(chan struct{})
	go func() {
		client.Wait() //nolint:errcheck // that it ended is enough
		close(ended)
	}()
	j.client, j.ended = client, ended
	return client, nil
}

// forget has jump hosts dialed again that could not be reached.
func (d *dialer) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.jumps {
		j.mu.Lock()
		j.err = nil
		j.mu.Unlock()
	}
}

// jumpTarget reads user@address:port; what is left out is the host's own user, and port 22. Of several jump hosts, the last one connects to
// the host, and is reached through the others.
func jumpTarget(t Target) (Target, error) {
	others, last := "", t.Jump
	if i := strings.LastIndex(t.Jump, ","); i >= 0 {
		others, last = t.Jump[:i], t.Jump[i+1:]
	}
	key, keys := t.KeyFile, t.JumpKeyFiles
	if n := len(keys); n > 0 {
		key, keys = keys[n-1], keys[:n-1]
	}
	j := Target{Name: "jump host", KeyFile: key, JumpKeyFiles: keys, KnownHostsFile: t.KnownHostsFile, User: t.User, Port: 22, Address: last, Jump: others, Patience: t.Patience, Notice: t.Notice, relay: true}
	if u, rest, ok := strings.Cut(last, "@"); ok {
		j.User, j.Address = u, rest
	}
	if h, p, err := net.SplitHostPort(j.Address); err == nil {
		j.Address = h
		if j.Port, err = strconv.Atoi(p); err != nil {
			return j, fmt.Errorf("jump host %q: bad port", last)
		}
	} else {
		j.Address = strings.Trim(j.Address, "[]")
	}
	return j, nil
}

// Why a host answers and lets nobody in.
var (
	errNoKey    = errors.New("no key was accepted")
	errKeyAlone = errors.New("the host accepted the key, and refused the login")
)

// witness notes that its key was used to sign.
type witness struct {
	ssh.Signer
	signed *bool
}

func (w witness) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	*w.signed = true
	return w.Signer.Sign(rand, data)
}

// algorithmWitness is a witness whose key can sign with several algorithms.
type algorithmWitness struct {
	witness
	with ssh.AlgorithmSigner
}

func (w algorithmWitness) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	*w.signed = true
	return w.with.SignWithAlgorithm(rand, data, algorithm)
}

// choosyWitness is a witness whose key says with which algorithms it can sign.
type choosyWitness struct {
	algorithmWitness
	ssh.MultiAlgorithmSigner
}

func (w choosyWitness) PublicKey() ssh.PublicKey { return w.Signer.PublicKey() }

func (w choosyWitness) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return w.witness.Sign(rand, data)
}

func (w choosyWitness) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	return w.algorithmWitness.SignWithAlgorithm(rand, data, algorithm)
}

// witnessed are keys that note whether one of them was used to sign.
func witnessed(keys []ssh.Signer, signed *bool) (out []ssh.Signer) {
	for _, k := range keys {
		w := witness{k, signed}
		switch with := k.(type) {
		case ssh.MultiAlgorithmSigner:
			out = append(out, choosyWitness{algorithmWitness{w, with}, with})
		case ssh.AlgorithmSigner:
			out = append(out, algorithmWitness{w, with})
		default:
			out = append(out, w)
		}
	}
	return out
}

// refusesKeys reports whether a host let nobody in, or ended the connection because too many keys were tried.
func refusesKeys(err error) bool {
	said := strings.ToLower(err.Error())
	return strings.Contains(said, "unable to authenticate") || strings.Contains(said, "too many authentication failures")
}

func (d *dialer) explain(err error, t Target, signed bool) error {
	if !refusesKeys(err) {
		return err
	}
	keyField, userField := "ssh.keyFile", "ssh.user"
	if t.relay {
		keyField, userField = "ssh.jumpKeyFile", "the user in ssh.jump"
	}
	if signed {
		return fmt.Errorf("%w of user %s: it wants more than a key, such as a code or a password (AuthenticationMethods in its sshd_config), or does not let this user in. Let the user log in with a key alone, or change %s; the host's journal says why it refused (`journalctl -u ssh -u sshd`)",
			errKeyAlone, t.User, userField)
	}
	if end := d.access.expired(t.KeyFile); !end.IsZero() {
		return fmt.Errorf("%w for user %s: the certificate of %s expired at %s; get a new one", errNoKey, t.User, t.KeyFile, end.UTC().Format(time.RFC3339))
	}
	advice := "put the public key into the host's authorized_keys, or set " + keyField
	if untried := d.access.untried(); t.KeyFile == "" && len(untried) > 0 {
		advice += "; what was not tried, because it has a passphrase: " + strings.Join(untried, ", ") + " (load it into the agent with ssh-add, or name it as " + keyField + ")"
	}
	return fmt.Errorf("%w for user %s: %s", errNoKey, t.User, advice)
}
