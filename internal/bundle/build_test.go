package bundle

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
)

// workshopFor makes some of the newest release's real components, in an empty cache.
func workshopFor(t *testing.T, names ...string) (*workshop, *recorder) {
	t.Helper()
	t.Setenv("QUORATE_CACHE", t.TempDir())
	all := components.Releases()
	release := all[len(all)-1]
	release.Components = slices.DeleteFunc(slices.Clone(release.Components), func(c components.Component) bool {
		return !slices.Contains(names, c.Name)
	})
	if len(release.Components) != len(names) {
		t.Fatalf("not all of %v are components", names)
	}
	w := testWorkshop(release)
	w.cache = paths.Cache("components")
	if err := os.MkdirAll(w.cache, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	w.sink = progress.Func(r.add)
	return w, r
}

// recorder keeps which steps were started.
type recorder struct{ started []string }

func (r *recorder) add(e progress.Event) {
	if e.Kind == progress.Start {
		r.started = append(r.started, e.ID)
	}
}

func (r *recorder) take() []string {
	all := r.started
	r.started = nil
	slices.Sort(all)
	return all
}

func TestComponentsAreReproducible(t *testing.T) {
	build := func() map[string]string {
		w, _ := workshopFor(t, "pause", "cni", "agnhost-files")
		made, err := w.makeAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		digests := map[string]string{}
		for name, m := range made {
			digests[name] = m.Descriptor.Digest.String()
		}
		return digests
	}
	first, second := build(), build()
	for name, d := range first {
		if second[name] != d {
			t.Errorf("%s was %s and then %s", name, d, second[name])
		}
	}
}

func TestFinishedComponentsAreKept(t *testing.T) {
	w, steps := workshopFor(t, "pause", "agnhost-files")
	first, err := w.makeAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := steps.take(); !slices.Equal(got, []string{"bundle/agnhost-files", "bundle/pause"}) {
		t.Fatalf("made %v", got)
	}
	again := func(want ...string) {
		t.Helper()
		second, err := w.makeAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := steps.take(); !slices.Equal(got, want) {
			t.Errorf("made %v, want %v", got, want)
		}
		if d := second["pause"].Descriptor.Digest; d != first["pause"].Descriptor.Digest {
			t.Errorf("pause became %s", d)
		}
	}
	again()
	for _, harm := range hurt {
		if err := harm.do(first["pause"].file); err != nil {
			t.Fatal(err)
		}
		again("bundle/pause")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(first["pause"].file), madeFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	again("bundle/pause")
	w.force = true
	again("bundle/agnhost-files", "bundle/pause")
}

// Two releases with the same component make it once. Only kubeadm is asked for the images of its release.
func TestReleasesShareComponents(t *testing.T) {
	one := components.Releases()[0]
	other := one
	other.Kubernetes = "v1.0.0"
	for _, c := range one.Components {
		first, err := componentSum(one, c)
		if err != nil {
			t.Fatal(err)
		}
		second, err := componentSum(other, c)
		if err != nil {
			t.Fatal(err)
		}
		if shared := c.Kubeadm == nil; (first == second) != shared {
			t.Errorf("%s: same key %v, want %v", c.Name, first == second, shared)
		}
	}
}

func TestInterruptedBuildLeavesNoHalf(t *testing.T) {
	w, _ := workshopFor(t, "cni")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.sink = progress.Func(func(progress.Event) { cancel() })
	if _, err := w.makeAll(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	left, err := os.ReadDir(w.cache)
	if err != nil || len(left) != 0 {
		t.Errorf("left %v %v", left, err)
	}
	// What a killed build leaves is gone after the next.
	if err := os.Mkdir(filepath.Join(w.cache, ".work-cni-123"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.sink = progress.Discard
	if _, err := w.makeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(w.cache, ".work-*")); err != nil || len(left) != 0 {
		t.Errorf("left %v %v", left, err)
	}
}

func TestUnknownVersion(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	_, err := Build(t.Context(), BuildOptions{Version: "v0.1.0"})
	var unknown *UnknownVersionError
	// A version that cannot be built is refused in a spec, also when there is a bundle of it.
	if !errors.As(err, &unknown) || !strings.Contains(err.Error(), Versions()[0]) || strings.Contains(err.Error(), "import") {
		t.Errorf("got %v", err)
	}
}

func TestDownloadsAreNamed(t *testing.T) {
	w, _ := workshopFor(t, "cni")
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOMODCACHE", t.TempDir())
	_, err := w.makeAll(t.Context())
	var download *DownloadError
	if !errors.As(err, &download) || !strings.Contains(err.Error(), "download the Go modules of cni") {
		t.Errorf("got %v", err)
	}
}

// TestPause runs the real program as process 1 of a PID namespace, as it runs in pods that share one.
func TestPause(t *testing.T) {
	w, _ := workshopFor(t, "pause")
	c := w.release.Components[0]
	dir := workDir{t.TempDir()}
	files, err := c.Files()
	if err != nil {
		t.Fatal(err)
	}
	if err := components.Write(dir.src(), files); err != nil {
		t.Fatal(err)
	}
	made, err := w.compileC(t.Context(), c, dir)
	if err != nil {
		t.Fatal(err)
	}
	pause := made[0].source

	if out, err := exec.Command(pause, "-v").CombinedOutput(); err != nil || string(out) != "pause "+c.Version+"\n" {
		t.Errorf("pause -v: %q %v", out, err)
	}

	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		// The shell becomes pause and leaves it a child, which ends soon.
		cmd := exec.Command("sh", "-c", `sleep 0.2 & exec "$0"`, pause)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		proc := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
		read := func(name string) string {
			raw, err := os.ReadFile(filepath.Join(proc, name))
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(raw))
		}
		eventually(t, "the shell became pause", func() bool { return read("comm") == "pause" })
		eventually(t, "the orphan was reaped", func() bool { return read("task/"+strconv.Itoa(cmd.Process.Pid)+"/children") == "" })
		if err := cmd.Process.Signal(end); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", end, err)
		}
	}
}
