package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// makePools gives a lab the machines of its pools that name no hosts, in turn in each zone.
func (c *Cluster) makePools() {
	for i := range c.Spec.NodePools {
		p := &c.Spec.NodePools[i]
		zones := p.Zones
		if len(zones) == 0 {
			zones = slices.Sorted(maps.Keys(zonesOf(c.HostsWith(RoleControlPlane))))
		}
		if len(p.Hosts) > 0 || p.Size < 1 || p.Size > maxPool || len(zones) == 0 || p.Name == "" {
			continue // what is wrong with it is validation's to say
		}
		for n := range p.Size {
			name := fmt.Sprintf("%s-%d", p.Name, n+1)
			p.Hosts = append(p.Hosts, name)
			c.Spec.Hosts = append(c.Spec.Hosts, Host{Name: name, Roles: []string{RoleWorker}, Zone: zones[n%len(zones)]})
		}
	}
}

// maxPool is more machines than Kubernetes supports nodes.
const maxPool = 5000

// poolSize checks that the pool has as many hosts as it says.
func (k *checker) poolSize(path string, p NodePool) {
	switch {
	case p.Size < 0 || p.Size > maxPool:
		k.refuse(path+".size", fmt.Sprintf("use 1 to %d, or leave it out", maxPool), "a pool cannot have %d hosts", p.Size)
	case p.Size > 0 && len(p.Hosts) > 0 && p.Size != len(p.Hosts):
		k.refuse(path+".size", fmt.Sprintf("write %d, or change the list", len(p.Hosts)), "the size of the pool is %d, but it lists %d hosts", p.Size, len(p.Hosts))
	}
}

// regions checks that regions can be labels and that no zone lies in two.
func (k *checker) regions() {
	if k.c.Spec.Region != "" {
		k.region("spec.region", k.c.Spec.Region)
	}
	first := map[string]Host{}
	for i, h := range k.c.Spec.Hosts {
		path := fmt.Sprintf("spec.hosts[%d].region", i)
		if h.Region != "" && h.Region != k.c.Spec.Region {
			k.region(path, h.Region)
		}
		if other, seen := first[h.Zone]; !seen {
			first[h.Zone] = h
		} else if other.Region != h.Region && h.Zone != "" {
			k.refuse(path, "give zones of different regions different names", "zone `%s` would be in two regions: `%s` is in %s and `%s` in %s",
				h.Zone, other.Name, orNone(other.Region), h.Name, orNone(h.Region))
		}
	}
}

func (k *checker) region(path, region string) {
	if len(validation.IsValidLabelValue(region)) > 0 {
		k.refuse(path, "use at most 63 letters, digits, dashes, dots, and underscores", "`%s` cannot be a region: regions become a node label", region)
	}
}

func orNone(region string) string {
	if region == "" {
		return "none"
	}
	return "`" + region + "`"
}

// Warnings returns the drawbacks of a valid spec that the user should know about.
func Warnings(c *Cluster) []Problem {
	var out []Problem
	if cps := c.HostsWith(RoleControlPlane); c.Spec.ControlPlane.Placement == PlacementZonal && len(cps) > 0 {
		out = append(out, c.src.problem("spec.controlPlane.placement",
			fmt.Sprintf("zonal placement: all %d control planes are in zone %s; while that zone is down, the API is down, too; workloads elsewhere keep running, but nothing that fails is replaced", len(cps), cps[0].Zone),
			"to survive the loss of a zone, spread the control planes over three zones and use `placement: regional`"))
	}
	if cps := c.HostsWith(RoleControlPlane); c.Spec.ControlPlane.Placement == PlacementSingle && len(cps) > 0 {
		out = append(out, c.src.problem("spec.controlPlane.placement",
			fmt.Sprintf("single placement: %s is the only control plane; while it is down or restarts, the API is down and nothing that fails is replaced, and if its disk is lost, the cluster is lost, except for backups of etcd", cps[0].Name),
			"to survive the loss of a control plane, add two more and use `placement: regional` or `placement: zonal`"))
	}
	for i, p := range c.Spec.NodePools {
		if w, uneven := balance(c, p); uneven {
			out = append(out, c.src.problem(fmt.Sprintf("spec.nodePools[%d]", i), w, "move hosts, or add some in the smaller zones: losing the largest zone costs more than its share of the pool"))
		}
	}
	return out
}

// balance says when the zones of a pool differ by more than one host.
func balance(c *Cluster, p NodePool) (string, bool) {
	counts := map[string]int{}
	for _, z := range p.Zones {
		counts[z] = 0
	}
	for _, name := range p.Hosts {
		if h, ok := c.Host(name); ok {
			counts[h.Zone]++
		}
	}
	least, most := len(p.Hosts), 0
	var each []string
	for _, z := range slices.Sorted(maps.Keys(counts)) {
		least, most = min(least, counts[z]), max(most, counts[z])
		each = append(each, fmt.Sprintf("%d in %s", counts[z], z))
	}
	return fmt.Sprintf("the pool %s is not evenly spread over its zones: %s", p.Name, strings.Join(each, ", ")), most-least > 1
}
