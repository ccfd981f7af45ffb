package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
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

// TestUsageOfSizes: numbers that make no sense are refused before anything is read.
func TestUsageOfSizes(t *testing.T) {
	t.Chdir(t.TempDir())
	for line, want := range map[string]string{
		"size":                         "no size",
		"size --nodes 0":               "--nodes 0",
		"size --nodes 9 --pods 0":      "--pods 0",
		"lab scale":                    "say how many",
		"lab scale --nodes -1":         "--nodes -1",
		"lab scale --nodes 5001":       "--nodes 5001",
		"lab scale --pods 1 --rate 0":  "--rate must be",
		"lab scale --remove --nodes 3": "--remove cannot be combined",
		"lab scale --fail-for 1m --fail-every 1m --fail-lasts 1m": "shorter than --fail-every",
	} {
		if code, out, errOut := quorate(t, strings.Fields(line)...); code != exitUsage || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit status %d\n%s%s", line, code, out, errOut)
		}
	}
}

// TestSimulatedNodesMustFitTheRange: a host that joins later needs a part of the range, too.
func TestSimulatedNodesMustFitTheRange(t *testing.T) {
	c := spec.DefaultLab("test") // five nodes, and a /16
	for nodes, ok := range map[int]bool{0: true, 251: true, 252: false, 1000: false} {
		notes, err := fits(c, scaleFlags{nodes: nodes, pods: nodes * size.PodsPerNode})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "spec.size.nodes") {
			t.Errorf("%d nodes: %v", nodes, err)
		}
		if wants := nodes == 251; (len(notes) > 0) != wants {
			t.Errorf("%d nodes: %q", nodes, notes)
		}
	}
	c.Spec.Size.Nodes = 256
	if notes, err := fits(c, scaleFlags{nodes: 251}); err != nil || len(notes) > 0 {
		t.Errorf("planned for: %q, %v", notes, err)
	}
}
