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
	for _, content := range []string{f.Content, WrittenBy + "a. y\n", "somebody's again"} {
		f.Content = content
		if did, err := write(f); err != nil || !did {
			t.Fatal(did, err)
		}
	}
	if kept, err := os.ReadFile(f.Path + facts.Kept); err != nil || string(kept) != "theirs" {
		t.Errorf("%q, %v", kept, err)
	}
}
