package preflight

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Check is one kind of finding.
type Check struct {
	ID string
	// Severities are those that its findings can have.
	Severities []Severity
	// What says what is looked at and where the limits are.
	What string
}

// EndpointCheck and SourcesCheck are the checks whose findings packages endpoint and sources make.
const (
	EndpointCheck = "endpoint"
	SourcesCheck  = "sources"
)

// Checks are all that there are, causes before what may follow from them. The guide's table is made of them.
var Checks = []Check{
	{"session", []Severity{Error}, "the host answers over SSH, its key is the one on record, a key of the caller is accepted, and sudo works"},
	{"os", []Severity{Warning}, "the system is of the Debian or the RHEL family"},
	{"systemd", []Severity{Error}, "systemd is process 1"},
	{"kernel", []Severity{Error, Warning}, "on nodes: kernel " + minKernel + " or newer, which kube-proxy asks for in its nftables mode; overlay, br_netfilter, nf_tables, nf_conntrack, veth, bridge and, for flannel, vxlan are built in or can be loaded"},
	{"cgroups", []Severity{Error, Warning}, "on nodes: the controllers cpu, cpuset, memory and pids are there (error); cgroup v1 is a warning on a machine with a kernel of its own"},
	{"cpu", []Severity{Error}, "at least " + perRole(func(n need) string { return fmt.Sprint(n.cpus) })},
	{"memory", []Severity{Error}, "at least " + perRole(func(n need) string { return ui.Bytes(n.memory) })},
	{"disk", []Severity{Error, Warning}, "room below /var/lib: at least " + perRole(func(n need) string { return ui.Bytes(n.disk) }) + fmt.Sprintf("; on nodes more than %.0f %% of space, unless all of them are containers, and %.0f %% of inodes, below which the kubelet evicts pods (error), and better more than %.0f %% of space (warning)", 100*evictSpace, 100*evictInodes, 100*warnSpace)},
	{"swap", []Severity{Error}, "on nodes: swap is off; the kubelet does not start with it. In a container the swap is the machine's below, and the kubelet is told to accept it"},
	{"clock", []Severity{Error, Warning}, fmt.Sprintf("the clock is within %s of the others' (warning) or %s (error), after the time that asking took; a time service keeps it, where the kernel is the host's own", skewWarning, skewError)},
	{"address", []Severity{Error}, "the spec's address belongs to one of the host's interfaces"},
	{"hostname", []Severity{Warning}, "the host calls itself by the name that the spec has for it"},
	{"machine-id", []Severity{Error}, "/etc/machine-id is there and no other host's"},
	{"product-uuid", []Severity{Error}, "the firmware's UUID is no other host's, unless both share one kernel"},
	{"mac", []Severity{Error}, "the hardware address is no other host's"},
	{"packages", []Severity{Error, Info}, "programs that a role needs and the host lacks: `apply` installs them where it knows the package manager (info), else somebody has to (error), as where the host reaches none of its package repositories (tried with apt-get's)"},
	{"versions", []Severity{Error, Warning}, versions()},
	{"runtime", []Severity{Warning}, "no other containerd is set up on nodes: `apply` replaces its unit and its configuration"},
	{"leftovers", []Severity{Error, Warning}, "no traces of another cluster: files of kubeadm, etcd data, the kubelet's state, k3s, RKE2, k0s, MicroK8s; configurations of CNI plugins that are read before flannel's; interfaces such as cni0"},
	{"ports", []Severity{Error}, "the ports of the roles are free, or held by the cluster's own programs"},
	{"virtual-ip", []Severity{Error, Warning}, "the virtual IP is in the network of every load balancer, and no other machine answers ARP probes for it (error); if the probes cannot be sent, that is a warning"},
	{"firewall", []Severity{Warning}, "firewalld and ufw are off, or open for the cluster"},
	{"selinux", []Severity{Error, Warning}, "SELinux lets HAProxy use its ports on balancers (error), and is not enforcing on nodes (warning)"},
	{"mtu", []Severity{Warning}, "the hosts' interfaces have one MTU"},
	{"reach", []Severity{Error}, "hosts reach each other on the ports that they will need: tried for real, against temporary listeners where nothing listens yet; refused, dropped, forbidden and answered by another host are told apart. With more than " + fmt.Sprint(meshAll) + " nodes the paths between nodes are a sample, in which each tries " + fmt.Sprint(meshSome) + " others spread over all"},
	{"path-mtu", []Severity{Error}, "packets as large as both interfaces' MTU allows pass between nodes unfragmented"},
	{"dns", []Severity{Warning, Info}, "each DNS server of the host answers, and the host's own name resolves to itself and at once: each lookup at a dead server costs a kubelet seconds"},
	{EndpointCheck, []Severity{Error, Warning}, "every host and the caller resolve the endpoint's name to the balancer's address and find a way there: refused or closed is good before the build, a timeout is not, nor is another certificate or another cluster's API; a virtual IP is nobody's yet"},
	{SourcesCheck, []Severity{Error}, "unless the bundle is here already: each server that it would be taken from gives this machine one small file or manifest. Names, connections, TLS, logins (401, 403) and what is missing (404) are told apart"},
}

func checkOrder(id string) int {
	return slices.IndexFunc(Checks, func(c Check) bool { return c.ID == id })
}

// Known says whether there is such a check.
func Known(id string) bool { return checkOrder(id) >= 0 }

// IDs are the names of all checks.
func IDs() []string {
	var out []string
	for _, c := range Checks {
		out = append(out, c.ID)
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

// Table is the guide's table of checks in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| check | severity | what is looked at |\n|---|---|---|\n")
	for _, c := range Checks {
		var s []string
		for _, v := range c.Severities {
			s = append(s, string(v))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.ID, strings.Join(s, ", "), c.What)
	}
	return b.String()
}
