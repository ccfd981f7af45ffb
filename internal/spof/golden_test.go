package spof

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/page/pagetest"
	"quorate.dev/quorate/internal/spec"
)

func reports() map[string]Report {
	one := spec.DefaultLab("lab")
	without("lb-b")(one)
	f, w := live()
	f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "connection refused"
	f.Change("lb-b", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "lb-b: no answer within 5s" })
	w.Pods = append(w.Pods, pod("web-1", "web", "w-a"), pod("web-2", "web", "w-a"), pod("api-1", "api", "w-a"))
	w.Pods[4].Images = []facts.PodImage{{Name: "registry.example.com/api:1"}}
	w.Budgets = []facts.Budget{{Namespace: "default", Name: "strict", Expected: 2, Desired: 2, Pods: []string{"web-1", "web-2"}}}
	return map[string]Report{
		"default":           Audit(Input{Spec: spec.DefaultLab("lab")}),
		"one-load-balancer": Audit(Input{Spec: one, Depth: 2}),
		"degraded":          Audit(Input{Spec: f.Spec, State: cluster.Evaluate(f.Spec, f.Seen), Workloads: w}),
	}
}

func TestOutput(t *testing.T) {
	for name, r := range reports() {
		t.Run(name, func(t *testing.T) {
			var text, page, data bytes.Buffer
			if err := Text(&text, r, 110, false); err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, name+".txt", text.String())
			enc := json.NewEncoder(&data)
			enc.SetIndent("", "  ")
			if err := enc.Encode(r); err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, name+".json", data.String())
			if err := HTML(&page, r); err != nil {
				t.Fatal(err)
			}
			if name == "degraded" { // one page shows everything that a page can have
				golden.Compare(t, name+".html", page.String())
			}
			if pictures := pagetest.SelfContained(t, page.String()); pictures < 7 {
				t.Errorf("%d pictures", pictures)
			}
		})
	}
}

// Names come from users and registries: none of them becomes a part of the page.
func TestPagesEscapeNames(t *testing.T) {
	f, w := live()
	p := pod("x", "<script>alert(1)</script>", "w-a")
	p.Images = []facts.PodImage{{Name: `evil"><script>.example.com/x:1`, Always: true}}
	w.Pods = append(w.Pods, p)
	var page bytes.Buffer
	if err := HTML(&page, Audit(Input{Spec: f.Spec, State: cluster.Evaluate(f.Spec, f.Seen), Workloads: w})); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page.String(), "<script") {
		t.Error("a name became a script")
	}
	pagetest.SelfContained(t, page.String())
}

// The example in the documentation is what is printed.
func TestDocumentationShowsAReport(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := Text(&text, reports()["degraded"], 110, false); err != nil {
		t.Fatal(err)
	}
	example, _, _ := strings.Cut(text.String(), "\n\nNot reported")
	if !strings.Contains(string(page), "$ quorate audit\n"+example) {
		t.Errorf("docs/audit.md does not show\n%s", example)
	}
}
