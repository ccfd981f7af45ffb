//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/lab"
)

// ignored is what kubeadm's own preflight finds wrong with a lab machine, by name: a kernel configuration that it cannot
// read, and cgroup v1 where this computer has it.
const ignored = "SystemVerification"

// kubeadmByHand runs kubeadm commands on the cluster as kubeadm's documentation describes, because what Quorate built is an
// ordinary kubeadm cluster.
func kubeadmByHand(t *testing.T, c *cluster) {
	ctx := testContext(t)
	_, api := c.client(t, ctx)
	first := c.whole(t, ctx).Etcd.Members[0].Name

	if out := c.ssh(t, ctx, first, "kubeadm certs check-expiration"); !strings.Contains(out, "apiserver") || strings.Contains(out, "MISSING") {
		t.Errorf("kubeadm certs check-expiration:\n%s", out)
	}
	if out := c.ssh(t, ctx, first, "kubeadm upgrade plan --ignore-preflight-errors="+ignored+" $(kubeadm version -o short)"); !strings.Contains(out, "Cluster version: 1.") {
		t.Errorf("kubeadm upgrade plan:\n%s", out)
	}

	config, err := api.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubeadm-config", metav1.GetOptions{})
	if err != nil || strings.Contains(config.Data["ClusterConfiguration"], "disabled") {
		t.Errorf("kubeadm would not upgrade the addons: %v\n%v", err, config)
	}

	l := c.lab(t)
	worker, cp := lab.Machine{Name: "hand-worker", Zone: "c"}, lab.Machine{Name: "hand-cp", Zone: "b"}
	if err := l.AddMachines(ctx, []lab.Machine{worker, cp}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range []string{worker.Name, cp.Name} {
			if err := l.RemoveMachine(context.Background(), m); err != nil {
				t.Error(err)
			}
		}
	})
	introduce(t, ctx, c, l, first, worker.Name, cp.Name)

	join := c.ssh(t, ctx, first, "kubeadm token create --print-join-command") + " --ignore-preflight-errors=" + ignored
	c.ssh(t, ctx, worker.Name, join)
	key := regexp.MustCompile(`(?m)^[0-9a-f]{64}$`).FindString(c.ssh(t, ctx, first, "kubeadm init phase upload-certs --upload-certs"))
	if key == "" {
		t.Fatal("kubeadm init phase upload-certs prints no key")
	}
	// kubeadm's own certificates are downloaded with the key. The other files to which Quorate's configuration of the API
	// server refers are copied as the guide says.
	files := c.ssh(t, ctx, first, "tar -C / -cz etc/kubernetes/apiserver etc/kubernetes/pki/encryption.yaml | base64 -w0")
	c.ssh(t, ctx, cp.Name, "echo "+files+" | base64 -d | tar -C / -xz")
	c.ssh(t, ctx, cp.Name, join+" --control-plane --certificate-key "+key)

	for _, name := range []string{worker.Name, cp.Name} {
		eventually(t, ctx, name+" is Ready", func() error { return ready(ctx, api, name) })
	}
	eventually(t, ctx, "four voters", func() error {
		out := members(t, ctx, c, first)
		if strings.Count(out, "started") != 4 || strings.Contains(out, "true") {
			return fmt.Errorf("members:\n%s", out)
		}
		return nil
	})

	// And remove them again, as documented.
	for _, name := range []string{cp.Name, worker.Name} {
		c.ssh(t, ctx, first, "kubectl drain --ignore-daemonsets --delete-emptydir-data --timeout=2m "+name)
		c.ssh(t, ctx, name, "kubeadm reset --force")
		c.ssh(t, ctx, first, "kubectl delete node "+name)
	}
	if out := members(t, ctx, c, first); strings.Contains(out, cp.Name) {
		t.Errorf("%s is still a member:\n%s", cp.Name, out)
	}
	c.whole(t, ctx)
	c.unchanged(t, ctx)
}

// introduce makes the names of all machines and of the endpoint resolve on new and old machines, as an operator's DNS does.
func introduce(t *testing.T, ctx context.Context, c *cluster, l *lab.Lab, from string, names ...string) {
	t.Helper()
	known := c.ssh(t, ctx, from, "grep -v -e localhost -e ip6- -e '^#' -e '^$' /etc/hosts")
	var fresh strings.Builder
	addresses := map[string]netip.Addr{}
	for _, name := range names {
		m, err := l.Machine(name)
		if err != nil {
			t.Fatal(err)
		}
		addresses[name] = m.Address
		fmt.Fprintf(&fresh, "%s %s\n", m.Address, name)
	}
	for _, name := range names {
		c.ssh(t, ctx, name, fmt.Sprintf("printf '%%b\\n' %q %q >> /etc/hosts; systemctl start containerd", known, fresh.String()))
	}
}

func members(t *testing.T, ctx context.Context, c *cluster, on string) string {
	t.Helper()
	return c.ssh(t, ctx, on, "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "+
		"--cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt --key=/etc/kubernetes/pki/etcd/healthcheck-client.key member list")
}

func ready(ctx context.Context, api kubernetes.Interface, name string) error {
	n, err := api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		} else if c.Type == corev1.NodeReady {
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	return fmt.Errorf("%s says nothing of itself yet", name)
}
