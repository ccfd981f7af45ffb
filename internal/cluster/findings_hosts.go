package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Certificates that expire within ExpiresSoon are a warning, and within expiresNow critical.
const (
	ExpiresSoon = 30 * 24 * time.Hour
	expiresNow  = 7 * 24 * time.Hour
)

// Certificate is one certificate on one host.
type Certificate struct {
	Host string
	facts.Certificate
}

// Certificates are all that were found, the first to expire first.
func (s *State) Certificates() (out []Certificate) {
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil {
			for _, c := range f.Kubernetes.Certificates {
				out = append(out, Certificate{h.Name, c})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Certificate) int { return a.Expires.Compare(b.Expires) })
	return out
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
		left := c.Expires.Sub(f.Seen.Time)
		if left >= ExpiresSoon {
			break
		}
		g := group{Warning, f.renewal(c.Host, c.Certificate), left <= 0}
		if left < expiresNow {
			g.severity = Critical
		}
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

// The names under which observations report the kubelet's own certificates.
const kubeletClient, kubeletServer = "kubelet-client", "kubelet-server"

// IdentityExpired says that the kubelet's client certificate has expired: it cannot renew it itself any more.
func (s *State) IdentityExpired(host string) bool {
	f := s.Facts(host)
	return f != nil && slices.ContainsFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool {
		return c.Name == kubeletClient && !c.Expires.After(s.Seen.Time)
	})
}

// renewal is how a certificate is renewed.
func (f *findings) renewal(host string, c facts.Certificate) string {
	const onEtcdHosts = "On every etcd host: `for c in etcd-server etcd-peer apiserver-etcd-client; do kubeadm certs renew $c; done`. "
	h, _ := f.Spec.Host(host)
	client := strings.HasSuffix(c.Name, "apiserver-etcd-client.crt")
	expired := !c.Expires.After(f.Seen.Time)
	switch {
	case c.Name == kubeletClient && expired:
		return "The kubelet cannot renew an expired certificate. Run `quorate apply`: it signs a new one."
	case c.Name == kubeletClient, c.Name == kubeletServer:
		return "The kubelet renews it automatically while it reaches the API. If it does not, run `systemctl restart kubelet` there."
	case h.Has(spec.RoleEtcd):
		return onEtcdHosts + "etcd reads them again automatically, and `quorate apply` copies the client certificate to the control planes."
	case client && f.Spec.ManagedEtcd():
		return onEtcdHosts + "`quorate apply` then copies it to the control planes."
	case client && f.Spec.ExistingEtcd():
		return "Put a new one into " + f.Spec.Spec.Etcd.CertFile + " and its key into " + f.Spec.Spec.Etcd.KeyFile + "; `quorate apply` then copies it to the control planes."
	}
	return "On one control plane after the other: run `kubeadm certs renew all`, reboot it, and wait until `quorate status` shows it as healthy."
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

// configuredBy is everything that Quorate configured on a host that joined, as far as it does not depend on a bundle.
func (s *State) configuredBy(h spec.Host) (out []facts.Desired) {
	f := s.Facts(h.Name)
	switch {
	case f.Kubernetes.Adopted:
		out = append(out, hostconfig.Adopted(s.Spec, h))
	case h.IsNode():
		out = append(out, hostconfig.Runtime(f, ""), hostconfig.Settings(s.Spec, f))
		if h.Has(spec.RoleControlPlane) && s.wasControlPlane(h.Name) {
			out = append(out, hostconfig.ControlPlane(s.Spec))
		}
	}
	if h.Has(spec.RoleEtcd) {
		out = append(out, hostconfig.Etcd(h, f))
	}
	if b := s.Seen.Hosts[h.Name].Balancer; s.Spec.Balances(h) && b != nil && b.WrittenFor == s.Spec.Metadata.Name {
		out = append(out, hostconfig.Balancer(s.Spec, h, f, s.ca))
	}
	return out
}

// settings reports what Quorate set on hosts and what is different now.
func (f *findings) settings() {
	if f.stage == Foreign {
		return
	}
	var order []string
	on := map[string][]string{}
	for _, h := range f.Spec.Spec.Hosts {
		if !f.Joined(h) {
			continue
		}
		var lacks []string
		for _, d := range f.configuredBy(h) {
			lacks = append(lacks, hostconfig.Drift(d, f.Facts(h.Name))...)
		}
		if len(lacks) == 0 {
			continue
		}
		text := strings.Join(lacks, ", ")
		if on[text] == nil {
			order = append(order, text)
		}
		on[text] = append(on[text], h.Name)
	}
	for _, text := range order {
		f.add(RuleSettings, Warning, "the settings of "+List(on[text])+" are not what Quorate set up: "+text, "`quorate apply` restores them.", on[text]...)
	}
}

// programs reports installed programs that are damaged: they would not survive their next restart.
func (f *findings) programs() {
	for _, h := range f.Spec.Spec.Hosts {
		seen := f.Facts(h.Name)
		if seen == nil || seen.Kubernetes.Adopted || len(seen.ProgramProblems) == 0 {
			continue
		}
		const shown = 3
		text := strings.Join(seen.ProgramProblems[:min(shown, len(seen.ProgramProblems))], ", ")
		if more := len(seen.ProgramProblems) - shown; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		f.unmet(RulePrograms, Warning, "programs on "+h.Name+" are not as they were installed: "+text, "`quorate apply` installs them again.", h.Name)
	}
}

// skews reports hosts whose clocks differ from those of the others.
func (f *findings) skews() {
	skews, _ := Skews(f.clocks())
	for _, c := range skews {
		if c.Beyond(0) {
			f.add(RuleClock, Warning, fmt.Sprintf("the clock of %s is %s %s the others; leases and certificates depend on it", c.Host, c.Ahead.Abs().Round(time.Second), c.Direction()),
				"On "+c.Host+", run `timedatectl set-ntp true`.", c.Host)
		}
	}
}

// superAdmins reports control planes that have super-admin.conf besides the one on which kubeadm leaves it: an interrupted build
// that went on with another first control plane, or an older Quorate, left it there.
func (f *findings) superAdmins() {
	var on []string
	for _, h := range f.Spec.Spec.Hosts {
		if seen := f.Facts(h.Name); seen != nil && seen.Kubernetes.SuperAdmin {
			on = append(on, h.Name)
		}
	}
	if len(on) > 1 {
		f.add(RuleSuperAdmin, Warning, List(on)+" have super-admin.conf: whoever gets one of these files is administrator for ever, and no role takes that away",
			"Keep it on one control plane, as kubeadm does, and run `rm /etc/kubernetes/super-admin.conf` on the others.", on...)
	}
}

// swap reports nodes on which the memory limits of pods do not hold. In a container the swap belongs to the machine below.
func (f *findings) swap() {
	var on []string
	for _, h := range f.Spec.Spec.Hosts {
		if seen := f.Facts(h.Name); seen != nil && h.IsNode() && seen.SwapBytes > 0 && seen.Container == "" {
			on = append(on, h.Name)
		}
	}
	if len(on) > 0 {
		f.add(RuleSwap, Warning, "swap is on: "+strings.Join(on, ", ")+"; memory limits of pods are not reliable there", "On each of them, run `swapoff -a` and remove the swap from /etc/fstab.", on...)
	}
}
