package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules about the replacement of an authority.
const (
	RuleRotation        = "rotation-unfinished" // one rotation at a time, and nothing joins or is upgraded meanwhile
	RuleRotationUnclear = "rotation-unclear"    // hosts have what a rotation gives them
	RuleRotationHosts   = "rotation-hosts"      // a rotation reaches every host
	RuleRotationSigner  = "rotation-signer"     // the controller manager signs with the Kubernetes CA, as kubeadm configures it
)

// Rotation is where the replacement of an authority stands, as the hosts have it. Old and New are keys (see facts.Trust).
type Rotation struct {
	Authority facts.Authority
	Old, New  string
	// Begun says that one is in progress. What the fields below say holds for hosts that could be queried.
	Begun bool
	// Lack are hosts that do not trust the new key, Dropped those that do not trust the old one, and Signs the hosts whose private key is
	// the new one.
	Lack, Dropped, Signs []string
	// Unclear is why the files of the hosts are not those of a rotation; empty if they are.
	Unclear string
}

// TrustingHosts are the hosts that have joined and trust an authority. Those that have its private key are control planes.
func (s *State) TrustingHosts(a facts.Authority) (out []spec.Host) {
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f != nil && f.Kubernetes.KubeletConfig && h.IsNode() && (a.Shared() || h.Has(spec.RoleControlPlane)) {
			out = append(out, h)
		}
	}
	return out
}

// Rotation derives from the hosts how far the replacement of an authority is.
func (s *State) Rotation(a facts.Authority) Rotation {
	r := Rotation{Authority: a}
	hosts := s.TrustingHosts(a)
	ids, next, first := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, h := range hosts {
		t := s.Facts(h.Name).Kubernetes.Trust[a]
		for _, id := range t.Trusted {
			ids[id] = true
		}
		if t.Next != "" {
			ids[t.Next], next[t.Next] = true, true
		}
		if len(t.Trusted) > 0 && t.Key == t.Trusted[0] {
			first[t.Key] = true
		}
	}
	switch {
	case len(ids) == 0:
		return r
	case len(ids) == 1:
		r.New = slices.Collect(maps.Keys(ids))[0]
		r.Begun = s.signsApart(a) || s.publishesOther(a, r.New) // only what follows the last host is left
		return r
	case len(ids) > 2, len(next) > 1:
		r.Unclear = fmt.Sprintf("the hosts have %d different keys", len(ids))
	case len(next) == 1:
		r.New = slices.Collect(maps.Keys(next))[0]
	case len(first) == 1 && a == facts.KubernetesAuthority && s.Seen.API != nil && !s.signsApart(a):
		r.Unclear = "two keys are trusted, and nothing else of a rotation is there: somebody else added one"
	case len(first) == 1: // nobody keeps a key for later any more, so all sign with the new one
		r.New = slices.Collect(maps.Keys(first))[0]
	default:
		r.Unclear = "two keys are trusted, control planes sign with different ones or with none, and none of them keeps the one that is to follow"
	}
	r.Begun = true
	if r.Unclear != "" {
		return r
	}
	for id := range ids {
		if id != r.New {
			r.Old = id
		}
	}
	old := 0
	for _, h := range hosts {
		t := s.Facts(h.Name).Kubernetes.Trust[a]
		if !slices.Contains(t.Trusted, r.New) {
			r.Lack = append(r.Lack, h.Name)
		}
		if !slices.Contains(t.Trusted, r.Old) {
			r.Dropped = append(r.Dropped, h.Name)
		}
		switch t.Key {
		case r.New:
			r.Signs = append(r.Signs, h.Name)
		case r.Old:
			old++
		}
	}
	switch {
	case len(r.Lack) > 0 && len(r.Signs) > 0:
		r.Unclear = fmt.Sprintf("%s signs with the new key, and %s does not trust it", r.Signs[0], r.Lack[0])
	case len(r.Dropped) > 0 && old > 0:
		r.Unclear = fmt.Sprintf("%s does not trust the old key, and another host still signs with it", r.Dropped[0])
	}
	return r
}

// signsApart says that controller managers sign, or would sign after a restoration, with what a rotation gives them.
func (s *State) signsApart(a facts.Authority) bool {
	if a != facts.KubernetesAuthority {
		return false
	}
	rotates := facts.SigningArguments(true)[facts.SigningCertificateFlag]
	api := s.Seen.API
	return api != nil && api.Kubeadm != nil && api.Kubeadm.Arguments[facts.ControllerManager][facts.SigningCertificateFlag] == rotates ||
		slices.ContainsFunc(s.Spec.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
			f := s.Facts(h.Name)
			return f != nil && (f.Kubernetes.Trust[a].Apart || f.Kubernetes.Arguments[facts.ControllerManager][facts.SigningCertificateFlag] == rotates)
		})
}

// publishesOther says that the API still tells clients to trust another key, where API servers publish what kubeadm's files hold. API
// servers only add to it.
func (s *State) publishesOther(a facts.Authority, only string) bool {
	if s.Seen.API == nil {
		return false
	}
	flag := map[facts.Authority]string{facts.KubernetesAuthority: facts.ClientAuthorityKey, facts.FrontProxyAuthority: facts.ProxyAuthorityKey}[a]
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		if f := s.Facts(h.Name); f == nil || f.Kubernetes.Arguments[apiServer][flag] != "/etc/kubernetes/"+a.Certificate() {
			return false
		}
	}
	return slices.ContainsFunc(a.Published(), func(name string) bool {
		have, known := s.Seen.API.Trusted[name]
		return known && !(facts.Trust{Trusted: have}).Trusts(only)
	})
}

// Rotations are the replacements of authorities that are in progress.
func (s *State) Rotations() (out []Rotation) {
	for _, a := range facts.Authorities {
		if r := s.Rotation(a); r.Begun {
			out = append(out, r)
		}
	}
	return out
}

// RotationUnclear is the refusal of a rotation on hosts whose files are not those of one.
func RotationUnclear(r Rotation) *Refusal {
	return &Refusal{Rule: RuleRotationUnclear, Why: fmt.Sprintf("the files of the authority %s are not those of a rotation: %s", r.Authority, r.Unclear),
		Fix: fmt.Sprintf("Compare /etc/kubernetes/pki/%s on all hosts, and the public key of /etc/kubernetes/pki/%s on control planes. Every host must trust the key that signs before any host stops trusting the former one.", r.Authority.Public(), r.Authority.Key())}
}

// RotationUnfinished is the refusal of what cannot be done while an authority is being replaced.
func RotationUnfinished(r Rotation, what string) *Refusal {
	return &Refusal{Rule: RuleRotation, Why: fmt.Sprintf("%s, and the rotation of the authority %s is not finished", what, r.Authority), Fix: "Finish it first: `quorate certs rotate " + string(r.Authority) + "`."}
}

// SignedBefore are the certificates on a host that another key of an authority signed than the new one.
func (s *State) SignedBefore(host string, r Rotation) (out []facts.Certificate) {
	f := s.Facts(host)
	if f == nil {
		return nil
	}
	for _, c := range f.Kubernetes.Certificates {
		if c.SignedByAuthority() == r.Authority && c.SignedBy != r.New && c.SignedBy != "" {
			out = append(out, c)
		}
	}
	return out
}

// LastStage says that the last stage of a rotation has begun: a client that trusts the old key alone is refused somewhere.
func (s *State) LastStage(r Rotation) bool {
	if !r.Begun {
		return false
	}
	return r.Old == "" || len(r.Dropped) > 0 || r.Authority.Shared() && slices.ContainsFunc(s.Spec.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
		c, known := s.certificateOn(h.Name, facts.ServingCertificate)
		return known && c.SignedBy == r.New
	})
}

// Progress says in words how far a rotation is.
func (r Rotation) Progress() string {
	switch {
	case r.Unclear != "":
		return r.Unclear
	case r.Old == "":
		return "every host trusts the new key alone, and the last steps are left"
	case len(r.Lack) > 0:
		return List(r.Lack) + plural(len(r.Lack), " does", " do") + " not trust the new key yet"
	case len(r.Dropped) > 0:
		return "some hosts still trust the old key"
	case len(r.Signs) == 0:
		return "every host trusts both keys, and the old one signs"
	}
	return "every host trusts both keys, and " + strings.Join(r.Signs, ", ") + plural(len(r.Signs), " signs", " sign") + " with the new one"
}

// rotations reports rotations that are in progress.
func (f *findings) rotations() {
	for _, r := range f.Rotations() {
		fix := "Run `quorate certs rotate " + string(r.Authority) + "` to go on."
		if r.Unclear != "" {
			fix = RotationUnclear(r).Fix
		}
		f.add(RuleRotation, Warning, fmt.Sprintf("the rotation of the authority %s is not finished: %s", r.Authority, r.Progress()), fix)
	}
}
