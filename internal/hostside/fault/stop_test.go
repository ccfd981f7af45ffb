package fault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/staticpod"
)

func TestStopOfAUnit(t *testing.T) {
	f := newFake(t)
	f.cluster()
	dropIn := f.at("/run/systemd/system/haproxy.service.d/90-quorate-fault.conf")
	f.when = func(what string) {
		text := system.ReadTrimmed(dropIn)
		if what == "systemctl daemon-reload" && !strings.Contains(text, "\nAssertPathExists=!"+f.at(RunDir)+"/x.json") {
			t.Errorf("systemd reads %q", text)
		}
	}
	if _, err := f.inject(t.Context(), request(Request{Kind: kindStop, Target: "haproxy"})); err != nil {
		t.Fatal(err)
	}
	if reload, stop := f.place("daemon-reload"), f.place("stop haproxy"); reload < 0 || stop < reload {
		t.Errorf("%q", f.log)
	}
	f.when, f.log = nil, nil
	f.fails["systemctl daemon-reload"] = errors.New("no") // the next attempt does it all again
	if _, err := f.heal(t.Context(), "x"); err == nil || len(f.ids()) != 1 {
		t.Errorf("%v, %v", err, f.ids())
	}
	delete(f.fails, "systemctl daemon-reload")
	if _, err := f.heal(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if reload, start := f.place("daemon-reload"), f.place("start --no-block haproxy.service"); reload < 0 || start < reload || system.Exists(filepath.Dir(dropIn)) {
		t.Errorf("%q", f.log)
	}
	f.state["haproxy.service"].Active = "failed"
	if _, err := f.inject(t.Context(), request(Request{Kind: kindStop, Target: "haproxy"})); !IsImpossible(err) || !strings.Contains(err.Error(), "haproxy.service is failed") {
		t.Errorf("%v", err)
	}
}

// TestStopOfAStaticPod: a reboot does not end that, so it is noted on the disk, and the host heals it when it starts.
func TestStopOfAStaticPod(t *testing.T) {
	f := newFake(t)
	f.cluster()
	path := f.at(staticpod.Dir + "/kube-apiserver.yaml")
	f.machine.held = func(context.Context, string) (int, error) {
		for _, p := range BootUnitFiles {
			if !system.Exists(f.at(p)) {
				t.Errorf("the manifest is set aside, and there is no %s", p)
			}
		}
		return 0, nil
	}
	if _, err := f.inject(t.Context(), request(Request{Kind: kindStop, Target: "kube-apiserver"})); err != nil {
		t.Fatal(err)
	}
	if system.Exists(path) || !system.Exists(f.at(facts.WithdrawnDir+"/kube-apiserver.yaml")) || !system.Exists(f.at(VarDir+"/x.json")) {
		t.Error("it is not set aside, or not noted on the disk")
	}
	unit := system.ReadTrimmed(f.at(BootUnitFiles[0]))
	for _, want := range []string{"Before=kubelet.service", "ExecStart=/usr/local/bin/quorate-faults host heal-fault\n", "WantedBy=multi-user.target"} {
		if !strings.Contains(unit, want) {
			t.Errorf("%s has no %s", unit, want)
		}
	}
	if to, err := os.Readlink(f.at(BootUnitFiles[1])); err != nil || to != BootUnitFiles[0] {
		t.Errorf("%q, %v", to, err)
	}
	// A reboot: /run is empty, and the unit heals everything.
	if err := os.RemoveAll(f.at("/run")); err != nil {
		t.Fatal(err)
	}
	healed, err := f.heal(t.Context())
	if err != nil || len(healed) != 1 || !system.Exists(path) {
		t.Errorf("%v, %v", healed, err)
	}
	for _, p := range append([]string{facts.WithdrawnDir + "/kube-apiserver.yaml"}, BootUnitFiles...) {
		if system.Exists(f.at(p)) {
			t.Errorf("%s is left", p)
		}
	}
	// What somebody else has set aside stays so.
	f.put(facts.WithdrawnDir+"/kube-apiserver.yaml", manifest)
	os.Remove(path)
	if _, err := f.inject(t.Context(), request(Request{Kind: kindStop, Target: "kube-apiserver"})); !IsImpossible(err) || !strings.Contains(err.Error(), "maintenance") {
		t.Errorf("%v", err)
	}
	for _, target := range []string{"kube-proxy", "coredns", "flannel"} {
		if _, err := f.inject(t.Context(), request(Request{Kind: kindStop, Target: target})); !IsImpossible(err) || !strings.Contains(err.Error(), "can be killed and hung") {
			t.Errorf("%s: %v", target, err)
		}
	}
	if _, err := f.inject(t.Context(), request(Request{Kind: kindStop, Target: "kube-scheduler"})); !IsImpossible(err) {
		t.Errorf("%v", err)
	}
}
