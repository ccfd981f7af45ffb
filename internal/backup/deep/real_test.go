//go:build e2e

package deep

import (
	"bytes"
	"context"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
)

// manifest is the API server's in the backup.
const manifest = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system, labels: {component: kube-apiserver, tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --encryption-provider-config=/etc/kubernetes/pki/encryption.yaml, --service-cluster-ip-range=10.96.0.0/12]
    volumeMounts:
    - {name: pki, mountPath: /etc/kubernetes/pki}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki}}
status: {}
`

// definitionOf is a CustomResourceDefinition, with or without a webhook that converts its objects.
func definitionOf(plural, kind, conversion string) string {
	return `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "` + plural + `.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
	"names": {"plural": "` + plural + `", "singular": "` + strings.ToLower(kind) + `", "kind": "` + kind + `", "listKind": "` + kind + `List"}, "conversion": ` + conversion + `,
	"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`
}

// A real API server of the bundle reads an etcd with everything that can be wrong with one.
func TestAnAPIServerReadsABackup(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	b, err := BundleFor(spec.DefaultVersion)
	if err != nil {
		t.Fatal(err)
	}
	keys := encryption.Keys{encryption.NewKey("key1")}
	config, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r := filled(t, ctx, b, config)
	before := children(t)
	report, err := Look(ctx, b, r, short(t))
	if err != nil {
		t.Fatal(err)
	}
	if after := children(t); after != before {
		t.Errorf("processes are left: %q, and there were %q", after, before)
	}
	t.Logf("%d objects of %d kinds in %s, %d internal keys", report.Objects, len(report.Kinds), report.Took, report.Internal)
	found := map[string]Kind{}
	for _, k := range report.Kinds {
		found[k.Name()] = k
		t.Logf("%s %s: %d objects, %d unreadable, %s", k.Name(), k.Version, k.Objects, len(k.Unreadable), k.Error)
	}
	for name, want := range map[string]struct{ objects, unreadable int }{
		"secrets": {700, 1}, "configmaps": {3, 1}, "widgets.example.com": {2, 0}, "gadgets.example.com": {1, 0}, "customresourcedefinitions.apiextensions.k8s.io": {3, 0}, "namespaces": {4, 0},
	} {
		if k := found[name]; k.Objects < want.objects || len(k.Unreadable) != want.unreadable || k.Error != "" {
			t.Errorf("%s: %+v", name, k)
		}
	}
	if found["secrets"].Objects != 700 {
		t.Errorf("%d secrets", found["secrets"].Objects)
	}
	text := ""
	for _, n := range report.NotServed {
		text += n.What + ": " + n.Why + "\n"
	}
	for _, want := range []string{"metrics.example.org/v1: the Service metrics", "relics.example.com", "secrets: the KMS provider vault"} {
		if !strings.Contains(text, want) {
			t.Errorf("not served: no %q in %s", want, text)
		}
	}
	if len(report.Unclaimed) != 2 || report.Unclaimed[0].Below != "/quorate.dev" || report.Unclaimed[1].Below != "/registry/example.net/ghosts" || report.Unclaimed[1].Keys != 1 {
		t.Errorf("unclaimed: %+v", report.Unclaimed)
	}
	if err := report.Err(); err == nil || !strings.Contains(err.Error(), "2 objects") {
		t.Errorf("%v", err)
	}
}

// An interrupted command ends the API server.
func TestAnAPIServerEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b, err := BundleFor(spec.DefaultVersion)
	if err != nil {
		t.Fatal(err)
	}
	dir := short(t)
	_, endpoint := startEtcd(t)
	program := filepath.Join(dir, "kube-apiserver")
	if err := b.Program(ctx, "kube-apiserver", "kube-apiserver", program); err != nil {
		t.Fatal(err)
	}
	before := children(t)
	interrupted, interrupt := context.WithCancel(ctx)
	time.AfterFunc(700*time.Millisecond, interrupt)
	if _, err := start(interrupted, program, dir, endpoint, nil, nil); err == nil {
		t.Error("it started")
	}
	if after := children(t); after != before {
		t.Errorf("processes are left: %q, and there were %q", after, before)
	}
	// What it says when it cannot start is in the error.
	if _, err := start(ctx, program, dir, endpoint, map[string]string{"feature-gates": "NoSuchGate=true"}, nil); err == nil || !strings.Contains(err.Error(), "NoSuchGate") {
		t.Errorf("%v", err)
	}
}

// children are the processes that this one has started.
func children(t *testing.T) string {
	t.Helper()
	all := ""
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, _ := os.ReadFile(f)
		all += string(data)
	}
	return all
}

func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "q") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startEtcd(t *testing.T) (*clientv3.Client, string) {
	t.Helper()
	dir := short(t)
	config := embed.NewConfig()
	config.Dir, config.UnsafeNoFsync = filepath.Join(dir, "d"), true
	peer, client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "p")}, url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}
	config.ListenPeerUrls, config.AdvertisePeerUrls, config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{peer}, []url.URL{peer}, []url.URL{client}, []url.URL{client}
	config.InitialCluster = config.Name + "=" + peer.String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{client.String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, client.String()
}

// filled is the etcd of a cluster, restored from a snapshot.
func filled(t *testing.T, ctx context.Context, b *bundle.Bundle, config []byte) backup.Running {
	t.Helper()
	etcd, endpoint := startEtcd(t)
	dir := short(t)
	program := filepath.Join(dir, "kube-apiserver")
	if err := b.Program(ctx, "kube-apiserver", "kube-apiserver", program); err != nil {
		t.Fatal(err)
	}
	s, err := start(ctx, program, dir, endpoint, map[string]string{"service-cluster-ip-range": "10.96.0.0/12"}, config)
	if err != nil {
		t.Fatal(err)
	}
	populate(t, ctx, s.client)
	s.stop()
	for key, value := range map[string]string{
		"/registry/secrets/default/lost":             "k8s:enc:secretbox:v1:gone:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		"/registry/secrets/default/kms":              "k8s:enc:kms:v2:vault:xxxx",
		"/registry/configmaps/default/broken":        "k8s\x00broken",
		"/registry/example.net/ghosts/default/x":     "{}",
		"/quorate.dev/backup-last":                   "{}",
		"/registry/example.com/relics/default/relic": "not even JSON",
	} {
		if _, err := etcd.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	in, err := etcd.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	scratch := short(t)
	file := filepath.Join(scratch, "snapshot")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	status, err := snapshot.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	running, err := snapshot.Start(ctx, scratch, file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Close)
	withKMS := bytes.Replace(config, []byte("  providers:\n"), []byte("  providers:\n  - kms: {apiVersion: v2, name: vault, endpoint: \"unix:///nowhere\"}\n"), 1)
	return backup.Running{Manifest: backup.Manifest{Etcd: backup.Etcd{Revision: status.Revision}}, Etcd: running,
		Parts: map[string][]byte{"kubernetes/manifests/kube-apiserver.yaml": []byte(manifest), "kubernetes/pki/encryption.yaml": withKMS}}
}

func populate(t *testing.T, ctx context.Context, client kubernetes.Interface) {
	t.Helper()
	raw := client.Discovery().RESTClient().(*rest.RESTClient)
	post := func(path, body string) error {
		return raw.Post().AbsPath(path).Body([]byte(body)).SetHeader("Content-Type", "application/json").Do(ctx).Error()
	}
	eventually := func(what string, f func() error) {
		t.Helper()
		for {
			err := f()
			if err == nil {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s: %v", what, err)
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	eventually("the namespace", func() error {
		_, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	for i := range 700 {
		if _, err := client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}, Data: map[string][]byte{"n": {byte(i)}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "z"} {
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const webhook = `{"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"service": {"namespace": "default", "name": "converter"}}}}`
	for plural, d := range map[string]string{"widgets": definitionOf("widgets", "Widget", `{"strategy": "None"}`), "gadgets": definitionOf("gadgets", "Gadget", webhook), "relics": definitionOf("relics", "Relic", webhook)} {
		if err := post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", d); err != nil {
			t.Fatalf("%s: %v", plural, err)
		}
	}
	for path, body := range map[string]string{
		"widgets": `{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"generateName": "w-"}}`,
		"gadgets": `{"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"generateName": "g-"}}`,
	} {
		eventually("the first of "+path, func() error { return post("/apis/example.com/v1/namespaces/default/"+path, body) })
	}
	if err := post("/apis/example.com/v1/namespaces/default/widgets", `{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "second"}}`); err != nil {
		t.Fatal(err)
	}
	if err := post("/apis/apiregistration.k8s.io/v1/apiservices", `{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.metrics.example.org"},
		"spec": {"group": "metrics.example.org", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "metrics"}}}`); err != nil {
		t.Fatal(err)
	}
}
