package plan

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// drifted changes what a host says of a file, and returns what it would show of it.
func drifted(obs *facts.Observation, host, key, content string) facts.Shown {
	obs.Hosts[host].Facts.Files[key] = facts.Sum([]byte(content))
	return facts.Shown{Content: content}
}

// TestDriftIsShown: the plan says which lines of which files change, once for hosts on which they are the same.
func TestDriftIsShown(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	const key = hostconfig.HAProxyFile
	balancers := cluster.Names(c.BalancerHosts())
	have := map[string]map[string]facts.Shown{}
	for _, h := range c.BalancerHosts() {
		for _, f := range hostconfig.Balancer(c, h, obs.Hosts[h.Name].Facts, cluster.Evaluate(c, obs).CA()).Files {
			if f.Path == key {
				have[h.Name] = map[string]facts.Shown{key: drifted(obs, h.Name, key, strings.Replace(f.Content, "maxconn ", "maxconn 1", 1))}
			}
		}
	}
	s := cluster.Evaluate(c, obs)
	p := build(t, c, obs)
	writes := p.Writes(s)
	if len(writes) != len(balancers) {
		t.Fatalf("the plan writes %v", writes)
	}
	p.Compare(writes, have)
	if len(p.Files) != 1 {
		t.Fatalf("files: %+v", p.Files)
	}
	got := p.Files[0]
	if got.Path != key || got.New || got.Withheld != "" || got.Added != 1 || got.Removed != 1 || !slices.Equal(got.Hosts, slices.Sorted(slices.Values(balancers))) {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(got.Diff, "\n-    maxconn 1") || !strings.Contains(got.Diff, "\n+    maxconn ") {
		t.Error(got.Diff)
	}
	p.Summarize()
	if p.Files[0].Diff != "" || p.Files[0].Added != 1 {
		t.Errorf("a summary: %+v", p.Files[0])
	}

	// Another difference on one host is shown separately, and a secret of one is not shown at all.
	have[balancers[0]][key] = facts.Shown{Content: have[balancers[0]][key].Content + "# more\n"}
	if p.Compare(writes, have); len(p.Files) != 2 || p.Files[0].Diff == p.Files[1].Diff {
		t.Errorf("%+v", p.Files)
	}
	have[balancers[0]][key] = facts.Shown{Withheld: "it may contain a credential"}
	if p.Compare(writes, have); len(p.Files) != 2 || p.Files[0].Diff != "" && p.Files[1].Diff != "" {
		t.Errorf("%+v", p.Files)
	}
	for host := range have { // what was repaired in the meantime is no change
		have[host][key] = facts.Shown{Content: writes[host][key].Content}
	}
	if p.Compare(writes, have); len(p.Files) != 0 {
		t.Errorf("%+v", p.Files)
	}
}

// TestAClusterThatMatchesWritesNothing, and of a new one every file is new.
func TestAClusterThatMatchesWritesNothing(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	if writes := build(t, c, obs).Writes(cluster.Evaluate(c, obs)); len(writes) != 0 {
		t.Errorf("%v", writes)
	}
	obs = empty(c)
	p := build(t, c, obs)
	p.Compare(p.Writes(cluster.Evaluate(c, obs)), nil)
	if len(p.Files) < 10 {
		t.Errorf("%+v", p.Files)
	}
	for _, f := range p.Files {
		if !f.New || f.Removed > 0 || f.Withheld == "" && (f.Added == 0 || !strings.HasPrefix(f.Diff, "--- /dev/null\n+++ "+f.Path+"\n")) {
			t.Errorf("%+v", f)
		}
	}
}

// TestNoOwnFileIsWithheld: what Quorate writes contains no secret, except for marks in kubeadm's directory of keys. The CA of a
// new cluster is not known yet.
func TestNoOwnFileIsWithheld(t *testing.T) {
	for name, c := range map[string]*spec.Cluster{"balancers": testCluster(), "beside control planes": withoutBalancers(testCluster()), "external etcd": external()} {
		obs := empty(c)
		p := build(t, c, obs)
		p.Compare(p.Writes(cluster.Evaluate(c, obs)), nil)
		for _, f := range p.Files {
			mark := f.Path == facts.BegunFile || f.Path == facts.EstablishedFile
			if f.Withheld != "" && !mark && !strings.HasSuffix(f.Path, "/quorate-ca.crt") {
				t.Errorf("%s: %s is not shown: %s", name, f.Path, f.Withheld)
			}
		}
	}
}
