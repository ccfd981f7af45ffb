package plan

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// runningFrom has every node of a finished cluster run from a bundle.
func runningFrom(c *spec.Cluster, obs *facts.Observation, bundle string) {
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		if !h.IsNode() && !h.Has(spec.RoleEtcd) {
			continue
		}
		f.Binaries, f.Bundles, f.Programs = bundle, []string{bundle}, map[string]string{}
		for _, p := range facts.SwitchOrder {
			f.Programs[p] = bundle
		}
	}
}

func stepsOf(p *Plan, host string, kinds ...Kind) (out []Step) {
	for _, s := range p.Steps {
		if s.Host == host && slices.Contains(kinds, s.Kind) {
			out = append(out, s)
		}
	}
	return out
}

// TestAnUpdateSwitchesOneProgramAfterAnother: unpacking changes nothing that runs, and whatever restarts carries a change and
// waits for the one before it, on all hosts.
func TestAnUpdateSwitchesOneProgramAfterAnother(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	runningFrom(c, obs, "sha256:old")
	p := build(t, c, obs)
	var restarts []Step
	for _, h := range c.Spec.Hosts {
		steps := stepsOf(p, h.Name, InstallBundle, SwitchPrograms)
		if !h.IsNode() {
			if len(steps) > 0 {
				t.Errorf("%s gets %v", h.Name, steps)
			}
			continue
		}
		var got []string
		for i, s := range steps {
			got = append(got, string(s.Kind)+"/"+strings.Join(s.Programs, "+"))
			if s.Switch {
				t.Errorf("%s switches everything immediately", s.ID)
			}
			if (s.Change != nil) != (len(s.Restart) > 0) {
				t.Errorf("%s restarts %v with the change %v", s.ID, s.Restart, s.Change)
			}
			if s.Change != nil {
				restarts = append(restarts, s)
			}
			if i > 0 && !slices.Contains(s.Needs, steps[i-1].ID) {
				t.Errorf("%s does not wait for %s", s.ID, steps[i-1].ID)
			}
		}
		want := []string{"install-bundle/", "switch-programs/kubeadm+kubectl+cni-plugins+other", "switch-programs/etcd", "switch-programs/runc+containerd", "switch-programs/kubelet"}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v", h.Name, got)
		}
	}
	for i, s := range restarts {
		if *s.Change != (cluster.Change{Verb: cluster.Restart, Part: cluster.Node, Subject: s.Host}) {
			t.Errorf("%s carries %v", s.ID, s.Change)
		}
		if i > 0 && !slices.Contains(s.Needs, restarts[i-1].ID) {
			t.Errorf("%s does not wait for %s", s.ID, restarts[i-1].ID)
		}
	}
	if len(restarts) != 10 {
		t.Errorf("%d restarts", len(restarts))
	}
	verify := stepID("", Verify)
	if prune := stepsOf(p, "cp-a", PruneBundles); len(prune) != 1 || !slices.Contains(prune[0].Needs, verify) {
		t.Errorf("the former bundle: %v", prune)
	}
}

// TestAnInterruptedUpdateGoesOn with what is left of it.
func TestAnInterruptedUpdateGoesOn(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	runningFrom(c, obs, testBundle.Digest)
	f := obs.Hosts["cp-b"].Facts
	f.Binaries, f.Bundles = "", []string{"sha256:old", testBundle.Digest}
	f.Programs[facts.Kubelet] = "sha256:old"
	p := build(t, c, obs)
	steps := stepsOf(p, "cp-b", InstallBundle, SwitchPrograms)
	if len(steps) != 1 || !slices.Equal(steps[0].Programs, []string{facts.Kubelet}) || !slices.Equal(steps[0].Restart, []string{"kubelet.service"}) {
		t.Errorf("%+v", steps)
	}
	if other := stepsOf(p, "cp-a", InstallBundle, SwitchPrograms, PruneBundles); len(other) > 0 {
		t.Errorf("%+v", other)
	}
	// An unreachable host may still run from it.
	obs.Hosts["worker-b"] = facts.Host{Error: "worker-b: no route to host"}
	if p := build(t, c, obs); len(stepsOf(p, "cp-b", PruneBundles)) > 0 {
		t.Error("the former bundle is removed while a host may run from it")
	}
}

func TestADamagedProgramIsInstalledAgain(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	runningFrom(c, obs, testBundle.Digest)
	f := obs.Hosts["worker-a"].Facts
	f.Binaries, f.Bundles, f.ProgramProblems = "", nil, []string{"/opt/quorate/programs/b/usr/local/bin/runc has 0 bytes instead of 9"}
	f.Programs[facts.RuncProgram] = ""
	steps := stepsOf(build(t, c, obs), "worker-a", InstallBundle, SwitchPrograms)
	if len(steps) != 2 || steps[0].Kind != InstallBundle || steps[0].Switch || !strings.Contains(steps[0].Reason, "runc has 0 bytes") || !slices.Equal(steps[1].Programs, []string{facts.RuncProgram}) {
		t.Errorf("%+v", steps)
	}
}

// TestAHostOnWhichNothingRunsIsSwitchedImmediately, on a first build and when it joins.
func TestAHostOnWhichNothingRunsIsSwitchedImmediately(t *testing.T) {
	c := testCluster()
	for _, s := range build(t, c, empty(c)).Steps {
		if s.Kind == SwitchPrograms || s.Kind == PruneBundles || s.Kind == InstallBundle && !s.Switch {
			t.Errorf("first build: %+v", s)
		}
	}
	obs := finished(t, c)
	c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "worker-c", Address: "10.0.0.50", Zone: "c", Roles: []string{spec.RoleWorker}})
	obs.Hosts["worker-c"] = empty(c).Hosts["worker-c"]
	if steps := stepsOf(build(t, c, obs), "worker-c", InstallBundle, SwitchPrograms); len(steps) != 1 || !steps[0].Switch {
		t.Errorf("a worker that joins: %+v", steps)
	}
}

// TestPlainFilesOfAFormerQuorateAreSwitchedInTurn: what runs from them restarts.
func TestPlainFilesOfAFormerQuorateAreSwitchedInTurn(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for name := range maps.Keys(obs.Hosts) {
		obs.Hosts[name].Facts.Binaries = ""
	}
	for _, s := range build(t, c, obs).Steps {
		if s.Kind == InstallBundle && s.Switch {
			t.Errorf("%s switches what runs", s.ID)
		}
	}
}

// TestAnInterruptedFirstBuildWithAnotherBundle: containerd runs already, and no cluster yet.
func TestAnInterruptedFirstBuildWithAnotherBundle(t *testing.T) {
	c := testCluster()
	obs := empty(c)
	f := obs.Hosts["cp-a"].Facts
	f.Bundles, f.Programs, f.Units["containerd.service"] = []string{"sha256:old"}, map[string]string{facts.Containerd: "sha256:old", facts.RuncProgram: "sha256:old"}, "active"
	for _, s := range stepsOf(build(t, c, obs), "cp-a", SwitchPrograms) {
		if s.Change != nil && s.Change.Verb != cluster.Create {
			t.Errorf("%+v", s)
		}
	}
}

// TestTheRemainsOfABundleAreRemoved: an installation that was interrupted, and that another bundle replaced, leaves half of one.
func TestTheRemainsOfABundleAreRemoved(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Hosts["cp-b"].Facts.Remains = []string{"sha256:half"}
	obs.Hosts["cp-a"].Facts.Remains = []string{testBundle.Digest} // it is about to be installed again
	p := build(t, c, obs)
	if len(stepsOf(p, "cp-b", PruneBundles)) != 1 || len(stepsOf(p, "cp-a", PruneBundles)) != 0 {
		t.Errorf("%v", kindsOf(p)[PruneBundles])
	}
}

// TestADamagedCopyComesAgain: the programs are intact, so nothing is switched, and nothing restarts.
func TestADamagedCopyComesAgain(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Hosts["cp-a"].Facts.BundleDamage = map[string]string{testBundle.Digest: "its index is damaged"}
	obs.Hosts["cp-b"].Facts.BundleDamage = map[string]string{"sha256:other": "its index is damaged"}
	p := build(t, c, obs)
	kinds := kindsOf(p)
	if !slices.Equal(kinds[InstallBundle], []string{"cp-a"}) || len(kinds[SwitchPrograms]) > 0 || len(kinds[ImportImages]) > 0 {
		t.Errorf("%v", kinds)
	}
	for _, s := range p.Steps {
		if s.Kind == InstallBundle && (s.Switch || s.Change != nil || !strings.Contains(s.Reason, "its index is damaged")) {
			t.Errorf("%+v", s)
		}
	}
}
