package plan

import (
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// untried are the nodes that join with this plan; all of them when the pod network itself is installed or changed, and as long
// as a run that was cut short may have left them untried.
func (b *builder) untried() (out []string) {
	if b.c.Spec.Network.CNI == spec.CNINone {
		return nil
	}
	for _, h := range b.c.Spec.Hosts {
		concerns := func(s *Step) bool {
			switch s.Kind {
			case JoinControlPlane, JoinWorker:
				return s.Host == h.Name
			case ApplyManifest:
				return s.Manifest == manifest.Flannel || s.Manifest == manifest.CNI
			}
			return false
		}
		if h.IsNode() && (!b.exists() || slices.ContainsFunc(b.steps, concerns)) {
			out = append(out, h.Name)
		}
	}
	return out
}

// refuseNetwork refuses to put a second pod network beside the one in which the pods live.
func (b *builder) refuseNetwork() error {
	if _, wanted := b.bundle.Manifests[manifest.Flannel]; wanted && b.Seen.API.Applied[manifest.Flannel] == "" && !b.keepsNetwork() {
		for _, n := range b.Seen.API.Networks {
			if !n.Flannel() {
				return refused(RuleNetwork, fmt.Sprintf("the pod network is set up by %s/%s, which Quorate did not install, but the spec says flannel", n.Namespace, n.Name),
					"Put `cni: none` into the spec: the network stays yours.")
			}
		}
	}
	for _, name := range []string{manifest.Flannel, manifest.CNI} {
		_, wanted := b.bundle.Manifests[name]
		if _, there := b.Seen.API.Applied[name]; !there || wanted {
			continue
		}
		what := map[string]string{manifest.Flannel: "flannel", manifest.CNI: "your own plugin"}[name]
		return refused(RuleNetwork, fmt.Sprintf("the pods of this cluster are in the network of %s, but the spec says `cni: %s`: a change in place would cut them off from each other", what, b.c.Spec.Network.CNI),
			"Put it back into the spec. Or move the nodes by hand, as the new plugin's documentation says, and then let Quorate forget the old one: "+
				fmt.Sprintf(`kubectl -n kube-system patch configmap quorate --type=json -p '[{"op":"remove","path":"/data/%s"}]'`, name))
	}
	return nil
}
