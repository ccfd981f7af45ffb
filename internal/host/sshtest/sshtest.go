// Package sshtest runs SSH servers for tests and benchmarks: real servers, whose only program is the real host side, in this
// process.
package sshtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"quorate.dev/quorate/internal/host"
)

// Options are what a server is like.
type Options struct {
	// Address to listen on, 127.0.0.1:0 if it is empty.
	Address string
	// Key is the public key that is accepted.
	Key ssh.PublicKey
	// Authority signs the certificates of users that are accepted. If it is set, no key is accepted without one.
	Authority ssh.PublicKey
	// User is the only user; root if it is empty.
	User string
	// SudoPassword is what sudo asks the user for; nothing if it is empty.
	SudoPassword string
	// SudoAsks is a question of PAM's own that sudo asks: after the password, or instead of it if SudoPassword is empty.
	SudoAsks string
	// SecondFactor has the server ask for a code after the key, as `AuthenticationMethods publickey,keyboard-interactive` does.
	SecondFactor bool
	// Frozen makes the server accept connections and send nothing.
	Frozen bool
	// Hung makes the server accept logins and open no session.
	Hung bool
	// HostKeys are the keys of the host, which may be certificates. If there are none, one is generated.
	HostKeys []ssh.Signer
	// NoForwarding rejects port forwarding, as `AllowTcpForwarding no` does.
	NoForwarding bool
	// Noise is what the login shell prints before it runs a program.
	Noise string
	// Mounts is the host's /proc/self/mountinfo; it runs no programs of ours then.
	Mounts string
	// FailsTest makes a host with Mounts take uploads and say that no program can be executed, as `test -x` does on a mount
	// with noexec from Linux 5.8 on. Earlier kernels say so only when the program is started.
	FailsTest bool
	// Forced is what a forced command prints; it runs instead of any program and fails.
	Forced string
}

// Server is a running server. It counts what clients did.
type Server struct {
	Logins, Sessions, Uploads, Prompts, Forwards atomic.Int32
	// Rejected counts the port forwardings that NoForwarding rejected.
	Rejected atomic.Int32
	// NoBinary is set while the host does not have the caller's binary.
	NoBinary atomic.Bool

	opts     Options
	listener net.Listener

	stalled atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

// Start starts a server that ends with the context.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.User == "" {
		o.User = "root"
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if o.Authority != nil {
			checker := ssh.CertChecker{IsUserAuthority: func(key ssh.PublicKey) bool { return bytes.Equal(key.Marshal(), o.Authority.Marshal()) }}
			return checker.Authenticate(c, key)
		}
		if c.User() != o.User || !bytes.Equal(key.Marshal(), o.Key.Marshal()) {
			return nil, os.ErrPermission
		}
		if o.SecondFactor {
			return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{KeyboardInteractiveCallback: func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				return nil, os.ErrPermission
			}}}
		}
		return nil, nil
	}}
	if len(o.HostKeys) == 0 {
		key, err := NewHostKey()
		if err != nil {
			return nil, err
		}
		o.HostKeys = []ssh.Signer{key}
	}
	for _, key := range o.HostKeys {
		config.AddHostKey(key)
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, listener: l}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			if o.Frozen {
				context.AfterFunc(ctx, func() { nc.Close() })
				continue
			}
			nc = &stalling{Conn: nc, server: s, closed: make(chan struct{})}
			context.AfterFunc(ctx, func() { nc.Close() })
			s.mu.Lock()
			s.conns = append(s.conns, nc)
			s.mu.Unlock()
			go s.serve(ctx, nc, config)
		}
	}()
	return s, nil
}

// Port is where it listens.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Known is the line of a known_hosts file with the server's first key.
func (s *Server) Known() string {
	return knownhosts.Line([]string{knownhosts.Normalize(s.listener.Addr().String())}, s.opts.HostKeys[0].PublicKey()) + "\n"
}

// Key is the private key that is accepted.
func (s *Server) Key() ssh.PublicKey { return s.opts.Key }

// Target is how it is reached with a key.
func (s *Server) Target(name, keyFile, knownHosts string) host.Target {
	return host.Target{Name: name, Address: s.listener.Addr().(*net.TCPAddr).IP.String(), Port: s.Port(), User: s.opts.User, KeyFile: keyFile, KnownHostsFile: knownHosts}
}

// NewHostKey makes a host key.
func NewHostKey() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

// Certify makes a host certificate for a key, signed by an authority. Change may alter it before it is signed.
func Certify(key, authority ssh.Signer, change func(*ssh.Certificate)) (ssh.Signer, error) {
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, KeyId: "host", ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: ssh.CertTimeInfinity}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(cert, key)
}

// Stall freezes the server until the test ends: its connections stay open, but nothing arrives from them any more.
func (s *Server) Stall() { s.stalled.Store(true) }

// stalling is a connection that stops with its machine.
type stalling struct {
	net.Conn
	server *Server
	closed chan struct{}
	once   sync.Once
}

func (c *stalling) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.server.stalled.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *stalling) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Disconnect closes all connections, as a network that fails does.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nc := range s.conns {
		nc.Close()
	}
	s.conns = nil
}

// NewKey writes a private key to a directory, encrypted if there is a passphrase.
func NewKey(dir, passphrase string) (file string, public ssh.PublicKey, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		return "", nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return "", nil, err
	}
	file = filepath.Join(dir, "key")
	return file, signer.PublicKey(), os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

func (s *Server) serve(ctx context.Context, nc net.Conn, config *ssh.ServerConfig) {
	conn, channels, requests, err := ssh.NewServerConn(nc, config)
	if err != nil {
		nc.Close()
		return
	}
	defer conn.Close()
	s.Logins.Add(1)
	go ssh.DiscardRequests(requests)
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			if s.opts.Hung {
				continue
			}
			channel, requests, err := c.Accept()
			if err != nil {
				return
			}
			go s.session(ctx, channel, requests)
		case "direct-tcpip":
			if s.opts.NoForwarding {
				s.Rejected.Add(1)
				c.Reject(ssh.Prohibited, "administratively prohibited") //nolint:errcheck // the client would notice
				continue
			}
			go s.forward(c)
		default:
			c.Reject(ssh.UnknownChannelType, "") //nolint:errcheck // the client would notice
		}
	}
}

// forward makes this a jump host.
func (s *Server) forward(c ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(c.ExtraData(), &to); err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error()) //nolint:errcheck // the client would notice
		return
	}
	out, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error()) //nolint:errcheck // see above
		return
	}
	s.Forwards.Add(1)
	channel, requests, err := c.Accept()
	if err != nil {
		out.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	go func() {
		io.Copy(out, channel) //nolint:errcheck // ends with either side
		out.Close()
	}()
	io.Copy(channel, out) //nolint:errcheck // see above
	channel.Close()
}

func (s *Server) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			continue
		}
		s.Sessions.Add(1)
		r.Reply(true, nil) //nolint:errcheck // the client would notice
		status := s.exec(ctx, channel, string(r.Payload[4:]))
		channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, status)) //nolint:errcheck // see above
		return
	}
}

func (s *Server) exec(ctx context.Context, channel ssh.Channel, command string) uint32 {
	io.WriteString(channel, s.opts.Noise) //nolint:errcheck // the client would notice
	if s.opts.Forced != "" {
		io.WriteString(channel, s.opts.Forced) //nolint:errcheck // see above
		return 142
	}
	if s.opts.User != "root" {
		rest, ok := s.sudo(channel, command)
		if !ok {
			return 1
		}
		command = rest
	}
	switch {
	case strings.Contains(command, "/proc/self/mountinfo"):
		io.WriteString(channel, "quorate mounts follow\n"+s.opts.Mounts) //nolint:errcheck // the client would notice
	case s.opts.Mounts != "" && !s.opts.FailsTest:
		io.WriteString(channel.Stderr(), "sh: 1: /var/lib/quorate/bin/x/quorate: Permission denied\n") //nolint:errcheck // see above
		return 126
	case strings.Contains(command, "mktemp"):
		io.WriteString(channel, "quorate upload ready\n") //nolint:errcheck // the client would notice
		io.Copy(io.Discard, channel)                      //nolint:errcheck // see above
		s.Uploads.Add(1)
		s.NoBinary.Store(false)
	case s.NoBinary.Load() || s.opts.FailsTest:
		return 127
	default:
		host.Ready(channel)               //nolint:errcheck // see above
		host.Serve(ctx, channel, channel) //nolint:errcheck // ends with the session
	}
	return 0
}

// sudo behaves as the real one does with -n and with -S.
func (s *Server) sudo(channel ssh.Channel, command string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(command, "sudo -n "); ok {
		if s.opts.SudoPassword != "" {
			io.WriteString(channel.Stderr(), "sudo: a password is required\n") //nolint:errcheck // the client would notice
			return "", false
		}
		return rest, true
	}
	rest, ok = strings.CutPrefix(command, "sudo -S -p ")
	prompt, rest, found := strings.Cut(rest, " ")
	if !ok || !found {
		io.WriteString(channel.Stderr(), "permission denied\n") //nolint:errcheck // see above
		return "", false
	}
	if s.opts.SudoPassword == "" {
		return rest, s.satisfied(channel)
	}
	for range 3 {
		s.Prompts.Add(1)
		io.WriteString(channel.Stderr(), prompt) //nolint:errcheck // see above
		typed, err := line(channel)
		if err != nil {
			return "", false
		}
		if typed == s.opts.SudoPassword {
			return rest, s.satisfied(channel)
		}
		io.WriteString(channel.Stderr(), "Sorry, try again.\n") //nolint:errcheck // see above
	}
	return "", false
}

// satisfied asks what PAM asks, and waits for an answer.
func (s *Server) satisfied(channel ssh.Channel) bool {
	if s.opts.SudoAsks == "" {
		return true
	}
	io.WriteString(channel.Stderr(), s.opts.SudoAsks) //nolint:errcheck // see above
	_, err := line(channel)
	return err == nil
}

// line reads up to the end of a line and not a byte further: what follows belongs to the program.
func line(r io.Reader) (string, error) {
	var out []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(out), nil
		}
		out = append(out, b[0])
	}
}
