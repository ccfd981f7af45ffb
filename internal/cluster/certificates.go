package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules by which a renewal of certificates is refused.
const (
	RuleAuthorityExpired = "authority-expired" // a certificate that an expired authority signs is accepted by nobody
	RuleAuthorityKey     = "authority-key"     // who renews a certificate has its authority's key
)

// Certificates that expire within ExpiresSoon are a warning, and within expiresNow critical. One that was never valid for long is so
// when a quarter, or an eighth, of its lifetime is left: who renews it does that earlier.
//
// Authorities that expire within authorityExpiresSoon are a warning, and within ExpiresSoon critical: what they sign does not outlive them, and
// to replace one without an outage takes time.
const (
	ExpiresSoon          = 30 * 24 * time.Hour
	expiresNow           = 7 * 24 * time.Hour
	authorityExpiresSoon = 180 * 24 * time.Hour
)

// Certificate is one certificate on one host.
type Certificate struct {
	Host string
	facts.Certificate
}

// Renewer says who renews a certificate.
type Renewer string

const (
	// ByQuorate: `quorate certs renew`, and `quorate apply` when less than a third of its lifetime is left.
	ByQuorate Renewer = "quorate"
	// ByKubelet: the kubelet that has it.
	ByKubelet Renewer = "kubelet"
	// ByApprover: Quorate's approver on that host.
	ByApprover Renewer = "approver"
	// ByEtcdHosts: it is renewed on the hosts of an external etcd and copied from there.
	ByEtcdHosts Renewer = "etcd-hosts"
	// ByOwner: the user, who brought it. That also holds for authorities, which are replaced only when the user says so. But `quorate
	// apply` renews the certificate of one that has expired.
	ByOwner Renewer = "owner"
)

// Renewer says who renews a certificate that is on a host.
func (s *State) Renewer(c Certificate) Renewer {
	h, _ := s.present.Host(c.Host)
	switch {
	case c.Name == facts.KubeletClient, c.Name == facts.KubeletServer, c.Name == facts.KubeletKubeconfig:
		return ByKubelet
	case c.Name == facts.ApproverCertificate:
		return ByApprover
	case c.Signer() == "":
		return ByOwner
	case c.Name == facts.EtcdClientCertificate && s.Spec.ExistingEtcd():
		return ByOwner
	case c.Name == facts.EtcdClientCertificate && s.Spec.ManagedEtcd() && !h.Has(spec.RoleEtcd):
		return ByEtcdHosts
	}
	return ByQuorate
}

// Certificates are all that were found, the first to expire first.
func (s *State) Certificates() (out []Certificate) {
	for _, h := range s.present.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil {
			for _, c := range f.Kubernetes.Certificates {
				out = append(out, Certificate{h.Name, c})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Certificate) int { return a.Expires.Compare(b.Expires) })
	return out
}

// certificateOn finds a certificate on a host.
func (s *State) certificateOn(host, name string) (facts.Certificate, bool) {
	f := s.Facts(host)
	if f == nil {
		return facts.Certificate{}, false
	}
	i := slices.IndexFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool { return c.Name == name })
	if i < 0 {
		return facts.Certificate{}, false
	}
	return f.Kubernetes.Certificates[i], true
}

// Renewable are the certificates on a host that Quorate renews.
func (s *State) Renewable(host string) (out []facts.Certificate) {
	f := s.Facts(host)
	if f == nil {
		return nil
	}
	for _, c := range f.Kubernetes.Certificates {
		if s.Renewer(Certificate{host, c}) == ByQuorate {
			out = append(out, c)
		}
	}
	return out
}

// Due says that the next apply renews a certificate on a host: less than a third of its lifetime is
// left. No certificate outlives its authority, so one that ends together with that is not due.
func (s *State) Due(host string, c facts.Certificate) bool {
	left := c.Expires.Sub(s.Seen.Time)
	ca, known := s.certificateOn(host, c.Signer())
	if known && !c.Expires.Before(ca.Expires) && left > 0 {
		return false
	}
	return left <= 0 || left < c.Lifetime()/3
}

// Expired says that a certificate is not valid any more.
func (s *State) Expired(c facts.Certificate) bool { return !c.Expires.After(s.Seen.Time) }

// MayRenew is why certificates on a host cannot be renewed there; nil if they can.
func (s *State) MayRenew(host string, all []facts.Certificate) *Refusal {
	for _, c := range all {
		if ca, known := s.certificateOn(host, c.Signer()); known && s.Expired(ca) && !s.RenewsAuthority(ca.Name) {
			return s.AuthorityExpired(host, ca)
		}
		if !s.HasAuthorityKey(host, c.Signer()) {
			return &Refusal{Rule: RuleAuthorityKey, Subjects: []string{host},
				Why: fmt.Sprintf("%s on %s cannot be renewed there: the private key of its authority, /etc/kubernetes/pki/%s, is not on that host", c.Name, host, facts.KeyOf(c.Signer())),
				Fix: "If the key is kept offline, sign new certificates with it: docs/certificates.md, section \"An offline CA\". If another host has it and this one should too, copy it to this host."}
		}
	}
	return nil
}

// AuthorityExpired is the refusal of everything that needs an authority whose certificate has expired.
func (s *State) AuthorityExpired(host string, ca facts.Certificate) *Refusal {
	r := &Refusal{Rule: RuleAuthorityExpired, Subjects: []string{host},
		Why: fmt.Sprintf("the authority %s on %s %s: nobody accepts what it signs, and its own certificate is in every kubeconfig and on every node", ca.Name, host, Expiry(ca.Expires, s.Seen.Time)),
		Fix: fixExpiredAuthority}
	if !s.RenewsAuthority(ca.Name) {
		r.Why += "; " + s.whyNotRenewed(ca)
		r.Fix = fixOfflineAuthority
	}
	return r
}

// What to do about an authority that has expired, if its key is on a host, and if it is not.
const (
	fixExpiredAuthority = "Run `quorate apply`: it renews the authority's certificate for the same key, and gives it to all hosts."
	fixOfflineAuthority = "Renew its certificate with the key that you keep, put it on one host, and run `quorate apply`: docs/certificates.md, section \"An authority that has expired\"."
)

// whyNotRenewed is why no host can renew the certificate of an authority.
func (s *State) whyNotRenewed(ca facts.Certificate) string {
	for _, a := range facts.Authorities {
		if a.Certificate() != ca.Name {
			continue
		}
		if r := s.Rotation(a); r.Begun {
			return "it is being replaced, and hosts sign with different keys, or the one that signs is on no host that can be reached"
		}
	}
	return "its key is on no host that can be reached and has joined the cluster"
}

// AuthorityRenewal is how an authority whose certificate has expired comes back: by another certificate for the same key and name. What it
// signed is accepted again then, as far as it has not expired itself.
type AuthorityRenewal struct {
	Authority facts.Authority
	// Trusted are the keys that hosts trust, as facts.Trust has them. The first one signs, and the certificate is for it.
	Trusted []string
	// On is the host that signs the certificate; empty if a host has a valid one already.
	On string
	// Hosts still trust the one that has expired, in their file or in a kubeconfig. Expired is when it did.
	Hosts   []string
	Expired time.Time
	// Away are hosts in maintenance that still trust it, too. They get the certificate when that ends.
	Away []string
}

// AuthorityRenewals are the renewals of expired authorities that have to begin, or that an earlier run did not finish. An authority is not among them
// if no host has its key, or if hosts disagree about which key it is. Hosts in maintenance are left as they are, whatever they have.
func (s *State) AuthorityRenewals() (out []AuthorityRenewal) {
	for _, a := range facts.Authorities {
		if r, possible := s.authorityRenewal(a); possible && len(r.Hosts) > 0 {
			out = append(out, r)
		}
	}
	return out
}

func (s *State) authorityRenewal(a facts.Authority) (r AuthorityRenewal, possible bool) {
	r.Authority = a
	valid := false
	for _, h := range s.TrustingHosts(a) {
		t := s.Facts(h.Name).Kubernetes.Trust[a]
		c, known := s.certificateOn(h.Name, a.Certificate())
		if !known || len(t.Trusted) == 0 {
			continue
		}
		if _, in := s.Maintenance(h.Name); in {
			if s.Expired(c) {
				r.Away = append(r.Away, h.Name)
			}
			continue
		}
		if len(r.Trusted) > 0 && r.Trusted[0] != t.Trusted[0] {
			return r, false
		}
		if len(t.Trusted) > len(r.Trusted) {
			r.Trusted = t.Trusted
		}
		switch {
		case s.Expired(c):
			r.Hosts, r.Expired = append(r.Hosts, h.Name), c.Expires
		case !t.Until.IsZero() && !t.Until.After(s.Seen.Time): // kubeconfigs were not written, or the file still has both
			r.Hosts, r.Expired, valid = append(r.Hosts, h.Name), t.Until, true
		default:
			valid = true
		}
		if r.On == "" && t.Key == t.Trusted[0] {
			r.On = h.Name
		}
	}
	possible = valid || r.On != ""
	if valid {
		r.On = ""
	}
	return r, possible
}

// RenewsAuthority says that the certificate of an authority, as of facts.Certificate.Name, has expired somewhere, and that apply renews it, or
// gives hosts the one that others have. A host in maintenance gets that when the maintenance ends.
func (s *State) RenewsAuthority(name string) bool {
	return slices.ContainsFunc(facts.Authorities, func(a facts.Authority) bool {
		r, possible := s.authorityRenewal(a)
		return a.Certificate() == name && possible && len(r.Hosts)+len(r.Away) > 0
	})
}

// RenewedOnReturn says that a certificate has expired on a host in maintenance, and that it is renewed when the maintenance ends.
func (s *State) RenewedOnReturn(c Certificate) bool {
	if _, in := s.Maintenance(c.Host); !in || !s.Expired(c.Certificate) {
		return false
	}
	switch s.Renewer(c) {
	case ByKubelet:
		return s.MaySignFor(c.Host)
	case ByQuorate:
		return s.MayRenew(c.Host, []facts.Certificate{c.Certificate}) == nil
	case ByEtcdHosts:
		return true
	}
	return s.RenewsAuthority(c.Name)
}

// TrustsExpired says that a host trusts an authority that has expired, and that apply renews.
func (s *State) TrustsExpired(host string) bool {
	return slices.ContainsFunc(s.AuthorityRenewals(), func(r AuthorityRenewal) bool { return slices.Contains(r.Hosts, host) })
}

// FormerReaders are the programs on a host that have to restart, because they were started before the certificate of etcd's authority was signed
// again that is there now: they read it only when they start, and the one that they have read has expired. A program that works may have read
// another one.
func (s *State) FormerReaders(host string) []string {
	out, all := s.readFormer(host), s.EtcdExpired()
	m, has := s.Member(host)
	works := map[string]bool{facts.Etcd: has && m.Healthy, facts.APIServer: s.APIServer(host).OK}
	out = slices.DeleteFunc(out, func(program string) bool { return works[program] && !all })
	if slices.Contains(out, facts.Etcd) {
		return s.Readers(host, facts.EtcdAuthority) // a member does not restart without its API server
	}
	return out
}

// readFormer are the programs on a host that were started before.
func (s *State) readFormer(host string) (out []string) {
	f := s.Facts(host)
	c, known := s.certificateOn(host, facts.EtcdCA)
	if f == nil || !known || s.Expired(c) || s.Rotation(facts.EtcdAuthority).Begun {
		return nil
	}
	for _, program := range s.Readers(host, facts.EtcdAuthority) {
		// The file may have been written for another reason, and a certificate begins some time before it is signed: both must be later.
		at := s.Seen.Hosts[host].Started[program]
		if !at.IsZero() && at.Before(f.Kubernetes.Trust[facts.EtcdAuthority].Written) && at.Before(c.Begins.Add(facts.Backdated)) {
			out = append(out, program)
		}
	}
	return out
}

// FormerClients are the nodes on which kube-proxy or flannel was started before the certificate of the Kubernetes CA was signed, and written, that
// the node trusts now, and whether CoreDNS was: they may have read only then what they trust, and may trust only one that has expired. An earlier run
// was killed, or could not restart them there. Nodes that are not Ready, and hosts in maintenance, are not among them, because nothing can be
// restarted there. Nor is anything as long as pods are not told to trust that certificate, as far as is known: they would read the former one
// again. What was started after they were told is not among them either: the step that replaces pods leaves it (see step.restartFormerClients), and
// a certificate that is not backdated looks as if it had been signed later. Of other clients nobody can tell.
func (s *State) FormerClients() (nodes []string, dns bool) {
	if s.Seen.API == nil {
		return nil, false
	}
	published, told := s.Seen.API.TrustedUntil[facts.RootCA], s.Seen.API.RootCAWritten
	var first time.Time // on control planes, to which CoreDNS is compared
	for _, h := range s.TrustingHosts(facts.KubernetesAuthority) {
		c, known := s.certificateOn(h.Name, facts.ClusterCA)
		t := s.Facts(h.Name).Kubernetes.Trust[facts.KubernetesAuthority]
		if !known || s.Expired(c) || c.Begins.IsZero() || t.Written.IsZero() || len(t.Trusted) == 0 || published[t.Trusted[0]].Before(c.Expires) {
			continue
		}
		// The file may have been written for another reason, and a certificate begins some time before it is signed: both must be later.
		since := c.Begins.Add(facts.Backdated)
		if t.Written.Before(since) {
			since = t.Written
		}
		if !told.IsZero() && told.Before(since) {
			since = told
		}
		if h.Has(spec.RoleControlPlane) && (first.IsZero() || since.Before(first)) {
			first = since
		}
		node := s.Node(h.Name)
		if _, in := s.Maintenance(h.Name); in || node == nil || !node.Ready {
			continue
		}
		if slices.ContainsFunc([]string{facts.KubeProxy, facts.Flannel}, func(program string) bool {
			at := s.Seen.Hosts[h.Name].Components[program].Started
			return !at.IsZero() && at.Before(since)
		}) {
			nodes = append(nodes, h.Name)
		}
	}
	return nodes, !s.Seen.API.DNSStarted.IsZero() && s.Seen.API.DNSStarted.Before(first)
}

// EtcdExpired says that most members of etcd accept no connection, because the authority that they trust has expired. Whatever still works does so
// over connections from before. One member that restarts alone is cut off from the others.
func (s *State) EtcdExpired() bool {
	expired := map[string]bool{}
	for _, r := range s.AuthorityRenewals() {
		for _, host := range r.Hosts {
			expired[host] = expired[host] || r.Authority == facts.EtcdAuthority
		}
	}
	lost, members := 0, s.Spec.EtcdHosts()
	for _, h := range members {
		m, has := s.Member(h.Name)
		if has && m.Healthy {
			continue
		}
		// While the API answers, a member of which nothing is known counts as one that works.
		known := s.Seen.API == nil || has && m.Unknown == ""
		if expired[h.Name] || known && slices.Contains(s.readFormer(h.Name), facts.Etcd) {
			lost++
		}
	}
	return 2*lost > len(members)
}

// HasAuthorityKey says that a host has the private key of an authority.
func (s *State) HasAuthorityKey(host, authority string) bool {
	f := s.Facts(host)
	switch {
	case f == nil:
		return false
	case authority == facts.EtcdCA:
		return f.Kubernetes.EtcdCAKey
	}
	return !slices.Contains(f.Kubernetes.MissingPKI, facts.KeyOf(authority))
}

// MaySignFor says that the key with which the kubelet's certificates of a node are signed is where the signer is: on the node, if that is a
// control plane, and otherwise on any control plane.
func (s *State) MaySignFor(node string) bool {
	h, _ := s.present.Host(node)
	if h.Has(spec.RoleControlPlane) {
		return s.HasAuthorityKey(node, facts.ClusterCA)
	}
	return slices.ContainsFunc(s.Spec.HostsWith(spec.RoleControlPlane), func(o spec.Host) bool { return s.HasAuthorityKey(o.Name, facts.ClusterCA) })
}

// Outdated are the programs of a control plane that were started before the certificate that they read at their start was written.
// They go on with the former one until they restart.
func (s *State) Outdated(host string) (out []string) {
	f := s.Facts(host)
	if f == nil {
		return nil
	}
	for _, c := range f.Kubernetes.Certificates {
		for _, program := range c.Programs() {
			started := s.Seen.Hosts[host].Components[program].Started
			// The host's own clock tells both times, and also whether the file is from the future.
			if !started.IsZero() && started.Before(c.Written) && !c.Written.After(f.Time) {
				out = append(out, program)
			}
		}
	}
	return out
}

// IdentityExpired says that the kubelet's client certificate has expired: it cannot renew it itself any more.
func (s *State) IdentityExpired(host string) bool {
	c, known := s.certificateOn(host, facts.KubeletClient)
	if !known {
		c, known = s.certificateOn(host, facts.KubeletKubeconfig)
	}
	return known && s.Expired(c)
}

// ExpiredOn are the certificates on a host that have expired and that Quorate renews.
func (s *State) ExpiredOn(host string) []facts.Certificate {
	return slices.DeleteFunc(s.Renewable(host), func(c facts.Certificate) bool { return !s.Expired(c) })
}

// Expiring says how urgent the expiry of a certificate is: Critical, Warning, or Info while there is time.
func (s *State) Expiring(c Certificate) Severity {
	soon, now := ExpiresSoon, expiresNow
	if c.CA {
		soon, now = authorityExpiresSoon, ExpiresSoon
	}
	if life := c.Lifetime(); life > 0 {
		soon, now = min(soon, life/4), min(now, life/8)
	}
	switch left := c.Expires.Sub(s.Seen.Time); {
	case left < min(soon, now):
		return Critical
	case left < soon:
		return Warning
	}
	return Info
}

// certificates reports those that expire soon. Certificates that are renewed in the same way and expire in the same period
// are one finding.
func (f *findings) certificates() {
	type group struct {
		severity Severity
		fix      string
		expired  bool
	}
	all := map[group][]Certificate{}
	var order []group
	for _, c := range f.Certificates() {
		severity := f.Expiring(c)
		if severity == Info {
			continue
		}
		g := group{severity, f.renewal(c), c.Expires.Sub(f.Seen.Time) <= 0}
		if all[g] == nil {
			order = append(order, g)
		}
		all[g] = append(all[g], c)
	}
	for _, g := range order {
		first := all[g][0]
		summary := fmt.Sprintf("certificate %s on %s %s", first.Name, first.Host, Expiry(first.Expires, f.Seen.Time))
		if n := len(all[g]) - 1; n > 0 {
			summary += fmt.Sprintf(", and %d more with the same remedy", n)
		}
		var hosts []string
		for _, c := range all[g] {
			if !slices.Contains(hosts, c.Host) {
				hosts = append(hosts, c.Host)
			}
		}
		f.add(RuleCertificate, g.severity, summary, g.fix, hosts...)
	}
}

// renewal is how a certificate is renewed.
func (f *findings) renewal(c Certificate) string {
	if f.RenewedOnReturn(c) {
		return "`quorate maintain --undo " + c.Host + "` renews it: apply leaves a host alone that is in maintenance."
	}
	switch f.Renewer(c) {
	case ByKubelet:
		if c.Name != facts.KubeletServer && f.Expired(c.Certificate) && !f.MaySignFor(c.Host) {
			return "The kubelet cannot renew an expired certificate, and no host that can be reached and signs for it has the key of its authority, /etc/kubernetes/pki/ca.key. If that is kept offline, put it on a control plane (for one that is itself concerned, on that one), run `quorate apply`, and remove it again."
		}
		if c.Name != facts.KubeletServer && f.Expired(c.Certificate) {
			return "The kubelet cannot renew an expired certificate. Run `quorate apply`: it signs a new one."
		}
		return "The kubelet renews it automatically while it reaches the API. If it does not, run `systemctl restart kubelet` there."
	case ByApprover:
		return "Quorate's approver renews it automatically while it reaches the API. If it does not, `journalctl -u quorate-approver -n 50` shows why."
	case ByEtcdHosts:
		return "Run `quorate certs renew`: it renews it on the etcd hosts and copies it to the control planes."
	case ByOwner:
		if c.Name == facts.EtcdClientCertificate {
			return "Put a new one into " + f.Spec.Spec.Etcd.CertFile + " and its key into " + f.Spec.Spec.Etcd.KeyFile + "; `quorate apply` then copies it to the control planes."
		}
		for _, a := range facts.Authorities {
			switch {
			case c.Name != a.Certificate() || a == facts.EtcdAuthority && f.Spec.ExistingEtcd():
			case !f.Expired(c.Certificate):
				return "Run `quorate certs rotate " + string(a) + "` before it expires: afterwards, nobody accepts what it signs."
			case f.RenewsAuthority(c.Name):
				return fixExpiredAuthority
			default:
				return fixOfflineAuthority
			}
		}
		if c.CA {
			return "An authority cannot be renewed like other certificates. Replace it before it expires: docs/certificates.md says how."
		}
		return "Renew it with the tool that made it."
	}
	if r := f.MayRenew(c.Host, []facts.Certificate{c.Certificate}); r != nil {
		return r.Fix
	}
	return "Run `quorate certs renew`. `quorate apply` renews it, too."
}

// Expiry says in words when something expires.
func Expiry(t, now time.Time) string {
	switch left := t.Sub(now); {
	case left <= 0:
		return "expired on " + t.Format(time.DateOnly)
	case left < 48*time.Hour:
		return fmt.Sprintf("expires in %d %s", int(left.Hours()), plural(int(left.Hours()), "hour", "hours"))
	default:
		return fmt.Sprintf("expires in %d days", int(left.Hours()/24))
	}
}

// CertificateLifetime is the lifetime of new certificates: what kubeadm's configuration in the cluster says; 0 if that is not
// known.
func (s *State) CertificateLifetime() time.Duration {
	if s.Seen.API == nil || s.Seen.API.Kubeadm == nil {
		return 0
	}
	return cmp.Or(s.Seen.API.Kubeadm.CertificateLifetime, DefaultCertificateLifetime)
}

// DefaultCertificateLifetime is kubeadm's default.
const DefaultCertificateLifetime = 365 * 24 * time.Hour
