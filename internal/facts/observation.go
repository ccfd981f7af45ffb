package facts

import (
	"slices"
	"time"
)

// Answer is the result of one query to one program: it answered as it should, it answered something else, or it could not be
// queried. Nothing may be inferred from an answer that is unknown.
type Answer struct {
	// OK says that the program answered as it should.
	OK bool `json:"ok"`
	// Problem is what is wrong if the program was queried and does not work: its answer, that it refused the connection, or
	// that it did not answer in time.
	Problem string `json:"problem,omitempty"`
	// Unknown is why the program could not be queried, for example because the session to its host ended. OK is false then and
	// Problem is empty.
	Unknown string `json:"unknown,omitempty"`
}

// Known reports whether the question could be asked.
func (a Answer) Known() bool { return a.Unknown == "" }

// Observation is the actual condition of a cluster, read from hosts, API and etcd in parallel at one moment. Each part is
// known, absent, or unknown with the reason.
type Observation struct {
	Time  time.Time       `json:"time"`
	Hosts map[string]Host `json:"hosts"`
	// API is what was read from the API; nil if it could not be read, for the reason in APIError.
	API      *API   `json:"api,omitempty"`
	APIError string `json:"apiError,omitempty"`
	// Etcd is the member list as the members themselves agree on it; nil when no member could be asked, for the reason in
	// EtcdError. It is nil with an empty EtcdError when no member is expected to exist.
	Etcd      []EtcdMember `json:"etcd,omitempty"`
	EtcdError string       `json:"etcdError,omitempty"`
	// EtcdAbandoned are members that run and belong to a cluster that a recovery of the quorum has replaced, each with the name of its host.
	// They are not in Etcd: whatever they agree on among each other does not count.
	EtcdAbandoned []EtcdMember `json:"etcdAbandoned,omitempty"`
	// LostQuorum is what was read to recover an etcd that has lost its quorum; nil unless that was asked for.
	LostQuorum *LostQuorum `json:"lostQuorum,omitempty"`
	// ExistingEtcd is nil unless etcd is the user's own.
	ExistingEtcd *ExistingEtcd `json:"existingEtcd,omitempty"`
	// Backups are those of the cluster; nil unless the spec has backups.
	Backups *Backups `json:"backups,omitempty"`
	// Endpoint is how the endpoint answers.
	Endpoint Endpoint `json:"endpoint"`
	// LastRecord and LastRemoved are what the caller last read of API.Record and API.Removed. They count while the API does
	// not answer.
	LastRecord  string `json:"lastRecord,omitempty"`
	LastRemoved string `json:"lastRemoved,omitempty"`
}

// AbandonedEtcds are the IDs of the etcd clusters that recoveries of the quorum have replaced, as far as any host that answered knows.
func (o *Observation) AbandonedEtcds() (out []string) {
	for _, h := range o.Hosts {
		if h.Facts != nil {
			out = append(out, h.Facts.Kubernetes.EtcdAbandoned...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// AbandonedOn is the ID of the etcd cluster that a recovery has replaced, and of which a member runs on the host; empty if none does.
func (o *Observation) AbandonedOn(host string) string {
	for _, m := range o.EtcdAbandoned {
		if m.Name == host {
			return m.ClusterID
		}
	}
	return ""
}

// OtherEtcdOn is the ID of the etcd cluster of the member that answers on the host, if it is not that of the other members: one that a
// recovery has replaced, or another one. It is empty otherwise.
func (o *Observation) OtherEtcdOn(host string) string {
	if id := o.AbandonedOn(host); id != "" {
		return id
	}
	for _, m := range o.Etcd {
		if m.Name == host && m.OtherCluster != "" {
			return m.OtherCluster
		}
	}
	return ""
}

// Host is one host, or why it could not be asked.
type Host struct {
	Error string `json:"error,omitempty"`
	// OtherBuild says that the error is that its copy of quorate is of another build than the one that asked, as while `quorate apply` replaces them. The host can
	// be reached, and nothing else is known of it.
	OtherBuild bool `json:"otherBuild,omitempty"`

	Facts    *Facts    `json:"facts,omitempty"`
	Balancer *Balancer `json:"balancer,omitempty"`
	// SeenBy is, for a host that is to leave the cluster and could not be asked, what other hosts find at its address: OK
	// means that something answers there, a Problem that nothing does.
	SeenBy map[string]Answer `json:"seenBy,omitempty"`
	// BalancerError is why the load balancer of the host could not be asked; Balancer is nil then.
	BalancerError string `json:"balancerError,omitempty"`
	// VirtualIP is which machines have the virtual IP, as this load balancer finds them; nil where it was not asked.
	VirtualIP *AddressHolders `json:"virtualIP,omitempty"`
	// APIServer is how the host's own API server answers /readyz; nil where none is expected.
	APIServer *Answer `json:"apiServer,omitempty"`
	// APIServerVersion is the version of the kube-apiserver that runs here; empty when it could not be determined.
	APIServerVersion string `json:"apiServerVersion,omitempty"`
	// Components are the other programs of the cluster on this host, by name (see the constants of Component). A program
	// that is not expected on this host has no entry. A host that answered has an entry for each of the others.
	Components map[string]Component `json:"components,omitempty"`
	// Started is when kube-apiserver and etcd were started here, by the clock of the host. A program that does not run, or of which nobody
	// can tell, has no entry.
	Started map[string]time.Time `json:"started,omitempty"`
	// EtcdDisk is how long the writes of the etcd member here to its log took until they were on the disk, since it was started; nil if there is
	// no member, or it did not tell.
	EtcdDisk *Durations `json:"etcdDisk,omitempty"`
	// EtcdRoundTrips are how long round trips of that member to others took, by the IDs of the others in hexadecimal. Each is the average of several, every half minute.
	EtcdRoundTrips map[string]Durations `json:"etcdRoundTrips,omitempty"`
	// Overlay is the pod network between nodes as this host's kernel has it; nil where flannel does not run.
	Overlay *Overlay `json:"overlay,omitempty"`
	// EtcdProbe is an existing etcd as this control plane finds it; only before anything is built on it.
	EtcdProbe *EtcdProbe `json:"etcdProbe,omitempty"`
}

// The names of components in Host.Components.
const (
	APIServer         = "kube-apiserver" // not among Host.Components: see Host.APIServer
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	KubeProxy         = "kube-proxy"
	Kubelet           = "kubelet"
	Containerd        = "containerd"
	Flannel           = "flannel" // flanneld, its routes, and its rules in the kernel
	Approver          = "quorate-approver"
	Watchdog          = "quorate-watchdog"
	HAProxy           = "haproxy"
	Keepalived        = "keepalived"
	Etcd              = "etcd" // not among Host.Components: see Observation.Etcd
)

// Component is one program of the cluster on one host, as it runs.
type Component struct {
	Answer
	// Version is the version of the running program, for example v1.37.2; empty when it could not be determined.
	Version string `json:"version,omitempty"`
	// Replaced says that the program's file was replaced or deleted since it was started: the previous program runs until it
	// is restarted.
	Replaced bool `json:"replaced,omitempty"`
	// Started is when the program was started; zero when that could not be determined.
	Started time.Time `json:"started,omitzero"`
}

// Overlay is what flannel configured in a host's kernel for the pods of other nodes.
type Overlay struct {
	// Backend is flannel's, for example vxlan.
	Backend string `json:"backend"`
	// Routes lead to the pods of other nodes: those of IPv4, or of IPv6 where pods have nothing else.
	Routes []PodRoute `json:"routes,omitempty"`
	// Restored is what other programs removed and flanneld restored, as far as it remembers.
	Restored []Restored `json:"restored,omitempty"`
}

// Restored is objects in the kernel that flanneld had to restore.
type Restored struct {
	What string `json:"what"`
	// Times is how often, and Last when: a number that grows means that another program removes them.
	Times int       `json:"times"`
	Last  time.Time `json:"last"`
}

// PodRoute leads to the pods of another node.
type PodRoute struct {
	Subnet string `json:"subnet"`
	// Node is the address of the host to which the packets go; empty when an entry is missing, which Lacks names.
	Node  string `json:"node,omitempty"`
	Lacks string `json:"lacks,omitempty"`
}

// API is what the API server says.
type API struct {
	Version string `json:"version"`
	// Initialised reports whether kubeadm's configuration is in the cluster: joins can work from then on.
	Initialised bool   `json:"initialised"`
	Nodes       []Node `json:"nodes"`
	// APIServers is how many API servers have registered with the Service through which pods reach the API. An API server does
	// so when it is ready. Nil if the cluster keeps no list of them.
	APIServers *int `json:"apiServers,omitempty"`
	// Service is where the nodes send what pods send to this Service.
	Service *APIService `json:"service,omitempty"`
	// Kubeadm is kubeadm's configuration of the cluster, as far as it could be read.
	Kubeadm *Kubeadm `json:"kubeadm,omitempty"`
	// KubeletConfig are the fields of the kubelets' configuration in the cluster: nodes that join get it.
	KubeletConfig map[string]any `json:"kubeletConfig,omitempty"`
	// Settings are those that the spec made, as Quorate stored it in the cluster (see plan.Managed); empty if there are none.
	Settings string `json:"settings,omitempty"`
	// Endpoints are those that clients may use while the endpoint changes, as Quorate stored it in the cluster (see
	// cluster.State.FormerEndpoints); empty otherwise.
	Endpoints string `json:"endpoints,omitempty"`
	// AccountKey is since when API servers sign the tokens of service accounts with which key, as Quorate stored it in the cluster (see
	// cluster.State.SignsRecord); empty if it never did.
	AccountKey string `json:"accountKey,omitempty"`
	// Servers are the URLs at which the ConfigMaps cluster-info and kube-proxy say that the API is, by the name of the ConfigMap.
	Servers map[string]string `json:"servers,omitempty"`
	// Trusted are the keys of authorities (see Trust) that ConfigMaps tell clients to trust, by the name of the ConfigMap; those of
	// AuthenticationConfigMap by its keys.
	Trusted map[string][]string `json:"trusted,omitempty"`
	// TrustedUntil is when the last certificate for each of these keys expires, by the same names.
	TrustedUntil map[string]map[string]time.Time `json:"trustedUntil,omitempty"`
	// RootCAWritten is when the ConfigMap RootCA in kube-system was last written; zero if the API does not say.
	RootCAWritten time.Time `json:"rootCAWritten,omitzero"`
	// Networks are the DaemonSets that configure the pods' network on nodes. They are looked for only while Quorate has
	// applied no pod network.
	Networks []Network `json:"networks,omitempty"`
	// Applied maps the name of each manifest that Quorate applied to the digest of what it applied.
	Applied map[string]string `json:"applied,omitempty"`
	// Record is the spec by which the cluster was last built or changed, as Quorate stored it in the cluster (see
	// spec.Record); empty if it stored none.
	Record string `json:"record,omitempty"`
	// Removed lists the hosts that were removed from the cluster while they were down, as Quorate stored it in the cluster
	// (see spec.ParseHosts); empty if there are none.
	Removed string `json:"removed,omitempty"`
	// LastDrill is how the last drill ended, as Quorate noted it in the cluster; nil if it noted none.
	LastDrill *LastDrill `json:"lastDrill,omitempty"`
	// Verified is what Quorate noted when it last saw the cluster match its spec; empty if it never did.
	Verified string `json:"verified,omitempty"`
	// TakeoverTested are the load balancers among which the takeover of the virtual IP was tested, sorted and joined by
	// commas; empty if it was not tested.
	TakeoverTested string `json:"takeoverTested,omitempty"`
	// JoinTokens are bootstrap tokens that Quorate made and that are still there, by the names of their secrets.
	JoinTokens []string `json:"joinTokens,omitempty"`
	// Maintenance are the hosts that are in maintenance, by name.
	Maintenance map[string]Maintenance `json:"maintenance,omitempty"`
	// DaemonSets are those of the cluster's own programs: kube-proxy and the pod network. A nil list means that the API has
	// none of them.
	DaemonSets []DaemonSet `json:"daemonSets,omitempty"`
	// Simulated counts the nodes that only simulate one (SimulatedLabel). They are not among Nodes: no host is behind them.
	Simulated int `json:"simulated,omitempty"`
	// DNSSpread reports whether CoreDNS replicas are kept on different nodes, and DNSInZones whether in different zones, too.
	DNSSpread  bool `json:"dnsSpread"`
	DNSInZones bool `json:"dnsInZones,omitempty"`
	// DNSReplicas is how many replicas CoreDNS is to have; 0 if it is not known, or there is no CoreDNS.
	DNSReplicas int `json:"dnsReplicas,omitempty"`
	// DNSStarted is when the first of CoreDNS's pods was started that run; zero if there are none.
	DNSStarted time.Time `json:"dnsStarted,omitzero"`
	// DNSReady counts the ready replicas of CoreDNS, DNSNodes the nodes that they are on.
	DNSReady int `json:"dnsReady"`
	DNSNodes int `json:"dnsNodes"`
	// DNSOn are the nodes, in order, with a replica that is ready or was until a moment ago, or that was created a moment ago.
	DNSOn []string `json:"dnsOn,omitempty"`
	// DNSReplacing says that replicas of a former configuration are still being replaced.
	DNSReplacing bool `json:"dnsReplacing,omitempty"`
	// DNSVersion is CoreDNS's version, as the tag of its image says.
	DNSVersion string `json:"dnsVersion,omitempty"`
	// DNSNotReady is why a CoreDNS replica is not ready, in the words of whoever keeps it from that.
	DNSNotReady string `json:"dnsNotReady,omitempty"`
	// Prometheus is how the one runs that Quorate installed; nil if it installed none.
	Prometheus *Prometheus `json:"prometheus,omitempty"`
}

// SimulatedLabel marks the nodes that `quorate lab scale` adds, and pods that belong there have it in their node selector. It is also the key
// of these nodes' taint.
const SimulatedLabel = "quorate.dev/simulated"

// APIServiceName is the name of the Service, in the namespace default, through which pods reach the API. The EndpointSlice and the
// Endpoints object that API servers keep have the same name.
const APIServiceName = "kubernetes"

// OwnSlice is the name of the EndpointSlice in which Quorate makes the endpoint an address of that Service. It is not that of the API
// servers: while they are replaced one after another, some still write theirs.
const OwnSlice = "quorate-endpoint"

// APIService are the addresses of the API's Service, each as host:port, in order.
type APIService struct {
	// Slices are those of its EndpointSlices that are ready, by the name of the slice. A slice without any has an entry, too. kube-proxy
	// sends connections to all of them.
	Slices map[string][]string `json:"slices,omitempty"`
	// Endpoints are those in its Endpoints object, which is for clients that do not know EndpointSlices.
	Endpoints []string `json:"endpoints,omitempty"`
}

// Addresses are those to which nodes send connections.
func (s *APIService) Addresses() []string {
	var out []string
	for _, addresses := range s.Slices {
		out = append(out, addresses...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Only says that the Service has this address, in OwnSlice, and no other one.
func (s *APIService) Only(address string) bool {
	return len(s.Slices) == 1 && slices.Equal(s.Slices[OwnSlice], []string{address}) && slices.Equal(s.Endpoints, []string{address})
}

// AuthorityAnnotation is in the template of pods that were restarted to trust another authority: the key of that (see Trust).
const AuthorityAnnotation = "quorate.dev/authority"

// EndpointAnnotation is in the template of a DaemonSet's pods that were restarted to use another endpoint.
const EndpointAnnotation = "quorate.dev/endpoint"

// CordonedAnnotation is on nodes that Quorate has cordoned, since the same change of the node. A node that is cordoned without it was
// cordoned by somebody else, and stays so.
const CordonedAnnotation = "quorate.dev/cordoned"

// RelaxedAnnotation is on disruption budgets of Quorate's own that a drain has relaxed, since the same change of the budget: what maxUnavailable was.
// Whoever finds it when no drain goes on restores the budget.
const RelaxedAnnotation = "quorate.dev/relaxed-from"

// DaemonSet is how many pods of a DaemonSet there are.
type DaemonSet struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Desired is how many nodes should run a pod, Current how many do, Ready how many of these are ready, and Updated how
	// many have the current configuration.
	Desired int `json:"desired"`
	Current int `json:"current"`
	Ready   int `json:"ready"`
	Updated int `json:"updated"`
	// Endpoint is the one for which its pods were restarted last, while Quorate changed the endpoint (see EndpointAnnotation).
	Endpoint string `json:"endpoint,omitempty"`
	// Authority is the key of the Kubernetes CA for which its pods were restarted last (see AuthorityAnnotation).
	Authority string `json:"authority,omitempty"`
	// Stale says that no controller manager has counted since the DaemonSet was changed.
	Stale bool `json:"stale,omitempty"`
	// Version is the tag of the image of its first container.
	Version string `json:"version,omitempty"`
}

// Node is a Kubernetes node.
type Node struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"` // its InternalIP
	// SecondaryAddress is its InternalIP in the second family of a dual-stack cluster.
	SecondaryAddress string `json:"secondaryAddress,omitempty"`
	// PodCIDR is the range of its pods, that of IPv4 if there are two; OverlayAddress is where flannel on the other nodes sends packets for them.
	PodCIDR        string `json:"podCIDR,omitempty"`
	OverlayAddress string `json:"overlayAddress,omitempty"`
	Ready          bool   `json:"ready"`
	// NotReady is why it is not Ready, in the words of whoever keeps it from that.
	NotReady string `json:"notReady,omitempty"`
	// NoNetwork says that nothing but a pod network is missing.
	NoNetwork bool `json:"noNetwork,omitempty"`
	// Unschedulable says that the node is cordoned: it gets no new pods.
	Unschedulable bool `json:"unschedulable,omitempty"`
	// Cordoned says that Quorate cordoned it, and nobody has finished that (see CordonedAnnotation). The node is not Unschedulable any
	// more if somebody else has uncordoned it since.
	Cordoned bool `json:"cordoned,omitempty"`
	// BootID identifies the start of the machine since which the kubelet runs.
	BootID string `json:"bootID,omitempty"`
	// Short is what the node is short of (disk, memory, process IDs), in the kubelet's words: it takes no new pods, and
	// those that it has may be taken away.
	Short   string            `json:"short,omitempty"`
	Version string            `json:"version"`
	Runtime string            `json:"runtime,omitempty"` // the container runtime and its version, such as containerd://2.1.4
	Labels  map[string]string `json:"labels,omitempty"`
	Taints  []Taint           `json:"taints,omitempty"`
}

// Maintenance is what the cluster remembers of a host that is in maintenance: it may be stopped at any moment, so nothing relies
// on it.
type Maintenance struct {
	// Since is when the maintenance began.
	Since time.Time `json:"since"`
	// Ready says that the host can be powered off; false while the maintenance begins or ends, and after a run that was cut
	// short.
	Ready bool `json:"ready,omitempty"`
	// Cordoned says that the node was cordoned before. It stays so afterwards.
	Cordoned bool `json:"cordoned,omitempty"`
	// Reboot is the boot ID of the host when it was told to reboot; empty if it was not.
	Reboot string `json:"reboot,omitempty"`
}

// Taint is a node taint.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// EtcdMember is one member as the others and the member itself see it.
type EtcdMember struct {
	// Name is the member's name; the host name in its peer URL while it has never started.
	Name string `json:"name"`
	// Healthy says that the member itself answers, agrees with the others on the cluster, and has no alarm. A member that
	// could not be queried is not healthy: Unknown then says why, otherwise Problem says what is wrong.
	Healthy bool   `json:"healthy"`
	Problem string `json:"problem,omitempty"`
	Unknown string `json:"unknown,omitempty"`
	Leader  bool   `json:"leader"`
	Learner bool   `json:"learner"`
	Started bool   `json:"started"` // false for a member that was added but has never run
	// ID and ClusterID are etcd's, in hexadecimal. ClusterID is what the member itself reports; empty if it was not asked.
	ID        string `json:"id,omitempty"`
	ClusterID string `json:"clusterID,omitempty"`
	// OtherCluster is the ID of another cluster, if a member of that one answers here. A member that the others have in their list has no
	// ClusterID then: see Stranger.
	OtherCluster string `json:"otherCluster,omitempty"`
	// PeerURL is where the other members reach it.
	PeerURL string `json:"peerURL,omitempty"`
	Version string `json:"version,omitempty"`
	// StorageVersion is that of the member's data, such as 3.7.0; empty where the member does not tell. A member can be
	// replaced by an older one only after its data was brought to that version.
	StorageVersion string `json:"storageVersion,omitempty"`
	// DowngradeTo is the version to which etcd is being downgraded; empty if it is not.
	DowngradeTo string `json:"downgradeTo,omitempty"`

	DBSizeBytes int64 `json:"dbSizeBytes"`
	// InUseBytes is the part of the database that holds data; the rest is freed by defragmentation.
	InUseBytes int64 `json:"inUseBytes,omitempty"`
	// QuotaBytes is the size at which etcd stops accepting writes; 0 where the member does not tell.
	QuotaBytes int64 `json:"quotaBytes,omitempty"`
	// Alarms are etcd's own: NOSPACE, CORRUPT. One that names no member that etcd has holds for all members, and Raised are
	// those of them that name this member.
	Alarms []string `json:"alarms,omitempty"`
	Raised []string `json:"raised,omitempty"`

	// RaftTerm and AppliedIndex are how far the member has come. They never go back, unless its data is replaced by an older copy.
	RaftTerm     uint64 `json:"raftTerm,omitempty"`
	AppliedIndex uint64 `json:"appliedIndex,omitempty"`
	// Behind is by how many entries of the log the member has applied less than the leader, if it was far behind in several looks in a row; 0
	// otherwise. CatchesUp says that it came closer meanwhile.
	Behind    uint64 `json:"behind,omitempty"`
	CatchesUp bool   `json:"catchesUp,omitempty"`
	// Hash is that of the member's keys and values; nil unless it was asked for, because it is as much work as reading all of them.
	Hash *EtcdHash `json:"hash,omitempty"`
	// WentBack is how the member was seen to have less than it had acknowledged before; empty if it was not.
	WentBack string `json:"wentBack,omitempty"`
}

// Stranger says that the member belongs to another cluster, and that the members of this one do not have it in their list: it has no vote
// there, and cannot be removed.
func (m EtcdMember) Stranger() bool { return m.OtherCluster != "" && m.ClusterID == m.OtherCluster }

// EtcdHash is the hash of all keys and values between two revisions. Members that have the same data have the same hash.
type EtcdHash struct {
	Revision int64 `json:"revision"`
	// Compacted is the revision at which the history begins. Hashes of different beginnings cannot be compared.
	Compacted int64  `json:"compacted"`
	Hash      uint32 `json:"hash"`
}

// AddHashes notes the hashes of the members that have one, by the member's ID.
func (o *Observation) AddHashes(hashes map[string]EtcdHash) {
	for i, m := range o.Etcd {
		if h, ok := hashes[m.ID]; ok {
			o.Etcd[i].Hash = &h
		}
	}
}

// Alarms of etcd.
const (
	AlarmNoSpace = "NOSPACE"
	AlarmCorrupt = "CORRUPT"
)

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
func EtcdOwner(cluster, ca string) string {
	return cluster + " sha256:" + Sum([]byte(CertificatesIn(ca)))
}

// Balancer is one managed load balancer.
type Balancer struct {
	Healthy  bool      `json:"healthy"` // HAProxy answers
	Active   bool      `json:"active"`  // it holds the virtual IP
	Backends []Backend `json:"backends,omitempty"`
	// Endpoints are those that HAProxy's configuration says it serves (see hostconfig.Served).
	Endpoints []string `json:"endpoints,omitempty"`
	// Peers are the addresses of the other load balancers from which keepalived accepts advertisements.
	Peers []string `json:"peers,omitempty"`
	// WrittenFor names the cluster for which Quorate wrote HAProxy's configuration; Others is what is there when
	// somebody else wrote it.
	WrittenFor string           `json:"writtenFor,omitempty"`
	Others     *OthersBalancing `json:"others,omitempty"`
}

// Balances says that the host is a load balancer already, whoever set it up. A distribution's package brings a configuration that
// balances nothing.
func (b *Balancer) Balances() bool {
	return b != nil && (b.WrittenFor != "" || b.Others != nil && len(b.Others.Services)+len(b.Others.VirtualIPs) > 0)
}

// AddressHolders are the machines that have an address, as one host finds them on its own network segment.
type AddressHolders struct {
	Interface string `json:"interface"`     // on which the host asked
	MAC       string `json:"mac"`           // its own hardware address there
	Has       bool   `json:"has,omitempty"` // the host itself has the address
	// Answers are the hardware addresses of the others that answered for the address or announced it.
	Answers []string `json:"answers,omitempty"`
	// Peers are the hardware addresses of the peers in the question, by IP address, as far as the kernel knows them.
	Peers map[string]string `json:"peers,omitempty"`
	// Unknown is why nobody could be asked; nothing else is known then.
	Unknown string `json:"unknown,omitempty"`
}

// Backend is an API server as one load balancer sees it.
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

// Endpoint is how the API answers at the endpoint, through the load balancer, as every client reaches it.
type Endpoint struct {
	// Hosts are the answers by the name of the host that asked. A host whose session is gone has no entry.
	Hosts map[string]Answer `json:"hosts,omitempty"`
	// Caller is what the machine that runs the command gets. It is informative: nothing depends on it.
	Caller *Answer `json:"caller,omitempty"`
	// Unknown is why nobody could ask.
	Unknown string `json:"unknown,omitempty"`
}
