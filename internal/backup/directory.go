package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
)

// directory is a store in a file system.
type directory string

func (d directory) Put(ctx context.Context, name string, content io.Reader, check func(io.Reader) error) error {
	// A file system that is not mounted must not look like an empty one: the operator creates the directory.
	if err := mounted(string(d)); err != nil {
		return err
	}
	partial := filepath.Join(string(d), partialName(name))
	if err := d.write(ctx, partial, content, check); err != nil {
		return errors.Join(err, durable.Remove(partial))
	}
	return durable.Rename(partial, filepath.Join(string(d), name))
}

func (d directory) write(ctx context.Context, file string, content io.Reader, check func(io.Reader) error) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, interrupted{ctx, content}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// What is read again should come from the disk, and the cache has better uses on a control plane.
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) //nolint:errcheck // only advice
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := check(interrupted{ctx, f}); err != nil {
		return err
	}
	return f.Close()
}

func (d directory) Sweep(_ context.Context, of Name) (removed []string, _ error) {
	files, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range files {
		if !isPartial(f.Name(), of) {
			continue
		}
		if err := durable.Remove(filepath.Join(string(d), f.Name())); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, f.Name())
	}
	return removed, errors.Join(errs...)
}

func (d directory) List(context.Context) ([]Entry, error) {
	if err := mounted(string(d)); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	out := []Entry{}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			continue // it was removed in the meantime
		}
		if e, ok := entry(f.Name(), info.Size()); ok && info.Mode().IsRegular() {
			out = append(out, e)
		}
	}
	Newest(out)
	return out, nil
}

func (d directory) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	if !filepath.IsLocal(name) {
		return nil, errors.New("this is no name of a backup")
	}
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return readCloser{interrupted{ctx, f}, f}, nil
}

func (d directory) Remove(_ context.Context, name string) error {
	return durable.Remove(filepath.Join(string(d), name))
}

func (d directory) Close() error { return nil }

// interrupted ends with its context.
type interrupted struct {
	ctx context.Context
	io.Reader
}

func (i interrupted) Read(b []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.Reader.Read(b)
}

type readCloser struct {
	io.Reader
	io.Closer
}
