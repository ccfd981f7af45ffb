package kubeadm

import (
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// EtcdHost renders the configuration with which kubeadm creates the certificates of an external etcd member.
func (c Config) EtcdHost(h spec.Host) ([]byte, error) {
	return documents(initConfiguration(h, object{"name": h.Name, "criSocket": criSocket}), object{
		"apiVersion": apiVersion, "kind": "ClusterConfiguration",
		"clusterName":         c.Cluster.Metadata.Name,
		"kubernetesVersion":   c.Cluster.Spec.Kubernetes.Version,
		"encryptionAlgorithm": encryptionAlgorithm,
	})
}

// external is kubeadm's description of an etcd that is not on the control planes.
func (c Config) external() object {
	return object{"external": object{
		"endpoints": hostconfig.EtcdEndpoints(c.Cluster),
		"caFile":    PKIDir + "/" + facts.EtcdPKI[0],
		"certFile":  PKIDir + "/" + facts.EtcdClientPKI[0],
		"keyFile":   PKIDir + "/" + facts.EtcdClientPKI[1],
	}}
}
