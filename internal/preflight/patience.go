package preflight

import (
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// MeasuresDisk says that a disk is measured for etcd: the spec sets an election timeout, and there is no member yet that measures it.
func MeasuresDisk(c *spec.Cluster, h spec.Host, f *facts.Facts) bool {
	return c.Spec.Failover.ElectionTimeout != "" && hasMember(c, h) && len(c.EtcdHosts()) > 1 && !f.Kubernetes.EtcdData
}

// patience compares etcd's election timeout with the disks and the paths of its members. Of several connections between two of them, the fastest
// tells how long a round trip takes: the first waits for the address of the other, and any may wait for a CPU.
func (j *judge) patience() {
	timeout, _ := j.c.EtcdElectionTimeout()
	if timeout == 0 {
		return
	}
	trips := map[[2]string]time.Duration{}
	for _, r := range j.seen.Reach {
		from, _ := j.c.Host(r.From)
		to, _ := j.c.Host(r.To)
		pair := [2]string{min(r.From, r.To), max(r.From, r.To)}
		if best, seen := trips[pair]; r.Connected > 0 && hasMember(j.c, from) && hasMember(j.c, to) && (!seen || r.Connected < best) {
			trips[pair] = r.Connected
		}
	}
	var all []cluster.Patience
	for i, h := range j.c.EtcdHosts() {
		switch in := j.seen.Hosts[h.Name]; {
		case in.EtcdFsyncError != "":
			j.add(failure, cluster.RuleEtcdPatience, []string{h.Name}, "Make "+hostconfig.EtcdDataDir+", or the directory above it, writable, with space for half a megabyte, and run it again. To do without, ignore this check.",
				"whether the disk of %s is fast enough for etcd's election timeout of %s could not be measured: %s", h.Name, timeout, in.EtcdFsyncError)
		case in.EtcdFsync > 0:
			all = append(all, cluster.FsyncPatience(h.Name, in.EtcdFsync, "measured for half a second"))
		}
		for _, o := range j.c.EtcdHosts()[i+1:] {
			if trip := trips[[2]string{min(h.Name, o.Name), max(h.Name, o.Name)}]; trip > 0 {
				all = append(all, cluster.RoundTripPatience(h.Name, o.Name, trip, "the fastest connection of several"))
			}
		}
	}
	for _, l := range cluster.Impatient(all, timeout) {
		j.add(failure, cluster.RuleEtcdPatience, l.Hosts, l.Fix, "%s", l.Summary)
	}
}
