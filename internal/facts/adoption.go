package facts

import (
	"net"
	"strings"
	"time"
)

// What can be seen of a cluster that was built without Quorate.

// Kubeadm is what kubeadm's ClusterConfiguration in the API says.
type Kubeadm struct {
	// Version is the Kubernetes version with which control planes join.
	Version string `json:"version,omitempty"`
	// Cluster is the name of the cluster in kubeconfigs, and DNSDomain the domain of its Services.
	Cluster   string `json:"cluster,omitempty"`
	DNSDomain string `json:"dnsDomain,omitempty"`
	Endpoint  string `json:"endpoint"`
	// ServingNames are the names and addresses for which the API servers' certificates are made, besides those that kubeadm adds.
	ServingNames []string `json:"servingNames,omitempty"`
	PodCIDR      string   `json:"podCIDR"`
	ServiceCIDR  string   `json:"serviceCIDR"`
	// EtcdEndpoints are those of an external etcd.
	EtcdEndpoints []string `json:"etcdEndpoints,omitempty"`
	// EtcdTimers are those of the members of a stacked etcd; nil for another one.
	EtcdTimers *EtcdTimers `json:"etcdTimers,omitempty"`
	// Arguments are the extra arguments with which the programs of a control plane are started, by program and argument.
	Arguments map[string]map[string]string `json:"arguments,omitempty"`
	// Paths are the files and directories of a control plane that its static pods need besides what kubeadm brings.
	Paths []string `json:"paths,omitempty"`
	// CertificateLifetime is how long the certificates are valid that kubeadm signs; 0 for kubeadm's default.
	CertificateLifetime time.Duration `json:"certificateLifetimeNanoseconds,omitempty"`
}

// Network is a DaemonSet that configures the pods' network on every node.
type Network struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Images    []string `json:"images"`
}

// Flannel says that it is some kind of flannel.
func (n Network) Flannel() bool { return strings.Contains(n.Name, "flannel") }

// EncryptionFlag is where the API server's static pod names its encryption keys.
const EncryptionFlag = "kube-apiserver/encryption-provider-config"

// EtcdServersFlag lists the client URLs of an external etcd.
const EtcdServersFlag = "kube-apiserver/etcd-servers"

// ComparedFlags are the Flags that are read.
var ComparedFlags = []string{
	EncryptionFlag, "kube-apiserver/audit-policy-file", "kube-apiserver/authentication-config", "kube-apiserver/anonymous-auth",
	"kube-apiserver/kubelet-certificate-authority", EtcdServersFlag, "kube-controller-manager/node-monitor-grace-period",
	EtcdTrustedCAFlag, EtcdPeerTrustedCAFlag,
}

// OthersBalancing is what a HAProxy and a keepalived do that somebody else configured.
type OthersBalancing struct {
	Services []Service `json:"services,omitempty"`
	// Servers are where connections are sent to, with their ports.
	Servers []string `json:"servers,omitempty"`
	// VirtualIPs are the addresses that move between the balancers.
	VirtualIPs []string `json:"virtualIPs,omitempty"`
}

// Service is something that a load balancer offers.
type Service struct {
	Name string `json:"name"` // as its configuration has it, such as frontend web
	Bind string `json:"bind,omitempty"`
	// Statistics are about the load balancer itself.
	Statistics bool `json:"statistics,omitempty"`
}

// Port is the port that the service listens on; empty when that is not one port.
func (s Service) Port() string {
	if _, port, err := net.SplitHostPort(s.Bind); err == nil {
		return port
	}
	return s.Bind[strings.LastIndex(s.Bind, ":")+1:]
}
