//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// disk is what is left of a cluster: the files of one control plane, and what had been written.
type disk struct {
	archive   []byte // of /var/lib/etcd and /etc/kubernetes
	namespace string
	acked     []string
	revision  int64
}

// takeDisk writes to a cluster, ends the leader's etcd without a warning, and takes its disk.
func (c *cluster) takeDisk(t *testing.T, ctx context.Context) disk {
	t.Helper()
	_, api := c.client(t, ctx)
	d := disk{namespace: "e2e-disk"}
	if _, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: d.namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.CoreV1().Secrets(d.namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"word": "before"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s, r, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	leads := slices.IndexFunc(s.Etcd.Members, func(m status.Member) bool { return m.Leader })
	if leads < 0 {
		t.Fatalf("no leader: %s", r)
	}
	leader := s.Etcd.Members[leads].Name
	w := keepWriting(ctx, api, d.namespace)
	eventually(t, ctx, "some writes", func() error {
		if n := len(w.acknowledged()); n < 100 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	list, err := api.CoreV1().ConfigMaps(d.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.revision, err = strconv.ParseInt(list.ResourceVersion, 10, 64); err != nil {
		t.Fatal(err)
	}
	// Everything that was acknowledged until here is on the leader's disk, and the last of it perhaps only in its log.
	d.acked = w.acknowledged()
	c.ssh(t, ctx, leader, "systemctl stop kubelet && kill -KILL $(pidof etcd)")
	w.stop()
	<-w.done
	var out, said bytes.Buffer
	if err := c.lab(t).Exec(ctx, leader, []string{"tar", "-C", "/", "-cf", "-", "var/lib/etcd", "etc/kubernetes"}, nil, &out, &said); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	d.archive = out.Bytes()
	return d
}

// holds checks what a cluster has that was built from the disk.
func (d disk) holds(t *testing.T, ctx context.Context, c *cluster, file string) {
	t.Helper()
	_, api := c.client(t, ctx)
	list, err := api.CoreV1().ConfigMaps(d.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range list.Items {
		have[m.Name] = true
	}
	lost := slices.DeleteFunc(slices.Clone(d.acked), func(name string) bool { return have[name] })
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %s", len(lost), len(d.acked), strings.Join(lost, " "))
	}
	fmt.Printf("%s: %d of %d acknowledged writes lost\n", t.Name(), len(lost), len(d.acked))
	if now, err := strconv.ParseInt(list.ResourceVersion, 10, 64); err != nil || now < d.revision+snapshot.RevisionBump {
		t.Errorf("the revision is %d (%v), and was %d", now, err, d.revision)
	}
	want, err := spec.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		if h, known := want.Host(n.Name); !known || !h.IsNode() {
			t.Errorf("there is a node %s", n.Name)
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
}

// TestRestoreFromDisk builds a cluster on new machines from the disk of one control plane of another topology, in runs that are killed; and once
// more from the data alone, without any key.
func TestRestoreFromDisk(t *testing.T) {
	if !*whole {
		t.Skip("it runs with -whole")
	}
	c := newCluster(t, "e2e-disk")
	ctx := testContext(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "old.yaml"), initialized(t, spec.InitOptions{Name: c.name, Workers: 1}))
	c.must(t, ctx, "up", "-f", filepath.Join(dir, "old.yaml"))
	d := c.takeDisk(t, ctx)
	c.must(t, ctx, "down", "--name", c.name)
	lost := []string{"--lost", "cp-a", "--lost", "cp-b", "--lost", "cp-c"}

	machines := func(prefix, topology string) string {
		t.Helper()
		var hosts []spec.Host
		add := func(role, name, zone string) {
			hosts = append(hosts, spec.Host{Name: prefix + name, Roles: []string{role}, Zone: zone})
		}
		for _, zone := range []string{"x", "y", "z"} {
			if topology == spec.TopologyExternal {
				add(spec.RoleEtcd, "etcd-"+zone, zone)
			}
			add(spec.RoleControlPlane, "cp-"+zone, zone)
		}
		add(spec.RoleWorker, "worker", "x")
		add(spec.RoleLoadBalancer, "lb", "y")
		file := filepath.Join(dir, prefix+"spec.yaml")
		write(t, file, initialized(t, spec.InitOptions{Name: c.name, Topology: topology, Endpoint: prefix + "api.example.internal:6443", Hosts: hosts}))
		c.must(t, ctx, "lab", "create", "-f", file)
		return c.specFile() // with addresses
	}

	t.Run("the disk of a control plane", func(t *testing.T) {
		file := machines("new-", spec.TopologyExternal)
		const at = "new-etcd-x"
		var said bytes.Buffer
		if err := c.lab(t).Exec(ctx, at, []string{"sh", "-ec", "mkdir -p /mnt/old && tar -C /mnt/old -xf -"}, bytes.NewReader(d.archive), &said, &said); err != nil {
			t.Fatalf("%v: %s", err, said.String())
		}
		sum := func() string {
			return c.ssh(t, ctx, at, "cd /mnt/old && find . -type f -printf '%p %s %T@\\n' -exec sha256sum {} + | sort | sha256sum")
		}
		before := sum()
		restore := append([]string{"restore", "-f", file, "--from-data", at + ":/mnt/old/var/lib/etcd"}, lost...)
		if r := c.exits(t, ctx, 2, restore...); !strings.Contains(r.stderr, "pass --yes") {
			t.Errorf("without a confirmation: %s", r)
		}
		if r := c.exits(t, ctx, 3, "restore", "-f", file, "--from-data", at+":/mnt/old/var/lib/etcd", "--lost", "cp-q", "--yes"); !strings.Contains(r.stderr, "--lost cp-q") {
			t.Errorf("a member that nobody knows: %s", r)
		}
		restore = append(restore, "--yes")
		for _, k := range []struct {
			words string
			after time.Duration
		}{{"restore the shared keys …", 0}, {"restore etcd's data …", 100 * time.Millisecond}, {"start etcd …", 0}, {"remove what belongs to the hosts of before …", 300 * time.Millisecond}, {"verify the cluster …", 0}} {
			r := c.start(t, ctx, append(slices.Clone(restore), "--verbose")...)
			if !r.reaches(ctx, k.words) {
				code, all := r.wait(t)
				t.Logf("an earlier run had come further than %q: exit status %d: %s", k.words, code, all)
				break
			}
			r.signal(t, ctx, syscall.SIGKILL, k.after)
			r.wait(t)
			if r := c.run(ctx, "apply", "-f", file); r.code != 3 || !strings.Contains(r.stderr, "quorate restore --from-data") {
				t.Errorf("apply after %q: %s", k.words, r)
			}
		}
		out := restored(t, c.must(t, ctx, append(slices.Clone(restore), "-o", "json")...))
		if out.Data == nil || out.Data.Keys != at+":/mnt/old/etc/kubernetes/pki" || len(out.Data.NewKeys)+len(out.Data.Dropped) > 0 {
			t.Errorf("the data: %+v", out.Data)
		}
		d.holds(t, ctx, c, file)
		_, api := c.client(t, ctx)
		secret, err := api.CoreV1().Secrets(d.namespace).Get(ctx, "secret", metav1.GetOptions{})
		if err != nil || string(secret.Data["word"]) != "before" {
			t.Errorf("the secret: %v", err)
		}
		if after := sum(); after != before {
			t.Errorf("the disk has changed: %s, and was %s", after, before)
		}
	})
	c.must(t, ctx, "down", "--name", c.name)

	t.Run("only the data", func(t *testing.T) {
		file := machines("other-", spec.TopologyStacked)
		here := t.TempDir()
		tar := exec.CommandContext(ctx, "tar", "-C", here, "-xf", "-", "var/lib/etcd")
		tar.Stdin = bytes.NewReader(d.archive)
		if said, err := tar.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		restore := append([]string{"restore", "-f", file, "--from-data", filepath.Join(here, "var/lib/etcd"), "--yes", "-o", "json"}, lost...)
		r := c.exits(t, ctx, 3, restore...)
		for _, want := range []string{"no keys of the cluster were found", "every kubeconfig", "every token", "secrets", "--new-keys", "Nothing was changed"} {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("without keys: it does not say %q: %s", want, r)
			}
		}
		var out run.Restored
		r = c.must(t, ctx, append(restore, "--new-keys")...)
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
			t.Fatalf("%v: %s", err, r)
		}
		if !slices.Contains(out.Data.Dropped, "/registry/secrets/"+d.namespace+"/secret") || len(out.Data.NewKeys) != 4 {
			t.Errorf("dropped are %q, and new keys %q", out.Data.Dropped, out.Data.NewKeys)
		}
		d.holds(t, ctx, c, file)
		_, api := c.client(t, ctx)
		if _, err := api.CoreV1().Secrets(d.namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}}, metav1.CreateOptions{}); err != nil {
			t.Errorf("a secret of the same name: %v", err)
		}
		if _, err := api.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{}); err != nil {
			t.Errorf("listing all secrets: %v", err)
		}
	})
}
