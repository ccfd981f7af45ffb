package host_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
)

// sink reads what the caller sends.
var sink = host.DefineStream("test.sink", func(_ context.Context, _ struct{}, r io.Reader) (int64, error) { return io.Copy(io.Discard, r) })

var double = host.Define("test.double", func(_ context.Context, n int) (int, error) { return 2 * n, nil })

type server struct {
	*sshtest.Server
	target host.Target
}

func serve(t *testing.T, o sshtest.Options) *server {
	t.Helper()
	dir := t.TempDir()
	keyFile := ""
	if o.Key == nil {
		var err error
		if keyFile, o.Key, err = sshtest.NewKey(dir, ""); err != nil {
			t.Fatal(err)
		}
	}
	s, err := sshtest.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return &server{s, s.Target("cp-a", keyFile, filepath.Join(dir, "known_hosts"))}
}

// known has the server's key on record.
func (s *server) known(t *testing.T) *server {
	t.Helper()
	if err := os.WriteFile(s.target.KnownHostsFile, []byte(s.Known()), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// works dials and has the host do something.
func works(t *testing.T, ctx context.Context, target host.Target) {
	t.Helper()
	c, err := host.Dial(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := double.On(ctx, c, 21); err != nil || got != 42 {
		t.Fatalf("double = %d, %v", got, err)
	}
}

func TestDialTakesOneSession(t *testing.T) {
	s := serve(t, sshtest.Options{})
	works(t, t.Context(), s.target)
	if n := s.Sessions.Load(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestDialUploadsTheBinaryWhereItIsMissing(t *testing.T) {
	s := serve(t, sshtest.Options{})
	s.NoBinary.Store(true)
	works(t, t.Context(), s.target)
	if s.Uploads.Load() != 1 || s.Sessions.Load() != 3 {
		t.Errorf("%d uploads in %d sessions", s.Uploads.Load(), s.Sessions.Load())
	}
}

func TestHostKeyIsRecordedOnceAndThenVerified(t *testing.T) {
	s := serve(t, sshtest.Options{})
	var notices []string
	s.target.Notice = func(n string) { notices = append(notices, n) }
	for range 2 {
		works(t, t.Context(), s.target)
	}
	if len(notices) != 1 || !strings.Contains(notices[0], "SHA256:") {
		t.Errorf("notices %q", notices)
	}
	imposter := serve(t, sshtest.Options{})
	known, err := os.ReadFile(s.target.KnownHostsFile)
	if err != nil {
		t.Fatal(err)
	}
	// The same address, another key.
	moved := strings.ReplaceAll(string(known), strconv.Itoa(s.Port()), strconv.Itoa(imposter.Port()))
	if err := os.WriteFile(imposter.target.KnownHostsFile, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Dial(t.Context(), imposter.target); err == nil || !strings.Contains(err.Error(), "is not the one on record") {
		t.Errorf("an imposter is met with %v", err)
	}
	if imposter.Sessions.Load() != 0 {
		t.Error("a session was opened with an imposter")
	}
}

func TestDialSaysWhatIsWrong(t *testing.T) {
	s := serve(t, sshtest.Options{})
	stranger := serve(t, sshtest.Options{}).target.KeyFile
	locked, _, err := sshtest.NewKey(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*host.Target)
		want   string
	}{
		"a wrong key":                    {func(t *host.Target) { t.KeyFile = stranger }, "no key was accepted for user root"},
		"a missing key":                  {func(t *host.Target) { t.KeyFile += "x" }, "reading the SSH key"},
		"a locked key and nobody to ask": {func(t *host.Target) { t.KeyFile = locked }, "has a passphrase, and there is no terminal to prompt on"},
		"a closed port":                  {func(t *host.Target) { t.Port = 1 }, "is the host up, the address right, and the port open?"},
		"a jump host with a bad port":    {func(t *host.Target) { t.Jump = "root@127.0.0.1:x" }, "bad port"},
		"a jump host that is not there":  {func(t *host.Target) { t.Jump = "root@127.0.0.1:1" }, "jump host: no SSH connection"},
		"a user that is not on the host": {func(t *host.Target) { t.User = "somebody" }, "no key was accepted for user somebody"},
	} {
		target := s.target
		tc.change(&target)
		_, err := host.Dial(t.Context(), target)
		if err == nil || !strings.HasPrefix(err.Error(), "cp-a") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSudo(t *testing.T) {
	for name, tc := range map[string]struct {
		asks, password string
		want           string
		prompts        int32
	}{
		"without a password":             {want: ""},
		"a password that is not needed":  {password: "secret", want: ""},
		"a password":                     {asks: "secret", password: "secret", prompts: 1},
		"a wrong password":               {asks: "secret", password: "wrong", want: "sudo does not accept the password of ops", prompts: 2},
		"a password that nobody gave":    {asks: "secret", want: "--ask-sudo-password"},
		"a password that looks like one": {asks: "quorate-sudo-", password: "quorate-sudo-", prompts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, sshtest.Options{User: "ops", SudoPassword: tc.asks}).known(t)
			ctx := host.WithAccess(t.Context(), &host.Access{SudoPassword: tc.password})
			if tc.want == "" {
				works(t, ctx, s.target)
			} else if _, err := host.Dial(ctx, s.target); err == nil || !strings.Contains(err.Error(), tc.want) || tc.password != "" && strings.Contains(err.Error(), tc.password) {
				t.Errorf("got %v", err)
			}
			if n := s.Prompts.Load(); n != tc.prompts {
				t.Errorf("sudo asked %d times, want %d", n, tc.prompts)
			}
		})
	}
}

// TestSudoAsksForSomethingElse: a question of PAM's own is no prompt of sudo's. The password is no answer to it, and there is no other one.
func TestSudoAsksForSomethingElse(t *testing.T) {
	for name, o := range map[string]sshtest.Options{
		"a second factor":         {User: "ops", SudoPassword: "secret", SudoAsks: "Duo two-factor login for ops\n\nPasscode or option (1-2): "},
		"a prompt of sssd's own":  {User: "ops", SudoAsks: "Password for ops@EXAMPLE.COM: "},
		"a question without more": {User: "ops", SudoAsks: "Code?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, o).known(t)
			begin := time.Now()
			_, err := host.Dial(host.WithAccess(t.Context(), &host.Access{SudoPassword: "secret"}), s.target)
			lines := strings.Split(o.SudoAsks, "\n")
			if err == nil || !strings.Contains(err.Error(), strconv.Quote(strings.TrimSpace(lines[len(lines)-1]))) || !strings.Contains(err.Error(), "passprompt_override") || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestSudoAsked: who logs in later without a password has to know that it was needed, and not only that there was one.
func TestSudoAsked(t *testing.T) {
	for asks, want := range map[string]bool{"": false, "secret": true} {
		s := serve(t, sshtest.Options{User: "ops", SudoPassword: asks}).known(t)
		c, err := host.Dial(host.WithAccess(t.Context(), &host.Access{SudoPassword: "secret"}), s.target)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.SudoAsked() != want {
			t.Errorf("sudo that asks for %q: %t", asks, c.SudoAsked())
		}
	}
}

// TestSudoPasswordGoesBeforeTheBinary would fail when the upload began while sudo still reads its password.
func TestSudoPasswordGoesBeforeTheBinary(t *testing.T) {
	s := serve(t, sshtest.Options{User: "ops", SudoPassword: "secret"}).known(t)
	s.NoBinary.Store(true)
	works(t, host.WithAccess(t.Context(), &host.Access{SudoPassword: "secret"}), s.target)
	if s.Uploads.Load() != 1 || s.Prompts.Load() != 3 {
		t.Errorf("%d uploads, %d prompts", s.Uploads.Load(), s.Prompts.Load())
	}
}

func TestPassphraseIsAskedOnce(t *testing.T) {
	file, public, err := sshtest.NewKey(t.TempDir(), "open sesame")
	if err != nil {
		t.Fatal(err)
	}
	var targets []host.Target
	for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
		s := serve(t, sshtest.Options{Key: public})
		s.target.Name, s.target.KeyFile = name, file
		targets = append(targets, s.target)
	}
	asked := 0
	access := &host.Access{Passphrase: func(f string) (string, error) {
		if asked++; f != file {
			return "", errors.New("which key?")
		}
		return "open sesame", nil
	}}
	set := host.DialAll(host.WithAccess(t.Context(), access), targets)
	defer set.Close()
	for _, target := range targets {
		if _, err := set.Get(target.Name); err != nil {
			t.Error(err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	wrong := &host.Access{Passphrase: func(string) (string, error) { return "nonsense", nil }}
	if _, err := host.Dial(host.WithAccess(t.Context(), wrong), targets[0]); err == nil || !strings.Contains(err.Error(), "wrong passphrase") {
		t.Errorf("a wrong passphrase: %v", err)
	}
}

// TestAgentHoldsALockedKey has an agent sign for a key whose file nobody can unlock.
func TestAgentHoldsALockedKey(t *testing.T) {
	file, public, err := sshtest.NewKey(t.TempDir(), "open sesame")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ssh.ParseRawPrivateKeyWithPassphrase(data, []byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var connections atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go agent.ServeAgent(ring, c) //nolint:errcheck // ends with the test
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	var targets []host.Target
	for _, name := range []string{"cp-a", "cp-b"} {
		s := serve(t, sshtest.Options{Key: public})
		s.target.Name, s.target.KeyFile = name, file
		targets = append(targets, s.target)
	}
	set := host.DialAll(t.Context(), targets)
	defer set.Close()
	for _, target := range targets {
		if _, err := set.Get(target.Name); err != nil {
			t.Error(err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections to the agent", n)
	}
}

// TestJumpHostIsUsedOnceForAll also has a user and a port of its own on the jump host, and its key on record.
func TestJumpHostIsUsedOnceForAll(t *testing.T) {
	file, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	jump := serve(t, sshtest.Options{Key: public, User: "bastion"})
	var targets []host.Target
	for _, name := range []string{"cp-a", "cp-b", "cp-c", "cp-d"} {
		s := serve(t, sshtest.Options{Key: public})
		s.target.Name, s.target.KeyFile, s.target.KnownHostsFile = name, file, known
		s.target.Jump = "bastion@127.0.0.1:" + strconv.Itoa(jump.Port())
		targets = append(targets, s.target)
	}
	set := host.DialAll(t.Context(), targets)
	for _, target := range targets {
		c, err := set.Get(target.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := double.On(t.Context(), c, 4); err != nil || got != 8 {
			t.Errorf("%s: %d, %v", target.Name, got, err)
		}
	}
	set.Close()
	if jump.Logins.Load() != 1 || jump.Forwards.Load() != 4 {
		t.Errorf("%d logins, %d forwards", jump.Logins.Load(), jump.Forwards.Load())
	}
	data, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), "\n"); n != 5 || !strings.Contains(string(data), "[127.0.0.1]:"+strconv.Itoa(jump.Port())) {
		t.Errorf("known_hosts has %d lines:\n%s", n, data)
	}
	// Another machine at the jump host's address is not spoken to.
	imposter := serve(t, sshtest.Options{Key: public, User: "bastion"})
	moved := strings.ReplaceAll(string(data), strconv.Itoa(jump.Port()), strconv.Itoa(imposter.Port()))
	if err := os.WriteFile(known, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	targets[0].Jump = "bastion@127.0.0.1:" + strconv.Itoa(imposter.Port())
	if _, err := host.Dial(t.Context(), targets[0]); err == nil || !strings.Contains(err.Error(), "is not the one on record") {
		t.Errorf("an imposter of the jump host is met with %v", err)
	}
	if imposter.Forwards.Load() != 0 {
		t.Error("an imposter was asked to connect further")
	}
}

// TestFrozenHostsDoNotHoldUpOthers has more hosts that accept connections and say nothing than there are turns.
func TestFrozenHostsDoNotHoldUpOthers(t *testing.T) {
	good := serve(t, sshtest.Options{})
	frozen := serve(t, sshtest.Options{Frozen: true})
	var targets []host.Target
	for i := range 100 {
		f := frozen.target
		f.Name = "frozen-" + strconv.Itoa(i)
		targets = append(targets, f)
	}
	targets = append(targets, good.target)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan *host.Set)
	go func() { done <- host.DialAll(ctx, targets) }()
	for good.Sessions.Load() == 0 { // the test's own time limit is that of this loop
		select {
		case <-done:
			t.Fatal("all was given up")
		case <-t.Context().Done():
			t.Fatal("the good host waits for the frozen ones")
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel(errors.New("enough"))
	set := <-done
	defer set.Close()
	if _, err := set.Get("frozen-7"); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

// endless is a body that never ends, and says when it is read.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) { e.read.Add(int64(len(b))); return len(b), nil }

// TestACallToAFrozenHostEnds: a host that is gone acknowledges nothing, so a call that sends something to it waits in a
// write. It ends with the session.
func TestACallToAFrozenHostEnds(t *testing.T) {
	s := serve(t, sshtest.Options{}).known(t)
	c, err := host.Dial(t.Context(), s.target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var body endless
	done := make(chan error, 1)
	go func() {
		_, err := sink.Send(t.Context(), c, struct{}{}, &body)
		done <- err
	}()
	for body.read.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.Stall()
	for before := int64(-1); before != body.read.Load(); time.Sleep(200 * time.Millisecond) {
		before = body.read.Load() // until nothing more can be sent
	}
	c.Lose()
	var over *host.SessionError
	if err := <-done; !errors.As(err, &over) {
		t.Errorf("got %v", err)
	}
}

func TestSetKeepsTheReason(t *testing.T) {
	s := serve(t, sshtest.Options{})
	dead := s.target
	dead.Name, dead.Port = "cp-b", 1
	set := host.DialAll(t.Context(), []host.Target{s.target, dead})
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

// TestNoPortForwarding: connections from a host need nothing of its sshd.
func TestNoPortForwarding(t *testing.T) {
	s := serve(t, sshtest.Options{NoForwarding: true})
	c, err := host.Dial(t.Context(), s.target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if nc, err := l.Accept(); err == nil {
			io.Copy(nc, nc) //nolint:errcheck // the test would notice
			nc.Close()
		}
	}()
	nc, err := c.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(nc, buf); err != nil || string(buf) != "hello" {
		t.Errorf("read %q, %v", buf, err)
	}
	if s.Rejected.Load()+s.Forwards.Load() != 0 {
		t.Error("sshd was asked to forward a port")
	}
}

func TestNoisyShells(t *testing.T) {
	for name, noise := range map[string]string{
		"lines":           "Welcome!\nYou have mail.\n",
		"no end of line":  "\x1b]0;cp-a\x07",
		"both":            "Welcome!\n$ ",
		"longer than any": strings.Repeat("x", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, sshtest.Options{Noise: noise})
			s.NoBinary.Store(true)
			works(t, t.Context(), s.target)
		})
	}
}

// TestForcedCommand: what a cloud's image prints instead of running the program is the best explanation there is.
func TestForcedCommand(t *testing.T) {
	const words = `Please login as the user "debian" rather than the user "root".`
	s := serve(t, sshtest.Options{Forced: "\x1b[1m" + words + "\n"})
	_, err := host.Dial(t.Context(), s.target)
	if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "ssh.user") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("got %v", err)
	}
}

// TestAnotherBuildIsRecognized: a host whose copy of quorate is of another build can be reached, and says so before it ends.
func TestAnotherBuildIsRecognized(t *testing.T) {
	ctx := host.WithAccess(t.Context(), &host.Access{Installed: true})
	for said, want := range map[string]bool{"Error: " + host.ErrOtherBuild.Error() + "\n": true, "Error: something else\n": false} {
		s := serve(t, sshtest.Options{Forced: said})
		set := host.DialAll(ctx, []host.Target{s.target})
		_, err := set.Get(s.target.Name)
		if err == nil || errors.Is(err, host.ErrOtherBuild) != want {
			t.Errorf("%q: %v", said, err)
		}
		set.Close()
	}
}

// TestProgramsThatCannotRun: the reason is a mount option, or that the binary is for other processors.
func TestProgramsThatCannotRun(t *testing.T) {
	for mounts, want := range map[string]string{
		"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n40 22 8:2 / /var/lib rw,noexec shared:2 - ext4 /dev/sda2 rw\n": "/var/lib is mounted with the option noexec",
		"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n":                                                              "which is for linux/" + runtime.GOARCH + ": ",
	} {
		s := serve(t, sshtest.Options{Mounts: mounts})
		if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if !strings.Contains(want, "noexec") {
			want = "is not there"
		}
		s = serve(t, sshtest.Options{Mounts: mounts, FailsTest: true})
		if _, err := host.Dial(t.Context(), s.target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("where test -x fails: got %v, want %q", err, want)
		}
	}
}

// TestAfterABlip: the network fails and comes back.
func TestAfterABlip(t *testing.T) {
	s := serve(t, sshtest.Options{})
	jump := serve(t, sshtest.Options{Key: s.Key()})
	jumped := s.target
	jumped.Name, jumped.Jump = "cp-b", "root@127.0.0.1:"+strconv.Itoa(jump.Port())
	set := host.DialAll(t.Context(), []host.Target{s.target, jumped})
	defer set.Close()
	for range 2 {
		for _, name := range []string{"cp-a", "cp-b"} {
			c, err := set.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			for c.Err() == nil { // the caller notices when it reads the end
				s.Disconnect()
				jump.Disconnect()
				time.Sleep(time.Millisecond)
			}
			if got, err := double.On(t.Context(), c, 4); err != nil || got != 8 {
				t.Errorf("%s: %d, %v", name, got, err)
			}
		}
	}
	if jump.Logins.Load() < 2 {
		t.Error("the jump host was not connected to again")
	}
}

// dropping is the port of a host that drops packets: its queue of connections is full, and the kernel answers nothing.
func dropping(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	for range 4 { // more than fit into the queue
		nc, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 50*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { nc.Close() })
	}
	t.Fatal("the listener takes all connections")
	return 0
}

// TestADeadHostCostsOnlyItsPatience at each stage at which a host can stop to answer, with and without a jump host.
func TestADeadHostCostsOnlyItsPatience(t *testing.T) {
	const soon = 40 * time.Millisecond
	file, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	target := func(s *server) host.Target {
		s.target.KeyFile = file
		return s.target
	}
	frozen := target(serve(t, sshtest.Options{Key: public, Frozen: true}))
	hung := target(serve(t, sshtest.Options{Key: public, Hung: true}))
	dead := frozen
	dead.Port = dropping(t)
	behind := func(jump host.Target) host.Target {
		t := target(serve(t, sshtest.Options{Key: public}))
		t.Jump = "root@127.0.0.1:" + strconv.Itoa(jump.Port)
		return t
	}
	for name, tc := range map[string]struct {
		target   host.Target
		patience host.Patience
		want     string
	}{
		"packets are dropped":            {dead, host.Patience{Connect: soon}, "no answer within 40ms"},
		"packets to a jump host":         {behind(dead), host.Patience{Connect: soon}, "no answer within 40ms"},
		"sshd is frozen":                 {frozen, host.Patience{Banner: soon}, "sshd sent nothing within 40ms"},
		"sshd of a jump host":            {behind(frozen), host.Patience{Banner: soon}, "sshd sent nothing within 40ms"},
		"no session opens after a login": {hung, host.Patience{Start: soon}, "it did not answer within 40ms"},
	} {
		tc.target.Patience = tc.patience
		set := host.DialAll(t.Context(), []host.Target{tc.target})
		if _, err := set.Get(tc.target.Name); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		set.Close()
	}
}

// TestHostsAreTriedAgain that could not be reached, and their jump hosts.
func TestHostsAreTriedAgain(t *testing.T) {
	up := serve(t, sshtest.Options{})
	late := serve(t, sshtest.Options{Key: up.Key(), Address: "127.0.0.1:0"})
	ctx, end := context.WithCancel(t.Context())
	jump, err := sshtest.Start(ctx, sshtest.Options{Key: up.Key()})
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(jump.Port()))
	end()
	for { // until nothing listens there
		nc, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		nc.Close()
	}
	late.target.Name, late.target.KeyFile, late.target.KnownHostsFile, late.target.Jump = "cp-b", up.target.KeyFile, up.target.KnownHostsFile, "root@"+address
	set := host.DialAll(t.Context(), []host.Target{up.target, late.target})
	defer set.Close()
	if got := set.Retry(t.Context()); len(got) != 0 {
		t.Fatalf("reached %v", got)
	}
	if _, err := sshtest.Start(t.Context(), sshtest.Options{Key: up.Key(), Address: address}); err != nil {
		t.Fatal(err)
	}
	if got := set.Retry(t.Context()); !slices.Equal(got, []string{"cp-b"}) {
		t.Fatalf("reached %v", got)
	}
	if c, err := set.Get("cp-b"); err != nil {
		t.Error(err)
	} else if got, err := double.On(t.Context(), c, 4); err != nil || got != 8 {
		t.Errorf("%d, %v", got, err)
	}
	if got := set.Retry(t.Context()); len(got) != 0 || up.Logins.Load() != 1 {
		t.Errorf("reached %v; the other host has %d logins", got, up.Logins.Load())
	}
}
