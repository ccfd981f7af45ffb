package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// runningAs observes a finished cluster with a failover profile.
func runningAs(t *testing.T, c *spec.Cluster, profile string) *facts.Observation {
	t.Helper()
	c.Spec.Failover.Profile = profile
	return running(t, c)
}

func planProfile(t *testing.T, c *spec.Cluster, obs *facts.Observation, profile string) *Plan {
	t.Helper()
	c.Spec.Failover.Profile = profile
	return mustPlan(t, c, obs, newer)
}

const fast, standard = spec.ProfileFast, spec.ProfileStandard

var bothWays = [][2]string{{standard, fast}, {fast, standard}}

func TestProfileOrder(t *testing.T) {
	c := stackedLab()
	kubelets := []string{"store-settings/kubelets"}
	for _, h := range []string{"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"} {
		kubelets = append(kubelets, h+"/restart-kubelet")
	}
	programs := []string{"store-settings/programs"}
	for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
		programs = append(programs, h+"/leave-pools", h+"/move-leadership", h+"/upgrade-control-plane", h+"/join-pools")
	}
	for _, tc := range []struct {
		from, to string
		want     []string
		says     map[Kind]string
	}{
		{standard, fast, slices.Concat(kubelets, programs), map[Kind]string{
			UpgradeControlPlane: "--node-monitor-grace-period of kube-controller-manager becomes 6s", RestartKubelet: "nodeStatusUpdateFrequency becomes 4s"}},
		{fast, standard, slices.Concat(programs, kubelets), map[Kind]string{
			UpgradeControlPlane: "--node-monitor-grace-period of kube-controller-manager is 6s instead of the default", RestartKubelet: "nodeStatusUpdateFrequency is 4s instead of the default"}},
	} {
		p := planProfile(t, c, runningAs(t, c, tc.from), tc.to)
		if got := outline(p); !slices.Equal(got, tc.want) {
			t.Errorf("to %s:\n%s\nwant\n%s", tc.to, strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		}
		for _, s := range p.Steps {
			if want := tc.says[s.Kind]; !strings.Contains(s.Reason, want) || want != "" && !strings.Contains(s.Reason, "restart") {
				t.Errorf("%s does not say %q: %s", s.ID, want, s.Reason)
			}
			if s.Kind == UpgradeControlPlane && (s.Change.Etcd != "" || s.Change.Part != cluster.APIPrograms || len(s.Pods) != 3) {
				t.Errorf("%s: %+v", s.ID, s)
			}
			if s.Kind == StoreSettings && s.Record != "" {
				t.Errorf("%s: the cluster would remember the profile as settings: %s", s.ID, s.Record)
			}
			if s.Kind == Configure || s.Kind == SwitchPrograms {
				t.Errorf("%s: the profile is part of neither", s.ID)
			}
		}
		if p := planProfile(t, c, runningAs(t, c, tc.to), tc.to); !p.Empty() {
			t.Errorf("a cluster with the profile %s has steps: %v", tc.to, outline(p))
		}
	}
}

// everyNodeLives holds a cluster to what the order is for: while any controller manager takes silent nodes for dead after
// seconds, every kubelet reports more often than that, and so does one that joins or is written now. A control plane that is
// stopped neither judges nor is judged: its lease is renewed for it, and its kubelet starts before its controller manager.
func everyNodeLives(t *testing.T, c *spec.Cluster, obs *facts.Observation, when string) {
	t.Helper()
	stopped := func(h spec.Host) bool {
		a := obs.Hosts[h.Name].APIServer
		return h.Has(spec.RoleControlPlane) && a != nil && !a.OK
	}
	const grace, frequency = "node-monitor-grace-period", "nodeStatusUpdateFrequency"
	strict := obs.API.Kubeadm.Arguments[facts.ControllerManager][grace] != ""
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if f := obs.Hosts[h.Name].Facts; f != nil && !stopped(h) {
			strict = strict || f.Kubernetes.Arguments[facts.ControllerManager][grace] != ""
		}
	}
	if !strict {
		return
	}
	if obs.API.KubeletConfig[frequency] == nil {
		t.Errorf("%s: a kubelet that joins would be taken for dead", when)
	}
	for _, h := range c.Spec.Hosts {
		if f := obs.Hosts[h.Name].Facts; f != nil && h.IsNode() && !stopped(h) && (f.Kubernetes.Kubelet[frequency] == nil || f.Kubernetes.KubeletDue) {
			t.Errorf("%s: %s would be taken for dead", when, h.Name)
		}
	}
}

// TestAProfileGoesOnAndBackFromEverywhere: after every step, and in the middle of every restart, there is a plan that finishes
// what was begun and one that goes back, also if settings were edited with the profile. All end with nothing left to do, no step of
// them is refused, and at no moment a node is taken for dead.
func TestAProfileGoesOnAndBackFromEverywhere(t *testing.T) {
	for name, variant := range map[string]func() *spec.Cluster{"stacked": stackedLab, "external etcd": external} {
		for _, way := range bothWays {
			for _, more := range []bool{false, true} {
				if more && name != "stacked" {
					continue
				}
				t.Run(fmt.Sprintf("%s, to %s, with settings %t", name, way[1], more), func(t *testing.T) {
					t.Parallel()
					c := variant()
					obs := runningAs(t, c, way[0])
					if more {
						c.Spec.Settings = allSettings(t, c)
					}
					settings := c.Spec.Settings
					end := func(obs *facts.Observation, what string) {
						t.Helper()
						everyNodeLives(t, c, obs, what)
						c.Spec.Settings = spec.Settings{}
						finishProfile(t, c, clone(t, obs), way[0], what)
						c.Spec.Settings = settings
						finishProfile(t, c, clone(t, obs), way[1], what)
					}
					for _, s := range planProfile(t, c, obs, way[1]).Steps {
						for _, half := range []bool{false, true} {
							if cut := clone(t, obs); interrupt(c, cut, s, half) {
								end(cut, s.ID+" interrupted")
							}
						}
						if s.Kind == UpgradeControlPlane { // the manifests are new, and nothing runs yet
							cut := clone(t, obs)
							startedWith(cut, cut.Hosts[s.Host].Facts)
							interrupt(c, cut, s, false)
							end(cut, s.ID+" interrupted late")
						}
						if s.Kind == RestartKubelet {
							cut := clone(t, obs)
							k := &cut.Hosts[s.Host].Facts.Kubernetes
							k.Kubelet, k.KubeletDue = maps.Clone(cut.API.KubeletConfig), true
							end(cut, s.ID+" interrupted")
						}
						carryOut(t, c, obs, newer, s)
						if s.Change != nil || s.Kind == StoreSettings {
							end(obs, "after "+s.ID)
						}
					}
				})
			}
		}
	}
}

// finishProfile plans and carries out until nothing is left to do.
func finishProfile(t *testing.T, c *spec.Cluster, obs *facts.Observation, profile, what string) {
	t.Helper()
	c.Spec.Failover.Profile = profile
	what += ", to " + profile
	for range 3 {
		p := mustPlan(t, c, obs, newer)
		if p.Empty() {
			hasProfile(t, c, obs, what)
			return
		}
		for _, s := range p.Steps {
			carryOut(t, c, obs, newer, s)
			everyNodeLives(t, c, obs, what+", after "+s.ID)
		}
	}
	t.Fatalf("%s: it never ends: %v", what, outline(mustPlan(t, c, obs, newer)))
}

// hasProfile compares what runs, and what is stored, with the profile of the spec.
func hasProfile(t *testing.T, c *spec.Cluster, obs *facts.Observation, what string) {
	t.Helper()
	arguments, kubelet := hostconfig.Profile(c)
	judge := func(where string, have map[string]map[string]string, fields map[string]any) {
		t.Helper()
		for p, want := range arguments {
			if d := differences(p, have[p], want); have != nil && len(d) > 0 {
				t.Errorf("%s: %s: %v", what, where, d)
			}
		}
		if d := otherFields(fields, kubelet); len(d) > 0 {
			t.Errorf("%s: %s: %v", what, where, d)
		}
	}
	judge("kubeadm's configuration", obs.API.Kubeadm.Arguments, obs.API.KubeletConfig)
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			judge(h.Name, obs.Hosts[h.Name].Facts.Kubernetes.Arguments, obs.Hosts[h.Name].Facts.Kubernetes.Kubelet)
		}
	}
}

func TestProfileRefusals(t *testing.T) {
	unreachable := func(host string) func(*spec.Cluster, *facts.Observation) {
		return func(_ *spec.Cluster, o *facts.Observation) { o.Hosts[host] = facts.Host{Error: host + ": timeout"} }
	}
	for name, tc := range map[string]struct {
		to     string
		change func(*spec.Cluster, *facts.Observation)
		want   string // the rule; empty if it is planned
	}{
		"faster without a worker":             {fast, unreachable("worker-b"), RuleEveryNode},
		"slower without a worker":             {standard, unreachable("worker-b"), ""},
		"faster without a control plane":      {fast, unreachable("cp-b"), RuleEveryNode},
		"slower without a control plane":      {standard, unreachable("cp-b"), RuleEveryNode},
		"a load balancer that is unreachable": {fast, unreachable("lb-b"), ""},
		"a worker in maintenance": {fast, func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Maintenance = map[string]facts.Maintenance{"worker-b": {}}
		}, RuleEveryNode},
		"a kubelet whose file cannot be read": {fast, func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["worker-b"].Facts.Kubernetes.Kubelet = nil }, RuleEveryNode},
		"a control plane without a manifest": {standard, func(_ *spec.Cluster, o *facts.Observation) {
			k := &o.Hosts["cp-b"].Facts.Kubernetes
			k.Manifests = slices.DeleteFunc(slices.Clone(k.Manifests), func(pod string) bool { return pod == facts.ControllerManager })
			delete(k.Arguments, facts.ControllerManager)
		}, RuleOneThing},
		"a host that is to join": {fast, func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["worker-b"].Facts.Kubernetes = facts.Kubernetes{} }, RuleOneThing},
		"a host that is to leave": {standard, func(c *spec.Cluster, _ *facts.Observation) {
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-b" })
		}, RuleOneThing},
		"another version": {fast, func(_ *spec.Cluster, o *facts.Observation) {
			for i := range o.API.Nodes {
				o.API.Nodes[i].Version = "v1.36.3"
			}
			o.API.Kubeadm.Version = "v1.36.3"
		}, RuleOneThing},
		"hosts of others": {fast, func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["worker-b"].Facts.Kubernetes.Adopted = true }, RuleOwnProgram},
	} {
		t.Run(name, func(t *testing.T) {
			c := stackedLab()
			obs := runningAs(t, c, map[string]string{fast: standard, standard: fast}[tc.to])
			tc.change(c, obs)
			c.Spec.Failover.Profile = tc.to
			p, err := planFor(c, obs, newer)
			r, ok := err.(*cluster.Refusal)
			if tc.want == "" && (err != nil || len(stepsOf(p, "cp-a", UpgradeControlPlane)) != 1) || tc.want != "" && (!ok || r.Rule != tc.want) {
				t.Errorf("plan %v, error %v", p, err)
			}
		})
	}
}

// TestTheProfileOfAnAdoptedClusterStays: its timings are not Quorate's, and nobody edited the spec.
func TestTheProfileOfAnAdoptedClusterStays(t *testing.T) {
	c := stackedLab()
	obs := runningAs(t, c, fast)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		k.Adopted = true
		delete(k.Arguments[facts.ControllerManager], "node-monitor-grace-period")
	}
	if p := mustPlan(t, c, obs, newer); len(p.Warnings) > 0 || len(stepsOf(p, "", StoreSettings))+len(stepsOf(p, "worker-a", RestartKubelet)) > 0 {
		t.Errorf("%v, %v", outline(p), p.Warnings)
	}
}

// TestAStoppedControlPlaneServesAgain, although the change cannot be finished: the cluster has one failure less to spare as long
// as it is away.
func TestAStoppedControlPlaneServesAgain(t *testing.T) {
	for _, way := range bothWays {
		for _, profile := range way {
			c := stackedLab()
			obs := runningAs(t, c, way[0])
			for _, s := range planProfile(t, c, obs, way[1]).Steps {
				if s.Kind == UpgradeControlPlane && s.Host == "cp-b" {
					interrupt(c, obs, s, false)
					break
				}
				carryOut(t, c, obs, newer, s)
			}
			for _, h := range []string{"worker-b", "cp-c"} {
				cut := clone(t, obs)
				cut.API.Maintenance = map[string]facts.Maintenance{h: {}}
				cut.Hosts[h] = facts.Host{Error: h + ": timeout"}
				c.Spec.Failover.Profile = profile
				p, err := planFor(c, cut, newer)
				if r, ok := err.(*cluster.Refusal); h == "cp-c" && ok && r.Rule == cluster.RuleEnough {
					continue // with two of three away, nothing may restart
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(stepsOf(p, "cp-b", UpgradeControlPlane)) != 1 || len(stepsOf(p, "cp-b", JoinPools)) != 1 {
					t.Errorf("%v, to %s without %s: %v", way, profile, h, outline(p))
				}
				for _, s := range p.Steps {
					carryOut(t, c, cut, newer, s)
					everyNodeLives(t, c, cut, fmt.Sprintf("%v, to %s without %s, after %s", way, profile, h, s.ID))
				}
			}
		}
	}
}

// TestWhatWasNotEditedKeepsNothingElseFromBeingDone: what somebody else changed, or an interrupted run, is no reason to leave
// a host that is lost in the cluster, and nothing says that the cluster matches its spec.
func TestWhatWasNotEditedKeepsNothingElseFromBeingDone(t *testing.T) {
	c := stackedLab()
	obs := runningAs(t, c, fast)
	delete(obs.Hosts["cp-b"].Facts.Kubernetes.Arguments[facts.ControllerManager], "node-monitor-grace-period")
	p := mustPlan(t, c, obs, newer)
	if want := []string{"cp-b/leave-pools", "cp-b/move-leadership", "cp-b/upgrade-control-plane", "cp-b/join-pools"}; !slices.Equal(outline(p), want) || p.Postpones {
		t.Errorf("%v, postpones %t", outline(p), p.Postpones)
	}
	obs.Hosts["worker-b"] = facts.Host{Error: "worker-b: timeout"}
	if _, err := planFor(c, obs, newer); err == nil || err.(*cluster.Refusal).Rule != RuleEveryNode { // the plan has no other steps
		t.Errorf("%v", err)
	}
	obs.Hosts["worker-a"].Facts.Files["/etc/hosts#cluster "+c.Metadata.Name] = "other"
	p = mustPlan(t, c, obs, newer)
	if len(stepsOf(p, "worker-a", Configure)) != 1 || len(stepsOf(p, "cp-b", UpgradeControlPlane)) != 0 || !strings.Contains(strings.Join(p.Warnings, " "), "stay as they are in this run") || !p.Postpones {
		t.Errorf("%v, warnings %q, postpones %t", outline(p), p.Warnings, p.Postpones)
	}
}

// TestAnUpgradeLeavesTheProfile for a later run: it replaces control planes before the workers' kubelets.
func TestAnUpgradeLeavesTheProfile(t *testing.T) {
	c := stackedLab()
	obs := runningAs(t, c, fast)
	delete(obs.API.KubeletConfig, "nodeStatusUpdateFrequency")
	p := mustPlan(t, c, obs, older)
	if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == StoreSettings }) || !strings.Contains(strings.Join(p.Warnings, " "), failoverProfile) {
		t.Errorf("%v, warnings %q", outline(p), p.Warnings)
	}
}
