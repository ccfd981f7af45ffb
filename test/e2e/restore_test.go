//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	hostbackup "quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
)

// written are writes that the API acknowledged, one after another, for as long as it answers.
type written struct {
	mu    sync.Mutex
	acked []string
	stop  context.CancelFunc
	done  chan struct{}
}

func keepWriting(ctx context.Context, api kubernetes.Interface, namespace string) *written {
	w := &written{done: make(chan struct{})}
	ctx, w.stop = context.WithCancel(ctx)
	go func() {
		defer close(w.done)
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("write-%06d", i)
			_, err := api.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			if err == nil {
				w.mu.Lock()
				w.acked = append(w.acked, name)
				w.mu.Unlock()
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return w
}

func (w *written) acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// saved is a backup that was fetched, with what was in the cluster when it was taken.
type saved struct {
	identity, file string
	taken          hostbackup.Result
	before         []string // writes that were acknowledged before it began
	revision       string   // of a list before it
	namespace      string
	api            kubernetes.Interface
}

const unanswered = "e2e-unanswered"

// save takes a backup under load, and changes the cluster afterwards. A webhook that fails closed and that nobody answers is in it.
func (c *cluster) save(t *testing.T, ctx context.Context, file, identity string) saved {
	t.Helper()
	_, api := c.client(t, ctx)
	s := saved{identity: identity, namespace: "e2e-restore", api: api}
	if _, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.CoreV1().Secrets(s.namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"word": "before"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := api.CoreV1().ConfigMaps(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.revision = list.ResourceVersion
	hooks := api.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	everything := admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
		Rule: admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"pods", "nodes", "configmaps"}}}
	w := keepWriting(ctx, api, s.namespace)
	eventually(t, ctx, "some writes", func() error {
		if n := len(w.acknowledged()); n < 50 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	if _, err := hooks.Create(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: unanswered}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "unanswered.example.com", FailurePolicy: new(admissionv1.Fail), SideEffects: new(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: new(int32(1)),
		ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: s.namespace, Name: "nobody"}}, Rules: []admissionv1.RuleWithOperations{everything}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.before = w.acknowledged()
	if err := json.Unmarshal([]byte(c.must(t, ctx, "backup", "-f", file, "-o", "json").stdout), &s.taken); err != nil {
		t.Fatal(err)
	}
	if err := hooks.Delete(ctx, unanswered, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.file = filepath.Join(t.TempDir(), s.taken.File)
	c.must(t, ctx, "backup", "fetch", "-f", file, s.taken.File, s.file)
	eventually(t, ctx, "writes after the backup", func() error {
		_, err := api.CoreV1().ConfigMaps(s.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "after"}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	w.stop()
	<-w.done
	return s
}

// holds checks what the restored cluster has, and how clients of before see it.
func (c *cluster) holds(t *testing.T, ctx context.Context, s saved, file string, out run.Restored) {
	t.Helper()
	_, api := c.client(t, ctx)
	list, err := api.CoreV1().ConfigMaps(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range list.Items {
		have[m.Name] = true
	}
	var lost []string
	for _, name := range s.before {
		if !have[name] {
			lost = append(lost, name)
		}
	}
	if len(lost) > 0 || len(s.before) == 0 {
		t.Errorf("%d of %d writes that were acknowledged before the backup are lost: %s", len(lost), len(s.before), strings.Join(lost, " "))
	}
	if have["after"] {
		t.Error("the restored cluster has what was written after the backup")
	}
	secret, err := api.CoreV1().Secrets(s.namespace).Get(ctx, "secret", metav1.GetOptions{})
	if err != nil || string(secret.Data["word"]) != "before" {
		t.Errorf("the secret: %v", err)
	}
	now, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil || now < s.taken.Manifest.Etcd.Revision+snapshot.RevisionBump {
		t.Errorf("the revision is %d (%v), and was %d in the backup", now, err, s.taken.Manifest.Etcd.Revision)
	}
	watch, err := api.CoreV1().ConfigMaps(s.namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: s.revision})
	if err == nil {
		select {
		case event := <-watch.ResultChan():
			err = apierrors.FromObject(event.Object)
		case <-time.After(patience):
			err = errors.New("nothing came")
		}
		watch.Stop()
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch from before the backup: %v", err)
	}
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := spec.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		if h, known := want.Host(n.Name); !known || !h.IsNode() {
			t.Errorf("there is a node %s", n.Name)
		}
	}
	hook, err := api.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, unanswered, metav1.GetOptions{})
	if err != nil || *hook.Webhooks[0].FailurePolicy != admissionv1.Ignore || !slices.ContainsFunc(out.Notes, func(n string) bool { return strings.Contains(n, "unanswered.example.com") }) {
		t.Errorf("the webhook that nobody answers: %v %v; noted: %q", hook.Webhooks, err, out.Notes)
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
}

func restored(t *testing.T, r result) (out run.Restored) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	t.Logf("restore of %d keys: %s (the command: %s). Repaired: %q. Notes: %q", out.Keys, out.Took, r.took, out.Repaired, out.Notes)
	return out
}

// restoreSame restores a backup over the cluster that it was taken of, on the same hosts. It is the last thing that happens to a cluster.
func restoreSame(t *testing.T, c *cluster) {
	ctx := testContext(t)
	identity, recipient := newIdentity(t)
	other, _ := newIdentity(t)
	b := c.directoryStore(t, ctx)
	b.Recipients, b.Every = []string{recipient}, spec.BackupNever
	file := c.edited(t, func(s *spec.Cluster) { s.Spec.Backup = b })
	s := c.save(t, ctx, file, identity)

	restore := []string{"restore", "-f", file, "--identity", identity, s.file}
	for _, tc := range []struct {
		code int
		args []string
		says string
	}{
		{1, []string{"restore", "-f", file, "--identity", other, s.file}, "not encrypted to this identity"},
		{2, []string{"restore", "-f", file, s.file}, "--identity is required"},
		{3, restore, "a cluster runs on these hosts"},
		{2, append(slices.Clone(restore), "--replace-cluster", "another", "--yes"), "nothing was changed"},
		{2, append(slices.Clone(restore), "--replace-cluster", c.name), "pass --yes"},
	} {
		if r := c.exits(t, ctx, tc.code, tc.args...); !strings.Contains(r.stderr, tc.says) {
			t.Errorf("%s", r)
		}
	}
	c.unchanged(t, ctx, "-f", c.specFile()) // nothing was changed

	r := c.must(t, ctx, append(slices.Clone(restore), "--replace-cluster", c.name, "--yes", "-o", "json")...)
	out := restored(t, r)
	c.holds(t, ctx, s, file, out)
	for _, cp := range controlPlanes {
		if got := c.ssh(t, ctx, cp, "stat -c %a "+out.Kept+"; ls "+out.Kept+"/etcd/member "+out.Kept+"/kubernetes/pki"); !strings.HasPrefix(got, "700") || !strings.Contains(got, "wal") || !strings.Contains(got, "ca.key") {
			t.Errorf("%s kept %s: %s", cp, out.Kept, got)
		}
	}
	// A client of before goes on: its certificate and the authority are the same. Its connection may have to be made again first.
	eventually(t, ctx, "a client of before", func() error {
		_, err := s.api.CoreV1().Namespaces().Get(ctx, s.namespace, metav1.GetOptions{})
		return err
	})
	if r := c.run(ctx, restore...); r.code != 3 || !strings.Contains(r.stderr, "restored from this backup before") {
		t.Errorf("once more: %s", r)
	}
	c.wholeBy(t, ctx, file)
}

// TestRestore restores a cluster onto other hosts with another topology, in runs that are killed, and then into a lab.
func TestRestore(t *testing.T) {
	if !*whole {
		t.Skip("TestCluster restores onto the same hosts; -whole restores onto others")
	}
	c := newCluster(t, "e2e-restore")
	ctx := testContext(t)
	identity, recipient := newIdentity(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "old.yaml"), initialized(t, spec.InitOptions{Name: c.name, Workers: 1}))
	c.must(t, ctx, "up", "-f", filepath.Join(dir, "old.yaml"))
	b := c.directoryStore(t, ctx)
	b.Recipients, b.Every = []string{recipient}, spec.BackupNever
	s := c.save(t, ctx, c.edited(t, func(s *spec.Cluster) { s.Spec.Backup = b }), identity)
	c.must(t, ctx, "down", "--name", c.name)

	// Other hosts, with etcd on hosts of its own, and another endpoint.
	file := filepath.Join(dir, "new.yaml")
	fresh := func(role, name, zone string) spec.Host {
		return spec.Host{Name: name, Roles: []string{role}, Zone: zone}
	}
	var hosts []spec.Host
	for _, zone := range []string{"x", "y", "z"} {
		hosts = append(hosts, fresh(spec.RoleEtcd, "new-etcd-"+zone, zone))
	}
	for _, zone := range []string{"x", "y", "z"} {
		hosts = append(hosts, fresh(spec.RoleControlPlane, "new-cp-"+zone, zone))
	}
	hosts = append(hosts, fresh(spec.RoleWorker, "new-worker", "x"), fresh(spec.RoleLoadBalancer, "new-lb", "y"))
	write(t, file, initialized(t, spec.InitOptions{Name: c.name, Topology: spec.TopologyExternal, Endpoint: "new.example.internal:6443", Hosts: hosts}))
	c.must(t, ctx, "lab", "create", "-f", file)
	file = c.specFile() // with addresses
	restore := []string{"restore", "-f", file, "--identity", identity, s.file}
	for _, at := range []struct {
		words string
		after time.Duration
	}{{"restore the shared keys …", 0}, {"restore etcd's data …", 100 * time.Millisecond}, {"start etcd …", 0}, {"remove what belongs to the hosts of before …", 300 * time.Millisecond}, {"verify the cluster …", 0}} {
		r := c.start(t, ctx, append(slices.Clone(restore), "--verbose")...)
		if !r.reaches(ctx, at.words) {
			code, all := r.wait(t)
			t.Logf("an earlier run had come further than %q: exit status %d: %s", at.words, code, all)
			break
		}
		r.signal(t, ctx, syscall.SIGKILL, at.after)
		r.wait(t)
		if r := c.run(ctx, "apply", "-f", file); r.code != 3 || !strings.Contains(r.stderr, "quorate restore") {
			t.Errorf("apply after %q: %s", at.words, r)
		}
	}
	out := restored(t, c.must(t, ctx, append(slices.Clone(restore), "-o", "json")...))
	c.holds(t, ctx, s, file, out)

	// A backup of that, and a copy in a lab.
	for _, cp := range []string{"new-cp-x", "new-cp-y", "new-cp-z"} {
		c.ssh(t, ctx, cp, "mkdir -p -m 700 /srv/e2e-backups")
	}
	l, err := spec.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	l.Spec.Backup = b
	text, err := spec.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	withBackup := filepath.Join(dir, "backup.yaml")
	write(t, withBackup, text)
	var taken hostbackup.Result
	if err := json.Unmarshal([]byte(c.must(t, ctx, "backup", "-f", withBackup, "-o", "json").stdout), &taken); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(dir, taken.File)
	c.must(t, ctx, "backup", "fetch", "-f", withBackup, taken.File, second)
	c.must(t, ctx, "down", "--name", c.name)

	copied := newCluster(t, "e2e-copy")
	r := copied.must(t, ctx, "up", "--from-backup", second, "--identity", identity, "--name", copied.name, "--control-planes", "1")
	if !strings.Contains(r.stdout, "Restored "+copied.name) || !strings.Contains(r.stdout, "KUBECONFIG") {
		t.Errorf("%s", r)
	}
	_, api := copied.client(t, ctx)
	for _, name := range s.before {
		if _, err := api.CoreV1().ConfigMaps(s.namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if steps := planned(t, copied.must(t, ctx, "plan", "-f", copied.specFile(), "-o", "json")); slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind != plan.Verify }) {
		t.Errorf("something is left to do in the copy: %+v", steps)
	}
}

// TestTopology moves a cluster from stacked to external etcd, as docs/changing-hosts.md says: the edit is refused, and a restore of its backup
// over the cluster makes it.
func TestTopology(t *testing.T) {
	if !*whole {
		t.Skip("it builds a cluster twice; -whole runs it")
	}
	c := newCluster(t, "e2e-topology")
	ctx := testContext(t)
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	write(t, file, initialized(t, spec.InitOptions{Name: c.name, Workers: 1}))
	c.must(t, ctx, "up", "-f", file)
	identity, recipient := newIdentity(t)
	h := &changingHosts{c: c, spec: c.specFile()}
	b := c.directoryStore(t, ctx)
	b.Recipients, b.Every = []string{recipient}, spec.BackupNever
	h.edit(t, func(s *spec.Cluster) { s.Spec.Backup = b })
	c.must(t, ctx, "apply", "-f", h.spec)
	s := c.save(t, ctx, h.spec, identity)

	var hosts []spec.Host
	for _, zone := range []string{"a", "b", "c"} {
		hosts = append(hosts, h.machine(t, ctx, "etcd-"+zone, zone, spec.RoleEtcd))
	}
	h.edit(t, func(s *spec.Cluster) {
		s.Spec.ControlPlane.Topology = spec.TopologyExternal
		s.Spec.Hosts = append(s.Spec.Hosts, hosts...)
	})
	for _, command := range []string{"plan", "apply"} {
		r := c.exits(t, ctx, 3, command, "-f", h.spec)
		if !strings.Contains(r.stderr, "controlPlane.topology") || !strings.Contains(strings.Join(strings.Fields(r.stderr), " "), "see changing-hosts.md") {
			t.Errorf("the refusal does not say how the topology is changed: %s", r)
		}
	}
	restore := []string{"restore", "-f", h.spec, "--identity", identity, "--replace-cluster", c.name, "--yes", "-o", "json", s.file}
	half := c.start(t, ctx, append(slices.Clone(restore), "--verbose")...)
	if !half.reaches(ctx, "restore etcd's data …") {
		code, all := half.wait(t)
		t.Fatalf("the restore does not come to etcd's data: exit status %d: %s", code, all)
	}
	half.signal(t, ctx, syscall.SIGKILL, 0)
	half.wait(t)
	out := restored(t, c.must(t, ctx, restore...))
	c.holds(t, ctx, s, h.spec, out)

	now := c.whole(t, ctx)
	var names []string
	for _, m := range now.Etcd.Members {
		names = append(names, m.Name)
	}
	if slices.Sort(names); now.Etcd.Topology != spec.TopologyExternal || !slices.Equal(names, []string{"etcd-a", "etcd-b", "etcd-c"}) {
		t.Errorf("etcd is %+v", now.Etcd)
	}
	for _, cp := range controlPlanes {
		if left := c.ssh(t, ctx, cp, "ls -d /etc/kubernetes/manifests/etcd.yaml /var/lib/etcd/member /etc/kubernetes/pki/etcd/ca.key 2>/dev/null || true"); left != "" {
			t.Errorf("%s still has something of its etcd: %s", cp, left)
		}
		if kept := c.ssh(t, ctx, cp, "ls /var/lib/quorate-kept/*/etcd/member"); !strings.Contains(kept, "wal") {
			t.Errorf("%s kept nothing of its etcd: %q", cp, kept)
		}
	}
}

func initialized(t *testing.T, o spec.InitOptions) []byte {
	t.Helper()
	text, err := spec.Init(o)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
