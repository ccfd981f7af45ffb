package kubeadm

import (
	"bytes"

	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// InitByHand renders the configuration that a person writes for the documented kubeadm init: kubeadm generates the bootstrap
// token, and keys of its default type. The API servers list themselves as addresses of their Service.
func (c Config) InitByHand(h spec.Host) ([]byte, error) {
	c.byHand = true
	cluster := c.clusterConfiguration()
	delete(cluster, "encryptionAlgorithm")
	return documents(c.patchedByHand(initConfiguration(h, nodeRegistration(h)), h), cluster, c.kubeletConfiguration(), c.proxyConfiguration())
}

// EtcdHostByHand is EtcdHost with keys of kubeadm's default type.
func (c Config) EtcdHostByHand(h spec.Host) ([]byte, error) {
	config, err := c.EtcdHost(h)
	return bytes.ReplaceAll(config, []byte("encryptionAlgorithm: "+encryptionAlgorithm+"\n"), nil), err
}

// JoinWords are the join parameters that kubeadm init prints.
type JoinWords struct {
	Token, CAHash  string
	CertificateKey string // with which a control plane decrypts the uploaded certificates
}

// JoinByHand renders kubeadm's documented join command as a file, because a kubelet's arguments can be set only there.
func (c Config) JoinByHand(h spec.Host, w JoinWords) ([]byte, error) {
	join := joinConfiguration(h, object{"bootstrapToken": object{
		"token": w.Token, "apiServerEndpoint": c.Cluster.Spec.ControlPlane.Endpoint, "caCertHashes": []string{w.CAHash},
	}})
	if cp, ok := join["controlPlane"].(object); ok {
		cp["certificateKey"] = w.CertificateKey
	}
	return documents(c.patchedByHand(join, h))
}

// patchedByHand adds the patches of static pods, if a cluster that is built by hand is to have one.
func (c Config) patchedByHand(configuration object, h spec.Host) object {
	if _, has := hostconfig.PlainAPIServerPatch(c.Cluster); !has {
		return configuration
	}
	return patched(configuration, h)
}
