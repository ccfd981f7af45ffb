package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/snapshot"
)

// Verified is what Verify found.
type Verified struct {
	Manifest Manifest          `json:"manifest"`
	Snapshot snapshot.Status   `json:"snapshot"`
	Restored snapshot.Restored `json:"restored"`
	// KVHashCompared is false if the member was compacted between its snapshot and its hash, so that they cannot be compared.
	KVHashCompared bool `json:"kvHashCompared"`
}

// partsLimit is for everything in a backup but the snapshot, which is held in memory.
const partsLimit = 64 << 20

// Running is a backup whose snapshot runs as an etcd.
type Running struct {
	Manifest Manifest
	// Parts are all parts but the snapshot.
	Parts map[string][]byte
	Etcd  *snapshot.Scratch
}

// Unpacked is a backup that was read and verified.
type Unpacked struct {
	Verified
	// Parts are all parts but the snapshot, with keys in plain text, in memory only.
	Parts map[string][]byte
	// Snapshot is the file with the snapshot, and Contents is what was looked up in it.
	Snapshot string
	Contents snapshot.Contents
}

// Verify reads all of a backup, checks that its parts belong together and are enough (see Check), restores its snapshot into a scratch
// etcd below dir, and compares what that etcd has with what the member answered when the backup was taken. The directory holds keys in
// plain text only as far as etcd does, and no key of the PKI. If all of it is as it should be, Verify calls then, unless it is nil, while
// the etcd runs.
func Verify(ctx context.Context, r *Reader, dir string, then func(context.Context, Running) error) (Verified, error) {
	out, err := unpack(ctx, r, dir, then)
	return out.Verified, err
}

// Unpack is Verify, and returns what was verified. It leaves the snapshot below dir, and nothing else. Keys are values of etcd to look up.
func Unpack(ctx context.Context, r *Reader, dir string, keys ...string) (Unpacked, error) {
	return unpack(ctx, r, dir, nil, keys...)
}

func unpack(ctx context.Context, r *Reader, dir string, then func(context.Context, Running) error, keys ...string) (Unpacked, error) {
	out := Unpacked{Verified: Verified{Manifest: r.Manifest()}, Snapshot: filepath.Join(dir, SnapshotPart)}
	if _, ok := out.Manifest.Part(SnapshotPart); !ok {
		return out, errors.New("the backup has no snapshot of etcd")
	}
	var err error
	if out.Parts, err = r.unpack(out.Snapshot); err != nil {
		return out, err
	}
	if out.Verified.Snapshot, err = snapshot.Read(out.Snapshot); err != nil {
		return out, fmt.Errorf("the snapshot is damaged: %w", err)
	}
	if out.Contents, err = snapshot.Look(out.Snapshot, keys...); err != nil {
		return out, fmt.Errorf("the snapshot is damaged: %w", err)
	}
	if err := Check(out.Manifest, out.Parts, out.Contents); err != nil {
		return out, err
	}
	want := out.Manifest.Etcd
	if err := differs("the snapshot", "hash", want.Hash, out.Verified.Snapshot.Hash); err != nil {
		return out, unreliable(err)
	}
	if err := errors.Join(differs("the snapshot", "revision", want.Revision, out.Verified.Snapshot.Revision), differs("the snapshot", "number of keys", want.Keys, out.Verified.Snapshot.Keys)); err != nil {
		return out, unreliable(err)
	}
	data := filepath.Join(dir, "run") // a short name: the paths of sockets are limited
	if err := os.Mkdir(data, 0o700); err != nil {
		return out, err
	}
	defer os.RemoveAll(data)
	scratch, err := snapshot.Start(ctx, data, out.Snapshot)
	if err != nil {
		return out, err
	}
	defer scratch.Close()
	if out.Restored, err = scratch.At(ctx, want.Revision); err != nil {
		return out, err
	}
	out.KVHashCompared = want.KVHash != 0 && want.CompactRevision == out.Restored.CompactRevision
	errs := []error{differs("the restored etcd", "revision", want.Revision, out.Restored.Revision), differs("the restored etcd", "number of keys", want.Keys, out.Restored.Keys)}
	if out.KVHashCompared {
		errs = append(errs, differs("the restored etcd", "hash of the keys", want.KVHash, out.Restored.KVHash))
	}
	if err := errors.Join(errs...); err != nil {
		return out, unreliable(err)
	}
	if then == nil {
		return out, nil
	}
	return out, then(ctx, Running{out.Manifest, out.Parts, scratch})
}

// unpack writes the snapshot to a file, and reads the other parts into memory.
func (r *Reader) unpack(file string) (map[string][]byte, error) {
	parts, left := map[string][]byte{}, int64(partsLimit)
	for {
		part, in, err := r.Next()
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return nil, err
		}
		if part.Name == SnapshotPart {
			if err := extract(file, in); err != nil {
				return nil, fmt.Errorf("extracting %s: %w", part.Name, err)
			}
			continue
		}
		if left -= part.Bytes; left < 0 {
			return nil, fmt.Errorf("the parts of the backup have more than %d MiB, apart from the snapshot", partsLimit>>20)
		}
		if parts[part.Name], err = io.ReadAll(in); err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.Name, err)
		}
	}
}

// unreliable says what to do about a backup that is not what it was taken from.
func unreliable(err error) error {
	return fmt.Errorf("%w. Do not rely on this backup: verify an older one (`quorate backup list`), take a new one with `quorate backup`, and look at `quorate status`: a member of etcd may be damaged", err)
}

func differs[T comparable](who, what string, want, have T) error {
	if want == have {
		return nil
	}
	return fmt.Errorf("%s has the %s %v, and the member that it was taken from had %v", who, what, have, want)
}
