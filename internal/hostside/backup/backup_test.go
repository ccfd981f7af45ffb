package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/host"
)

func TestTheConfigurationOfAControlPlane(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"pki/ca.key": "key", "pki/ca.crt": "certificate", "pki/sa.key": "key", "pki/etcd/ca.crt": "certificate", "pki/encryption.yaml": "keys", "admin.conf": "kubeconfig"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "broken")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ca.crt", filepath.Join(dir, "pki/link.crt")); err != nil {
		t.Fatal(err)
	}
	parts, missing, err := configuration(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range parts {
		names = append(names, strings.TrimPrefix(p.Name, backup.Kubernetes))
	}
	if want := []string{"admin.conf", "pki/ca.crt", "pki/ca.key", "pki/encryption.yaml", "pki/etcd/ca.crt", "pki/link.crt", "pki/sa.key"}; !slices.Equal(names, want) {
		t.Errorf("the parts are %v", names)
	}
	if want := []string{"kubernetes/pki/front-proxy-ca.key", "kubernetes/pki/etcd/ca.key"}; !slices.Equal(missing, want) {
		t.Errorf("missing are %v", missing)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, fileLimit+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := configuration(dir); err == nil {
		t.Error("a file of any size is read into memory")
	}
}

// A backup that is larger than a reply of the host side arrives whole.
func TestBackupsAreReadThroughAHost(t *testing.T) {
	dir := t.TempDir()
	at := backup.Location{Directory: dir}
	content := make([]byte, 2*pieceBytes+12345)
	rand.Read(content) //nolint:errcheck // it never fails
	n := backup.Name{Cluster: "prod", UID: "1a2b3c4d", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Host: "cp-a"}
	if err := os.WriteFile(filepath.Join(dir, n.String()), content, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := host.Local(t.Context(), "cp-a")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := List.On(t.Context(), c, at)
	if err != nil || len(all) != 1 || all[0].Name != n || all[0].Bytes != int64(len(content)) {
		t.Fatalf("%+v %v", all, err)
	}
	have, err := io.ReadAll(Download(t.Context(), c, at, n.String()))
	if err != nil || !bytes.Equal(have, content) {
		t.Errorf("%d bytes, %v", len(have), err)
	}
	if _, err := io.ReadAll(Download(t.Context(), c, at, "../"+n.String())); err == nil {
		t.Error("a file outside of the store was read")
	}
}

func TestABackupNeedsARecipient(t *testing.T) {
	c, err := host.Local(t.Context(), "cp-a")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, recipients := range [][]string{nil, {"age1x"}} {
		if _, err := Take.On(t.Context(), c, Request{Cluster: "prod", Recipients: recipients}); err == nil {
			t.Errorf("recipients %v: a backup was taken", recipients)
		}
	}
}

// startEtcd starts a real etcd in this process, without TLS.
func startEtcd(t *testing.T) (controlPlane, *clientv3.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "q") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := embed.NewConfig()
	config.Dir, config.UnsafeNoFsync = filepath.Join(dir, "d"), true
	peer, at := url.URL{Scheme: "unix", Path: filepath.Join(dir, "p")}, url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}
	config.ListenPeerUrls, config.AdvertisePeerUrls, config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{peer}, []url.URL{peer}, []url.URL{at}, []url.URL{at}
	config.InitialCluster = config.Name + "=" + peer.String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	p := controlPlane{host: "cp-a", endpoints: []string{at.String()}, config: filepath.Join(dir, "kubernetes"), work: filepath.Join(dir, "work"), connect: func(endpoints ...string) (*clientv3.Client, error) {
		return clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	}}
	client, err := p.connect(p.endpoints...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return p, client
}

// put stores an object as an API server does.
func put(t *testing.T, client *clientv3.Client, key string, object runtime.Object) {
	t.Helper()
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), object)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/registry/"+key, string(data)); err != nil {
		t.Fatal(err)
	}
}

// cluster is a real etcd with the objects that every cluster has.
func cluster(t *testing.T) (controlPlane, *clientv3.Client) {
	t.Helper()
	p, client := startEtcd(t)
	if err := os.MkdirAll(filepath.Join(p.config, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.config, "pki/ca.key"), []byte("the key of the CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, client, "namespaces/kube-system", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "1a2b3c4d-5e6f"}})
	put(t, client, "configmaps/kube-system/kubeadm-config", &corev1.ConfigMap{Data: map[string]string{"ClusterConfiguration": "kubernetesVersion: v1.37.2\n"}})
	put(t, client, "configmaps/kube-system/quorate", &corev1.ConfigMap{Data: map[string]string{"spec": "the recorded spec"}})
	return p, client
}

func TestABackupOfARealEtcdIsGood(t *testing.T) {
	ctx := t.Context()
	p, client := cluster(t)
	for i := range 200 {
		if _, err := client.Put(ctx, fmt.Sprintf("/registry/x/%d", i%50), strings.Repeat("v", i)); err != nil {
			t.Fatal(err)
		}
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	in := Request{Cluster: "prod", Location: backup.Location{Directory: t.TempDir()}, Keep: backup.Retention{Last: 1}}
	recipients := []age.Recipient{identity.Recipient()}
	out, err := p.take(ctx, in, recipients)
	if err != nil {
		t.Fatal(err)
	}
	m := out.Manifest
	if m.Cluster.UID != "1a2b3c4d-5e6f" || m.Cluster.Kubernetes != "v1.37.2" || m.Etcd.Keys < 53 || m.Etcd.KVHash == 0 || len(m.Etcd.Members) != 1 || !m.Etcd.Leads {
		t.Errorf("the manifest is %+v", m)
	}
	if want := []string{"configmaps/kubelet-config.json", "kubernetes/pki/front-proxy-ca.key", "kubernetes/pki/etcd/ca.key", "kubernetes/pki/sa.key"}; !slices.Equal(m.Missing, want) {
		t.Errorf("missing are %v", m.Missing)
	}
	if _, err := os.Stat(p.work); !os.IsNotExist(err) {
		t.Errorf("the snapshot stays on the host: %v", err)
	}
	sealed, err := os.ReadFile(filepath.Join(in.Location.Directory, out.File))
	if err != nil {
		t.Fatal(err)
	}
	read := func() *backup.Reader {
		r, err := backup.Open(bytes.NewReader(sealed), identity)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	scratch, err := os.MkdirTemp("", "q")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(scratch)
	v, err := backup.Verify(ctx, read(), scratch)
	if err != nil || !v.KVHashCompared || !reflect.DeepEqual(v.Manifest, m) {
		t.Errorf("%+v %v", v, err)
	}
	dir := t.TempDir()
	if err := read().Extract(dir, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{backup.SpecPart: "the recorded spec", "kubernetes/pki/ca.key": "the key of the CA"} {
		if have, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(have) != want {
			t.Errorf("%s: %q %v", name, have, err)
		}
	}
	time.Sleep(1100 * time.Millisecond) // names have seconds
	again, err := p.take(ctx, in, recipients)
	if err != nil || !slices.Equal(again.Removed, []string{out.File}) {
		t.Errorf("removed %v %v", again.Removed, err)
	}
	if err := locked(ctx, client, func(ctx context.Context) error {
		_, err := p.take(ctx, in, recipients)
		return err
	}); !errors.Is(err, ErrBusy) {
		t.Errorf("while another backup is taken: %v", err)
	}
}
