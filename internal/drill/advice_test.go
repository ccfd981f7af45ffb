package drill

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestAdvise(t *testing.T) {
	// fsyncs are those of a member: all within the given seconds.
	fsyncs := func(within float64) *facts.Durations {
		return &facts.Durations{Count: 5000, Within: []facts.Within{{Seconds: within / 2}, {Seconds: within, Count: 5000}}}
	}
	elected := []Outcome{{Missed: []string{"endpoint/write/new: 1.8s without a success"}, LeaderChanges: 1}, {Missed: []string{"something"}, LeaderChanges: -1}, {LeaderChanges: 1}}
	for name, tc := range map[string]struct {
		faults  []Outcome
		change  func(*spec.Cluster)
		slowest float64 // of cp-a's disk, in seconds; 0 if nothing was measured
		want    []string
	}{
		"fast disks":          {faults: elected, slowest: 0.004, want: []string{"In 1 fault that missed", "begins after 1s to 2s", "The members support 500ms: set spec.failover.electionTimeout to `500ms`"}},
		"slower ones":         {faults: elected, slowest: 0.021, want: []string{"The members support 700ms"}},
		"slow ones":           {faults: elected, slowest: 0.064, want: []string{"no shorter one", "fsyncs of etcd's disk on cp-a"}},
		"nothing is known":    {faults: elected, want: []string{"support `500ms`", "quorate plan"}},
		"a long timeout":      {faults: elected, slowest: 0.064, change: func(c *spec.Cluster) { c.Spec.Failover.ElectionTimeout = "5s" }, want: []string{"begins after 5s to 10s", "The members support 2s"}},
		"a short one already": {faults: elected, slowest: 0.004, change: func(c *spec.Cluster) { c.Spec.Failover.ElectionTimeout = "500ms" }},
		"nothing was missed":  {faults: elected[2:], slowest: 0.004},
		"nothing was elected": {faults: elected[1:2], slowest: 0.004},
		"an etcd of the operator": {faults: elected, change: func(c *spec.Cluster) {
			c.Spec.ControlPlane.Topology, c.Spec.Etcd.Endpoints = spec.TopologyExternal, []string{"https://10.0.0.9:2379"}
		}},
	} {
		f := clustertest.Whole()
		if tc.change != nil {
			tc.change(f.Spec)
		}
		if tc.slowest > 0 {
			h := f.Seen.Hosts["cp-a"]
			h.EtcdDisk = fsyncs(tc.slowest)
			f.Seen.Hosts["cp-a"] = h
		}
		r := &Report{Faults: tc.faults}
		r.Advise(cluster.Evaluate(f.Spec, f.Seen))
		if len(r.Advice) != min(len(tc.want), 1) {
			t.Errorf("%s: %q", name, r.Advice)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(r.Advice[0], want) {
				t.Errorf("%s: it does not say %q: %s", name, want, r.Advice[0])
			}
		}
	}
}
