package spec

import (
	"cmp"
	"strings"
)

// What a spec that leaves a field out gets.
const (
	DefaultVersion     = "v1.37.2"
	DefaultPodCIDR     = "10.244.0.0/16"
	DefaultServiceCIDR = "10.96.0.0/12"
	DefaultPort        = "6443"
	DefaultSSHUser     = "root"
	DefaultSSHPort     = 22

	DefaultChartNamespace = "kube-system"
)

// Default fills in what the spec leaves out. It never changes what is written.
func (c *Cluster) Default() {
	s := &c.Spec
	fill(&s.Kubernetes.Version, DefaultVersion)
	fill(&s.ControlPlane.Topology, TopologyStacked)
	fill(&s.ControlPlane.Placement, PlacementRegional)
	fill(&s.LoadBalancer.Type, BalancerManaged)
	fill(&s.Components.Source, SourceModules)
	fill(&s.Network.CNI, CNIFlannel)
	if s.Network.CNI == CNIFlannel {
		policies := PoliciesEnforced
		if c.Published() {
			policies = PoliciesIgnored // flannel as its project publishes it has nothing that would
		}
		fill(&s.Network.Policies, policies)
	}
	if s.Network.CNI == CNIChart {
		fill(&s.Network.Chart.Namespace, DefaultChartNamespace)
	}
	s.Network.fill(s.Hosts)
	fill(&s.Failover.Profile, ProfileFast)
	s.Backup.fill()
	s.Monitoring.Prometheus.fill()
	if e := &s.ControlPlane.Endpoint; *e != "" && !strings.ContainsAny(*e, ":/") {
		*e += ":" + DefaultPort
	}
	if c.NeedsLab() {
		c.makePools()
	}
	if s.LoadBalancer.Type == BalancerManaged {
		fill(&s.LoadBalancer.MaxConnections, c.ForSize().Connections) // when all hosts are known
	}
	for i := range s.Hosts {
		fill(&s.Hosts[i].Region, s.Region)
		fill(&s.Hosts[i].SSH.User, DefaultSSHUser)
		fill(&s.Hosts[i].SSH.Port, DefaultSSHPort)
	}
}

func fill[T comparable](field *T, value T) { *field = cmp.Or(*field, value) }
