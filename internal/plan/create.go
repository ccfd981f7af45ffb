package plan

import (
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
)

// create builds a new cluster, or finishes one that was interrupted. This function is the order of a first build. A step
// waits only for what it needs, so the hosts work independently of each other; only the control planes after the first wait
// for the first.
func (b *builder) create() {
	b.out.Creates = true
	hosts, cps := b.c.Spec.Hosts, b.c.HostsWith(spec.RoleControlPlane)
	first := cps[0]
	b.beginWith(b.probeEndpoint())
	b.beginRestore()
	for _, h := range hosts {
		b.installPackages(h)
		b.installBundle(h)
	}
	pki := b.sharePKI()         // the authorities that all control planes share
	etcdPKI := b.shareEtcdPKI() // those of an external etcd
	for _, h := range hosts {
		b.configureHost(h, pki)
		b.importImages(h)
	}
	b.restoreEtcd(pki, etcdPKI)        // from a backup, before anything of etcd starts
	etcd := b.startEtcd(etcdPKI)       // external: all members together
	b.shareEtcdClient(pki, etcdPKI)    // and the certificate by which API servers reach it
	etcd = append(etcd, b.claimEtcd()) // existing: marked as this cluster's
	for _, h := range cps {
		b.startKubelet(h, pki, etcd) // stacked: with etcd, as one cluster of all members
	}
	b.startControlPlane(first, nil, etcd)
	start := b.at[first.Name].controlPlane
	configured := b.at[first.Name].configure
	repaired := b.repairRestored(start, configured)
	initialised := b.add(Step{Kind: InitCluster, Host: first.Name, Title: "initialize the cluster",
		Reason: "the API lacks kubeadm's configuration, roles and bootstrap token; any control plane can upload them"}, start, configured, repaired)
	api := b.add(Step{Kind: AwaitAPI, Host: first.Name, Title: "wait for the API", Reason: "all later steps use it"}, start, configured, repaired)
	controllers := b.add(Step{Kind: AwaitControllers, Host: first.Name, Title: "wait for the controllers", Reason: "no pod is created without them"}, api)
	for _, h := range cps[1:] {
		b.startControlPlane(h, []*Step{api, controllers}, etcd)
	}
	b.publishFirst(api)
	b.applyManifests(api)
	addons := b.add(Step{Kind: InstallAddons, Host: first.Name, Title: "install kube-proxy and CoreDNS", Reason: "they are kubeadm's addons"}, api)
	b.spreadDNS(addons)
	for _, h := range hosts {
		b.admitNode(h, pki, api)
	}
	b.removeTokens(initialised)
	record, remembered := b.recordSpec(initialised, api), b.rememberSettings(initialised, api)
	marks := b.markEstablished(append(b.ofKind(StartControlPlane, StartEtcd), addons, initialised, record, remembered)...)
	b.scheduleBackups(marks...) // the first backup is of a cluster that is complete
	b.watch(marks...)
	b.finish()
}

// firstPodsSeconds is how long a node has for its first pods before an API server starts on it.
const firstPodsSeconds = 20

// startKubelet starts the kubelet of a control plane, and its member of a stacked etcd.
func (b *builder) startKubelet(h spec.Host, pki *Step, etcd []*Step) {
	cps := b.c.HostsWith(spec.RoleControlPlane)
	k, at := b.Facts(h.Name).Kubernetes, b.at[h.Name]
	stacked := b.c.StackedEtcd()
	if k.KubeletConfig && (!stacked || slices.Contains(k.Manifests, "etcd")) {
		return
	}
	s := Step{Kind: StartKubelet, Host: h.Name, Title: "start the kubelet", ThroughEndpoint: h.Name != cps[0].Name, Change: change(cluster.Create, cluster.ControlPlane, h.Name),
		Reason: fmt.Sprintf("it is one of %d control planes whose kubelets start together", len(cps))}
	if stacked {
		s.Title, s.Reason = "start etcd and the kubelet", s.Reason+", and etcd starts as one cluster of all members"
		s.Members = members(cps)
	}
	at.kubelet = b.add(s, append(append(slices.Clone(etcd), b.ofKind(RestoreEtcd)...), at.images, at.configure, at.balancer, at.pki, at.etcdClient, pki)...)
}

// startControlPlane starts the first control plane immediately. It starts every other one when the first one's controllers
// run and its own node is Ready or has had time to become so. Each API server first creates about 130 roles and bindings, one
// after another, and each controller manager makes 80 discovery requests: on shared processors, all of them together would
// take much longer, and would keep every node from starting its first pods. For the same reason, the controller managers and
// schedulers of these hosts start only when their API server serves. Until then, those of the first control plane are the leaders.
//
// No API server waits for its node to be registered: where the endpoint leads a kubelet to its own host, the kubelet waits
// for that API server.
func (b *builder) startControlPlane(h spec.Host, await, etcd []*Step) {
	k, at := b.Facts(h.Name).Kubernetes, b.at[h.Name]
	var missing []string
	for _, pod := range controlPlanePods {
		if !slices.Contains(k.Manifests, pod) {
			missing = append(missing, pod)
		}
	}
	if len(missing) > 0 {
		start := Step{Kind: StartControlPlane, Host: h.Name, Title: "start the control plane", Reason: "it is the first API server of the cluster", Change: change(cluster.Create, cluster.APIPrograms, h.Name)}
		register := Step{Kind: RegisterNode, Host: h.Name, Title: "register the node", Reason: "a kubelet that has waited long for the API backs off", Change: change(cluster.Create, cluster.Node, h.Name)}
		needs := append([]*Step{at.etcdClient, at.configure, at.balancer, at.kubelet}, etcd...)
		if len(await) > 0 {
			start.ServerFirst = true
			start.Reason = "the first controllers run: the other control planes start together, each when its node is Ready or has had time to become so"
			if b.c.Spec.Network.CNI != spec.CNINone {
				start.AwaitReadySeconds = firstPodsSeconds
			}
		}
		at.controlPlane = b.add(start, append(needs, await...)...)
		if len(await) > 0 {
			at.register = b.add(register, at.kubelet, await[0])
		} else {
			at.register = b.add(register, at.controlPlane)
		}
	}
	if k.KubeletAway || len(await) > 0 && at.kubelet != nil {
		b.useLocalAPI(h)
	}
}

// admitNode starts a worker, and labels nodes.
func (b *builder) admitNode(h spec.Host, pki, api *Step) {
	at := b.at[h.Name]
	switch {
	case h.Has(spec.RoleControlPlane):
		if h.Name != b.c.HostsWith(spec.RoleControlPlane)[0].Name || len(PoolLabels(b.c, h)) > 0 {
			b.add(b.labelStep(h, "kubeadm labels only the control plane on which it initializes the cluster"), api, at.register)
		}
	case h.Has(spec.RoleWorker):
		if !b.Facts(h.Name).Kubernetes.KubeletConfig {
			at.kubelet = b.add(Step{Kind: StartKubelet, Host: h.Name, Title: "start the worker", Reason: "it is in the spec but not in the cluster", Change: change(cluster.Create, cluster.Node, h.Name)},
				at.images, at.configure, at.balancer, pki, api)
		}
		b.labelWorker(h, at.kubelet, api)
	}
}

// probeEndpoint probes a load balancer that is not Quorate's to configure, before anything is changed.
func (b *builder) probeEndpoint() *Step {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerExternal {
		return nil
	}
	return b.add(Step{Kind: ProbeEndpoint, Title: "probe the endpoint",
		Reason: "Quorate does not configure this load balancer: before anything is changed, every host must reach it, and nothing else may answer behind it"})
}
