package etcd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// TestSetAside keeps the data, opens the guard, and can be repeated.
func TestSetAside(t *testing.T) {
	m := Member{Root: t.TempDir()}
	now := time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
	if where, err := m.SetAside(now); err != nil || where != "" {
		t.Fatalf("without data: %q, %v", where, err)
	}
	for range 2 {
		if err := os.MkdirAll(m.wal(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.wal(), "0.wal"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Arm(); err != nil {
			t.Fatal(err)
		}
		where, err := m.SetAside(now)
		if err != nil || m.HasData() || m.Armed() {
			t.Fatalf("%v, data %t, armed %t", err, m.HasData(), m.Armed())
		}
		if text, err := os.ReadFile(filepath.Join(where, "member/wal/0.wal")); err != nil || string(text) != "x" {
			t.Fatalf("the data is gone: %v", err)
		}
		now = now.Add(time.Second)
	}
	if kept, _ := filepath.Glob(filepath.Join(m.DataDir(), AsidePattern)); len(kept) != 2 {
		t.Errorf("kept %v", kept)
	}
	// The guard is not armed again without data.
	if err := os.MkdirAll(filepath.Dir(m.path(facts.EstablishedFile)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path(facts.EstablishedFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Guard(); err != nil || m.Armed() {
		t.Errorf("%v, armed %t", err, m.Armed())
	}
}
