// Package metrics shows the state of a cluster as Prometheus metrics. It renders a cluster.State, which is where everything is evaluated;
// nothing is decided here, and nothing is observed when somebody asks.
package metrics

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// MaxAge is how old an observation may be. Of an older one, only the time is exposed: what was true then may not be true now.
const MaxAge = 2 * time.Minute

// Family is one metric: a name, what it says, and its labels. Every one has the label cluster in addition.
type Family struct {
	Name, Help string
	Labels     []string

	desc *prometheus.Desc
}

// Families are all metrics, sorted by name.
func Families() []*Family {
	return slices.SortedFunc(slices.Values(families), func(a, b *Family) int { return strings.Compare(a.Name, b.Name) })
}

var families []*Family

func define(name, help string, labels ...string) *Family {
	f := &Family{Name: "quorate_" + name, Help: help, Labels: labels}
	f.desc = prometheus.NewDesc(f.Name, help, append([]string{"cluster"}, labels...), nil)
	families = append(families, f)
	return f
}

// The metrics. A metric of something that could not be queried is absent, and unknown names it: unknown is not down.
var (
	buildInfo = define("build_info", "The version of the program that exposes these metrics; always 1.", "version")
	leads     = define("exporter_leader", "1 on the control plane that observes the cluster and exposes its metrics, 0 on the others.")
	said      = define("exporter_snapshot_age_seconds", "How long ago the unit that observes last said what this control plane exposes, or that it still holds. It is absent while that unit does not run.")

	observed  = define("observation_timestamp_seconds", "When the cluster was last observed, in seconds since 1970. All other metrics of the cluster are as old as that.")
	complete  = define("observation_complete", "1 if everything could be queried, 0 if something is unknown. Margins count what is unknown as failed.")
	unknown   = define("unknown", "Something that could not be queried; always 1. It may work. Metrics about it are absent.", "part", "host")
	info      = define("cluster_info", "What the cluster is: the version of its spec, and whether it is complete; always 1.", "version", "stage", "topology", "placement")
	margin    = define("margin", "How many more failures of one kind the cluster survives now. -1: it does not work.", "of")
	intended  = define("margin_intended", "How many failures of one kind the cluster survives when everything in its spec works.", "of")
	findings  = define("findings", "How many things are known to be wrong, by rule and severity: what is unknown is not counted. docs/findings.md lists the rules.", "rule", "severity")
	hostInfo  = define("host_info", "A host of the spec, its zone, and its roles, joined by commas; always 1. Nodes have the same name.", "host", "zone", "roles")
	reachable = define("host_reachable", "1 if the host could be reached, 0 if not. A host that cannot be reached may work.", "host")
	other     = define("host_other_build", "1 if the copy of quorate on the host is of another build than the one that observes, as while an apply replaces them, 0 if not. Then nothing is known of the host but that it can be reached.", "host")
	withdrawn = define("host_in_maintenance", "1 if the host is in maintenance, 0 if not.", "host")
	nodeReady = define("node_ready", "1 if the Kubernetes node is Ready, 0 if not.", "node")
	endpoint  = define("endpoint_up", "1 if the endpoint of the API answers a host, 0 if it answers none.")

	programInfo = define("program_info", "The version in which a program runs on a host, which is not always the one that is installed; always 1.", "host", "program", "version")
	programUp   = define("program_up", "1 if a program of the cluster works on a host, 0 if not.", "host", "program")

	memberInfo    = define("etcd_member_info", "An etcd member: its ID and its version; always 1.", "member", "id", "version")
	memberUp      = define("etcd_member_up", "1 if the etcd member works, 0 if not.", "member")
	memberLeader  = define("etcd_member_leader", "1 if the etcd member leads, 0 if not.", "member")
	memberLearner = define("etcd_member_learner", "1 if the etcd member is a learner, which has no vote, 0 if it votes.", "member")
	memberSize    = define("etcd_member_database_size_bytes", "The size of the member's database.", "member")
	memberInUse   = define("etcd_member_database_in_use_bytes", "The part of the member's database that holds data. Defragmentation frees the rest.", "member")
	memberQuota   = define("etcd_member_quota_bytes", "The size at which etcd refuses writes.", "member")
	memberAlarm   = define("etcd_member_alarm", "An alarm of etcd that holds for the member; always 1.", "member", "alarm")
	memberTerm    = define("etcd_member_raft_term", "The Raft term in which the etcd member is. It grows with every election of a leader.", "member")
	memberBehind  = define("etcd_member_behind_entries", "By how many entries of the log the member stays behind the leader, if these are thousands; otherwise 0.", "member")

	memberFsync = define("etcd_member_wal_fsync_duration_seconds", "A histogram of how long the writes of an etcd member to its log took until they were on the disk.", "member")

	balancerUp       = define("load_balancer_up", "1 if the load balancer can serve clients, 0 if not.", "host")
	balancerActive   = define("load_balancer_active", "1 if the load balancer has the virtual IP, 0 if not.", "host")
	balancerServer   = define("load_balancer_server_up", "1 if the load balancer sends clients to the API server, 0 if its check fails or the server is drained.", "host", "server")
	balancerSessions = define("load_balancer_server_sessions", "The connections that the API server has through the load balancer.", "host", "server")

	certificate = define("certificate_expiration_timestamp_seconds", "When a certificate expires, in seconds since 1970, and who renews it.", "host", "name", "renewed_by")

	backupEvery  = define("backup_interval_seconds", "Time between two scheduled backups.")
	backupLast   = define("backup_last_success_timestamp_seconds", "When the last good backup was taken, in seconds since 1970; 0 if there never was one.")
	backupBytes  = define("backup_last_success_size_bytes", "The size of the last good backup.")
	backupFailed = define("backup_last_failure_timestamp_seconds", "When a host whose last attempt to take a backup failed made it, in seconds since 1970. It is absent for the others.", "host")

	drillEnded  = define("drill_last_timestamp_seconds", "When the last drill ended, in seconds since 1970; 0 if there never was one.")
	drillPassed = define("drill_last_passed", "1 if the last drill as a whole passed, 0 if not.")
	drillFaults = define("drill_last_faults", "How many faults of one kind the last drill injected, by verdict: passed, missed, or invalid.", "fault", "verdict")
	drillLost   = define("drill_last_lost_writes", "How many acknowledged writes were lost in the last drill.")
)

// The kinds of margins, as values of the label of.
const (
	OfControlPlanes = "control_planes"
	OfEtcdMembers   = "etcd_members"
	OfLoadBalancers = "load_balancers"
	OfZones         = "zones"
)

// The parts that can be unknown, as values of the label part. Programs are there by their names.
const (
	PartHost         = "host"
	PartAPI          = "api"
	PartEtcd         = "etcd"
	PartEndpoint     = "endpoint"
	PartLoadBalancer = "load-balancer"
	PartBackups      = "backups"
)

// batch collects metrics of one cluster.
type batch struct {
	cluster string
	out     []prometheus.Metric
	had     map[string]bool
	blind   bool // something is unknown
}

// put adds a metric. One that is there with these labels stays as it is: a client rejects all metrics if one of them is there twice, and some
// things have no unique name, such as the certificates in one file, of which the first to expire comes first.
func (b *batch) put(f *Family, value float64, labels ...string) {
	if all, first := b.labels(f, labels); first {
		b.out = append(b.out, prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, value, all...))
	}
}

// labels are the values of all labels, and whether the metric is the first one with them.
func (b *batch) labels(f *Family, labels []string) (all []string, first bool) {
	all = []string{b.cluster}
	for _, l := range labels {
		all = append(all, strings.ToValidUTF8(l, "\ufffd"))
	}
	key := f.Name + "\x00" + strings.Join(all, "\x00")
	if b.had[key] {
		return nil, false
	}
	if b.had == nil {
		b.had = map[string]bool{}
	}
	b.had[key] = true
	return all, true
}

// answer exposes whether something works, if that is known.
func (b *batch) answer(f *Family, a facts.Answer, part, host string, labels ...string) {
	if !a.Known() {
		b.missing(part, host)
		return
	}
	b.put(f, bit(a.OK), labels...)
}

func (b *batch) missing(part, host string) {
	b.blind = true
	b.put(unknown, 1, part, host)
}

func bit(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (b *batch) state(s *cluster.State) {
	c := s.Spec.Spec
	b.put(info, 1, c.Kubernetes.Version, string(s.Stage()), c.ControlPlane.Topology, c.ControlPlane.Placement)
	b.margins(margin, s.Margins())
	b.margins(intended, quorum.Survives(cluster.Intended(s.Spec)))
	b.findings(s)
	b.hosts(s)
	b.programs(s)
	b.etcd(s)
	b.balancers(s)
	for _, x := range s.Certificates() {
		b.put(certificate, seconds(x.Expires), x.Host, x.Name, string(s.Renewer(x)))
	}
	b.backups(s)
	b.drill(s)
	b.put(complete, bit(!b.blind))
}

func (b *batch) margins(f *Family, m quorum.Margins) {
	b.put(f, float64(m.ControlPlanes), OfControlPlanes)
	b.put(f, float64(m.Etcd), OfEtcdMembers)
	b.put(f, float64(m.Zones), OfZones)
	if m.LoadBalancers != nil {
		b.put(f, float64(*m.LoadBalancers), OfLoadBalancers)
	}
}

// findings counts all rules, so that a rule that finds nothing differs from one that was not evaluated.
func (b *batch) findings(s *cluster.State) {
	type key struct {
		rule     string
		severity cluster.Severity
	}
	count := map[key]int{}
	for _, r := range cluster.Rules {
		for _, severity := range r.Severities {
			count[key{r.ID, severity}] = 0
		}
	}
	for _, f := range s.Findings() {
		count[key{f.Rule, f.Severity}]++
	}
	for k, n := range count {
		b.put(findings, float64(n), k.rule, string(k.severity))
	}
}

func (b *batch) hosts(s *cluster.State) {
	for _, h := range s.Spec.Spec.Hosts {
		b.put(hostInfo, 1, h.Name, h.Zone, strings.Join(h.Roles, ","))
		differs := s.Seen.Hosts[h.Name].OtherBuild
		b.put(reachable, bit(s.Reachable(h.Name) || differs), h.Name)
		b.put(other, bit(differs), h.Name)
		if !s.Reachable(h.Name) {
			b.missing(PartHost, h.Name)
		}
		if s.Seen.API != nil {
			_, in := s.Maintenance(h.Name)
			b.put(withdrawn, bit(in), h.Name)
		}
	}
	if s.Stage() == cluster.Absent {
		return
	}
	b.answer(endpoint, s.Endpoint(), PartEndpoint, "")
	if s.Seen.API == nil {
		b.missing(PartAPI, "")
		return
	}
	for _, n := range s.Seen.API.Nodes {
		b.put(nodeReady, bit(n.Ready), n.Name)
	}
}

// programs exposes those of hosts that could be reached: of the others, everything is unknown.
func (b *batch) programs(s *cluster.State) {
	for _, v := range s.Versions() {
		for _, h := range v.Hosts {
			b.put(programInfo, 1, h, v.Program, v.Version)
		}
	}
	for _, h := range s.Spec.Spec.Hosts {
		if !s.Reachable(h.Name) {
			continue
		}
		seen := s.Seen.Hosts[h.Name]
		for _, name := range slices.Sorted(maps.Keys(seen.Components)) {
			b.answer(programUp, seen.Components[name].Answer, name, h.Name, h.Name, name)
		}
		if seen.APIServer != nil {
			b.answer(programUp, *seen.APIServer, facts.APIServer, h.Name, h.Name, facts.APIServer)
		}
	}
}

func (b *batch) etcd(s *cluster.State) {
	if s.Seen.Etcd == nil && s.Exists() {
		b.missing(PartEtcd, "")
	}
	for _, m := range s.Seen.Etcd {
		if m.Stranger() {
			continue // it belongs to another cluster
		}
		name := s.MemberHost(m)
		b.put(memberInfo, 1, name, m.ID, m.Version)
		b.put(memberLearner, bit(m.Learner), name)
		b.answer(memberUp, facts.Answer{OK: m.Healthy, Problem: m.Problem, Unknown: m.Unknown}, facts.Etcd, name, name)
		for _, a := range slices.Compact(slices.Sorted(slices.Values(m.Alarms))) {
			b.put(memberAlarm, 1, name, a)
		}
		if d := s.Seen.Hosts[name].EtcdDisk; d != nil {
			b.fsyncs(d, name)
		}
		if m.Unknown != "" || m.ClusterID == "" {
			continue // the others know only that it exists
		}
		b.put(memberLeader, bit(m.Leader), name)
		b.put(memberSize, float64(m.DBSizeBytes), name)
		b.put(memberInUse, float64(m.InUseBytes), name)
		b.put(memberBehind, float64(m.Behind), name)
		if m.RaftTerm > 0 {
			b.put(memberTerm, float64(m.RaftTerm), name)
		}
		if m.QuotaBytes > 0 {
			b.put(memberQuota, float64(m.QuotaBytes), name)
		}
	}
}

func (b *batch) fsyncs(d *facts.Durations, member string) {
	buckets := map[float64]uint64{}
	for _, w := range d.Within {
		buckets[w.Seconds] = w.Count
	}
	if all, first := b.labels(memberFsync, []string{member}); first {
		b.out = append(b.out, prometheus.MustNewConstHistogram(memberFsync.desc, d.Count, d.Seconds, buckets, all...))
	}
}

func (b *batch) balancers(s *cluster.State) {
	if s.Spec.Spec.LoadBalancer.Type != spec.BalancerManaged || s.Stage() == cluster.Absent {
		return
	}
	holders, unsure := s.Holders()
	for _, h := range s.Spec.BalancerHosts() {
		b.answer(balancerUp, s.Serves(h.Name), PartLoadBalancer, h.Name, h.Name)
		if !slices.Contains(unsure, h.Name) {
			b.put(balancerActive, bit(slices.Contains(holders, h.Name)), h.Name)
		}
		if seen := s.Seen.Hosts[h.Name].Balancer; seen != nil {
			for _, x := range seen.Backends {
				b.put(balancerServer, bit(x.Healthy && !x.Drained), h.Name, x.Name)
				b.put(balancerSessions, float64(x.Sessions), h.Name, x.Name)
			}
		}
	}
}

func (b *batch) backups(s *cluster.State) {
	if !s.Spec.Spec.Backup.Given() || !s.Exists() {
		return
	}
	if every := s.Spec.Spec.Backup.Interval(); every > 0 {
		b.put(backupEvery, every.Seconds())
	}
	if s.Seen.Backups == nil || s.Seen.Backups.Report == nil {
		b.missing(PartBackups, "")
		return
	}
	r := s.Seen.Backups.Report
	switch {
	case r.Last == nil:
		b.put(backupLast, 0)
	case !r.FromTheFuture(): // otherwise nobody knows how old it is
		b.put(backupLast, seconds(r.Last.Time))
		b.put(backupBytes, float64(r.Last.Bytes))
	}
	for _, host := range slices.Sorted(maps.Keys(r.Failed)) {
		b.put(backupFailed, seconds(r.Failed[host].Time), host)
	}
}

func (b *batch) drill(s *cluster.State) {
	if s.Seen.API == nil {
		return
	}
	d := s.Seen.API.LastDrill
	if d == nil {
		b.put(drillEnded, 0)
		return
	}
	b.put(drillEnded, seconds(d.Ended))
	b.put(drillPassed, bit(d.Pass))
	b.put(drillLost, float64(d.Lost))
	for _, name := range slices.Sorted(maps.Keys(d.Faults)) {
		v := d.Faults[name]
		b.put(drillFaults, float64(v.Passed), name, "passed")
		b.put(drillFaults, float64(v.Missed), name, "missed")
		b.put(drillFaults, float64(v.Invalid), name, "invalid")
	}
}
