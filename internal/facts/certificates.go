package facts

import (
	"path"
	"strings"
	"time"
)

// Certificate is one certificate in kubeadm's places, or Quorate's own.
type Certificate struct {
	// Name is the path below /etc/kubernetes of the certificate, or of the kubeconfig that holds it (admin.conf);
	// KubeletClient and KubeletServer are the kubelet's own, and ApproverCertificate is that of Quorate's approver.
	Name    string    `json:"name"`
	Begins  time.Time `json:"begins,omitzero"`
	Expires time.Time `json:"expires"`
	// Issuer is the common name of the authority that signed it. It is the authority's own for an authority.
	Issuer string `json:"issuer,omitempty"`
	// CA says that it is an authority's.
	CA bool `json:"ca,omitempty"`
	// SignedBy is the key that signed it (see Trust), as far as the host has a certificate of that authority.
	SignedBy string `json:"signedBy,omitempty"`
	// Written is when its file was last written.
	Written time.Time `json:"written,omitzero"`
}

// SuperAdminKubeconfig is for emergencies: no program uses it.
const SuperAdminKubeconfig = "super-admin.conf"

// KubeletKubeconfig holds the kubelet's client certificate on a host where kubeadm left it inside.
const KubeletKubeconfig = "kubelet.conf"

// The names of certificates that are not below /etc/kubernetes.
const (
	KubeletClient       = "kubelet-client"
	KubeletServer       = "kubelet-server"
	ApproverCertificate = "quorate-approver"
)

// The names of the certificates of authorities.
const (
	ClusterCA    = "pki/ca.crt"
	FrontProxyCA = "pki/front-proxy-ca.crt"
	EtcdCA       = "pki/etcd/ca.crt"
)

// ServingCertificate is with what an API server serves.
const ServingCertificate = "pki/apiserver.crt"

// EtcdClientCertificate is with what an API server comes to etcd.
const EtcdClientCertificate = "pki/apiserver-etcd-client.crt"

// signers are the authorities of the certificates that kubeadm makes.
var signers = map[string]string{
	"pki/apiserver.crt": ClusterCA, "pki/apiserver-kubelet-client.crt": ClusterCA, "pki/front-proxy-client.crt": FrontProxyCA,
	EtcdClientCertificate: EtcdCA, "pki/etcd/server.crt": EtcdCA, "pki/etcd/peer.crt": EtcdCA, "pki/etcd/healthcheck-client.crt": EtcdCA,
	"admin.conf": ClusterCA, SuperAdminKubeconfig: ClusterCA, "controller-manager.conf": ClusterCA, "scheduler.conf": ClusterCA,
}

// Signer names the certificate of the authority that signs it; empty for an authority, for the kubelet's certificates, and for one that
// kubeadm does not make.
func (c Certificate) Signer() string { return signers[c.Name] }

// KeyOf names the private key of an authority below /etc/kubernetes/pki.
func KeyOf(authority string) string {
	return strings.TrimPrefix(strings.TrimSuffix(authority, ".crt")+".key", "pki/")
}

// Programs are the programs of a control plane that read the certificate only when they start. All others read their certificates
// again when the files change.
func (c Certificate) Programs() []string {
	switch c.Name {
	case "controller-manager.conf":
		return []string{ControllerManager}
	case "scheduler.conf":
		return []string{Scheduler}
	}
	return nil
}

// File is where it is on its host.
func (c Certificate) File() string {
	switch c.Name {
	case KubeletClient, KubeletServer:
		return "/var/lib/kubelet/pki/" + c.Name + "-current.pem"
	case ApproverCertificate:
		return ApproverFile
	}
	return path.Join("/etc/kubernetes", c.Name)
}

// Backdated is how long before it is signed a certificate begins, for clocks that are a little behind, as with the controller manager.
const Backdated = 5 * time.Minute

// Lifetime is how long it is valid in all; 0 if that is not known.
func (c Certificate) Lifetime() time.Duration {
	if c.Begins.IsZero() {
		return 0
	}
	return c.Expires.Sub(c.Begins)
}

// WebhookCertificates is what calls or serves a part of the API outside of the API servers, and its certificates.
type WebhookCertificates struct {
	// Kind and Name are those of the object: a ValidatingWebhookConfiguration, MutatingWebhookConfiguration, CustomResourceDefinition, or
	// APIService. Part is the webhook's name in it. A server of an existing etcd has the kind Etcd and the name of the cluster.
	Kind string `json:"kind"`
	Name string `json:"name"`
	Part string `json:"part,omitempty"`
	// Server is the Service as namespace/name:port, or the URL.
	Server string `json:"server"`
	// Bundle are the certificates of the authorities that the API servers trust there, as far as the object names any.
	Bundle []Certificate `json:"bundle,omitempty"`
	// Serving is the certificate that the server presents; nil if it was not asked or did not answer, for the reason in Unknown.
	Serving *Certificate `json:"serving,omitempty"`
	Unknown string       `json:"unknown,omitempty"`
	// Problem is why API servers do not accept what the server presents.
	Problem string `json:"problem,omitempty"`
}
