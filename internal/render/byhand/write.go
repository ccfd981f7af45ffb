package byhand

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

const (
	pki        = "/etc/kubernetes/pki/"
	adminConf  = "export KUBECONFIG=/etc/kubernetes/admin.conf"
	initFile   = "/root/kubeadm-init.yaml"
	joinFile   = "/root/kubeadm-join.yaml"
	etcdFile   = "/root/kubeadm-etcd.yaml"
	cgroupV2   = "[ -e /sys/fs/cgroup/cgroup.controllers ]"
	inside     = "systemd-detect-virt --quiet --container"
	containerd = "/etc/containerd/config.toml"
)

// ordinary is a server as most are. Where a host is another kind of machine, the commands see it themselves.
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
		"Every host runs Linux with systemd; swap is off, clocks agree, and no firewall is between the ports that kubeadm's documentation names. `quorate preflight` looks at all of that.",
		fmt.Sprintf("On %s: kubeadm, kubelet and kubectl %s, containerd and runc in /usr/local/bin, and the CNI plugins in /opt/cni/bin.", strings.Join(names(nodes), ", "), version),
		fmt.Sprintf("Their containerd has, or can pull, the images that `kubeadm config images list --kubernetes-version %s` names, and those of the manifests below.", version),
	}
	if members := w.c.HostsWith(spec.RoleEtcd); len(members) > 0 {
		out = append(out, fmt.Sprintf("On %s: etcd, etcdctl and kubeadm in /usr/local/bin.", strings.Join(names(members), ", ")))
	}
	if w.c.ExistingEtcd() {
		out = append(out, fmt.Sprintf("The existing etcd is healthy and empty, the files with its CA and client certificate are on this machine, and etcdctl is on %s.", w.first().Name))
	}
	if lbs := w.c.BalancerHosts(); len(lbs) > 0 {
		out = append(out, fmt.Sprintf("On %s: haproxy and keepalived. No machine has the address %s.", strings.Join(names(lbs), ", "), w.c.Spec.LoadBalancer.Address))
	} else {
		out = append(out, fmt.Sprintf("Your own balancer passes TCP from %s on to port %s of %s, and checks https://HOST:%s/readyz. Every host resolves its name.",
			w.c.Spec.ControlPlane.Endpoint, hostconfig.APIPort, strings.Join(names(w.cps), ", "), hostconfig.APIPort))
	}
	if slices.ContainsFunc(w.c.Spec.Hosts, func(h spec.Host) bool { return h.SSH.User != spec.DefaultSSHUser }) {
		out = append(out, "Who is not root has sudo without a password.")
	}
	return out
}

// prepare is everything on the hosts that needs no other host.
func (w *writer) prepare() Section {
	s := Section{Title: "Prepare the hosts", AtOnce: true,
		Reason: "kubeadm expects a load balancer in front of the control planes, a container runtime, and names that resolve. The hosts do not need each other for it."}
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
		Reason: "Every name resolves on every host, whatever becomes of DNS: a kubelet looks its own name up all the time, and a server that does not answer costs it ten seconds each time.",
		Files:  []File{{Path: d.Files[0].Path, Mode: "644", Append: true, Content: d.Files[0].Content}},
	}}
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
		fmt.Sprintf("read -r _ interface _ address _ < <(ip -o -4 address show to %s)", h.Address),
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
			" on one balancer, and moves it when that host, or its HAProxy, is gone. HAProxy comes first, because keepalived asks it.",
		Files: files(d), Commands: commands,
	}}
}

func (w *writer) runtime() []Action {
	d := hostconfig.Runtime(ordinary, w.images.Pause)
	var watched []string
	for _, f := range d.Files {
		if strings.HasPrefix(f.Path, "/etc/systemd/") || f.Path == containerd {
			watched = append(watched, f.Path)
		}
	}
	state := fmt.Sprintf("$(cat %s 2>/dev/null | sha256sum)", strings.Join(watched, " "))
	return []Action{{
		Reason:   "For later: a containerd that has exactly this configuration already need not start again.",
		Commands: []string{"before=" + state + " || true"},
	}, {
		Reason: "The kernel forwards pods' packets and lets kube-proxy see them. containerd runs the pods, with the sandbox image that kubeadm wants and with systemd in charge of cgroups, " +
			"as the kubelet has it too. The kubelet's unit waits for the configuration that kubeadm gives it.",
		Files: files(d),
		Commands: []string{
			"modprobe --all " + strings.Join(d.Modules, " ") + " 2>/dev/null || true # a kernel that has them built in has nothing to load",
			"sysctl -q -p /etc/sysctl.d/90-quorate.conf",
		},
	}, {
		Reason: "Only on machines that are no ordinary servers: with cgroup v1 systemd is not in charge, and in a container without CAP_SYS_RESOURCE asking for a lower OOM score keeps pods from starting.",
		Commands: []string{
			cgroupV2 + " || sed -i 's/SystemdCgroup = true/SystemdCgroup = false/' " + containerd,
			"(( 0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> 24 & 1 )) || sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' " + containerd,
		},
	}, {
		Reason: "Start them, now and at boot.",
		Commands: []string{
			`if [ "$before" != "` + state + `" ]; then systemctl daemon-reload; systemctl restart containerd; fi`,
			"systemctl enable --quiet --now " + strings.Join(d.Enable, " "),
		},
	}}
}

// member prepares one host of an external etcd. It does not start before it has its certificates.
func (w *writer) member(h spec.Host) []Action {
	config := w.rendered(w.kubeadm.EtcdHostByHand(h))
	return []Action{{
		Reason: "etcd runs under systemd: these hosts are no nodes, so no kubelet starts a static pod here. kubeadm makes the certificates, from a file of its own for each host.",
		Files: append(files(hostconfig.Etcd(h, ordinary)),
			File{Path: hostconfig.EtcdMembersFile, Mode: "600", Content: hostconfig.EtcdMembers(w.c)},
			File{Path: etcdFile, Mode: "644", Content: config}),
		Commands: []string{"systemctl daemon-reload"},
	}}
}

// etcd is kubeadm's guide to a highly available etcd, or a look at the one that exists.
func (w *writer) etcd() Section {
	members := w.c.HostsWith(spec.RoleEtcd)
	switch {
	case w.c.ExistingEtcd():
		e := w.c.Spec.Etcd
		return Section{Title: "The existing etcd",
			Reason: "The first control plane gets the client certificate. kubeadm uploads it for the others.",
			Steps: []Step{{Title: "certificates of the existing etcd", Hosts: []string{w.first().Name}, Bring: []Bring{
				{Local: e.CAFile, Path: pki + facts.EtcdPKI[0]}, {Local: e.CertFile, Path: pki + facts.EtcdClientPKI[0]}, {Local: e.KeyFile, Path: pki + facts.EtcdClientPKI[1]},
			}}, {Title: "is it healthy?", Hosts: []string{w.first().Name}, Actions: []Action{{
				Reason:   "Before anything is built on it.",
				Commands: []string{w.etcdctl() + " endpoint health"},
			}}}}}
	case len(members) == 0:
		return Section{}
	}
	certs := "kubeadm init phase certs "
	s := Section{Title: "etcd", Reason: "One authority, a certificate for each member, and then all members start as one cluster."}
	s.Steps = append(s.Steps, Step{Title: "etcd's own authority", Hosts: []string{members[0].Name}, Actions: []Action{{
		Reason:   "Separate from the cluster's: who has a certificate of the cluster is not let in by etcd.",
		Commands: []string{certs + "etcd-ca --config " + etcdFile},
	}}})
	for _, h := range members[1:] {
		s.Steps = append(s.Steps, Step{Title: "the authority for " + h.Name, Hosts: []string{h.Name},
			Bring: []Bring{{From: members[0].Name, Path: pki + facts.EtcdPKI[0]}, {From: members[0].Name, Path: pki + facts.EtcdPKI[1]}}})
	}
	var commands []string
	for _, kind := range []string{"etcd-server", "etcd-peer", "apiserver-etcd-client"} {
		commands = append(commands, certs+kind+" --config "+etcdFile)
	}
	s.Steps = append(s.Steps, Step{Title: "start the members", Hosts: names(members), Actions: []Action{{
		Reason:   "Each host makes its own certificates, so that no member's key travels. The unit does not wait for the other members.",
		Commands: append(commands, "systemctl enable --quiet --now "+hostconfig.EtcdUnit),
	}}}, Step{Title: "is it whole?", Hosts: []string{members[0].Name}, Actions: []Action{{
		Reason:   "All members answer before anything is built on them.",
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
	return Section{Title: "The first control plane",
		Reason: "It begins the cluster. --upload-certs puts the shared keys, encrypted, where the other control planes find them for two hours.",
		Steps: []Step{{Title: "kubeadm init", Hosts: []string{h.Name}, PrintsJoin: true, Actions: []Action{{
			Reason: "What the API server reads: whom it answers without credentials, what it writes to the audit log, and the key that encrypts secrets in etcd, made here.",
			Files:  append(read, secrets), Commands: []string{makeAuditDir},
		}, w.knock(), {
			Reason: "What this cluster is to be, in kubeadm's words.",
			Files:  []File{{Path: initFile, Mode: "600", Content: w.rendered(w.kubeadm.InitByHand(h))}},
		}, adapt, {
			Reason:   "It ends with the words with which the others join.",
			Commands: append(w.ignore(h), "kubeadm init --upload-certs --config "+initFile+` --ignore-preflight-errors="$ignore"`),
		}}}}}
}

const makeAuditDir = "install -d -m 700 " + hostconfig.AuditLogDir

// adapt is for what is no ordinary server, as a lab's machine.
var adapt = Action{
	Reason: "Only on machines that are no ordinary servers: cgroup v1, a container above somebody else's swap and disk, or no say in the size of conntrack's table.",
	Commands: []string{
		cgroupV2 + ` || sed -i 's/^cgroupDriver: systemd$/cgroupDriver: cgroupfs\nfailCgroupV1: false/' ` + initFile,
		"! " + inside + ` || sed -i 's/^kind: KubeletConfiguration$/&\n` + inContainers() + `/' ` + initFile,
		`[ -w /proc/sys/net/netfilter/nf_conntrack_max ] || sed -i 's/^kind: KubeProxyConfiguration$/&\nconntrack: {maxPerCore: 0, min: 0}/' ` + initFile,
	},
}

// inContainers are the kubelet's settings where nodes are containers, a line each, for sed.
func inContainers() string {
	lines := []string{"failSwapOn: false"}
	for k, v := range kubeadm.InContainers() {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // of strings, numbers and maps of them
		}
		lines = append(lines, k+": "+string(text))
	}
	slices.Sort(lines)
	return strings.Join(lines, `\n`)
}

// knock is the documented test of the way to the endpoint.
func (w *writer) knock() Action {
	host, port := hostconfig.EndpointHost(w.c), hostconfig.EndpointPort(w.c)
	try := fmt.Sprintf("timeout 5 bash -c '</dev/tcp/%s/%s'", host, port)
	if len(w.c.BalancerHosts()) > 0 {
		return Action{Reason: "Is the way to the endpoint open? Nobody stands behind the balancer yet, but it answers.", Commands: []string{try}}
	}
	return Action{
		Reason: "Is the way to the endpoint open? Nobody stands behind the balancer yet, so refused is a good answer. None within five seconds (status 124) means that a name, a route or a firewall is wrong.",
		Commands: []string{
			"status=0", try + " || status=$?", "[ $status != 124 ]",
		},
	}
}

// ignore names what kubeadm's preflight finds and what is meant to be so.
func (w *writer) ignore(h spec.Host) []string {
	var always []string
	if w.c.Balances(h) && hostconfig.SharesAPIPort(w.c) {
		always = []string{"Port-" + hostconfig.APIPort}
	}
	lines := []string{"ignore=" + strings.Join(always, ","),
		"# cgroup v1, and a kernel configuration that a container does not see:",
		"if ! " + cgroupV2 + " || " + inside + "; then ignore=" + strings.Join(append(always, "SystemVerification"), ",") + "; fi"}
	if len(always) > 0 {
		lines = append([]string{"# HAProxy is there already, and shares the port: it listens on the virtual IP only."}, lines...)
	}
	return lines
}

func (w *writer) podNetwork() Section {
	s := Section{Title: "Pod network", Reason: "Nodes become Ready when pods can have addresses."}
	for _, name := range slices.Sorted(maps.Keys(w.images.Manifests)) {
		path, m := "/root/"+name+".yaml", w.images.Manifests[name]
		apply := "kubectl apply -f " + path
		if m.Namespace != "" {
			apply = "kubectl apply --namespace " + m.Namespace + " -f " + path
		}
		s.Steps = append(s.Steps, Step{Title: name, Hosts: []string{w.first().Name}, Actions: []Action{{
			Reason:   "The pods' network is an add-on of its own; kubeadm installs none.",
			Files:    []File{{Path: path, Mode: "644", Content: string(m.Objects)}},
			Commands: []string{adminConf, apply},
		}}})
	}
	return s
}

// unsharedFiles is what the API server's configuration refers to and kubeadm does not upload.
func (w *writer) unsharedFiles() Section {
	s := Section{Title: "Files for the other control planes", AtOnce: true,
		Reason: "kubeadm uploads its certificates, but not what else the API server's configuration refers to. The key goes from host to host and is nowhere in between."}
	for _, h := range w.cps[1:] {
		from := w.first().Name
		s.Steps = append(s.Steps, Step{Title: "the API server's files for " + h.Name, Hosts: []string{h.Name},
			Bring: []Bring{{From: from, Path: hostconfig.APIServerDir}, {From: from, Path: pki + encryption.File}}})
	}
	return s
}

func (w *writer) controlPlanes() Section {
	s := Section{Title: "The other control planes", Reason: "One after another: each adds a member to etcd, which must not be asked for two at a time."}
	if !w.c.StackedEtcd() {
		s.Reason = "One after another, as the documentation has it."
	}
	for _, h := range w.cps[1:] {
		s.Steps = append(s.Steps, w.join(h, "join as a control plane",
			"Token and CA hash are those that kubeadm init printed, and the certificate key decrypts what it uploaded. In a file they are in no process's arguments.", makeAuditDir))
	}
	return s
}

func (w *writer) workers() Section {
	s := Section{Title: "The workers", Reason: "The same, without the control plane's part."}
	for _, h := range w.where(func(h spec.Host) bool { return h.IsNode() && !h.Has(spec.RoleControlPlane) }) {
		s.Steps = append(s.Steps, w.join(h, "join as a worker", "Token and CA hash are those that kubeadm init printed. In a file they are in no process's arguments."))
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

// finish is what remains when everybody has joined.
func (w *writer) finish() Section {
	nodes := names(w.where(spec.Host.IsNode))
	actions := []Action{{
		Reason:   "A worker's kubeadm join ends before its node is there.",
		Commands: []string{adminConf, "kubectl wait --for=create --timeout=2m node/" + strings.Join(nodes, " node/")},
	}}
	if marks := w.marks(); len(marks) > 0 {
		actions = append(actions, Action{Reason: "Labels and taints of the node pools: a kubelet may not set them itself.", Commands: marks})
	}
	if len(w.images.Manifests) > 0 {
		actions = append(actions, Action{
			Reason:   "Believe the nodes, not exit statuses.",
			Commands: []string{"kubectl wait --for=condition=Ready --timeout=5m node --all"},
		})
	} else {
		actions = append(actions, Action{Reason: "No CNI plugin is in the spec: install yours now. The nodes are not Ready before."})
	}
	actions = append(actions, Action{
		Reason:   "The first control plane was alone when CoreDNS started, so all of it is there: one node would be all of DNS.",
		Commands: []string{"kubectl -n kube-system rollout restart deployment coredns"},
	}, Action{
		Reason: "Each kubelet asks for a serving certificate of the cluster's CA, and nobody in Kubernetes approves it; until then kubectl logs and exec fail. Here each node's own request is approved. " +
			"Look at them first if you do not trust every host, and do it again once a year, when they are renewed.",
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
		Reason:   "Whoever has the token could join a host: it is needed no longer.",
		Commands: []string{`kubeadm token delete "${token%%.*}"`, "kubectl --namespace kube-system delete secret kubeadm-certs --ignore-not-found"},
	}, Action{
		Reason:   "Look at it.",
		Commands: []string{"kubectl get nodes -o wide", "kubectl get --raw '/readyz?verbose' | tail -n 1"},
	})
	return Section{Title: "Finish", Reason: "What kubeadm leaves to the operator.",
		Steps: []Step{{Title: "finish", Hosts: []string{w.first().Name}, Actions: actions}}}
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
