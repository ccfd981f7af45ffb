package cni

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	depsutil "helm.sh/helm/v4/pkg/chart/v2/util"
	helm "helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"

	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// renderChart does what `helm template` does, with Helm's own packages, for a cluster that is yet to be.
func renderChart(c spec.Chart, kubernetes string) (manifest.Manifest, error) {
	var m manifest.Manifest
	loaded, err := loader.Load(paths.Expand(c.Path))
	if err != nil {
		return m, err
	}
	if err := loaded.Validate(); err != nil {
		return m, err
	}
	if missing := missingDependencies(loaded); len(missing) > 0 {
		return m, fmt.Errorf("the chart depends on charts that it does not contain: %s; run `helm dependency build` on it", strings.Join(missing, ", "))
	}
	values := common.Values{}
	var raw []byte
	if c.Values != "" {
		if raw, err = readFile(paths.Expand(c.Values)); err != nil {
			return m, err
		}
		if values, err = common.ReadValues(raw); err != nil {
			return m, fmt.Errorf("%s: %w", c.Values, err)
		}
	}
	version, err := common.ParseKubeVersion(kubernetes)
	if err != nil {
		return m, err
	}
	if wants := loaded.Metadata.KubeVersion; wants != "" && !depsutil.IsCompatibleRange(wants, version.String()) {
		return m, fmt.Errorf("the chart requires Kubernetes %s (kubeVersion), but the cluster's version is %s", wants, kubernetes)
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	if err := depsutil.ProcessDependencies(loaded, values); err != nil {
		return m, err
	}
	options := common.ReleaseOptions{Name: cmp.Or(c.Release, loaded.Name()), Namespace: c.Namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(loaded, values, options, capabilities)
	if err != nil {
		return m, err
	}
	files, err := helm.Render(loaded, all)
	if err != nil {
		return m, err
	}
	objects, err := inOrder(loaded, files, c.Namespace)
	if err != nil {
		return m, err
	}
	inputs, err := inputsOf(loaded, raw, options, kubernetes)
	return manifest.Manifest{Objects: objects, Namespace: c.Namespace, Inputs: inputs}, err
}

func missingDependencies(c *chart.Chart) (out []string) {
	for _, d := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(have *chart.Chart) bool { return have.Name() == d.Name }) {
			out = append(out, d.Name)
		}
	}
	return out
}

// inputsOf is what a chart's manifest is made of. The result itself would be another one each time: charts make
// certificates and passwords while they are rendered.
func inputsOf(c *chart.Chart, values []byte, options common.ReleaseOptions, kubernetes string) ([]byte, error) {
	files := map[string][]byte{}
	var collect func(at string, c *chart.Chart)
	collect = func(at string, c *chart.Chart) {
		for _, f := range c.Raw {
			files[at+f.Name] = f.Data
		}
		for _, d := range c.Dependencies() {
			collect(at+"charts/"+d.Name()+"/", d)
		}
	}
	collect("", c)
	return json.Marshal([]any{files, values, options.Name, options.Namespace, kubernetes})
}

// installs reports whether a hook belongs to an installation. Hooks are applied like all else, without waiting in between;
// what is for tests, rollbacks and removal is left out.
func installs(h *release.Hook) bool {
	return slices.ContainsFunc(h.Events, func(e release.HookEvent) bool {
		return slices.Contains([]release.HookEvent{release.HookPreInstall, release.HookPostInstall, release.HookPreUpgrade, release.HookPostUpgrade}, e)
	})
}

// follows reports whether a hook comes after the chart's other objects. The chart is rendered as for an installation, so what
// a hook says of upgrades counts only if it says nothing of installations: "post-install,pre-upgrade" comes after.
func follows(h *release.Hook) bool {
	has := func(e release.HookEvent) bool { return slices.Contains(h.Events, e) }
	return !has(release.HookPreInstall) && (has(release.HookPostInstall) || !has(release.HookPreUpgrade))
}

// inOrder joins the rendered files as Helm installs them: the namespace, custom resource definitions, hooks for before, all
// else by kind, and hooks for after, which may be of kinds that the chart's templates define.
func inOrder(c *chart.Chart, files map[string]string, namespace string) ([]byte, error) {
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if namespace != spec.DefaultChartNamespace && namespace != "default" {
		if err := writeObject(&out, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}}); err != nil {
			return nil, err
		}
	}
	for _, crd := range c.CRDObjects() {
		if err := copyObjects(&out, crd.File.Data); err != nil {
			return nil, fmt.Errorf("%s: %w", crd.Filename, err)
		}
	}
	copyHooks := func(after bool) error {
		for _, h := range hooks {
			if installs(h) && follows(h) == after {
				if err := copyObjects(&out, []byte(h.Manifest)); err != nil {
					return fmt.Errorf("%s: %w", h.Path, err)
				}
			}
		}
		return nil
	}
	if err := copyHooks(false); err != nil {
		return nil, err
	}
	for _, m := range manifests {
		if err := copyObjects(&out, []byte(m.Content)); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	if err := copyHooks(true); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
