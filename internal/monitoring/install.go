package monitoring

import (
	"bytes"
	_ "embed"
	"fmt"
	"net"
	"slices"
	"strconv"
	"text/template"

	"k8s.io/apimachinery/pkg/api/resource"

	"quorate.dev/quorate/internal/spec"
)

//go:embed install.yaml
var installed string

// Namespace is where the Prometheus of spec.monitoring.prometheus runs.
const Namespace = "quorate-monitoring"

// Deployments of it that use the API: a server reads what it trusts, and its token, again for each request; kube-state-metrics reads its token again, and
// what it trusts only when it starts.
const (
	Server       = "prometheus"
	StateMetrics = "kube-state-metrics"
)

// Images are the short names of the images that it needs.
var Images = []string{"prometheus", "alertmanager", "kube-state-metrics", "node-exporter"}

// Workload is a Deployment or a DaemonSet that is installed, and what it is for people.
type Workload struct{ Kind, Name, Title string }

// Workloads are all of them.
var Workloads = []Workload{
	{"Deployment", "prometheus", "Prometheus"},
	{"Deployment", "alertmanager", "Alertmanager"},
	{"Deployment", "kube-state-metrics", "kube-state-metrics"},
	{"DaemonSet", "node-exporter", "the node exporter"},
}

// Lacking says which image the spec needs and the bundle for an architecture does not have; empty if it has all. Such a bundle came as a file or from a
// registry, and was made for another cluster.
func Lacking(c *spec.Cluster, image func(short string) string, arch string) string {
	i := slices.IndexFunc(Images, func(short string) bool { return c.InstallsPrometheus() && image(short) == "" })
	if i < 0 {
		return ""
	}
	return "spec.monitoring.prometheus needs the image " + Images[i] + ", which the bundle for " + arch + " does not have"
}

// MakeBundle is what to do about a bundle for an architecture that lacks images, as a sentence without its period.
func MakeBundle(arch string) string {
	return "Make a bundle with `quorate bundle build --monitoring --arch " + arch + "` and export or push it with the same flags, or set `source: modules` in spec.components"
}

// installation is what the objects depend on.
type installation struct {
	c     *spec.Cluster
	image func(short string) string
}

// Image is an image's full name.
func (i installation) Image(short string) string { return i.image(short) }

// Storage is what a server may use of the disk of its node.
func (i installation) Storage() string { return i.c.Spec.Monitoring.Prometheus.Storage }

// Secret has the configuration of Alertmanager; empty if the user has none.
func (i installation) Secret() string { return i.c.Spec.Monitoring.Prometheus.AlertmanagerSecret }

// IPv6 says that pods and hosts are reached at IPv6 addresses: the first family of the cluster is that.
func (i installation) IPv6() bool { return i.c.Spec.Network.First() == spec.IPv6 }

// Any is where a program listens that is reached at all addresses of its pod, in front of a port.
func (i installation) Any() string {
	if i.IPv6() {
		return "[::]"
	}
	return "0.0.0.0"
}

// Host is the address that an environment variable has, in front of a port.
func (i installation) Host(variable string) string {
	if i.IPv6() {
		return "[$(" + variable + ")]"
	}
	return "$(" + variable + ")"
}

// NodePort is that of the node exporter.
func (i installation) NodePort() int { return spec.NodeExporterPort }

// Of is what the spreading of a program's replicas depends on.
func (i installation) Of(name string) any {
	return struct {
		Name  string
		Zones bool
	}{name, i.c.WorkloadZones() > 1}
}

// Memory is what a server asks for. It doubles with the number of nodes, so that not every new node restarts it.
func (i installation) Memory() string {
	mebibytes, enough := 512, 16
	for nodes, _ := i.c.Planned(); enough < nodes; enough *= 2 {
		mebibytes *= 2
	}
	return strconv.Itoa(mebibytes) + "Mi"
}

// Install are all objects of the Prometheus that spec.monitoring.prometheus installs, as YAML, in the order in which they are applied. image returns
// an image's full name for its short name.
func Install(c *spec.Cluster, image func(short string) string) ([]byte, error) {
	t, err := template.New("install.yaml").Parse(installed)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, installation{c, image}); err != nil {
		return nil, fmt.Errorf("rendering Prometheus: %w", err)
	}
	return b.Bytes(), nil
}

// ConfigMaps have the configuration of Prometheus, with the rules, and that of Alertmanager for users who have none.
func (i installation) ConfigMaps() (string, error) {
	config, err := serverConfig(i.c)
	if err != nil {
		return "", err
	}
	text, err := YAML(
		configMap("prometheus", map[string]string{"prometheus.yml": config, "quorate.rules.yaml": string(rules)}),
		configMap("alertmanager", map[string]string{"alertmanager.yaml": silent}))
	return string(text), err
}

func configMap(name string, data map[string]string) Object {
	return Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": Object{"name": name, "namespace": Namespace}, "data": data}
}

// silent is the configuration of an Alertmanager that shows alerts and sends them to nobody.
const silent = `route:
  receiver: nobody
receivers:
- name: nobody
`

// serverConfig is prometheus.yml. The targets are those of the spec: they are known while no API server answers, and Prometheus may not list anything.
func serverConfig(c *spec.Cluster) (string, error) {
	storage, err := resource.ParseQuantity(c.Spec.Monitoring.Prometheus.Storage)
	if err != nil {
		return "", fmt.Errorf("the storage of Prometheus: %w", err)
	}
	const mebibyte, part = 1 << 20, 8 // in tenths; the rest is for what is being written, which the limit does not count
	config := Object{
		"global":     Object{"scrape_interval": interval, "evaluation_interval": interval, "external_labels": Object{"cluster": c.Metadata.Name}},
		"rule_files": []any{"/etc/prometheus/*.rules.yaml"},
		"storage": Object{"tsdb": Object{"retention": Object{"time": c.Spec.Monitoring.Prometheus.Retention,
			"size": strconv.FormatInt(storage.Value()/mebibyte*part/10, 10) + "MB"}}},
		"alerting": Object{"alertmanagers": []any{Object{"dns_sd_configs": []any{alertmanagers(c)}}}},
	}
	jobs := Scrape(c, Options{})["scrape_configs"].([]any)
	config["scrape_configs"] = append(jobs,
		secured("kube-apiserver", "/metrics", targets(c.HostsWith(spec.RoleControlPlane), apiServerPort)),
		secured("kubelet", "/metrics", targets(nodes(c), kubeletPort)),
		secured("cadvisor", "/metrics/cadvisor", targets(nodes(c), kubeletPort)),
		Object{"job_name": "node-exporter", "static_configs": targets(nodes(c), spec.NodeExporterPort)},
		Object{"job_name": "kube-state-metrics", "honor_labels": true, "static_configs": []any{Object{"targets": []any{"kube-state-metrics." + Namespace + ".svc:8080"}}}},
		Object{"job_name": "alertmanager", "dns_sd_configs": []any{alertmanagers(c)}},
		Object{"job_name": "prometheus", "static_configs": []any{Object{"targets": []any{"localhost:9090"}}}},
	)
	text, err := YAML(config)
	return string(text), err
}

const (
	apiServerPort = 6443
	kubeletPort   = 10250
)

// alertmanagers finds all replicas.
func alertmanagers(c *spec.Cluster) Object {
	record := "A"
	if c.Spec.Network.First() == spec.IPv6 {
		record = "AAAA"
	}
	return Object{"names": []any{"alertmanager." + Namespace + ".svc"}, "type": record, "port": 9093}
}

// secured scrapes what asks the API who may get its metrics, and has a certificate of the cluster.
func secured(job, path string, targets []any) Object {
	return Object{"job_name": job, "scheme": "https", "metrics_path": path,
		"authorization":  Object{"type": "Bearer", "credentials_file": podToken},
		"tls_config":     Object{"ca_file": podCA},
		"static_configs": targets,
	}
}

func nodes(c *spec.Cluster) (out []spec.Host) {
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			out = append(out, h)
		}
	}
	return out
}

// targets have their node's name as a label, as the metrics of kube-state-metrics have.
func targets(hosts []spec.Host, port int) []any {
	out := []any{}
	for _, h := range hosts {
		out = append(out, Object{"targets": []any{net.JoinHostPort(h.Address, strconv.Itoa(port))}, "labels": Object{"node": h.Name}})
	}
	return out
}
