package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Meaning is what editing a field means for a cluster that exists.
type Meaning string

const (
	// Fixed means that the cluster keeps the value that it was built with: the edit is refused.
	Fixed Meaning = "fixed"
	// Rolling means that apply carries the edit out, in steps that keep the cluster available.
	Rolling Meaning = "rolling"
	// Free means that the edit has no effect on what runs.
	Free Meaning = "free"
)

// perRole is what the list of hosts declares: adding or removing a host means what [roleEdits] says of its roles.
const perRole Meaning = "per-role"

// declaration is the tag `edit` of a field: its meaning, then options.
type declaration struct {
	meaning Meaning
	// key marks the fields that identify an element of a list. Changing one removes an element and adds another.
	key bool
	// set marks lists of strings whose order means nothing.
	set bool
	// local marks what makes sense only on the machine of the caller, such as paths. It does not belong in a [Record].
	// What such a path names is compared by content, by every plan.
	local bool
}

// declared reads the tag of a field. Fields of a struct type have none: their own fields declare.
func declared(f reflect.StructField) declaration {
	meaning, options, _ := strings.Cut(f.Tag.Get("edit"), ",")
	d := declaration{meaning: Meaning(meaning)}
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "key":
			d.key = true
		case "set":
			d.set = true
		case "local":
			d.local = true
		}
	}
	return d
}

// The page docs/editing.md is generated from the declarations.
//
//go:generate go test -run TestEditingPageIsUpToDate -update-editing .

// How explanations end that several fields share.
const (
	editRecord = "`kubectl -n kube-system edit configmap quorate`"
	// newCluster: a cluster that exists cannot be changed in this.
	newCluster = "To change it, build a new cluster and move the workloads"
	// recorded: the change was made by hand, and Quorate does not know it yet.
	recorded = "Then make the same change in the recorded spec (" + editRecord + ") and in your own"
	// joinAgain takes two runs: in one run, a host cannot leave and come back as another one. A reset has it leave although it stays in the spec, because
	// a spec without it may not be valid: that of a cluster with three control planes, for example.
	joinAgain = "have HOST leave the cluster as it is (`quorate reset HOST`); then change it in the spec, and run `quorate apply`"
	// renamed is about a host that gets an address of one that is removed in the same edit.
	renamed = "FORMER has the address ADDRESS in the cluster, and a host that stays cannot be renamed. Put FORMER back. " +
		"To give the machine another name, have it leave the cluster as FORMER (`quorate reset FORMER`); then change the name, and run `quorate apply`. " +
		"A new machine that takes the place of FORMER can have its name: with FORMER back in the spec, `quorate apply` has it join"

	sameBundle = "If the result is another bundle, it is installed on the hosts"
	relabel    = ". Pods that run stay where they are"
	// inTurn ends with what restarts.
	inTurn          = "One control plane at a time leaves the load balancers' pools and replaces its "
	restartKubelets = "The kubelets restart, one control plane at a time, and then several workers at the same time. Containers go on"
	backups         = "The next backup uses it; if there is a schedule, the control planes get it first. Nothing restarts"
	moved           = ". Backups that exist stay where they are, and are no longer listed or removed"
	noRestart       = "The files of containerd are changed on all nodes. Nothing restarts; the next pull uses them"
	signatures      = "Signatures are verified when a bundle is built or pulled"
	objective       = "What the next drill is judged by"
	forSize         = "Where the new size asks for other settings of the API servers, of CoreDNS, or of the load balancers, these change as they do when spec.settings and spec.loadBalancer are edited. See size.md"
)

// editing explains every field. If the field is fixed, the text says how to make the change; if it is rolling, what apply
// does; if it is free, what the field is for. Keys are Type.field. HOST stands for the name of the host.
var editing = map[string]string{
	"Cluster.apiVersion": "The format of the file",
	"Cluster.kind":       "The format of the file",
	"Metadata.name": "The hosts of a cluster are marked with its name, and so is an existing etcd. " + newCluster +
		". The name of a kubeconfig context can be changed at any time (`kubectl config rename-context`)",

	"Kubernetes.version": "The control planes move to the version one after another, then the addons and the workers; an older version goes back. One minor release at a time. See upgrade.md",
	"Size.nodes":         forSize,
	"Size.pods":          forSize,
	"ControlPlane.endpoint": "The API servers' certificates get the new name, the load balancers serve both endpoints, and everything in the cluster moves to the new one. " +
		"Then the old one ends. Clients outside of the cluster must have moved by then: see endpoint.md",
	"ControlPlane.topology":  "A cluster keeps the etcd that it was built on. " + newCluster + ", or replace this one by its backup: see changing-hosts.md",
	"ControlPlane.placement": "What the zones of the hosts are checked against",

	"Etcd.endpoints": "Every API server is started with this list. To change it by hand, change `etcd.external.endpoints` in the ConfigMap kube-system/kubeadm-config, " +
		"and `--etcd-servers` in /etc/kubernetes/manifests/kube-apiserver.yaml on one control plane at a time; wait each time until `quorate status` is healthy. " +
		"All endpoints must be members of the same etcd. " + recorded,
	"Etcd.caFile":   "The CA certificate is compared by content. A new one is copied to the control planes",
	"Etcd.certFile": "The certificate is compared by content. A new one is copied to the control planes",
	"Etcd.keyFile":  "The key is copied to the control planes together with its certificate",

	"LoadBalancer.type": "Two load balancers must not hold one address. To replace Quorate's load balancers with your own by hand, prepare yours for the same address, stop Quorate's on every host that has one " +
		"(" + stopBalancer + "), and let yours take the address. To replace your own with Quorate's, take the address away from yours. " +
		"The endpoint does not answer in between. " + recorded,
	"LoadBalancer.address": "The load balancers serve the old and the new virtual IP until everything in the cluster has moved to the new one. " +
		"Your own load balancer must serve both: see endpoint.md",

	"LoadBalancer.maxConnections": "HAProxy reloads its configuration on one load balancer after another, the holder of the virtual IP last. The address does not move. " +
		"HAProxy keeps accepting connections. Those that are older than the reload are closed within 30 s, between two requests if they ever are",

	"Network.cni": "`manifest` and `chart` can replace each other: the objects are applied, and those that are no longer part of it stay in the cluster. Any other change in place would cut pods off from each other. To change it by hand, move the nodes as the documentation of the new plugin says. " +
		recorded + ", and remove the key of the old plugin (`flannel` or `cni`) from that ConfigMap",
	"Network.policies":  "flannel is rolled out with or without the enforcement of network policies",
	"Network.manifests": "The files are compared by content. Changed objects are applied; objects that are no longer in the files stay in the cluster",
	"Network.podCIDR":   "Every node has a part of this range, and its pods have addresses in that part. " + newCluster,
	"Network.serviceCIDR": "The API and the cluster's DNS have addresses in this range, and certificates contain the first of them. " + newCluster +
		". To get more addresses, create an additional ServiceCIDR object in the API; it does not belong in the spec",
	"Network.podTrafficCIDR": "flannel sends the packets of pods in this network, and a node whose flannel has changed would not reach those of the others. " + newCluster,
	"Chart.path":             "The chart is compared by content. It is rendered and applied again",
	"Chart.values":           "The values are compared by content. The chart is rendered and applied again",
	"Chart.release":          "The chart is rendered and applied again. Objects under the old name stay in the cluster",
	"Chart.namespace":        "The chart is rendered and applied again. Objects in the old namespace stay in the cluster",

	"Components.source":          sameBundle,
	"Components.file":            sameBundle,
	"Components.reference":       sameBundle,
	"Components.releases":        sameBundle,
	"Components.registry":        sameBundle,
	"Components.digest":          sameBundle,
	"ArchBundle.file":            sameBundle,
	"ArchBundle.reference":       sameBundle,
	"ArchBundle.digest":          sameBundle,
	"Components.caFile":          "How Quorate reaches the mirror or the registry",
	"Components.username":        "How Quorate reaches the mirror or the registry",
	"Components.passwordFile":    "How Quorate reaches the mirror or the registry",
	"Signatures.require":         signatures,
	"Signatures.publicKeyFile":   signatures,
	"Signatures.identity":        signatures,
	"Signatures.issuer":          signatures,
	"Signatures.trustedRootFile": signatures,

	"Failover.profile": "To become faster, kubelets restart first, and then the API server, controller manager, scheduler, and kubelet of one control plane after another; to become slower, the reverse. " +
		"A control plane leaves the load balancers' pools before its API server restarts. Containers and etcd go on. Pods that exist keep their tolerations for dead nodes. See failover.md",
	"Failover.electionTimeout": "The members of etcd restart one after another, the leader when it leads no longer; a stacked one together with its control plane, which leaves the load balancers' pools before. " +
		"Where members with the old and the new value would not be patient enough with each other, they restart twice. See failover.md",

	"Host.name":             "A host with another name is another host: one leaves, and one joins. So the new one needs another address. To give a machine another name, have it leave the cluster as HOST (`quorate reset HOST`); then change the name, and run `quorate apply`",
	"Host.address":          "Certificates, kubelets, etcd members, and load balancers are set up with the address of their host. To change it, " + joinAgain,
	"Host.secondaryAddress": "The kubelet registers its node with both addresses. To change it, " + joinAgain,
	"Host.frontAddress": "The load balancers hear each other only at these addresses. To change it, " + joinAgain +
		". If HOST has other roles, it can stay: remove its role load-balancer, run `quorate apply`, and add the role and the new value",
	"Host.roles":     "Roles are set up when a host joins; only the role load-balancer can be added to a host that stays, or be removed. To have another role on another machine, add a host. To change the roles of HOST, " + joinAgain,
	"Host.zone":      "The node's label topology.kubernetes.io/zone is changed" + relabel,
	"Host.failsWith": "What the audit treats as failing together",
	"Host.region":    "The node's label topology.kubernetes.io/region is changed" + relabel,
	"Spec.region":    "The label topology.kubernetes.io/region is changed on the nodes of hosts that name no region of their own" + relabel,

	"SSH.address":        "How Quorate reaches the host",
	"SSH.user":           "How Quorate reaches the host",
	"SSH.port":           "How Quorate reaches the host",
	"SSH.hostPort":       "How control planes that repair or observe reach the host",
	"SSH.keyFile":        "How Quorate reaches the host",
	"SSH.knownHostsFile": "How Quorate reaches the host",
	"SSH.hostKey":        "How Quorate recognizes the host",
	"SSH.jump":           "How Quorate reaches the host",
	"SSH.jumpKeyFile":    "How Quorate reaches the host",

	"Spec.nodePools":                             "A new pool's labels and taints are set on its nodes; a removed pool's are removed",
	"Settings.featureGates":                      "The control planes leave the load balancers' pools and replace their API server, controller manager, and scheduler, one control plane at a time; then the kubelets restart. Containers go on",
	"APIServerSettings.extraArgs":                inTurn + "API server",
	"APIServerSettings.auditPolicyFile":          "The policy is compared by content. " + inTurn + "API server",
	"APIServerSettings.authenticationConfigFile": "The file is compared by content. " + inTurn + "API server",
	"ProgramSettings.extraArgs":                  inTurn + "controller manager or scheduler",
	"KubeletSettings.maxPods":                    restartKubelets,
	"KubeletSettings.podPidsLimit":               restartKubelets,
	"KubeletSettings.systemReserved":             restartKubelets,
	"KubeletSettings.kubeReserved":               restartKubelets,
	"KubeletSettings.evictionHard":               restartKubelets,

	"KubeletSettings.imageGCHighThresholdPercent":     restartKubelets,
	"KubeletSettings.imageGCLowThresholdPercent":      restartKubelets,
	"KubeletSettings.containerLogMaxSize":             restartKubelets,
	"KubeletSettings.containerLogMaxFiles":            restartKubelets,
	"KubeletSettings.shutdownGracePeriod":             restartKubelets,
	"KubeletSettings.shutdownGracePeriodCriticalPods": restartKubelets,
	"KubeletSettings.allowedUnsafeSysctls":            restartKubelets,

	"DNSSettings.replicas": "CoreDNS is scaled to that number. Without it, to what the size of the cluster asks for, if there are fewer. Where its replicas must be in different zones, they are replaced one after another; otherwise those that stay do not restart",

	"Settings.registries": noRestart,
	"Registry.name":       noRestart,
	"Registry.mirrors":    noRestart,
	"Registry.caFile":     "The certificates are compared by content. " + noRestart,
	"Settings.sysctls":    "The values are set on all nodes. Nothing restarts. A setting that is removed gets the value that it had before Quorate changed it",

	"Backup.every":             "The control planes take backups by themselves as often as that. With `never`, or without spec.backup, the timers and the credentials are removed from them. Nothing restarts",
	"Backup.recipients":        backups + ". Backups that exist can be read only by those that were recipients when they were taken",
	"Backup.directory":         backups + moved,
	"BackupSFTP.address":       backups + moved,
	"BackupSFTP.user":          backups,
	"BackupSFTP.directory":     backups + moved,
	"BackupSFTP.hostKey":       backups,
	"BackupSFTP.keyFile":       "The key is compared by content. If there is a schedule, a new one is copied to the control planes",
	"BackupS3.endpoint":        backups + moved,
	"BackupS3.bucket":          backups + moved,
	"BackupS3.prefix":          backups + moved,
	"BackupS3.region":          backups,
	"BackupS3.credentialsFile": "The credentials are compared by content. New ones are copied to the control planes",
	"BackupS3.instanceRole":    backups,
	"BackupS3.caFile":          "The certificates are compared by content. New ones are copied to the control planes",
	"BackupRetention.last":     backups,
	"BackupRetention.daily":    backups,
	"BackupRetention.weekly":   backups,

	"Repair.watch": "The control planes get a unit that repairs, keys of their own, and access to all hosts within limits; with `false`, all of that is removed. Nothing restarts",

	"Monitoring.exporter": "The control planes get a unit that observes, with keys of its own and access to all hosts to read, and one that serves metrics; with `false`, the latter and its permissions in the cluster are removed, and the former unless repair.watch needs it. Nothing restarts",

	"Prometheus.install":            "Prometheus, Alertmanager, kube-state-metrics, and node exporters are installed; for this, hosts get another bundle, and containerd, kubelets, and etcd on hosts of its own restart in turn, as for any other bundle. With `false`, all of that is removed but the namespace quorate-monitoring and what you put there",
	"Prometheus.retention":          "The servers read their new configuration, and delete what is older",
	"Prometheus.storage":            "The servers restart one after another, and lose what they have stored",
	"Prometheus.alertmanagerSecret": "The Alertmanagers restart one after another, and keep their silences",

	"Drill.objectives":               objective,
	"Objective.faults":               objective,
	"Objective.clients":              objective,
	"Objective.maxGap":               objective,
	"Objective.maxFailed":            objective,
	"Objective.maxDisruptionSeconds": objective,
	"Objective.maxMarginsBack":       objective,

	"NodePool.name":   "The label quorate.dev/pool is changed on the pool's nodes",
	"NodePool.size":   "How many machines a lab creates; on real hosts, the list of hosts counts",
	"NodePool.zones":  "What the zones of the pool's hosts are checked against",
	"NodePool.labels": "Labels are set, changed, and removed on the pool's nodes",
	"NodePool.taints": "Taints are set, changed, and removed on the pool's nodes. A NoExecute taint evicts the pods that do not tolerate it",
	"NodePool.hosts":  "A node gets the labels and taints of the pool that it enters, and loses those of the pool that it leaves",
	"Taint.key":       "The taint is removed and another one is set",
	"Taint.value":     "The taint is changed",
	"Taint.effect":    "The taint is removed and another one is set",
}

// workerOnControlPlane explains the one change of roles that is only a taint.
const workerOnControlPlane = "Whether a control plane also runs workloads depends on one taint. To change it by hand, remove the taint " +
	"(`kubectl taint nodes HOST node-role.kubernetes.io/control-plane:NoSchedule-`) or set it (the same command without the last dash). " + recorded

// roleEdit is what adding or removing a host with a role means.
type roleEdit struct {
	added, removed Meaning
	// howAdded and howRemoved explain: how to make the change if it is fixed, what apply does if it is rolling.
	howAdded, howRemoved string
}

// roleEdits has an entry for every role.
var roleEdits = map[string]roleEdit{
	RoleControlPlane: {Rolling, Rolling,
		"It joins, one control plane at a time",
		"When the new control planes have joined, it is drained, leaves the load balancers' pools and etcd, and is reset, one control plane at a time"},
	RoleWorker: {Rolling, Rolling,
		"It joins",
		"When the new workers have joined, it is drained and reset, one worker at a time"},
	RoleEtcd: {Rolling, Rolling,
		"It joins etcd as a learner, one host at a time. The API servers restart one after another with the new list of members",
		"When the new members have joined and no API server uses it any more, it leaves etcd and is reset"},
	RoleLoadBalancer: {Rolling, Rolling,
		"It becomes a standby; the existing load balancers learn about it first",
		"When the new load balancers are ready, the virtual IP moves to another one, and it is stopped and reset"},
}

const (
	stopBalancer = "`systemctl disable --now keepalived haproxy quorate-watchdog`"

	// balancersMove explains what happens when load balancers move between hosts.
	balancersMove = "New load balancers become standbys first. Then the others stop, and the one that has the virtual IP hands it over before it stops. " +
		"Where HAProxy and kube-apiserver are to share a port, the API servers restart before that, one control plane at a time"
)

// added is what adding the host to the cluster means.
func added(h Host) (Meaning, string) {
	for _, role := range sortedRoles(h) {
		if r := roleEdits[role]; r.added != Rolling {
			return Fixed, sentences("Take HOST out of the spec again", r.howAdded)
		}
	}
	return Rolling, ""
}

// removed is what removing the host from the cluster means.
func removed(h Host) (Meaning, string) {
	for _, role := range sortedRoles(h) {
		if r := roleEdits[role]; r.removed != Rolling {
			return Fixed, sentences("Put HOST back into the spec", r.howRemoved)
		}
	}
	return Rolling, ""
}

// how explains a change of a fixed field.
func (d *comparison) how(field, before string) string {
	back := "Remove it again"
	if before != "" {
		back = fmt.Sprintf("Put `%s` back", before)
	}
	why := editing[field]
	switch {
	case field == "Host.roles" && d.hostBefore.Has(RoleControlPlane) && onlyDiffer(d.hostBefore, d.hostAfter, RoleWorker):
		why = workerOnControlPlane
	}
	return sentences(back, why)
}

// onlyDiffer says that the roles of a host differ in nothing but one role.
func onlyDiffer(before, after Host, role string) bool {
	others := func(h Host) []string {
		return slices.DeleteFunc(sortedRoles(h), func(r string) bool { return r == role })
	}
	return slices.Equal(others(before), others(after))
}

// sentences joins those parts that are not empty, each with a full stop.
func sentences(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		if p != "" {
			b.WriteString(p + ". ")
		}
	}
	return strings.TrimSuffix(b.String(), " ")
}

func sortedRoles(h Host) []string { return slices.Sorted(slices.Values(h.Roles)) }
