package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Labels that Quorate sets on nodes.
const (
	ZoneLabel         = "topology.kubernetes.io/zone"
	RegionLabel       = "topology.kubernetes.io/region"
	PoolLabel         = "quorate.dev/pool"
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
	excludeLabel      = "node.kubernetes.io/exclude-from-external-load-balancers"
)

// controlPlanePods are the static pods of a control plane, beside those of a stacked etcd.
var controlPlanePods = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}

// Build makes the plan.
func Build(c *spec.Cluster, obs *facts.Observation, b Bundle) (*Plan, error) {
	p := &builder{c: c, obs: obs, bundle: b, out: &Plan{Cluster: c.Metadata.Name, Bundle: b.Digest, Steps: []Step{}, Unreachable: map[string]string{}}}
	if err := p.look(); err != nil {
		return nil, err
	}
	if p.established {
		if err := p.balancersMoved(); err != nil {
			return nil, err
		}
	}
	switch {
	case !p.established:
		p.bootstrap()
		p.probeFirst()
	case obs.API == nil:
		if err := p.revive(); err != nil {
			return nil, err
		}
	default:
		if err := p.maintain(); err != nil {
			return nil, err
		}
	}
	p.adopt()
	for _, w := range spec.Warnings(c) {
		p.out.Warnings = append(p.out.Warnings, w.Message+"; "+w.Fix)
	}
	p.out.Warnings = append(p.out.Warnings, b.Warnings...)
	if len(p.out.Steps) > 0 {
		nodes := p.untried()
		verified := p.add(verification(p.allIDs(), nodes))
		if !p.established && len(c.BalancerHosts()) > 1 {
			p.add(Step{Kind: TestTakeover, Title: "test the takeover of the virtual IP", Needs: []string{verified},
				Reason: "a balancer that never had the address is not known to work; only a cluster that nobody uses yet may be shaken for it"})
		}
	}
	return p.out, nil
}

func verification(after, untried []string) Step {
	return Step{ID: id("", Verify), Kind: Verify, Title: "verify the whole cluster", Reason: "a step that returned is not yet a cluster that works", Needs: after, Nodes: untried}
}

// Verification is the plan that only waits until the cluster is as its spec says.
func Verification(p *Plan) *Plan {
	return &Plan{Cluster: p.Cluster, Bundle: p.Bundle, Unreachable: p.Unreachable, Steps: []Step{verification(nil, nil)}}
}

type builder struct {
	c      *spec.Cluster
	obs    *facts.Observation
	bundle Bundle
	out    *Plan

	established bool
	adopting    bool   // the cluster is somebody else's until this plan is done; established is true then
	ca          string // PEM, when some host has it
}

func (p *builder) add(s Step) string {
	s.ID = id(s.Host, s.Kind)
	if s.Manifest != "" {
		s.ID += "/" + s.Manifest
	}
	p.out.Steps = append(p.out.Steps, s)
	return s.ID
}

func (p *builder) allIDs() []string {
	var ids []string
	for _, s := range p.out.Steps {
		ids = append(ids, s.ID)
	}
	return ids
}

func (p *builder) facts(name string) *facts.Facts { return p.obs.Hosts[name].Facts }

// look draws from the observation what every later decision needs, and refuses what cannot be planned at all.
func (p *builder) look() error {
	owner := ""
	for _, h := range p.c.Spec.Hosts {
		o := p.obs.Hosts[h.Name]
		if o.Facts == nil {
			p.out.Unreachable[h.Name] = o.Error
			continue
		}
		if lacks := hostconfig.Lacks(p.c, h, o.Facts); len(lacks) > 0 && o.Facts.Family == "" {
			return &Refusal{"packages on the hosts", fmt.Sprintf("%s lacks %s, and its system (%s) has no package manager that Quorate knows", h.Name, strings.Join(lacks, " and "), o.Facts.OS),
				"Install there what provides them, and run it again."}
		}
		k := o.Facts.Kubernetes
		for _, name := range k.Clusters {
			if name != p.c.Metadata.Name {
				return &Refusal{"one cluster", fmt.Sprintf("%s is marked as a host of the cluster %s, and the spec is that of %s", h.Name, name, p.c.Metadata.Name),
					"Take it out of the spec, or clear it with quorate reset."}
			}
		}
		p.established = p.established || k.Established
		if k.CA == "" {
			continue
		}
		if p.ca != "" && p.ca != k.CA {
			return &Refusal{"one cluster", fmt.Sprintf("%s and %s belong to different clusters: their CA certificates differ", owner, h.Name),
				"Take the one that does not belong here out of the spec, or clear it with quorate reset."}
		}
		p.ca, owner = k.CA, h.Name
	}
	if err := p.lookForOthers(); err != nil {
		return err
	}
	if p.obs.API != nil && p.obs.API.Initialised && p.ca != "" && !p.established {
		// A bootstrap of ours that was cut short. Every step of the bootstrap leaves what is right as it is.
		p.established = slices.ContainsFunc(p.obs.API.Nodes, func(n facts.Node) bool { _, known := p.c.Host(n.Name); return !known })
	}
	if !p.established && len(p.out.Unreachable) > 0 {
		var lines []string
		for _, n := range slices.Sorted(maps.Keys(p.out.Unreachable)) {
			lines = append(lines, p.out.Unreachable[n])
		}
		return &Refusal{"all hosts for the first build", strings.Join(lines, "; "),
			"A new cluster is built on all of its hosts at once: bring these up, or take them out of the spec. Control planes and etcd hosts can be taken out only as long as etcd has not begun: its members are those of the first run; to begin anew clear all hosts with kubeadm reset and remove /var/lib/etcd."}
	}
	if err := p.lookAtEtcd(); err != nil {
		return err
	}
	if p.obs.API != nil && p.obs.API.Version != "" && p.obs.API.Version != p.bundle.Version {
		return &Refusal{"one version", fmt.Sprintf("the cluster runs %s and the spec asks for %s", p.obs.API.Version, p.bundle.Version),
			"This quorate cannot upgrade a cluster yet: put the version that runs back into the spec."}
	}
	return nil
}

// bootstrap builds a new cluster, or finishes one that was interrupted. Nothing waits for another host unless it needs
// something of it, but for the control planes after the first.
func (p *builder) bootstrap() {
	cps := p.c.HostsWith(spec.RoleControlPlane)
	reason := fmt.Sprintf("one of %d control planes whose kubelets start together", len(cps))
	var members []Member
	if p.c.StackedEtcd() {
		reason += ", and etcd as one cluster from its first moment"
		for _, h := range cps {
			members = append(members, Member{h.Name, h.Address})
		}
	}
	pki := p.sharePKI(cps)
	etcdPKI := p.shareEtcdPKI()
	for _, h := range p.c.Spec.Hosts {
		p.prepare(h)
	}
	etcd := p.startEtcd(etcdPKI)
	p.shareEtcdClient(pki, etcdPKI)
	etcd = append(etcd, p.claimEtcd(pki)...)
	for _, h := range cps {
		k := p.facts(h.Name).Kubernetes
		if k.KubeletConfig && (!p.c.StackedEtcd() || slices.Contains(k.Manifests, "etcd")) {
			continue
		}
		p.add(Step{Kind: StartKubelet, Host: h.Name, Title: p.beginning(), Members: members, Reason: reason, ThroughEndpoint: h.Name != cps[0].Name,
			Needs: append(p.present(id(h.Name, ImportImages), id(h.Name, Configure), id(h.Name, SharePKI), id(h.Name, ShareEtcdClient), pki), etcd...)})
	}
	first, started := cps[0].Name, slices.Clone(etcd)
	api, controllers := id(first, AwaitAPI), id(first, AwaitControllers)
	for _, h := range cps {
		started = append(started, p.startControlPlane(h.Name, first, api, controllers)...)
	}
	initialised := p.add(Step{Kind: InitCluster, Host: first, Title: "initialise the cluster",
		Reason: "the cluster is not complete yet: kubeadm's configuration, roles and bootstrap token; any control plane can do it",
		Needs:  p.present(id(first, StartControlPlane), id(first, Configure))})
	p.add(Step{Kind: AwaitAPI, Host: first, Title: "wait for the API", Reason: "everything else goes through it",
		Needs: p.present(id(first, StartControlPlane), id(first, Configure))})
	p.add(Step{Kind: AwaitControllers, Host: first, Title: "wait for the controllers", Reason: "no pod comes to be without them", Needs: []string{api}})
	p.manifests(api)
	addons := p.add(Step{Kind: InstallAddons, Host: first, Title: "install kube-proxy and CoreDNS", Needs: []string{api},
		Reason: "kubeadm's addons"})
	p.add(Step{Kind: SpreadDNS, Title: "spread CoreDNS", Reason: "kubeadm only prefers different nodes: two replicas on one would be a single point of failure", Needs: []string{addons}})
	for _, h := range p.c.Spec.Hosts {
		switch {
		case h.Has(spec.RoleControlPlane):
			if h.Name != first || len(PoolLabels(p.c, h)) > 0 {
				p.add(p.labelStep(h, "kubeadm marks only the control plane that it initialises on",
					p.present(api, id(h.Name, RegisterNode))))
			}
		case h.Has(spec.RoleWorker):
			if !p.facts(h.Name).Kubernetes.KubeletConfig {
				p.add(Step{Kind: StartKubelet, Host: h.Name, Title: "start the worker", Reason: "in the spec, not in the cluster",
					Needs: p.present(id(h.Name, ImportImages), id(h.Name, Configure), pki, api)})
			}
			p.markWorker(h, id(h.Name, StartKubelet), api)
		}
	}
	p.removeTokens(initialised)
	p.establish(append([]string{addons, initialised}, started...))
}

// firstPodsSeconds is how long a node has for its first pods before an API server begins beside them.
const firstPodsSeconds = 20

// startControlPlane starts the first control plane at once, and each other when the first one's controllers run and its own
// node is Ready or has had time for that. Each API server begins by making some hundred and thirty roles and bindings, one
// after another, and each controller manager by asking for eighty things: on processors that are shared, all at once would
// take much longer, and would keep every node from its first pods.
//
// No API server waits for its node to be registered: where the way to the endpoint leads a kubelet to its own host, it waits
// for that server.
func (p *builder) startControlPlane(host, first, api, controllers string) (steps []string) {
	k := p.facts(host).Kubernetes
	kubelet := p.present(id(host, StartKubelet))
	if slices.ContainsFunc(controlPlanePods, func(s string) bool { return !slices.Contains(k.Manifests, s) }) {
		start := Step{Kind: StartControlPlane, Host: host, Title: "start the control plane", Reason: "the first API server of the cluster",
			Needs: append(p.present(id(host, ShareEtcdClient), id(host, Configure)), kubelet...)}
		register := Step{Kind: RegisterNode, Host: host, Title: "register the node", Reason: "a kubelet that has waited long for the API makes long pauses",
			Needs: []string{id(host, StartControlPlane)}}
		if host != first {
			register.Needs = append(kubelet, api)
			start.Reason = "the first controllers run: all others start together, each when its node is Ready or has had time to be"
			start.Needs = append(start.Needs, controllers)
			if p.c.Spec.Network.CNI != spec.CNINone {
				start.AwaitReadySeconds = firstPodsSeconds
			}
		}
		steps = append(steps, p.add(start), p.add(register))
	}
	if k.KubeletAway || host != first && len(kubelet) > 0 {
		steps = append(steps, p.useLocalAPI(host))
	}
	return steps
}

func (p *builder) useLocalAPI(host string) string {
	return p.add(Step{Kind: UseLocalAPI, Host: host, Title: "turn to the API server beside it",
		Reason: "no kubelet may be newer than its API server, and the one beside it is upgraded before it",
		Needs:  p.present(id(host, StartControlPlane))})
}

// beginning is what starts on a control plane before its API server.
func (p *builder) beginning() string {
	if p.c.StackedEtcd() {
		return "start etcd and the kubelet"
	}
	return "start the kubelet"
}

// establish marks what the run before this one has completed, or left without its mark.
func (p *builder) establish(needs []string) {
	for _, h := range p.c.Spec.Hosts {
		f := p.facts(h.Name)
		member := h.Has(spec.RoleEtcd) && (!p.established || f != nil && f.Kubernetes.EtcdData)
		controlPlane := h.Has(spec.RoleControlPlane) && (!p.established || f != nil && f.Kubernetes.KubeletConfig)
		if f != nil && !f.Kubernetes.Established && (member || controlPlane) {
			p.out.Steps = append(p.out.Steps, establish(h.Name, p.c.Metadata.Name, needs))
		}
	}
}

// oneBalancerAtATime keeps balancers that serve clients from restarting together. The one with the virtual IP comes last,
// so that the address moves once, to a balancer that is ready for it.
func (p *builder) oneBalancerAtATime() {
	var steps []*Step
	for i := range p.out.Steps {
		s := &p.out.Steps[i]
		if h, known := p.c.Host(s.Host); s.Kind == Configure && known && p.c.Balances(h) {
			steps = append(steps, s)
		}
	}
	slices.SortStableFunc(steps, func(a, b *Step) int { return p.holds(a.Host) - p.holds(b.Host) })
	for i, s := range steps {
		if b := p.obs.Hosts[s.Host].Balancer; b != nil && b.Others != nil {
			s.Reason = "set up without Quorate: HAProxy and keepalived restart with its configuration and get a watchdog; what was there is kept beside it"
		}
		s.Gates = append(s.Gates, GateTakeover)
		if i > 0 {
			s.Needs = append(s.Needs, steps[i-1].ID)
		}
	}
}

// holds is 1 for the host with the virtual IP.
func (p *builder) holds(host string) int {
	if b := p.obs.Hosts[host].Balancer; b != nil && b.Active {
		return 1
	}
	return 0
}

// probeFirst lets every step of a build wait for a look at a balancer that is not ours to set up.
func (p *builder) probeFirst() {
	if p.c.Spec.LoadBalancer.Type != spec.BalancerExternal {
		return
	}
	probe := Step{ID: id("", ProbeEndpoint), Kind: ProbeEndpoint, Title: "probe the endpoint",
		Reason: "the balancer is not ours to set up: before anything is changed, every host must find a way to it, and nothing of others behind it"}
	for i, s := range p.out.Steps {
		if len(s.Needs) == 0 {
			p.out.Steps[i].Needs = []string{probe.ID}
		}
	}
	p.out.Steps = slices.Insert(p.out.Steps, 0, probe)
}

const establishSuffix = "/establish"

func establish(host, cluster string, needs []string) Step {
	return Step{ID: host + establishSuffix, Kind: Configure, Host: host, Title: "mark the cluster as established", Needs: needs,
		Reason:  "from here on an empty etcd directory is a loss to repair, never a cluster to begin",
		Desired: &facts.Desired{Files: []facts.File{{Path: facts.EstablishedFile, Content: cluster + "\n"}}}}
}

// revive has a cluster whose API answers nowhere: what is configured wrongly or stopped can be put right.
func (p *builder) revive() error {
	for _, h := range p.c.Spec.Hosts {
		if p.facts(h.Name) != nil {
			p.prepare(h)
		}
	}
	if len(p.out.Steps) > 0 {
		return nil
	}
	return &Refusal{RuleQuorum, "the cluster exists, but no apiserver answers, and nothing in the hosts' configuration explains it",
		"Bring back enough " + p.etcdHostsAre() + " for etcd's quorum and run it again; quorate status shows which ones are missing."}
}

// balancersMoved refuses to set up balancers where the cluster as it is cannot have them.
func (p *builder) balancersMoved() error {
	for _, h := range p.c.Spec.Hosts {
		switch f := p.facts(h.Name); {
		case f == nil:
		case !p.c.Balances(h) && f.Units[hostconfig.WatchdogUnit] == "active":
			return &Refusal{"one set of balancers", h.Name + " still balances this cluster, and the spec no longer says so: it would contend for the virtual IP",
				"Give it back its place in the spec, or stop it there when other balancers or one of your own can take over: systemctl disable --now keepalived haproxy " + hostconfig.WatchdogUnit}
		case h.Has(spec.RoleControlPlane) && p.c.Balances(h) && hostconfig.SharesAPIPort(p.c) && f.Kubernetes.KubeletConfig && !f.Kubernetes.SharesPort:
			return &Refusal{"one program on a port", "kube-apiserver on " + h.Name + " was not set up to share port " + hostconfig.APIPort + " with HAProxy, which could not start beside it",
				"Use hosts of their own for the role load-balancer. Or let the API servers share it first: add permit-port-sharing=true to apiServer.extraArgs in the ConfigMap kubeadm-config, " +
					"and --permit-port-sharing=true to /etc/kubernetes/manifests/kube-apiserver.yaml on one control plane after the other, each time waiting until quorate status is healthy again."}
		}
	}
	return nil
}

// maintain brings an existing cluster to the spec.
func (p *builder) maintain() error {
	for _, n := range p.obs.API.Nodes {
		h, known := p.c.Host(n.Name)
		if !known || !h.IsNode() {
			return &Refusal{"no removals yet", fmt.Sprintf("the cluster has the node %s, which the spec does not name", n.Name),
				"This quorate cannot remove nodes yet: put it back into the spec, or remove it by hand (kubectl drain, kubeadm reset, kubectl delete node)."}
		}
	}
	if err := p.keepEtcdMembers(); err != nil {
		return err
	}
	cps := p.c.HostsWith(spec.RoleControlPlane)
	pki := p.sharePKI(cps)
	etcdPKI := p.shareEtcdPKI()
	for _, h := range p.c.Spec.Hosts {
		if p.facts(h.Name) != nil {
			p.prepare(h)
		}
	}
	p.oneBalancerAtATime()
	p.establish(nil)
	p.shareEtcdClient(pki, etcdPKI)
	token := p.token()
	previous := ""
	for _, h := range cps {
		f := p.facts(h.Name)
		if f != nil && f.Kubernetes.KubeletAway && !p.leftAsItIs(h) {
			p.useLocalAPI(h.Name)
		}
		if f == nil || f.Kubernetes.KubeletConfig {
			continue
		}
		if p.c.StackedEtcd() && slices.ContainsFunc(p.obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == h.Name }) {
			return &Refusal{"no replacement yet", fmt.Sprintf("%s is empty, but etcd still has a member of that name", h.Name),
				"Remove the dead member first (etcdctl member remove on a healthy control plane), then run apply again."}
		}
		if err := p.knownPaths(h); err != nil {
			return err
		}
		previous = p.add(Step{Kind: JoinControlPlane, Host: h.Name, Title: "join as a control plane", Gates: []Gate{GateEtcdWhole},
			Reason: p.joinReason(),
			Needs:  p.present(id(h.Name, ImportImages), id(h.Name, Configure), id(h.Name, SharePKI), id(h.Name, ShareEtcdClient), pki, token, previous)})
		p.out.Steps = append(p.out.Steps, establish(h.Name, p.c.Metadata.Name, []string{previous}))
	}
	if err := p.sameNetwork(); err != nil {
		return err
	}
	p.manifests("")
	if !p.obs.API.DNSSpread {
		p.add(Step{Kind: SpreadDNS, Title: "spread CoreDNS", Reason: "its replicas may share a node"})
	}
	for _, h := range p.c.Spec.Hosts {
		f := p.facts(h.Name)
		if f == nil || !h.IsNode() {
			continue
		}
		if f.Kubernetes.KubeletConfig {
			p.relabel(h)
		} else if h.Has(spec.RoleWorker) && !h.Has(spec.RoleControlPlane) {
			p.worker(h, token)
		}
	}
	p.removeTokens(token)
	return nil
}

// prepare brings a host's own configuration into shape, whatever it is for.
func (p *builder) prepare(h spec.Host) {
	f := p.facts(h.Name)
	adopted := p.leftAsItIs(h)
	p.packages(h, f)
	if !adopted && (h.IsNode() || h.Has(spec.RoleEtcd)) && f.Binaries != p.bundle.Digest {
		p.add(Step{Kind: InstallBundle, Host: h.Name, Title: "install " + p.bundle.Version, Reason: otherBundle(f.Binaries)})
	}
	d := hostconfig.Hosts(p.c)
	if adopted {
		d = merge(d, hostconfig.Adopted(p.c, h))
	} else {
		d = merge(d, p.own(h, f))
	}
	needs := []string{id(h.Name, InstallPackages), id(h.Name, InstallBundle)}
	fill := false
	if p.c.Balances(h) {
		d = merge(d, hostconfig.Balancer(p.c, h, f, p.ca))
		if fill = p.ca == ""; fill {
			needs = append(needs, id("", MakePKI))
		}
	}
	if missing := hostconfig.Missing(d, f); len(missing) > 0 {
		p.add(Step{Kind: Configure, Host: h.Name, Title: "configure " + p.what(h), Reason: reasons(missing), Desired: &d, FillCA: fill, Needs: p.present(needs...)})
	}
	if !adopted && h.IsNode() && (f.Images != p.bundle.Digest || len(f.ImageProblems) > 0) {
		p.add(Step{Kind: ImportImages, Host: h.Name, Title: "import the images", Reason: importReason(f, p.bundle.Digest),
			Needs: p.present(id(h.Name, InstallBundle), id(h.Name, Configure))})
	}
}

// own is the configuration of a host that is Quorate's from the beginning.
func (p *builder) own(h spec.Host, f *facts.Facts) facts.Desired {
	d := facts.Desired{}
	if h.IsNode() {
		d = merge(d, hostconfig.Runtime(f, p.bundle.Pause))
	}
	if h.Has(spec.RoleEtcd) {
		d = merge(d, hostconfig.Etcd(h, f))
	}
	if h.Has(spec.RoleControlPlane) {
		d = merge(d, hostconfig.ControlPlane(p.c))
	}
	if !p.established && (h.IsNode() || h.Has(spec.RoleEtcd)) {
		d.Files = append(d.Files, facts.File{Path: facts.BegunFile, Mode: 0o600, Content: p.c.Metadata.Name + "\n"})
	}
	return d
}

func otherBundle(have string) string {
	if have == "" {
		return "the host has no bundle"
	}
	return "the host has another bundle"
}

func importReason(f *facts.Facts, want string) string {
	if f.Images != want {
		return otherBundle(f.Images)
	}
	const shown = 3
	if more := len(f.ImageProblems) - shown; more > 0 {
		return fmt.Sprintf("%s and %d more", reasons(f.ImageProblems[:shown]), more)
	}
	return reasons(f.ImageProblems)
}

func (p *builder) what(h spec.Host) string {
	switch {
	case h.Has(spec.RoleEtcd):
		return "the etcd host"
	case p.c.Balances(h) && h.IsNode():
		return "the node and its load balancer"
	case p.c.Balances(h):
		return "the load balancer"
	}
	return "the node"
}

func merge(a, b facts.Desired) facts.Desired {
	sysctls := maps.Clone(a.Sysctls)
	if sysctls == nil {
		sysctls = map[string]string{}
	}
	maps.Copy(sysctls, b.Sysctls)
	return facts.Desired{Files: append(a.Files, b.Files...), Modules: append(a.Modules, b.Modules...), Sysctls: sysctls,
		Self: cmp.Or(a.Self, b.Self), Enable: append(a.Enable, b.Enable...)}
}

// sharePKI plans the way of the shared keys to every control plane that lacks them.
func (p *builder) sharePKI(cps []spec.Host) string {
	source, reason := "", "no control plane has keys yet"
	var lacking []spec.Host
	for _, h := range cps {
		switch f := p.facts(h.Name); {
		case f == nil:
		case !f.Kubernetes.SharedPKI && p.leftAsItIs(h): // a key may be kept elsewhere on purpose
		case !f.Kubernetes.SharedPKI:
			lacking = append(lacking, h)
		case source == "":
			source, reason = h.Name, "others need the keys that it has"
		}
	}
	if len(lacking) == 0 {
		return ""
	}
	if source == "" {
		source = cps[0].Name
	}
	made := id("", MakePKI)
	p.out.Steps = append(p.out.Steps, Step{ID: made, Kind: MakePKI, Host: source, Title: "make the shared keys", Reason: reason, Needs: p.willHave(source)})
	for _, h := range lacking {
		if h.Name != source {
			p.add(Step{Kind: SharePKI, Host: h.Name, Title: "hand over the shared keys", Reason: "control planes share one set of authorities", Needs: []string{made}})
		}
	}
	return made
}

// willHave names the step that brings kubeadm to a host, if it is not there yet.
func (p *builder) willHave(host string) []string {
	if h, _ := p.c.Host(host); p.leftAsItIs(h) || p.facts(host).Binaries == p.bundle.Digest {
		return nil
	}
	return []string{id(host, InstallBundle)}
}

func (p *builder) token() string {
	for _, h := range p.c.Spec.Hosts {
		if f := p.facts(h.Name); f != nil && h.IsNode() && !f.Kubernetes.KubeletConfig {
			return p.add(Step{Kind: MakeToken, Title: "make a bootstrap token", Reason: "hosts are waiting to join"})
		}
	}
	return ""
}

// removeTokens ends the time in which hosts can join, as soon as those of this plan have. A run that was killed left its
// token behind: it would be valid for an hour.
func (p *builder) removeTokens(made string) {
	left := p.obs.API != nil && len(p.obs.API.JoinTokens) > 0
	if made == "" && !left {
		return
	}
	var needs []string
	for _, s := range p.out.Steps {
		if s.Kind == JoinWorker || s.Kind == JoinControlPlane || s.ID == made {
			needs = append(needs, s.ID)
		}
	}
	p.add(Step{Kind: RemoveTokens, Title: "remove the bootstrap token", Reason: "whoever has it could join a host: it is needed no longer", Needs: needs})
}

func (p *builder) worker(h spec.Host, after string) {
	if !p.facts(h.Name).Kubernetes.KubeletConfig {
		p.add(Step{Kind: JoinWorker, Host: h.Name, Title: "join as a worker", Reason: "in the spec, not in the cluster",
			Needs: p.present(id(h.Name, ImportImages), id(h.Name, Configure), after)})
	}
	p.markWorker(h, id(h.Name, JoinWorker), after)
}

func (p *builder) markWorker(h spec.Host, after ...string) {
	if len(PoolLabels(p.c, h)) > 0 || len(PoolTaints(p.c, h)) > 0 {
		p.add(p.labelStep(h, "its node pool's labels and taints", p.present(after...)))
	}
}

func (p *builder) manifests(after string) {
	for _, name := range slices.Sorted(maps.Keys(p.bundle.Manifests)) {
		applied := ""
		if p.obs.API != nil {
			applied = p.obs.API.Applied[name]
		}
		if applied == p.bundle.Manifests[name] || applied == "" && p.keepsNetwork() {
			continue
		}
		reason := "not applied yet"
		if applied != "" {
			reason = "another version is applied"
		}
		p.add(Step{Kind: ApplyManifest, Manifest: name, Title: "apply " + name, Reason: reason, Needs: p.present(after)})
	}
}

func (p *builder) relabel(h spec.Host) {
	i := slices.IndexFunc(p.obs.API.Nodes, func(n facts.Node) bool { return n.Name == h.Name })
	if i < 0 {
		return // it has its identity and will register; the verify step waits for that
	}
	node, want := p.obs.API.Nodes[i], p.labelStep(h, "", nil)
	var differ []string
	for _, k := range slices.Sorted(maps.Keys(want.Labels)) {
		if have, ok := node.Labels[k]; !ok || have != want.Labels[k] {
			differ = append(differ, "label "+k+" differs")
		}
	}
	for _, t := range want.Taints {
		if !slices.Contains(node.Taints, t) {
			differ = append(differ, "taint "+t.Key+" is missing")
		}
	}
	if len(differ) > 0 {
		want.Reason = reasons(differ)
		p.add(want)
	}
}

func (p *builder) labelStep(h spec.Host, reason string, needs []string) Step {
	s := Step{Kind: LabelNode, Host: h.Name, Title: "label the node", Reason: reason, Needs: needs, Labels: NodeLabels(h), Taints: PoolTaints(p.c, h)}
	maps.Copy(s.Labels, PoolLabels(p.c, h))
	if h.Has(spec.RoleControlPlane) {
		s.Labels[controlPlaneLabel], s.Labels[excludeLabel] = "", ""
		s.Taints = append(s.Taints, Taints(h)...)
	}
	return s
}

// NodeLabels are the labels that a kubelet may give its own node when it registers.
func NodeLabels(h spec.Host) map[string]string {
	labels := map[string]string{ZoneLabel: h.Zone}
	if h.Region != "" {
		labels[RegionLabel] = h.Region
	}
	return labels
}

// Taints are the taints that a host's roles give its node.
func Taints(h spec.Host) []facts.Taint {
	if h.Has(spec.RoleControlPlane) && !h.Has(spec.RoleWorker) {
		return []facts.Taint{{Key: controlPlaneLabel, Effect: "NoSchedule"}}
	}
	return nil
}

// present keeps those IDs that are steps of this plan: what is not planned is there already.
func (p *builder) present(ids ...string) []string {
	var out []string
	for _, want := range ids {
		if slices.ContainsFunc(p.out.Steps, func(s Step) bool { return s.ID == want }) {
			out = append(out, want)
		}
	}
	return out
}
