package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcddata"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/hostside/reset"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
)

// This file makes of a member's data, and of what is left of the keys of its cluster, what a restore takes from a backup. Everything is copied to
// the machine of the caller first and looked at there: on the host that has the disk, nothing is written.

// RuleSalvage wants the data of a member, and the keys for them, to be such that a cluster can be built of them.
const RuleSalvage = "restore-from-data"

// DataSource is a directory on a host of the spec or, if Host is empty, on this machine.
type DataSource struct{ Host, Dir string }

// String is how a user names it.
func (d DataSource) String() string {
	if d.Host == "" {
		return d.Dir
	}
	return d.Host + ":" + d.Dir
}

// where is the name of the machine.
func (d DataSource) where() string {
	if d.Host == "" {
		return "this machine"
	}
	return d.Host
}

// SalvageOptions say from where a cluster is built again of which nothing but the data of one member of etcd is left.
type SalvageOptions struct {
	Data DataSource
	// Keys is a directory like /etc/kubernetes/pki; its Dir is empty if none is named. What it does not have is looked for on the disk of the data, unless
	// RestoreOptions have a backup.
	Keys DataSource
	// NewKeys lets keys be created again that are lost, or that the backup does not have, and leaves out what cannot be decrypted without them.
	NewKeys bool
	// Lost are members that will never come back, by their names.
	Lost []string
}

// Salvaged is what is known of the data before anything is changed.
type Salvaged struct {
	Source string `json:"source"`
	// Judgment says what the data are, and what is lost with them.
	Judgment *recovery.Judgment `json:"judgment"`
	// Unconfirmed are the entries at the end of the log of which the member did not know that a majority had them. They count.
	Unconfirmed uint64 `json:"unconfirmed,omitempty"`
	// Revision is the one up to which there are writes, and Objects is the number of keys at it.
	Revision int64 `json:"revision"`
	Objects  int64 `json:"objects"`
	// Keys says where the keys of the cluster come from; empty if none are left. NewKeys are those that are lost, and are created again.
	Keys    string   `json:"keys,omitempty"`
	NewKeys []string `json:"newKeys,omitempty"`
	// Dropped are the objects that nobody can decrypt, by their keys in etcd. They are left out.
	Dropped []string `json:"dropped,omitempty"`
	// OtherCA says that the CA is not the one that the data name.
	OtherCA bool `json:"otherCA,omitempty"`
}

// costs say what it means that a key is lost.
var costs = map[string]string{
	"ca.key":             "the cluster gets a new CA: every kubeconfig, and every other client certificate, becomes invalid. `quorate kubeconfig` writes a new one for the administrator",
	"sa.key":             "service accounts get a new key: every token becomes invalid. Pods are started again and get new ones; tokens that are used elsewhere, and those in Secrets, have to be created again",
	"front-proxy-ca.key": "the front-proxy CA is a new one: servers of aggregated APIs read it from the cluster, and some do so only when they start",
	encryption.File:      "the key that encrypts Secrets in etcd is a new one",
}

// Costs say what is lost, or becomes invalid.
func (s *Salvaged) Costs() []string {
	out := slices.Clone(s.Judgment.Missing)
	for _, name := range s.NewKeys {
		out = append(out, costs[name])
	}
	if len(s.Dropped) > 0 {
		out = append(out, "objects in etcd that nobody can decrypt any more, and that are left out: "+kinds(s.Dropped))
	}
	if s.OtherCA {
		out = append(out, "the CA in "+s.Keys+" is not the one that the data name. Either it was replaced between the two (`quorate certs rotate ca`), or it is of another cluster: what was issued by the other one becomes invalid")
	}
	return out
}

// kinds counts keys in etcd by the kind of their object.
func kinds(keys []string) string {
	n := map[string]int{}
	for _, k := range keys {
		kind, _, _ := strings.Cut(strings.TrimPrefix(k, "/registry/"), "/")
		n[kind]++
	}
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[kind], kind))
	}
	return strings.Join(out, ", ")
}

// salvager does the work for Salvage. Tests replace what starts processes.
type salvager struct {
	c    *spec.Cluster
	conn func(string) (*host.Conn, error)
	sink progress.Sink
	// dir is an empty directory on this machine with a short path.
	dir      string
	read     func(ctx context.Context, dir, scratch string) facts.EtcdCopy
	snapshot func(context.Context, etcddata.SnapshotRequest) (etcddata.Snapshotted, error)
}

// Salvage reads the data of a member and the keys of its cluster, finds out what can be built of them, and completes the options of a restore. If those have
// a backup, the keys come from there. Dir is an empty directory on this machine for the copy; it has to exist until the restore ended.
func (e *Engine) Salvage(ctx context.Context, dir string, o SalvageOptions, into *RestoreOptions) error {
	s := salvager{e.Cluster, e.Conns.Get, e.Progress, dir, lostquorum.ReadApart, lostquorum.SnapshotApart}
	return s.salvage(ctx, o, into)
}

func (s salvager) salvage(ctx context.Context, o SalvageOptions, into *RestoreOptions) error {
	out := &Salvaged{Source: o.Data.String()}
	switch {
	case s.c.ExistingEtcd():
		return salvageRefused("etcd of this spec is your own ("+strings.Join(s.c.Spec.Etcd.Endpoints, ", ")+"), and Quorate never stops it or replaces its data",
			"Restore the data there by the documentation of etcd (https://etcd.io/docs/latest/op-guide/recovery/), and run `quorate apply`. Or build the cluster with an etcd that Quorate manages: leave out etcd.endpoints.")
	case into.Replace && reset.Removes(o.Data.Dir):
		return removed(o.Data)
	case into.Replace && o.Keys.Dir != "" && reset.Removes(o.Keys.Dir):
		return removed(o.Keys)
	}
	if err := progress.Track(ctx, s.sink, o.Data.Host, "data/copy", "copy the data of etcd", func(ctx context.Context) error { return s.fetch(ctx, o.Data, into.Replace) }); err != nil {
		return err
	}
	copied := s.read(ctx, s.copy(), s.dir)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	copied.Path = o.Data.Dir
	out.Judgment = recovery.Disk(s.c, o.Data.where(), copied, o.Lost, into.Replace)
	if len(out.Judgment.Obstacles) > 0 {
		return &cluster.Refusal{Rule: RuleSalvage, Why: out.Judgment.Obstacles[0].Why, Fix: out.Judgment.Obstacles[0].Fix + " Nothing was changed."}
	}
	keys, lost, ca, err := s.keys(ctx, o, *into, out)
	if err != nil {
		return err
	}
	var made etcddata.Snapshotted
	in := etcddata.SnapshotRequest{Dir: s.copy(), Work: s.dir, File: filepath.Join(s.dir, "snapshot.db"), Drop: o.NewKeys, Secrets: secretsAt}
	if file := keys[encryption.File]; file != nil {
		if in.Marks, _, err = encryption.Reads(file); err != nil {
			return fmt.Errorf("%s in %s: %w; nothing was changed", encryption.File, out.Keys, err)
		}
	}
	if err := progress.Track(ctx, s.sink, "", "data/read", "read the data of etcd, with the end of the log", func(ctx context.Context) (err error) {
		made, err = s.snapshot(ctx, in)
		return err
	}); err != nil {
		return fmt.Errorf("reading the data in %s: %w; nothing was changed", o.Data, err)
	}
	out.Unconfirmed, out.Revision, out.NewKeys = made.Kept, made.Revision, lost
	if err := readable(o, out, made); err != nil {
		return err
	}
	out.Dropped = made.Unreadable
	unpacked, former, err := s.unpack(ctx, in.File, copied, made, keys)
	if _, refused := errors.AsType[*cluster.Refusal](err); refused {
		return err
	}
	if err != nil {
		return fmt.Errorf("reading the data in %s: %w; nothing was changed", o.Data, err)
	}
	if into.File != "" && into.Backup.Manifest.Cluster.UID != unpacked.Manifest.Cluster.UID {
		return salvageRefused(fmt.Sprintf("the backup %s is of another cluster than the data: the UID of its namespace kube-system is %s, and it is %s in the data", into.File, into.Backup.Manifest.Cluster.UID, unpacked.Manifest.Cluster.UID), "Use a backup of the same cluster.")
	}
	if ours := string(keys["ca.crt"]); ours != "" && former != "" {
		out.OtherCA = !cluster.SameAuthority(ours, former)
	}
	out.Objects = unpacked.Restored.Keys
	into.Backup, into.File, into.Salvaged, into.PKI, into.FormerCA = unpacked, o.Data.String(), out, keys, cmp.Or(former, ca)
	return nil
}

// removed refuses a directory, of a host or of this machine, which may be one: a run that was interrupted after the reset could not read it again.
func removed(from DataSource) *cluster.Refusal {
	return salvageRefused("a reset removes "+from.String()+" with the cluster that is replaced", "Copy the directory elsewhere first (`cp -a`), such as to /root, and name the copy.")
}

// secretsAt is where API servers keep Secrets.
const secretsAt = "/registry/secrets/"

func salvageRefused(why, fix string) *cluster.Refusal {
	return &cluster.Refusal{Rule: RuleSalvage, Why: why, Fix: fix + " Nothing was changed."}
}

// readable refuses data with values that nobody could read afterwards, and keys that are lost, unless the user gave them up.
func readable(o SalvageOptions, out *Salvaged, made etcddata.Snapshotted) error {
	if made.Plain > 0 {
		return salvageRefused(fmt.Sprintf("Secrets in the data are not encrypted (%d), and the clusters that Quorate builds cannot read such Secrets", made.Plain),
			"Build this cluster again as it was built before: put its keys back to /etc/kubernetes/pki of a control plane, restore the data with etcd's own tools (https://etcd.io/docs/latest/op-guide/recovery/), and run kubeadm.")
	}
	if o.NewKeys || len(out.NewKeys)+len(made.Unreadable) == 0 {
		return nil
	}
	var why []string
	for _, name := range out.NewKeys {
		why = append(why, name+" is lost: "+costs[name])
	}
	if len(made.Unreadable) > 0 {
		why = append(why, fmt.Sprintf("objects in etcd are encrypted with keys that are not there (%s, such as %s): without these, nobody can read them any more", kinds(made.Unreadable), made.Unreadable[0]))
	}
	found := "no keys of the cluster were found"
	if out.Keys != "" {
		found = "the keys in " + out.Keys + " are not all"
	}
	if strings.HasPrefix(out.Keys, ofBackup) {
		return salvageRefused(found+". "+strings.Join(why, ". "), "Use a newer backup of the cluster, or name the directory with its keys instead of a backup: --keys [HOST:]DIRECTORY. If nobody has them any more, give up what is said above: --new-keys.")
	}
	return salvageRefused(found+". "+strings.Join(why, ". "),
		"The keys are in /etc/kubernetes/pki of every control plane, also of one whose etcd is lost, and in every backup. Name such a directory with --keys [HOST:]DIRECTORY, or a backup of the cluster. If nobody has them any more, give up what is said above: --new-keys.")
}

// ofBackup begins what is said of keys that come from a backup.
const ofBackup = "the backup "

func (s salvager) copy() string { return filepath.Join(s.dir, "data") }

// More than mostFiles files with mostBytes bytes is no data of etcd: what a host says does not fill this machine.
const (
	mostFiles = 10_000
	mostBytes = 1 << 40
)

// fetch copies what etcd reads in a data directory to this machine.
func (s salvager) fetch(ctx context.Context, from DataSource, replace bool) error {
	list, open := lostquorum.ListDataHere, func(name string) (io.ReadCloser, error) { return lostquorum.OpenDataHere(from.Dir, name) }
	if from.Host != "" {
		c, err := s.conn(from.Host)
		if err != nil {
			return err
		}
		list = func(dir string) (lostquorum.Data, error) { return lostquorum.ListData.On(ctx, c, dir) }
		open = func(name string) (io.ReadCloser, error) {
			return io.NopCloser(host.Pieces(func(offset int64) ([]byte, error) {
				return lostquorum.ReadData.On(ctx, c, lostquorum.DataPiece{Dir: from.Dir, Name: name, Offset: offset})
			})), nil
		}
	}
	data, err := list(from.Dir)
	if err != nil {
		return fmt.Errorf("looking at %s: %w; nothing was changed", from, err)
	}
	switch {
	case data.Running != 0:
		return salvageRefused(fmt.Sprintf("an etcd runs on %s (process %d)", from, data.Running), "If it is a member of the cluster, the cluster is not lost: `quorate recover` shows what can be done. Otherwise stop it.")
	case replace && (data.InPlace || data.Kept):
		return removed(from)
	case data.InPlace && from.Host != "":
		return salvageRefused(from.String()+" is where etcd has its data on that host: the new member begins there, and the data have to stay as they are",
			"Mount the disk elsewhere, such as below /mnt, or copy the directory (`cp -a`). If the host still has its installation, use `quorate recover`.")
	}
	total, err := sizeOf(data.Files)
	if err != nil {
		return fmt.Errorf("looking at %s: %w; nothing was changed", from, err)
	}
	// The copy, the snapshot of it, and what the snapshot is tried with exist together.
	if err := system.RoomForSnapshot(s.dir, 3*total); err != nil {
		return fmt.Errorf("copying the data to this machine: %w", err)
	}
	for _, f := range data.Files {
		if err := fetchFile(ctx, filepath.Join(s.copy(), "member", f.Name), f, open); err != nil {
			return fmt.Errorf("copying %s of %s: %w; nothing was changed", f.Name, from, err)
		}
	}
	again, err := list(from.Dir)
	if err != nil {
		return fmt.Errorf("looking at %s: %w; nothing was changed", from, err)
	}
	if !slices.EqualFunc(again.Files, data.Files, func(a, b lostquorum.DataFile) bool {
		return a.Name == b.Name && a.Bytes == b.Bytes && a.Modified.Equal(b.Modified)
	}) {
		return salvageRefused("the data in "+from.String()+" changed while they were copied", "Find out what writes to them, and stop it.")
	}
	return nil
}

// sizeOf is how many bytes the files have. It refuses what no data directory of etcd has: the list is a host's, which may be anybody's.
func sizeOf(files []lostquorum.DataFile) (total int64, err error) {
	if len(files) > mostFiles {
		return 0, fmt.Errorf("%d files are too many for etcd's data", len(files))
	}
	for _, f := range files {
		if !lostquorum.IsData(f.Name) || f.Bytes < 0 || f.Bytes > mostBytes-total {
			return 0, fmt.Errorf("%q with %d bytes is no file of etcd's data", f.Name, f.Bytes)
		}
		total += f.Bytes
	}
	return total, nil
}

// fetchFile copies a file, with the time at which it was written: it says when the last write was.
func fetchFile(ctx context.Context, to string, f lostquorum.DataFile, open func(string) (io.ReadCloser, error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	in, err := open(f.Name)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := durable.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, f.Bytes+1))
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if n != f.Bytes {
		return fmt.Errorf("it has %d bytes, and had %d before", n, f.Bytes)
	}
	return os.Chtimes(to, f.Modified, f.Modified)
}

// keys are those of the cluster, as far as they are left, and the names of those that are lost. The CA is the certificate that was found, also if its key is
// lost; empty if there is none.
func (s salvager) keys(ctx context.Context, o SalvageOptions, backed RestoreOptions, out *Salvaged) (keys map[string][]byte, lost []string, ca string, _ error) {
	if backed.File != "" && !o.NewKeys {
		all, err := backed.Backup.PKI(backed.KeysDir)
		if err != nil {
			return nil, nil, "", salvageRefused(err.Error(), "Use another backup, or the keys on a disk. If nobody has them any more, give them up: --new-keys. docs/restoring.md says what that means for each of them.")
		}
		out.Keys = ofBackup + backed.File
		return all, nil, string(all["ca.crt"]), nil
	}
	if backed.File != "" {
		left, err := backed.Backup.Keys(backed.KeysDir)
		if err == nil {
			keys, lost, err = backup.UsableKeys(left)
		}
		if err != nil {
			return nil, nil, "", salvageRefused(fmt.Sprintf("the keys in the backup %s cannot be used: %v", backed.File, err), "Use another backup, or the keys on a disk.")
		}
		if len(keys) > 0 {
			out.Keys = ofBackup + backed.File
		}
		return keys, lost, string(left["ca.crt"]), nil
	}
	left, from := map[string][]byte{}, []string{}
	if o.Keys.Dir != "" {
		named, err := s.readKeys(ctx, o.Keys.Host, o.Keys.Dir)
		if err != nil {
			return nil, nil, "", err
		}
		if named.Dir == "" {
			return nil, nil, "", salvageRefused(o.Keys.String()+" has none of the keys of a cluster", "Name a directory like /etc/kubernetes/pki of a control plane.")
		}
		left, from = named.PKI, append(from, o.Keys.String())
	}
	// What was named may be only what the disk does not have, such as the key of an offline CA.
	if _, missing, err := backup.UsableKeys(left); err == nil && len(missing) > 0 {
		onDisk, err := s.readKeys(ctx, o.Data.Host, besideData(o.Data.Dir)...)
		if err != nil {
			return nil, nil, "", err
		}
		if onDisk.Dir != "" {
			from = append(from, DataSource{o.Data.Host, onDisk.Dir}.String())
		}
		for name, content := range onDisk.PKI {
			if len(left[name]) == 0 {
				left[name] = content
			}
		}
	}
	source := strings.Join(from, " and ")
	keys, lost, err := backup.UsableKeys(left)
	if err != nil {
		return nil, nil, "", salvageRefused(fmt.Sprintf("the keys in %s cannot be used: %v", source, err), "Name the directory with the keys of the cluster with --keys.")
	}
	if len(keys) > 0 {
		out.Keys = source
	}
	return keys, lost, string(left["ca.crt"]), nil
}

// readKeys reads the keys in the first of some directories that has any.
func (s salvager) readKeys(ctx context.Context, on string, dirs ...string) (found lostquorum.FoundKeys, err error) {
	in := lostquorum.KeysRequest{Dirs: dirs}
	if on == "" {
		found, err = lostquorum.ReadKeysHere(in)
	} else {
		var c *host.Conn
		if c, err = s.conn(on); err != nil {
			return found, err
		}
		found, err = lostquorum.ReadKeys.On(ctx, c, in)
	}
	if err != nil {
		return found, fmt.Errorf("reading the keys of the cluster on %s: %w; nothing was changed", DataSource{Host: on}.where(), err)
	}
	return found, nil
}

// besideData are the directories with the keys of a control plane that has its data in dir: on the same disk, or where a restore kept both.
func besideData(dir string) []string {
	dir = strings.TrimSuffix(filepath.Clean(dir), "/member")
	var out []string
	if root, usual := strings.CutSuffix(dir, hostconfig.EtcdDataDir); usual && root != "" {
		out = append(out, root+backup.KubernetesDir+"/pki")
	}
	return append(out, filepath.Join(filepath.Dir(dir), "kubernetes", "pki"))
}

// rootCA is the key in etcd of the ConfigMap with the CA certificate that pods get.
const rootCA = "/registry/configmaps/kube-system/kube-root-ca.crt"

// unpack describes a snapshot as a backup, and tries it. It also returns the CA that the data name; empty if they name none.
func (s salvager) unpack(ctx context.Context, file string, copied facts.EtcdCopy, made etcddata.Snapshotted, keys map[string][]byte) (out backup.Unpacked, ca string, err error) {
	status, err := snapshot.Read(file)
	if err != nil {
		return out, "", err
	}
	in, err := snapshot.Look(file, append(backup.ObjectKeys(), rootCA)...)
	if err != nil {
		return out, "", err
	}
	if err := opens(file, keys[encryption.File], in.Encrypted); err != nil {
		return out, "", err
	}
	part, err := partOf(file)
	if err != nil {
		return out, "", err
	}
	m := backup.Manifest{Created: copied.LastWrite, Parts: []backup.Part{part}, Etcd: backup.Etcd{ClusterID: copied.ClusterID, Version: made.Version, Source: copied.MemberID, Revision: status.Revision, Keys: status.Keys, Hash: status.Hash}}
	for _, o := range copied.Members {
		m.Etcd.Members = append(m.Etcd.Members, backup.Member{ID: o.ID, Name: o.Name, PeerURLs: strings.Split(o.PeerURL, ","), Learner: o.Learner})
	}
	if out.Parts, err = backup.Objects(in, &m); err != nil {
		return out, "", err
	}
	if before, err := out.Spec(); err != nil {
		return out, "", err
	} else if before != nil {
		m.Cluster.Name = before.Metadata.Name
	}
	var root corev1.ConfigMap
	if has, err := backup.Object(in, rootCA, &root); has && err == nil {
		ca = root.Data["ca.crt"]
	}
	run := filepath.Join(s.dir, "run") // a short name: the paths of sockets are limited
	if err := os.Mkdir(run, 0o700); err != nil {
		return out, "", err
	}
	defer os.RemoveAll(run)
	scratch, err := snapshot.Start(ctx, run, file)
	if err != nil {
		return out, "", err
	}
	defer scratch.Close()
	if out.Restored, err = scratch.At(ctx, status.Revision); err != nil {
		return out, "", err
	}
	m.Etcd.Keys, m.Etcd.KVHash, m.Etcd.CompactRevision = out.Restored.Keys, out.Restored.KVHash, out.Restored.CompactRevision
	m.Salvage(fmt.Sprint(copied.LastTerm), fmt.Sprint(copied.LastIndex), digest(keys))
	out.Manifest, out.Verified.Snapshot, out.Snapshot, out.Contents = m, status, file, in
	return out, ca, nil
}

// digest is different for other keys: a restore with others does not go on with what an interrupted one did.
func digest(keys map[string][]byte) string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(sum, "%s %d ", name, len(keys[name]))
		sum.Write(keys[name])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// opens tries the keys on a value of each mark: a key of the same name can be that of another cluster. What other providers encrypted is not
// tried.
func opens(file string, config []byte, encrypted map[string]string) error {
	own, err := encryption.Parse(config)
	if err != nil {
		return nil //nolint:nilerr // somebody else's configuration
	}
	values, err := snapshot.Look(file, slices.Collect(maps.Values(encrypted))...)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(values.Values)) {
		if ok, known := own.Opens(values.Values[key]); known && !ok {
			return salvageRefused(key+" cannot be decrypted with the encryption keys that were found: they have the names of the right ones, and are those of another cluster", "Name the directory with the keys of this cluster with --keys [HOST:]DIRECTORY.")
		}
	}
	return nil
}

// partOf describes the snapshot.
func partOf(file string) (backup.Part, error) {
	f, err := os.Open(file)
	if err != nil {
		return backup.Part{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return backup.Part{Name: backup.SnapshotPart, Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}
