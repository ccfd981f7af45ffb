package fault

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
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/staticpod"
)

var noon = time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)

// fake is a machine that exists only in a directory.
type fake struct {
	*machine
	t     *testing.T
	clock time.Time
	// log is what was done to it, in order; fails says what fails, by its beginning; and when is called before anything is done.
	log   []string
	fails map[string]error
	when  func(what string)

	state       map[string]*system.Unit
	inContainer map[string][]string // IDs of containers by namespace/name
	tables      map[string][]table
	kind        string // of container
	disk        fileSystem
	says        string // what systemd-detect-virt prints
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, clock: noon, fails: map[string]error{}, state: map[string]*system.Unit{}, inContainer: map[string][]string{}, tables: map[string][]table{},
		disk: fileSystem{kind: unix.EXT4_SUPER_MAGIC, device: unix.Mkdev(8, 1), free: 10 << 30}}
	f.machine = &machine{
		root: t.TempDir(), now: func() time.Time { return f.clock },
		install:   func() (string, error) { return "/usr/local/bin/quorate-faults", f.did("install") },
		uninstall: func() error { return f.did("uninstall") },
		units: func(_ context.Context, names ...string) (map[string]system.Unit, error) {
			out := map[string]system.Unit{}
			for _, n := range names {
				out[n] = system.Unit{Active: "inactive"}
				if u := f.state[n]; u != nil {
					out[n] = *u
				}
			}
			return out, nil
		},
		systemctl: func(_ context.Context, args ...string) error { return f.did("systemctl " + strings.Join(args, " ")) },
		run: func(_ context.Context, name string, args ...string) error {
			// What a unit runs is a command that accepts these arguments: package cli refuses others.
			if at := slices.Index(args, "host"); name == "systemd-run" && at >= 0 {
				command, is := Commands[args[at+1]]
				if err := command.Fits(args[at+1], args[at+2:]); err != nil || !is {
					t.Errorf("%q is no command of quorate host: %v", args[at+1:], err)
				}
			}
			return f.did(name + " " + strings.Join(args, " "))
		},
		output: func(context.Context, string, ...string) ([]byte, error) {
			return []byte(f.says + "\n"), errors.New("exit status 1")
		},
		containers: func(_ context.Context, namespace, name string) ([]string, error) {
			return f.inContainer[namespace+"/"+name], nil
		},
		held: func(context.Context, string) (int, error) { return 0, nil },
		signal: func(p process, s signal) error {
			if !slices.ContainsFunc(f.table(), func(r running) bool { return r.process == p }) {
				return os.ErrProcessDone
			}
			return f.did(fmt.Sprintf("signal %d to %d", s, p.PID))
		},
		addTables: func(name string, all []table) ([]string, error) {
			if err := f.did("add tables " + name); err != nil {
				return nil, err
			}
			f.tables[name] = all
			return nil, nil
		},
		removeTables: func(name string) error {
			if err := f.did("remove tables " + name); err != nil {
				return err
			}
			delete(f.tables, name)
			return nil
		},
		devices:   func([]string) []string { return []string{"eth0"} },
		container: func() string { return f.kind },
		files:     func(string) (fileSystem, error) { return f.disk, nil },
	}
	return f
}

func (f *fake) did(what string) error {
	if f.when != nil {
		f.when(what)
	}
	for begin, err := range f.fails {
		if strings.HasPrefix(what, begin) {
			return err
		}
	}
	f.log = append(f.log, what)
	return nil
}

// place is the place of the first action that contains a text; -1 if there is none.
func (f *fake) place(text string) int {
	return slices.IndexFunc(f.log, func(what string) bool { return strings.Contains(what, text) })
}

func (f *fake) put(path, content string) {
	f.t.Helper()
	if err := durable.WriteFile(f.at(path), []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// runs adds a process to the process table.
func (f *fake) runs(pid, parent int, start uint64, group string) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	f.put(dir+"stat", fmt.Sprintf("%d (a ) b) S %d%s %d 0", pid, parent, strings.Repeat(" 0", 17), start))
	f.put(dir+"status", fmt.Sprintf("Name:\ta\nState:\tS (sleeping)\nPPid:\t%d\nNSpid:\t%d\n", parent, pid))
	f.put(dir+"cgroup", group+"\n")
}

// cluster makes a control plane of the machine, with a load balancer.
func (f *fake) cluster() {
	api := strings.Repeat("a1", 32)
	f.inContainer["kube-system/kube-apiserver"] = []string{api}
	f.runs(100, 1, 1000, "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-"+api+".scope")
	f.put(staticpod.Dir+"/kube-apiserver.yaml", manifest)
	member := strings.Repeat("e7", 32)
	f.inContainer["kube-system/etcd"] = []string{member}
	f.runs(110, 1, 1001, "7:blkio:/kubepods/burstable/pod2/"+member+"\n0::/kubepods.slice/kubepods-burstable-pod2.slice/cri-containerd-"+member+".scope")
	flannel := strings.Repeat("f1", 32)
	f.inContainer["kube-flannel/flannel"] = []string{flannel}
	f.runs(120, 1, 1002, "0::/kubepods.slice/"+flannel)
	f.state["haproxy.service"] = &system.Unit{Exists: true, Active: "active", PID: 200}
	f.runs(200, 1, 2000, "0::/system.slice/haproxy.service")
	f.runs(201, 200, 2001, "0::/system.slice/haproxy.service")
	f.state["containerd.service"] = &system.Unit{Exists: true, Active: "active", PID: 300}
	f.runs(300, 1, 3000, "0::/system.slice/containerd.service")
	f.runs(301, 300, 3001, "0::/system.slice/containerd.service") // a shim
	// A cluster in a machine on this computer has processes of the same names.
	f.runs(900, 1, 9000, "0::/quorate/lab/cp-a/kubepods.slice/cri-containerd-"+strings.Repeat("b2", 32)+".scope")
	f.runs(901, 1, 9001, "0::/quorate/lab/cp-a/system.slice/haproxy.service")
}

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers: [{name: kube-apiserver, image: x}]
status: {}
`

var peers = []string{"10.0.0.12", "10.0.0.13"}

// lasting is one fault of each way to inject one that lasts, with what it does to the machine, besides changing files.
var lasting = []struct {
	Request
	does string
}{
	{Request{Kind: kindHang, Target: "kube-apiserver"}, "signal 19 to 100"},
	{Request{Kind: kindStop, Target: "haproxy"}, "systemctl stop haproxy.service"},
	{Request{Kind: kindStop, Target: "kube-apiserver"}, ""},
	{Request{Kind: kindCut, Target: targetHost, Peers: peers}, "add tables quorate-fault-x"},
	{Request{Kind: kindLoss, Target: targetHost, Peers: peers, Percent: 20}, "add tables quorate-fault-x"},
	{Request{Kind: kindFill, Target: targetDisk}, "-load.service"},
	{Request{Kind: kindPress, Target: targetCPU}, "-load.service"},
	{Request{Kind: kindPress, Target: targetMemory, Percent: 90}, "-load.service"},
}

// request completes one of them.
func request(r Request) Request {
	r.ID, r.Lasts = "x", 10*time.Second
	return r
}

const armed = "--on-active=10000ms"

// TestTheSwitchIsArmedFirst: when a fault is injected, it is noted, and its timer runs.
func TestTheSwitchIsArmedFirst(t *testing.T) {
	for _, l := range lasting {
		t.Run(l.Kind+" "+l.Target, func(t *testing.T) {
			f := newFake(t)
			f.cluster()
			before := f.snapshot()
			f.when = func(what string) {
				if !strings.Contains(what, armed) {
					return
				}
				if r, err := f.read("x"); err != nil || r == nil || r.Done || !r.Until.Equal(noon.Add(10*time.Second)) {
					t.Errorf("when the switch is armed, the note is %+v, %v", r, err)
				}
				if d := f.differs(before); len(d) > 0 {
					t.Errorf("when the switch is armed, the fault is injected already: %v", d)
				}
			}
			got, err := f.inject(t.Context(), request(l.Request))
			if err != nil {
				t.Fatal(err)
			}
			if got.What == "" || !got.Until.Equal(noon.Add(10*time.Second)) {
				t.Errorf("%+v", got)
			}
			arm, act := f.place(armed), f.place(l.does)
			if arm < 0 || l.does != "" && act < arm {
				t.Errorf("armed at %d, injected at %d: %q", arm, act, f.log)
			}
			for _, want := range []string{"systemd-run", "--unit=quorate-fault-x_", "--on-unit-inactive=", "/usr/local/bin/quorate-faults host heal-fault x"} {
				if !strings.Contains(f.log[arm], want) {
					t.Errorf("the switch is %q, without %s", f.log[arm], want)
				}
			}
			if r, err := f.read("x"); err != nil || r == nil || !r.Done {
				t.Errorf("afterwards, the note is %+v, %v", r, err)
			}
			all, err := f.active()
			if err != nil || len(all) != 1 || all[0].ID != "x" || all[0].What != got.What || !all[0].Until.Equal(got.Until) {
				t.Errorf("%+v, %v", all, err)
			}
		})
	}
}

// TestNothingIsInjectedWithoutASwitch: if it cannot be installed or armed, the host is as it was.
func TestNothingIsInjectedWithoutASwitch(t *testing.T) {
	for _, l := range lasting {
		for _, what := range []string{"install", "systemd-run --quiet --collect --unit=quorate-fault-x_"} {
			f := newFake(t)
			f.cluster()
			before := f.snapshot()
			f.fails[what] = errors.New("no")
			if _, err := f.inject(t.Context(), request(l.Request)); err == nil {
				t.Errorf("%s %s without %s", l.Kind, l.Target, what)
			}
			if f.place("signal 19") >= 0 || f.place("stop haproxy") >= 0 || f.place("add tables") >= 0 || f.place("-load.service --desc") >= 0 {
				t.Errorf("%s %s without %s: %q", l.Kind, l.Target, what, f.log)
			}
			if d := f.differs(before); len(d) > 0 {
				t.Errorf("%s %s without %s: %v", l.Kind, l.Target, what, d)
			}
		}
	}
}

// TestWhatFailsIsHealed: a fault that could be injected only in part is healed, and its switch disarmed. If even that fails, the switch
// stays.
func TestWhatFailsIsHealed(t *testing.T) {
	for _, l := range lasting {
		if l.does == "" || l.does == "-load.service" { // arming begins with the same command
			continue
		}
		f := newFake(t)
		f.cluster()
		before := f.snapshot()
		f.fails[l.does] = errors.New("no")
		if _, err := f.inject(t.Context(), request(l.Request)); err == nil || !strings.Contains(err.Error(), "no") {
			t.Errorf("%s %s: %v", l.Kind, l.Target, err)
		}
		if d := f.differs(before); len(d) > 0 || f.place("systemctl stop quorate-fault-x_*.timer") < 0 {
			t.Errorf("%s %s: %v, %q", l.Kind, l.Target, d, f.log)
		}
	}
	f := newFake(t)
	f.fails["add tables"], f.fails["remove tables"] = errors.New("no"), errors.New("never")
	_, err := f.inject(t.Context(), request(Request{Kind: kindCut, Target: targetHost, Peers: peers}))
	if err == nil || !strings.Contains(err.Error(), "never") || len(f.ids()) != 1 || f.place(".timer") >= 0 {
		t.Errorf("%v, %v, %q", err, f.ids(), f.log)
	}
}

// TestTheSwitchHeals what was injected, and nothing is left; healing again is no error.
func TestTheSwitchHeals(t *testing.T) {
	for _, l := range lasting {
		f := newFake(t)
		f.cluster()
		before := f.snapshot()
		if _, err := f.inject(t.Context(), request(l.Request)); err != nil {
			t.Fatal(err)
		}
		f.log = nil
		for i, want := range [][]string{{"x"}, {}} {
			if got, err := f.heal(t.Context(), "x"); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s %s, %d: %v, %v", l.Kind, l.Target, i, got, err)
			}
		}
		if d := f.differs(before); len(d) > 0 || f.place("systemctl stop quorate-fault-x_*.timer") < 0 {
			t.Errorf("%s %s: %v, %q", l.Kind, l.Target, d, f.log)
		}
		undoes := map[string]string{"signal 19 to 100": "signal 18 to 100", "systemctl stop haproxy.service": "systemctl start --no-block haproxy.service",
			"-load.service": "systemctl stop quorate-fault-x_*-load.service"}[l.does]
		if f.place(undoes) < 0 {
			t.Errorf("%s %s: not %q: %q", l.Kind, l.Target, undoes, f.log)
		}
	}
}

// TestAKilledInjectionIsHealed, wherever it was killed, by the switch and by a repetition.
func TestAKilledInjectionIsHealed(t *testing.T) {
	for _, l := range lasting {
		for n := 0; ; n++ {
			f := newFake(t)
			f.cluster()
			before := f.snapshot()
			done, killed := 0, false
			f.when = func(string) {
				if done++; done > n && !killed {
					killed = true
					panic("killed")
				}
			}
			func() {
				defer func() {
					if p := recover(); p != nil && p != "killed" {
						panic(p)
					}
				}()
				if _, err := f.inject(t.Context(), request(l.Request)); err != nil {
					t.Fatal(err)
				}
			}()
			f.when = nil
			if !killed {
				break
			}
			if n%2 == 0 {
				if _, err := f.inject(t.Context(), request(l.Request)); err != nil {
					t.Fatalf("%s %s, killed after %d: again: %v", l.Kind, l.Target, n, err)
				}
			}
			if _, err := f.heal(t.Context(), "x"); err != nil {
				t.Fatalf("%s %s, killed after %d: %v", l.Kind, l.Target, n, err)
			}
			if d := f.differs(before); len(d) > 0 {
				t.Errorf("%s %s, killed after %d: %v", l.Kind, l.Target, n, d)
			}
		}
	}
}

// snapshot are the files of the machine, apart from its process table.
func (f *fake) snapshot() map[string]string {
	f.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(f.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, f.root)
		if e.Type()&fs.ModeSymlink != 0 {
			out[name], err = os.Readlink(path)
			return err
		}
		data, err := os.ReadFile(path)
		out[name] = string(data)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// differs says what is different from an earlier moment, apart from notes of faults, and from copies that are set aside.
func (f *fake) differs(before map[string]string) (out []string) {
	now := f.snapshot()
	all := maps.Clone(before)
	maps.Copy(all, now)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if strings.HasSuffix(path, ".lock") || len(f.ids()) > 0 && strings.HasSuffix(path, "/faults/x.json") {
			continue
		}
		if _, is := now[path]; before[path] != now[path] || !is {
			out = append(out, path)
		}
	}
	for name := range f.tables {
		out = append(out, "table "+name)
	}
	return out
}

func TestRepetitions(t *testing.T) {
	f := newFake(t)
	f.cluster()
	r := request(Request{Kind: kindCut, Target: targetHost, Peers: peers})
	first, err := f.inject(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	f.log = nil
	if again, err := f.inject(t.Context(), r); err != nil || again.What != first.What || len(f.log) > 0 {
		t.Errorf("%+v, %v, %q", again, err, f.log)
	}
	other := r
	other.Target = targetIncoming
	if _, err := f.inject(t.Context(), other); err == nil || !strings.Contains(err.Error(), "heal it first") {
		t.Errorf("another fault of the same ID: %v", err)
	}
	// Two cuts are independent of each other; two faults of the same program are not.
	other.ID = "y"
	if _, err := f.inject(t.Context(), other); err != nil || len(f.tables) != 2 {
		t.Errorf("%v, %v", err, f.tables)
	}
	hang := Request{ID: "hang", Kind: kindHang, Target: "haproxy", Lasts: time.Minute}
	if _, err := f.inject(t.Context(), hang); err != nil {
		t.Fatal(err)
	}
	hang.ID = "hang-again"
	if _, err := f.inject(t.Context(), hang); err == nil || !strings.Contains(err.Error(), "concerns the same") {
		t.Errorf("the same program: %v", err)
	}
	// A kill is not repeated when its answer was lost. Later it is another one.
	kill := Request{ID: "kill", Kind: kindKill, Target: "haproxy"}
	for i, want := range []int{2, 0, 2} {
		f.log = nil
		if i == 2 {
			f.clock = f.clock.Add(time.Hour)
		}
		if _, err := f.inject(t.Context(), kill); err != nil || len(f.log) != want {
			t.Errorf("kill %d: %v, %q", i, err, f.log)
		}
	}
	all, err := f.active()
	if err != nil || len(all) != 3 { // a kill is over
		t.Errorf("%+v, %v", all, err)
	}
	f.log = nil
	healed, err := f.heal(t.Context())
	if err != nil || !slices.Equal(healed, []string{"hang", "x", "y"}) || len(f.ids()) > 0 || f.place("uninstall") < 0 {
		t.Errorf("%v, %v, %q", healed, err, f.log)
	}
}

func TestBadRequests(t *testing.T) {
	f := newFake(t)
	f.cluster()
	good := request(Request{Kind: kindCut, Target: targetHost, Peers: peers})
	for what, change := range map[string]func(*Request){
		"no ID of a fault":          func(r *Request) { r.ID = "../x" },
		"no ID":                     func(r *Request) { r.ID = "A" },
		"no kind of fault":          func(r *Request) { r.Kind = "freeze" },
		"between a second and":      func(r *Request) { r.Lasts = 0 },
		"between a second and 24h":  func(r *Request) { r.Lasts = 100 * time.Hour },
		`no cut of "cpu"`:           func(r *Request) { r.Target = targetCPU },
		"no peers":                  func(r *Request) { r.Peers = nil },
		"is no IP address":          func(r *Request) { r.Peers = []string{"cp-a"} },
		"fd00::1/64":                func(r *Request) { r.Peers = []string{"fd00::1/64"} },
		"no program of a cluster":   func(r *Request) { r.Kind, r.Target = kindHang, "sshd" },
		"must be between 1 and 100": func(r *Request) { r.Kind, r.Percent = kindLoss, 0 },
		"of the memory: it must be": func(r *Request) { r.Kind, r.Target, r.Percent = kindPress, targetMemory, 101 },
		"must be 4096 or more":      func(r *Request) { r.Kind, r.Target = kindSlow, targetDisk },
		`"memory" cannot be filled`: func(r *Request) { r.Kind, r.Target = kindFill, targetMemory },
		`no reboot of "kubelet"`:    func(r *Request) { r.Kind, r.Target = kindReboot, "kubelet" },
	} {
		r := good
		change(&r)
		_, err := f.inject(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), what) || IsImpossible(err) {
			t.Errorf("%+v: %v, want %q", r, err, what)
		}
	}
	if len(f.log) > 0 || len(f.ids()) > 0 {
		t.Errorf("%q, %v", f.log, f.ids())
	}
	if _, err := f.heal(t.Context(), "../x"); err == nil {
		t.Error("a path is an ID")
	}
	if _, err := f.inject(t.Context(), good); err != nil {
		t.Fatal(err)
	}
}

// TestTheReasonArrives: the caller of another host knows that a fault is not possible there, and why.
func TestTheReasonArrives(t *testing.T) {
	f := newFake(t)
	before := local
	local = f.machine
	t.Cleanup(func() { local = before })
	conn, err := host.Local(t.Context(), "cp-a")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = Inject.Make(t.Context(), conn, permit{}, request(Request{Kind: kindStop, Target: "coredns"}))
	if !IsImpossible(err) || !strings.Contains(err.Error(), "DaemonSet or a Deployment") {
		t.Errorf("%v", err)
	}
	_, err = Inject.Make(t.Context(), conn, permit{}, request(Request{Kind: "freeze"}))
	if err == nil || IsImpossible(err) {
		t.Errorf("%v", err)
	}
	if IsImpossible(nil) || !IsImpossible(fmt.Errorf("cp-a: %w", errors.Join(errors.New("x"), Impossible{"why"}))) {
		t.Error("IsImpossible")
	}
	got, err := Inject.Make(t.Context(), conn, permit{}, request(Request{Kind: kindCut, Target: targetHost, Peers: peers}))
	if err != nil || !got.Until.Equal(noon.Add(10*time.Second)) {
		t.Errorf("%+v, %v", got, err)
	}
	if all, err := Active.On(t.Context(), conn, struct{}{}); err != nil || len(all) != 1 || all[0].Lasts != 10*time.Second || !slices.Equal(all[0].Peers, peers) {
		t.Errorf("%+v, %v", all, err)
	}
	if ids, err := Heal.On(t.Context(), conn, nil); err != nil || !slices.Equal(ids, []string{"x"}) {
		t.Errorf("%v, %v", ids, err)
	}
}

// permit allows everything: nothing is changed but a directory.
type permit struct{}

func (permit) Covers(string) error { return nil }

// TestOneAtATime: a fault that is being injected is not healed meanwhile. The switch does not wait forever.
func TestOneAtATime(t *testing.T) {
	f := newFake(t)
	release, err := f.lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := f.lock(t.Context(), "x-y"); err != nil {
		t.Errorf("another fault: %v", err)
	} else {
		other()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*lockPace)
	defer cancel()
	if _, err := f.lock(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	got := make(chan error, 2)
	for range 2 {
		go func() {
			release, err := f.lock(t.Context(), "x")
			if err == nil {
				release()
			}
			got <- err
		}()
	}
	release()
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(f.at(RunDir + "/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestHealedMeanwhile: an injection that takes so long that the switch has healed the fault undoes what it did after that.
func TestHealedMeanwhile(t *testing.T) {
	f := newFake(t)
	f.when = func(what string) {
		if strings.HasPrefix(what, "add tables") {
			os.Remove(f.at(RunDir + "/x.json"))
		}
	}
	_, err := f.inject(t.Context(), request(Request{Kind: kindCut, Target: targetHost, Peers: peers}))
	if err == nil || !strings.Contains(err.Error(), "while it was being injected") || len(f.tables) > 0 || len(f.ids()) > 0 {
		t.Errorf("%v, %v, %v", err, f.tables, f.ids())
	}
}

func TestCommands(t *testing.T) {
	for name := range Commands {
		switch name {
		case commandHeal:
			if err := Command(t.Context(), name, []string{""}); err == nil {
				t.Error("an empty ID")
			}
		case commandCPU:
			if err := Command(t.Context(), name, []string{"x"}); err == nil {
				t.Error("an argument too many")
			}
		default:
			if err := Command(t.Context(), name, nil); err == nil {
				t.Errorf("%s without an argument", name)
			}
		}
	}
	if err := Command(t.Context(), commandMemory, []string{"101"}); err == nil {
		t.Error("more than all of the memory")
	}
	if err := Command(t.Context(), "x", nil); err == nil {
		t.Error("an unknown command")
	}
}

func TestTheWordsAreThoseOfDrills(t *testing.T) {
	for ours, theirs := range map[string]drill.Kind{kindKill: drill.Kill, kindHang: drill.Hang, kindStop: drill.Stop, kindReboot: drill.Reboot, kindCut: drill.Cut,
		kindLoss: drill.Loss, kindFill: drill.Fill, kindSlow: drill.Slow, kindPress: drill.Press} {
		if ours != string(theirs) {
			t.Errorf("%q is %q in package drill", ours, theirs)
		}
	}
	for ours, theirs := range map[string]drill.Target{targetHost: drill.Host, targetIncoming: drill.Incoming, targetOutgoing: drill.Outgoing, targetVRRP: drill.VRRP,
		targetEtcdPeers: drill.EtcdPeers, targetLink: drill.Link, targetDisk: drill.Disk, targetMemory: drill.Memory, targetCPU: drill.CPU} {
		if ours != string(theirs) {
			t.Errorf("%q is %q in package drill", ours, theirs)
		}
	}
	for _, target := range []drill.Target{drill.APIServer, drill.ControllerManager, drill.Scheduler, drill.Etcd, drill.Kubelet, drill.Containerd, drill.KubeProxy,
		drill.Flannel, drill.CoreDNS, drill.HAProxy, drill.Keepalived, drill.Watchdog} {
		if _, err := programOf(string(target)); err != nil {
			t.Error(err)
		}
	}
}
