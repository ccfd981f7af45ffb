//go:build lab

package lab

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

// images has TestImages build every image that no other test needs.
var images = flag.Bool("images", false, "also build images with the packages of profiles, and of every release")

// seen is how a machine with a profile is recognized: a script that root runs there.
var seen = map[string]string{
	"hardened": "sshd -T | grep -qx 'permitrootlogin no'; sshd -T | grep -qx 'usepam yes'; sshd -T | grep -qx 'allowtcpforwarding no'; sshd -T | grep -qx 'maxstartups 10:30:60'; test ! -e " + passwordFile +
		"; findmnt -no OPTIONS /tmp | grep -q noexec; findmnt -no OPTIONS /var/tmp | grep -q noexec",
	"firewall":     "nft list chain inet filter input | grep -q 'policy drop'; nft list chain inet filter forward | grep -q 'policy drop'",
	"docker":       "ip -4 -o address show docker0 | grep -q 172.17.0.1/16; nft list chain ip filter FORWARD | grep -q 'policy drop'",
	"second-nic":   "ip -4 -o address show eth1 | grep -q ' 10.97.0.'",
	"three-nics":   "ip -4 -o address show eth1 | grep -q ' 10.97.0.'; ip -4 -o address show eth2 | grep -q ' 10.98.0.'",
	"cloud-hosts":  "grep -q '^127.0.1.1 .*'$(cat /etc/hostname) /etc/hosts; if grep -q mine /etc/hosts; then exit 1; fi; echo 10.0.0.1 mine >>/etc/hosts",
	"proxy":        "systemctl show-environment | grep -qx HTTPS_PROXY=" + proxyAddress,
	"noexec":       "findmnt -no OPTIONS /opt | grep -q noexec; findmnt -no OPTIONS /home | grep -q noexec",
	"noisy-shell":  "sshd -T | grep -qx 'banner /etc/issue.net'",
	"ufw":          "ufw status | grep -qx 'Status: active'",
	"firewalld":    "firewall-cmd --state | grep -qx running",
	"own-resolver": "ss -Hlun | grep -q ' 127.0.0.1:53 '; grep -qx 'nameserver 127.0.0.1' /etc/resolv.conf",
	"resolved":     "ss -Hlun | grep -q ' 127.0.0.53'; grep -q '^nameserver 127.0.0.53' /etc/resolv.conf",
}

// hasProfiles waits until a machine is up, and is as its profiles say.
func hasProfiles(t *testing.T, ctx context.Context, l *Lab, m Machine) {
	t.Helper()
	run := func(script string) (string, error) {
		var out bytes.Buffer
		err := l.Exec(ctx, m.Name, []string{"sh", "-ec", script}, nil, &out, &out)
		return strings.TrimSpace(out.String()), err
	}
	if got, err := run("systemctl is-system-running --wait || systemctl --failed"); err != nil || got != "running" {
		log, _ := run("cat " + bootLog)
		t.Errorf("%s: systemd says %q, %v; the profiles say\n%s", m.Name, got, err, log)
	}
	for _, name := range m.Profiles {
		script, ok := seen[name]
		if !ok && name != bastion {
			t.Errorf("nothing recognizes the profile %s", name)
		}
		var err error
		said := ""
		for range 20 { // a unit may need a moment
			if said, err = run(script); err == nil {
				break
			}
			must(t, pause(ctx, 200*time.Millisecond))
		}
		if err != nil {
			t.Errorf("%s does not look like %s: %v: %s", m.Name, name, err, said)
		}
	}
}

// TestMachinesWithProfiles has few machines with several profiles each: booting takes most of its time.
func TestMachinesWithProfiles(t *testing.T) {
	ctx := t.Context()
	l := create(t, ctx, Config{Name: testName("p"), Zones: []string{"a"}, Machines: []Machine{
		{Name: "hard", Zone: "a", Profiles: []string{"hardened", "noisy-shell", "proxy"}},
		{Name: "wall", Zone: "a", Profiles: []string{"cloud-hosts", "firewall", "second-nic"}},
		{Name: "dock", Zone: "a", Profiles: []string{"docker", "noexec", "second-nic"}},
	}})
	hard := machine(t, l, "hard")
	check := func(t *testing.T) {
		for _, m := range l.Machines() {
			hasProfiles(t, ctx, l, m)
			if !greets(m.Address, 10*time.Second) {
				t.Errorf("%s does not greet this computer", m.Name)
			}
		}
		// The shell prints a title before the output.
		if got := login(t, l, hard, "id -un; umask; echo $HTTPS_PROXY"); !strings.HasSuffix(got, "ops\n0077\n"+proxyAddress) || !strings.Contains(got, "\x1b]0;hard\x07") {
			t.Errorf("the session is like %q", got)
		}
		eventually(t, ctx, "dock reaches wall in the second network", func() bool { return ping(ctx, l, "dock", moreAddress(addressOf(t, l, "wall"), 0)) })
	}
	t.Run("at the first boot", check)
	t.Run("sudo", func(t *testing.T) {
		password, err := os.ReadFile(l.SudoPassword())
		must(t, err)
		if got := login(t, l, hard, "sudo -n true 2>&1 || true"); !strings.Contains(got, "password is required") {
			t.Errorf("sudo without a password says %q", got)
		}
		got := login(t, l, hard, "echo "+string(password)+" | sudo -S -p '' sh -c 'echo $PATH $HTTPS_PROXY; umask'")
		if !strings.HasSuffix(got, "/sbin:/bin:/usr/sbin:/usr/bin "+proxyAddress+"\n0077") {
			t.Errorf("sudo gives %q", got)
		}
	})
	t.Run("root is refused", func(t *testing.T) {
		if c, err := dial(l, Machine{Address: hard.Address}); err == nil {
			c.Close()
			t.Error("root logs in to a hardened machine")
		} else if !strings.Contains(err.Error(), "unable to authenticate") {
			t.Error(err)
		}
	})
	t.Run("after a power cycle", func(t *testing.T) {
		must(t, l.PowerOffZone(ctx, "a"))
		must(t, l.PowerOnZone(ctx, "a"))
		check(t)
	})
	t.Run("a cut concerns all interfaces", func(t *testing.T) {
		must(t, l.Cut(ctx, "dock"))
		if ping(ctx, l, "wall", moreAddress(addressOf(t, l, "dock"), 0)) {
			t.Error("dock is reached in the second network")
		}
		must(t, l.Heal(ctx, "dock"))
	})
	t.Run("a machine whose profile needs another image", func(t *testing.T) {
		if err := l.AddMachines(ctx, []Machine{{Name: "late", Zone: "a", Profiles: []string{"ufw"}}}, nil); err == nil || !strings.Contains(err.Error(), "package ufw") {
			t.Errorf("added: %v", err)
		}
	})
	must(t, l.Delete(ctx))
	gone(t, l)
}

func TestBastion(t *testing.T) {
	ctx := t.Context()
	l := create(t, ctx, Config{Name: testName("j"), Zones: []string{"a"}, Machines: []Machine{
		{Name: "jump", Zone: "a", Profiles: []string{bastion}}, {Name: "one", Zone: "a"}, {Name: "two", Zone: "a"},
	}})
	from := func(machine, to string) bool {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		m, err := l.Machine(to)
		must(t, err)
		return inNetNS(l.machineNS(machine), func() error { return greet(ctx, m) }) == nil
	}
	if !greets(addressOf(t, l, "jump"), 10*time.Second) || greets(addressOf(t, l, "one"), time.Second) {
		t.Error("this computer does not reach the bastion, or reaches more")
	}
	if !from("jump", "one") || !from("jump", "two") || from("one", "two") {
		t.Error("SSH does not come through the bastion, and only through it")
	}
	reaches(t, ctx, l, "one", "two")
}

// TestImages boots machines of every image, with the profiles that need packages.
func TestImages(t *testing.T) {
	if !*images {
		t.Skip("images take a while to build: run it with -images")
	}
	ctx := t.Context()
	for _, image := range Images {
		t.Run(image, func(t *testing.T) {
			cfg := Config{Name: testName(strings.TrimPrefix(image, "debian-")), Image: image, Zones: []string{"a"}, Machines: []Machine{
				{Name: "plain", Zone: "a"}, {Name: "hard", Zone: "a", Profiles: []string{"hardened", "proxy"}}, {Name: "dock", Zone: "a", Profiles: []string{"docker"}},
			}}
			for _, p := range Profiles {
				if len(p.Packages) > 0 {
					cfg.Machines = append(cfg.Machines, Machine{Name: p.Name, Zone: "a", Profiles: []string{p.Name}})
				}
			}
			l := create(t, ctx, cfg)
			for _, m := range l.Machines() {
				hasProfiles(t, ctx, l, m)
				if got := login(t, l, m, ". /etc/os-release; echo $ID-$VERSION_ID"); got != image {
					t.Errorf("%s runs %q", m.Name, got)
				}
			}
		})
	}
}
