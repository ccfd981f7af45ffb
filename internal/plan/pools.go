package plan

import (
	"maps"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

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
