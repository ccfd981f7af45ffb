// Package spec holds the user's cluster.yaml: its types, defaults, validation and JSON schema.
// Apart from [Load], which reads one file, it does no I/O.
package spec

import (
	"cmp"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/size"
)

// APIVersion and Kind head every spec.
const (
	APIVersion = "quorate.dev/v1alpha1"
	Kind       = "Cluster"
)

// Cluster is the spec: the cluster that should exist.
type Cluster struct {
	// APIVersion is the version of the file format.
	APIVersion string `yaml:"apiVersion" json:"apiVersion" edit:"free"`
	// Kind is always Cluster.
	Kind string `yaml:"kind" json:"kind" edit:"free"`
	// Metadata names the cluster.
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	// Spec describes the cluster.
	Spec Spec `yaml:"spec" json:"spec"`

	// src remembers where each field was written, so that [Validate] can name the line.
	// It is nil for a Cluster made in code.
	src *source
	// files are the contents of the files that settings name, by path.
	files map[string]string
	// also are endpoints that are served beside the spec's own: see AlsoServing.
	also []Endpoint
}

// Metadata names the cluster.
type Metadata struct {
	// Name is a DNS label; it names the lab, the kubeconfig context and the certificates' cluster.
	Name string `yaml:"name" json:"name" edit:"fixed"`
}

// Spec describes the cluster.
type Spec struct {
	// Region is the region of all hosts that do not set their own; it becomes the label topology.kubernetes.io/region.
	Region string `yaml:"region,omitempty" json:"region,omitempty" edit:"rolling"`
	// Kubernetes selects the Kubernetes version.
	Kubernetes Kubernetes `yaml:"kubernetes,omitempty" json:"kubernetes,omitempty"`
	// Size says how large the cluster is to become, for the settings that grow with it.
	Size Size `yaml:"size,omitempty" json:"size,omitempty"`
	// ControlPlane describes the replicated API servers and the name that clients use.
	ControlPlane ControlPlane `yaml:"controlPlane" json:"controlPlane"`
	// Etcd refers to an existing etcd, for the topology external without hosts with the role etcd.
	Etcd Etcd `yaml:"etcd,omitempty" json:"etcd,omitempty"`
	// LoadBalancer is the load balancer in front of the API servers.
	LoadBalancer LoadBalancer `yaml:"loadBalancer,omitempty" json:"loadBalancer,omitempty"`
	// Network holds the cluster's address ranges and its CNI plugin.
	Network Network `yaml:"network,omitempty" json:"network,omitempty"`
	// Components says where the bundle comes from.
	Components Components `yaml:"components,omitempty" json:"components,omitempty"`
	// Failover selects how quickly failures are detected.
	Failover Failover `yaml:"failover,omitempty" json:"failover,omitempty"`
	// Settings change how the cluster's programs and its nodes run.
	Settings Settings `yaml:"settings,omitempty" json:"settings,omitempty"`
	// Backup says where backups go, who can read them, and which are kept.
	Backup Backup `yaml:"backup,omitempty" json:"backup,omitempty"`
	// Repair says whether the control planes repair the cluster by themselves.
	Repair Repair `yaml:"repair,omitempty" json:"repair,omitempty"`
	// Monitoring says how Prometheus can watch the cluster.
	Monitoring Monitoring `yaml:"monitoring,omitempty" json:"monitoring,omitempty"`
	// Drill says what a drill has to prove.
	Drill Drill `yaml:"drill,omitempty" json:"drill,omitempty"`
	// Hosts are all hosts of the cluster.
	Hosts []Host `yaml:"hosts" json:"hosts" edit:"per-role"`
	// NodePools label and taint groups of workers.
	NodePools []NodePool `yaml:"nodePools,omitempty" json:"nodePools,omitempty" edit:"rolling"`
}

// Repair says how what breaks is repaired.
type Repair struct {
	// Watch has a unit on each control plane, of which one leads, repair what breaks: what quorate watch does on a machine of yours. For
	// this, the control planes can log in to all hosts with keys of their own, which are good for repairs and nothing else. The default
	// is false.
	Watch bool `yaml:"watch,omitempty" json:"watch,omitempty" edit:"rolling"`
}

// Monitoring says how Prometheus can watch a cluster.
type Monitoring struct {
	// Exporter has a unit on each control plane, of which one leads, observe the cluster and expose what it finds as metrics, on port 10270
	// of the control planes. For this, the control planes can log in to all hosts with keys of their own, which are good for reading, and
	// with repair.watch for repairs, and nothing else. The default is false.
	Exporter bool `yaml:"exporter,omitempty" json:"exporter,omitempty" edit:"rolling"`
	// Prometheus says whether Prometheus runs in the cluster. Without it, your own Prometheus can read the metrics.
	Prometheus Prometheus `yaml:"prometheus,omitempty" json:"prometheus,omitempty"`
}

// Prometheus installs what reads the metrics of a cluster, and raises alerts.
type Prometheus struct {
	// Install has two Prometheus servers and two Alertmanagers run in the namespace quorate-monitoring, on different nodes and in different zones, with
	// kube-state-metrics, and a node exporter on port 9100 of every node. It needs monitoring.exporter, and a bundle that is compiled. The default is false.
	Install bool `yaml:"install,omitempty" json:"install,omitempty" edit:"rolling"`
	// Retention is how long samples are kept, such as 12h, 15d, or 8w. The default is 15d.
	Retention string `yaml:"retention,omitempty" json:"retention,omitempty" edit:"rolling"`
	// Storage is how much each server may use of the disk of its node. The oldest samples go first. What a server has stored is lost with its pod. The
	// default is 10Gi.
	Storage string `yaml:"storage,omitempty" json:"storage,omitempty" edit:"rolling"`
	// AlertmanagerSecret is the name of your Secret in the namespace quorate-monitoring, whose key alertmanager.yaml has the configuration of
	// Alertmanager. Without it, Alertmanager sends alerts to nobody.
	AlertmanagerSecret string `yaml:"alertmanagerSecret,omitempty" json:"alertmanagerSecret,omitempty" edit:"rolling"`
}

const (
	// ExporterPort is the port of control planes on which Monitoring.Exporter exposes metrics.
	ExporterPort = 10270
	// NodeExporterPort is the port of nodes on which the node exporter of Prometheus.Install does.
	NodeExporterPort = 9100
)

// Size says how large the cluster is to become. Settings that nothing else in the spec gives are chosen for it: see docs/size.md.
type Size struct {
	// Nodes is the number of nodes, control planes included, that the cluster is planned for. The default is the number of hosts that
	// are nodes, which also counts if it is larger.
	Nodes int `yaml:"nodes,omitempty" json:"nodes,omitempty" jsonschema:"minimum=1,maximum=5000" edit:"rolling"`
	// Pods is the number of pods that the cluster is planned for. The default is 30 for each node.
	Pods int `yaml:"pods,omitempty" json:"pods,omitempty" jsonschema:"minimum=1,maximum=150000" edit:"rolling"`
}

// Kubernetes selects the Kubernetes version.
type Kubernetes struct {
	// Version is a full version such as v1.37.2. The default is the newest version that Quorate can build a bundle of.
	Version string `yaml:"version,omitempty" json:"version,omitempty" edit:"rolling"`
}

// Topologies: etcd next to each API server, or on its own hosts.
const (
	TopologyStacked  = "stacked"
	TopologyExternal = "external"
)

// Placements: spread over zones so that no zone holds a majority, all in one zone, or a single control plane.
const (
	PlacementRegional = "regional"
	PlacementZonal    = "zonal"
	PlacementSingle   = "single"
)

// ControlPlane describes the replicated API servers and the name that clients use.
type ControlPlane struct {
	// Endpoint is the DNS name and port that every client uses for the API (kubeadm's controlPlaneEndpoint).
	Endpoint string `yaml:"endpoint" json:"endpoint" edit:"rolling"`
	// Topology is stacked (etcd runs next to each API server) or external (etcd runs on its own hosts, or already exists).
	Topology string `yaml:"topology,omitempty" json:"topology,omitempty" edit:"fixed"`
	// Placement is regional (the etcd members are in at least three zones, none of which holds a majority, and the control
	// planes are in at least two zones), zonal (all are in one zone), or single (there is one control plane, and the API is
	// down whenever it is).
	Placement string `yaml:"placement,omitempty" json:"placement,omitempty" edit:"free"`
}

// Etcd refers to an existing etcd. Quorate checks it, and never stops, changes, or removes it.
type Etcd struct {
	// Endpoints are the client URLs of its members, such as https://10.0.0.41:2379.
	Endpoints []string `yaml:"endpoints,omitempty" json:"endpoints,omitempty" edit:"fixed,set"`
	// CAFile is the CA certificate of its servers, on the caller's machine.
	CAFile string `yaml:"caFile,omitempty" json:"caFile,omitempty" edit:"rolling,local"`
	// CertFile is a client certificate that it accepts. The control planes get copies of it and its key.
	CertFile string `yaml:"certFile,omitempty" json:"certFile,omitempty" edit:"rolling,local"`
	// KeyFile is the key of the client certificate.
	KeyFile string `yaml:"keyFile,omitempty" json:"keyFile,omitempty" edit:"rolling,local"`
}

// Balancer types.
const (
	BalancerManaged  = "managed"
	BalancerExternal = "external"
)

// LoadBalancer is the load balancer in front of the API servers.
type LoadBalancer struct {
	// Type is managed (HAProxy and keepalived run on the load-balancer hosts or, if there are none, on the control planes)
	// or external (the user's own load balancer).
	Type string `yaml:"type,omitempty" json:"type,omitempty" edit:"fixed"`
	// Address is the virtual IP of the managed load balancers, or the address of the external one. The endpoint's name
	// resolves to it on every host. In a lab, the virtual IP can be left out and is then taken from the lab's subnet.
	// The address of an external load balancer can be left out if the name resolves through DNS.
	Address string `yaml:"address,omitempty" json:"address,omitempty" edit:"rolling"`
	// MaxConnections is how many connections each managed load balancer accepts. The default is 8000 up to 400 nodes, and doubles
	// each time that their number does. A sixteenth of them can come from one address, an eighth from one node with its pods,
	// and a quarter is kept for the networks of the cluster's hosts and pods.
	MaxConnections int `yaml:"maxConnections,omitempty" json:"maxConnections,omitempty" jsonschema:"minimum=1000,maximum=100000" edit:"rolling"`
}

// Limits of LoadBalancer.MaxConnections. A node holds about ten connections, and one or two for each pod that uses the API. Each connection costs HAProxy two file descriptors
// and, while it is idle, 3.4 KiB.
const (
	MinConnections = 1000
	MaxConnections = size.MostConnections
)

// CNI plugins that Quorate installs, that it installs from what the user gives, or not.
const (
	CNIFlannel  = "flannel"
	CNIManifest = "manifest"
	CNIChart    = "chart"
	CNINone     = "none"
)

// Whether flannel's nodes enforce network policies.
const (
	PoliciesEnforced = "enforced"
	PoliciesIgnored  = "ignored"
)

// Network holds the cluster's address ranges and its CNI plugin.
type Network struct {
	// CNI is flannel, manifest (your own plugin, from files), chart (your own plugin, from a Helm chart), or none (you
	// install a plugin after the cluster is built).
	CNI string `yaml:"cni,omitempty" json:"cni,omitempty" edit:"fixed"`
	// Policies says whether network policies are enforced with flannel: enforced or ignored. It does not apply to other
	// plugins.
	Policies string `yaml:"policies,omitempty" json:"policies,omitempty" edit:"rolling"`
	// Manifests are the files to apply for cni manifest, or directories of such files, relative to the spec.
	Manifests []string `yaml:"manifests,omitempty" json:"manifests,omitempty" edit:"rolling,local"`
	// Chart is the Helm chart that is rendered and applied for cni chart.
	Chart Chart `yaml:"chart,omitempty" json:"chart,omitempty"`
	// PodCIDR is the range of the pods; each node gets a /24 of it, or a /64 of an IPv6 range. For a dual-stack cluster, it is two ranges,
	// one of each IP family, separated by a comma. The first one's family is also that of the hosts, the endpoint, and etcd.
	PodCIDR string `yaml:"podCIDR,omitempty" json:"podCIDR,omitempty" edit:"fixed"`
	// ServiceCIDR is the range of the Services' virtual addresses, at most a /12, or a /108 for IPv6. For a dual-stack cluster, it is two
	// ranges, in the order of podCIDR.
	ServiceCIDR string `yaml:"serviceCIDR,omitempty" json:"serviceCIDR,omitempty" edit:"fixed"`
	// PodTrafficCIDR is the network of the nodes that carries the packets of pods between them, if that is not the network of their address. With flannel,
	// every node has one address in it. For a dual-stack cluster, it is two ranges, in the order of podCIDR, on the same network interface.
	PodTrafficCIDR string `yaml:"podTrafficCIDR,omitempty" json:"podTrafficCIDR,omitempty" edit:"fixed"`
}

// Chart is a Helm chart on the caller's machine. It is rendered there and applied like a manifest, without a Helm release.
type Chart struct {
	// Path is the chart's archive (.tgz) or directory, relative to the spec.
	Path string `yaml:"path,omitempty" json:"path,omitempty" edit:"rolling,local"`
	// Values is a YAML file with values, relative to the spec. The default is the chart's own values.
	Values string `yaml:"values,omitempty" json:"values,omitempty" edit:"rolling,local"`
	// Release is the release's name. Default: the chart's name.
	Release string `yaml:"release,omitempty" json:"release,omitempty" edit:"rolling"`
	// Namespace is the release's namespace. Default kube-system.
	Namespace string `yaml:"namespace,omitempty" json:"namespace,omitempty" edit:"rolling"`
}

// Sources of a bundle.
const (
	SourceModules  = "modules"
	SourceOfficial = "official"
	SourceMirror   = "mirror"
	SourceBundle   = "bundle"
)

// Components says where the bundle comes from.
type Components struct {
	// Source is modules (compiled from the Go module proxy), official (the projects' releases), mirror (the same from your
	// own servers), or bundle (a complete bundle from a file or a registry).
	Source string `yaml:"source,omitempty" json:"source,omitempty" edit:"rolling"`
	// File is the exported bundle that source bundle reads.
	File string `yaml:"file,omitempty" json:"file,omitempty" edit:"rolling,local"`
	// Reference is the pushed bundle that source bundle pulls, by digest: registry/repository@sha256:….
	Reference string `yaml:"reference,omitempty" json:"reference,omitempty" edit:"rolling"`
	// Releases is the base address of a mirror of released files. Each file is below it, at its original host name and path.
	Releases string `yaml:"releases,omitempty" json:"releases,omitempty" edit:"rolling"`
	// Registry is a mirror of the images: a registry's name, with or without a path.
	Registry string `yaml:"registry,omitempty" json:"registry,omitempty" edit:"rolling"`
	// CAFile holds CA certificates to trust for the mirror or the registry, in addition to the system's.
	CAFile string `yaml:"caFile,omitempty" json:"caFile,omitempty" edit:"free,local"`
	// Username is the user for the mirror or the registry. The default for registries is the login in Docker's configuration file.
	Username string `yaml:"username,omitempty" json:"username,omitempty" edit:"free,local"`
	// PasswordFile holds the user's password.
	PasswordFile string `yaml:"passwordFile,omitempty" json:"passwordFile,omitempty" edit:"free,local"`
	// Digest is the required digest of the bundle. A bundle with another digest is refused.
	Digest string `yaml:"digest,omitempty" json:"digest,omitempty" edit:"rolling"`
	// Signatures says which signatures are verified.
	Signatures Signatures `yaml:"signatures,omitempty" json:"signatures,omitempty"`
	// AMD64 and ARM64 name the bundle for hosts of that architecture, in clusters that have hosts of both. What they leave out
	// is as above.
	AMD64 ArchBundle `yaml:"amd64,omitempty" json:"amd64,omitzero"`
	ARM64 ArchBundle `yaml:"arm64,omitempty" json:"arm64,omitzero"`
}

// ArchBundle names the bundle for hosts of one architecture.
type ArchBundle struct {
	// File is the exported bundle for this architecture that source bundle reads.
	File string `yaml:"file,omitempty" json:"file,omitempty" edit:"rolling,local"`
	// Reference is the pushed bundle for this architecture that source bundle pulls, by digest.
	Reference string `yaml:"reference,omitempty" json:"reference,omitempty" edit:"rolling"`
	// Digest is the required digest of the bundle for this architecture.
	Digest string `yaml:"digest,omitempty" json:"digest,omitempty" edit:"rolling"`
}

// For is where the bundle for hosts of an architecture comes from.
func (c Components) For(arch string) Components {
	of := map[string]ArchBundle{"amd64": c.AMD64, "arm64": c.ARM64}[arch]
	c.AMD64, c.ARM64 = ArchBundle{}, ArchBundle{}
	if of == (ArchBundle{}) {
		return c
	}
	if of.File != "" || of.Reference != "" {
		c.File, c.Reference = of.File, of.Reference
	}
	c.Digest = of.Digest // that of the others is of another bundle
	return c
}

// Which signatures are verified.
const (
	SignaturesPublished = "published"
	SignaturesAll       = "all"
	SignaturesNone      = "none"
)

// Signatures says which signatures are verified before anything is used.
type Signatures struct {
	// Require is published (the signatures that the projects publish; the default for the source official), all (your own
	// signature on every file and image), or none (the default for the source mirror).
	Require string `yaml:"require,omitempty" json:"require,omitempty" edit:"free"`
	// PublicKeyFile is the public key in PEM with which everything must be signed, with require all.
	PublicKeyFile string `yaml:"publicKeyFile,omitempty" json:"publicKeyFile,omitempty" edit:"free,local"`
	// Identity is the e-mail address or URI of the signer of everything, with require all and without a key.
	Identity string `yaml:"identity,omitempty" json:"identity,omitempty" edit:"free"`
	// Issuer is the OIDC issuer that vouches for the identity, such as https://accounts.google.com.
	Issuer string `yaml:"issuer,omitempty" json:"issuer,omitempty" edit:"free"`
	// TrustedRootFile is a trusted_root.json to use instead of that of sigstore's public service.
	TrustedRootFile string `yaml:"trustedRootFile,omitempty" json:"trustedRootFile,omitempty" edit:"free,local"`
}

// Failover profiles: tuned timings, or the upstream defaults.
const (
	ProfileFast     = "fast"
	ProfileStandard = "standard"
)

// Failover selects how quickly failures are detected.
type Failover struct {
	// Profile is fast (timings tuned to detect failures within seconds) or standard (the upstream defaults).
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty" edit:"rolling"`
	// ElectionTimeout is how long etcd's members wait for a sign of their leader before they elect another one, from 300ms to 5s. The
	// leader gives one ten times as often. Without it, etcd's own default holds, which is 1s.
	ElectionTimeout string `yaml:"electionTimeout,omitempty" json:"electionTimeout,omitempty" edit:"rolling"`
}

// Roles of a host.
const (
	RoleControlPlane = "control-plane"
	RoleWorker       = "worker"
	RoleEtcd         = "etcd"
	RoleLoadBalancer = "load-balancer"
)

// Host is one Linux machine. Without an address it becomes a lab machine in `quorate up`.
type Host struct {
	// Name is the machine's host name, a DNS label; it becomes the name of the node.
	Name string `yaml:"name" json:"name" edit:"fixed,key"`
	// Address is the IP address at which the other hosts and the caller reach it.
	Address string `yaml:"address,omitempty" json:"address,omitempty" edit:"fixed"`
	// SecondaryAddress is the address of a node in the second IP family of a dual-stack cluster, on the same network interface.
	SecondaryAddress string `yaml:"secondaryAddress,omitempty" json:"secondaryAddress,omitempty" edit:"fixed"`
	// FrontAddress is the address of a load balancer in the network of the virtual IP, if that is not the network of address. The load balancers
	// exchange VRRP between these addresses, and the virtual IP is on their network interface.
	FrontAddress string `yaml:"frontAddress,omitempty" json:"frontAddress,omitempty" edit:"fixed"`
	// Roles are the roles of the host. A host can have several.
	Roles []string `yaml:"roles" json:"roles" edit:"fixed,set"`
	// Zone is the failure domain of the host; it becomes the label topology.kubernetes.io/zone.
	Zone string `yaml:"zone" json:"zone" edit:"rolling"`
	// Region is the region of the host, if it is not the cluster's region. A zone belongs to one region.
	Region string `yaml:"region,omitempty" json:"region,omitempty" edit:"rolling"`
	// FailsWith names what the host shares with other hosts besides its zone and fails together with: a rack, a switch, a
	// power feed, a storage system, a physical machine. `quorate audit` takes each name as one thing that can fail.
	FailsWith []string `yaml:"failsWith,omitempty" json:"failsWith,omitempty" edit:"free,set"`
	// SSH says how to reach the host, if not as root on port 22 with the default keys.
	SSH SSH `yaml:"ssh,omitempty" json:"ssh,omitempty"`
}

// SSH says how to reach a host.
type SSH struct {
	// Address is the address or DNS name at which this machine reaches sshd, if that is not the address of the host: one of a network for administration, or a
	// public one. The other hosts never use it.
	Address string `yaml:"address,omitempty" json:"address,omitempty" edit:"free"`
	// User is the user to log in as. Users other than root use sudo.
	User string `yaml:"user,omitempty" json:"user,omitempty" edit:"free"`
	// Port is the port at which this machine, or the last jump host, reaches sshd. A jump host has a port of its own in jump.
	Port int `yaml:"port,omitempty" json:"port,omitempty" jsonschema:"minimum=1,maximum=65535" edit:"free"`
	// HostPort is the port of sshd at the address of the host, if that is not port: behind a gateway that forwards a port of its own to each host. Control
	// planes that repair or observe hosts log in there.
	HostPort int `yaml:"hostPort,omitempty" json:"hostPort,omitempty" jsonschema:"minimum=1,maximum=65535" edit:"free"`
	// KeyFile is a private key, or a public key (.pub) whose private key the SSH agent has. A certificate next to it (-cert.pub)
	// is used, too. Without a key file, the keys of the SSH agent and the default ones in ~/.ssh are tried.
	KeyFile string `yaml:"keyFile,omitempty" json:"keyFile,omitempty" edit:"free,local"`
	// KnownHostsFile is where host keys are verified and, at first use, recorded. Default ~/.ssh/known_hosts.
	KnownHostsFile string `yaml:"knownHostsFile,omitempty" json:"knownHostsFile,omitempty" edit:"free,local"`
	// HostKey is the key that the host must have: its fingerprint (SHA256:…) as ssh-keygen -l prints it, or the public key
	// itself. Without it, known_hosts decides.
	HostKey string `yaml:"hostKey,omitempty" json:"hostKey,omitempty" edit:"free"`
	// Jump is a jump host as user@address:port, or several of them, separated by commas, in the order in which they are passed.
	Jump string `yaml:"jump,omitempty" json:"jump,omitempty" edit:"free"`
	// JumpKeyFile is the key for the jump hosts, if it is not keyFile. Where they accept different keys, it names one for each, separated by commas, in
	// the order of jump. An empty one stands for keyFile.
	JumpKeyFile string `yaml:"jumpKeyFile,omitempty" json:"jumpKeyFile,omitempty" edit:"free,local"`
}

// NodePool labels and taints a group of workers.
type NodePool struct {
	// Name is a DNS label.
	Name string `yaml:"name" json:"name" edit:"rolling,key"`
	// Size is the number of hosts in the pool. In a lab, a pool without hosts gets that many machines, spread over its zones.
	Size int `yaml:"size,omitempty" json:"size,omitempty" jsonschema:"minimum=1" edit:"free"`
	// Zones are the zones that the pool's hosts must be in. By default, they can be in any zone.
	Zones []string `yaml:"zones,omitempty" json:"zones,omitempty" edit:"free,set"`
	// Labels are set on the pool's nodes.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty" edit:"rolling"`
	// Taints are set on the pool's nodes.
	Taints []Taint `yaml:"taints,omitempty" json:"taints,omitempty" edit:"rolling"`
	// Hosts names the hosts of the pool; they need the role worker.
	Hosts []string `yaml:"hosts,omitempty" json:"hosts,omitempty" edit:"rolling,set"`
}

// Taint is a Kubernetes node taint.
type Taint struct {
	// Key is what tolerations refer to.
	Key string `yaml:"key" json:"key" edit:"rolling,key"`
	// Value is optional.
	Value string `yaml:"value,omitempty" json:"value,omitempty" edit:"rolling"`
	// Effect is NoSchedule, PreferNoSchedule or NoExecute.
	Effect string `yaml:"effect" json:"effect" edit:"rolling,key"`
}

// SSHAddress is where the caller reaches sshd, or the last jump host does.
func (h Host) SSHAddress() string { return cmp.Or(h.SSH.Address, h.Address) }

// Or fills in what a host does not say itself of how it is reached. An address and a host key are of one host, and a jump host of its own has a key of its own.
func (s SSH) Or(usual SSH) SSH {
	fill(&s.User, usual.User)
	fill(&s.Port, usual.Port)
	fill(&s.HostPort, usual.HostPort)
	fill(&s.KeyFile, usual.KeyFile)
	fill(&s.KnownHostsFile, usual.KnownHostsFile)
	if s.Jump == "" {
		fill(&s.JumpKeyFile, usual.JumpKeyFile)
		s.Jump = usual.Jump
	}
	return s
}

// JumpKeyFiles are the keys for the jump hosts, one for each of them, in the order of jump.
func (s SSH) JumpKeyFiles() []string {
	if s.Jump == "" {
		return nil
	}
	keys := strings.Split(s.JumpKeyFile, ",")
	if hops := strings.Count(s.Jump, ",") + 1; len(keys) == 1 {
		keys = slices.Repeat(keys, hops)
	}
	for i := range keys {
		fill(&keys[i], s.KeyFile)
	}
	return keys
}

// OneForAll joins the keys of jump hosts, as jumpKeyFile has them.
func OneForAll(keys []string) string {
	if len(slices.Compact(slices.Clone(keys))) == 1 {
		return keys[0]
	}
	return strings.Join(keys, ",")
}

// GatewayPorts are notes about hosts that are reached at one address, on a port for each of them: that address is of a gateway, and so are the ports. Where sshd
// listens on the hosts themselves is not known then.
func GatewayPorts(hosts []Host) (notes []string) {
	at := map[string][]string{}
	var gateways []string
	for _, h := range hosts {
		if h.SSH.Address == "" || h.SSH.HostPort != 0 {
			continue
		}
		if len(at[h.SSH.Address]) == 1 {
			gateways = append(gateways, h.SSH.Address)
		}
		at[h.SSH.Address] = append(at[h.SSH.Address], h.Name)
	}
	for _, g := range gateways {
		notes = append(notes, fmt.Sprintf("%s are reached at %s, on a port for each of them. If sshd listens on another port on the hosts themselves, set ssh.hostPort: control planes that repair or observe (repair.watch, monitoring.exporter) log in there.",
			few(at[g]), g))
	}
	return notes
}

// SSHPort is where sshd listens at the address of the host, and other hosts reach it. The caller uses SSH.Port, which can be that of a gateway.
func (h Host) SSHPort() int { return cmp.Or(h.SSH.HostPort, h.SSH.Port) }

// Inside is where other hosts reach sshd, as address:port.
func (h Host) Inside() string { return net.JoinHostPort(h.Address, strconv.Itoa(h.SSHPort())) }

// Has reports whether the host has the role.
func (h Host) Has(role string) bool { return slices.Contains(h.Roles, role) }

// PeerURL is the URL at which an etcd member on a host listens for the other members.
func PeerURL(address string) string { return "https://" + net.JoinHostPort(address, "2380") }

// ClientURL is the URL at which an etcd member on a host listens for clients.
func ClientURL(address string) string { return "https://" + net.JoinHostPort(address, "2379") }

// IsNode reports whether the host runs a kubelet.
func (h Host) IsNode() bool { return h.Has(RoleControlPlane) || h.Has(RoleWorker) }

// Planned is the number of nodes and pods that the cluster is planned for: what the spec says, or the hosts that it has if those are
// more, and Kubernetes' usual density.
func (c *Cluster) Planned() (nodes, pods int) {
	nodes = max(c.nodes(), c.Spec.Size.Nodes)
	return nodes, cmp.Or(c.Spec.Size.Pods, nodes*size.PodsPerNode)
}

// ForSize are the settings for the planned size. What the spec itself sets comes before them.
func (c *Cluster) ForSize() size.Settings { return size.SettingsOf(c.Planned()) }

// DNSReplicas is how many replicas of CoreDNS the spec asks for. Those that it asks for because of the size are the least, and not more
// than there are nodes, because a node runs only one of them.
func (c *Cluster) DNSReplicas() int {
	return cmp.Or(c.Spec.Settings.DNS.Replicas, max(size.DNSReplicas, min(c.ForSize().DNSReplicas, c.nodes())))
}

// DNSInZones reports whether CoreDNS's replicas must be in different zones: whether at least three zones have nodes that can run them. With
// two, the replica of a zone that is in maintenance would wait for that zone.
func (c *Cluster) DNSInZones() bool {
	zones := map[string]bool{}
	for _, h := range c.Spec.Hosts {
		if h.Has(RoleControlPlane) || h.Has(RoleWorker) && !c.tainted(h) { // CoreDNS tolerates the taint of control planes
			zones[h.Zone] = true
		}
	}
	delete(zones, "")
	return len(zones) >= 3
}

// WorkloadHosts are the nodes that take pods without tolerations.
func (c *Cluster) WorkloadHosts() (out []Host) {
	for _, h := range c.Spec.Hosts {
		if h.Has(RoleWorker) && !c.tainted(h) {
			out = append(out, h)
		}
	}
	return out
}

// WorkloadZones is the number of zones that have nodes that take pods without tolerations.
func (c *Cluster) WorkloadZones() int {
	zones := map[string]bool{}
	for _, h := range c.WorkloadHosts() {
		zones[h.Zone] = true
	}
	delete(zones, "")
	return len(zones)
}

// tainted reports whether the host's pool gives it a taint that keeps pods away.
func (c *Cluster) tainted(h Host) bool {
	for _, p := range c.Spec.NodePools {
		if slices.Contains(p.Hosts, h.Name) && slices.ContainsFunc(p.Taints, func(t Taint) bool { return t.Effect != "PreferNoSchedule" }) {
			return true
		}
	}
	return false
}

// nodes is the number of hosts that are nodes.
func (c *Cluster) nodes() (n int) {
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			n++
		}
	}
	return n
}

// HostsWith returns the hosts that have the role, in the order of the spec.
func (c *Cluster) HostsWith(role string) []Host {
	var out []Host
	for _, h := range c.Spec.Hosts {
		if h.Has(role) {
			out = append(out, h)
		}
	}
	return out
}

// BalancerHosts are the hosts that run the managed load balancers: those with the role load-balancer or, if there are none,
// the control planes. There are none with an external load balancer.
func (c *Cluster) BalancerHosts() []Host {
	if c.Spec.LoadBalancer.Type == BalancerExternal {
		return nil
	}
	if own := c.HostsWith(RoleLoadBalancer); len(own) > 0 {
		return own
	}
	return c.HostsWith(RoleControlPlane)
}

// Balances reports whether the host runs a managed load balancer.
func (c *Cluster) Balances(h Host) bool {
	return slices.ContainsFunc(c.BalancerHosts(), func(b Host) bool { return b.Name == h.Name })
}

// Watched reports whether a unit on each control plane observes the cluster: to repair it, to expose metrics, or for both.
func (c *Cluster) Watched() bool { return c.Spec.Repair.Watch || c.Spec.Monitoring.Exporter }

// InstallsPrometheus reports whether Prometheus runs in the cluster, and so whether the bundle needs its images.
func (c *Cluster) InstallsPrometheus() bool { return c.Spec.Monitoring.Prometheus.Install }

// StackedEtcd reports whether etcd runs on the control planes, as static pods.
func (c *Cluster) StackedEtcd() bool { return c.Spec.ControlPlane.Topology != TopologyExternal }

// VIPAddresses are the addresses of a load balancer in whose networks a virtual IP can be. That of the spec is in the network of the last one. While the
// endpoint moves into or out of the network of frontAddress, the load balancers have a virtual IP in both.
func (h Host) VIPAddresses() []string { return thatAreSet(h.Address, h.FrontAddress) }

// VIPAddress is the address of a load balancer in the network of the spec's virtual IP.
func (h Host) VIPAddress() string { return cmp.Or(h.FrontAddress, h.Address) }

// ManagedEtcd reports whether etcd runs on its own hosts and is managed by Quorate.
func (c *Cluster) ManagedEtcd() bool { return !c.StackedEtcd() && !c.ExistingEtcd() }

// ExistingEtcd reports whether the cluster uses an existing etcd that Quorate does not manage.
func (c *Cluster) ExistingEtcd() bool { return !c.StackedEtcd() && c.Spec.Etcd.given() }

func (e Etcd) given() bool {
	return len(e.Endpoints) > 0 || e.CAFile != "" || e.CertFile != "" || e.KeyFile != ""
}

// EtcdHosts returns the hosts that each run an etcd member; none for an existing etcd.
func (c *Cluster) EtcdHosts() []Host {
	switch {
	case c.StackedEtcd():
		return c.HostsWith(RoleControlPlane)
	case c.ManagedEtcd():
		return c.HostsWith(RoleEtcd)
	}
	return nil
}

// Host finds a host by name.
func (c *Cluster) Host(name string) (Host, bool) {
	for _, h := range c.Spec.Hosts {
		if h.Name == name {
			return h, true
		}
	}
	return Host{}, false
}

// NeedsLab reports whether no host has an address, so that the hosts have to be lab machines.
func (c *Cluster) NeedsLab() bool {
	return !slices.ContainsFunc(c.Spec.Hosts, func(h Host) bool { return h.Address != "" })
}

// Equal says whether both ask for the same cluster, wherever each was written.
func (c *Cluster) Equal(o *Cluster) bool {
	a, b := *c, *o
	a.src, b.src, a.files, b.files = nil, nil, nil, nil
	return reflect.DeepEqual(a, b)
}
