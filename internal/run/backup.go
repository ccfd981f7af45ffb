package run

import (
	"cmp"
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
				in.Host = h.Name
				out, err = hostbackup.Take.On(ctx, c, in)
				return in.Location.RedactError(err)
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

// StoredBackups are the backups in the store of a cluster, the newest first.
type StoredBackups struct {
	Cluster string         `json:"cluster"`
	Backups []StoredBackup `json:"backups"`
	// Others are backups of other clusters with the same name, such as one that this one was restored from.
	Others []StoredBackup `json:"others,omitempty"`
	// Unidentified says that etcd did not answer, so that Backups may be of other clusters with the same name, too.
	Unidentified bool `json:"unidentified,omitempty"`
	// Unreachable are control planes whose directories could not be read.
	Unreachable map[string]string `json:"unreachable,omitempty"`
}

// Backups lists the backups of the cluster in its store.
func (e *Engine) Backups(ctx context.Context) (*StoredBackups, error) {
	in, err := BackupRequest(e.Cluster)
	if err != nil {
		return nil, err
	}
	found, silent, uid, etcd, read := map[string]StoredBackup{}, map[string]string{}, "", "", false
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		c, err := e.Conns.Get(h.Name)
		var all hostbackup.Listed
		if err == nil {
			all, err = hostbackup.List.On(ctx, c, in.Location)
		}
		if err != nil {
			silent[h.Name] = in.Location.Redact(err.Error())
			continue
		}
		read = true
		if all.Etcd != "" {
			uid, etcd = all.UID, all.Etcd
		}
		for _, b := range all.Backups {
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
		return nil, fmt.Errorf("listing the backups in %s: %w", in.Location, errors.Join(errs...))
	}
	out := listed(e.Cluster.Metadata.Name, uid, etcd, slices.Collect(maps.Values(found)))
	out.Unreachable = silent
	return out, nil
}

// listed sorts the backups in a store by whether they are of the cluster with this name, UID, and ID of its etcd.
func listed(cluster, uid, etcd string, all []StoredBackup) *StoredBackups {
	out := &StoredBackups{Cluster: cluster, Backups: []StoredBackup{}, Unidentified: etcd == ""}
	slices.SortFunc(all, func(a, b StoredBackup) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.File, b.File)) })
	for _, b := range all {
		switch {
		case b.Of(cluster, uid, etcd):
			out.Backups = append(out.Backups, b)
		case b.Of(cluster, "", ""):
			out.Others = append(out.Others, b)
		}
	}
	return out
}

// find is a backup by its name, also one of another cluster, or the newest one of this cluster.
func (s *StoredBackups) find(file string) (StoredBackup, error) {
	if file != "" {
		for _, b := range slices.Concat(s.Backups, s.Others) {
			if b.File == file {
				return b, nil
			}
		}
		return StoredBackup{}, fmt.Errorf("there is no backup %s of %s; see `quorate backup list`", file, s.Cluster)
	}
	if len(s.Backups) == 0 {
		return StoredBackup{}, fmt.Errorf("there is no backup of %s yet; take one with `quorate backup`", s.Cluster)
	}
	newest := s.Backups[0]
	if slices.ContainsFunc(s.Backups, func(b StoredBackup) bool { return !b.Same(newest.Name) }) {
		return StoredBackup{}, fmt.Errorf("the store has backups of several clusters with the name %s, and etcd does not answer which one this is: name the backup (`quorate backup list` shows them)", s.Cluster)
	}
	return newest, nil
}

// OpenBackup reads a backup from the store, through a control plane, and through another one if that fails; the newest one if file is empty.
// It returns its name, too.
func (e *Engine) OpenBackup(ctx context.Context, file string) (string, io.Reader, error) {
	all, err := e.Backups(ctx)
	if err != nil {
		return "", nil, err
	}
	b, err := all.find(file)
	if err != nil {
		return "", nil, err
	}
	in, err := BackupRequest(e.Cluster)
	if err != nil {
		return "", nil, err
	}
	var hosts []*host.Conn
	var errs []error
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		if !in.Location.Shared() && !slices.Contains(b.Hosts, h.Name) {
			continue
		}
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		hosts = append(hosts, c)
	}
	if len(hosts) == 0 {
		return "", nil, errors.Join(errs...)
	}
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: hosts[0].Name(), ID: hosts[0].Name() + "/backup", Title: "read " + b.File})
	return b.File, hostbackup.Download(ctx, hosts, in.Location, b.File), nil
}
