package size

// Source is where figures come from.
type Source struct {
	// Name is short, and URL is where it can be read; empty for what was measured with Quorate.
	Name string `json:"name"`
	URL  string `json:"url,omitempty"`
	// Says is the part of it that the figures follow, in its own words where it is a quotation.
	Says string `json:"says"`
}

// The sources, by the names that Figures refer to.
const (
	FromKubernetes  = "kubernetes"
	FromKubeUp      = "kube-up"
	FromKubeadm     = "kubeadm"
	FromKubelet     = "kubelet"
	FromEtcd        = "etcd"
	FromOpenShift   = "openshift"
	FromDNS         = "dns-autoscaler"
	FromCoreDNS     = "coredns"
	FromMeasurement = "quorate"
)

// Sources are all of them, in the order in which they are shown.
var Sources = []Source{
	{FromKubernetes, "https://kubernetes.io/docs/setup/best-practices/cluster-large/",
		"\"No more than 110 pods per node, no more than 5,000 nodes, no more than 150,000 total pods, no more than 300,000 total containers\"; \"one or two control plane instances per failure zone, " +
			"scaling those instances vertically first\". Its scalability tests run 30 pods per node."},
	{FromKubeUp, "https://github.com/kubernetes/kubernetes/tree/v1.37.2/cluster/gce",
		"The scripts with which Kubernetes' scalability tests built their clusters, in release 1.37.2. config-common.sh: CPUs of a control plane with etcd (e2-standard machines, 4 GB of memory for each) by nodes: 2, and 4 for more than 10, " +
			"8 for more than 50, 16 for more than 100, 32 for more than 500; root disk: 20 GB, 100 GB for more than 500, 500 GB for more than 3000; disk for etcd: 20, 100, and 200 GB. " +
			"gci/configure-kubeapiserver.sh: max-requests-inflight 1500 and max-mutating-requests-inflight 500 for more than 500 nodes, 3000 and 1000 for more than 3000."},
	{FromKubeadm, "https://kubernetes.io/docs/setup/production-environment/tools/kubeadm/install-kubeadm/",
		"\"2 GB or more of RAM per machine (any less will leave little room for your apps). 2 CPUs or more for control plane machines.\""},
	{FromKubelet, "https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/",
		"\"nodeStatusReportFrequency's default value is 5m. But if nodeStatusUpdateFrequency is set explicitly, nodeStatusReportFrequency's default value will be set to nodeStatusUpdateFrequency for backward compatibility.\""},
	{FromEtcd, "https://etcd.io/docs/v3.5/op-guide/hardware/",
		"Machines that run nothing but etcd: 2 CPUs and 8 GB for 50 nodes, 4 and 16 for 250, 8 and 32 for 1,000, 16 and 64 for 3,000. \"Typically 50 sequential IOPS (e.g., a 7200 RPM disk) is required. For heavily loaded clusters, " +
			"500 sequential IOPS (e.g., a typical local SSD or a high performance virtualized block device) is recommended.\""},
	{FromOpenShift, "https://docs.redhat.com/en/documentation/openshift_container_platform/4.20/html/etcd/etcd-practices",
		"etcd's block device writes at least 50 times 8 KB in a row within a second, each within 10 ms with fdatasync; under heavy load, 500 times, each within 2 ms. " +
			"Control planes with three members (\"Control plane node sizing\"): 4 CPUs and 16 GB for 24 workers, 8 and 32 for 120, 16 and 64 for 252, 16 and 96 for 501, of which at most 60 % are in use, because the others take over from one that fails."},
	{FromDNS, "https://kubernetes.io/docs/tasks/administer-cluster/dns-horizontal-autoscaling/",
		"The default of the DNS autoscaler: one replica for each 16 nodes (nodesPerReplica) or 256 cores (coresPerReplica), whichever are more."},
	{FromCoreDNS, "https://github.com/coredns/deployment/blob/master/kubernetes/Scaling_CoreDNS.md",
		"\"MB required (default settings) = (Pods + Services) / 1000 + 54\", of which 30 MB are the cache of 10,000 entries; one replica answered 30,000 queries per second."},
	{FromMeasurement, "", "Measured with Quorate: a node holds about ten connections to the API; each costs HAProxy 3.4 KiB while it is idle, and two buffers of 16 KiB more while it transfers; see docs/failover.md."},
}
