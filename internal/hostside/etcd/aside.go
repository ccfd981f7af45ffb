package etcd

import (
	"fmt"
	"path/filepath"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// AsidePattern matches the directories, in a member's data directory, with the data of former members: on the same file system,
// so that setting it aside takes no space and no time. Their names sort by time.
const AsidePattern = "quorate-aside-*"

// SetAside keeps the data of a member that does not run and that etcd does not have any more. It returns where it is now; empty if
// there was none. Then the guard is opened: the kubelet of this host must start although the data is gone. Not before: while the
// data is moved, nothing may start a member.
func (m Member) SetAside(now time.Time) (to string, err error) {
	defer func() {
		if err == nil && system.Exists(m.path(hostconfig.EtcdGuard)) { // only where etcd is stacked
			err = m.Open()
		}
	}()
	from := filepath.Join(m.DataDir(), "member")
	if !system.Exists(from) {
		return "", nil
	}
	if system.Exists(m.wal()) && !within(from, m.wal()) {
		return "", fmt.Errorf("the log of the etcd member is in %s, outside of %s: it has to be moved away by hand", m.wal(), from)
	}
	to = filepath.Join(m.DataDir(), AsidePattern[:len(AsidePattern)-1]+now.UTC().Format("20060102T150405Z"))
	if err := durable.MkdirAll(to, 0o700); err != nil {
		return "", err
	}
	return to, durable.Rename(from, filepath.Join(to, "member"))
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
