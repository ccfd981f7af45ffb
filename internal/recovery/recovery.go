// Package recovery judges what is left of an etcd that has lost its quorum: which copies of its data exist, which of them loses the
// least, what would be lost, and what stands in the way. It is pure.
package recovery

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Standing says whether a voter of the old cluster could take part in a majority again.
type Standing string

const (
	// Runs: its etcd runs on its data.
	Runs Standing = "runs"
	// HasData: its data are in their place, and sound. It needs only be started.
	HasData Standing = "has its data"
	// Damaged: its data are in their place, and etcd cannot start on them.
	Damaged Standing = "data damaged"
	// Gone: its host was examined, its data are not in their place, and nothing there says that they may come back. Copies of them elsewhere
	// are no votes: whoever put one back would vote with the knowledge of an earlier moment.
	Gone Standing = "data gone"
	// Unknown: its host could not be examined, or its data are not in their place and may be on a disk that is not mounted.
	Unknown Standing = "unknown"
	// Lost: nothing is known of its data, and the user says that they will not come back.
	Lost Standing = "declared lost"
)

// Voter is a member of the old cluster that has a vote.
type Voter struct {
	Name string `json:"name"`
	// Host is its host in the spec; empty if there is none.
	Host     string   `json:"host,omitempty"`
	ID       string   `json:"id,omitempty"`
	PeerURL  string   `json:"peerURL,omitempty"`
	Standing Standing `json:"standing"`
	Why      string   `json:"why,omitempty"`
}

// Candidate is a copy of a member's data.
type Candidate struct {
	Host string `json:"host"`
	facts.EtcdCopy
	// Of is the name of the member whose data these are, as far as it is known.
	Of string `json:"of,omitempty"`
	// Foreign says that it belongs to another cluster.
	Foreign bool `json:"foreign,omitempty"`
	// Behind is how many entries of the log the best copy has and this one lacks; 0 for copies of another cluster.
	Behind uint64 `json:"behind"`
}

// String is how a user names the copy.
func (c Candidate) String() string {
	if c.Kind == facts.CopyInPlace {
		return c.Host
	}
	return c.Host + ":" + c.Path
}

// Obstacle is why nothing is recovered now.
type Obstacle struct {
	Why string `json:"why"`
	Fix string `json:"fix"`
}

// Judgment is what follows from what was found.
type Judgment struct {
	// ClusterID is the etcd cluster that was lost; empty if that is not clear.
	ClusterID string  `json:"clusterID,omitempty"`
	Voters    []Voter `json:"voters"`
	// Need is the majority of the voters.
	Need int `json:"need"`
	// Candidates are all copies, the one that loses least first. Those that cannot be used come last.
	Candidates []Candidate `json:"candidates"`
	// Best is the first of them, nil if none can be used.
	Best *Candidate `json:"best,omitempty"`
	// Chosen is the copy that the user decided for.
	Chosen *Candidate `json:"chosen,omitempty"`
	// Missing says what is lost with the chosen copy, or with the best one as long as none was chosen, and what nobody can know.
	Missing []string `json:"missing,omitempty"`
	// UnderWay is a recovery that was interrupted, and Placed the host on which it has put the recovered data into their place.
	UnderWay *facts.EtcdRecovery `json:"underWay,omitempty"`
	Placed   string              `json:"placed,omitempty"`
	// Obstacles stand in the way of the decision, or of any decision.
	Obstacles []Obstacle `json:"obstacles,omitempty"`

	c    *spec.Cluster
	seen *facts.Observation
}

// Judge judges what was found. The observation must have LostQuorum.
func Judge(c *spec.Cluster, seen *facts.Observation) *Judgment {
	j := &Judgment{c: c, seen: seen}
	if c.ExistingEtcd() {
		j.refuse("this cluster uses an etcd that Quorate does not manage", "Recover it by the documentation of etcd (https://etcd.io/docs/latest/op-guide/recovery/), and then run `quorate apply`.")
		return j
	}
	j.underWay()
	j.collect()
	j.identify()
	j.order()
	j.members()
	j.votes()
	j.decide()
	j.missing()
	return j
}

func (j *Judgment) refuse(why, fix string) { j.Obstacles = append(j.Obstacles, Obstacle{why, fix}) }

func (j *Judgment) decision() facts.EtcdDecision {
	if d := j.seen.LostQuorum.Decision; d != nil {
		return *d
	}
	return facts.EtcdDecision{}
}

// underWay finds a recovery that was interrupted. It counts as long as the host notes it on which the cluster begins: the note is
// removed there last, and another host may not have been reached then.
func (j *Judgment) underWay() {
	for host, remains := range j.seen.LostQuorum.Remains {
		if r := remains.Recovery; r != nil && r.Host == host {
			if j.UnderWay == nil || r.Decided.After(j.UnderWay.Decided) {
				j.UnderWay = r
			}
		}
	}
}

func (j *Judgment) collect() {
	for _, h := range j.c.Spec.Hosts {
		for _, c := range j.seen.LostQuorum.Remains[h.Name].Copies {
			out := Candidate{Host: h.Name, EtcdCopy: c}
			if i := slices.IndexFunc(c.Members, func(m facts.EtcdCopyMember) bool { return m.ID == c.MemberID }); i >= 0 {
				out.Of = c.Members[i].Name
			}
			j.Candidates = append(j.Candidates, out)
		}
	}
}

// identify finds out which cluster was lost. Data that are in their place count before copies. Those of a cluster that an earlier
// recovery has replaced count only if the user says so.
func (j *Judgment) identify() {
	d, abandoned := j.decision(), j.seen.AbandonedEtcds()
	switch {
	case d.ClusterID != "":
		j.ClusterID = d.ClusterID
		if j.UnderWay != nil && j.UnderWay.OldClusterID == d.ClusterID || slices.ContainsFunc(j.Candidates, func(c Candidate) bool { return c.ClusterID == d.ClusterID }) {
			break
		}
		var have []string
		for _, c := range j.Candidates {
			if c.ClusterID != "" && !slices.Contains(have, c.ClusterID) {
				have = append(have, c.ClusterID)
			}
		}
		slices.Sort(have)
		fix := "Leave it out: it is needed only if there are data of several clusters."
		if len(have) > 0 {
			fix = "There are data of " + strings.Join(have, ", ") + ". " + fix
		}
		j.refuse("--cluster-id "+d.ClusterID+": no data of this etcd cluster were found", fix)
	case j.UnderWay != nil:
		j.ClusterID = j.UnderWay.OldClusterID
	default:
		for _, kind := range []string{facts.CopyInPlace, facts.CopyNamed, facts.CopyKept} {
			found := map[string][]string{}
			for _, c := range j.Candidates {
				if c.Kind == kind && c.ClusterID != "" && !slices.Contains(abandoned, c.ClusterID) {
					found[c.ClusterID] = append(found[c.ClusterID], c.String())
				}
			}
			if len(found) > 1 {
				var lines []string
				for _, id := range slices.Sorted(maps.Keys(found)) {
					lines = append(lines, id+" on "+strings.Join(found[id], ", "))
				}
				j.refuse("there are data of several etcd clusters: "+strings.Join(lines, "; "),
					"A host that came back after an earlier recovery has the data of the cluster before it. Look at the times of the last writes, and name the cluster that counts with --cluster-id.")
				return
			}
			for id := range found {
				j.ClusterID = id
				return
			}
		}
	}
	if j.UnderWay != nil && j.UnderWay.OldClusterID == j.ClusterID {
		i := slices.IndexFunc(j.Candidates, func(c Candidate) bool {
			return c.Host == j.UnderWay.Host && c.Kind == facts.CopyInPlace && c.ClusterID != "" && c.ClusterID != j.ClusterID
		})
		if i >= 0 {
			j.Placed = j.UnderWay.Host
		}
	}
}

// order puts the copy that loses least first: the one whose log an election would prefer to all others. It has every write that one of
// the other copies has and that was acknowledged.
func (j *Judgment) order() {
	kinds := []string{facts.CopyInPlace, facts.CopyKept, facts.CopyNamed, facts.CopyFormer}
	for i := range j.Candidates {
		j.Candidates[i].Foreign = j.Candidates[i].ClusterID != j.ClusterID || j.ClusterID == ""
	}
	no := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(j.Candidates, func(a, b Candidate) int {
		return cmp.Or(no(a.Foreign)-no(b.Foreign), no(!a.Usable())-no(!b.Usable()), no(a.Kind == facts.CopyFormer)-no(b.Kind == facts.CopyFormer), b.Compare(a.EtcdCopy), slices.Index(kinds, a.Kind)-slices.Index(kinds, b.Kind))
	})
	if len(j.Candidates) == 0 || j.Candidates[0].Foreign || !j.Candidates[0].Usable() || j.Candidates[0].Kind == facts.CopyFormer {
		return
	}
	best := j.Candidates[0]
	j.Best = &best
	for i := range j.Candidates {
		if c := &j.Candidates[i]; !c.Foreign && c.LastIndex < best.LastIndex {
			c.Behind = best.LastIndex - c.LastIndex
		}
	}
}

// members finds the voters of the lost cluster: those that the copy knows whose database is the most recent.
func (j *Judgment) members() {
	var latest *Candidate
	for i := range j.Candidates {
		c := &j.Candidates[i]
		if !c.Foreign && len(c.Members) > 0 && (latest == nil || c.Applied > latest.Applied) {
			latest = c
		}
	}
	if latest == nil { // no database can be read: the spec is what is known
		for _, h := range j.c.EtcdHosts() {
			j.Voters = append(j.Voters, Voter{Name: h.Name, Host: h.Name, PeerURL: spec.PeerURL(h.Address)})
		}
	} else {
		for _, m := range latest.Members {
			if !m.Learner {
				j.Voters = append(j.Voters, Voter{Name: cmp.Or(m.Name, m.PeerURL), Host: j.hostOf(m), ID: m.ID, PeerURL: m.PeerURL})
			}
		}
	}
	slices.SortFunc(j.Voters, func(a, b Voter) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	j.Need = quorum.Majority(len(j.Voters))
	for i := range j.Voters {
		j.stand(&j.Voters[i])
	}
	for i := range j.Candidates {
		c := &j.Candidates[i]
		if k := slices.IndexFunc(j.Voters, func(v Voter) bool { return v.ID != "" && v.ID == c.MemberID }); c.Of == "" && k >= 0 && !c.Foreign {
			c.Of = j.Voters[k].Name
		}
	}
}

// hostOf is the host at a member's peer URL. Its name alone does not say where a member runs.
func (j *Judgment) hostOf(m facts.EtcdCopyMember) string {
	for _, h := range j.c.EtcdHosts() {
		if slices.Contains(strings.Split(m.PeerURL, ","), spec.PeerURL(h.Address)) {
			return h.Name
		}
	}
	return ""
}

func (j *Judgment) lost(v *Voter) bool {
	lost := j.decision().Lost
	return slices.Contains(lost, v.Name) || v.Host != "" && slices.Contains(lost, v.Host)
}

// stand finds out what became of a voter.
func (j *Judgment) stand(v *Voter) {
	remains, examined := j.seen.LostQuorum.Remains[v.Host]
	unknown := func(why string) {
		v.Standing, v.Why = Unknown, why
		if j.lost(v) {
			v.Standing = Lost
		}
	}
	switch {
	case v.Host == "":
		unknown("no host of the spec has its address " + v.PeerURL)
		return
	case !examined:
		unknown(cmp.Or(strings.TrimPrefix(j.seen.Hosts[v.Host].Error, v.Host+": "), "it was not examined"))
		return
	case remains.Error != "":
		unknown("it could not be examined: " + remains.Error)
		return
	}
	i := slices.IndexFunc(remains.Copies, func(c facts.EtcdCopy) bool { return c.Kind == facts.CopyInPlace })
	if i < 0 {
		why, gone := j.absent(*v, remains)
		if v.Standing, v.Why = Gone, why; !gone {
			unknown(why)
		}
		return
	}
	switch c := remains.Copies[i]; {
	case c.ClusterID == "":
		v.Standing, v.Why = Damaged, c.Error
	case c.ClusterID != j.ClusterID:
		v.Standing, v.Why = Gone, "the data in "+remains.DataDir+" are of the etcd cluster "+c.ClusterID
	case v.ID != "" && c.MemberID != v.ID:
		v.Standing, v.Why = Gone, "the data in "+remains.DataDir+" are of another member ("+c.MemberID+")"
	case c.Error != "":
		v.Standing, v.Why = Damaged, c.Error
	case remains.Running != 0:
		v.Standing = Runs
	default:
		v.Standing = HasData
	}
}

// absent says why the data of a voter are not in their place, and whether they are gone. They are not as long as something says that the
// host has them: mounting a disk, or booting the host's own system, would lose nothing.
func (j *Judgment) absent(v Voter, r facts.EtcdRemains) (why string, gone bool) {
	own := func(kinds ...string) string {
		i := slices.IndexFunc(r.Copies, func(c facts.EtcdCopy) bool {
			return slices.Contains(kinds, c.Kind) && c.Usable() && c.ClusterID == j.ClusterID && (c.MemberID == v.ID || v.ID == "" && c.Kind == facts.CopyNamed)
		})
		if i < 0 {
			return ""
		}
		return r.Copies[i].Path
	}
	none := "there are no data in " + r.DataDir
	if u := j.UnderWay; u != nil { // damaged data, and those of another cluster, are set aside as well
		i := slices.IndexFunc(r.Copies, func(c facts.EtcdCopy) bool {
			return c.Kind == facts.CopyKept && strings.HasPrefix(filepath.Base(c.Path), u.Stamp+"-")
		})
		if i >= 0 {
			return none + ": this recovery has set aside what was there, in " + r.Copies[i].Path, true
		}
	}
	if kept := own(facts.CopyKept, facts.CopyFormer); kept != "" {
		return none + ": they were set aside, and are in " + kept, true
	}
	named := own(facts.CopyNamed)
	switch {
	case r.Starts || r.Joined || r.Guard || r.Established:
		return none + ", but the host is set up as a member: is the disk with the data not mounted?", false
	case named != "":
		return "its data are in " + named + ", and nothing on the host could run it: is this a rescue system?", false
	case r.Volatile != "":
		return none + ", but /var/lib is not on a disk (" + r.Volatile + "): is this a rescue system?", false
	}
	return none, true
}

// with are the voters of some standings.
func (j *Judgment) with(standings ...Standing) (out []Voter) {
	for _, v := range j.Voters {
		if slices.Contains(standings, v.Standing) {
			out = append(out, v)
		}
	}
	return out
}

// votes finds out whether the quorum is lost for good.
func (j *Judgment) votes() {
	voters, up := 0, 0
	for _, m := range j.seen.Etcd {
		if !m.Learner && !m.Stranger() {
			voters++
			if m.Healthy {
				up++
			}
		}
	}
	if voters > 0 && up >= quorum.Majority(voters) && j.Placed == "" {
		j.refuse(fmt.Sprintf("etcd has a quorum: %d of %d members work, and %d are needed", up, voters, quorum.Majority(voters)),
			"There is nothing to recover. `quorate status` shows what is wrong, and `quorate apply` restores it.")
		return
	}
	if j.Placed != "" {
		return // the members of the old cluster cannot take part in the new one
	}
	for _, v := range j.with(Runs, HasData) {
		if j.lost(&v) {
			j.refuse(fmt.Sprintf("%s was declared lost, and it answers: it %s", v.Name, v.Standing), "Leave out --lost "+v.Name+", and look at what is there.")
		}
	}
	for _, name := range j.decision().Lost {
		if _, host := j.c.Host(name); !host && !slices.ContainsFunc(j.Voters, func(v Voter) bool { return v.Name == name }) {
			j.refuse("--lost "+name+": neither a host of the spec nor a member of etcd has this name", "The members are "+names(j.Voters)+".")
		}
	}
	if j.ClusterID == "" {
		over := map[string][]string{}
		for _, c := range j.Candidates {
			if c.ClusterID != "" {
				over[c.ClusterID] = append(over[c.ClusterID], c.String())
			}
		}
		nowhere, fix := j.nowhere()
		switch {
		case len(j.Obstacles) > 0:
		case len(over) > 0:
			var lines []string
			for _, id := range slices.Sorted(maps.Keys(over)) {
				lines = append(lines, id+" on "+strings.Join(over[id], ", "))
			}
			j.refuse("there are only data of etcd clusters that a recovery has replaced: "+strings.Join(lines, "; "),
				"If the cluster that replaced them has no data left, name the one that counts with --cluster-id. It has nothing that was written since that recovery; a backup may be newer.")
		case nowhere != "":
			j.refuse(nowhere, fix)
		default:
			j.refuse("no data of etcd were found on any host", "If a disk with data exists, attach it to a host of the spec and name the directory: --data HOST:/path. If no host has its installation any more, `quorate restore --from-data HOST:/path` builds the cluster again from such a disk. Otherwise restore a backup.")
		}
		return
	}
	present, unknown := j.with(Runs, HasData), j.with(Unknown)
	switch {
	case len(present) >= j.Need:
		j.refuse(fmt.Sprintf("the quorum can come back: %d of %d members have their data (%s), and %d are needed", len(present), len(j.Voters), names(present), j.Need),
			"Start them: `quorate apply` starts what is stopped on their hosts, and `quorate status` shows what keeps them from working. Nothing would be lost.")
	case len(present)+len(unknown) >= j.Need:
		lines, flags := inDoubt(unknown)
		j.refuse(fmt.Sprintf("the quorum may come back: %d of %d members have their data, %d are needed, and nothing is known of %s", len(present), len(j.Voters), j.Need, lines),
			"Bring back "+names(unknown)+": power the machines on, boot their own system, mount the disks with the data, or make reachable what still runs. Then nothing is lost. If these machines or their disks will never come back, say so: "+flags+
				". If they still run and cannot be reached only from here, the cluster works without you, and you would make a second one.")
	}
}

// nowhere says which hosts may have data although none were found, because they could not be examined or a disk is not mounted; empty if there
// are none. That nothing was found then says nothing about what there is.
func (j *Judgment) nowhere() (why, fix string) {
	var lines []string
	if unknown := j.with(Unknown); len(unknown) > 0 {
		text, flags := inDoubt(unknown)
		lines = append(lines, text)
		fix = "Make them reachable: power them on, repair the network, or correct their addresses and SSH keys in the spec. A machine that boots a rescue system needs only SSH. Mount the disks with the data. What will never come back is left out with " + flags + "."
	}
	for _, h := range j.c.Spec.Hosts {
		r := j.seen.LostQuorum.Remains[h.Name]
		if r.Error != "" && !slices.ContainsFunc(j.Voters, func(v Voter) bool { return v.Host == h.Name }) {
			lines = append(lines, h.Name+" ("+r.Error+")")
			fix = cmp.Or(fix, "Make it reachable, or do not name directories on it.")
		}
	}
	if len(lines) == 0 {
		return "", ""
	}
	return "no data of etcd were found, and nothing is known of " + strings.Join(lines, ", "), fix
}

// inDoubt lists members of which nothing is known, with the reasons, and the flags that declare them lost.
func inDoubt(voters []Voter) (lines, flags string) {
	var l, f []string
	for _, v := range voters {
		l = append(l, v.Name+" ("+v.Why+")")
		f = append(f, "--lost "+cmp.Or(v.Host, v.Name))
	}
	return strings.Join(l, ", "), strings.Join(f, " ")
}

func names(voters []Voter) string {
	var out []string
	for _, v := range voters {
		out = append(out, v.Name)
	}
	return strings.Join(out, ", ")
}

// decide finds the copy that the user chose.
func (j *Judgment) decide() {
	d := j.seen.LostQuorum.Decision
	if d == nil || d.Host == "" || j.ClusterID == "" {
		return
	}
	if j.Placed != "" {
		if d.Host != j.Placed {
			j.refuse(fmt.Sprintf("a recovery is under way, and its data are in place on %s", j.Placed), "Finish it: `quorate recover --from "+j.Placed+"`.")
		}
		return
	}
	i := slices.IndexFunc(j.Candidates, func(c Candidate) bool { return j.means(*d, c) })
	if i < 0 {
		var have []string
		for _, c := range j.Candidates {
			if c.Host == d.Host {
				have = append(have, c.String())
			}
		}
		fix := "Run `quorate recover` to see which copies exist."
		if len(have) > 0 {
			fix = "It has: " + strings.Join(have, ", ") + ". Name one of them as it stands there."
		}
		j.refuse(cmp.Or(strings.TrimSuffix(d.Host+":"+d.Path, ":"), d.Host)+" has no data of etcd"+onlyIf(d.Path == "", " in place"), fix)
		return
	}
	chosen := j.Candidates[i]
	remains := j.seen.LostQuorum.Remains[chosen.Host]
	switch {
	case chosen.Foreign:
		j.refuse(fmt.Sprintf("the data on %s are of the etcd cluster %s, and the one that was lost is %s", chosen, cmp.Or(chosen.ClusterID, "of unknown identity"), j.ClusterID),
			"Choose another copy. If these are the data that count, say so: --cluster-id "+chosen.ClusterID+".")
		return
	case !chosen.Usable():
		j.refuse(fmt.Sprintf("the data on %s cannot be used: %s", chosen, chosen.Error), "Choose another copy: `quorate recover` shows them.")
		return
	case !j.runs(remains) || !remains.Certificates:
		j.refuse(fmt.Sprintf("%s has nothing that could run etcd: %s", chosen.Host, j.lacks(remains)),
			"Boot its installed system. If that is gone, attach the disk to a host of the cluster that has one, or copy the directory there, and name it: --data HOST:/path. "+
				"If all machines were installed again, build the cluster from the disk: `quorate restore --from-data "+chosen.Host+":"+chosen.Path+"` (docs/recovery.md).")
		return
	case remains.SeparateWAL != "":
		j.refuse(fmt.Sprintf("the member on %s has its write-ahead log in %s, outside of its data directory", chosen.Host, remains.SeparateWAL), "Such a member has to be recovered by hand, with --force-new-cluster (https://etcd.io/docs/latest/op-guide/recovery/).")
		return
	case j.Best != nil && chosen.Compare(j.Best.EtcdCopy) < 0 && !d.AcceptLoss:
		j.refuse(fmt.Sprintf("the data on %s lack writes that those on %s have: the log ends at term %d, index %d, and that of the other one at term %d, index %d", chosen, j.Best, chosen.LastTerm, chosen.LastIndex, j.Best.LastTerm, j.Best.LastIndex),
			"Choose "+j.Best.String()+". If that one cannot be used for another reason, pass --accept-loss.")
	}
	j.Chosen = &chosen
}

func onlyIf(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

// runs says that a host has what starts a member, or what is needed to write it again.
func (j *Judgment) runs(r facts.EtcdRemains) bool {
	return r.Starts || r.Joined && !slices.Contains(r.Manifests, "etcd") && j.c.StackedEtcd()
}

func (j *Judgment) lacks(r facts.EtcdRemains) string {
	var out []string
	switch {
	case j.runs(r):
	case r.Joined && slices.Contains(r.Manifests, "etcd"):
		out = append(out, "a manifest of etcd that cannot be read")
	default:
		out = append(out, "neither a kubelet that has joined nor etcd's unit")
	}
	if !r.Certificates {
		out = append(out, "not the certificates of a member in /etc/kubernetes/pki/etcd")
	}
	return strings.Join(out, ", and ")
}

// means says that the user named this copy. What was in place before an interrupted recovery is what was set aside since.
func (j *Judgment) means(d facts.EtcdDecision, c Candidate) bool {
	switch {
	case c.Host != d.Host:
		return false
	case d.Path != "":
		return filepath.Clean(c.Path) == filepath.Clean(d.Path)
	case c.Kind == facts.CopyInPlace:
		return true
	}
	u := j.UnderWay
	inPlace := slices.ContainsFunc(j.Candidates, func(o Candidate) bool { return o.Host == d.Host && o.Kind == facts.CopyInPlace })
	return !inPlace && u != nil && u.Host == d.Host && filepath.Base(c.Path) == u.Stamp+"-"+u.Member
}

// Corrupt says that etcd has found, as any of the copies knows, that the data of the copy's member differ from those of the others.
func (j *Judgment) Corrupt(c Candidate) bool {
	return c.MemberID != "" && slices.ContainsFunc(j.Candidates, func(o Candidate) bool {
		return o.ClusterID == c.ClusterID && slices.Contains(o.EtcdCopy.Corrupt, c.MemberID)
	})
}

// missing says what is lost.
func (j *Judgment) missing() {
	c := j.Chosen
	if c == nil {
		c = j.Best
	}
	if c == nil {
		return
	}
	add := func(format string, args ...any) { j.Missing = append(j.Missing, fmt.Sprintf(format, args...)) }
	if j.Corrupt(*c) {
		add("etcd had found that the data on %s differ from those of the other members (alarm CORRUPT): they may lack writes, and have others that nobody made", c)
	}
	for _, o := range j.Candidates {
		switch {
		case o.Foreign || o.String() == c.String() || o.Compare(c.EtcdCopy) <= 0:
		case o.LastIndex > c.LastIndex:
			add("%d entries of the log that %s has (up to index %d of term %d)%s", o.LastIndex-c.LastIndex, o, o.LastIndex, o.LastTerm, why(o.Error))
		default:
			add("what %s has of term %d%s", o, o.LastTerm, why(o.Error))
		}
	}
	for _, v := range j.Voters {
		if v.ID != "" && v.ID == c.MemberID {
			continue
		}
		read := slices.ContainsFunc(j.Candidates, func(o Candidate) bool {
			return !o.Foreign && v.ID != "" && o.MemberID == v.ID && o.Kind == facts.CopyInPlace
		})
		if !read {
			add("it cannot be known whether %s acknowledged writes after term %d, index %d: %s", v.Name, c.LastTerm, c.LastIndex, cmp.Or(v.Why, "its data were not found"))
		}
	}
}

func why(text string) string {
	if text == "" {
		return ""
	}
	return ", and which cannot be used: " + text
}
