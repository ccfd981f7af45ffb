// Package backup takes backups on a control plane and reads the stores that hold them. The snapshot and the keys leave the control
// plane only encrypted. See package internal/backup for the format.
package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"filippo.io/age"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	etcdhost "quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/version"
)

const (
	// workDir holds the snapshot while it is packed.
	workDir = facts.SnapshotDir + "/backup"
	// tries bounds how often a backup is taken again because keys changed meanwhile.
	tries = 2
)

// Request says what to back up, for whom, and where to.
type Request struct {
	Cluster string `json:"cluster"`
	// Host is the control plane's name in the spec.
	Host       string           `json:"host"`
	Recipients []string         `json:"recipients"`
	Location   backup.Location  `json:"location"`
	Keep       backup.Retention `json:"keep"`
}

// Result is a backup that was taken, stored, and read again.
type Result struct {
	backup.Stored
	Manifest backup.Manifest `json:"manifest"`
	// NotLocked is why nothing kept other control planes from taking a backup at the same time. Then it is not recorded either, and
	// nothing is removed.
	NotLocked string `json:"notLocked,omitempty"`
	// NotRecorded is why etcd does not know of this backup. Control planes that take backups by themselves then take another one.
	NotRecorded string `json:"notRecorded,omitempty"`
	// Removed are the backups that are no longer kept, and what interrupted ones left. NotRemoved is why some of them are still there.
	Removed    []string      `json:"removed,omitempty"`
	NotRemoved string        `json:"notRemoved,omitempty"`
	Took       time.Duration `json:"tookNanoseconds"`
}

// Take takes a backup on this control plane.
var Take = host.Define("backup.take", take, host.Secret)

// Listed is what a store has, and which cluster the host belongs to.
type Listed struct {
	// Backups are those of all clusters.
	Backups []backup.Entry `json:"backups"`
	// UID and Etcd identify the host's cluster; empty if its etcd does not answer.
	UID  string `json:"uid,omitempty"`
	Etcd string `json:"etcd,omitempty"`
}

// List lists the backups of all clusters in a store, as this host sees it.
var List = host.Define("backup.list", func(ctx context.Context, at backup.Location) (out Listed, err error) {
	s, err := at.Connect(ctx)
	if err != nil {
		return out, err
	}
	defer s.Close()
	if out.Backups, err = s.List(ctx); err != nil {
		return out, err
	}
	if p, err := local(""); err == nil {
		out.UID, out.Etcd, _ = p.identity(ctx) // backups are listed while etcd is down, too
	}
	return out, nil
}, host.Secret, host.Reads)

// identity asks etcd which cluster this is.
func (p controlPlane) identity(ctx context.Context) (uid, etcd string, _ error) {
	client, err := p.connect(p.endpoints...)
	if err != nil {
		return "", "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	r, err := client.Get(ctx, backup.SystemNamespace)
	if err != nil {
		return "", "", err
	}
	in := snapshot.Contents{Values: map[string][]byte{}}
	for _, kv := range r.Kvs {
		in.Values[string(kv.Key)] = kv.Value
	}
	var system corev1.Namespace
	if _, err := backup.Object(in, backup.SystemNamespace, &system); err != nil {
		return "", "", err
	}
	return string(system.UID), clusterID(r.Header.ClusterId), nil
}

// clusterID is etcd's ID of its cluster as manifests have it.
func clusterID(id uint64) string { return fmt.Sprintf("%016x", id) }

// ReadRequest asks for a piece of a backup.
type ReadRequest struct {
	Location backup.Location `json:"location"`
	File     string          `json:"file"`
	Offset   int64           `json:"offset"`
}

// Piece is a piece of a backup. The last one is empty.
type Piece struct {
	Data []byte `json:"data"`
}

// pieceBytes fits into a reply.
const pieceBytes = 8 << 20

// Read reads a piece of a backup from a store, as this host sees it. Backups are encrypted, and the identity stays with the caller.
var Read = host.Define("backup.read", func(ctx context.Context, in ReadRequest) (Piece, error) {
	s, err := in.Location.Connect(ctx)
	if err != nil {
		return Piece{}, err
	}
	defer s.Close()
	body, err := s.Open(ctx, in.File, in.Offset)
	if err != nil {
		return Piece{}, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, pieceBytes))
	return Piece{data}, err
}, host.Secret, host.Reads)

// Download reads a whole backup through the first of the hosts. If that fails, it goes on through the next one.
func Download(ctx context.Context, hosts []*host.Conn, at backup.Location, file string) io.Reader {
	var failed []error
	return host.Pieces(func(offset int64) ([]byte, error) {
		for len(hosts) > 0 && ctx.Err() == nil {
			piece, err := Read.On(ctx, hosts[0], ReadRequest{Location: at, File: file, Offset: offset})
			if err == nil {
				return piece.Data, nil
			}
			failed, hosts = append(failed, at.RedactError(err)), hosts[1:]
		}
		return nil, errors.Join(append(failed, context.Cause(ctx))...)
	})
}

func take(ctx context.Context, in Request) (out Result, err error) {
	begin := time.Now()
	recipients, err := spec.ParseRecipients(in.Recipients)
	if err != nil {
		return out, err
	}
	if len(recipients) == 0 {
		return out, errors.New("a backup needs a recipient")
	}
	p, err := local(in.Host)
	if err != nil {
		return out, err
	}
	ctx, cancel := patiently(ctx, mostPatience)
	defer cancel()
	out, err = p.take(ctx, in, recipients)
	out.Took = time.Since(begin)
	return out, err
}

// patiently ends what takes too long, so that it does not keep the lock.
func patiently(ctx context.Context, patience time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("it was not done within %s", patience))
}

// local is the control plane that this is. Its name is that of the spec: the one that the system has may be another.
func local(host string) (controlPlane, error) {
	endpoints, err := etcd.Used()
	return controlPlane{host, endpoints, etcd.FromHere, "", workDir}, err
}

// controlPlane is where a backup is taken.
type controlPlane struct {
	host      string
	endpoints []string // of etcd
	connect   func(endpoints ...string) (*clientv3.Client, error)
	// root is the directory below which the host's files are, and work one for the snapshot.
	root, work string
}

// client connects to etcd, unless its cluster is one that a recovery has replaced: an old majority that came back works, and what it stores is no
// backup of the cluster that counts.
func (p controlPlane) client(ctx context.Context) (*clientv3.Client, error) {
	client, err := p.connect(p.endpoints...)
	if err != nil {
		return nil, err
	}
	over := etcdhost.Member{Root: p.root}.Abandoned()
	if len(over) == 0 {
		return client, nil
	}
	list, err := client.MemberList(ctx)
	if err == nil && slices.Contains(over, strconv.FormatUint(list.Header.ClusterId, 16)) {
		err = fmt.Errorf("the member of etcd here belongs to the cluster %x, which a recovery has replaced: `quorate repair` has it join again", list.Header.ClusterId)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

func (p controlPlane) take(ctx context.Context, in Request, recipients []age.Recipient) (out Result, err error) {
	client, err := p.client(ctx)
	if err != nil {
		return out, err
	}
	defer client.Close()
	err = p.locked(ctx, client, func(ctx context.Context, held *clientv3.Cmp) error {
		out, err = p.attempt(ctx, client, held, in, recipients)
		return err
	})
	if errors.Is(err, errFull) {
		// Somebody who runs the command while etcd is full needs a backup before anything else.
		why := err.Error()
		out, err = p.attempt(ctx, client, nil, in, recipients)
		out.NotLocked = why
	}
	out.NotRecorded, out.NotRemoved = in.Location.Redact(out.NotRecorded), in.Location.Redact(out.NotRemoved)
	return out, in.Location.RedactError(err)
}

// attempt takes a backup. With held, this control plane notes it in etcd, as long as it holds the lock. It also notes an attempt that fails, for
// the findings.
func (p controlPlane) attempt(ctx context.Context, client *clientv3.Client, held *clientv3.Cmp, in Request, recipients []age.Recipient) (Result, error) {
	out, err := p.takeLocked(ctx, client, held, in, recipients)
	if err == nil || errors.Is(context.Cause(ctx), context.Canceled) { // or somebody ended it
		return out, err
	}
	if nerr := p.noteFailed(context.WithoutCancel(ctx), client, in.Location.Redact(err.Error())); nerr != nil {
		err = fmt.Errorf("%w; it could not be noted in etcd either: %w", err, nerr)
	}
	return out, err
}

func (p controlPlane) takeLocked(ctx context.Context, client *clientv3.Client, held *clientv3.Cmp, in Request, recipients []age.Recipient) (out Result, err error) {
	store, err := in.Location.Connect(ctx)
	if err != nil {
		return out, err
	}
	defer store.Close()
	leave, err := p.alone()
	if err != nil {
		return out, err
	}
	defer leave()
	number, _ := version.Read()
	m := backup.Manifest{Host: p.host, Quorate: number, Cluster: backup.Cluster{Name: in.Cluster, Bundle: blobs.Imported()}}
	contents, err := p.consistent(ctx, client, &m)
	if err != nil {
		return out, err
	}
	name, err := backup.NameOf(m)
	if err != nil {
		return out, err
	}
	if held != nil { // otherwise, another control plane may be storing one
		var serr error
		if out.Removed, serr = store.Sweep(ctx, name); serr != nil {
			out.NotRemoved = "what is left of an interrupted backup: " + serr.Error()
		}
	}
	if out.Stored, err = backup.Keep(ctx, store, name.String(), func(w io.Writer) error { return backup.Write(w, recipients, m, contents) }); err != nil {
		return out, err
	}
	m.Format = backup.Format
	for _, c := range contents {
		m.Parts = append(m.Parts, c.Part)
	}
	out.Manifest = m
	// The backup is good, even if it cannot be noted, or an old one cannot be removed.
	if held == nil {
		out.NotRecorded, out.NotRemoved = "etcd takes no writes", "without the lock, another control plane may be taking a backup"
		return out, nil
	}
	last := facts.LastBackup{Time: m.Created, Host: m.Host, File: out.File, Bytes: out.Bytes, Store: in.Location.String()}
	if nerr := p.noteGood(ctx, client, *held, last); nerr != nil {
		out.NotRecorded, out.NotRemoved = nerr.Error(), "the backup was not noted in etcd, so another control plane may be taking one"
		return out, nil
	}
	removed, perr := backup.Prune(ctx, store, name, in.Keep)
	out.Removed = append(out.Removed, removed...)
	if perr != nil {
		out.NotRemoved = perr.Error()
	}
	return out, nil
}

// unsettledError is what may be the result of a change in the meantime, such as a rotation of keys.
type unsettledError struct{ error }

func (e unsettledError) Unwrap() error { return e.error }

// consistent gathers what a backup holds. If the keys do not belong to the snapshot because they were changed in the meantime, it gathers
// all of it again.
func (p controlPlane) consistent(ctx context.Context, client *clientv3.Client, m *backup.Manifest) (contents []backup.Content, err error) {
	for range tries {
		m.Created, m.Missing = time.Now().UTC(), nil
		contents, err = p.gather(ctx, client, m)
		if unsettled := (unsettledError{}); !errors.As(err, &unsettled) {
			return contents, err
		}
	}
	return nil, fmt.Errorf("%w; it was taken again, with the same result", err)
}

func (p controlPlane) gather(ctx context.Context, client *clientv3.Client, m *backup.Manifest) ([]backup.Content, error) {
	before, err := p.configuration()
	if err != nil {
		return nil, err
	}
	snapshotPart, in, err := p.snapshot(ctx, client, m)
	if err != nil {
		return nil, err
	}
	objects, err := backup.Objects(in, m)
	if err != nil {
		return nil, err
	}
	// The keys are those that there are after the snapshot: what was encrypted with a key that was removed in the meantime is lost.
	after, err := p.configuration()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(before.encryption, after.encryption) {
		return nil, unsettledError{errors.New("the encryption keys were changed while the backup was taken: wait until the rotation is complete")}
	}
	m.Missing = append(m.Missing, after.missing...)
	parts := after.parts
	for name, data := range objects {
		parts[name] = data
	}
	contents := []backup.Content{snapshotPart}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		contents = append(contents, backup.InMemory(name, parts[name]))
	}
	if err := backup.Check(*m, parts, in); err != nil {
		return nil, unsettledError{err}
	}
	return contents, nil
}

// snapshot saves etcd, reads what is in the snapshot, and compares it with what the member itself says about that revision.
func (p controlPlane) snapshot(ctx context.Context, client *clientv3.Client, m *backup.Manifest) (backup.Content, snapshot.Contents, error) {
	none := func(err error) (backup.Content, snapshot.Contents, error) {
		return backup.Content{}, snapshot.Contents{}, err
	}
	from, members, err := etcd.Follower(ctx, client, here)
	if err != nil {
		return none(err)
	}
	if err := system.RoomForSnapshot(p.work, from.Status.DbSize); err != nil {
		return none(err)
	}
	only, err := p.connect(from.URL)
	if err != nil {
		return none(err)
	}
	defer only.Close()
	saved, err := etcd.Save(ctx, only, filepath.Join(p.work, "snapshot.db"))
	if err != nil {
		return none(err)
	}
	m.Etcd = backup.Etcd{ClusterID: clusterID(from.Status.Header.ClusterId), Version: from.Status.Version, Source: fmt.Sprintf("%x", from.Status.Header.MemberId),
		Leads: from.Leads(), Revision: saved.Revision, Keys: saved.Keys, Hash: saved.Hash}
	for _, o := range members {
		m.Etcd.Members = append(m.Etcd.Members, backup.Member{ID: fmt.Sprintf("%x", o.ID), Name: o.Name, PeerURLs: o.PeerURLs, ClientURLs: o.ClientURLs, Learner: o.IsLearner})
	}
	if err := compare(ctx, only, from.URL, &m.Etcd); err != nil {
		return none(err)
	}
	in, err := snapshot.Look(saved.File, backup.ObjectKeys()...)
	if err != nil {
		return none(fmt.Errorf("reading the snapshot of etcd: %w", err))
	}
	return backup.InFile(backup.Part{Name: backup.SnapshotPart, Bytes: saved.Bytes, SHA256: saved.SHA256}, saved.File), in, nil
}

// compare asks the member what it has at the revision of its snapshot. API servers compact etcd every five minutes: after a transfer that
// took longer, the member does not know any more, and nothing can be compared.
func compare(ctx context.Context, only *clientv3.Client, endpoint string, m *backup.Etcd) error {
	count, err := only.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithRev(m.Revision), clientv3.WithSerializable())
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
	case err != nil:
		return fmt.Errorf("comparing the snapshot with the member: %w", err)
	case count.Count != m.Keys:
		return fmt.Errorf("the snapshot of etcd has %d keys, and the member that it is of has %d at the same revision: the member may be damaged. Nothing was stored. Look at `quorate status`, and compare the members with `etcdctl endpoint hashkv --cluster`", m.Keys, count.Count)
	default:
		m.KeysCompared = true
	}
	hash, err := only.HashKV(ctx, endpoint, m.Revision)
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
	case err != nil:
		return fmt.Errorf("comparing the snapshot with the member: %w", err)
	default:
		m.KVHash, m.CompactRevision = hash.Hash, hash.CompactRevision
	}
	return nil
}

// here says that an address is one of this host.
func here(address string) bool {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	return ip.IsLoopback() || slices.ContainsFunc(system.Addresses(), func(a facts.Address) bool { return a.IP == address })
}

// alone makes this process the only one on the host that takes a backup, until leave is called. It removes the snapshot of one that was
// killed, and leave its own: they hold everything in etcd as plain text.
func (p controlPlane) alone() (leave func(), _ error) {
	above := filepath.Dir(p.work)
	if err := os.MkdirAll(above, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(above)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w on this host; wait until it is done", errHere)
		}
		return nil, err
	}
	if err := os.RemoveAll(p.work); err != nil {
		dir.Close()
		return nil, err
	}
	return func() {
		os.RemoveAll(p.work) //nolint:errcheck // the next run does it
		dir.Close()
	}, nil
}

// errHere says that another process on this host takes a backup.
var errHere = errors.New("another backup is being taken")

// tidy removes the snapshot of a process that was killed while it took a backup.
func (p controlPlane) tidy() error {
	if _, err := os.Stat(p.work); err != nil {
		return nil //nolint:nilerr // there is none
	}
	leave, err := p.alone()
	if errors.Is(err, errHere) {
		return nil
	}
	if err != nil {
		return err
	}
	leave()
	return nil
}
