//go:build lab

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// These tests make real labs; they need root. Run them with `go test -tags lab`.

func TestLab(t *testing.T) {
	ctx := t.Context()
	l := create(t, ctx, Config{
		Name: testName("a"), Zones: []string{"a", "b", "c"}, VirtualIPs: 1,
		Machines: []Machine{{Name: "cp-a", Zone: "a"}, {Name: "cp-b", Zone: "b"}, {Name: "cp-c", Zone: "c"}, {Name: "w-a", Zone: "a"}},
		Files:    []File{{Path: "/usr/local/bin/hello", Source: script(t), Mode: 0o755}},
	})
	other := create(t, ctx, Config{Name: testName("b"), Zones: []string{"a"}, Machines: []Machine{{Name: "cp-a", Zone: "a"}}})

	t.Run("machines are servers", func(t *testing.T) {
		for _, m := range l.Machines() {
			if got := login(t, l, m, "hostname"); got != m.Name {
				t.Errorf("%s calls itself %q", m.Name, got)
			}
			if got := login(t, l, m, "hello"); got != "hello" {
				t.Errorf("%s: the extra file says %q", m.Name, got)
			}
			if got := login(t, l, m, "systemctl is-system-running --wait || systemctl --failed"); got != "running" {
				t.Errorf("%s: systemd says %q", m.Name, got)
			}
			if got := login(t, l, m, "findmnt -no PROPAGATION / && findmnt -no FSTYPE /var"); !strings.HasPrefix(got, "shared") || strings.Contains(got, "overlay") {
				t.Errorf("%s: / and /var are %q", m.Name, got)
			}
		}
	})
	t.Run("zones are joined", func(t *testing.T) { reaches(t, ctx, l, "cp-a", "cp-b", "cp-c", "w-a") })
	t.Run("labs are apart", func(t *testing.T) {
		if l.Subnet().Overlaps(other.Subnet()) {
			t.Fatalf("both labs have %s", l.Subnet())
		}
		if ping(ctx, l, "cp-a", other.Machines()[0].Address) {
			t.Error("a machine reaches the other lab")
		}
	})
	t.Run("nothing leaves", func(t *testing.T) {
		for _, a := range callerAddresses(t, l) {
			if ping(ctx, l, "cp-a", a) {
				t.Errorf("a machine reaches %s, beyond the lab", a)
			}
		}
		var out bytes.Buffer
		if err := l.Exec(ctx, "cp-a", []string{"ping", "-c1", "-W5", "203.0.113.1"}, nil, &out, &out); err == nil || !strings.Contains(out.String(), "Unreachable") {
			t.Errorf("the gateway does not refuse at once: %v\n%s", err, &out)
		}
	})
	t.Run("unknown names are refused at once", func(t *testing.T) {
		var out bytes.Buffer
		if err := l.Exec(ctx, "cp-a", []string{"timeout", "2", "getent", "hosts", "no.such.name"}, nil, &out, &out); !exited(err, 2) {
			t.Errorf("lookup: %v %s", err, &out)
		}
	})
	t.Run("cuts", func(t *testing.T) {
		for _, c := range []struct {
			target  string
			dead    [][2]string
			alive   [][2]string
			outside bool // whether the caller still reaches cp-a
		}{
			{"cp-a", [][2]string{{"cp-a", "w-a"}, {"cp-b", "cp-a"}}, [][2]string{{"cp-b", "cp-c"}, {"w-a", "cp-b"}}, false},
			{"zone/a", [][2]string{{"cp-a", "cp-b"}, {"cp-c", "w-a"}}, [][2]string{{"cp-a", "w-a"}, {"cp-b", "cp-c"}}, false},
			{"cp-b:cp-a", [][2]string{{"cp-a", "cp-b"}, {"cp-b", "cp-a"}}, [][2]string{{"cp-a", "cp-c"}, {"cp-b", "w-a"}}, true},
			{"cp-a:w-a", [][2]string{{"cp-a", "w-a"}, {"w-a", "cp-a"}}, [][2]string{{"cp-a", "cp-c"}, {"w-a", "cp-b"}}, true},
			{"zone/a:zone/b", [][2]string{{"cp-a", "cp-b"}, {"w-a", "cp-b"}}, [][2]string{{"cp-a", "cp-c"}, {"cp-b", "cp-c"}, {"cp-a", "w-a"}}, true},
		} {
			for range 2 { // a fault is as good the second time
				must(t, l.Cut(ctx, c.target))
			}
			for _, p := range c.dead {
				if ping(ctx, l, p[0], addressOf(t, l, p[1])) {
					t.Errorf("%s is cut, yet %s reaches %s", c.target, p[0], p[1])
				}
			}
			for _, p := range c.alive {
				eventually(t, ctx, fmt.Sprintf("%s is cut, and %s reaches %s", c.target, p[0], p[1]), func() bool { return ping(ctx, l, p[0], addressOf(t, l, p[1])) })
			}
			if c.outside {
				eventually(t, ctx, c.target+" is cut, and cp-a greets this computer", func() bool { return greets(addressOf(t, l, "cp-a"), 10*time.Second) })
			} else if greets(addressOf(t, l, "cp-a"), time.Second) {
				t.Errorf("%s is cut, yet cp-a greets this computer", c.target)
			}
			for range 2 {
				must(t, l.Heal(ctx, c.target))
			}
			reaches(t, ctx, l, "cp-a", "cp-b", "w-a")
		}
		if err := l.Cut(ctx, "cp-x"); err == nil {
			t.Error("a machine that does not exist can be cut")
		}
	})
	t.Run("freeze and thaw", func(t *testing.T) {
		must(t, l.Freeze(ctx, "cp-b"))
		must(t, l.Freeze(ctx, "cp-b"))
		is(t, ctx, l, "cp-b", Frozen, false)
		if greets(addressOf(t, l, "cp-b"), time.Second) {
			t.Error("a frozen machine greets")
		}
		must(t, l.Thaw(ctx, "cp-b"))
		must(t, l.Thaw(ctx, "cp-b"))
		is(t, ctx, l, "cp-b", Running, false)
		login(t, l, machine(t, l, "cp-b"), "true")
	})
	t.Run("power off and on", func(t *testing.T) {
		m := machine(t, l, "cp-c")
		mac := login(t, l, m, "echo kept > /etc/kept; echo kept > /var/kept; sync; cat /sys/class/net/eth0/address")
		silent(t, l, m, func() { must(t, l.PowerOff(ctx, m.Name)) })
		must(t, l.PowerOff(ctx, m.Name))
		is(t, ctx, l, m.Name, Off, false)
		if ping(ctx, l, "cp-a", m.Address) {
			t.Error("a machine that is off answers")
		}
		must(t, l.Cut(ctx, m.Name))
		must(t, l.PowerOn(ctx, m.Name))
		is(t, ctx, l, m.Name, Running, true)
		if greets(m.Address, time.Second) {
			t.Error("the cut did not survive the power cycle")
		}
		must(t, l.Heal(ctx, m.Name))
		must(t, l.PowerOn(ctx, m.Name))
		if got := login(t, l, m, "cat /etc/kept /var/kept /sys/class/net/eth0/address"); got != "kept\nkept\n"+mac {
			t.Errorf("after the power cycle: %q", got)
		}
	})
	t.Run("power off while frozen", func(t *testing.T) {
		must(t, l.Freeze(ctx, "w-a"))
		must(t, l.PowerOff(ctx, "w-a"))
		is(t, ctx, l, "w-a", Off, false)
		must(t, l.PowerOn(ctx, "w-a"))
	})
	t.Run("a zone's power", func(t *testing.T) {
		must(t, l.PowerOffZone(ctx, "a"))
		is(t, ctx, l, "cp-a", Off, false)
		is(t, ctx, l, "w-a", Off, false)
		reaches(t, ctx, l, "cp-b", "cp-c")
		must(t, l.PowerOnZone(ctx, "a"))
		reaches(t, ctx, l, "cp-a", "cp-b", "w-a")
	})
	t.Run("heal all", func(t *testing.T) {
		must(t, l.Cut(ctx, "zone/b"))
		must(t, l.Freeze(ctx, "cp-c"))
		must(t, l.PowerOff(ctx, "cp-a"))
		must(t, l.HealAll(ctx))
		reaches(t, ctx, l, "cp-a", "cp-b", "cp-c")
	})
	t.Run("a virtual address moves between zones", func(t *testing.T) { virtualIP(t, ctx, l) })
	t.Run("clients inside", func(t *testing.T) {
		err := inNetNS(filepath.Base(l.NetNS()), func() error {
			return greet(ctx, machine(t, l, "cp-a"))
		})
		must(t, err)
	})
	t.Run("machines come and go", func(t *testing.T) {
		must(t, l.AddMachines(ctx, []Machine{{Name: "w-d", Zone: "d"}}, nil))
		reaches(t, ctx, l, "cp-a", "w-d")
		login(t, l, machine(t, l, "w-d"), "true")
		must(t, l.RemoveMachine(ctx, "w-d"))
		must(t, l.RemoveMachine(ctx, "w-d"))
		if _, err := l.Machine("w-d"); err == nil {
			t.Error("w-d is still there")
		}
	})
	t.Run("an existing lab is taken as it is", func(t *testing.T) {
		must(t, other.PowerOff(ctx, "cp-a"))
		again, err := Create(ctx, Config{Name: other.Name(), Zones: other.Zones(), Machines: []Machine{{Name: "cp-a", Zone: "a"}}})
		must(t, err)
		login(t, again, again.Machines()[0], "true")
		if _, err := Create(ctx, Config{Name: other.Name(), Zones: []string{"z"}}); !errors.Is(err, ErrExists) {
			t.Errorf("another lab of the same name: %v", err)
		}
	})
	t.Run("start after a reboot", func(t *testing.T) {
		must(t, vanish(ctx, other.Name()))
		must(t, os.RemoveAll(runDir(other.Name())))
		again, err := Open(other.Name())
		must(t, err)
		is(t, ctx, again, "cp-a", Off, false)
		must(t, again.Start(ctx, nil))
		login(t, again, again.Machines()[0], "true")
	})
	t.Run("the fence outlives the cable", func(t *testing.T) {
		link, err := netlink.LinkByName(callerLink(other.Subnet()))
		must(t, err)
		must(t, netlink.LinkDel(link))
		if routes, err := netlink.RouteGet(other.Machines()[0].Address.AsSlice()); err == nil {
			t.Errorf("packets for the lab would go to %v", routes)
		}
		must(t, other.Start(ctx, nil))
		login(t, other, other.Machines()[0], "true")
	})
	t.Run("delete leaves nothing", func(t *testing.T) {
		must(t, l.Cut(ctx, "cp-a"))
		must(t, l.Freeze(ctx, "cp-b"))
		must(t, l.PowerOff(ctx, "cp-c"))
		must(t, l.Delete(ctx))
		must(t, l.Delete(ctx))
		gone(t, l)
		login(t, other, other.Machines()[0], "true")
	})
	t.Run("delete without a record", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(other.Dir(), "lab.json"), []byte("{"), 0o600))
		if _, err := Open(other.Name()); err == nil {
			t.Error("a damaged lab can be opened")
		}
		must(t, DeleteByName(ctx, other.Name()))
		gone(t, other)
		if _, err := Open(other.Name()); !errors.Is(err, ErrNotFound) {
			t.Errorf("open a deleted lab: %v", err)
		}
	})
}

func TestInterruptedCreate(t *testing.T) {
	cfg := Config{Name: testName("i"), Zones: []string{"a"}, Machines: []Machine{{Name: "one", Zone: "a"}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := Create(ctx, cfg); done <- err }()
	g, err := labGroup(cfg.Name)
	must(t, err)
	for !g.running() && len(g.processes()) == 0 { // until the machine is about to boot
		must(t, pause(t.Context(), time.Millisecond))
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Create says %v", err)
	}
	_, err = Open(cfg.Name)
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("a cancelled Create leaves %v", err)
	}

	l := create(t, t.Context(), cfg)
	must(t, l.update(t.Context(), func(r *record) error { r.Ready = false; return nil })) // as if killed in the middle
	l = create(t, t.Context(), cfg)
	login(t, l, l.Machines()[0], "true")
}

func TestSeed(t *testing.T) {
	ctx := t.Context()
	l := create(t, ctx, Config{Name: testName("s"), Zones: []string{"a"}, Machines: []Machine{{Name: "one", Zone: "a"}}})
	blobs := "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
	login(t, l, l.Machines()[0], "mkdir -p "+blobs+" && echo blob > "+blobs+"/b && echo db > /var/lib/containerd/meta.db && "+
		"echo new > /etc/new && rm /etc/debian_version && rm -r /etc/default && mkdir /etc/default && echo only > /etc/default/only")
	seed := filepath.Join(filepath.Dir(l.Dir()), "."+l.Name()+"-seed")
	t.Cleanup(func() { os.RemoveAll(seed) })
	if err := l.Snapshot(ctx, "one", seed); err == nil {
		t.Error("a running machine can be saved")
	}
	must(t, l.PowerOff(ctx, "one"))
	must(t, l.Snapshot(ctx, "one", seed))
	must(t, l.Snapshot(ctx, "one", seed))
	must(t, l.Delete(ctx))

	l = create(t, ctx, Config{Name: testName("t"), Zones: []string{"a"}, Seed: seed,
		Machines: []Machine{{Name: "two", Zone: "a"}, {Name: "three", Zone: "a"}}})
	must(t, os.RemoveAll(seed)) // a lab does not depend on it
	for _, m := range l.Machines() {
		got := login(t, l, m, "hostname; cat /etc/new; test -e /etc/debian_version || echo gone; ls /etc/default; cat /var/lib/containerd/meta.db "+blobs+"/b; ls /var/log/journal | wc -l")
		if want := m.Name + "\nnew\ngone\nonly\ndb\nblob\n1"; got != want {
			t.Errorf("%s: got %q, want %q", m.Name, got, want)
		}
	}
	inode := func(machine, path string) uint64 {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(l.machineDir(machine), path), &st))
		return st.Ino
	}
	if inode("two", blobs+"/b") != inode("three", blobs+"/b") {
		t.Error("blobs are copied, not shared")
	}
	if inode("two", "/var/lib/containerd/meta.db") == inode("three", "/var/lib/containerd/meta.db") {
		t.Error("two machines share a database")
	}
	must(t, l.PowerOff(ctx, "two"))
	must(t, l.PowerOn(ctx, "two"))
	login(t, l, machine(t, l, "two"), "cat /etc/new")
}

// virtualIP has keepalived hold an address on cp-a and moves it to cp-b by pulling cp-a's plug.
func virtualIP(t *testing.T, ctx context.Context, l *Lab) {
	vip := l.VirtualIPs()[0]
	for priority, name := range map[int]string{101: "cp-a", 100: "cp-b"} {
		peer := map[string]string{"cp-a": "cp-b", "cp-b": "cp-a"}[name]
		conf := fmt.Sprintf("vrrp_instance v {\n state BACKUP\n interface eth0\n virtual_router_id 7\n priority %d\n advert_int 1\n unicast_peer {\n %s\n }\n virtual_ipaddress {\n %s/24\n }\n}\n",
			priority, addressOf(t, l, peer), vip)
		must(t, l.Exec(ctx, name, []string{"sh", "-c", "cat > /etc/keepalived/keepalived.conf && systemctl start keepalived"}, strings.NewReader(conf), io.Discard, io.Discard))
	}
	holds := func(name string) bool {
		var out bytes.Buffer
		l.Exec(ctx, name, []string{"ip", "-br", "addr", "show", "eth0"}, nil, &out, io.Discard)
		return strings.Contains(out.String(), vip.String()+"/24")
	}
	eventually(t, ctx, "cp-a holds the virtual address", func() bool { return holds("cp-a") && greets(vip, 10*time.Second) })
	must(t, l.PowerOff(ctx, "cp-a"))
	eventually(t, ctx, "cp-b has taken the virtual address over", func() bool { return holds("cp-b") && greets(vip, 10*time.Second) })
	must(t, l.PowerOn(ctx, "cp-a"))
	for _, name := range []string{"cp-a", "cp-b"} {
		must(t, l.Exec(ctx, name, []string{"systemctl", "stop", "keepalived"}, nil, io.Discard, io.Discard))
	}
}

func testName(suffix string) string { return fmt.Sprintf("test-%d-%s", os.Getpid(), suffix) }

func create(t *testing.T, ctx context.Context, cfg Config) *Lab {
	t.Helper()
	t.Cleanup(func() {
		if err := DeleteByName(context.Background(), cfg.Name); err != nil {
			t.Error(err)
		}
	})
	l, err := Create(ctx, cfg)
	must(t, err)
	return l
}

func script(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "hello")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\necho hello\n"), 0o600))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func machine(t *testing.T, l *Lab, name string) Machine {
	t.Helper()
	m, err := l.Machine(name)
	must(t, err)
	return m
}

func addressOf(t *testing.T, l *Lab, name string) netip.Addr {
	t.Helper()
	return machine(t, l, name).Address
}

func dial(l *Lab, m Machine) (*ssh.Client, error) {
	key, err := os.ReadFile(l.SSHKey())
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return nil, err
	}
	known, err := knownhosts.New(l.KnownHosts())
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", net.JoinHostPort(m.Address.String(), "22"), &ssh.ClientConfig{
		User: m.User(), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: known,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, Timeout: 30 * time.Second,
	})
}

// login runs a command over SSH, with the host key checked.
func login(t *testing.T, l *Lab, m Machine, command string) string {
	t.Helper()
	c, err := dial(l, m)
	if err != nil {
		t.Fatalf("log in to %s: %v", m.Name, err)
	}
	defer c.Close()
	s, err := c.NewSession()
	must(t, err)
	out, err := s.CombinedOutput(command)
	if err != nil {
		t.Fatalf("%s on %s: %v\n%s", command, m.Name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// silent fails when an open connection to a machine hears anything while f happens: a machine
// without power says neither FIN nor RST.
func silent(t *testing.T, l *Lab, m Machine, f func()) {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort(m.Address.String(), "22"))
	must(t, err)
	defer conn.Close()
	_, err = conn.Read(make([]byte, 256)) // the greeting
	must(t, err)
	f()
	must(t, conn.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s was heard of while its power went: %d bytes, %v", m.Name, n, err)
	}
}

func ping(ctx context.Context, l *Lab, from string, to netip.Addr) bool {
	return l.Exec(ctx, from, []string{"ping", "-c1", "-W1", to.String()}, nil, io.Discard, io.Discard) == nil
}

// reaches checks both directions between the first machine and each of the others.
func reaches(t *testing.T, ctx context.Context, l *Lab, names ...string) {
	t.Helper()
	for _, name := range names[1:] {
		for _, p := range [][2]string{{names[0], name}, {name, names[0]}} {
			eventually(t, ctx, p[0]+" reaches "+p[1], func() bool { return ping(ctx, l, p[0], addressOf(t, l, p[1])) })
		}
	}
}

func greets(a netip.Addr, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return greet(ctx, Machine{Address: a}) == nil
}

func eventually(t *testing.T, ctx context.Context, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !f() {
		if pause(ctx, 50*time.Millisecond) != nil {
			t.Fatalf("never: %s", what)
		}
	}
}

func is(t *testing.T, ctx context.Context, l *Lab, name string, want State, cut bool) {
	t.Helper()
	all, err := l.Status(ctx)
	must(t, err)
	for _, s := range all {
		if s.Name == name && (s.State != want || s.Cut != cut) {
			t.Errorf("%s is %s (cut: %v), want %s (%v)", name, s.State, s.Cut, want, cut)
		}
	}
}

func exited(err error, status int) bool {
	var exit interface{ ExitCode() int }
	return errors.As(err, &exit) && exit.ExitCode() == status
}

// callerAddresses are this computer's own, other than those that it has in labs.
func callerAddresses(t *testing.T, l *Lab) []netip.Addr {
	all, err := net.InterfaceAddrs()
	must(t, err)
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !labRange.Contains(p.Addr()) {
			out = append(out, p.Addr())
		}
	}
	return out
}

// gone looks for anything that a deleted lab has left behind, in all places where it had something.
func gone(t *testing.T, l *Lab) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.Name()) {
			t.Errorf("mount left: %s", line)
		}
	}
	for _, pattern := range []string{netnsPath("qr-" + l.Name() + "*"), runDir(l.Name()), l.Dir(), "/sys/fs/cgroup/quorate/" + l.Name(), "/sys/fs/cgroup/*/quorate/" + l.Name()} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("files left: %s", left)
		}
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, link := range links {
		if link.Attrs().Name == callerLink(l.Subnet()) {
			t.Errorf("link left: %s", link.Attrs().Name)
		}
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range routes {
		if r.Dst != nil && l.Subnet().Contains(netip.MustParseAddr(r.Dst.IP.String())) {
			t.Errorf("route left: %s", r)
		}
	}
	eventually(t, context.Background(), "the last zombie is buried", func() bool {
		processes, err := filepath.Glob("/proc/[0-9]*/cgroup")
		must(t, err)
		for _, path := range processes {
			if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), "quorate/"+l.Name()) {
				return false
			}
		}
		return true
	})
}

// TestPowerOffLosesTheCache of machines with disks of their own, and of no others.
func TestPowerOffLosesTheCache(t *testing.T) {
	ctx := t.Context()
	for _, own := range []bool{false, true} {
		l := create(t, ctx, Config{Name: testName("d"), Zones: []string{"a"}, OwnDisks: own, Machines: []Machine{{Name: "m", Zone: "a"}, {Name: "n", Zone: "a"}}})
		m := machine(t, l, "m")
		for round := range 2 {
			// One file is brought to the disk, in /etc and in /var, and the other is not.
			login(t, l, m, fmt.Sprintf("for d in /etc /var; do echo kept > $d/kept-%[1]d; sync $d/kept-%[1]d; echo lost > $d/lost-%[1]d.new; mv $d/lost-%[1]d.new $d/lost-%[1]d; done", round))
			must(t, l.PowerOff(ctx, m.Name))
			is(t, ctx, l, m.Name, Off, false)
			must(t, l.PowerOn(ctx, m.Name))
			for _, dir := range []string{"/etc", "/var"} {
				if got := login(t, l, m, fmt.Sprintf("cat %s/kept-%d", dir, round)); got != "kept" {
					t.Errorf("own disks: %t: %s/kept is %q", own, dir, got)
				}
				want := "lost"
				if own {
					want = ""
				}
				if got := login(t, l, m, fmt.Sprintf("cat %s/lost-%d 2>/dev/null || true", dir, round)); got != want {
					t.Errorf("own disks: %t: %s/lost is %q", own, dir, got)
				}
			}
		}
		must(t, l.Freeze(ctx, m.Name))
		must(t, l.PowerOff(ctx, m.Name))
		must(t, l.PowerOn(ctx, m.Name))
		login(t, l, m, "true")
		// A machine that ends by itself loses nothing.
		login(t, l, m, "echo kept > /etc/last; echo kept > /var/last")
		var out bytes.Buffer
		l.Exec(ctx, m.Name, []string{"systemctl", "poweroff"}, nil, &out, &out) //nolint:errcheck // the session may end first
		eventually(t, ctx, "it is off", func() bool { s, err := l.state(m.Name); return err == nil && s == Off })
		must(t, l.PowerOn(ctx, m.Name))
		if got := login(t, l, m, "cat /etc/last /var/last"); got != "kept\nkept" {
			t.Errorf("own disks: %t: after an orderly end: %q", own, got)
		}
		must(t, l.Delete(ctx))
	}
}
