// Package backup takes backups on a control plane and reads the stores that hold them. The snapshot and the keys leave the control
// plane only encrypted. See package internal/backup for the format.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/spec"
)

const (
	kubernetesDir = "/etc/kubernetes"
	// workDir holds the snapshot while it is packed.
	workDir = facts.SnapshotDir + "/backup"
	// lockKey, in etcd, is held by the control plane that takes a backup. If that dies, etcd releases it after lockSeconds.
	lockKey     = "/quorate.dev/backup-lock"
	lockSeconds = 30
	// fileLimit is for one file below /etc/kubernetes.
	fileLimit = 4 << 20
	// objectsAt is where API servers keep their objects.
	objectsAt = "/registry/"
)

// ErrBusy is in the error of Take if another control plane is taking a backup.
var ErrBusy = host.NewCause("backup-busy", "another control plane is taking a backup")

// Request says what to back up, for whom, and where to.
type Request struct {
	Cluster    string           `json:"cluster"`
	Recipients []string         `json:"recipients"`
	Location   backup.Location  `json:"location"`
	Keep       backup.Retention `json:"keep"`
}

// Result is a backup that was taken, stored, and read again.
type Result struct {
	backup.Stored
	Manifest backup.Manifest `json:"manifest"`
	// NotRecorded is why etcd does not know of this backup. Control planes that take backups by themselves then take another one.
	NotRecorded string `json:"notRecorded,omitempty"`
	// Removed are the backups that are no longer kept, and NotRemoved is why some of them are still there.
	Removed    []string      `json:"removed,omitempty"`
	NotRemoved string        `json:"notRemoved,omitempty"`
	Took       time.Duration `json:"tookNanoseconds"`
}

// Take takes a backup on this control plane.
var Take = host.Define("backup.take", take, host.Secret)

// List lists the backups of all clusters in a store, as this host sees it.
var List = host.Define("backup.list", func(ctx context.Context, at backup.Location) ([]backup.Entry, error) {
	s, err := at.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.List(ctx)
}, host.Secret, host.Reads)

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

// Download reads a whole backup through a host.
func Download(ctx context.Context, c *host.Conn, at backup.Location, file string) io.Reader {
	return &download{ctx: ctx, conn: c, in: ReadRequest{Location: at, File: file}}
}

type download struct {
	ctx  context.Context
	conn *host.Conn
	in   ReadRequest
	rest []byte
}

func (d *download) Read(b []byte) (int, error) {
	if len(d.rest) == 0 {
		piece, err := Read.On(d.ctx, d.conn, d.in)
		if err != nil {
			return 0, err
		}
		if len(piece.Data) == 0 {
			return 0, io.EOF
		}
		d.rest = piece.Data
		d.in.Offset += int64(len(piece.Data))
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
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
	p, err := local()
	if err != nil {
		return out, err
	}
	out, err = p.take(ctx, in, recipients)
	out.Took = time.Since(begin)
	return out, err
}

// local is the control plane that this is.
func local() (controlPlane, error) {
	endpoints, err := etcd.Used()
	return controlPlane{name(), endpoints, etcd.FromHere, kubernetesDir, workDir}, err
}

// controlPlane is where a backup is taken.
type controlPlane struct {
	host      string
	endpoints []string // of etcd
	connect   func(endpoints ...string) (*clientv3.Client, error)
	// config is the directory of Kubernetes' configuration, and work one for the snapshot.
	config, work string
}

func (p controlPlane) take(ctx context.Context, in Request, recipients []age.Recipient) (out Result, err error) {
	client, err := p.connect(p.endpoints...)
	if err != nil {
		return out, err
	}
	defer client.Close()
	err = locked(ctx, client, func(ctx context.Context) error {
		out, err = p.attempt(ctx, client, in, recipients)
		return err
	})
	return out, err
}

// attempt takes a backup while this control plane holds the lock. If it fails, it notes that for those who look after the cluster.
func (p controlPlane) attempt(ctx context.Context, client *clientv3.Client, in Request, recipients []age.Recipient) (Result, error) {
	out, err := p.takeLocked(ctx, client, in, recipients)
	if err == nil || errors.Is(context.Cause(ctx), context.Canceled) { // or somebody ended it
		return out, err
	}
	if nerr := p.noteFailed(context.WithoutCancel(ctx), client, in.Location.Redact(err.Error())); nerr != nil {
		err = fmt.Errorf("%w; it could not be noted in etcd either: %w", err, nerr)
	}
	return out, err
}

// locked runs f while this process holds the lock in etcd. When it loses the lock, f is interrupted.
func locked(ctx context.Context, client *clientv3.Client, f func(context.Context) error) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(lockSeconds), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("locking backups in etcd: %w", err)
	}
	defer session.Close() //nolint:errcheck // etcd releases the lock by itself
	mutex := concurrency.NewMutex(session, lockKey)
	switch err := mutex.TryLock(ctx); {
	case errors.Is(err, concurrency.ErrLocked):
		return fmt.Errorf("%w; wait until it is done", ErrBusy)
	case err != nil:
		return fmt.Errorf("locking backups in etcd: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-session.Done():
			cancel(errors.New("the lock on backups was lost, because etcd did not answer in time"))
		case <-ctx.Done():
		}
	}()
	return f(ctx)
}

func (p controlPlane) takeLocked(ctx context.Context, client *clientv3.Client, in Request, recipients []age.Recipient) (out Result, err error) {
	store, err := in.Location.Connect(ctx)
	if err != nil {
		return out, err
	}
	defer store.Close()
	// What an earlier run left that was killed.
	if err := os.RemoveAll(p.work); err != nil {
		return out, err
	}
	defer os.RemoveAll(p.work)
	now := time.Now().UTC()
	m := backup.Manifest{Created: now, Host: p.host, Quorate: version(), Cluster: backup.Cluster{Name: in.Cluster, Bundle: blobs.Imported()}}
	contents, err := p.snapshot(ctx, client, &m)
	if err != nil {
		return out, err
	}
	files, missing, err := configuration(p.config)
	if err != nil {
		return out, err
	}
	m.Missing = append(m.Missing, missing...)
	contents = append(contents, files...)
	if out.Stored, err = backup.Keep(ctx, store, backup.NameOf(m).String(), func(w io.Writer) error { return backup.Write(w, recipients, m, contents) }); err != nil {
		return out, err
	}
	m.Format = backup.Format
	for _, c := range contents {
		m.Parts = append(m.Parts, c.Part)
	}
	out.Manifest = m
	// The backup is good, even if it cannot be noted, or an old one cannot be removed.
	if nerr := p.noteGood(ctx, client, facts.LastBackup{Time: m.Created, Host: m.Host, File: out.File, Bytes: out.Bytes, Store: in.Location.String()}); nerr != nil {
		out.NotRecorded = nerr.Error()
	}
	var perr error
	if out.Removed, perr = backup.Prune(ctx, store, m.Cluster.Name, m.Cluster.UID, in.Keep); perr != nil {
		out.NotRemoved = perr.Error()
	}
	return out, nil
}

func name() string {
	h, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	short, _, _ := strings.Cut(strings.ToLower(h), ".")
	return short
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// snapshot saves etcd and reads what the member itself says about that revision.
func (p controlPlane) snapshot(ctx context.Context, client *clientv3.Client, m *backup.Manifest) ([]backup.Content, error) {
	from, members, err := etcd.Follower(ctx, client, here)
	if err != nil {
		return nil, err
	}
	if err := p.room(from.Status.DbSize); err != nil {
		return nil, err
	}
	only, err := p.connect(from.URL)
	if err != nil {
		return nil, err
	}
	defer only.Close()
	saved, err := etcd.Save(ctx, only, filepath.Join(p.work, "snapshot.db"))
	if err != nil {
		return nil, err
	}
	m.Etcd = backup.Etcd{ClusterID: fmt.Sprintf("%x", from.Status.Header.ClusterId), Version: from.Status.Version, Source: fmt.Sprintf("%x", from.Status.Header.MemberId),
		Leads: from.Leads(), Revision: saved.Revision, Hash: saved.Hash}
	for _, o := range members {
		m.Etcd.Members = append(m.Etcd.Members, backup.Member{ID: fmt.Sprintf("%x", o.ID), Name: o.Name, PeerURLs: o.PeerURLs, ClientURLs: o.ClientURLs, Learner: o.IsLearner})
	}
	count, err := only.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithRev(saved.Revision), clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("comparing the snapshot with the member: %w", err)
	}
	if m.Etcd.Keys = count.Count; count.Count != saved.Keys {
		return nil, fmt.Errorf("the snapshot of etcd has %d keys, and the member that it is of has %d at the same revision: the member may be damaged", saved.Keys, count.Count)
	}
	hash, err := only.HashKV(ctx, from.URL, saved.Revision)
	if err != nil {
		return nil, fmt.Errorf("comparing the snapshot with the member: %w", err)
	}
	m.Etcd.KVHash, m.Etcd.CompactRevision = hash.Hash, hash.CompactRevision
	contents := []backup.Content{backup.InFile(backup.Part{Name: backup.SnapshotPart, Bytes: saved.Bytes, SHA256: saved.SHA256}, saved.File)}
	objects, err := stored(ctx, only, saved.Revision, m)
	return append(contents, objects...), err
}

// here says that an address is one of this host.
func here(address string) bool {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	return ip.IsLoopback() || slices.ContainsFunc(system.Addresses(), func(a facts.Address) bool { return a.IP == address })
}

// room refuses to fill the disk that etcd itself may be on.
func (p controlPlane) room(size int64) error {
	if err := os.MkdirAll(p.work, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p.work, &fs); err != nil {
		return err
	}
	const spare = 512 << 20
	if free := int64(fs.Bavail) * fs.Bsize; free < size+spare {
		return fmt.Errorf("the snapshot of etcd needs %d MiB below %s, and only %d MiB are free: free some space; 512 MiB are left for etcd", size>>20, p.work, free>>20)
	}
	return nil
}

// stored reads objects from etcd as of the snapshot. No API server is needed for that.
func stored(ctx context.Context, client *clientv3.Client, revision int64, m *backup.Manifest) ([]backup.Content, error) {
	read := func(key string, into runtime.Object) error {
		r, err := client.Get(ctx, objectsAt+key, clientv3.WithRev(revision), clientv3.WithSerializable())
		if err != nil {
			return fmt.Errorf("reading %s from etcd: %w", key, err)
		}
		if len(r.Kvs) == 0 {
			return fs.ErrNotExist
		}
		_, _, err = scheme.Codecs.UniversalDeserializer().Decode(r.Kvs[0].Value, nil, into)
		return err
	}
	var system corev1.Namespace
	if err := read("namespaces/kube-system", &system); err != nil {
		return nil, fmt.Errorf("reading the identity of the cluster from etcd: %w", err)
	}
	m.Cluster.UID = string(system.UID)
	var out []backup.Content
	for _, name := range []string{"kubeadm-config", "kubelet-config", facts.ConfigMap} {
		var object corev1.ConfigMap
		part := backup.ConfigMaps + name + ".json"
		if err := read("configmaps/kube-system/"+name, &object); err != nil {
			m.Missing = append(m.Missing, part)
			continue
		}
		data, err := json.MarshalIndent(object.Data, "", "  ")
		if err != nil {
			return nil, err
		}
		out = append(out, backup.InMemory(part, data))
		if text := object.Data[facts.SpecKey]; name == facts.ConfigMap && text != "" {
			out = append(out, backup.InMemory(backup.SpecPart, []byte(text)))
		}
		var kubeadm struct {
			KubernetesVersion string `json:"kubernetesVersion"`
		}
		if name == "kubeadm-config" && yaml.Unmarshal([]byte(object.Data["ClusterConfiguration"]), &kubeadm) == nil {
			m.Cluster.Kubernetes = kubeadm.KubernetesVersion
		}
	}
	return out, nil
}

// authorities are the keys that a restore needs if it is not to replace them.
var authorities = []string{"pki/ca.key", "pki/front-proxy-ca.key", "pki/etcd/ca.key", "pki/sa.key"}

// configuration reads the files below /etc/kubernetes, and lists the keys that are not there.
func configuration(dir string) (out []backup.Content, missing []string, _ error) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path) // also what a link leads to
		if err != nil || !info.Mode().IsRegular() {
			return nil //nolint:nilerr // a link that leads nowhere
		}
		if info.Size() > fileLimit {
			return fmt.Errorf("%s is larger than %d MiB", path, fileLimit>>20)
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out = append(out, backup.InMemory(backup.Kubernetes+below, data))
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration of this control plane: %w", err)
	}
	for _, key := range authorities {
		if !slices.ContainsFunc(out, func(c backup.Content) bool { return c.Name == backup.Kubernetes+key }) {
			missing = append(missing, backup.Kubernetes+key)
		}
	}
	return out, missing, nil
}
