package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// packages are installed in the machine, besides what a lab requires. There is no network in it, so that nothing can be installed later.
var packages = []string{
	"dbus", "e2fsprogs", "initramfs-tools", "iproute2", "kmod", "linux-image-cloud-amd64", "procps", "systemd", "systemd-sysv", "udev", "util-linux", "zstd",
}

// diskSize is the maximum size of the disk. The image takes only the space that is used.
const diskSize = 32 << 30

// neededSpace is how much a test needs: the root tree, and the disk with a cluster.
const neededSpace = 10 << 30

const testUnit = `[Unit]
Description=Test of a cluster on this machine

[Service]
ExecStart=` + guestProgram + ` ` + guestCommand + `
Environment=HOME=/root
StandardOutput=journal+console
StandardError=journal+console
`

// files are what the machine has beyond its packages.
var files = map[string]string{
	"etc/hostname":    "vm\n",
	"etc/hosts":       "127.0.0.1 localhost vm\n::1 localhost\n",
	"etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
	// An emulated machine is slow.
	"etc/systemd/system.conf.d/vm.conf":       "[Manager]\nDefaultTimeoutStartSec=30min\nDefaultTimeoutStopSec=30min\n",
	"etc/systemd/journald.conf.d/vm.conf":     "[Journal]\nStorage=persistent\n",
	"etc/systemd/system/quorate-test.service": testUnit,
	"etc/modules-load.d/quorate-test.conf":    "virtio_console\n",
}

// links are symbolic links in the machine. Units that link to /dev/null do not run: they take time, or write to the console.
var links = map[string]string{
	"etc/systemd/system/multi-user.target.wants/quorate-test.service": "../quorate-test.service",
	"etc/systemd/system/default.target":                               "/usr/lib/systemd/system/multi-user.target",
	"etc/systemd/system/serial-getty@ttyS0.service":                   "/dev/null",
	"etc/systemd/system/getty.target":                                 "/dev/null",
	"etc/systemd/system/apt-daily.timer":                              "/dev/null",
	"etc/systemd/system/apt-daily-upgrade.timer":                      "/dev/null",
	"etc/systemd/system/dpkg-db-backup.timer":                         "/dev/null",
	"etc/systemd/system/e2scrub_all.timer":                            "/dev/null",
	"etc/systemd/system/fstrim.timer":                                 "/dev/null",
	"etc/systemd/system/nftables.service":                             "/dev/null",
}

// tree is the content of a machine's disk, and what it boots from.
type tree struct {
	root, kernel, initrd string
}

// contents are what this computer gives to a machine.
type contents struct {
	// quorate and test are the programs.
	quorate, test string
	// base and bundle are directories of this computer's cache: the image of the lab's machines, and the bundle.
	base, bundle string
}

// makeTree installs a release of Debian with a kernel in dir, and puts the contents into it.
func makeTree(ctx context.Context, image, dir string, c contents, sink progress.Sink) (t tree, err error) {
	id := "vm/" + image
	err = progress.Track(ctx, sink, "", id, "install "+image+" with a kernel", func(ctx context.Context) (err error) {
		t.root, err = lab.Bootstrap(ctx, image, slices.Concat(packages, lab.Requirements()), dir, sink)
		return err
	})
	if err != nil {
		return t, err
	}
	if t.kernel, err = only(filepath.Join(t.root, "boot", "vmlinuz-*")); err != nil {
		return t, err
	}
	if t.initrd, err = only(filepath.Join(t.root, "boot", "initrd.img-*")); err != nil {
		return t, err
	}
	machineID := make([]byte, 16)
	rand.Read(machineID) // with an empty one, systemd would enable and disable units at the first boot
	if err := put(t.root, "etc/machine-id", []byte(hex.EncodeToString(machineID)+"\n"), 0o444); err != nil {
		return t, err
	}
	for path, content := range files {
		if err := put(t.root, path, []byte(content), 0o644); err != nil {
			return t, err
		}
	}
	for path, target := range links {
		if err := link(t.root, path, target); err != nil {
			return t, err
		}
	}
	if err := os.MkdirAll(filepath.Join(t.root, "var/log/journal"), 0o755); err != nil {
		return t, err
	}
	for path, source := range map[string]string{quorateProgram: c.quorate, guestProgram: c.test} {
		data, err := os.ReadFile(source)
		if err != nil {
			return t, err
		}
		if err := put(t.root, path, data, 0o755); err != nil {
			return t, err
		}
	}
	for _, dir := range []string{c.base, c.bundle} {
		if err := linkTree(ctx, t.root, dir); err != nil {
			return t, err
		}
	}
	return t, nil
}

// only returns the only file that matches.
func only(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d files match %s, and there must be one", len(found), pattern)
	}
	return found[0], nil
}

// put writes a file to a tree. A link that is there could lead out of the tree, and is replaced.
func put(root, path string, data []byte, mode os.FileMode) error {
	path = filepath.Join(root, path)
	if err := clearPlace(path); err != nil {
		return err
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func link(root, path, target string) error {
	path = filepath.Join(root, path)
	if err := clearPlace(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

func clearPlace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// linkTree puts a directory of this computer's cache in the cache of the machine. The files are linked, because the tree is in the
// same cache, and nothing writes to them.
func linkTree(ctx context.Context, root, dir string) error {
	rel, err := filepath.Rel(paths.Cache(), dir)
	if err != nil {
		return err
	}
	to := filepath.Join(root, "var/cache/quorate", filepath.Dir(rel))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return command(ctx, "", "cp", "--archive", "--link", dir, to)
}

// makeDisk writes the tree to a new disk image, with a spec and settings.
func makeDisk(ctx context.Context, t tree, cluster []byte, s settings, disk string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := errors.Join(put(t.root, specFile, cluster, 0o644), put(t.root, settingsFile, data, 0o644)); err != nil {
		return err
	}
	if err := os.Remove(disk); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return command(ctx, "", "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-d", t.root, disk, strconv.Itoa(diskSize>>10)+"k")
}

// command runs a program. The error contains what it printed.
func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// clusterSpec is the cluster that a machine builds: the one that `quorate up` builds without a spec; or, if it is to be small, without its workers and
// load balancers, so that control planes do their work, and with Kubernetes' own timings, which ask for less CPU time.
func clusterSpec(small bool) (*spec.Cluster, error) {
	c := spec.DefaultLab(clusterName)
	if small {
		c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return !h.Has(spec.RoleControlPlane) })
		for i := range c.Spec.Hosts {
			c.Spec.Hosts[i].Roles = append(c.Spec.Hosts[i].Roles, spec.RoleWorker)
		}
		c.Spec.Failover.Profile = spec.ProfileStandard
	}
	data, err := spec.Marshal(c)
	if err != nil {
		return nil, err
	}
	return spec.Check(data, "the cluster in the machine", spec.Options{Lab: true})
}

// saveLogs copies the logs from a disk whose machine is off: its own, and those of the lab's machines.
func saveLogs(ctx context.Context, c *spec.Cluster, disk, to string) error {
	// What is only in the file system's journal yet is not seen otherwise. 1 and 2: it was repaired.
	err := command(ctx, "", "/sbin/e2fsck", "-f", "-y", disk)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() <= 2 {
		err = nil
	}
	all := []error{err}
	dump := func(name, request string) {
		dir := filepath.Join(to, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			all = append(all, err)
			return
		}
		all = append(all, command(ctx, dir, "/sbin/debugfs", "-R", request, disk))
	}
	dump("vm", "rdump /var/log .")
	for _, h := range c.Spec.Hosts {
		machine := filepath.Join("/var/lib/quorate/labs", c.Metadata.Name, "machines", h.Name)
		dump(h.Name, "rdump "+machine+"/var/log .")
		dump(h.Name, "dump "+machine+"/console.log console.log")
	}
	return errors.Join(all...)
}
