// Package etcd knows the etcd member on a host: its data, the cluster that it began with, and the guard that keeps it from
// starting without its data.
//
// A member whose data is lost must not start with an empty directory: it would have its old identity, and could vote for a
// leader that lacks writes which it acknowledged itself. etcd does not prevent that. With initial-cluster-state=new it
// refuses only if another member answers at that moment, and with initial-cluster-state=existing only if none does.
package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/staticpod"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Member is the member of a host whose files are below Root: empty for the host itself, a directory in tests.
type Member struct{ Root string }

// Local is the member of this host.
var Local Member

func (m Member) path(p string) string { return filepath.Join(m.Root, p) }

// HasData says whether a member has ever started here.
func (m Member) HasData() bool { return system.Exists(m.path(hostconfig.EtcdWAL)) }

// Began is the cluster that the member on this host began with, as its static pod or the environment file of its unit says;
// it has no members where etcd was never configured. A member that joined names the members of that moment, and no token.
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
		return hostconfig.EtcdCluster{}, nil
	}
	values := map[string]string{}
	for line := range strings.Lines(string(env)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[name] = value
		}
	}
	return began(values["ETCD_INITIAL_CLUSTER"], values["ETCD_INITIAL_CLUSTER_TOKEN"]), err
}

func began(members, token string) hostconfig.EtcdCluster {
	if members == "" {
		return hostconfig.EtcdCluster{}
	}
	return hostconfig.EtcdCluster{Members: strings.Split(members, ","), Token: token}
}

// MayBegin returns an error unless a member of a new cluster may start on this host. It is asked right before the start: what
// the plan knew of the host may have changed since.
func (m Member) MayBegin(as hostconfig.EtcdCluster) error {
	data := m.HasData()
	have, err := m.Began()
	switch {
	case !data && system.Exists(m.path(facts.EstablishedFile)):
		return fmt.Errorf("%s says that the cluster of this host was complete once, and /var/lib/etcd holds no data: a member that lost its data must not start empty", facts.EstablishedFile)
	case err != nil && data:
		return fmt.Errorf("/var/lib/etcd holds the data of a member, and it cannot be told which cluster it began with: %w", err)
	case err != nil:
		return nil // a manifest that was written in part, before anything could start from it
	case data && len(have.Members) == 0:
		return errors.New("/var/lib/etcd holds the data of a member that this build did not start")
	case len(have.Members) > 0 && !have.Equal(as):
		return fmt.Errorf("etcd began here with the members %s, and is now to begin with %s: that would be a second etcd with the same keys", have, as)
	}
	return nil
}

// Arm makes sure that etcd does not start on this host without its data: neither the static pod, nor the kubelet that
// would start one.
func (m Member) Arm() error { return m.guard(m.path(hostconfig.EtcdWAL)) }

// Open lets a member begin on this host with an empty directory.
func (m Member) Open() error {
	open := m.path(hostconfig.EtcdGuardOpen)
	if err := durable.MkdirAll(open, 0o700); err != nil {
		return err
	}
	return m.guard(open)
}

// guard points the guard's link to a directory, in one step: there is no moment without it.
func (m Member) guard(target string) error {
	link := m.path(hostconfig.EtcdGuard)
	if have, err := os.Readlink(link); err == nil && have == target {
		return nil
	}
	return durable.Symlink(target, link)
}

// Guard puts the guard of a host in place: armed once the cluster was complete, open before.
func (m Member) Guard() error {
	switch {
	case system.Exists(m.path(facts.EstablishedFile)):
		return m.Arm()
	case system.Exists(m.path(hostconfig.EtcdGuard)):
		return nil
	}
	return m.Open()
}

// Armed says whether the guard is armed.
func (m Member) Armed() bool {
	target, err := os.Readlink(m.path(hostconfig.EtcdGuard))
	return err == nil && target == m.path(hostconfig.EtcdWAL)
}

// PodGuarded says whether the static pod of a stacked member mounts the guard.
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
