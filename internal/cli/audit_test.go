package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/spof"
)

// Before there is a cluster, the audit judges the spec, whether or not that was asked for.
func TestAuditJudgesASpec(t *testing.T) {
	t.Chdir(t.TempDir())
	if code, _, errOut := quorate(t, "init"); code != exitDone {
		t.Fatal(errOut)
	}
	for _, line := range []string{"audit -o json", "audit --spec-only -o json"} {
		code, out, errOut := quorate(t, strings.Fields(line)...)
		var r spof.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%s: %v: %s%s", line, err, out, errOut)
		}
		asked := strings.Contains(line, "--spec-only")
		if code != exitFailed || r.From != spof.FromSpec || (r.Note == "") != asked || len(r.Findings) != 1 || r.Findings[0].Capabilities[0] != spof.ClusterData {
			t.Errorf("%s: exit status %d: %s", line, code, out)
		}
	}
	if code, out, _ := quorate(t, "audit", "--depth", "2", "-o", "html"); code != exitFailed || !strings.HasPrefix(out, "<!DOCTYPE html>") {
		t.Errorf("exit status %d: %s", code, out)
	}

	spec, err := os.ReadFile("cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	spec = append(spec, "\n  backup: {recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p], directory: /srv/backups}\n"...)
	if err := os.WriteFile("cluster.yaml", spec, 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := quorate(t, "audit", "--spec-only")
	if code != exitDone || !strings.Contains(out, "no single point of failure") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
}
