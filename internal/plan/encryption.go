package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/cluster"
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
func RotateEncryption(s *cluster.State) (*Plan, error) {
	b := &builder{State: s, c: s.Spec, out: &Plan{Cluster: s.Spec.Metadata.Name, Unreachable: s.Unreachable()}}
	if r := s.OtherMachines(); r != nil {
		return nil, r
	}
	if err := b.allAPIServers(); err != nil {
		return nil, err
	}
	cps := b.c.HostsWith(spec.RoleControlPlane)
	keys := map[string][]string{}
	for _, h := range cps {
		keys[h.Name] = b.Facts(h.Name).Kubernetes.EncryptionKeys
	}
	r, err := rotationOf(keys)
	if err != nil {
		return nil, err
	}
	reason := "backups and disks that someone may have copied contain only the old key"
	if r.next > 1 {
		reason = "a rotation was interrupted, and these steps finish it"
	}
	leader := cps[0].Name
	for _, h := range cps {
		if slices.Contains(keys[h.Name], r.new) {
			leader = h.Name
		}
	}
	read := Step{Kind: ReadEncryptionKeys, Host: leader, Title: "read the encryption keys", Reason: reason}
	if !slices.Contains(keys[leader], r.new) {
		read.Title, read.NewKey = "create the encryption key "+r.new, r.new
	}
	before := []*Step{b.add(read)}
	for stage := r.next; stage <= lastStage; stage++ {
		if stage == lastStage && !r.rewritten {
			before = []*Step{b.add(Step{Kind: RewriteSecrets, Title: "rewrite all secrets",
				Reason: "secrets that were not written since are still encrypted with " + r.old}, before...)}
		}
		var set []*Step
		for _, h := range cps {
			title, reason := r.words(stage)
			set = append(set, b.add(Step{Kind: SetEncryptionKeys, Host: h.Name, Detail: strconv.Itoa(stage), Title: title, Reason: reason, EncryptionKeys: r.keys(stage)}, before...))
		}
		before = set
	}
	b.out.Steps = b.list()
	return b.out, nil
}

// allAPIServers refuses while any API server could miss a stage.
func (b *builder) allAPIServers() error {
	const fix = "`quorate status` shows what is wrong. Run it again when the cluster is healthy."
	if b.Seen.API == nil {
		return refused(RuleAPIServers, "the API could not be read"+after(": ", b.Seen.APIError), fix)
	}
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		switch f, a := b.Facts(h.Name), b.APIServer(h.Name); {
		case f == nil:
			return refused(RuleAPIServers, fmt.Sprintf("%s cannot be reached (%s): its API server would come back with a key that decrypts nothing", h.Name, b.out.Unreachable[h.Name]), "Bring it back first.")
		case len(f.Kubernetes.EncryptionKeys) == 0:
			return refused(RuleAPIServers, h.Name+" has no encryption keys that Quorate made", "Rotate the keys in the way that you created them: Quorate does not change other providers.")
		case !a.OK:
			return refused(RuleAPIServers, "the API server on "+h.Name+" is not ready: "+a.Problem+a.Unknown, fix)
		}
	}
	for _, n := range b.Seen.API.Nodes {
		_, controls := n.Labels[controlPlaneLabel]
		if h, known := b.c.Host(n.Name); controls && (!known || !h.Has(spec.RoleControlPlane)) {
			return refused(RuleAPIServers, fmt.Sprintf("the control plane %s is not in the spec: its API server would not get the new key", n.Name), "Add it to the spec, or remove it from the cluster, first.")
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
		return "add the key " + r.new, "every API server must be able to decrypt with it before any of them encrypts with it"
	case 2:
		return "encrypt with the key " + r.new, "every API server can decrypt with it"
	}
	return "remove the key " + r.old, "nothing is encrypted with it anymore"
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
			return rotation{}, unclear(fmt.Sprintf("the key %s was not made by Quorate", name))
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
	return refused(RuleKeys, "the encryption keys of the control planes are not those of a rotation: "+why,
		"Compare /etc/kubernetes/pki/encryption.yaml on all control planes. Secrets that cannot be read need the file with which they were written.")
}
