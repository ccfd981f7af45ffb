package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/staticpod"
)

// apiServerManifest names the etcd that a control plane's API server uses, in every topology.
const apiServerManifest = staticpod.Dir + "/kube-apiserver.yaml"

// Used are the endpoints of the etcd that the API server on this control plane uses.
func Used() ([]string, error) {
	pod, err := staticpod.Read(apiServerManifest)
	if err != nil {
		return nil, fmt.Errorf("finding the etcd of this control plane: %w", err)
	}
	servers := staticpod.Arguments(pod)["etcd-servers"]
	if servers == "" {
		return nil, fmt.Errorf("finding the etcd of this control plane: %s has no --etcd-servers", apiServerManifest)
	}
	return strings.Split(servers, ","), nil
}

// FromHere connects to endpoints from this host, with its client certificate.
func FromHere(endpoints ...string) (*clientv3.Client, error) {
	pem, err := kubeadm.LocalEtcdClient()
	if err != nil {
		return nil, err
	}
	return connect(endpoints, pem)
}

// Candidate is a member that was asked for its own state.
type Candidate struct {
	URL    string
	Member *etcdserverpb.Member
	Status *clientv3.StatusResponse
	Err    error
}

// lagAllowed is how many entries of the log a healthy follower may be behind: it applies them all the time.
const lagAllowed = 1000

// Follower finds a healthy member to take a snapshot of: one that does not lead, because reading all of the database costs the
// leader time that every write waits for. The leader is used if there is no other. It prefers a member at one of the addresses,
// which saves the network a copy. It returns all members, too.
func Follower(ctx context.Context, client *clientv3.Client, prefer func(address string) bool) (Candidate, []*etcdserverpb.Member, error) {
	list, err := client.MemberList(ctx)
	if err != nil {
		return Candidate{}, nil, fmt.Errorf("listing the members of etcd: %w", err)
	}
	var all []Candidate
	ask := func(endpoint string) bool {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
		defer cancel()
		c := Candidate{URL: endpoint}
		if c.Status, c.Err = client.Status(ctx, endpoint); c.Err == nil {
			i := slices.IndexFunc(list.Members, func(m *etcdserverpb.Member) bool { return m.ID == c.Status.Header.MemberId })
			if i < 0 {
				return false
			}
			c.Member = list.Members[i]
		}
		all = append(all, c)
		return c.Err == nil
	}
	// Those at the addresses that API servers use first: members may advertise addresses that only others can reach.
	for _, endpoint := range client.Endpoints() {
		ask(endpoint)
	}
	for _, m := range list.Members {
		for _, endpoint := range m.ClientURLs {
			if slices.ContainsFunc(all, func(c Candidate) bool { return c.Member == m || c.URL == endpoint }) || ask(endpoint) {
				break
			}
		}
	}
	best, err := choose(all, prefer)
	return best, list.Members, err
}

// choose picks the best of the members that answered.
func choose(all []Candidate, prefer func(address string) bool) (Candidate, error) {
	newest := uint64(0)
	for _, c := range all {
		if c.Err == nil {
			newest = max(newest, c.Status.RaftAppliedIndex)
		}
	}
	var sound []Candidate
	var errs []error
	for _, c := range all {
		switch {
		case c.Err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", c.URL, c.Err))
		case c.Status.IsLearner:
		case c.Status.Leader == 0 || len(wrong(c.Status)) > 0:
			errs = append(errs, fmt.Errorf("%s: %s", c.URL, cmp.Or(strings.Join(wrong(c.Status), ", "), "it has no leader")))
		case c.Status.RaftAppliedIndex+lagAllowed < newest:
			errs = append(errs, fmt.Errorf("%s: it is %d entries behind", c.URL, newest-c.Status.RaftAppliedIndex))
		default:
			sound = append(sound, c)
		}
	}
	if len(sound) == 0 {
		return Candidate{}, fmt.Errorf("no member of etcd is healthy: %w", errors.Join(errs...))
	}
	rank := func(c Candidate) int {
		n := 0
		if c.Leads() {
			n += 2
		}
		if u, err := url.Parse(c.URL); err != nil || prefer == nil || !prefer(u.Hostname()) {
			n++
		}
		return n
	}
	slices.SortStableFunc(sound, func(a, b Candidate) int { return rank(a) - rank(b) })
	return sound[0], nil
}

// wrong is what a member says is wrong with it. That its database is full (NOSPACE) keeps nobody from reading it.
func wrong(s *clientv3.StatusResponse) []string {
	full := etcdserverpb.AlarmType_NOSPACE.String()
	return slices.DeleteFunc(slices.Clone(s.Errors), func(e string) bool { return strings.Contains(e, full) })
}

// Leads says that the member is the leader.
func (c Candidate) Leads() bool { return c.Status.Leader == c.Status.Header.MemberId }
