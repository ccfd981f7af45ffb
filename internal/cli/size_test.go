package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/size"
)

func TestSize(t *testing.T) {
	t.Chdir(t.TempDir())
	code, out, errOut := quorate(t, "size", "--nodes", "200", "--pods", "6000")
	if code != exitDone {
		t.Fatalf("exit status %d: %s", code, errOut)
	}
	for _, part := range []string{"200 nodes, 6000 pods, 3 zones", "control planes", "64.0 GiB", "within 10 ms", "/16", "CoreDNS replicas", "13", "kube-up"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	if strings.Contains(out, "problems:") {
		t.Errorf("problems of a sound size:\n%s", out)
	}
	code, out, errOut = quorate(t, "size", "--nodes", "1000", "--zones", "a,b,c,d,e", "-o", "json")
	var a size.Advice
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != exitDone {
		t.Fatalf("exit status %d, %v: %s%s", code, err, out, errOut)
	}
	if a.Nodes != 1000 || a.Pods != 30000 || a.Zones != 5 || a.ControlPlanes.Count != 5 || a.ControlPlanes.CPUs != 32 || len(a.Sources) == 0 || len(a.Problems) != 1 {
		t.Errorf("%+v", a)
	}
}

// TestSizeOfASpec: without --nodes, the spec is asked, and flags replace what it says.
func TestSizeOfASpec(t *testing.T) {
	t.Chdir(t.TempDir())
	if code, _, errOut := quorate(t, "init"); code != exitDone {
		t.Fatal(errOut)
	}
	code, out, errOut := quorate(t, "size")
	if code != exitDone || !strings.Contains(out, "5 nodes, 150 pods, 3 zones") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
	data, err := os.ReadFile("cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sized := strings.Replace(string(data), "\nspec:\n", "\nspec:\n  size: {nodes: 150, pods: 4000}\n", 1)
	if err := os.WriteFile("cluster.yaml", []byte(sized), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errOut := quorate(t, "size"); code != exitDone || !strings.Contains(out, "150 nodes, 4000 pods, 3 zones") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
	if code, out, errOut := quorate(t, "size", "--pods", "90"); code != exitDone || !strings.Contains(out, "150 nodes, 90 pods") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
}
