package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
)

// directory is a store in a file system.
type directory string

func (d directory) Put(ctx context.Context, name string, content io.Reader) error {
	// A file system that is not mounted must not look like an empty one: the operator creates the directory.
	if _, err := os.Stat(string(d)); err != nil {
		return err
	}
	f, err := durable.Create(filepath.Join(string(d), name), 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := io.Copy(f, interrupted{ctx, content}); err != nil {
		return err
	}
	return f.Commit()
}

func (d directory) List(context.Context) ([]Entry, error) {
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
