package host

import (
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// machines is what hosts call the architectures for which there are bundles (uname -m).
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// otherMachine is the exit status of a host that lacks this binary, and whose processor could not run it.
const otherMachine = 120

// machineIs begins the line in which such a host says what its processor is.
const machineIs = "quorate host machine: "

// machineIn finds what a host said about its processor; empty if it said nothing.
func machineIn(stderr string) string {
	for line := range strings.Lines(stderr) {
		if _, m, ok := strings.Cut(line, machineIs); ok {
			return strings.TrimSpace(m)
		}
	}
	return ""
}

// machineError says that a host has another processor than the one that a binary is for.
type machineError struct{ arch, machine string }

func (e *machineError) Error() string {
	return fmt.Sprintf("the host cannot run this program, which is for linux/%s: its processor is %s", e.arch, cmp.Or(e.machine, "unknown"))
}

// UnsupportedMachineError says that no quorate can run on a host.
type UnsupportedMachineError struct{ Machine string }

func (e *UnsupportedMachineError) Error() string {
	if e.Machine == "" {
		return "the host does not say what its processor is: no program is uploaded to a host of unknown architecture; `uname -m` must work there (package coreutils)"
	}
	return fmt.Sprintf("the host's processor is %s, and hosts can be x86_64 (amd64) or aarch64 (arm64): use another one, or remove it from the spec", e.Machine)
}

var others = struct {
	sync.Mutex
	found map[string]self
}{found: map[string]self{}}

// executableFor is this program for hosts with another processor than this machine's. It lies next to the binary that runs.
func executableFor(machine string) (self, error) {
	arch := ""
	for a, m := range machines {
		if m == machine {
			arch = a
		}
	}
	if arch == "" {
		return self{}, &UnsupportedMachineError{machine}
	}
	own, err := os.Executable()
	if err != nil {
		return self{}, fmt.Errorf("finding this program's own binary: %w", err)
	}
	others.Lock()
	defer others.Unlock()
	if s, ok := others.found[arch]; ok {
		return s, nil
	}
	path := filepath.Join(filepath.Dir(own), "quorate-linux-"+arch)
	if err := sameSources(own, path, arch); err != nil {
		return self{}, fmt.Errorf("the host is linux/%s, and this program is for linux/%s: %w; put the same version of quorate for linux/%s at %s (from its sources: `make bin/quorate-linux-%s`)",
			arch, runtime.GOARCH, err, arch, path, arch)
	}
	s, err := selfOf(path, arch)
	if err == nil {
		others.found[arch] = s
	}
	return s, err
}

// sameSources refuses a binary that is not for an architecture, or that was built from other sources than this program: the two sides of a
// session must agree on what they say to each other.
func sameSources(own, other, arch string) error {
	f, err := elf.Open(other)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist", other)
	case err != nil:
		return fmt.Errorf("%s is no program: %w", other, err)
	}
	machine := f.Machine
	if err := f.Close(); err != nil {
		return err
	}
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; machine != want {
		return fmt.Errorf("%s is a program for another architecture (%s)", other, machine)
	}
	ours, err := sourcesOf(own)
	if err != nil {
		return err
	}
	theirs, err := sourcesOf(other)
	if err != nil {
		return err
	}
	if ours != theirs {
		return fmt.Errorf("%s was built from other sources (%s) than this program (%s)", other, theirs, ours)
	}
	return nil
}

// sourcesOf says what Go noted in a binary about its sources: the revision, and whether the files were changed since. Without either, it is the
// version of the module.
func sourcesOf(path string) (string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading what %s was built from: %w", path, err)
	}
	out := info.Path + " " + info.Main.Version
	for _, s := range info.Settings {
		if strings.HasPrefix(s.Key, "vcs.") {
			out += " " + s.Key + "=" + s.Value
		}
	}
	return out, nil
}
