package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/hostside/system"
)

// TestFullDisks: only a file system that no other host uses is filled.
func TestFullDisks(t *testing.T) {
	fill := request(Request{Kind: kindFill, Target: targetDisk})
	for _, tc := range []struct {
		what  string
		kind  string
		disk  fileSystem
		wrong string
	}{
		{"a disk", "", fileSystem{unix.EXT4_SUPER_MAGIC, unix.Mkdev(8, 1), 10 << 30}, ""},
		{"a disk of its own in a lab", "quorate", fileSystem{unix.EXT4_SUPER_MAGIC, unix.Mkdev(7, 3), 10 << 30}, ""},
		{"the computer's disk, in a lab", "quorate", fileSystem{unix.EXT4_SUPER_MAGIC, unix.Mkdev(8, 1), 10 << 30}, "is a container (quorate)"},
		{"an overlay", "", fileSystem{unix.OVERLAYFS_SUPER_MAGIC, unix.Mkdev(0, 50), 10 << 30}, "0x794c7630"},
		{"a network", "", fileSystem{unix.NFS_SUPER_MAGIC, unix.Mkdev(0, 51), 10 << 30}, "others may use it"},
	} {
		f := newFake(t)
		f.kind, f.disk = tc.kind, tc.disk
		got, err := f.inject(t.Context(), fill)
		switch {
		case tc.wrong == "" && (err != nil || !strings.Contains(got.What, "all 10.0 GiB") || !strings.Contains(f.log[len(f.log)-1], "host fill-disk "+f.at("/var/lib"))):
			t.Errorf("%s: %+v, %v, %q", tc.what, got, err, f.log)
		case tc.wrong != "" && (!IsImpossible(err) || !strings.Contains(err.Error(), tc.wrong) || len(f.log) > 0):
			t.Errorf("%s: %v, %q", tc.what, err, f.log)
		}
	}
	// The disk of the etcd member comes first.
	f := newFake(t)
	f.put("/var/lib/etcd/member/wal/0.wal", "x")
	if dir := f.dataDir(); dir != f.at("/var/lib/etcd") {
		t.Error(dir)
	}
}

// TestLoadsEndWithTheirFault, even if nothing heals it.
func TestLoadsEndWithTheirFault(t *testing.T) {
	f := newFake(t)
	if _, err := f.inject(t.Context(), request(Request{Kind: kindPress, Target: targetMemory, Percent: 90})); err != nil {
		t.Fatal(err)
	}
	load := f.log[len(f.log)-1]
	for _, want := range []string{"--unit=quorate-fault-x_", "-load.service ", "--property=RuntimeMaxSec=10000ms", "--property=OOMScoreAdjust=1000 ", "host press-memory 90"} {
		if !strings.Contains(load, want) {
			t.Errorf("%q has no %q", load, want)
		}
	}
	f.kind = "quorate"
	if _, err := f.inject(t.Context(), Request{ID: "y", Kind: kindPress, Target: targetMemory, Percent: 90, Lasts: time.Minute}); err == nil {
		t.Error("twice the same")
	}
	f = newFake(t)
	f.kind = "quorate"
	if _, err := f.inject(t.Context(), request(Request{Kind: kindPress, Target: targetMemory, Percent: 90})); !IsImpossible(err) || !strings.Contains(err.Error(), "shares its memory") {
		t.Errorf("in a container: %v", err)
	}
	if _, err := f.inject(t.Context(), request(Request{Kind: kindPress, Target: targetCPU})); err != nil {
		t.Errorf("in a container: %v", err)
	}
}

// TestSlowDisks finds the control group of etcd, and its disk, with both versions of control groups.
func TestSlowDisks(t *testing.T) {
	slow := request(Request{Kind: kindSlow, Target: targetDisk, BytesPerSecond: 1 << 20})
	member := strings.Repeat("e7", 32)
	one, two := "/sys/fs/cgroup/blkio/kubepods/burstable/pod2/"+member+"/blkio.throttle.write_bps_device", "/sys/fs/cgroup/kubepods.slice/kubepods-burstable-pod2.slice/io.max"
	for _, tc := range []struct {
		file, before, slow, after string
		unified                   bool
	}{
		{one, "8:16 1", "8:0 1048576", "8:0 0", false},
		{two, "8:0 rbps=5 wbps=max riops=max wiops=max\n", "8:0 wbps=1048576", "8:0 wbps=max", true},
	} {
		f := newFake(t)
		f.cluster()
		f.sysfs("8:1", "8:0")
		if tc.unified {
			f.put("/sys/fs/cgroup/cgroup.controllers", "io")
		}
		if _, err := f.inject(t.Context(), slow); !IsImpossible(err) || len(f.log) > 0 {
			t.Errorf("without the controller: %v", err)
		}
		f.put(tc.file, tc.before)
		got, err := f.inject(t.Context(), slow)
		if have := system.ReadTrimmed(f.at(tc.file)); err != nil || have != tc.slow || !strings.Contains(got.What, "1024 KiB a second") || !strings.Contains(got.What, "8:0") {
			t.Errorf("%+v, %v, %q", got, err, have)
		}
		if _, err := f.heal(t.Context(), "x"); err != nil || system.ReadTrimmed(f.at(tc.file)) != tc.after {
			t.Errorf("%v, %q", err, system.ReadTrimmed(f.at(tc.file)))
		}
		limited := tc.slow
		if tc.unified {
			limited = "8:0 rbps=max wbps=7 riops=max wiops=max"
		}
		f.put(tc.file, limited)
		if _, err := f.inject(t.Context(), slow); !IsImpossible(err) || !strings.Contains(err.Error(), "limited already") {
			t.Errorf("with another limit: %v", err)
		}
	}

	// Where etcd is a unit, systemd sets the limit, and is not believed.
	f := newFake(t)
	f.state["etcd.service"] = &system.Unit{Exists: true, Active: "active", PID: 400}
	f.runs(400, 1, 4000, "0::/system.slice/etcd.service")
	f.put("/sys/fs/cgroup/cgroup.controllers", "io")
	f.sysfs("8:1", "8:0")
	if _, err := f.inject(t.Context(), slow); !IsImpossible(err) || f.place("set-property --runtime etcd.service IOWriteBandwidthMax="+f.at("/var/lib")+" 1048576") < 0 || f.place("IOWriteBandwidthMax=") < 0 {
		t.Errorf("%v, %q", err, f.log)
	}
	f.put("/sys/fs/cgroup/system.slice/etcd.service/io.max", "8:0 rbps=max wbps=1048576 riops=max wiops=max")
	if _, err := f.inject(t.Context(), slow); err != nil {
		t.Error(err)
	}
	f.log = nil
	if _, err := f.heal(t.Context(), "x"); err != nil || f.place("systemctl set-property --runtime etcd.service IOWriteBandwidthMax=") < 0 {
		t.Errorf("%v, %q", err, f.log)
	}
	if _, err := newFake(t).inject(t.Context(), slow); !IsImpossible(err) || !strings.Contains(err.Error(), "no member runs") {
		t.Errorf("without etcd: %v", err)
	}
}

// sysfs makes a partition of a disk.
func (f *fake) sysfs(partition, disk string) {
	f.t.Helper()
	f.put("/sys/devices/vda/dev", disk)
	f.put("/sys/devices/vda/vda1/dev", partition)
	f.put("/sys/devices/vda/vda1/partition", "1")
	if err := os.MkdirAll(f.at("/sys/dev/block"), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Symlink(f.at("/sys/devices/vda/vda1"), f.at(filepath.Join("/sys/dev/block", partition))); err != nil {
		f.t.Fatal(err)
	}
}

func TestMounts(t *testing.T) {
	f := newFake(t)
	f.put("/proc/self/mountinfo", `22 1 0:20 / / rw - btrfs /dev/vda2 rw
30 22 0:20 /@var /var rw - btrfs /dev/vda3 rw
31 30 0:21 / /var/lib/etcd rw shared:1 - ext4 /dev/vdb rw
`)
	for dir, want := range map[string]string{"/etc": "/dev/vda2", "/var/lib": "/dev/vda3", "/var/lib/etcd": "/dev/vdb", "/var/lib/etcd2": "/dev/vda3"} {
		if got := (slowing{f.machine}).sourceOf(f.at(dir)); got != want {
			t.Errorf("%s is on %s, want %s", dir, got, want)
		}
	}
}

// TestResets: nothing that could be a container is reset.
func TestResets(t *testing.T) {
	reset := Request{ID: "x", Kind: kindReboot, Target: targetHost}
	computer := func() *fake {
		f := newFake(t)
		f.put("/proc/1/comm", "systemd\n")
		if err := os.MkdirAll(f.at("/proc/self/ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(initialPIDs, f.at("/proc/self/ns/pid")); err != nil {
			t.Fatal(err)
		}
		f.says = "none"
		return f
	}
	f := computer()
	if got, err := f.inject(t.Context(), reset); err != nil || got.What == "" || len(f.log) != 1 || !strings.HasSuffix(f.log[0], " systemctl reboot --force --force") {
		t.Errorf("%+v, %v, %q", got, err, f.log)
	}
	for what, change := range map[string]func(*fake){
		"a container, as systemd found": func(f *fake) { f.kind = "quorate" },
		"a namespace of processes":      func(f *fake) { f.renamed("/proc/self/ns/pid", "pid:[4026532000]") },
		"an unknown namespace":          func(f *fake) { os.Remove(f.at("/proc/self/ns/pid")) },
		"another first process":         func(f *fake) { f.put("/proc/1/comm", "init\n") },
		"an unknown first process":      func(f *fake) { os.Remove(f.at("/proc/1/comm")) },
		"a container, as systemd says":  func(f *fake) { f.says = "lxc" },
		"no answer of systemd":          func(f *fake) { f.says = "" },
	} {
		f := computer()
		change(f)
		if _, err := f.inject(t.Context(), reset); !IsImpossible(err) || len(f.log) > 0 {
			t.Errorf("%s: %v, %q", what, err, f.log)
		}
	}
}

// renamed gives a link another target.
func (f *fake) renamed(path, target string) {
	f.t.Helper()
	os.Remove(f.at(path))
	if err := os.Symlink(target, f.at(path)); err != nil {
		f.t.Fatal(err)
	}
}

func TestAvailableMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	for text, want := range map[string]int64{"MemTotal:       2000 kB\nMemAvailable:    1000 kB\n": 1000 << 10, "MemTotal: 2000 kB\n": 0} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := availableMemory(path); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if here, err := availableMemory("/proc/meminfo"); err != nil || here <= 0 {
		t.Errorf("%d, %v", here, err)
	}
}

func TestADirectoryThatIsNotThere(t *testing.T) {
	if err := fillDisk(t.Context(), filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("it was filled")
	}
}
