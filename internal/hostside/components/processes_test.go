package components

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// program builds a program of a module as the bundle does: the version is that of a module which it needs. It runs until the
// test ends, under the given name, and is a link to the file that is returned.
func program(t *testing.T, name, version string) (pid int, file, link string) {
	t.Helper()
	dir := t.TempDir()
	for path, text := range map[string]string{
		"go.mod":    "module components.example/kubernetes\n\ngo 1.26\n\nrequire k8s.io/kubernetes " + version + "\n\nreplace k8s.io/kubernetes => ./k\n",
		"main.go":   "package main\n\nimport (\n\t\"io\"\n\t\"os\"\n\n\t\"k8s.io/kubernetes/v\"\n)\n\nfunc main() {\n\tif len(os.Args) > 1 {\n\t\tprintln(\"Kubernetes v1.2.3\")\n\t\treturn\n\t}\n\tos.Stdout.WriteString(v.Ready)\n\tio.Copy(io.Discard, os.Stdin)\n}\n",
		"k/go.mod":  "module k8s.io/kubernetes\n\ngo 1.26\n",
		"k/v/v.go":  "package v\n\nconst Ready = \"ready\\n\"\n",
		"bin/.keep": "",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, link = filepath.Join(dir, "bin", "kubernetes"), filepath.Join(dir, "bin", name)
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Symlink("kubernetes", link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, link)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
		cancel()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil && err != io.EOF || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd.Process.Pid, file, link
}

// TestVersionOfWhatRuns replaces and deletes the file of a program that runs.
func TestVersionOfWhatRuns(t *testing.T) {
	pid, file, link := program(t, "kubelet", "v1.37.2")
	h := newHost(t)
	h.proc = "/proc"
	h.state["kubelet.service"] = system.Unit{Exists: true, Active: "active", PID: pid}
	h.put("/root"+kubeletConfig, "healthzPort: 0\n")
	if c := h.ask(facts.Kubelet); !c.OK || c.Version != "v1.37.2" || c.Replaced {
		t.Errorf("as started: %+v", c)
	}
	found := findProcesses("/proc")["kubelet"]
	if len(found) == 0 || !containsPID(found, pid) {
		t.Errorf("process %d is not among %+v", pid, found)
	}
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	if c := h.ask(facts.Kubelet); c.Version != "v1.37.2" || !c.Replaced {
		t.Errorf("moved away: %+v", c)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if c := h.ask(facts.Kubelet); c.Version != "v1.37.2" || !c.Replaced {
		t.Errorf("replaced: %+v", c)
	}
	if err := os.Remove(file + ".old"); err != nil {
		t.Fatal(err)
	}
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err != nil || !strings.HasSuffix(exe, "(deleted)") {
		t.Fatalf("%s, %v", exe, err)
	}
	if c := h.ask(facts.Kubelet); c.Version != "v1.37.2" || !c.Replaced {
		t.Errorf("deleted: %+v", c)
	}
	_ = link
}

// TestVersionThatIsNotInTheProgram is printed by it, as by Kubernetes' own releases.
func TestVersionThatIsNotInTheProgram(t *testing.T) {
	pid, file, _ := program(t, "kubelet", "v0.0.0-20260101000000-0123456789ab")
	if err := os.Remove(file); err != nil { // what runs can be asked all the same
		t.Fatal(err)
	}
	h := newHost(t)
	h.proc = "/proc"
	h.state["kubelet.service"] = system.Unit{Exists: true, Active: "active", PID: pid}
	h.put("/root"+kubeletConfig, "healthzPort: 0\n")
	if c := h.ask(facts.Kubelet); c.Version != "v1.2.3" {
		t.Errorf("%+v", c)
	}
}

func containsPID(all []process, pid int) bool {
	for _, p := range all {
		if p.pid == pid {
			return true
		}
	}
	return false
}

const (
	theirs = "1111111111111111111111111111111111111111111111111111111111111111"
	ours   = "2222222222222222222222222222222222222222222222222222222222222222"
)

func knows(all map[string]containerd.Container) func(context.Context, ...string) (map[string]containerd.Container, error) {
	return func(_ context.Context, ids ...string) (map[string]containerd.Container, error) {
		out := map[string]containerd.Container{}
		for _, id := range ids {
			if c, ok := all[id]; ok {
				out[id] = c
			}
		}
		return out, nil
	}
}

// TestOthersProcesses have the same names as the cluster's: a scheduler of the user's own, and a whole cluster in a pod.
func TestOthersProcesses(t *testing.T) {
	h := newHost(t)
	h.runs(40, 3, "/kubepods/pod1/"+theirs+"/init/kubepods/pod2/"+ours, "kube-scheduler", "--nested")
	h.runs(41, 2, "/kubepods/pod1/"+theirs, "kube-scheduler", "--config=/mine")
	h.runs(42, 2, "/kubepods.slice/kubepods-pod2.slice/cri-containerd-"+ours+".scope", "kube-scheduler", "--leader-elect=true")
	h.runs(43, 1, "/", "vi", "kube-scheduler")
	h.containers = knows(map[string]containerd.Container{
		theirs: {Image: "registry.k8s.io/kube-scheduler:v1.30.0", Labels: map[string]string{containerd.PodLabel: "my-scheduler-x", containerd.PodNamespaceLabel: "kube-system"}},
		ours:   {Image: "registry.k8s.io/kube-scheduler:v1.37.2@sha256:abc", Labels: map[string]string{containerd.PodLabel: "kube-scheduler-cp-a", containerd.PodNamespaceLabel: "kube-system"}},
	})
	a := h.attempt(Request{}, h.first)
	if n := len(a.processes()[facts.Scheduler]); n != 2 {
		t.Errorf("%d processes, want 2", n)
	}
	p, ok := a.find(t.Context(), facts.Scheduler)
	if !ok || p.pid != 42 {
		t.Errorf("%+v, %v", p, ok)
	}
	// These processes have no program file, so the tag of the image decides.
	if v := a.programVersion(t.Context(), facts.Scheduler); v != "v1.37.2" {
		t.Errorf("version %q", v)
	}
	if v := a.programVersion(t.Context(), facts.ControllerManager); v != "" {
		t.Errorf("version of what does not run: %q", v)
	}

	// Two kube-proxies, and nobody who knows which is the cluster's: that is no proof that it does not run.
	h = newHost(t)
	h.runs(1, 2, "/"+theirs, "kube-proxy")
	h.runs(2, 2, "/"+ours, "kube-proxy")
	is(t, "ambiguous", h.ask(facts.KubeProxy).Answer, "unknown", "2 processes are named kube-proxy")
}

func TestTag(t *testing.T) {
	for image, want := range map[string]string{
		"registry.k8s.io/kube-scheduler:v1.37.2": "v1.37.2", "localhost:5000/etcd:3.7.0-0": "3.7.0-0", "a/b:v1.2@sha256:00": "v1.2",
		"localhost:5000/etcd": "", "a/b:latest": "", "sha256:0123": "", "": "",
	} {
		if got := Tag(image); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}

func TestModuleVersion(t *testing.T) {
	info := func(main, dep string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: "x", Version: main}, Deps: []*debug.Module{{Path: "k8s.io/kubernetes", Version: dep}}}
	}
	for dep, want := range map[string]string{"v1.37.2": "v1.37.2", "v1.37.2+incompatible": "v1.37.2", "v1.38.0-rc.1": "v1.38.0-rc.1",
		"(devel)": "", "": "", "v0.0.0-20260101000000-0123456789ab": ""} {
		if got := moduleVersion(info("(devel)", dep), "k8s.io/kubernetes"); got != want {
			t.Errorf("%s: %q, want %q", dep, got, want)
		}
	}
	if got := moduleVersion(info("(devel)", "v1.37.2"), "github.com/flannel-io/flannel"); got != "" {
		t.Errorf("of another module: %q", got)
	}
}

// TestSinceWhenProgramsRun: of a member that is a unit, the unit's process counts, and of one in a static pod the pod's.
func TestSinceWhenProgramsRun(t *testing.T) {
	h := newHost(t)
	h.put("/proc/uptime", "1000.00 5000.00\n")
	since := func(pid, seconds int) {
		h.put("/proc/"+strconv.Itoa(pid)+"/stat", strconv.Itoa(pid)+" (a (b) c) S "+strings.Repeat("0 ", 18)+strconv.Itoa(seconds*100)+" 0 0\n")
	}
	h.runs(10, 2, "/kubepods/"+ours, "kube-apiserver", "--etcd-servers=https://127.0.0.1:2379")
	h.runs(11, 2, "/kubepods/"+theirs, "etcd", "--name=cp-a")
	since(10, 900)
	since(11, 950)
	since(12, 990)
	read := func() map[string]time.Time {
		r, err := h.read(t.Context(), Request{Starts: []string{facts.APIServer, facts.Etcd}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Started
	}
	check := func(what string, have time.Time, ago time.Duration) {
		t.Helper()
		if off := time.Since(have) - ago; have.IsZero() || off < 0 || off > 5*time.Second {
			t.Errorf("%s: %s", what, time.Since(have))
		}
	}
	started := read()
	check("the API server", started[facts.APIServer], 100*time.Second)
	check("the member in a pod", started[facts.Etcd], 50*time.Second)
	h.state[hostconfig.EtcdUnit] = system.Unit{Exists: true, Active: "active", PID: 12}
	check("the member that is a unit", read()[facts.Etcd], 10*time.Second)
	units, asked := h.units, 0
	h.units = func(ctx context.Context, names ...string) (map[string]system.Unit, error) {
		if asked++; asked == 1 {
			return nil, errors.New("no answer within 1s")
		}
		return units(ctx, names...)
	}
	check("the member that is a unit, which systemd tells the second time", read()[facts.Etcd], 10*time.Second)
	h.state[hostconfig.EtcdUnit] = system.Unit{Exists: true, Active: "failed"}
	if have, known := read()[facts.Etcd]; known {
		t.Errorf("the member does not run: %s", have)
	}
	h.put("/proc/uptime", "")
	if have := read(); len(have) > 0 {
		t.Errorf("nobody can tell: %v", have)
	}
}

// TestSinceWhenComponentsRun: the age of the kubelet says whether the host has just booted, and that of clients in pods whether they have read a
// renewed authority.
func TestSinceWhenComponentsRun(t *testing.T) {
	h := newHost(t)
	h.put("/proc/uptime", "1000.00 5000.00\n")
	for pid, program := range map[int]string{10: facts.ControllerManager, 11: facts.Scheduler, 12: facts.KubeProxy, 13: flanneld, 14: "kubelet"} {
		h.runs(pid, 2, "/kubepods/"+strings.Replace(ours, ours[:2], strconv.Itoa(pid), 1), program)
		h.put("/proc/"+strconv.Itoa(pid)+"/stat", strconv.Itoa(pid)+" (a) S "+strings.Repeat("0 ", 18)+strconv.Itoa(90000+pid*100)+" 0 0\n")
	}
	h.state["kubelet.service"] = system.Unit{Exists: true, Active: "active", PID: 14}
	h.put("/root"+kubeletConfig, "healthzPort: 0\n")
	for pid, name := range map[int]string{10: facts.ControllerManager, 11: facts.Scheduler, 12: facts.KubeProxy, 13: facts.Flannel, 14: facts.Kubelet} {
		have, ago := h.ask(name).Started, time.Duration(100-pid)*time.Second
		if off := time.Since(have) - ago; have.IsZero() || off < 0 || off > 5*time.Second {
			t.Errorf("%s: %s", name, have)
		}
	}
}
