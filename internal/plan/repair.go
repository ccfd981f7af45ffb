package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans repairs. A repair brings back what the cluster had: it changes no version, no setting, and no host of the spec. Most
// of them are steps of apply's own plan (see restoreHosts), each one alone. What only a repair does is below: etcd without space, and
// etcd members whose data cannot be trusted.

// repairs is everything that is repaired, in the order in which it is: what keeps all clients from writing comes first. A condition
// counts when as many observations in a row agree on it, and a repair is tried on a host at most so often in an hour.
var repairs = []struct {
	name           string
	find           func(*builder) []*remedy
	looks, anHour  int
	what, remedies string // for the documentation; empty for a second entry of one name
}{
	{"certificates", expiredCertificates, 2, 1, "certificates that have expired, while the API does not answer", "nothing, because new ones are issued for all hosts together: `quorate apply` does that"},
	{"etcd-alarm", strayAlarms, 2, 6, "an alarm of an etcd member that was removed, or a false alarm CORRUPT", "the alarm is ended"},
	{"etcd-space", fullEtcd, 3, 3, "the alarm NOSPACE, or a database that is mostly free space and uses 80 % of its quota", "etcd is compacted; its members are defragmented one by one, the leader last; the alarm is ended"},
	{"units", steps(Configure, ""), 3, 3, "units that are stopped or disabled; files, modes, kernel modules, and kernel settings that are missing or were changed", "they are restored, as `quorate apply` does"},
	{"manifest", steps(RestoreControlPlane, ""), 3, 3, "a missing manifest of a static pod", "kubeadm writes it again"},
	{"load-balancer", steps(Configure, balancerDetail), 3, 3, "a load balancer that is stopped, or whose configuration is missing or was changed", "it is configured and started"},
	{"etcd-data", untrustedMembers, 3, 2, "an etcd member with damaged data, other data than the others, or older data than it acknowledged", "it is removed, its data is kept aside, and it joins again as a new member: first as a learner"},
	{"etcd-rejoin", missingMembers, 3, 3, "an etcd host without a member, as an interrupted repair leaves it, or with one of a cluster that a recovery has replaced", "its data, if any, is kept aside, and it joins again"},
	{"etcd-lag", laggingMembers, 10, 2, "an etcd member that works, is thousands of entries of the log behind the leader, and does not catch up", "it is restarted; if it is so again within an hour, it is replaced like one with damaged data, once a day"},
	{"hung", hungUnits, 5, 3, "a program that runs and does not answer: the kubelet, containerd, HAProxy, or etcd on a host of its own", "its unit is restarted"},
	{"kubelet-identity", steps(RenewKubelet, ""), 2, 3, "a kubelet whose certificate has expired", "a new one is signed"},
	{"kubelet-server", steps(UseLocalAPI, ""), 3, 3, "the kubelet of a control plane that does not use its own API server", "it does again"},
	{"etcd-client", steps(ShareEtcdClient, ""), 2, 3, "a control plane without the client certificate for an external etcd", "it is copied there"},
	{"packages", steps(InstallPackages, ""), 3, 3, "a missing package of the host's distribution", "it is installed"},
	{"programs", steps(InstallBundle, ""), 3, 3, "a damaged program", "it is installed again, from the bundle that the host runs"},
	{"programs", steps(SwitchPrograms, ""), 3, 6, "", ""},
	{"images", steps(ImportImages, ""), 3, 3, "a missing or damaged image of the bundle", "it is imported again"},
	{"agent", steps(RestartAgent, ""), 4, 3, "kube-proxy, or the pod network's agent, does not work on a node whose kubelet has run for two minutes", "its pod is replaced"},
	{"stopped", withdrawnServers, 3, 3, "static pods of a control plane that were stopped, as an interrupted repair leaves them, outside of a maintenance", "they are started"},
	{"drained", drainedServers, 5, 3, "a control plane that works and gets no clients, as an interrupted repair leaves it", "the load balancers send it clients again"},
	{"labels", steps(LabelNode, ""), 3, 6, "a label or taint of the spec that a node does not have", "it is set"},
	{"api-service", steps(PublishEndpoint, ""), 2, 6, "pods do not reach the API through the endpoint: the API's Service lacks its address, or has others", "the endpoint is its only address again"},
	{"dns", steps(SpreadDNS, ""), 3, 6, "CoreDNS is no longer spread over nodes and zones", "it is spread again"},
	{"budget", steps(RestoreBudgets, ""), 3, 6, "a disruption budget of the Prometheus that Quorate installed is relaxed, as an interrupted drain leaves it", "it is restored"},
	{"disk", fullDisks, 3, 3, "a disk that is almost full, and something on it that Quorate put there and does not need", "snapshots of etcd are removed, except for the one from before the last change of the version and the newest, and older data of replaced etcd members, and copies of quorate, bundles, and blobs that nothing uses"},
}

// Repair is one thing that is broken, and what is done about it.
type Repair struct {
	// Name is of the table of repairs.
	Name string `json:"repair"`
	// Host is where it is done; empty for what concerns the whole cluster.
	Host string `json:"host,omitempty"`
	// Of tells repairs of one name on one host apart: a unit, or another program.
	Of string `json:"of,omitempty"`
	// How says what is done, where one problem has several remedies: the next one when another one did not help.
	How string `json:"how,omitempty"`
	// Problem is what is wrong.
	Problem string `json:"problem"`
	// Plan is what is done; nil if it is refused.
	Plan    *Plan            `json:"-"`
	Refused *cluster.Refusal `json:"refused,omitempty"`
	// Looks is how many observations in a row must agree, and AnHour how often it is tried there in an hour.
	Looks  int `json:"-"`
	AnHour int `json:"-"`
}

// Key identifies a repair in all observations that agree on it.
func (r Repair) Key() string { return r.Name + "/" + r.Host + "/" + r.Of }

// Repaired are the rows of the table of repairs for the documentation: name, condition, remedy, observations, tries in an hour.
func Repaired() (rows [][5]string) {
	for _, r := range repairs {
		if r.what != "" {
			rows = append(rows, [5]string{r.name, r.what, r.remedies, fmt.Sprint(r.looks), fmt.Sprint(r.anHour)})
		}
	}
	return rows
}

// IDs of the rules by which nothing is repaired.
const (
	RuleRepairable = "repairable-cluster"
	// quotaToDefragment is the part of etcd's quota at which free space inside the database is given back.
	quotaToDefragment = 0.8
)

const balancerDetail = "load-balancer"

// Repairs finds what is broken and can be repaired, the most urgent first. Each repair is judged on its own: its plan is what is done
// if nothing else changes. Notes say what is left as it is, and why. The bundle is the one that the hosts run; without one
// (an empty digest), programs and images are left as they are.
func Repairs(s *cluster.State, bundle Bundle) (out []Repair, notes []string, _ error) {
	if r := repairable(s); r != nil {
		return nil, nil, r
	}
	b := mender(s, bundle)
	b.restoreAll()
	for _, kind := range repairs {
		for _, c := range kind.find(b) {
			r := Repair{Name: kind.name, Host: c.host, Of: c.of, How: c.how, Problem: c.problem, Looks: kind.looks, AnHour: kind.anHour}
			if c.refused != nil {
				r.Refused = c.refused
			} else if err := c.fold(); err != nil {
				r.Refused = err
			} else {
				r.Plan = c.out
				r.Plan.Steps = c.list()
			}
			out = append(out, r)
		}
	}
	for _, name := range s.InMaintenance() {
		notes = append(notes, name+" is in maintenance and is left as it is")
	}
	for _, h := range s.Present().Spec.Hosts {
		if s.NotesMaintenance(h.Name) {
			notes = append(notes, h.Name+" notes that it is in maintenance, the API cannot be asked, and it is left as it is; `quorate apply` restores it all the same")
		}
	}
	if why := b.keepsFiles(); why != "" {
		notes = append(notes, why+": the contents of files on hosts are left as they are, and only what is missing or stopped is restored; `quorate plan` shows the differences")
	}
	return out, notes, nil
}

// repairable refuses to repair what is no complete cluster of Quorate's.
func repairable(s *cluster.State) *cluster.Refusal {
	if conflicts := s.Conflicts(); len(conflicts) > 0 {
		return conflicts[0]
	}
	if r := cmp.Or(s.Vanished(), s.UnfinishedReset(), s.UnfinishedRestore(""), s.OneEtcd(), s.OtherMachines()); r != nil {
		return r
	}
	switch s.Stage() {
	case cluster.Complete:
		return nil
	case cluster.Unresponsive:
		if s.Marked() {
			return nil
		}
		fallthrough
	case cluster.Foreign:
		return refused(RuleRepairable, "Quorate did not build this cluster, and has not adopted it", "Repair it with the tools that built it, or adopt it: `quorate apply --adopt`.")
	}
	return s.Incomplete(RuleRepairable, "`quorate apply` builds it, or finishes its build.")
}

// mender is a builder that restores what was there.
func mender(s *cluster.State, bundle Bundle) *builder {
	b := &builder{State: s, c: s.Spec, bundle: bundle, at: map[string]*hostSteps{}, mends: true, repairs: true}
	b.out = &Plan{Cluster: s.Spec.Metadata.Name, Bundle: bundle.Digest, Bundles: bundle.Others, Steps: []Step{}}
	for _, h := range s.Present().Spec.Hosts {
		b.at[h.Name] = &hostSteps{}
	}
	return b
}

// remedy is the builder of one repair.
type remedy struct {
	*builder
	host, problem, of, how string
	refused                *cluster.Refusal
}

func (b *builder) remedy(host, problem string) *remedy {
	r := &remedy{builder: mender(b.State, b.bundle), host: host, problem: problem}
	r.mends = false
	return r
}

// fold evaluates the changes of the repair.
func (c *remedy) fold() *cluster.Refusal {
	err := c.builder.fold()
	if r, ok := err.(*cluster.Refusal); ok { //nolint:errorlint // fold returns nothing else
		return r
	}
	return nil
}

// restoreAll plans everything of apply's plan that only restores.
func (b *builder) restoreAll() {
	if b.Seen.API == nil {
		b.keepEndpoints()
	}
	b.restoreHosts()
	if b.Seen.API == nil {
		return
	}
	b.shareEtcdClient(nil, nil)
	if b.keepsFiles() == "" {
		for _, h := range b.c.Spec.Hosts {
			if b.Reachable(h.Name) && b.partOf(h) {
				b.relabel(h)
			}
		}
	}
	if !b.DNSSpread() {
		b.spreadDNS()
	}
	b.restoreBudgets()
	if b.keepsFiles() == "" && !b.endpointMoves() {
		b.publishEndpoint()
		b.onlyEndpoint()
	}
}

// partOf says that a host is part of the cluster, and not one that is yet to join.
func (b *builder) partOf(h spec.Host) bool {
	if record, err := b.Record(); err == nil && record != nil {
		_, was := record.Cluster().Host(h.Name)
		return was
	}
	return b.State.Joined(h)
}

// keepsFiles says why repairs do not change the contents of files: the spec, or the version of Quorate, is not the one that was
// applied, and a repair must not apply it.
func (b *builder) keepsFiles() string {
	if why := edited(b.State, func(spec.Edit) bool { return true }); why != "" {
		return why
	}
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil && f.Self == facts.OtherCopy {
			return "another version of Quorate configured " + h.Name
		}
	}
	return ""
}

// edited says how the spec was edited since it was applied, in a way that counts, or that nobody can tell; empty if it was not.
func edited(s *cluster.State, counts func(spec.Edit) bool) string {
	record, err := s.Record()
	if err != nil || record == nil {
		return "the spec that was applied last could not be read"
	}
	for _, e := range record.Compare(s.Spec) {
		if counts(e) {
			return "the spec was edited since it was applied (" + e.String() + ")"
		}
	}
	return ""
}

// onlyRestored is the configuration of a host as far as a repair restores it.
func (b *builder) onlyRestored(d facts.Desired, f *facts.Facts) facts.Desired {
	if !b.mends {
		return d
	}
	keeps := b.keepsFiles() != ""
	has := func(file facts.File) bool { have, is := f.Files[file.Key()]; return is && have != file.Sum() }
	d.Files = slices.DeleteFunc(slices.Clone(d.Files), func(file facts.File) bool {
		return has(file) && keeps || b.bundle.Pause == "" && file.Path == containerdFile && f.Files[file.Key()] != file.Sum()
	})
	d.Absent = nil
	if f.Self != facts.MissingCopy {
		d.Self = ""
	}
	return d
}

// containerdFile names the image of a pod's first container, which only the bundle knows.
const containerdFile = "/etc/containerd/config.toml"

// steps are the steps of a kind that wait for no other one. Each is a repair of its own.
func steps(kind Kind, detail string) func(*builder) []*remedy {
	return func(b *builder) (out []*remedy) {
		for _, s := range b.ofKind(kind) {
			if kind == Configure && (s.Detail == balancerDetail) != (detail == balancerDetail) || len(s.Needs) > 0 {
				continue
			}
			c := b.remedy(s.Host, s.Reason)
			c.of = s.Detail
			c.add(*s)
			out = append(out, c)
		}
		return out
	}
}

// expiredCertificates are those without which the API cannot be used. Nothing else that is broken says more than they do, and new ones
// need the keys of authorities and an order of their own: that is apply's.
func expiredCertificates(b *builder) []*remedy {
	if b.Seen.API != nil {
		return nil // see kubelet-identity; apply renews the others, and findings tell of them
	}
	var on []string
	for _, h := range b.c.Spec.Hosts {
		if b.partOf(h) && (len(b.ExpiredOn(h.Name)) > 0 || b.TrustsExpired(h.Name)) {
			on = append(on, h.Name)
		}
	}
	if len(on) == 0 {
		return nil
	}
	c := b.remedy("", "certificates on "+cluster.List(on)+" have expired, and the API does not answer")
	c.refused = refused(RuleRepairable, c.problem, "Run `quorate apply`: it issues new certificates over SSH alone. `quorate certs` shows them.")
	return []*remedy{c}
}

// strayAlarms are alarms that say nothing about a member of etcd.
func strayAlarms(b *builder) (out []*remedy) {
	if b.c.ExistingEtcd() {
		return nil
	}
	for _, alarm := range b.StrayAlarms() {
		c := b.remedy("", "etcd has the alarm "+alarm+" of a member that was removed")
		c.add(Step{Kind: EndAlarms, Detail: "stray", Title: "end alarms of former members", Reason: c.problem})
		return []*remedy{c} // all of them together
	}
	for _, m := range b.Seen.Etcd {
		if b.FalseAlarm(m) {
			c := b.remedy(b.MemberHost(m), "the alarm CORRUPT of "+m.Name+" is raised, and its data is that of the others")
			c.add(Step{Kind: EndAlarms, Detail: "corrupt", MemberID: m.ID, Title: "end the alarm CORRUPT of " + m.Name, Reason: c.problem})
			out = append(out, c)
		}
	}
	return out
}

// fullEtcd is an etcd that has no space, or soon will not have any although most of it is free.
func fullEtcd(b *builder) []*remedy {
	if b.c.ExistingEtcd() {
		return nil
	}
	var problem string
	for _, m := range b.Seen.Etcd {
		used := float64(m.DBSizeBytes) / float64(cmp.Or(m.QuotaBytes, hostconfig.EtcdQuota))
		switch {
		case slices.Contains(m.Alarms, facts.AlarmNoSpace):
			problem = "etcd has no space and refuses every write: " + m.Name + " has raised the alarm " + facts.AlarmNoSpace
		case problem == "" && used >= quotaToDefragment && m.InUseBytes > 0 && m.InUseBytes < m.DBSizeBytes/2:
			problem = fmt.Sprintf("the database of %s uses %.0f %% of its quota, and most of it is free space", m.Name, 100*used)
		}
	}
	if problem == "" {
		return nil
	}
	c := b.remedy("", problem)
	c.add(Step{Kind: CompactEtcd, Title: "compact etcd", Reason: "old revisions are forgotten"})
	members := slices.Clone(b.Seen.Etcd)
	slices.SortStableFunc(members, func(x, y facts.EtcdMember) int { return leads(x) - leads(y) })
	for _, m := range members {
		if m.Learner || !m.Started || m.Unknown != "" {
			continue
		}
		host := b.MemberHost(m)
		reason := "the space that old revisions used is given back"
		if m.Leader {
			reason += "; the leader is last, because nobody can write while it works"
		}
		c.addInTurn(Step{Kind: DefragmentEtcd, Host: host, Title: "defragment the etcd member", Reason: reason, Change: change(cluster.Defragment, cluster.EtcdMember, host)}, c.all()...)
	}
	if strings.Contains(problem, facts.AlarmNoSpace) {
		c.add(Step{Kind: EndAlarms, Detail: "nospace", Title: "end the alarm " + facts.AlarmNoSpace, Reason: "etcd accepts writes again"}, c.all()...)
	}
	return []*remedy{c}
}

func leads(m facts.EtcdMember) int {
	if m.Leader {
		return 1
	}
	return 0
}

// untrustedMembers are those whose data must not be used any more.
func untrustedMembers(b *builder) (out []*remedy) {
	if b.c.ExistingEtcd() {
		return nil
	}
	for _, m := range b.Seen.Etcd {
		h, known := b.c.Host(b.MemberHost(m))
		why := b.UntrustedData(m)
		if why == "" || !known || b.Facts(h.Name) == nil {
			continue
		}
		c := b.remedy(h.Name, why)
		c.replaceMember(h, m)
		out = append(out, c)
	}
	return out
}

// replaceMember removes a member, and has its host join etcd again with an empty directory.
func (c *remedy) replaceMember(h spec.Host, m facts.EtcdMember) {
	if k := c.Facts(h.Name).Kubernetes; k.Adopted && k.EtcdData {
		c.refused = refused(RuleRepairable, h.Name+" was set up without Quorate, and so was its etcd member", "Replace the host: take it out of the spec, run `quorate apply`, add it again, and run `quorate apply` once more.")
		return
	}
	if m.Healthy && m.Leader {
		c.moveLeadership(h.Name, "a member whose data is wrong must not lead, and its removal costs no election")
	}
	if c.c.StackedEtcd() && c.APIServer(h.Name).OK {
		c.leavePools(h.Name, "its API server reads from the member that is replaced")
	}
	c.stopAPIServer(h, c.all()...)
	c.addInTurn(c.removeMember(h, m, c.problem))
	if slices.Contains(m.Alarms, facts.AlarmCorrupt) {
		c.last = c.add(Step{Kind: EndAlarms, Detail: "stray", Title: "end alarms of former members", Reason: "the alarm of the member that was removed counts for all others"}, c.all()...)
	}
	c.rejoin(h)
}

// The remedies of a member that lags, as of Repair.How, and for how long they count: one that lags again within the first time is replaced, and
// nothing is done within the second one after it was replaced. A host that is too slow would otherwise get new data, and keep the old, again and again.
const (
	lagRepair      = "etcd-lag"
	lagRestart     = "restart"
	lagReplace     = "replace"
	restartCounts  = time.Hour
	replacedCounts = 24 * time.Hour
)

// laggingMembers are those that stay far behind the leader and do not come closer.
func laggingMembers(b *builder) (out []*remedy) {
	if b.c.ExistingEtcd() {
		return nil
	}
	for _, m := range b.Seen.Etcd {
		h, known := b.c.Host(b.MemberHost(m))
		_, away := b.Maintenance(h.Name)
		f := b.Facts(h.Name)
		if !known || f == nil || away || b.NotesMaintenance(h.Name) || !b.Lags(m) || m.CatchesUp || b.UntrustedData(m) != "" {
			continue
		}
		c := b.remedy(h.Name, fmt.Sprintf("its etcd member is %d entries of the log behind the leader, and does not catch up", m.Behind))
		switch {
		case f.TriedWithin(lagRepair, lagReplace, replacedCounts):
			c.how = lagReplace
			c.refused = refused(RuleRepairable, "the etcd member of "+h.Name+" was restarted and replaced because it was far behind the leader, and is again",
				"Its host is too slow for etcd: look at its disk (`etcd_disk_wal_fsync_duration_seconds` in the metrics of the member), its CPUs, and its network. Give it a faster disk, or put another host into the spec.")
		case !f.TriedWithin(lagRepair, lagRestart, restartCounts):
			c.how = lagRestart
			c.restartMember(h)
		default:
			c.how = lagReplace
			c.replaceMember(h, m)
		}
		out = append(out, c)
	}
	return out
}

// restartMember restarts the member of a host; where etcd is stacked, together with the API server that reads from it.
func (c *remedy) restartMember(h spec.Host) {
	if !c.c.StackedEtcd() {
		c.addInTurn(Step{Kind: RestartUnit, Host: h.Name, Detail: hostconfig.EtcdUnit, Restart: []string{hostconfig.EtcdUnit}, Title: "restart " + hostconfig.EtcdUnit, Reason: c.problem,
			Change: change(cluster.Restart, cluster.EtcdMember, h.Name)})
		return
	}
	serves := c.APIServer(h.Name).OK
	if serves {
		c.leavePools(h.Name, "its API server restarts with the member that it reads from")
	}
	programs := []string{facts.Etcd, facts.APIServer}
	c.addInTurn(Step{Kind: RestartPrograms, Host: h.Name, Title: "restart " + cluster.List(programs), Pods: programs, Reason: c.problem,
		Change: change(cluster.Restart, restartedPart(programs), h.Name)}, c.all()...)
	if serves {
		c.joinPools(h.Name, "it works again", c.all()...)
	}
}

// missingMembers are hosts of which etcd has no member, or one that never started, although they are part of the cluster.
func missingMembers(b *builder) (out []*remedy) {
	if b.c.ExistingEtcd() || len(b.Seen.Etcd) == 0 {
		return nil
	}
	for _, h := range b.c.EtcdHosts() {
		f := b.Facts(h.Name)
		if f == nil || !b.partOf(h) || f.Kubernetes.Adopted || h.IsNode() && !f.Kubernetes.KubeletConfig {
			continue
		}
		m, has := b.Member(h.Name)
		switch {
		case !has:
			problem := "it is an etcd host, and etcd has no member for it"
			if id := b.Seen.AbandonedOn(h.Name); id != "" {
				problem = "its etcd member belongs to the cluster " + id + ", which a recovery has replaced"
			}
			c := b.remedy(h.Name, problem)
			c.rejoin(h)
			out = append(out, c)
		case m.Learner && b.UntrustedData(m) == "":
			c := b.remedy(h.Name, "its etcd member is a learner, and nobody promotes it")
			c.rejoin(h)
			out = append(out, c)
		}
	}
	return out
}

// rejoin has a host whose member is not in etcd, or was removed in the same plan, join again with an empty directory.
func (c *remedy) rejoin(h spec.Host) {
	k := c.Facts(h.Name).Kubernetes
	m, has := c.Member(h.Name)
	own := has && m.Learner && m.Started && c.UntrustedData(m) == "" // its own join goes on with the data that it has
	c.stopAPIServer(h, c.all()...)
	if k.EtcdData && !own {
		c.addInTurn(Step{Kind: SetAsideEtcd, Host: h.Name, Title: "set the member's data aside", Reason: "it is kept, and a new member begins with an empty directory",
			Change: change(cluster.Clear, cluster.EtcdMember, h.Name)}, c.all()...)
	}
	kind := JoinEtcd
	if c.c.StackedEtcd() {
		kind = RejoinEtcd
	}
	join := c.addInTurn(Step{Kind: kind, Host: h.Name, Title: "join etcd", Reason: "it joins as a learner, and gets its vote when it has caught up",
		Change: change(cluster.Add, cluster.EtcdMember, h.Name)}, c.all()...)
	c.markEstablishedOn(h, join)
	if c.c.StackedEtcd() {
		c.startAPIServer(h)
	}
	if c.drained(h.Name) || len(c.ofKind(LeavePools)) > 0 {
		c.joinPools(h.Name, "its API server has its etcd member again", c.all()...)
	}
}

func (c *remedy) startAPIServer(h spec.Host) {
	c.addInTurn(Step{Kind: StartPrograms, Host: h.Name, Title: "start the API server", Pods: []string{facts.APIServer},
		Reason: "it has its etcd member again", Change: change(cluster.Start, cluster.APIPrograms, h.Name)}, c.all()...)
}

// withdrawnServers are control planes that are not in maintenance, and whose programs an interrupted run stopped.
func withdrawnServers(b *builder) (out []*remedy) {
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		f := b.Facts(h.Name)
		if f == nil || b.Seen.API == nil {
			continue // without an API, they may be stopped for a recovery of the quorum
		}
		m, member := b.Member(h.Name)
		pods := slices.DeleteFunc(slices.Clone(f.Kubernetes.Withdrawn), func(pod string) bool { return !slices.Contains(controlPlanePods, pod) })
		if len(pods) == 0 || b.c.StackedEtcd() && (!member || m.Learner || !m.Healthy) {
			continue // it needs its member first
		}
		c := b.remedy(h.Name, "it is not in maintenance, and "+cluster.List(pods)+" were stopped")
		c.addInTurn(Step{Kind: StartPrograms, Host: h.Name, Title: "start what was stopped", Pods: pods, Reason: c.problem, Change: change(cluster.Start, cluster.APIPrograms, h.Name)})
		out = append(out, c)
	}
	return out
}

// drainedServers are control planes that work, are not in maintenance, and get no clients.
func drainedServers(b *builder) (out []*remedy) {
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if b.Seen.API == nil || !b.drained(h.Name) || b.Facts(h.Name) == nil || !b.APIServer(h.Name).OK {
			continue
		}
		if m, member := b.Member(h.Name); b.c.StackedEtcd() && (!member || m.Learner) {
			continue // it has not joined etcd again since the quorum was recovered without it
		}
		if len(b.FormerEtcd(h.Name)) > 0 {
			continue // apply restarts its API server with etcd's members of today first
		}
		c := b.remedy(h.Name, "it works, it is not in maintenance, and the load balancers send it no clients")
		c.joinPools(h.Name, c.problem)
		out = append(out, c)
	}
	return out
}

// hungUnits are programs that run and do not answer.
func hungUnits(b *builder) (out []*remedy) {
	hang := func(h spec.Host, unit string, part cluster.Part, what, why string) {
		f := b.Facts(h.Name)
		if why == "" || f.Units[unit] != "active" || slices.ContainsFunc(b.ofKind(Configure), func(s *Step) bool { return s.Host == h.Name }) {
			return
		}
		c := b.remedy(h.Name, what+" runs and does not answer as it should: "+why)
		c.of = unit
		c.add(Step{Kind: RestartUnit, Host: h.Name, Detail: unit, Restart: []string{unit}, Title: "restart " + unit, Reason: why, Change: change(cluster.Restart, part, h.Name)})
		out = append(out, c)
	}
	for _, h := range b.c.Spec.Hosts {
		if b.Facts(h.Name) == nil || !b.partOf(h) || b.leftAsItIs(h) || len(b.ExpiredOn(h.Name)) > 0 || b.TrustsExpired(h.Name) {
			continue // a restart does not help against a certificate that has expired
		}
		seen := b.Seen.Hosts[h.Name]
		hang(h, "kubelet.service", cluster.Node, facts.Kubelet, seen.Components[facts.Kubelet].Problem)
		hang(h, "containerd.service", cluster.Node, facts.Containerd, seen.Components[facts.Containerd].Problem)
		if seen.Balancer.Balances() {
			hang(h, "haproxy.service", cluster.LoadBalancer, facts.HAProxy, b.LoadBalancer(h.Name).Problem)
		}
		// A member that describes itself answers: one without a leader waits for others, and a restart does not bring them back.
		if m, has := b.Member(h.Name); has && h.Has(spec.RoleEtcd) && m.ClusterID == "" && m.Started && len(m.Alarms) == 0 && b.Facts(h.Name).Kubernetes.EtcdFailure == nil {
			hang(h, hostconfig.EtcdUnit, cluster.EtcdMember, facts.EtcdProgram, m.Problem)
		}
	}
	return out
}

// fullDisks are hosts that are short of space, and have something of Quorate's that nobody needs.
func fullDisks(b *builder) (out []*remedy) {
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if f == nil || !b.partOf(h) || b.FullDisk(h.Name) == "" && b.Pressed(h.Name) == "" {
			continue
		}
		bundles, size := b.unneededBundles(h)
		if size += f.Kubernetes.Removable; size == 0 {
			continue
		}
		c := b.remedy(h.Name, fmt.Sprintf("a disk is almost full, and %d MiB on it are what Quorate put there and does not need", size>>20))
		c.add(Step{Kind: FreeDisk, Host: h.Name, Title: "remove what Quorate does not need", Reason: c.problem, Bundles: bundles})
		out = append(out, c)
	}
	return out
}

// unneededBundles are the bundles on a host from which nothing runs in the whole cluster, and how many bytes they have there. None is known to be
// while a host cannot be queried, while hosts run from several bundles, and while the spec that was applied last is another one: the version may
// be about to change, or to change back.
func (b *builder) unneededBundles(of spec.Host) (digests []string, sum int64) {
	used := map[string]bool{}
	for _, h := range b.Present().Spec.Hosts {
		f := b.Facts(h.Name)
		if f == nil {
			return nil, 0
		}
		for _, d := range append(slices.Collect(maps.Values(f.Programs)), f.Binaries, f.Images) {
			used[d] = true
		}
	}
	delete(used, "")
	if len(used) != 1 || b.keepsFiles() != "" || b.leftAsItIs(of) {
		return nil, 0
	}
	for d, n := range b.Facts(of.Name).Unused {
		if d != "" && !used[d] {
			digests, sum = append(digests, d), sum+n
		}
	}
	slices.Sort(digests)
	return digests, sum
}
