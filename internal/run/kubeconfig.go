package run

import (
	"bytes"
	"encoding/json"
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

// Merge adds one kubeconfig to another and makes it the current one. It replaces entries of the same names, and reports
// whether any of them belonged to something else. New credentials for the same cluster do not.
func Merge(into, add *api.Config) (replaced bool) {
	known := false
	for name, cluster := range add.Clusters {
		have := into.Clusters[name]
		known = known || have != nil && same(have, cluster)
		replaced = replaced || have != nil && !same(have, cluster)
		into.Clusters[name] = cluster
	}
	for name, context := range add.Contexts {
		have := into.Contexts[name]
		replaced = replaced || have != nil && !same(have, context)
		into.Contexts[name] = context
	}
	for name, user := range add.AuthInfos {
		have := into.AuthInfos[name]
		replaced = replaced || have != nil && !known && !same(have, user)
		into.AuthInfos[name] = user
	}
	into.CurrentContext = add.CurrentContext
	return replaced
}

// same compares entries as they are written. The file that an entry was read from is no part of that.
func same(a, b any) bool {
	left, lerr := json.Marshal(a)
	right, rerr := json.Marshal(b)
	return lerr == nil && rerr == nil && bytes.Equal(left, right)
}
