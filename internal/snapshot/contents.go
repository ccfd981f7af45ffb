package snapshot

import (
	"errors"
	"fmt"
	"strings"

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
func Look(file string, keys ...string) (Contents, error) {
	out := Contents{Values: map[string][]byte{}, Encrypted: map[string]string{}}
	wanted, marks := map[string]bool{}, map[string]string{}
	for _, k := range keys {
		wanted[k] = true
	}
	err := each(file, func(key string, value []byte, deleted bool) {
		delete(marks, key)
		delete(out.Values, key)
		if deleted {
			return
		}
		if mark := encryption.Mark(value); mark != "" {
			marks[key] = mark
		}
		if wanted[key] {
			out.Values[key] = value
		}
	})
	for key, mark := range marks {
		if have, has := out.Encrypted[mark]; !has || key < have {
			out.Encrypted[mark] = key
		}
	}
	return out, err
}

// Sealed says which keys of a database have values that API servers encrypted (see encryption.Mark), and with which marks, and how many keys
// below a prefix have values that are not encrypted. The file is a snapshot, or the database of a member that does not run.
func Sealed(file, prefix string) (marks map[string]string, plain int, _ error) {
	marks, open := map[string]string{}, map[string]bool{}
	err := each(file, func(key string, value []byte, deleted bool) {
		delete(marks, key)
		delete(open, key)
		switch mark := encryption.Mark(value); {
		case deleted:
		case mark != "":
			marks[key] = mark
		case strings.HasPrefix(key, prefix):
			open[key] = true
		}
	})
	return marks, len(open), err
}

// each calls one for every revision of every key in a database, in the order of revisions: what comes later replaces what was before. The
// value is gone where the key was deleted.
func each(file string, one func(key string, value []byte, deleted bool)) (err error) {
	defer func() {
		if p := recover(); p != nil { // etcd's code expects its own buckets
			err = fmt.Errorf("its database is damaged: %v", p)
		}
	}()
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(schema.Key.Name())
		if bucket == nil {
			return errors.New("its database has no keys")
		}
		return bucket.ForEach(func(revision, value []byte) error {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return fmt.Errorf("its database is damaged: %w", err)
			}
			one(string(kv.Key), kv.Value, mvcc.IsTombstone(revision))
			return nil
		})
	})
}
