package byhand

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/coredns"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
)

const (
	pki        = "/etc/kubernetes/pki/"
	adminConf  = "export KUBECONFIG=/etc/kubernetes/admin.conf"
	initFile   = "/root/kubeadm-init.yaml"
	joinFile   = "/root/kubeadm-join.yaml"
	etcdFile   = "/root/kubeadm-etcd.yaml"
	dnsFile    = "/root/coredns.yaml"
	cgroupV2   = "[ -e /sys/fs/cgroup/cgroup.controllers ]"
	inside     = "systemd-detect-virt --quiet --container"
	containerd = "/etc/containerd/config.toml"
)

// ordinary is a typical server. The commands detect other kinds of machines themselves.
var ordinary = &facts.Facts{CgroupV2: true, CanLowerOOMScore: true, CanSetConntrack: true}

type writer struct {
	c       *spec.Cluster
	images  Images
	kubeadm kubeadm.Config
	cps     []spec.Host
	err     error
}

func newWriter(c *spec.Cluster, images Images) *writer {
	return &writer{c: c, images: images, kubeadm: kubeadm.Config{Cluster: c, Facts: []*facts.Facts{ordinary}}, cps: c.HostsWith(spec.RoleControlPlane)}
}

func (w *writer) first() spec.Host { return w.cps[0] }

func (w *writer) rendered(config []byte, err error) string {
	w.err = cmp.Or(w.err, err)
	return string(config)
}

func names(hosts []spec.Host) []string {
	var out []string
	for _, h := range hosts {
		out = append(out, h.Name)
	}
	return out
}

func (w *writer) where(is func(spec.Host) bool) []spec.Host {
	return slices.DeleteFunc(slices.Clone(w.c.Spec.Hosts), func(h spec.Host) bool { return !is(h) })
}

func (w *writer) assumes() []string {
	version := w.c.Spec.Kubernetes.Version
	nodes := w.where(spec.Host.IsNode)
	out := []string{
		"Every host runs Linux with systemd, swap is off, the clocks are synchronized, and no firewall blocks the ports that kubeadm's documentation lists. `quorate preflight` checks all of that.",
		fmt.Sprintf("On %s: kubeadm, kubelet, and kubectl %s, containerd, and runc are in /usr/local/bin, and the CNI plugins are in /opt/cni/bin.", strings.Join(names(nodes), ", "), version),
		fmt.Sprintf("Their containerd has, or can pull, the images that `kubeadm config images list --kubernetes-version %s` lists, and those of the manifests below.", version),
	}
	if members := w.c.HostsWith(spec.RoleEtcd); len(members) > 0 {
		out = append(out, fmt.Sprintf("On %s: etcd, etcdctl, and kubeadm are in /usr/local/bin.", strings.Join(names(members), ", ")))
	}
	if w.c.ExistingEtcd() {
		out = append(out, fmt.Sprintf("The existing etcd is healthy and empty, the files with its CA and client certificate are on this machine, and etcdctl is on %s.", w.first().Name))
	}
	if lbs := w.c.BalancerHosts(); len(lbs) > 0 {
		out = append(out, fmt.Sprintf("On %s: haproxy and keepalived are installed. No machine uses the address %s.", strings.Join(names(lbs), ", "), w.c.Spec.LoadBalancer.Address))
	} else {
		out = append(out, fmt.Sprintf("Your own load balancer forwards TCP from %s to port %s of %s, and checks https://HOST:%s/readyz. Its name resolves on every host.",
			w.c.Spec.ControlPlane.Endpoint, hostconfig.APIPort, strings.Join(names(w.cps), ", "), hostconfig.APIPort))
	}
	if slices.ContainsFunc(w.c.Spec.Hosts, func(h spec.Host) bool { return h.SSH.User != spec.DefaultSSHUser }) {
		out = append(out, "Users other than root can use sudo without a password.")
	}
	return out
}

// prepare is everything on the hosts that needs no other host.
func (w *writer) prepare() Section {
	s := Section{Title: "Prepare the hosts", AtOnce: true,
		Reason: "kubeadm expects a load balancer in front of the control planes, a container runtime, and names that resolve. The hosts can be prepared independently of each other."}
	for _, h := range w.c.BalancerHosts() {
		step := Step{Title: "load balancer", Hosts: []string{h.Name}, Actions: w.balancer(h)}
		if !h.IsNode() && !h.Has(spec.RoleEtcd) {
			step.Actions = append(w.resolve(), step.Actions...)
		}
		s.Steps = append(s.Steps, step)
	}
	for _, h := range w.c.HostsWith(spec.RoleEtcd) {
		s.Steps = append(s.Steps, Step{Title: "etcd host", Hosts: []string{h.Name}, Actions: append(w.resolve(), w.member(h)...)})
	}
	s.Steps = append(s.Steps, Step{Title: "container runtime", Hosts: names(w.where(spec.Host.IsNode)), Actions: append(w.resolve(), w.runtime()...)})
	return s
}

func (w *writer) resolve() []Action {
	d := hostconfig.Hosts(w.c)
	return []Action{{
		Reason: "Every name resolves on every host, even without DNS. A kubelet looks up its own name all the time, and a DNS server that does not answer costs it ten seconds each time.",
		Files:  []File{{Path: d.Files[0].Path, Mode: "644", Append: true, Content: d.Files[0].Content}},
	}}
}

// family is the option of ip(8) for the family of an address.
func family(address string) string {
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() {
		return "-6"
	}
	return "-4"
}

func files(d facts.Desired) (out []File) {
	for _, f := range d.Files {
		out = append(out, File{Path: f.Path, Mode: fmt.Sprintf("%o", cmp.Or(f.Mode, fs.FileMode(0o644))), Content: f.Content})
	}
	return out
}

func (w *writer) balancer(h spec.Host) []Action {
	d := hostconfig.PlainBalancer(w.c, h)
	commands := []string{
		fmt.Sprintf("read -r _ interface _ address _ < <(ip -o %s address show to %s)", family(h.VIPAddress()), h.VIPAddress()),
		fmt.Sprintf(`sed -i "s|%s|$interface|; s|%s|${address#*/}|" /etc/keepalived/keepalived.conf`, hostconfig.InterfacePlaceholder, hostconfig.PrefixPlaceholder),
		"systemctl daemon-reload",
		"systemctl enable --quiet haproxy keepalived",
		"systemctl restart haproxy",
		"systemctl restart keepalived",
	}
	if len(d.Sysctls) > 0 {
		commands = append([]string{"sysctl -q -p " + d.Files[len(d.Files)-1].Path}, commands...)
	}
	return []Action{{
		Reason: "HAProxy sends clients to the API servers that are ready. keepalived keeps the address " + w.c.Spec.LoadBalancer.Address +
			" on one load balancer, and moves it if that host or its HAProxy fails. HAProxy starts first, because keepalived checks it.",
		Files: files(d), Commands: commands,
	}}
}

func (w *writer) runtime() []Action {
	d, settings := hostconfig.Runtime(ordinary, w.images.Pause), hostconfig.Settings(w.c, ordinary)
	load := "sysctl -q -p /etc/sysctl.d/90-quorate.conf"
	if len(w.c.Spec.Settings.Sysctls) > 0 {
		load += " " + hostconfig.SettingsSysctlFile
	}
	if w.c.Spec.Network.Uses(spec.IPv6) {
		load += " " + hostconfig.IPv6SysctlFile
	}
	d.Files = append(d.Files, settings.Files...)
	var watched []string
	for _, f := range d.Files {
		if strings.HasPrefix(f.Path, "/etc/systemd/") || f.Path == containerd {
			watched = append(watched, f.Path)
		}
	}
	state := fmt.Sprintf("$(cat %s 2>/dev/null | sha256sum)", strings.Join(watched, " "))
	return []Action{{
		Reason:   "For the step below: if containerd already has exactly this configuration, it does not have to restart.",
		Commands: []string{"before=" + state + " || true"},
	}, {
		Reason: "The kernel forwards the packets of pods and passes them through iptables for kube-proxy. containerd runs the pods, with the sandbox image that kubeadm expects and with the systemd cgroup driver, " +
			"which the kubelet also uses. The kubelet's unit waits for the configuration that kubeadm writes.",
		Files: files(d),
		Commands: []string{
			"modprobe --all " + strings.Join(d.Modules, " ") + " 2>/dev/null || true # they may be built into the kernel",
			load,
		},
	}, {
		Reason: "Only for unusual machines: with cgroup v1, the systemd cgroup driver is not used, and in a container without CAP_SYS_RESOURCE, pods cannot start if they ask for a lower OOM score.",
		Commands: []string{
			cgroupV2 + " || sed -i 's/SystemdCgroup = true/SystemdCgroup = false/' " + containerd,
			"(( 0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> 24 & 1 )) || sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' " + containerd,
		},
	}, {
		Reason: "Start them now and at boot.",
		Commands: []string{
			`if [ "$before" != "` + state + `" ]; then systemctl daemon-reload; systemctl restart containerd; fi`,
			"systemctl enable --quiet --now " + strings.Join(d.Enable, " "),
		},
	}}
}

// member prepares one host of an external etcd. etcd starts only after it has its certificates.
func (w *writer) member(h spec.Host) []Action {
	config := w.rendered(w.kubeadm.EtcdHostByHand(h))
	return []Action{{
		Reason:   "etcd runs under systemd: these hosts are not nodes, so there is no kubelet to start a static pod. kubeadm creates the certificates, from a separate file for each host.",
		Files:    append(files(hostconfig.Etcd(h, ordinary, hostconfig.EtcdTimers(w.c))), File{Path: etcdFile, Mode: "644", Content: config}),
		Commands: []string{"systemctl daemon-reload"},
	}}
}

// etcd follows kubeadm's guide to a highly available etcd, or checks the existing one.
func (w *writer) etcd() Section {
	members := w.c.HostsWith(spec.RoleEtcd)
	switch {
	case w.c.ExistingEtcd():
		e := w.c.Spec.Etcd
		return Section{Title: "The existing etcd",
			Reason: "The first control plane gets the client certificate. kubeadm uploads it for the others.",
			Steps: []Step{{Title: "certificates of the existing etcd", Hosts: []string{w.first().Name}, Bring: []Bring{
				{Local: e.CAFile, Path: pki + facts.EtcdPKI[0]}, {Local: e.CertFile, Path: pki + facts.EtcdClientPKI[0]}, {Local: e.KeyFile, Path: pki + facts.EtcdClientPKI[1]},
			}}, {Title: "check etcd's health", Hosts: []string{w.first().Name}, Actions: []Action{{
				Reason:   "Check this before anything is built on it.",
				Commands: []string{w.etcdctl() + " endpoint health"},
			}}}}}
	case len(members) == 0:
		return Section{}
	}
	certs := "kubeadm init phase certs "
	s := Section{Title: "etcd", Reason: "Create one CA and a certificate for each member, then start all members as one cluster."}
	s.Steps = append(s.Steps, Step{Title: "etcd's own CA", Hosts: []string{members[0].Name}, Actions: []Action{{
		Reason:   "It is separate from the cluster's CA, so that etcd does not accept certificates of the cluster.",
		Commands: []string{certs + "etcd-ca --config " + etcdFile},
	}}})
	for _, h := range members[1:] {
		s.Steps = append(s.Steps, Step{Title: "the CA for " + h.Name, Hosts: []string{h.Name},
			Bring: []Bring{{From: members[0].Name, Path: pki + facts.EtcdPKI[0]}, {From: members[0].Name, Path: pki + facts.EtcdPKI[1]}}})
	}
	var commands []string
	for _, kind := range []string{"etcd-server", "etcd-peer", "apiserver-etcd-client"} {
		commands = append(commands, certs+kind+" --config "+etcdFile)
	}
	s.Steps = append(s.Steps, Step{Title: "start the members", Hosts: names(members), Actions: []Action{{
		Reason:   "The token keeps this etcd apart from every other one, even from one with the same name and members. It is made of the cluster's name and etcd's CA.",
		Commands: []string{fmt.Sprintf("etcdtoken=%s-$(sed '/-----/d' %s | base64 -d | sha256sum | cut -c 1-16)", w.c.Metadata.Name, pki+facts.EtcdPKI[0])},
	}, {
		Reason:   "Each host creates its own certificates, so that no member's key is copied between hosts. The unit does not wait for the other members.",
		Files:    []File{{Path: hostconfig.EtcdMembersFile, Mode: "600", Expand: true, Content: hostconfig.ExternalEtcd(w.c, "$etcdtoken").Environment()}},
		Commands: append(commands, "systemctl enable --quiet --now "+hostconfig.EtcdUnit),
	}}}, Step{Title: "check etcd's health", Hosts: []string{members[0].Name}, Actions: []Action{{
		Reason:   "All members must be healthy before anything is built on them.",
		Commands: []string{"until " + w.etcdctl() + " endpoint health; do [ $SECONDS -lt 60 ]; sleep 0.2; done"},
	}}}, Step{Title: "etcd's client certificate", Hosts: []string{w.first().Name},
		Bring: []Bring{{From: members[0].Name, Path: pki + facts.EtcdPKI[0]}, {From: members[0].Name, Path: pki + facts.EtcdClientPKI[0]}, {From: members[0].Name, Path: pki + facts.EtcdClientPKI[1]}}})
	return s
}

func (w *writer) etcdctl() string {
	return fmt.Sprintf("etcdctl --endpoints %s --cacert %s --cert %s --key %s", strings.Join(hostconfig.EtcdEndpoints(w.c), ","),
		pki+facts.EtcdPKI[0], pki+facts.EtcdClientPKI[0], pki+facts.EtcdClientPKI[1])
}

func (w *writer) firstControlPlane() Section {
	key, err := encryption.Keys{{Name: encryption.FirstKey, Secret: "$(head -c 32 /dev/urandom | base64)"}}.Marshal()
	secrets := File{Path: pki + encryption.File, Mode: "600", Expand: true, Content: w.rendered(key, err)}
	var read []File
	for _, f := range files(hostconfig.ControlPlane(w.c)) {
		if strings.HasPrefix(f.Path, hostconfig.APIServerDir+"/") {
			read = append(read, f)
		}
	}
	h := w.first()
	configuration := Action{Reason: "The configuration of this cluster for kubeadm.", Files: []File{{Path: initFile, Mode: "600", Content: w.rendered(w.kubeadm.InitByHand(h))}}}
	if patch, has := hostconfig.PlainAPIServerPatch(w.c); has {
		configuration.Reason += " The patch keeps kubelets from restarting API servers while etcd does not answer: an API server cannot start without etcd."
		configuration.Files = append(configuration.Files, files(facts.Desired{Files: []facts.File{patch}})...)
	} else {
		configuration.Reason += " kubeadm's probes stay, so kubelets restart API servers while etcd does not answer: HAProxy's checks leave out etcd, and nothing else keeps clients from an API server whose own etcd is dead."
	}
	return Section{Title: "The first control plane",
		Reason: "It creates the cluster. --upload-certs stores the shared keys, encrypted, in a Secret that the other control planes can read for two hours.",
		Steps: []Step{{Title: "kubeadm init", Hosts: []string{h.Name}, PrintsJoin: true, Actions: []Action{{
			Reason: "The files that the API server reads: which requests it accepts without credentials, what it writes to the audit log, and the key that encrypts secrets in etcd, which is generated here.",
			Files:  append(read, secrets), Commands: []string{makeAuditDir},
		}, w.knock(), configuration, adapt, {
			Reason:   "At the end, it prints the parameters with which the other nodes join.",
			Commands: append(w.ignore(h), "kubeadm init --upload-certs --config "+initFile+` --ignore-preflight-errors="$ignore"`),
		}}}}}
}

const makeAuditDir = "install -d -m 700 " + hostconfig.AuditLogDir

// adapt is for unusual machines, such as those of a lab.
var adapt = Action{
	Reason: "Only for unusual machines: those with cgroup v1, containers that share swap and disk with their host, and those that cannot set the size of the conntrack table.",
	Commands: []string{
		cgroupV2 + ` || sed -i 's/^cgroupDriver: systemd$/cgroupDriver: cgroupfs\nfailCgroupV1: false/' ` + initFile,
		"! " + inside + ` || sed -i 's/^kind: KubeletConfiguration$/&\n` + inContainers() + `/' ` + initFile,
		`[ -w /proc/sys/net/netfilter/nf_conntrack_max ] || sed -i 's/^kind: KubeProxyConfiguration$/&\nconntrack: {maxPerCore: 0, min: 0}/' ` + initFile,
	},
}

// inContainers are the kubelet's settings where nodes are containers, a line each, for sed.
func inContainers() string {
	lines := []string{"failSwapOn: false"}
	for k, v := range hostconfig.InContainers() {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // of strings, numbers and maps of them
		}
		lines = append(lines, k+": "+string(text))
	}
	slices.Sort(lines)
	return strings.Join(lines, `\n`)
}

// knock is the documented test of the connection to the endpoint.
func (w *writer) knock() Action {
	host, port := hostconfig.EndpointHost(w.c), hostconfig.EndpointPort(w.c)
	try := fmt.Sprintf("timeout 5 bash -c '</dev/tcp/%s/%s'", host, port)
	if len(w.c.BalancerHosts()) > 0 {
		return Action{Reason: "Check that the endpoint can be reached. No API server runs behind the load balancer yet, but the load balancer accepts connections, a few seconds after it has started and taken the virtual IP.",
			Commands: []string{"until " + try + "; do [ $SECONDS -lt 60 ]; sleep 0.5; done"}}
	}
	return Action{
		Reason: "Check that the endpoint can be reached. No API server runs behind the load balancer yet, so \"connection refused\" is a good result. No answer within five seconds (status 124) means that a name, a route, or a firewall is wrong.",
		Commands: []string{
			"status=0", try + " || status=$?", "[ $status != 124 ]",
		},
	}
}

// ignore lists the preflight errors of kubeadm that are expected.
func (w *writer) ignore(h spec.Host) []string {
	var always []string
	if w.c.Balances(h) && hostconfig.SharesAPIPort(w.c) {
		always = []string{"Port-" + hostconfig.APIPort}
	}
	lines := []string{"ignore=" + strings.Join(always, ","),
		"# cgroup v1, or a container, which cannot read the kernel configuration:",
		"if ! " + cgroupV2 + " || " + inside + "; then ignore=" + strings.Join(append(always, "SystemVerification"), ",") + "; fi"}
	if len(always) > 0 {
		lines = append([]string{"# HAProxy is already running and shares the port: it only listens on the virtual IP."}, lines...)
	}
	return lines
}

func (w *writer) podNetwork() Section {
	s := Section{Title: "Pod network", Reason: "Nodes become Ready when their pods can get addresses."}
	for _, name := range slices.Sorted(maps.Keys(w.images.Manifests)) {
		path, m := "/root/"+name+".yaml", w.images.Manifests[name]
		apply := "kubectl apply -f " + path
		if m.Namespace != "" {
			apply = "kubectl apply --namespace " + m.Namespace + " -f " + path
		}
		s.Steps = append(s.Steps, Step{Title: name, Hosts: []string{w.first().Name}, Actions: []Action{{
			Reason:   "The pod network is a separate add-on; kubeadm does not install one.",
			Files:    []File{{Path: path, Mode: "644", Content: string(m.Objects)}},
			Commands: []string{adminConf, apply},
		}}})
	}
	return s
}

// unsharedFiles copies the files that the API server's configuration refers to and that kubeadm does not upload.
func (w *writer) unsharedFiles() Section {
	s := Section{Title: "Files for the other control planes", AtOnce: true,
		Reason: "kubeadm uploads its certificates, but not the other files that the API server's configuration refers to. The key is copied from host to host and is never stored in between."}
	from := w.first().Name
	bring := []Bring{{From: from, Path: hostconfig.APIServerDir}, {From: from, Path: pki + encryption.File}}
	if patch, has := hostconfig.PlainAPIServerPatch(w.c); has {
		bring = append(bring, Bring{From: from, Path: patch.Path})
	}
	for _, h := range w.cps[1:] {
		s.Steps = append(s.Steps, Step{Title: "the API server's files for " + h.Name, Hosts: []string{h.Name}, Bring: bring})
	}
	return s
}

func (w *writer) controlPlanes() Section {
	s := Section{Title: "The other control planes", Reason: "They join one after another: each adds a member to etcd, and only one member can be added at a time."}
	if !w.c.StackedEtcd() {
		s.Reason = "They join one after another, as in the documentation."
	}
	for _, h := range w.cps[1:] {
		s.Steps = append(s.Steps, w.join(h, "join as a control plane",
			"kubeadm init printed the token and the CA hash, and the certificate key that decrypts the uploaded certificates. They are passed in a file to keep them out of process arguments.", makeAuditDir))
	}
	return s
}

func (w *writer) workers() Section {
	s := Section{Title: "The workers", Reason: "The workers join in the same way, without the control-plane parts."}
	for _, h := range w.where(func(h spec.Host) bool { return h.IsNode() && !h.Has(spec.RoleControlPlane) }) {
		s.Steps = append(s.Steps, w.join(h, "join as a worker", "kubeadm init printed the token and the CA hash. They are passed in a file to keep them out of process arguments."))
	}
	return s
}

func (w *writer) join(h spec.Host, title, reason string, before ...string) Step {
	config := w.rendered(w.kubeadm.JoinByHand(h, kubeadm.JoinWords{Token: "$token", CAHash: "$hash", CertificateKey: "$key"}))
	return Step{Title: title, Hosts: []string{h.Name}, Actions: []Action{{
		Reason: reason,
		Files:  []File{{Path: joinFile, Mode: "600", Expand: true, Content: config}},
		Commands: append(append(before, w.ignore(h)...),
			"kubeadm join --config "+joinFile+` --ignore-preflight-errors="$ignore"`, "rm "+joinFile),
	}}}
}

// finish is what remains to do after all nodes have joined.
func (w *writer) finish() Section {
	nodes := names(w.where(spec.Host.IsNode))
	actions := []Action{{
		Reason:   "On a worker, kubeadm join returns before its Node object exists.",
		Commands: []string{adminConf, "kubectl wait --for=create --timeout=2m node/" + strings.Join(nodes, " node/")},
	}}
	if marks := w.marks(); len(marks) > 0 {
		actions = append(actions, Action{Reason: "Set the labels and taints of the node pools: a kubelet is not allowed to set them itself.", Commands: marks})
	}
	if len(w.images.Manifests) > 0 {
		actions = append(actions, Action{
			Reason:   "Wait until all nodes are Ready.",
			Commands: []string{"kubectl wait --for=condition=Ready --timeout=5m node --all"},
		})
	} else {
		actions = append(actions, Action{Reason: "The spec has no CNI plugin: install yours now. Until then, the nodes are not Ready."})
	}
	actions = append(actions, w.spreadDNS(), Action{
		Reason: "Each kubelet requests a serving certificate from the cluster's CA, and no component of Kubernetes approves the request; until then, kubectl logs and exec fail. These commands approve the request of each node. " +
			"If you do not trust every host, check the requests first. Repeat this once a year, when the certificates are renewed.",
		Commands: []string{
			"for node in " + strings.Join(nodes, " ") + "; do",
			`    until requests=$(kubectl get csr --field-selector=spec.signerName=kubernetes.io/kubelet-serving -o jsonpath="{.items[?(@.spec.username=='system:node:$node')].metadata.name}") && [ -n "$requests" ]; do`,
			"        [ $SECONDS -lt 600 ]",
			"        sleep 0.5",
			"    done",
			"    kubectl certificate approve $requests",
			"done",
		},
	}, Action{
		Reason:   "The token is no longer needed, and anyone who has it could join a host.",
		Commands: []string{`kubeadm token delete "${token%%.*}"`, "kubectl --namespace kube-system delete secret kubeadm-certs --ignore-not-found"},
	}, Action{
		Reason:   "Check the result.",
		Commands: []string{"kubectl get nodes -o wide", "kubectl get --raw '/readyz?verbose' | tail -n 1"},
	})
	return Section{Title: "Finish", Reason: "kubeadm leaves these steps to the operator.",
		Steps: []Step{{Title: "finish", Hosts: []string{w.first().Name}, Actions: actions}}}
}

// spreadDNS makes CoreDNS what it is in a cluster that Quorate builds.
func (w *writer) spreadDNS() Action {
	condition := "different nodes a condition"
	if w.c.DNSInZones() {
		condition += ", and more than one zone, too"
	}
	reason := "kubeadm only prefers different nodes for the replicas of CoreDNS, and when they started, there was only the first control plane: all of them run there. Make " + condition +
		". The replicas are then replaced one after another."
	scale := 0
	if n := w.c.DNSReplicas(); n != size.DNSReplicas {
		scale = n
		reason += fmt.Sprintf(" kubeadm installs %d replicas, and this cluster is to have %d.", size.DNSReplicas, n)
	}
	patch, err := yaml.Marshal(coredns.Spread(size.DNSReplicas, scale, w.c.DNSInZones()))
	return Action{
		Reason:   reason,
		Files:    []File{{Path: dnsFile, Mode: "644", Content: w.rendered(patch, err)}},
		Commands: []string{"kubectl -n kube-system patch deployment coredns --type merge --patch-file " + dnsFile},
	}
}

func (w *writer) marks() (out []string) {
	for _, h := range w.where(spec.Host.IsNode) {
		labels := plan.PoolLabels(w.c, h)
		if len(labels) > 0 {
			line := "kubectl label --overwrite node " + h.Name
			for _, k := range slices.Sorted(maps.Keys(labels)) {
				line += " " + k + "=" + labels[k]
			}
			out = append(out, line)
		}
		for _, t := range plan.PoolTaints(w.c, h) {
			out = append(out, fmt.Sprintf("kubectl taint --overwrite node %s %s=%s:%s", h.Name, t.Key, t.Value, t.Effect))
		}
	}
	return out
}
