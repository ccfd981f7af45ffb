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

// recorded ends an explanation of a change that is made by hand.
const recorded = "Then make the same change in the recorded spec (kubectl -n kube-system edit configmap quorate) and in your own"

// newCluster ends the explanation of a change that cannot be made in a cluster that exists.
const newCluster = "To change it, build a new cluster and move the workloads"

// The page docs/editing.md is generated from the declarations.
//
//go:generate go test -run TestEditingPageIsUpToDate -update-editing .

// editing explains each field that is not free: how to make the change if it is fixed, and what apply does if it is
// rolling. Keys are Type.field. HOST stands for the name of the host.
var editing = map[string]string{
	"Metadata.name": "The hosts of a cluster are marked with its name, and so is an existing etcd. " + newCluster +
		". The name of a kubeconfig context can be changed at any time (kubectl config rename-context)",
	"Kubernetes.version": "This version of Quorate does not upgrade clusters",
	"ControlPlane.endpoint": "Certificates, kubeconfigs, kubelets, and the pod network contain the endpoint's name and port. " +
		newCluster,
	"ControlPlane.topology": "A cluster keeps the etcd that it was built on. " + newCluster,
	"Etcd.endpoints": "Every API server is started with this list. To change it by hand, change etcd.external.endpoints in the ConfigMap kube-system/kubeadm-config, " +
		"and --etcd-servers in /etc/kubernetes/manifests/kube-apiserver.yaml on one control plane at a time; wait each time until `quorate status` is healthy. " +
		"All endpoints must be members of the same etcd. " + recorded,
	"Etcd.caFile":   "The CA certificate is compared by content. A new one is handed to the control planes",
	"Etcd.certFile": "The certificate is compared by content. A new one is handed to the control planes",
	"Etcd.keyFile":  "The key is handed to the control planes together with its certificate",
	"LoadBalancer.type": "Two kinds of load balancers must not hold one address. To replace Quorate's load balancers with your own by hand, prepare yours for the same address, stop Quorate's on every host that has one " +
		"(systemctl disable --now keepalived haproxy quorate-watchdog), and let yours take the address. To replace your own with Quorate's, take the address away from yours. " +
		"The endpoint does not answer in between. " + recorded,
	"LoadBalancer.address": "The endpoint's name resolves to this address on every host. The virtual IP of managed load balancers stays for the life of the cluster. " +
		"To move your own load balancer by hand, let the old and the new address both reach the API servers until `quorate apply` is done. " + recorded,
	"Network.cni": "A change in place would cut pods off from each other. To change it by hand, move the nodes as the documentation of the new plugin says. " +
		recorded + ", and remove the key of the old plugin (flannel or cni) from that ConfigMap",
	"Network.policies":  "flannel is rolled out with or without the enforcement of network policies",
	"Network.manifests": "The files are compared by content. Changed objects are applied; objects that are no longer in the files stay in the cluster",
	"Network.podCIDR":   "Every node has a part of this range, and its pods have addresses in that part. " + newCluster,
	"Network.serviceCIDR": "The API's own address in the cluster and that of its DNS are in this range, and certificates contain the former. " + newCluster +
		". To get more addresses, create an additional ServiceCIDR object in the API; it does not belong in the spec",
	"Chart.path":      "The chart is compared by content. It is rendered and applied again",
	"Chart.values":    "The values are compared by content. The chart is rendered and applied again",
	"Chart.release":   "The chart is rendered and applied again. Objects under the old name stay in the cluster",
	"Chart.namespace": "The chart is rendered and applied again. Objects in the old namespace stay in the cluster",

	"Components.source":    "If the result is another bundle, it is installed on the hosts",
	"Components.file":      "If the file holds another bundle, it is installed on the hosts",
	"Components.reference": "The other bundle is installed on the hosts",
	"Components.releases":  "If the result is another bundle, it is installed on the hosts",
	"Components.registry":  "If the result is another bundle, it is installed on the hosts",
	"Components.digest":    "The other bundle is installed on the hosts",

	"Failover.profile": "The profile is a set of flags of the API servers, controller managers, and schedulers, and of fields in each kubelet's configuration. Quorate sets them when it builds the cluster. " +
		"To change it by hand, compare `quorate plan --by-hand` of both specs for the values. To become faster, change the kubelets first and the controller managers last; to become slower, the reverse. " + recorded,

	"Host.name": "Renaming a host is removing one host and adding another",
	"Host.address": "Certificates, the kubelet, and the etcd member of a host contain its address. To change it by hand, remove the host from the cluster, change the address, " +
		"remove the host's entry from the recorded spec (kubectl -n kube-system edit configmap quorate), and run `quorate apply`, which adds it again",
	"Host.roles": "Roles are set up when a host joins. To have the role on another machine, add a host. To change the roles of this one by hand, remove the host from the cluster, " +
		"remove its entry from the recorded spec (kubectl -n kube-system edit configmap quorate), and run `quorate apply`, which adds it with the new roles",
	"Host.zone":   "The node's label topology.kubernetes.io/zone is changed. Pods that run stay where they are",
	"Host.region": "The node's label topology.kubernetes.io/region is changed. Pods that run stay where they are",
	"Spec.region": "The label topology.kubernetes.io/region is changed on the nodes of hosts that name no region of their own",

	"Spec.nodePools":  "Adding a pool sets its labels and taints on its nodes; removing a pool removes them",
	"NodePool.name":   "Renaming a pool changes the label quorate.dev/pool of its nodes",
	"NodePool.labels": "Labels are set, changed, and removed on the pool's nodes",
	"NodePool.taints": "Taints are set, changed, and removed on the pool's nodes. A NoExecute taint evicts the pods that do not tolerate it",
	"NodePool.hosts":  "A node gets the labels and taints of the pool that it enters, and loses those of the pool that it leaves",
	"Taint.key":       "The taint is removed and another one is set",
	"Taint.value":     "The taint is changed",
	"Taint.effect":    "The taint is removed and another one is set",
}

// workerOnControlPlane explains the one change of roles that is only a taint.
const workerOnControlPlane = "Whether a control plane also runs workloads is a matter of one taint. To change it by hand, remove the taint " +
	"(kubectl taint nodes HOST node-role.kubernetes.io/control-plane:NoSchedule-) or set it (the same command without the last dash). " + recorded

// roleEdit is what adding or removing a host with a role means.
type roleEdit struct {
	added, removed Meaning
	// howAdded and howRemoved explain: how to make the change if it is fixed, what apply does if it is rolling.
	howAdded, howRemoved string
}

// roleEdits has an entry for every role. Removing any host is fixed in this version.
var roleEdits = map[string]roleEdit{
	RoleControlPlane: {Rolling, Fixed,
		"It joins, one control plane at a time",
		"To remove a control plane by hand, wait until `quorate status` is healthy, take it out of the load balancers (`quorate drain HOST` if Quorate manages them), run " + drainNode +
			" on another machine and `kubeadm reset` on HOST, which also removes its member from a stacked etcd, and then kubectl delete node HOST. " +
			"If HOST is lost, remove its etcd member with etcdctl member remove instead"},
	RoleWorker: {Rolling, Fixed,
		"It joins",
		"To remove a worker by hand, run " + drainNode + ", then `kubeadm reset` on HOST, and then kubectl delete node HOST"},
	RoleEtcd: {Fixed, Fixed,
		"This version of Quorate does not add members to an external etcd",
		"This version of Quorate does not remove members of an external etcd"},
	RoleLoadBalancer: {Rolling, Fixed,
		"It becomes a standby; the load balancers that exist learn of it first",
		"To remove a load balancer by hand, make sure that another one is ready to take over (`quorate status`), and stop this one on HOST: " + stopBalancer},
}

const (
	drainNode    = "kubectl drain HOST --ignore-daemonsets --delete-emptydir-data"
	stopBalancer = "systemctl disable --now keepalived haproxy quorate-watchdog"

	// forgetHost ends the explanation of a host's removal.
	forgetHost = "Then remove its entry from the recorded spec (kubectl -n kube-system edit configmap quorate)"

	// balancersMove explains why the first load balancer of its own cannot be added where the control planes balance.
	balancersMove = "The control planes are the load balancers of this cluster, and this version of Quorate does not move them to other hosts: take the role load-balancer away again"
)

// added is what adding the host to the cluster means.
func (d *comparison) added(h Host) (Meaning, string) {
	for _, role := range sortedRoles(h) {
		switch r := roleEdits[role]; {
		case role == RoleLoadBalancer && d.before.balanceOnControlPlanes():
			return Fixed, "Take HOST out of the spec. " + balancersMove + "."
		case r.added != Rolling: // a role that this version does not know is not added either
			return Fixed, "Take HOST out of the spec. " + r.howAdded + "."
		}
	}
	return Rolling, ""
}

// removed is what removing the host from the cluster means.
func (d *comparison) removed(h Host) (Meaning, string) {
	how := []string{"Put HOST back into the spec", "This version of Quorate does not remove hosts"}
	roles := sortedRoles(h)
	if h.Has(RoleControlPlane) { // the control plane's procedure includes the worker's
		roles = slices.DeleteFunc(roles, func(r string) bool { return r == RoleWorker })
	}
	for _, role := range roles {
		how = append(how, roleEdits[role].howRemoved)
	}
	if d.before.Balances(h) && !h.Has(RoleLoadBalancer) {
		how = append(how, "HOST is also a load balancer; stop that first: "+stopBalancer)
	}
	if !h.Has(RoleEtcd) {
		how = append(how, forgetHost)
	}
	return Fixed, strings.Join(how, ". ") + "."
}

func sortedRoles(h Host) []string { return slices.Sorted(slices.Values(h.Roles)) }

// balanceOnControlPlanes says that the managed load balancers have no hosts of their own.
func (c *Cluster) balanceOnControlPlanes() bool {
	return c.Spec.LoadBalancer.Type == BalancerManaged && len(c.HostsWith(RoleLoadBalancer)) == 0
}

// how explains a change of a fixed field.
func how(field string, before string) string {
	back := fmt.Sprintf("Put `%s` back. ", before)
	if before == "" {
		back = "Remove it again. "
	}
	return back + editing[field] + "."
}
