package facts

import "time"

// Observation is what is, read from hosts, API and etcd in parallel at one moment.
type Observation struct {
	Time  time.Time       `json:"time"`
	Hosts map[string]Host `json:"hosts"`
	// API is nil when no apiserver answered.
	API *API `json:"api,omitempty"`
	// Etcd is nil when no member answered.
	Etcd []EtcdMember `json:"etcd,omitempty"`
	// ExistingEtcd is nil unless etcd is the user's own.
	ExistingEtcd *ExistingEtcd `json:"existingEtcd,omitempty"`
	// Endpoint is what became of a request to the endpoint, made from the caller.
	Endpoint Endpoint `json:"endpoint"`
}

// Host is one host, or why it could not be asked.
type Host struct {
	Error    string    `json:"error,omitempty"`
	Facts    *Facts    `json:"facts,omitempty"`
	Balancer *Balancer `json:"balancer,omitempty"`
	// APIServer is whether the host's own apiserver is ready; nil where none is expected.
	APIServer *bool `json:"apiServer,omitempty"`
	// EtcdProbe is an existing etcd as this control plane finds it; only before anything is built on it.
	EtcdProbe *EtcdProbe `json:"etcdProbe,omitempty"`
}

// API is what the apiserver says.
type API struct {
	Version string `json:"version"`
	// Initialised says whether kubeadm's configuration is in the cluster: joins can work from then on.
	Initialised bool   `json:"initialised"`
	Nodes       []Node `json:"nodes"`
	// Kubeadm is kubeadm's configuration of the cluster, as far as it could be read.
	Kubeadm *Kubeadm `json:"kubeadm,omitempty"`
	// Networks are the DaemonSets that configure the pods' network on nodes. They are looked for only while Quorate
	// has noted nothing in Applied.
	Networks []Network `json:"networks,omitempty"`
	// Applied maps the name of each manifest that Quorate applied to the digest of what it applied.
	Applied map[string]string `json:"applied,omitempty"`
	// JoinTokens are bootstrap tokens that Quorate made and that are still there, by the names of their secrets.
	JoinTokens []string `json:"joinTokens,omitempty"`
	// DNSSpread says whether CoreDNS replicas are kept on different nodes.
	DNSSpread bool `json:"dnsSpread"`
	// DNSReady counts ready CoreDNS replicas, DNSNodes the nodes that they are on.
	DNSReady int `json:"dnsReady"`
	DNSNodes int `json:"dnsNodes"`
	// DNSNotReady is why a CoreDNS replica is not ready, in the words of whoever keeps it from that.
	DNSNotReady string `json:"dnsNotReady,omitempty"`
}

// Node is a Kubernetes node.
type Node struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"` // its InternalIP
	Ready   bool   `json:"ready"`
	// NotReady is why it is not Ready, in the words of whoever keeps it from that.
	NotReady string `json:"notReady,omitempty"`
	// NoNetwork says that nothing but a pod network is missing.
	NoNetwork bool `json:"noNetwork,omitempty"`
	// Short is what the node is short of (disk, memory, process IDs), in the kubelet's words: it takes no new pods, and
	// those that it has may be taken away.
	Short   string            `json:"short,omitempty"`
	Version string            `json:"version"`
	Labels  map[string]string `json:"labels,omitempty"`
	Taints  []Taint           `json:"taints,omitempty"`
}

// Taint is a node taint.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// EtcdMember is one member as the others and itself see it.
type EtcdMember struct {
	Name        string `json:"name"`
	Healthy     bool   `json:"healthy"`
	Leader      bool   `json:"leader"`
	Learner     bool   `json:"learner"`
	Started     bool   `json:"started"` // false for one that was added but has never run
	DBSizeBytes int64  `json:"dbSizeBytes"`
}

// ExistingEtcd is what the caller's files hold for an etcd that exists already.
type ExistingEtcd struct {
	Error  string `json:"error,omitempty"` // why they cannot be used
	CA     string `json:"ca,omitempty"`    // PEM
	Client string `json:"client,omitempty"`
}

// EtcdProbe is what one control plane learns of an existing etcd.
type EtcdProbe struct {
	Error     string         `json:"error,omitempty"` // why nothing at all was learnt
	Endpoints []EtcdEndpoint `json:"endpoints,omitempty"`
	Members   []EtcdMember   `json:"members,omitempty"`
	// Write is the middle one of several times that a write took until a majority had it on disk.
	Write time.Duration `json:"writeNanoseconds"`
	// Keys counts what Kubernetes has stored there, and Owner is whose it is, as of EtcdOwner; empty when nobody
	// has claimed it.
	Keys  int64  `json:"keys"`
	Owner string `json:"owner,omitempty"`
}

// EtcdEndpoint is one client URL of an existing etcd.
type EtcdEndpoint struct {
	URL         string `json:"url"`
	Error       string `json:"error,omitempty"`
	Version     string `json:"version,omitempty"`
	ClusterID   uint64 `json:"clusterID,omitempty"`
	DBSizeBytes int64  `json:"dbSizeBytes,omitempty"`
	QuotaBytes  int64  `json:"quotaBytes,omitempty"` // 0 where the version does not tell
}

// EtcdOwner is how a cluster signs an etcd that it is built on: its name, and what tells its CA from that of another
// cluster of the same name.
func EtcdOwner(cluster, ca string) string { return cluster + " sha256:" + Sum([]byte(ca)) }

// Balancer is one managed load balancer.
type Balancer struct {
	Healthy  bool      `json:"healthy"` // HAProxy answers
	Active   bool      `json:"active"`  // it holds the virtual IP
	Backends []Backend `json:"backends,omitempty"`
	// WrittenFor names the cluster for which Quorate wrote HAProxy's configuration; Others is what is there when
	// somebody else wrote it.
	WrittenFor string           `json:"writtenFor,omitempty"`
	Others     *OthersBalancing `json:"others,omitempty"`
}

// Backend is an apiserver as one balancer sees it.
type Backend struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	// Drained says that it gets no new connections, although it could.
	Drained bool `json:"drained"`
	// Sessions are the connections that it has now through this balancer.
	Sessions int `json:"sessions"`
	// Check is what the last check found, in HAProxy's words.
	Check string `json:"check"`
}

// Endpoint tells how the API's name answers.
type Endpoint struct {
	Reachable bool   `json:"reachable"`
	Error     string `json:"error,omitempty"`
}
