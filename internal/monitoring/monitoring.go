// Package monitoring renders what a Prometheus of the user's own needs to watch a cluster: alert rules, scrape configuration, and the account
// with which it reads the metrics, as plain files and as objects of the Prometheus Operator. For users who have none, it renders Prometheus and what
// belongs to it. It is pure.
package monitoring

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

//go:embed rules.yaml
var rules []byte

const (
	// name is that of all objects, and of the job.
	name = "quorate"
	// system is the namespace of objects that belong to the cluster, and not to a Prometheus.
	system = "kube-system"
	// Where a Prometheus in the cluster has its token and the cluster's CA.
	podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
	podCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	// interval is how often Prometheus scrapes. Control planes observe every ten seconds.
	interval = "30s"
)

// Object is one API object, or a file of configuration.
type Object = map[string]any

// Options are what differs between installations of Prometheus.
type Options struct {
	// Namespace is where the objects of the Prometheus Operator go.
	Namespace string
	// Labels are those by which a Prometheus selects its objects.
	Labels map[string]string
	// TokenFile and CAFile are where Prometheus has its token and the cluster's CA. Empty is where a pod in the cluster has them.
	TokenFile, CAFile string
}

func (o Options) token() string {
	if o.TokenFile == "" {
		return podToken
	}
	return o.TokenFile
}

func (o Options) ca() string {
	if o.CAFile == "" {
		return podCA
	}
	return o.CAFile
}

// RulesFile are the alert rules, as a file for rule_files of prometheus.yml.
func RulesFile() []byte { return slices.Clone(rules) }

// PrometheusRule are the alert rules as an object of the Prometheus Operator.
func PrometheusRule(o Options) (Object, error) {
	var groups Object
	if err := yaml.UnmarshalStrict(rules, &groups); err != nil {
		return nil, fmt.Errorf("reading the alert rules: %w", err)
	}
	return Object{"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": o.metadata(), "spec": groups}, nil
}

func (o Options) metadata() Object {
	labels := Object{"app.kubernetes.io/name": name}
	for k, v := range o.Labels {
		labels[k] = v
	}
	return Object{"name": name, "namespace": o.Namespace, "labels": labels}
}

// Scrape is the part of prometheus.yml that scrapes the control planes of a cluster.
func Scrape(c *spec.Cluster, o Options) Object {
	var targets []any
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		targets = append(targets, hostconfig.ExporterAddress(h))
	}
	return Object{"scrape_configs": []any{Object{
		"job_name": name, "scheme": "https", "scrape_interval": interval,
		"authorization":  Object{"type": "Bearer", "credentials_file": o.token()},
		"tls_config":     Object{"ca_file": o.ca(), "server_name": hostconfig.ExporterName},
		"static_configs": []any{Object{"targets": targets}},
	}}}
}

// ServiceMonitor is the same for the Prometheus Operator: a Service whose endpoints are the control planes, and the object that has them
// scraped.
func ServiceMonitor(c *spec.Cluster, o Options) []Object {
	const port = "metrics"
	own := Object{"app.kubernetes.io/name": name}
	var addresses []any
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		addresses = append(addresses, Object{"ip": h.Address})
	}
	of := Object{"name": "quorate-exporter", "namespace": system, "labels": own}
	ports := []any{Object{"name": port, "port": spec.ExporterPort}}
	return []Object{
		{"apiVersion": "v1", "kind": "Service", "metadata": of, "spec": Object{"clusterIP": "None", "ports": ports}},
		{"apiVersion": "v1", "kind": "Endpoints", "metadata": of, "subsets": []any{Object{"addresses": addresses, "ports": ports}}},
		{"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": o.metadata(), "spec": Object{
			"jobLabel":          "app.kubernetes.io/name",
			"namespaceSelector": Object{"matchNames": []any{system}},
			"selector":          Object{"matchLabels": own},
			"endpoints": []any{Object{
				"port": port, "scheme": "https", "interval": interval,
				"bearerTokenFile": o.token(),
				"tlsConfig":       Object{"caFile": o.ca(), "serverName": hostconfig.ExporterName},
			}},
		}},
	}
}

// Account names a service account.
type Account struct{ Namespace, Name string }

// Access lets an account read the metrics. Unless it exists already, the account is made, with a token that does not expire, for a Prometheus
// that is not in the cluster.
func Access(a Account, exists bool) (out []Object) {
	const role = "quorate:metrics"
	if !exists {
		out = append(out,
			Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": Object{"name": a.Name, "namespace": a.Namespace}},
			Object{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
				"metadata": Object{"name": a.Name + "-token", "namespace": a.Namespace, "annotations": Object{"kubernetes.io/service-account.name": a.Name}}})
	}
	return append(out,
		Object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": Object{"name": role},
			"rules": []any{Object{"nonResourceURLs": []any{"/metrics"}, "verbs": []any{"get"}}}},
		Object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": Object{"name": role + ":" + a.Namespace + ":" + a.Name},
			"roleRef":  Object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
			"subjects": []any{Object{"kind": "ServiceAccount", "name": a.Name, "namespace": a.Namespace}}})
}

// List is what kubectl applies: one object, or a list of several.
func List(objects []Object) Object {
	if len(objects) == 1 {
		return objects[0]
	}
	items := make([]any, 0, len(objects))
	for _, o := range objects {
		items = append(items, o)
	}
	return Object{"apiVersion": "v1", "kind": "List", "items": items}
}

// YAML writes objects as documents of one stream.
func YAML(objects ...Object) ([]byte, error) {
	var b bytes.Buffer
	for i, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(text)
	}
	return b.Bytes(), nil
}
