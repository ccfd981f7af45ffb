package kubeadm

import (
	"fmt"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/spec"
)

// replaceable are the API server's arguments that let it be replaced without anybody noticing.
func replaceable() map[string]string {
	return map[string]string{
		// API servers of two versions ask each other for what one of them does not know, and know each other by this.
		"peer-ca-file": filepath.Join(PKIDir, "ca.crt"),
		// An API server that is told to stop leaves the Service kubernetes.default immediately, and every node needs a moment to
		// know. Until then it serves; after that it ends its watches, which would keep it running until it is killed. Both
		// fit into the half minute that the kubelet gives it.
		"shutdown-delay-duration": "5s", "shutdown-watch-termination-grace-period": "10s",
	}
}

// WithVersion is a stored ClusterConfiguration with another version.
func WithVersion(stored, version string) (string, error) {
	var cluster object
	if err := yaml.Unmarshal([]byte(stored), &cluster); err != nil || cluster["kind"] != "ClusterConfiguration" {
		return "", fmt.Errorf("the ConfigMap kubeadm-config holds no ClusterConfiguration: %w", err)
	}
	cluster["kubernetesVersion"] = version
	text, err := yaml.Marshal(cluster)
	return string(text), err
}

// Upgraded renders the configuration of kubeadm init for a control plane that gets another version: its own InitConfiguration,
// and the ClusterConfiguration as the cluster has stored it, with the version.
func Upgraded(h spec.Host, stored, version string) ([]byte, error) {
	var cluster object
	if err := yaml.Unmarshal([]byte(stored), &cluster); err != nil || cluster["kind"] != "ClusterConfiguration" {
		return nil, fmt.Errorf("the ConfigMap kubeadm-config holds no ClusterConfiguration: %w", err)
	}
	cluster["kubernetesVersion"] = version
	server, _ := cluster["apiServer"].(object)
	if server == nil {
		server = object{}
	}
	given, _ := server["extraArgs"].([]any)
	for _, a := range args(replaceable()) {
		if !hasArg(given, a.Name) {
			given = append(given, object{"name": a.Name, "value": a.Value})
		}
	}
	server["extraArgs"], cluster["apiServer"] = given, server
	return documents(patched(initConfiguration(h, nodeRegistration(h)), h), cluster)
}

// WithAddons takes back that addons are disabled in the ClusterConfiguration that a cluster has stored. Clusters that an older
// quorate built say so of addons that they have. If there is nothing to take back, the text stays as it is.
func WithAddons(stored string, proxy, dns bool) (string, error) {
	var cluster object
	if err := yaml.Unmarshal([]byte(stored), &cluster); err != nil || cluster["kind"] != "ClusterConfiguration" {
		return "", fmt.Errorf("the ConfigMap kubeadm-config holds no ClusterConfiguration: %w", err)
	}
	changed := false
	for name, installed := range map[string]bool{"proxy": proxy, "dns": dns} {
		if addon, _ := cluster[name].(object); installed && addon["disabled"] == true {
			delete(addon, "disabled")
			changed = true
		}
	}
	if !changed {
		return stored, nil
	}
	out, err := yaml.Marshal(cluster)
	return string(out), err
}

func hasArg(list []any, name string) bool {
	for _, x := range list {
		if a, _ := x.(object); a["name"] == name {
			return true
		}
	}
	return false
}

// Upgrade renders the configuration of kubeadm upgrade. Certificates are not renewed: that would restart etcd for nothing.
func Upgrade(version string) ([]byte, error) {
	return documents(object{"apiVersion": apiVersion, "kind": "UpgradeConfiguration",
		"apply": object{"kubernetesVersion": version, "certificateRenewal": false, "etcdUpgrade": false},
		"node":  object{"certificateRenewal": false, "etcdUpgrade": false}})
}
