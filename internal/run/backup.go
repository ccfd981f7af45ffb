package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/host"
	hostbackup "quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// BackupRequest is what control planes are told about the backups of a spec.
func BackupRequest(c *spec.Cluster) (hostbackup.Request, error) {
	if !c.Spec.Backup.Given() {
		return hostbackup.Request{}, &cluster.Refusal{Rule: "backup-configured", Why: "the spec of " + c.Metadata.Name + " has no section backup",
			Fix: "Add spec.backup with recipients and a store: see docs/backup.md."}
	}
	return hostbackup.RequestOf(c)
}

// Backup takes a backup on a control plane. It prefers one with a healthy follower of etcd, and tries the others if that fails.
func (e *Engine) Backup(ctx context.Context) (*hostbackup.Result, error) {
	in, err := BackupRequest(e.Cluster)
	if err != nil {
		return nil, err
	}
	s := e.State(ctx)
	hosts := e.Cluster.HostsWith(spec.RoleControlPlane)
	rank := func(h spec.Host) int {
		m, member := s.Member(h.Name)
		switch {
		case !s.APIServer(h.Name).OK:
			return 2
		case member && m.Leader:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(hosts, func(a, b spec.Host) int { return rank(a) - rank(b) })
	var errs []error
	for _, h := range hosts {
		c, err := e.Conns.Get(h.Name)
		if err == nil {
			var out hostbackup.Result
			err = progress.Track(ctx, e.Progress, h.Name, h.Name+"/backup", "take a backup to "+in.Location.String(), func(ctx context.Context) (err error) {
				out, err = hostbackup.Take.On(ctx, c, in)
				return err
			})
			if err == nil {
				return &out, nil
			}
		}
		errs = append(errs, err)
		if errors.Is(err, hostbackup.ErrBusy) || ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("taking a backup: %w", errors.Join(errs...))
}

// StoredBackup is a backup in the store of a cluster.
type StoredBackup struct {
	backup.Entry
	// Hosts are the control planes that have it, where the store is a directory on them.
	Hosts []string `json:"hosts,omitempty"`
}

// Backups lists the backups of the cluster in its store, the newest first. Control planes whose directories could not be read are in
// the second result.
func (e *Engine) Backups(ctx context.Context) ([]StoredBackup, map[string]string, error) {
	in, err := BackupRequest(e.Cluster)
	if err != nil {
		return nil, nil, err
	}
	found, silent, read := map[string]StoredBackup{}, map[string]string{}, false
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		c, err := e.Conns.Get(h.Name)
		var all []backup.Entry
		if err == nil {
			all, err = hostbackup.List.On(ctx, c, in.Location)
		}
		if err != nil {
			silent[h.Name] = err.Error()
			continue
		}
		read = true
		for _, b := range all {
			if !b.Of(e.Cluster.Metadata.Name, "") {
				continue
			}
			known := found[b.File]
			known.Entry = b
			if !in.Location.Shared() {
				known.Hosts = append(known.Hosts, h.Name)
			}
			found[b.File] = known
		}
		if in.Location.Shared() {
			silent = nil
			break
		}
	}
	if !read {
		var errs []error
		for _, name := range slices.Sorted(maps.Keys(silent)) {
			errs = append(errs, errors.New(silent[name]))
		}
		return nil, nil, fmt.Errorf("listing the backups in %s: %w", in.Location, errors.Join(errs...))
	}
	out := []StoredBackup{}
	for _, b := range found {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b StoredBackup) int { return b.Time.Compare(a.Time) })
	return out, silent, nil
}

// OpenBackup reads a backup from the store, through a control plane; the newest one if file is empty. It returns its name, too.
func (e *Engine) OpenBackup(ctx context.Context, file string) (string, io.Reader, error) {
	all, _, err := e.Backups(ctx)
	if err != nil {
		return "", nil, err
	}
	i := slices.IndexFunc(all, func(b StoredBackup) bool { return file == "" || b.File == file })
	switch {
	case i < 0 && file == "":
		return "", nil, fmt.Errorf("there is no backup of %s yet; take one with `quorate backup`", e.Cluster.Metadata.Name)
	case i < 0:
		return "", nil, fmt.Errorf("there is no backup %s of %s; see `quorate backup list`", file, e.Cluster.Metadata.Name)
	}
	in, err := BackupRequest(e.Cluster)
	if err != nil {
		return "", nil, err
	}
	var c *host.Conn
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		if in.Location.Shared() || slices.Contains(all[i].Hosts, h.Name) {
			if c, err = e.Conns.Get(h.Name); err == nil {
				break
			}
		}
	}
	if c == nil {
		return "", nil, err
	}
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: c.Name(), ID: c.Name() + "/backup", Title: "read " + all[i].File})
	return all[i].File, hostbackup.Download(ctx, c, in.Location, all[i].File), nil
}
