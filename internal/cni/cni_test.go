package cni

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"

	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

const daemonSet = `# a comment alone is no object
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: net, namespace: kube-system}
spec:
  template:
    spec:
      initContainers: [{name: copy, image: "example.test/copy:v1"}]
      containers: [{name: net, image: "example.test/net:v1"}, {name: known, image: "known:v1"}]
---
`

const list = `{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}]}`

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func manifests(paths ...string) *spec.Cluster {
	c := spec.DefaultLab("test")
	c.Spec.Network.CNI, c.Spec.Network.Policies, c.Spec.Network.Manifests = spec.CNIManifest, "", paths
	return c
}

func names(t *testing.T, m manifest.Manifest) (out []string) {
	t.Helper()
	objects, err := m.Decode()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		out = append(out, o.GetKind()+" "+o.GetName())
	}
	return out
}

func TestManifests(t *testing.T) {
	dir := tree(t, map[string]string{"b.yaml": daemonSet, "a.json": list, "README.md": "no", "sub/c.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: deeper}\n"})
	m, given, err := Read(manifests(dir, filepath.Join(dir, "sub/c.yaml")))
	if err != nil || !given {
		t.Fatal(given, err)
	}
	if got, want := names(t, m), []string{"ConfigMap a", "ConfigMap b", "DaemonSet net", "Secret deeper"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := Unknown(m, []string{"known:v1"}), []string{"example.test/copy:v1", "example.test/net:v1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	again, _, err := Read(manifests(dir, filepath.Join(dir, "sub/c.yaml")))
	if err != nil || again.Digest() != m.Digest() {
		t.Errorf("the same files are another manifest: %v", err)
	}
	if _, given, err := Read(spec.DefaultLab("test")); given || err != nil {
		t.Errorf("flannel is not the user's: %t, %v", given, err)
	}
}

func TestWrongManifests(t *testing.T) {
	for want, content := range map[string]string{
		"no such file":       "",
		"no objects":         "# nothing\n",
		"has no apiVersion":  "kind: ConfigMap\nmetadata: {name: a}\n",
		"has no name":        "apiVersion: v1\nkind: ConfigMap\n",
		"document 2":         "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n\tx: {\n",
		"has no .yaml, .yml": "dir",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "net.yaml")
		switch content {
		case "":
		case "dir":
			path = dir
		default:
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := Read(manifests(path))
		if problems, ok := err.(spec.Errors); !ok || !strings.Contains(problems.Error(), want) || problems[0].Path != "spec.network.manifests" {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// chartFiles have what real charts have: values, conditions on the version, definitions first, secrets made by chance,
// hooks, notes.
var chartFiles = map[string]string{
	"Chart.yaml":                "apiVersion: v2\nname: net\nversion: 1.0.0\nkubeVersion: '>=1.30.0-0'\n",
	"values.yaml":               "image: example.test/net\ncidr: 192.168.0.0/16\n",
	"crds/crd.yaml":             "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: nets.example.test}\n",
	"templates/NOTES.txt":       "Thank you.",
	"templates/_helpers.tpl":    `{{ define "net.image" }}{{ .Values.image }}:{{ .Chart.Version }}{{ end }}`,
	"templates/a.yaml":          "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: {{ .Release.Name }}}\nspec: {template: {spec: {containers: [{name: net, image: {{ include \"net.image\" . | quote }}, args: [{{ .Values.cidr }}, {{ .Capabilities.KubeVersion.Version }}]}]}}}\n",
	"templates/secret.yaml":     "apiVersion: v1\nkind: Secret\nmetadata: {name: made}\nstringData: {key: {{ randAlphaNum 20 | quote }}}\n",
	"templates/account.yaml":    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: net, namespace: {{ .Release.Namespace }}}\n",
	"templates/uninstall.yaml":  "apiVersion: batch/v1\nkind: Job\nmetadata: {name: uninstall, annotations: {helm.sh/hook: pre-delete}}\n",
	"templates/tests/test.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: test, annotations: {helm.sh/hook: test}}\n",
	"templates/before.yaml":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: before, annotations: {helm.sh/hook: \"pre-install,pre-upgrade\"}}\n",
	"templates/after.yaml":      "apiVersion: example.test/v1\nkind: Net\nmetadata: {name: after, annotations: {helm.sh/hook: post-install}}\n",
	"templates/later.yaml":      "apiVersion: example.test/v1\nkind: Net\nmetadata: {name: later, annotations: {helm.sh/hook: \"post-install,pre-upgrade\"}}\n",
}

func chartSpec(path, values string) *spec.Cluster {
	c := spec.DefaultLab("test")
	c.Spec.Network.CNI, c.Spec.Network.Policies = spec.CNIChart, ""
	c.Spec.Network.Chart = spec.Chart{Path: path, Values: values, Namespace: "net-system", Release: "mine"}
	return c
}

func TestChart(t *testing.T) {
	dir := tree(t, chartFiles)
	values := filepath.Join(tree(t, map[string]string{"values.yaml": "cidr: 10.244.0.0/16\n"}), "values.yaml")
	m, _, err := Read(chartSpec(dir, values))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Namespace net-system", "CustomResourceDefinition nets.example.test", "ConfigMap before", "ServiceAccount net", "Secret made", "DaemonSet mine", "Net after", "Net later"}
	if got := names(t, m); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, part := range []string{"10.244.0.0/16", `"v1.37.2"`, "example.test/net:1.0.0"} {
		if !bytes.Contains(m.Objects, []byte(part)) {
			t.Errorf("%s is not in %s", part, m.Objects)
		}
	}
	if m.Namespace != "net-system" {
		t.Errorf("objects without a namespace go to %q", m.Namespace)
	}

	again, _, err := Read(chartSpec(dir, values))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(again.Objects, m.Objects) || again.Digest() != m.Digest() {
		t.Error("a chart that makes secrets is the same chart each time, with others")
	}
	packed, _, err := Read(chartSpec(pack(t, chartFiles), values))
	if err != nil || packed.Digest() != m.Digest() {
		t.Errorf("packed it is another: %v", err)
	}
	for name, c := range map[string]*spec.Cluster{
		"other values": chartSpec(dir, ""),
		"other files":  chartSpec(tree(t, with(chartFiles, "templates/b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n")), values),
	} {
		if other, _, err := Read(c); err != nil || other.Digest() == m.Digest() {
			t.Errorf("%s: the same digest, or %v", name, err)
		}
	}
}

func with(files map[string]string, name, content string) map[string]string {
	out := maps.Clone(files)
	out[name] = content
	return out
}

// pack makes what `helm package` makes.
func pack(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: "net/" + name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z.Close()
	path := filepath.Join(t.TempDir(), "net-1.0.0.tgz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrongCharts(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"Chart.yaml":   {"values.yaml": ""},
		"nothing here": with(chartFiles, "templates/b.yaml", `{{ fail "nothing here" }}`),
		"other":        with(chartFiles, "Chart.yaml", "apiVersion: v2\nname: net\nversion: 1.0.0\ndependencies: [{name: other, version: 1.0.0, repository: 'https://example.test'}]\n"),
		"kubeVersion":  with(chartFiles, "Chart.yaml", "apiVersion: v2\nname: net\nversion: 1.0.0\nkubeVersion: '<1.30.0'\n"),
	} {
		_, _, err := Read(chartSpec(tree(t, files), ""))
		if problems, ok := err.(spec.Errors); !ok || !strings.Contains(problems.Error(), want) || problems[0].Path != "spec.network.chart" {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// The values beside the examples belong to the examples' clusters.
func TestExampleValues(t *testing.T) {
	for name, paths := range map[string][3]string{
		"cilium": {"k8sServiceHost", "k8sServicePort", ""},
		"calico": {"kubernetesServiceEndpoint.host", "kubernetesServiceEndpoint.port", "installation.calicoNetwork.ipPools"},
	} {
		file := filepath.Join("../../examples", name+".yaml")
		data, err := spec.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := spec.Check(data, file, spec.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c.RelativeTo(filepath.Dir(file))
		values, err := common.ReadValuesFile(c.Spec.Network.Chart.Values)
		if err != nil {
			t.Fatal(err)
		}
		value := func(path string) any {
			v, err := values.PathValue(path)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return v
		}
		if got := fmt.Sprint(value(paths[0]), ":", value(paths[1])); got != c.Spec.ControlPlane.Endpoint {
			t.Errorf("%s reaches the API at %s", name, got)
		}
		if pools := paths[2]; pools != "" {
			first, _ := value(pools).([]any)[0].(map[string]any)
			if first["cidr"] != c.Spec.Network.PodCIDR {
				t.Errorf("%s takes addresses from %v", name, first["cidr"])
			}
		}
	}
}
