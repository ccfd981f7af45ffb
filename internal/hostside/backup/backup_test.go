package backup

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	etcdhost "quorate.dev/quorate/internal/hostside/etcd"
)

// A backup that is larger than a reply of the host side arrives whole.
func TestBackupsAreReadThroughAHost(t *testing.T) {
	dir := t.TempDir()
	at := backup.Location{Directory: dir}
	content := make([]byte, 2*pieceBytes+12345)
	rand.Read(content) //nolint:errcheck // it never fails
	n := backup.Name{Cluster: "prod", UID: "1a2b3c4d", Etcd: "5e6f7a8b", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Host: "cp-a"}
	if err := os.WriteFile(filepath.Join(dir, n.String()), content, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := host.Local(t.Context(), "cp-a")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := List.On(t.Context(), c, at)
	if err != nil || len(all.Backups) != 1 || all.Backups[0].Name != n || all.Backups[0].Bytes != int64(len(content)) {
		t.Fatalf("%+v %v", all, err)
	}
	have, err := io.ReadAll(Download(t.Context(), []*host.Conn{c}, at, n.String()))
	if err != nil || !bytes.Equal(have, content) {
		t.Errorf("%d bytes, %v", len(have), err)
	}
	// The connection to the first host ends in the middle.
	gone, err := host.Local(t.Context(), "cp-b")
	if err != nil {
		t.Fatal(err)
	}
	in, begin := Download(t.Context(), []*host.Conn{gone, c}, at, n.String()), make([]byte, pieceBytes)
	if _, err := io.ReadFull(in, begin); err != nil {
		t.Fatal(err)
	}
	gone.Close()
	rest, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(append(begin, rest...), content) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	if _, err := io.ReadAll(Download(t.Context(), []*host.Conn{gone, gone}, at, n.String())); err == nil {
		t.Error("a backup was read through nobody")
	}
	if _, err := io.ReadAll(Download(t.Context(), []*host.Conn{c}, at, "../"+n.String())); err == nil {
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
	p := controlPlane{host: "cp-a", endpoints: []string{at.String()}, root: filepath.Join(dir, "root"), work: filepath.Join(dir, "work"), connect: func(endpoints ...string) (*clientv3.Client, error) {
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
	for name, content := range controlPlaneFiles(t) {
		place(t, p.root, name, content)
	}
	put(t, client, "namespaces/kube-system", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "1a2b3c4d-5e6f"}})
	put(t, client, "configmaps/kube-system/kubeadm-config", &corev1.ConfigMap{Data: map[string]string{"ClusterConfiguration": "kubernetesVersion: v1.37.2\n"}})
	put(t, client, "configmaps/kube-system/quorate", &corev1.ConfigMap{Data: map[string]string{"spec": recordedSpec}})
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
	if m.Cluster.UID != "1a2b3c4d-5e6f" || m.Cluster.Kubernetes != "v1.37.2" || m.Etcd.Keys < 53 || m.Etcd.KVHash == 0 || !m.Etcd.KeysCompared || len(m.Etcd.Members) != 1 || !m.Etcd.Leads {
		t.Errorf("the manifest is %+v", m)
	}
	if want := []string{"configmaps/kubelet-config.json", "kubernetes/pki/etcd/ca.key", "kubernetes/pki/front-proxy-ca.key"}; !slices.Equal(m.Missing, want) {
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
	v, err := backup.Verify(ctx, read(), scratch, nil)
	if err != nil || !v.KVHashCompared || !reflect.DeepEqual(v.Manifest, m) {
		t.Errorf("%+v %v", v, err)
	}
	dir := t.TempDir()
	if err := read().Extract(dir, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{backup.SpecPart: recordedSpec, "kubernetes/pki/encryption.yaml": string(keysOf(t, p))} {
		if have, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(have) != want {
			t.Errorf("%s: %q %v", name, have, err)
		}
	}
	partial := "." + out.File + ".partial" // of a process that was killed
	if err := os.WriteFile(filepath.Join(in.Location.Directory, partial), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // names have seconds
	again, err := p.take(ctx, in, recipients)
	if err != nil || !slices.Equal(again.Removed, []string{partial, out.File}) || again.NotRemoved != "" {
		t.Errorf("removed %v %v", again.Removed, err)
	}
	begun := time.Now()
	err = p.locked(ctx, client, func(ctx context.Context, _ *clientv3.Cmp) error {
		other := p
		other.host = "cp-b"
		_, err := other.take(ctx, in, recipients)
		return err
	})
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "cp-a began at "+begun.UTC().Format("2006-01-02T15:04")) {
		t.Errorf("while another backup is taken: %v", err)
	}
	if left, err := client.Get(ctx, lockKey); err != nil || len(left.Kvs) > 0 {
		t.Errorf("the lock stays: %v %v", left, err)
	}
}

const recordedSpec = "metadata: {name: prod}\n"

const apiServer = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system, labels: {component: kube-apiserver, tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --encryption-provider-config=/etc/kubernetes/pki/encryption.yaml, --service-account-signing-key-file=/etc/kubernetes/pki/sa.key]
    volumeMounts:
    - {name: pki, mountPath: /etc/kubernetes/pki}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki}}
status: {}
`

// controlPlaneFiles are the files of a control plane.
func controlPlaneFiles(t *testing.T) map[string][]byte {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := encryption.Keys{encryption.NewKey("key1")}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
	return map[string][]byte{"etc/kubernetes/pki/ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "etc/kubernetes/pki/ca.key": key, "etc/kubernetes/pki/sa.key": key,
		"etc/kubernetes/pki/encryption.yaml": keys, "etc/kubernetes/manifests/kube-apiserver.yaml": []byte(apiServer)}
}

func place(t *testing.T, root, name string, content []byte) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func keysOf(t *testing.T, p controlPlane) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.root, "etc/kubernetes/pki/encryption.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// taking is a cluster with a store, and someone who takes a backup.
func taking(t *testing.T) (controlPlane, *clientv3.Client, Request, []age.Recipient) {
	t.Helper()
	p, client := cluster(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return p, client, Request{Cluster: "prod", Host: p.host, Location: backup.Location{Directory: t.TempDir()}, Keep: backup.Retention{Last: 1}}, []age.Recipient{identity.Recipient()}
}

// TestNoBackupOfAClusterThatWasReplaced: after a recovery, a majority of the old members came back.
func TestNoBackupOfAClusterThatWasReplaced(t *testing.T) {
	p, client, in, recipients := taking(t)
	list, err := client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := strconv.FormatUint(list.Header.ClusterId, 16)
	if err := (etcdhost.Member{Root: p.root}).Abandon("a1", id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.take(t.Context(), in, recipients); err == nil || !strings.Contains(err.Error(), id) || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("a backup of it: %v", err)
	}
	if left, err := os.ReadDir(in.Location.Directory); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	place(t, p.root, strings.TrimPrefix(facts.EtcdAbandonedFile, "/"), []byte("a1\n"))
	if _, err := p.take(t.Context(), in, recipients); err != nil {
		t.Error(err)
	}
}

// The key is rotated while the snapshot is transferred: once, it is taken again; each time, there is no backup.
func TestARotationWhileABackupIsTaken(t *testing.T) {
	for name, rotations := range map[string]int{"once": 1, "again and again": 100} {
		p, client, in, recipients := taking(t)
		connect, done, key := p.connect, 0, "key1"
		p.connect = func(endpoints ...string) (*clientv3.Client, error) {
			if done++; done > 1 && done <= 1+rotations { // the first one is for the lock
				key = fmt.Sprintf("key%d", done)
				keys, err := encryption.Keys{encryption.NewKey(key)}.Marshal()
				if err != nil {
					return nil, err
				}
				place(t, p.root, "etc/kubernetes/pki/encryption.yaml", keys)
				if _, err := client.Put(t.Context(), "/registry/secrets/a/b", "k8s:enc:secretbox:v1:"+key+":sealed"); err != nil {
					return nil, err
				}
			}
			return connect(endpoints...)
		}
		out, err := p.take(t.Context(), in, recipients)
		if rotations > 1 {
			if err == nil || !strings.Contains(err.Error(), "the encryption keys were changed") {
				t.Errorf("%s: %v", name, err)
			}
			if left, err := os.ReadDir(in.Location.Directory); err != nil || len(left) > 0 {
				t.Errorf("%s: %v %v", name, left, err)
			}
			continue
		}
		if err != nil || done != 3 {
			t.Errorf("%s: %v after %d connections", name, err, done)
			continue
		}
		if part, ok := out.Manifest.Part("kubernetes/pki/encryption.yaml"); !ok || part.SHA256 != fmt.Sprintf("%x", sha256.Sum256(keysOf(t, p))) {
			t.Errorf("%s: the backup has another key than the control plane", name)
		}
	}
}

func TestBackupsThatNobodyCouldRestore(t *testing.T) {
	p, client, in, recipients := taking(t)
	refused := func(what, want string) {
		t.Helper()
		if _, err := p.take(t.Context(), in, recipients); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := client.Put(t.Context(), "/registry/secrets/a/b", "k8s:enc:secretbox:v1:lost:sealed"); err != nil {
		t.Fatal(err)
	}
	refused("a secret with a key that is gone", "k8s:enc:secretbox:v1:lost (such as /registry/secrets/a/b)")
	if _, err := client.Delete(t.Context(), "/registry/secrets/a/b"); err != nil {
		t.Fatal(err)
	}
	const kubeadm = "/registry/configmaps/kube-system/kubeadm-config"
	old, err := client.Get(t.Context(), kubeadm)
	if err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct{ value, want string }{
		"a damaged ConfigMap":    {"k8s\x00damaged", "reading " + kubeadm},
		"an encrypted ConfigMap": {"k8s:enc:secretbox:v1:key1:sealed", kubeadm + " in etcd is encrypted (k8s:enc:secretbox:v1:key1)"},
	} {
		if _, err := client.Put(t.Context(), kubeadm, tc.value); err != nil {
			t.Fatal(err)
		}
		refused(what, tc.want)
	}
	if _, err := client.Put(t.Context(), kubeadm, string(old.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Delete(t.Context(), "/registry/configmaps/kube-system/quorate"); err != nil {
		t.Fatal(err)
	}
	out, err := p.take(t.Context(), in, recipients)
	if err != nil || !slices.Contains(out.Manifest.Missing, backup.SpecPart) || !slices.Contains(out.Manifest.Missing, "configmaps/quorate.json") {
		t.Errorf("without a recorded spec: %v %v", out.Manifest.Missing, err)
	}
	p.host = "cp-a.example.com"
	refused("a host with dots", "must consist of")
	p.host = "cp-a"
	if err := os.Remove(filepath.Join(p.root, "etc/kubernetes/pki/sa.key")); err != nil {
		t.Fatal(err)
	}
	refused("without the key of service accounts", "sa.key")
}

// API servers compact etcd every five minutes, and a transfer may take longer.
func TestWhatWasCompactedIsNotCompared(t *testing.T) {
	_, client := startEtcd(t)
	ctx, revision := t.Context(), int64(0)
	for range 20 {
		r, err := client.Put(ctx, "/registry/x", "v")
		if err != nil {
			t.Fatal(err)
		}
		revision = r.Header.Revision
	}
	m := backup.Etcd{Revision: revision - 5, Keys: 1}
	if err := compare(ctx, client, client.Endpoints()[0], &m); err != nil || !m.KeysCompared || m.KVHash == 0 {
		t.Errorf("%+v %v", m, err)
	}
	wrong := backup.Etcd{Revision: revision - 5, Keys: 2}
	if err := compare(ctx, client, client.Endpoints()[0], &wrong); err == nil {
		t.Error("another number of keys is accepted")
	}
	if _, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	m = backup.Etcd{Revision: revision - 5, Keys: 1}
	if err := compare(ctx, client, client.Endpoints()[0], &m); err != nil || m.KeysCompared || m.KVHash != 0 {
		t.Errorf("%+v %v", m, err)
	}
}

// A backup is what somebody needs before anything is done about an etcd that is full.
func TestABackupOfAnEtcdThatIsFull(t *testing.T) {
	p, client, in, recipients := taking(t)
	alarm := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE}
	if _, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	out, err := p.take(t.Context(), in, recipients)
	if err != nil || !strings.Contains(out.NotLocked, "NOSPACE") || out.NotRecorded == "" || out.NotRemoved == "" {
		t.Errorf("%+v %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(in.Location.Directory, out.File)); err != nil {
		t.Error(err)
	}
	var log bytes.Buffer
	s := Schedule{time.Hour, in}
	if err := p.scheduled(t.Context(), s, time.Now, time.Time{}, &log); err == nil || !strings.Contains(err.Error(), "`quorate backup`") {
		t.Errorf("the schedule goes on without the lock: %v %s", err, log.String())
	}
}

// Whoever lost the lock notes and removes nothing: another control plane may be at work.
func TestWithoutTheLockNothingIsRemoved(t *testing.T) {
	p, client, in, recipients := taking(t)
	first, err := p.take(t.Context(), in, recipients)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // names have seconds
	err = p.locked(t.Context(), client, func(ctx context.Context, held *clientv3.Cmp) error {
		if _, err := client.Delete(ctx, lockKey); err != nil {
			return err
		}
		out, err := p.attempt(ctx, client, held, in, recipients)
		if !strings.Contains(out.NotRecorded, "lock") || out.NotRemoved == "" || len(out.Removed) > 0 {
			t.Errorf("%+v", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := report(t.Context(), client, time.Now(), time.Time{})
	if err != nil || r.Last == nil || r.Last.File != first.File {
		t.Errorf("%+v %v", r.Last, err)
	}
}
