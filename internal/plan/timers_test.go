package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// someTimers are what members may have: etcd's defaults, as they are when nothing is set, and those of the field, from its ends and between.
var someTimers = []facts.EtcdTimers{{}, {Heartbeat: 100, Election: 1000}, {Heartbeat: 30, Election: 300}, {Heartbeat: 50, Election: 500}, {Heartbeat: 49, Election: 490}, {Heartbeat: 200, Election: 2000}, {Heartbeat: 500, Election: 5000}}

// TestTimersInOnePassOrTwo: one is enough where members with the old and the new timers wait five heartbeats of each other.
func TestTimersInOnePassOrTwo(t *testing.T) {
	for _, tc := range []struct {
		from, to facts.EtcdTimers
		members  int
		want     []facts.EtcdTimers
	}{
		{facts.EtcdTimers{}, facts.EtcdTimers{Heartbeat: 100, Election: 1000}, 3, nil},
		{facts.EtcdTimers{}, facts.EtcdTimers{Heartbeat: 50, Election: 500}, 3, []facts.EtcdTimers{{Heartbeat: 50, Election: 500}}},
		{facts.EtcdTimers{}, facts.EtcdTimers{Heartbeat: 49, Election: 490}, 3, []facts.EtcdTimers{{Heartbeat: 49, Election: 1000}, {Heartbeat: 49, Election: 490}}},
		{facts.EtcdTimers{}, facts.EtcdTimers{Heartbeat: 30, Election: 300}, 3, []facts.EtcdTimers{{Heartbeat: 30, Election: 1000}, {Heartbeat: 30, Election: 300}}},
		{facts.EtcdTimers{Heartbeat: 30, Election: 300}, facts.EtcdTimers{}, 5, []facts.EtcdTimers{{Heartbeat: 30, Election: 1000}, {}}},
		{facts.EtcdTimers{Heartbeat: 30, Election: 300}, facts.EtcdTimers{}, 1, []facts.EtcdTimers{{}}},
		{facts.EtcdTimers{Heartbeat: 30, Election: 300}, facts.EtcdTimers{Heartbeat: 500, Election: 5000}, 3, []facts.EtcdTimers{{Heartbeat: 30, Election: 5000}, {Heartbeat: 500, Election: 5000}}},
	} {
		if got := timerPasses([]facts.EtcdTimers{tc.from}, tc.to, tc.members); !slices.Equal(got, tc.want) {
			t.Errorf("from %s to %s: %v", tc.from, tc.to, got)
		}
	}
}

// TestMembersArePatientAtEveryStep walks through every order in which three and five members can restart, from every timers to every other ones, and turns to every other
// ones after every restart. What is stored for members that join changes before each pass. All of that ends with the same timers
// everywhere, after at most two passes, and no member ever waits fewer than five heartbeats of another one.
func TestMembersArePatientAtEveryStep(t *testing.T) {
	for _, n := range []int{3, 5} {
		for _, from := range someTimers {
			for _, to := range someTimers {
				// The last is what is stored. Members are alike, so that only how many have restarted makes a difference.
				all := make([]facts.EtcdTimers, n+1)
				for i := range all {
					all[i] = from
				}
				walk(t, all, to, func(cut []facts.EtcdTimers) {
					for _, elsewhere := range someTimers {
						again := slices.Clone(cut)
						walk(t, again, elsewhere, func(twice []facts.EtcdTimers) {
							for _, home := range []facts.EtcdTimers{from, to} {
								walk(t, slices.Clone(twice), home, func([]facts.EtcdTimers) {})
							}
						})
					}
				})
			}
		}
	}
}

// walk carries a change out on members, the last of which stands for what is stored, and calls cut after every restart.
func walk(t *testing.T, all []facts.EtcdTimers, to facts.EtcdTimers, cut func([]facts.EtcdTimers)) {
	t.Helper()
	passes := timerPasses(all, to, len(all)-1)
	if len(passes) > 2 {
		t.Fatalf("%v to %s: %d passes", all, to, len(passes))
	}
	check := func() {
		for _, follower := range all {
			for _, leader := range all {
				if f, l := follower.Effective(), leader.Effective(); f.Election < 5*l.Heartbeat {
					t.Fatalf("to %s: with %v, one waits %d ms, and heartbeats come every %d ms", to, all, f.Election, l.Heartbeat)
				}
			}
		}
		cut(all)
	}
	for _, p := range passes {
		all[len(all)-1] = p
		check()
		for i := range all[:len(all)-1] {
			all[i] = p
			check()
		}
	}
	if left := timerPasses(all, to, len(all)-1); len(left) > 0 {
		t.Fatalf("to %s: it ends with %v", to, all)
	}
}

// setTimers writes the environment of a member.
func setTimers(f *facts.Facts, s Step) {
	for _, file := range s.Desired.Files {
		values := map[string]string{}
		for line := range strings.Lines(file.Content) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			values[name] = value
		}
		f.Files[file.Key()] = file.Sum()
		f.Kubernetes.EtcdTimers = new(hostconfig.ReadEtcdTimers(values))
	}
}

// runningWith observes a finished cluster with an election timeout.
func runningWith(t *testing.T, c *spec.Cluster, timeout string) *facts.Observation {
	t.Helper()
	c.Spec.Failover.ElectionTimeout = timeout
	obs := running(t, c)
	timers := hostconfig.EtcdTimers(c)
	if c.StackedEtcd() {
		obs.API.Kubeadm.EtcdTimers = &timers
	}
	for _, h := range c.EtcdHosts() {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		k.EtcdTimers = &timers
		if !c.StackedEtcd() {
			k.EtcdRuns = &timers
		}
	}
	for i := range obs.Etcd {
		obs.Etcd[i].Leader = i == 0
	}
	if timeout != "" {
		state := cluster.Evaluate(c, obs)
		b := &builder{State: state, c: c, bundle: newer}
		obs.API.Settings = b.settings().managed.String()
	}
	return clone(t, obs) // so that members share nothing
}

func planTimers(t *testing.T, c *spec.Cluster, obs *facts.Observation, timeout string) *Plan {
	t.Helper()
	c.Spec.Failover.ElectionTimeout = timeout
	return mustPlan(t, c, obs, newer)
}

func TestTimersOrder(t *testing.T) {
	turn := func(detail string, hosts ...string) (out []string) {
		for _, h := range hosts {
			out = append(out, h+"/leave-pools/"+detail, h+"/move-leadership/"+detail, h+"/upgrade-control-plane/"+detail, h+"/join-pools/"+detail)
		}
		return out
	}
	unit := func(detail string, hosts ...string) (out []string) {
		for _, h := range hosts {
			out = append(out, h+"/move-leadership/"+detail, h+"/set-etcd-timers/"+detail)
		}
		return out
	}
	for name, tc := range map[string]struct {
		c        *spec.Cluster
		from, to string
		want     []string
	}{
		"down":         {stackedLab(), "", "300ms", slices.Concat([]string{"store-settings", "store-settings/etcd-timers-1"}, turn("etcd-timers-1", "cp-b", "cp-c", "cp-a"), []string{"store-settings/etcd-timers-2"}, turn("etcd-timers-2", "cp-b", "cp-c", "cp-a"))},
		"down a bit":   {stackedLab(), "", "500ms", slices.Concat([]string{"store-settings", "store-settings/etcd-timers"}, turn("etcd-timers", "cp-b", "cp-c", "cp-a"))},
		"up again":     {stackedLab(), "500ms", "", slices.Concat([]string{"store-settings/etcd-timers"}, turn("etcd-timers", "cp-b", "cp-c", "cp-a"), []string{"store-settings/forget"})},
		"the default":  {stackedLab(), "", "1s", []string{"store-settings"}},
		"units, down":  {external(), "", "300ms", slices.Concat([]string{"store-settings"}, unit("etcd-timers-1", "etcd-b", "etcd-c", "etcd-a"), unit("etcd-timers-2", "etcd-b", "etcd-c", "etcd-a"))},
		"units, by 2x": {external(), "1s", "2s", unit("etcd-timers", "etcd-b", "etcd-c", "etcd-a")},
		"the same":     {external(), "300ms", "0.3s", nil},
	} {
		obs := runningWith(t, tc.c, tc.from)
		if p := planTimers(t, tc.c, obs, tc.from); !p.Empty() {
			t.Errorf("%s: the cluster as it is has steps: %v", name, outline(p))
		}
		p := planTimers(t, tc.c, obs, tc.to)
		if got := outline(p); !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		}
		for _, s := range p.Steps {
			if s.Kind == UpgradeControlPlane || s.Kind == SetEtcdTimers {
				if !strings.Contains(s.Reason, "restart") || !strings.Contains(s.Reason, "an election timeout of") || s.Margins == nil {
					t.Errorf("%s says neither what restarts nor what is left: %+v", s.ID, s)
				}
				if once := strings.HasSuffix(s.ID, "-1"); once != strings.Contains(s.Reason, "restart once more") {
					t.Errorf("%s: %s", s.ID, s.Reason)
				}
			}
		}
	}
}

// TestTimersGoOnAndBackFromEverywhere: after every step, and in the middle of every restart, there is a plan that finishes what was begun, one that goes back, and
// one to something else. All end with nothing left to do, and at no moment a member gives up a leader that works.
func TestTimersGoOnAndBackFromEverywhere(t *testing.T) {
	for name, variant := range map[string]func() *spec.Cluster{"stacked": stackedLab, "units": external} {
		for _, way := range [][2]string{{"", "300ms"}, {"300ms", ""}, {"300ms", "5s"}, {"", "500ms"}} {
			t.Run(fmt.Sprintf("%s, from %q to %q", name, way[0], way[1]), func(t *testing.T) {
				t.Parallel()
				c := variant()
				obs := runningWith(t, c, way[0])
				end := func(obs *facts.Observation, what string) {
					t.Helper()
					for _, to := range []string{way[0], way[1], "2s"} {
						finishTimers(t, c, clone(t, obs), to, what)
					}
				}
				for _, s := range planTimers(t, c, obs, way[1]).Steps {
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
					if s.Kind == SetEtcdTimers { // the file is new, and the member did not restart
						cut := clone(t, obs)
						setTimers(cut.Hosts[s.Host].Facts, s)
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

// finishTimers plans and carries out until nothing is left to do.
func finishTimers(t *testing.T, c *spec.Cluster, obs *facts.Observation, timeout, what string) {
	t.Helper()
	c.Spec.Failover.ElectionTimeout = timeout
	what += fmt.Sprintf(", to %q", timeout)
	have := func() (out []facts.EtcdTimers) {
		if stored := obs.API.Kubeadm.EtcdTimers; stored != nil {
			out = append(out, *stored)
		}
		for _, h := range c.EtcdHosts() {
			k := obs.Hosts[h.Name].Facts.Kubernetes
			out = append(out, *k.EtcdTimers)
			if k.EtcdRuns != nil {
				out = append(out, *k.EtcdRuns)
			}
		}
		return out
	}
	for range 3 {
		p := mustPlan(t, c, obs, newer)
		if p.Empty() {
			for _, x := range have() {
				if !x.Same(hostconfig.EtcdTimers(c)) {
					t.Errorf("%s: it ends with %s", what, x)
				}
			}
			if remembers := strings.Contains(obs.API.Settings, hostconfig.EtcdElectionArgument); remembers != (timeout != "") {
				t.Errorf("%s: it ends with the memory %s", what, obs.API.Settings)
			}
			return
		}
		for _, s := range p.Steps {
			carryOut(t, c, obs, newer, s)
			if all := have(); !patient(all) {
				t.Fatalf("%s, after %s: %v", what, s.ID, all)
			}
		}
	}
	t.Fatalf("%s: it never ends: %v", what, outline(mustPlan(t, c, obs, newer)))
}

func TestTimerRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		c      *spec.Cluster
		change func(*spec.Cluster, *facts.Observation)
		want   string // the rule; empty if it is planned
	}{
		"nothing":               {stackedLab(), func(*spec.Cluster, *facts.Observation) {}, ""},
		"an unreachable worker": {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["worker-b"] = facts.Host{Error: "timeout"} }, ""},
		"an unreachable member": {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["cp-b"] = facts.Host{Error: "timeout"} }, RuleEveryMember},
		"a member in maintenance": {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Maintenance = map[string]facts.Maintenance{"cp-b": {}}
		}, RuleEveryMember},
		"a member that is down":     {external(), func(_ *spec.Cluster, o *facts.Observation) { o.Etcd[1].Healthy = false }, RuleEveryMember},
		"a learner":                 {external(), func(_ *spec.Cluster, o *facts.Observation) { o.Etcd[1].Learner = true }, RuleEveryMember},
		"timers that are not known": {external(), func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["etcd-b"].Facts.Kubernetes.EtcdTimers = nil }, RuleEveryMember},
		"nothing stored":            {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.EtcdTimers = nil }, RuleEveryMember},
		"a member of others":        {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["cp-b"].Facts.Kubernetes.Adopted = true }, RuleOwnProgram},
		"a worker of others":        {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["worker-b"].Facts.Kubernetes.Adopted = true }, ""},
		"a member that is to leave": {external(), func(c *spec.Cluster, _ *facts.Observation) {
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "etcd-b" })
		}, RuleEveryMember},
		"another version beside it": {stackedLab(), func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Kubeadm.Version, o.API.Nodes[0].Version = "v1.36.3", "v1.36.3"
		}, RuleOneThing},
	} {
		obs := runningWith(t, tc.c, "")
		tc.change(tc.c, obs)
		tc.c.Spec.Failover.ElectionTimeout = "300ms"
		p, err := planFor(tc.c, obs, newer)
		r, _ := err.(*cluster.Refusal)
		if tc.want == "" && err != nil || tc.want != "" && (r == nil || r.Rule != tc.want) {
			t.Errorf("%s: plan %v, error %v", name, p, err)
		}
	}
}

// TestSlowMembersGetNoShorterTimeout, and may get a longer one that is still too short.
func TestSlowMembersGetNoShorterTimeout(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		refused  bool
	}{{"", "300ms", true}, {"", "600ms", false}, {"300ms", "500ms", false}, {"500ms", "400ms", true}, {"500ms", "", false}} {
		for _, c := range []*spec.Cluster{stackedLab(), external()} {
			obs := runningWith(t, c, tc.from)
			slow := c.EtcdHosts()[1].Name
			seen := obs.Hosts[slow]
			seen.EtcdDisk = &facts.Durations{Count: 1000, Within: []facts.Within{{Seconds: 0.01, Count: 0}, {Seconds: 0.02, Count: 1000}}}
			obs.Hosts[slow] = seen
			c.Spec.Failover.ElectionTimeout = tc.to
			_, err := planFor(c, obs, newer)
			r, _ := err.(*cluster.Refusal)
			if refused := r != nil && r.Rule == cluster.RuleEtcdPatience && strings.Contains(r.Why, slow) && strings.Contains(r.Fix, "`600ms`"); refused != tc.refused || err != nil && !refused {
				t.Errorf("from %q to %q: %v", tc.from, tc.to, err)
			}
		}
	}
}

// TestTimersOfOthersStay: what the spec never set is not Quorate's, and members of an external etcd keep their files.
func TestTimersOfOthersStay(t *testing.T) {
	for _, c := range []*spec.Cluster{stackedLab(), external()} {
		obs := runningWith(t, c, "2s")
		obs.API.Settings = ""
		if p := planTimers(t, c, obs, ""); slices.ContainsFunc(p.Steps, func(s Step) bool {
			return s.Kind == SetEtcdTimers || s.Kind == UpgradeControlPlane || s.Kind == Configure
		}) {
			t.Errorf("%v", outline(p))
		}
	}
}

// TestWhatIsLeftOfTimersKeepsNoLostHost in the cluster: without an edit, it waits with a warning.
func TestWhatIsLeftOfTimersKeepsNoLostHost(t *testing.T) {
	c := external()
	obs := runningWith(t, c, "300ms")
	obs.Hosts["etcd-b"].Facts.Kubernetes.EtcdRuns = &facts.EtcdTimers{}
	if p := planTimers(t, c, obs, "300ms"); len(stepsOf(p, "etcd-b", SetEtcdTimers)) == 0 {
		t.Errorf("a member that did not restart: %v", outline(p))
	}
	obs.Hosts["etcd-c"] = facts.Host{Error: "etcd-c: timeout"}
	if _, err := planFor(c, obs, newer); err == nil || err.(*cluster.Refusal).Rule != RuleEveryMember { // the plan has no other steps
		t.Errorf("%v", err)
	}
	obs.Hosts["worker-a"].Facts.Files["/etc/hosts#cluster "+c.Metadata.Name] = "other"
	p := mustPlan(t, c, obs, newer)
	if len(stepsOf(p, "worker-a", Configure)) != 1 || len(stepsOf(p, "etcd-b", SetEtcdTimers)) != 0 || !strings.Contains(strings.Join(p.Warnings, " "), spec.ElectionTimeoutPath) || !p.Postpones {
		t.Errorf("%v, warnings %q, postpones %t", outline(p), p.Warnings, p.Postpones)
	}
}
