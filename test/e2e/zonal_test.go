//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/status"
)

// TestZonal builds a cluster whose API lives in one zone, with a pool over two and a region. Every command that reports
// margins says what that costs.
func TestZonal(t *testing.T) {
	besideAnother(t)
	c := newCluster(t, "e2e-zonal")
	ctx := testContext(t)
	file, err := filepath.Abs("../../examples/lab-zonal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const cost = "zonal placement: all 3 control planes are in zone a"
	says := func(r result) {
		t.Helper()
		// Text is wrapped at the width of a terminal.
		if !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), cost) {
			t.Errorf("it does not say what a zonal placement costs: %s", r)
		}
	}
	says(c.must(t, ctx, "validate", "-f", file))
	says(c.must(t, ctx, "up", "-f", file, "--name", c.name))
	c.unchanged(t, ctx, "-f", c.specFile())
	says(c.must(t, ctx, "plan", "-f", c.specFile()))
	says(c.must(t, ctx, "status", "-f", c.specFile()))
	r := c.must(t, ctx, "apply", "-f", c.specFile())
	says(result{args: r.args, stdout: r.stderr}) // its progress

	_, api := c.client(t, ctx)
	for name, want := range map[string]map[string]string{
		"cp-2":  {corev1.LabelTopologyZone: "a", plan.PoolLabel: ""},
		"web-1": {corev1.LabelTopologyZone: "a", plan.PoolLabel: "web", "example.com/tier": "web"},
		"web-2": {corev1.LabelTopologyZone: "b", plan.PoolLabel: "web", "example.com/tier": "web"},
	} {
		n, err := api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want[corev1.LabelTopologyRegion] = "lab"
		for key, value := range want {
			if n.Labels[key] != value {
				t.Errorf("%s has %s=%q, want %q", name, key, n.Labels[key], value)
			}
		}
	}

	// The other zone is not the API's.
	c.must(t, ctx, "lab", "--lab", c.name, "fault", "power-off", "zone/b")
	eventually(t, ctx, "web-2 is seen to be gone", func() error {
		s, r, err := c.status(ctx)
		if err != nil {
			return err
		}
		return lost(s, r)
	})
	c.must(t, ctx, "lab", "--lab", c.name, "heal")
	eventually(t, ctx, "web-2 is Ready", func() error { return ready(ctx, api, "web-2") })
	t.Run("reset", func(t *testing.T) { resetsHosts(t, ctx, c, api) })
}

// lost expects the API to answer with all objects, and with one worker less.
func lost(s status.Status, r result) error {
	m := s.Margins
	if !s.Endpoint.Reachable || m.ControlPlanes != 1 || m.Etcd != 1 || m.Zones != 0 {
		return errors.New(r.String())
	}
	for _, n := range s.Nodes {
		if n.Ready != (n.Name != "web-2") {
			out, _ := json.Marshal(s.Nodes)
			return fmt.Errorf("nodes %s", out)
		}
	}
	return nil
}
