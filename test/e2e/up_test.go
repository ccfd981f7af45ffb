//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/plan"
)

func up(t *testing.T, c *cluster) {
	ctx := testContext(t)
	r := c.must(t, ctx, "up", "--name", c.name)
	printArtifact(t, "up.txt", r.String())
	if !strings.Contains(r.stdout, "survives") || !strings.Contains(r.stdout, "KUBECONFIG") {
		t.Errorf("up does not say how to use the cluster and what it survives:\n%s", r.stdout)
	}
	c.whole(t, ctx)
}

// statusShape is the documented shape of `status -o json`: objects by their keys, lists by their first element.
var statusShape = map[string]any{
	"cluster": "", "version": "", "stage": "",
	"endpoint":      map[string]any{"address": "", "virtualIP": "", "reachable": true, "holder": ""},
	"nodes":         []any{map[string]any{"name": "", "roles": []any{""}, "zone": "", "address": "", "ready": true, "version": ""}},
	"etcd":          map[string]any{"topology": "", "members": []any{map[string]any{"name": "", "healthy": true, "leader": true, "learner": true, "dbSizeBytes": 0.0}}, "quorum": 0.0, "margin": 0.0},
	"loadBalancers": []any{map[string]any{"name": "", "healthy": true, "active": true, "backends": []any{map[string]any{"name": "", "healthy": true, "drained": true, "sessions": 0.0, "check": ""}}}},
	"certificates":  []any{map[string]any{"host": "", "name": "", "expires": ""}},
	"margins":       map[string]any{"controlPlanes": 0.0, "etcd": 0.0, "loadBalancers": 0.0, "zones": 0.0},
	"problems":      []any{map[string]any{"rule": "", "severity": "", "summary": "", "fix": ""}},
}

func statusKeys(t *testing.T, c *cluster) {
	ctx := testContext(t)
	c.whole(t, ctx) // up has seen it, and a busy machine may have made a check late since then
	s, r, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatal(err)
	}
	for _, difference := range differ("status", statusShape, got) {
		t.Error(difference)
	}
	if len(s.Nodes) != 5 || len(s.Etcd.Members) != 3 || len(s.LoadBalancers) != 2 || s.Etcd.Quorum != 2 || s.Etcd.Margin != 1 || !s.Endpoint.Reachable {
		t.Errorf("not the default cluster: %s", r.stdout)
	}
	if text := c.must(t, ctx, "status").stdout; !strings.Contains(text, s.Endpoint.Address) {
		t.Errorf("the text does not name the endpoint:\n%s", text)
	}
}

// differ compares a JSON value with its documented shape. An empty list has any shape.
func differ(path string, want, got any) (out []string) {
	switch want := want.(type) {
	case map[string]any:
		have, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, not an object", path, got)}
		}
		for _, key := range slices.Sorted(maps.Keys(want)) { // keys may be added, and never removed
			if _, there := have[key]; !there {
				out = append(out, fmt.Sprintf("%s has no key %s", path, key))
				continue
			}
			out = append(out, differ(path+"."+key, want[key], have[key])...)
		}
	case []any:
		have, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, not a list", path, got)}
		}
		for i, v := range have {
			out = append(out, differ(fmt.Sprintf("%s[%d]", path, i), want[0], v)...)
		}
	default:
		if g, w := fmt.Sprintf("%T", got), fmt.Sprintf("%T", want); g != w {
			return []string{fmt.Sprintf("%s is %s, want %s", path, g, w)}
		}
	}
	return out
}

// nothingToDo checks that commands that change clusters leave a cluster alone that matches its spec.
func nothingToDo(t *testing.T, c *cluster) {
	ctx := testContext(t)
	c.unchanged(t, ctx)
	r := c.must(t, ctx, "apply", "-o", "json")
	if !strings.Contains(strings.ReplaceAll(r.stdout, " ", ""), `"steps":0`) {
		t.Errorf("apply did something: %s", r)
	}
	t.Logf("apply with nothing to do: %s", r.took)
	r = c.must(t, ctx, "up", "--name", c.name)
	t.Logf("up with nothing to do: %s", r.took)
}

func planned(t *testing.T, r result) []plan.Step {
	t.Helper()
	var p plan.Plan
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
		t.Fatalf("%v in %s", err, r)
	}
	return p.Steps
}

// kubectl must work for the caller and on every control plane, and CoreDNS must not be a single point of failure.
func kubectl(t *testing.T, c *cluster) {
	ctx := testContext(t)
	_, api := c.client(t, ctx)
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 5 {
		t.Errorf("%d nodes", len(nodes.Items))
	}
	for _, n := range nodes.Items {
		if n.Labels[corev1.LabelTopologyZone] == "" {
			t.Errorf("%s has no zone", n.Name)
		}
		if _, ok := n.Labels["node-role.kubernetes.io/control-plane"]; ok {
			if got := c.ssh(t, ctx, n.Name, "kubectl get nodes -o name"); len(strings.Fields(got)) != 5 {
				t.Errorf("kubectl on %s: %q", n.Name, got)
			}
		}
	}
	ownServers(t, ctx, c)
	pods, err := api.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		t.Fatal(err)
	}
	on := map[string]bool{}
	for _, p := range pods.Items {
		on[p.Spec.NodeName] = true
	}
	if len(pods.Items) != 2 || len(on) != 2 {
		t.Errorf("%d CoreDNS replicas on %v", len(pods.Items), on)
	}
}
