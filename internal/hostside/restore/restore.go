// Package restore makes the data of this host's etcd member from a snapshot, before etcd starts for the first time.
package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/snapshot"
)

// Request is a snapshot that the caller streams, and the member that begins with it.
type Request struct {
	// Cluster is the new etcd, whose token names the backup, and Name is the member of this host.
	Cluster hostconfig.EtcdCluster
	Name    string
	// Bump is by how much the revision is raised.
	Bump int64
	// Bytes and SHA256 are of the snapshot.
	Bytes  int64
	SHA256 string
}

// Result is what Etcd did.
type Result struct {
	// Already says that an earlier run has restored this member.
	Already bool
}

// workName is the directory, below that of etcd's data, in which the member is prepared: it is on the same file system.
const workName = "quorate-restore"

// Etcd restores the data of this host's member. Either all of the data is in place afterwards, or none. It refuses a host on which there is
// data that this restore did not make. The snapshot has secrets in it, encrypted as far as the cluster encrypts them.
var Etcd = host.DefineStreamChange("restore.etcd", func(ctx context.Context, in Request, body io.Reader) (Result, error) {
	return restore(ctx, etcd.Local, in, body)
}, host.Secret)

func restore(ctx context.Context, m etcd.Member, in Request, body io.Reader) (Result, error) {
	data := m.DataDir()
	has, err := m.Data()
	if err != nil {
		return Result{}, err
	}
	if has {
		switch have, err := m.Began(); {
		case err != nil:
			return Result{}, fmt.Errorf("%s contains the data of a member, and the cluster that it is of is unknown: %w", data, err)
		case !have.Equal(in.Cluster):
			return Result{}, fmt.Errorf("%s contains the data of a member that this restore did not make", data)
		}
		return Result{Already: true}, nil
	}
	member, err := memberOf(in)
	if err != nil {
		return Result{}, err
	}
	if err := durable.MkdirAll(data, 0o700); err != nil {
		return Result{}, err
	}
	work := filepath.Join(data, workName)
	if err := os.RemoveAll(work); err != nil { // of a run that was killed
		return Result{}, err
	}
	defer os.RemoveAll(work)
	// The snapshot and the database that is made of it exist for a while together.
	if err := system.RoomForSnapshot(data, 2*in.Bytes); err != nil {
		return Result{}, err
	}
	if err := durable.MkdirAll(work, 0o700); err != nil {
		return Result{}, err
	}
	file := filepath.Join(work, "snapshot.db")
	if err := receive(file, in, body); err != nil {
		return Result{}, err
	}
	made := filepath.Join(work, "data")
	if err := snapshot.Restore(file, made, member, in.Bump); err != nil {
		return Result{}, fmt.Errorf("restoring the snapshot: %w", err)
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if err := durable.SyncTree(made); err != nil {
		return Result{}, err
	}
	// First what the data is, then the data.
	note, err := json.Marshal(in.Cluster)
	if err != nil {
		return Result{}, err
	}
	path := filepath.Join(m.Root, facts.EtcdRestoredFile)
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Result{}, err
	}
	if err := durable.WriteFile(path, note, 0o600); err != nil {
		return Result{}, err
	}
	// Nothing but an empty directory could be there: a member that was never started.
	if err := os.Remove(filepath.Join(data, "member")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Result{}, fmt.Errorf("%s is in the way: %w", filepath.Join(data, "member"), err)
	}
	return Result{}, durable.Rename(filepath.Join(made, "member"), filepath.Join(data, "member"))
}

func memberOf(in Request) (snapshot.Member, error) {
	i := slices.IndexFunc(in.Cluster.Members, func(m string) bool { return strings.HasPrefix(m, in.Name+"=") })
	if i < 0 {
		return snapshot.Member{}, fmt.Errorf("%s is not one of the members %s", in.Name, strings.Join(in.Cluster.Members, ", "))
	}
	return snapshot.Member{Name: in.Name, PeerURL: strings.TrimPrefix(in.Cluster.Members[i], in.Name+"="), Cluster: in.Cluster.Members, Token: in.Cluster.Token}, nil
}

// receive stores the snapshot, and compares it with what was announced.
func receive(file string, in Request, body io.Reader) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(body, in.Bytes+1))
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("receiving the snapshot: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != in.Bytes || got != in.SHA256 {
		return fmt.Errorf("receiving the snapshot: what came (%d bytes, SHA-256 %s) is not what was sent (%d bytes, %s)", n, got, in.Bytes, in.SHA256)
	}
	return nil
}
