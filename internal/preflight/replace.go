package preflight

import (
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// JudgeReplacement judges hosts that are to be reset and then to become the cluster of a backup. Snapshot is the size of the backup's etcd
// snapshot in bytes. JudgeReplacement ignores what a reset removes, and judges everything else as it is now, so that no cluster is given up
// for one that cannot be built.
func JudgeReplacement(s *cluster.State, seen *facts.Preflight, snapshot int64) []cluster.Finding {
	findings := slices.DeleteFunc(Judge(s, afterReset(s, seen), nil), func(f cluster.Finding) bool {
		return f.Rule == "leftovers" && s.Vanished() != nil // the mark that is left goes as well
	})
	j := &judge{State: s, c: s.Spec, seen: seen}
	for _, h := range s.Spec.EtcdHosts() {
		j.room(h, snapshot)
	}
	return append(findings, j.finish(nil)...)
}

// endedByReset are the programs that a reset stops.
var endedByReset = []string{facts.APIServer, facts.ControllerManager, facts.Scheduler, facts.EtcdProgram, facts.Kubelet, facts.KubeProxy, nodeExporter}

// afterReset is what was seen, without the programs and the traces that a reset ends on hosts that carry a cluster.
func afterReset(s *cluster.State, seen *facts.Preflight) *facts.Preflight {
	out := *seen
	out.Hosts = map[string]facts.Inspection{}
	for name, in := range seen.Hosts {
		if s.Carries(name) {
			in.Listeners = slices.DeleteFunc(slices.Clone(in.Listeners), func(l facts.Listener) bool {
				return l.Own || slices.ContainsFunc(endedByReset, func(p string) bool { return isProgram(l.Program, p) })
			})
			in.Leftovers = facts.Leftovers{CNI: in.Leftovers.CNI, Files: slices.DeleteFunc(slices.Clone(in.Leftovers.Files), func(file string) bool {
				return !slices.ContainsFunc(otherDistributions, func(p string) bool { return strings.HasPrefix(file, p) })
			})}
		}
		out.Hosts[name] = in
	}
	return &out
}

// room looks for space for the snapshot and the data that is made of it, and for the data that is kept where it has to be copied for that.
func (j *judge) room(h spec.Host, snapshot int64) {
	f := j.Facts(h.Name)
	if f == nil {
		return
	}
	on, need := []string{h.Name}, 2*snapshot+facts.SnapshotSpare
	const fix = "Free space there, or give the host a larger disk. If the reset frees enough, ignore this check."
	own, separate := f.Disks[hostconfig.EtcdDataDir]
	switch {
	case !separate && f.DiskFreeBytes < need:
		j.add(failure, "disk", on, fix, "%s free below /var/lib on HOSTS is too little: the snapshot in the backup, and etcd's data, need %s", ui.Bytes(f.DiskFreeBytes), ui.Bytes(need))
	case separate && own.SizeBytes < need:
		j.add(failure, "disk", on, fix, "the disk of %s below %s on HOSTS is too small: the snapshot in the backup, and etcd's data, need %s", ui.Bytes(own.SizeBytes), hostconfig.EtcdDataDir, ui.Bytes(need))
	case separate && f.Kubernetes.EtcdData && f.DiskFreeBytes < own.SizeBytes-own.FreeBytes:
		j.add(failure, "disk", on, fix, "%s free below /var/lib on HOSTS is too little: the data of etcd that is given up is kept there, and has up to %s", ui.Bytes(f.DiskFreeBytes), ui.Bytes(own.SizeBytes-own.FreeBytes))
	}
}
