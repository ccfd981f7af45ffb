package lab

import (
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	for i, p := range Profiles {
		t.Run(p.Name, func(t *testing.T) {
			if checkLabel("profile", p.Name) != nil || p.What == "" || p.Like == "" || slices.Contains(ProfileNames()[:i], p.Name) {
				t.Errorf("incomplete, or twice: %+v", p)
			}
			for _, other := range p.Excludes {
				q, ok := profile(other)
				if !ok {
					t.Errorf("it excludes %s, which does not exist", other)
				}
				if err := checkProfiles([]Machine{{Name: "m", Profiles: []string{p.Name, q.Name}}}); err == nil {
					t.Errorf("%s and %s are accepted", p.Name, q.Name)
				}
			}
			for _, f := range p.Files {
				top, _, _ := strings.Cut(strings.TrimPrefix(f.Path, "/"), "/")
				if !path.IsAbs(f.Path) || slices.Contains([]string{"var", "run", "tmp", "dev", "proc", "sys"}, top) { // they are not in the upper directory
					t.Errorf("%s cannot be written when the machine is created", f.Path)
				}
				if f.Mode.Perm() != f.Mode || f.Mode == 0 {
					t.Errorf("%s has the mode %v", f.Path, f.Mode)
				}
				if dir, name := path.Split(f.Path); dir == "/etc/sudoers.d/" && (f.Mode != 0o440 || strings.Contains(name, ".")) {
					t.Errorf("sudo ignores %s", f.Path)
				}
			}
			for _, unit := range p.Units {
				if target, name, ok := strings.Cut(unit, "/"); !ok || !strings.HasSuffix(target, ".target") || !strings.HasSuffix(name, ".service") {
					t.Errorf("%q is not TARGET/UNIT", unit)
				}
			}
			if p.Boot != "" && !strings.HasSuffix(p.Boot, "\n") {
				t.Error("the next script would continue its last line")
			}
		})
	}
}

func TestWithProfiles(t *testing.T) {
	machines := []Machine{{Name: "cp-a", Zone: "a"}, {Name: "cp-b", Zone: "b"}, {Name: "w-b", Zone: "b"}}
	for name, c := range map[string]struct {
		choices []string
		want    string // the profiles of the machines
		err     string
	}{
		"none":                {nil, "; ; ", ""},
		"all":                 {[]string{"proxy,docker"}, "docker proxy; docker proxy; docker proxy", ""},
		"one machine":         {[]string{"cp-b=docker"}, "; docker; ", ""},
		"a zone":              {[]string{"zone/b=docker"}, "; docker; docker", ""},
		"together":            {[]string{"proxy", "zone/b=docker", "w-b=hardened,proxy"}, "proxy; docker proxy; docker hardened proxy", ""},
		"unknown":             {[]string{"soft"}, "", `there is no profile "soft": must be one of hardened, `},
		"empty":               {[]string{""}, "", `there is no profile ""`},
		"nothing for one":     {[]string{"cp-a="}, "", `there is no profile ""`},
		"unknown machine":     {[]string{"cp-x=docker"}, "", `no machine or zone "cp-x": must be zone/NAME, or one of cp-a, cp-b, w-b`},
		"unknown zone":        {[]string{"zone/x=docker"}, "", `no machine or zone "zone/x"`},
		"for nobody":          {[]string{"=docker"}, "", `no machine or zone ""`},
		"excluding":           {[]string{"ufw", "cp-a=firewalld"}, "", "machine cp-a: the profiles firewalld and ufw exclude each other"},
		"excluding elsewhere": {[]string{"cp-a=ufw", "cp-b=firewalld"}, "ufw; firewalld; ", ""},
		"two bastions":        {[]string{"zone/b=bastion"}, "", "2 machines have the profile bastion"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := WithProfiles(machines, c.choices)
			expect(t, err, c.err)
			if err != nil {
				return
			}
			var all []string
			for _, m := range got {
				all = append(all, strings.Join(m.Profiles, " "))
			}
			if have := strings.Join(all, "; "); have != c.want {
				t.Errorf("got %q, want %q", have, c.want)
			}
		})
	}
	if len(machines[0].Profiles) > 0 {
		t.Error("the argument was changed")
	}
}

// TestBootScripts has a shell read the script of each profile, and of all that can be combined.
func TestBootScripts(t *testing.T) {
	r := testRecord()
	read := func(t *testing.T, script string) {
		t.Helper()
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, script)
		}
	}
	boot := func(profiles ...string) string {
		m := r.Machines[0]
		m.Profiles = profiles
		return bootOf(m, []Machine{m, r.Machines[1]}, "198.18.7.1")
	}
	if script := boot(); script != "" {
		t.Errorf("a machine without profiles has a script:\n%s", script)
	}
	var together []string
	for _, p := range Profiles {
		t.Run(p.Name, func(t *testing.T) { read(t, boot(p.Name)) })
		if checkProfiles([]Machine{{Name: "m", Profiles: append(slices.Clone(together), p.Name)}}) == nil {
			together = append(together, p.Name)
		}
	}
	read(t, boot(together...))
	t.Run("behind a bastion", func(t *testing.T) {
		machines := slices.Clone(r.Machines)
		machines[1].Profiles = []string{bastion}
		script := bootOf(machines[0], machines, "198.18.7.1")
		if !strings.Contains(script, "ADDRESS=198.18.7.11 CALLER=198.18.7.1 BASTION=198.18.7.12\n") || !strings.Contains(script, "tcp dport 22 ip saddr != $BASTION drop") {
			t.Errorf("the script is\n%s", script)
		}
		if script := bootOf(machines[1], machines, "198.18.7.1"); strings.Contains(script, "!= $BASTION") {
			t.Errorf("the bastion is behind itself:\n%s", script)
		}
	})
}

// TestAccess is how machines with profiles are reached.
func TestAccess(t *testing.T) {
	r := testRecord()
	r.Machines[1].Profiles = []string{bastion}
	l := &Lab{dir: "/labs/dev", rec: r}
	if l.Machines()[0].User() != "root" || l.SudoPassword() != "" {
		t.Errorf("as %s, with %q", l.Machines()[0].User(), l.SudoPassword())
	}
	if got := l.Jump(r.Machines[0]); got != "root@198.18.7.12:22" {
		t.Errorf("cp-a is reached through %q", got)
	}
	if got := l.Jump(r.Machines[1]); got != "" {
		t.Errorf("the bastion is reached through %q", got)
	}
	l.rec.Machines[0].Profiles = []string{"hardened"}
	if got := l.Machines()[0].User(); got != "ops" || l.SudoPassword() != "/labs/dev/ssh/sudo_password" {
		t.Errorf("as %s, with %q", got, l.SudoPassword())
	}
}

// TestApplyProfiles writes what a machine has at its first boot.
func TestApplyProfiles(t *testing.T) {
	dir := t.TempDir()
	l := &Lab{dir: dir, rec: testRecord()}
	l.rec.Base = filepath.Join(dir, "base")
	l.rec.Machines[0].Profiles = []string{"firewall", "hardened", "resolved"}
	upper := filepath.Join(dir, "upper")
	for _, d := range []string{filepath.Join(dir, "ssh"), filepath.Join(upper, "etc"), filepath.Join(baseRoot(l.rec.Base), "etc", "sudoers.d")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.makeSudoPassword(); err != nil {
		t.Fatal(err)
	}
	if err := l.applyProfiles(l.rec.Machines[0], upper); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(upper, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	password := read("../ssh/sudo_password")
	if got := read(passwordFile); len(password) != 24 || got != "ops:"+password+"\n" {
		t.Errorf("the password is %q, and the machine has %q", password, got)
	}
	if got := read("etc/systemd/resolved.conf.d/lab.conf"); !strings.Contains(got, "DNS=198.18.7.11\n") {
		t.Errorf("the address is not filled in: %s", got)
	}
	for name, want := range map[string]os.FileMode{"etc/sudoers.d/lab-hardened": 0o440, passwordFile: 0o600, bootScript: 0o755} {
		if info, err := os.Stat(filepath.Join(upper, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if got, err := os.Readlink(filepath.Join(upper, "etc/systemd/system/sysinit.target.wants/nftables.service")); got != "/usr/lib/systemd/system/nftables.service" {
		t.Errorf("nftables.service is enabled by %q, %v", got, err)
	}
	if got := read("etc/systemd/system/ssh.service.d/profiles.conf"); !strings.Contains(got, "Requires="+bootUnit) {
		t.Errorf("sshd does not wait: %s", got)
	}
	if err := l.applyProfiles(l.rec.Machines[1], filepath.Join(dir, "other")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other")); err == nil {
		t.Error("a machine without profiles has files of one")
	}
}

func TestMoreAddresses(t *testing.T) {
	a := netip.MustParseAddr("198.18.7.11")
	m := Machine{Address: a}
	for profile, want := range map[string][]string{"": {"m11"}, "second-nic": {"m11", "s11"}, "three-nics": {"m11", "s11", "t11"}} {
		if m.Profiles = nil; profile != "" {
			m.Profiles = []string{profile}
		}
		if got := m.ports(); !slices.Equal(got, want) {
			t.Errorf("%q: %v", profile, got)
		}
	}
	for n, want := range []string{"10.97.0.11", "10.98.0.11"} {
		if got := moreAddress(a, n).String(); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	if len(moreSwitches) != len(moreNetworks) || slices.ContainsFunc(Profiles, func(p Profile) bool { return p.MoreNICs > len(moreNetworks) }) {
		t.Error("an interface has no network, or a network no switch")
	}
}

// TestLabPageHasTheTable keeps the page about the lab equal to the code. With UPDATE_DOCS it writes the table.
func TestLabPageHasTheTable(t *testing.T) {
	const file, begin, end = "../../docs/lab.md", "<!-- profiles -->\n", "<!-- end of profiles -->"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around the table", file)
	}
	if have == ProfileTable() {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("the table in %s is not that of the code; UPDATE_DOCS=1 go test ./internal/lab writes it", file)
	}
	if err := os.WriteFile(file, []byte(before+begin+ProfileTable()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
