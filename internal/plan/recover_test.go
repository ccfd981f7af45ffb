package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

var decidedAt = time.Date(2026, 11, 27, 16, 0, 0, 0, time.UTC)

// lostQuorum is a cluster of which only one member's data are left; the other members' machines were installed again.
func lostQuorum(f clustertest.Fixture, left string) {
	lost := &facts.LostQuorum{Remains: map[string]facts.EtcdRemains{}, Decision: &facts.EtcdDecision{Host: left}}
	var members []facts.EtcdCopyMember
	for _, m := range f.Seen.Etcd {
		members = append(members, facts.EtcdCopyMember{ID: m.ID, Name: m.Name, PeerURL: m.PeerURL})
	}
	for _, m := range members {
		remains := facts.EtcdRemains{DataDir: "/var/lib/etcd"}
		if m.Name == left {
			remains.Starts, remains.Certificates, remains.Name = true, true, left
			remains.Copies = []facts.EtcdCopy{{Path: "/var/lib/etcd", Kind: facts.CopyInPlace, ClusterID: "c1", MemberID: m.ID, Members: members, LastTerm: 2, LastIndex: 100, Commit: 99, Applied: 99}}
		} else {
			f.Change(m.Name, func(h *facts.Host) { *h = facts.Host{Facts: &facts.Facts{Time: h.Facts.Time}} })
		}
		lost.Remains[m.Name] = remains
	}
	if f.Spec.ManagedEtcd() {
		lost.Remains["cp-a"], lost.Remains["cp-b"] = facts.EtcdRemains{}, facts.EtcdRemains{}
	}
	f.Silent()
	f.Seen.Etcd, f.Seen.EtcdError = nil, "no member answers"
	f.Seen.LostQuorum = lost
}

func TestRecover(t *testing.T) {
	for name, tc := range map[string]struct {
		external bool
		left     string
		change   func(clustertest.Fixture)
		steps    string
		refused  string
		silent   string // a control plane that could not be examined
	}{
		"a machine is lost": {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered", silent: "cp-c", change: func(f clustertest.Fixture) {
			f.Dies("cp-c")
			delete(f.Seen.LostQuorum.Remains, "cp-c")
			f.Seen.LostQuorum.Decision.Lost = []string{"cp-c"}
		}},
		"stacked":  {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered"},
		"external": {external: true, left: "etcd-a", steps: "cluster/stop-members etcd-a/recover-member etcd-a/serve-recovered"},
		"the data are in place already": {left: "cp-b", steps: "cp-b/serve-recovered", change: func(f clustertest.Fixture) {
			r := f.Seen.LostQuorum.Remains["cp-b"]
			r.Copies[0].ClusterID = "c2"
			r.Recovery = &facts.EtcdRecovery{OldClusterID: "c1", Host: "cp-b", Stamp: "s"}
			f.Seen.LostQuorum.Remains["cp-b"] = r
		}},
		"undecided":              {left: "cp-b", refused: "nobody has decided", change: func(f clustertest.Fixture) { f.Seen.LostQuorum.Decision.Host = "" }},
		"only looked at":         {left: "cp-b", refused: "nobody has decided", change: func(f clustertest.Fixture) { f.Seen.LostQuorum = nil }},
		"a machine is off":       {left: "cp-b", refused: "nothing is known of cp-c", change: func(f clustertest.Fixture) { f.Dies("cp-c"); delete(f.Seen.LostQuorum.Remains, "cp-c") }},
		"it was not built by us": {left: "cp-b", refused: "was not built by Quorate", change: func(f clustertest.Fixture) { f.Kubernetes("cp-b").Established = false }},
		"another etcd than Quorate's": {left: "cp-b", refused: "does not manage", change: func(f clustertest.Fixture) {
			f.Spec.Spec.ControlPlane.Topology = "external"
			f.Spec.Spec.Etcd.Endpoints = []string{"https://e1:2379"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			if tc.external {
				f.External()
			}
			lostQuorum(f, tc.left)
			if tc.change != nil {
				tc.change(f)
			}
			p, err := Recover(cluster.Evaluate(f.Spec, f.Seen), decidedAt)
			var r *cluster.Refusal
			if tc.refused != "" {
				if !errors.As(err, &r) || !strings.Contains(r.Why, tc.refused) || r.Fix == "" {
					t.Errorf("refused as %v, want %q", err, tc.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkOrder(t, p)
			var ids []string
			for _, s := range p.Steps {
				ids = append(ids, s.ID)
			}
			if got := strings.Join(ids, " "); got != tc.steps {
				t.Fatalf("the steps are %s, want %s", got, tc.steps)
			}
			rec := p.Steps[0].Recovery
			if !slices.Contains(rec.Members, tc.left) || tc.external && !slices.Equal(rec.APIServers, []string{"cp-a", "cp-b"}) {
				t.Errorf("%+v", rec)
			}
			if tc.silent != "" && !slices.Equal(rec.Excluded, []string{tc.silent}) || tc.silent == "" && len(rec.Excluded) > 0 {
				t.Errorf("excluded are %v", rec.Excluded)
			}
			if len(p.Steps) == 3 && (rec.Note.Host != tc.left || rec.Note.Stamp != "20261127T160000Z" || rec.Aside[tc.left] != (Aside{"c1", rec.Note.Member}) || len(rec.Aside) != 1 || len(rec.Missing) != 2) {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// TestAMemberThatIsGoneJoinsAgain: a control plane that has its node and lost its member gets another one, one after the other.
func TestAMemberThatIsGoneJoinsAgain(t *testing.T) {
	gone := func(obs *facts.Observation, hosts ...string) {
		for _, name := range hosts {
			h := obs.Hosts[name]
			h.Facts.Kubernetes.EtcdData = false
			h.Facts.Kubernetes.Manifests = []string{facts.ControllerManager, facts.Scheduler}
			h.APIServer = &facts.Answer{Problem: "connection refused"}
			obs.Hosts[name] = h
			obs.Etcd = slices.DeleteFunc(obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == name })
		}
	}
	learner := func(obs *facts.Observation, name string) {
		for i := range obs.Etcd {
			obs.Etcd[i].Learner = obs.Etcd[i].Name == name
		}
	}
	drained := func(obs *facts.Observation, name string) {
		for _, h := range obs.Hosts {
			if h.Balancer != nil {
				h.Balancer.Backends = append(h.Balancer.Backends, facts.Backend{Name: name, Drained: true})
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*facts.Observation)
		want   []string
	}{
		"one to which the load balancers send no clients": {func(obs *facts.Observation) { gone(obs, "cp-c"); drained(obs, "cp-c") }, []string{"cp-c"}},
		"whole":     {func(*facts.Observation) {}, nil},
		"one":       {func(obs *facts.Observation) { gone(obs, "cp-c") }, []string{"cp-c"}},
		"two":       {func(obs *facts.Observation) { gone(obs, "cp-a", "cp-c") }, []string{"cp-a", "cp-c"}},
		"a learner": {func(obs *facts.Observation) { learner(obs, "cp-c") }, []string{"cp-c"}},
		"with data": {func(obs *facts.Observation) {
			gone(obs, "cp-c")
			obs.Hosts["cp-c"].Facts.Kubernetes.EtcdData = true
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			tc.change(obs)
			p := build(t, c, obs)
			var got []string
			for _, s := range p.Steps {
				if s.Kind == RejoinEtcd {
					got = append(got, s.Host)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v join again, want %v", got, tc.want)
			}
			b := &builder{State: cluster.Evaluate(c, obs), c: c}
			for _, host := range tc.want {
				if b.drained(host) && !slices.Contains(kindsOf(p)[JoinPools], host) {
					t.Errorf("%s gets no clients again: %v", host, kindsOf(p))
				}
			}
		})
	}
}
