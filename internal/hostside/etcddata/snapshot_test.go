package etcddata

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"

	"quorate.dev/quorate/internal/snapshot"
)

// TestASnapshotHasTheWholeLog: also what the member did not know to be committed, and the same each time.
func TestASnapshotHasTheWholeLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var revision int64
	serve(t, dir, func(e *embed.Etcd) {
		for i := range 20 {
			put(t, e, fmt.Sprint("/registry/configmaps/", i))
		}
		for key, value := range map[string]string{"/registry/secrets/a/known": "k8s:enc:secretbox:v1:key2:x", "/registry/secrets/a/unknown": "k8s:enc:secretbox:v1:key1:x", "/registry/secrets/a/plain": "x"} {
			if _, err := e.Server.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
				t.Fatal(err)
			}
		}
		revision = e.Server.KV().Rev()
	})
	appendEntry(t, dir, "/registry/last")
	source := Read(dir, t.TempDir())
	taken := func(drop bool) (Snapshotted, snapshot.Status, snapshot.Restored) {
		t.Helper()
		work, err := os.MkdirTemp("", "s") // the path of a socket is short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(work) })
		in := SnapshotRequest{Dir: filepath.Join(work, "d"), Work: work, File: filepath.Join(work, "f"), Marks: []string{"k8s:enc:secretbox:v1:key2:"}, Drop: drop, Secrets: "/registry/secrets/"}
		if err := copyMember(Member(dir), filepath.Join(in.Dir, "member")); err != nil {
			t.Fatal(err)
		}
		out, err := Snapshot(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		status, err := snapshot.Read(in.File)
		if err != nil {
			t.Fatal(err)
		}
		run := filepath.Join(work, "r")
		if err := os.Mkdir(run, 0o700); err != nil {
			t.Fatal(err)
		}
		scratch, err := snapshot.Start(t.Context(), run, in.File)
		if err != nil {
			t.Fatal(err)
		}
		defer scratch.Close()
		restored, err := scratch.At(t.Context(), status.Revision)
		if err != nil {
			t.Fatal(err)
		}
		return out, status, restored
	}
	out, status, restored := taken(false)
	if out.Revision != revision+1 || out.Kept != 1 || !slices.Equal(out.Unreadable, []string{"/registry/secrets/a/unknown"}) || out.Plain != 1 {
		t.Errorf("%+v, want revision %d", out, revision+1)
	}
	if status.Revision != revision+1 || restored.Keys != 24 {
		t.Errorf("%+v, %+v", status, restored)
	}
	if again, _, second := taken(false); second.KVHash != restored.KVHash || second.Revision != restored.Revision || again.Revision != out.Revision {
		t.Errorf("the same data give %+v and %+v", restored, second)
	}
	dropped, _, without := taken(true)
	if without.Keys != 23 || without.KVHash == restored.KVHash || dropped.Revision != revision+1 || len(dropped.Unreadable) != 1 {
		t.Errorf("without what nobody can decrypt: %+v, %+v", dropped, without)
	}
	if now := Read(dir, t.TempDir()); now.Compare(source) != 0 || now.Commit != source.Commit || now.Applied != source.Applied {
		t.Errorf("the source has changed: %+v", now)
	}
}
