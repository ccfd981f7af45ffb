package bundle

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/progress"
)

// program is the head of an ELF file for an architecture, which is all that tells what it is for.
func program(t *testing.T, arch string) []byte {
	t.Helper()
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(head[16:], 2) // an executable
	binary.LittleEndian.PutUint16(head[18:], uint16(platforms[arch].machine))
	binary.LittleEndian.PutUint32(head[20:], 1)
	binary.LittleEndian.PutUint16(head[52:], 64) // its own size
	binary.LittleEndian.PutUint16(head[54:], 56)
	binary.LittleEndian.PutUint16(head[58:], 64)
	return head
}

func TestProgramsForAnotherArchitectureAreRefused(t *testing.T) {
	write := func(content []byte) entry {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return entry{name: "bin/it", source: file}
	}
	for _, arch := range components.Architectures {
		other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]
		harmless := []entry{{name: "dir", dir: true}, {name: "link", link: "it"}, write([]byte("#!/bin/sh\n")), write(nil), write(program(t, arch))}
		if err := madeFor(arch, harmless); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		err := madeFor(arch, append(harmless, write(program(t, other))))
		if err == nil || !strings.Contains(err.Error(), "bin/it is a program for "+other+", not for "+arch) {
			t.Errorf("%s: %v", arch, err)
		}
	}
}

// TestMirrorForAnotherArchitecture assembles a bundle whose programs do not run on this machine: the kubeadm for this machine is asked instead.
func TestMirrorForAnotherArchitecture(t *testing.T) {
	const at = "https://one.test/v1/{arch}/kubeadm"
	kubeadm := components.PublishedFile{Component: "kubernetes", Version: "v1.0.0", URL: at, Checksum: at + ".sha512",
		Programs: map[string]string{"usr/local/bin/kubeadm": ""}, Kubeadm: "usr/local/bin/kubeadm"}
	published := syntheticPublished
	published.Files = append([]components.PublishedFile{kubeadm.For(otherArch)}, published.Files[1:]...)
	for name, tc := range map[string]struct {
		theirs []byte
		harm   func(t *testing.T, m *mirror)
		want   string
	}{
		"good":                    {append(program(t, otherArch), "\x00v1.0.0\x00"...), nil, ""},
		"another release":         {append(program(t, otherArch), "\x00v0.9.0\x00"...), nil, "does not contain this version"},
		"for this machine":        {append(program(t, archOfHere), "\x00v1.0.0\x00"...), nil, "is a program for " + archOfHere + ", not for " + otherArch},
		"an image for this kind":  {append(program(t, otherArch), "\x00v1.0.0\x00"...), func(t *testing.T, m *mirror) { m.pushImage(t, "mirrored/net/proxy:v2.0", "linux", archOfHere, "proxy") }, "none for linux/" + otherArch},
		"no kubeadm that can run": {append(program(t, otherArch), "\x00v1.0.0\x00"...), func(_ *testing.T, m *mirror) { m.files.Delete("one.test/v1/" + archOfHere + "/kubeadm.sha512") }, "/" + archOfHere + "/kubeadm.sha512"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("QUORATE_CACHE", t.TempDir())
			m := startMirror(t)
			m.publish(t)
			for arch, content := range map[string][]byte{otherArch: tc.theirs, archOfHere: []byte(programs["kubeadm"])} {
				sum := sha512.Sum512(content)
				m.files.Store("one.test/v1/"+arch+"/kubeadm", content)
				m.files.Store("one.test/v1/"+arch+"/kubeadm.sha512", []byte(hex.EncodeToString(sum[:])))
			}
			m.pushImage(t, "mirrored/group/server:v1.0.0", "linux", otherArch, "server", "shared")
			m.pushImage(t, "mirrored/net/proxy:v2.0", "linux", otherArch, "proxy", "shared")
			if tc.harm != nil {
				tc.harm(t, m)
			}
			w := testWorkshop(syntheticRelease)
			w.arch, w.cache = otherArch, filepath.Join(os.Getenv("QUORATE_CACHE"), "components")
			b, err := w.get(t.Context(), published, GetOptions{Version: "v1.0.0", Arch: otherArch, Mirror: m.mirror(), Progress: progress.Discard})
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if b.Arch() != otherArch || b.Dir() != DirFor("v1.0.0", otherArch) {
				t.Errorf("%s in %s", b.Arch(), b.Dir())
			}
			if got := filesOf(t, b, b.Host())["usr/local/bin/kubeadm"]; got != string(tc.theirs) {
				t.Error("hosts do not get the kubeadm of their architecture")
			}
			if damages, err := b.Verify(t.Context()); err != nil || len(damages) > 0 {
				t.Errorf("damaged: %v %v", damages, err)
			}
			// It can be carried like any other, and lies where hosts of its architecture look for it.
			t.Setenv("QUORATE_CACHE", t.TempDir())
			if back, err := Import(t.Context(), bytes.NewReader(export(t, b))); err != nil || back.Digest() != b.Digest() || back.Dir() != DirFor("v1.0.0", otherArch) {
				t.Errorf("imported: %v", err)
			}
			leftNothing(t, filepath.Join(os.Getenv("QUORATE_CACHE"), "bundles"), "v1.0.0-"+otherArch)
		})
	}
}

// TestPublishedKeys: bundles for several architectures are different ones, and that of this machine is the same however it was reached.
func TestPublishedKeys(t *testing.T) {
	keys := map[string]bool{}
	for _, arch := range components.Architectures {
		r, p, ok := components.PublishedFor(Versions()[0], arch)
		if !ok {
			t.Fatal(arch)
		}
		keys[publishedKey(r, p)] = true
		for i, f := range p.Files {
			for _, other := range components.Architectures {
				p.Files[i] = f.For(other).For(arch)
				if p.Files[i].URL != f.URL || p.Files[i].Checksum != f.Checksum {
					t.Errorf("%s became %s", f.URL, p.Files[i].URL)
				}
			}
		}
		if !keys[publishedKey(r, p)] {
			t.Errorf("the key for %s depends on how its files were named", arch)
		}
	}
	if len(keys) != len(components.Architectures) {
		t.Errorf("%d keys", len(keys))
	}
}

// TestComponentsForAnotherArchitecture compiles real programs for it, and runs one in QEMU where that is installed (see `make test-arm64`).
func TestComponentsForAnotherArchitecture(t *testing.T) {
	emulator := os.Getenv("QUORATE_QEMU")
	if emulator == "" {
		t.Skip("QUORATE_QEMU does not name an emulator for " + otherArch)
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the emulator is for arm64")
	}
	names := []string{"cni", "pause", "runc", "nft"}
	w, _ := workshopFor(t, names...)
	w.arch = otherArch
	layers, err := w.makeAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		component, program string
		args, env          []string
		want               string
		fails              bool
	}{
		{"cni", "opt/cni/bin/host-local", nil, []string{"CNI_COMMAND=VERSION"}, `"supportedVersions"`, false},
		{"pause", "pause", []string{"-v"}, nil, "pause ", false},
		{"runc", "usr/local/bin/runc", []string{"--version"}, nil, "libseccomp: ", false},
		// With all of its libraries, it gets as far as a socket that the emulator does not have.
		{"nft", "usr/sbin/nft", []string{"--version"}, nil, "Unable to initialize Netlink socket", true},
	} {
		root := t.TempDir()
		unpackAll(t, layers[tc.component].file, root)
		cmd := exec.Command(emulator, append([]string{"-L", root, filepath.Join(root, tc.program)}, tc.args...)...)
		cmd.Env, cmd.Stdin = append(os.Environ(), tc.env...), strings.NewReader(`{"cniVersion":"1.0.0"}`)
		if out, err := cmd.CombinedOutput(); (err != nil) != tc.fails || !strings.Contains(string(out), tc.want) {
			t.Errorf("%s: %v\n%s", tc.program, err, out)
		}
	}
	// The components of this machine are others.
	w.arch = runtime.GOARCH
	for _, c := range w.release.Components {
		key, err := w.key(c)
		if err != nil || strings.Contains(layers[c.Name].file, key) || !slices.Contains(names, c.Name) {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// TestVersionsAreNotBeginnings: another release whose number begins with that of the wanted one is another one.
func TestVersionsAreNotBeginnings(t *testing.T) {
	for content, want := range map[string]bool{
		"\x00v1.37.2\x00": true, "v1.37.2": true, "is v1.37.2, of": true, "v1.37.20\x00 and v1.37.2\x00": true,
		"": false, "v1.37.20": false, "v1.37.2-rc.0": false, "v1.37.2+x": false, "v1.37.2.1": false, "v1.37": false,
	} {
		if got := hasVersion([]byte(content), "v1.37.2"); got != want {
			t.Errorf("%q: %t", content, got)
		}
	}
}

// unpackAll writes the files of a layer below a directory.
func unpackAll(t *testing.T, layer, root string) {
	t.Helper()
	if out, err := exec.Command("tar", "--zstd", "-xf", layer, "-C", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestTheBundleForAnotherArchitecture runs programs of the bundle that is in the cache of whoever runs the tests, in QEMU.
func TestTheBundleForAnotherArchitecture(t *testing.T) {
	emulator := os.Getenv("QUORATE_QEMU")
	if emulator == "" {
		t.Skip("QUORATE_QEMU does not name an emulator for " + otherArch)
	}
	version := Versions()[len(Versions())-1]
	b, err := Open(DirFor(version, otherArch))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range append(b.Images(), b.Host()) {
		raw, err := os.ReadFile(b.blobPath(i.Config.Digest))
		if err != nil {
			t.Fatal(err)
		}
		if want := `"architecture":"` + otherArch + `"`; !strings.Contains(string(raw), want) {
			t.Errorf("the configuration of %s has no %s", i.Name, want)
		}
	}
	root := t.TempDir()
	for _, layer := range b.Host().Layers {
		unpackAll(t, b.blobPath(layer.Digest), root)
	}
	for _, tc := range []struct{ program, argument, want string }{
		{"kubelet", "--version", "Kubernetes " + version},
		{"kube-apiserver", "--version", "Kubernetes " + version},
		{"etcd", "--version", "etcd Version: " + strings.TrimPrefix(b.Etcd(), "v")},
		{"containerd", "--version", "containerd "},
		{"runc", "--version", "libseccomp: "},
	} {
		// The emulator hands on the name by which a program was called, and the combined one goes by that.
		out, err := exec.Command(emulator, filepath.Join(root, "usr/local/bin", tc.program), tc.argument).CombinedOutput()
		if err != nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("%s: %v\n%s", tc.program, err, out)
		}
	}
}
