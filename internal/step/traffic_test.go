package step

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// whole observes a cluster all of whose nodes are Ready.
func whole(c *spec.Cluster) *facts.Observation {
	obs := &facts.Observation{Hosts: map[string]facts.Host{}, API: &facts.API{}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{}}
		if h.IsNode() {
			obs.API.Nodes = append(obs.API.Nodes, facts.Node{Name: h.Name, Ready: true})
		}
	}
	return obs
}

func TestTrafficPairs(t *testing.T) {
	c := spec.DefaultLab("test")
	e := &Env{Cluster: c, Seen: whole(c)}
	for name, tc := range map[string]struct {
		joined []string
		dead   string
		want   string
	}{
		"none":                        {nil, "", ""},
		"all":                         {[]string{"cp-a", "cp-b", "worker-a"}, "", "cp-a>cp-b cp-b>worker-a worker-a>cp-a"},
		"two":                         {[]string{"cp-a", "worker-a"}, "", "cp-a>worker-a worker-a>cp-a"},
		"one, with another zone's":    {[]string{"worker-a"}, "", "worker-a>cp-b cp-b>worker-a"},
		"one that is not there":       {[]string{"worker-a"}, "worker-a", ""},
		"others without the dead one": {[]string{"worker-a"}, "cp-b", "worker-a>cp-c cp-c>worker-a"},
	} {
		e.Seen = whole(c)
		if tc.dead != "" {
			e.Seen.Hosts[tc.dead] = facts.Host{Error: "dead"}
		}
		var got []string
		for _, p := range e.trafficPairs(tc.joined) {
			got = append(got, p.from+">"+p.to)
		}
		if text := strings.Join(got, " "); text != tc.want {
			t.Errorf("%s: got %q, want %q", name, text, tc.want)
		}
	}

	// Two hundred nodes try two hundred ways.
	var many []string
	for i := range 200 {
		name := fmt.Sprint("node-", i)
		many = append(many, name)
		e.Seen.Hosts[name] = facts.Host{Facts: &facts.Facts{}}
	}
	if got := len(e.trafficPairs(many)); got != 200 {
		t.Errorf("%d ways", got)
	}
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name != "cp-a" })
	if got := e.trafficPairs([]string{"cp-a"}); len(got) != 0 {
		t.Errorf("a cluster of one node tries %v", got)
	}
}
