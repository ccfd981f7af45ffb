// Package snapshot reads snapshot files of etcd and tries them out, without an etcd on the machine: it links etcd's own code.
package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// Status is what a snapshot file says about itself, as `etcdutl snapshot status` prints it.
type Status struct {
	Hash     uint32 `json:"hash"`
	Revision int64  `json:"revision"`
	Keys     int64  `json:"keys"`
}

// Read compares a snapshot file with the SHA-256 that etcd appended to it, and reads all of its database.
func Read(file string) (out Status, err error) {
	// In this order: the database is mapped into memory, and a damaged one can end the process.
	if err := whole(file); err != nil {
		return Status{}, err
	}
	defer func() {
		if p := recover(); p != nil { // etcd's code expects its own buckets
			err = fmt.Errorf("its database is damaged: %v", p)
		}
	}()
	st, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil {
		return Status{}, fmt.Errorf("its database is damaged: %w", err)
	}
	return Status{st.Hash, st.Revision, int64(st.TotalKey)}, nil
}

// whole reads a file and compares it with the sum at its end.
func whole(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size <= sha256.Size || size%512 != sha256.Size {
		return fmt.Errorf("it has %d bytes, and no sum at its end", size)
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, size-sha256.Size); err != nil {
		return err
	}
	said, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !slices.Equal(said, sum.Sum(nil)) {
		return errors.New("its content does not match the sum at its end")
	}
	return nil
}
