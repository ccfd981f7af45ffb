package lab

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/crypto/ssh"
)

func TestLinkShared(t *testing.T) {
	for path, want := range map[string]treatment{
		"lib/containerd/io.containerd.content.v1.content/blobs":                             duplicate,
		"lib/containerd/io.containerd.content.v1.content/blobs/sha256/abc":                  link,
		"lib/containerd/io.containerd.content.v1.content/ingest/abc/data":                   duplicate,
		"lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs/usr/bin/etcd": link,
		"lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs/lib/rpm.db":   link,
		"lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/work":            duplicate,
		"lib/containerd/io.containerd.snapshotter.v1.overlayfs/metadata.db":                 duplicate,
		"lib/containerd/io.containerd.metadata.v1.bolt/meta.db":                             duplicate,
		"lib/quorate/bundle/blobs/sha256/abc":                                               link,
		"lib/quorate/state.json":                                                            duplicate,
		"log/journal/x":                                                                     duplicate,
	} {
		if got := linkShared(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestAnonymous(t *testing.T) {
	root := anonymous(identityInRoot, copyAll)
	for path, want := range map[string]treatment{
		"etc/hostname": leaveOut, "etc/ssh/ssh_host_ed25519_key": leaveOut, "root/.ssh": leaveOut,
		"etc/ssh/sshd_config": duplicate, "etc/hostname.d": duplicate, "usr/bin/kubelet": duplicate,
	} {
		if got := root(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if got := anonymous(identityInVar, linkShared)("log/journal"); got != leaveOut {
		t.Error("logs are kept")
	}
}

func TestClone(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	write := func(path, content string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(from, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("plain", "plain", 0o600)
	write("shared/blob", "blob", 0o640)
	write("gone/secret", "secret", 0o600)
	for _, err := range []error{os.Symlink("nowhere", filepath.Join(from, "symlink")), os.Link(filepath.Join(from, "plain"), filepath.Join(from, "twin"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	treat := func(path string) treatment {
		switch {
		case strings.HasPrefix(path, "shared/"):
			return link
		case path == "gone":
			return leaveOut
		}
		return duplicate
	}
	for range 2 { // onto nothing, then onto itself
		if err := clone(from, to, treat); err != nil {
			t.Fatal(err)
		}
	}
	stat := func(dir, path string) os.FileInfo {
		t.Helper()
		info, err := os.Lstat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	for _, path := range []string{"plain", "twin", "shared", "shared/blob", "symlink"} {
		a, b := stat(from, path), stat(to, path)
		if a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s: %v %v became %v %v", path, a.Mode(), a.ModTime(), b.Mode(), b.ModTime())
		}
		if same := os.SameFile(a, b); same != (path == "shared/blob") {
			t.Errorf("%s is the same file: %v", path, same)
		}
	}
	if !os.SameFile(stat(to, "plain"), stat(to, "twin")) {
		t.Error("two names of one file became two files")
	}
	if _, err := os.Lstat(filepath.Join(to, "gone")); err == nil {
		t.Error("what is left out is there")
	}
	if target, err := os.Readlink(filepath.Join(to, "symlink")); target != "nowhere" {
		t.Errorf("symlink to %q, %v", target, err)
	}
}

func TestContainerSpec(t *testing.T) {
	m := testRecord().Machines[0]
	spec := containerSpec(m, "/lab/root", "/lab/var", "/run/netns/qr-dev.cp-a", "/quorate/dev/cp-a", []string{"CAP_CHOWN"}, nil)
	if spec.Hostname != "cp-a" || spec.Root.Readonly || spec.Linux.Seccomp != nil || len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths)+len(spec.Process.Rlimits) != 0 {
		t.Error("the machine is restricted, or has no name")
	}
	if !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path == "/run/netns/qr-dev.cp-a"
	}) {
		t.Error("the machine is not in its prepared network")
	}
	for _, mount := range spec.Mounts {
		if slices.Contains(mount.Options, "ro") {
			t.Errorf("%s is read-only", mount.Destination)
		}
	}
	if _, err := json.Marshal(spec); err != nil {
		t.Error(err)
	}
}

func TestCapabilities(t *testing.T) {
	all := capabilities("Name:\tx\nCapPrm:\t000001ffffffffff\n")
	if len(all) != 41 || all[0] != "CAP_CHOWN" || all[40] != "CAP_CHECKPOINT_RESTORE" {
		t.Errorf("%d: %v", len(all), all)
	}
	if some := capabilities("CapPrm:\t000001fffeffffff\n"); slices.Contains(some, "CAP_SYS_RESOURCE") || len(some) != 40 {
		t.Errorf("without SYS_RESOURCE: %v", some)
	}
	if none := capabilities(""); none != nil {
		t.Errorf("none: %v", none)
	}
}

func TestParseHierarchies(t *testing.T) {
	for name, c := range map[string]struct {
		mounts string
		v2     bool
		want   []string
	}{
		"v2":                       {"proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", true, []string{"/sys/fs/cgroup"}},
		"hybrid":                   {"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", false, []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"}},
		"none":                     {"proc /proc proc rw 0 0\n", false, nil},
		"of a container elsewhere": {"cgroup2 /mnt/cgroup cgroup2 rw 0 0\n", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := parseHierarchies(c.mounts)
			if h.v2 != c.v2 || !slices.Equal(h.roots, c.want) {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestFreezerIsFound(t *testing.T) {
	g := group{hierarchies{roots: []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/freezer"}}, "quorate/dev/x"}
	if file, frozen, _ := g.freezer(); file != "/sys/fs/cgroup/freezer/quorate/dev/x/freezer.state" || frozen != "FROZEN" {
		t.Error(file, frozen)
	}
	g = group{hierarchies{v2: true, roots: []string{"/sys/fs/cgroup"}}, "quorate/dev/x"}
	if file, frozen, _ := g.freezer(); file != "/sys/fs/cgroup/quorate/dev/x/cgroup.freeze" || frozen != "1" {
		t.Error(file, frozen)
	}
}

func TestKeyPair(t *testing.T) {
	private, public, err := keyPair("a comment")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key, comment, _, rest, err := ssh.ParseAuthorizedKey(public)
	if err != nil || comment != "a comment" || len(rest) != 0 || string(key.Marshal()) != string(signer.PublicKey().Marshal()) {
		t.Errorf("public key %q: %v", public, err)
	}
}

func TestStateSurvivesItsFile(t *testing.T) {
	t.Setenv("QUORATE_STATE", t.TempDir())
	if _, err := Open("dev"); err == nil || !strings.Contains(err.Error(), "no such lab") {
		t.Errorf("open a lab that is not there: %v", err)
	}
	l := &Lab{dir: stateDir("dev"), rec: testRecord()}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("dev"); err == nil || !strings.Contains(err.Error(), "quorate lab --lab dev delete") {
		t.Errorf("open a half-deleted lab: %v", err)
	}
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	again, err := Open("dev")
	if err != nil {
		t.Fatal(err)
	}
	if again.Subnet() != l.Subnet() || again.names() != "cp-a, cp-b" {
		t.Errorf("read back: %+v", again.rec)
	}
	labs, err := List()
	if err != nil || len(labs) != 1 {
		t.Errorf("list: %v, %v", labs, err)
	}
	if _, err := Open("../dev"); err == nil {
		t.Error("a path is taken for a name")
	}
}

func TestRecipe(t *testing.T) {
	for _, list := range [][]string{usual, Config{Image: "debian-13"}.masked(), Config{Image: "debian-13"}.generators(), slices.Concat(disabled, ofProfiles)} {
		if slices.Contains(list, "") || len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
			t.Errorf("twice or empty in %v", list)
		}
	}
	first := recipeKey(Config{})
	if first != recipeKey(Config{Image: Images[0]}) || len(first) != 12 {
		t.Error("the recipe's key is not stable")
	}
	for _, other := range []Config{{Image: Images[1]}, {Packages: []string{"ufw"}}} {
		if recipeKey(other) == first {
			t.Errorf("%+v has the same image", other)
		}
	}
	// A seed for machines with a profile is made on one without it.
	if recipeKey(Config{Packages: []string{"ufw"}}) != recipeKey(Config{Machines: []Machine{{Profiles: []string{"ufw"}}, {Profiles: []string{"ufw"}}}}) {
		t.Error("the packages of profiles are not those of the configuration")
	}
	for _, p := range Profiles {
		for _, unit := range p.Units {
			if name := filepath.Base(unit); len(p.Packages) > 0 && !slices.Contains(ofProfiles, name) {
				t.Errorf("%s of the profile %s starts on all machines of the image", name, p.Name)
			}
		}
	}
	for _, image := range Images {
		if suites[image] == "" {
			t.Errorf("%s has no suite", image)
		}
	}
}

func TestDisable(t *testing.T) {
	dir := t.TempDir()
	for _, link := range []string{"multi-user.target.wants/ufw.service", "multi-user.target.wants/ssh.service", "dbus-org.example.ufw.service", "sshd.service"} {
		unit := "ssh.service"
		if strings.Contains(link, "ufw") {
			unit = "ufw.service"
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, link)), 0o755), os.Symlink("/lib/systemd/system/"+unit, filepath.Join(dir, link))); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(filepath.Join(dir, "ssh.service.d/ufw.service"), "a file, not a link"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := disable(dir, []string{"ufw.service"}); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{"multi-user.target.wants/ufw.service": false, "dbus-org.example.ufw.service": false,
		"multi-user.target.wants/ssh.service": true, "sshd.service": true, "ssh.service.d/ufw.service": true} {
		if _, err := os.Lstat(filepath.Join(dir, path)); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestMirrorsOf(t *testing.T) {
	const bookworm = `http://mirror.example/debian bookworm main
http://mirror.example/debian bookworm contrib
http://mirror.example/debian bookworm-updates main
http://mirror.example/debian bookworm-backports main
http://mirror.example/debian-security bookworm-security main
`
	const three = `deb http://mirror.example/debian SUITE main
deb http://mirror.example/debian SUITE-updates main
deb http://mirror.example/debian-security SUITE-security main
`
	for name, c := range map[string]struct{ targets, suite, want string }{
		"the same release":    {bookworm, "bookworm", strings.ReplaceAll(three, "SUITE", "bookworm")},
		"another release":     {bookworm, "trixie", strings.ReplaceAll(three, "SUITE", "trixie")},
		"both are configured": {bookworm + "http://other.example/debian trixie main\n", "trixie", "deb http://other.example/debian trixie main\n"},
		"only updates":        {"http://mirror.example/debian bookworm-updates main\n", "bookworm", ""},
		"not Debian":          {"http://mirror.example/ubuntu noble main\n", "bookworm", ""},
		"nothing":             {"", "bookworm", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mirrorsOf(c.targets, c.suite); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}
