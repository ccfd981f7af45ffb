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

// FreeDisk removes what Quorate kept on this host and does not need: all but the newest snapshot, and all but the newest data of a
// former etcd member. It returns how many bytes that were.
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

// removable are old snapshots, and old data of former members. The newest of each stays: their names begin with the time. What a recovery of
// the quorum has kept stays, too.
func removable(root string) (out []string) {
	snapshots, _ := filepath.Glob(filepath.Join(root, facts.SnapshotDir, facts.SnapshotFiles))
	slices.Sort(snapshots)
	for _, all := range [][]string{snapshots, etcd.Member{Root: root}.Former()} {
		if len(all) > 1 {
			out = append(out, all[:len(all)-1]...)
		}
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
