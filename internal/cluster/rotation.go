package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules about the replacement of an authority.
const (
	RuleRotation        = "rotation-unfinished" // one rotation at a time, and nothing joins or is upgraded meanwhile
	RuleRotationUnclear = "rotation-unclear"    // hosts have what a rotation gives them
	RuleRotationHosts   = "rotation-hosts"      // a rotation reaches every host
	RuleRotationSigner  = "rotation-signer"     // programs sign with, and trust, the files that kubeadm configures
	RuleRotationEtcd    = "rotation-own-etcd"   // the authority of an etcd of the user's own is the user's
)

// RotationStage is a stage of a rotation.
type RotationStage string

// The stages.
const (
	TrustStage RotationStage = "trust"
	SignStage  RotationStage = "sign"
	DropStage  RotationStage = "drop"
)

// Rotation is where the replacement of an authority stands, as the hosts have it. Old and New are keys (see facts.Trust).
type Rotation struct {
	Authority facts.Authority
	Old, New  string
	// Begun says that one is in progress. What the fields below say holds for hosts that could be queried.
	Begun bool
	// Lack are hosts that do not trust the new key, Keep those that trust the old one, Dropped those that do not, and Signs the hosts whose
	// private key is the new one.
	Lack, Keep, Dropped, Signs []string
	// Unread are the programs that have not read the files of the stage of their host, by host, if they read them only when they start.
	Unread map[string][]string
	// Unclear is why the files of the hosts are not those of a rotation; empty if they are.
	Unclear string
}

// TrustingHosts are the hosts that have joined and trust an authority: control planes, and also all other nodes, or the hosts of an
// external etcd. An etcd of the user's own is none of Quorate's.
func (s *State) TrustingHosts(a facts.Authority) (out []spec.Host) {
	if a == facts.EtcdAuthority && s.Spec.ExistingEtcd() {
		return nil
	}
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || !s.Concerned(h, a) {
			continue
		}
		if h.IsNode() && f.Kubernetes.KubeletConfig || !h.IsNode() && f.Kubernetes.EtcdData {
			out = append(out, h)
		}
	}
	return out
}

// Concerned says that a host of the spec trusts an authority, or will when it has joined.
func (s *State) Concerned(h spec.Host, a facts.Authority) bool {
	return h.Has(spec.RoleControlPlane) || a.Shared() && h.IsNode() || a == facts.EtcdAuthority && s.hasMember(h.Name)
}

// hasMember says that the spec has a member of etcd on a host.
func (s *State) hasMember(host string) bool {
	return slices.ContainsFunc(s.Spec.EtcdHosts(), func(h spec.Host) bool { return h.Name == host })
}

// SigningHosts are the hosts of the spec that have the private key of an authority, unless it is kept elsewhere.
func (s *State) SigningHosts(a facts.Authority) []spec.Host {
	if a == facts.EtcdAuthority {
		return s.Spec.EtcdHosts()
	}
	return s.Spec.HostsWith(spec.RoleControlPlane)
}

// Rotation derives from the hosts how far the replacement of an authority is.
func (s *State) Rotation(a facts.Authority) Rotation {
	r := Rotation{Authority: a}
	hosts := s.TrustingHosts(a)
	ids, next, first, former := map[string]bool{}, map[string]bool{}, map[string]bool{}, false
	for _, h := range hosts {
		t := s.Facts(h.Name).Kubernetes.Trust[a]
		for _, id := range t.Trusted {
			ids[id] = true
		}
		if t.Next != "" {
			ids[t.Next], next[t.Next] = true, true
		}
		if t.Former != "" {
			ids[t.Former], former = true, true
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
	case a.ReadAtStart() && len(next) == 0 && !former:
		r.Unclear = fmt.Sprintf("%d keys are trusted, and nothing else of a rotation is there: somebody else added the others, or a backup from the middle of a rotation was restored", len(ids))
		return r // nothing of Quorate's is in progress
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
		if slices.Contains(t.Trusted, r.Old) {
			r.Keep = append(r.Keep, h.Name)
		} else {
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
	for _, h := range hosts {
		if unread := s.unread(r, h.Name); len(unread) > 0 {
			if r.Unread == nil {
				r.Unread = map[string][]string{}
			}
			r.Unread[h.Name] = unread
		}
	}
	return r
}

// Stage is the one that a rotation which has begun is in.
func (r Rotation) Stage() RotationStage {
	switch {
	case r.Old == "" || len(r.Dropped) > 0:
		return DropStage
	case len(r.Signs) > 0:
		return SignStage
	}
	return TrustStage
}

// Readers are the programs on a host that read an authority only when they start.
func (s *State) Readers(host string, a facts.Authority) (out []string) {
	h, _ := s.Spec.Host(host)
	if a == facts.EtcdAuthority && s.hasMember(host) {
		out = append(out, facts.Etcd)
	}
	if a.ReadAtStart() && h.Has(spec.RoleControlPlane) {
		out = append(out, facts.APIServer)
	}
	return out
}

// unread are those of these programs that were started before the files were last written, or of which nobody can tell. When the new key
// of etcd's authority begins to sign, the file only changes its order, which is nothing to read.
func (s *State) unread(r Rotation, host string) (out []string) {
	if r.Authority == facts.EtcdAuthority && len(r.Signs) > 0 && !slices.Contains(r.Dropped, host) {
		return nil
	}
	seen := s.Seen.Hosts[host]
	for _, program := range s.Readers(host, r.Authority) {
		// The host's own clock tells both times.
		if at := seen.Started[program]; at.IsZero() || !at.After(seen.Facts.Kubernetes.Trust[r.Authority].Written) {
			out = append(out, program)
		}
	}
	return out
}

// SignsSince is since when every API server signs the tokens of service accounts with the new key; false while one does not, or while
// nobody can tell. It is when the last of them was started, or an earlier moment that the cluster remembers.
func (s *State) SignsSince(r Rotation) (since time.Time, all bool) {
	for _, h := range s.SigningHosts(r.Authority) {
		f := s.Facts(h.Name)
		if r.Authority != facts.ServiceAccountKey || !r.Begun || f == nil || f.Kubernetes.Trust[r.Authority].Key != r.New || len(r.Unread[h.Name]) > 0 {
			return time.Time{}, false
		}
		if at := s.byCaller(h.Name, s.Seen.Hosts[h.Name].Started[facts.APIServer]); at.After(since) {
			since = at
		}
	}
	// An API server that restarts without a reason has signed with the new key before.
	if at, recorded := s.recordedSigns(r); recorded && at.Before(since) {
		since = at
	}
	return since, !since.IsZero()
}

// SignsRecord is what the cluster remembers when all API servers were asked whether they sign with the new key: that key, and since when they do,
// by the clock of control planes.
func (s *State) SignsRecord(r Rotation, since time.Time) string {
	return r.New + " " + s.ByControlPlanes(since).UTC().Format(time.RFC3339Nano)
}

// recordedSigns is since when they do by the clock of the caller, as the cluster remembers it; false if it remembers nothing about this key.
func (s *State) recordedSigns(r Rotation) (time.Time, bool) {
	if s.Seen.API == nil {
		return time.Time{}, false
	}
	key, moment, _ := strings.Cut(s.Seen.API.AccountKey, " ")
	at, err := time.Parse(time.RFC3339Nano, moment)
	ahead := s.ByControlPlanes(s.Seen.Time)
	if key != r.New || err != nil || ahead.IsZero() {
		return time.Time{}, false
	}
	return at.Add(s.Seen.Time.Sub(ahead)), true
}

// byCaller is a time by the clock of the caller that a host's clock has told. It is as exact as observations are fast.
func (s *State) byCaller(host string, t time.Time) time.Time {
	f := s.Facts(host)
	if t.IsZero() || f == nil || f.Time.IsZero() {
		return time.Time{}
	}
	return t.Add(s.Seen.Time.Sub(f.Time))
}

// ByControlPlanes is a moment by the clock of the caller as control planes tell it: the latest of what they do.
func (s *State) ByControlPlanes(t time.Time) time.Time {
	var out time.Time
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		if f := s.Facts(h.Name); f != nil && !f.Time.IsZero() {
			if at := t.Add(f.Time.Sub(s.Seen.Time)); at.After(out) {
				out = at
			}
		}
	}
	return out
}

// StartedSince says that a component of a host was started after a moment by the clock of the caller: so long after it that no difference
// between clocks counts. What is unknown was not.
func (s *State) StartedSince(host, component string, moment time.Time) bool {
	at := s.byCaller(host, s.Seen.Hosts[host].Components[component].Started)
	return at.After(moment.Add(ClockMargin))
}

// ClockMargin is more than what hosts disagree about a moment, as observations find it.
const ClockMargin = answerTime + 4*time.Second

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
	return &Refusal{Rule: RuleRotationUnclear, Why: fmt.Sprintf("the files of %s are not those of a rotation: %s", r.Authority.Title(), r.Unclear),
		Fix: fmt.Sprintf("Compare /etc/kubernetes/pki/%s on all hosts, and the public key of /etc/kubernetes/pki/%s where it is. Every host must trust the key that signs before any host stops trusting the former one.", r.Authority.Public(), r.Authority.Key())}
}

// RotationUnfinished is the refusal of what cannot be done while an authority is being replaced.
func RotationUnfinished(r Rotation, what string) *Refusal {
	return &Refusal{Rule: RuleRotation, Why: fmt.Sprintf("%s, and the rotation of %s is not finished", what, r.Authority.Title()), Fix: "Finish it first: `quorate certs rotate " + string(r.Authority) + "`."}
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
	hosts := slices.Sorted(maps.Keys(r.Unread))
	switch {
	case r.Unclear != "":
		return r.Unclear
	case len(r.Lack) > 0:
		return List(r.Lack) + plural(len(r.Lack), " does", " do") + " not trust the new key yet"
	case len(hosts) > 0:
		also := ""
		if more := len(hosts) - 1; more > 0 {
			also = fmt.Sprintf("; the same holds for %d more %s", more, plural(more, "host", "hosts"))
		}
		return fmt.Sprintf("%s on %s may not have read the changed files yet", List(r.Unread[hosts[0]]), hosts[0]) + also
	case r.Old == "" || len(r.Keep) == 0:
		return "every host trusts the new key alone, and the last steps are left"
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
		f.add(RuleRotation, Warning, fmt.Sprintf("the rotation of %s is not finished: %s", r.Authority.Title(), r.Progress()), fix)
	}
}
