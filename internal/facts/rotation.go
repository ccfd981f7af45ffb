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
	// EtcdAuthority signs for the members of etcd, and for API servers as its clients.
	EtcdAuthority Authority = "etcd-ca"
	// ServiceAccountKey signs the tokens of service accounts. It has no certificate: API servers trust the public key itself.
	ServiceAccountKey Authority = "sa"
)

// Authorities are those that Quorate can replace.
var Authorities = []Authority{KubernetesAuthority, FrontProxyAuthority, EtcdAuthority, ServiceAccountKey}

// Title names the authority in a sentence.
func (a Authority) Title() string {
	if a == ServiceAccountKey {
		return "the service account key"
	}
	return "the authority " + string(a)
}

// stem is what the names of its files below /etc/kubernetes/pki begin with.
func (a Authority) stem() string {
	if a == EtcdAuthority {
		return "etcd/ca"
	}
	return string(a)
}

// ending is that of the names of its public files.
func (a Authority) ending() string {
	if a == ServiceAccountKey {
		return ".pub"
	}
	return ".crt"
}

// Public names the file below /etc/kubernetes/pki with what is trusted: the certificate (of the service account key, the public key) whose
// key signs, and then others.
func (a Authority) Public() string { return a.stem() + a.ending() }

// Certificate is the name of that file as of Certificate.Name.
func (a Authority) Certificate() string { return "pki/" + a.Public() }

// Key names the file below /etc/kubernetes/pki with the private key.
func (a Authority) Key() string { return a.stem() + ".key" }

// NextPublic and NextKey name the files with the certificate and the key that are to follow, while they do not sign yet.
func (a Authority) NextPublic() string { return a.stem() + "-next" + a.ending() }

// NextKey: see NextPublic.
func (a Authority) NextKey() string { return a.stem() + "-next.key" }

// FormerPublic names the file with what signed before, of an authority that is read at start: from when the new key signs on the host until
// nothing that runs there trusts the old one any more.
func (a Authority) FormerPublic() string { return a.stem() + ".former" }

// Shared says that all nodes trust the authority, and not only control planes.
func (a Authority) Shared() bool { return a == KubernetesAuthority }

// ReadAtStart says that programs read the authority only when they start. Until they restart, they trust and sign as before, whatever is in
// the files.
func (a Authority) ReadAtStart() bool { return a == EtcdAuthority || a == ServiceAccountKey }

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
	switch a {
	case KubernetesAuthority:
		return []string{"cluster-info", KubeProxy, RootCA, ClientAuthorityKey}
	case FrontProxyAuthority:
		return []string{ProxyAuthorityKey}
	}
	return nil
}

// RootCA is the ConfigMap, in every namespace, with the certificates of the Kubernetes CA that pods trust, and RootCAKey its key.
const (
	RootCA    = "kube-root-ca.crt"
	RootCAKey = "ca.crt"
)

// Trust is what a host has of an authority. Keys are named by the SHA-256 of the public key, in hexadecimal: certificates for the same
// key are the same to whoever trusts them.
type Trust struct {
	// Trusted are the keys that are trusted here, in the order of the file, each of them once. The first one signs.
	Trusted []string `json:"trusted,omitempty"`
	// Key is the private key that is here; empty if there is none.
	Key string `json:"key,omitempty"`
	// Next is the key that is to follow, if its certificate and its private key are here, and NextPEM the certificate.
	Next    string `json:"next,omitempty"`
	NextPEM string `json:"nextPEM,omitempty"`
	// Former is the key that signed before, as long as something that runs may trust it (see Authority.FormerPublic), and FormerPEM the
	// file that has it.
	Former    string `json:"former,omitempty"`
	FormerPEM string `json:"formerPEM,omitempty"`
	// Apart says that the controller manager's file with what signs is here (see SigningFile).
	Apart bool `json:"apart,omitempty"`
	// PEM is the file with what is trusted, and Written is when that or the private key was last written.
	PEM     string    `json:"pem,omitempty"`
	Written time.Time `json:"written,omitzero"`
	// Until is when the first certificate expires that is trusted here for the key that signs: in the file, or in a kubeconfig. Zero for the
	// service account key.
	Until time.Time `json:"until,omitzero"`
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

// The arguments that name the files of these authorities.
const (
	EtcdCAFileFlag           = "etcd-cafile"                      // of API servers
	EtcdTrustedCAFlag        = "etcd/trusted-ca-file"             // of a member, as in Kubernetes.Flags
	EtcdPeerTrustedCAFlag    = "etcd/peer-trusted-ca-file"        // the same
	AccountKeyFileFlag       = "service-account-key-file"         // of API servers
	AccountSigningKeyFlag    = "service-account-signing-key-file" // of API servers
	AccountPrivateKeyFlag    = "service-account-private-key-file" // of controller managers
	AccountIssuerFlag        = "service-account-issuer"           // of API servers
	AccountPublishedKeysFlag = "service-account-jwks-uri"         // of API servers
)

// PodToken is a token of a service account that a kubelet keeps in a file for a pod.
type PodToken struct {
	// Pod is the pod's UID.
	Pod string `json:"pod"`
	// SignedBy is the key that signed it (see Trust), as the token says; empty if it does not.
	SignedBy string `json:"signedBy,omitempty"`
	// Age is for how long the file has held it, by the clock of the host.
	Age time.Duration `json:"ageNanoseconds"`
}
