package reset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
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

// TestAnAdoptedMembersPlacesAreKept: its static pod names other directories than kubeadm does. The second one has its manifest set aside.
func TestAnAdoptedMembersPlacesAreKept(t *testing.T) {
	const manifest = `metadata: {labels: {tier: control-plane}}
spec:
  containers:
  - command: [etcd, --data-dir=/srv/etcd, --wal-dir=/srv/log/wal]
status: {}
`
	keeping := request
	keeping.Keep = facts.KeptDir + "/prod-20260304T050607Z"
	for _, at := range []string{hostconfig.EtcdManifest, facts.WithdrawnDir + "/etcd.yaml"} {
		for n := 0; ; n++ {
			m := newMachine(t)
			m.skeleton()
			m.build(true)
			if err := os.Remove(m.root + hostconfig.EtcdManifest); err != nil {
				t.Fatal(err)
			}
			m.put(at, manifest)
			m.put("/srv/etcd/member/snap/db", "writes")
			m.put("/srv/log/wal/0.wal", "more writes")
			m.actions = n
			_, err := m.target().reset(t.Context(), keeping)
			if err != nil && !errors.Is(err, errKilled) {
				t.Fatalf("after %d actions: %v", n, err)
			}
			killed := err != nil
			m.actions = -1
			if _, err := m.target().reset(t.Context(), keeping); err != nil {
				t.Fatalf("again after %d actions: %v", n, err)
			}
			after := m.files()
			for file, want := range map[string]string{"/etcd/member/snap/db": "writes", "/etcd/wal/0.wal": "more writes"} {
				if got := after[keeping.Keep+file]; got != want {
					t.Fatalf("%s, after %d actions: %s has %q", at, n, file, got)
				}
			}
			for path := range after {
				if strings.HasPrefix(path, "/srv/etcd/") || strings.HasPrefix(path, "/srv/log/wal") {
					t.Errorf("%s, after %d actions: %s is left", at, n, path)
				}
			}
			if !killed {
				break
			}
		}
	}
}
