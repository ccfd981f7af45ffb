package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// other is an architecture that is not this machine's.
var other = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]

// TestAnotherProcessor: a host says what its processor is before it gets a binary that it could not run.
func TestAnotherProcessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quorate")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	me, err := selfOf(path, other)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := strings.NewReplacer("/var/lib/quorate", dir+"/lib", "/run/quorate", dir+"/run").Replace(serveScript(me))
	cmd := exec.Command("sh", "-c", script)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != otherMachine {
		t.Fatalf("got %v", err)
	}
	if got := machineIn("sudo: a lecture\n" + stderr.String() + "more\n"); got != machines[runtime.GOARCH] {
		t.Errorf("the host said %q, which is read as %q", stderr.String(), got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}

// TestWhichProgramCannotRun: it is the one that the host was given, which is not always that of this machine.
func TestWhichProgramCannotRun(t *testing.T) {
	cause := errors.New("exit status 126")
	for arch, want := range map[string]string{other: "which is for linux/" + other + ": exit", runtime.GOARCH: "which is for linux/" + runtime.GOARCH + ": exit", "": "its copy of quorate: exit"} {
		if err := cannotRun(arch, cause); !strings.Contains(err.Error(), want) || !errors.Is(err, cause) {
			t.Errorf("%q: %v", arch, err)
		}
	}
	if err := (&machineError{other, "riscv64"}).Error(); !strings.Contains(err, "linux/"+other+": its processor is riscv64") {
		t.Error(err)
	}
	own, err := RemotePathFor(runtime.GOARCH)
	if _, want, _ := RemotePath(); err != nil || own != want {
		t.Errorf("%s, %v", own, err)
	}
	if _, err := RemotePathFor(other); err == nil || !strings.Contains(err.Error(), "quorate-linux-"+other) {
		t.Errorf("there is no program for it here: %v", err)
	}
}

func TestProcessorsThatCannotBeUsed(t *testing.T) {
	for machine, want := range map[string]string{"riscv64": "riscv64, and hosts can be x86_64 (amd64) or aarch64 (arm64)", "": "does not say what its processor is", "i686": "i686"} {
		_, err := executableFor(machine)
		var unsupported *UnsupportedMachineError
		if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", machine, err)
		}
	}
	// The tests have no binary for another architecture next to them.
	if _, err := executableFor(machines[other]); err == nil || !strings.Contains(err.Error(), "make bin/quorate-linux-"+other) || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("got %v", err)
	}
}

// TestSameSources compiles small programs for both architectures: what a host is given must be for it, and of the same sources.
func TestSameSources(t *testing.T) {
	build := func(module, arch string) string {
		t.Helper()
		dir := t.TempDir()
		for name, content := range map[string]string{"go.mod": "module " + module + "\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("go", "build", "-o", "program", ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return filepath.Join(dir, "program")
	}
	own := build("quorate.test/one", runtime.GOARCH)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ other, want string }{
		"good":             {build("quorate.test/one", other), ""},
		"of other sources": {build("quorate.test/two", other), "was built from other sources"},
		"for this machine": {own, "is a program for another architecture"},
		"no program":       {text, "is no program"},
		"not there":        {filepath.Join(t.TempDir(), "nothing"), "does not exist"},
	} {
		err := sameSources(own, tc.other, other)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestTheSameSourcesForAnotherArchitecture: a unit on a host of one architecture may ask hosts of the other one, if both have the same revision.
func TestTheSameSourcesForAnotherArchitecture(t *testing.T) {
	const revision = sourcesAsked + "0123456789abcdef0123456789abcdef01234567"
	for command, want := range map[string]bool{
		"sh -c 'x" + AskFor("other") + revision + "'": true,
		AskFor("other") + sourcesAsked + "0123":       false,
		AskFor("other"):                               false,
		AskFor("own"):                                 true,
		AskFor("own") + sourcesAsked + "x":            true,
		"":                                            false,
	} {
		if got := sameBuild(command, "own", revision); got != want {
			t.Errorf("%q: %v", command, got)
		}
	}
	if sameBuild(AskFor(""), "", "") || sameBuild("anything", "", "") {
		t.Error("a program that does not know what it is takes everybody for the same")
	}
}
