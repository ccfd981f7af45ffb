// Package manifest renders the API objects that Quorate owns. It is pure.
package manifest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

//go:embed flannel.yaml
var flannel string

//go:embed approver.yaml
var approver []byte

//go:embed exporter.yaml
var exporter []byte

// Names of the manifests: flannel, the user's own pod network, the roles of the approver and of the exporter of metrics, and Prometheus with all that
// belongs to it.
const (
	Flannel    = "flannel"
	CNI        = "cni"
	Approver   = "approver"
	Exporter   = "exporter"
	Prometheus = "prometheus"
)

// IsNetwork reports whether a manifest sets up the pod network.
func IsNetwork(name string) bool { return name == Flannel || name == CNI }

// Manifest is YAML of one or more objects, in the order in which they must be applied.
type Manifest struct {
	Objects []byte
	// Namespace is for objects that need a namespace and have none.
	Namespace string
	// Inputs, if there are any, are what the objects were rendered from, if rendering is not deterministic.
	Inputs []byte
}

// Digest identifies the version of a manifest.
func (m Manifest) Digest() string {
	if m.Inputs != nil {
		return "sha256:" + facts.Sum(m.Inputs)
	}
	return "sha256:" + facts.Sum(m.Objects)
}

// Decode returns the objects.
func (m Manifest) Decode() ([]unstructured.Unstructured, error) {
	var out []unstructured.Unstructured
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(m.Objects), 4096)
	for {
		var o unstructured.Unstructured
		if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
}

// Optional are the manifests that only some clusters have, with the objects that are removed when the spec does not need them any more.
func Optional() map[string]Manifest {
	m, err := removable()
	if err != nil {
		panic("manifest: " + err.Error()) // a test renders it
	}
	return map[string]Manifest{Exporter: {Objects: exporter}, Prometheus: m}
}

// removable are the objects of Prometheus without the namespace, which may have objects of others: a Secret with the configuration of Alertmanager, for
// example. Which objects there are depends on nothing.
func removable() (Manifest, error) {
	var c spec.Cluster
	c.Spec.Monitoring.Prometheus.Install = true
	c.Default()
	text, err := monitoring.Install(&c, func(string) string { return "" })
	if err != nil {
		return Manifest{}, err
	}
	objects, err := Manifest{Objects: text}.Decode()
	if err != nil {
		return Manifest{}, err
	}
	var keep []monitoring.Object
	for _, o := range objects {
		if o.GetKind() != "Namespace" {
			keep = append(keep, o.Object)
		}
	}
	text, err = monitoring.YAML(keep...)
	return Manifest{Objects: text}, err
}

// networks are the fields of flannel's configuration with the ranges of pods. IPv4 is its default.
func networks(c *spec.Cluster) string {
	var fields []string
	if !c.Spec.Network.Uses(spec.IPv4) {
		fields = append(fields, `"EnableIPv4": false`)
	}
	for _, p := range c.Spec.Network.PodCIDRs() {
		if p.Addr().Is4() {
			fields = append(fields, fmt.Sprintf(`"Network": %q`, p))
		} else {
			fields = append(fields, fmt.Sprintf(`"EnableIPv6": true, "IPv6Network": %q`, p))
		}
	}
	return strings.Join(fields, ", ")
}

// Render returns all manifests of a cluster by name. image returns an image's full name in the bundle for its short name;
// published says that these are the projects' own images, whose flannel needs an init container that ours does not.
func Render(c *spec.Cluster, image func(short string) string, published bool) (map[string]Manifest, error) {
	out := map[string]Manifest{Approver: {Objects: approver}}
	if c.Spec.Monitoring.Exporter {
		out[Exporter] = Manifest{Objects: exporter}
	}
	if c.InstallsPrometheus() {
		text, err := monitoring.Install(c, image)
		if err != nil {
			return nil, err
		}
		out[Prometheus] = Manifest{Objects: text}
	}
	if c.Spec.Network.CNI != spec.CNIFlannel {
		return out, nil
	}
	t, err := template.New(Flannel).Parse(flannel)
	if err != nil {
		return nil, err
	}
	pattern := ""
	if traffic := c.Spec.Network.PodTrafficCIDRs(); len(traffic) > 0 {
		pattern = spec.PatternOf(traffic)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]any{
		"Networks": networks(c), "Image": image("flannel"), "Published": published,
		"Policies":     c.Spec.Network.Policies == spec.PoliciesEnforced && !published,
		"EndpointHost": hostconfig.EndpointHost(c), "EndpointPort": hostconfig.EndpointPort(c),
		"Interface":  pattern,
		"PublicIPv6": pattern == "" && slices.Equal(c.Spec.Network.Families(), []spec.Family{spec.IPv6, spec.IPv4}),
	}); err != nil {
		return nil, fmt.Errorf("rendering %s: %w", Flannel, err)
	}
	out[Flannel] = Manifest{Objects: b.Bytes()}
	return out, nil
}
