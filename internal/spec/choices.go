package spec

import (
	"fmt"
	"slices"
	"strings"
)

// choices lists the values of each field that has only a few, the default first. Validation,
// the hints in its messages, and the JSON schema all read this one table. Keys are Type.field.
var choices = map[string][]string{
	"Cluster.apiVersion":     {APIVersion},
	"Cluster.kind":           {Kind},
	"ControlPlane.topology":  {TopologyStacked, TopologyExternal},
	"ControlPlane.placement": {PlacementRegional, PlacementZonal, PlacementSingle},
	"LoadBalancer.type":      {BalancerManaged, BalancerExternal},
	"Network.cni":            {CNIFlannel, CNIManifest, CNIChart, CNINone},
	"Network.policies":       {PoliciesEnforced, PoliciesIgnored},
	"Components.source":      {SourceModules, SourceOfficial, SourceMirror, SourceBundle},
	"Signatures.require":     {SignaturesPublished, SignaturesAll, SignaturesNone},
	"Failover.profile":       {ProfileFast, ProfileStandard},
	"Host.roles":             {RoleControlPlane, RoleWorker, RoleEtcd, RoleLoadBalancer},
	"Taint.effect":           {"NoSchedule", "PreferNoSchedule", "NoExecute"},
}

// choose refuses a value that is not among the field's choices.
func (k *checker) choose(path, field, value string) {
	allowed := choices[field]
	switch {
	case slices.Contains(allowed, value):
	case value == "":
		k.refuse(path, "use "+or(allowed), "it is empty")
	default:
		fix := "use " + or(allowed)
		if near := Nearest(value, allowed); near != "" && len(allowed) > 1 {
			fix = fmt.Sprintf("did you mean `%s`?", near)
		}
		k.refuse(path, fix, "`%s` is not known", value)
	}
}

// or lists the words as a choice: `a`, `b` or `c`.
func or(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "`" + w + "`"
	}
	if n := len(quoted); n > 1 {
		return strings.Join(quoted[:n-1], ", ") + " or " + quoted[n-1]
	}
	return strings.Join(quoted, "")
}
