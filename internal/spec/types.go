// Package spec holds the user's cluster.yaml: its types, defaults, validation and JSON schema.
// Apart from [Load], which reads one file, it does no I/O.
package spec

import (
	"reflect"
	"slices"
)

// APIVersion and Kind head every spec.
const (
	APIVersion = "quorate.dev/v1alpha1"
	Kind       = "Cluster"
)

// Cluster is the whole spec: what should be.
type Cluster struct {
	// APIVersion says which version of the format the file is written in.
	APIVersion string `yaml:"apiVersion" json:"apiVersion" edit:"free"`
	// Kind is always Cluster.
	Kind string `yaml:"kind" json:"kind" edit:"free"`
	// Metadata names the cluster.
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	// Spec is the cluster's shape.
	Spec Spec `yaml:"spec" json:"spec"`

	// src remembers where each field was written, so that [Validate] can name the line.
	// It is nil for a Cluster made in code.
	src *source
}

// Metadata names the cluster.
type Metadata struct {
	// Name is a DNS label; it names the lab, the kubeconfig context and the certificates' cluster.
	Name string `yaml:"name" json:"name" edit:"fixed"`
}

// Spec is the cluster's shape.
type Spec struct {
	// Region is where the hosts are, unless one says otherwise; it becomes the label topology.kubernetes.io/region.
	Region string `yaml:"region,omitempty" json:"region,omitempty" edit:"rolling"`
	// Kubernetes says which release to run.
	Kubernetes Kubernetes `yaml:"kubernetes,omitempty" json:"kubernetes,omitempty"`
	// ControlPlane describes the replicated API servers and the name that clients use.
	ControlPlane ControlPlane `yaml:"controlPlane" json:"controlPlane"`
	// Etcd names an etcd that exists already, for the topology external without hosts of the role etcd.
	Etcd Etcd `yaml:"etcd,omitempty" json:"etcd,omitempty"`
	// LoadBalancer is what stands in front of the API servers.
	LoadBalancer LoadBalancer `yaml:"loadBalancer,omitempty" json:"loadBalancer,omitempty"`
	// Network holds the cluster's address ranges and its CNI plugin.
	Network Network `yaml:"network,omitempty" json:"network,omitempty"`
	// Components says where the bundle comes from.
	Components Components `yaml:"components,omitempty" json:"components,omitempty"`
	// Failover chooses how quickly failures are noticed.
	Failover Failover `yaml:"failover,omitempty" json:"failover,omitempty"`
	// Hosts are all machines of the cluster.
	Hosts []Host `yaml:"hosts" json:"hosts" edit:"per-role"`
	// NodePools label and taint groups of workers.
	NodePools []NodePool `yaml:"nodePools,omitempty" json:"nodePools,omitempty" edit:"rolling"`
}

// Kubernetes says which release to run.
type Kubernetes struct {
	// Version is a full release such as v1.37.2. Without it, the newest that a bundle can be made of.
	Version string `yaml:"version,omitempty" json:"version,omitempty" edit:"fixed"`
}

// Topologies: etcd beside each apiserver, or on hosts of its own.
const (
	TopologyStacked  = "stacked"
	TopologyExternal = "external"
)

// Placements: spread over zones so that no zone holds a majority, or all in one zone.
const (
	PlacementRegional = "regional"
	PlacementZonal    = "zonal"
)

// ControlPlane describes the replicated apiservers and the name that clients use.
type ControlPlane struct {
	// Endpoint is the DNS name and port that every client uses for the API (kubeadm's controlPlaneEndpoint).
	Endpoint string `yaml:"endpoint" json:"endpoint" edit:"fixed"`
	// Topology is stacked, etcd beside each API server, or external, etcd on hosts of its own or one that exists already.
	Topology string `yaml:"topology,omitempty" json:"topology,omitempty" edit:"fixed"`
	// Placement is regional, etcd's members over at least three zones with a majority in none of them and the
	// control planes over at least two, or zonal, all in one zone.
	Placement string `yaml:"placement,omitempty" json:"placement,omitempty" edit:"free"`
}

// Etcd names an etcd that exists already. Quorate checks it, and never stops, changes or removes it.
type Etcd struct {
	// Endpoints are the client URLs of its members, such as https://10.0.0.41:2379.
	Endpoints []string `yaml:"endpoints,omitempty" json:"endpoints,omitempty" edit:"fixed,set"`
	// CAFile is the certificate of the authority that signed its servers' certificates, on the caller's machine.
	CAFile string `yaml:"caFile,omitempty" json:"caFile,omitempty" edit:"rolling,local"`
	// CertFile is a client certificate that it accepts; it and its key are handed to the control planes.
	CertFile string `yaml:"certFile,omitempty" json:"certFile,omitempty" edit:"rolling,local"`
	// KeyFile is the key of the client certificate.
	KeyFile string `yaml:"keyFile,omitempty" json:"keyFile,omitempty" edit:"rolling,local"`
}

// Balancer types.
const (
	BalancerManaged  = "managed"
	BalancerExternal = "external"
)

// LoadBalancer is what stands in front of the apiservers.
type LoadBalancer struct {
	// Type is managed, HAProxy and keepalived on the load-balancer hosts or, without any, on the control planes;
	// or external, the user's own.
	Type string `yaml:"type,omitempty" json:"type,omitempty" edit:"fixed"`
	// Address is the managed balancers' virtual IP, or the external balancer's address; the endpoint's name
	// resolves to it on every host. In a lab the virtual IP may be left out and is then taken from the lab's subnet.
	// An external balancer's may be left out where only DNS knows it.
	Address string `yaml:"address,omitempty" json:"address,omitempty" edit:"fixed"`
}

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
	// CNI is flannel, manifest (one of yours, from files), chart (one of yours, from a Helm chart) or none (you install
	// one when the cluster is there).
	CNI string `yaml:"cni,omitempty" json:"cni,omitempty" edit:"fixed"`
	// Policies says whether network policies are enforced with flannel: enforced, or ignored. Other plugins decide it
	// themselves.
	Policies string `yaml:"policies,omitempty" json:"policies,omitempty" edit:"rolling"`
	// Manifests are the files that are applied for cni manifest, or folders of them, relative to the spec.
	Manifests []string `yaml:"manifests,omitempty" json:"manifests,omitempty" edit:"rolling,local"`
	// Chart is the Helm chart that is rendered and applied for cni chart.
	Chart Chart `yaml:"chart,omitempty" json:"chart,omitempty"`
	// PodCIDR is the IPv4 range of the pods; each node gets a /24 of it.
	PodCIDR string `yaml:"podCIDR,omitempty" json:"podCIDR,omitempty" edit:"fixed"`
	// ServiceCIDR is the IPv4 range of the Services' virtual addresses, at most a /12.
	ServiceCIDR string `yaml:"serviceCIDR,omitempty" json:"serviceCIDR,omitempty" edit:"fixed"`
}

// Chart is a Helm chart on the caller's machine. It is rendered there and applied like a manifest: no Helm release is made.
type Chart struct {
	// Path is the chart's archive (.tgz) or folder, relative to the spec.
	Path string `yaml:"path,omitempty" json:"path,omitempty" edit:"rolling,local"`
	// Values is a YAML file of values, relative to the spec. Without it, the chart's own.
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
	// Source is modules (compiled from the Go module proxy), official (what the projects publish), mirror (the
	// same from servers of your own) or bundle (a file or a registry that has a whole bundle).
	Source string `yaml:"source,omitempty" json:"source,omitempty" edit:"rolling"`
	// File is the exported bundle that source bundle reads.
	File string `yaml:"file,omitempty" json:"file,omitempty" edit:"rolling,local"`
	// Reference is the pushed bundle that source bundle pulls, by digest: registry/repository@sha256:….
	Reference string `yaml:"reference,omitempty" json:"reference,omitempty" edit:"rolling"`
	// Releases is the base address of a mirror of released files; each is below it at its own host's name and path.
	Releases string `yaml:"releases,omitempty" json:"releases,omitempty" edit:"rolling"`
	// Registry is a mirror of the images: a registry's name, with or without a path.
	Registry string `yaml:"registry,omitempty" json:"registry,omitempty" edit:"rolling"`
	// CAFile holds certificates of authorities that are trusted for the mirror or the registry, beside the machine's own.
	CAFile string `yaml:"caFile,omitempty" json:"caFile,omitempty" edit:"free,local"`
	// Username logs in to the mirror or the registry. Without it, Docker's configuration file does for registries.
	Username string `yaml:"username,omitempty" json:"username,omitempty" edit:"free,local"`
	// PasswordFile holds the user's password.
	PasswordFile string `yaml:"passwordFile,omitempty" json:"passwordFile,omitempty" edit:"free,local"`
	// Digest is that of the bundle, if it must be exactly that one, whatever is published.
	Digest string `yaml:"digest,omitempty" json:"digest,omitempty" edit:"rolling"`
	// Signatures says which signatures are verified.
	Signatures Signatures `yaml:"signatures,omitempty" json:"signatures,omitempty"`
}

// Which signatures are verified.
const (
	SignaturesPublished = "published"
	SignaturesAll       = "all"
	SignaturesNone      = "none"
)

// Signatures says which signatures are verified before anything is used.
type Signatures struct {
	// Require is published, those that the projects publish themselves (the default of the source official), all, one
	// of your own on every file and image, or none (the default of the source mirror).
	Require string `yaml:"require,omitempty" json:"require,omitempty" edit:"free"`
	// PublicKeyFile is the public key in PEM with which everything must be signed, with require all.
	PublicKeyFile string `yaml:"publicKeyFile,omitempty" json:"publicKeyFile,omitempty" edit:"free,local"`
	// Identity is the e-mail address or URI that must have signed everything, with require all and without a key.
	Identity string `yaml:"identity,omitempty" json:"identity,omitempty" edit:"free"`
	// Issuer is who made sure of the identity, such as https://accounts.google.com.
	Issuer string `yaml:"issuer,omitempty" json:"issuer,omitempty" edit:"free"`
	// TrustedRootFile is a trusted_root.json that is used instead of the root of sigstore's public service.
	TrustedRootFile string `yaml:"trustedRootFile,omitempty" json:"trustedRootFile,omitempty" edit:"free,local"`
}

// Failover profiles: tuned timings, or the upstream defaults.
const (
	ProfileFast     = "fast"
	ProfileStandard = "standard"
)

// Failover chooses how quickly failures are noticed.
type Failover struct {
	// Profile is fast, timings tuned to notice failures within seconds, or standard, the upstream defaults.
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty" edit:"fixed"`
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
	// Address is the IPv4 address by which the other hosts and the caller reach it.
	Address string `yaml:"address,omitempty" json:"address,omitempty" edit:"fixed"`
	// Roles are what the host does. A host may have several.
	Roles []string `yaml:"roles" json:"roles" edit:"fixed,set"`
	// Zone names what fails together with the host; it becomes the label topology.kubernetes.io/zone.
	Zone string `yaml:"zone" json:"zone" edit:"rolling"`
	// Region is where the host is, if not in the cluster's region. A zone lies in one region.
	Region string `yaml:"region,omitempty" json:"region,omitempty" edit:"rolling"`
	// SSH says how the host is reached, if not as root on port 22 with the usual keys.
	SSH SSH `yaml:"ssh,omitempty" json:"ssh,omitempty"`
}

// SSH says how a host is reached.
type SSH struct {
	// User logs in, and uses sudo if it is not root.
	User string `yaml:"user,omitempty" json:"user,omitempty" edit:"free"`
	// Port is where sshd listens.
	Port int `yaml:"port,omitempty" json:"port,omitempty" jsonschema:"minimum=1,maximum=65535" edit:"free"`
	// KeyFile is a private key; without it the SSH agent and the usual keys in ~/.ssh are tried.
	KeyFile string `yaml:"keyFile,omitempty" json:"keyFile,omitempty" edit:"free,local"`
	// KnownHostsFile is where host keys are verified and, at first use, recorded. Default ~/.ssh/known_hosts.
	KnownHostsFile string `yaml:"knownHostsFile,omitempty" json:"knownHostsFile,omitempty" edit:"free,local"`
	// HostKey is the key that the host must have: its fingerprint (SHA256:…) as ssh-keygen -l prints it, or the public key
	// itself. Without it, known_hosts decides.
	HostKey string `yaml:"hostKey,omitempty" json:"hostKey,omitempty" edit:"free"`
	// Jump is a jump host as user@address:port.
	Jump string `yaml:"jump,omitempty" json:"jump,omitempty" edit:"free"`
}

// NodePool labels and taints a group of workers.
type NodePool struct {
	// Name is a DNS label.
	Name string `yaml:"name" json:"name" edit:"rolling,key"`
	// Size is how many hosts the pool has. A pool of a lab may name no hosts: then so many machines are made for it,
	// in turn in each of its zones.
	Size int `yaml:"size,omitempty" json:"size,omitempty" jsonschema:"minimum=1" edit:"free"`
	// Zones are the zones of the pool's hosts. Without it, whichever they are in.
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
	// Value may be left out.
	Value string `yaml:"value,omitempty" json:"value,omitempty" edit:"rolling"`
	// Effect is NoSchedule, PreferNoSchedule or NoExecute.
	Effect string `yaml:"effect" json:"effect" edit:"rolling,key"`
}

// Has says whether the host has the role.
func (h Host) Has(role string) bool { return slices.Contains(h.Roles, role) }

// IsNode says whether the host runs a kubelet.
func (h Host) IsNode() bool { return h.Has(RoleControlPlane) || h.Has(RoleWorker) }

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

// BalancerHosts are the hosts that run the managed balancer: those with the role load-balancer or, when there are none,
// the control planes. An external balancer has none.
func (c *Cluster) BalancerHosts() []Host {
	if c.Spec.LoadBalancer.Type == BalancerExternal {
		return nil
	}
	if own := c.HostsWith(RoleLoadBalancer); len(own) > 0 {
		return own
	}
	return c.HostsWith(RoleControlPlane)
}

// Balances says whether the host runs the managed balancer.
func (c *Cluster) Balances(h Host) bool {
	return slices.ContainsFunc(c.BalancerHosts(), func(b Host) bool { return b.Name == h.Name })
}

// StackedEtcd says that etcd runs on the control planes, as static pods.
func (c *Cluster) StackedEtcd() bool { return c.Spec.ControlPlane.Topology != TopologyExternal }

// ManagedEtcd says that etcd runs on hosts of its own, which Quorate looks after.
func (c *Cluster) ManagedEtcd() bool { return !c.StackedEtcd() && !c.ExistingEtcd() }

// ExistingEtcd says that etcd is the user's own, elsewhere.
func (c *Cluster) ExistingEtcd() bool { return !c.StackedEtcd() && c.Spec.Etcd.given() }

func (e Etcd) given() bool {
	return len(e.Endpoints) > 0 || e.CAFile != "" || e.CertFile != "" || e.KeyFile != ""
}

// EtcdHosts returns the hosts that have a member each; none for an etcd that exists already.
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

// NeedsLab says that no host has an address: the spec describes machines that are yet to be made.
func (c *Cluster) NeedsLab() bool {
	return !slices.ContainsFunc(c.Spec.Hosts, func(h Host) bool { return h.Address != "" })
}

// Equal says whether both ask for the same cluster, wherever each was written.
func (c *Cluster) Equal(o *Cluster) bool {
	a, b := *c, *o
	a.src, b.src = nil, nil
	return reflect.DeepEqual(a, b)
}
