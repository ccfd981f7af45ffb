package scale

import (
	_ "embed"
	"fmt"
	"net"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Machine is the machine of the lab that kwok runs on, and Zone its zone. Both are there for nothing else, so that no fault of a drill ends
// the simulation.
const (
	Machine = "simulator"
	Zone    = "simulator"
)

// Files and names on that machine.
const (
	Program    = "/usr/local/bin/kwok"
	Config     = "/etc/kwok/kwok.yaml"
	Kubeconfig = "/etc/kwok/kubeconfig"
	Token      = "/etc/kwok/token"
	Unit       = "quorate-kwok.service"
	UnitFile   = "/etc/systemd/system/" + Unit
	// HealthAddress answers when kwok has connected to the API.
	HealthAddress = "127.0.0.1:10247"
)

// Version is that of kwok.
func Version() string { return components.Simulator.Version }

// tokenLifetime is how long kwok can use the API. Each `quorate lab scale` renews it.
const tokenLifetime = 7 * 24 * time.Hour

//go:embed kwok.yaml
var stages string

// config is the configuration of kwok: how many things it does at the same time, and what nodes and pods go through.
func config() string {
	return `# Written by quorate lab scale.
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
metadata: {name: quorate}
options:
  nodeLeaseParallelism: 32
  nodePlayStageParallelism: 16
  podPlayStageParallelism: 32
---
` + stages
}

// leaseSeconds is the lease that kubelets of the cluster have: they renew it four times as often.
func leaseSeconds(c *spec.Cluster) int {
	if _, kubelet := hostconfig.Profile(c); kubelet["nodeLeaseDurationSeconds"] != nil {
		if n, ok := kubelet["nodeLeaseDurationSeconds"].(int); ok {
			return n
		}
	}
	return 40 // the kubelet's default
}

func unit(c *spec.Cluster) string {
	return fmt.Sprintf(`# Written by quorate lab scale.
[Unit]
Description=Simulated nodes and pods
Documentation=https://kwok.sigs.k8s.io/
StartLimitIntervalSec=0

[Service]
Environment=HOME=/root
ExecStart=%s --config=%s --kubeconfig=%s --manage-nodes-with-label-selector=%s=%s --node-lease-duration-seconds=%d --server-address=%s --v=WARN
Restart=always
RestartSec=1
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
`, Program, Config, Kubeconfig, facts.SimulatedLabel, running, leaseSeconds(c), HealthAddress)
}

// kubeconfig reaches the API as nodes do: through the endpoint, whose name the machine does not know. It names the file of the token, which kwok reads
// again every minute, so that a new token needs no restart.
func kubeconfig(c *spec.Cluster, ca []byte) ([]byte, error) {
	server := api.NewCluster()
	server.CertificateAuthorityData, server.TLSServerName = ca, hostconfig.EndpointHost(c)
	server.Server = "https://" + net.JoinHostPort(c.Spec.LoadBalancer.Address, hostconfig.EndpointPort(c))
	user := api.NewAuthInfo()
	user.TokenFile = Token
	out := api.NewConfig()
	out.Clusters[account], out.AuthInfos[account] = server, user
	out.Contexts[account] = &api.Context{Cluster: account, AuthInfo: account}
	out.CurrentContext = account
	return clientcmd.Write(*out)
}

// account is the service account of kwok in kube-system, its role, and the binding of both. It is no administrator: the API server exempts
// administrators from priority and fairness, and nodes are not exempt.
const account = "quorate-simulator"

// rules are what kwok does: it reports what nodes and pods would, and deletes pods that have ended.
var rules = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{""}, Resources: []string{"nodes/status", "pods/status"}, Verbs: []string{"patch", "update"}},
	{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"delete", "get", "list", "patch", "update", "watch"}},
	{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
	{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "list", "patch", "update", "watch"}},
}
