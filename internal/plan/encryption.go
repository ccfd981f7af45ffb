package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// A rotation of the encryption key goes through stages, each of which every apiserver has reached before any goes on.
// Of two stages that follow each other either can read what the other writes:
//
//	0  old        what was
//	1  old, new   everybody can read what the new key will encrypt
//	2  new, old   what is written is encrypted with the new key; now every secret is written again
//	3  new        the old key is gone
//
// The files say how far a rotation that was interrupted has come.
const lastStage = 3

// RotateEncryption plans a new key for secrets at rest, or the rest of a rotation that was interrupted.
func RotateEncryption(c *spec.Cluster, obs *facts.Observation) (*Plan, error) {
	p := &builder{c: c, obs: obs, out: &Plan{Cluster: c.Metadata.Name, Steps: []Step{}, Unreachable: map[string]string{}}}
	for _, h := range c.Spec.Hosts {
		if o := obs.Hosts[h.Name]; o.Facts == nil {
			p.out.Unreachable[h.Name] = o.Error
		}
	}
	if err := p.allAPIServers(); err != nil {
		return nil, err
	}
	cps := c.HostsWith(spec.RoleControlPlane)
	keys := map[string][]string{}
	for _, h := range cps {
		keys[h.Name] = p.facts(h.Name).Kubernetes.EncryptionKeys
	}
	r, err := rotationOf(keys)
	if err != nil {
		return nil, err
	}
	reason := "a new key that no backup or stolen disk has met"
	if r.next > 1 {
		reason = "a rotation was interrupted: this is the rest of it"
	}
	leader := cps[0].Name
	for _, h := range cps {
		if slices.Contains(keys[h.Name], r.new) {
			leader = h.Name
		}
	}
	read := Step{Kind: ReadEncryptionKeys, Host: leader, Title: "read the encryption keys", Reason: reason}
	if !slices.Contains(keys[leader], r.new) {
		read.Title, read.NewKey = "make the encryption key "+r.new, r.new
	}
	before := []string{p.add(read)}
	for stage := r.next; stage <= lastStage; stage++ {
		if stage == lastStage && !r.rewritten {
			before = []string{p.add(Step{Kind: RewriteSecrets, Title: "rewrite all secrets", Needs: before,
				Reason: "those that were not written since are still encrypted with " + r.old})}
		}
		var set []string
		for _, h := range cps {
			s := Step{ID: fmt.Sprintf("%s/%s-%d", h.Name, SetEncryptionKeys, stage), Kind: SetEncryptionKeys, Host: h.Name, Needs: before, EncryptionKeys: r.keys(stage)}
			s.Title, s.Reason = r.words(stage)
			p.out.Steps = append(p.out.Steps, s)
			set = append(set, s.ID)
		}
		before = set
	}
	return p.out, nil
}

// allAPIServers refuses while any apiserver could miss a stage.
func (p *builder) allAPIServers() error {
	const rule = "every apiserver must follow"
	if p.obs.API == nil {
		return &Refusal{rule, "no apiserver answers", "Look at quorate status, and come back when the cluster is whole."}
	}
	for _, h := range p.c.HostsWith(spec.RoleControlPlane) {
		switch o := p.obs.Hosts[h.Name]; {
		case o.Facts == nil:
			return &Refusal{rule, fmt.Sprintf("%s cannot be reached (%s): it would come back with keys that read nothing", h.Name, o.Error), "Bring it back, or remove it, first."}
		case len(o.Facts.Kubernetes.EncryptionKeys) == 0:
			return &Refusal{rule, h.Name + " has no encryption keys that quorate made", "Rotate the keys as you made them: Quorate leaves other providers alone."}
		case o.APIServer == nil || !*o.APIServer:
			return &Refusal{rule, "the apiserver on " + h.Name + " is not ready", "Look at quorate status, and come back when the cluster is whole."}
		}
	}
	for _, n := range p.obs.API.Nodes {
		_, controls := n.Labels[controlPlaneLabel]
		if h, known := p.c.Host(n.Name); controls && (!known || !h.Has(spec.RoleControlPlane)) {
			return &Refusal{rule, fmt.Sprintf("the control plane %s is not in the spec: its apiserver would not get the new key", n.Name), "Put it into the spec, or remove it, first."}
		}
	}
	return nil
}

// rotation is where a rotation stands.
type rotation struct {
	old, new string
	next     int // the stage to bring every apiserver to
	// rewritten says that no secret needs the old key any more.
	rewritten bool
}

func (r rotation) keys(stage int) []string {
	return [][]string{{r.old}, {r.old, r.new}, {r.new, r.old}, {r.new}}[stage]
}

func (r rotation) words(stage int) (title, reason string) {
	switch stage {
	case 1:
		return "add the key " + r.new, "every apiserver must be able to read with it before any writes with it"
	case 2:
		return "encrypt with the key " + r.new, "every apiserver can read it"
	}
	return "remove the key " + r.old, "nothing needs it any more"
}

// rotationOf reads from the keys of all control planes how far they are.
func rotationOf(hosts map[string][]string) (rotation, error) {
	names := map[string]bool{}
	for _, keys := range hosts {
		for _, k := range keys {
			names[k] = true
		}
	}
	var all []string
	highest := 0
	for name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(name, "key"))
		if err != nil || n < 1 {
			return rotation{}, unclear(fmt.Sprintf("the key %s is not of quorate's making", name))
		}
		all, highest = append(all, name), max(highest, n)
	}
	latest := fmt.Sprintf("key%d", highest)
	switch len(all) {
	case 1:
		return rotation{old: latest, new: fmt.Sprintf("key%d", highest+1), next: 1}, nil
	case 2:
	default:
		return rotation{}, unclear(fmt.Sprintf("they have %d different keys", len(all)))
	}
	r := rotation{new: latest, old: all[0]}
	if r.old == latest {
		r.old = all[1]
	}
	first, last := lastStage, 0
	for name, keys := range hosts {
		stage := slices.IndexFunc([]int{0, 1, 2, 3}, func(s int) bool { return slices.Equal(r.keys(s), keys) })
		if stage < 0 {
			return rotation{}, unclear(fmt.Sprintf("%s has the keys %s", name, strings.Join(keys, ", ")))
		}
		first, last = min(first, stage), max(last, stage)
	}
	if last-first > 1 {
		return rotation{}, unclear("some are more than one step behind the others")
	}
	// The files may be ahead of the apiservers: the stage that was reached is gone through once more.
	r.next, r.rewritten = max(last, 1), last == lastStage
	return r, nil
}

func unclear(why string) error {
	return &Refusal{"keys that a rotation can have left", "the control planes' encryption keys do not fit together: " + why,
		"Compare /etc/kubernetes/pki/encryption.yaml on all control planes; secrets that cannot be read need the file that they were written with."}
}
