package plan

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// noneLists are arguments of an API server that does not list itself, and has what the profile of the spec sets.
func noneLists(c *spec.Cluster) map[string]string {
	arguments, _ := hostconfig.Profile(c)
	out := map[string]string{hostconfig.ReconcilerArgument: hostconfig.NoReconciler}
	for name, value := range arguments[facts.APIServer] {
		if value != "" {
			out[name] = value
		}
	}
	return out
}

// publishIn does what the step PublishEndpoint does.
func publishIn(obs *facts.Observation, s Step) {
	own := []string{s.Service.Address}
	obs.API.Service.Slices[facts.OwnSlice] = own
	if s.Service.Only {
		obs.API.Service.Slices, obs.API.Service.Endpoints = map[string][]string{facts.OwnSlice: own}, own
	}
}

// listing observes a cluster whose API servers list themselves, as every cluster was built once.
func listing(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := running(t, c)
	obs.API.Service = &facts.APIService{Slices: map[string][]string{}}
	relist(c, obs)
	return obs
}

// relist does what API servers do that list themselves. The last one that stops in order leaves a list without addresses.
func relist(c *spec.Cluster, obs *facts.Observation) {
	lists, have := []string{}, obs.API.Service
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		seen := obs.Hosts[h.Name]
		if seen.APIServer != nil && seen.APIServer.OK && seen.Facts.Kubernetes.Arguments[facts.APIServer][hostconfig.ReconcilerArgument] != hostconfig.NoReconciler {
			lists = append(lists, net.JoinHostPort(h.Address, hostconfig.APIPort))
		}
	}
	if _, there := have.Slices[facts.APIServiceName]; there || len(lists) > 0 {
		have.Slices[facts.APIServiceName], have.Endpoints = lists, lists
	}
}

// reachesAPI holds a cluster to what the order is for: pods always have an address, and every address works or is removed by an API server.
func reachesAPI(t *testing.T, c *spec.Cluster, obs *facts.Observation, what string) {
	t.Helper()
	relist(c, obs)
	addresses := obs.API.Service.Addresses()
	if len(addresses) == 0 {
		t.Fatalf("%s: pods have no address", what)
	}
	for _, a := range addresses {
		host, _, _ := net.SplitHostPort(a)
		if host == c.Spec.LoadBalancer.Address {
			continue
		}
		i := slices.IndexFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Address == host })
		if i < 0 || !obs.Hosts[c.Spec.Hosts[i].Name].APIServer.OK {
			t.Fatalf("%s: pods are sent to %s", what, a)
		}
	}
}

// comesToUse makes whole plans until nothing is left to do: a second one follows only what an interrupted run left.
func comesToUse(t *testing.T, c *spec.Cluster, obs *facts.Observation, what string) {
	t.Helper()
	for range 2 {
		for _, s := range mustPlan(t, c, obs, newer).Steps {
			carryOut(t, c, obs, newer, s)
			reachesAPI(t, c, obs, what+", then "+s.ID)
		}
	}
	if p := mustPlan(t, c, obs, newer); !p.Empty() {
		t.Fatalf("%s: something is left to do: %v", what, outline(p))
	}
	at := net.JoinHostPort(c.Endpoint().Address, c.Endpoint().Port)
	if _, lease := c.Spec.Settings.APIServer.ExtraArgs[hostconfig.ReconcilerArgument]; !lease && !obs.API.Service.Only(at) {
		t.Errorf("%s: pods use %+v", what, *obs.API.Service)
	} else if _, own := obs.API.Service.Slices[facts.OwnSlice]; lease && own {
		t.Errorf("%s: pods still use the endpoint: %+v", what, *obs.API.Service)
	}
}

func TestPodsComeToUseTheEndpoint(t *testing.T) {
	c := stackedLab()
	p := mustPlan(t, c, listing(t, c), newer)
	want := []string{"try-endpoint", "publish-endpoint", "store-settings"}
	for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
		want = append(want, h+"/leave-pools", h+"/move-leadership", h+"/upgrade-control-plane", h+"/join-pools")
	}
	if got := outline(p); !slices.Equal(got, append(want, "publish-endpoint/only")) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	for _, s := range p.Steps {
		if s.Kind == UpgradeControlPlane && !slices.Equal(s.Pods, []string{facts.APIServer}) {
			t.Errorf("%s replaces %v", s.ID, s.Pods)
		}
		if s.Kind == PublishEndpoint && (s.Service.Address != "10.0.0.100:6443" || s.Service.Only != (s.Detail == "only")) {
			t.Errorf("%s: %+v", s.ID, s.Service)
		}
	}
}

// TestPodsGoOnToTheEndpoint ends every interrupted run, and takes it back with a setting from everywhere.
func TestPodsGoOnToTheEndpoint(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprintf("back %t", back), func(t *testing.T) {
			c := stackedLab()
			obs := listing(t, c)
			end := func(obs *facts.Observation, what string) {
				t.Helper()
				reachesAPI(t, c, obs, what)
				if back {
					c.Spec.Settings.APIServer.ExtraArgs = map[string]string{hostconfig.ReconcilerArgument: "lease"}
					defer func() { c.Spec.Settings = spec.Settings{} }()
				}
				comesToUse(t, c, clone(t, obs), what)
			}
			for _, s := range mustPlan(t, c, obs, newer).Steps {
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

// TestASettingThatGoesBackIsRemoved: what was there before the setting comes back with it.
func TestASettingThatGoesBackIsRemoved(t *testing.T) {
	c := stackedLab()
	obs := listing(t, c)
	c.Spec.Settings.APIServer.ExtraArgs = map[string]string{hostconfig.ReconcilerArgument: "lease"}
	comesToUse(t, c, obs, "with the setting")
	c.Spec.Settings = spec.Settings{}
	comesToUse(t, c, obs, "without it")
}

// TestAnAPIServerDiesAsTheLastOneThatListsItself: nobody but Quorate removes it.
func TestAnAPIServerDiesAsTheLastOneThatListsItself(t *testing.T) {
	c := stackedLab()
	obs := listing(t, c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.Arguments[facts.APIServer][hostconfig.ReconcilerArgument] = hostconfig.NoReconciler
	}
	obs.API.Kubeadm.Arguments[facts.APIServer][hostconfig.ReconcilerArgument] = hostconfig.NoReconciler
	obs.API.Service = &facts.APIService{Slices: map[string][]string{facts.OwnSlice: {"10.0.0.100:6443"}, facts.APIServiceName: {"10.0.0.13:6443"}}}
	p := mustPlan(t, c, obs, newer)
	if got := outline(p); !slices.Equal(got, []string{"publish-endpoint/only"}) {
		t.Errorf("got %v", got)
	}
}

// TestWhatKeepsAPIServersListed: an edit of something else comes first, and nothing has to wait for a restart that nobody asked for.
func TestWhatKeepsAPIServersListed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*spec.Cluster, *facts.Observation)
		warns  bool
	}{
		"a control plane that is down": {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["cp-b"] = facts.Host{Error: "cp-b: timeout"} }, true},
		"a control plane in maintenance": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Maintenance = map[string]facts.Maintenance{"cp-b": {}}
		}, true},
		"a scheduler that does not work": {func(_ *spec.Cluster, o *facts.Observation) {
			for _, name := range []string{"cp-a", "cp-b"} {
				o.Hosts[name].Components[facts.Scheduler] = facts.Component{Answer: facts.Answer{Problem: "connection refused"}}
			}
		}, true},
		"hosts of others": {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["cp-b"].Facts.Kubernetes.Adopted = true }, false},
		"a load balancer of the user's": {func(c *spec.Cluster, _ *facts.Observation) {
			c.Spec.LoadBalancer.Type = spec.BalancerExternal
		}, false},
		"a setting": {func(c *spec.Cluster, _ *facts.Observation) {
			c.Spec.Settings.APIServer.ExtraArgs = map[string]string{hostconfig.ReconcilerArgument: "lease"}
		}, false},
		"a Service that could not be read": {func(_ *spec.Cluster, o *facts.Observation) { o.API.Service = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := stackedLab()
			obs := listing(t, c)
			tc.change(c, obs)
			b := &builder{State: cluster.Evaluate(c, obs), c: c, bundle: newer, at: map[string]*hostSteps{}, out: &Plan{}}
			b.publishEndpoint()
			b.onlyEndpoint()
			b.withdrawEndpoint()
			b.warnOfReconciler()
			if b.changesReconciler() || len(b.steps) > 0 || (len(b.out.Warnings) > 0) != tc.warns {
				t.Errorf("changes %t, steps %v, warnings %q", b.changesReconciler(), b.steps, b.out.Warnings)
			}
		})
	}
}

// TestARepairLetsAPIServersListThemselves: the endpoint is made an address only where an API server does not list itself.
func TestARepairLetsAPIServersListThemselves(t *testing.T) {
	c := stackedLab()
	obs := listing(t, c)
	b := mender(cluster.Evaluate(c, obs), newer)
	b.publishEndpoint()
	b.onlyEndpoint()
	if len(b.steps) > 0 {
		t.Errorf("a repair has the steps %v", kindsOf(&Plan{Steps: b.list()}))
	}
	obs.API.Kubeadm = nil // nobody knows what is in it
	if b = mender(cluster.Evaluate(c, obs), newer); b.needsEndpoint() {
		t.Error("a configuration that could not be read needs the endpoint")
	}
}

// TestANewClusterHasNoOtherAddress: its API servers never listed themselves, but those of an older version of Quorate may have.
func TestANewClusterHasNoOtherAddress(t *testing.T) {
	c := testCluster()
	published := func(obs *facts.Observation) *ServiceChange {
		t.Helper()
		for _, s := range build(t, c, obs).Steps {
			if s.Kind == PublishEndpoint {
				if !slices.Contains(s.Needs, stepID("cp-a", AwaitAPI)) {
					t.Errorf("%s waits for %v", s.ID, s.Needs)
				}
				return s.Service
			}
		}
		return nil
	}
	if got := published(empty(c)); got == nil || !got.Only || got.Address != "10.0.0.100:6443" {
		t.Errorf("%+v", got)
	}
	begun := empty(c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		k := &begun.Hosts[h.Name].Facts.Kubernetes
		k.CA, k.SharedPKI = "CA", true
	}
	f := begun.Hosts["cp-a"].Facts
	f.Binaries, f.Images = testBundle.Digest, testBundle.Digest
	f.Kubernetes.KubeletConfig, f.Kubernetes.EtcdData, f.Kubernetes.Begun, f.Kubernetes.Manifests = true, true, true, podsWithEtcd
	if got := published(begun); got == nil || got.Only {
		t.Errorf("while cp-a may list itself: %+v", got)
	}
	c.Spec.LoadBalancer.Type = spec.BalancerExternal
	without(c, "lb-a", "lb-b")
	if got := published(empty(c)); got != nil {
		t.Errorf("behind a load balancer of the user's: %+v", got)
	}
}
