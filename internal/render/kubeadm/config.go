// Package kubeadm renders kubeadm's configuration. It is pure; hostside/kubeadm runs its phases.
package kubeadm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const (
	apiVersion = "kubeadm.k8s.io/v1beta4"
	criSocket  = "unix:///run/containerd/containerd.sock"

	encryptionAlgorithm = "ECDSA-P256"

	// apiPatience is how long kubeadm waits for the first answer of an API server; its own default is one minute.
	apiPatience = "4m0s"
)

// PKIDir is where kubeadm keeps the certificates and keys of a host.
const PKIDir = "/etc/kubernetes/pki"

// TokenLifetime is how long a bootstrap token is valid. Anyone who has it can join a host, so it is short and is extended for
// each join of a run. After a killed run, the token expires soon.
const TokenLifetime = 10 * time.Minute

// TokenDescription marks the bootstrap tokens that Quorate creates and removes.
const TokenDescription = "quorate apply"

type object = map[string]any

type arg struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// args renders extraArgs in a stable order.
func args(m map[string]string) []arg {
	var out []arg
	for k, v := range m {
		out = append(out, arg{k, v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Config is everything from which kubeadm's files are rendered. Each run of apply generates the secrets.
type Config struct {
	Cluster *spec.Cluster
	// Facts of all nodes, because kubeadm has one kubelet and one kube-proxy configuration for a whole cluster.
	Facts []*facts.Facts
	Token string
	CA    string // PEM
	// Backup identifies the restore with which a new cluster's etcd begins (see hostconfig.EtcdToken); empty for an etcd that begins without data.
	Backup string
	// byHand says that nobody makes the endpoint the address of the API's Service.
	byHand bool
}

// StackedEtcd is the stacked etcd that is started with these members. It needs the cluster's CA.
func (c Config) StackedEtcd(members []plan.Member) (hostconfig.EtcdCluster, error) {
	token, err := hostconfig.EtcdToken(c.Cluster.Metadata.Name, c.CA, c.Backup)
	out := hostconfig.EtcdCluster{Token: token}
	for _, m := range members {
		out.Members = append(out.Members, hostconfig.EtcdMember(m.Name, m.Address))
	}
	return out, err
}

// Init renders the configuration of kubeadm init for one control plane. With members, etcd starts as one cluster of all of
// them, and the cluster's CA must be known. That variant must never be uploaded, because its arguments would override what
// later joins compute.
func (c Config) Init(h spec.Host, members []plan.Member) ([]byte, error) {
	cluster := c.clusterConfiguration()
	if len(members) > 0 {
		etcd, err := c.StackedEtcd(members)
		if err != nil {
			return nil, err
		}
		cluster["etcd"] = c.localEtcd(map[string]string{
			"initial-cluster":       strings.Join(etcd.Members, ","),
			"initial-cluster-state": "new",
			"initial-cluster-token": etcd.Token,
		})
	}
	init := patched(initConfiguration(h, nodeRegistration(h)), h)
	// Its API server cannot work until the hosts of a majority of etcd's members are ready to start theirs.
	init["timeouts"] = object{"kubernetesAPICall": apiPatience}
	init["bootstrapTokens"] = []object{{
		"token": c.Token, "ttl": TokenLifetime.String(), "description": TokenDescription,
		"usages": []string{"signing", "authentication"}, "groups": []string{"system:bootstrappers:kubeadm:default-node-token"},
	}}
	return documents(init, cluster, c.kubeletConfiguration(), c.proxyConfiguration())
}

func initConfiguration(h spec.Host, registration object) object {
	return object{"apiVersion": apiVersion, "kind": "InitConfiguration", "nodeRegistration": registration, "localAPIEndpoint": localEndpoint(h)}
}

// patched adds the patches of static pods, which every control plane has.
func patched(configuration object, h spec.Host) object {
	if h.Has(spec.RoleControlPlane) {
		configuration["patches"] = object{"directory": hostconfig.PatchesDir}
	}
	return configuration
}

func localEndpoint(h spec.Host) object {
	return object{"advertiseAddress": h.Address, "bindPort": 6443}
}

// Worker renders the configuration with which kubeadm init starts a worker's kubelet. To kubeadm init, a CA certificate
// without its key means an external CA, so that every other certificate must exist. It is therefore pointed to another
// directory, and the kubelet to the real certificate.
func (c Config) Worker(h spec.Host) ([]byte, error) {
	cluster, kubelet := c.clusterConfiguration(), c.kubeletConfiguration()
	cluster["certificatesDir"] = "/run/quorate/pki"
	kubelet["authentication"] = object{"x509": object{"clientCAFile": PKIDir + "/ca.crt"}}
	return documents(initConfiguration(h, nodeRegistration(h)), cluster, kubelet)
}

// Join renders the configuration of kubeadm join. The cluster is known by its CA, so there is nothing to discover.
func (c Config) Join(h spec.Host, discoveryFile string) ([]byte, error) {
	return documents(patched(joinConfiguration(h, object{"file": object{"kubeConfigPath": discoveryFile}, "tlsBootstrapToken": c.Token}), h))
}

func joinConfiguration(h spec.Host, discovery object) object {
	join := object{"apiVersion": apiVersion, "kind": "JoinConfiguration", "nodeRegistration": nodeRegistration(h), "discovery": discovery}
	if h.Has(spec.RoleControlPlane) {
		join["controlPlane"] = object{"localAPIEndpoint": localEndpoint(h)}
	}
	return join
}

// Discovery is the kubeconfig with the cluster's endpoint and CA for a joining host.
func (c Config) Discovery() ([]byte, error) {
	return documents(object{"apiVersion": "v1", "kind": "Config", "clusters": []object{{"name": "", "cluster": c.server()}}})
}

// Kubelet is the kubeconfig of a worker's kubelet, with its certificate where the kubelet renews it.
func (c Config) Kubelet() ([]byte, error) {
	pair := CurrentPair(KubeletPKI, Client)
	return documents(object{"apiVersion": "v1", "kind": "Config", "current-context": "default-context",
		"clusters": []object{{"name": "default-cluster", "cluster": c.server()}},
		"contexts": []object{{"name": "default-context", "context": object{"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}},
		"users":    []object{{"name": "default-auth", "user": object{"client-certificate": pair, "client-key": pair}}},
	})
}

// server is the cluster entry of a kubeconfig.
func (c Config) server() object {
	return object{
		"server":                     "https://" + c.Cluster.Spec.ControlPlane.Endpoint,
		"certificate-authority-data": []byte(c.CA),
	}
}

func (c Config) clusterConfiguration() object {
	s := c.Cluster.Spec
	controllerManager, scheduler := hardened(), hardened()
	apiServer := secureAPIServer()
	maps.Copy(apiServer, map[string]string{
		// HTTP/2 clients stay with one API server until it sends GOAWAY. A few are moved all the time, so that a control plane
		// that has rejoined gets its share again.
		"goaway-chance": "0.001",
	})
	maps.Copy(apiServer, replaceable())
	if hostconfig.SharesAPIPort(c.Cluster) {
		apiServer[hostconfig.PortSharing] = "true"
	}
	if hostconfig.PodsUseEndpoint(c.Cluster) && !c.byHand {
		apiServer[hostconfig.ReconcilerArgument] = hostconfig.NoReconciler
	}
	profile, _ := hostconfig.Profile(c.Cluster)
	for program, arguments := range map[string]map[string]string{facts.APIServer: apiServer, facts.ControllerManager: controllerManager, facts.Scheduler: scheduler} {
		for name, value := range profile[program] {
			if value != "" {
				arguments[name] = value
			}
		}
	}
	settings := hostconfig.Arguments(c.Cluster)
	maps.Copy(apiServer, settings[facts.APIServer])
	maps.Copy(controllerManager, settings[facts.ControllerManager])
	maps.Copy(scheduler, settings[facts.Scheduler])
	sans := []string{hostconfig.EndpointHost(c.Cluster)}
	if s.LoadBalancer.Address != "" {
		sans = append(sans, s.LoadBalancer.Address)
	}
	cluster := object{
		"apiVersion": apiVersion, "kind": "ClusterConfiguration",
		"clusterName":          c.Cluster.Metadata.Name,
		"kubernetesVersion":    s.Kubernetes.Version,
		"controlPlaneEndpoint": s.ControlPlane.Endpoint,
		"encryptionAlgorithm":  encryptionAlgorithm,
		"networking":           object{"podSubnet": s.Network.PodCIDR, "serviceSubnet": s.Network.ServiceCIDR, "dnsDomain": "cluster.local"},
		"apiServer":            object{"certSANs": sans, "extraArgs": args(apiServer), "extraVolumes": apiServerVolumes()},
		"controllerManager":    object{"extraArgs": args(controllerManager)},
		"scheduler":            object{"extraArgs": args(scheduler)},
		"etcd":                 c.localEtcd(nil),
	}
	if !c.Cluster.StackedEtcd() {
		cluster["etcd"] = c.external()
	}
	return cluster
}

func nodeRegistration(h spec.Host) object {
	var labels []string
	for k, v := range plan.NodeLabels(h) {
		labels = append(labels, k+"="+v)
	}
	sort.Strings(labels)
	taints := []object{}
	for _, t := range plan.Taints(h) {
		taints = append(taints, object{"key": t.Key, "effect": t.Effect})
	}
	return object{
		"name": h.Name, "criSocket": criSocket, "taints": taints,
		"kubeletExtraArgs": args(map[string]string{"node-ip": strings.Join(h.Addresses(), ","), "node-labels": strings.Join(labels, ",")}),
	}
}

func (c Config) kubeletConfiguration() object {
	k := object{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "systemd"}
	maps.Copy(k, secureKubelet)
	for _, f := range c.Facts {
		if !f.CgroupV2 {
			k["cgroupDriver"], k["failCgroupV1"] = "cgroupfs", false
		}
		if f.Container != "" {
			k["failSwapOn"] = false // the swap belongs to the machine below, and a container cannot switch it off
		}
	}
	if facts.AllContainers(c.Facts) {
		maps.Copy(k, hostconfig.InContainers())
	}
	_, profile := hostconfig.Profile(c.Cluster)
	for field, value := range profile {
		if value != nil {
			k[field] = value
		}
	}
	maps.Copy(k, hostconfig.KubeletFields(c.Cluster, c.Facts))
	return k
}

func (c Config) proxyConfiguration() object {
	p := object{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables"}
	for _, f := range c.Facts {
		if !f.CanSetConntrack {
			p["conntrack"] = object{"maxPerCore": 0, "min": 0}
		}
	}
	return p
}

func documents(docs ...object) ([]byte, error) {
	var b bytes.Buffer
	for i, d := range docs {
		if i > 0 {
			b.WriteString("---\n")
		}
		y, err := yaml.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("rendering kubeadm's configuration: %w", err)
		}
		b.Write(y)
	}
	return b.Bytes(), nil
}

// WithClusterConfiguration renders the configuration of kubeadm init for a control plane of an existing cluster: its own
// InitConfiguration, and the ClusterConfiguration that is stored in the cluster.
func WithClusterConfiguration(h spec.Host, stored string) ([]byte, error) {
	var cluster object
	if err := yaml.Unmarshal([]byte(stored), &cluster); err != nil || cluster["kind"] != "ClusterConfiguration" {
		return nil, fmt.Errorf("the ConfigMap kubeadm-config contains no ClusterConfiguration: %w", err)
	}
	return documents(patched(initConfiguration(h, nodeRegistration(h)), h), cluster)
}

// WithEtcdServers is a stored ClusterConfiguration with other members of an external etcd.
func WithEtcdServers(stored string, servers []string) (string, error) {
	var cluster object
	if err := yaml.Unmarshal([]byte(stored), &cluster); err != nil || cluster["kind"] != "ClusterConfiguration" {
		return "", fmt.Errorf("the ConfigMap kubeadm-config holds no ClusterConfiguration: %w", err)
	}
	etcd, _ := cluster["etcd"].(object)
	external, _ := etcd["external"].(object)
	if external == nil {
		return "", errors.New("the etcd of the stored ClusterConfiguration is not external")
	}
	external["endpoints"] = servers
	text, err := yaml.Marshal(cluster)
	return string(text), err
}
