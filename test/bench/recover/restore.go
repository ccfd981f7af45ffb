package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/backup"
	hostbackup "quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// restoreFigures are those of one size.
type restoreFigures struct {
	Etcd string `json:"etcd"`
	// EtcdBytes is the size of the snapshot, and Keys is how many keys it has.
	EtcdBytes int64 `json:"etcdBytes"`
	Keys      int64 `json:"keys"`
	// BackupBytes is the size of the backup, and BackupSeconds how long it took to take it, in the cluster that clients could use.
	BackupBytes   int64   `json:"backupBytes"`
	BackupSeconds float64 `json:"backupSeconds"`
	// ControlPlanes of the restored cluster. Each has a member of etcd.
	ControlPlanes int `json:"controlPlanes"`
	// VerifySeconds is how long it took to read and verify the backup, and Seconds how long everything took, until the cluster matched its spec.
	VerifySeconds float64 `json:"verifySeconds"`
	Seconds       float64 `json:"seconds"`
	// MemberBytes is the size of the database of a restored member.
	MemberBytes int64 `json:"memberBytes"`

	file  string
	added int64
}

const (
	// added begins the keys with which etcd is filled. API servers do not know them: with gigabytes of objects that they do, they would have to hold
	// all of them in memory, which says nothing about a restore.
	added = "/registry/quorate.dev/bench-recover/"
	// backupDir has the backups on the control plane, until they are fetched.
	backupDir = "/srv/backups"
	// around is the space that is needed apart from etcd's data.
	around = 10 << 30
)

// space is how much disk a restore needs with so many control planes: the backup, its snapshot and the scratch etcd here, and the snapshot and the
// data on each of them.
func space(etcd int64, controlPlanes int) uint64 {
	return uint64(etcd)*uint64(3+2*controlPlanes) + around
}

// restores takes backups of a cluster that grows, and restores each onto empty machines.
func restores(ctx context.Context, o options) (any, error) {
	dir, err := os.MkdirTemp(o.dir, "bench-recover-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	all := []restoreFigures{}
	growing := slices.SortedFunc(slices.Values(o.sizes), func(a, b size) int { return cmp.Compare(a.bytes, b.bytes) })
	largest := growing[len(growing)-1]
	if err := lab.CheckDisk(paths.State(), space(largest.bytes, max(1, o.controlPlanes)), "a restore of "+largest.name+" needs"); err != nil {
		return nil, err
	}
	err = inLab(ctx, single, func(m *machinery) error {
		said("restore: building the cluster that the backups are of")
		if err := m.apply(ctx); err != nil {
			return err
		}
		for _, s := range growing {
			said("restore: filling etcd with %s", s.name)
			f, err := m.save(ctx, s, dir, identity)
			if err != nil {
				return fmt.Errorf("backup of %s: %w", s.name, err)
			}
			all = append(all, f)
		}
		return nil
	})
	if err != nil {
		return all, err
	}
	fmt.Printf("%-8s %12s %10s %12s %10s %14s %12s %12s %12s\n", "etcd", "snapshot", "keys", "backup", "taken in", "control planes", "verified in", "restored in", "member")
	for i := range all {
		if err := all[i].restore(ctx, o, growing[i], identity); err != nil {
			return all, fmt.Errorf("restore of %s: %w", all[i].Etcd, err)
		}
		f := all[i]
		fmt.Printf("%-8s %9.1f MB %10d %9.1f MB %8.1f s %14d %10.1f s %10.1f s %9.1f MB\n", f.Etcd, float64(f.EtcdBytes)/1e6, f.Keys, float64(f.BackupBytes)/1e6, f.BackupSeconds,
			f.ControlPlanes, f.VerifySeconds, f.Seconds, float64(f.MemberBytes)/1e6)
	}
	return all, nil
}

// save fills etcd up to a size, takes a backup, and fetches it into a local directory.
func (m *machinery) save(ctx context.Context, s size, dir string, identity *age.X25519Identity) (f restoreFigures, err error) {
	cp := m.cluster.HostsWith(spec.RoleControlPlane)[0]
	stores := *m.cluster
	stores.Spec.Backup = spec.Backup{Recipients: []string{identity.Recipient().String()}, Directory: backupDir, Every: spec.BackupNever, Keep: spec.BackupRetention{Last: 1}}
	if err := m.sh(ctx, cp.Name, "mkdir -p -m 700 "+backupDir); err != nil {
		return f, err
	}
	e := run.Open(ctx, &stores, progress.Discard)
	defer e.Close()
	to, err := etcdOf(ctx, e, cp)
	if err != nil {
		return f, err
	}
	defer to.client.Close()
	if err := to.grow(ctx, added, s.bytes); err != nil {
		return f, fmt.Errorf("filling etcd: %w", err)
	}
	f.Etcd = s.name
	if f.added, err = to.count(ctx); err != nil {
		return f, err
	}
	taken, err := e.Backup(ctx)
	if err != nil {
		return f, err
	}
	snapshot, _ := taken.Manifest.Part(backup.SnapshotPart)
	f.EtcdBytes, f.Keys, f.BackupBytes, f.BackupSeconds = snapshot.Bytes, taken.Manifest.Etcd.Keys, taken.Bytes, round(taken.Took)
	f.file = filepath.Join(dir, taken.File)
	return f, fetch(ctx, e, taken, f.file)
}

// fetch copies a backup from the store into a local file.
func fetch(ctx context.Context, e *run.Engine, taken *hostbackup.Result, file string) error {
	_, in, err := e.OpenBackup(ctx, taken.File)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// count counts the keys that grow has added.
func (s store) count(ctx context.Context) (int64, error) {
	have, err := s.client.Get(ctx, added, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return have.Count, nil
}

// restore restores the backup onto empty machines, and removes it here.
func (f *restoreFigures) restore(ctx context.Context, o options, s size, identity age.Identity) error {
	shape := whole
	shape.Workers = -1
	f.ControlPlanes = o.controlPlanes
	if f.ControlPlanes == 0 {
		f.ControlPlanes = 3
		if err := lab.CheckDisk(paths.State(), space(s.bytes, 3), "three control planes need"); err != nil {
			said("restore: with one control plane: %v", err)
			f.ControlPlanes = 1
		}
	}
	if f.ControlPlanes == 1 {
		shape = single
	}
	defer os.Remove(f.file)
	return inLab(ctx, shape, func(m *machinery) error {
		said("restore: restoring %s", f.Etcd)
		in, err := os.Open(f.file)
		if err != nil {
			return err
		}
		defer in.Close()
		scratch, remove, err := backup.Scratch()
		if err != nil {
			return err
		}
		defer remove()
		begin := time.Now()
		r, err := backup.Open(in, identity)
		if err != nil {
			return err
		}
		defer r.Close()
		unpacked, err := backup.Unpack(ctx, r, scratch)
		if err != nil {
			return err
		}
		f.VerifySeconds = round(time.Since(begin))
		e := run.Open(ctx, m.cluster, progress.Discard)
		defer e.Close()
		if _, err := e.Restore(ctx, m.bundle, run.RestoreOptions{Backup: unpacked, File: filepath.Base(f.file)}); err != nil {
			return err
		}
		f.Seconds = round(time.Since(begin))
		return f.check(ctx, e)
	})
}

// check expects that each restored member has everything that was added.
func (f *restoreFigures) check(ctx context.Context, e *run.Engine) error {
	for _, h := range e.Cluster.EtcdHosts() {
		from, err := etcdOf(ctx, e, h)
		if err != nil {
			return err
		}
		defer from.client.Close()
		n, err := from.count(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if n != f.added {
			return fmt.Errorf("%s has %d of the %d keys that were in the backup", h.Name, n, f.added)
		}
		status, err := from.client.Status(ctx, from.client.Endpoints()[0])
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		f.MemberBytes = max(f.MemberBytes, status.DbSize)
	}
	return nil
}
