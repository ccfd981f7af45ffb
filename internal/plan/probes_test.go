package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// probing gives the API servers kubeadm's probes, as every cluster had them once.
func probing(c *spec.Cluster, obs *facts.Observation) *facts.Observation {
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.ProbesEtcd = true
	}
	return obs
}

// leavesEtcd checks that no API server has kubeadm's probes.
func leavesEtcd(t *testing.T, c *spec.Cluster, obs *facts.Observation, what string) {
	t.Helper()
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if obs.Hosts[h.Name].Facts.Kubernetes.ProbesEtcd {
			t.Errorf("%s: the API server of %s has kubeadm's probes", what, h.Name)
		}
	}
}

// TestProbesComeToAClusterThatExists, one control plane after another, and whatever was interrupted ends.
func TestProbesComeToAClusterThatExists(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("etcd of its own %t", own), func(t *testing.T) {
			c := stackedLab()
			if own {
				c = external()
			}
			without := mustPlan(t, c, running(t, c), newer)
			obs := probing(c, running(t, c))
			p := mustPlan(t, c, obs, newer)
			var want []string
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				want = append(want, h.Name+"/leave-pools", h.Name+"/move-leadership", h.Name+"/upgrade-control-plane", h.Name+"/join-pools")
			}
			got := slices.DeleteFunc(outline(p), func(id string) bool { return slices.Contains(outline(without), id) })
			if !slices.Equal(got, want) || !slices.Equal(p.Warnings, without.Warnings) {
				t.Errorf("got\n%s\nwant\n%s\nwarnings %q", strings.Join(got, "\n"), strings.Join(want, "\n"), p.Warnings)
			}
			end := func(obs *facts.Observation, what string) {
				t.Helper()
				cut := clone(t, obs)
				finish(t, c, cut, newer, what)
				leavesEtcd(t, c, cut, what)
			}
			for _, s := range p.Steps {
				if s.Kind == UpgradeControlPlane && (!slices.Equal(s.Pods, []string{facts.APIServer}) || s.Change == nil || s.Change.Part != cluster.APIPrograms || !strings.Contains(s.Reason, "while etcd does not answer")) {
					t.Errorf("%s replaces %v: %+v, %s", s.ID, s.Pods, s.Change, s.Reason)
				}
				for _, half := range []bool{false, true} {
					if cut := clone(t, obs); interrupt(c, cut, s, half) {
						end(cut, s.ID+" interrupted")
					}
				}
				carryOut(t, c, obs, newer, s)
				end(obs, "after "+s.ID)
			}
		})
	}
}

// TestAnUpgradeBringsTheProbes, and so does the way back: it writes the manifests anyway.
func TestAnUpgradeBringsTheProbes(t *testing.T) {
	for _, way := range [][2]Bundle{{older, newer}, {newer, older}} {
		c := stackedLab()
		what := way[0].Version + " to " + way[1].Version
		without := mustPlan(t, c, upgraded(t, c, way[0]), way[1])
		obs := probing(c, upgraded(t, c, way[0]))
		p := mustPlan(t, c, obs, way[1])
		if got, want := outline(p), outline(without); !slices.Equal(got, want) || !slices.Equal(p.Warnings, without.Warnings) {
			t.Errorf("%s: got\n%s\nwant\n%s\nwarnings %q", what, strings.Join(got, "\n"), strings.Join(want, "\n"), p.Warnings)
		}
		finish(t, c, obs, way[1], what)
		leavesEtcd(t, c, obs, what)
	}
}

// TestWhatKeepsProbes: nobody asked for the restart, so everything else comes first, and a repair never begins it.
func TestWhatKeepsProbes(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(*facts.Observation)
		repairs bool
		stale   []string
		warns   bool
	}{
		"nothing":                     {change: func(*facts.Observation) {}, stale: []string{"cp-a", "cp-b", "cp-c"}},
		"a control plane that has it": {change: func(o *facts.Observation) { o.Hosts["cp-b"].Facts.Kubernetes.ProbesEtcd = false }, stale: []string{"cp-a", "cp-c"}},
		"a control plane of others":   {change: func(o *facts.Observation) { o.Hosts["cp-b"].Facts.Kubernetes.Adopted = true }, stale: []string{"cp-a", "cp-c"}},
		"a control plane that is down": {change: func(o *facts.Observation) { o.Hosts["cp-b"] = facts.Host{Error: "cp-b: timeout"} },
			warns: true},
		"a control plane in maintenance": {change: func(o *facts.Observation) { o.API.Maintenance = map[string]facts.Maintenance{"cp-b": {}} },
			warns: true},
		"a scheduler that does not work": {change: func(o *facts.Observation) {
			for _, name := range []string{"cp-a", "cp-b"} {
				o.Hosts[name].Components[facts.Scheduler] = facts.Component{Answer: facts.Answer{Problem: "connection refused"}}
			}
		}, warns: true},
		"a repair": {change: func(*facts.Observation) {}, repairs: true},
		"hosts of others": {change: func(o *facts.Observation) {
			for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
				o.Hosts[name].Facts.Kubernetes.Adopted = true
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := stackedLab()
			obs := probing(c, running(t, c))
			tc.change(obs)
			b := &builder{State: cluster.Evaluate(c, obs), c: c, bundle: newer, at: map[string]*hostSteps{}, out: &Plan{}, repairs: tc.repairs}
			var stale []string
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				if len(b.staleProbes(h)) > 0 {
					stale = append(stale, h.Name)
				}
			}
			b.warnOfProbes()
			if !slices.Equal(stale, tc.stale) || (len(b.out.Warnings) > 0) != tc.warns {
				t.Errorf("changes %v, warnings %q", stale, b.out.Warnings)
			}
		})
	}
}
