package preflight

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// The space that a bundle takes on a node while the former one is there, too: its blobs, its programs, and its images in containerd. The
// largest bundles are those of the official releases.
const (
	bundleBlobs    = 256 * mib
	bundlePrograms = 256 * mib
	bundleImages   = 512 * mib
)

// UpgradeWork is what a change of the version is going to do that needs space.
type UpgradeWork struct {
	// Unpacks are the hosts to which the bundle comes, and Imports those whose containerd gets its images.
	Unpacks, Imports []string
	// Snapshot is the host that saves a snapshot of etcd; empty if none does.
	Snapshot string
	// Resumes says that an earlier run has begun to change the version.
	Resumes bool
}

// ExpectedWork is the work as far as it can be told without the bundle of the spec's version: hosts on which a bundle is unpacked that
// their kubelet, or their etcd, does not run from have it.
func ExpectedWork(s *cluster.State) UpgradeWork {
	var w UpgradeWork
	target := s.Spec.Spec.Kubernetes.Version
	w.Resumes = s.BeginsWith(target)
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || !h.IsNode() && !h.Has(spec.RoleEtcd) {
			continue
		}
		runs := f.Programs[facts.Kubelet]
		if !h.IsNode() {
			runs = f.Programs[facts.EtcdProgram]
		}
		switched := s.Runs(h.Name, facts.APIServer) == target || s.Runs(h.Name, facts.Kubelet) == target
		if switched || slices.ContainsFunc(f.Bundles, func(b string) bool { return b != runs }) {
			continue
		}
		w.Unpacks = append(w.Unpacks, h.Name)
		if h.IsNode() {
			w.Imports = append(w.Imports, h.Name)
		}
	}
	if !w.Resumes {
		w.Snapshot = s.SnapshotHost()
	}
	return w
}

// JudgeUpgrade judges whether the version of a cluster may change to that of its spec by doing this work. What the plan itself refuses,
// such as versions that do not work together, is not repeated here. What an interrupted run may have caused does not keep the next one
// from going on, or back: it is a warning.
func JudgeUpgrade(s *cluster.State, seen *facts.Upgrade, w UpgradeWork) []cluster.Finding {
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
	for _, hook := range seen.Webhooks {
		what := fmt.Sprintf("the admission webhook %s (%s) fails closed", hook.Name, hook.Configuration)
		switch hook.Ready {
		case 0:
			severity, fix := failure, "Bring the Service "+hook.Service+" back, or remove the webhook's configuration."
			if w.Resumes {
				severity, fix = warning, "Its pods may be on the host at which the earlier run ended. If they do not come back with it, remove the webhook's configuration."
			}
			j.add(severity, WebhooksCheck, nil, fix, "%s, and its Service %s has no endpoint that is ready: requests are refused", what, hook.Service)
		case 1:
			j.add(warning, WebhooksCheck, nil, "Run a second replica on another node.", "%s, and its Service %s has a single endpoint: while that is away, requests are refused", what, hook.Service)
		}
	}
	if len(seen.Budgets) > 0 {
		j.add(info, BudgetsCheck, nil, "Nothing for an upgrade. Before a maintenance, run more replicas or allow more disruption.", "these disruption budgets allow no eviction: %s", strings.Join(seen.Budgets, ", "))
	}
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil {
			j.space(h, f, w)
		}
	}
	return j.finish(nil)
}

// space compares each file system of a host with what the work puts there.
func (j *judge) space(h spec.Host, f *facts.Facts, w UpgradeWork) {
	lib := place{dir: "/var/lib", Disk: facts.Disk{FreeBytes: f.DiskFreeBytes}}
	programs, images, what := place{dir: facts.ProgramsDir}, place{dir: containerdDir}, map[string][]string{}
	put := func(own *facts.Disk, p *place, need int64, thing string) {
		if own == nil {
			p = &lib
		} else {
			p.Disk = *own
		}
		p.need += need
		if !slices.Contains(what[p.dir], thing) {
			what[p.dir] = append(what[p.dir], thing)
		}
	}
	const bundle = "the new bundle"
	if slices.Contains(w.Unpacks, h.Name) {
		put(nil, &lib, bundleBlobs, bundle)
		put(f.ProgramsDisk, &programs, bundlePrograms, bundle)
	}
	if slices.Contains(w.Imports, h.Name) {
		var own *facts.Disk
		if d, separate := f.Disks[containerdDir]; separate {
			own = &d
		}
		put(own, &images, bundleImages, bundle)
	}
	if m, ok := j.Member(h.Name); ok && w.Snapshot == h.Name {
		put(nil, &lib, m.DBSizeBytes, "the snapshot of etcd")
	}
	for _, p := range []place{lib, programs, images} {
		if p.need > 0 && p.FreeBytes < p.need {
			j.add(failure, SpaceCheck, []string{h.Name}, "Free some space below "+p.dir+".", "%s has %s of free space below %s, and %s needs %s", HOSTS, ui.Bytes(p.FreeBytes), p.dir, strings.Join(what[p.dir], " together with "), ui.Bytes(p.need))
		}
	}
}
