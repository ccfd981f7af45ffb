package watch

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

func put(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func me(t *testing.T) *user.User {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// keyOf makes the key of a control plane.
func keyOf(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := makeKey(root); err != nil {
		t.Fatal(err)
	}
	return identity(root).Key
}

// TestTheKey is made once, only root can read it, and it stays.
func TestTheKey(t *testing.T) {
	root := t.TempDir()
	if err := makeKey(root); err != nil {
		t.Fatal(err)
	}
	first := identity(root).Key
	if err := makeKey(root); err != nil || first == "" || identity(root).Key != first {
		t.Errorf("%v: %q, then %q", err, first, identity(root).Key)
	}
	for path, mode := range map[string]fs.FileMode{facts.WatchKeyFile: 0o600, facts.WatchDir: 0o700} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	put(t, filepath.Join(root, facts.WatchKeyFile), "cut off", 0o600)
	if err := makeKey(root); err != nil || identity(root).Key == "" || identity(root).Key == first {
		t.Errorf("a damaged key is not made again: %v", err)
	}
}

// TestAdmission: each control plane is admitted from its own address, for one command; other lines and the mode of the file stay, and so
// does a control plane that could not be asked.
func TestAdmission(t *testing.T) {
	root, u := t.TempDir(), me(t)
	path := filepath.Join(root, u.HomeDir, ".ssh/authorized_keys")
	const others = "ssh-ed25519 AAAA somebody\n"
	put(t, path, others, 0o640)
	a, b := keyOf(t), keyOf(t)
	in := Admission{WatchAdmits: facts.WatchAdmits{Generation: "1", User: u.Username, Units: map[string]facts.WatchUnit{"cp-a": {Key: a, Address: "10.0.0.11"}, "cp-b": {Key: b, Address: "10.0.0.12"}}}}
	if err := in.write(root); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(text), others) {
		t.Fatalf("%v: %s", err, text)
	}
	command := hostconfig.SelfPath + ` host serve --for-repairs \"$SSH_ORIGINAL_COMMAND\"`
	if u.Username != "root" {
		command = "sudo -n " + command
	}
	if line := `restrict,from="10.0.0.12",command="` + command + `" ` + b + " quorate-watch-of-cp-b\n"; !strings.Contains(string(text), line) {
		t.Errorf("%s is not in\n%s", line, text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if w := Read(root, time.Now()); w.Admits == nil || w.Admits.Broken != "" || w.Admits.Units["cp-a"].Key != a {
		t.Errorf("%+v", w.Admits)
	}
	// cp-a cannot be asked, and cp-b is no control plane any more.
	c := keyOf(t)
	in = Admission{WatchAdmits: facts.WatchAdmits{Generation: "2", User: u.Username, Units: map[string]facts.WatchUnit{"cp-c": {Key: c, Address: "10.0.0.13"}}}, Keep: []string{"cp-a", "cp-x"}}
	if err := in.write(root); err != nil {
		t.Fatal(err)
	}
	if w := Read(root, time.Now()); w.Admits == nil || len(w.Admits.Units) != 2 || w.Admits.Units["cp-a"].Key != a || w.Admits.Units["cp-c"].Key != c || w.Admits.Generation != "2" {
		t.Errorf("%+v", w.Admits)
	}
	if text, _ = os.ReadFile(path); strings.Contains(string(text), b) || strings.Count(string(text), "BEGIN quorate") != 1 {
		t.Errorf("%s", text)
	}
	put(t, path, strings.Replace(string(text), "restrict,", "", 1), 0o640)
	if w := Read(root, time.Now()); !strings.Contains(w.Admits.Broken, "changed") {
		t.Errorf("%+v", w.Admits)
	}
	if err := Revoke(root); err != nil {
		t.Fatal(err)
	}
	if text, _ = os.ReadFile(path); string(text) != others {
		t.Errorf("%q is left", text)
	}
	if err := Revoke(root); err != nil || Read(root, time.Now()).Admits != nil {
		t.Errorf("again: %v", err)
	}
}

// TestWhatIsNoKeyIsNotAdmitted: nothing that a host is given becomes an option, or another line, of authorized_keys.
func TestWhatIsNoKeyIsNotAdmitted(t *testing.T) {
	key := keyOf(t)
	for name, u := range map[string]facts.WatchUnit{
		"cp-a":            {Key: key + "\n" + key, Address: "10.0.0.11"},
		"cp-b":            {Key: `command="sh" ` + key, Address: "10.0.0.11"},
		"cp-c":            {Key: key, Address: `10.0.0.11",command="sh`},
		"cp-d":            {Key: "", Address: "10.0.0.11"},
		"cp-e\nssh-rsa A": {Key: key, Address: "10.0.0.11"},
	} {
		a := Admission{WatchAdmits: facts.WatchAdmits{User: "root", Units: map[string]facts.WatchUnit{name: u}}}
		if lines, err := a.lines(); err == nil {
			t.Errorf("%q: %s", name, lines)
		}
	}
}

// TestWhatMayBeRestored is what was approved, and nothing that differs in any part.
func TestWhatMayBeRestored(t *testing.T) {
	unit := facts.File{Path: "/etc/systemd/system/x.service", Content: "[Service]\n", Restart: []string{"x.service"}, Check: []string{"verify"}}
	ca := facts.File{Path: "/etc/haproxy/quorate-ca.crt", Content: "PEM", ClusterCA: true}
	a := Approve(facts.Desired{Files: []facts.File{unit, ca}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}, Modules: []string{"overlay"}, Enable: []string{"x.service"}},
		"a: 1\nbootstrapTokens:\n- description: quorate apply\n  token: abcdef.0123456789abcdef\n  ttl: 10m0s\n")
	ca.ClusterCA = false
	for _, d := range []facts.Desired{
		{Files: []facts.File{unit, ca}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}, Modules: []string{"overlay"}, Enable: []string{"x.service"}, Self: hostconfig.SelfPath, EtcdGuard: true},
		{Files: []facts.File{hostconfig.Drained([]string{"cp-a", "cp-b"})}}, {},
	} {
		if err := a.Allows(d); err != nil {
			t.Error(err)
		}
	}
	change := func(f func(*facts.File)) facts.Desired {
		c := unit
		f(&c)
		return facts.Desired{Files: []facts.File{c}}
	}
	for name, d := range map[string]facts.Desired{
		"content": change(func(f *facts.File) { f.Content += "ExecStart=/bin/sh\n" }),
		"path":    change(func(f *facts.File) { f.Path = "/etc/systemd/system/y.service" }),
		"mode":    change(func(f *facts.File) { f.Mode = 0o4755 }),
		"block":   change(func(f *facts.File) { f.Block = "x" }),
		"restart": change(func(f *facts.File) { f.Restart = []string{"sshd.service"} }),
		"check":   change(func(f *facts.File) { f.Check = []string{"sh", "-c", "id"} }),
		"sysctl":  {Sysctls: map[string]string{"net.ipv4.ip_forward": "0"}},
		"other":   {Sysctls: map[string]string{"kernel.core_pattern": "|/bin/sh"}},
		"module":  {Modules: []string{"evil"}},
		"unit":    {Enable: []string{"evil.service"}},
		"absent":  {Absent: []string{"/etc/passwd"}},
		"self":    {Self: "/etc/cron.d/x"},
		"drained": {Files: []facts.File{{Path: hostconfig.DrainedFile, Content: "$(id)\n"}}},
	} {
		if err := a.Allows(d); err == nil || !strings.Contains(err.Error(), "quorate repair") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := a.AllowsConfig("a: 1\nbootstrapTokens:\n- description: quorate apply\n  token: fedcba.fedcba9876543210\n  ttl: 10m0s\n"); err != nil {
		t.Errorf("another token: %v", err)
	}
	if err := a.AllowsConfig("a: 2\nbootstrapTokens:\n- description: quorate apply\n  token: abcdef.0123456789abcdef\n  ttl: 10m0s\n"); err == nil {
		t.Error("another configuration")
	}
}

// TestTheConfiguration of a unit names the keys of all hosts as SSH reads them.
func TestTheConfiguration(t *testing.T) {
	root := t.TempDir()
	key := keyOf(t)
	put(t, filepath.Join(root, "/etc/ssh/ssh_host_ed25519_key.pub"), key+" root@cp-a\n", 0o644)
	put(t, filepath.Join(root, "/etc/ssh/ssh_host_rsa_key.pub"), "broken\n", 0o644)
	id := identity(root)
	if len(id.HostKeys) != 1 || id.HostKeys[0] != key {
		t.Fatalf("%+v", id)
	}
	if w := Read(root, time.Now()); w.Given() || w.Config != nil || w.Admits != nil {
		t.Errorf("%+v", w)
	}
	c := Config{WatchNote: facts.WatchNote{Generation: "1", HostKeys: map[string][]string{"cp-a": id.HostKeys}}, Host: "cp-a", Spec: "x", At: map[string]string{"cp-a": "10.0.0.11:2222"}}
	if err := c.write(root); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(root, facts.WatchKnownHostsFile)); err != nil || string(text) != "[10.0.0.11]:2222 "+key+"\n" {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := knownhosts.New(filepath.Join(root, facts.WatchKnownHostsFile)); err != nil {
		t.Error(err)
	}
	if w := Read(root, time.Now()); !w.Given() || w.Config.Generation != "1" || w.Config.HostKeys["cp-a"][0] != key {
		t.Errorf("%+v", w.Config)
	}
	put(t, filepath.Join(root, facts.WatchConfigFile), "{", 0o600)
	if w := Read(root, time.Now()); w.Config == nil || w.Config.Generation != "" {
		t.Errorf("%+v", w.Config) // and so it is written again
	}
}

// TestAReportSaysHowLongAgo that was, by the clock of its host: what is shown elsewhere depends on no other clock.
func TestAReportSaysHowLongAgo(t *testing.T) {
	root, now := t.TempDir(), time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
	put(t, filepath.Join(root, facts.WatchReportFile), `{"looked": "2026-08-03T11:59:56Z", "leads": true, "compared": {"at": "2026-08-03T11:56:00Z", "hashes": {"1d": {"revision": 9, "hash": 7}}}}`, 0o600)
	r := Read(root, now).Report
	if r == nil || r.AgoSeconds != 4 || !r.Leads || r.Compared == nil || r.Compared.AgoSeconds != 240 || r.Compared.Hashes["1d"].Hash != 7 {
		t.Errorf("%+v", r)
	}
}
