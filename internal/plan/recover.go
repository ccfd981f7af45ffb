package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/spec"
)

// Recovery is what is recovered, and what becomes of everything else.
type Recovery struct {
	// Note is what the hosts note as long as it is under way.
	Note facts.EtcdRecovery `json:"note"`
	// Members are the hosts on which etcd ends, and APIServers those on which the API server ends.
	Members    []string `json:"members"`
	APIServers []string `json:"apiServers"`
	// Excluded are the control planes that may come back as they were: those that could not be examined, whose data were declared lost, or that
	// may run another system than their own. The load balancers send them no clients until they have joined again.
	Excluded []string `json:"excluded,omitempty"`
	// Aside are the data that are set aside, by host.
	Aside map[string]Aside `json:"aside,omitempty"`
	// Manifests are the static pods whose manifests are missing or incomplete on the host where the cluster begins. They are written again when their turn comes
	// to start: not before, so that nothing starts on the data of the old cluster.
	Manifests []string `json:"manifests,omitempty"`
	// Missing says what is lost.
	Missing []string `json:"missing,omitempty"`
}

// Aside are data in place, as they were read.
type Aside struct {
	ClusterID string `json:"clusterID"`
	MemberID  string `json:"memberID"`
}

// Recover plans how etcd gets a quorum again that it has lost for good: everything that is left of it ends, one copy of its data
// becomes a cluster of one, and the API serves again. After that the cluster is complete, and Rejoin plans how the other members join.
// It refuses what stands in the way of the decision in the observation (see package recovery). Now becomes part of names.
func Recover(s *cluster.State, now time.Time) (*Plan, error) {
	if r := s.NotOurs(); r != nil {
		return nil, refused(r.Rule, r.Why, "Recover it with what it was built with, or by hand: https://etcd.io/docs/latest/op-guide/recovery/.")
	}
	if r := s.UnfinishedRestore(""); r != nil {
		return nil, r
	}
	c := cluster.Change{Verb: cluster.Recover, Part: cluster.Quorum}
	if _, r := s.Allow(c); r != nil {
		return nil, r
	}
	j := s.Judgment()
	host := j.Placed
	if host == "" {
		host = j.Chosen.Host
	}
	r := &Recovery{Missing: j.Missing, Aside: map[string]Aside{}}
	present := s.Present()
	for _, h := range present.Spec.Hosts {
		remains, examined := s.Seen.LostQuorum.Remains[h.Name]
		examined = examined && remains.Error == ""
		lost := slices.ContainsFunc(j.Voters, func(v recovery.Voter) bool { return v.Host == h.Name && v.Standing == recovery.Lost })
		if h.Has(spec.RoleControlPlane) && h.Name != host && (!examined || lost || elsewhere(remains) != "") {
			r.Excluded = append(r.Excluded, h.Name)
		}
		if !examined {
			continue
		}
		if h.Has(spec.RoleControlPlane) {
			r.APIServers = append(r.APIServers, h.Name)
		}
		if !slices.Contains(cluster.Names(present.EtcdHosts()), h.Name) {
			continue
		}
		r.Members = append(r.Members, h.Name)
		for _, copied := range remains.Copies {
			if copied.Kind == facts.CopyInPlace {
				r.Aside[h.Name] = Aside{copied.ClusterID, copied.MemberID}
			}
		}
	}
	b := resetBuilder(s)
	b.out.Unreachable = nil // the judgment says what is unknown
	var recovered *Step
	if j.Placed == "" {
		r.Note = note(s, j, now)
		stop := b.add(Step{Kind: StopMembers, Title: "stop what is left of etcd, and the API servers", Recovery: r, Change: &c,
			Reason: "no member of the old cluster may vote or serve any more; what they have stays"})
		recovered = b.add(Step{Kind: RecoverMember, Host: host, Title: "make a cluster of one from the data on " + j.Chosen.String(), Recovery: r, Change: &c,
			Reason: fmt.Sprintf("its log ends at term %d, index %d; the data that are in place on other hosts are renamed and kept", j.Chosen.LastTerm, j.Chosen.LastIndex)}, stop)
	} else {
		r.Note = *j.UnderWay
	}
	r.Manifests = lostManifests(s, host)
	serve := "it ends when the API has accepted a write"
	if len(r.Manifests) > 0 {
		serve += "; kubeadm writes the manifests of " + cluster.List(r.Manifests) + " again, which are missing or incomplete"
	}
	if len(r.Excluded) > 0 && s.Spec.Spec.LoadBalancer.Type == spec.BalancerManaged {
		serve += "; until they have joined again, the load balancers send no clients to " + cluster.List(r.Excluded)
	}
	b.add(Step{Kind: ServeRecovered, Host: host, Title: "start etcd and the API", Recovery: r, Change: &c, Reason: serve}, recovered)
	b.out.Steps = b.list()
	return b.out, nil
}

// lostManifests are the static pods of a control plane without a complete manifest, neither in its place nor set aside.
func lostManifests(s *cluster.State, host string) []string {
	h, _ := s.Present().Host(host)
	if !h.Has(spec.RoleControlPlane) {
		return nil
	}
	pods := controlPlanePods
	if s.Spec.StackedEtcd() {
		pods = append([]string{"etcd"}, pods...)
	}
	have := s.Seen.LostQuorum.Remains[host].Manifests
	return slices.DeleteFunc(slices.Clone(pods), func(pod string) bool { return slices.Contains(have, pod) })
}

// note is what the hosts note. A recovery from the same copy that was interrupted goes on under its old name.
func note(s *cluster.State, j *recovery.Judgment, now time.Time) facts.EtcdRecovery {
	d := s.Seen.LostQuorum.Decision
	out := facts.EtcdRecovery{Cluster: s.Spec.Metadata.Name, OldClusterID: j.ClusterID, Host: j.Chosen.Host, Path: j.Chosen.Path, Member: j.Chosen.MemberID,
		Decided: now.UTC(), Stamp: now.UTC().Format(facts.EtcdKeptStamp), Lost: d.Lost}
	if u := j.UnderWay; u != nil && u.Host == out.Host && u.Member == out.Member && u.OldClusterID == out.OldClusterID {
		out.Decided, out.Stamp = u.Decided, cmp.Or(u.Stamp, out.Stamp)
	}
	return out
}

// LeftAlone are the control planes and etcd hosts that do not join again after the quorum was recovered, with the reason. The remains are
// what the recovery was decided on.
func LeftAlone(s *cluster.State, remains map[string]facts.EtcdRemains) map[string]string {
	out := map[string]string{}
	record, err := s.Record()
	// Which hosts there are does not change how one of them is set up.
	edits := edited(s, func(e spec.Edit) bool { return len(e.Roles) == 0 })
	for _, h := range returning(s) {
		f, recorded := s.Facts(h.Name), true
		if err == nil && record != nil {
			_, recorded = record.Cluster().Host(h.Name)
		}
		switch {
		case f == nil:
			out[h.Name] = s.Unreachable()[h.Name]
		case !recorded:
			out[h.Name] = "it is in the spec, and has not been part of the cluster"
		case installed(h, f):
		case elsewhere(remains[h.Name]) != "":
			out[h.Name] = elsewhere(remains[h.Name])
		case edits != "":
			out[h.Name] = "it was installed again, and " + edits + ": that would be carried out there"
		}
	}
	return out
}

// elsewhere says why a host without an installation is not taken for one that was installed again: it may run another system than its own,
// from which everything is gone after the next boot, and its disk has what the user just had Quorate look at.
func elsewhere(r facts.EtcdRemains) string {
	switch {
	case r.Volatile != "":
		return "/var/lib is not on a disk (" + r.Volatile + "): it may run a rescue system"
	case slices.ContainsFunc(r.Copies, func(c facts.EtcdCopy) bool { return c.Kind == facts.CopyNamed }):
		return "data on it were named with --data, and it has no installation: it may run a rescue system"
	}
	return ""
}

// returning are the hosts of the spec that have a part in etcd and in the API.
func returning(s *cluster.State) []spec.Host {
	return slices.DeleteFunc(slices.Clone(s.Spec.Spec.Hosts), func(h spec.Host) bool {
		return !h.Has(spec.RoleControlPlane) && !slices.Contains(cluster.Names(s.Spec.EtcdHosts()), h.Name)
	})
}

// installed says that a control plane or an etcd host has what it needs to get another member.
func installed(h spec.Host, f *facts.Facts) bool {
	if h.Has(spec.RoleControlPlane) {
		return f.Kubernetes.KubeletConfig
	}
	return f.Kubernetes.EtcdCA != ""
}

// Reinstalled are the control planes and etcd hosts that were installed again and can join as new machines.
func Reinstalled(s *cluster.State, left map[string]string) (out []string) {
	for _, h := range returning(s) {
		if _, stays := left[h.Name]; !stays && s.Reachable(h.Name) && !installed(h, s.Facts(h.Name)) {
			out = append(out, h.Name)
		}
	}
	return out
}

// Rejoin plans how the hosts get their etcd members back after the quorum was recovered, and nothing else: no edit of the spec is carried
// out, no version changes, and no host leaves. That is Build's, at another time of the day. Hosts that have their installation get a new member, and with a
// bundle, machines that were installed again join as new ones. Those that are left are not touched (see LeftAlone).
//
// API servers of an external etcd learn its members of today, unless the rules refuse their restart now: then apply does it later.
func Rejoin(s *cluster.State, bundle Bundle, left map[string]string) (*Plan, error) {
	p, err := rejoin(s, bundle, left, true)
	if err != nil && s.Spec.ManagedEtcd() {
		return rejoin(s, bundle, left, false)
	}
	return p, err
}

func rejoin(s *cluster.State, bundle Bundle, left map[string]string, servers bool) (*Plan, error) {
	again := Reinstalled(s, left)
	seen := *s.Seen
	seen.Hosts = maps.Clone(s.Seen.Hosts)
	for name, why := range left {
		seen.Hosts[name] = facts.Host{Error: why}
	}
	if bundle.Digest == "" {
		for _, name := range again {
			seen.Hosts[name] = facts.Host{Error: "it was installed again"}
		}
		again = nil
	}
	b := resetBuilder(cluster.Evaluate(s.Spec, &seen))
	b.bundle, b.out.Bundle, b.out.Bundles, b.out.Steps = bundle, bundle.Digest, bundle.Others, []Step{}
	b.out.Unreachable = nil // what is left is known
	if r := cmp.Or(b.NotOurs(), b.OneEtcd(), b.NoneAbandoned()); r != nil {
		return nil, r
	}
	if b.Stage() != cluster.Complete || b.Seen.Etcd == nil {
		r := refused(RuleAnswer, "the recovered cluster does not answer"+after(": ", cmp.Or(b.Seen.APIError, b.Seen.EtcdError)), "`quorate status` shows what is wrong.")
		r.Transient = true
		return nil, r
	}
	var hosts []spec.Host
	for _, name := range again {
		h, _ := b.c.Host(name)
		hosts = append(hosts, h)
		b.installPackages(h)
		b.installBundle(h)
	}
	var pki, etcdPKI, token *Step
	if len(hosts) > 0 {
		for _, refuse := range []func() error{b.refuseLostKeys, b.refuseDuringRotation} { // machines that join need all keys
			if err := refuse(); err != nil {
				return nil, err
			}
		}
		pki, etcdPKI = b.sharePKI(), b.shareEtcdPKI()
	}
	for _, h := range hosts {
		b.configureNode(h)
		b.importImages(h)
	}
	for _, h := range hosts {
		if b.Present().Balances(h) {
			b.configureBalancer(h, pki)
		}
	}
	if len(hosts) > 0 {
		b.shareEtcdClient(pki, etcdPKI)
	}
	if err := b.joinEtcd(); err != nil {
		return nil, err
	}
	none := func(spec.Host) bool { return false } // edits of settings are not carried out
	b.rejoinEtcd(none)
	if servers {
		b.setEtcdServers(none)
	}
	for _, h := range hosts {
		if !h.Has(spec.RoleControlPlane) {
			continue
		}
		if token == nil {
			token = b.makeToken()
		}
		if err := b.joinControlPlane(h, pki, token); err != nil {
			return nil, err
		}
	}
	if token != nil {
		b.removeTokens(token)
	}
	return b.folded()
}
