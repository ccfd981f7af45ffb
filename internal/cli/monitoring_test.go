package cli

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// object is the part of an object or a file that these tests read.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name, Namespace string
		Labels          map[string]string
	} `json:"metadata"`
	Data          map[string]string `json:"data"`
	Spec          json.RawMessage   `json:"spec"`
	Groups        []any             `json:"groups"`
	ScrapeConfigs []struct {
		JobName string `json:"job_name"`
		Static  []struct {
			Targets []string `json:"targets"`
		} `json:"static_configs"`
		TLS struct {
			Name string `json:"server_name"`
			CA   string `json:"ca_file"`
		} `json:"tls_config"`
		Authorization struct {
			File string `json:"credentials_file"`
		} `json:"authorization"`
	} `json:"scrape_configs"`
	Items []json.RawMessage `json:"items"`
}

func documents(t *testing.T, text string) (out []object) {
	t.Helper()
	for part := range strings.SplitSeq(text, "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			t.Fatalf("%v in %s", err, part)
		}
		out = append(out, o)
	}
	return out
}

func TestMonitoring(t *testing.T) {
	example, err := os.ReadFile("../../examples/stacked.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	write := func(text string) {
		if err := os.WriteFile("cluster.yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		code, out, errOut := quorate(t, append([]string{"monitoring"}, args...)...)
		if code != want {
			t.Fatalf("quorate monitoring %v: exit status %d: %s%s", args, code, out, errOut)
		}
		return out, errOut
	}
	write(string(example))
	if _, said := run(exitUsage, "scrape"); !strings.Contains(said, "exporter: true") {
		t.Errorf("nothing is exposed: %s", said)
	}
	write(strings.Replace(string(example), "\nspec:\n", "\nspec:\n  monitoring: {exporter: true}\n", 1))

	out, _ := run(exitDone, "scrape", "--token-file", "/etc/prometheus/token")
	config := documents(t, out)[0].ScrapeConfigs
	if len(config) != 1 || config[0].TLS.Name != "quorate-exporter.kube-system.svc" || config[0].Authorization.File != "/etc/prometheus/token" || !strings.HasSuffix(config[0].TLS.CA, "/ca.crt") {
		t.Fatalf("%s", out)
	}
	if targets := config[0].Static[0].Targets; len(targets) < 3 || slices.ContainsFunc(targets, func(a string) bool { return !strings.HasSuffix(a, ":10270") }) {
		t.Errorf("%v", targets)
	}
	kinds := func(all []object) (out []string) {
		for _, o := range all {
			out = append(out, o.Kind+" "+o.Metadata.Namespace+"/"+o.Metadata.Name)
		}
		return out
	}
	out, _ = run(exitDone, "scrape", "--for", "operator", "--namespace", "watch", "--label", "release=prom")
	all := documents(t, out)
	if got := kinds(all); !slices.Equal(got, []string{"Service kube-system/quorate-exporter", "Endpoints kube-system/quorate-exporter", "ServiceMonitor watch/quorate"}) || all[2].Metadata.Labels["release"] != "prom" {
		t.Errorf("%v: %s", got, out)
	}
	out, _ = run(exitDone, "scrape", "--for", "operator", "-o", "json")
	var list object
	if err := json.Unmarshal([]byte(out), &list); err != nil || list.Kind != "List" || len(list.Items) != len(all) {
		t.Errorf("%v: %s", err, out)
	}

	out, _ = run(exitDone, "rules")
	if d := documents(t, out); len(d) != 1 || len(d[0].Groups) < 4 || !strings.HasPrefix(out, "#") {
		t.Errorf("%s", out)
	}
	out, _ = run(exitDone, "rules", "--for", "operator")
	if d := documents(t, out); len(d) != 1 || d[0].Kind != "PrometheusRule" || d[0].Metadata.Namespace != "monitoring" || !strings.Contains(string(d[0].Spec), "QuorateNobodyWatches") {
		t.Errorf("%s", out)
	}
	out, _ = run(exitDone, "access")
	if got := kinds(documents(t, out)); !slices.Equal(got, []string{"ServiceAccount kube-system/quorate-metrics", "Secret kube-system/quorate-metrics-token", "ClusterRole /quorate:metrics", "ClusterRoleBinding /quorate:metrics:kube-system:quorate-metrics"}) {
		t.Errorf("%v", got)
	}
	out, _ = run(exitDone, "access", "--service-account", "monitoring/prometheus-k8s")
	if got := kinds(documents(t, out)); len(got) != 2 || !strings.Contains(out, "name: prometheus-k8s") {
		t.Errorf("%v", got)
	}
	type board struct{ UID, Title string }
	titles := map[string]string{}
	out, _ = run(exitDone, "dashboards")
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var b board
		if err := d.Decode(&b); err != nil {
			t.Fatal(err)
		}
		titles[b.UID] = b.Title
	}
	if len(titles) != 2 || titles["quorate-overview"] == "" {
		t.Errorf("%v", titles)
	}
	var boards []board
	out, _ = run(exitDone, "dashboards", "quorate-etcd", "-o", "json")
	if err := json.Unmarshal([]byte(out), &boards); err != nil || len(boards) != 1 || boards[0].UID != "quorate-etcd" {
		t.Errorf("%v: %v", err, boards)
	}
	single, _ := run(exitDone, "dashboards", "quorate-etcd")
	out, _ = run(exitDone, "dashboards", "--out", "new/dir")
	for uid := range titles {
		path := "new/dir/" + uid + ".json"
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o644 || !strings.Contains(out, path) {
			t.Errorf("%s: %v, %v: %s", path, info, err, out)
		}
	}
	if text, err := os.ReadFile("new/dir/quorate-etcd.json"); err != nil || string(text) != single {
		t.Errorf("the file differs from what is printed: %v", err)
	}
	out, _ = run(exitDone, "dashboards", "--configmap", "--namespace", "grafana", "--label", "team=a")
	all = documents(t, out)
	if got := kinds(all); !slices.Equal(got, []string{"ConfigMap grafana/quorate-dashboards"}) || all[0].Metadata.Labels["grafana_dashboard"] != "1" || all[0].Metadata.Labels["team"] != "a" {
		t.Errorf("%v: %s", got, out)
	}
	if all[0].Data["quorate-etcd.json"] != single || len(all[0].Data) != 2 {
		t.Errorf("the ConfigMap has %d dashboards, or others than those that are printed", len(all[0].Data))
	}

	for line, want := range map[string]string{
		"rules --for grafana":                "use prometheus or operator",
		"rules --for operator --namespace _": "--namespace",
		"rules --for operator --label a=b/c": "--label a=b/c",
		"access --service-account prom":      "NAMESPACE/NAME",
		"rules x":                            "unknown command",
		"dashboards overview":                "use quorate-overview or quorate-etcd",
		"dashboards --configmap --out x":     "cannot be combined",
		"dashboards --namespace x":           "add --configmap",
		"dashboards --configmap --label =x":  "--label",
	} {
		if _, said := run(exitUsage, strings.Fields(line)...); !strings.Contains(said, want) {
			t.Errorf("%s: %s", line, said)
		}
	}
}
