package plan

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// inFlight is the argument of API servers that grows with the cluster.
const inFlight = "max-requests-inflight"

// TestTheSizeChangesSettings: a cluster that is to become large gets the arguments of its API servers one control plane at a time, and
// more replicas of CoreDNS; planned smaller again, it loses the arguments, and keeps the replicas.
func TestTheSizeChangesSettings(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	c.Spec.Size = spec.Size{Nodes: 600}
	p := mustPlan(t, c, obs, newer)
	want := []string{"store-settings"}
	for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
		want = append(want, h+"/leave-pools", h+"/move-leadership", h+"/upgrade-control-plane", h+"/join-pools")
	}
	want = append(want, "worker-a/restart-kubelet", "worker-b/restart-kubelet")
	if got := outline(p); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	scaled := false
	for _, s := range p.Steps {
		switch s.Kind {
		case UpgradeControlPlane:
			if !slices.Equal(s.Pods, []string{facts.APIServer}) || !strings.Contains(s.Reason, "--max-requests-inflight of kube-apiserver becomes 1500 (for 600 nodes and 18000 pods, see docs/size.md)") {
				t.Errorf("%s replaces %v: %s", s.ID, s.Pods, s.Reason)
			}
		case RestartKubelet:
			if !strings.Contains(s.Reason, "nodeStatusReportFrequency becomes 5m0s (for 600 nodes") {
				t.Errorf("%s: %s", s.ID, s.Reason)
			}
		case SpreadDNS:
			scaled = true
			if s.Replicas != 5 || !strings.Contains(s.Reason, "600 nodes") || s.Change != nil {
				t.Errorf("five nodes run at most five replicas: %+v", s)
			}
		}
	}
	if !scaled {
		t.Errorf("CoreDNS is not scaled: %v", kindsOf(p))
	}
	finish(t, c, obs, newer, "larger")
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if got := obs.Hosts[h.Name].Facts.Kubernetes.Arguments[facts.APIServer][inFlight]; got != "1500" {
			t.Errorf("%s: %q", h.Name, got)
		}
	}
	c.Spec.Size = spec.Size{}
	finish(t, c, obs, newer, "smaller")
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if got, has := obs.Hosts[h.Name].Facts.Kubernetes.Arguments[facts.APIServer][inFlight]; has {
			t.Errorf("%s keeps %q", h.Name, got)
		}
	}
	if got, has := obs.Hosts["worker-a"].Facts.Kubernetes.Kubelet["nodeStatusReportFrequency"]; has {
		t.Errorf("worker-a keeps %v", got)
	}
	if obs.API.DNSReplicas != 5 {
		t.Errorf("CoreDNS has %d replicas: somebody may need those that were added", obs.API.DNSReplicas)
	}
}

// TestSmallClustersStayAsTheyAre, up to the stated size.
func TestSmallClustersStayAsTheyAre(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	for _, replicas := range []int{2, 1, 4} { // of CoreDNS, as somebody has scaled it
		obs.API.DNSReplicas = replicas
		for _, size := range []spec.Size{{}, {Nodes: 32}, {Nodes: 32, Pods: 3000}} {
			c.Spec.Size = size
			for _, s := range mustPlan(t, c, obs, newer).Steps {
				if s.Change != nil || s.Kind == StoreSettings || s.Kind == SpreadDNS {
					t.Errorf("%+v, and %d replicas of CoreDNS: %s: %s", size, replicas, s.ID, s.Reason)
				}
			}
		}
	}
}

// TestTheSpecComesBeforeTheSize: what the spec sets is exactly what runs.
func TestTheSpecComesBeforeTheSize(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	obs.API.DNSReplicas = 5
	c.Spec.Size = spec.Size{Nodes: 600}
	c.Spec.Settings.APIServer.ExtraArgs = map[string]string{inFlight: "700"}
	c.Spec.Settings.DNS.Replicas = 3
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		if s.Kind == UpgradeControlPlane && strings.Contains(s.Reason, "becomes 700 (for") {
			t.Errorf("the spec says it, and not the size: %s", s.Reason)
		}
	}
	finish(t, c, obs, newer, "with settings")
	if got := obs.Hosts["cp-a"].Facts.Kubernetes.Arguments[facts.APIServer]; got[inFlight] != "700" || got["max-mutating-requests-inflight"] != "500" {
		t.Errorf("%v", got)
	}
	if obs.API.DNSReplicas != 3 {
		t.Errorf("%d replicas", obs.API.DNSReplicas)
	}
}

// TestAdoptedClustersKeepTheirArguments: the programs are not Quorate's to restart, however many hosts there are.
func TestAdoptedClustersKeepTheirArguments(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name].Facts.Kubernetes.Adopted = h.IsNode()
	}
	c.Spec.Size = spec.Size{Nodes: 600}
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		if s.Kind == StoreSettings || s.Kind == UpgradeControlPlane || s.Kind == RestartKubelet {
			t.Errorf("%s: %s", s.ID, s.Reason)
		}
	}
}

// TestMoreNodesThanPlanned are named, if other settings would be right for them.
func TestMoreNodesThanPlanned(t *testing.T) {
	c := stackedLab()
	obs := running(t, c)
	warns := func() bool {
		return slices.ContainsFunc(mustPlan(t, c, obs, newer).Warnings, func(w string) bool { return strings.Contains(w, "spec.size.nodes") })
	}
	if warns() {
		t.Error("a cluster of its hosts alone is too large for itself")
	}
	obs.API.Simulated = 40
	if !warns() {
		t.Error("forty simulated nodes are not mentioned")
	}
	c.Spec.Size.Nodes = 45
	if warns() {
		t.Error("they are planned for")
	}
}
