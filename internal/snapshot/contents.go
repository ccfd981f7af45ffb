package snapshot

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	"quorate.dev/quorate/internal/encryption"
)

// Contents is what is in a snapshot at its revision, without most of the values.
type Contents struct {
	// Values are those of the keys that were asked for and that exist.
	Values map[string][]byte
	// Encrypted has the marks of values that API servers encrypted (see encryption.Mark), each with a key that has such a value.
	Encrypted map[string]string
}

// Look reads the keys and some of the values of a snapshot file that Read accepted. No etcd has to run, and it does not matter what
// was compacted since.
func Look(file string, keys ...string) (out Contents, err error) {
	defer func() {
		if p := recover(); p != nil { // etcd's code expects its own buckets
			err = fmt.Errorf("its database is damaged: %v", p)
		}
	}()
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return out, err
	}
	defer db.Close()
	out = Contents{Values: map[string][]byte{}, Encrypted: map[string]string{}}
	wanted, marks := map[string]bool{}, map[string]string{}
	for _, k := range keys {
		wanted[k] = true
	}
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(schema.Key.Name())
		if bucket == nil {
			return errors.New("its database has no keys")
		}
		// In the order of revisions: what comes later replaces what was before.
		return bucket.ForEach(func(revision, value []byte) error {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return fmt.Errorf("its database is damaged: %w", err)
			}
			key := string(kv.Key)
			delete(marks, key)
			delete(out.Values, key)
			if mvcc.IsTombstone(revision) {
				return nil
			}
			if mark := encryption.Mark(kv.Value); mark != "" {
				marks[key] = mark
			}
			if wanted[key] {
				out.Values[key] = kv.Value
			}
			return nil
		})
	})
	for key, mark := range marks {
		if have, has := out.Encrypted[mark]; !has || key < have {
			out.Encrypted[mark] = key
		}
	}
	return out, err
}
