package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/version"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/sync/errgroup"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
)

// BuildOptions says what to build.
type BuildOptions struct {
	Version    string        // of Kubernetes; one of Versions
	Arch       string        // as in GOARCH; empty: this machine's
	Monitoring bool          // with the images of spec.monitoring.prometheus
	Progress   progress.Sink // nil: not shown
	Force      bool          // rebuild every component, even if nothing has changed
}

// UnknownVersionError says that this version of Quorate cannot make the bundle of a Kubernetes version.
type UnknownVersionError struct{ Version string }

func (e *UnknownVersionError) Error() string {
	return fmt.Sprintf("this version of quorate cannot make a bundle for Kubernetes %s: it can compile %s, and download every patch release of %s (`quorate bundle versions` lists them); use one of these, or a version of quorate that can make it",
		e.Version, strings.Join(Versions(), ", "), strings.Join(components.Minors(), " and "))
}

// UnknownArchError says that there are no bundles for an architecture.
type UnknownArchError struct{ Arch string }

func (e *UnknownArchError) Error() string {
	return fmt.Sprintf("this version of quorate cannot make a bundle for the architecture %q: it can for %s", e.Arch, strings.Join(components.Architectures, " and "))
}

// archOf is the architecture that is meant by one that may be empty.
func archOf(arch string) (string, error) {
	if arch = cmp.Or(arch, runtime.GOARCH); !slices.Contains(components.Architectures, arch) {
		return "", &UnknownArchError{arch}
	}
	return arch, nil
}

// Versions are the Kubernetes versions that Build can build, oldest first.
func Versions() []string {
	var all []string
	for _, r := range components.Releases() {
		all = append(all, r.Kubernetes)
	}
	return all
}

// Build builds the bundle of a version from source and returns it. It returns an existing, intact bundle
// of the same sources; otherwise it reuses intact components from the cache. An interrupted build
// continues where it stopped: Go keeps what it has compiled.
func Build(ctx context.Context, o BuildOptions) (*Bundle, error) {
	release, ok := releaseOf(o.Version, o.Monitoring)
	if !ok {
		return nil, &UnknownVersionError{o.Version}
	}
	arch, err := archOf(o.Arch)
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	w := &workshop{release: release, arch: arch, sink: o.Progress, force: o.Force, cache: paths.Cache("components"), noted: map[string]time.Time{}}
	unlock, err := w.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	sources, err := sourcesKey(release)
	if err != nil {
		return nil, fmt.Errorf("build bundle: %w", err)
	}
	dir := placeOf(o.Version, arch, o.Monitoring)
	at := dir
	if b, err := Find(o.Version, arch, o.Monitoring); err == nil {
		at = b.Dir()
	}
	if b := w.existing(ctx, at, sources); b != nil && !o.Force {
		return b, nil
	}
	layers, err := w.makeAll(ctx)
	if err != nil {
		return nil, err
	}
	var b *Bundle
	err = progress.Track(ctx, w.sink, "", "bundle/assemble", "assemble the images", func(ctx context.Context) error {
		b, err = w.assemble(ctx, layers, sources, dir)
		return err
	})
	return b, err
}

// releaseOf is what a bundle is made of, with or without the images of spec.monitoring.prometheus.
func releaseOf(version string, monitoring bool) (components.Release, bool) {
	release, ok := components.Lookup(version)
	if ok && monitoring {
		release = release.Monitored()
	}
	return release, ok
}

// existing returns the bundle in dir if it has these sources and is intact. Damage is reported but is not
// an error: the build repairs it.
func (w *workshop) existing(ctx context.Context, dir, sources string) *Bundle {
	b, err := Open(dir)
	if errors.Is(err, ErrNotBuilt) {
		return nil
	}
	var damages []Damage
	if err == nil {
		if b.index.Annotations[annotationSources] != sources {
			return nil
		}
		damages, err = b.Verify(ctx)
	}
	for _, d := range damages {
		w.sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "bundle", Detail: "repairing: " + d.String()})
	}
	if err != nil {
		w.sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "bundle", Detail: "rebuilding: " + err.Error()})
	}
	if err != nil || len(damages) > 0 {
		return nil
	}
	return b
}

// workshop makes components.
type workshop struct {
	release components.Release
	arch    string // that the components are made for
	tools   toolchain
	sink    progress.Sink
	force   bool
	cache   string

	mu    sync.Mutex
	noted map[string]time.Time
}

// lanes is how many components are made at once. The first is the big one; beside it the small ones
// fill the time in which it downloads and links.
const lanes = 2

func (w *workshop) makeAll(ctx context.Context) (map[string]*made, error) {
	if err := w.equip(ctx); err != nil {
		return nil, err
	}
	if err := w.sweep(); err != nil {
		return nil, err
	}
	results := make([]*made, len(w.release.Components))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(lanes)
	for i, c := range w.release.Components {
		work.Go(func() (err error) {
			results[i], err = w.make(workCtx, c)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted (run it again to continue; what was compiled is kept): %w", err)
		}
		return nil, fmt.Errorf("build bundle for Kubernetes %s: %w", w.release.Kubernetes, err)
	}
	all := map[string]*made{}
	for i, c := range w.release.Components {
		all[c.Name] = results[i]
	}
	return all, nil
}

// equip finds the tools, all of them before the first is used.
func (w *workshop) equip(ctx context.Context) error {
	need, c := "", false
	for _, component := range w.release.Components {
		c = c || component.C != nil || component.Go != nil && component.Go.Cgo
		if component.Go == nil {
			continue
		}
		files, err := component.Files()
		if err != nil {
			return err
		}
		mod, err := modfile.ParseLax("go.mod", files["go.mod"], nil)
		if err != nil {
			return fmt.Errorf("%s: %w", component.Name, err)
		}
		if v := "go" + mod.Go.Version; version.Compare(v, need) > 0 {
			need = v
		}
	}
	found, err := findGo(ctx, need)
	if err != nil {
		return err
	}
	if c {
		if found.cVersion, err = findC(ctx, w.arch); err != nil {
			return err
		}
	}
	w.tools = found
	return nil
}

// sweep removes what killed builds left. The lock is held: nobody else's is in use.
func (w *workshop) sweep() error {
	for _, pattern := range []string{filepath.Join(w.cache, ".work-*"), paths.Cache("bundles", ".build-*")} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, dir := range left {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove leftovers of an interrupted build: %w", err)
			}
		}
	}
	return nil
}

// note shows how far a component is, at most about once a second.
func (w *workshop) note(c components.Component, detail string) { w.noteID(stepID(c), detail) }

func (w *workshop) noteID(id, detail string) {
	w.mu.Lock()
	now := time.Now()
	late := now.Sub(w.noted[id]) >= time.Second
	if late {
		w.noted[id] = now
	}
	w.mu.Unlock()
	if late {
		w.sink.Emit(progress.Event{Time: now, Kind: progress.Note, ID: id, Detail: detail})
	}
}

func stepID(c components.Component) string { return "bundle/" + c.Name }

// workDir is where one component is made.
type workDir struct{ root string }

func (d workDir) src() string { return filepath.Join(d.root, "src") }
func (d workDir) out() string { return filepath.Join(d.root, "out") }
func (d workDir) binary(b components.Binary) string {
	return filepath.Join(d.out(), filepath.FromSlash(b.Path))
}
