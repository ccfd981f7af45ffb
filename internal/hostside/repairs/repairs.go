package repairs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
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

// FreeDisk removes what Quorate kept on this host and does not need: all snapshots but the one from before the last change of the version,
// and all but the newest data of a former etcd member. It returns how many bytes that were.
var FreeDisk = host.Define("repairs.free-disk", func(context.Context, struct{}) (int64, error) {
	var err error
	var freed int64
	for _, path := range removable("") {
		n := size(path)
		if e := os.RemoveAll(path); e != nil {
			err = errors.Join(err, e)
			continue
		}
		freed += n
	}
	return freed, err
})

// Removable is how many bytes FreeDisk would remove.
func Removable(root string) (sum int64) {
	for _, path := range removable(root) {
		sum += size(path)
	}
	return sum
}

// removable are old snapshots, and old data of former members. Of the snapshots, the first one of the last change of the version stays, and
// of the data the newest, whose name begins with the time. What a recovery of the quorum has kept stays, too.
func removable(root string) (out []string) {
	snapshots, _ := filepath.Glob(filepath.Join(root, facts.SnapshotDir, facts.SnapshotFiles))
	kept := facts.KeptSnapshots(snapshots, 1)
	out = slices.DeleteFunc(snapshots, func(file string) bool { return slices.Contains(kept, file) })
	if former := (etcd.Member{Root: root}).Former(); len(former) > 1 {
		out = append(out, former[:len(former)-1]...)
	}
	return out
}

func size(path string) (sum int64) {
	_ = filepath.Walk(path, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
