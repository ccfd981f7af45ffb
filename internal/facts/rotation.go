package facts

import (
	"path"
	"slices"
	"time"
)

// Authority is a key pair of the cluster that others trust, and that can be replaced. Its name is that of `quorate certs rotate`.
type Authority string

// The authorities that Quorate can replace.
const (
	// KubernetesAuthority signs for API servers, kubelets, and the clients of the API.
	KubernetesAuthority Authority = "ca"
	// FrontProxyAuthority signs for API servers as clients of aggregated APIs.
	FrontProxyAuthority Authority = "front-proxy-ca"
)

// Authorities are those that Quorate can replace.
var Authorities = []Authority{KubernetesAuthority, FrontProxyAuthority}

// Public names the file below /etc/kubernetes/pki with what is trusted: the certificate whose key signs, and then others.
func (a Authority) Public() string { return string(a) + ".crt" }

// Certificate is the name of that file as of Certificate.Name.
func (a Authority) Certificate() string { return "pki/" + a.Public() }

// Key names the file below /etc/kubernetes/pki with the private key.
func (a Authority) Key() string { return KeyOf(a.Certificate()) }

// NextPublic and NextKey name the files with the certificate and the key that are to follow, while they do not sign yet.
func (a Authority) NextPublic() string { return string(a) + "-next.crt" }

// NextKey: see NextPublic.
func (a Authority) NextKey() string { return string(a) + "-next.key" }

// Shared says that all nodes trust the authority, and not only control planes.
func (a Authority) Shared() bool { return a == KubernetesAuthority }

// SigningFile holds, below /etc/kubernetes/pki and during a rotation of the Kubernetes CA, the certificate and the key with which the
// controller manager signs: it refuses a file with several certificates.
const SigningFile = "ca-signing.pem"

// The arguments of the controller manager that name with what it signs, and their values: kubeadm's, and those during a rotation.
const (
	SigningCertificateFlag = "cluster-signing-cert-file"
	SigningKeyFlag         = "cluster-signing-key-file"
)

// SigningArguments are the values of these arguments while a rotation of the Kubernetes CA is in progress, or otherwise.
func SigningArguments(rotates bool) map[string]string {
	const dir = "/etc/kubernetes/pki"
	if rotates {
		file := path.Join(dir, SigningFile)
		return map[string]string{SigningCertificateFlag: file, SigningKeyFlag: file}
	}
	return map[string]string{SigningCertificateFlag: path.Join(dir, KubernetesAuthority.Public()), SigningKeyFlag: path.Join(dir, KubernetesAuthority.Key())}
}

// NextKey stands in a plan for the key that the plan makes.
const NextKey = "next"

// The ConfigMap in kube-system with what servers of aggregated APIs trust, and its keys for the Kubernetes CA and the front-proxy CA.
const (
	AuthenticationConfigMap = "extension-apiserver-authentication"
	ClientAuthorityKey      = "client-ca-file"
	ProxyAuthorityKey       = "requestheader-client-ca-file"
)

// Published are the names in API.Trusted under which the API tells clients to trust the authority.
func (a Authority) Published() []string {
	if a == FrontProxyAuthority {
		return []string{ProxyAuthorityKey}
	}
	return []string{"cluster-info", KubeProxy, RootCA, ClientAuthorityKey}
}

// RootCA is the ConfigMap, in every namespace, with the certificates of the Kubernetes CA that pods trust, and RootCAKey its key.
const (
	RootCA    = "kube-root-ca.crt"
	RootCAKey = "ca.crt"
)

// Trust is what a host has of an authority. Keys are named by the SHA-256 of the public key, in hexadecimal: certificates for the same
// key are the same to whoever trusts them.
type Trust struct {
	// Trusted are the keys that are trusted here, in the order of the file. The first one signs.
	Trusted []string `json:"trusted,omitempty"`
	// Key is the private key that is here; empty if there is none.
	Key string `json:"key,omitempty"`
	// Next is the key that is to follow, if its certificate and its private key are here.
	Next string `json:"next,omitempty"`
	// Apart says that the controller manager's file with what signs is here (see SigningFile).
	Apart bool `json:"apart,omitempty"`
	// PEM is the file with what is trusted, and Written is when it was last written.
	PEM     string    `json:"pem,omitempty"`
	Written time.Time `json:"written,omitzero"`
	// Kubeconfigs are the keys that the host's kubeconfigs trust, by file.
	Kubeconfigs map[string][]string `json:"kubeconfigs,omitempty"`
}

// Trusts says that exactly these keys are trusted here, by the file and by kubeconfigs, in any order.
func (t Trust) Trusts(keys ...string) bool {
	same := func(have []string) bool {
		return slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(keys)))
	}
	if !same(t.Trusted) {
		return false
	}
	for _, have := range t.Kubeconfigs {
		if !same(have) {
			return false
		}
	}
	return true
}

// SignedByAuthority says which authority signs a certificate on a host; empty if none does that Quorate can replace.
func (c Certificate) SignedByAuthority() Authority {
	switch c.Name {
	case KubeletClient, KubeletServer, KubeletKubeconfig, ApproverCertificate:
		return KubernetesAuthority
	}
	i := slices.IndexFunc(Authorities, func(a Authority) bool { return c.Signer() == a.Certificate() })
	if i < 0 {
		return ""
	}
	return Authorities[i]
}

// Kubeconfigs are the files below /etc/kubernetes that kubeadm and the kubelet write. Other files next to them are not theirs.
var Kubeconfigs = []string{"admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf", KubeletKubeconfig, "bootstrap-kubelet.conf"}
