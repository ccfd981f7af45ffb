package etcd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
)

// judge combines what members report about each other and about themselves.
func judge(answers []answer) ([]facts.EtcdMember, error) {
	clusters := map[uint64]*view{}
	var errs []error
	for _, a := range answers {
		if a.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.host, a.err))
			continue
		}
		id := a.status.Header.ClusterId
		v := clusters[id]
		if v == nil {
			v = &view{cluster: id, seen: map[uint64]*pb.StatusResponse{}}
			clusters[id] = v
		}
		v.seen[a.status.Header.MemberId] = a.status
		// Each member tells of the list that it has. The one that has applied most knows the latest changes.
		if at := a.status.RaftAppliedIndex; a.list != nil && (v.list == nil || at > v.listAt) {
			v.list, v.listAt = a.list.Members, at
		}
	}
	var views []*view
	for _, v := range clusters {
		if v.list != nil {
			views = append(views, v)
		}
	}
	if len(views) == 0 {
		return nil, fmt.Errorf("no etcd member answers: %w", errors.Join(errs...))
	}
	// More than one cluster is a catastrophe that must be reported. It is unknown which one is meant: one that works comes before members
	// that wait for others, then the one with the most members that answer, so that the result does not depend on timing.
	slices.SortFunc(views, func(a, b *view) int {
		return cmp.Or(b.works()-a.works(), len(b.seen)-len(a.seen), cmp.Compare(a.cluster, b.cluster))
	})
	out := views[0].members(answers)
	for _, other := range views[1:] {
		for _, m := range other.members(answers) {
			if m.ClusterID != hex(other.cluster) {
				continue // it does not say itself that it belongs there
			}
			m.Healthy, m.Leader, m.OtherCluster = false, false, m.ClusterID
			m.Problem = fmt.Sprintf("it belongs to the cluster %s, the others to %s", m.OtherCluster, hex(views[0].cluster))
			i := slices.IndexFunc(out, func(o facts.EtcdMember) bool { return o.Name == m.Name && o.ClusterID == "" })
			if i < 0 {
				out = append(out, m)
				continue
			}
			// The others count a member there, and it is not this one: what they know of it stays.
			m.Learner, m.Started, m.ID, m.PeerURL, m.ClusterID = out[i].Learner, out[i].Started, out[i].ID, out[i].PeerURL, ""
			out[i] = m
		}
	}
	slices.SortFunc(out, func(a, b facts.EtcdMember) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ClusterID, b.ClusterID), strings.Compare(a.ID, b.ID))
	})
	return out, nil
}

// view is one cluster as the members that report it see it.
type view struct {
	cluster uint64
	list    []*pb.Member
	listAt  uint64                        // the applied index of the member that gave the list
	seen    map[uint64]*pb.StatusResponse // by member
}

// works is 1 if a majority of the voters answers and has a leader, and 0 otherwise.
func (v *view) works() int {
	voters, follow := 0, 0
	for _, m := range v.list {
		if m.IsLearner {
			continue
		}
		voters++
		if s, answers := v.seen[m.ID]; answers && s.Leader != 0 {
			follow++
		}
	}
	if voters > 0 && follow >= quorum.Majority(voters) {
		return 1
	}
	return 0
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }

func (v *view) members(answers []answer) []facts.EtcdMember {
	alarms, raised := v.alarms()
	var out []facts.EtcdMember
	for _, e := range v.list {
		m := facts.EtcdMember{Name: e.Name, Learner: e.IsLearner, Started: e.Name != "", ID: hex(e.ID), Alarms: alarms[e.ID], Raised: raised[e.ID]}
		if len(e.PeerURLs) > 0 {
			m.PeerURL = e.PeerURLs[0]
		}
		routes := routesTo(e, answers)
		if !m.Started {
			m.Name = strings.Join(e.PeerURLs, ",")
			if len(routes) > 0 {
				m.Name = routes[0].host
			}
		}
		if s, ok := v.seen[e.ID]; ok {
			describe(&m, s)
		} else {
			m.Problem, m.Unknown = silence(m, routes)
		}
		out = append(out, m)
	}
	return out
}

// describe adds what a member reports about itself.
func describe(m *facts.EtcdMember, s *pb.StatusResponse) {
	m.ClusterID, m.Version = hex(s.Header.ClusterId), s.Version
	m.Leader = s.Leader == s.Header.MemberId
	m.DBSizeBytes, m.InUseBytes, m.QuotaBytes = s.DbSize, s.DbSizeInUse, s.DbSizeQuota
	m.StorageVersion = s.StorageVersion
	m.RaftTerm, m.AppliedIndex = s.RaftTerm, s.RaftAppliedIndex
	if s.DowngradeInfo.GetEnabled() {
		m.DowngradeTo = s.DowngradeInfo.GetTargetVersion()
	}
	var problems []string
	if s.Leader == 0 {
		problems = append(problems, "it has no leader")
	}
	for _, e := range s.Errors {
		if !alarm.MatchString(e) && !strings.HasSuffix(e, "no leader") {
			problems = append(problems, e)
		}
	}
	for _, a := range m.Alarms {
		problems = append(problems, "it has raised the alarm "+a)
	}
	m.Problem = strings.Join(problems, "; ")
	m.Healthy = m.Problem == ""
}

// silence is why a member has not described itself: it was queried and did not answer, or it could not be queried.
func silence(m facts.EtcdMember, routes []answer) (problem, unknown string) {
	var asked, not []string
	for _, r := range routes {
		switch {
		case r.err == nil: // another cluster's member is there, which the other view tells
		case unasked(r.err):
			not = append(not, reason(r))
		default:
			asked = append(asked, reason(r))
		}
	}
	switch {
	case len(asked) > 0:
		return join(asked), ""
	case len(not) > 0:
		return "", join(not)
	case !m.Started:
		return "it has never started", ""
	}
	return "", "no host can be used to query it"
}

// reason does not repeat the host that the session's errors begin with.
func reason(a answer) string { return strings.TrimPrefix(a.err.Error(), a.host+": ") }

func join(reasons []string) string {
	slices.Sort(reasons)
	return strings.Join(slices.Compact(reasons), "; ")
}

// routesTo finds the answers at the addresses that a member has.
func routesTo(m *pb.Member, answers []answer) (out []answer) {
	var hosts, addresses []string
	for _, raw := range m.PeerURLs {
		if u, err := url.Parse(raw); err == nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	for _, raw := range m.ClientURLs {
		if u, err := url.Parse(raw); err == nil {
			addresses = append(addresses, u.Host)
		}
	}
	for _, a := range answers {
		at, _, _ := net.SplitHostPort(a.address)
		if slices.Contains(addresses, a.address) || slices.Contains(hosts, at) {
			out = append(out, a)
		}
	}
	return out
}

// alarm is an alarm in the format of a member's status.
var alarm = regexp.MustCompile(`memberID:(\d+)\s+alarm:(\w+)`)

// alarms are the alarms by the member that has raised them. Every member tells of all of them. One whose member is not in the
// list, because it was removed or is not named, holds for everybody. Those that name a member of the list are in raised, too.
func (v *view) alarms() (all, raised map[uint64][]string) {
	all, raised = map[uint64][]string{}, map[uint64][]string{}
	add := func(to map[uint64][]string, id uint64, name string) {
		if !slices.Contains(to[id], name) {
			to[id] = append(to[id], name)
			slices.Sort(to[id])
		}
	}
	for _, s := range v.seen {
		for _, e := range s.Errors {
			match := alarm.FindStringSubmatch(e)
			if match == nil {
				continue
			}
			id, err := strconv.ParseUint(match[1], 10, 64)
			if err == nil && slices.ContainsFunc(v.list, func(m *pb.Member) bool { return m.ID == id }) {
				add(all, id, match[2])
				add(raised, id, match[2])
				continue
			}
			for _, m := range v.list {
				add(all, m.ID, match[2])
			}
		}
	}
	return all, raised
}
