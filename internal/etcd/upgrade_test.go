package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// database is what etcd sends as a snapshot: a database, and its sum.
func database(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		for _, bucket := range []string{"key", "meta"} {
			if _, err := tx.CreateBucket([]byte(bucket)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

func TestSnapshotsAreReadAgain(t *testing.T) {
	dir, content := filepath.Join(t.TempDir(), "snapshots"), database(t)
	for i := range facts.SnapshotsKept + 2 {
		out, err := save(t.Context(), filepath.Join(dir, fmt.Sprintf("2026112%dT000000Z-before-v1.37.2.db", i)), bytes.NewReader(content))
		if err != nil || out.Bytes != int64(len(content)) || out.Hash == 0 {
			t.Fatalf("%+v, %v", out, err)
		}
		info, err := os.Stat(out.File)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if err := prune(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(dir + "/*")
	if err != nil || len(left) != facts.SnapshotsKept || !strings.Contains(left[len(left)-1], "20261124") || !strings.Contains(left[0], "20261120") {
		t.Errorf("%v are kept, and the first one is from before the upgrade", left)
	}
	damaged := bytes.Clone(content)
	damaged[100] ^= 1
	noDatabase := bytes.Repeat([]byte("0123456789abcdef"), 128)
	sum := sha256.Sum256(noDatabase)
	for name, content := range map[string][]byte{"damaged": damaged, "cut short": content[:1000], "nothing": nil, "no sum": bytes.Repeat([]byte{0}, 1024), "no database": append(noDatabase, sum[:]...)} {
		if _, err := save(t.Context(), filepath.Join(dir, "20261129T000000Z-before-"+name+".db"), bytes.NewReader(content)); err == nil {
			t.Errorf("a snapshot that is %s is kept", name)
		}
	}
	if now, _ := filepath.Glob(dir + "/*"); !slices.Equal(now, left) {
		t.Errorf("damaged snapshots leave %v", now)
	}
}

// TestSnapshotsOfAHostThatLeavesAreKept: another host gets them in pieces, reads them again, and accepts no other file.
func TestSnapshotsOfAHostThatLeavesAreKept(t *testing.T) {
	const name = "20261124T000000Z-before-v1.37.2.db"
	from, to, content := t.TempDir(), filepath.Join(t.TempDir(), "snapshots"), database(t)
	if err := os.WriteFile(filepath.Join(from, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	all := host.Pieces(func(offset int64) ([]byte, error) {
		data, err := readPiece(from, SnapshotPiece{Name: name, Offset: offset})
		return data[:min(len(data), 1000)], err
	})
	out, err := keep(t.Context(), to, KeptSnapshot{Name: name, Bytes: int64(len(content))}, all)
	if err != nil || out.SHA256 != fmt.Sprintf("%x", sha256.Sum256(content)) {
		t.Errorf("%+v, %v", out, err)
	}
	if have, err := os.ReadFile(filepath.Join(to, name)); err != nil || !bytes.Equal(have, content) {
		t.Errorf("%d bytes arrived: %v", len(have), err)
	}
	if _, err := keep(t.Context(), to, KeptSnapshot{Name: "20261125T000000Z-before-v1.37.2.db", Bytes: 1 << 60}, bytes.NewReader(content)); err == nil || !strings.Contains(err.Error(), "are free") {
		t.Errorf("a disk without space: %v", err)
	}
	for _, other := range []string{"../x-before-y.db", "member.db", "/etc/shadow", ""} {
		if _, err := readPiece(from, SnapshotPiece{Name: other}); err == nil || !strings.Contains(err.Error(), "is not the name of a snapshot") {
			t.Errorf("%q is read: %v", other, err)
		}
		if _, err := keep(t.Context(), to, KeptSnapshot{Name: other}, bytes.NewReader(content)); err == nil {
			t.Errorf("%q is written", other)
		}
	}
}

// protobuf is how an API server stores an object.
func protobuf(apiVersion, kind string) []byte {
	meta := append([]byte{1<<3 | 2, byte(len(apiVersion))}, apiVersion...)
	meta = append(append(meta, 2<<3|2, byte(len(kind))), kind...)
	return append(append([]byte("k8s\x00"), 1<<3|2, byte(len(meta))), append(meta, 2<<3|2, 0)...)
}

func TestStoredVersions(t *testing.T) {
	for name, c := range map[string]struct {
		value []byte
		want  string
	}{
		"protobuf":     {protobuf("scheduling.k8s.io/v1beta1", "Workload"), "scheduling.k8s.io/v1beta1"},
		"JSON":         {[]byte(`{"kind":"Widget","apiVersion":"example.com/v1"}`), "example.com/v1"},
		"encrypted":    {[]byte("k8s:enc:secretbox:v1:key:\x01\x02"), ""},
		"nothing":      {nil, ""},
		"cut short":    {protobuf("v1", "Pod")[:6], ""},
		"other fields": {append([]byte("k8s\x00"), 2<<3|2, 1, 'x'), ""},
	} {
		if got := apiVersion(c.value); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// keys is a small etcd that can be read in pages.
type keys struct {
	clientv3.KV
	values map[string][]byte
}

func (k keys) Get(_ context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op := clientv3.OpGet(key, opts...)
	out := &clientv3.GetResponse{}
	if op.RangeBytes() == nil {
		if v, ok := k.values[key]; ok {
			out.Kvs = []*mvccpb.KeyValue{{Key: []byte(key), Value: v}}
		}
		return out, nil
	}
	var all []string
	for name := range k.values {
		if name >= key && name < string(op.RangeBytes()) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	for i, name := range all {
		if i == page {
			out.More = true
			break
		}
		out.Kvs = append(out.Kvs, &mvccpb.KeyValue{Key: []byte(name)})
	}
	return out, nil
}

func TestStoredObjectsAreFound(t *testing.T) {
	k := keys{values: map[string][]byte{
		"/registry/workloads/default/a":                   protobuf("scheduling.k8s.io/v1beta1", "Workload"),
		"/registry/workloads/default/b":                   protobuf("scheduling.k8s.io/v1alpha2", "Workload"),
		"/registry/scheduling.k8s.io/podgroups/default/c": protobuf("scheduling.k8s.io/v1beta1", "PodGroup"),
		"/registry/pods/workloads/d":                      protobuf("v1", "Pod"),
		"/registry/configmaps/default/workloads":          protobuf("scheduling.k8s.io/v1beta1", "Workload"),
		"/quorate.dev/owner":                              []byte("somebody"),
	}}
	for i := range 2*page + 7 {
		k.values[fmt.Sprintf("/registry/events/default/%05d", i)] = protobuf("v1", "Event")
	}
	found, err := stored(t.Context(), k, []StoredType{{"scheduling.k8s.io/v1beta1", []string{"workloads", "podgroups"}}})
	var got []string
	for _, o := range found {
		got = append(got, o.Key)
	}
	if err != nil || !slices.Equal(got, []string{"scheduling.k8s.io/podgroups/default/c", "workloads/default/a"}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestUnconverted(t *testing.T) {
	seen := []facts.EtcdMember{{Name: "a", StorageVersion: "3.7.0"}, {Name: "b", StorageVersion: "3.6.0"}, {Name: "c", StorageVersion: "3.5.0", DowngradeTo: "3.6.0"}, {Name: "d"}}
	if got := unconverted(seen, "3.6"); !slices.Equal(got, []string{"a", "d"}) {
		t.Error(got)
	}
	if !under(seen, "3.6") || under(seen, "3.5") {
		t.Error("the downgrade to 3.6 is not told from another")
	}
	if mixed([]facts.EtcdMember{{Version: "3.7.3"}, {}}, "3.6") || !mixed([]facts.EtcdMember{{Version: "3.7.3"}, {Version: "3.6.16"}}, "3.6") {
		t.Error("members of the target's minor release are not told from newer ones")
	}
	if m, ok := minorOf("v3.6.16"); m != "3.6" || !ok {
		t.Error(m)
	}
	if _, ok := minorOf("latest"); ok {
		t.Error("that is no version")
	}
}

// downgrading answers as etcd does.
type downgrading struct {
	clientv3.Maintenance
	validate, enable error
	did              []clientv3.DowngradeAction
}

func (d *downgrading) Downgrade(_ context.Context, action clientv3.DowngradeAction, _ string) (*clientv3.DowngradeResponse, error) {
	d.did = append(d.did, action)
	if action == clientv3.DowngradeValidate {
		return nil, d.validate
	}
	return nil, d.enable
}

func TestEnable(t *testing.T) {
	refused := errors.New("invalid downgrade target version")
	for name, c := range map[string]struct {
		d    downgrading
		want error
		did  int
	}{
		"first time":        {downgrading{}, nil, 2},
		"again":             {downgrading{validate: rpctypes.ErrDowngradeInProcess, enable: rpctypes.ErrDowngradeInProcess}, nil, 2},
		"not valid":         {downgrading{validate: refused}, refused, 1},
		"valid, yet failed": {downgrading{enable: refused}, refused, 2},
	} {
		if err := enable(t.Context(), &c.d, "3.6.0"); !errors.Is(err, c.want) || len(c.d.did) != c.did {
			t.Errorf("%s: %v after %v", name, err, c.d.did)
		}
	}
}
