package run

import (
	"fmt"
	"net"

	"k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// ForCaller turns a control plane's admin.conf into a kubeconfig for this machine. With byAddress it goes to the virtual
// IP and verifies the endpoint's name all the same: for callers whose DNS does not know a lab's names.
func ForCaller(c *spec.Cluster, admin []byte, byAddress bool) (*api.Config, error) {
	in, err := kube.ReadAdmin(admin)
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	name := c.Metadata.Name
	cluster := api.NewCluster()
	cluster.Server, cluster.CertificateAuthorityData = in.Server, in.CA
	if byAddress && c.Spec.LoadBalancer.Address != "" {
		cluster.Server = "https://" + net.JoinHostPort(c.Spec.LoadBalancer.Address, hostconfig.EndpointPort(c))
		cluster.TLSServerName = hostconfig.EndpointHost(c)
	}
	out := api.NewConfig()
	out.Clusters[name] = cluster
	user := api.NewAuthInfo()
	user.ClientCertificateData, user.ClientKeyData = in.Certificate, in.Key
	out.AuthInfos[name+"-admin"] = user
	out.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name + "-admin"}
	out.CurrentContext = name
	return out, nil
}

// Merge adds one kubeconfig to another, replacing entries of the same name.
func Merge(into, add *api.Config) {
	for k, v := range add.Clusters {
		into.Clusters[k] = v
	}
	for k, v := range add.AuthInfos {
		into.AuthInfos[k] = v
	}
	for k, v := range add.Contexts {
		into.Contexts[k] = v
	}
	into.CurrentContext = add.CurrentContext
}
