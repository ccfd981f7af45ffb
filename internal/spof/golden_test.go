package spof

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/page/pagetest"
	"quorate.dev/quorate/internal/spec"
)

var update = flag.Bool("update", false, "update the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is printed; `go test ./internal/spof -update` writes it. It is now\n%s", file, got)
	}
}

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
			golden(t, name+".txt", text.String())
			enc := json.NewEncoder(&data)
			enc.SetIndent("", "  ")
			if err := enc.Encode(r); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", data.String())
			if err := HTML(&page, r); err != nil {
				t.Fatal(err)
			}
			if name == "degraded" { // one page shows everything that a page can have
				golden(t, name+".html", page.String())
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
