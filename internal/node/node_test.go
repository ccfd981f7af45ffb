package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
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

// TestConfigureAndFactsAgree goes through the protocol: what was configured must be what the facts then report, or a plan
// would never become empty.
func TestConfigureAndFactsAgree(t *testing.T) {
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	d := facts.Desired{Files: []facts.File{
		{Path: filepath.Join(dir, "a", "plain"), Content: "one\n", Mode: 0o600},
		{Path: filepath.Join(dir, "hosts"), Block: "cluster test", Content: "10.0.0.1 cp-a\n"},
	}}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	changed, err := Configure.On(t.Context(), c, d)
	if err != nil || len(changed) != 2 {
		t.Fatalf("changed %v, %v", changed, err)
	}
	var keys []string
	for _, f := range d.Files {
		keys = append(keys, f.Key())
	}
	f, err := ReadFacts.On(t.Context(), c, facts.Request{Files: append(keys, filepath.Join(dir, "missing"))})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range d.Files {
		if f.Files[file.Key()] != file.Sum() {
			t.Errorf("%s: the facts say %q, want %q", file.Key(), f.Files[file.Key()], file.Sum())
		}
	}
	if len(f.Files) != 2 || f.CPUs == 0 || f.MemoryBytes == 0 || f.Kernel == "" {
		t.Errorf("odd facts: %+v", f)
	}
	if changed, err = Configure.On(t.Context(), c, d); err != nil || len(changed) != 0 {
		t.Errorf("a second time: changed %v, %v", changed, err)
	}
	info, err := os.Stat(filepath.Join(dir, "a", "plain"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestFailedProgramSaysWhatItPrinted(t *testing.T) {
	err := Run(t.Context(), "sh", "-c", "echo first; echo the reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, "sh", "-c", "exit 0"); err != context.Canceled {
		t.Fatalf("cancelled: %v", err)
	}
}

func TestAPIServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.conf")
	if got := apiServer(path); got != "" {
		t.Errorf("no kubeconfig leads to %q", got)
	}
	if err := os.WriteFile(path, []byte("clusters:\n- cluster:\n    certificate-authority-data: c2VydmVyOiB4\n    server: https://10.0.0.12:6443\n  name: prod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := apiServer(path); got != "https://10.0.0.12:6443" {
		t.Errorf("it leads to %q", got)
	}
}
