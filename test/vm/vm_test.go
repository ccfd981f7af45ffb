package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

func TestClusterSpec(t *testing.T) {
	for _, small := range []bool{false, true} {
		c, err := clusterSpec(small)
		if err != nil {
			t.Fatal(err)
		}
		data, err := spec.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := spec.Check(data, specFile, spec.Options{Lab: true})
		if err != nil {
			t.Fatalf("the machine cannot read its spec: %v\n%s", err, data)
		}
		if small != (len(again.Spec.Hosts) == 3) || small != (again.Spec.Failover.Profile == spec.ProfileStandard) {
			t.Errorf("small: %v:\n%s", small, data)
		}
		if again.Spec.Kubernetes.Version != spec.DefaultVersion {
			t.Errorf("the spec has version %s, and the machine gets the bundle of %s", again.Spec.Kubernetes.Version, spec.DefaultVersion)
		}
	}
}

func TestModes(t *testing.T) {
	for name, test := range map[string]struct {
		o    options
		kvm  bool
		want []mode
	}{
		"with KVM":     {options{accel: auto, clock: auto, cluster: auto}, true, []mode{{accelerator: kvm, slow: 1}, {accelerator: tcg, ownClock: true, slow: 60, small: true}}},
		"without":      {options{accel: auto, clock: auto, cluster: auto}, false, []mode{{accelerator: tcg, ownClock: true, slow: 60, small: true}}},
		"only KVM":     {options{accel: "kvm", clock: auto, cluster: clusterSmall}, false, []mode{{accelerator: kvm, slow: 1, small: true}}},
		"real clock":   {options{accel: "tcg", clock: clockReal, cluster: auto}, true, []mode{{accelerator: tcg, slow: 20, small: true}}},
		"own choices":  {options{accel: "tcg", clock: clockMachine, cluster: clusterFull, slow: 3}, true, []mode{{accelerator: tcg, ownClock: true, slow: 3}}},
		"slow and KVM": {options{accel: auto, clock: clockReal, cluster: clusterFull, slow: 2}, true, []mode{{accelerator: kvm, slow: 2}, {accelerator: tcg, slow: 2}}},
	} {
		if got := test.o.modes(test.kvm); !slices.Equal(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestOptions(t *testing.T) {
	good := options{images: []string{"debian-12"}, accel: auto, clock: auto, cluster: auto}
	if err := good.check(0); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*options){
		"image":    func(o *options) { o.images = []string{"debian-11"} },
		"no image": func(o *options) { o.images = []string{""} },
		"machines": func(o *options) { o.machines = "ubuntu" },
		"accel":    func(o *options) { o.accel = "xen" },
		"clock":    func(o *options) { o.clock = "fast" },
		"cluster":  func(o *options) { o.cluster = "large" },
		"slow":     func(o *options) { o.slow = -1 },
		"memory":   func(o *options) { o.memory = -1 },
	} {
		o := good
		change(&o)
		if o.check(0) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if good.check(1) == nil {
		t.Error("an argument is no error")
	}
}

func TestArguments(t *testing.T) {
	m := &machine{mode: mode{accelerator: tcg, ownClock: true}, image: "debian-12", memory: 100, disk: "/a,b/disk.img", dir: "/a,b"}
	joined := strings.Join(m.arguments(), " ")
	for _, want := range []string{"-icount shift=0", "file=/a,,b/disk.img,", "path=/a,,b/report.jsonl", "name=" + portName, "-m 100"} {
		if !strings.Contains(joined, want) {
			t.Errorf("%q is not in %s", want, joined)
		}
	}
	m.mode = mode{accelerator: kvm}
	if joined := strings.Join(m.arguments(), " "); strings.Contains(joined, "icount") || !strings.Contains(joined, "-accel kvm") {
		t.Errorf("with KVM: %s", joined)
	}
}

// TestReport reads what is written in pieces.
func TestReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.jsonl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := openReport(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	write := func(text string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...event) {
		t.Helper()
		got, err := r.more()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	expect()
	var sent bytes.Buffer
	p := &port{out: &sent}
	p.send(event{Kind: kindHello, Text: "a"})
	p.send(event{Kind: kindBegin, Step: "up"})
	text := sent.String()
	write(text[:5])
	expect()
	write(text[5 : len(text)-4])
	expect(event{Kind: kindHello, Text: "a"})
	write(text[len(text)-4:])
	expect(event{Kind: kindBegin, Step: "up"})
	write("not JSON\n")
	if _, err := r.more(); err == nil {
		t.Error("what is no event is no error")
	}
}

func TestLines(t *testing.T) {
	var sent bytes.Buffer
	l := &lines{port: &port{out: &sent}}
	for _, part := range []string{"one\ntw", "o", "\n", "three"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	l.flush()
	l.flush()
	var got []string
	for line := range strings.Lines(sent.String()) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Kind != kindOutput {
			t.Errorf("%s: %v", line, err)
		}
		got = append(got, e.Text)
	}
	if !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("%q", got)
	}
}

func TestWatch(t *testing.T) {
	now := time.Unix(0, 0)
	start := func() *watch {
		w := &watch{outcome: &outcome{}, say: func(string) {}, slow: 2, now: func() time.Time { return now }}
		w.enter("", bootLimit)
		return w
	}
	w := start()
	now = now.Add(2*bootLimit + time.Second)
	if !w.late() || !errors.Is(w.lateness(), errNotBooted) {
		t.Errorf("a machine that does not boot: %v, %v", w.late(), w.lateness())
	}
	w = start()
	w.take(event{Kind: kindHello, Text: "a system"})
	w.take(event{Kind: kindBegin, Step: "up"})
	now = now.Add(2 * limitOf("up"))
	if w.late() {
		t.Error("late at its limit")
	}
	now = now.Add(time.Second)
	if !w.late() || errors.Is(w.lateness(), errNotBooted) || !strings.Contains(w.lateness().Error(), "up") {
		t.Errorf("a step that does not end: %v, %v", w.late(), w.lateness())
	}

	w = start()
	w.take(event{Kind: kindHello})
	w.take(event{Kind: kindBegin, Step: "up"})
	w.take(event{Kind: kindEnd, Step: "up", Error: "broken"})
	w.take(event{Kind: kindFinished, Error: "broken"})
	if !w.finished || w.failed == nil || w.failed.Error() != "up: broken" {
		t.Errorf("a step that fails: %v", w.failed)
	}

	w = start()
	w.take(event{Kind: kindHello})
	for _, s := range steps {
		w.take(event{Kind: kindBegin, Step: s.name})
		w.take(event{Kind: kindEnd, Step: s.name})
	}
	w.take(event{Kind: kindFinished})
	if w.failed != nil || len(w.outcome.steps) != len(steps) {
		t.Errorf("a test that passes: %v, %+v", w.failed, w.outcome.steps)
	}

	w = start()
	w.take(event{Kind: kindHello})
	w.take(event{Kind: kindFinished})
	if w.failed == nil {
		t.Error("a test without steps passes")
	}
}

func TestLacks(t *testing.T) {
	whole := func() status.Status {
		s := status.Status{Stage: cluster.Complete, Endpoint: status.Endpoint{Reachable: true}}
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			s.Nodes = append(s.Nodes, status.Node{Name: name, Ready: true})
			s.Etcd.Members = append(s.Etcd.Members, status.Member{Name: name, Healthy: true})
			s.LoadBalancers = append(s.LoadBalancers, status.LoadBalancer{Name: name, Healthy: true})
		}
		return s
	}
	if got := lacks(whole(), ""); len(got) > 0 {
		t.Errorf("a whole cluster lacks %q", got)
	}
	if got := lacks(whole(), "cp-b"); len(got) != 3 {
		t.Errorf("nothing has noticed that cp-b is off: %q", got)
	}
	without := whole()
	without.Nodes[1].Ready, without.Etcd.Members[1].Healthy, without.LoadBalancers[1].Healthy = false, false, false
	if got := lacks(without, "cp-b"); len(got) > 0 {
		t.Errorf("without cp-b: %q", got)
	}
	if got := lacks(without, ""); len(got) != 3 {
		t.Errorf("cp-b does not work: %q", got)
	}
	if got := lacks(status.Status{}, ""); len(got) != 3 {
		t.Errorf("nothing is known: %q", got)
	}
}

func TestUsesSystemdDriver(t *testing.T) {
	group := t.TempDir()
	if usesSystemdDriver(group) == nil {
		t.Error("a node without cgroups of pods passes")
	}
	pod := filepath.Join(group, "kubepods.slice", "kubepods-burstable.slice", "kubepods-burstable-pod1.slice")
	if err := os.MkdirAll(pod, 0o755); err != nil {
		t.Fatal(err)
	}
	if usesSystemdDriver(group) == nil {
		t.Error("a node without cgroups of containers passes")
	}
	if err := os.Mkdir(filepath.Join(pod, "cri-containerd-1.scope"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := usesSystemdDriver(group); err != nil {
		t.Error(err)
	}
}

// TestPutStaysInTheTree: a link in the tree may lead to a file of this computer.
func TestPutStaysInTheTree(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(outside, []byte("of this computer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := link(root, "etc/resolv.conf", outside); err != nil {
		t.Fatal(err)
	}
	if err := put(root, "etc/resolv.conf", []byte("of the machine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "of this computer" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "etc/resolv.conf")); err != nil || string(data) != "of the machine" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestOnly(t *testing.T) {
	dir := t.TempDir()
	if _, err := only(filepath.Join(dir, "vmlinuz-*")); err == nil {
		t.Error("no file is no error")
	}
	for i, name := range []string{"vmlinuz-1", "vmlinuz-2"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := only(filepath.Join(dir, "vmlinuz-*")); (err == nil) != (i == 0) || i == 0 && got != path {
			t.Errorf("%d files: %q, %v", i+1, got, err)
		}
	}
}
