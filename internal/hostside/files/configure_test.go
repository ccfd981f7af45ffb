package files

import (
	"os"
	"path/filepath"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

func TestBlocksLeaveTheRestOfAFileAlone(t *testing.T) {
	for name, tc := range map[string]struct{ have, want string }{
		"no file":         {"", "# BEGIN quorate x\nnew\n# END quorate x\n"},
		"no newline":      {"mine", "mine\n# BEGIN quorate x\nnew\n# END quorate x\n"},
		"an older block":  {"a\n# BEGIN quorate x\nold\n# END quorate x\nb\n", "a\n# BEGIN quorate x\nnew\n# END quorate x\nb\n"},
		"another's block": {"# BEGIN quorate y\nold\n# END quorate y\n", "# BEGIN quorate y\nold\n# END quorate y\n# BEGIN quorate x\nnew\n# END quorate x\n"},
	} {
		got := string(replaceBlock([]byte(tc.have), "x", []byte("new\n")))
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
		if again := string(replaceBlock([]byte(got), "x", []byte("new\n"))); again != got {
			t.Errorf("%s: a second time changes it to %q", name, again)
		}
	}
}

// TestOthersFilesAreKept, once, and ours are not.
func TestOthersFilesAreKept(t *testing.T) {
	f := facts.File{Path: filepath.Join(t.TempDir(), "haproxy.cfg"), Content: WrittenBy + "a. x\n", Keep: true}
	if err := os.WriteFile(f.Path, []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{f.Content, WrittenBy + "a. y\n", "somebody's again"} {
		f.Content = text
		if did, err := write(f); err != nil || did != content {
			t.Fatal(did, err)
		}
	}
	if kept, err := os.ReadFile(f.Path + facts.KeptSuffix); err != nil || string(kept) != "theirs" {
		t.Errorf("%q, %v", kept, err)
	}
}

// TestAccessIsCorrected in place: whoever reads the file need not restart for it.
func TestAccessIsCorrected(t *testing.T) {
	f := facts.File{Path: filepath.Join(t.TempDir(), "unit"), Content: "x\n", Mode: 0o600}
	if did, err := write(f); err != nil || did != content {
		t.Fatal(did, err)
	}
	before, err := os.Stat(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	spoil := []func() error{func() error { return os.Chmod(f.Path, 0o644) }}
	if os.Geteuid() == 0 {
		spoil = append(spoil, func() error { return os.Chown(f.Path, 65534, 65534) })
	}
	for i, spoil := range spoil {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if did, err := write(f); err != nil || did != access {
			t.Errorf("%d: did %d, %v", i, did, err)
		}
		after, err := os.Stat(f.Path)
		if err != nil || after.Mode().Perm() != 0o600 || !os.SameFile(before, after) {
			t.Errorf("%d: %v, %v", i, after.Mode(), err)
		}
		if did, err := write(f); err != nil || did != nothing {
			t.Errorf("%d: a second time: did %d, %v", i, did, err)
		}
	}
}

// TestBlocksKeepTheModeOfTheFile, which belongs to somebody else.
func TestBlocksKeepTheModeOfTheFile(t *testing.T) {
	f := facts.File{Path: filepath.Join(t.TempDir(), "hosts"), Block: "x", Content: "10.0.0.1 a\n"}
	if err := os.WriteFile(f.Path, []byte("127.0.0.1 localhost\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{content, nothing} {
		if did, err := write(f); err != nil || did != want {
			t.Errorf("did %d, want %d: %v", did, want, err)
		}
		if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
}
