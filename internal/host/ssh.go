package host

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
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
	pipe := &pipeConn{Reader: out, Writer: stdin, closed: make(chan struct{}), close: func() { stdin.Close(); session.Close() }}
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

// upload writes the binary under its digest. The digest is checked on the host before the final name
// exists, so a name that exists is a whole binary.
func upload(ctx context.Context, client *ssh.Client, t Target, me self, remote string) error {
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	f, err := os.Open(me.path)
	if err != nil {
		return err
	}
	defer f.Close()
	stderr := &tail{}
	session.Stdin, session.Stderr = f, stderr
	dir := filepath.Dir(remote)
	script := "set -e; umask 077; mkdir -p " + dir + "; t=$(mktemp " + dir + "/.upload.XXXXXX); trap \"rm -f $t\" EXIT; cat >$t; " +
		"echo \"" + me.digest + "  $t\" | sha256sum -c - >&2; chmod 0755 " + binDir + " " + dir + " $t; mv $t " + remote
	if err := session.Run(sudo(t) + "sh -c '" + script + "'"); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("uploading quorate: %w: %s%s", err, stderr, sudoAdvice(t, stderr.String()))
	}
	return nil
}

// self is this program's own binary and its SHA-256 in hex, read once.
type self struct{ path, digest string }

var executable = sync.OnceValues(func() (self, error) {
	path, err := os.Executable()
	if err != nil {
		return self{}, fmt.Errorf("finding this program's own binary: %w", err)
	}
	digest, err := digestOf(path)
	return self{path, digest}, err
})

// RemotePath is where Dial puts this binary on a host; a lab places it there beforehand.
func RemotePath() (local, remote string, err error) {
	me, err := executable()
	return me.path, binDir + "/" + me.digest + "/quorate", err
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

func authMethods(t Target) ([]ssh.AuthMethod, error) {
	if t.KeyFile != "" {
		signer, err := loadKey(expand(t.KeyFile))
		if err != nil {
			return nil, err
		}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}, nil
	}
	var methods []ssh.AuthMethod
	if sock := os.Getenv("SSH_AUTH_SOCK"); sock != "" {
		if nc, err := net.Dial("unix", sock); err == nil {
			methods = append(methods, ssh.PublicKeysCallback(agent.NewClient(nc).Signers))
		}
	}
	var signers []ssh.Signer
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		if s, err := loadKey(expand("~/.ssh/" + name)); err == nil {
			signers = append(signers, s)
		}
	}
	if len(signers) > 0 {
		methods = append(methods, ssh.PublicKeys(signers...))
	}
	if len(methods) == 0 {
		return nil, errors.New("no SSH key: set ssh.keyFile, start an agent, or put a key into ~/.ssh")
	}
	return methods, nil
}

func loadKey(path string) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the SSH key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("the SSH key %s has a passphrase: load it into an agent with ssh-add", path)
	}
	if err != nil {
		return nil, fmt.Errorf("the SSH key %s: %w", path, err)
	}
	return signer, nil
}

func expand(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		if u, uerr := user.Current(); uerr == nil {
			home = u.HomeDir
		}
	}
	return filepath.Join(home, rest)
}

// knownKeys verifies host keys against a known_hosts file and records those seen for the first time.
type knownKeys struct {
	file   string
	notice func(string)
	verify ssh.HostKeyCallback
}

// recording serialises additions to known_hosts files: many hosts are dialled at once.
var recording sync.Mutex

func hostKeys(t Target) (*knownKeys, error) {
	file := expand(t.KnownHostsFile)
	if file == "" {
		file = expand("~/.ssh/known_hosts")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	f.Close()
	verify, err := knownhosts.New(file)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	return &knownKeys{file: file, notice: t.Notice, verify: verify}, nil
}

func (k *knownKeys) check(addr string, remote net.Addr, key ssh.PublicKey) error {
	err := k.verify(addr, remote, key)
	var keyErr *knownhosts.KeyError
	if !errors.As(err, &keyErr) || len(keyErr.Want) > 0 {
		return err
	}
	recording.Lock()
	defer recording.Unlock()
	f, err := os.OpenFile(k.file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("recording the host key of %s: %w", addr, err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, knownhosts.Line([]string{knownhosts.Normalize(addr)}, key)); err != nil {
		return fmt.Errorf("recording the host key of %s: %w", addr, err)
	}
	if k.notice != nil {
		k.notice(fmt.Sprintf("first connection to %s: recorded its host key %s in %s", addr, ssh.FingerprintSHA256(key), k.file))
	}
	return nil
}

// algorithms asks for the key types that known_hosts has for the host: a server with several keys
// would otherwise offer one that was never recorded, which looks like an attack.
func (k *knownKeys) algorithms(t Target) []string {
	// known_hosts can only be asked about a key: any key that is not in it makes it name those that are.
	probe, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	addr := net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	var keyErr *knownhosts.KeyError
	if !errors.As(k.verify(addr, &net.TCPAddr{IP: net.ParseIP(t.Address), Port: t.Port}, probe), &keyErr) {
		return nil
	}
	var out []string
	for _, w := range keyErr.Want {
		if typ := w.Key.Type(); typ == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			out = append(out, typ)
		}
	}
	return out
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

// tail keeps the last few kilobytes written to it, for error messages.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 4096; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
