package recovery

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Disk judges a copy of a member's data from which the cluster is to be built again on the hosts of the spec. A restore
// makes sure that these hosts have nothing of the cluster, so the members that they had are gone. Where is the host to which the copy is attached, or what else a user
// calls that machine. Lost are the members that the user declares lost. Replaced says that the user gives up what is on these hosts: they are reset first.
func Disk(c *spec.Cluster, where string, copied facts.EtcdCopy, lost []string, replaced bool) *Judgment {
	j := &Judgment{c: c, ClusterID: copied.ClusterID, seen: &facts.Observation{LostQuorum: &facts.LostQuorum{Decision: &facts.EtcdDecision{Lost: lost}}}}
	copied.Kind = facts.CopyNamed
	copied.Path = filepath.Clean(copied.Path)
	best := Candidate{Host: where, EtcdCopy: copied}
	for _, m := range copied.Members {
		if m.ID == copied.MemberID {
			best.Of = m.Name
		}
		if m.Learner {
			continue
		}
		v := Voter{Name: cmp.Or(m.Name, m.PeerURL), Host: j.hostOf(m), ID: m.ID, PeerURL: m.PeerURL}
		switch {
		case m.ID == copied.MemberID:
			v.Standing, v.Why = Gone, "its data are the copy"
		case v.Host != "" && replaced:
			v.Standing, v.Why = Gone, "its host "+v.Host+" is reset: what it has is kept there, and not used"
		case v.Host != "":
			v.Standing, v.Why = Gone, "its host "+v.Host+" has no data"
		case j.lost(&v):
			v.Standing, v.Why = Lost, "no host of the spec has its address "+m.PeerURL
		default:
			v.Standing, v.Why = Unknown, "no host of the spec has its address "+m.PeerURL
		}
		j.Voters = append(j.Voters, v)
	}
	slices.SortFunc(j.Voters, func(a, b Voter) int { return strings.Compare(a.Name+" "+a.ID, b.Name+" "+b.ID) })
	j.Need = quorum.Majority(len(j.Voters))
	j.Candidates = []Candidate{best}
	if !copied.Usable() {
		j.refuse(fmt.Sprintf("the data in %s cannot be used: %s", best, cmp.Or(copied.Error, "they do not say of which cluster they are")), "Use another copy, or a backup (`quorate backup list`).")
		return j
	}
	j.Best, j.Chosen = &best, &best
	for _, name := range lost {
		if !slices.ContainsFunc(j.Voters, func(v Voter) bool { return v.Name == name || v.Host == name }) {
			j.refuse("--lost "+name+": the data know no such member of etcd", "They know "+names(j.Voters)+".")
		}
	}
	if unknown := j.with(Unknown); len(unknown) >= j.Need {
		var flags []string
		for _, v := range unknown {
			flags = append(flags, "--lost "+v.Name)
		}
		j.refuse(fmt.Sprintf("the quorum of the cluster may come back: %d of its %d members are needed, and nothing is known of %s, whose addresses no host of the spec has", j.Need, len(j.Voters), names(unknown)),
			"Power these machines on: if they have their data, nothing is lost. If they will never come back, say so: "+strings.Join(flags, " ")+
				". If they still run and cannot be reached only from here, the cluster works without you, and you would make a second one.")
	}
	j.missing()
	return j
}
