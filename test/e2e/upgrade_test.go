//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
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
	upgradeAndBack(t, ctx, c, p, api, next, former, func(_, file string) string { return c.must(t, ctx, "apply", "-f", file).stderr })
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
			inTimePart(t)
			h.edit(t, func(s *spec.Cluster) { s.Spec.Kubernetes.Version = way.version })
			h.diesMidway(t, ctx, way.dies, way.fresh, way.zone)
			runs(t, ctx, c, api, h.spec, way.version, way.etcd)
			settles(t, ctx, 2*time.Second, "full margins, and no problem but a dead host that may come back", func() ([]string, error) {
				s, _, err := c.statusOf(ctx, h.spec)
				if err != nil {
					return nil, err
				}
				s.Problems = slices.DeleteFunc(s.Problems, func(f model.Finding) bool { return f.Rule == model.RuleRemoved })
				return lacks(s), shortOf(s)
			})
		}) {
			return
		}
	}
}

// upgradeAndBack takes a cluster from one minor release to the next and back, and checks each way: everything runs the version, no request failed, nothing
// is lost, and nothing is left to do. apply makes the cluster match a spec, and returns what the commands said.
func upgradeAndBack(t *testing.T, ctx context.Context, c *cluster, p *probe.Prober, api kubernetes.Interface, next, former string, apply func(way, file string) string) {
	t.Helper()
	for _, way := range []struct{ name, file, version, etcd, before string }{{"upgrade", next, spec.DefaultVersion, "3.7.", formerVersion}, {"rollback", former, formerVersion, "3.6.", spec.DefaultVersion}} {
		begin := time.Now()
		said := apply(way.name, way.file)
		end := time.Now()
		met, err := p.Between(ctx, begin, end)
		if err != nil {
			t.Fatal(err)
		}
		printMet(t, c.name+"-"+way.name, end.Sub(begin), met)
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
		if !strings.Contains(said, "snapshot") {
			t.Errorf("%s: no snapshot was saved: %s", way.name, said)
		}
		if again := c.must(t, ctx, "plan", "-f", way.file, "-o", "json"); len(planned(t, again)) > 0 {
			t.Errorf("%s: something is left to do: %s", way.name, again)
		}
		c.oneBundle(t, ctx)
		c.imagesOf(t, ctx, api, way.version, way.before)
	}
}

// imagesOf expects that every node has the images of a version of Kubernetes, and none of the version before: they are removed when all hosts run the new one.
func (c *cluster) imagesOf(t *testing.T, ctx context.Context, api kubernetes.Interface, version, before string) {
	t.Helper()
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) == 0 {
		t.Fatalf("there are no nodes: %v", err)
	}
	for _, n := range nodes.Items {
		images := strings.Fields(c.ssh(t, ctx, n.Name, "ctr -n k8s.io images ls -q"))
		of := func(version string) []string {
			return slices.DeleteFunc(slices.Clone(images), func(i string) bool { return !strings.HasSuffix(i, ":"+version) })
		}
		if len(of(version)) == 0 || len(of(before)) > 0 {
			t.Errorf("node %s has these images of %s: %v, and these of %s: %v; its containers are\n%s", n.Name, version, of(version), before, of(before), c.ssh(t, ctx, n.Name, "ctr -n k8s.io containers ls"))
		}
	}
}

// oneBundle expects that every machine has the programs of one bundle, and none of the one before.
func (c *cluster) oneBundle(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, m := range c.lab(t).Machines() {
		if n := c.ssh(t, ctx, m.Name, "find /opt/quorate/programs -mindepth 1 -maxdepth 1 -type d ! -name current ! -name pending ! -name '.*' | wc -l"); n != "1" {
			t.Errorf("%s has the programs of %s bundles: %s", m.Name, n, c.ssh(t, ctx, m.Name, "ls -l /opt/quorate/programs"))
		}
	}
}

// TestUpgradeExternal does the same with etcd on hosts of its own, whose members are replaced before the API servers, and after them on the way back. Each
// way is killed once while the members run different versions.
func TestUpgradeExternal(t *testing.T) {
	if !*whole {
		t.Skip("TestUpgrade has the stacked topology; this one runs with -whole")
	}
	c := newCluster(t, "e2e-upgrade-etcd")
	ctx := testContext(t)
	s := shapeOf(t, spec.InitOptions{Name: c.name, Topology: spec.TopologyExternal, ControlPlanes: 2, Workers: 1, LoadBalancers: -1})
	s.Spec.Kubernetes.Version = formerVersion
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "up", "-f", file)
	former := c.edited(t, func(*spec.Cluster) {})
	next := c.edited(t, func(s *spec.Cluster) { s.Spec.Kubernetes.Version = spec.DefaultVersion })
	_, api := c.client(t, ctx)
	containers := runningContainers(t, ctx, api)
	p := c.clients(t, ctx)
	members := len(s.EtcdHosts())
	upgradeAndBack(t, ctx, c, p, api, next, former, func(way, file string) string {
		before := etcdTerm(t, ctx, c)
		r := c.start(t, ctx, "apply", "-f", file, "--verbose")
		replaced := 0
		r.atStep(ctx, func(step, _ string) bool {
			if strings.Contains(step, "bring etcd to") {
				replaced++
			}
			return replaced == 2
		})
		r.signal(t, ctx, syscall.SIGKILL, time.Second)
		code, said := r.wait(t)
		if code != -1 || replaced != 2 {
			t.Fatalf("%s: the apply was not killed while members ran different versions: exit status %d after %d members: %s", way, code, replaced, said)
		}
		eventually(t, ctx, "members of both minor releases answer", func() error {
			s, r, err := c.statusOf(ctx, file)
			if err != nil {
				return err
			}
			for _, minor := range []string{"3.6.", "3.7."} {
				if !slices.ContainsFunc(s.Etcd.Members, func(m status.Member) bool { return strings.HasPrefix(m.Version, minor) }) {
					return fmt.Errorf("none runs %s*: %s", minor, r.stdout)
				}
			}
			return nil
		})
		said += c.must(t, ctx, "apply", "-f", file).stderr
		// Two runs, and each moves the lead away from a member before that restarts.
		elections := etcdTerm(t, ctx, c) - before
		fmt.Printf("%s %s: %d elections among %d members\n", c.name, way, elections, members)
		if elections > members+1 {
			t.Errorf("%s: %d elections among %d members", way, elections, members)
		}
		return said
	})
	for name, n := range runningContainers(t, ctx, api) {
		if before, was := containers[name]; was && n != before {
			t.Errorf("the container of %s was restarted", name)
		}
	}
}

// etcdTerm is the number of elections that etcd has had so far.
func etcdTerm(t *testing.T, ctx context.Context, c *cluster) int {
	t.Helper()
	text := c.ssh(t, ctx, "etcd-a", etcdctlAsAPIServer+"endpoint status -w json")
	var members []struct {
		Status struct {
			RaftTerm int `json:"raftTerm"`
		}
	}
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) == 0 {
		t.Fatalf("etcdctl endpoint status printed %q: %v", text, err)
	}
	return members[0].Status.RaftTerm
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

// runs waits until everything is seen to run the version.
func runs(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface, file, version, etcd string) {
	t.Helper()
	// What cannot be queried at one look has no version then.
	poll(t, ctx, 2*time.Second, "everything runs "+version, func() error {
		s, _, err := c.statusOf(ctx, file)
		if err != nil {
			return err
		}
		var others []string
		for _, n := range s.Nodes {
			if n.Version != version {
				others = append(others, fmt.Sprintf("the kubelet of %s runs %q", n.Name, n.Version))
			}
		}
		for _, m := range s.Etcd.Members {
			if !strings.HasPrefix(m.Version, etcd) {
				others = append(others, fmt.Sprintf("the etcd member on %s runs %q instead of %s", m.Name, m.Version, etcd))
			}
		}
		for _, v := range s.Versions {
			if strings.HasPrefix(v.Program, "kube-") && v.Program != "kube-proxy" && v.Version != version {
				others = append(others, fmt.Sprintf("%s runs %s on %v", v.Program, v.Version, v.Hosts))
			}
		}
		if len(others) > 0 {
			return errors.New(strings.Join(others, "; "))
		}
		return nil
	})
	proxy, err := api.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err != nil || !strings.HasSuffix(proxy.Spec.Template.Spec.Containers[0].Image, ":"+version) {
		t.Errorf("kube-proxy runs another version, or cannot be found: %v", err)
	}
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
