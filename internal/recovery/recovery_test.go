package recovery

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

const old, other = "c0ffee", "bad"

// world is a cluster whose members each have their data, and nothing runs.
type world struct {
	c    *spec.Cluster
	seen *facts.Observation
}

func hostName(i int) string { return fmt.Sprintf("cp-%c", 'a'+i) }
func memberID(i int) string { return fmt.Sprintf("%x", 0xa0+i) }

func newWorld(n int) world {
	w := world{&spec.Cluster{}, &facts.Observation{Hosts: map[string]facts.Host{}, LostQuorum: &facts.LostQuorum{Remains: map[string]facts.EtcdRemains{}, Decision: &facts.EtcdDecision{}}}}
	var members []facts.EtcdCopyMember
	for i := range n {
		h := spec.Host{Name: hostName(i), Address: fmt.Sprintf("10.0.0.%d", 11+i), Roles: []string{spec.RoleControlPlane}}
		w.c.Spec.Hosts = append(w.c.Spec.Hosts, h)
		members = append(members, facts.EtcdCopyMember{ID: memberID(i), Name: h.Name, PeerURL: "https://" + h.Address + ":2380"})
	}
	for i := range n {
		w.seen.LostQuorum.Remains[hostName(i)] = facts.EtcdRemains{DataDir: "/var/lib/etcd", Name: hostName(i), Starts: true, Certificates: true, Copies: []facts.EtcdCopy{{
			Path: "/var/lib/etcd", Kind: facts.CopyInPlace, ClusterID: old, MemberID: memberID(i), Members: members, Term: 3, LastTerm: 3, LastIndex: 100, Commit: 99, Applied: 99, Revision: 90}}}
	}
	w.c.Default()
	return w
}

func (w world) change(host string, f func(*facts.EtcdRemains)) {
	r := w.seen.LostQuorum.Remains[host]
	r.Copies = slices.Clone(r.Copies)
	f(&r)
	w.seen.LostQuorum.Remains[host] = r
}

// empty is a machine that was installed again.
func (w world) empty(hosts ...string) {
	for _, h := range hosts {
		w.seen.LostQuorum.Remains[h] = facts.EtcdRemains{DataDir: "/var/lib/etcd"}
	}
}

// unmounted are control planes whose data are on a disk that is not mounted.
func (w world) unmounted(hosts ...string) {
	for _, h := range hosts {
		w.change(h, func(r *facts.EtcdRemains) { r.Copies, r.Guard, r.Established = nil, true, true })
	}
}

// rescue are machines that boot a rescue system, in which the disk with the data is mounted elsewhere.
func (w world) rescue(hosts ...string) {
	for _, h := range hosts {
		w.change(h, func(r *facts.EtcdRemains) {
			c := r.Copies[0]
			c.Kind, c.Path = facts.CopyNamed, "/mnt/var/lib/etcd"
			*r = facts.EtcdRemains{DataDir: "/var/lib/etcd", Copies: []facts.EtcdCopy{c}}
		})
	}
}

// off are machines that cannot be reached.
func (w world) off(hosts ...string) {
	for _, h := range hosts {
		delete(w.seen.LostQuorum.Remains, h)
		w.seen.Hosts[h] = facts.Host{Error: h + ": no route to host"}
	}
}

func (w world) add(host string, c facts.EtcdCopy) {
	w.change(host, func(r *facts.EtcdRemains) { r.Copies = append(r.Copies, c) })
}

func (w world) copyOf(i int) facts.EtcdCopy {
	return newWorld(len(w.c.Spec.Hosts)).seen.LostQuorum.Remains[hostName(i)].Copies[0]
}

func (w world) judge(from string, lost ...string) *Judgment {
	host, path, _ := strings.Cut(from, ":")
	d := w.seen.LostQuorum.Decision
	d.Host, d.Path, d.Lost = host, path, lost
	return Judge(w.c, w.seen)
}

// TestEveryFateOfSmallClusters goes through every combination of what can have become of the members of clusters with one to five, and
// compares the judgment with one that only counts. A host can be silent, or have data on a disk that is not mounted, or run a rescue
// system: of none of them it is known that its data are gone, until the user says so.
func TestEveryFateOfSmallClusters(t *testing.T) {
	type fate struct {
		Standing
		how  string
		make func(w world, host string)
	}
	off, unmounted, rescue := func(w world, h string) { w.off(h) }, func(w world, h string) { w.unmounted(h) }, func(w world, h string) { w.rescue(h) }
	fates := []fate{
		{Runs, "", func(w world, h string) { w.change(h, func(r *facts.EtcdRemains) { r.Running = 4711 }) }},
		{HasData, "", func(world, string) {}},
		{Damaged, "", func(w world, h string) {
			w.change(h, func(r *facts.EtcdRemains) { r.Copies[0].Error = "crc mismatch" })
		}},
		{Gone, "", func(w world, h string) { w.empty(h) }},
		{Unknown, "off", off}, {Lost, "off", off},
		{Unknown, "unmounted", unmounted}, {Lost, "unmounted", unmounted},
		{Unknown, "rescue", rescue}, {Lost, "rescue", rescue},
	}
	for n := 1; n <= 5; n++ {
		fates := fates
		if n == 5 {
			fates = fates[:8] // the rest would only take longer
		}
		total := 1
		for range n {
			total *= len(fates)
		}
		for k := range total {
			w := newWorld(n)
			var lost, how []string
			var is []Standing
			count := map[Standing]int{}
			for i, rest := 0, k; i < n; i, rest = i+1, rest/len(fates) {
				f, host := fates[rest%len(fates)], hostName(i)
				f.make(w, host)
				if f.Standing == Lost {
					lost = append(lost, host)
				}
				is, how = append(is, f.Standing), append(how, f.how)
				count[f.Standing]++
			}
			need, present := quorum.Majority(n), count[Runs]+count[HasData]
			from := slices.IndexFunc(is, func(s Standing) bool { return s == Runs || s == HasData })
			want := from >= 0 && present < need && present+count[Unknown] < need
			j := w.judge(hostName(max(from, 0)), lost...)
			if got := len(j.Obstacles) == 0; got != want {
				t.Fatalf("%v %v: allowed %t, want %t: %+v", is, how, got, want, j.Obstacles)
			}
			for _, o := range j.Obstacles {
				if o.Why == "" || o.Fix == "" {
					t.Fatalf("%v %v: an obstacle that helps nobody: %+v", is, how, o)
				}
			}
			if !want {
				continue
			}
			if j.Chosen == nil || j.Chosen.Host != hostName(from) || j.ClusterID != old {
				t.Fatalf("%v %v: chosen %+v of cluster %s", is, how, j.Chosen, j.ClusterID)
			}
			for i, s := range is {
				v := j.Voters[slices.IndexFunc(j.Voters, func(v Voter) bool { return v.Name == hostName(i) })]
				if v.Standing != s || v.Standing != Runs && v.Standing != HasData && v.Why == "" {
					t.Fatalf("%v %v: %s is judged as %+v", is, how, hostName(i), v)
				}
				blamed := slices.ContainsFunc(j.Missing, func(m string) bool { return strings.Contains(m, "whether "+hostName(i)+" ") })
				if unread := s == Gone || s == Unknown || s == Lost; unread != blamed {
					t.Fatalf("%v %v: missing %q", is, how, j.Missing)
				}
			}
		}
	}
}

// raftLog is a log: the terms of its entries.
type raftLog []uint64

func (l raftLog) copyOf() facts.EtcdCopy {
	c := facts.EtcdCopy{ClusterID: old, LastIndex: uint64(len(l))}
	if len(l) > 0 {
		c.LastTerm = l[len(l)-1]
	}
	return c
}

// TestTheBestCopyHasWhatAnyOtherKnows makes random histories of a raft cluster: leaders are elected by majorities, append, replicate to
// some, and crash. Whatever was acknowledged and is in any copy that is left is in the one that is preferred.
func TestTheBestCopyHasWhatAnyOtherKnows(t *testing.T) {
	type entry struct {
		index int
		term  uint64
	}
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 1))
		n := 3 + 2*random.IntN(2)
		logs, terms := make([]raftLog, n), make([]uint64, n)
		acked := map[entry]bool{}
		has := func(l raftLog, e entry) bool { return len(l) >= e.index && l[e.index-1] == e.term }
		for term := uint64(1); term < 8; term++ {
			leader := random.IntN(n)
			var votes []int
			for _, i := range random.Perm(n) {
				if terms[i] < term && logs[leader].copyOf().Compare(logs[i].copyOf()) >= 0 && len(votes) < quorum.Majority(n) {
					votes = append(votes, i)
				}
			}
			if len(votes) < quorum.Majority(n) {
				continue
			}
			for _, i := range append(votes, leader) {
				terms[i] = term
			}
			for range random.IntN(12) {
				if random.IntN(2) == 0 {
					logs[leader] = append(slices.Clone(logs[leader]), term)
				}
				to := random.IntN(n)
				if terms[to] <= term {
					terms[to] = term
					length := len(logs[leader]) - random.IntN(2)
					if l := max(length, 0); l > len(logs[to]) || !slices.Equal(logs[to][:l], logs[leader][:l]) {
						logs[to] = slices.Clone(logs[leader][:l])
					}
				}
				for i := range logs[leader] {
					e := entry{i + 1, logs[leader][i]}
					holders := 0
					for _, l := range logs {
						if has(l, e) {
							holders++
						}
					}
					if e.term == term && holders >= quorum.Majority(n) { // and with it, all before
						for k := range i + 1 {
							acked[entry{k + 1, logs[leader][k]}] = true
						}
					}
				}
			}
		}
		left := random.Perm(n)[:1+random.IntN(n)]
		best := slices.MaxFunc(left, func(a, b int) int { return logs[a].copyOf().Compare(logs[b].copyOf()) })
		for e := range acked {
			for _, i := range left {
				if has(logs[i], e) && !has(logs[best], e) {
					t.Fatalf("seed %d: %v was acknowledged, %v has it, and %v is preferred", seed, e, logs[i], logs[best])
				}
			}
		}
	}
}

func TestCopies(t *testing.T) {
	copied := func(kind, path string, i int, index uint64) facts.EtcdCopy {
		c := newWorld(3).copyOf(i)
		c.Kind, c.Path, c.LastIndex = kind, path, index
		return c
	}
	stamp := facts.EtcdRecovery{OldClusterID: old, Host: "cp-a", Path: "/var/lib/etcd", Member: memberID(0), Stamp: "20261127T160000Z", Decided: time.Unix(1, 0)}
	kept := "/var/lib/etcd-kept/20261127T160000Z-" + memberID(0)
	for name, tc := range map[string]struct {
		make    func(world)
		from    string
		lost    []string
		refused string // a part of the reason; empty if it is allowed
		chosen  string
		missing string
	}{
		"copies are no votes": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.add("cp-a", copied(facts.CopyNamed, "/mnt/b", 1, 90))
			w.add("cp-a", copied(facts.CopyNamed, "/mnt/c", 2, 80))
		}, "cp-a", nil, "", "cp-a", ""},
		"nor is the data of one member on the host of another": {func(w world) {
			w.empty("cp-c")
			w.change("cp-b", func(r *facts.EtcdRemains) { r.Copies[0] = copied(facts.CopyInPlace, "/var/lib/etcd", 0, 90) })
		}, "cp-a", nil, "", "cp-a", "whether cp-b acknowledged"},
		"a named copy can be chosen": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Copies = nil })
			w.add("cp-a", copied(facts.CopyNamed, "/mnt/c", 2, 80))
		}, "cp-a:/mnt/c/", nil, "", "cp-a:/mnt/c", "whether cp-a acknowledged"},
		"and has to be named": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Copies = nil })
			w.add("cp-a", copied(facts.CopyNamed, "/mnt/c", 2, 80))
		}, "cp-a", nil, "cp-a has no data of etcd in place", "", ""},
		"another host": {func(w world) { w.empty("cp-b", "cp-c") }, "cp-b", nil, "cp-b has no data of etcd in place", "", ""},
		"a copy that lacks writes": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.add("cp-a", copied(facts.CopyNamed, "/mnt/c", 2, 101))
		}, "cp-a", nil, "lack writes", "", "1 entries"},
		"a later term is better than a longer log": {func(w world) {
			w.empty("cp-b", "cp-c")
			c := copied(facts.CopyNamed, "/mnt/c", 2, 50)
			c.LastTerm = 4
			w.add("cp-a", c)
		}, "cp-a", nil, "lack writes", "", "term 4"},
		"a damaged copy that has more": {func(w world) {
			w.empty("cp-b", "cp-c")
			c := copied(facts.CopyNamed, "/mnt/c", 2, 101)
			c.Error = "the database is damaged"
			w.add("cp-a", c)
		}, "cp-a", nil, "", "cp-a", "cannot be used: the database is damaged"},
		"damaged data": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Copies[0].Error = "crc mismatch" })
		}, "cp-a", nil, "cannot be used: crc mismatch", "", ""},
		"data of another cluster": {func(w world) {
			w.empty("cp-b", "cp-c")
			c := copied(facts.CopyNamed, "/mnt/x", 2, 900)
			c.ClusterID = other
			w.add("cp-a", c)
		}, "cp-a:/mnt/x", nil, "are of the etcd cluster bad", "", ""},
		"data of two clusters in place": {func(w world) {
			w.empty("cp-c")
			w.change("cp-b", func(r *facts.EtcdRemains) { r.Copies[0].ClusterID = other })
		}, "cp-a", nil, "data of several etcd clusters", "", ""},
		"data of a cluster that an earlier recovery replaced": {func(w world) {
			w.empty("cp-c")
			w.seen.Hosts["cp-a"] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{EtcdAbandoned: []string{other}}}}
			w.change("cp-b", func(r *facts.EtcdRemains) { r.Copies[0].ClusterID = other })
		}, "cp-a", nil, "", "cp-a", ""},
		"a machine that is off":                 {func(w world) { w.empty("cp-b"); w.off("cp-c") }, "cp-a", nil, "the quorum may come back: 1 of 3 members have their data, 2 are needed, and nothing is known of cp-c (no route to host)", "", ""},
		"a machine that is lost":                {func(w world) { w.empty("cp-b"); w.off("cp-c") }, "cp-a", []string{"cp-c"}, "", "cp-a", "whether cp-c acknowledged writes"},
		"one that is declared lost and answers": {func(w world) { w.empty("cp-c") }, "cp-a", []string{"cp-b"}, "cp-b was declared lost, and it answers", "", ""},
		"a host that could not be examined": {func(w world) {
			w.empty("cp-b")
			w.change("cp-c", func(r *facts.EtcdRemains) { r.Error = "permission denied" })
		}, "cp-a", nil, "could not be examined", "", ""},
		"a member that the spec does not know": {func(w world) {
			w.empty("cp-b")
			w.c.Spec.Hosts = w.c.Spec.Hosts[:2]
			delete(w.seen.LostQuorum.Remains, "cp-c")
		}, "cp-a", nil, "no host of the spec has its address", "", ""},
		"a member that the spec does not know, and that is lost": {func(w world) {
			w.empty("cp-b")
			w.c.Spec.Hosts = w.c.Spec.Hosts[:2]
			delete(w.seen.LostQuorum.Remains, "cp-c")
		}, "cp-a", []string{"cp-c"}, "", "cp-a", ""},
		"disks that are not mounted": {func(w world) { w.unmounted("cp-b", "cp-c") }, "cp-a", nil, "nothing is known of cp-b (there are no data in /var/lib/etcd, but the host is set up as a member", "", ""},
		"disks that are not mounted, of hosts that have no manifest any more": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-b", func(r *facts.EtcdRemains) { r.Established = true })
			w.change("cp-c", func(r *facts.EtcdRemains) { r.Guard = true })
		}, "cp-a", nil, "nothing is known of cp-b", "", ""},
		"disks that are not mounted, and are lost": {func(w world) { w.unmounted("cp-b", "cp-c") }, "cp-a", []string{"cp-b", "cp-c"}, "", "cp-a", "whether cp-c acknowledged writes"},
		"rescue systems with the data elsewhere":   {func(w world) { w.rescue("cp-b", "cp-c") }, "cp-a", nil, "its data are in /mnt/var/lib/etcd, and nothing on the host could run it", "", ""},
		"rescue systems in memory": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-b", func(r *facts.EtcdRemains) { r.Volatile = "tmpfs" })
			w.change("cp-c", func(r *facts.EtcdRemains) { r.Volatile = "overlay" })
		}, "cp-a", nil, "/var/lib is not on a disk (tmpfs)", "", ""},
		"data that an interrupted recovery set aside on another host": {func(w world) {
			w.empty("cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Recovery = &stamp })
			w.change("cp-b", func(r *facts.EtcdRemains) {
				r.Guard, r.Established = true, true
				r.Copies[0] = copied(facts.CopyKept, "/var/lib/etcd-kept/20261127T160000Z-"+memberID(1), 1, 90)
			})
		}, "cp-a", nil, "", "cp-a", ""},
		"damaged data that an interrupted recovery set aside on another host": {func(w world) {
			w.empty("cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Recovery = &stamp })
			w.change("cp-b", func(r *facts.EtcdRemains) {
				r.Guard, r.Established = true, true
				r.Copies[0] = facts.EtcdCopy{Kind: facts.CopyKept, Path: "/var/lib/etcd-kept/20261127T160000Z-unknown", Error: "the log is damaged"}
			})
		}, "cp-a", nil, "", "cp-a", ""},
		"only data of a cluster that a recovery has replaced": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.seen.Hosts["cp-a"] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{EtcdAbandoned: []string{old}}}}
		}, "cp-a", nil, "only data of etcd clusters that a recovery has replaced: " + old, "", ""},
		"no data at all":                          {func(w world) { w.empty("cp-a", "cp-b", "cp-c") }, "cp-a", nil, "no data of etcd were found on any host", "", ""},
		"no host that can be reached":             {func(w world) { w.off("cp-a", "cp-b", "cp-c") }, "cp-a", nil, "no data of etcd were found, and nothing is known of cp-a (no route to host), cp-b", "", ""},
		"no data on those that can be":            {func(w world) { w.empty("cp-a", "cp-b"); w.off("cp-c") }, "cp-a", nil, "no data of etcd were found, and nothing is known of cp-c (no route to host)", "", ""},
		"no data, and a host that is lost":        {func(w world) { w.empty("cp-a", "cp-b"); w.off("cp-c") }, "cp-a", []string{"cp-c"}, "no data of etcd were found on any host", "", ""},
		"no data, and a disk that is not mounted": {func(w world) { w.empty("cp-b", "cp-c"); w.unmounted("cp-a") }, "cp-a", nil, "nothing is known of cp-a (there are no data in /var/lib/etcd, but", "", ""},
		"no data, and a named directory that could not be examined": {func(w world) {
			w.empty("cp-a", "cp-b", "cp-c")
			w.c.Spec.Hosts = append(w.c.Spec.Hosts, spec.Host{Name: "worker-a", Address: "10.0.0.21", Roles: []string{spec.RoleWorker}})
			w.seen.LostQuorum.Remains["worker-a"] = facts.EtcdRemains{Error: "no route to host"}
		}, "cp-a", nil, "no data of etcd were found, and nothing is known of worker-a (no route to host)", "", ""},
		"a misspelled name of a host that is lost": {func(w world) { w.empty("cp-b"); w.off("cp-c") }, "cp-a", []string{"cp-cc"}, "--lost cp-cc: neither a host of the spec nor a member of etcd has this name", "", ""},
		"a rescue system": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Starts = false; r.Certificates = false })
		}, "cp-a", nil, "cp-a has nothing that could run etcd", "", ""},
		"data without a manifest": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Starts, r.Joined, r.Name = false, true, "" })
		}, "cp-a", nil, "", "cp-a", ""},
		"data with a manifest that cannot be read": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) {
				r.Starts, r.Joined, r.Name, r.Manifests = false, true, "", []string{"etcd"}
			})
		}, "cp-a", nil, "a manifest of etcd that cannot be read", "", ""},
		"data without a kubelet that has joined": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Starts, r.Name = false, "" })
		}, "cp-a", nil, "neither a kubelet that has joined", "", ""},
		"disks that are not mounted, of hosts with only a kubelet that has joined": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-b", func(r *facts.EtcdRemains) { r.Joined = true })
		}, "cp-a", nil, "nothing is known of cp-b", "", ""},
		"a quorum": {func(w world) {
			w.empty("cp-c")
			w.seen.Etcd = []facts.EtcdMember{{Name: "cp-a", Healthy: true}, {Name: "cp-b", Healthy: true}, {Name: "cp-c"}}
		}, "cp-a", nil, "etcd has a quorum: 2 of 3", "", ""},
		"interrupted before the data were moved": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Recovery = &stamp })
		}, "cp-a", nil, "", "cp-a", ""},
		"interrupted after they were set aside": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) {
				r.Recovery = &stamp
				r.Copies[0] = copied(facts.CopyKept, kept, 0, 100)
				r.Copies = append(r.Copies, copied(facts.CopyKept, "/var/lib/etcd-kept/20250101T000000Z-"+memberID(0), 0, 10))
			})
		}, "cp-a", nil, "", "cp-a:" + kept, ""},
		"interrupted after the new data were in place": {func(w world) {
			w.empty("cp-b", "cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) {
				r.Recovery = &stamp
				r.Copies[0].ClusterID = "new"
				r.Copies = append(r.Copies, copied(facts.CopyKept, kept, 0, 100))
			})
		}, "cp-a", nil, "", "", ""},
		"another host after that": {func(w world) {
			w.empty("cp-c")
			w.change("cp-a", func(r *facts.EtcdRemains) { r.Recovery = &stamp; r.Copies[0].ClusterID = "new" })
		}, "cp-b", nil, "its data are in place on cp-a", "", ""},
		"a note that an earlier recovery left": {func(w world) {
			w.empty("cp-c")
			w.off("cp-a")
			w.change("cp-b", func(r *facts.EtcdRemains) {
				r.Recovery = &facts.EtcdRecovery{OldClusterID: other, Host: "cp-a", Stamp: "x"}
			})
		}, "cp-b", []string{"cp-a"}, "", "cp-b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(3)
			tc.make(w)
			j := w.judge(tc.from, tc.lost...)
			var whys []string
			for _, o := range j.Obstacles {
				whys = append(whys, o.Why)
			}
			if got := strings.Join(whys, "\n"); (got == "") != (tc.refused == "") || !strings.Contains(got, tc.refused) {
				t.Fatalf("refused as %q, want %q", got, tc.refused)
			}
			if chosen := j.Chosen; tc.refused == "" && (chosen == nil) != (tc.chosen == "") || tc.refused == "" && chosen != nil && chosen.String() != tc.chosen {
				t.Errorf("chosen %v, want %s", chosen, tc.chosen)
			}
			if !strings.Contains(strings.Join(j.Missing, "\n"), tc.missing) {
				t.Errorf("missing %q, want %q", j.Missing, tc.missing)
			}
		})
	}
}

// TestLossIsAccepted only where it was said.
func TestLossIsAccepted(t *testing.T) {
	w := newWorld(3)
	w.empty("cp-b", "cp-c")
	c := w.copyOf(2)
	c.Kind, c.Path, c.LastIndex = facts.CopyNamed, "/mnt/c", 107
	w.add("cp-a", c)
	w.seen.LostQuorum.Decision.AcceptLoss = true
	j := w.judge("cp-a")
	if len(j.Obstacles) > 0 || j.Chosen == nil || !strings.Contains(strings.Join(j.Missing, "\n"), "7 entries of the log that cp-a:/mnt/c has") {
		t.Errorf("%+v, missing %q", j.Obstacles, j.Missing)
	}
}

// TestTheClusterThatCounts has data somewhere.
func TestTheClusterThatCounts(t *testing.T) {
	w := newWorld(3)
	w.empty("cp-c")
	w.change("cp-b", func(r *facts.EtcdRemains) { r.Copies[0].ClusterID = other })
	w.seen.LostQuorum.Decision.ClusterID = "c0fee"
	if j := w.judge("cp-a"); len(j.Obstacles) == 0 || j.Obstacles[0].Why != "--cluster-id c0fee: no data of this etcd cluster were found" || !strings.HasPrefix(j.Obstacles[0].Fix, "There are data of "+other+", "+old+".") {
		t.Errorf("%+v", j.Obstacles)
	}
	w.seen.LostQuorum.Decision.ClusterID = old
	if j := w.judge("cp-a"); j.Chosen == nil || strings.Contains(fmt.Sprint(j.Obstacles), "--cluster-id "+old+": no data") {
		t.Errorf("%+v", j.Obstacles)
	}
	// The data of the cluster that was lost are not in their place any more when its recovery goes on.
	w = newWorld(3)
	w.empty("cp-b", "cp-c")
	w.change("cp-a", func(r *facts.EtcdRemains) {
		r.Recovery = &facts.EtcdRecovery{OldClusterID: old, Host: "cp-a", Stamp: "x", Decided: time.Unix(1, 0)}
		r.Copies[0].ClusterID = "new"
	})
	w.seen.LostQuorum.Decision.ClusterID = old
	if j := w.judge("cp-a"); len(j.Obstacles) > 0 || j.Placed != "cp-a" {
		t.Errorf("placed on %q: %+v", j.Placed, j.Obstacles)
	}
}

func TestAnotherEtcdIsLeftAlone(t *testing.T) {
	w := newWorld(3)
	w.c.Spec.ControlPlane.Topology = spec.TopologyExternal
	w.c.Spec.Etcd.Endpoints = []string{"https://etcd.example.com:2379"}
	if j := w.judge("cp-a"); len(j.Obstacles) != 1 || !strings.Contains(j.Obstacles[0].Why, "does not manage") {
		t.Errorf("%+v", j.Obstacles)
	}
}

// TestACorruptMember: its data can be chosen, and nobody chooses them without knowing.
func TestACorruptMember(t *testing.T) {
	w := newWorld(3)
	w.empty("cp-b", "cp-c")
	w.change("cp-a", func(r *facts.EtcdRemains) { r.Copies[0].Corrupt = []string{memberID(1)} })
	says := func() bool {
		j := Judge(w.c, w.seen)
		return j.Best != nil && j.Corrupt(*j.Best) && slices.ContainsFunc(j.Missing, func(m string) bool { return strings.Contains(m, "CORRUPT") })
	}
	if says() {
		t.Error("the alarm of another member")
	}
	w.change("cp-a", func(r *facts.EtcdRemains) { r.Copies[0].Corrupt = []string{memberID(0)} })
	if !says() {
		t.Error("the alarm is not mentioned")
	}
}
