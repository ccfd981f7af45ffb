package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/loopdisk"
)

// A machine's root is an overlay: its own upper directory over the lab's files, the seed and the base image. /var is a plain
// directory, because containerd's own overlays cannot be on an overlay.
//
// Both are directories of this computer's file system, which all machines share: a machine that loses its power loses its
// processes, but keeps what they had written, even if it had not reached the disk. In a lab with OwnDisks, both are on the
// machine's own file system, in an image file, and a power-off loses what had not reached the disk.

// layers are the read-only directories below every machine's root, topmost first.
func (l *Lab) layers() []string {
	out := []string{l.filesLayer()}
	if _, err := os.Stat(l.seedLayer()); err == nil {
		out = append(out, filepath.Join(l.seedLayer(), "upper"))
	}
	return append(out, baseRoot(l.rec.Base))
}

func (l *Lab) filesLayer() string { return filepath.Join(l.dir, "layers", "files") }
func (l *Lab) seedLayer() string  { return filepath.Join(l.dir, "layers", "seed") }

// makeLayers creates the layers that all machines share. It links the files of the seed, because the seed may be replaced
// while the lab exists.
func (l *Lab) makeLayers(cfg Config) error {
	if err := os.MkdirAll(l.filesLayer(), 0o755); err != nil {
		return err
	}
	if cfg.Seed != "" {
		if err := checkSeed(cfg.Seed, l.rec.Base); err != nil {
			return err
		}
		if err := clone(cfg.Seed, l.seedLayer(), linkAll); err != nil {
			return err
		}
	}
	for _, f := range cfg.Files {
		if err := l.addFile(f); err != nil {
			return fmt.Errorf("lab %s: add file %s: %w", l.Name(), f.Path, err)
		}
	}
	return nil
}

// addFile links the file if its owner and mode are right, and otherwise copies it. A link is safe because the layer is never
// written to.
func (l *Lab) addFile(f File) error {
	to := filepath.Join(l.filesLayer(), f.Path)
	if err := l.makeParents(l.filesLayer(), f.Path, l.layers()[1:]); err != nil {
		return err
	}
	source, err := filepath.EvalSymlinks(f.Source)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return &os.PathError{Op: "stat", Path: source, Err: err}
	}
	mode := uint32(f.Mode.Perm())
	if st.Uid == 0 && st.Gid == 0 && st.Mode&0o7777 == mode && os.Link(source, to) == nil {
		return nil
	}
	if err := copyFile(source, to); err != nil {
		return err
	}
	return os.Chmod(to, f.Mode.Perm())
}

// makeParents creates the directories above path in a layer, each with the owner and mode that it has in the layers below,
// because the topmost layer decides in an overlay.
func (l *Lab) makeParents(layer, path string, below []string) error {
	rel := strings.TrimPrefix(filepath.Dir(filepath.Clean(path)), "/")
	if rel == "" {
		return nil
	}
	at := ""
	for _, elem := range strings.Split(rel, "/") {
		at = filepath.Join(at, elem)
		dir := filepath.Join(layer, at)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, b := range below {
			var st unix.Stat_t
			if unix.Lstat(filepath.Join(b, at), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				if err := attributes(filepath.Join(b, at), dir, &st); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// diskSize is the maximum size of a machine's own disk. The image takes only the space that is used.
const diskSize = 64 << 30

func (l *Lab) image(m Machine) string { return filepath.Join(l.machineDir(m.Name), "disk.img") }

// disk is where a machine's disk is, while it is mounted: its upper directory, the work directory of the overlay, and /var.
func (l *Lab) disk(m Machine) string {
	if l.rec.OwnDisks {
		return filepath.Join(l.machineDir(m.Name), "disk")
	}
	return l.machineDir(m.Name)
}

// withDisk runs f while the disk of a machine that is off is mounted.
func (l *Lab) withDisk(m Machine, f func() error) error {
	if !l.rec.OwnDisks {
		return f()
	}
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := leaveMounts(); err != nil {
			return err
		}
		if err := loopdisk.Mount(l.image(m), l.disk(m)); err != nil {
			return err
		}
		return errors.Join(f(), unix.Unmount(l.disk(m), 0))
	})
}

// leaveMounts keeps later mounts out of the caller's mount namespace.
func leaveMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the caller's mount namespace: %w", err)
	}
	return nil
}

// makeDisk creates a machine's disk, with its content at the first boot and with what distinguishes it from other machines.
func (l *Lab) makeDisk(m Machine) error {
	dir := l.machineDir(m.Name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, d := range []string{filepath.Join(dir, "root"), filepath.Join(dir, "bundle"), l.disk(m)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if l.rec.OwnDisks {
		if err := loopdisk.Create(l.image(m), diskSize); err != nil {
			return err
		}
	}
	private, public, err := keyPair(m.Name)
	if err != nil {
		return err
	}
	if err := l.withDisk(m, func() error { return l.fillDisk(m, private, public) }); err != nil {
		return err
	}
	return os.WriteFile(l.hostKeyFile(m.Name), public, 0o644)
}

func (l *Lab) fillDisk(m Machine, private, public []byte) error {
	dir := l.disk(m)
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	vars := []string{filepath.Join(baseRoot(l.rec.Base), "var"), filepath.Join(l.seedLayer(), "var"), filepath.Join(l.filesLayer(), "var")}
	for _, from := range vars {
		if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := clone(from, filepath.Join(dir, "var"), linkShared); err != nil {
			return err
		}
	}
	authorized, err := os.ReadFile(l.SSHKey() + ".pub")
	if err != nil {
		return err
	}
	id := make([]byte, 16)
	rand.Read(id)
	var own strings.Builder
	for _, a := range l.Family().all(m.Address) {
		fmt.Fprintf(&own, "%s %s\n", a.Addr(), m.Name)
	}
	identity := []struct {
		path, data string
		mode       os.FileMode
	}{
		{"/etc/hostname", m.Name + "\n", 0o644},
		{"/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n" + own.String(), 0o644},
		{"/etc/resolv.conf", resolvConf(m), 0o644},
		{"/etc/machine-id", hex.EncodeToString(id) + "\n", 0o444},
		{"/etc/ssh/ssh_host_ed25519_key", string(private), 0o600},
		{"/etc/ssh/ssh_host_ed25519_key.pub", string(public), 0o644},
		{"/root/.ssh/authorized_keys", string(authorized), 0o600},
	}
	upper := filepath.Join(dir, "upper")
	for _, f := range identity {
		if err := l.makeParents(upper, f.path, l.layers()); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(upper, f.path), []byte(f.data), f.mode); err != nil {
			return err
		}
	}
	return l.applyProfiles(m, upper)
}

// resolvConf names the machine itself as its name server. Nothing listens there, so every lookup beyond /etc/hosts is refused
// immediately, also in pods and during a cut. It is not 127.0.0.1, which would be the pod's own address in a pod, and a loop
// in CoreDNS.
func resolvConf(m Machine) string {
	return fmt.Sprintf("nameserver %s\noptions timeout:1 attempts:1\n", m.Address)
}

// mountDisk mounts a machine's root in the mount namespace of the calling thread, which must be its own: the mounts then live
// as long as the machine, and the caller never sees them.
func (l *Lab) mountDisk(m Machine) error {
	if err := leaveMounts(); err != nil {
		return err
	}
	if l.rec.OwnDisks {
		if err := loopdisk.Mount(l.image(m), l.disk(m)); err != nil {
			return err
		}
	}
	dir := l.disk(m)
	if _, err := os.Stat(baseRoot(l.rec.Base)); err != nil {
		return fmt.Errorf("its base image no longer exists (%w), so its disk cannot be used; delete the lab with `quorate lab --lab %s delete`", err, l.Name())
	}
	lower := l.layers()
	for i := range lower {
		lower[i] = escape(lower[i])
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off,metacopy=off",
		strings.Join(lower, ":"), escape(filepath.Join(dir, "upper")), escape(filepath.Join(dir, "work")))
	if err := unix.Mount("overlay", filepath.Join(l.machineDir(m.Name), "root"), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount its root filesystem (overlay on %s): %w", dir, err)
	}
	return nil
}

// escape escapes the separators of overlay options in a path.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(path)
}
