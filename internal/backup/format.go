// Package backup defines what a backup of a cluster is: its format, its name, which backups are kept, and the stores that hold
// them. Taking one is the work of control planes (see hostside/backup); reading one needs nothing but this package, the file, and
// an identity, so that a cluster of which nothing else is left can be restored.
//
// A backup is one file: a tar archive, compressed with Zstandard, encrypted with age. The first entry is manifest.json. It
// describes the cluster and lists every part with its size and SHA-256; the parts follow in the order of that list:
//
//	etcd/snapshot.db        a snapshot of etcd as `etcdutl snapshot restore` takes it, with etcd's own SHA-256 at its end
//	spec.yaml               the spec by which the cluster was last built or changed (see spec.Record)
//	configmaps/NAME.json    the ConfigMaps of kubeadm and Quorate in kube-system
//	kubernetes/…            files below /etc/kubernetes of the control plane: the PKI with the keys of the authorities and
//	                        of service accounts, the keys that encrypt secrets in etcd, the client certificate for etcd,
//	                        kubeconfigs, static pods, kubeadm's patches, and the API server's configuration
//	host/…                  files elsewhere that flags of the control plane's programs name, by their paths
//
// Readers ignore parts that they do not know. A change that older readers would misunderstand gets another Format.
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"quorate.dev/quorate/internal/durable"
)

// Format is the version of the format that this program writes and reads.
const Format = "quorate.dev/backup/v1"

// Names of parts.
const (
	manifestName = "manifest.json"
	// SnapshotPart is the snapshot of etcd.
	SnapshotPart = "etcd/snapshot.db"
	// SpecPart is the recorded spec.
	SpecPart = "spec.yaml"
	// ConfigMaps begins the names of ConfigMaps in kube-system.
	ConfigMaps = "configmaps/"
	// Kubernetes begins the names of files below /etc/kubernetes.
	Kubernetes = "kubernetes/"
	// Host begins the names of other files that flags of the control plane's programs name, by their paths.
	Host = "host/"
)

const (
	// manifestLimit bounds the memory that a manifest takes.
	manifestLimit = 4 << 20
	// windowLimit bounds the memory that decompression takes.
	windowLimit = 64 << 20
)

// Manifest describes a backup.
type Manifest struct {
	Format  string    `json:"format"`
	Created time.Time `json:"created"`
	// Host is the control plane that took it, and Quorate the version of its program.
	Host    string  `json:"host"`
	Quorate string  `json:"quorate"`
	Cluster Cluster `json:"cluster"`
	Etcd    Etcd    `json:"etcd"`
	// Missing are parts that a cluster of this kind has and that this control plane does not have, such as the keys of
	// authorities that are kept elsewhere, and KMS providers. Who restores must bring them, or create new ones.
	Missing []string `json:"missing,omitempty"`
	Parts   []Part   `json:"parts"`
	// Salvaged is the ID of a member's data, if this describes those instead of a backup (see Salvage). It is not a part of the format.
	Salvaged string `json:"-"`
}

// Cluster is what a backup says about its cluster.
type Cluster struct {
	Name string `json:"name"`
	// UID is the UID of the namespace kube-system. It survives a restore.
	UID        string `json:"uid"`
	Kubernetes string `json:"kubernetes,omitempty"`
	// Bundle is the digest of the bundle that the control plane's programs run from.
	Bundle string `json:"bundle,omitempty"`
}

// Etcd is what a backup says about etcd. Revision, Keys, and Hash were read from the snapshot.
type Etcd struct {
	ClusterID string   `json:"clusterID"` // hexadecimal
	Version   string   `json:"version"`
	Members   []Member `json:"members"`
	// Source is the ID of the member that the snapshot is of.
	Source string `json:"source"`
	// Leads says that there was no follower to take it from.
	Leads    bool  `json:"leads,omitempty"`
	Revision int64 `json:"revision"`
	// Keys is the number of keys at that revision.
	Keys int64 `json:"keys"`
	// KeysCompared says that the member itself had that number of keys at that revision. It is false if the member was compacted
	// in the meantime.
	KeysCompared bool `json:"keysCompared,omitempty"`
	// Hash is the hash of the whole database, as `etcdutl snapshot status` prints it.
	Hash uint32 `json:"hash"`
	// KVHash is what the member answered for its keys up to Revision, since its compaction at CompactRevision. It is 0 if the
	// member was compacted in the meantime.
	KVHash          uint32 `json:"kvHash,omitempty"`
	CompactRevision int64  `json:"compactRevision,omitempty"`
}

// Member is a member of etcd.
type Member struct {
	ID         string   `json:"id"` // hexadecimal
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner,omitempty"`
}

// Part is one file in a backup.
type Part struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Part finds a part by name.
func (m Manifest) Part(name string) (Part, bool) {
	i := slices.IndexFunc(m.Parts, func(p Part) bool { return p.Name == name })
	if i < 0 {
		return Part{}, false
	}
	return m.Parts[i], true
}

// ID identifies the backup: two backups with the same ID have the same content of etcd. It consists of 16 hexadecimal digits.
func (m Manifest) ID() string {
	if m.Salvaged != "" {
		return m.Salvaged
	}
	part, _ := m.Part(SnapshotPart)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n", m.Cluster.UID, m.Etcd.ClusterID, m.Created.UTC().Format(time.RFC3339Nano), part.SHA256))
	return hex.EncodeToString(sum[:8])
}

// Salvage says that the manifest describes a snapshot that was made of a member's data. The files of two such snapshots differ, also if they have the
// same content, so that ID follows from what is in them, and from the identity of everything else that a restore takes from there. It needs UID,
// ClusterID, Source, Revision, and KVHash.
func (m *Manifest) Salvage(identity ...string) {
	sum := sha256.Sum256(fmt.Appendf(nil, "salvaged\n%s\n%s\n%s\n%d\n%d\n%q\n", m.Cluster.UID, m.Etcd.ClusterID, m.Etcd.Source, m.Etcd.Revision, m.Etcd.KVHash, identity))
	m.Salvaged = hex.EncodeToString(sum[:8])
}

// Content is a part with a way to read it.
type Content struct {
	Part
	Open func() (io.ReadCloser, error)
}

// InMemory is a small part.
func InMemory(name string, data []byte) Content {
	sum := sha256.Sum256(data)
	return Content{Part{name, int64(len(data)), hex.EncodeToString(sum[:])}, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

// InFile is a part whose size and sum are known.
func InFile(part Part, file string) Content {
	return Content{part, func() (io.ReadCloser, error) { return os.Open(file) }}
}

// Write writes a backup to w. It sets the format and the list of parts in the manifest.
func Write(w io.Writer, recipients []age.Recipient, m Manifest, contents []Content) (err error) {
	if len(recipients) == 0 {
		return errors.New("a backup needs a recipient: without one, nothing encrypts it")
	}
	m.Format, m.Parts = Format, nil
	for _, c := range contents {
		if !sound(c.Name) {
			return fmt.Errorf("%q cannot be the name of a part", c.Name)
		}
		m.Parts = append(m.Parts, c.Part)
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	sealed, err := age.Encrypt(w, recipients...)
	if err != nil {
		return fmt.Errorf("encrypting: %w", err)
	}
	packed, err := zstd.NewWriter(sealed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	for _, c := range append([]Content{InMemory(manifestName, manifest)}, contents...) {
		if err := add(archive, c, m.Created); err != nil {
			packed.Close() // only its memory; what it writes is never complete
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	for _, end := range []io.Closer{archive, packed, sealed} {
		if err := end.Close(); err != nil {
			return err
		}
	}
	return nil
}

func add(archive *tar.Writer, c Content, at time.Time) error {
	in, err := c.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: c.Name, Size: c.Bytes, Mode: 0o600, ModTime: at, Format: tar.FormatPAX}); err != nil {
		return err
	}
	sum := sha256.New()
	// The file may have changed since its sum was made: the backup would be one that nobody can read.
	if _, err := io.CopyN(io.MultiWriter(archive, sum), in, c.Bytes); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != c.SHA256 {
		return errors.New("it changed while it was read")
	}
	return nil
}

// sound says that a name stays below the directory that it is extracted to.
func sound(name string) bool {
	return filepath.IsLocal(name) && path.Clean(name) == name && name != "." && !strings.Contains(name, "\\") && name != manifestName
}

// Reader reads a backup from its beginning to its end.
type Reader struct {
	manifest Manifest
	packed   *zstd.Decoder
	archive  *tar.Reader
	next     int
	current  Part
	sum      hash.Hash
}

// sealedMark is how every file begins that is encrypted with age.
const sealedMark = "age-encryption.org/v1"

// Open begins to read a backup, with any of the identities. Nothing of the manifest can be relied on to be all of the backup until
// Next has returned io.EOF: a file that was cut off is found at its end.
func Open(r io.Reader, identities ...age.Identity) (*Reader, error) {
	begin := bufio.NewReader(r)
	switch head, err := begin.Peek(len(sealedMark)); {
	case err != nil && err != io.EOF:
		return nil, fmt.Errorf("reading the backup: %w", err)
	case string(head) != sealedMark:
		return nil, errors.New("this is not a backup of Quorate: it is not encrypted with age")
	}
	sealed, err := age.Decrypt(begin, identities...)
	var stranger *age.NoIdentityMatchError
	switch {
	case errors.As(err, &stranger):
		return nil, errors.New("the backup is not encrypted to this identity: use the identity of one of the recipients that the spec had when it was taken")
	case err != nil:
		return nil, fmt.Errorf("decrypting: %w", err)
	}
	packed, err := zstd.NewReader(sealed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(windowLimit))
	if err != nil {
		return nil, err
	}
	out := &Reader{packed: packed, archive: tar.NewReader(packed)}
	if err := out.readManifest(); err != nil {
		packed.Close()
		return nil, err
	}
	return out, nil
}

func (r *Reader) readManifest() error {
	h, err := r.archive.Next()
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	if h.Name != manifestName || h.Size > manifestLimit {
		return errors.New("this is not a backup of Quorate: it does not begin with a manifest")
	}
	data, err := io.ReadAll(r.archive)
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	if err := json.Unmarshal(data, &r.manifest); err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	if r.manifest.Format != Format {
		return fmt.Errorf("the format of the backup is %q, and this version of Quorate reads %s: use the version that took it (%s), or a newer one", r.manifest.Format, Format, r.manifest.Quorate)
	}
	for i, p := range r.manifest.Parts {
		if !sound(p.Name) || slices.ContainsFunc(r.manifest.Parts[:i], func(o Part) bool { return o.Name == p.Name }) {
			return fmt.Errorf("the manifest lists %q, which cannot be a part", p.Name)
		}
	}
	return nil
}

// Manifest describes the backup.
func (r *Reader) Manifest() Manifest { return r.manifest }

// Next returns the next part and its content, after it has read the rest of the one before and compared it with the manifest. Its
// error is io.EOF after the last part, when everything was read and is as the manifest says.
func (r *Reader) Next() (Part, io.Reader, error) {
	if err := r.finish(); err != nil {
		return Part{}, nil, err
	}
	h, err := r.archive.Next()
	if errors.Is(err, io.EOF) {
		if r.next < len(r.manifest.Parts) {
			return Part{}, nil, fmt.Errorf("the backup is incomplete: it has no %s", r.manifest.Parts[r.next].Name)
		}
		// age authenticates the end of the file only when it is read.
		if _, err := io.Copy(io.Discard, r.packed); err != nil {
			return Part{}, nil, fmt.Errorf("reading the end of the backup: %w", err)
		}
		return Part{}, nil, io.EOF
	}
	if err != nil {
		return Part{}, nil, fmt.Errorf("reading the backup: %w", err)
	}
	if r.next == len(r.manifest.Parts) || h.Name != r.manifest.Parts[r.next].Name || h.Size != r.manifest.Parts[r.next].Bytes || h.Typeflag != tar.TypeReg {
		return Part{}, nil, fmt.Errorf("the backup is damaged: %s is not what its manifest lists there", h.Name)
	}
	r.current, r.sum = r.manifest.Parts[r.next], sha256.New()
	r.next++
	return r.current, io.TeeReader(r.archive, r.sum), nil
}

// finish reads what the caller left of the current part.
func (r *Reader) finish() error {
	if r.sum == nil {
		return nil
	}
	if _, err := io.Copy(r.sum, r.archive); err != nil {
		return fmt.Errorf("reading %s: %w", r.current.Name, err)
	}
	if hex.EncodeToString(r.sum.Sum(nil)) != r.current.SHA256 {
		return fmt.Errorf("%s is damaged: its content does not match the manifest", r.current.Name)
	}
	r.sum = nil
	return nil
}

// Close frees the memory of the reader.
func (r *Reader) Close() { r.packed.Close() }

// Extract writes the parts that are wanted below dir, readable only to the user; all of them if wanted is nil. It reads the whole
// backup, so that without an error everything in it, also what was not wanted, is as its manifest says.
func (r *Reader) Extract(dir string, wanted func(Part) bool) error {
	for {
		part, in, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if wanted != nil && !wanted(part) {
			continue
		}
		if err := extract(filepath.Join(dir, part.Name), in); err != nil {
			return fmt.Errorf("extracting %s: %w", part.Name, err)
		}
	}
}

func extract(file string, in io.Reader) error {
	if err := durable.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(0o600))
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
