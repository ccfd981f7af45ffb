package spec

import (
	"net"
	"slices"
)

// LabOptions say how a lab that copies a cluster differs from it. Numbers of hosts that are 0 are those of the cluster.
type LabOptions struct {
	// Name of the copy; empty for that of the cluster, followed by -copy.
	Name string
	// Version of Kubernetes; empty for that of the cluster.
	Version                string
	ControlPlanes, Workers int
}

// ForLab is the spec of a copy of the cluster on lab machines. They have the names, roles, and zones of its hosts. Nothing in the result
// leads to what is outside of the lab: it has no addresses, no backups, no registries and mirrors, no load balancer, and no etcd of
// somebody else. Kubelets have the defaults, because the machines are smaller.
func (c *Cluster) ForLab(o LabOptions) *Cluster {
	out := NewRecord(c).cluster
	fill(&o.Name, c.Metadata.Name+"-copy")
	fill(&o.Version, c.Spec.Kubernetes.Version)
	out.Metadata.Name = o.Name
	s := &out.Spec
	s.Kubernetes.Version = o.Version
	s.Components, s.Backup, s.Etcd = Components{Source: SourceModules}, Backup{}, Etcd{}
	s.LoadBalancer = LoadBalancer{Type: BalancerManaged}
	s.Settings.Registries, s.Settings.Kubelet, s.Settings.Sysctls = nil, KubeletSettings{}, nil
	s.Settings.APIServer.AuditPolicyFile, s.Settings.APIServer.AuthenticationConfigFile = "", ""
	s.Network.PodTrafficCIDR = ""
	if s.Network.CNI != CNIFlannel {
		s.Network = Network{CNI: CNINone, PodCIDR: s.Network.PodCIDR, ServiceCIDR: s.Network.ServiceCIDR}
	}
	if host, _, err := net.SplitHostPort(s.ControlPlane.Endpoint); err != nil || net.ParseIP(host) != nil {
		s.ControlPlane.Endpoint = "api." + o.Name + ".internal:" + DefaultPort
	}
	cps, workers := 0, 0
	var hosts []Host
	for _, h := range s.Hosts {
		switch {
		case h.Has(RoleControlPlane):
			if cps++; o.ControlPlanes > 0 && cps > o.ControlPlanes {
				continue
			}
		case h.Has(RoleWorker):
			if workers++; o.Workers > 0 && workers > o.Workers {
				continue
			}
		}
		h.Address, h.SecondaryAddress, h.FrontAddress, h.SSH = "", "", "", SSH{}
		hosts = append(hosts, h)
	}
	s.Hosts = hosts
	if len(out.EtcdHosts()) == 0 || !slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.Has(RoleEtcd) }) {
		s.ControlPlane.Topology = TopologyStacked
	}
	s.ControlPlane.Placement = PlacementRegional
	switch cps := out.HostsWith(RoleControlPlane); {
	case len(cps) == 1:
		s.ControlPlane.Placement = PlacementSingle
	case len(zonesOf(cps)) < 3:
		s.ControlPlane.Placement = PlacementZonal
	}
	var pools []NodePool
	for _, p := range s.NodePools {
		p.Hosts = slices.DeleteFunc(slices.Clone(p.Hosts), func(name string) bool { _, has := out.Host(name); return !has })
		if len(p.Hosts) > 0 {
			pools = append(pools, p)
		}
	}
	s.NodePools = pools
	out.Default()
	return out
}
