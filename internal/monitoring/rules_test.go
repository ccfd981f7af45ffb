package monitoring

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/metrics"
)

// rule is one rule of rules.yaml.
type rule struct {
	Alert, Record, Expr, For string
	KeepFiringFor            string `json:"keep_firing_for"`
	Labels, Annotations      map[string]string
}

func parsed(t *testing.T) (out []rule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.UnmarshalStrict(rules, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) < 20 {
		t.Fatalf("only %d rules", len(out))
	}
	return out
}

// foreign are metrics of others.
var foreign = []string{"kube_node_status_allocatable", "kube_pod_container_resource_requests", "kube_pod_status_phase"}

// TestRulesUseWhatIsExposed: a name that is misspelled is one of which Prometheus finds nothing.
func TestRulesUseWhatIsExposed(t *testing.T) {
	labels := map[string][]string{}
	for _, f := range metrics.Families() {
		labels[f.Name] = f.Labels
	}
	recorded := map[string]bool{}
	all := parsed(t)
	for _, r := range all {
		recorded[r.Record] = true
	}
	selector := regexp.MustCompile(`\b((?:quorate|kube|etcd)_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	of := []string{metrics.OfControlPlanes, metrics.OfEtcdMembers, metrics.OfLoadBalancers, metrics.OfZones}
	for _, r := range all {
		expr := r.Expr
		for name := range recorded {
			if name != "" {
				expr = strings.ReplaceAll(expr, name, "")
			}
		}
		found := selector.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 && expr == r.Expr {
			t.Errorf("%s%s uses no metric", r.Alert, r.Record)
		}
		for _, m := range found {
			own, ours := labels[strings.TrimSuffix(m[1], "_bucket")]
			if !ours && !slices.Contains(foreign, m[1]) {
				t.Errorf("%s%s uses %s, which nobody exposes", r.Alert, r.Record, m[1])
			}
			if !ours {
				continue
			}
			var rule, severity string
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "cluster" && !slices.Contains(own, l[1]) {
					t.Errorf("%s%s: %s has no label %s", r.Alert, r.Record, m[1], l[1])
				}
				switch l[1] {
				case "of":
					if !slices.Contains(of, l[3]) {
						t.Errorf("%s: there is no margin of %s", r.Alert, l[3])
					}
				case "rule":
					rule = l[3]
				case "severity":
					severity = l[3]
				}
			}
			for id := range strings.SplitSeq(rule, "|") {
				if rule != "" && !slices.ContainsFunc(cluster.Rules, func(x cluster.Rule) bool {
					return x.ID == id && (severity == "" || slices.Contains(x.Severities, cluster.Severity(severity)))
				}) {
					t.Errorf("%s: no finding has the rule %q and the severity %q", r.Alert, id, severity)
				}
			}
		}
	}
}

// TestRulesAreComplete: each has what whoever is woken needs, and a page that exists.
func TestRulesAreComplete(t *testing.T) {
	page, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	var alerts []string
	for _, r := range parsed(t) {
		if r.Record != "" {
			if strings.Count(r.Record, ":") != 2 || r.For != "" {
				t.Errorf("%s: names of recorded series are LEVEL:METRIC:OPERATIONS", r.Record)
			}
			continue
		}
		alerts = append(alerts, r.Alert)
		if !strings.HasPrefix(r.Alert, "Quorate") || r.For == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%+v", r)
		}
		if aboutWatch := strings.Contains(r.Expr, "quorate_exporter_leader") || strings.HasPrefix(r.Alert, "QuorateObservation"); aboutWatch == (r.KeepFiringFor != "") {
			t.Errorf("%s: it ends when the lead moves: keep_firing_for is %q", r.Alert, r.KeepFiringFor)
		}
		fromFinding := strings.Contains(r.Expr, "by (cluster, severity)")
		if severity := r.Labels["severity"]; severity != "critical" && severity != "warning" && !(severity == "" && fromFinding) {
			t.Errorf("%s has the severity %q", r.Alert, severity)
		}
		if want := "https://quorate.dev/docs/alerts#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: the runbook is %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if strings.Contains(r.Expr, "quorate_") && !strings.Contains(r.Expr, "by (cluster") && r.Alert != "QuorateMetricsAbsent" {
			t.Errorf("%s does not aggregate over instances: only one of them leads", r.Alert)
		}
		_, after, there := strings.Cut(string(page), "\n## "+r.Alert+"\n")
		text, _, _ := strings.Cut(after, "\n## ")
		if severity := r.Labels["severity"]; !there || !strings.Contains(text, "*"+severity) || !strings.Contains(text, "`quorate ") && !strings.Contains(text, "](#") && !strings.Contains(text, "`iostat") {
			t.Errorf("docs/alerts.md does not say what to do about %s (%s)", r.Alert, r.Labels["severity"])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(page), -1) {
		if !slices.Contains(alerts, m[1]) {
			t.Errorf("docs/alerts.md has a section %s, and no alert is called that", m[1])
		}
	}
	if slices.Sort(alerts); len(slices.Compact(slices.Clone(alerts))) != len(alerts) {
		t.Errorf("two alerts have one name: %v", alerts)
	}
}
