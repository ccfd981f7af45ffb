package preflight

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Check is one kind of finding: the rule of findings in preflight.
type Check struct {
	ID string
	// Severities are those that its findings can have.
	Severities []cluster.Severity
	// What says what is checked and where the limits are.
	What string
	// Always says that the check cannot be ignored, because the plan refuses for the same reason.
	Always bool
}

// EndpointCheck, VirtualIPCheck and SourcesCheck are the checks whose findings the packages endpoint and sources make.
const (
	EndpointCheck  = cluster.RuleEndpoint
	VirtualIPCheck = cluster.RuleVirtualIP
	SourcesCheck   = cluster.RuleSources
)

// The checks of a cluster whose version is about to change.
const (
	DeprecatedCheck = "deprecated-apis"
	WebhooksCheck   = "webhooks"
	BudgetsCheck    = "disruption-budgets"
	SpaceCheck      = "upgrade-space"
)

type severities = []cluster.Severity

// Checks are all that there are, causes before what may follow from them. The table in the documentation is made from them.
var Checks = []Check{
	{ID: "session", Severities: severities{failure}, What: "the host answers over SSH, its key is the known one, a key of the caller is accepted, and sudo works"},
	{ID: cluster.RuleOneCluster, Severities: severities{failure}, Always: true, What: "the host is not marked as another cluster's, and has no other CA certificate than the other hosts"},
	{ID: cluster.RuleOneEtcd, Severities: severities{failure}, Always: true, What: "the host has no other etcd CA certificate than the other hosts"},
	{ID: cluster.RuleBalancersOf, Severities: severities{failure}, Always: true, What: "the host is not a load balancer of another cluster of Quorate"},
	{ID: "os", Severities: severities{warning}, What: "the system belongs to the Debian or the RHEL family"},
	{ID: "systemd", Severities: severities{failure}, What: "systemd is process 1"},
	{ID: "architecture", Severities: severities{failure}, What: "amd64 or arm64, on nodes and etcd hosts; one cluster can have both"},
	{ID: "kernel", Severities: severities{failure, warning}, What: "on nodes: kernel " + minKernel + " or newer, which kube-proxy needs in its nftables mode; overlay, br_netfilter, nf_tables, nf_conntrack, veth, bridge and, for flannel, vxlan are built in or can be loaded, and no file of modprobe prevents that. So that flannel can enforce network policies: nfnetlink_queue, and nft_queue or both nft_compat and xt_NFQUEUE (a warning on nodes of the cluster)"},
	{ID: "cgroups", Severities: severities{failure, warning}, What: "on nodes: the controllers cpu, cpuset, memory and pids are on (error); cgroup v1 is an error on a host that joins nodes with cgroup v2, and otherwise a warning on a machine with a kernel of its own"},
	{ID: "cpu", Severities: severities{failure}, What: "at least " + perRole(func(n need) string { return fmt.Sprint(n.cpus) })},
	{ID: "memory", Severities: severities{failure}, What: "at least " + perRole(func(n need) string { return ui.Bytes(n.memory) })},
	{ID: "size", Severities: severities{warning}, What: "in clusters of more than 10 nodes, or 300 pods: hosts have the CPUs and the memory that docs/size.md gives for their role and the planned size (`spec.size`). A tenth less memory is accepted. Containers share the machine below them, and are not compared"},
	{ID: "disk", Severities: severities{failure, warning}, What: "free space below /var/lib: at least " + perRole(func(n need) string { return ui.Bytes(n.disk) }) + fmt.Sprintf("; on nodes more than %.0f %% of the space, unless all of them are containers, and %.0f %% of the inodes, below which the kubelet evicts pods (error), and preferably more than %.0f %% of the space (warning). File systems mounted on /var/lib/containerd, /var/lib/etcd and /var/lib/kubelet are checked against what is stored there", 100*evictSpace, 100*evictInodes, 100*warnSpace)},
	{ID: StorageCheck, Severities: severities{failure, warning}, What: "if the spec installs Prometheus (`monitoring.prometheus.install`): the disks of two nodes that take workloads, in two zones if there are several, are large enough for what each server may store (`storage`; error), and have that much free (warning; not where a server runs already)"},
	{ID: "volatile", Severities: severities{failure}, What: "/var/lib is on a disk, and neither in memory nor an overlay, as in a rescue or live system: what is stored there outlasts a boot"},
	{ID: "mounts", Severities: severities{failure}, What: "the directories that Quorate writes to (/etc, /var/lib, /usr/local/bin, and on nodes and etcd hosts /opt/quorate/programs and /opt/cni/bin, or where they will be created) are not mounted read-only, nor with noexec where programs have to run"},
	{ID: "swap", Severities: severities{failure}, What: "on nodes: swap is off, because the kubelet does not start with it. In a container, the swap belongs to the machine below it, and the kubelet is configured to accept it, unless it joins nodes that are not containers"},
	{ID: "sysctls", Severities: severities{failure}, What: "no file below /etc/sysctl.d or its siblings sets a kernel setting that the cluster needs to another value after Quorate's file; on nodes with flannel the kernel answers pings"},
	{ID: "environment", Severities: severities{failure}, What: "on nodes and etcd hosts: systemd gives services no proxy through which the kubelet and etcd would connect to the cluster. NO_PROXY is evaluated as these programs do"},
	{ID: "units", Severities: severities{warning}, What: "no drop-in of others, and no /etc/default/kubelet, changes the units that Quorate writes or starts. A drop-in for containerd that only sets variables is accepted"},
	{ID: "rewrites", Severities: severities{warning}, What: "no other program overwrites what Quorate writes: cloud-init /etc/hosts (`manage_etc_hosts`), nftables.service all rules (`flush ruleset`), nm-cloud-setup the routes"},
	{ID: "clock", Severities: severities{failure, warning}, What: fmt.Sprintf("the clock is within %s of the others (warning) or %s (error), after the time that the question took is subtracted, and within a minute of that of the machine that runs the command (warning; an error before the build if that is more than five minutes behind); a time service sets it, where the host has a kernel of its own", skewWarning, skewError)},
	{ID: "address", Severities: severities{failure, warning}, What: "the addresses in the spec belong to the host's interfaces, the kernel can use them (no other machine has the same address of IPv6), and each node has an address in `network.podTrafficCIDR`, on one interface (error). Several addresses in it on that interface are a warning"},
	{ID: "hostname", Severities: severities{warning}, What: "the host name is the name in the spec"},
	{ID: "machine-id", Severities: severities{failure}, What: "/etc/machine-id exists, and no other host has the same"},
	{ID: "product-uuid", Severities: severities{failure}, What: "no other host has the same firmware UUID, unless both share one kernel"},
	{ID: "mac", Severities: severities{failure}, What: "no other host has the same hardware address"},
	{ID: "packages", Severities: severities{failure, info}, What: "programs that a role needs and the host lacks: `apply` installs them where it knows the package manager (info). Otherwise you have to install them (error). The same applies if the host reaches none of its package repositories (tested only with apt-get)"},
	{ID: "versions", Severities: severities{failure, warning}, What: versions()},
	{ID: "runtime", Severities: severities{warning}, What: "on nodes: no other containerd is set up; `apply` replaces its unit and its configuration"},
	{ID: "leftovers", Severities: severities{failure, warning}, What: "no traces of another cluster: files of kubeadm, etcd data, the kubelet's state, k3s, RKE2, k0s, MicroK8s; configurations of CNI plugins that are read before flannel's; interfaces such as cni0; the mark of one of Quorate's clusters of which nothing else is left"},
	{ID: "ports", Severities: severities{failure}, What: "the ports of the roles are free, or taken by the cluster's own programs. That of the node exporter (9100) has to be free on the address of the host only"},
	{ID: "firewall", Severities: severities{failure, warning}, What: "no chain of other rules on nodes, such as Docker's, drops what is forwarded between pods (error). firewalld and ufw are off, or open for the hosts of the cluster (warning)"},
	{ID: "selinux", Severities: severities{failure, warning}, What: "SELinux lets HAProxy use its ports on load balancers (error), and is not enforcing on nodes (warning)"},
	{ID: "ranges", Severities: severities{failure, warning}, What: "on nodes: the ranges of pods and Services contain no network of the host's other interfaces, bridges (such as docker0), and routes, and none of its DNS servers (error). A range that is a part of a network of an interface is a warning"},
	{ID: "mtu", Severities: severities{warning}, What: "the hosts' interfaces have the same MTU"},
	{ID: "reach", Severities: severities{failure}, What: "hosts reach each other on the ports that they will need. This is tested with real connections, to temporary listeners where nothing listens yet; refused, dropped, forbidden and answered by another host are reported separately. With more than " + fmt.Sprint(meshAll) + " nodes, only a sample of the paths between nodes is tested: each node tries " + fmt.Sprint(meshSome) + " others spread over all"},
	{ID: "path-mtu", Severities: severities{failure}, What: "packets as large as the MTU of both interfaces allows pass between nodes without fragmentation"},
	{ID: cluster.RuleEtcdPatience, Severities: severities{failure}, What: "with `spec.failover.electionTimeout`, between several members of etcd: it is at least ten round trips between any two of their hosts, and thirty times what 99 of 100 writes with fdatasync take on the disk of a host that has no member yet. Half a second of writes to a file that is removed measures the disk"},
	{ID: "dns", Severities: severities{failure, warning, info}, What: "on nodes: the DNS servers that pods would use are not loopback addresses (error). Each DNS server of the host answers, and the host's own name resolves to itself quickly: every lookup at a dead server costs a kubelet seconds"},
	{ID: EndpointCheck, Severities: severities{failure, warning, info}, What: "every host resolves the endpoint's name to the load balancer's address and reaches it there. Before the build, a refused or closed connection is good; a timeout, another certificate, or another cluster's API is not. What the machine that runs the command finds is a warning (name) or an info (connection)"},
	{ID: VirtualIPCheck, Severities: severities{failure, warning}, What: "before the build: the virtual IP is in the network of every load balancer, no host has it on an interface, nothing answers there, and no other machine answers probes for it with ARP or, for IPv6, neighbor discovery; a frontAddress belongs to an interface whose network no other has (error). If the probes cannot be sent, or the virtual IP does not use the frontAddress, that is a warning"},
	{ID: DeprecatedCheck, Severities: severities{failure, warning}, What: "before the version changes: no client has used an API since the API servers started that the new version no longer serves (error). If the API servers could not be asked, that is a warning"},
	{ID: WebhooksCheck, Severities: severities{failure, warning}, What: "before the version changes: every admission webhook that fails closed (`failurePolicy: Fail`) has an endpoint that is ready (error; a warning if an earlier run has begun to change the version, because its interruption may be the cause); one with a single endpoint is a warning"},
	{ID: BudgetsCheck, Severities: severities{info}, What: "before the version changes: disruption budgets that allow no eviction. They do not block an upgrade, because no pod is evicted, but they would block a maintenance"},
	{ID: SpaceCheck, Severities: severities{failure}, What: "before the version changes: there is space for the new bundle on every node and etcd host that does not have it yet, below " + facts.ProgramsDir + ", /var/lib and " + containerdDir + ", and for a snapshot of etcd on the host that saves it"},
	{ID: WatchCheck, Severities: severities{failure}, What: "with `spec.repair.watch`: every control plane reaches sshd on every host, directly and at the address in the spec, and sudo wants no password of users other than root. The units that repair have neither a jump host nor a password. In a cluster that exists, `apply` checks only what is new: the units report what they cannot reach"},
	{ID: SourcesCheck, Severities: severities{failure}, What: "unless this machine already has the bundle: each server from which it would be downloaded serves one small file or manifest. Names, connections, TLS, logins (401, 403) and missing files (404) are reported separately"},
}

func checkOrder(id string) int {
	return slices.IndexFunc(Checks, func(c Check) bool { return c.ID == id })
}

// Known says whether there is such a check and it can be ignored.
func Known(id string) bool { return slices.Contains(IDs(), id) }

// IDs are the names of the checks that can be ignored.
func IDs() []string {
	var out []string
	for _, c := range Checks {
		if !c.Always {
			out = append(out, c.ID)
		}
	}
	return out
}

func perRole(figure func(need) string) string {
	var parts []string
	for _, role := range []string{spec.RoleControlPlane, spec.RoleWorker, spec.RoleEtcd, spec.RoleLoadBalancer} {
		parts = append(parts, role+" "+figure(needs[role]))
	}
	return strings.Join(parts, ", ")
}

// Table is the documentation's table of checks in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| check | severity | what is checked |\n|---|---|---|\n")
	for _, c := range Checks {
		var s []string
		for _, v := range c.Severities {
			s = append(s, string(v))
		}
		what := c.What
		if c.Always {
			what += ". It cannot be ignored"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.ID, strings.Join(s, ", "), what)
	}
	return b.String()
}
