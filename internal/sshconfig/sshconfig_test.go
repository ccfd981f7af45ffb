package sshconfig

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/spec"
)

// usual is what OpenSSH 9.2 prints for a host that no configuration mentions, cut to what matters.
const usual = "user alice\nhostname HOST\nport 22\nidentityfile ~/.ssh/id_rsa\nidentityfile ~/.ssh/id_ed25519\nuserknownhostsfile /home/alice/.ssh/known_hosts /home/alice/.ssh/known_hosts2\n"

// recorded is a Config with answers of `ssh -G` to lines that replace usual ones.
func recorded(answers map[string]string) *Config {
	return &Config{query: func(_ context.Context, defaults bool, host string) (string, error) {
		given := ""
		if !defaults {
			given = answers[host]
		}
		var out strings.Builder
		out.WriteString(given)
		for line := range strings.Lines(strings.ReplaceAll(usual, "HOST", host)) {
			option, _, _ := strings.Cut(line, " ")
			if !strings.HasPrefix(given, option+" ") && !strings.Contains(given, "\n"+option+" ") {
				out.WriteString(line)
			}
		}
		return out.String(), nil
	}, lookup: func(_ context.Context, name string) ([]string, error) {
		if name == "cp-d.example.com" {
			return []string{"fd00::1", "10.0.0.14"}, nil
		}
		return nil, errors.New("no such host")
	}}
}

func TestApply(t *testing.T) {
	dir := t.TempDir()
	key, jumpKey := filepath.Join(dir, "prod"), filepath.Join(dir, "jump")
	for _, f := range []string{key, jumpKey + ".pub"} { // the agent has the other one
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := recorded(map[string]string{
		"cp-a":      "hostname 10.0.0.11\nuser admin\nport 2222\nidentityfile " + dir + "/missing\nidentityfile " + key + "\ncertificatefile " + key + "-cert.pub\nuserknownhostsfile /k1 /k2\nproxyjump ops@b1.example.com:2200,b2\n",
		"b2":        "hostname b2.example.com\nuser jumper\nidentityfile " + jumpKey + "\n",
		"cp-b":      "hostname 192.0.2.7\nuser root\n",
		"10.0.0.13": "user pattern\nproxyjump ssh://b3\n",
		"b3":        "hostname b3.example.com\nproxyjump b4\n",
		"cp-d":      "hostname cp-d.example.com\nidentityfile " + dir + "/%n-%r\nproxycommand nc %h %p\nhostkeyalias prod\n",
		"cp-f":      "user admin\nuserknownhostsfile /dev/null\n",
		"cp-g":      "hostname 192.0.2.17\nuser root\n",
		"192.0.2.8": "user gate\n",
	})
	hosts := []spec.Host{
		{Name: "cp-a"},
		{Name: "cp-b", Address: "10.0.0.12", SSH: spec.SSH{Port: 2022}},
		{Name: "cp-c", Address: "10.0.0.13"},
		{Name: "cp-d"},
		{Name: "cp-e"},
		{Name: "cp-f", Address: "10.0.0.16"}, // with a block of its name, and no HostName in it
		{Name: "cp-g", Address: "10.0.0.17", SSH: spec.SSH{Address: "192.0.2.17"}}, // it gets no note
		{Name: "cp-h", Address: "10.0.0.18", SSH: spec.SSH{Address: "192.0.2.8"}},  // with a pattern of this address
	}
	notes, err := c.Apply(t.Context(), hosts)
	if err != nil {
		t.Fatal(err)
	}
	want := []spec.Host{
		{Name: "cp-a", Address: "10.0.0.11", SSH: spec.SSH{User: "admin", Port: 2222, KeyFile: key, KnownHostsFile: "/k1", Jump: "ops@b1.example.com:2200,jumper@b2.example.com", JumpKeyFile: "," + jumpKey + ".pub"}},
		{Name: "cp-b", Address: "10.0.0.12", SSH: spec.SSH{Address: "192.0.2.7", Port: 2022}},
		{Name: "cp-c", Address: "10.0.0.13", SSH: spec.SSH{User: "pattern", Jump: "alice@b4,alice@b3.example.com"}},
		{Name: "cp-d", Address: "10.0.0.14", SSH: spec.SSH{User: "alice"}},
		{Name: "cp-e", SSH: spec.SSH{User: "alice"}},
		{Name: "cp-f", Address: "10.0.0.16", SSH: spec.SSH{User: "admin"}},
		{Name: "cp-g", Address: "10.0.0.17", SSH: spec.SSH{Address: "192.0.2.17"}},
		{Name: "cp-h", Address: "10.0.0.18", SSH: spec.SSH{Address: "192.0.2.8", User: "gate"}},
	}
	for i := range want {
		if hosts[i].Address != want[i].Address || hosts[i].SSH != want[i].SSH {
			t.Errorf("%+v\nwant %+v", hosts[i], want[i])
		}
	}
	for _, said := range []string{"has 2 keys for cp-a", "OpenSSH uses the usual keys on the jump host b1.example.com of cp-a", "The address of cp-d is 10.0.0.14",
		"sets proxycommand for cp-d", "sets hostkeyalias for cp-d", "cp-e has no address", "does not exist (" + dir + "/cp-d-alice)", "remembers no key of cp-f"} {
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, said) }) {
			t.Errorf("no note says that %s", said)
		}
	}
	if len(notes) != 8 {
		t.Errorf("%d notes: %q", len(notes), notes)
	}
}

// TestEachJumpHostHasTheKeyOfItsHostBlock: IdentityFile is of one host, also where that is a jump host.
func TestEachJumpHostHasTheKeyOfItsHostBlock(t *testing.T) {
	dir := t.TempDir()
	var keys []string
	for _, name := range []string{"k0", "k1", "k2"} {
		keys = append(keys, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	block := func(key, jump string) string { return "user root\nidentityfile " + key + "\nproxyjump " + jump + "\n" }
	for name, tc := range map[string]struct {
		first, second, want string
	}{
		"a key for each":      {keys[1], keys[2], keys[1] + "," + keys[2]},
		"one for both":        {keys[1], keys[1], keys[1]},
		"that of the host":    {keys[0], keys[0], ""},
		"one is that of host": {keys[0], keys[2], keys[0] + "," + keys[2]},
	} {
		c := recorded(map[string]string{"cp-a": block(keys[0], "b1,b2"), "b1": block(tc.first, "none"), "b2": block(tc.second, "none")})
		hosts := []spec.Host{{Name: "cp-a", Address: "10.0.0.11"}}
		notes, err := c.Apply(t.Context(), hosts)
		if err != nil || len(notes) > 0 {
			t.Fatalf("%s: %q, %v", name, notes, err)
		}
		if got := hosts[0].SSH.JumpKeyFile; got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestThePortsOfAGatewayAreUsedAtTheGateway: the port of a HostName is not a port of the address that the other hosts use.
func TestThePortsOfAGatewayAreUsedAtTheGateway(t *testing.T) {
	c := recorded(map[string]string{"cp-a": "hostname gate.example.com\nport 2201\nuser root\n", "cp-b": "hostname gate.example.com\nport 2202\nuser root\n"})
	hosts := []spec.Host{{Name: "cp-a", Address: "10.0.0.11"}, {Name: "cp-b", Address: "10.0.0.12"}}
	notes, err := c.Apply(t.Context(), hosts)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []spec.SSH{{Address: "gate.example.com", Port: 2201}, {Address: "gate.example.com", Port: 2202}} {
		if hosts[i].SSH != want {
			t.Errorf("%+v, want %+v", hosts[i].SSH, want)
		}
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "set ssh.hostPort") {
		t.Errorf("%q", notes)
	}
}

// TestAnAliasIsReplaced: an inventory may name a host as the configuration of OpenSSH does, and nobody else knows that name.
func TestAnAliasIsReplaced(t *testing.T) {
	c := recorded(map[string]string{"web1": "hostname 203.0.113.11\nport 2201\nuser root\n"})
	hosts := []spec.Host{{Name: "cp-a", Address: "10.0.0.11", SSH: spec.SSH{Address: "web1"}}}
	if notes, err := c.Apply(t.Context(), hosts); err != nil || len(notes) > 0 {
		t.Fatalf("%q, %v", notes, err)
	}
	if want := (spec.SSH{Address: "203.0.113.11", Port: 2201}); hosts[0].SSH != want {
		t.Errorf("%+v, want %+v", hosts[0].SSH, want)
	}
}

// TestUsable: IPv4 is preferred, and other hosts cannot use an address of one link.
func TestUsable(t *testing.T) {
	for want, found := range map[string][]string{
		"10.0.0.14": {"fd00::1", "10.0.0.14", "10.0.0.15"},
		"fd00::1":   {"fe80::1%eth0", "fd00::1", "fd00::2"},
		"":          {"fe80::1"},
	} {
		if got := Usable(found, nil); got != want {
			t.Errorf("%v: %q", found, got)
		}
	}
	if got := Usable([]string{"10.0.0.14"}, errors.New("timeout")); got != "" {
		t.Errorf("after an error: %q", got)
	}
}

// TestJumpsInACircle would not end.
func TestJumpsInACircle(t *testing.T) {
	c := recorded(map[string]string{"cp-a": "hostname 10.0.0.11\nproxyjump b1\n", "b1": "proxyjump b2\n", "b2": "proxyjump b1\n"})
	if _, err := c.Apply(t.Context(), []spec.Host{{Name: "cp-a"}}); err == nil || !strings.Contains(err.Error(), "lead back to itself") {
		t.Errorf("got %v", err)
	}
}

// TestTheCertificateOfAnotherPlace is named, because only one next to the key is used.
func TestTheCertificateOfAnotherPlace(t *testing.T) {
	c := recorded(map[string]string{"cp-a": "hostname 10.0.0.11\nidentityfile /k/prod\ncertificatefile /vault/signed.pub\n"})
	notes, err := c.Apply(t.Context(), []spec.Host{{Name: "cp-a"}})
	if err != nil || len(notes) != 2 || !strings.Contains(notes[0], "link or copy it to /k/prod-cert.pub") {
		t.Errorf("%q, %v", notes, err)
	}
}

// TestOpenSSH asks the real program.
func TestOpenSSH(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("there is no ssh on this machine")
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("Host cp-*\n  User admin\n  ProxyJump ops@bastion.example.com\nHost cp-a\n  HostName 10.0.0.11\nMatch originalhost cp-b\n  HostName 10.0.0.12\n  Port 2222\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hosts := []spec.Host{{Name: "cp-a"}, {Name: "cp-b"}}
	notes, err := Open(file).Apply(t.Context(), hosts)
	if err != nil || len(notes) > 0 {
		t.Fatalf("%q, %v", notes, err)
	}
	for i, want := range []spec.Host{
		{Address: "10.0.0.11", SSH: spec.SSH{User: "admin", Jump: "ops@bastion.example.com"}},
		{Address: "10.0.0.12", SSH: spec.SSH{User: "admin", Port: 2222, Jump: "ops@bastion.example.com"}},
	} {
		if hosts[i].Address != want.Address || hosts[i].SSH != want.SSH {
			t.Errorf("%+v", hosts[i])
		}
	}
	if _, err := Open(file+".missing").Apply(t.Context(), hosts); err == nil || !strings.Contains(err.Error(), "config.missing") {
		t.Errorf("a file that does not exist: %v", err)
	}
}
