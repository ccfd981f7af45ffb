package size

// Defaults of small clusters.
const (
	// Connections of a load balancer, for up to nodesOfConnections nodes.
	Connections        = 8000
	nodesOfConnections = 400
	// MostConnections is what a load balancer accepts at most. HAProxy may open files for twice as many.
	MostConnections = 100_000
	// DNSReplicas are kubeadm's.
	DNSReplicas = 2
	nodesPerDNS = 16
	// The sizes above which other settings change.
	manyKubelets = 100
	largeCluster = 500
	hugeCluster  = 3000
	// statusReportSeconds is the default of kubelets that look for changes as often as by default.
	statusReportSeconds = 300
)

// Settings are what grows with a cluster. Where a field is zero, the default of the program is right.
type Settings struct {
	// RequestsInFlight and MutatingInFlight are how many requests an API server works on at the same time: --max-requests-inflight
	// and --max-mutating-requests-inflight, whose defaults are 400 and 200. Priority and fairness divides their sum.
	RequestsInFlight int `json:"requestsInFlight,omitempty"`
	MutatingInFlight int `json:"mutatingInFlight,omitempty"`
	// Connections are how many a load balancer accepts.
	Connections int `json:"connections"`
	// DNSReplicas are the replicas of CoreDNS. A cluster with fewer nodes than that has one on each.
	DNSReplicas int `json:"dnsReplicas"`
	// StatusReportSeconds is how often a kubelet reports the status of its node if nothing of it changes. Where the failover profile has kubelets look
	// for changes more often than by default, they would also report as often. Failures are noticed by leases, which this does not touch.
	StatusReportSeconds int `json:"statusReportSeconds,omitempty"`
}

// SettingsOf are the settings of a cluster of so many nodes and pods. They change in few and large steps, so that a node more or less
// restarts nothing.
func SettingsOf(nodes, pods int) Settings {
	load := Cluster{Nodes: nodes, Pods: pods}.Load()
	s := Settings{Connections: Connections, DNSReplicas: max(DNSReplicas, (nodes+nodesPerDNS-1)/nodesPerDNS)}
	if nodes > manyKubelets {
		s.StatusReportSeconds = statusReportSeconds
	}
	switch {
	case load > hugeCluster:
		s.RequestsInFlight, s.MutatingInFlight = 3000, 1000
	case load > largeCluster:
		s.RequestsInFlight, s.MutatingInFlight = 1500, 500
	}
	// One load balancer may have to serve all nodes, and for a moment twice, while connections of a process that was reloaded end.
	for most := nodesOfConnections; nodes > most && s.Connections < MostConnections; most *= 2 {
		s.Connections = min(2*s.Connections, MostConnections)
	}
	return s
}

// Setting is one of them as it is shown.
type Setting struct {
	// Name is what is set, in the words of the program that has it, and Value what to.
	Name  string `json:"name"`
	Value int    `json:"value"`
	// Default says that clusters of any smaller size have the same value.
	Default bool `json:"default"`
	// Why is the reason, and Source the name of where it is from.
	Why    string `json:"why"`
	Source string `json:"source"`
}

// List are the settings as they are shown.
func (s Settings) List() []Setting {
	in := func(name string, value, standard int) Setting {
		out := Setting{Name: name, Value: value, Default: value == 0, Source: FromKubeUp,
			Why: "more requests at the same time than the default allows, as in Kubernetes' tests of that size; priority and fairness divides the sum of both among clients"}
		if out.Default {
			out.Value, out.Why = standard, "the default is enough up to 500 nodes"
		}
		return out
	}
	report := Setting{Name: "kubelet nodeStatusReportFrequency in seconds, with the failover profile fast", Value: s.StatusReportSeconds, Default: s.StatusReportSeconds == 0, Source: FromKubelet,
		Why: "a report without a change is a write to etcd for each node; failures are noticed by leases"}
	if report.Default {
		report.Value = 4
	}
	return []Setting{
		in("kube-apiserver --max-requests-inflight", s.RequestsInFlight, 400),
		in("kube-apiserver --max-mutating-requests-inflight", s.MutatingInFlight, 200),
		{"HAProxy maxconn (spec.loadBalancer.maxConnections)", s.Connections, s.Connections == Connections,
			"twenty connections for each node: one load balancer must be able to serve all of them, also right after a reload. A sixteenth of them can come from one source", FromMeasurement},
		{"CoreDNS replicas (spec.settings.dns.replicas)", s.DNSReplicas, s.DNSReplicas == DNSReplicas, "one for each 16 nodes, at least two on different nodes", FromDNS},
		report,
	}
}

// Fixed are the settings that a reader may expect to grow and that do not, each with the reason. They hold for Kubernetes 1.36 and 1.37.
var Fixed = []string{
	"Watch caches: the API server sizes them automatically. --default-watch-cache-size does nothing any more, and of --watch-cache-sizes only zero means anything: it switches the cache of a resource off.",
	"etcd's quota: 8 GiB for every cluster, which is what etcd recommends at most. 30,000 pods and 1,000 nodes take well below 1 GiB.",
	"etcd's compaction: the API servers compact every 5 minutes. Auto-compaction of etcd itself would only do the same again.",
	"kube-proxy: mode nftables, whose rules are updated by what changed, with the default minSyncPeriod of 1 s. Its time does not grow with the number of Services as that of iptables does.",
	"CoreDNS's cache: 30 s and 10,000 entries for each replica. More clients get more replicas, and so more caches.",
	"flannel: each agent watches all nodes, and adds one route, one neighbor, and one forwarding entry for each. The watch is from the API servers' cache.",
}
