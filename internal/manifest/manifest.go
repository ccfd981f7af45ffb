// Package manifest renders the API objects that Quorate owns. It is pure.
package manifest

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

//go:embed flannel.yaml
var flannel string

// Flannel is the name of flannel's manifest.
const Flannel = "flannel"

// Manifest is YAML of one or more objects, in the order in which they must be applied.
type Manifest []byte

// Digest tells versions of a manifest apart.
func (m Manifest) Digest() string { return "sha256:" + facts.Sum(m) }

// Render gives all manifests of a cluster by name. image finds an image's full name in the bundle by its short one;
// published says that these are the projects' own images, whose flannel needs help that ours does not.
func Render(c *spec.Cluster, image func(short string) string, published bool) (map[string]Manifest, error) {
	out := map[string]Manifest{}
	if c.Spec.Network.CNI != spec.CNIFlannel {
		return out, nil
	}
	t, err := template.New(Flannel).Parse(flannel)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]any{
		"PodCIDR": c.Spec.Network.PodCIDR, "Image": image("flannel"), "Published": published,
		"EndpointHost": hostconfig.EndpointHost(c), "EndpointPort": hostconfig.EndpointPort(c),
	}); err != nil {
		return nil, fmt.Errorf("rendering %s: %w", Flannel, err)
	}
	out[Flannel] = b.Bytes()
	return out, nil
}
