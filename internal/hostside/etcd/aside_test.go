package etcd

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// TestSetAside keeps the data, opens the guard, and can be repeated.
func TestSetAside(t *testing.T) {
	m := Member{Root: t.TempDir()}
	now := time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
	if where, err := m.SetAside(now, ""); err != nil || where != "" {
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
		where, err := m.SetAside(now, "")
		if err != nil || m.HasData() || m.Armed() {
			t.Fatalf("%v, data %t, armed %t", err, m.HasData(), m.Armed())
		}
		if text, err := os.ReadFile(m.path(filepath.Join(where, "member/wal/0.wal"))); err != nil || string(text) != "x" {
			t.Fatalf("the data is gone: %v", err)
		}
		now = now.Add(time.Second)
	}
	// What a recovery of the quorum has kept is not that of a former member.
	if err := os.MkdirAll(m.path(facts.EtcdKeptDir+"/20260803T110000Z-8e9e05c52164694d/member"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Nor is that of a member that a recovery has abandoned.
	if err := os.MkdirAll(m.wal(), 0o700); err != nil {
		t.Fatal(err)
	}
	if where, err := m.SetAside(now, "8e9e05c52164694e"); err != nil || filepath.Base(where) != "20260803T120002Z-8e9e05c52164694e" {
		t.Errorf("kept in %q, %v", where, err)
	}
	want := []string{m.path(facts.EtcdKeptDir + "/20260803T120000Z-former"), m.path(facts.EtcdKeptDir + "/20260803T120001Z-former")}
	if kept := m.Former(); !slices.Equal(kept, want) {
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
