package spec

import (
	"strings"
	"testing"
)

func TestPodNetworks(t *testing.T) {
	good := string(mustInit(t, InitOptions{}))
	for name, c := range map[string]struct{ network, components, want string }{
		"default":               {"", "", ""},
		"policies ignored":      {"policies: ignored", "", ""},
		"none":                  {"cni: none", "", ""},
		"manifest":              {"cni: manifest, manifests: [net.yaml, more/]", "", ""},
		"chart":                 {"cni: chart, chart: {path: net.tgz, values: v.yaml, release: net, namespace: net-system}", "", ""},
		"published":             {"", "source: official", ""},
		"no manifest":           {"cni: manifest", "", "no manifest is set"},
		"an empty one":          {`cni: manifest, manifests: [""]`, "", "one of the manifests is empty"},
		"an address":            {"cni: manifest, manifests: ['https://example.test/net.yaml']", "", "is not a file"},
		"no chart":              {"cni: chart", "", "no chart is set"},
		"a chart's address":     {"cni: chart, chart: {path: 'oci://example.test/net'}", "", "is not a file"},
		"a chart's namespace":   {"cni: chart, chart: {path: net.tgz, namespace: Net}", "", "not a DNS label"},
		"a chart's release":     {"cni: chart, chart: {path: net.tgz, release: My_Net}", "", "cannot be the name of a release"},
		"manifests for flannel": {"manifests: [net.yaml]", "", "belongs to `cni: manifest`"},
		"chart for manifest":    {"cni: manifest, manifests: [net.yaml], chart: {path: net.tgz}", "", "belongs to `cni: chart`"},
		"policies of a chart":   {"cni: chart, chart: {path: net.tgz}, policies: enforced", "", "belongs to `cni: flannel`"},
		"unknown":               {"cni: calico", "", "not known"},
		"policies published":    {"policies: enforced", "source: official", "does not enforce network policies"},
	} {
		t.Run(name, func(t *testing.T) {
			text := replaceBlock(t, replaceBlock(t, good, "network", c.network), "components", c.components)
			_, err := Check([]byte(text), "", Options{Lab: true})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

// replaceBlock gives a field of the spec other content, on one line.
func replaceBlock(t *testing.T, text, field, content string) string {
	t.Helper()
	before, rest, found := strings.Cut(text, "\n  "+field+":\n")
	if !found {
		t.Fatalf("the spec has no %s", field)
	}
	lines := strings.SplitAfter(rest, "\n")
	for len(lines) > 0 && (strings.HasPrefix(lines[0], "    ") || strings.TrimSpace(lines[0]) == "") {
		lines = lines[1:]
	}
	return before + "\n  " + field + ": {" + content + "}\n" + strings.Join(lines, "")
}

func TestPathsAreRelativeToTheSpec(t *testing.T) {
	c := &Cluster{Spec: Spec{Network: Network{Manifests: []string{"net.yaml", "/abs.yaml", "~/home.yaml"}, Chart: Chart{Path: "../net.tgz"}}}}
	c.Spec.Components.Signatures = Signatures{PublicKeyFile: "cosign.pub", TrustedRootFile: "~/root.json"}
	given := c.Spec.Network.Manifests
	c.RelativeTo("/specs/prod")
	n := c.Spec.Network
	if n.Manifests[0] != "/specs/prod/net.yaml" || n.Manifests[1] != "/abs.yaml" || n.Manifests[2] != "~/home.yaml" || n.Chart.Path != "/specs/net.tgz" || n.Chart.Values != "" {
		t.Errorf("got %+v", n)
	}
	if s := c.Spec.Components.Signatures; s.PublicKeyFile != "/specs/prod/cosign.pub" || s.TrustedRootFile != "~/root.json" {
		t.Errorf("got %+v", s)
	}
	if given[0] != "net.yaml" {
		t.Error("the caller's list was changed")
	}
}
