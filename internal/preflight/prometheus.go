package preflight

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// StorageCheck is the check of the disks on which the servers of Prometheus keep their samples.
const StorageCheck = "storage"

const (
	// allocated is the part of its disk that a node offers to pods: the rest is what the kubelet keeps free. containedSpare is what it keeps free where all
	// nodes are containers.
	allocated      = 0.9
	containedSpare = 1024 * mib
	// serverReplicas is how many servers run, each on a node of its own.
	serverReplicas = 2
)

// BringsPrometheus says that the spec installs Prometheus in a cluster that exists and does not have it, or has servers that were to store something else:
// the hosts were not judged for that. What was not edited is not judged again.
func BringsPrometheus(s *cluster.State) bool {
	if !s.Exists() || !s.Spec.InstallsPrometheus() || s.Seen.API == nil {
		return false
	}
	edits, err := s.Edits()
	return s.Seen.API.Prometheus == nil || err == nil && slices.ContainsFunc(edits, func(e spec.Edit) bool {
		return e.Path == "spec.monitoring.prometheus.install" || e.Path == "spec.monitoring.prometheus.storage"
	})
}

// TakesFromPrometheus says that the spec was edited so that a node takes no workloads any more that now does, of a cluster with Prometheus: it leaves, or gets a
// taint. The servers may have to move. A node that is down has no room for them in any case.
func TakesFromPrometheus(s *cluster.State) bool {
	if !s.Exists() || !s.Spec.InstallsPrometheus() || s.Seen.API == nil || s.Seen.API.Prometheus == nil {
		return false
	}
	before := s.Present()
	if record, err := s.Record(); err == nil && record != nil {
		before = record.Cluster()
	}
	stay := cluster.Names(s.Spec.WorkloadHosts())
	return slices.ContainsFunc(before.WorkloadHosts(), func(h spec.Host) bool {
		n := s.Node(h.Name)
		return n != nil && n.Ready && !slices.Contains(stay, h.Name)
	})
}

// JudgeStorage finds what of JudgePrometheus follows from which nodes take workloads.
func JudgeStorage(s *cluster.State, seen *facts.Preflight) []cluster.Finding {
	j := newJudge(s, seen)
	j.storage()
	return j.finish(nil)
}

// JudgePrometheus finds what would keep the Prometheus of the spec from running in a cluster that exists, of what Judge finds for a new one: disks that
// are too small for its servers, and programs that have the port of its node exporter.
func JudgePrometheus(s *cluster.State, seen *facts.Preflight) []cluster.Finding {
	j := newJudge(s, seen)
	for _, h := range j.c.Spec.Hosts {
		wanted := slices.DeleteFunc(Ports(j.c, h), func(p Port) bool { return p.Program != nodeExporter })
		if in, ok := seen.Hosts[h.Name]; ok {
			j.taken(h, j.Facts(h.Name), in, wanted)
		}
	}
	j.storage()
	return j.finish(nil)
}

// storage compares what the two servers of Prometheus may store with the disks of the nodes that take workloads. The scheduler goes by the sizes of the
// disks. What is free decides whether the kubelet evicts pods before a server has stored that much. A host that could not be asked counts as large enough.
func (j *judge) storage() {
	if !j.c.InstallsPrometheus() {
		return
	}
	q, err := resource.ParseQuantity(j.c.Spec.Monitoring.Prometheus.Storage)
	if err != nil {
		return // the spec is refused
	}
	want := q.Value()
	fits, zones := 0, map[string]bool{}
	var small []string
	for _, h := range j.c.WorkloadHosts() {
		f, in := j.Facts(h.Name), j.seen.Hosts[h.Name]
		p := podPlace(j.c, h, f, in)
		if f == nil || p.SizeBytes == 0 {
			fits, zones[h.Zone] = fits+1, true
			continue
		}
		offers, spare := int64(allocated*float64(p.SizeBytes)), int64(evictSpace*float64(p.SizeBytes))
		if j.contained {
			offers, spare = p.SizeBytes-containedSpare, containedSpare
		}
		if offers < want {
			small = append(small, h.Name)
			continue
		}
		fits, zones[h.Zone] = fits+1, true
		if p.FreeBytes-spare-p.need < want && !j.stores(h.Name) {
			j.add(warning, StorageCheck, []string{h.Name}, "Free space, give "+p.dir+" a larger disk, or lower spec.monitoring.prometheus.storage.",
				"%s free below %s on HOSTS is little for a server of Prometheus, which may run there and store %s: the kubelet would evict pods before that", ui.Bytes(p.FreeBytes), p.dir, ui.Bytes(want))
		}
	}
	fix := "Lower spec.monitoring.prometheus.storage, or use larger disks below /var/lib/kubelet."
	switch {
	case len(small) == 0:
	case fits < serverReplicas:
		j.add(failure, StorageCheck, small, fix, "the disks of HOSTS are too small for a server of Prometheus, which asks for %s (spec.monitoring.prometheus.storage), and %d of the other nodes can take one: the two servers need two", ui.Bytes(want), fits)
	case len(zones) < serverReplicas && j.c.WorkloadZones() > 1:
		j.add(failure, StorageCheck, small, fix, "the disks of HOSTS are too small for a server of Prometheus, which asks for %s (spec.monitoring.prometheus.storage), and all other nodes are in one zone: the two servers must be in two", ui.Bytes(want))
	}
}

// stores says that a server runs on the host already: what it has stored is not free any more.
func (j *judge) stores(host string) bool {
	if j.Seen.API == nil || j.Seen.API.Prometheus == nil {
		return false
	}
	return slices.ContainsFunc(j.Seen.API.Prometheus.Workloads, func(w facts.Workload) bool { return w.Name == "prometheus" && slices.Contains(w.On, host) })
}

// podPlace is the file system on which pods of a host keep their data, with what else goes there.
func podPlace(c *spec.Cluster, h spec.Host, f *facts.Facts, in facts.Inspection) place {
	if f == nil {
		return place{}
	}
	var disk int64
	for _, role := range h.Roles {
		disk = max(disk, needs[role].disk)
	}
	all := places(c, h, f, in, disk)
	if i := slices.IndexFunc(all, func(p place) bool { return p.dir == "/var/lib/kubelet" }); i >= 0 {
		return all[i]
	}
	return all[0]
}
