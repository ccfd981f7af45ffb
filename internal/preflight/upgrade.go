package preflight

import (
	"fmt"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// upgradeBundle is the space that a bundle takes on a node while the former one is there, too: its blobs, its programs, and its
// images in containerd.
const upgradeBundle = 1 << 30

// JudgeUpgrade judges whether the version of a cluster may change to that of its spec. What the plan itself refuses, such as
// versions that do not work together, is not repeated here.
func JudgeUpgrade(s *cluster.State, seen *facts.Upgrade) []cluster.Finding {
	j := &judge{State: s, c: s.Spec}
	target := s.Spec.Spec.Kubernetes.Version
	for _, d := range seen.Deprecated {
		if d.RemovedIn == "" || cluster.Older(target, "v"+d.RemovedIn+".0") {
			continue
		}
		name := d.Resource + "." + strings.Trim(d.Version+"."+d.Group, ".")
		j.add(failure, DeprecatedCheck, nil, "Find the clients in the audit log (the annotation k8s.io/deprecated) and have them use a newer version of the API. The figure counts since the API servers started.",
			"clients have used %s, which Kubernetes %s no longer serves", name, target)
	}
	if seen.DeprecatedError != "" {
		j.add(warning, DeprecatedCheck, nil, "Run it again when every API server answers.", "it is not known whether clients use APIs that Kubernetes %s no longer serves: %s", target, seen.DeprecatedError)
	}
	if seen.Error != "" {
		j.add(warning, WebhooksCheck, nil, "Run it again when the API answers.", "admission webhooks could not be read: %s", seen.Error)
	}
	for _, w := range seen.Webhooks {
		what := fmt.Sprintf("the admission webhook %s (%s) fails closed", w.Name, w.Configuration)
		switch w.Ready {
		case 0:
			j.add(failure, WebhooksCheck, nil, "Bring the Service "+w.Service+" back, or remove the webhook's configuration.", "%s, and its Service %s has no endpoint that is ready: requests are refused", what, w.Service)
		case 1:
			j.add(warning, WebhooksCheck, nil, "Run a second replica on another node.", "%s, and its Service %s has a single endpoint: while that is away, requests are refused", what, w.Service)
		}
	}
	if len(seen.Budgets) > 0 {
		j.add(info, BudgetsCheck, nil, "Nothing for an upgrade. Before a maintenance, run more replicas or allow more disruption.", "these disruption budgets allow no eviction: %s", strings.Join(seen.Budgets, ", "))
	}
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || !h.IsNode() && !h.Has(spec.RoleEtcd) {
			continue
		}
		need := int64(upgradeBundle)
		if m, ok := s.Member(h.Name); ok {
			need += m.DBSizeBytes
		}
		if f.DiskFreeBytes < need {
			j.add(failure, SpaceCheck, []string{h.Name}, "Free some space below /var/lib.", "%s has %s of free space, and the new bundle and a snapshot of etcd need %s", HOSTS, ui.Bytes(f.DiskFreeBytes), ui.Bytes(need))
		}
	}
	return j.finish(nil)
}
