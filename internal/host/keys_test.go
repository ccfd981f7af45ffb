package host_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
)

// runAgent starts an agent with private keys, and has callers use it.
func runAgent(t *testing.T, keys ...any) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: k}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, c) //nolint:errcheck // ends with the test
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	t.Setenv("HOME", t.TempDir()) // without usual keys
}

func newKey(t *testing.T) (ed25519.PrivateKey, ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer.PublicKey()
}

func writePublic(t *testing.T, path string, key ssh.PublicKey) {
	t.Helper()
	if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(key), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAgentWithManyKeys: sshd ends a connection after a few keys, and an agent has them in any order.
func TestAgentWithManyKeys(t *testing.T) {
	right, public := newKey(t)
	var keys []any
	for range 8 {
		other, _ := newKey(t)
		keys = append(keys, other)
	}
	runAgent(t, append(keys, right)...)
	s := serve(t, sshtest.Options{Key: public})
	works(t, t.Context(), s.target)
	if n := s.Logins.Load(); n != 1 {
		t.Errorf("%d logins", n)
	}
	stranger := serve(t, sshtest.Options{})
	stranger.target.KeyFile = ""
	if _, err := host.Dial(t.Context(), stranger.target); err == nil || !strings.Contains(err.Error(), "no key was accepted for user root") {
		t.Errorf("none of them fits: %v", err)
	}
}

// TestALockedUsualKey is not asked for while the agent has other keys, and not silently left out either.
func TestALockedUsualKey(t *testing.T) {
	other, _ := newKey(t)
	runAgent(t, other)
	file, public, err := sshtest.NewKey(t.TempDir(), "open sesame")
	if err != nil {
		t.Fatal(err)
	}
	usual := filepath.Join(os.Getenv("HOME"), ".ssh")
	if err := os.Mkdir(usual, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, filepath.Join(usual, "id_ed25519")); err != nil {
		t.Fatal(err)
	}
	s := serve(t, sshtest.Options{Key: public})
	if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), "because it has a passphrase: "+usual+"/id_ed25519") {
		t.Errorf("got %v", err)
	}
}

// TestPublicKeyChooses: a public key as the key file stands for the private one that the agent has.
func TestPublicKeyChooses(t *testing.T) {
	right, public := newKey(t)
	other, otherPublic := newKey(t)
	runAgent(t, other, right)
	s := serve(t, sshtest.Options{Key: public})
	s.target.KeyFile = filepath.Join(t.TempDir(), "id.pub")
	writePublic(t, s.target.KeyFile, public)
	works(t, t.Context(), s.target)
	s.target.KeyFile = filepath.Join(t.TempDir(), "other.pub")
	writePublic(t, s.target.KeyFile, otherPublic)
	if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), "no key was accepted") {
		t.Errorf("another key was used as well: %v", err)
	}
	_, nobodys := newKey(t)
	s.target.KeyFile = filepath.Join(t.TempDir(), "nobodys.pub")
	writePublic(t, s.target.KeyFile, nobodys)
	if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), "the agent does not have its private key") {
		t.Errorf("a key that the agent does not have: %v", err)
	}
}

// TestUserCertificates: the certificate of a key is next to it, as ssh-keygen and Vault's command write it.
func TestUserCertificates(t *testing.T) {
	authority, err := sshtest.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, sshtest.Options{Authority: authority.PublicKey()})
	file, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	s.target.KeyFile = file
	dial := func() error {
		c, err := host.Dial(t.Context(), s.target)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(); err == nil {
		t.Fatal("a key without a certificate was accepted")
	}
	certify := func(key ssh.PublicKey, end uint64) {
		t.Helper()
		cert := &ssh.Certificate{Key: key, CertType: ssh.UserCert, KeyId: "ops", ValidPrincipals: []string{"root"}, ValidBefore: end}
		if err := cert.SignCert(rand.Reader, authority); err != nil {
			t.Fatal(err)
		}
		writePublic(t, file+"-cert.pub", cert)
	}
	certify(public, ssh.CertTimeInfinity)
	for _, name := range []string{file, file + "-cert.pub"} {
		s.target.KeyFile = name
		works(t, t.Context(), s.target)
	}
	s.target.KeyFile = file
	certify(public, uint64(time.Now().Add(-time.Hour).Unix()))
	if err := dial(); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("an expired certificate: %v", err)
	}
	_, other := newKey(t)
	certify(other, ssh.CertTimeInfinity)
	if err := dial(); err == nil || !strings.Contains(err.Error(), "is not that of the key") {
		t.Errorf("the certificate of another key: %v", err)
	}
	writePublic(t, file+"-cert.pub", public)
	if err := dial(); err == nil || !strings.Contains(err.Error(), "without a certificate") {
		t.Errorf("no certificate: %v", err)
	}
	// Where the key itself is authorized, an expired certificate is no obstacle.
	plain := serve(t, sshtest.Options{Key: public})
	plain.target.KeyFile = file
	certify(public, uint64(time.Now().Add(-time.Hour).Unix()))
	works(t, t.Context(), plain.target)
}

// TestAKeyIsNotEnough: a host that accepts the key and then asks for a code has not refused the key. Other keys are of no use there.
func TestAKeyIsNotEnough(t *testing.T) {
	refused := func(t *testing.T, target host.Target) {
		t.Helper()
		_, err := host.Dial(t.Context(), target)
		if err == nil || strings.Contains(err.Error(), "no key was accepted") {
			t.Fatalf("got %v", err)
		}
		for _, part := range []string{"the host accepted the key, and refused the login of user root", "AuthenticationMethods", "with a key alone"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in %v", part, err)
			}
		}
	}
	gate := serve(t, sshtest.Options{SecondFactor: true})
	refused(t, gate.target)
	behind := serve(t, sshtest.Options{})
	behind.target.Jump, behind.target.JumpKeyFiles = "root@127.0.0.1:"+strconv.Itoa(gate.Port()), []string{gate.target.KeyFile}
	refused(t, behind.target)
	if _, err := host.Dial(t.Context(), behind.target); err == nil || !strings.Contains(err.Error(), "the user in ssh.jump") {
		t.Errorf("a jump host: %v", err)
	}
	right, public := newKey(t)
	keys := []any{right}
	for range 5 { // more than are tried in one connection
		other, _ := newKey(t)
		keys = append(keys, other)
	}
	runAgent(t, keys...)
	refused(t, serve(t, sshtest.Options{SecondFactor: true, Key: public}).target)
}

// TestJumpHostsOneAfterTheOther also has a key for jump hosts that the host does not accept.
func TestJumpHostsOneAfterTheOther(t *testing.T) {
	s := serve(t, sshtest.Options{})
	jumpKey, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	first, second := serve(t, sshtest.Options{Key: public, User: "ops"}), serve(t, sshtest.Options{Key: public})
	s.target.Jump = "ops@127.0.0.1:" + strconv.Itoa(first.Port()) + ",127.0.0.1:" + strconv.Itoa(second.Port())
	if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), "no key was accepted for user ops") || !strings.Contains(err.Error(), "set ssh.jumpKeyFile") {
		t.Errorf("the key of the host on a jump host: %v", err)
	}
	s.target.JumpKeyFiles = []string{jumpKey, jumpKey}
	works(t, t.Context(), s.target)
	if a, b := first.Forwards.Load(), second.Forwards.Load(); a != 1 || b != 1 {
		t.Errorf("the first forwarded %d connections, the second %d", a, b)
	}
	if a, b := first.Sessions.Load(), second.Sessions.Load(); a+b != 0 {
		t.Errorf("programs were run on jump hosts: %d, %d", a, b)
	}
}

// TestEachJumpHostHasItsOwnKey: no jump host accepts the key of another one, or of the host.
func TestEachJumpHostHasItsOwnKey(t *testing.T) {
	s := serve(t, sshtest.Options{})
	var hops, keys []string
	for range 3 {
		key, public, err := sshtest.NewKey(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		hops, keys = append(hops, "127.0.0.1:"+strconv.Itoa(serve(t, sshtest.Options{Key: public}).Port())), append(keys, key)
	}
	s.target.Jump, s.target.JumpKeyFiles = strings.Join(hops, ","), keys
	works(t, t.Context(), s.target)
	s.target.JumpKeyFiles = []string{keys[0], keys[2], keys[1]}
	if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), "no key was accepted") {
		t.Errorf("with the keys of two jump hosts exchanged: %v", err)
	}
}

// TestAJumpHostThatForwardsNothing: the message names the setting.
func TestAJumpHostThatForwardsNothing(t *testing.T) {
	s := serve(t, sshtest.Options{})
	jump := serve(t, sshtest.Options{Key: s.Key(), NoForwarding: true})
	s.target.Jump = "127.0.0.1:" + strconv.Itoa(jump.Port())
	if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), "AllowTcpForwarding") {
		t.Errorf("got %v", err)
	}
}
