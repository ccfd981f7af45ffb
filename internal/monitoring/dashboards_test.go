package monitoring

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/metrics"
)

// grafanaPanel is the part of a panel that these tests read, as Grafana reads it.
type grafanaPanel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ Type, UID string }
	Targets                  []struct {
		RefID, Expr, LegendFormat, Format string
		Datasource                        struct{ Type, UID string }
	}
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Mappings []struct {
				Options map[string]struct{ Text string }
			}
			Thresholds struct{ Steps []struct{ Value *float64 } }
		}
	}
}

type grafanaDashboard struct {
	UID, Title, Description string
	Panels                  []grafanaPanel
	Templating              struct {
		List []struct{ Name, Type, Definition string }
	}
}

func read(t *testing.T) map[string]grafanaDashboard {
	t.Helper()
	out := map[string]grafanaDashboard{}
	for _, d := range Dashboards() {
		text, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var b grafanaDashboard
		if err := json.Unmarshal(text, &b); err != nil {
			t.Fatal(err)
		}
		if b.UID != d.Name || len(b.UID) > 40 || d.File() != d.Name+".json" {
			t.Errorf("%s has the uid %q", d.Name, b.UID)
		}
		out[d.Name] = b
	}
	if len(out) != 2 {
		t.Fatalf("%d dashboards", len(out))
	}
	return out
}

func TestPanels(t *testing.T) {
	units := []string{count, seconds, size, share, rate, moment}
	titles := map[string]bool{}
	for name, d := range read(t) {
		if d.Title == "" || d.Description == "" || titles[d.Title] {
			t.Errorf("%s: the title is %q, the description %q", name, d.Title, d.Description)
		}
		titles[d.Title] = true
		var variables []string
		for _, v := range d.Templating.List {
			variables = append(variables, v.Type+" "+v.Name)
		}
		if !slices.Equal(variables, []string{"datasource datasource", "query cluster"}) {
			t.Errorf("%s has the variables %v", name, variables)
		}
		ids, panels := map[int]bool{}, map[string]bool{}
		taken := map[[2]int]string{}
		for _, p := range d.Panels {
			if ids[p.ID] || p.ID < 1 {
				t.Errorf("%s: the id %d of %q is not unique", name, p.ID, p.Title)
			}
			if panels[p.Title] || p.Title == "" {
				t.Errorf("%s: the title %q is not unique", name, p.Title)
			}
			ids[p.ID], panels[p.Title] = true, true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other, there := taken[[2]int{x, y}]; there || x < 0 || x >= columns {
						t.Fatalf("%s: %q is where %q is, or does not fit", name, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if !strings.HasSuffix(p.Description, ".") || !slices.Contains(units, p.FieldConfig.Defaults.Unit) || len(p.Targets) == 0 {
				t.Errorf("%s: %q has the description %q, the unit %q, and %d queries", name, p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
			}
			if !slices.Contains([]string{stat, graph, table, timeline}, p.Type) || p.Datasource.UID != "${datasource}" {
				t.Errorf("%s: %q is a %q, of the data source %q", name, p.Title, p.Type, p.Datasource.UID)
			}
			var refs []string
			for _, q := range p.Targets {
				refs = append(refs, q.RefID)
				if q.Datasource.UID != "${datasource}" || (p.Type == table) != (q.Format == "table") || (p.Type == table) != (q.LegendFormat == "") {
					t.Errorf("%s: a query of %q: %+v", name, p.Title, q)
				}
			}
			if slices.Sort(refs); len(slices.Compact(slices.Clone(refs))) != len(refs) {
				t.Errorf("%s: %q has the queries %v", name, p.Title, refs)
			}
			for i, step := range p.FieldConfig.Defaults.Thresholds.Steps {
				if (i == 0) != (step.Value == nil) {
					t.Errorf("%s: %q: the first color, and no other, has no limit", name, p.Title)
				}
			}
			for _, m := range p.FieldConfig.Defaults.Mappings {
				if m.Options["0"].Text == "" || m.Options["1"].Text == "" || len(m.Options) != 2 {
					t.Errorf("%s: %q has the words %v", name, p.Title, m.Options)
				}
			}
		}
		if columns*(1+maxY(taken)) != len(taken) {
			t.Errorf("%s has gaps: %d of %d cells have a panel", name, len(taken), columns*(1+maxY(taken)))
		}
	}
}

func maxY(taken map[[2]int]string) (out int) {
	for at := range taken {
		out = max(out, at[1])
	}
	return out
}

// queries are all queries of dashboards, with the name of the panel.
func queries(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for name, d := range read(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				out[name+": "+p.Title] = append(out[name+": "+p.Title], q.Expr)
			}
		}
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				metric, label, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ", ")
				if label != "cluster" || !slices.ContainsFunc(metrics.Families(), func(f *metrics.Family) bool { return f.Name == metric }) {
					t.Errorf("%s: the variable %s is of %q", name, v.Name, v.Definition)
				}
			}
		}
	}
	return out
}

// TestDashboardsShowWhatIsExposed: each query is about metrics and labels that exist, and each metric is somewhere.
func TestDashboardsShowWhatIsExposed(t *testing.T) {
	labels := map[string][]string{}
	for _, f := range metrics.Families() {
		labels[f.Name] = append(slices.Clone(f.Labels), "cluster")
	}
	const histogram = "quorate_etcd_member_wal_fsync_duration_seconds"
	shown := map[string]bool{}
	metric := regexp.MustCompile(`\b(quorate_[a-z_]+)(\{[^}]*\})?`)
	by := regexp.MustCompile(`\bby \(([a-z_, ]+)\)`)
	word := regexp.MustCompile(`[A-Za-z_$][A-Za-z0-9_$]*`)
	duration := regexp.MustCompile(`\b[0-9]+[smh]\b`)
	for panel, all := range queries(t) {
		for _, expr := range all {
			found := metric.FindAllStringSubmatch(expr, -1)
			if len(found) == 0 {
				t.Errorf("%s uses no metric: %s", panel, expr)
			}
			rest := expr
			for _, m := range found {
				name := m[1]
				for _, suffix := range []string{"_bucket", "_count", "_sum"} {
					if name == histogram+suffix {
						name = histogram
					}
				}
				have, there := labels[name]
				if !there {
					t.Errorf("%s uses %s, which nobody exposes", panel, m[1])
				}
				shown[name] = true
				if m[2] != selects {
					t.Errorf("%s: %s is not limited to the cluster that was chosen: %s", panel, m[1], expr)
				}
				for _, list := range by.FindAllStringSubmatch(expr, -1) {
					for label := range strings.SplitSeq(list[1], ", ") {
						if !slices.Contains(have, label) && label != "instance" && (name != histogram || label != "le") { // Prometheus adds instance
							t.Errorf("%s: %s has no label %s", panel, name, label)
						}
					}
				}
				rest = strings.Replace(rest, m[0], "", 1)
			}
			// Whatever is left are functions, and nothing else that could be misspelled.
			for _, w := range word.FindAllString(duration.ReplaceAllString(by.ReplaceAllString(rest, ""), ""), -1) {
				if !slices.Contains([]string{"max", "min", "sum", "count", "time", "rate", "changes", "histogram_quantile", "$__rate_interval"}, w) {
					t.Errorf("%s: what is %q in %s?", panel, w, expr)
				}
			}
			if !balanced(expr) {
				t.Errorf("%s: parentheses do not match in %s", panel, expr)
			}
			if !by.MatchString(expr) && !strings.Contains(expr, "max(") && !strings.Contains(expr, "sum(quorate_exporter_leader") {
				t.Errorf("%s does not aggregate over instances: only one of them leads: %s", panel, expr)
			}
		}
	}
	for name := range labels {
		if !shown[name] {
			t.Errorf("no dashboard shows %s", name)
		}
	}
	// Names of series are made of labels that the query keeps.
	legend := regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
	for name, d := range read(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				list := by.FindStringSubmatch(q.Expr)
				for _, l := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
					if list == nil || !slices.Contains(strings.Split(list[1], ", "), l[1]) {
						t.Errorf("%s: %q has a legend with %s, and the query %s", name, p.Title, l[1], q.Expr)
					}
				}
			}
		}
	}
}

// balanced says that each bracket outside of strings has its counterpart.
func balanced(expr string) bool {
	var open []rune
	quoted := false
	for _, r := range expr {
		switch i := strings.IndexRune(")]}", r); {
		case r == '"':
			quoted = !quoted
		case quoted:
		case strings.ContainsRune("([{", r):
			open = append(open, r)
		case i >= 0:
			if len(open) == 0 || open[len(open)-1] != rune("([{"[i]) {
				return false
			}
			open = open[:len(open)-1]
		}
	}
	return len(open) == 0 && !quoted
}

// TestAlertsAndDashboardsParse asks Prometheus' own tool whether the queries of dashboards are PromQL.
func TestAlertsAndDashboardsParse(t *testing.T) {
	type recording struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []recording
	all := queries(t)
	for _, panel := range slices.Sorted(maps.Keys(all)) {
		for _, expr := range all[panel] {
			rules = append(rules, recording{"parsed:quorate:query", strings.NewReplacer("$__rate_interval", "2m", "$cluster", "lab").Replace(expr)})
		}
	}
	for i := range rules { // promtool refuses two that are the same
		rules[i].Record += strings.Repeat("_", i)
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "queries", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "queries.yml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if said, err := promtool(ctx, t, "check", "rules", path).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, said)
	}
}
