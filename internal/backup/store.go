package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Store holds backups. A name appears in it only when the backup is complete.
type Store interface {
	// Put stores a backup, and has check read it again from the store. If the store can, the name appears only after check has
	// accepted it; otherwise, what it does not accept is removed.
	Put(ctx context.Context, name string, content io.Reader, check func(io.Reader) error) error
	// Sweep removes what is left of interrupted uploads of backups of the same cluster, and returns their names. Nobody may be storing one.
	Sweep(ctx context.Context, of Name) ([]string, error)
	// List returns the backups of all clusters, the newest first. It leaves other files alone.
	List(ctx context.Context) ([]Entry, error)
	// Open reads a backup, from an offset.
	Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error)
	// Remove removes a backup.
	Remove(ctx context.Context, name string) error
	Close() error
}

// Location is where backups are stored, with the credentials for it. Exactly one of its fields is set.
type Location struct {
	// Directory is on the control planes.
	Directory string `json:"directory,omitempty"`
	SFTP      *SFTP  `json:"sftp,omitempty"`
	S3        *S3    `json:"s3,omitempty"`
}

// Shared says that every control plane sees the same backups. A directory may be on a file system of their own.
func (l Location) Shared() bool { return l.Directory == "" }

// String names the location without its credentials.
func (l Location) String() string {
	switch {
	case l.SFTP != nil:
		return fmt.Sprintf("sftp://%s@%s%s", l.SFTP.User, l.SFTP.Address, path.Join("/", l.SFTP.Directory))
	case l.S3 != nil:
		return fmt.Sprintf("%s/%s", l.S3.Endpoint, path.Join(l.S3.Bucket, l.S3.Prefix))
	}
	return l.Directory
}

// Redact removes the credentials for the location from a text, such as what a store answers.
func (l Location) Redact(text string) string {
	if l.S3 == nil {
		return text // the key of an SFTP server is in no message
	}
	for _, secret := range []string{l.S3.SecretKey, l.S3.SessionToken, l.S3.AccessKey} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return text
}

// RedactError is Redact for an error, which stays what it is.
func (l Location) RedactError(err error) error {
	if err == nil {
		return nil
	}
	return redacted{l.Redact(err.Error()), err}
}

type redacted struct {
	text string
	error
}

func (r redacted) Error() string { return r.text }
func (r redacted) Unwrap() error { return r.error }

// Connect opens the store at a location, from this machine.
func (l Location) Connect(ctx context.Context) (Store, error) {
	var s Store
	var err error
	switch {
	case l.SFTP != nil:
		s, err = l.SFTP.connect(ctx)
	case l.S3 != nil:
		s, err = l.S3.connect()
	case l.Directory != "":
		s = directory(l.Directory)
	default:
		err = errors.New("no location is set")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store of backups %s: %w", l, err)
	}
	return s, nil
}

// Stored is a backup that was stored and read again.
type Stored struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Keep stores what write writes, reads it again, and compares the two. A backup that cannot be read again does not stay.
func Keep(ctx context.Context, s Store, name string, write func(io.Writer) error) (Stored, error) {
	out := Stored{File: name}
	sum, counted := sha256.New(), int64(0)
	from, to := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(io.MultiWriter(to, sum, counter{&counted}))
		to.CloseWithError(err)
		written <- err
	}()
	end := func() error {
		from.CloseWithError(errors.New("the store takes no more"))
		return <-written
	}
	checked := false
	err := s.Put(ctx, name, from, func(in io.Reader) error {
		checked = true
		if err := end(); err != nil {
			return err // the store took a part for the whole
		}
		out.Bytes, out.SHA256 = counted, hex.EncodeToString(sum.Sum(nil))
		if err := compare(in, out); err != nil {
			return fmt.Errorf("reading it again: %w", err)
		}
		return nil
	})
	if !checked {
		end() //nolint:errcheck // the store's error has it, or is the reason for it
	}
	if err != nil {
		return out, fmt.Errorf("storing %s: %w", name, err)
	}
	return out, nil
}

func compare(in io.Reader, want Stored) error {
	sum := sha256.New()
	n, err := io.Copy(sum, in)
	if err != nil {
		return err
	}
	if n != want.Bytes || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		return fmt.Errorf("the store returned %d bytes, which are not the %d bytes that were stored", n, want.Bytes)
	}
	return nil
}

type counter struct{ n *int64 }

func (c counter) Write(b []byte) (int, error) {
	*c.n += int64(len(b))
	return len(b), nil
}

// Prune removes the backups of the same cluster as one that was just taken that are no longer kept, and returns their names.
func Prune(ctx context.Context, s Store, taken Name, r Retention) ([]string, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, e := range r.Expired(all, taken) {
		if err := s.Remove(ctx, e.File); err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", e.File, err))
			continue
		}
		removed = append(removed, e.File)
	}
	return removed, errors.Join(errs...)
}

// partialName is what a backup is called in file systems until it is complete.
func partialName(name string) string { return "." + name + partialSuffix }

const partialSuffix = ".partial"

// isPartial says that a file is an incomplete backup of the same cluster as another one.
func isPartial(file string, of Name) bool {
	name, begins := strings.CutPrefix(file, ".")
	name, ends := strings.CutSuffix(name, partialSuffix)
	n, ok := ParseName(name)
	return begins && ends && ok && n.Same(of)
}

// entry describes a file, unless it is no backup.
func entry(file string, size int64) (Entry, bool) {
	n, ok := ParseName(file)
	return Entry{n, file, size}, ok
}
