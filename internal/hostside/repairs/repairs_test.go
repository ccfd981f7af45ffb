package repairs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// TestWhatIsRemovable, and what is only named: what a restore or a recovery kept is never removed, and of the rest the newest stays.
func TestWhatIsRemovable(t *testing.T) {
	root := t.TempDir()
	put := func(path string, bytes int) {
		t.Helper()
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := Removable(root, noon); got != 0 || len(Kept(root)) > 0 {
		t.Errorf("%d bytes of an empty host", got)
	}
	put(facts.SnapshotDir+"/20251231T000000Z-before-v1.36.3.db", 1)
	put(facts.SnapshotDir+"/20260101T000000Z-before-v1.37.2.db", 2)
	put(facts.SnapshotDir+"/20260102T000000Z-before-v1.37.3.db", 2)
	put(facts.EtcdKeptDir+"/20260101T000000Z-former/member/snap/db", 4)
	put("/var/lib/etcd/"+facts.EtcdKeptName+"/20260102T000000Z-former/member/snap/db", 8)
	put(facts.EtcdKeptDir+"/20260103T000000Z-former/member/snap/db", 16)
	put(facts.EtcdKeptDir+"/20250101T000000Z-8e9e05c52164694d/member/snap/db", 32)
	put(facts.KeptDir+"/prod-20250101T000000Z/etcd/member/snap/db", 64)
	put(facts.KeptDir+"/prod-20250101T000000Z/kubernetes/pki/ca.key", 128)
	var names []string
	for _, path := range removable(root, noon) {
		names = append(names, filepath.Base(path))
	}
	if want := []string{"20251231T000000Z-before-v1.36.3.db", "20260101T000000Z-former", "20260102T000000Z-former"}; !slices.Equal(names, want) {
		t.Errorf("removable: %q, want %q", names, want)
	}
	if got := Removable(root, noon); got != 1+4+8 {
		t.Errorf("%d bytes", got)
	}
	want := []facts.Kept{{Path: facts.KeptDir + "/prod-20250101T000000Z", Bytes: 64 + 128}, {Path: facts.EtcdKeptDir + "/20250101T000000Z-8e9e05c52164694d", Bytes: 32},
		{Path: facts.EtcdKeptDir + "/20260103T000000Z-former", Bytes: 16}}
	if got := Kept(root); !slices.Equal(got, want) {
		t.Errorf("kept: %+v, want %+v", got, want)
	}
}
