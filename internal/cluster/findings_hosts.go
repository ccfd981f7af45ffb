package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

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
		out = append(out, hostconfig.Etcd(h, f, hostconfig.EtcdTimers(s.Spec)))
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
		if seen == nil || seen.Kubernetes.Adopted {
			continue
		}
		for _, d := range slices.Sorted(maps.Keys(seen.BundleDamage)) {
			f.add(RulePrograms, Warning, "the copy of the bundle on "+h.Name+" is damaged, and nothing of it can be removed to free its disk: "+seen.BundleDamage[d], "`quorate apply` brings it again. What runs goes on.", h.Name)
		}
		if len(seen.ProgramProblems) == 0 {
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

// addresses reports addresses of hosts that the kernel does not use. That nothing answers there is reported separately; this is the cause.
func (f *findings) addresses() {
	for _, h := range f.present.Spec.Hosts {
		seen := f.Facts(h.Name)
		if seen == nil {
			continue
		}
		for _, own := range h.AllAddresses() {
			if at, has := seen.Interface(own); has && at.Unusable() != "" {
				f.add(RuleAddress, Warning, fmt.Sprintf("%s cannot use its address %s on %s: %s", h.Name, own, at.Interface, at.Unusable()), at.FixUnusable(), h.Name)
			}
		}
	}
}
