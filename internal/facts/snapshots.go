package facts

import (
	"path"
	"slices"
	"strings"
)

// SnapshotDir is where hosts keep the snapshots of etcd that Quorate saved before it changed a cluster's version.
const SnapshotDir = "/var/lib/quorate/snapshots"

// SnapshotFiles matches the names of these snapshots, which begin with the time.
const SnapshotFiles = "*-before-*.db"

// SnapshotsKept is how many of them a host keeps: see KeptSnapshots.
const SnapshotsKept = 3

// SnapshotBefore is the version to which the cluster was about to change when the snapshot of this name was saved; empty for a name
// that SnapshotFiles does not match.
func SnapshotBefore(name string) string {
	_, version, _ := strings.Cut(path.Base(name), "-before-")
	return strings.TrimSuffix(version, ".db")
}

// KeptSnapshots are those of some snapshots that stay when n of them do, the oldest first: the first one of the last change of the
// version, and then the newest. Runs that went on with a change may have saved more of them, and only the first one is certain to be
// from before it. The names are those of files in one directory; n is at least 1.
func KeptSnapshots(names []string, n int) []string {
	all := slices.Sorted(slices.Values(names))
	if len(all) <= n {
		return all
	}
	first := len(all) - 1
	for first > 0 && SnapshotBefore(all[first-1]) == SnapshotBefore(all[first]) {
		first--
	}
	if first >= len(all)-n {
		return all[len(all)-n:]
	}
	return append([]string{all[first]}, all[len(all)-n+1:]...)
}
