package run

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/crypto/nacl/secretbox"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcddata"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
)

// shortDir is a directory in which sockets can be: their paths must be short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// diskWith is a disk with the data of a member that has these keys and values, at ROOT/var/lib/etcd.
func diskWith(t *testing.T, values map[string]string) (root, data string) {
	t.Helper()
	root = shortDir(t)
	data = filepath.Join(root, "var/lib/etcd")
	config := embed.NewConfig()
	config.Dir, config.UnsafeNoFsync = data, true
	peer, client := url.URL{Scheme: "unix", Path: filepath.Join(root, "p")}, url.URL{Scheme: "unix", Path: filepath.Join(root, "c")}
	config.ListenPeerUrls, config.AdvertisePeerUrls, config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{peer}, []url.URL{peer}, []url.URL{client}, []url.URL{client}
	config.InitialCluster = config.Name + "=" + peer.String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	<-e.Server.ReadyNotify()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if _, err := e.Server.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(values[key])}); err != nil {
			t.Fatal(err)
		}
	}
	return root, data
}

// authority is a certificate, its key, and the public key.
func authority(t *testing.T) (certificate, key, public []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	open, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, data []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}) }
	return block("CERTIFICATE", der), block("EC PRIVATE KEY", secret), block("PUBLIC KEY", open)
}

// keysOn puts the keys of a cluster onto a disk.
func keysOn(t *testing.T, root string, keys encryption.Keys) (ca string) {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd/ca"} {
		files[name+".crt"], files[name+".key"], _ = authority(t)
	}
	_, files["sa.key"], files["sa.pub"] = authority(t)
	var err error
	if files[encryption.File], err = keys.Marshal(); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(root, "etc/kubernetes/pki", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return string(files["ca.crt"])
}

func sealed(t *testing.T, k encryption.Key) string {
	t.Helper()
	secret, err := base64.StdEncoding.DecodeString(k.Secret)
	if err != nil {
		t.Fatal(err)
	}
	var nonce [24]byte
	return string(secretbox.Seal(append([]byte("k8s:enc:secretbox:v1:"+k.Name+":"), nonce[:]...), []byte("secret"), &nonce, (*[32]byte)(secret)))
}

const aSecret = "/registry/secrets/default/a"

// TestSalvage builds what a restore takes from a backup out of the disk of a control plane.
func TestSalvage(t *testing.T) {
	key := encryption.NewKey(encryption.FirstKey)
	values := map[string]string{
		backup.SystemNamespace:                            `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "1a2b3c4d"}}`,
		"/registry/configmaps/kube-system/kubeadm-config": `{"apiVersion": "v1", "kind": "ConfigMap", "data": {"ClusterConfiguration": "kubernetesVersion: v1.37.2\n"}}`,
		aSecret: sealed(t, key),
	}
	root, data := diskWith(t, values)
	ca := keysOn(t, root, encryption.Keys{key})
	onDisk := filepath.Join(root, "etc/kubernetes/pki")
	other := shortDir(t)
	keysOn(t, other, encryption.Keys{encryption.NewKey(encryption.FirstKey)})
	others := filepath.Join(other, "etc/kubernetes/pki")
	partly := shortDir(t)
	for _, name := range []string{"ca.crt", "sa.key", encryption.File} {
		content, err := os.ReadFile(filepath.Join(onDisk, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(partly, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	empty := shortDir(t)
	values["/registry/secrets/default/plain"] = "{}"
	_, plain := diskWith(t, values)

	salvage := func(o SalvageOptions, into RestoreOptions) (RestoreOptions, error) {
		t.Helper()
		s := salvager{spec.DefaultLab("prod"), func(name string) (*host.Conn, error) { return host.Local(t.Context(), name) }, progress.Discard, shortDir(t),
			func(_ context.Context, dir, scratch string) facts.EtcdCopy { return etcddata.Read(dir, scratch) }, etcddata.Snapshot}
		err := s.salvage(t.Context(), o, &into)
		return into, err
	}
	from := func(dir string) SalvageOptions { return SalvageOptions{Data: DataSource{Dir: dir}} }
	with := func(o SalvageOptions, keys string, create bool) SalvageOptions {
		o.Keys, o.NewKeys = DataSource{o.Data.Host, keys}, create
		return o
	}

	good, err := salvage(from(data), RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := good.Backup.Manifest
	if good.File != data || good.Salvaged.Keys != onDisk || string(good.PKI["ca.crt"]) != ca || len(good.PKI) != 9 || len(good.Salvaged.Costs()) > 0 || m.Cluster.UID != "1a2b3c4d" || m.Cluster.Kubernetes != "v1.37.2" ||
		good.Backup.Restored.Keys != int64(len(values)-1) || m.Created.IsZero() {
		t.Errorf("%+v, %d keys, %+v, %q", good.Salvaged, len(good.PKI), m, good.Salvaged.Costs())
	}
	if part, _ := m.Part(backup.SnapshotPart); part.Bytes == 0 || part.SHA256 == "" {
		t.Errorf("the snapshot: %+v", part)
	}

	for name, o := range map[string]SalvageOptions{
		"once more":                  from(data),
		"the directory member":       from(filepath.Join(data, "member")),
		"the keys are named":         with(from(data), onDisk, false),
		"a disk on a host":           {Data: DataSource{"cp-a", data}},
		"keys on a host, and so on":  {Data: DataSource{"cp-a", data}, Keys: DataSource{"cp-b", onDisk}},
		"new keys, and none is lost": with(from(data), "", true),
	} {
		again, err := salvage(o, RestoreOptions{})
		if err != nil || again.Backup.Manifest.ID() != m.ID() || len(m.ID()) != 16 {
			t.Errorf("%s: %v, and the ID is %s", name, err, again.Backup.Manifest.ID())
		}
	}

	for name, tc := range map[string]struct {
		o    SalvageOptions
		into RestoreOptions
		says []string
	}{
		"no keys": {o: with(from(data), empty, false), says: []string{"none of the keys"}},
		"no keys on the disk": {o: SalvageOptions{Data: DataSource{Dir: copyOfDir(t, data)}},
			says: []string{"no keys of the cluster were found", "every kubeconfig", "every token", "objects in etcd are encrypted", "1 secrets", aSecret, "--new-keys"}},
		"some keys":                  {o: with(from(copyOfDir(t, data)), partly, false), says: []string{"the keys in " + partly + " are not all", "ca.key is lost", "front-proxy-ca.key is lost"}},
		"keys of another cluster":    {o: with(from(data), others, false), says: []string{aSecret + " cannot be decrypted"}},
		"Secrets in plain text":      {o: with(from(plain), onDisk, false), says: []string{"Secrets in the data are not encrypted (1)"}},
		"a backup of another one":    {o: from(data), into: backupWith(t, onDisk, "another"), says: []string{"of another cluster"}},
		"a member that nobody knows": {o: SalvageOptions{Data: DataSource{Dir: data}, Lost: []string{"cp-x"}}, says: []string{"--lost cp-x"}},
		"removed by the reset":       {o: SalvageOptions{Data: DataSource{"cp-a", facts.EtcdKeptDir + "/x"}}, into: RestoreOptions{Replace: true}, says: []string{"a reset removes cp-a:"}},
		"keys removed by the reset":  {o: SalvageOptions{Data: DataSource{Dir: data}, Keys: DataSource{"cp-b", "/etc/kubernetes/pki"}}, into: RestoreOptions{Replace: true}, says: []string{"a reset removes cp-b:/etc/kubernetes/pki", "cp -a"}},
		"a backup without a key":     {o: SalvageOptions{Data: DataSource{Dir: copyOfDir(t, data)}}, into: without(backupWith(t, onDisk, "1a2b3c4d"), "ca.key"), says: []string{"the backup does not have ca.key", "--keys", "--new-keys"}},
	} {
		_, err := salvage(tc.o, tc.into)
		var r *cluster.Refusal
		if !errors.As(err, &r) || r.Rule != RuleSalvage || !strings.Contains(r.Fix, "Nothing was changed") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range tc.says {
			if !strings.Contains(r.Why+r.Fix, want) {
				t.Errorf("%s: %s %s lacks %q", name, r.Why, r.Fix, want)
			}
		}
	}
	if _, err := salvage(from(empty), RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "no data directory") || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("no data: %v", err)
	}

	// The keys are given up.
	lost, err := salvage(SalvageOptions{Data: DataSource{Dir: copyOfDir(t, data)}, NewKeys: true}, RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(lost.PKI) > 0 || lost.Salvaged.Keys != "" || !slices.Equal(lost.Salvaged.Dropped, []string{aSecret}) || len(lost.Salvaged.NewKeys) != 4 || len(lost.Salvaged.Costs()) != 5 || lost.Backup.Manifest.ID() == m.ID() {
		t.Errorf("%+v, %d keys, costs %q", lost.Salvaged, len(lost.PKI), lost.Salvaged.Costs())
	}
	if in, err := snapshot.Look(lost.Backup.Snapshot, aSecret, backup.SystemNamespace); err != nil || len(in.Values) != 1 || len(in.Encrypted) > 0 {
		t.Errorf("the snapshot has %d of the values, %v, %v", len(in.Values), in.Encrypted, err)
	}
	half, err := salvage(with(from(copyOfDir(t, data)), partly, true), RestoreOptions{})
	if err != nil || len(half.PKI) != 3 || half.PKI["sa.pub"] == nil || len(half.Salvaged.Dropped) > 0 || !slices.Equal(half.Salvaged.NewKeys, []string{"ca.key", "front-proxy-ca.key"}) {
		t.Errorf("some of the keys: %+v, %d, %v", half.Salvaged, len(half.PKI), err)
	}
	// The CA is offline: its key is somewhere else than everything else.
	offline := shortDir(t)
	if err := os.Rename(filepath.Join(onDisk, "ca.key"), filepath.Join(offline, "ca.key")); err != nil {
		t.Fatal(err)
	}
	both, err := salvage(with(from(data), offline, false), RestoreOptions{})
	if err != nil || both.Salvaged.Keys != offline+" and "+onDisk || len(both.PKI) != 9 || both.Backup.Manifest.ID() != m.ID() {
		t.Errorf("with an offline CA: %+v, %d keys, %v", both.Salvaged, len(both.PKI), err)
	}
	if err := os.Rename(filepath.Join(offline, "ca.key"), filepath.Join(onDisk, "ca.key")); err != nil {
		t.Fatal(err)
	}
	// The keys are in a backup of the cluster.
	backed, err := salvage(SalvageOptions{Data: DataSource{Dir: copyOfDir(t, data)}}, backupWith(t, onDisk, "1a2b3c4d"))
	if err != nil || backed.Salvaged.Keys != "the backup b.age" || backed.File == "b.age" || backed.Backup.Manifest.ID() != m.ID() {
		t.Errorf("with a backup: %v, %+v", err, backed.Salvaged)
	}
	// They are, but for one that is given up.
	partial, err := salvage(SalvageOptions{Data: DataSource{Dir: copyOfDir(t, data)}, NewKeys: true}, without(backupWith(t, onDisk, "1a2b3c4d"), "ca.key"))
	if err != nil || !slices.Equal(partial.Salvaged.NewKeys, []string{"ca.key"}) || partial.Salvaged.Keys != "the backup b.age" || len(partial.PKI) != 7 || len(partial.Salvaged.Dropped) > 0 || partial.FormerCA != ca ||
		partial.Backup.Manifest.ID() == m.ID() {
		t.Errorf("with a backup that lacks a key: %v, %+v, %d keys, former CA %q", err, partial.Salvaged, len(partial.PKI), partial.FormerCA)
	}
	if now := etcddata.Read(data, t.TempDir()); now.Error != "" || now.LastIndex != good.Salvaged.Judgment.Best.LastIndex {
		t.Errorf("the data have changed: %+v", now)
	}
}

// copyOfDir copies data to where no keys are beside them.
func copyOfDir(t *testing.T, data string) string {
	t.Helper()
	to := filepath.Join(shortDir(t), "etcd")
	if err := os.CopyFS(to, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	return to
}

// backupWith are the options of a restore from a backup with the keys in a directory.
func backupWith(t *testing.T, pki, uid string) RestoreOptions {
	t.Helper()
	out := RestoreOptions{File: "b.age", Backup: backup.Unpacked{Verified: backup.Verified{Manifest: backup.Manifest{Cluster: backup.Cluster{UID: uid}}}, Parts: map[string][]byte{}}}
	for _, name := range slices.Concat(facts.SharedPKI, facts.EtcdPKI) {
		content, err := os.ReadFile(filepath.Join(pki, name))
		if err != nil {
			t.Fatal(err)
		}
		out.Backup.Parts[backup.Kubernetes+"pki/"+name] = content
	}
	return out
}

// without is a backup that does not have some of the keys.
func without(o RestoreOptions, names ...string) RestoreOptions {
	for _, name := range names {
		delete(o.Backup.Parts, backup.Kubernetes+"pki/"+name)
	}
	return o
}

// TestWhereKeysAreLookedFor: on the same disk, and where a restore kept both.
func TestWhereKeysAreLookedFor(t *testing.T) {
	for dir, want := range map[string][]string{
		"/mnt/var/lib/etcd":                 {"/mnt/etc/kubernetes/pki", "/mnt/var/lib/kubernetes/pki"},
		"/mnt/var/lib/etcd/member/":         {"/mnt/etc/kubernetes/pki", "/mnt/var/lib/kubernetes/pki"},
		"/var/lib/quorate-kept/prod-1/etcd": {"/var/lib/quorate-kept/prod-1/kubernetes/pki"},
		"/srv/copy":                         {"/srv/kubernetes/pki"},
	} {
		if got := besideData(dir); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", dir, got, want)
		}
	}
	if got, want := fmt.Sprint(DataSource{"cp-a", "/mnt"}, DataSource{Dir: "/mnt"}), "cp-a:/mnt /mnt"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestAHostCannotChooseWhereItsDataGo, nor fill the machine of the caller.
func TestAHostCannotChooseWhereItsDataGo(t *testing.T) {
	file := func(name string, bytes int64) []lostquorum.DataFile {
		return []lostquorum.DataFile{{Name: name, Bytes: bytes}}
	}
	for _, files := range [][]lostquorum.DataFile{
		file("../../../root/.ssh/authorized_keys", 1), file("snap/../../x", 1), file("/snap/db", 1), file("snap", 1), file("snap/a/b", 1), file("wal/", 1), file("", 1),
		file("snap/db", -1), file("snap/db", 1<<62), slices.Concat(file("snap/db", 1<<39), file("wal/0.wal", 1<<40)), make([]lostquorum.DataFile, mostFiles+1),
	} {
		if n, err := sizeOf(files); err == nil {
			t.Errorf("%+v: %d bytes", files[0], n)
		}
	}
	if n, err := sizeOf(slices.Concat(file("snap/db", 5), file("wal/0.wal", 7))); err != nil || n != 12 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
