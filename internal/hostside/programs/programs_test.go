package programs

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// testBundle is a bundle with the layout of a real one and small programs.
type testBundle struct {
	index []byte
	blobs map[digest.Digest][]byte
	files map[string][]byte // what is at each path, also through links
}

func (b *testBundle) digest() string { return digest.FromBytes(b.index).String() }

func (b *testBundle) add(content []byte, mediaType string) specs.Descriptor {
	d := digest.FromBytes(content)
	b.blobs[d] = content
	return specs.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// makeBundle makes a bundle of a version. files are its programs besides those that every bundle has.
func makeBundle(t testing.TB, version string, more ...string) *testBundle {
	t.Helper()
	b := &testBundle{blobs: map[digest.Digest][]byte{}, files: map[string][]byte{}}
	for _, p := range append([]string{"usr/local/bin/kubernetes", "usr/local/bin/containerd", "usr/local/bin/containerd-shim-runc-v2", "usr/local/bin/runc", "opt/cni/bin/bridge"}, more...) {
		b.files[p] = programContent(version + " " + p)
	}
	links := map[string]string{}
	for _, name := range []string{"kubelet", "kubeadm", "kubectl", "etcd"} {
		links["usr/local/bin/"+name] = "kubernetes"
	}
	var layer bytes.Buffer
	z, err := zstd.NewWriter(&layer)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	head := func(h *tar.Header, content []byte) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	head(&tar.Header{Typeflag: tar.TypeDir, Name: "usr/local/bin/", Mode: 0o755}, nil)
	for _, p := range slices.Sorted(maps.Keys(links)) {
		head(&tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: links[p], Mode: 0o777}, nil)
	}
	for _, p := range slices.Sorted(maps.Keys(b.files)) {
		head(&tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o755, Size: int64(len(b.files[p]))}, b.files[p])
	}
	for p, target := range links {
		b.files[p] = b.files[filepath.Join(filepath.Dir(p), target)]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	l := b.add(layer.Bytes(), specs.MediaTypeImageLayerZstd)
	l.Annotations = map[string]string{"quorate.dev/component": "all", "quorate.dev/component.version": version}
	manifest := b.add(encode(t, specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: b.add([]byte(`{}`), specs.MediaTypeImageConfig), Layers: []specs.Descriptor{l}}), specs.MediaTypeImageManifest)
	manifest.Annotations = map[string]string{"io.containerd.image.name": "quorate.dev/host:" + version, "quorate.dev/role": "host"}
	b.index = encode(t, specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{manifest},
		Annotations: map[string]string{"quorate.dev/kubernetes": version, "quorate.dev/arch": "amd64"}})
	return b
}

// programContent does not compress, so that it takes as long to write as to read.
func programContent(seed string) []byte {
	source := rand.NewChaCha8([32]byte([]byte(digest.FromString(seed).Encoded())[:32]))
	content := make([]byte, 200<<10+rand.New(source).IntN(100<<10))
	source.Read(content) //nolint:errcheck // it never fails
	return content
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func newStore(dir string) store {
	return store{filepath.Join(dir, "root"), blobs.Store{Dir: filepath.Join(dir, "blobs")}}
}

// bring does what a distribution does before a bundle is unpacked.
func (s store) bring(b *testBundle) error {
	for d, content := range b.blobs {
		if err := s.blobs.Put(d, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	return nil
}

// install is bring, unpack, and switchTo, as a host is installed for the first time.
func (s store) install(t testing.TB, b *testBundle, programs ...string) {
	t.Helper()
	if err := s.bring(b); err != nil {
		t.Fatal(err)
	}
	if err := s.unpack(t.Context(), b.index); err != nil {
		t.Fatal(err)
	}
	if err := s.switchTo(t.Context(), b.digest(), programs); err != nil {
		t.Fatal(err)
	}
}

func (s store) state(t testing.TB) State {
	t.Helper()
	state, err := s.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// runs reports whether a path on the host has the content of the bundle.
func (s store) runs(path string, b *testBundle) bool {
	got, err := os.ReadFile(filepath.Join(s.root, path))
	return err == nil && bytes.Equal(got, b.files[path])
}

func TestProgramsAreSwitchedOneAtATime(t *testing.T) {
	s := newStore(t.TempDir())
	one, two := makeBundle(t, "v1", "usr/local/bin/gone"), makeBundle(t, "v2", "usr/local/bin/new")
	s.install(t, one)
	if state := s.state(t); state.Binaries != one.digest() || len(state.Problems) > 0 || !slices.Equal(state.Bundles, []string{one.digest()}) {
		t.Fatalf("after the first bundle: %+v", state)
	}
	if err := s.bring(two); err != nil {
		t.Fatal(err)
	}
	if err := s.unpack(t.Context(), two.index); err != nil {
		t.Fatal(err)
	}
	for path := range one.files {
		if !s.runs(path, one) {
			t.Errorf("unpacking another bundle changed %s", path)
		}
	}
	switched := map[string]bool{}
	for _, program := range []string{facts.KubeadmProgram, facts.Containerd, facts.Kubelet, facts.CNIPlugins} {
		if err := s.switchTo(t.Context(), two.digest(), []string{program}); err != nil {
			t.Fatal(err)
		}
		switched[program] = true
		for path := range one.files {
			want := one
			if switched[facts.ProgramOf(path)] {
				want = two
			}
			if !s.runs(path, want) {
				t.Errorf("after %s: %s is not that of %s", program, path, want.index)
			}
		}
		state := s.state(t)
		if state.Binaries != "" || len(state.Bundles) != 2 || len(state.Problems) > 0 {
			t.Errorf("after %s: %+v", program, state)
		}
		for p, d := range state.Programs {
			if want := one.digest(); switched[p] && d != two.digest() || !switched[p] && d != want {
				t.Errorf("after %s: %s runs from %s", program, p, d)
			}
		}
	}
	if err := s.switchTo(t.Context(), two.digest(), nil); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); state.Binaries != two.digest() || len(state.Problems) > 0 {
		t.Errorf("after all: %+v", state)
	}
	if _, err := os.Lstat(filepath.Join(s.root, "usr/local/bin/gone")); !os.IsNotExist(err) {
		t.Errorf("a program that the new bundle does not have is still there: %v", err)
	}
	// And back, which is also just a switch.
	if err := s.switchTo(t.Context(), one.digest(), nil); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); state.Binaries != one.digest() || len(state.Problems) > 0 || !s.runs("usr/local/bin/gone", one) {
		t.Errorf("back again: %+v", state)
	}
}

// TestARestartIsNotForgotten when a run is killed between the switch and the restart.
func TestARestartIsNotForgotten(t *testing.T) {
	s := newStore(t.TempDir())
	one, two := makeBundle(t, "v1"), makeBundle(t, "v2")
	s.install(t, one)
	if err := s.bring(two); err != nil {
		t.Fatal(err)
	}
	if err := s.unpack(t.Context(), two.index); err != nil {
		t.Fatal(err)
	}
	r := SwitchRequest{Bundle: two.digest(), Programs: []string{facts.RuncProgram, facts.Containerd}}
	killed := errors.New("killed")
	if err := s.switchRunning(t.Context(), r, func() error { return killed }); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	state := s.state(t)
	if state.Programs[facts.Containerd] != "" || state.Programs[facts.Kubelet] != one.digest() || len(state.Problems) != 2 {
		t.Errorf("after the switch: %+v", state)
	}
	if err := s.prune(nil, ""); err != nil {
		t.Fatal(err)
	}
	restarted := 0
	if err := s.switchRunning(t.Context(), r, func() error { restarted++; return nil }); err != nil || restarted != 1 {
		t.Fatal(restarted, err)
	}
	if state := s.state(t); state.Programs[facts.Containerd] != two.digest() || len(state.Problems) > 0 {
		t.Errorf("after the restart: %+v", state)
	}
}

func TestPlainFilesAreMigrated(t *testing.T) {
	s := newStore(t.TempDir())
	b := makeBundle(t, "v1")
	for path := range b.files {
		file := filepath.Join(s.root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("former"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	running, err := os.Open(filepath.Join(s.root, "usr/local/bin/containerd"))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if state := s.state(t); state.Binaries != "" || len(state.Programs) > 0 {
		t.Errorf("before: %+v", state)
	}
	s.install(t, b)
	if state := s.state(t); state.Binaries != b.digest() || len(state.Problems) > 0 {
		t.Errorf("after: %+v", state)
	}
	for path := range b.files {
		if !s.runs(path, b) {
			t.Errorf("%s is not the bundle's", path)
		}
	}
	content := make([]byte, 6)
	if _, err := running.ReadAt(content, 0); err != nil || string(content) != "former" {
		t.Errorf("a program that runs has lost its file: %q, %v", content, err)
	}
}

// TestDamageIsFoundAndMended: by the facts, and by the next installation, which leaves intact files alone.
func TestDamageIsFoundAndMended(t *testing.T) {
	b := makeBundle(t, "v1")
	unpacked := func(s store, path string) string {
		return s.dir(digest.Digest(b.digest()).Encoded(), path)
	}
	for name, tc := range map[string]struct {
		damage func(store) error
		lost   []string // programs
		intact bool     // the bundle is, only what leads to it is not
	}{
		"an empty program":     {func(s store) error { return os.Truncate(unpacked(s, "usr/local/bin/runc"), 0) }, []string{facts.RuncProgram}, false},
		"a truncated program":  {func(s store) error { return os.Truncate(unpacked(s, "usr/local/bin/containerd"), 4096) }, []string{facts.Containerd}, false},
		"other content":        {func(s store) error { return overwrite(unpacked(s, "usr/local/bin/containerd-shim-runc-v2")) }, []string{facts.Containerd}, false},
		"a program is missing": {func(s store) error { return os.Remove(unpacked(s, "usr/local/bin/runc")) }, []string{facts.RuncProgram}, false},
		"its mode is wrong":    {func(s store) error { return os.Chmod(unpacked(s, "usr/local/bin/runc"), 0o700) }, []string{facts.RuncProgram}, false},
		"what links lead to is empty": {func(s store) error { return os.Truncate(unpacked(s, "usr/local/bin/kubernetes"), 0) },
			[]string{facts.Kubelet, facts.KubeadmProgram, facts.KubectlProgram, facts.EtcdProgram, facts.OtherPrograms}, false},
		"a link leads elsewhere":       {func(s store) error { return relink(unpacked(s, "usr/local/bin/kubelet"), "runc") }, []string{facts.Kubelet}, false},
		"another program in its place": {func(s store) error { return replace(filepath.Join(s.root, "usr/local/bin/kubelet")) }, []string{facts.Kubelet}, true},
		"an empty plugin":              {func(s store) error { return os.Truncate(filepath.Join(s.root, "opt/cni/bin/bridge"), 0) }, []string{facts.CNIPlugins}, true},
		"a plugin of another bundle": {func(s store) error {
			other := makeBundle(t, "v0")
			if err := s.bring(other); err != nil {
				return err
			}
			if err := s.unpack(t.Context(), other.index); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(s.root, "opt/cni/bin/bridge"), other.files["opt/cni/bin/bridge"], 0o755)
		}, []string{facts.CNIPlugins}, true},
		"a plugin that cannot be executed": {func(s store) error { return os.Chmod(filepath.Join(s.root, "opt/cni/bin/bridge"), 0o600) }, []string{facts.CNIPlugins}, true},
		"the mark is damaged": {func(s store) error { return os.Truncate(s.markFile(digest.Digest(b.digest()).Encoded()), 100) },
			facts.SwitchOrder, false},
		"the mark is missing": {func(s store) error { return os.Remove(s.markFile(digest.Digest(b.digest()).Encoded())) }, facts.SwitchOrder, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t.TempDir())
			s.install(t, b)
			if err := tc.damage(s); err != nil {
				t.Fatal(err)
			}
			before := inodes(t, s)
			state := s.state(t)
			if len(state.Problems) == 0 || state.Binaries != "" || slices.Contains(state.Bundles, b.digest()) != tc.intact {
				t.Errorf("nothing was noticed: %+v", state)
			}
			for _, p := range facts.SwitchOrder {
				if lost := slices.Contains(tc.lost, p); lost != (state.Programs[p] == "") {
					t.Errorf("%s runs from %q: %v", p, state.Programs[p], state.Problems)
				}
			}
			if err := s.switchTo(t.Context(), b.digest(), nil); (err == nil) != tc.intact {
				t.Errorf("switching to it: %v", err)
			}
			s.install(t, b)
			if state := s.state(t); state.Binaries != b.digest() || len(state.Problems) > 0 {
				t.Errorf("after another installation: %+v", state)
			}
			for path := range b.files {
				if !s.runs(path, b) {
					t.Errorf("%s was not mended", path)
				}
			}
			if strings.HasPrefix(name, "the mark") {
				return // without it nothing is known to be intact
			}
			changed := 0
			for path, inode := range inodes(t, s) {
				if before[path] != 0 && before[path] != inode {
					changed++
				}
			}
			if changed > 1 {
				t.Errorf("%d files were replaced to mend one", changed)
			}
		})
	}
}

// inodes are those of the files in unpacked bundles.
func inodes(t *testing.T, s store) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	files, err := filepath.Glob(s.dir("*", "*", "*", "bin", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Lstat(f, &st); err != nil {
			t.Fatal(err)
		}
		out[f] = st.Ino
	}
	return out
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("damage"), 1000)
	return err
}

func relink(path, target string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

func replace(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("by hand"), 0o755)
}

// TestACopyOfTheDiskIsReadOnce: files keep their content and get other times; this alone is no damage.
func TestACopyOfTheDiskIsReadOnce(t *testing.T) {
	s := newStore(t.TempDir())
	b := makeBundle(t, "v1")
	s.install(t, b)
	file := s.dir(digest.Digest(b.digest()).Encoded(), "usr/local/bin/runc")
	m, err := s.mark(digest.Digest(b.digest()).Encoded())
	if err != nil {
		t.Fatal(err)
	}
	past := time.Unix(1, 0)
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); state.Binaries != b.digest() || len(state.Problems) > 0 {
		t.Errorf("%+v", state)
	}
	if again, err := s.mark(digest.Digest(b.digest()).Encoded()); err != nil || !slices.Equal(again.Entries, m.Entries) {
		t.Errorf("reading the state wrote to the host: %v", err)
	}
	if err := s.unpack(t.Context(), b.index); err != nil {
		t.Fatal(err)
	}
	if again, err := s.mark(digest.Digest(b.digest()).Encoded()); err != nil || slices.Equal(again.Entries, m.Entries) {
		t.Errorf("the installation did not note that it has read the file: %v", err)
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := newStore(t.TempDir())
	b := makeBundle(t, "v1")
	s.install(t, b)
	for path := range b.files {
		for file := filepath.Join(s.root, path); file != s.root; file = filepath.Dir(file) {
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v, %v", file, info.Mode(), err)
			}
		}
	}
}

func TestNoexecIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	defer unix.Unmount(dir, 0) //nolint:errcheck // the directory goes with it
	s := newStore(dir)
	b := makeBundle(t, "v1")
	if err := s.bring(b); err != nil {
		t.Fatal(err)
	}
	if err := s.unpack(t.Context(), b.index); err == nil || !strings.Contains(err.Error(), "noexec") {
		t.Errorf("got %v", err)
	}
}

// TestProgramsHaveTheLabelOfTheirPlace, or systemd could not execute them on a host with SELinux.
func TestProgramsHaveTheLabelOfTheirPlace(t *testing.T) {
	s := newStore(t.TempDir())
	place := filepath.Join(s.root, "usr/local/bin")
	if err := os.MkdirAll(place, 0o755); err != nil {
		t.Fatal(err)
	}
	const want = "system_u:object_r:bin_t:s0\x00"
	if err := unix.Lsetxattr(place, "security.selinux", []byte(want), 0); err != nil {
		t.Skipf("the file system keeps no labels: %v", err)
	}
	b := makeBundle(t, "v1")
	s.install(t, b)
	for _, file := range []string{place + "/runc", filepath.Dir(s.dir(digest.Digest(b.digest()).Encoded(), "usr/local/bin/runc"))} {
		value := make([]byte, 100)
		n, err := unix.Getxattr(file, "security.selinux", value)
		if err != nil || string(value[:n]) != want {
			t.Errorf("%s has the label %q, %v", file, value[:max(n, 0)], err)
		}
	}
}

func TestPruneKeepsWhatIsUsed(t *testing.T) {
	s := newStore(t.TempDir())
	one, two, three := makeBundle(t, "v1"), makeBundle(t, "v2"), makeBundle(t, "v3")
	s.install(t, one)
	s.install(t, two, facts.Kubelet)
	s.install(t, three, facts.RuncProgram)
	if err := s.prune([]string{three.digest()}, ""); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); len(state.Bundles) != 3 || len(state.Problems) > 0 {
		t.Errorf("programs run from all three: %+v", state)
	}
	if err := s.switchTo(t.Context(), three.digest(), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.prune([]string{two.digest(), ""}, ""); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); state.Binaries != three.digest() || len(state.Bundles) != 2 || len(state.Problems) > 0 {
		t.Errorf("after the switch: %+v", state)
	}
	has := func(b *testBundle) bool {
		for d := range b.blobs {
			if problem, err := blobs.CheckFile(t.Context(), filepath.Join(s.blobs.Dir, "blobs", "sha256", d.Encoded()), d); problem != "" || err != nil {
				return false
			}
		}
		_, err := s.blobs.Open(b.digest())
		return err == nil
	}
	if has(one) || !has(two) || !has(three) {
		t.Errorf("blobs: first %t, second %t, third %t", has(one), has(two), has(three))
	}
	entries, err := os.ReadDir(s.dir())
	if err != nil || len(entries) != 5 { // two bundles with their marks, and current
		t.Errorf("%v, %v", entries, err)
	}
	if err := s.prune(nil, ""); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); state.Binaries != three.digest() || !slices.Equal(state.Bundles, []string{three.digest()}) || !has(three) || has(two) {
		t.Errorf("what runs was removed: %+v", state)
	}
}

// TestUnusedBundles are counted and removed, with the blobs that only they need. One from which a program runs, or whose images were imported, or
// that the caller needs, stays.
func TestUnusedBundles(t *testing.T) {
	s := newStore(t.TempDir())
	if got, err := s.unused(""); err != nil || len(got) > 0 {
		t.Errorf("an empty host: %v, %v", got, err)
	}
	old, imported, needed, running := makeBundle(t, "v1"), makeBundle(t, "v2"), makeBundle(t, "v3"), makeBundle(t, "v4")
	for _, b := range []*testBundle{old, imported, needed, running} {
		s.install(t, b)
	}
	stray := digest.FromBytes([]byte("stray"))
	if err := s.blobs.Put(stray, strings.NewReader("stray")); err != nil {
		t.Fatal(err)
	}
	got, err := s.unused(imported.digest())
	if err != nil || len(got) != 3 || got[old.digest()] == 0 || got[needed.digest()] == 0 || got[""] != int64(len("stray")) {
		t.Errorf("%v, %v", got, err)
	}
	before := system.Size(s.root) + system.Size(s.blobs.Dir)
	freed, err := s.removeUnused([]string{old.digest(), running.digest(), imported.digest(), "nonsense"}, imported.digest())
	if err != nil || freed != got[old.digest()]+got[""] {
		t.Errorf("%d bytes, %v", freed, err)
	}
	if after := system.Size(s.root) + system.Size(s.blobs.Dir); after > before-freed {
		t.Errorf("%d bytes before, %d after, and %d were freed", before, after, freed)
	}
	state := s.state(t)
	if state.Binaries != running.digest() || len(state.Bundles) != 3 || len(state.Problems) > 0 {
		t.Errorf("%+v", state)
	}
	for _, b := range []*testBundle{imported, needed, running} {
		if _, err := s.blobs.Open(b.digest()); err != nil {
			t.Error(err)
		}
	}
	got, err = s.unused(imported.digest())
	if err != nil || len(got) != 1 || got[needed.digest()] == 0 {
		t.Errorf("afterwards: %v, %v", got, err)
	}
}

// TestDamagedIndexes: while nobody knows which blobs are needed, all stay, the damage is named, and everything else is done.
func TestDamagedIndexes(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"it was cut off": func(path string) error { return os.Truncate(path, 10) },
		"it is missing":  os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t.TempDir())
			old, running := makeBundle(t, "v1"), makeBundle(t, "v2")
			s.install(t, old)
			s.install(t, running)
			count := func() int {
				entries, err := os.ReadDir(filepath.Join(s.blobs.Dir, "blobs", "sha256"))
				if err != nil {
					t.Fatal(err)
				}
				return len(entries)
			}
			all := count()
			index := filepath.Join(s.blobs.Dir, "indexes", digest.Digest(running.digest()).Encoded()+".json")
			if err := damage(index); err != nil {
				t.Fatal(err)
			}
			named := func(err error) {
				t.Helper()
				if d, is := errors.AsType[*blobs.DamagedError](err); !is || d.Bundles[running.digest()] == "" || !strings.Contains(d.Error(), running.digest()) {
					t.Errorf("the damage is not named: %v", err)
				}
			}
			unused, err := s.unused("")
			named(err)
			if unused[old.digest()] == 0 || unused[""] != 0 || len(unused) != 1 {
				t.Errorf("%v", unused)
			}
			freed, err := s.removeUnused([]string{old.digest()}, "")
			named(err)
			if freed != unused[old.digest()] || count() != all {
				t.Errorf("%d bytes were freed, and of %d blobs %d are left", freed, all, count())
			}
			if state := s.state(t); state.Binaries != running.digest() || len(state.Problems) > 0 || slices.Contains(state.Bundles, old.digest()) {
				t.Errorf("%+v", state)
			}
			named(s.prune(nil, ""))
			// The bundle comes again, and what is left of the other one goes.
			if err := s.bring(running); err != nil {
				t.Fatal(err)
			}
			if err := s.unpack(t.Context(), running.index); err != nil {
				t.Fatal(err)
			}
			if _, err := s.removeUnused([]string{old.digest()}, ""); err != nil || count() >= all {
				t.Errorf("%v, %d of %d blobs are left", err, count(), all)
			}
			if _, err := s.blobs.Open(running.digest()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOnlyOnAHost: what is next to a binary is removed only where it was uploaded, or is the copy for units.
func TestOnlyOnAHost(t *testing.T) {
	for self, want := range map[string]bool{
		host.BinDir + "/" + strings.Repeat("a", 64) + "/quorate": true, hostconfig.SelfPath: true,
		"/usr/local/bin/quorate": false, host.BinDir + "/x/quorate": false, "/tmp/" + strings.Repeat("a", 64) + "/quorate": false,
	} {
		if onHost(self) != want {
			t.Errorf("%s: %t", self, !want)
		}
	}
}

// TestPluginsOfOthersStay: a pod network brings its own, and nothing is wrong with that.
func TestPluginsOfOthersStay(t *testing.T) {
	s := newStore(t.TempDir())
	b := makeBundle(t, "v1")
	s.install(t, b)
	if err := replace(filepath.Join(s.root, "opt/cni/bin/bridge")); err != nil {
		t.Fatal(err)
	}
	if state := s.state(t); state.Binaries != b.digest() || len(state.Problems) > 0 {
		t.Errorf("%+v", state)
	}
}

func TestBundlesAreConfined(t *testing.T) {
	for name, head := range map[string]tar.Header{
		"outside":             {Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		"above":               {Typeflag: tar.TypeReg, Name: "usr/local/bin/../../../../x", Mode: 0o644},
		"a link out":          {Typeflag: tar.TypeSymlink, Name: "usr/local/bin/x", Linkname: "/etc/passwd"},
		"a link up":           {Typeflag: tar.TypeSymlink, Name: "usr/local/bin/x", Linkname: "../x"},
		"a device":            {Typeflag: tar.TypeChar, Name: "usr/local/bin/x"},
		"a hard link":         {Typeflag: tar.TypeLink, Name: "usr/local/bin/x", Linkname: "usr/local/bin/y"},
		"a folder in a place": {Typeflag: tar.TypeReg, Name: "usr/local/bin/x/y", Mode: 0o755},
	} {
		s := newStore(t.TempDir())
		if err := os.MkdirAll(s.dir("x"), 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(s.dir("x"))
		if err != nil {
			t.Fatal(err)
		}
		u := &unpacking{store: s, dir: s.dir("x"), root: root, old: &mark{}, mark: &mark{}}
		if err := u.entry(t.Context(), &head, strings.NewReader("")); err == nil {
			t.Errorf("%s was unpacked", name)
		}
		root.Close()
	}
}

func TestBinariesThatRunStay(t *testing.T) {
	dir := t.TempDir()
	name := func(n int) string { return fmt.Sprintf("%064x", n) }
	for n := range 4 {
		if err := os.MkdirAll(filepath.Join(dir, name(n)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skip(err)
	}
	running := filepath.Join(dir, name(2), "quorate")
	if err := os.WriteFile(running, sleep, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(running, []string{"quorate", "60"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.Kill(); p.Wait() }()
	if err := os.WriteFile(filepath.Join(dir, name(1), "quorate"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, name(1), "quorate"), filepath.Join(dir, "quorate")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "somebody-else's"), 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []bool{false, true} {
		before := info.ModTime().Add(-binaryLife)
		if old {
			before = info.ModTime().Add(binaryLife)
		}
		unused, err := unusedBinaries(dir, filepath.Join(dir, name(0), "quorate"), before)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range unused {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 4 {
			_, err := os.Stat(filepath.Join(dir, name(n)))
			if want := !old || n != 3; (err == nil) != want {
				t.Errorf("old: %t, binary %d: %v", old, n, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "somebody-else's")); err != nil {
		t.Error(err)
	}
}

// TestWhatKilledWritersLeftIsRemoved, once nobody can be writing it any more.
func TestWhatKilledWritersLeftIsRemoved(t *testing.T) {
	root, sum := t.TempDir(), strings.Repeat("a", 64)
	now := time.Now()
	for path, old := range map[string]bool{
		"usr/local/bin/.quorate-OLD": true, "usr/local/bin/.quorate-NEW": false, "usr/local/bin/kubelet": true,
		"var/lib/quorate/bin/" + sum + "/.upload.OLD": true, "var/lib/quorate/bin/" + sum + "/quorate": true,
	} {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if old {
			if err := os.Chtimes(file, now.Add(-2*binaryLife), now.Add(-2*binaryLife)); err != nil {
				t.Fatal(err)
			}
		}
	}
	left, err := temporaries(root, now.Add(-binaryLife))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		"usr/local/bin/.quorate-OLD": false, "usr/local/bin/.quorate-NEW": true, "usr/local/bin/kubelet": true,
		"var/lib/quorate/bin/" + sum + "/.upload.OLD": false, "var/lib/quorate/bin/" + sum + "/quorate": true,
	} {
		if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s is there: %t", path, err == nil)
		}
	}
	seen := t.TempDir()
	for _, name := range []string{sum, strings.Repeat("b", 64)} {
		if err := os.WriteFile(filepath.Join(seen, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneVerified(filepath.Join(root, "var/lib/quorate/bin"), seen); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(seen); len(left) != 1 || left[0].Name() != sum {
		t.Errorf("verified binaries: %v", left)
	}
}
