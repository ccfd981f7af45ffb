package reset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// TestWhatIsReplacedIsKept kills a reset that keeps etcd's data and the keys before every single action, and finishes it with a reset
// that says nothing about them.
func TestWhatIsReplacedIsKept(t *testing.T) {
	keeping := request
	keeping.Keep = facts.KeptDir + "/prod-20260304T050607Z"
	for n := 0; ; n++ {
		m := newMachine(t)
		m.skeleton()
		m.build(false)
		m.put("/var/lib/etcd/member/wal/0.wal", "writes")
		m.put("/etc/kubernetes/pki/ca.key", "key")
		m.actions = n
		_, err := m.target().reset(t.Context(), keeping)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatalf("after %d actions: %v", n, err)
		}
		if _, marked := m.files()[facts.ResettingFile]; err == nil || marked {
			m.actions = -1
			if _, err := m.target().reset(t.Context(), request); err != nil {
				t.Fatalf("again after %d actions: %v", n, err)
			}
			kept := filepath.Join(m.root, keeping.Keep)
			for file, want := range map[string]string{"etcd/member/wal/0.wal": "writes", "kubernetes/pki/ca.key": "key"} {
				if got, rerr := os.ReadFile(filepath.Join(kept, file)); rerr != nil || string(got) != want {
					t.Fatalf("after %d actions: %s: %q, %v", n, file, got, rerr)
				}
			}
			if info, serr := os.Stat(kept); serr != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("others can read what was kept: %v, %v", info, serr)
			}
			for path := range m.files() {
				if strings.HasPrefix(path, "/etc/kubernetes") || strings.HasPrefix(path, "/var/lib/etcd/member") {
					t.Errorf("after %d actions: %s is left", n, path)
				}
			}
		}
		if err == nil {
			return
		}
	}
}
