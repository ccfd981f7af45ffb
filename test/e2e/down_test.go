//go:build e2e

package e2e

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/paths"
)

// down deletes the cluster and looks for anything that did not exist before.
func down(t *testing.T, c *cluster, before map[string][]string) {
	ctx := testContext(t)
	r := c.must(t, ctx, "down", "--name", c.name)
	t.Logf("down: %s", r.took)
	compare(t, ctx, c.name, before)
	c.must(t, ctx, "down", "--name", c.name) // deleted objects are not an error
	if r := c.run(ctx, "status"); r.code != 2 || !strings.Contains(r.stderr, "quorate up") {
		t.Errorf("status without a cluster: %s", r)
	}
}

func compare(t *testing.T, ctx context.Context, name string, before map[string][]string) {
	t.Helper()
	eventually(t, ctx, "no trace is left", func() error {
		var out []error
		after := traces(t, name)
		for _, kind := range slices.Sorted(maps.Keys(before)) {
			for _, line := range after[kind] {
				if !slices.Contains(before[kind], line) {
					out = append(out, errors.New(kind+" left: "+line))
				}
			}
		}
		return errors.Join(out...)
	})
}

// traces lists everything on this computer in which a lab with the name may leave something.
func traces(t *testing.T, name string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for kind, command := range map[string]string{
		"link":        "ip -o link show | sed 's/ mtu.*//'",
		"address":     "ip -o address show scope global | awk '{print $2, $4}'",
		"route":       "ip route show table all",
		"rule":        "ip rule show",
		"namespace":   "ip netns list | sed 's/ .*//'",
		"nftables":    "nft list tables 2>/dev/null || true",
		"sysctl":      "cd /proc/sys; grep -r . fs/inotify net/ipv4/ip_forward net/ipv4/conf/all/forwarding 2>/dev/null",
		"loop device": "losetup --list --noheadings --output BACK-FILE 2>/dev/null || true",
	} {
		data, err := exec.Command("sh", "-c", command).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		out[kind] = strings.Split(strings.TrimSpace(string(data)), "\n")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	out["mount"] = strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for kind, root := range map[string]string{"file": paths.State(), "run file": filepath.Join("/run/quorate", name)} {
		out[kind] = nil
		filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				out[kind] = append(out[kind], path)
			}
			return nil
		})
	}
	out["cgroup"], _ = filepath.Glob("/sys/fs/cgroup/*/quorate/" + name)
	more, _ := filepath.Glob("/sys/fs/cgroup/quorate/" + name)
	out["cgroup"] = append(out["cgroup"], more...)
	out["process"] = nil
	processes, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, file := range processes {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), "/quorate/"+name+"/") {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "comm"))
			out["process"] = append(out["process"], filepath.Base(filepath.Dir(file))+" "+strings.TrimSpace(string(command)))
		}
	}
	return out
}
