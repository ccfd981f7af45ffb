package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate.dev/quorate/internal/hostside/system"
)

func TestProcesses(t *testing.T) {
	f := newFake(t)
	f.cluster()
	f.runs(202, 201, 2002, "0::/system.slice/haproxy.service") // a worker that was replaced, and has connections
	f.runs(203, 200, 2003, "")
	f.put("/proc/203/status", "State:\tZ (zombie)\nPPid:\t200\n")
	for target, want := range map[string][]int{
		"kube-apiserver": {100},
		"etcd":           {110},
		"flannel":        {120},
		"haproxy":        {200, 201, 202},
		"containerd":     {300}, // pods survive containerd, and so do their shims
	} {
		got, err := f.processesOf(t.Context(), target)
		var pids []int
		for _, p := range got {
			pids = append(pids, p.PID)
		}
		if err != nil || !slices.Equal(pids, want) {
			t.Errorf("%s: %v, %v, want %v", target, pids, err, want)
		}
	}
	for _, target := range []string{"kubelet", "keepalived", "kube-scheduler", "coredns"} {
		if got, err := f.processesOf(t.Context(), target); !IsImpossible(err) || !strings.Contains(err.Error(), target+" does not run on this host") {
			t.Errorf("%s: %v, %v", target, got, err)
		}
	}
	// An etcd host runs it as a unit.
	f.state["etcd.service"] = &system.Unit{Exists: true, Active: "active", PID: 300}
	if got, err := f.processesOf(t.Context(), "etcd"); err != nil || len(got) != 1 || got[0] != (process{300, 3000}) {
		t.Errorf("%v, %v", got, err)
	}
	f.state["etcd.service"].PID = 999
	if got, err := f.processesOf(t.Context(), "etcd"); err == nil || IsImpossible(err) {
		t.Errorf("a main process that has ended: %v, %v", got, err)
	}
}

// TestHang: what is started while others are being suspended is suspended, too. What is started later goes on when the fault is healed,
// and is not touched.
func TestHang(t *testing.T) {
	f := newFake(t)
	f.cluster()
	f.when = func(what string) {
		if what == "signal 19 to 200" {
			f.runs(210, 200, 2100, "")
		}
	}
	r := request(Request{Kind: kindHang, Target: "haproxy"})
	got, err := f.inject(t.Context(), r)
	if err != nil || !slices.Equal(got.PIDs, []int{200, 201, 210}) || got.What != "suspended haproxy (processes 200, 201, 210)" {
		t.Fatalf("%+v, %v", got, err)
	}
	// The worker is killed and started again with the same ID.
	f.runs(201, 200, 5000, "")
	f.log = nil
	if _, err := f.heal(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"signal 18 to 210", "signal 18 to 200"}; len(f.log) < 2 || !slices.Equal(f.log[:2], want) {
		t.Errorf("%q", f.log)
	}

	f = newFake(t)
	f.cluster()
	pid := 1000
	f.when = func(what string) {
		if strings.HasPrefix(what, "signal 19") {
			pid++
			f.runs(pid, 200, uint64(pid), "")
		}
	}
	if _, err := f.inject(t.Context(), r); err == nil || !strings.Contains(err.Error(), "faster") || len(f.ids()) > 0 {
		t.Errorf("a program that goes on starting others: %v", err)
	}
}

func TestKill(t *testing.T) {
	f := newFake(t)
	f.cluster()
	got, err := f.inject(t.Context(), Request{ID: "x", Kind: kindKill, Target: "haproxy"})
	if err != nil || !slices.Equal(f.log, []string{"signal 9 to 200", "signal 9 to 201"}) || !got.Until.IsZero() || !slices.Equal(got.PIDs, []int{200, 201}) {
		t.Errorf("%+v, %v, %q", got, err, f.log)
	}
	if healed, err := f.heal(t.Context(), "x"); err != nil || len(healed) > 0 || len(f.ids()) > 0 {
		t.Errorf("%v, %v", healed, err)
	}
}

// TestSignals: a process with the same ID that began at another time is another process.
func TestSignals(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it is gone already
	pid := cmd.Process.Pid
	here := &machine{}
	all := here.tree(pid, true)
	if len(all) != 1 || all[0].PID != pid || all[0].Start == 0 {
		t.Fatalf("%v", all)
	}
	if !slices.ContainsFunc(here.tree(os.Getpid(), true), func(p process) bool { return p == all[0] }) {
		t.Error("it is no descendant of this process")
	}
	state := func(want string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !strings.HasPrefix(status(fmt.Sprintf("/proc/%d", pid), "State"), want); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it is not %s, but %q", want, status(fmt.Sprintf("/proc/%d", pid), "State"))
			}
		}
	}
	other := process{pid, all[0].Start + 1}
	if err := sendSignal(other, syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("%v", err)
	}
	for _, s := range []struct {
		signal
		state string
	}{{syscall.SIGSTOP, "T"}, {syscall.SIGCONT, "S"}} {
		if err := sendSignal(all[0], s.signal); err != nil {
			t.Fatal(err)
		}
		state(s.state)
	}
	if err := sendSignal(all[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	state("Z")
	if all := here.tree(pid, false); len(all) > 0 {
		t.Errorf("what has ended is there: %v", all)
	}
	cmd.Wait() //nolint:errcheck // it was killed
	if err := sendSignal(all[0], syscall.SIGCONT); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("%v", err)
	}
}
