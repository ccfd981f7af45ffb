package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// RuleUnfinishedRestore lets nothing but the same restore go on with hosts on which a restore began.
const RuleUnfinishedRestore = "unfinished-restore"

// WithoutPast is an observation without what the API says while a cluster is being restored and was not complete yet. Until then, the API
// speaks of the cluster that the backup was taken of: of hosts that may not exist, or that must not be touched, of another spec and another
// endpoint. So the cluster is one that is being built, whose API does not answer yet.
func WithoutPast(seen *facts.Observation) *facts.Observation {
	restoring := false
	for _, h := range seen.Hosts {
		if h.Facts == nil {
			continue
		}
		if h.Facts.Kubernetes.Established {
			return seen
		}
		r := h.Facts.Kubernetes.Restore
		restoring = restoring || r != nil && !r.Complete
	}
	if !restoring {
		return seen
	}
	out := *seen
	out.API, out.APIError, out.LastRecord, out.LastRemoved = nil, "the cluster is being restored, and the API shows what the backup has", "", ""
	return &out
}

// Rebuilt is an observation of hosts that were observed before the restore of their cluster had come to its end. By now, the API speaks of
// the restored cluster, so that nothing is left out any more (see WithoutPast).
func Rebuilt(seen *facts.Observation) *facts.Observation {
	out := *seen
	out.Hosts = maps.Clone(seen.Hosts)
	for name, h := range seen.Hosts {
		if h.Facts == nil || h.Facts.Kubernetes.Restore == nil {
			continue
		}
		f := *h.Facts
		f.Kubernetes.Restore = nil
		h.Facts = &f
		out.Hosts[name] = h
	}
	return &out
}

// Emptied is an observation of hosts as they are after a reset of all of them: nothing is left of their cluster, and nobody answers for it. What
// a host is stays, and so does why one could not be observed.
func Emptied(seen *facts.Observation) *facts.Observation {
	out := facts.Observation{Time: seen.Time, Hosts: map[string]facts.Host{}, ExistingEtcd: seen.ExistingEtcd, Backups: seen.Backups}
	for name, h := range seen.Hosts {
		empty := facts.Host{Error: h.Error}
		if h.Facts != nil {
			f := *h.Facts
			f.Kubernetes, f.Watch, f.Self, f.Unknown, f.Pending = facts.Kubernetes{}, nil, facts.MissingCopy, nil, nil
			f.Files, f.Modes, f.Units, f.Enabled, f.Registries = map[string]string{}, nil, map[string]string{}, nil, nil
			f.Bundles, f.Remains, f.Programs, f.ProgramProblems, f.Binaries, f.BundleDamage = nil, nil, nil, nil, "", nil
			f.Images, f.ImageProblems, f.Snapshots = "", nil, nil
			empty.Facts = &f
		}
		out.Hosts[name] = empty
	}
	return &out
}

// Restores are the marks of restores that began and did not end, with the hosts that have them.
func (s *State) Restores() (marks []facts.Restore, on []string) {
	for _, name := range slices.Sorted(maps.Keys(s.Seen.Hosts)) {
		f := s.Facts(name)
		if f == nil || f.Kubernetes.Restore == nil || f.Kubernetes.Restore.Complete {
			continue
		}
		on = append(on, name)
		if r := *f.Kubernetes.Restore; !slices.ContainsFunc(marks, func(o facts.Restore) bool { return o.Backup == r.Backup }) {
			marks = append(marks, r)
		}
	}
	return marks, on
}

// RestoreBegun is the mark of an unfinished restore of a backup; nil if no host has one.
func (s *State) RestoreBegun(backup string) *facts.Restore {
	marks, _ := s.Restores()
	i := slices.IndexFunc(marks, func(r facts.Restore) bool { return r.Backup == backup })
	if i < 0 {
		return nil
	}
	return &marks[i]
}

// UnfinishedRestore refuses everything but the restore that began on hosts of the spec, with the backup of the given ID or, if it is
// empty, with none; nil if there is nothing to finish. What is on such hosts is a part of the cluster in the backup, and not a cluster.
func (s *State) UnfinishedRestore(backup string) *Refusal {
	if r := s.givenUpRestore(); r != nil {
		return r
	}
	marks, on := s.Restores()
	marks = slices.DeleteFunc(marks, func(r facts.Restore) bool { return backup != "" && r.Backup == backup })
	if len(marks) == 0 {
		return s.twoRestores()
	}
	r := marks[0]
	return &Refusal{Rule: RuleUnfinishedRestore, Subjects: on, Why: unfinishedRestore(r, on), Fix: fixUnfinishedRestore(r)}
}

// givenUpRestore refuses to go on with hosts that have the mark of a restore that did not end, where the cluster has that of a later one from the same source
// that did. Those hosts have nothing to finish, and are no reason to give up the cluster.
func (s *State) givenUpRestore() *Refusal {
	_, hosts := s.Restores()
	stale := slices.DeleteFunc(hosts, func(name string) bool {
		begun := s.Facts(name).Kubernetes.Restore
		return !s.anyHost(func(k facts.Kubernetes) bool {
			return k.Established && k.Restore != nil && k.Restore.Complete && k.Restore.Backup == begun.Backup && k.Restore.Nonce != begun.Nonce
		})
	})
	if len(stale) == 0 {
		return nil
	}
	return &Refusal{Rule: RuleUnfinishedRestore, Subjects: stale, Why: List(stale) + plural(len(stale), " has", " have") + " what a restore left that was given up: the cluster was restored from the same source again, and that restore ended",
		Fix: "Reset what is left there: `quorate reset " + strings.Join(stale, " ") + "`. The cluster stays as it is."}
}

// twoRestores refuses to go on where hosts have the marks of several restores from the same source, as after one of them was off while the others were
// reset and restored again: each restore makes another etcd.
func (s *State) twoRestores() *Refusal {
	_, hosts := s.Restores()
	on := map[string][]string{} // by nonce
	for _, name := range hosts {
		nonce := s.Facts(name).Kubernetes.Restore.Nonce
		on[nonce] = append(on[nonce], name)
	}
	if len(on) < 2 {
		return nil
	}
	var parts []string
	for _, names := range on {
		parts = append(parts, List(names))
	}
	slices.Sort(parts)
	return &Refusal{Rule: RuleUnfinishedRestore, Subjects: hosts, Why: "several restores from the same source began and did not end, and the members of etcd of one refuse those of another: one on " + strings.Join(parts, ", one on "),
		Fix: "Start over: `quorate reset --all`, and then restore it again."}
}

func unfinishedRestore(r facts.Restore, on []string) string {
	from, at := "the backup "+r.File, "taken"
	if r.Data {
		from, at = "the data of etcd in "+r.File, "last written"
	}
	return fmt.Sprintf("a restore from %s (%s %s) began on %s and did not end", from, at, r.Taken.UTC().Format(time.RFC3339), List(on))
}

func fixUnfinishedRestore(r facts.Restore) string {
	if r.Data {
		return "Finish it: run `quorate restore --from-data` with those data, and the same keys, again. Or start over: `quorate reset --all`."
	}
	return "Finish it: run `quorate restore` with that backup again. Or start over: `quorate reset --all`."
}

// restores reports hosts on which a restore did not end. That is no difference from the spec: a restore ends only when the cluster has
// been verified to match it, and apply is refused until then.
func (f *findings) restores() {
	if r := f.givenUpRestore(); r != nil {
		f.add(r.Rule, Warning, r.Why, r.Fix, r.Subjects...)
		return
	}
	marks, on := f.Restores()
	for _, r := range marks {
		f.add(RuleUnfinishedRestore, Warning, unfinishedRestore(r, on), fixUnfinishedRestore(r), on...)
	}
}
