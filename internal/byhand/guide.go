// Package byhand writes the guide of render/byhand for the images that a spec's source has.
package byhand

import (
	"fmt"
	"runtime"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cni"
	"quorate.dev/quorate/internal/render/byhand"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// Guide writes what an operator would do for this spec without Quorate. It connects to no host and builds no bundle.
func Guide(c *spec.Cluster) (*byhand.Transcript, error) {
	release, ok := components.PublishedRelease(c.Spec.Kubernetes.Version) // validation has refused what the source does not have
	if !ok {
		return nil, &bundle.UnknownVersionError{Version: c.Spec.Kubernetes.Version}
	}
	names := map[string]string{}
	for _, i := range release.Images {
		names[i.Short] = i.Name
	}
	published := false
	switch c.Spec.Components.Source {
	case spec.SourceOfficial, spec.SourceMirror:
		p, ok := release.Published(runtime.GOARCH)
		if !ok {
			return nil, fmt.Errorf("no published images are known for Kubernetes %s", release.Kubernetes)
		}
		published = true
		for _, i := range p.Images {
			names[i.Short] = sources.Mirror(c.Spec.Components).Image(i.From)
		}
	case spec.SourceBundle:
		// Which of the two kinds it is, only the bundle knows.
		if b, err := sources.Cached(c, runtime.GOARCH); err == nil {
			published = b.IsPublished()
		}
	}
	manifests, err := manifest.Render(c, func(short string) string { return names[short] }, published)
	if err != nil {
		return nil, err
	}
	delete(manifests, manifest.Approver) // a person approves by hand
	delete(manifests, manifest.Exporter)
	delete(manifests, manifest.Prometheus) // its images are in bundles only
	own, given, err := cni.Read(c)
	if err != nil {
		return nil, err
	}
	if given {
		manifests[manifest.CNI] = own
	}
	pause, _ := release.Component("pause")
	return byhand.Write(c, byhand.Images{Pause: "registry.k8s.io/pause:" + pause.Version, Manifests: manifests})
}
