// Package etcddata reads what a data directory of etcd contains, and makes the data of a new cluster with one member from it. It links
// etcd's own code. The directory itself is never opened for writing, and an etcd may run on it.
package etcddata

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"quorate.dev/quorate/internal/facts"
)

const (
	// lockPatience is how long to wait for the lock of a database, which an etcd that runs holds.
	lockPatience = 200 * time.Millisecond
	// attempts is how often a log or a database is read that changes meanwhile.
	attempts = 3
	// shown are the errors of a database that are reported; there can be one for each page.
	shown = 3
)

// Member is the directory below a data directory that has everything: dir/member, or dir itself where it is one.
func Member(dir string) string {
	if m := filepath.Join(dir, "member"); isDir(m) || !isDir(filepath.Join(dir, "wal")) {
		return m
	}
	return dir
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Read reads a data directory. What is wrong with it is in the result. A database that is locked is copied into scratch, a directory on
// a file system with enough space, and removed there again.
//
// A damaged database can end the process, because it is mapped into memory: run Read in a process of its own.
func Read(dir, scratch string) (out facts.EtcdCopy) {
	out.Path = dir
	member := Member(dir)
	out.Bytes = size(member)
	if err := readDatabase(member, scratch, &out); err != nil {
		if locked := (*unreadError)(nil); errors.As(err, &locked) {
			out.Unread = locked.Error()
		} else {
			out.Error = err.Error()
		}
	}
	var err error
	for range attempts {
		log := out
		if err = readLog(filepath.Join(member, "wal"), &log); err == nil {
			out = log
			break
		}
		if !errors.Is(err, fs.ErrNotExist) { // a file that etcd has removed meanwhile
			break
		}
	}
	if err != nil {
		out.Error = join(out.Error, "the write-ahead log: "+err.Error())
	}
	if out.Error == "" && out.Unread == "" && out.Applied > out.LastIndex {
		out.Error = fmt.Sprintf("the database contains the log up to %d, and the log ends at %d: they are not of the same moment", out.Applied, out.LastIndex)
	}
	return out
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func size(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error { //nolint:errcheck // what cannot be read is reported elsewhere
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// readLog reads all records of a write-ahead log.
func readLog(dir string, out *facts.EtcdCopy) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	slices.Sort(names) // they begin with a number of fixed length
	var readers []fileutil.FileReader
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.ModTime().After(out.LastWrite) {
			out.LastWrite = info.ModTime()
		}
		readers = append(readers, fileutil.NewFileReader(f))
	}
	if err := consecutive(names); err != nil {
		return err
	}
	var (
		decoder = wal.NewDecoder(readers...)
		record  walpb.Record
		state   raftpb.HardState
		pending []uint64
	)
	for err = decoder.Decode(&record); err == nil; err = decoder.Decode(&record) {
		switch record.GetType() {
		case wal.MetadataType:
			var m pb.Metadata
			if err := proto.Unmarshal(record.Data, &m); err != nil {
				return fmt.Errorf("its identity cannot be read: %w", err)
			}
			cluster, member := hex(m.GetClusterID()), hex(m.GetNodeID())
			if out.ClusterID != "" && (out.ClusterID != cluster || out.MemberID != member) {
				return errors.New("it has the identities of two members")
			}
			out.ClusterID, out.MemberID = cluster, member
		case wal.EntryType:
			var e raftpb.Entry
			if err := proto.Unmarshal(record.Data, &e); err != nil {
				return fmt.Errorf("an entry cannot be read: %w", err)
			}
			// An entry replaces those at its index and after it.
			out.LastTerm, out.LastIndex = e.GetTerm(), e.GetIndex()
			i, _ := slices.BinarySearch(pending, e.GetIndex())
			pending = pending[:i]
			if e.GetType() == raftpb.EntryNormal && len(e.Data) > 0 {
				pending = append(pending, e.GetIndex())
			}
		case wal.StateType:
			state.Reset()
			if err := proto.Unmarshal(record.Data, &state); err != nil {
				return fmt.Errorf("its state cannot be read: %w", err)
			}
		case wal.SnapshotType:
			var s walpb.Snapshot
			if err := proto.Unmarshal(record.Data, &s); err != nil {
				return fmt.Errorf("a snapshot's record cannot be read: %w", err)
			}
			if s.GetIndex() > out.LastIndex { // the leader sent it, instead of entries
				out.LastTerm, out.LastIndex = s.GetTerm(), s.GetIndex()
			}
		case wal.CrcType:
			if crc := decoder.LastCRC(); crc != 0 && record.Validate(crc) != nil {
				return wal.ErrCRCMismatch
			}
			decoder.UpdateCRC(record.GetCrc())
		default:
			return fmt.Errorf("it has a record of the unknown type %d", record.GetType())
		}
	}
	out.Term, out.Commit = state.GetTerm(), state.GetCommit()
	out.Torn = errors.Is(err, io.ErrUnexpectedEOF)
	if !out.Torn && !errors.Is(err, io.EOF) {
		return err
	}
	if out.ClusterID == "" {
		return errors.New("it does not say to which cluster it belongs")
	}
	i, found := slices.BinarySearch(pending, out.Applied)
	if found {
		i++
	}
	out.Pending = len(pending) - i
	return nil
}

// consecutive checks that no file of the log is missing in between.
func consecutive(names []string) error {
	last := int64(-1)
	for _, name := range names {
		number, _, _ := strings.Cut(filepath.Base(name), "-")
		n, err := strconv.ParseInt(number, 16, 64)
		if err != nil {
			return fmt.Errorf("%s is not a file of the log", name)
		}
		if last >= 0 && n != last+1 {
			return fmt.Errorf("the file before %s is missing", filepath.Base(name))
		}
		last = n
	}
	return nil
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }

// unreadError says that a database may be sound, but could not be read now.
type unreadError struct{ why string }

func (e *unreadError) Error() string { return e.why }

// readDatabase reads the database of a member, and checks all of its pages.
func readDatabase(member, scratch string, out *facts.EtcdCopy) (err error) {
	file := filepath.Join(member, "snap", "db")
	debug.SetPanicOnFault(true)
	defer func() {
		if p := recover(); p != nil { // etcd's code expects its own buckets
			err = fmt.Errorf("the database is damaged: %v", p)
		}
	}()
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("the database: %w", err)
	}
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true, Timeout: lockPatience})
	if errors.Is(err, berrors.ErrTimeout) {
		copied, cerr := copyLive(file, scratch)
		if cerr != nil {
			return &unreadError{"an etcd runs on the database, and it could not be copied: " + cerr.Error()}
		}
		defer os.Remove(copied)
		db, err = bolt.Open(copied, 0o400, &bolt.Options{ReadOnly: true, Timeout: lockPatience})
	}
	if err != nil {
		return fmt.Errorf("the database is damaged: %w", err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		if err := readBuckets(tx, out); err != nil {
			return err
		}
		var wrong []string
		n := 0
		for err := range tx.Check() {
			if n++; n <= shown {
				wrong = append(wrong, err.Error())
			}
		}
		if n > 0 {
			return fmt.Errorf("the database is damaged: %d errors: %s", n, strings.Join(wrong, "; "))
		}
		return nil
	})
}

func readBuckets(tx *bolt.Tx, out *facts.EtcdCopy) error {
	meta, keys := tx.Bucket(schema.Meta.Name()), tx.Bucket(schema.Key.Name())
	if meta == nil || keys == nil {
		return errors.New("the database is not one of etcd: it has no keys")
	}
	if v := meta.Get(schema.MetaConsistentIndexKeyName); len(v) == 8 {
		out.Applied = binary.BigEndian.Uint64(v)
	}
	if v := schema.ReadStorageVersionFromSnapshot(tx); v != nil {
		out.StorageVersion = v.String()
	}
	if k, _ := keys.Cursor().Last(); k != nil {
		out.Revision = mvcc.BytesToRev(k).Main
	}
	if alarms := tx.Bucket(schema.Alarm.Name()); alarms != nil {
		if err := alarms.ForEach(func(key, _ []byte) error {
			var a pb.AlarmMember
			if err := proto.Unmarshal(key, &a); err != nil {
				return fmt.Errorf("the database is damaged: an alarm cannot be read: %w", err)
			}
			if a.GetAlarm() == pb.AlarmType_CORRUPT {
				out.Corrupt = append(out.Corrupt, hex(a.GetMemberID()))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	members := tx.Bucket(schema.Members.Name())
	if members == nil {
		return nil
	}
	return members.ForEach(func(_, value []byte) error {
		var m membership.Member
		if err := json.Unmarshal(value, &m); err != nil {
			return fmt.Errorf("the database is damaged: a member cannot be read: %w", err)
		}
		out.Members = append(out.Members, facts.EtcdCopyMember{ID: hex(uint64(m.ID)), Name: m.Name, PeerURL: strings.Join(m.PeerURLs, ","), Learner: m.IsLearner})
		return nil
	})
}

// copyLive copies a database on which an etcd runs. A database is never changed in place, but for the two pages at its beginning that
// say where its parts are: a copy during which these stay the same is of one moment.
func copyLive(file, scratch string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if err := space(scratch, info.Size()); err != nil {
		return "", err
	}
	for range attempts {
		before, err := metaPages(file)
		if err != nil {
			return "", err
		}
		to, err := os.CreateTemp(scratch, "quorate-etcd-*.db")
		if err != nil {
			return "", err
		}
		err = copyInto(to, file)
		after, aerr := metaPages(file)
		if err = errors.Join(err, to.Close(), aerr); err == nil && bytes.Equal(before, after) {
			return to.Name(), nil
		}
		os.Remove(to.Name())
		if err != nil {
			return "", err
		}
	}
	return "", errors.New("it is written to all the time")
}

func metaPages(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make([]byte, 2*os.Getpagesize())
	_, err = io.ReadFull(f, out)
	return out, err
}

func copyInto(to *os.File, file string) error {
	from, err := os.Open(file)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

// space returns an error if a file system does not have room for as many bytes, and some more.
func space(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	const reserve = 256 << 20
	if free := int64(st.Bavail) * st.Bsize; free < need+reserve {
		return fmt.Errorf("%s has %d MiB free, and %d MiB are needed", dir, free>>20, (need+reserve)>>20)
	}
	return nil
}
