package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// ownedLabels are derived from the host. A pool that set them would make the cluster misreport its zones or machines.
var ownedLabels = map[string]string{
	"topology.kubernetes.io/zone":           "it comes from the host's zone",
	"topology.kubernetes.io/region":         "it comes from the host's region",
	"kubernetes.io/hostname":                "it is the host name",
	"kubernetes.io/os":                      "the kubelet determines it",
	"kubernetes.io/arch":                    "the kubelet determines it",
	"node-role.kubernetes.io/control-plane": "it comes from the host's role",
}

func (k *checker) pools() {
	hosts, workers := hostNames(k.c.Spec.Hosts), hostNames(k.c.HostsWith(RoleWorker))
	names, poolOf := map[string]bool{}, map[string]string{}
	for i, p := range k.c.Spec.NodePools {
		path := fmt.Sprintf("spec.nodePools[%d]", i)
		if p.Name == "" {
			k.refuse(path+".name", "give it a short name, such as `web`", "the pool has no name")
		} else if k.label(path+".name", p.Name) && names[p.Name] {
			k.refuse(path+".name", "give each pool its own name", "there are two pools `%s`", p.Name)
		}
		names[p.Name] = true
		if len(p.Hosts) == 0 {
			k.refuse(path+".hosts", "name the workers that belong to it", "the pool has no hosts")
		}
		for j, name := range p.Hosts {
			at := fmt.Sprintf("%s.hosts[%d]", path, j)
			other, taken := poolOf[name]
			switch h, exists := k.c.Host(name); {
			case !exists && slices.Contains(hosts, ""): // it may be the one whose name is already refused
			case !exists:
				k.refuse(at, suggest(name, workers, "name a host of spec.hosts"), "there is no host `%s`", name)
			case !h.Has(RoleWorker) && len(h.Roles) > 0:
				k.refuse(at, "give it the role worker, or remove it from the pool", "the host `%s` is not a worker", name)
			case taken && other == path:
				k.refuse(at, "remove one of the two", "`%s` is in the pool twice", name)
			case taken:
				k.refuse(at, "remove it from one of them: a host can be in at most one pool", "`%s` is already in another pool, %s%s", name, other, k.line(other))
			default:
				poolOf[name] = path
			}
		}
		k.poolSize(path, p)
		k.poolZones(path, p)
		k.labels(path+".labels", p.Labels)
		k.taints(path+".taints", p.Taints)
	}
}

// poolZones checks that the zones of a pool and of its hosts are the same ones.
func (k *checker) poolZones(path string, p NodePool) {
	if len(p.Zones) == 0 || !k.sound("spec.hosts") || !k.sound(path) {
		return
	}
	all := zonesOf(k.c.Spec.Hosts)
	known := slices.Sorted(maps.Keys(all))
	own := map[string]bool{}
	for j, name := range p.Hosts {
		if h, ok := k.c.Host(name); ok {
			own[h.Zone] = true
			if !slices.Contains(p.Zones, h.Zone) {
				k.refuse(fmt.Sprintf("%s.hosts[%d]", path, j), "add the zone to the pool, or remove the host",
					"`%s` is in zone `%s`, which is not one of the pool's (%s)", name, h.Zone, strings.Join(p.Zones, ", "))
			}
		}
	}
	for j, zone := range p.Zones {
		at := fmt.Sprintf("%s.zones[%d]", path, j)
		switch {
		case all[zone] == 0:
			k.refuse(at, suggest(zone, known, "the zones are "+strings.Join(known, ", ")), "no host is in zone `%s`", zone)
		case slices.Contains(p.Zones[:j], zone):
			k.refuse(at, "remove one of the two", "zone `%s` is given twice", zone)
		case !own[zone] && len(p.Hosts) > 0:
			k.refuse(at, "add a worker of that zone to the pool, or remove the zone", "none of the pool's hosts is in zone `%s`", zone)
		}
	}
}

func (k *checker) labels(path string, labels map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		at := path + "[" + key + "]"
		if reason, owned := ownedLabels[key]; owned {
			k.refuse(at, "remove it", "the label cannot be set by a pool: %s", reason)
		} else {
			k.qualified(at, "label", key, labels[key])
		}
	}
}

func (k *checker) taints(path string, taints []Taint) {
	seen := map[[2]string]bool{}
	for i, t := range taints {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.qualified(at, "taint", t.Key, t.Value)
		k.choose(at+".effect", "Taint.effect", t.Effect)
		if id := [2]string{t.Key, t.Effect}; seen[id] {
			k.refuse(at, "remove one of the two", "the taint `%s` with effect %s is given twice", t.Key, t.Effect)
		} else {
			seen[id] = true
		}
	}
}

// qualified refuses keys and values that Kubernetes would refuse when the node registers.
func (k *checker) qualified(path, what, key, value string) {
	if msgs := validation.IsQualifiedName(key); len(msgs) > 0 {
		k.refuse(path, "write it like `example.com/tier` or `tier`", "`%s` is not a %s key: %s", key, what, msgs[0])
	}
	if msgs := validation.IsValidLabelValue(value); len(msgs) > 0 {
		k.refuse(path, "use at most 63 letters, digits, dashes, dots, and underscores", "`%s` is not a %s value", value, what)
	}
}

func suggest(word string, known []string, otherwise string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean `%s`?", near)
	}
	return otherwise
}

func hostNames(hosts []Host) []string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	return names
}
