package reset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/found"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// machine is a host in a directory, with its own systemd.
type machine struct {
	t        *testing.T
	root     string
	unitsNow map[string]*system.Unit
	mounted  []string
	podsErr  error
	left     []int
	log      []string
	// actions are those that may still be made; the run is killed after them.
	actions int
}

var errKilled = errors.New("killed")

func newMachine(t *testing.T) *machine {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() { // thousands of files are brought to the disk
		t.Setenv("TMPDIR", "/dev/shm")
	}
	m := &machine{t: t, root: t.TempDir(), unitsNow: map[string]*system.Unit{}, actions: -1}
	m.put("/etc/hosts", "127.0.0.1 localhost\n")
	m.put("/etc/containerd/config.toml", "# mine\n")
	m.put("/etc/haproxy/haproxy.cfg", "global\n")
	m.put("/proc/sys/net/ipv4/ip_forward", "0")
	m.put("/proc/sys/net/ipv4/ip_nonlocal_bind", "0")
	m.put("/opt/cni/bin/mine", "x")
	m.put("/opt/cni/bin/.keep", "x")
	m.put("/usr/local/bin/other", "x")
	m.put("/root/notes", "x")
	m.put("/var/lib/other/state", "x")
	m.unitsNow["haproxy.service"] = &system.Unit{Exists: true, Enabled: "enabled", Active: "active"}
	return m
}

func (m *machine) put(path, content string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.root+path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.root+path, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(path, target string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.root+path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, m.root+path); err != nil {
		m.t.Fatal(err)
	}
}

// files are everything below the root, with content.
func (m *machine) files() map[string]string {
	m.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(m.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, m.root)
		switch {
		case e.IsDir():
			out[name] = "directory"
		case e.Type()&fs.ModeSymlink != 0:
			out[name], err = os.Readlink(path)
		default:
			var data []byte
			data, err = os.ReadFile(path)
			out[name] = string(data)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *machine) units(_ context.Context, names ...string) (map[string]system.Unit, error) {
	out := map[string]system.Unit{}
	for _, n := range names {
		u := system.Unit{Active: "inactive"}
		if have := m.unitsNow[n]; have != nil {
			u = *have
		}
		out[n] = u
	}
	return out, nil
}

func (m *machine) next() error {
	if m.actions == 0 {
		return errKilled
	}
	m.actions--
	return nil
}

func (m *machine) systemctl(_ context.Context, args ...string) error {
	if err := m.next(); err != nil {
		return err
	}
	m.log = append(m.log, strings.Join(args, " "))
	for _, name := range args[1:] {
		u := m.unitsNow[name]
		if u == nil {
			return fmt.Errorf("no unit %s", name)
		}
		switch args[0] {
		case "disable":
			u.Enabled = "disabled"
		case "enable":
			u.Enabled = "enabled"
		case "stop":
			u.Active = "inactive"
		case "start":
			u.Active = "active"
		}
	}
	if args[0] == "daemon-reload" { // Units without a file are gone.
		for name := range m.unitsNow {
			if name != "haproxy.service" && name != "keepalived.service" && !system.Exists(m.root+"/etc/systemd/system/"+name) {
				delete(m.unitsNow, name)
			}
		}
	}
	return nil
}

func (m *machine) target() target {
	act := func(what string) error {
		if err := m.next(); err != nil {
			return err
		}
		m.log = append(m.log, what)
		return nil
	}
	return target{root: m.root, units: m.units, systemctl: m.systemctl, next: m.next,
		healFaults: func(context.Context) error { return act("heal faults") },
		stopPods:   func(context.Context) error { return errors.Join(act("stop pods"), m.podsErr) },
		left:       func() ([]int, error) { return m.left, nil },
		kill:       func(context.Context) error { return act("kill") },
		mounts:     func() ([]string, error) { return slices.Clone(m.mounted), nil },
		unmount: func(path string) error {
			if err := act("unmount " + strings.TrimPrefix(path, m.root)); err != nil {
				return err
			}
			m.mounted = slices.DeleteFunc(m.mounted, func(p string) bool { return p == path })
			return nil
		},
		network:   func(Request) ([]string, error) { return nil, act("network") },
		addresses: func([]string) ([]string, error) { return nil, act("address") },
		recreate:  func(context.Context, string) error { return nil },
		unload:    func(context.Context, string) error { return nil },
		remove: func(path string) error {
			if err := m.next(); err != nil {
				return err
			}
			return os.RemoveAll(path)
		},
	}
}

// desired is everything that Quorate writes for any host of the fixture and its external variant.
func desired() (all []facts.Desired) {
	f := clustertest.Whole()
	f.Backups()
	cp := spec.Host{Name: "cp-a", Address: "10.0.0.11", Roles: []string{spec.RoleControlPlane}}
	seen := &facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true}, Addresses: []facts.Address{{IP: cp.Address, Prefix: 24, Interface: "eth0"}}}
	settings := spec.DefaultLab("lab")
	settings.Spec.Settings = spec.Settings{Sysctls: map[string]string{"vm.max_map_count": "262144"}, Registries: []spec.Registry{{Name: "docker.io", Mirrors: []string{"https://mirror.example.com"}}}}
	all = append(all, hostconfig.Hosts(f.Spec), hostconfig.Runtime(seen, "pause"), hostconfig.Settings(settings, seen))
	for _, mark := range marks { // The load balancer is configured after them.
		all = append(all, facts.Desired{Files: []facts.File{{Path: mark, Content: "lab\n"}}})
	}
	return append(all, hostconfig.ControlPlane(f.Spec), hostconfig.Balancer(f.Spec, cp, seen, "PEM"), hostconfig.Adopted(f.Spec, cp), hostconfig.Etcd(cp, seen, facts.EtcdTimers{}))
}

// TestEverythingWrittenIsRemoved fails when hostconfig writes a new file, or enables a new unit, and a reset leaves it.
func TestEverythingWrittenIsRemoved(t *testing.T) {
	for _, d := range desired() {
		for _, f := range d.Files {
			if !covers(f.Path) {
				t.Errorf("%s is written to hosts, and a reset leaves it: add it to places.go", f.Path)
			}
		}
		for _, u := range d.Enable {
			if u != containerdUnit && !slices.Contains(names(units), u) {
				t.Errorf("%s is enabled on hosts, and a reset does not stop it: add it to places.go", u)
			}
		}
		if d.Self != "" && !covers(d.Self) {
			t.Errorf("%s stays", d.Self)
		}
	}
	for _, path := range facts.Traces {
		if !covers(path+"/x") && !covers(path) {
			t.Errorf("%s is a trace of a cluster, and a reset leaves it", path)
		}
	}
}

// build makes a control plane and a load balancer of the machine, as Quorate does: what is changed is noted before.
func (m *machine) build(adopted bool) {
	m.t.Helper()
	note := found.Host{Root: m.root, Units: m.units}
	if err := note.NoteDirectories(); err != nil {
		m.t.Fatal(err)
	}
	all := desired()
	if adopted {
		cp, _ := clustertest.Whole().Spec.Host("cp-a")
		all = []facts.Desired{hostconfig.Hosts(clustertest.Whole().Spec), hostconfig.Adopted(clustertest.Whole().Spec, cp),
			{Files: []facts.File{{Path: facts.AdoptedFile, Content: "lab\n"}, {Path: facts.EstablishedFile, Content: "lab\n"}}}}
	}
	for _, d := range all {
		if err := note.NoteDesired(m.t.Context(), d); err != nil {
			m.t.Fatal(err)
		}
		for _, f := range d.Files {
			if f.Block != "" {
				have, _ := os.ReadFile(m.root + f.Path)
				m.put(f.Path, string(have)+"# BEGIN quorate "+f.Block+"\n"+f.Content+"# END quorate "+f.Block+"\n")
				continue
			}
			if f.Keep && system.Exists(m.root+f.Path) {
				if err := os.Rename(m.root+f.Path, m.root+f.Path+facts.KeptSuffix); err != nil {
					m.t.Fatal(err)
				}
			}
			m.put(f.Path, f.Content)
		}
		for _, u := range d.Enable {
			m.unitsNow[u] = &system.Unit{Exists: true, Enabled: "enabled", Active: "active"}
		}
	}
	if adopted {
		for _, path := range []string{facts.BegunFile} {
			os.Remove(m.root + path)
		}
		m.unitsNow["kubelet.service"] = &system.Unit{Exists: true, Enabled: "enabled", Active: "active"}
		m.unitsNow[containerdUnit] = &system.Unit{Exists: true, Enabled: "enabled", Active: "active"}
		m.put("/etc/systemd/system/kubelet.service", "theirs")
		m.put("/etc/systemd/system/containerd.service", "theirs")
	} else {
		os.Remove(m.root + facts.AdoptedFile)
		m.put("/opt/quorate/programs/"+strings.Repeat("a", 64)+".json", `{"bundle":"sha256:`+strings.Repeat("a", 64)+`","entries":[{"path":"usr/local/bin/containerd"}]}`)
		m.put("/opt/quorate/programs/"+strings.Repeat("a", 64)+"/usr/local/bin/containerd", "x")
		m.link("/usr/local/bin/containerd", m.root+"/opt/quorate/programs/current/containerd/usr/local/bin/containerd")
		m.put("/opt/cni/bin/flannel", "x")
		m.put("/var/lib/containerd/x/y", "x")
		m.put("/usr/local/bin/quorate-host", "x")
		m.put("/var/lib/quorate/bundle/blobs/sha256/x", "x")
	}
	m.put("/proc/sys/net/ipv4/ip_forward", "1")
	m.put("/proc/sys/net/ipv4/ip_nonlocal_bind", "1")
	m.put("/etc/kubernetes/manifests/etcd.yaml", "x")
	m.put("/etc/kubernetes/admin.conf", "x")
	m.put("/var/lib/etcd/member/wal/0.wal", "x")
	m.put("/var/lib/kubelet/config.yaml", "x")
	m.put("/var/lib/kubelet/pods/1/volumes/a/b/c", "")
	m.put("/var/log/pods/a/b/0.log", "x")
	m.put("/etc/cni/net.d/10-flannel.conflist", "x")
	m.put("/var/lib/cni/networks/cbr0/10.244.0.2", "x")
	m.put("/etc/systemd/system/.quorate-ABC", "half")
	m.put("/run/quorate/lease", "x")
	m.put(facts.BackupScheduleFile, "credentials")
	m.put("/run/quorate/verified/x", "")
	m.put("/var/lib/quorate/bin/x/quorate", "x")
	m.link("/root/.kube/config", "/etc/kubernetes/admin.conf")
	m.link("/var/lib/quorate/etcd/guard", m.root+"/var/lib/etcd/member/wal")
	m.mounted = []string{m.root + "/var/lib/kubelet/pods/1/volumes/a", m.root + "/var/lib/kubelet/pods/1/volumes/a/b"}
}

func differ(before, after map[string]string) (out []string) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		b, was := before[path]
		a, is := after[path]
		if a != b || was != is {
			out = append(out, fmt.Sprintf("%s: %q (there %t), was %q (there %t)", path, a, is, b, was))
		}
	}
	return out
}

// skeleton are directories that every system has.
func (m *machine) skeleton() {
	m.t.Helper()
	for _, dir := range []string{"/etc/systemd/system", "/etc/modules-load.d", "/etc/sysctl.d", "/etc/keepalived", "/var/lib", "/var/log", "/run", "/root/.ssh", "/usr/local/bin", "/opt"} {
		if err := os.MkdirAll(m.root+dir, 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
}

var request = Request{Cluster: "lab", VirtualIPs: []string{"10.0.0.100"}, PodCIDR: "10.244.0.0/16"}

func TestAHostIsLeftAsItWasFound(t *testing.T) {
	m := newMachine(t)
	m.skeleton()
	before := m.files()
	m.build(false)
	report, err := m.target().reset(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differ(before, m.files()) {
		t.Error(d)
	}
	if len(m.mounted) > 0 {
		t.Errorf("still mounted: %v", m.mounted)
	}
	if u := m.unitsNow["haproxy.service"]; u.Enabled != "enabled" || u.Active != "active" {
		t.Errorf("HAProxy ran before, and is %+v", u)
	}
	if len(m.unitsNow) != 2 && m.unitsNow["keepalived.service"] == nil {
		t.Errorf("units are left: %v", slices.Sorted(maps.Keys(m.unitsNow)))
	}
	for _, want := range []string{"/etc/kubernetes", "kubelet.service", "/opt/quorate/programs", "/var/lib/quorate/bin"} {
		if !slices.Contains(report.Removed, want) {
			t.Errorf("the report does not name %s: %v", want, report.Removed)
		}
	}
	// What would start other things comes first, pods end before containerd, and nothing is removed below a mount.
	order := []string{"disable quorate-watchdog.service", "stop keepalived.service", "disable kubelet.service", "stop kubelet.service", "stop pods", "stop containerd.service", "kill",
		"unmount /var/lib/kubelet/pods/1/volumes/a/b", "unmount /var/lib/kubelet/pods/1/volumes/a", "network", "daemon-reload", "start haproxy.service"}
	at := -1
	for _, what := range order {
		i := slices.Index(m.log, what)
		if i <= at {
			t.Errorf("%q is at %d, after %d: %q", what, i, at, m.log)
		}
		at = i
	}
	again, err := m.target().reset(t.Context(), request)
	if err != nil || len(again.Removed)+len(again.Restored) > 0 || len(differ(before, m.files())) > 0 {
		t.Errorf("a second time: %+v, %v, %v", again, err, differ(before, m.files()))
	}
}

// TestAKilledResetIsFinished kills a reset before every single action and then runs it again.
func TestAKilledResetIsFinished(t *testing.T) {
	points := 0
	for n := 0; ; n++ {
		m := newMachine(t)
		m.skeleton()
		before := m.files()
		m.build(false)
		m.actions = n
		_, err := m.target().reset(t.Context(), request)
		if err == nil {
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("after %d actions: %v", n, err)
		}
		points++
		left := m.files()
		if _, marked := left[facts.ResettingFile]; !marked && left["/etc/kubernetes/admin.conf"] != "" {
			t.Errorf("after %d actions nothing says that the host is being reset", n)
		}
		m.actions = -1
		if _, err := m.target().reset(t.Context(), request); err != nil {
			t.Fatalf("again after %d actions: %v", n, err)
		}
		if d := differ(before, m.files()); len(d) > 0 {
			t.Errorf("after %d actions and another run: %s", n, strings.Join(d, "\n"))
		}
	}
	if points < 50 {
		t.Errorf("only %d places to be killed at", points)
	}
	t.Logf("killed at %d places", points)
}

// TestAdoptedHostsKeepWhatIsNotQuorates: containerd and the units of packages are somebody else's.
func TestAdoptedHostsKeepWhatIsNotQuorates(t *testing.T) {
	m := newMachine(t)
	m.skeleton()
	m.build(true)
	if _, err := m.target().reset(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	after := m.files()
	for _, path := range []string{"/etc/systemd/system/kubelet.service", "/etc/systemd/system/containerd.service", "/etc/containerd/config.toml"} {
		if after[path] == "" {
			t.Errorf("%s is gone", path)
		}
	}
	for path := range after {
		if strings.Contains(path, "quorate") && !strings.HasPrefix(path, m.root) {
			t.Errorf("%s is left", path)
		}
	}
	for _, path := range []string{"/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet"} {
		if after[path] != "" {
			t.Errorf("%s is left", path)
		}
	}
	if u := m.unitsNow[containerdUnit]; u.Active != "active" || u.Enabled != "enabled" {
		t.Errorf("containerd: %+v", u)
	}
	if u := m.unitsNow["kubelet.service"]; u.Active != "inactive" || u.Enabled != "disabled" {
		t.Errorf("the kubelet: %+v", u)
	}
	if slices.Contains(m.log, "kill") {
		t.Error("processes were killed on a host on which others may run containers")
	}

	m = newMachine(t)
	m.build(true)
	m.podsErr = errors.New("no answer")
	if _, err := m.target().reset(t.Context(), request); err == nil || !strings.Contains(err.Error(), "systemctl restart containerd") {
		t.Errorf("containerd does not answer: %v", err)
	}
	if m.files()["/var/lib/etcd/member/wal/0.wal"] == "" {
		t.Error("data was removed while pods run")
	}

	// A containerd that does not run has left its pods running.
	m = newMachine(t)
	m.build(true)
	m.unitsNow[containerdUnit].Active, m.left = "failed", []int{4711}
	if _, err := m.target().reset(t.Context(), request); err == nil || !strings.Contains(err.Error(), "systemctl start containerd") || !strings.Contains(err.Error(), "4711") {
		t.Errorf("containerd does not run, and its pods do: %v", err)
	}
	if m.files()["/var/lib/etcd/member/wal/0.wal"] == "" {
		t.Error("data was removed while pods run")
	}
	m.left = nil
	if _, err := m.target().reset(t.Context(), request); err != nil {
		t.Errorf("containerd does not run, and nothing is left: %v", err)
	}
}

// TestOthersHostsAreNotTouched: neither hosts of another cluster, nor hosts on which Quorate did nothing.
func TestOthersHostsAreNotTouched(t *testing.T) {
	m := newMachine(t)
	m.build(false)
	before := m.files()
	if _, err := m.target().reset(t.Context(), Request{Cluster: "other"}); err == nil || !strings.Contains(err.Error(), "the cluster lab") {
		t.Errorf("a host of another cluster: %v", err)
	}
	if d := differ(before, m.files()); len(d) > 0 || len(m.log) > 0 {
		t.Errorf("it was changed: %v, %v", d, m.log)
	}

	m = newMachine(t)
	m.put("/var/lib/etcd/member/wal/0.wal", "somebody's")
	m.put("/etc/kubernetes/admin.conf", "somebody's")
	before = m.files()
	if _, err := m.target().reset(t.Context(), request); err != nil {
		t.Error(err)
	}
	if d := differ(before, m.files()); len(d) > 0 || len(m.log) > 0 {
		t.Errorf("it was changed: %v, %v", d, m.log)
	}
}

// TestVolumesKeepTheirFiles: as long as a volume is mounted, nothing below it is removed; a disk of etcd's own is emptied and
// stays mounted.
func TestVolumesKeepTheirFiles(t *testing.T) {
	m := newMachine(t)
	m.build(false)
	m.put("/var/lib/kubelet/pods/1/volumes/a/data", "precious")
	m.mounted = append(m.mounted, m.root+"/var/lib/etcd/member/wal")
	target := m.target()
	target.unmount = func(path string) error {
		if strings.Contains(path, "volumes") {
			return errors.New("it is busy")
		}
		return nil
	}
	if _, err := target.reset(t.Context(), request); err == nil {
		t.Error("a volume stays mounted, and the reset goes on")
	}
	if m.files()["/var/lib/kubelet/pods/1/volumes/a/data"] != "precious" {
		t.Error("a volume lost its files")
	}
	if _, err := m.target().reset(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if after := m.files(); after["/var/lib/etcd/member/wal"] != "directory" || after["/var/lib/etcd/member/wal/0.wal"] != "" {
		t.Error("the disk of the write-ahead log was not emptied, or its mount point is gone")
	}
}

func TestProcessesOfPodsAreRecognised(t *testing.T) {
	for cgroup, want := range map[string]bool{
		"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-a.scope": true,
		"12:memory:/kubepods/burstable/pod1/a":                                                true,
		"0::/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:a": true,
		"0::/system.slice/containerd.service":                                                 false,
		"0::/system.slice/docker-a.scope/kubelet.slice/kubepods.slice/cri-containerd-b.scope": false,
		"0::/quorate/lab/cp-a/kubepods.slice/kubepods-pod1.slice/cri-containerd-b.scope":      false,
		"0::/init.scope": false,
		"":               false,
	} {
		if got := inPod(cgroup); got != want {
			t.Errorf("%q: %t", cgroup, got)
		}
	}
	for name, want := range map[string]bool{"cni0": true, "flannel.1": true, "flannel-v6.1": true, "cali12ab": true, "eth0": false, "flannel": false, "vethX": false, "docker0": false, "lxcbr0": false} {
		if got := ofCluster(name, ""); got != want {
			t.Errorf("interface %s: %t", name, got)
		}
	}
	if !ofCluster("veth1a2b", "cni0") || ofCluster("veth1a2b", "docker0") {
		t.Error("ends of pods on cni0 are not told from others")
	}
}

// TestFilesOfRegistriesComeBack: somebody else's file for a registry is restored, also in a directory that was there before.
func TestFilesOfRegistriesComeBack(t *testing.T) {
	for _, adopted := range []bool{false, true} {
		m := newMachine(t)
		m.skeleton()
		const path = hostconfig.RegistriesDir + "/docker.io/hosts.toml"
		m.put(path, "server = \"https://mine.example.com\"\n")
		m.build(adopted)
		note := found.Host{Root: m.root, Units: m.units}
		if err := note.NoteDesired(t.Context(), facts.Desired{Files: []facts.File{{Path: path}}}); err != nil {
			t.Fatal(err)
		}
		m.put(path, hostconfig.WrittenRegistry+"\n")
		if _, err := m.target().reset(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		if got := m.files()[path]; got != "server = \"https://mine.example.com\"\n" {
			t.Errorf("adopted %t: %q", adopted, got)
		}
	}
}
