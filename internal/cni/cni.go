// Package cni reads the user's files or Helm chart for the pod network and turns them into one manifest.
package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// maxSize bounds one file. The largest objects that the API accepts are far smaller.
const maxSize = 32 << 20

// Read makes the manifest of the spec's own pod network. There is none unless the spec asks for one of the user's. The
// error is [spec.Errors] for what is wrong with the files.
func Read(c *spec.Cluster) (manifest.Manifest, bool, error) {
	var (
		m    manifest.Manifest
		err  error
		path string
	)
	switch c.Spec.Network.CNI {
	case spec.CNIManifest:
		path = "spec.network.manifests"
		m, err = readManifests(c.Spec.Network.Manifests)
	case spec.CNIChart:
		path = "spec.network.chart"
		m, err = renderChart(c.Spec.Network.Chart, c.Spec.Kubernetes.Version)
	default:
		return m, false, nil
	}
	if err == nil {
		err = check(m)
	}
	if err != nil {
		return m, false, c.Wrong(path, err.Error(), "every plan reads these files on this machine")
	}
	return m, true, nil
}

// readManifests joins files, and the YAML and JSON files of folders in the order of their names.
func readManifests(names []string) (manifest.Manifest, error) {
	var objects bytes.Buffer
	for _, name := range names {
		files, err := filesOf(paths.Expand(name))
		if err != nil {
			return manifest.Manifest{}, err
		}
		for _, f := range files {
			raw, err := readFile(f)
			if err != nil {
				return manifest.Manifest{}, err
			}
			if err := copyObjects(&objects, raw); err != nil {
				return manifest.Manifest{}, fmt.Errorf("%s: %w", f, err)
			}
		}
	}
	return manifest.Manifest{Objects: objects.Bytes(), Namespace: "default"}, nil
}

func filesOf(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name) // sorted
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			out = append(out, filepath.Join(name, e.Name()))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no .yaml, .yml, or .json files", name)
	}
	return out, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(raw) > maxSize {
		err = fmt.Errorf("%s is larger than %d MiB", name, maxSize>>20)
	}
	return raw, err
}

// copyObjects writes each object as one JSON document. Comments and empty documents are left out, and lists taken apart.
func copyObjects(out *bytes.Buffer, raw []byte) error {
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for n := 1; ; n++ {
		var o unstructured.Unstructured
		err := dec.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
		if len(o.Object) == 0 {
			continue
		}
		if !o.IsList() {
			if err := writeObject(out, o.Object); err != nil {
				return fmt.Errorf("document %d: %w", n, err)
			}
			continue
		}
		err = o.EachListItem(func(item runtime.Object) error { return writeObject(out, item.(*unstructured.Unstructured).Object) })
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func writeObject(out *bytes.Buffer, o map[string]any) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	out.WriteString("---\n")
	out.Write(raw)
	out.WriteByte('\n')
	return nil
}

// check sees that all are objects that can be applied.
func check(m manifest.Manifest) error {
	objects, err := m.Decode()
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return errors.New("it contains no objects")
	}
	for i, o := range objects {
		switch {
		case o.GetAPIVersion() == "" || o.GetKind() == "":
			return fmt.Errorf("object %d has no apiVersion or no kind", i+1)
		case o.GetName() == "":
			return fmt.Errorf("object %d, a %s, has no name", i+1, o.GetKind())
		}
	}
	return nil
}

// Unknown lists the images that the manifest names and that are not among those that are known, sorted.
func Unknown(m manifest.Manifest, known []string) []string {
	objects, err := m.Decode()
	if err != nil {
		return nil
	}
	var out []string
	for _, o := range objects {
		out = images(o.Object, out)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(image string) bool { return slices.Contains(known, image) })
}

// images collects what the containers of all pods in a value are made of, at whatever depth: custom resources have pod
// templates, too.
func images(v any, out []string) []string {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if key == "containers" || key == "initContainers" {
				containers, _ := value.([]any)
				for _, c := range containers {
					c, _ := c.(map[string]any)
					if image, _ := c["image"].(string); image != "" {
						out = append(out, image)
					}
				}
			}
			out = images(value, out)
		}
	case []any:
		for _, value := range v {
			out = images(value, out)
		}
	}
	return out
}
