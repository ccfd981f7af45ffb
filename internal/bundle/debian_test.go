package bundle

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestClosure links a program and two libraries of which one needs the other, and lays them out as
// Debian does: the program in /usr, libraries behind links, the loader behind an absolute link.
func TestClosure(t *testing.T) {
	root := debianRoot{dir: t.TempDir(), owner: map[string]string{}}
	const libs = "usr/lib/x86_64-linux-gnu"
	path := func(name string) string { return filepath.Join(root.dir, name) }
	for _, dir := range []string{libs, "usr/sbin", "usr/lib64"} {
		if err := os.MkdirAll(path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(owner, name, target string) {
		if err := os.Symlink(target, path(name)); err != nil {
			t.Fatal(err)
		}
		root.owner[name] = owner
	}
	compile := func(owner, name string, code string, args ...string) {
		cmd := exec.Command("gcc", append([]string{"-nostdlib", "-x", "c", "-", "-x", "none", "-o", path(name)}, args...)...)
		cmd.Stdin = strings.NewReader(code)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		root.owner[name] = owner
	}
	compile("libinner1", libs+"/libinner.so.1.2", "int inner(void) { return 1; }", "-shared", "-fPIC", "-Wl,-soname,libinner.so.1")
	link("libinner1", libs+"/libinner.so.1", "libinner.so.1.2")
	compile("libouter1", libs+"/libouter.so.1", "int inner(void); int outer(void) { return inner(); }", "-shared", "-fPIC", "-Wl,-soname,libouter.so.1", path(libs+"/libinner.so.1"))
	compile("tool", "usr/sbin/tool", "int outer(void); void _start(void) { outer(); }", path(libs+"/libouter.so.1"),
		"-Wl,--unresolved-symbols=ignore-in-shared-libs", "-Wl,--dynamic-linker=/lib64/ld-test.so.2")
	compile("loader", libs+"/ld-test.so.2", "void _start(void) {}", "-shared", "-fPIC")
	link("loader", "usr/lib64/ld-test.so.2", "/"+libs+"/ld-test.so.2")
	compile("unused", libs+"/libunused.so.1", "int unused(void) { return 1; }", "-shared", "-fPIC")

	names, err := root.closure("usr/sbin/tool")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"lib64/ld-test.so.2", libs + "/libinner.so.1", libs + "/libouter.so.1", "usr/sbin/tool"}; !slices.Equal(names, want) {
		t.Errorf("closure %v, want %v", names, want)
	}
	for name, owner := range map[string]string{"lib64/ld-test.so.2": "loader", libs + "/libinner.so.1": "libinner1"} {
		file, got, err := root.resolve(name)
		if err != nil || got != owner || !strings.HasPrefix(file, root.dir) {
			t.Errorf("%s is %s of %s, %v", name, file, got, err)
		}
	}

	if err := os.Remove(path(libs + "/libinner.so.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := root.closure("usr/sbin/tool"); err == nil || !strings.Contains(err.Error(), "needs libinner.so.1") {
		t.Errorf("a missing library: %v", err)
	}
}

func TestBelow(t *testing.T) {
	root := debianRoot{dir: t.TempDir(), owner: map[string]string{"usr/share/certs/b.crt": "certs", "usr/share/certs/a.crt": "certs", "usr/share/certs-doc/c": "certs", "usr/sbin/tool": "tool"}}
	names, err := root.below("usr/share/certs")
	if want := []string{"usr/share/certs/a.crt", "usr/share/certs/b.crt"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v, want %v", names, err, want)
	}
	if _, err := root.below("usr/share/none"); err == nil {
		t.Error("a folder that no package has is taken for an empty one")
	}
}
