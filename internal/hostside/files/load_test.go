package files

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// world has its own systemctl, which notes what it is told and fails while a file named "broken" exists.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{t, t.TempDir()}
	w.put("bin/systemctl", "#!/bin/sh\necho \"$@\" >>"+w.dir+"/log\n[ ! -e "+w.dir+"/broken ]\n")
	t.Setenv("PATH", filepath.Join(w.dir, "bin")+":"+os.Getenv("PATH"))
	noted := noteFound
	noteFound = func(context.Context, facts.Desired) error { return nil }
	t.Cleanup(func() { noteFound = noted })
	before := pendingFile
	pendingFile = filepath.Join(w.dir, "pending")
	t.Cleanup(func() { pendingFile = before })
	return w
}

func (w world) put(name, content string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w world) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(w.dir, name))
	return string(data)
}

// told are the units that systemctl was told to load, by verb, since the last call.
func (w world) told() (out []string) {
	for line := range strings.Lines(w.read("log")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, restart) || strings.HasPrefix(line, reload) {
			out = append(out, line)
		}
	}
	os.Remove(filepath.Join(w.dir, "log"))
	return out
}

// TestRejectedFileReplacesNothing: neither the file itself, nor any other file, nor a program's state changes, and the
// error quotes the program.
func TestRejectedFileReplacesNothing(t *testing.T) {
	w := newWorld(t)
	w.put("etc/a", "old a")
	w.put("etc/b", "old b")
	w.put("check", "#!/bin/sh\ngrep -q valid \"$2\" && [ -e "+w.dir+"/etc/ca ] || { echo line 3: unknown keyword; exit 1; }\n")
	d := facts.Desired{Files: []facts.File{
		{Path: w.dir + "/etc/a", Content: "new a", Restart: []string{"a.service"}},
		{Path: w.dir + "/etc/b", Content: "new b", Reload: []string{"b.service"}, Check: []string{w.dir + "/check", "-f"}},
		{Path: w.dir + "/etc/ca", Content: "ca"}, // b refers to it
	}}
	_, err := configure(t.Context(), d, true)
	if err == nil || !strings.Contains(err.Error(), "line 3: unknown keyword") || !strings.Contains(err.Error(), "/etc/b is not valid") {
		t.Errorf("error: %v", err)
	}
	if a, b, told := w.read("etc/a"), w.read("etc/b"), w.told(); a != "old a" || b != "old b" || len(told) > 0 {
		t.Errorf("a file is %q, the rejected one %q, and systemctl was told %q", a, b, told)
	}
	d.Files[1].Content = "valid b"
	changed, err := configure(t.Context(), d, true)
	if err != nil || len(changed) != 2 {
		t.Errorf("changed %q, %v", changed, err)
	}
	if a, b, told := w.read("etc/a"), w.read("etc/b"), w.told(); a != "new a" || b != "valid b" || !slices.Equal(told, []string{"restart a.service", "reload-or-restart b.service"}) {
		t.Errorf("a file is %q, the checked one %q, and systemctl was told %q", a, b, told)
	}
	if left, _ := filepath.Glob(w.dir + "/etc/.quorate-*"); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
	if changed, err := configure(t.Context(), d, true); err != nil || len(changed) > 0 || len(w.told()) > 0 {
		t.Errorf("a second time changes %q, %v", changed, err)
	}
}

// TestInterruptedConfigureIsFinished: a unit whose file was replaced loads it, although the run that replaced it ended
// before, and the next one finds the file as it should be.
func TestInterruptedConfigureIsFinished(t *testing.T) {
	w := newWorld(t)
	d := facts.Desired{Files: []facts.File{
		{Path: w.dir + "/etc/a", Content: "a", Reload: []string{"a.service"}},
		{Path: w.dir + "/etc/b", Content: "b", Restart: []string{"a.service", "b.service"}},
	}}
	other := facts.Desired{Files: []facts.File{{Path: w.dir + "/etc/c", Content: "c", Restart: []string{"c.service"}}}}
	w.put("broken", "")
	for _, d := range []facts.Desired{d, other} {
		if _, err := configure(t.Context(), d, true); err == nil {
			t.Fatal("systemctl failed, and configure did not")
		}
	}
	if units, err := Pending(); err != nil || !slices.Equal(units, []string{"a.service", "b.service", "c.service"}) {
		t.Errorf("pending: %q, %v", units, err)
	}
	os.Remove(filepath.Join(w.dir, "broken"))
	w.told()
	if changed, err := configure(t.Context(), d, true); err != nil || len(changed) > 0 {
		t.Errorf("changed %q, %v", changed, err)
	}
	if told := w.told(); !slices.Equal(told, []string{"restart a.service b.service"}) { // c's step is another one
		t.Errorf("systemctl was told %q", told)
	}
	if units, err := Pending(); err != nil || !slices.Equal(units, []string{"c.service"}) {
		t.Errorf("pending: %q, %v", units, err)
	}
	if _, err := configure(t.Context(), other, true); err != nil || len(w.told()) != 1 || w.read("pending") != "" {
		t.Errorf("the other step: %v, pending %q", err, w.read("pending"))
	}
}

// TestSelfIsACopy, and one that has been damaged is replaced.
func TestSelfIsACopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bin", "self")
	running, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []struct {
		by    func() error
		found facts.Copy
	}{
		{func() error { return nil }, facts.MissingCopy},
		{func() error { return os.Truncate(path, 0) }, facts.OtherCopy},
		{func() error { return os.Chmod(path, 0o600) }, facts.OtherCopy},
		{func() error { f, err := os.OpenFile(path, os.O_WRONLY, 0); f.WriteAt([]byte("x"), 1<<20); return err }, facts.SameCopy}, // by its build ID
		{func() error { os.Remove(path); return os.Symlink("/proc/self/exe", path) }, facts.OtherCopy},
	} {
		if err := damaged.by(); err != nil {
			t.Fatal(err)
		}
		if found, err := Self(path); err != nil || found != damaged.found {
			t.Errorf("%q instead of %q, %v", found, damaged.found, err)
		}
		if err := CopySelf(path); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o755 {
			t.Fatalf("%v, %v", info, err)
		}
		if copied, _ := os.ReadFile(path); string(copied) != string(running) {
			t.Error("the copy differs")
		}
		if found, err := Self(path); err != nil || found != facts.SameCopy {
			t.Errorf("a copy is %q, %v", found, err)
		}
		if err := CopySelf(path); err != nil {
			t.Fatal(err)
		}
		if again, _ := os.Lstat(path); !os.SameFile(info, again) {
			t.Error("a good copy was replaced")
		}
	}
}
