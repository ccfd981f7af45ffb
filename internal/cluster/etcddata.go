package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// RuleOwnData keeps the data of a member that etcd counts from being set aside.
const RuleOwnData = "no-member-of-it"

// UntrustedData says why the data of an etcd member must not be used any more: it cannot be read, it differs from that of the
// others, or it is older than what the member has acknowledged. It is empty if the data can be trusted, or if nobody can tell.
//
// The others decide: without a majority of members that work and agree with each other, no member is called wrong. A learner has no vote
// that its data could break, but it gets one, and etcd knows what it has acknowledged as of any other member.
func (s *State) UntrustedData(m facts.EtcdMember) string {
	why := s.suspected(m)
	if why == "" {
		return ""
	}
	trusted := 0
	voters, _ := quorum.Count(s.placements, quorum.Member)
	for _, o := range s.Seen.Etcd {
		if o.ID != m.ID && !o.Learner && (o.Healthy || s.onlyNoSpace(o)) && s.suspected(o) == "" {
			trusted++
		}
	}
	if trusted < quorum.Majority(voters) {
		return ""
	}
	return why
}

// suspected says what speaks against the data of a member.
func (s *State) suspected(m facts.EtcdMember) string {
	if differs := s.otherHash(m); differs != "" {
		return differs
	}
	if m.WentBack != "" {
		return m.WentBack
	}
	if slices.Contains(m.Raised, facts.AlarmCorrupt) && !s.sameHash(m) {
		return "etcd found that its data differs from that of the others, and raised the alarm " + facts.AlarmCorrupt
	}
	f := s.Facts(s.MemberHost(m))
	if f == nil || m.Healthy || m.Unknown != "" || f.Kubernetes.EtcdFailure == nil || !f.Kubernetes.EtcdData {
		return ""
	}
	switch fail := f.Kubernetes.EtcdFailure; fail.Cause {
	case facts.EtcdDamaged:
		return "it does not start, because its data is damaged: " + fail.Said
	case facts.EtcdForgot:
		return "it does not start, because its data is older than what it has acknowledged: " + fail.Said
	}
	return ""
}

// comparable are the members whose data was hashed between the same revisions as that of a member, by hash.
func (s *State) comparable(m facts.EtcdMember) map[uint32]int {
	out := map[uint32]int{}
	for _, o := range s.Seen.Etcd {
		if o.Hash != nil && m.Hash != nil && o.Hash.Revision == m.Hash.Revision && o.Hash.Compacted == m.Hash.Compacted && !o.Learner {
			out[o.Hash.Hash]++
		}
	}
	return out
}

// otherHash says that a majority of all members has the same data, and the member has other data.
func (s *State) otherHash(m facts.EtcdMember) string {
	if m.Hash == nil {
		return ""
	}
	voters, _ := quorum.Count(s.placements, quorum.Member)
	for hash, n := range s.comparable(m) {
		if hash != m.Hash.Hash && n >= quorum.Majority(voters) {
			return fmt.Sprintf("its data differs from that of %d other members at revision %d (hash %08x, and theirs is %08x)", n, m.Hash.Revision, m.Hash.Hash, hash)
		}
	}
	return ""
}

// sameHash says that the data of a member was compared, and is that of a majority.
func (s *State) sameHash(m facts.EtcdMember) bool {
	if m.Hash == nil {
		return false
	}
	voters, _ := quorum.Count(s.placements, quorum.Member)
	return s.comparable(m)[m.Hash.Hash] >= quorum.Majority(voters)
}

// hashed are the hosts of the members by the hash of their data, between those revisions that most of them have in common. Missing are the
// hosts of the other members with a vote: they have not been compared.
func (s *State) hashed() (on map[uint32][]string, revision int64, missing []string) {
	type history struct{ revision, compacted int64 }
	count, most := map[history]int{}, history{}
	for _, m := range s.Seen.Etcd {
		if m.Hash == nil || m.Learner {
			continue
		}
		at := history{m.Hash.Revision, m.Hash.Compacted}
		if count[at]++; count[at] > count[most] {
			most = at
		}
	}
	on = map[uint32][]string{}
	for _, m := range s.Seen.Etcd {
		switch {
		case m.Learner:
		case m.Hash != nil && (history{m.Hash.Revision, m.Hash.Compacted}) == most:
			on[m.Hash.Hash] = append(on[m.Hash.Hash], s.MemberHost(m))
		default:
			missing = append(missing, s.MemberHost(m))
		}
	}
	return on, most.revision, missing
}

// groups describes who has which data, as far as members were compared, and says whether a majority of all members agrees.
func (s *State) groups() (out []string, agreed bool) {
	on, _, _ := s.hashed()
	voters, _ := quorum.Count(s.placements, quorum.Member)
	for _, hash := range slices.Sorted(maps.Keys(on)) {
		agreed = agreed || len(on[hash]) >= quorum.Majority(voters)
		out = append(out, fmt.Sprintf("%08x on %s", hash, List(on[hash])))
	}
	return out, agreed
}

// Comparison is what is known of whether the members of etcd have the same data. Its JSON keys are stable.
type Comparison struct {
	// By is the control plane whose unit compared them; empty if they were compared for this observation. AgeSeconds is how long before the
	// observation that was.
	By         string `json:"by,omitempty"`
	AgeSeconds int64  `json:"ageSeconds"`
	// Revision is that at which they hashed their data, and Hashes are the results in hexadecimal, by host.
	Revision int64             `json:"revision"`
	Hashes   map[string]string `json:"hashes"`
	// Agreed says that a majority of all members has the same data, and Differ are the hosts whose members have other data than that majority.
	// If no majority agrees, nobody can tell whose data is right.
	Agreed bool     `json:"agreed"`
	Differ []string `json:"differ,omitempty"`
	// Missing are the hosts of members that were not compared: they did not answer, or no longer had that revision.
	Missing []string `json:"missing,omitempty"`
}

// Same says that all members that were compared have the same data.
func (c *Comparison) Same() bool {
	seen := map[string]bool{}
	for _, h := range c.Hashes {
		seen[h] = true
	}
	return len(seen) < 2
}

// Comparison is how the data of etcd's members was compared for this observation or, if it was not, when the unit of a control plane last did. It
// is nil if nothing is known of the members that etcd has now.
func (s *State) Comparison() *Comparison {
	at, by, age := s, "", int64(0)
	if !s.compared() {
		if at, by, age = s.reported(); at == nil {
			return nil
		}
	}
	on, revision, missing := at.hashed()
	if len(on) == 0 {
		return nil
	}
	_, agreed := at.groups()
	out := &Comparison{By: by, AgeSeconds: age, Revision: revision, Hashes: map[string]string{}, Agreed: agreed, Missing: missing}
	for hash, hosts := range on {
		for _, h := range hosts {
			out.Hashes[h] = fmt.Sprintf("%08x", hash)
		}
	}
	for _, m := range at.Seen.Etcd {
		if at.otherHash(m) != "" {
			out.Differ = append(out.Differ, s.MemberHost(m))
		}
	}
	return out
}

// compared says that members were compared for this observation.
func (s *State) compared() bool {
	return slices.ContainsFunc(s.Seen.Etcd, func(m facts.EtcdMember) bool { return m.Hash != nil })
}

// oldComparison is after how many seconds a comparison says nothing any more: units compare every ten minutes.
const oldComparison = 30 * 60

// reported is the state with the hashes that the unit of a control plane got when it last compared the members, which control plane that is, and
// how many seconds ago it did; nil if none has. What is repaired and what is safe is never decided on it: it is one look, of some minutes ago.
func (s *State) reported() (at *State, by string, age int64) {
	var last *facts.EtcdComparison
	for _, h := range s.present.HostsWith(spec.RoleControlPlane) {
		f := s.Facts(h.Name)
		if f == nil || f.Watch == nil || f.Watch.Report == nil || f.Watch.Report.Compared == nil {
			continue
		}
		// By the clock of each host, not by the times: the clocks may differ. A unit that ended compares nothing any more, and a member may have
		// been healed since.
		if c := f.Watch.Report.Compared; c.AgoSeconds <= oldComparison && (last == nil || c.AgoSeconds < last.AgoSeconds) {
			last, by = c, h.Name
		}
	}
	if last == nil {
		return nil, "", 0
	}
	out, seen := *s, *s.Seen
	seen.Etcd = slices.Clone(seen.Etcd)
	seen.AddHashes(last.Hashes)
	out.Seen = &seen
	return &out, by, last.AgoSeconds
}

// FalseAlarm says that the alarm CORRUPT of a member can end: its data has been compared since, and is that of a majority.
func (s *State) FalseAlarm(m facts.EtcdMember) bool {
	return slices.Contains(m.Raised, facts.AlarmCorrupt) && s.suspected(m) == "" && s.sameHash(m)
}

// StrayAlarms are alarms that name members which etcd does not have any more. They count for all members.
func (s *State) StrayAlarms() (out []string) {
	for _, m := range s.Seen.Etcd {
		for _, a := range m.Alarms {
			if !slices.Contains(m.Raised, a) && !slices.Contains(out, a) && !slices.ContainsFunc(s.Seen.Etcd, func(o facts.EtcdMember) bool { return slices.Contains(o.Raised, a) }) {
				out = append(out, a)
			}
		}
	}
	slices.Sort(out)
	return out
}

// onlyNoSpace says that nothing is wrong with a member but that a database is full: it votes, and it answers reads.
func (s *State) onlyNoSpace(m facts.EtcdMember) bool {
	return !slices.ContainsFunc(m.Alarms, func(a string) bool { return a != facts.AlarmNoSpace }) && onlyAlarms(m)
}

// onlyAlarms says that nothing is wrong with the member but its alarms.
func onlyAlarms(m facts.EtcdMember) bool {
	rest := m.Problem
	for _, a := range m.Alarms {
		rest = strings.TrimPrefix(strings.TrimPrefix(rest, "; "), "it has raised the alarm "+a)
	}
	return len(m.Alarms) > 0 && m.Unknown == "" && m.Started && rest == ""
}

// whileFull is the state in which members count that only have no space: for a change that helps, and takes away none of their votes
// for long.
func (s *State) whileFull() *State {
	out := *s
	out.placements = slices.Clone(s.placements)
	for _, m := range s.Seen.Etcd {
		i := slices.IndexFunc(out.placements, func(p quorum.Placement) bool { return p.Host == s.MemberHost(m) })
		if i >= 0 && out.placements[i].Member == quorum.Down && s.onlyNoSpace(m) {
			out.placements[i].Member = quorum.Up
		}
	}
	return &out
}

// Lags says that an etcd member works and is far behind the leader: etcd needs its vote for nothing now, but could decide nothing with it before it
// has caught up.
func (s *State) Lags(m facts.EtcdMember) bool {
	return m.Behind > 0 && !m.Learner && m.Started && m.Unknown == "" && (m.Healthy || s.onlyNoSpace(m))
}

// keepingUp is the state in which members that lag count as failed, except where the change itself takes them away: that does count.
func (s *State) keepingUp(c Change) *State {
	if !slices.ContainsFunc(s.Seen.Etcd, s.Lags) {
		return s
	}
	out := *s
	out.placements = slices.Clone(s.placements)
	for _, m := range s.Seen.Etcd {
		i := slices.IndexFunc(out.placements, func(p quorum.Placement) bool { return p.Host == s.MemberHost(m) })
		if i >= 0 && s.Lags(m) && out.placements[i].Member == quorum.Up && !c.concerns(out.placements[i].Host, out.placements[i].Zone) {
			out.placements[i].Member = quorum.Down
		}
	}
	return &out
}

// ruleOwnData lets the data of a former member be set aside only if etcd has a majority without it, and has no such member.
func (s *State) ruleOwnData(c Change) *Refusal {
	if c.Verb != Clear || c.Part != EtcdMember {
		return nil
	}
	voters, up := quorum.Count(s.placements, quorum.Member)
	if need := quorum.Majority(voters); voters == 0 || up < need {
		return &Refusal{Rule: RuleMajorityNow, Have: up, Need: need, Transient: s.Seen.Etcd == nil || s.anyUnknownMember(),
			Why: fmt.Sprintf("%s needs a majority of etcd's members, and %d of %d are known to work%s: its data may be needed", c, up, voters, s.membersText()),
			Fix: "Start the failed members again; `quorate status` shows them."}
	}
	i := slices.IndexFunc(s.placements, func(p quorum.Placement) bool { return p.Host == c.Subject })
	if i >= 0 && s.placements[i].Member != quorum.Absent && !s.unstarted(c.Subject) {
		return &Refusal{Rule: RuleOwnData, Transient: s.placements[i].Member == quorum.Unknown, Why: c.String() + " is not possible while etcd counts a member there", Fix: "`quorate status` shows the members."}
	}
	return nil
}

// unstarted says that the member of a host was added, and never started: whatever data is there is not its own.
func (s *State) unstarted(host string) bool {
	m, has := s.Member(host)
	return has && !m.Started && !s.gone[host+"/"+etcdProgram]
}
