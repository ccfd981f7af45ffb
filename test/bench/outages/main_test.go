package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/drill"
)

func TestTableOfAReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	write := func(r drill.Report) {
		data, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(drill.Report{Summaries: []drill.Summary{{Name: "kill/etcd/leader", Repeats: 20, Valid: 20, Gaps: map[string]drill.Spread{"endpoint/write/new": {P50: 410, P95: 690, Max: 700}}}}})
	var out strings.Builder
	if err := run(context.Background(), options{}, file, &out); err != nil || !strings.HasSuffix(out.String(), "| `kill/etcd/leader` | 20 | 0.41 / 0.69 / 0.70 |\n") {
		t.Errorf("%v: %s", err, &out)
	}
	write(drill.Report{})
	if err := run(context.Background(), options{}, file, &out); err == nil || !strings.Contains(err.Error(), "has no fault") {
		t.Errorf("an empty report: %v", err)
	}
	if err := run(context.Background(), options{}, file+"x", &out); err == nil {
		t.Error("a report that does not exist")
	}
}

// Every pattern chooses a fault of the default cluster.
func TestDefaultFaults(t *testing.T) {
	f := clustertest.Whole()
	all, _ := drill.Catalogue(cluster.Evaluate(f.Spec, f.Seen), drill.Limits{Lab: true})
	if chosen, err := drill.Select(all, []string{defaultFaults}); err != nil || len(chosen) < 15 {
		t.Errorf("%v, %v", chosen, err)
	}
}
