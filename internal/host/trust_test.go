package host_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
)

var store = host.Define("test.store", func(_ context.Context, secret string) (int, error) { return len(secret), nil }, host.Secret)

func newHostKey(t *testing.T) ssh.Signer {
	t.Helper()
	key, err := sshtest.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecdsaKey(t *testing.T) ssh.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func certify(t *testing.T, key, authority ssh.Signer, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	signer, err := sshtest.Certify(key, authority, change)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func authorized(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func (s *server) knownHosts(t *testing.T, lines ...string) {
	t.Helper()
	if err := os.WriteFile(s.target.KnownHostsFile, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sendsSecret connects, as a new run, and sends a secret.
func sendsSecret(t *testing.T, access *host.Access, target host.Target) error {
	t.Helper()
	c, err := host.Dial(host.WithAccess(t.Context(), access), target)
	if err != nil {
		return err
	}
	defer c.Close()
	if n, err := double.On(t.Context(), c, 2); err != nil || n != 4 {
		t.Errorf("reading: %d, %v", n, err)
	}
	n, err := store.On(t.Context(), c, "12345")
	if err == nil && n != 5 {
		t.Errorf("%d bytes arrived", n)
	}
	return err
}

// TestWhichHostKeysAreConfirmed tries every way in which a key can be known, with a server that has one ed25519 key.
func TestWhichHostKeysAreConfirmed(t *testing.T) {
	const (
		confirmed = "confirmed"
		unknown   = "unknown"
		refused   = "refused"
	)
	authority, stranger := newHostKey(t), newHostKey(t)
	plain := newHostKey(t)
	signed := certify(t, plain, authority, nil)
	expired := certify(t, plain, authority, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Hour).Unix()) })
	elsewhere := certify(t, plain, authority, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"10.0.0.1"} })
	foreign := certify(t, plain, stranger, nil)
	for name, tc := range map[string]struct {
		keys    []ssh.Signer
		lines   func(s *server) []string
		hostKey string
		want    string
		says    string
	}{
		"no line":               {[]ssh.Signer{plain}, nil, "", unknown, ""},
		"a line":                {[]ssh.Signer{plain}, func(s *server) []string { return []string{s.Known()} }, "", confirmed, ""},
		"another key on record": {[]ssh.Signer{plain}, func(s *server) []string { return []string{line(s, stranger)} }, "", refused, "not the one on record"},
		"an unreadable line": {[]ssh.Signer{plain}, func(s *server) []string {
			return []string{"|1|nonsense", "cp-x ssh-ed25519 AAAA", s.Known(), "@new-marker * x"}
		}, "", confirmed, ""},
		"only unreadable lines":            {[]ssh.Signer{plain}, func(*server) []string { return []string{"garbage"} }, "", unknown, ""},
		"revoked":                          {[]ssh.Signer{plain}, func(s *server) []string { return []string{s.Known(), "@revoked * " + authorized(plain.PublicKey())} }, "", refused, "revoked"},
		"one of two keys on record":        {[]ssh.Signer{ecdsaKey(t), plain}, func(s *server) []string { return []string{line(s, plain)} }, "", confirmed, ""},
		"an authority, and a plain key":    {[]ssh.Signer{plain}, func(*server) []string { return []string{authorityLine("*", authority)} }, "", unknown, ""},
		"the authority's own key":          {[]ssh.Signer{authority}, func(*server) []string { return []string{authorityLine("*", authority)} }, "", unknown, ""},
		"signed":                           {[]ssh.Signer{plain, signed}, func(*server) []string { return []string{authorityLine("*", authority)} }, "", confirmed, ""},
		"signed, for hosts elsewhere":      {[]ssh.Signer{plain, signed}, func(*server) []string { return []string{authorityLine("*.example.com", authority)} }, "", unknown, ""},
		"signed by a stranger":             {[]ssh.Signer{plain, foreign}, func(*server) []string { return []string{authorityLine("*", authority)} }, "", unknown, ""},
		"signed by a stranger, and a line": {[]ssh.Signer{plain, foreign}, func(s *server) []string { return []string{authorityLine("*", authority), line(s, plain)} }, "", confirmed, ""},
		"signed, and expired":              {[]ssh.Signer{plain, expired}, func(*server) []string { return []string{authorityLine("*", authority)} }, "", refused, "certificate that is not valid"},
		"signed for another host":          {[]ssh.Signer{plain, elsewhere}, func(*server) []string { return []string{authorityLine("*", authority)} }, "", refused, "certificate that is not valid"},
		"signed, and revoked": {[]ssh.Signer{plain, signed}, func(*server) []string {
			return []string{authorityLine("*", authority), "@revoked * " + authorized(plain.PublicKey())}
		}, "", refused, "revoked"},
		"signed, the authority revoked": {[]ssh.Signer{plain, signed}, func(*server) []string {
			return []string{authorityLine("*", authority), "@revoked * " + authorized(authority.PublicKey())}
		}, "", refused, "revoked"},
		"a certificate without authority": {[]ssh.Signer{signed}, nil, "", refused, "no common algorithm"},

		"in the spec":                                  {[]ssh.Signer{plain}, nil, authorized(plain.PublicKey()) + " root@cp-a", confirmed, ""},
		"a fingerprint in the spec":                    {[]ssh.Signer{plain}, nil, ssh.FingerprintSHA256(plain.PublicKey()), confirmed, ""},
		"the fingerprint of its other key":             {[]ssh.Signer{ecdsaKey(t), plain}, nil, ssh.FingerprintSHA256(plain.PublicKey()), confirmed, ""},
		"another key in the spec":                      {[]ssh.Signer{plain}, func(s *server) []string { return []string{s.Known()} }, authorized(stranger.PublicKey()), refused, "ssh.hostKey"},
		"another fingerprint in the spec":              {[]ssh.Signer{ecdsaKey(t), plain}, nil, ssh.FingerprintSHA256(stranger.PublicKey()), refused, ssh.FingerprintSHA256(plain.PublicKey())},
		"in the spec, another key on record":           {[]ssh.Signer{plain}, func(s *server) []string { return []string{line(s, stranger)} }, ssh.FingerprintSHA256(plain.PublicKey()), confirmed, ""},
		"in the spec, and revoked":                     {[]ssh.Signer{plain}, func(*server) []string { return []string{"@revoked * " + authorized(plain.PublicKey())} }, ssh.FingerprintSHA256(plain.PublicKey()), refused, "revoked"},
		"nonsense in the spec":                         {[]ssh.Signer{plain}, nil, "SHA256:abc", refused, "not the SHA-256 fingerprint"},
		"in the spec, where it presents a certificate": {[]ssh.Signer{plain, foreign}, func(*server) []string { return []string{authorityLine("*", authority)} }, authorized(plain.PublicKey()), confirmed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, sshtest.Options{HostKeys: tc.keys})
			if tc.lines != nil {
				s.knownHosts(t, tc.lines(s)...)
			}
			before, _ := os.ReadFile(s.target.KnownHostsFile)
			s.target.HostKey = tc.hostKey
			for _, strict := range []bool{true, false} {
				logins := s.Logins.Load()
				err := sendsSecret(t, &host.Access{StrictHostKeys: strict}, s.target)
				var unconfirmed *host.UnconfirmedError
				var key *host.HostKeyError
				switch {
				case tc.want == confirmed && err != nil:
					t.Errorf("strict %v: %v", strict, err)
				case tc.want == unknown && strict && (!errors.As(err, &key) || !strings.Contains(err.Error(), "--strict-host-keys") || s.Logins.Load() > logins):
					t.Errorf("strict: %v, %d logins", err, s.Logins.Load()-logins)
				case tc.want == unknown && !strict && !errors.As(err, &unconfirmed):
					t.Errorf("a secret was sent: %v", err)
				case tc.want == refused && (err == nil || !strings.Contains(err.Error(), tc.says) || s.Logins.Load() > logins):
					t.Errorf("strict %v: %v, %d logins; want %q", strict, err, s.Logins.Load()-logins, tc.says)
				}
				after, _ := os.ReadFile(s.target.KnownHostsFile)
				if recorded := string(after) != string(before); recorded != (tc.want == unknown && !strict) {
					t.Errorf("strict %v: recorded: %v\n%s", strict, recorded, after)
				}
			}
			if tc.want == unknown {
				// What an earlier run recorded is known.
				if err := sendsSecret(t, &host.Access{StrictHostKeys: true}, s.target); err != nil {
					t.Errorf("the next run: %v", err)
				}
			}
		})
	}
}

func authorityLine(pattern string, authority ssh.Signer) string {
	return "@cert-authority " + pattern + " " + authorized(authority.PublicKey())
}

// line records a key for a server.
func line(s *server, key ssh.Signer) string {
	hosts, _, _ := strings.Cut(s.Known(), " ")
	return hosts + " " + authorized(key.PublicKey())
}

// TestOneQuestionForAllNewHosts is about the runs that send secrets.
func TestOneQuestionForAllNewHosts(t *testing.T) {
	for name, tc := range map[string]struct {
		access  func(ask func([]host.NewKey) (bool, error)) *host.Access
		answer  bool
		asked   int
		trusted bool
	}{
		"confirmed": {func(ask func([]host.NewKey) (bool, error)) *host.Access {
			return &host.Access{NeedConfirmedKeys: true, ConfirmKeys: ask}
		}, true, 1, true},
		"declined": {func(ask func([]host.NewKey) (bool, error)) *host.Access {
			return &host.Access{NeedConfirmedKeys: true, ConfirmKeys: ask}
		}, false, 1, false},
		"nobody to ask": {func(func([]host.NewKey) (bool, error)) *host.Access { return &host.Access{NeedConfirmedKeys: true} }, false, 0, false},
		"a flag": {func(ask func([]host.NewKey) (bool, error)) *host.Access {
			return &host.Access{NeedConfirmedKeys: true, AcceptNewHostKeys: true, ConfirmKeys: ask}
		}, false, 0, true},
		"the password of sudo": {func(ask func([]host.NewKey) (bool, error)) *host.Access {
			return &host.Access{SudoPassword: "secret", ConfirmKeys: ask}
		}, false, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			file, public, err := sshtest.NewKey(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			known := filepath.Join(t.TempDir(), "known_hosts")
			var servers []*server
			var targets []host.Target
			for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
				s := serve(t, sshtest.Options{Key: public, User: "ops", SudoPassword: "secret"})
				s.target.Name, s.target.KeyFile, s.target.KnownHostsFile = name, file, known
				servers, targets = append(servers, s), append(targets, s.target)
			}
			if err := os.WriteFile(known, []byte(servers[0].Known()), 0o600); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			asked := 0
			access := tc.access(func(keys []host.NewKey) (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				asked++
				var names []string
				for _, k := range keys {
					names = append(names, k.Host)
					if !strings.HasPrefix(k.Fingerprint, "SHA256:") || k.Type != "ssh-ed25519" || !strings.Contains(k.Address, "127.0.0.1") {
						t.Errorf("asked about %+v", k)
					}
				}
				slices.Sort(names)
				if !slices.Equal(names, []string{"cp-b", "cp-c"}) {
					t.Errorf("asked about %v", names)
				}
				return tc.answer, nil
			})
			access.SudoPassword = "secret"
			for round := range 2 { // the second time everything is known, or the answer still holds
				ctx := host.WithAccess(t.Context(), access)
				host.Introduce(ctx, targets)
				if n := servers[0].Logins.Load(); n != int32(round) {
					t.Errorf("%d logins on a host that was known", n)
				}
				set := host.DialAll(ctx, targets)
				for i, s := range servers {
					_, err := set.Get(s.target.Name)
					var unconfirmed *host.UnconfirmedError
					if want := i == 0 || tc.trusted; want && err != nil || !want && (!errors.As(err, &unconfirmed) || s.Prompts.Load() > 0 || s.Sessions.Load() > 0) {
						t.Errorf("%s: %v; %d prompts of sudo, %d sessions", s.target.Name, err, s.Prompts.Load(), s.Sessions.Load())
					}
				}
				set.Close()
			}
			if asked != tc.asked {
				t.Errorf("asked %d times, want %d", asked, tc.asked)
			}
			data, err := os.ReadFile(known)
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(string(data), "\n"); (lines == 3) != tc.trusted || lines != 3 && lines != 1 {
				t.Errorf("known_hosts has %d lines", lines)
			}
		})
	}
}

// TestAKeyRecordedInThisRunIsNotConfirmedByIt: otherwise the second connection of a run would send what the first may not.
func TestAKeyRecordedInThisRunIsNotConfirmedByIt(t *testing.T) {
	s := serve(t, sshtest.Options{})
	access := &host.Access{}
	for range 2 {
		var unconfirmed *host.UnconfirmedError
		if err := sendsSecret(t, access, s.target); !errors.As(err, &unconfirmed) {
			t.Errorf("got %v", err)
		}
	}
	imposter := serve(t, sshtest.Options{Address: "127.0.0.2:0", Key: s.Key()})
	imposter.target.KeyFile = s.target.KeyFile
	if err := sendsSecret(t, access, imposter.target); err == nil {
		t.Error("a secret was sent to a host that nobody has confirmed")
	}
}

// TestRecordingKeepsTheFile: a last line without an end, and several processes at once.
func TestRecordingKeepsTheFile(t *testing.T) {
	other := serve(t, sshtest.Options{})
	file, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(strings.TrimSuffix(other.Known(), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{strings.TrimSuffix(other.Known(), "\n")}
	var wg sync.WaitGroup
	for range 5 {
		s := serve(t, sshtest.Options{Key: public})
		s.target.KeyFile, s.target.KnownHostsFile = file, known
		want = append(want, strings.TrimSuffix(s.Known(), "\n"))
		for range 3 { // each is a run of its own, which read the file before the others wrote
			wg.Go(func() {
				c, err := host.Dial(t.Context(), s.target)
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			})
		}
	}
	wg.Wait()
	data, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRecordingWaitsForOtherProcesses, and then finds what they wrote.
func TestRecordingWaitsForOtherProcesses(t *testing.T) {
	s := serve(t, sshtest.Options{})
	f, err := os.OpenFile(s.target.KnownHostsFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	dialed := make(chan error, 1)
	go func() {
		c, err := host.Dial(t.Context(), s.target)
		if err == nil {
			c.Close()
		}
		dialed <- err
	}()
	select {
	case err := <-dialed:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if _, err := f.WriteString(s.Known()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-dialed; err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(s.target.KnownHostsFile); err != nil || string(data) != s.Known() {
		t.Errorf("got %q, %v", data, err)
	}
}
