package cluster

import (
	"cmp"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Version is a version in which a program runs, and where.
type Version struct {
	Program string   `json:"program"`
	Version string   `json:"version"`
	Hosts   []string `json:"hosts"`
}

// Versions are the versions that the cluster's programs run now, not those that are installed: one entry for each version of
// each program, sorted by program. Programs whose version is not known have none.
func (s *State) Versions() []Version {
	var out []Version
	note := func(program, version, host string) {
		if version == "" {
			return
		}
		i := slices.IndexFunc(out, func(v Version) bool { return v.Program == program && v.Version == version })
		if i < 0 {
			i, out = len(out), append(out, Version{Program: program, Version: version})
		}
		out[i].Hosts = append(out[i].Hosts, host)
	}
	for _, h := range s.Spec.Spec.Hosts {
		components := s.Seen.Hosts[h.Name].Components
		note(apiServer, s.Seen.Hosts[h.Name].APIServerVersion, h.Name)
		for name, c := range components {
			note(name, c.Version, h.Name)
		}
		// A kubelet that was not asked told the API its version when it started.
		if n := s.Node(h.Name); n != nil && components[facts.Kubelet].Version == "" {
			note(facts.Kubelet, n.Version, h.Name)
		}
	}
	for _, m := range s.Seen.Etcd {
		note("etcd", m.Version, s.MemberHost(m))
	}
	slices.SortFunc(out, func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.Version, b.Version))
	})
	return out
}

// ComesFrom says that the cluster had the version before the change that is under way, if one is: it is recorded when a change has ended.
func (s *State) ComesFrom(version string) bool {
	r, err := s.Record()
	return err == nil && r != nil && r.Cluster().Spec.Kubernetes.Version == version
}

// BeginsWith says that an earlier run has begun to bring the cluster to the version, or that the cluster comes from it. A run
// changes kubeadm's configuration and the control planes first, and kube-proxy before them if it goes to an older version, so one of these has the
// version. A worker that has it proves nothing: it may have been away during a whole change.
func (s *State) BeginsWith(version string) bool {
	if s.ComesFrom(version) {
		return true
	}
	if s.Seen.API != nil {
		k := s.Seen.API.Kubeadm
		if k != nil && k.Version == version {
			return true
		}
		for _, d := range s.Seen.API.DaemonSets {
			if d.Namespace == "kube-system" && d.Name == facts.KubeProxy && d.Version == version && k != nil && Older(version, k.Version) {
				return true
			}
		}
	}
	return slices.ContainsFunc(s.Spec.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
		return s.Runs(h.Name, apiServer) == version || s.Runs(h.Name, facts.Kubelet) == version
	})
}

// SnapshotHost is the host whose etcd member saves a snapshot before the version changes: one that works, and another one than the leader
// if there is one. It is empty if no host has a member that works and can be reached.
func (s *State) SnapshotHost() string {
	at, leader := "", false
	for _, h := range s.Spec.EtcdHosts() {
		if m, ok := s.Member(h.Name); ok && m.Healthy && s.Reachable(h.Name) && (at == "" || leader) {
			at, leader = h.Name, m.Leader
		}
	}
	return at
}
