//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/test/e2e/parts"
	"quorate.dev/quorate/test/guide"
)

// byHand creates the machines of a spec and runs on them what `quorate plan --by-hand` prints. The result is an ordinary
// kubeadm cluster that was not built by Quorate.
func byHand(t *testing.T, ctx context.Context, name string, shape *spec.Cluster) *cluster {
	t.Helper()
	c := newCluster(t, name)
	data, err := spec.Marshal(shape)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "by-hand.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "lab", "create", name, "-f", file)
	if err := guide.Run(ctx, []byte(c.must(t, ctx, "plan", "--by-hand", "-f", c.specFile()).stdout)); err != nil {
		t.Fatal(err)
	}
	return c
}

// shapeOf returns a lab-sized spec.
func shapeOf(t *testing.T, o spec.InitOptions) *spec.Cluster {
	t.Helper()
	data, err := spec.Init(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := spec.Check(data, o.Name, spec.Options{Lab: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestByHand builds both topologies, or the stacked one as a sample, as an operator would without Quorate.
func TestByHand(t *testing.T) {
	besideAnother(t)
	parts.Of(t, func(run func(string, func(*testing.T)) bool) {
		run("stacked", func(t *testing.T) {
			ctx := testContext(t)
			shape := shapeOf(t, spec.InitOptions{Name: "e2e-hand", Workers: 1})
			shape.Spec.NodePools = []spec.NodePool{{Name: "web", Hosts: []string{"worker-a"}, Labels: map[string]string{"example.com/tier": "web"},
				Taints: []spec.Taint{{Key: "example.com/dedicated", Value: "web", Effect: "NoSchedule"}}}}
			c := byHand(t, ctx, "e2e-hand", shape)
			healthyByHand(t, ctx, c, shape)
			poolByHand(t, ctx, c)
			adoptedByHand(t, ctx, c)
		})
		if !*whole {
			return
		}
		run("external etcd", func(t *testing.T) {
			ctx := testContext(t)
			shape := shapeOf(t, spec.InitOptions{Name: "e2e-hand-etcd", Topology: spec.TopologyExternal, ControlPlanes: 2, Workers: 1, LoadBalancers: -1})
			c := byHand(t, ctx, "e2e-hand-etcd", shape)
			healthyByHand(t, ctx, c, shape)
			adoptedByHand(t, ctx, c)
		})
	})
}

// etcdctlAsAPIServer works wherever an API server's client certificate is: on etcd hosts, and where etcd is stacked.
const etcdctlAsAPIServer = "etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt " +
	"--cert /etc/kubernetes/pki/apiserver-etcd-client.crt --key /etc/kubernetes/pki/apiserver-etcd-client.key "

// adoptedByHand adopts the cluster, which must leave unchanged what is right.
func adoptedByHand(t *testing.T, ctx context.Context, c *cluster) {
	t.Helper()
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	c.ssh(t, ctx, "cp-a", "mkdir -p /root/.kube && ln -sf /etc/kubernetes/admin.conf /root/.kube/config")
	before := fingerprint(t, ctx, c, s)
	c.exits(t, ctx, 3, "apply", "-f", c.specFile()) // without the word
	c.must(t, ctx, "apply", "--adopt", "-f", c.specFile())
	same(t, before, fingerprint(t, ctx, c, s))
	if p := decoded(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(p.Steps) != 0 {
		t.Errorf("after the adoption there are steps: %+v", p.Steps)
	}
	c.whole(t, ctx)
}

// healthyByHand checks everything that makes the cluster highly available, with an operator's tools.
func healthyByHand(t *testing.T, ctx context.Context, c *cluster, shape *spec.Cluster) {
	t.Helper()
	_, api := c.client(t, ctx)
	cps := shape.HostsWith(spec.RoleControlPlane)
	for _, h := range shape.Spec.Hosts {
		if !h.IsNode() {
			continue
		}
		if err := ready(ctx, api, h.Name); err != nil {
			t.Errorf("%s is not Ready after the last command: %v", h.Name, err)
		}
	}
	members := shape.EtcdHosts()
	out := c.ssh(t, ctx, members[0].Name, etcdctlAsAPIServer+"endpoint health --cluster 2>&1")
	if strings.Count(out, "is healthy") != len(members) {
		t.Errorf("%d members:\n%s", len(members), out)
	}
	behindEndpoint(t, ctx, c, len(cps))
	eventually(t, ctx, "CoreDNS on different nodes", func() error { return dnsApart(ctx, api) })
	// Logs need a serving certificate that the API server accepts.
	for _, h := range cps {
		c.ssh(t, ctx, cps[0].Name, "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system logs --tail 1 kube-apiserver-"+h.Name)
	}
	for _, h := range cps[1:] {
		if out := c.ssh(t, ctx, h.Name, "ls /root/kubeadm-join.yaml 2>/dev/null || true"); out != "" {
			t.Errorf("%s still has the file with the token", h.Name)
		}
	}
}

// behindEndpoint reaches every API server through the endpoint, and identifies it by its certificate.
func behindEndpoint(t *testing.T, ctx context.Context, c *cluster, want int) {
	t.Helper()
	config, _ := c.client(t, ctx)
	address := strings.TrimPrefix(config.Host, "https://")
	met := map[string]bool{}
	eventually(t, ctx, "every API server behind the endpoint", func() error {
		// Only the server's certificate matters here, and nothing is sent. The client that the rest of the test uses verifies
		// it.
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		met[conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
		if len(met) < want {
			return fmt.Errorf("met %d of %d", len(met), want)
		}
		return nil
	})
	if len(met) != want {
		t.Errorf("there are %d certificates behind the endpoint, of %d API servers", len(met), want)
	}
}

func dnsApart(ctx context.Context, api kubernetes.Interface) error {
	pods, err := api.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		return err
	}
	nodes := map[string]bool{}
	for _, p := range pods.Items {
		if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }) {
			nodes[p.Spec.NodeName] = true
		}
	}
	if len(nodes) < 2 {
		return fmt.Errorf("it is ready on %v", slices.Sorted(maps.Keys(nodes)))
	}
	return nil
}

// poolByHand checks the labels and taints of the worker's pool on its node.
func poolByHand(t *testing.T, ctx context.Context, c *cluster) {
	t.Helper()
	_, api := c.client(t, ctx)
	n, err := api.CoreV1().Nodes().Get(ctx, "worker-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = nil
	for k, want := range map[string]string{"example.com/tier": "web", plan.PoolLabel: "web", plan.ZoneLabel: "a"} {
		if n.Labels[k] != want {
			err = errors.Join(err, fmt.Errorf("label %s is %q", k, n.Labels[k]))
		}
	}
	if !slices.ContainsFunc(n.Spec.Taints, func(x corev1.Taint) bool { return x.Key == "example.com/dedicated" && x.Value == "web" }) {
		err = errors.Join(err, fmt.Errorf("taints %v", n.Spec.Taints))
	}
	if err != nil {
		t.Error(err)
	}
}
