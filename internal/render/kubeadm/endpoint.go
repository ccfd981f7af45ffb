package kubeadm

import (
	"regexp"
	"slices"

	"sigs.k8s.io/yaml"
)

var serverLine = regexp.MustCompile(`(?m)^(\s*(?:- )?server:[ \t]*)"?([^\s"]+)"?[ \t]*$`)

// ServerOf is the API server that a kubeconfig names first; empty if it names none.
func ServerOf(kubeconfig string) string {
	if found := serverLine.FindStringSubmatch(kubeconfig); found != nil {
		return found[2]
	}
	return ""
}

// WithServer is a kubeconfig that names another server where it named one of some. Everything else stays as it is.
func WithServer(kubeconfig string, from []string, to string) string {
	return serverLine.ReplaceAllStringFunc(kubeconfig, func(line string) string {
		found := serverLine.FindStringSubmatch(line)
		if !slices.Contains(from, found[2]) {
			return line
		}
		return found[1] + to
	})
}

// WithEndpoint is a stored ClusterConfiguration with another endpoint, unless that is empty, and with other names for which the
// API servers' certificates are made: some more, and some less.
func WithEndpoint(stored, endpoint string, more, less []string) (string, error) {
	var cluster object
	if err := read(stored, "kubeadm-config", "ClusterConfiguration", &cluster); err != nil {
		return "", err
	}
	if endpoint != "" {
		cluster["controlPlaneEndpoint"] = endpoint
	}
	server, _ := cluster["apiServer"].(object)
	if server == nil {
		server = object{}
	}
	given, _ := server["certSANs"].([]any)
	var names []string
	for _, x := range given {
		if name, _ := x.(string); name != "" && !slices.Contains(less, name) {
			names = append(names, name)
		}
	}
	for _, name := range more {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	server["certSANs"] = names
	cluster["apiServer"] = server
	text, err := yaml.Marshal(cluster)
	return string(text), err
}
