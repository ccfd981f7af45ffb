package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/buildid"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
)

// selfMode is the mode of a copy of quorate.
const selfMode = 0o755

// CopySelf makes path a copy of the program that runs now. It is a copy and not a link, because SELinux decides by the
// place of a file whether systemd may execute it.
func CopySelf(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	if equal, err := sameContent(self, path); err != nil || equal {
		return err
	}
	if _, err := self.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := durable.Create(path, selfMode)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := io.Copy(out, self); err != nil {
		return fmt.Errorf("copying quorate to %s: %w", path, err)
	}
	return out.Commit()
}

// Self compares the copy at a path with the program that runs now, by size and by the build ID that Go's linker made of its content. That is
// quick enough for every look at a host. It does not see a copy whose bytes were changed; CopySelf does, and so does Self if the program was
// linked without a build ID.
func Self(path string) (facts.Copy, error) {
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return facts.MissingCopy, nil
	}
	if err != nil {
		return "", err
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer self.Close()
	here, err := self.Stat()
	if err != nil {
		return "", err
	}
	same := there.Mode() == selfMode && there.Size() == here.Size()
	if id := buildid.Of(self.Name()); same && id != nil {
		same = bytes.Equal(buildid.Of(path), id)
	} else if same {
		same, err = sameContent(self, path)
	}
	if same {
		return facts.SameCopy, err
	}
	return facts.OtherCopy, err
}

// sameContent compares the rest of a file with a whole regular one of mode 0755.
func sameContent(a *os.File, path string) (bool, error) {
	b, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer b.Close()
	have, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	want, err := a.Stat()
	if err != nil || have.Mode() != selfMode || have.Size() != want.Size() {
		return false, err
	}
	const chunk = 1 << 20
	one, two := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := io.ReadFull(a, one)
		if _, err := io.ReadFull(b, two[:n]); err != nil || !bytes.Equal(one[:n], two[:n]) {
			return false, nil
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return true, nil
		case err != nil:
			return false, err
		}
	}
}
