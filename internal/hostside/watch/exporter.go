package watch

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Snapshots are what the unit of a control plane writes for the one that serves metrics. The zero value is for the host itself; in tests, it has another
// root.
type Snapshots struct{ root string }

func (s Snapshots) path() string {
	return filepath.Join(s.root, facts.SnapshotsDir, facts.SnapshotName)
}

// Prepare makes the directory. Others than root cannot enter the one above it; within the unit that serves metrics, systemd opens it.
func (s Snapshots) Prepare() error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{filepath.Dir(facts.ExporterDir), 0o755}, {facts.ExporterDir, 0o700}, {facts.SnapshotsDir, 0o755}} {
		path := filepath.Join(s.root, d.path)
		if err := durable.MkdirAll(path, d.mode); err != nil {
			return err
		}
		if info, err := os.Stat(path); err != nil {
			return err
		} else if info.Mode().Perm() != d.mode {
			if err := os.Chmod(path, d.mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// Clear removes the files of a unit that was killed. The directory stays: whoever serves metrics has it mounted.
func (s Snapshots) Clear() error {
	left, err := os.ReadDir(filepath.Dir(s.path()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range left {
		errs = append(errs, os.Remove(filepath.Join(filepath.Dir(s.path()), e.Name())))
	}
	return errors.Join(errs...)
}

// Write replaces the snapshot. If that fails, as on a full file system, one that leads keeps the former snapshot, which grows old; one that does not lead
// has none, because a former one may say that it does.
func (s Snapshots) Write(m metrics.Snapshot) error {
	text, err := json.Marshal(m)
	if err == nil {
		_, err = os.Stat(filepath.Dir(s.path())) // the directory is not made here: it may just have been removed, and another one would be open to all
	}
	if err == nil {
		err = durable.WriteFile(s.path(), text, 0o644) // see Prepare
	}
	if err != nil && !m.Leads {
		return errors.Join(err, s.Clear())
	}
	return err
}

// Confirm says that the snapshot still holds.
func (s Snapshots) Confirm() error {
	err := os.Chtimes(s.path(), time.Time{}, time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveExporter removes the unit that serves metrics from a host, with its credentials and everything that it remembers. The file of the unit goes last: as
// long as it is there, the next plan finishes this.
var RemoveExporter = host.Define("watch.remove-exporter", func(ctx context.Context, _ struct{}) (struct{}, error) {
	units, err := system.Units(ctx, hostconfig.ExporterUnit)
	if err != nil {
		return struct{}{}, err
	}
	if units[hostconfig.ExporterUnit].Exists {
		if err := system.Systemctl(ctx, "disable", "--now", hostconfig.ExporterUnit); err != nil {
			return struct{}{}, err
		}
	}
	if err := removeExporter(""); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, system.Systemctl(ctx, "daemon-reload")
})

func removeExporter(root string) error {
	for _, dir := range []string{facts.ExporterDir, facts.ExporterStateDir, facts.ExporterStateLink} {
		if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	for _, path := range []string{facts.ExporterCertificateFile, facts.ExporterFile, facts.ExporterRestartDue, hostconfig.ExporterUnitFile} {
		if err := durable.Remove(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}
