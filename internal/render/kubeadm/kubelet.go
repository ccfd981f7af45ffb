package kubeadm

import "path/filepath"

// Usage is what a kubelet's certificate is for.
type Usage string

// The certificates of a kubelet, by the names of their files.
const (
	Serving Usage = "server" // serves API servers
	Client  Usage = "client" // authenticates to API servers as its node
)

// KubeletPKI is where a kubelet keeps its certificates and renews them.
const KubeletPKI = "/var/lib/kubelet/pki"

// CurrentPair is the link to a kubelet's current certificate and key.
func CurrentPair(dir string, usage Usage) string {
	return filepath.Join(dir, "kubelet-"+string(usage)+"-current.pem")
}
