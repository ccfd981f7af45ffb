package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/durable/durabletest"
)

// TestWhatReturnedIsOnTheDisk cuts the power right after each operation has returned.
func TestWhatReturnedIsOnTheDisk(t *testing.T) {
	disk := durabletest.New(t, 64<<20)
	big := bytes.Repeat([]byte("content "), 1<<17)
	at := func(elem ...string) string { return filepath.Join(append([]string{disk.Dir}, elem...)...) }
	has := func(want []byte, elem ...string) error {
		got, err := os.ReadFile(at(elem...))
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%d bytes instead of %d", len(got), len(want))
		}
		return err
	}
	for _, tc := range []struct {
		name     string
		do, then func() error
	}{
		{"a new file", func() error { return durable.WriteFile(at("a"), big, 0o600) }, func() error { return has(big, "a") }},
		{"a file that is replaced", func() error { return durable.WriteFile(at("a"), []byte("new"), 0o600) }, func() error { return has([]byte("new"), "a") }},
		{"a file in directories that do not exist", func() error { return durable.WriteFile(at("x", "y", "z"), big, 0o600) }, func() error { return has(big, "x", "y", "z") }},
		{"a file of the user's", func() error { return durable.Update(at("a"), big, 0o600) }, func() error { return has(big, "a") }},
		{"a link", func() error { return durable.Symlink("a", at("l")) }, func() error { return has(big, "l") }},
		{"a link that is replaced", func() error { return durable.Symlink("x/y/z", at("l")) }, func() error { return has(big, "l") }},
		{"a directory", func() error { return durable.MkdirAll(at("d", "e"), 0o755) }, func() error { _, err := os.Stat(at("d", "e")); return err }},
		{"a renamed file", func() error {
			return errors.Join(os.WriteFile(at("d", "e", "f"), big, 0o600), durable.Rename(at("d", "e", "f"), at("g")))
		}, func() error { return has(big, "g") }},
		{"a renamed directory", func() error {
			return errors.Join(os.MkdirAll(at("n", "m"), 0o755), os.WriteFile(at("n", "m", "f"), big, 0o600), durable.Rename(at("n"), at("o")))
		}, func() error { return has(big, "o", "m", "f") }},
		{"an exchanged directory", func() error {
			return errors.Join(os.MkdirAll(at("n", "m"), 0o755), os.WriteFile(at("n", "m", "f"), []byte("new"), 0o600), durable.Rename(at("n"), at("o")))
		}, func() error { return has([]byte("new"), "o", "m", "f") }},
		{"a removed file", func() error { return durable.Remove(at("g")) }, func() error {
			if _, err := os.Stat(at("g")); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("it is there again: %v", err)
			}
			return nil
		}},
	} {
		if err := tc.do(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		disk.Cut()
		disk.Restore()
		if err := tc.then(); err != nil {
			t.Errorf("%s: after the power cut: %v", tc.name, err)
		}
	}
}

// TestFilesAreWholeOrOld cuts the power at arbitrary moments while a file is being replaced.
func TestFilesAreWholeOrOld(t *testing.T) {
	disk := durabletest.New(t, 64<<20)
	path := filepath.Join(disk.Dir, "dir", "file")
	content := func(n int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("%08d", n)), 1<<12) }
	written := -1 // the last one whose WriteFile returned
	n := 0
	for round := range 12 {
		done, first := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for began := n; durable.WriteFile(path, content(n), 0o644) == nil; n++ {
				written = n
				if n == began {
					close(first)
				}
			}
		}()
		if round%2 != 0 {
			<-first // however slow the disk is
		}
		time.Sleep(time.Duration(round*3) * time.Millisecond) // the moment is the test's parameter
		disk.Cut()
		<-done
		disk.Restore()
		got, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && written < 0 {
			continue
		}
		if err != nil || !bytes.Equal(got, content(written)) && !bytes.Equal(got, content(n)) {
			t.Fatalf("round %d: %d bytes, neither the content %d nor %d: %v", round, len(got), written, n, err)
		}
		if bytes.Equal(got, content(n)) {
			written = n // the power was cut after the rename: from now on, this is the old content
		}
		n++
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := t.TempDir()
	if err := durable.WriteFile(filepath.Join(dir, "a", "b", "c"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b", "a/b/c"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	// But for files of the user's, who has set it.
	if err := durable.Update(filepath.Join(dir, "own"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "own")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestUpdateKeepsWhatIsTheUsers: the mode, the owner, and the link through which the file was named.
func TestUpdateKeepsWhatIsTheUsers(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "sub", "file"), filepath.Join(dir, "link")
	if err := os.Symlink("sub/file", link); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"first", "second"} {
		if err := durable.Update(link, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != content {
			t.Fatalf("%q, %v", got, err)
		}
		if content == "first" {
			if err := os.Chmod(file, 0o640); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				if err := os.Chown(file, 65534, 65534); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil || st.Mode&0o777 != 0o640 || os.Geteuid() == 0 && (st.Uid != 65534 || st.Gid != 65534) {
		t.Errorf("mode %o, owner %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	if target, err := os.Readlink(link); err != nil || target != "sub/file" {
		t.Errorf("the link is %q, %v", target, err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "sub")} {
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				t.Errorf("%s was left in %s", e.Name(), path)
			}
		}
	}
}

// TestMountPointsAreRewritten: a container's /etc/hosts is one, and cannot be replaced.
func TestMountPointsAreRewritten(t *testing.T) {
	dir := t.TempDir()
	file, source := filepath.Join(dir, "hosts"), filepath.Join(dir, "source")
	for _, name := range []string{file, source} {
		if err := os.WriteFile(name, []byte("a longer old content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(source, file, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	defer unix.Unmount(file, 0) //nolint:errcheck // the directory goes with it
	for n, write := range []func(string, []byte, fs.FileMode) error{durable.WriteFile, durable.Update} {
		want := fmt.Sprintf("new %d", n)
		if err := write(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(source); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestAFailedWriteLeavesTheOldContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := durable.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := durable.Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestMoveReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a", "member"), filepath.Join(dir, "b", "member")
	for _, path := range []string{from, filepath.Dir(to)} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.Move(from, to); err != nil {
		t.Fatal(err)
	}
	if err := durable.Move(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to move: %v", err)
	}
	if err := os.MkdirAll(from, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Move(from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto an empty directory: %v", err)
	}
}

// TestUpdateReplacesNoDevice: somebody may name a pipe, /dev/stdout, or /dev/null as the file for a result.
func TestUpdateReplacesNoDevice(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pipe, link} {
		read := make(chan string, 1)
		go func() {
			data, err := os.ReadFile(pipe)
			read <- fmt.Sprint(string(data), err)
		}()
		if err := errors.Join(durable.CanUpdate(name), durable.Update(name, []byte("content"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := <-read; got != "content<nil>" {
			t.Errorf("through %s came %q", name, got)
		}
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("the pipe was replaced: %v, %v", info.Mode(), err)
	}
}

// TestCanUpdateSaysWhatUpdateWould, without a change.
func TestCanUpdateSaysWhatUpdateWould(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "later"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, fails := range map[string]error{
		"file": nil, "new": nil, "below/that/new": nil, "link": nil,
		".": unix.EISDIR, "file/new": unix.ENOTDIR, "file/below/new": unix.ENOTDIR,
		"/proc/sys/new": unix.EACCES, // nobody, not even root, creates a file there
	} {
		path := name
		if !filepath.IsAbs(name) {
			path = filepath.Join(dir, name)
		}
		err := durable.CanUpdate(path)
		if fails == unix.EACCES {
			if err == nil {
				t.Errorf("%s can be written", name)
			}
		} else if !errors.Is(err, fails) {
			t.Errorf("%s: %v, want %v", name, err, fails)
		}
		uerr := durable.Update(path, []byte("new"), 0o600)
		if uerr != nil && strings.Contains(uerr.Error(), ".quorate-") {
			t.Errorf("%s: %v", name, uerr)
		}
		if (err == nil) != (uerr == nil) {
			t.Errorf("%s: CanUpdate says %v, and Update %v", name, err, uerr)
		}
	}
}
