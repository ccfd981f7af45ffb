// Package etcd manages the etcd member on a host: its data, the cluster that it was started with, and the guard that keeps it
// from starting without its data.
//
// A member whose data is lost must not start with an empty directory: it would have its old identity, and could vote for a
// leader that lacks writes which this member acknowledged. etcd does not prevent that. With initial-cluster-state=new it
// refuses only if another member answers at that moment, and with initial-cluster-state=existing only if none does.
package etcd

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// Member is the member of a host whose files are below Root: empty for the host itself, a directory in tests.
type Member struct{ Root string }

// Local is the member of this host.
var Local Member

func (m Member) path(p string) string { return filepath.Join(m.Root, p) }

// DataDir is the directory of the member's data, as its static pod says; kubeadm's default if there is none. The data of a
// cluster that was not built by Quorate can be elsewhere.
func (m Member) DataDir() string {
	dir, _ := m.dirs()
	return m.path(dir)
}

// wal is the part of the data that exists once the member has started.
func (m Member) wal() string {
	_, wal := m.dirs()
	return m.path(wal)
}

// SeparateWAL is the directory of the member's write-ahead log, if its static pod has it outside of the data, DATADIR/member; empty otherwise.
func (m Member) SeparateWAL() string {
	data, wal := m.dirs()
	if within(filepath.Join(data, "member"), wal) {
		return ""
	}
	return m.path(wal)
}

// dirs are those that the static pod names, also while its manifest is set aside.
func (m Member) dirs() (data, wal string) {
	data, wal = hostconfig.EtcdDataDir, ""
	for _, path := range []string{hostconfig.EtcdManifest, filepath.Join(facts.WithdrawnDir, filepath.Base(hostconfig.EtcdManifest))} {
		if pod, err := staticpod.Read(m.path(path)); err == nil {
			args := staticpod.Arguments(pod)
			data, wal = cmp.Or(args["data-dir"], data), args["wal-dir"]
			break
		}
	}
	return data, cmp.Or(wal, filepath.Join(data, "member/wal"))
}

// Data reports whether a member has ever started here. It returns an error if nobody can tell, as on a disk that does not answer.
func (m Member) Data() (bool, error) {
	missing, err := system.Missing(m.wal())
	return err == nil && !missing, err
}

// HasData is Data where one answer is safe: it is also true if nobody can tell. What starts a member, or gives it data, uses Data.
func (m Member) HasData() bool {
	has, err := m.Data()
	return has || err != nil
}

// Began is the cluster that the member on this host was started with, according to its static pod, the environment file of
// its unit, or what a restore noted. It has no members if etcd was never configured. For a member that joined, it has the members of that moment and no
// token.
func (m Member) Began() (hostconfig.EtcdCluster, error) {
	pod, err := staticpod.Read(m.path(hostconfig.EtcdManifest))
	switch {
	case err == nil:
		args := staticpod.Arguments(pod)
		return began(args["initial-cluster"], args["initial-cluster-token"]), nil
	case !errors.Is(err, fs.ErrNotExist):
		return hostconfig.EtcdCluster{}, err
	}
	env, err := os.ReadFile(m.path(hostconfig.EtcdMembersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m.restored()
	}
	values := variables(strings.Split(string(env), "\n"))
	return began(values["ETCD_INITIAL_CLUSTER"], values["ETCD_INITIAL_CLUSTER_TOKEN"]), err
}

// restored is the cluster that the member's data was restored for; without members if it was not restored. The data exists before
// anything is configured that could start the member.
func (m Member) restored() (out hostconfig.EtcdCluster, err error) {
	data, err := os.ReadFile(m.path(facts.EtcdRestoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return hostconfig.EtcdCluster{}, fmt.Errorf("reading %s: %w", facts.EtcdRestoredFile, err)
	}
	return out, nil
}

func began(members, token string) hostconfig.EtcdCluster {
	if members == "" {
		return hostconfig.EtcdCluster{}
	}
	return hostconfig.EtcdCluster{Members: strings.Split(members, ","), Token: token}
}

// MayBegin returns an error unless a member of a new cluster may start on this host. Call it immediately before the start: what
// the plan knew about the host may have changed since.
func (m Member) MayBegin(as hostconfig.EtcdCluster) error {
	data, err := m.Data()
	if err != nil {
		return fmt.Errorf("finding out whether a member has data on this host: %w", err)
	}
	have, err := m.Began()
	switch {
	case !data && system.Exists(m.path(facts.EstablishedFile)):
		return fmt.Errorf("%s says that this host's cluster was once complete, but there is no data in %s: a member that lost its data must not start empty", facts.EstablishedFile, m.DataDir())
	case err != nil && data:
		return fmt.Errorf("%s contains the data of a member, and the cluster that it was started with is unknown: %w", m.DataDir(), err)
	case err != nil:
		return nil // a partially written manifest, from which nothing could start yet
	case data && len(have.Members) == 0:
		return fmt.Errorf("%s contains the data of a member that this build did not start", m.DataDir())
	case len(have.Members) > 0 && !have.Equal(as):
		return fmt.Errorf("etcd was started on this host with the members %s, and would now start with %s: that would be a second etcd with the same keys", have, as)
	}
	return nil
}

// Arm makes sure that etcd does not start on this host without its data: neither the static pod, nor the kubelet that
// would start one.
func (m Member) Arm() error { return m.guard(m.wal()) }

// Open allows a member to start on this host with an empty directory.
func (m Member) Open() error {
	open := m.path(hostconfig.EtcdGuardOpen)
	if err := durable.MkdirAll(open, 0o700); err != nil {
		return err
	}
	return m.guard(open)
}

// guard points the guard's link to a directory, atomically.
func (m Member) guard(target string) error {
	link := m.path(hostconfig.EtcdGuard)
	if have, err := os.Readlink(link); err == nil && have == target {
		return nil
	}
	return durable.Symlink(target, link)
}

// Guard sets up the guard of a host: open before its cluster was complete, armed from then on. It arms the guard only while
// the data is there: a guard that looks for the data in the wrong place would keep the kubelet from starting.
func (m Member) Guard() error {
	switch {
	case system.Exists(m.path(facts.EstablishedFile)) && m.HasData():
		return m.Arm()
	case system.Exists(m.path(hostconfig.EtcdGuard)):
		return nil
	}
	return m.Open()
}

// Armed reports whether the guard is armed.
func (m Member) Armed() bool {
	target, err := os.Readlink(m.path(hostconfig.EtcdGuard))
	return err == nil && target != m.path(hostconfig.EtcdGuardOpen)
}

// PodGuarded reports whether the static pod of a stacked member mounts the guard.
func (m Member) PodGuarded() bool {
	pod, err := staticpod.Read(m.path(hostconfig.EtcdManifest))
	if err != nil {
		return false
	}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil && v.HostPath.Path == hostconfig.EtcdGuard {
			return true
		}
	}
	return false
}
