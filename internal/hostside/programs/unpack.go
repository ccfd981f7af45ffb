package programs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/found"
)

// Unpack unpacks the programs of a bundle, whose blobs the host has, next to those that run. It changes nothing that runs. If
// the bundle is already unpacked, Unpack replaces its damaged files.
var Unpack = host.Define("programs.unpack", func(ctx context.Context, index []byte) (struct{}, error) {
	if err := found.Local.NoteDirectories(); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, local.unpack(ctx, index)
})

func (s store) unpack(ctx context.Context, index []byte) error {
	b, err := s.blobs.Accept(index)
	if err != nil {
		return err
	}
	encoded := digest.Digest(b.Digest()).Encoded()
	if err := durable.MkdirAll(s.dir(encoded), 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir(encoded), &st); err == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("programs could not be executed in %s: its file system is mounted with the option noexec; mount it without", s.dir())
	}
	old, err := s.mark(encoded)
	if err != nil {
		old = &mark{} // nothing there can be relied on
	} else if problems, err := s.verify(ctx, old); err != nil || len(problems) == 0 {
		return err
	}
	u := &unpacking{store: s, old: old, mark: &mark{Bundle: b.Digest()}, dir: s.dir(encoded)}
	if u.root, err = os.OpenRoot(u.dir); err != nil {
		return err
	}
	defer u.root.Close()
	for _, layer := range b.Host().Layers {
		if err := u.layer(ctx, b, layer); err != nil {
			return fmt.Errorf("unpacking %s: %w", layer.Digest, err)
		}
	}
	for _, e := range u.mark.Entries {
		if e.Target != "" && u.mark.entry(path.Join(path.Dir(e.Path), e.Target)) == nil {
			return fmt.Errorf("unpacking %s: %s is a link to %s, which the bundle does not have", b.Digest(), e.Path, e.Target)
		}
	}
	if err := durable.SyncTree(u.dir); err != nil {
		return err
	}
	return s.write(u.mark)
}

// unpacking is one bundle that is being unpacked.
type unpacking struct {
	store
	dir       string
	root      *os.Root
	old, mark *mark
}

func (u *unpacking) layer(ctx context.Context, b *bundle.Bundle, layer bundle.Blob) error {
	blob, err := b.OpenBlob(layer.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	z, err := zstd.NewReader(blob)
	if err != nil {
		return err
	}
	defer z.Close()
	for t := tar.NewReader(z); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			// The blob is verified at its end, which is after the end of the archive.
			_, err = io.Copy(io.Discard, z)
			return err
		}
		if err != nil {
			return err
		}
		if err := u.entry(ctx, head, t); err != nil {
			return fmt.Errorf("%s: %w", head.Name, err)
		}
	}
}

func (u *unpacking) entry(ctx context.Context, head *tar.Header, content io.Reader) error {
	name := path.Clean(strings.TrimPrefix(head.Name, "/"))
	if head.Typeflag == tar.TypeDir {
		return nil // directories are created with their content
	}
	if !slices.Contains(places, path.Dir(name)) || u.mark.entry(name) != nil {
		return errors.New("it has no place in a bundle")
	}
	e := entry{Path: name}
	var err error
	switch head.Typeflag {
	case tar.TypeReg:
		err = u.file(ctx, &e, head.FileInfo().Mode().Perm(), content)
	case tar.TypeSymlink:
		if e.Target = head.Linkname; e.Target != path.Base(e.Target) {
			return fmt.Errorf("it is a link to %s, which is not in the same directory", e.Target)
		}
		err = durable.Symlink(e.Target, filepath.Join(u.dir, name))
	default:
		err = fmt.Errorf("unexpected type %q in a bundle", head.Typeflag)
	}
	if err == nil {
		u.mark.Entries = append(u.mark.Entries, e)
	}
	return err
}

// file does not touch an intact file, because something may run from it.
func (u *unpacking) file(ctx context.Context, e *entry, mode fs.FileMode, content io.Reader) error {
	if have := u.old.entry(e.Path); have != nil && have.Target == "" && have.Mode == mode {
		problem, _, err := u.check(ctx, u.old, e.Path)
		if err != nil {
			return err
		}
		if problem == "" {
			*e = *u.old.entry(e.Path)
			return nil
		}
	}
	if err := u.makePlace(path.Dir(e.Path)); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(e.Path), ".unpack-"+path.Base(e.Path))
	if err := u.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := u.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := newHashing(f)
	if _, err := io.Copy(sum, content); err != nil {
		return err
	}
	// Not at creation, where the umask would count.
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := label(filepath.Join(u.dir, tmp), filepath.Join(u.store.root, path.Dir(e.Path))); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	e.SHA256, e.Size, e.Mode, e.Modified = sum.hex(), sum.size, mode, info.ModTime().UnixNano()
	return u.root.Rename(tmp, e.Path)
}

func (u *unpacking) makePlace(dir string) error {
	if err := durable.MkdirAll(filepath.Join(u.dir, dir), 0o755); err != nil {
		return err
	}
	return label(filepath.Join(u.dir, dir), filepath.Join(u.store.root, dir))
}
