//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/components/programs/flannel/health"
	"quorate.dev/quorate/internal/bundle"
	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// A path on which only small overlay packets reach a machine, as with an MTU that is too large. An ordinary ping does not
// detect it.
const (
	breakOverlay = "nft 'add table inet broken; add chain inet broken in { type filter hook input priority -10; }; add rule inet broken in udp dport 8472 meta length > 1400 drop'"
	healOverlay  = "nft delete table inet broken"
)

// TestNetwork builds a cluster on the user's own pod network, which a worker joins while the overlay to it is broken. That
// worker must not become Ready before the overlay is healed, and status and apply must say why. Then the manifest changes
// while it is broken again, and becomes a chart.
func TestNetwork(t *testing.T) {
	c := newCluster(t, "e2e-net")
	ctx := testContext(t)
	file := filepath.Join(c.dir, "cluster.yaml")
	c.writeSpec(t, file, "cni: manifest\n    manifests: [net]")
	flannel := flannelManifest(t, file)
	write := func(path, content string) {
		t.Helper()
		path = filepath.Join(c.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("net/flannel.yaml", flannel)
	c.must(t, ctx, "lab", "create", "-f", file)

	c.must(t, ctx, "apply", "-f", withoutWorker(t, file))
	c.applyHealing(t, ctx, file, "node worker-a is not ready: "+noAnswer, func() { c.heldBack(t, ctx, file) })
	c.unchanged(t, ctx, "-f", file)

	one := func(what string, apply func()) {
		t.Helper()
		steps := slices.DeleteFunc(planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")), func(s plan.Step) bool {
			return s.Kind == plan.RecordSpec || s.Kind == plan.RecordVerified
		})
		if len(steps) != 2 || steps[0].Kind != plan.ApplyManifest || steps[0].Manifest != manifest.CNI || steps[1].Kind != plan.Verify || len(steps[1].Nodes) != 5 {
			t.Fatalf("%s: the plan has the steps %+v", what, steps)
		}
		apply()
		c.unchanged(t, ctx, "-f", file)
	}
	write("net/flannel.yaml", strings.Replace(flannel, "memory: 50Mi", "memory: 51Mi", 1))
	write("net/more.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more-of-the-network}\n")
	one("a changed manifest", func() {
		c.applyHealing(t, ctx, file, "pods on cp-c cannot reach pods on worker-a: connected, but of 65536 bytes", func() {})
	})

	write("chart/Chart.yaml", "apiVersion: v2\nname: net\nversion: 1.0.0\n")
	write("chart/values.yaml", "memory: 1Mi\n")
	write("chart/templates/flannel.yaml", strings.Replace(flannel, "memory: 50Mi", "memory: {{ .Values.memory }}", 1))
	// Charts generate certificates while they are rendered. The result differs each time, but it is the same chart.
	write("chart/templates/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: made}\nstringData: {key: {{ randAlphaNum 20 | quote }}}\n")
	write("values.yaml", "memory: 52Mi\n")
	c.writeSpec(t, file, "cni: chart\n    chart: {path: chart, values: values.yaml}")
	one("a chart", func() { c.must(t, ctx, "apply", "-f", file) })
	if got := c.ssh(t, ctx, "cp-a", "kubectl -n kube-flannel get daemonset kube-flannel -o jsonpath='{.spec.template.spec.containers[0].resources.requests.memory}'"); got != "52Mi" {
		t.Errorf("the DaemonSet has %q", got)
	}

	// Before a host takes part again, this network is tried with real pods. A maintenance has no bundle from which their image could come.
	c.must(t, ctx, "maintain", "-f", file, "worker-b")
	c.must(t, ctx, "maintain", "-f", file, "--undo", "worker-b")

	c.bootBroken(t, ctx, file)

	c.writeSpec(t, file, "cni: flannel")
	if r := c.exits(t, ctx, 3, "plan", "-f", file); !strings.Contains(r.stderr, "cut pods off") {
		t.Errorf("another pod network beside the first: %s", r)
	}
}

// writeSpec writes the spec of a small cluster with control planes and a worker.
func (c *cluster) writeSpec(t *testing.T, file, network string) {
	t.Helper()
	text := fmt.Sprintf(`apiVersion: quorate.dev/v1alpha1
kind: Cluster
metadata: {name: %s}
spec:
  controlPlane: {endpoint: api.quorate.internal:7443}
  network:
    %s
  hosts:
    - {name: cp-a, roles: [control-plane], zone: a}
    - {name: cp-b, roles: [control-plane], zone: b}
    - {name: cp-c, roles: [control-plane], zone: c}
    - {name: worker-a, roles: [worker], zone: a}
    - {name: worker-b, roles: [worker], zone: b}
`, c.name, network)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// withoutWorker is the spec as it was before it had the worker whose overlay is broken.
func withoutWorker(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "name: worker-a") {
			lines = append(lines, line)
		}
	}
	before := filepath.Join(filepath.Dir(file), "before.yaml")
	if err := os.WriteFile(before, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return before
}

// flannelManifest is a manifest that a user could have downloaded: flannel's objects, with an image that the nodes have.
func flannelManifest(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := spec.Check(data, file, spec.Options{Lab: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(bundle.DefaultDir(spec.DefaultVersion))
	if err != nil {
		t.Fatal(err)
	}
	c.Spec.Network.CNI = spec.CNIFlannel
	all, err := manifest.Render(c, func(short string) string { i, _ := b.Image(short); return i.Name }, false)
	if err != nil {
		t.Fatal(err)
	}
	return string(all[manifest.Flannel].Objects)
}

// said is the output of a command so far.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// applyHealing runs apply while the overlay to worker-a is broken, and heals the overlay when apply reports it. The same apply
// must then succeed.
func (c *cluster) applyHealing(t *testing.T, ctx context.Context, file, want string, meanwhile func()) {
	t.Helper()
	c.ssh(t, ctx, "worker-a", breakOverlay)
	var out said
	cmd := c.command(ctx, "apply", "-f", file, "--verbose")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, ctx, "apply says what is wrong", func() error {
		if text := out.String(); !strings.Contains(text, want) {
			return errors.New(text)
		}
		return nil
	})
	meanwhile()
	c.ssh(t, ctx, "worker-a", healOverlay)
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("apply: %v: %s", err, out.String())
		}
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}

// bootBroken restarts worker-a while the overlay to it is broken from the beginning.
func (c *cluster) bootBroken(t *testing.T, ctx context.Context, file string) {
	t.Helper()
	c.put(t, ctx, "worker-a", "/usr/local/sbin/break-overlay", "#!/bin/sh\n"+breakOverlay+"\n")
	c.put(t, ctx, "worker-a", "/etc/systemd/system/break-overlay.service",
		"[Unit]\nBefore=containerd.service\n[Service]\nType=oneshot\nExecStart=/bin/sh /usr/local/sbin/break-overlay\n[Install]\nWantedBy=multi-user.target\n")
	c.ssh(t, ctx, "worker-a", "systemctl enable break-overlay.service")
	c.must(t, ctx, "lab", "--lab", c.name, "fault", "power-off", "worker-a")
	c.must(t, ctx, "lab", "--lab", c.name, "heal")
	eventually(t, ctx, "worker-a is held back after its start", func() error {
		s, r, err := c.statusOf(ctx, file)
		if err == nil && !slices.ContainsFunc(s.Problems, func(p model.Finding) bool { return strings.Contains(p.Summary, "worker-a is not ready: "+noAnswer) }) {
			err = errors.New(r.String())
		}
		return err
	})
	c.ssh(t, ctx, "worker-a", "systemctl disable break-overlay.service && "+healOverlay)
	eventually(t, ctx, "worker-a is Ready again by itself", func() error {
		s, r, err := c.statusOf(ctx, file)
		if err == nil && len(s.Problems) > 0 {
			err = errors.New(r.String())
		}
		return err
	})
}

// noAnswer is the message of a node that is held back.
const noAnswer = "no answer over the pod network"

// heldBack checks that worker-a, and no other node, waits for its pod network, and that status says why.
func (c *cluster) heldBack(t *testing.T, ctx context.Context, file string) {
	t.Helper()
	s, r, err := c.statusOf(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range s.Problems {
		found = found || strings.Contains(p.Summary, "worker-a") && strings.Contains(p.Summary, noAnswer) && strings.Contains(p.Summary, "8472")
	}
	if !found {
		t.Errorf("status does not say why worker-a is not ready: %s", r)
	}
	for _, n := range s.Nodes {
		if n.Ready == (n.Name == "worker-a") {
			t.Errorf("node %s: Ready is %t", n.Name, n.Ready)
		}
	}
}

// policies closes a service for all clients but one, and opens it again.
func policies(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface, web, clients []corev1.Pod) {
	t.Helper()
	friend := clients[0]
	patch := []byte(`{"metadata":{"labels":{"friend":"yes"}}}`)
	if _, err := api.CoreV1().Pods(namespace).Patch(ctx, friend.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "friends-only"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"friend": "yes"}}}}}},
	}}
	if _, err := api.NetworkingV1().NetworkPolicies(namespace).Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	each := func(strangers bool) {
		t.Helper()
		eventually(t, ctx, fmt.Sprintf("the friend reaches the service, and others: %t", strangers), func() error {
			var wrong said
			var wg sync.WaitGroup
			for _, to := range web {
				for _, from := range clients {
					wg.Go(func() {
						_, err := dial(ctx, api, from, to.Status.PodIP, webPort, 1)
						if want := strangers || from.Name == friend.Name; (err == nil) != want {
							fmt.Fprintf(&wrong, "from %s to %s on %s: want %t, got %v; ", from.Spec.NodeName, to.Name, to.Spec.NodeName, want, err)
						}
					})
				}
			}
			wg.Wait()
			if text := wrong.String(); text != "" {
				return errors.New(text)
			}
			return nil
		})
	}
	each(false)
	for _, to := range web {
		c.lose(t, ctx, to.Spec.NodeName, health.Rules, "nft list tables | grep kube-network-policies | while read -r table; do nft delete $table; done")
	}
	each(false)
	if err := api.NetworkingV1().NetworkPolicies(namespace).Delete(ctx, policy.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	each(true)
}

// flushed removes what flannel has configured on the node of a pod, as a reloaded firewall or a network manager does, and
// checks that the pods there reach the others again.
func flushed(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface, to corev1.Pod, clients []corev1.Pod) {
	t.Helper()
	node := to.Spec.NodeName
	for _, loss := range []struct {
		kind    health.Kind
		command string
	}{
		{health.Rules, "nft delete table ip flannel-ipv4"},
		{health.Routes, "ip route flush dev flannel.1"},
		{health.Neighbors, "ip neigh flush nud permanent dev flannel.1"},
		{health.Interface, "ip link set flannel.1 down"},
		{health.Routes, "ip link delete flannel.1"}, // flannel's backend recreates the interface before it is missed
	} {
		c.lose(t, ctx, node, loss.kind, loss.command)
		for _, from := range clients {
			eventually(t, ctx, fmt.Sprintf("from %s to a pod on %s after `%s`", from.Spec.NodeName, node, loss.command), func() error {
				_, err := dial(ctx, api, from, to.Status.PodIP, webPort, 1)
				return err
			})
		}
	}
}

// lose runs a command that removes one of flannel's objects on a node, and waits until flannel reports that it has restored
// it.
func (c *cluster) lose(t *testing.T, ctx context.Context, node string, kind health.Kind, command string) {
	t.Helper()
	begun := c.ssh(t, ctx, node, "date +%s.%N")
	c.ssh(t, ctx, node, command)
	eventually(t, ctx, fmt.Sprintf("flannel on %s restores its %s after `%s`", node, kind, command), func() error {
		var report health.Report
		raw := c.ssh(t, ctx, node, "cat "+health.File)
		if err := json.Unmarshal([]byte(raw), &report); err != nil {
			return err
		}
		seconds, err := strconv.ParseFloat(begun, 64)
		if err != nil {
			return err
		}
		since := time.UnixMicro(int64(seconds * 1e6))
		if len(report.Remaining()) > 0 || !slices.ContainsFunc(report.Problems, func(p health.Problem) bool { return p.Kind == kind && p.LastSeen.After(since) }) {
			return errors.New(raw)
		}
		return nil
	})
}
