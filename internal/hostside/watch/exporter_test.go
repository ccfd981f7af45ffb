package watch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// TestSnapshotsAreForTheTwoUnits: others cannot enter the directory above, whoever made it, and within it, the one that serves can read.
func TestSnapshotsAreForTheTwoUnits(t *testing.T) {
	s := Snapshots{root: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(s.root, facts.ExporterDir), 0o777); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Write(metrics.Snapshot{Leads: true, Metrics: "x 1\n"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{facts.ExporterDir: 0o700, facts.SnapshotsDir: 0o755, facts.SnapshotsDir + "/" + facts.SnapshotName: 0o644} {
		if info, err := os.Stat(filepath.Join(s.root, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// TestASnapshotIsConfirmed without being written again, and what a unit that was killed left is removed.
func TestASnapshotIsConfirmed(t *testing.T) {
	s := Snapshots{root: t.TempDir()}
	if err := errors.Join(s.Confirm(), s.Clear()); err != nil {
		t.Errorf("there is none: %v", err)
	}
	if err := errors.Join(s.Prepare(), s.Write(metrics.Snapshot{Leads: true})); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path(), old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Confirm(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.path()); err != nil || time.Since(info.ModTime()) > time.Minute {
		t.Errorf("%v, %v", info, err)
	}
	before, err := os.Stat(filepath.Dir(s.path()))
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(filepath.Dir(s.path()), ".quorate-x"), "half", 0o600)
	if err := s.Clear(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(s.path()))
	after, serr := os.Stat(filepath.Dir(s.path()))
	if err != nil || serr != nil || len(left) > 0 || !os.SameFile(before, after) {
		t.Errorf("%v, %v, left %v; it is the same directory: %t", err, serr, left, os.SameFile(before, after))
	}
}

// TestASnapshotThatCannotBeWritten: one that says that this control plane leads does not stay when it does not lead any more. The directory is not made
// again: it would be open to all.
func TestASnapshotThatCannotBeWritten(t *testing.T) {
	s := Snapshots{root: t.TempDir()}
	if err := errors.Join(s.Prepare(), s.Write(metrics.Snapshot{Leads: true})); err != nil {
		t.Fatal(err)
	}
	// Nothing replaces a directory that is not empty, as nothing is written to a full file system.
	if err := errors.Join(os.Remove(s.path()), os.Mkdir(s.path(), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(metrics.Snapshot{Leads: true}); err == nil {
		t.Error("it was written")
	}
	if _, err := os.Stat(s.path()); err != nil {
		t.Errorf("what was there before is gone while it leads: %v", err)
	}
	if err := s.Write(metrics.Snapshot{}); err == nil {
		t.Error("it was written")
	}
	if _, err := os.Stat(s.path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was there before stays: %v", err)
	}
	if err := removeExporter(s.root); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(metrics.Snapshot{Leads: true}); err == nil {
		t.Error("it was written after the exporter was removed")
	}
	if _, err := os.Stat(filepath.Join(s.root, facts.ExporterDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made again: %v", err)
	}
}

// TestTheExporterIsRemoved, and the unit that observes keeps what is its own.
func TestTheExporterIsRemoved(t *testing.T) {
	root := t.TempDir()
	at := func(path string) string { return filepath.Join(root, path) }
	private := facts.ExporterStateDir
	for _, path := range []string{facts.ExporterCertificateFile, facts.ExporterFile, facts.ExporterRestartDue, hostconfig.ExporterUnitFile, facts.SnapshotsDir + "/" + facts.SnapshotName, private + "/permissions.json",
		facts.WatchKeyFile, facts.WatchConfigFile, hostconfig.WatchUnitFile} {
		put(t, at(path), "x", 0o600)
	}
	if err := os.Symlink("private/"+facts.ExporterState, at(facts.ExporterStateLink)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeExporter(root); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, root))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(left, " "); got != hostconfig.WatchUnitFile+" "+facts.WatchConfigFile+" "+facts.WatchKeyFile {
		t.Errorf("left: %s", got)
	}
}
