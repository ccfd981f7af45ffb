package bundle

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"quorate.dev/quorate/components"
)

// foreign reports whether programs for an architecture cannot be expected to run on this machine.
func foreign(arch string) bool { return arch != runtime.GOARCH }

// platforms is what tools call the architectures.
var platforms = map[string]struct {
	triplet string // GNU's and Debian's name
	machine elf.Machine
}{
	"amd64": {"x86_64-linux-gnu", elf.EM_X86_64},
	"arm64": {"aarch64-linux-gnu", elf.EM_AARCH64},
}

// compilerFor is the C compiler for an architecture.
func compilerFor(arch string) string {
	if foreign(arch) {
		return platforms[arch].triplet + "-gcc"
	}
	return "gcc"
}

// Requirements are the Debian packages that building a bundle for an architecture needs in addition to Go, apt, and dpkg. The
// empty architecture is this machine's. The first has the compiler, the second the C library.
func Requirements(arch string) []string {
	if arch == "" || !foreign(arch) {
		return []string{"gcc", "libc6-dev", "libseccomp-dev", "pkg-config"}
	}
	// There is no cross package of libseccomp: see libraries.
	return []string{"gcc-" + strings.ReplaceAll(platforms[arch].triplet, "_", "-"), "libc6-dev-" + arch + "-cross", "pkg-config"}
}

// libraries gets the C libraries that a component for another architecture is linked with, and returns the environment in which
// the compiler finds them. Debian installs them only on machines where its foreign architectures are set up, so they are
// unpacked to the component's own directory.
func (w *workshop) libraries(ctx context.Context, c components.Component, dir workDir) ([]string, error) {
	if !c.Go.Cgo || !foreign(w.arch) {
		return nil, nil
	}
	const library = "libseccomp-dev"
	packages, err := downloadPackages(ctx, library, w.arch, dir)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(packages, func(p debianPackage) bool { return p.name == library })
	if i < 0 {
		return nil, fmt.Errorf("apt did not download %s", library)
	}
	root := filepath.Join(dir.root, "libraries")
	if _, err := (command{what: "unpack " + library}).output(ctx, "dpkg-deb", "--extract", packages[i].file, root); err != nil {
		return nil, err
	}
	lib := filepath.Join(root, "usr", "lib", platforms[w.arch].triplet)
	return []string{
		"PKG_CONFIG_LIBDIR=" + filepath.Join(lib, "pkgconfig"),
		"CGO_CFLAGS=-O2 -g -I" + filepath.Join(root, "usr", "include"),
		"CGO_LDFLAGS=-L" + lib,
	}, nil
}

// kubeadmPackage has the kubeadm of Kubernetes.
const kubeadmPackage = "k8s.io/kubernetes/cmd/kubeadm"

// kubeadmHere compiles kubeadm for this machine, from the sources of a component that was compiled for another one.
func (w *workshop) kubeadmHere(ctx context.Context, c components.Component, dir workDir) (string, error) {
	w.note(c, "compile kubeadm for this machine")
	file := filepath.Join(dir.root, "here", "kubeadm")
	build := command{what: "compile kubeadm for this machine", dir: dir.src(), env: goEnv(runtime.GOARCH, false)}
	_, err := build.output(ctx, w.tools.goTool, "build", "-trimpath", "-tags="+strings.Join(c.Go.Tags, ","), "-ldflags="+ldflags(c.Go), "-o", file, kubeadmPackage)
	return file, downloadError("the Go modules of kubeadm", err)
}

// kubeadmOf gets the released kubeadm for this machine, to ask it instead of the one in a release for another architecture. The latter cannot be
// asked for its version, so it must at least contain it.
func (g *gathering) kubeadmOf(ctx context.Context, f components.PublishedFile, root string) (string, error) {
	theirs, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(f.Kubeadm)))
	if err != nil {
		return "", err
	}
	if !hasVersion(theirs, g.release.Kubernetes) {
		return "", fmt.Errorf("the kubeadm that was downloaded as %s for %s does not contain this version: the source serves another release under this name, which a checksum from the same place does not show; do not use it", g.release.Kubernetes, g.arch)
	}
	here := filepath.Join(root, "here")
	_, err = g.oneRelease(ctx, f.For(runtime.GOARCH), here)
	return filepath.Join(here, filepath.FromSlash(f.Kubeadm)), err
}

// hasVersion says whether a program contains a version, and not only as the beginning of another one, as v1.37.2 is of v1.37.20 and of v1.37.2-rc.0. The
// linker puts what it sets into a string that ends there.
func hasVersion(program []byte, version string) bool {
	for {
		i := bytes.Index(program, []byte(version))
		if i < 0 {
			return false
		}
		program = program[i+len(version):]
		if len(program) == 0 || !strings.ContainsRune("0123456789.-+", rune(program[0])) {
			return true
		}
	}
}

// madeFor makes sure that the programs among the entries of a layer are for an architecture.
func madeFor(arch string, entries []entry) error {
	for _, e := range entries {
		if e.source == "" {
			continue
		}
		f, err := elf.Open(e.source)
		if err != nil {
			continue // a script, or a text
		}
		machine := f.Machine
		if err := f.Close(); err != nil {
			return err
		}
		if machine != platforms[arch].machine {
			return fmt.Errorf("%s is a program for %s, not for %s", e.name, architectureOf(machine), arch)
		}
	}
	return nil
}

// architectureOf is GOARCH's word for a machine, or that of the ELF format.
func architectureOf(machine elf.Machine) string {
	for arch, p := range platforms {
		if p.machine == machine {
			return arch
		}
	}
	return machine.String()
}
