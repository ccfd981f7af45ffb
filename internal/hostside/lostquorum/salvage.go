package lostquorum

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcddata"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/staticpod"
)

// This file is how the data of a member, and the keys of its cluster, leave a disk that is mounted on a host: a restore from them makes its copy
// on the machine of the caller, and writes nothing on this one.

// DataFile is a file of a member's data: its name below the directory member, its size, and when it was written.
type DataFile struct {
	Name     string    `json:"name"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

// Data is what a data directory consists of.
type Data struct {
	Files []DataFile `json:"files"`
	// Running is the process of an etcd that works on it; 0 if there is none.
	Running int `json:"running,omitempty"`
	// InPlace says that it is where the member on this host has its data, or would have them, and Kept that it is among what was set aside here: a
	// reset removes both, under whatever path they were named.
	InPlace bool `json:"inPlace,omitempty"`
	Kept    bool `json:"kept,omitempty"`
}

// IsData says that a name is that of a file in etcd's data, as in DataFile. Whoever gets such names from a host asks before it uses them.
func IsData(name string) bool {
	return slices.Contains(dataDirs, filepath.Dir(name)) && filepath.Clean(name) == name
}

// ListData lists the files of a data directory that etcd reads. It changes nothing.
var ListData = host.Define("lostquorum.list-data", func(_ context.Context, dir string) (Data, error) {
	return ListDataHere(dir)
}, host.Reads)

// ListDataHere is ListData on this machine.
func ListDataHere(dir string) (Data, error) { return local.listData(dir) }

// dataDirs are the directories below member that etcd reads.
var dataDirs = []string{"snap", "wal"}

func (p place) listData(dir string) (Data, error) {
	member := etcddata.Member(p.at(dir))
	info, err := os.Stat(member)
	if err != nil || !info.IsDir() {
		return Data{}, fmt.Errorf("%s is no data directory of etcd: it has no directory member with wal and snap", dir)
	}
	out := Data{Files: []DataFile{}}
	if own, err := os.Stat(filepath.Join(p.at(p.member().dataDir), "member")); err == nil {
		out.InPlace = os.SameFile(info, own)
	}
	for _, kept := range facts.EtcdKeptDirs(p.member().dataDir) {
		all, err := filepath.Glob(filepath.Join(p.at(kept), "*", "member"))
		if err != nil {
			return out, err
		}
		out.Kept = out.Kept || slices.ContainsFunc(all, func(path string) bool {
			other, err := os.Stat(path)
			return err == nil && os.SameFile(info, other)
		})
	}
	if out.Running, err = p.running(strings.TrimSuffix(filepath.Clean(dir), "/member")); err != nil {
		return out, err
	}
	for _, sub := range dataDirs {
		files, err := os.ReadDir(filepath.Join(member, sub))
		if err != nil {
			return out, err
		}
		for _, f := range files {
			if !f.Type().IsRegular() || filepath.Ext(f.Name()) == ".tmp" {
				continue
			}
			info, err := f.Info()
			if err != nil {
				return out, err
			}
			out.Files = append(out.Files, DataFile{filepath.Join(sub, f.Name()), info.Size(), info.ModTime()})
		}
	}
	return out, nil
}

// DataPiece asks for a piece of a file in a data directory.
type DataPiece struct {
	Dir    string `json:"dir"`
	Name   string `json:"name"` // as in DataFile
	Offset int64  `json:"offset"`
}

// pieceBytes fits into a reply.
const pieceBytes = 8 << 20

// ReadData reads a piece of a file that ListData lists. The last piece is empty.
var ReadData = host.Define("lostquorum.read-data", func(_ context.Context, in DataPiece) ([]byte, error) {
	f, err := OpenDataHere(in.Dir, in.Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, in.Offset, pieceBytes))
}, host.Secret, host.Reads)

// OpenDataHere opens a file that ListDataHere lists.
func OpenDataHere(dir, name string) (*os.File, error) { return local.openData(dir, name) }

func (p place) openData(dir, name string) (*os.File, error) {
	if !IsData(name) {
		return nil, fmt.Errorf("%q is no file of etcd's data", name)
	}
	path := filepath.Join(etcddata.Member(p.at(dir)), name)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no file of etcd's data", path))
	}
	return os.Open(path)
}

// KeysRequest names directories like /etc/kubernetes/pki; the first one that has any of the files counts.
type KeysRequest struct {
	Dirs []string `json:"dirs"`
}

// FoundKeys are the files that the control planes of a cluster share, by their names below /etc/kubernetes/pki, as far as a directory has them.
type FoundKeys struct {
	// Dir is the directory; empty if none of them has any.
	Dir string      `json:"dir,omitempty"`
	PKI kubeadm.PKI `json:"pki,omitempty"`
}

// ReadKeys reads the keys of a cluster that was, from a disk that is mounted on this host.
var ReadKeys = host.Define("lostquorum.read-keys", func(_ context.Context, in KeysRequest) (FoundKeys, error) {
	return ReadKeysHere(in)
}, host.Secret, host.Reads)

// ReadKeysHere is ReadKeys on this machine.
func ReadKeysHere(in KeysRequest) (FoundKeys, error) { return local.readKeys(in.Dirs) }

func (p place) readKeys(dirs []string) (FoundKeys, error) {
	for _, dir := range dirs {
		out := FoundKeys{Dir: dir, PKI: kubeadm.PKI{}}
		for _, name := range slices.Concat(facts.SharedPKI, facts.EtcdPKI, []string{facts.ServiceAccountKey.FormerPublic(), facts.ServiceAccountKey.NextPublic()}) {
			if err := p.readKey(out.PKI, name, filepath.Join(dir, name)); err != nil {
				return FoundKeys{}, err
			}
		}
		// An API server that Quorate did not set up may have its encryption configuration elsewhere, and trust more service account keys.
		if pod, err := staticpod.Read(p.at(filepath.Join(dir, "..", "manifests", "kube-apiserver.yaml"))); err == nil {
			for _, r := range backup.References(pod) {
				public, at := facts.ServiceAccountKey.Public(), onDisk(dir, r.Path)
				switch {
				case r.Flag == backup.EncryptionFlag:
					delete(out.PKI, encryption.File) // what the API server used counts
					if err := p.readKey(out.PKI, encryption.File, at); err != nil {
						return FoundKeys{}, err
					}
				case r.Flag == facts.AccountKeyFileFlag && len(out.PKI[public]) > 0 && at != filepath.Join(dir, public):
					also := kubeadm.PKI{}
					if err := p.readKey(also, public, at); err != nil {
						return FoundKeys{}, err
					}
					out.PKI[public] = slices.Concat(out.PKI[public], []byte("\n"), also[public])
				}
			}
		}
		if len(out.PKI) > 0 {
			return out, nil
		}
	}
	return FoundKeys{}, nil
}

// onDisk is where a file of the control plane is whose /etc/kubernetes/pki is dir.
func onDisk(dir, file string) string {
	if below, ok := strings.CutPrefix(file, backup.KubernetesDir+"/"); ok {
		return filepath.Join(dir, "..", below)
	}
	return filepath.Join(strings.TrimSuffix(filepath.Clean(dir), backup.KubernetesDir+"/pki"), file)
}

// keyBytes is more than a key, or a configuration with keys, ever has.
const keyBytes = 1 << 20

// readKey reads a file, if there is one. The disk may be anybody's, so it is a file of its own, and not a large one.
func (p place) readKey(into kubeadm.PKI, name, path string) error {
	info, err := os.Lstat(p.at(path))
	if err == nil && (!info.Mode().IsRegular() || info.Size() > keyBytes) {
		err = fmt.Errorf("it is no file of at most %d bytes", keyBytes)
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(p.at(path))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(content) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", path, err)
	}
	into[name] = content
	return nil
}

// ReadApart reads a data directory on this machine (see etcddata.Read), in a process of its own, which a damaged database can end.
func ReadApart(ctx context.Context, dir, scratch string) facts.EtcdCopy {
	return readApart(ctx, dir, scratch)
}

// SnapshotApart makes a snapshot of a copy of a member's data on this machine (see etcddata.Snapshot), in a process of its own.
func SnapshotApart(ctx context.Context, in etcddata.SnapshotRequest) (out etcddata.Snapshotted, err error) {
	err = apart(ctx, snapshotCommand, in, &out)
	return out, err
}
