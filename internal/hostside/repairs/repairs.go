package repairs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// restartable are the units that a repair may restart.
var restartable = []string{"kubelet.service", "containerd.service", "haproxy.service", hostconfig.EtcdUnit}

// RestartUnit restarts a unit whose program does not answer. systemd ends it by force if it does not end.
var RestartUnit = host.DefineChange("repairs.restart-unit", func(ctx context.Context, unit string) (struct{}, error) {
	if !slices.Contains(restartable, unit) {
		return struct{}{}, fmt.Errorf("%s is no unit that a repair restarts", unit)
	}
	return struct{}{}, system.Systemctl(ctx, "restart", unit)
})

// FreeRequest says what may be removed besides what the host itself can tell.
type FreeRequest struct {
	// Bundles are the digests of bundles that the cluster does not need. One that something on this host uses stays all the same.
	Bundles []string `json:"bundles,omitempty"`
}

// FreeDisk removes what Quorate put on this host and does not need: the snapshots that facts.KeptSnapshots does not name, all but the newest data of a former etcd member,
// binaries of quorate that nothing uses, what killed uploads and writers left, and bundles. What a recovery or
// a restore kept is never removed.
var FreeDisk = host.Define("repairs.free-disk", func(_ context.Context, in FreeRequest) (Freed, error) {
	var errs []error
	var freed int64
	for _, path := range removable("", time.Now()) {
		n := system.Size(path)
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, err)
			continue
		}
		freed += n
	}
	n, err := programs.RemoveUnused(in.Bundles)
	out := Freed{Bytes: freed + n}
	if damaged, is := errors.AsType[*blobs.DamagedError](err); is {
		out.Stays, err = damaged.Error(), nil
	}
	return out, errors.Join(append(errs, err)...)
})

// Freed is what FreeDisk did.
type Freed struct {
	// Bytes is how much was removed, and Stays says why blobs of bundles were not, if they could not be judged.
	Bytes int64  `json:"bytes"`
	Stays string `json:"stays,omitempty"`
}

// Removable is how many bytes FreeDisk would remove without any bundle.
func Removable(root string, now time.Time) (sum int64) {
	for _, path := range removable(root, now) {
		sum += system.Size(path)
	}
	return sum
}

// removable are old snapshots, and old data of former members. Of the snapshots, the first one of the last change of the version and the newest stay, and
// of the data the newest, whose name begins with the time. What a recovery of the quorum has kept stays, too. On the host itself
// (root is empty), it is also what Tidy removes.
func removable(root string, now time.Time) (out []string) {
	snapshots, _ := filepath.Glob(filepath.Join(root, facts.SnapshotDir, facts.SnapshotFiles))
	kept := facts.KeptSnapshots(snapshots, 2)
	out = slices.DeleteFunc(snapshots, func(file string) bool { return slices.Contains(kept, file) })
	if former := (etcd.Member{Root: root}).Former(); len(former) > 1 {
		out = append(out, former[:len(former)-1]...)
	}
	if root == "" {
		if untidy, err := programs.Untidy(now); err == nil { // what is not known is not removed
			out = append(out, untidy...)
		}
	}
	return out
}

// Kept is what Quorate keeps on this host and never removes: what a restore kept of a cluster that it replaced, the data that recoveries of the
// quorum set aside, and the newest data of a former etcd member. root is empty for the host itself, or a directory in tests.
func Kept(root string) (out []facts.Kept) {
	paths, _ := filepath.Glob(filepath.Join(root, facts.KeptDir, "*"))
	m := etcd.Member{Root: root}
	former := m.Former()
	for _, path := range append(paths, m.Kept()...) {
		if i := slices.Index(former, path); i < 0 || i == len(former)-1 {
			out = append(out, facts.Kept{Path: strings.TrimPrefix(path, root), Bytes: system.Size(path)})
		}
	}
	return out
}
