//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

const (
	formerVersion = "v1.36.3"
	upgradeSpec   = `apiVersion: quorate.dev/v1alpha1
kind: Cluster
metadata: {name: e2e-upgrade}
spec:
  kubernetes: {version: ` + formerVersion + `}
  controlPlane: {endpoint: "api.e2e-upgrade.internal:6443"}
  hosts:
    - {name: cp-a, roles: [control-plane], zone: a}
    - {name: cp-b, roles: [control-plane], zone: b}
    - {name: cp-c, roles: [control-plane], zone: c}
    - {name: worker-a, roles: [worker], zone: a}
`
)

// TestUpgrade takes a small cluster from one minor release to the next and back, while clients read and write.
func TestUpgrade(t *testing.T) {
	c := newCluster(t, "e2e-upgrade")
	ctx := testContext(t)
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte(upgradeSpec), 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "up", "-f", file, "--name", c.name)
	former := c.edited(t, func(*spec.Cluster) {})
	next := c.edited(t, func(s *spec.Cluster) { s.Spec.Kubernetes.Version = spec.DefaultVersion })
	_, api := c.client(t, ctx)
	containers := runningContainers(t, ctx, api)

	p := c.clients(t, ctx)
	for _, way := range []struct{ name, file, version, etcd string }{{"upgrade", next, spec.DefaultVersion, "3.7."}, {"rollback", former, formerVersion, "3.6."}} {
		begin := time.Now()
		r := c.must(t, ctx, "apply", "-f", way.file)
		end := time.Now()
		met, err := p.Between(ctx, begin, end)
		if err != nil {
			t.Fatal(err)
		}
		printMet(t, way.name, end.Sub(begin), met)
		runs(t, ctx, c, api, way.file, way.version, way.etcd)
		c.wholeBy(t, ctx, way.file)
		if n := c.noticed(t, ctx, begin, end, met); n > 0 {
			t.Errorf("%s: %d requests failed", way.name, n)
		}
		lost, acked, err := p.Lost(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(lost) > 0 {
			t.Errorf("%s: %d of %d acknowledged writes are lost: %v", way.name, len(lost), acked, lost)
		}
		if !strings.Contains(r.stderr, "snapshot") {
			t.Errorf("%s: no snapshot was saved: %s", way.name, r)
		}
		if again := c.must(t, ctx, "plan", "-f", way.file, "-o", "json"); len(planned(t, again)) > 0 {
			t.Errorf("%s: something is left to do: %s", way.name, again)
		}
		c.oneBundle(t, ctx)
	}
	for name, n := range runningContainers(t, ctx, api) {
		if before, was := containers[name]; was && n != before {
			t.Errorf("the container of %s was restarted", name)
		}
	}
	h := &changingHosts{c: c, p: p, spec: former}
	for _, way := range sample([]struct{ name, version, etcd, dies, fresh, zone string }{
		{"a control plane dies during the upgrade", spec.DefaultVersion, "3.7.", "cp-b", "cp-d", "b"},
		{"a control plane dies during the rollback", formerVersion, "3.6.", "cp-c", "cp-e", "c"},
	}, 0) {
		if !t.Run(way.name, func(t *testing.T) {
			h.edit(t, func(s *spec.Cluster) { s.Spec.Kubernetes.Version = way.version })
			h.diesMidway(t, ctx, way.dies, way.fresh, way.zone)
			s := runs(t, ctx, c, api, h.spec, way.version, way.etcd)
			s.Problems = slices.DeleteFunc(s.Problems, func(f model.Finding) bool { return f.Rule == model.RuleRemoved }) // the dead one may come back
			if err := shortOf(s); err != nil {
				t.Error(err)
			}
		}) {
			return
		}
	}
}

// oneBundle expects that every machine has the programs of one bundle, and none of the one before.
func (c *cluster) oneBundle(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, m := range c.lab(t).Machines() {
		if n := c.ssh(t, ctx, m.Name, "find /opt/quorate/programs -mindepth 1 -maxdepth 1 -type d ! -name current ! -name '.*' | wc -l"); n != "1" {
			t.Errorf("%s has the programs of %s bundles: %s", m.Name, n, c.ssh(t, ctx, m.Name, "ls -l /opt/quorate/programs"))
		}
	}
}

// diesMidway ends an apply after one control plane has the new version, cuts the power of another one, and replaces it. That comes before
// everything else: of three members of etcd, no other one may restart meanwhile.
func (h *changingHosts) diesMidway(t *testing.T, ctx context.Context, dies, fresh, zone string) {
	r := h.c.start(t, ctx, "apply", "-f", h.spec)
	first := ""
	r.atStep(ctx, func(step, host string) bool {
		if strings.Contains(step, "bring the control plane to") && first == "" {
			first = host
		}
		return first != "" && host != first && strings.Contains(step, "bring the control plane to")
	})
	r.signal(t, ctx, syscall.SIGKILL, 0)
	if code, said := r.wait(t); code != -1 || first == "" || first == dies {
		t.Fatalf("the apply was not killed after the first control plane, %q: exit status %d, %s", first, code, said)
	}
	h.c.must(t, ctx, "lab", "--lab", h.c.name, "fault", "power-off", dies)
	next := h.machine(t, ctx, fresh, zone, spec.RoleControlPlane)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, dies)
		s.Spec.Hosts = append(s.Spec.Hosts, next)
	})
	h.apply(t, ctx, false)
}

// printMet prints what clients met, by kind, and why requests failed.
func printMet(t *testing.T, name string, took time.Duration, met probe.Report) {
	t.Helper()
	kinds := map[string]probe.Outage{"new connections": met.New, "writes": met.Writes, "HTTP/2, the worst": met.HTTP2}
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s\n", name, took.Round(time.Second))
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		o := kinds[kind]
		errors, _ := json.Marshal(o.Errors)
		fmt.Fprintf(&b, "  %-18s %5d requests, %d failed, longest gap %.2f s %s\n", kind, o.Requests, o.Failed, o.Longest.Seconds(), errors)
	}
	fmt.Print(b.String())
	printArtifact(t, name+".txt", b.String())
}

// runs checks that everything runs the version, and returns the status.
func runs(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface, file, version, etcd string) status.Status {
	t.Helper()
	s, _, err := c.statusOf(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		if n.Version != version {
			t.Errorf("the kubelet of %s runs %s instead of %s", n.Name, n.Version, version)
		}
	}
	for _, m := range s.Etcd.Members {
		if !strings.HasPrefix(m.Version, etcd) {
			t.Errorf("the etcd member on %s runs %s instead of %s", m.Name, m.Version, etcd)
		}
	}
	for _, v := range s.Versions {
		if strings.HasPrefix(v.Program, "kube-") && v.Program != "kube-proxy" && v.Version != version {
			t.Errorf("%s runs %s on %v", v.Program, v.Version, v.Hosts)
		}
	}
	proxy, err := api.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err != nil || !strings.HasSuffix(proxy.Spec.Template.Spec.Containers[0].Image, ":"+version) {
		t.Errorf("kube-proxy runs another version, or cannot be found: %v", err)
	}
	return s
}

// runningContainers are those of the pods that an upgrade has no reason to touch, by pod, with the time of their start.
func runningContainers(t *testing.T, ctx context.Context, api kubernetes.Interface) map[string]string {
	t.Helper()
	pods, err := api.CoreV1().Pods("kube-flannel").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil && p.Status.Phase == corev1.PodRunning {
				out[p.Name+"/"+s.Name] = s.ContainerID
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("no container runs that could be watched")
	}
	return out
}
