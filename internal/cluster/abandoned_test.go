package cluster_test

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
)

// comeBack has members of a cluster that a recovery has replaced run again on these hosts.
func comeBack(f clustertest.Fixture, hosts ...string) {
	for i := len(f.Seen.Etcd) - 1; i >= 0; i-- {
		if m := f.Seen.Etcd[i]; slices.Contains(hosts, m.Name) {
			m.ClusterID = "c0"
			f.Seen.EtcdAbandoned = append(f.Seen.EtcdAbandoned, m)
			f.Seen.Etcd = slices.Delete(f.Seen.Etcd, i, i+1)
		}
	}
}

// TestAnAbandonedMajority: two of three members of the cluster before a recovery run again, and agree with each other. They are no
// members, and what they serve does not count.
func TestAnAbandonedMajority(t *testing.T) {
	f := clustertest.Whole()
	comeBack(f, "cp-b", "cp-c")
	s := cluster.Evaluate(f.Spec, f.Seen)
	for _, p := range s.Placements() {
		abandoned := p.Host == "cp-b" || p.Host == "cp-c"
		if s.Abandoned(p.Host) != abandoned || abandoned && (p.Member != quorum.Absent || p.APIServer != quorum.Down || p.ControllerManager != quorum.Down || p.Scheduler != quorum.Down) {
			t.Errorf("%+v", p)
		}
	}
	r := s.NoneAbandoned()
	if r == nil || r.Rule != cluster.RuleOneEtcd || !slices.Equal(r.Subjects, []string{"cp-b", "cp-c"}) || !strings.Contains(r.Why, "cluster c0, which a recovery has replaced") || !strings.Contains(r.Fix, "`quorate repair`") {
		t.Errorf("%+v", r)
	}
	f.Seen.Etcd[0].Healthy = false
	if r := s.NoneAbandoned(); r == nil || !strings.HasPrefix(r.Fix, "Bring the recovered cluster back first") {
		t.Errorf("nothing could be repaired, and yet: %+v", r)
	}
	f.Seen.Etcd[0].Healthy = true
	if r := s.OneEtcd(); r != nil {
		t.Errorf("the members that count belong to one etcd, and yet: %+v", r)
	}
	if !slices.ContainsFunc(s.Findings(), func(x cluster.Finding) bool {
		return x.Rule == cluster.RuleOneEtcd && x.Severity == cluster.Critical && x.Unmet && slices.Equal(x.Subjects, []string{"cp-b", "cp-c"})
	}) {
		t.Errorf("no finding: %+v", s.Findings())
	}
	// They may be set aside, and their hosts join again: the recovered cluster has its majority.
	for _, c := range []cluster.Change{{Verb: cluster.Stop, Part: cluster.APIPrograms, Subject: "cp-b"}, {Verb: cluster.Clear, Part: cluster.EtcdMember, Subject: "cp-b"}, {Verb: cluster.Add, Part: cluster.EtcdMember, Subject: "cp-b"}} {
		if _, refused := s.Allow(c); refused != nil {
			t.Errorf("%s: %+v", c, refused)
		}
		s = s.After(c)
	}

	if r := cluster.Evaluate(clustertest.Whole().Spec, clustertest.Whole().Seen).NoneAbandoned(); r != nil {
		t.Errorf("nothing was replaced: %+v", r)
	}
}

// TestAPIServersOfAFormerEtcd: an external etcd was recovered, and a member of the cluster before it runs again. An API server that was started with its
// address may serve from it, and gets no clients.
func TestAPIServersOfAFormerEtcd(t *testing.T) {
	f := clustertest.Whole()
	f.External()
	comeBack(f, "etcd-c")
	for host, servers := range map[string]string{"cp-a": "https://10.0.0.41:2379,https://10.0.0.42:2379,https://10.0.0.43:2379", "cp-b": "https://10.0.0.41:2379,https://10.0.0.42:2379"} {
		k := f.Kubernetes(host)
		k.EtcdAbandoned, k.Flags = []string{"c0"}, map[string]string{facts.EtcdServersFlag: servers}
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	for _, p := range s.Placements() {
		if former := p.Host == "cp-a"; (p.Host == "cp-a" || p.Host == "cp-b") && (cluster.ServesAbandoned(f.Spec, f.Seen, p.Host) != former || (p.APIServer == quorum.Down) != former) {
			t.Errorf("%+v", p)
		}
	}
	if got := s.FormerEtcd("cp-a"); !slices.Equal(got, []string{"https://10.0.0.43:2379"}) || len(s.FormerEtcd("cp-b")) > 0 {
		t.Errorf("%v, %v", got, s.FormerEtcd("cp-b"))
	}
	refused := func(s *cluster.State, host string) bool {
		_, r := s.Allow(cluster.Change{Verb: cluster.Start, Part: cluster.PoolServer, Subject: host})
		return r != nil && r.Rule == cluster.RuleOneEtcd && strings.Contains(r.Why, "10.0.0.43") && strings.Contains(r.Fix, "`quorate apply`")
	}
	if !refused(s, "cp-a") || refused(s, "cp-b") {
		t.Error("an API server that may serve from the former etcd gets clients, or one that does not gets none")
	}
	if refused(s.After(cluster.Change{Verb: cluster.Restart, Part: cluster.APIPrograms, Subject: "cp-a"}), "cp-a") {
		t.Error("it was restarted in the same plan")
	}
	f.Seen.EtcdAbandoned = nil // its machine is off again, and comes back some day
	if s := cluster.Evaluate(f.Spec, f.Seen); !refused(s, "cp-a") || cluster.ServesAbandoned(f.Spec, f.Seen, "cp-a") {
		t.Error("nothing is known of the machine, and an API server that would use it gets clients")
	}
	members := f.Seen.Etcd
	f.Seen.Etcd = nil
	if _, r := cluster.Evaluate(f.Spec, f.Seen).Allow(cluster.Change{Verb: cluster.Start, Part: cluster.PoolServer, Subject: "cp-b"}); r == nil || r.Rule != cluster.RuleUnknown || !r.Transient {
		t.Errorf("nobody knows the members of today, and an API server gets clients: %+v", r)
	}
	f.Seen.Etcd = members
	f.Kubernetes("cp-a").EtcdAbandoned, f.Kubernetes("cp-b").EtcdAbandoned = nil, nil
	if s := cluster.Evaluate(f.Spec, f.Seen); refused(s, "cp-a") {
		t.Error("nothing was recovered: what has no member has left etcd")
	}
}

// TestSeveralEtcds: as long as nobody knows which of two clusters counts, nothing is done for either. A member of the other one that the
// members do not have in their list is no voter.
func TestSeveralEtcds(t *testing.T) {
	f := clustertest.Whole()
	if r := cluster.Evaluate(f.Spec, f.Seen).OneEtcd(); r != nil {
		t.Errorf("one cluster: %+v", r)
	}
	c := &f.Seen.Etcd[2]
	c.Healthy, c.Problem, c.OtherCluster, c.ClusterID = false, "it belongs to the cluster c2, the others to c1", "c2", "c2"
	for _, tc := range []struct {
		listed bool
		member quorum.State
	}{{false, quorum.Absent}, {true, quorum.Down}} {
		if tc.listed {
			c.ClusterID = ""
		}
		s := cluster.Evaluate(f.Spec, f.Seen)
		if r := s.OneEtcd(); r == nil || r.Rule != cluster.RuleOneEtcd || !strings.Contains(r.Why, "cp-a and cp-b in c1; cp-c in c2") || r.Fix == "" {
			t.Errorf("%+v", r)
		}
		if _, has := s.Member("cp-c"); has != tc.listed {
			t.Errorf("listed %t: cp-c has a member %t", tc.listed, has)
		}
		for _, p := range s.Placements() {
			if p.Host == "cp-c" && p.Member != tc.member {
				t.Errorf("listed %t: %+v", tc.listed, p)
			}
		}
	}
}
