package cluster

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestNodesWithoutANetwork: with `cni: none`, nodes that lack nothing but the network are what the spec asks for.
func TestNodesWithoutANetwork(t *testing.T) {
	c := spec.DefaultLab("test")
	obs := &facts.Observation{Hosts: map[string]facts.Host{}, API: &facts.API{Initialised: true}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{}}
		if h.IsNode() {
			obs.API.Nodes = append(obs.API.Nodes, facts.Node{Name: h.Name, NoNetwork: true, NotReady: "no answer over the pod network from cp-a"})
		}
	}
	unmet := func() string {
		var all []string
		for _, f := range Evaluate(c, obs).UnmetInAPI() {
			all = append(all, f.Summary)
		}
		return strings.Join(all, "; ")
	}
	if got := unmet(); !strings.Contains(got, "node worker-a is not ready: no answer over the pod network from cp-a") || !strings.Contains(got, "CoreDNS") {
		t.Errorf("the reason is missing: %s", got)
	}
	c.Spec.Network.CNI = spec.CNINone
	if got := unmet(); got != "" {
		t.Errorf("a cluster whose network is yet to come lacks: %s", got)
	}
	obs.API.Nodes[0].NoNetwork = false
	if got := unmet(); !strings.Contains(got, obs.API.Nodes[0].Name) || strings.Contains(got, "worker-a") {
		t.Errorf("a kubelet that does not work is excused: %s", got)
	}
}

// TestAPIServersThatAreNotReady: the API says how many of them are, without a question to every host.
func TestAPIServersThatAreNotReady(t *testing.T) {
	c := spec.DefaultLab("test")
	obs := &facts.Observation{Hosts: map[string]facts.Host{}, API: &facts.API{Initialised: true}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{}}
	}
	unmet := func(n int) string {
		obs.API.APIServers = &n
		for _, f := range Evaluate(c, obs).UnmetInAPI() {
			if strings.Contains(f.Summary, "API servers") {
				return f.Summary
			}
		}
		return ""
	}
	if got, want := unmet(1), "1 of 3 API servers are ready"; got != want {
		t.Errorf("with one of three: %q, want %q", got, want)
	}
	if got := unmet(3); got != "" {
		t.Errorf("with all of them: %q", got)
	}
	delete(obs.Hosts, "cp-c")
	if got := unmet(2); got != "" {
		t.Errorf("a host that cannot be reached is waited for: %q", got)
	}
	obs.API.Maintenance = map[string]facts.Maintenance{"cp-b": {}}
	if got := unmet(1); got != "" {
		t.Errorf("a control plane in maintenance is waited for: %q", got)
	}
}

// TestVerificationOfARestoreThatGoesOn: the marks of an interrupted restore are on hosts that were observed at the beginning of the run which
// ends it. They hide what the API has of the cluster before, and must not hide the restored one.
func TestVerificationOfARestoreThatGoesOn(t *testing.T) {
	c := spec.DefaultLab("test")
	obs := &facts.Observation{Hosts: map[string]facts.Host{}, API: &facts.API{Initialised: true}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{Restore: &facts.Restore{Backup: "0123"}}}}
	}
	if Evaluate(c, obs).Seen.API != nil {
		t.Error("the API of a cluster that is being restored counts")
	}
	if s := Evaluate(c, Rebuilt(obs)); s.Seen.API == nil {
		t.Error("the API of a restored cluster does not count")
	}
	for name, h := range obs.Hosts {
		if h.Facts.Kubernetes.Restore == nil {
			t.Errorf("the observation of %s was changed", name)
		}
	}
}
