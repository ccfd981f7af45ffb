package kubeadm

import (
	"encoding/base64"
	"regexp"
	"slices"

	"sigs.k8s.io/yaml"
)

var serverLine = regexp.MustCompile(`(?m)^(\s*(?:- )?server:[ \t]*)"?([^\s"]+)"?[ \t]*$`)

var authorityLine = regexp.MustCompile(`(?m)^(\s*(?:- )?certificate-authority-data:[ \t]*)"?([A-Za-z0-9+/=]+)"?[ \t]*$`)

// WithAuthority is a kubeconfig whose clusters trust these certificates, as far as they have any inside. Everything else stays as it is.
func WithAuthority(kubeconfig string, certificates []byte) string {
	return authorityLine.ReplaceAllString(kubeconfig, "${1}"+base64.StdEncoding.EncodeToString(certificates))
}

// AuthorityOf are the certificates in PEM that the first cluster of a kubeconfig trusts; nil if it holds none.
func AuthorityOf(kubeconfig string) []byte {
	found := authorityLine.FindStringSubmatch(kubeconfig)
	if found == nil {
		return nil
	}
	out, err := base64.StdEncoding.DecodeString(found[2])
	if err != nil {
		return nil
	}
	return out
}

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
