package plan

import (
	"maps"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Labels that Quorate sets on nodes.
const (
	ZoneLabel         = "topology.kubernetes.io/zone"
	RegionLabel       = "topology.kubernetes.io/region"
	PoolLabel         = "quorate.dev/pool"
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
	excludeLabel      = "node.kubernetes.io/exclude-from-external-load-balancers"
)

// NodeLabels are the labels that a kubelet may give its own node when it registers.
func NodeLabels(h spec.Host) map[string]string {
	labels := map[string]string{ZoneLabel: h.Zone}
	if h.Region != "" {
		labels[RegionLabel] = h.Region
	}
	return labels
}

// Taints are the taints that a host's roles give its node.
func Taints(h spec.Host) []facts.Taint {
	if h.Has(spec.RoleControlPlane) && !h.Has(spec.RoleWorker) {
		return []facts.Taint{{Key: controlPlaneLabel, Effect: "NoSchedule"}}
	}
	return nil
}

func pool(c *spec.Cluster, h spec.Host) (spec.NodePool, bool) {
	i := slices.IndexFunc(c.Spec.NodePools, func(n spec.NodePool) bool { return slices.Contains(n.Hosts, h.Name) })
	if i < 0 {
		return spec.NodePool{}, false
	}
	return c.Spec.NodePools[i], true
}

// PoolLabels are the labels that a host's pool gives its node.
func PoolLabels(c *spec.Cluster, h spec.Host) map[string]string {
	pool, ok := pool(c, h)
	if !ok {
		return nil
	}
	labels := map[string]string{PoolLabel: pool.Name}
	maps.Copy(labels, pool.Labels)
	return labels
}

// PoolTaints are the taints that a host's pool gives its node.
func PoolTaints(c *spec.Cluster, h spec.Host) []facts.Taint {
	pool, _ := pool(c, h)
	var out []facts.Taint
	for _, t := range pool.Taints {
		out = append(out, facts.Taint{Key: t.Key, Value: t.Value, Effect: t.Effect})
	}
	return out
}

// labelStep sets all labels and taints that the spec gives a node.
func (b *builder) labelStep(h spec.Host, reason string) Step {
	s := labelsOf(b.c, h)
	s.Reason = reason
	return s
}

// labelsOf has all labels and taints that a spec gives a node.
func labelsOf(c *spec.Cluster, h spec.Host) Step {
	s := Step{Kind: LabelNode, Host: h.Name, Title: "label the node", Labels: NodeLabels(h), Taints: PoolTaints(c, h)}
	maps.Copy(s.Labels, PoolLabels(c, h))
	if h.Has(spec.RoleControlPlane) {
		s.Labels[controlPlaneLabel], s.Labels[excludeLabel] = "", ""
		s.Taints = append(s.Taints, Taints(h)...)
	}
	return s
}

// labelWorker labels a worker that starts or joins with this plan. The kubelet itself sets the labels of its place.
func (b *builder) labelWorker(h spec.Host, after ...*Step) {
	if len(PoolLabels(b.c, h)) > 0 || len(PoolTaints(b.c, h)) > 0 {
		b.add(b.labelStep(h, "its node pool has labels or taints"), after...)
	}
}

// relabel updates the labels and taints of a node of the cluster. What the recorded spec gave it and this one does not is
// removed; what others gave it stays.
func (b *builder) relabel(h spec.Host) {
	node := b.Node(h.Name)
	if !h.IsNode() || !b.Facts(h.Name).Kubernetes.KubeletConfig || node == nil {
		return // not a node, or one that is about to register
	}
	want := b.labelStep(h, "")
	var differ []string
	for _, k := range slices.Sorted(maps.Keys(want.Labels)) {
		if have, ok := node.Labels[k]; !ok || have != want.Labels[k] {
			differ = append(differ, "label "+k+" differs")
		}
	}
	for _, t := range want.Taints {
		if !slices.Contains(node.Taints, t) {
			differ = append(differ, "taint "+t.Key+" is missing")
		}
	}
	want.RemoveLabels, want.RemoveTaints = b.formerLabels(h, node, want)
	for _, k := range want.RemoveLabels {
		differ = append(differ, "label "+k+" left the spec")
	}
	for _, t := range want.RemoveTaints {
		differ = append(differ, "taint "+t.Key+" left the spec")
	}
	if len(differ) > 0 {
		want.Reason = reasons(differ)
		b.add(want, b.at[h.Name].configure)
	}
}

// formerLabels are the labels and taints that the node has from the recorded spec and that this one does not give it.
func (b *builder) formerLabels(h spec.Host, node *facts.Node, want Step) (labels []string, taints []facts.Taint) {
	record, err := b.Record()
	if record == nil || err != nil {
		return nil, nil
	}
	before, was := record.Cluster().Host(h.Name)
	if !was {
		return nil, nil
	}
	former := PoolLabels(record.Cluster(), before)
	if former == nil {
		former = map[string]string{}
	}
	maps.Copy(former, NodeLabels(before))
	for _, k := range slices.Sorted(maps.Keys(former)) {
		if _, still := want.Labels[k]; still {
			continue
		}
		if have, has := node.Labels[k]; has && have == former[k] {
			labels = append(labels, k)
		}
	}
	for _, t := range PoolTaints(record.Cluster(), before) {
		if !slices.Contains(want.Taints, t) && slices.Contains(node.Taints, t) {
			taints = append(taints, t)
		}
	}
	return labels, taints
}
