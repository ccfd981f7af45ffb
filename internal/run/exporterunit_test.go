package run

import (
	"context"
	"io"
	"testing"

	"quorate.dev/quorate/internal/render/hostconfig"
)

// TestTheSnapshotsAreMounted: the unit that serves metrics ends as long as it sees another directory than the one that is written into.
func TestTheSnapshotsAreMounted(t *testing.T) {
	const before = "621 590 0:24 / /run rw,nosuid,nodev shared:5 - tmpfs tmpfs rw\n"
	const after = "640 621 0:24 /quorate/lease /var/lib/quorate-else ro - tmpfs tmpfs rw\n"
	for name, tc := range map[string]struct {
		mounts string
		want   bool
	}{
		"mounted":                    {"630 599 0:24 /quorate/exporter/snapshots /var/lib/quorate ro,nosuid,nodev - tmpfs tmpfs rw,mode=755\n", true},
		"without a file system":      {"630 599 8:1 /run/quorate/exporter/snapshots /var/lib/quorate ro,relatime - ext4 /dev/vda1 rw\n", true},
		"over a file system":         {"601 599 8:2 / /var/lib/quorate ro - ext4 /dev/vda2 rw\n630 601 0:24 /quorate/exporter/snapshots /var/lib/quorate ro - tmpfs tmpfs rw\n", true},
		"removed since":              {`630 599 0:24 /quorate/exporter/snapshots//deleted /var/lib/quorate ro,nosuid,nodev - tmpfs tmpfs rw` + "\n", false},
		"nothing to mount":           {"", false},
		"itself, for want of it":     {"630 599 8:1 /var/lib/quorate /var/lib/quorate ro,relatime - ext4 /dev/vda1 rw\n", false},
		"a file system of the hosts": {"630 599 8:2 / /var/lib/quorate ro,relatime - ext4 /dev/vda2 rw\n", false},
		"elsewhere":                  {"630 599 0:24 /quorate/exporter/snapshots /var/lib/else ro - tmpfs tmpfs rw\n", false},
	} {
		if got := mountsSnapshots(before+tc.mounts+after, hostconfig.ExporterSees); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
}

// TestTheExporterIsStopped: that is no failure, which systemd would keep, and report, until somebody resets it.
func TestTheExporterIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, dir := range map[string]string{"it serves": t.TempDir(), "systemd gave it nothing": ""} {
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
		t.Setenv("STATE_DIRECTORY", dir)
		if err := ExportHere(ctx, io.Discard, "lab", "127.0.0.1:0"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
