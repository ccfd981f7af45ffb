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
	"quorate.dev/quorate/internal/spec"
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
			remains.Starts, remains.Joined, remains.Certificates, remains.Name = true, true, true, left
			remains.Manifests = []string{"etcd", "kube-apiserver", facts.ControllerManager, facts.Scheduler}
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
		silent   string // a control plane that may come back as it was
		written  string // the manifests that are written again
	}{
		"a machine is lost": {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered", silent: "cp-c", change: func(f clustertest.Fixture) {
			f.Dies("cp-c")
			delete(f.Seen.LostQuorum.Remains, "cp-c")
			f.Seen.LostQuorum.Decision.Lost = []string{"cp-c"}
		}},
		"a disk of a host that answers is lost": {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered", silent: "cp-c", change: func(f clustertest.Fixture) {
			f.Seen.LostQuorum.Remains["cp-c"] = facts.EtcdRemains{DataDir: "/var/lib/etcd", Guard: true}
			f.Seen.LostQuorum.Decision.Lost = []string{"cp-c"}
		}},
		"a host that answers may run a rescue system": {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered", silent: "cp-c", change: func(f clustertest.Fixture) {
			f.Seen.LostQuorum.Remains["cp-c"] = facts.EtcdRemains{DataDir: "/var/lib/etcd", Volatile: "tmpfs"}
			f.Seen.LostQuorum.Decision.Lost = []string{"cp-c"}
		}},
		"stacked":  {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered"},
		"external": {external: true, left: "etcd-a", steps: "cluster/stop-members etcd-a/recover-member etcd-a/serve-recovered"},
		"only data, and no manifest": {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered", written: "etcd kube-apiserver kube-controller-manager kube-scheduler", change: func(f clustertest.Fixture) {
			r := f.Seen.LostQuorum.Remains["cp-b"]
			r.Starts, r.Name, r.Manifests = false, "", nil
			f.Seen.LostQuorum.Remains["cp-b"] = r
		}},
		"no manifest of the API server": {left: "cp-b", steps: "cluster/stop-members cp-b/recover-member cp-b/serve-recovered", written: "kube-apiserver", change: func(f clustertest.Fixture) {
			r := f.Seen.LostQuorum.Remains["cp-b"]
			r.Manifests = []string{"etcd", facts.ControllerManager, facts.Scheduler}
			f.Seen.LostQuorum.Remains["cp-b"] = r
		}},
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
			if got := strings.Join(rec.Manifests, " "); got != tc.written {
				t.Errorf("the manifests of %q are written again, want %q", got, tc.written)
			}
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

// TestRejoin: after a recovery, hosts get their members back, and nothing else is done, whatever else is due.
func TestRejoin(t *testing.T) {
	bundle := Bundle{Digest: "b", Version: "v1.37.2", Pause: "pause"}
	reinstalled := func(f clustertest.Fixture, host string) {
		f.Change(host, func(h *facts.Host) { *h = facts.Host{Facts: &facts.Facts{Time: h.Facts.Time}} })
	}
	edit := func(f clustertest.Fixture) {
		f.Spec.Spec.NodePools = append(f.Spec.Spec.NodePools, spec.NodePool{Name: "batch", Hosts: []string{"w-a"}, Labels: map[string]string{"example.com/x": "y"}})
	}
	for name, tc := range map[string]struct {
		change  func(clustertest.Fixture)
		remains map[string]facts.EtcdRemains
		rejoin  []string          // get a new member
		again   []string          // join as new machines
		left    map[string]string // with a part of the reason
	}{
		"both have their installation": {func(clustertest.Fixture) {}, nil, []string{"cp-b", "cp-c"}, nil, nil},
		"an edit of the spec waits": {func(f clustertest.Fixture) {
			edit(f)
			f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "w-b" })
		}, nil, []string{"cp-b", "cp-c"}, nil, nil},
		"one is lost, and still in the spec":          {func(f clustertest.Fixture) { f.Dies("cp-c") }, nil, []string{"cp-b"}, nil, map[string]string{"cp-c": "i/o timeout"}},
		"one was installed again":                     {func(f clustertest.Fixture) { reinstalled(f, "cp-c") }, nil, []string{"cp-b"}, []string{"cp-c"}, nil},
		"one was installed again, and an edit is due": {func(f clustertest.Fixture) { reinstalled(f, "cp-c"); edit(f) }, nil, []string{"cp-b"}, nil, map[string]string{"cp-c": "the spec was edited"}},
		"one was installed again, and another host left the spec": {func(f clustertest.Fixture) {
			reinstalled(f, "cp-c")
			f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "w-b" })
		}, nil, []string{"cp-b"}, []string{"cp-c"}, nil},
		"one runs a rescue system with the data": {func(f clustertest.Fixture) { reinstalled(f, "cp-c") }, map[string]facts.EtcdRemains{"cp-c": {Copies: []facts.EtcdCopy{{Path: "/mnt/etcd", Kind: facts.CopyNamed}}}},
			[]string{"cp-b"}, nil, map[string]string{"cp-c": "--data"}},
		"one runs a rescue system in memory": {func(f clustertest.Fixture) { reinstalled(f, "cp-c") }, map[string]facts.EtcdRemains{"cp-c": {Volatile: "tmpfs"}}, []string{"cp-b"}, nil, map[string]string{"cp-c": "not on a disk"}},
		"one has never been part of it": {func(f clustertest.Fixture) {
			f.Spec.Spec.Hosts = append(f.Spec.Spec.Hosts, spec.Host{Name: "cp-d", Zone: "a", Address: "10.0.0.99", Roles: []string{spec.RoleControlPlane}})
			f.Seen.Hosts["cp-d"] = facts.Host{Facts: &facts.Facts{}}
		}, nil, []string{"cp-b", "cp-c"}, nil, map[string]string{"cp-d": "has not been part"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := repairFixture(false)
			f.Kubernetes("cp-a").SharedPKI = true
			f.Seen.Etcd = f.Seen.Etcd[:1]
			f.Seen.Etcd[0].Leader = true
			for _, host := range []string{"cp-b", "cp-c"} {
				k := f.Kubernetes(host)
				k.EtcdData, k.Manifests, k.Withdrawn = false, nil, []string{"etcd", "kube-apiserver", facts.ControllerManager, facts.Scheduler}
				f.Change(host, func(h *facts.Host) { h.APIServer = new(clustertest.Problem("connection refused")) })
			}
			tc.change(f)
			s := cluster.Evaluate(f.Spec, f.Seen)
			left := LeftAlone(s, tc.remains)
			if len(left) != len(tc.left) {
				t.Errorf("left are %v, want %v", left, tc.left)
			}
			for host, why := range tc.left {
				if !strings.Contains(left[host], why) {
					t.Errorf("%s is left because %q, want %q", host, left[host], why)
				}
			}
			if got := Reinstalled(s, left); !slices.Equal(got, tc.again) {
				t.Errorf("installed again are %v, want %v", got, tc.again)
			}
			for _, with := range []Bundle{{}, bundle} {
				p, err := Rejoin(s, with, left)
				if err != nil {
					t.Fatal(err)
				}
				checkOrder(t, p)
				kinds := kindsOf(p)
				if !slices.Equal(kinds[RejoinEtcd], tc.rejoin) {
					t.Errorf("with %q: %v get a member, want %v", with.Digest, kinds[RejoinEtcd], tc.rejoin)
				}
				if got := kinds[JoinControlPlane]; with.Digest == "" && len(got) > 0 || with.Digest != "" && !slices.Equal(got, tc.again) {
					t.Errorf("with %q: %v join", with.Digest, got)
				}
				for _, step := range p.Steps {
					_, stays := left[step.Host]
					if stays || strings.HasPrefix(step.Host, "w-") || strings.HasPrefix(step.Host, "lb-") || step.Kind == RecordSpec || step.Kind == DrainNode {
						t.Errorf("with %q: %s on %s: %s", with.Digest, step.Kind, step.Host, step.Reason)
					}
				}
			}
		})
	}
}

// TestRejoinGivesMembersOfToday: after a recovery of an external etcd, API servers use only its members of today, whatever edits are due.
func TestRejoinGivesMembersOfToday(t *testing.T) {
	f := repairFixture(true)
	f.Seen.Etcd = f.Seen.Etcd[:1]
	f.Seen.Etcd[0].Leader = true
	f.Spec.Spec.Settings.APIServer.ExtraArgs = map[string]string{"v": "4"} // an edit of settings is due
	all := strings.Join([]string{"https://10.0.0.41:2379", "https://10.0.0.42:2379", "https://10.0.0.43:2379"}, ",")
	for _, host := range []string{"cp-a", "cp-b"} {
		k := f.Kubernetes(host)
		k.Flags = map[string]string{facts.EtcdServersFlag: all}
		k.Arguments = map[string]map[string]string{facts.APIServer: {"v": "2"}}
	}
	for _, host := range []string{"etcd-b", "etcd-c"} {
		f.Dies(host)
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	for _, host := range []string{"cp-a", "cp-b"} {
		if h, _ := f.Spec.Host(host); !resetBuilder(s).replacesSettings(h) {
			t.Fatalf("no edit is due on %s: the test tests nothing", host)
		}
	}
	p, err := Rejoin(s, Bundle{}, LeftAlone(s, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := kindsOf(p)[SetEtcdServers]; len(got) != 2 {
		t.Errorf("%v get the members of today: %v", got, kindsOf(p))
	}
}

// TestClientsComeAfterTheReplacement: a control plane that joins etcd again, and whose static pods are replaced in the same plan, gets clients once, and last.
func TestClientsComeAfterTheReplacement(t *testing.T) {
	f := repairFixture(false)
	f.Seen.Etcd = f.Seen.Etcd[:2]
	k := f.Kubernetes("cp-c")
	k.EtcdData, k.Arguments = false, map[string]map[string]string{facts.APIServer: {"v": "2"}}
	f.Change("cp-c", func(h *facts.Host) { h.APIServer = new(clustertest.Problem("connection refused")) })
	for _, lb := range f.Spec.BalancerHosts() {
		f.Change(lb.Name, func(h *facts.Host) {
			for i := range h.Balancer.Backends {
				if h.Balancer.Backends[i].Name == "cp-c" {
					h.Balancer.Backends[i].Drained = true
				}
			}
		})
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	b := resetBuilder(s)
	b.rejoinEtcd(func(h spec.Host) bool { return h.Name == "cp-c" })
	if got := kindsOf(&Plan{Steps: b.list()}); len(got[RejoinEtcd]) != 1 || len(got[JoinPools]) != 0 {
		t.Errorf("its static pods are replaced afterwards: %v", got)
	}
	b = resetBuilder(s)
	b.rejoinEtcd(func(spec.Host) bool { return false })
	if got := kindsOf(&Plan{Steps: b.list()}); len(got[RejoinEtcd]) != 1 || len(got[JoinPools]) != 1 {
		t.Errorf("they are not: %v", got)
	}
}
