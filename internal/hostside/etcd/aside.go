package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// SetAside keeps the data of a member that does not run and that etcd does not have any more. It returns where it is now; empty if
// there was none. Then the guard is opened: the kubelet of this host must start although the data is gone. Not before: while the
// data is moved, nothing may start a member. Data of a member that a recovery has abandoned, by its ID, are kept as the recovery does it, and are not
// among Former.
func (m Member) SetAside(now time.Time, abandoned string) (to string, err error) {
	defer func() {
		if err == nil && system.Exists(m.path(hostconfig.EtcdGuard)) { // only where etcd is stacked
			err = m.Open()
		}
	}()
	from := filepath.Join(m.DataDir(), "member")
	if missing, err := system.Missing(from); err != nil || missing {
		return "", err
	}
	if wal := m.SeparateWAL(); wal != "" {
		switch missing, err := system.Missing(wal); {
		case err != nil:
			return "", err
		case !missing:
			return "", fmt.Errorf("the log of the etcd member is in %s, outside of %s: it has to be moved away by hand", wal, from)
		}
	}
	dir, _ := m.dirs()
	kept, err := KeptDir(m.Root, dir)
	if err != nil {
		return "", err
	}
	suffix := facts.EtcdFormer
	if abandoned != "" {
		suffix = "-" + abandoned
	}
	to = filepath.Join(kept, now.UTC().Format(facts.EtcdKeptStamp)+suffix)
	if err := durable.MkdirAll(m.path(to), 0o700); err != nil {
		return "", err
	}
	return to, durable.Move(from, filepath.Join(m.path(to), "member"))
}

// Kept are the directories with data of etcd that were set aside on this host, by a recovery of the quorum or by what replaces one member, the
// oldest first.
func (m Member) Kept() (out []string) {
	dir, _ := m.dirs()
	for _, kept := range facts.EtcdKeptDirs(dir) {
		all, _ := filepath.Glob(filepath.Join(m.path(kept), "*"))
		out = append(out, all...)
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) }) // their names begin with the time
	return out
}

// Former are those of them with the data of former members: what SetAside kept, and not what a recovery of the quorum did.
func (m Member) Former() []string {
	return slices.DeleteFunc(m.Kept(), func(dir string) bool { return !strings.HasSuffix(dir, facts.EtcdFormer) })
}

// KeptDir is where data of etcd can be kept without being copied: in the usual directory, or, where the data directory is on a file system
// of its own, in it. Both are below root, and so is what is returned.
func KeptDir(root, dataDir string) (string, error) {
	at := func(path string) string { return filepath.Join(root, path) }
	if err := durable.MkdirAll(at(facts.EtcdKeptDir), 0o700); err != nil {
		return "", err
	}
	probe, err := os.MkdirTemp(at(dataDir), ".quorate-*")
	if err != nil {
		return "", err
	}
	to := filepath.Join(at(facts.EtcdKeptDir), filepath.Base(probe))
	err = durable.Move(probe, to)
	if err == nil {
		return facts.EtcdKeptDir, os.Remove(to)
	}
	if rerr := os.Remove(probe); !errors.Is(err, unix.EXDEV) || rerr != nil {
		return "", errors.Join(err, rerr)
	}
	return filepath.Join(dataDir, facts.EtcdKeptName), nil
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
