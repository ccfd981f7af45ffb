package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"filippo.io/age"

	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/spec"
)

// names lists everything below a directory.
func names(t *testing.T, dir string) (out string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		out += path + "\n"
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestBadFiles: whatever is wrong with a file that is named, there is one error that names it, the exit status says whose fault it is, and nothing is
// changed.
func TestBadFiles(t *testing.T) {
	example, err := filepath.Abs("../../examples/stacked.yaml")
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(key, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", t.TempDir()) // with no key of SSH, no host is asked
	t.Setenv("SSH_AUTH_SOCK", "")
	dir := t.TempDir()
	t.Chdir(dir)
	writeFiles(t, map[string]string{"empty": "", "binary": "\x80\x81\x00\xffnot text", "utf16": "\xff\xfea", "text": "some words\n", "list": "[1, 2]\n", "half": "{\"a\": "})
	if err := os.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("nowhere", "dangling"), os.Symlink("loop", "loop")); err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	for _, line := range []string{
		"validate -f ./FILE", "plan --by-hand -f ./FILE", "status -f ./FILE", "audit --spec-only -f ./FILE", "size -f ./FILE", "up -f ./FILE", "apply -f ./FILE", "down -f ./FILE", "reset --all -f ./FILE --yes",
		"init --from-terraform ./FILE --to new", "init --from-ansible ./FILE --to new",
		"drill --objectives ./FILE --yes -f " + example, "dashboard --drill ./FILE --snapshot new -f " + example,
		"backup verify --identity ./FILE ./text", "backup verify --identity " + key + " ./FILE", "up --from-backup ./FILE --identity " + key,
		"restore --identity ./FILE ./text -f " + example, "bundle import ./FILE",
		"bundle pull --releases https://127.0.0.1:1 --registry 127.0.0.1:1 --ca-file ./FILE",
	} {
		for _, file := range []string{"missing", "dir", "dangling", "loop", "empty", "binary", "utf16", "text", "list", "half", "text/below"} {
			code, out, errOut := quorate(t, strings.Fields(strings.ReplaceAll(line, "FILE", file))...)
			want := exitUsage
			// What is in a file that should be a backup or a bundle is not a matter of usage, and neither is what a mirror's certificate is.
			content := strings.Contains(line, "import ") || strings.Contains(line, "--from-backup") || strings.HasSuffix(line, key+" ./FILE") || strings.Contains(line, "--ca-file")
			if _, err := os.ReadFile(file); content && err == nil {
				want = exitFailed
			}
			last := errOut[strings.LastIndex(strings.TrimSuffix(errOut, "\n"), "quorate: ")+1:]
			if code != want || out != "" || !strings.Contains(errOut, file) || strings.Contains(errOut, "goroutine ") || len(last) > 1000 {
				t.Errorf("quorate %s with %s: exit status %d, stdout %q, stderr %q; want %d and the name of the file", line, file, code, out, errOut, want)
			}
			if after := names(t, dir); after != before {
				t.Fatalf("quorate %s with %s: there was\n%s\nand there is\n%s", line, file, before, after)
			}
		}
	}
}

// TestResultsThatCannotBeWritten are refused before the work, or at least said.
func TestResultsThatCannotBeWritten(t *testing.T) {
	example, err := filepath.Abs("../../examples/stacked.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := errors.Join(os.Mkdir("dir", 0o700), os.WriteFile("file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"init --to file/x", "init --to dir --yes", "kubeconfig --to dir --merge -f " + example, "kubeconfig --to file/x -f " + example,
		"drill --yes --html dir -f " + example, "drill --yes --json file/x -f " + example, "drill --yes --junit dir -f " + example,
		"dashboard --snapshot dir -f " + example, "backup fetch NAME file/x -f " + example, "backup fetch NAME file -f " + example, "monitoring dashboards --out file",
	} {
		code, out, errOut := quorate(t, strings.Fields(line)...)
		if code != exitUsage || out != "" || !strings.Contains(errOut, "cannot be written") && !strings.Contains(errOut, "already exists") && !strings.Contains(errOut, "not a directory") {
			t.Errorf("quorate %s: exit status %d, stdout %q, stderr %q", line, code, out, errOut)
		}
	}
}

// TestWhatIsWrongIsFoundBeforeAnyHostIsAsked: an argument that is wrong costs nobody a connection, and no confirmation of keys.
func TestWhatIsWrongIsFoundBeforeAnyHostIsAsked(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("SSH_AUTH_SOCK", "")
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var asked atomic.Int32
	go func() {
		for {
			nc, err := listener.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			nc.Close()
		}
	}()
	key, _, err := sshtest.NewKey(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := spec.Load("../../examples/stacked.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].SSH = spec.SSH{Address: fmt.Sprintf("127.0.0.%d", i+2), User: "root", Port: listener.Addr().(*net.TCPAddr).Port, KeyFile: key, KnownHostsFile: filepath.Join(dir, "known")}
	}
	text, err := spec.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	writeFiles(t, map[string]string{"cluster.yaml": string(text), "identity": identity.String() + "\n", "backup": "no backup", "damaged": "{damaged", "report": "{}"})
	for _, line := range []string{
		"restore --identity missing backup", "restore --identity identity ./missing", "restore --identity identity --keys missing backup", "restore --identity identity --replace-cluster other backup",
		"restore --from-data nobody:/mnt", "restore --from-data missing", "recover --data nobody:/mnt", "recover --from nobody", "maintain nobody", "maintain zone/none", "reset nobody", "reset --yes cp-a nobody",
		"kubeconfig --to damaged --merge", "kubeconfig --to backup", "drill --yes --objectives damaged", "drill --yes --html missing/x/y -f missing", "dashboard --drill report --snapshot new",
		"dashboard --tls-cert damaged --tls-key damaged", "lab scale --nodes 5", "up --from-backup backup --identity missing", "up --from-backup backup --identity identity --name Not_A_Name",
		"up --from-backup backup --identity identity --keys missing",
	} {
		code, _, errOut := quorate(t, strings.Fields(line)...)
		if n := asked.Swap(0); code != exitUsage || n != 0 {
			t.Errorf("quorate %s: exit status %d after %d connections, %s", line, code, n, errOut)
		}
	}
	for _, line := range []string{"recover", "status"} {
		if code, _, errOut := quorate(t, line); asked.Swap(0) == 0 {
			t.Errorf("quorate %s connects to no host, so this test proves nothing: exit status %d, %s", line, code, errOut)
		}
	}
}

// TestAnIdentityIsReadOnce: it may be a pipe, as with --identity <(pass show backup).
func TestAnIdentityIsReadOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("backup", []byte("no backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := fmt.Fprintln(w, identity); err != nil {
		t.Fatal(err)
	}
	w.Close()
	code, _, errOut := quorate(t, "up", "--from-backup", "backup", "--identity", fmt.Sprintf("/dev/fd/%d", r.Fd()))
	if code != exitFailed || !strings.Contains(errOut, "verifying the backup backup: ") {
		t.Errorf("exit status %d, %s", code, errOut)
	}
}

// TestHostsAreAskedBeforeABundleIsMade: compiling one takes half an hour, and whoever cannot reach any host learns that immediately.
func TestHostsAreAskedBeforeABundleIsMade(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("QUORATE_STATE", dir)
	t.Setenv("QUORATE_CACHE", dir)
	c, err := spec.Load("../../examples/stacked.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Spec.Hosts { // nobody has a key, so nothing is dialed
		c.Spec.Hosts[i].SSH = spec.SSH{KnownHostsFile: filepath.Join(dir, "known")}
	}
	c.Spec.Components = spec.Components{Source: spec.SourceBundle, File: filepath.Join(dir, "no-bundle.tar")}
	text, err := spec.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	writeFiles(t, map[string]string{"cluster.yaml": string(text), "identity": identity.String() + "\n", "backup": "no backup"})
	for _, line := range []string{"apply", "up", "restore --identity identity ./backup", "restore --from-data ."} {
		code, _, errOut := quorate(t, strings.Fields(line)...)
		if code != exitRefused || strings.Contains(errOut, "no-bundle") || !strings.Contains(errOut, "no host can be reached") {
			t.Errorf("quorate %s: exit status %d, %s", line, code, errOut)
		}
		for _, h := range c.Spec.Hosts {
			if !strings.Contains(errOut, h.Name+": no SSH key") {
				t.Errorf("quorate %s does not say why %s cannot be reached: %s", line, h.Name, errOut)
			}
		}
	}
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	var says bytes.Buffer
	if code := Main(ctx, []string{"apply"}, strings.NewReader(""), io.Discard, &says); code != exitFailed || !strings.Contains(says.String(), errInterrupted.Error()) {
		t.Errorf("interrupted: exit status %d, %s", code, &says)
	}
}

// writeFiles writes files into the current directory.
func writeFiles(t *testing.T, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestAResultThatDidNotArriveIsAFailure, whatever prints it.
func TestAResultThatDidNotArriveIsAFailure(t *testing.T) {
	t.Setenv("QUORATE_STATE", t.TempDir())
	t.Setenv("QUORATE_CACHE", t.TempDir())
	for _, line := range []string{"version", "version -o json", "--help", "help plan", "lab --help", "completion bash", "init --to -", "validate -f ../../examples/stacked.yaml", "validate --schema", "size --nodes 5",
		"plan --by-hand -f ../../examples/stacked.yaml", "monitoring rules", "monitoring dashboards", "bundle list", "bundle sources", "lab list", "audit --spec-only -f ../../examples/stacked.yaml"} {
		var errOut bytes.Buffer
		code := Main(t.Context(), strings.Fields(line), strings.NewReader(""), full{}, &errOut)
		if code != exitFailed || !strings.Contains(errOut.String(), "no space left on device") {
			t.Errorf("quorate %s: exit status %d, %s", line, code, errOut.String())
		}
	}
}

func TestWhoMay(t *testing.T) {
	t.Setenv("QUORATE_CACHE", "/some/cache")
	t.Setenv("QUORATE_STATE", "/some/state")
	for path, want := range map[string]string{"/some/cache/bundles/x": "QUORATE_CACHE", "/some/state": "QUORATE_STATE", "/run/quorate/.lock": "Run it as root.", "/some/cached": "", "/etc/x": ""} {
		err := fmt.Errorf("build: %w", &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission})
		if got := whoMay(err); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := whoMay(&fs.PathError{Op: "open", Path: "/some/cache/x", Err: fs.ErrNotExist}); got != "" {
		t.Error(got)
	}
}
