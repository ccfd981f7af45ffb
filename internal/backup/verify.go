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
// plain text only as far as etcd does, and no key of the PKI.
func Verify(ctx context.Context, r *Reader, dir string) (Verified, error) {
	out, err := Unpack(ctx, r, dir)
	return out.Verified, err
}

// Unpack is Verify, and returns what was verified. It leaves the snapshot below dir, and nothing else. Keys are values of etcd to look up.
func Unpack(ctx context.Context, r *Reader, dir string, keys ...string) (Unpacked, error) {
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
		return out, err
	}
	if err := errors.Join(differs("the snapshot", "revision", want.Revision, out.Verified.Snapshot.Revision), differs("the snapshot", "number of keys", want.Keys, out.Verified.Snapshot.Keys)); err != nil {
		return out, err
	}
	scratch, err := os.MkdirTemp(dir, "scratch-")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(scratch)
	if out.Restored, err = snapshot.Try(ctx, scratch, out.Snapshot, want.Revision); err != nil {
		return out, err
	}
	out.KVHashCompared = want.KVHash != 0 && want.CompactRevision == out.Restored.CompactRevision
	errs := []error{differs("the restored etcd", "revision", want.Revision, out.Restored.Revision), differs("the restored etcd", "number of keys", want.Keys, out.Restored.Keys)}
	if out.KVHashCompared {
		errs = append(errs, differs("the restored etcd", "hash of the keys", want.KVHash, out.Restored.KVHash))
	}
	return out, errors.Join(errs...)
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

func differs[T comparable](who, what string, want, have T) error {
	if want == have {
		return nil
	}
	return fmt.Errorf("%s has the %s %v, and the member that it was taken from had %v", who, what, have, want)
}
