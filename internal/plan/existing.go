package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// What an existing etcd must be for a cluster to be built on it.
const (
	// minEtcdVersion is what kubeadm accepts (its constant MinExternalEtcdVersion).
	minEtcdVersion = "v3.5.24"
	// maxEtcdWrite is as long as etcd's members wait before they ask whether the leader is still there: where a
	// write takes longer, elections are next.
	maxEtcdWrite = 100 * time.Millisecond
	// defaultEtcdQuota is the quota of an etcd that does not tell it; when less than a fifth of it is free, a growing
	// cluster soon cannot write.
	defaultEtcdQuota = 2 << 30
)

const leaveEtcd = "Quorate never changes an etcd that is not its own. Correct this there, then run it again."

// refuseExistingEtcd judges an etcd before anything is built on it.
func (b *builder) refuseExistingEtcd() error {
	if e := b.Seen.ExistingEtcd; e != nil && e.Error != "" && (!b.exists() || len(b.withoutEtcdClient()) > 0) {
		return refused(RuleSoundEtcd, "the certificates for etcd cannot be used: "+e.Error, "Name files that this machine can read: spec.etcd.caFile, certFile and keyFile.")
	}
	if b.exists() {
		return nil
	}
	var problems []string
	note := func(problem string) {
		if problem != "" && !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		probe := b.Seen.Hosts[h.Name].EtcdProbe
		if probe == nil {
			continue // the host itself could not be reached, which is refused elsewhere
		}
		if err := b.foreignEtcd(probe); err != nil {
			return err
		}
		for _, e := range probe.Endpoints {
			if e.Error != "" {
				note(fmt.Sprintf("%s does not reach %s: %s", h.Name, e.URL, e.Error))
			}
			note(endpointProblem(e, probe.Endpoints))
		}
		if probe.Error != "" {
			note(h.Name + " cannot use it: " + probe.Error)
			continue
		}
		voters := 0
		for _, m := range probe.Members {
			note(memberProblem(m))
			if !m.Learner {
				voters++
			}
		}
		if voters < 3 {
			note(fmt.Sprintf("it has %d voting members, but with fewer than 3 it survives no failure", voters))
		}
		if probe.Write > maxEtcdWrite {
			note(fmt.Sprintf("a write from %s takes %s, and more than %s is too slow", h.Name, probe.Write.Round(time.Millisecond), maxEtcdWrite))
		}
	}
	if len(problems) > 0 {
		return refused(RuleSoundEtcd, "the cluster cannot be built on the existing etcd: "+strings.Join(problems, "; "), leaveEtcd)
	}
	return nil
}

func endpointProblem(e facts.EtcdEndpoint, all []facts.EtcdEndpoint) string {
	if e.Error != "" {
		return ""
	}
	if first := slices.IndexFunc(all, func(o facts.EtcdEndpoint) bool { return o.Error == "" }); all[first].ClusterID != e.ClusterID {
		return fmt.Sprintf("%s and %s belong to different etcd clusters", all[first].URL, e.URL)
	}
	if v := "v" + strings.TrimPrefix(e.Version, "v"); semver.Compare(v, minEtcdVersion) < 0 {
		return fmt.Sprintf("%s runs %s, but kubeadm requires %s or newer", e.URL, v, minEtcdVersion)
	}
	if quota := cmp.Or(e.QuotaBytes, defaultEtcdQuota); e.DBSizeBytes > quota/5*4 {
		return fmt.Sprintf("%s has used %d %% of its quota of %d MiB", e.URL, e.DBSizeBytes*100/quota, quota>>20)
	}
	return ""
}

func memberProblem(m facts.EtcdMember) string {
	switch {
	case !m.Started:
		return "member " + m.Name + " has never started"
	case m.Learner:
		return "member " + m.Name + " is a learner"
	case !m.Healthy:
		return "member " + m.Name + " is not healthy, or no control plane reaches it"
	}
	return ""
}

// foreignEtcd refuses an etcd that holds what is not this cluster's.
func (b *builder) foreignEtcd(probe *facts.EtcdProbe) error {
	own := b.CA() != "" && probe.Owner == facts.EtcdOwner(b.c.Metadata.Name, b.CA())
	why := ""
	switch {
	case own:
		return nil
	case probe.Owner != "":
		why = "the existing etcd belongs to the cluster " + probe.Owner
	case probe.Keys > 0:
		why = fmt.Sprintf("the existing etcd holds %d objects of another Kubernetes cluster", probe.Keys)
	default:
		return nil
	}
	return refused(cluster.RuleOneCluster, why,
		"Use an etcd that only this cluster uses. If that cluster is gone for good, empty it: `etcdctl del --prefix /registry/` and `etcdctl del --prefix /quorate.dev/`.")
}
