package host

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshServer is a real SSH server whose only program is the host side, in this process.
type sshServer struct {
	target   Target
	sessions atomic.Int32
	noBinary atomic.Bool // its first session finds no binary
	uploads  atomic.Int32
}

func serveSSH(t *testing.T) *sshServer {
	t.Helper()
	dir := t.TempDir()
	_, client, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(client, "")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(client)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(signer.PublicKey().Marshal()) {
			return nil, os.ErrPermission
		}
		return nil, nil
	}}
	config.AddHostKey(hostKey(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &sshServer{target: Target{Name: "cp-a", Address: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "root",
		KeyFile: keyFile, KnownHostsFile: filepath.Join(dir, "known_hosts")}}
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(t.Context(), nc, config)
		}
	}()
	return s
}

func hostKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func (s *sshServer) serve(ctx context.Context, nc net.Conn, config *ssh.ServerConfig) {
	conn, channels, requests, err := ssh.NewServerConn(nc, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go s.session(ctx, channel, requests)
	}
}

func (s *sshServer) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			continue
		}
		s.sessions.Add(1)
		r.Reply(true, nil) //nolint:errcheck // the client would notice
		status := byte(0)
		switch command := string(r.Payload[4:]); {
		case strings.Contains(command, "sha256sum"):
			io.Copy(io.Discard, channel) //nolint:errcheck // the client would notice
			s.uploads.Add(1)
			s.noBinary.Store(false)
		case s.noBinary.Load():
			status = 127
		default:
			Ready(channel)               //nolint:errcheck // see above
			Serve(ctx, channel, channel) //nolint:errcheck // ends with the session
		}
		channel.SendRequest("exit-status", false, []byte{0, 0, 0, status}) //nolint:errcheck // see above
		return
	}
}

func TestDialTakesOneSession(t *testing.T) {
	s := serveSSH(t)
	c, err := Dial(t.Context(), s.target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := sum.On(t.Context(), c, sumIn{2, 3}); err != nil || got != 5 {
		t.Fatalf("sum = %d, %v", got, err)
	}
	if n := s.sessions.Load(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestDialUploadsTheBinaryWhereItIsMissing(t *testing.T) {
	s := serveSSH(t)
	s.noBinary.Store(true)
	c, err := Dial(t.Context(), s.target)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if s.uploads.Load() != 1 || s.sessions.Load() != 3 {
		t.Errorf("%d uploads in %d sessions", s.uploads.Load(), s.sessions.Load())
	}
}

func TestHostKeyIsRecordedOnceAndThenVerified(t *testing.T) {
	s := serveSSH(t)
	var notices []string
	s.target.Notice = func(n string) { notices = append(notices, n) }
	for range 2 {
		c, err := Dial(t.Context(), s.target)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if len(notices) != 1 || !strings.Contains(notices[0], "SHA256:") {
		t.Errorf("notices %q", notices)
	}
	imposter := serveSSH(t)
	known, err := os.ReadFile(s.target.KnownHostsFile)
	if err != nil {
		t.Fatal(err)
	}
	// The same address, another key.
	moved := strings.ReplaceAll(string(known), port(s), port(imposter))
	if err := os.WriteFile(imposter.target.KnownHostsFile, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), imposter.target); err == nil || !strings.Contains(err.Error(), "host key is not the one on record") {
		t.Errorf("an imposter is met with %v", err)
	}
	if imposter.sessions.Load() != 0 {
		t.Error("a session was opened with an imposter")
	}
}

func port(s *sshServer) string { return strconv.Itoa(s.target.Port) }

func TestDialSaysWhatIsWrong(t *testing.T) {
	s := serveSSH(t)
	stranger := serveSSH(t).target.KeyFile
	for name, tc := range map[string]struct {
		change func(*Target)
		want   string
	}{
		"a wrong key":   {func(t *Target) { t.KeyFile = stranger }, "no key was accepted for user root"},
		"a missing key": {func(t *Target) { t.KeyFile += "x" }, "reading the SSH key"},
		"a closed port": {func(t *Target) { t.Port = 1 }, "is the host up, the address right, and the port open?"},
	} {
		target := s.target
		tc.change(&target)
		_, err := Dial(t.Context(), target)
		if err == nil || !strings.HasPrefix(err.Error(), "cp-a") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSetKeepsTheReason(t *testing.T) {
	s := serveSSH(t)
	dead := s.target
	dead.Name, dead.Port = "cp-b", 1
	set := DialAll(t.Context(), []Target{s.target, dead})
	defer set.Close()
	if _, err := set.Get("cp-a"); err != nil {
		t.Error(err)
	}
	if _, err := set.Get("cp-b"); err == nil || !strings.HasPrefix(err.Error(), "cp-b: no SSH connection") {
		t.Errorf("got %v", err)
	}
	if _, err := set.Get("cp-c"); err == nil {
		t.Error("a host that nobody dialled has a session")
	}
}
