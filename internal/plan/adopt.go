package plan

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Allowed refuses to adopt a cluster without --adopt, and to build one with it.
func (p *Plan) Allowed(adopt bool) error {
	switch {
	case p.Adopts && !adopt:
		return refused(RuleAdoptFlag, "the cluster on these hosts was not built by Quorate", "`quorate plan` shows what would change and what would stay as it is. `quorate apply --adopt` adopts it.")
	case adopt && p.Creates:
		return refused(RuleAdoptFlag, "these hosts have no cluster to adopt, and apply would build one", "Name the hosts of the cluster in the spec, or leave out --adopt.")
	}
	return nil
}

// refuseAdoption refuses a cluster of somebody else that cannot be taken over safely.
func (b *builder) refuseAdoption() error {
	b.out.Adopts = true
	for _, check := range []func() error{b.allReachable, b.described, b.wholeForAdoption, b.balancersForAdoption, b.networkForAdoption, b.adoptedVersion} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) allReachable() error {
	if len(b.out.Unreachable) == 0 {
		return nil
	}
	var lines []string
	for _, h := range b.c.Spec.Hosts {
		if why, dead := b.out.Unreachable[h.Name]; dead {
			lines = append(lines, h.Name+": "+why)
		}
	}
	return refused(RuleAllHosts, "some hosts cannot be reached: "+strings.Join(lines, "; "),
		"A cluster can be adopted only if all of it can be examined. Bring these hosts up, or take them out of the spec if they are not part of it.")
}

// described expects that the spec describes exactly this cluster.
func (b *builder) described() error {
	var m problems
	for _, d := range b.Differences() {
		m.add("%s", d.What)
	}
	for _, n := range b.Seen.API.Nodes {
		if n.Version != b.bundle.Version {
			m.add("the kubelet of %s is %s, but the spec says %s (kubernetes.version; if an upgrade was started, finish it)", n.Name, n.Version, b.bundle.Version)
		}
	}
	return m.refuse(cluster.RuleDescribed, "this is not the cluster of the spec: ",
		"Change the spec to match the cluster: Quorate changes none of this in an existing cluster. If it is another cluster, take its hosts out of the spec.")
}

// problems collects what is wrong.
type problems []string

func (m *problems) add(format string, args ...any) { *m = append(*m, fmt.Sprintf(format, args...)) }

func (m problems) refuse(rule, prefix, fix string) error {
	if len(m) == 0 {
		return nil
	}
	return refused(rule, prefix+strings.Join(m, "; "), fix)
}

// wholeForAdoption leaves what is broken to those who built it: nothing that was wrong before must be blamed on the adoption.
func (b *builder) wholeForAdoption() error {
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if b.Facts(h.Name).Kubernetes.Flags["kube-apiserver/anonymous-auth"] == "false" {
			return refused(RuleWhole, fmt.Sprintf("the API server of %s rejects requests without credentials (--anonymous-auth=false), but load balancers check /readyz without any", h.Name),
				"Allow anonymous requests for /livez, /readyz and /healthz (--authentication-config), on every control plane.")
		}
	}
	broken := b.NotWhole()
	for i := range broken {
		broken[i].Severity = cluster.Error // each of them keeps the cluster from being adopted
	}
	if r := cluster.Refuse(RuleWhole, "only a cluster that works is adopted, and in this one something does not:", "Correct this first, then run it again. `quorate status` shows more.", broken); r != nil {
		return r
	}
	return nil
}

// balancersForAdoption checks that the load balancers which Quorate would configure serve nothing else, and that they are
// those behind the endpoint.
func (b *builder) balancersForAdoption() error {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	var m problems
	for _, h := range b.c.BalancerHosts() {
		lb := b.Seen.Hosts[h.Name].Balancer
		switch {
		case lb == nil:
			m.add("what the load balancer on %s serves could not be queried%s", h.Name, after(": ", b.Seen.Hosts[h.Name].BalancerError))
		case lb.Others != nil:
			b.judgeBalancer(&m, h, lb.Others)
		}
	}
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		for _, pod := range []string{"haproxy", "keepalived", "kube-vip"} {
			if slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, pod) {
				m.add("%s runs %s as a static pod", h.Name, pod)
			}
		}
	}
	if holders, unknown := b.Holders(); len(holders) == 0 && len(unknown) == 0 {
		m.add("none of the spec's load balancers has the virtual IP %s, but something answers there", b.c.Spec.LoadBalancer.Address)
	}
	return m.refuse(RuleBalancers, "", "Quorate's configuration would remove all of that: move it elsewhere first. Or keep managing the load balancers yourself: loadBalancer.type external, with the same address.")
}

func (b *builder) judgeBalancer(m *problems, h spec.Host, o *facts.OthersBalancing) {
	for _, s := range o.Services {
		if !s.Statistics && s.Port() != hostconfig.EndpointPort(b.c) {
			m.add("the load balancer %s also serves %s", h.Name, strings.TrimSpace(s.Name+" "+s.Bind))
		}
	}
	for _, s := range o.Servers {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host = strings.Trim(s, "[]")
		}
		if port != "" && port != hostconfig.APIPort || !slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(cp spec.Host) bool { return host == cp.Address || host == cp.Name }) {
			m.add("the load balancer %s sends connections to %s, which is not an API server of the spec", h.Name, s)
		}
	}
	for _, ip := range o.VirtualIPs {
		if ip != b.c.Spec.LoadBalancer.Address {
			m.add("the load balancer %s also has the virtual IP %s", h.Name, ip)
		}
	}
}

// networkForAdoption keeps two pod networks apart.
func (b *builder) networkForAdoption() error {
	networks := b.Seen.API.Networks
	if b.c.Spec.Network.CNI != spec.CNIFlannel || b.Seen.API.Applied[spec.CNIFlannel] != "" {
		return nil
	}
	why := "no DaemonSet of the cluster sets up the pod network"
	for _, n := range networks {
		if !n.Flannel() {
			why = fmt.Sprintf("the pod network is set up by %s/%s", n.Namespace, n.Name)
		}
	}
	if len(networks) == 1 && networks[0].Flannel() {
		return nil
	}
	return refused(RuleNetwork, why+", but the spec says flannel", "Put `cni: none` into the spec: the network stays yours.")
}

// keepsNetwork says that the pods of an adopted cluster have a flannel that is not the bundle's. Replacing it would cut pods
// off, and its image may not even be there.
func (b *builder) keepsNetwork() bool {
	if b.Seen.API == nil || b.Stage() != cluster.Foreign && !b.any(func(k facts.Kubernetes) bool { return k.Adopted }) {
		return false
	}
	return slices.ContainsFunc(b.Seen.API.Networks, func(n facts.Network) bool {
		return n.Namespace != OwnFlannel.Namespace || n.Name != OwnFlannel.Name || !slices.Contains(n.Images, b.bundle.Flannel)
	})
}

// OwnFlannel is the DaemonSet of the manifest that Quorate applies.
var OwnFlannel = facts.Network{Namespace: "kube-flannel", Name: "kube-flannel"}

// adopt puts the marks of an adoption before everything else: a run that is killed has either adopted the cluster, and the
// next one continues like any other, or it has changed nothing.
func (b *builder) adopt() {
	if b.Stage() != cluster.Foreign {
		return
	}
	b.out.Notes = b.notes()
	var adopted []*Step
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); b.leftAsItIs(h) && !f.Kubernetes.Adopted {
			adopted = append(adopted, b.mark(h, "adopted", facts.AdoptedFile, "adopt the host", "it was set up without Quorate and works: its programs, containerd, kubelet, certificates and static pods stay as they are"))
		}
	}
	b.beginWith(b.markEstablished(adopted...)...)
}

// notes say what of the cluster is not as Quorate would have built it, and is not changed: each change would restart what
// works, or needs a decision.
func (b *builder) notes() (out []string) {
	add := func(when bool, note string) {
		if when {
			out = append(out, note)
		}
	}
	cps := slices.DeleteFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return !b.leftAsItIs(h) })
	lacks := func(flag string) bool {
		return slices.ContainsFunc(cps, func(h spec.Host) bool { return b.Facts(h.Name).Kubernetes.Flags[flag] == "" })
	}
	anonymous := slices.ContainsFunc(cps, func(h spec.Host) bool {
		flags := b.Facts(h.Name).Kubernetes.Flags
		return flags["kube-apiserver/authentication-config"] == "" && flags["kube-apiserver/anonymous-auth"] != "false"
	})
	slow := slices.ContainsFunc(cps, func(h spec.Host) bool {
		return b.Facts(h.Name).Kubernetes.Flags["kube-controller-manager/node-monitor-grace-period"] != hostconfig.FastGracePeriod
	})
	add(lacks(facts.EncryptionFlag), "secrets in etcd are not encrypted (--encryption-provider-config of the API servers)")
	add(lacks("kube-apiserver/audit-policy-file"), "there is no audit log (--audit-policy-file of the API servers)")
	add(anonymous, "the API servers accept anonymous requests for every path that RBAC allows")
	add(lacks("kube-apiserver/kubelet-certificate-authority"), "the API servers do not verify the kubelets' serving certificates")
	add(slices.ContainsFunc(cps, func(h spec.Host) bool { return b.Facts(h.Name).Kubernetes.ProbesEtcd }),
		"kubelets restart the API servers while etcd does not answer (their liveness and startup probes ask for "+hostconfig.KubeadmLivePath+" instead of "+hostconfig.LivePath+")")
	add(slow && b.c.Spec.Failover.Profile == spec.ProfileFast,
		"the spec says failover.profile fast, but the flags and kubelets of this cluster have other timings: pods of a dead node are evicted only after minutes")
	for _, n := range b.Seen.API.Networks {
		add(b.c.Spec.Network.CNI != spec.CNINone && b.keepsNetwork(), fmt.Sprintf("the pod network is set up by %s/%s (%s)", n.Namespace, n.Name, strings.Join(n.Images, ", ")))
	}
	return out
}

// SharedPKI are the files that control planes of this cluster have in common: a cluster that was set up without encryption at
// rest has no keys for it.
func SharedPKI(c *spec.Cluster, obs *facts.Observation) []string {
	all := hostconfig.SharedPKI(c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		f := obs.Hosts[h.Name].Facts
		if f == nil || !slices.Contains(f.Kubernetes.Manifests, "kube-apiserver") {
			continue
		}
		if f.Kubernetes.Flags[facts.EncryptionFlag] != hostconfig.EncryptionFile {
			return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == encryption.File })
		}
	}
	return all
}

// knownPaths refuses to join a control plane whose static pods would need files that somebody else keeps on the others.
func (b *builder) knownPaths(h spec.Host) error {
	if b.Seen.API.Kubeadm == nil {
		return nil
	}
	own := OwnFiles(b.Seen.API.Kubeadm)
	if len(own) == 0 {
		return nil
	}
	return refused(RuleOwnFiles, fmt.Sprintf("%s would join, but kubeadm's configuration of this cluster needs %s on every control plane, which only you can provide", h.Name, strings.Join(own, ", ")),
		"Copy them to the host and join it by hand (`kubeadm join --control-plane`), then run it again.")
}

// OwnFiles are the files and directories that the static pods of every control plane need, and that neither kubeadm nor Quorate brings.
func OwnFiles(k *facts.Kubeadm) []string {
	const pki = "/etc/kubernetes/pki/"
	known := []string{"", hostconfig.APIServerDir, hostconfig.AuditLogDir, pki + facts.EtcdPKI[0], pki + facts.EtcdClientPKI[0], pki + facts.EtcdClientPKI[1]}
	return slices.DeleteFunc(slices.Clone(k.Paths), func(path string) bool { return slices.Contains(known, path) })
}

// adoptedVersion refuses to adopt a cluster of another version: to change the version is an operation of its own.
func (b *builder) adoptedVersion() error {
	return b.refuseVersion("Write the version that runs into the spec (kubernetes.version) and adopt the cluster with it.")
}

func (b *builder) refuseVersion(fix string) error {
	if api := b.Seen.API; api != nil && api.Version != "" && api.Version != b.bundle.Version {
		return refused(RuleVersion, fmt.Sprintf("the cluster runs %s, and the spec says %s", api.Version, b.bundle.Version), fix)
	}
	return nil
}
