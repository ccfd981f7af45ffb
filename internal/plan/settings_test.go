package plan

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// byKubeadm are arguments that kubeadm gives every program, and Quorate's.
func byKubeadm(program string) map[string]string {
	if program == facts.APIServer {
		out := maps.Clone(hostconfig.OwnArguments)
		out["secure-port"] = "6443"
		return out
	}
	return map[string]string{"bind-address": "127.0.0.1", "leader-elect": "true"}
}

// startedWith starts the programs of a control plane, and its kubelet, with what the cluster has stored.
func startedWith(obs *facts.Observation, f *facts.Facts) {
	f.Kubernetes.Arguments = map[string]map[string]string{}
	for _, p := range hostconfig.Programs {
		f.Kubernetes.Arguments[p] = byKubeadm(p)
		maps.Copy(f.Kubernetes.Arguments[p], obs.API.Kubeadm.Arguments[p])
	}
	f.Kubernetes.Kubelet = maps.Clone(obs.API.KubeletConfig)
	if stored := obs.API.Kubeadm.EtcdTimers; stored != nil {
		f.Kubernetes.EtcdTimers = new(*stored)
	}
}

// store does what the step StoreSettings does.
func store(obs *facts.Observation, s Step) {
	if s.Record != "" {
		obs.API.Settings = s.Record
	}
	if s.Settings == nil {
		return
	}
	for p, args := range s.Settings.Arguments {
		if p == facts.Etcd {
			obs.API.Kubeadm.EtcdTimers = new(hostconfig.ReadEtcdTimers(args))
			continue
		}
		for name, value := range args {
			if value == "" {
				delete(obs.API.Kubeadm.Arguments[p], name)
			} else {
				obs.API.Kubeadm.Arguments[p][name] = value
			}
		}
	}
	for field, value := range s.Settings.Kubelet {
		if value == nil {
			delete(obs.API.KubeletConfig, field)
		} else {
			obs.API.KubeletConfig[field] = value
		}
	}
}

func registriesOf(f *facts.Facts) (out []string) {
	for _, path := range slices.Sorted(maps.Keys(f.Files)) {
		if strings.HasPrefix(path, hostconfig.RegistriesDir+"/") {
			out = append(out, path)
		}
	}
	return out
}

// withProfile stores what the failover profile of the spec sets.
func withProfile(c *spec.Cluster, obs *facts.Observation) {
	arguments, kubelet := hostconfig.Profile(c)
	store(obs, Step{Settings: &SettingsChange{Arguments: arguments, Kubelet: kubelet}})
}

// running observes a finished cluster without settings.
func running(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := upgraded(t, c, newer)
	obs.API.Kubeadm.Arguments = map[string]map[string]string{facts.APIServer: maps.Clone(hostconfig.OwnArguments), facts.ControllerManager: {}, facts.Scheduler: {}}
	obs.API.KubeletConfig = map[string]any{"kind": "KubeletConfiguration", "podPidsLimit": hostconfig.PodPidsLimit, "shutdownGracePeriod": "0s"}
	withProfile(c, obs)
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1", "vm.max_map_count": "65530"}
		switch {
		case h.Has(spec.RoleControlPlane):
			startedWith(obs, f)
		case h.IsNode():
			f.Kubernetes.Kubelet = maps.Clone(obs.API.KubeletConfig)
		}
	}
	return obs
}

// allSettings is one of each kind.
func allSettings(t *testing.T, c *spec.Cluster) spec.Settings {
	t.Helper()
	if err := c.Attach(spec.SettingsFile{Field: "spec.settings.apiServer.auditPolicyFile", Path: "audit"}, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None}]\n")); err != nil {
		t.Fatal(err)
	}
	return spec.Settings{FeatureGates: map[string]bool{"Gate": true},
		APIServer:         spec.APIServerSettings{ExtraArgs: map[string]string{"v": "4", "audit-log-maxage": "7"}, AuditPolicyFile: "audit"},
		ControllerManager: spec.ProgramSettings{ExtraArgs: map[string]string{"bind-address": "0.0.0.0"}},
		Kubelet:           spec.KubeletSettings{MaxPods: 200, PodPidsLimit: 1000, SystemReserved: map[string]string{"cpu": "500m"}, ShutdownGracePeriod: "60s"},
		Registries:        []spec.Registry{{Name: "docker.io", Mirrors: []string{"https://mirror.example.com"}}},
		Sysctls:           map[string]string{"vm.max_map_count": "262144"}}
}

func TestSettingsOrder(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	if p := mustPlan(t, c, obs, newer); !p.Empty() {
		t.Fatalf("a cluster without settings has a plan: %v", outline(p))
	}
	c.Spec.Settings = allSettings(t, c)
	p := mustPlan(t, c, obs, newer)
	var want []string
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			want = append(want, h.Name+"/configure")
		}
	}
	want = append(want, "check-fit", "store-settings")
	for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
		want = append(want, h+"/leave-pools", h+"/move-leadership", h+"/upgrade-control-plane", h+"/join-pools")
	}
	want = append(want, "worker-a/restart-kubelet", "worker-b/restart-kubelet")
	if got := outline(p); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range p.Steps {
		switch s.Kind {
		case UpgradeControlPlane:
			if s.Change.Etcd != "" || s.Change.Part != cluster.APIPrograms {
				t.Errorf("%s stops etcd: %+v", s.ID, s.Change)
			}
			for _, part := range []string{"restart", "--v of kube-apiserver becomes 4", "--bind-address of kube-controller-manager is 127.0.0.1 instead of 0.0.0.0", "--feature-gates of kube-scheduler"} {
				if !strings.Contains(s.Reason, part) {
					t.Errorf("%s does not say %q: %s", s.ID, part, s.Reason)
				}
			}
		case RestartKubelet:
			if !strings.Contains(s.Reason, "maxPods becomes 200") || !strings.Contains(s.Reason, "the kubelet restarts, and containers go on") {
				t.Errorf("%s: %s", s.ID, s.Reason)
			}
		case Configure:
			if s.Change != nil || !strings.Contains(s.Reason, "vm.max_map_count is 65530 instead of 262144") {
				t.Errorf("%s: %+v, %s", s.ID, s.Change, s.Reason)
			}
		}
	}
}

// TestSettingsGoOnAndBackFromEverywhere: after every step, and in the middle of every replacement of a control plane, there is a
// plan that finishes what was begun, one that takes it all back, and one that does something else. All end with nothing left to
// do, with hosts that run with exactly what the spec says, and no step of them is refused.
func TestSettingsGoOnAndBackFromEverywhere(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("etcd of its own %t", own), func(t *testing.T) {
			c := stackedLab()
			if own {
				c = external()
			}
			obs := running(t, c)
			without := clone(t, obs)
			settings := allSettings(t, c)
			others := spec.Settings{APIServer: spec.APIServerSettings{ExtraArgs: map[string]string{"v": "2"}}, Kubelet: spec.KubeletSettings{MaxPods: 50}}
			ends := map[string]spec.Settings{"on": settings, "back": {}, "elsewhere": others}
			end := func(obs *facts.Observation, what string) {
				t.Helper()
				for name, s := range ends {
					cut := clone(t, obs)
					c.Spec.Settings = s
					finish(t, c, cut, newer, what+", "+name)
					judgeSettings(t, c, cut, without, what+", "+name)
				}
				c.Spec.Settings = settings
			}
			c.Spec.Settings = settings
			p := mustPlan(t, c, obs, newer)
			for _, s := range p.Steps {
				for _, half := range []bool{false, true} {
					if cut := clone(t, obs); interrupt(c, cut, s, half) {
						end(cut, s.ID+" interrupted")
					}
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
			judgeSettings(t, c, obs, without, "at the end")
		})
	}
}

// judgeSettings compares what runs with what the spec says. without is the cluster that has no settings.
func judgeSettings(t *testing.T, c *spec.Cluster, obs, without *facts.Observation, what string) {
	t.Helper()
	fields := hostconfig.KubeletFields(c, nil)
	for _, h := range c.Spec.Hosts {
		if !h.IsNode() {
			continue
		}
		f, before := obs.Hosts[h.Name].Facts, without.Hosts[h.Name].Facts
		if h.Has(spec.RoleControlPlane) {
			for _, p := range hostconfig.Programs {
				want := maps.Clone(before.Kubernetes.Arguments[p])
				maps.Copy(want, hostconfig.Arguments(c)[p])
				if got := f.Kubernetes.Arguments[p]; !maps.Equal(got, want) {
					t.Fatalf("%s: %s on %s runs with %v instead of %v", what, p, h.Name, got, want)
				}
			}
		}
		for _, field := range slices.Concat(slices.Collect(maps.Keys(f.Kubernetes.Kubelet)), slices.Collect(maps.Keys(fields))) {
			want, given := fields[field]
			if !given {
				want = before.Kubernetes.Kubelet[field]
			}
			if got := f.Kubernetes.Kubelet[field]; !hostconfig.SameField(got, want) || f.Kubernetes.KubeletDue {
				t.Fatalf("%s: the kubelet on %s runs with %s %v instead of %v", what, h.Name, field, got, want)
			}
		}
		if got, want := len(f.Registries), len(c.Spec.Settings.Registries); got != want {
			t.Fatalf("%s: %s has the mirrors %v", what, h.Name, f.Registries)
		}
	}
}

// TestAnUpgradeKeepsSettings: those of the cluster stay, and those of the same edit come with it.
func TestAnUpgradeKeepsSettings(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	without := clone(t, obs)
	c.Spec.Settings = allSettings(t, c)
	finish(t, c, obs, newer, "settings")
	p := mustPlan(t, c, obs, older)
	if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == StoreSettings || s.Kind == RestartKubelet }) {
		t.Errorf("the settings are the same: %v", outline(p))
	}
	finish(t, c, obs, older, "an older version")
	judgeSettings(t, c, obs, without, "an older version")
	c.Spec.Settings.Kubelet.MaxPods, c.Spec.Settings.APIServer.ExtraArgs = 77, map[string]string{"v": "1"}
	if turns := stepsOf(mustPlan(t, c, obs, newer), "cp-a", UpgradeControlPlane); len(turns) != 1 {
		t.Errorf("the control plane is replaced %d times", len(turns))
	}
	finish(t, c, obs, newer, "a newer version and other settings")
	judgeSettings(t, c, obs, without, "a newer version and other settings")
}

// TestKubeletsRestartWithoutAnythingElse: nobody leaves the load balancers' pools for them.
func TestKubeletsRestartWithoutAnythingElse(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	c.Spec.Settings.Kubelet = spec.KubeletSettings{ContainerLogMaxSize: "50Mi"}
	p := mustPlan(t, c, obs, newer)
	want := []string{"store-settings", "cp-a/restart-kubelet", "cp-b/restart-kubelet", "cp-c/restart-kubelet", "worker-a/restart-kubelet", "worker-b/restart-kubelet"}
	if got := outline(p); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for i, host := range []string{"cp-b", "cp-c"} {
		if s := stepsOf(p, host, RestartKubelet)[0]; !slices.Contains(s.Needs, want[i+1]) {
			t.Errorf("%s comes after %v", s.ID, s.Needs)
		}
	}
}

func TestFilesAndKernelSettingsRestartNothing(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	c.Spec.Settings = spec.Settings{Registries: []spec.Registry{{Name: "*", Mirrors: []string{"https://m.example.com"}}}, Sysctls: map[string]string{"vm.max_map_count": "262144"}}
	p := mustPlan(t, c, obs, newer)
	for _, s := range p.Steps {
		if s.Change != nil || s.Kind == Configure && !strings.HasSuffix(s.Reason, "nothing restarts") {
			t.Errorf("%s: %+v, %s", s.ID, s.Change, s.Reason)
		}
	}
	if n := len(stepsOf(p, "worker-a", Configure)); n != 1 {
		t.Errorf("%d steps", n)
	}
}

// TestOthersSettingsStay: what the spec never set is not Quorate's to remove.
func TestOthersSettingsStay(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	obs.API.Kubeadm.Arguments[facts.Scheduler]["v"] = "9"
	obs.API.KubeletConfig["maxParallelImagePulls"] = 3
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		startedWith(obs, obs.Hosts[h.Name].Facts)
	}
	if p := mustPlan(t, c, obs, newer); !p.Empty() {
		t.Errorf("%v", outline(p))
	}
	c.Spec.Settings.APIServer.ExtraArgs = map[string]string{"v": "4"}
	finish(t, c, obs, newer, "on")
	c.Spec.Settings = spec.Settings{}
	finish(t, c, obs, newer, "back")
	profile, _ := hostconfig.Profile(c)
	want := map[string]string{"v": "9"}
	maps.Copy(want, profile[facts.Scheduler])
	if got := obs.API.Kubeadm.Arguments[facts.Scheduler]; !reflect.DeepEqual(got, want) || obs.API.KubeletConfig["maxParallelImagePulls"] == nil {
		t.Errorf("%v, %v", got, obs.API.KubeletConfig)
	}
}

// TestAHostThatIsAwayIsRemembered: it loses its former settings when it is back.
func TestAHostThatIsAwayIsRemembered(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	without := clone(t, obs)
	c.Spec.Settings = allSettings(t, c)
	finish(t, c, obs, newer, "on")
	away := obs.Hosts["worker-b"]
	obs.Hosts["worker-b"] = facts.Host{Error: "worker-b: timeout"}
	c.Spec.Settings = spec.Settings{}
	finishReachable(t, c, obs)
	if !strings.Contains(obs.API.Settings, "maxPods") {
		t.Errorf("forgotten: %s", obs.API.Settings)
	}
	obs.Hosts["worker-b"] = away
	finish(t, c, obs, newer, "back")
	judgeSettings(t, c, obs, without, "back")
	if strings.Contains(obs.API.Settings, "maxPods") {
		t.Errorf("not forgotten: %s", obs.API.Settings)
	}
}

// finishReachable carries one plan out.
func finishReachable(t *testing.T, c *spec.Cluster, obs *facts.Observation) {
	t.Helper()
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		if s.Host == "worker-b" {
			t.Errorf("%s on a host that cannot be reached", s.ID)
		}
		carryOut(t, c, obs, newer, s)
	}
}

func TestSettingsOfAdoptedHostsAreRefused(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	obs.Hosts["worker-b"].Facts.Kubernetes.Adopted = true
	c.Spec.Settings.Kubelet.MaxPods = 50
	_, err := planFor(c, obs, newer)
	if r, ok := errors.AsType[*cluster.Refusal](err); !ok || r.Rule != RuleOwnProgram || !strings.Contains(r.Why, "worker-b") {
		t.Error(err)
	}
}

func TestPrometheusOnAdoptedHostsIsRefused(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	obs.Hosts["worker-b"].Facts.Kubernetes.Adopted = true
	c.Spec.Monitoring = spec.Monitoring{Exporter: true, Prometheus: spec.Prometheus{Install: true}}
	_, err := planFor(c, obs, newer)
	if r, ok := errors.AsType[*cluster.Refusal](err); !ok || r.Rule != RuleOwnProgram || !strings.Contains(r.Why, "images on worker-b") {
		t.Error(err)
	}
}

func TestANewClusterRemembersItsSettings(t *testing.T) {
	c := testCluster()
	c.Spec.Settings.Kubelet.MaxPods = 50
	p := build(t, c, empty(c))
	var stored []Step
	for _, s := range p.Steps {
		if s.Kind == StoreSettings {
			stored = append(stored, s)
		}
	}
	if len(stored) != 1 || stored[0].Settings != nil || stored[0].Record != `{"kubelet":["maxPods"]}` {
		t.Errorf("%+v", stored)
	}
}
