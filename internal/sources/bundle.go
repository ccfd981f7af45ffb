package sources

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/spec"
)

// Bundle returns the bundle that the spec asks for: that for this machine's architecture or, if the spec names bundles and none for that, another
// one. One that is here already is used if it is the one. Otherwise it is downloaded, imported, or compiled, and the packages that compiling needs
// are installed on this machine.
func Bundle(ctx context.Context, c *spec.Cluster, sink progress.Sink) (*bundle.Bundle, error) {
	return BundleFor(ctx, c, first(c), sink)
}

// first is the architecture of the bundle that a run begins with. A spec that names bundles need not name one for this machine, which may have another
// processor than all hosts. The machines of a lab have this one's.
func first(c *spec.Cluster) string {
	if c.Spec.Components.Source != spec.SourceBundle || c.NeedsLab() {
		return runtime.GOARCH
	}
	for _, arch := range append([]string{runtime.GOARCH}, components.Architectures...) {
		if of := c.Spec.Components.For(arch); of.File != "" || of.Reference != "" {
			return arch
		}
	}
	return runtime.GOARCH
}

// BundleFor is Bundle for hosts of an architecture.
func BundleFor(ctx context.Context, c *spec.Cluster, arch string, sink progress.Sink) (*bundle.Bundle, error) {
	return find(ctx, c, arch, compile, sink)
}

// Prepared is Bundle for commands that change nothing: it installs no packages and compiles nothing.
func Prepared(ctx context.Context, c *spec.Cluster, sink progress.Sink) (*bundle.Bundle, error) {
	return PreparedFor(ctx, c, first(c), sink)
}

// PreparedFor is Prepared for hosts of an architecture.
func PreparedFor(ctx context.Context, c *spec.Cluster, arch string, sink progress.Sink) (*bundle.Bundle, error) {
	return find(ctx, c, arch, refuse, sink)
}

// ArchError says that what a spec names has the bundle for another architecture than that of its hosts.
type ArchError struct{ From, Has, Want string }

func (e *ArchError) Error() string {
	return fmt.Sprintf("%s is a bundle for %s, and one for %s is needed: name one for the hosts of this architecture in spec.components.%s (file or reference); on a machine with internet access, `quorate bundle build --arch %s` or `quorate bundle pull --arch %s` makes it, and `quorate bundle export --arch %s` writes it to a file",
		e.From, e.Has, e.Want, e.Want, e.Want, e.Want, e.Want)
}

// builder compiles a bundle that is nowhere else.
type builder func(ctx context.Context, c *spec.Cluster, arch string, sink progress.Sink) (*bundle.Bundle, error)

func compile(ctx context.Context, c *spec.Cluster, arch string, sink progress.Sink) (*bundle.Bundle, error) {
	if err := require.Packages(ctx, bundle.Requirements(arch), sink); err != nil {
		return nil, err
	}
	return bundle.Build(ctx, bundle.BuildOptions{Version: c.Spec.Kubernetes.Version, Arch: arch, Monitoring: c.InstallsPrometheus(), Progress: sink})
}

func refuse(_ context.Context, c *spec.Cluster, arch string, _ progress.Sink) (*bundle.Bundle, error) {
	what, command := "Kubernetes "+c.Spec.Kubernetes.Version, "quorate bundle build"
	if c.InstallsPrometheus() {
		what, command = what+" with Prometheus", command+" --monitoring"
	}
	if arch != runtime.GOARCH {
		what, command = what+" for "+arch, command+" --arch "+arch
	}
	return nil, fmt.Errorf("the bundle of %s is not compiled yet, and this command changes nothing, not even on this machine: %w: run `%s` first; `quorate apply` and `quorate up` do that themselves",
		what, bundle.ErrNotBuilt, command)
}

func find(ctx context.Context, c *spec.Cluster, arch string, build builder, sink progress.Sink) (*bundle.Bundle, error) {
	from := c.Spec.Components.For(arch)
	b, err := bundleFrom(ctx, c, arch, from, build, sink)
	if _, other := errors.AsType[*bundle.PinError](err); other && arch != runtime.GOARCH && from.Digest == c.Spec.Components.Digest {
		return nil, fmt.Errorf("%w; if that digest is of the bundle for another architecture, set the one for %s in spec.components.%s.digest", err, arch, arch)
	}
	if err != nil {
		return nil, err
	}
	if b.Arch() != arch {
		return nil, &ArchError{From: cmp.Or(from.File, from.Reference), Has: b.Arch(), Want: arch}
	}
	if want := from.Digest; want != "" && b.Digest() != want {
		return nil, &bundle.PinError{What: b.Dir(), Want: want, Got: b.Digest()}
	}
	return b, nil
}

func bundleFrom(ctx context.Context, cluster *spec.Cluster, arch string, c spec.Components, build builder, sink progress.Sink) (*bundle.Bundle, error) {
	version := cluster.Spec.Kubernetes.Version
	have, err := Cached(cluster, arch)
	if err != nil && !errors.Is(err, bundle.ErrNotBuilt) {
		have = nil // damaged: every source replaces it
	}
	switch c.Source {
	case spec.SourceBundle:
		return wholeBundle(ctx, arch, have, c, sink)
	case spec.SourceOfficial, spec.SourceMirror:
		o := GetOptions(version, arch, c)
		o.Progress = sink
		return bundle.Get(ctx, o)
	}
	// An imported bundle is as good as one that was compiled here if both have the same sources.
	if have != nil && have.Current(cluster.InstallsPrometheus()) {
		return have, nil
	}
	return build(ctx, cluster, arch, sink)
}

// Cached opens the bundle in the cache that the spec means for an architecture, and obtains none. A file or a reference may have one with the images of
// spec.monitoring.prometheus for a cluster that does not use them.
func Cached(c *spec.Cluster, arch string) (*bundle.Bundle, error) {
	version, monitoring := c.Spec.Kubernetes.Version, c.InstallsPrometheus()
	have, err := bundle.Find(version, arch, monitoring)
	if c.Spec.Components.Source != spec.SourceBundle {
		return have, err
	}
	of := c.Spec.Components.For(arch)
	other, otherErr := bundle.Find(version, arch, !monitoring)
	if otherErr == nil && (errors.Is(err, bundle.ErrNotBuilt) || err == nil && holds(of, other.Digest()) && !holds(of, have.Digest())) {
		return other, nil
	}
	return have, err
}

// wholeBundle imports a file or pulls a reference, unless that bundle is already in the cache.
func wholeBundle(ctx context.Context, arch string, have *bundle.Bundle, c spec.Components, sink progress.Sink) (*bundle.Bundle, error) {
	if c.File == "" && c.Reference == "" {
		return nil, fmt.Errorf("spec.components names no bundle for %s: set spec.components.%s.file or spec.components.%s.reference", arch, arch, arch)
	}
	if c.Reference != "" {
		if _, want, _ := strings.Cut(c.Reference, "@"); have != nil && have.Digest() == want {
			return have, nil
		}
		return bundle.Pull(ctx, c.Reference, Access(c), sink)
	}
	f, err := os.Open(c.File)
	if errors.Is(err, os.ErrNotExist) && have != nil && have.Digest() == c.Digest {
		return have, nil // imported earlier: the file is no longer needed
	}
	if err != nil {
		return nil, fmt.Errorf("opening the bundle file: %w; run `quorate bundle export` on a machine that has the bundle", err)
	}
	defer f.Close()
	digest, err := bundle.FileDigest(c.File)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", c.File, err)
	}
	if c.Digest != "" && digest != c.Digest {
		return nil, &bundle.PinError{What: c.File, Want: c.Digest, Got: digest}
	}
	all, _ := bundle.List() // what cannot be opened is imported again
	if i := slices.IndexFunc(all, func(b *bundle.Bundle) bool { return b.Digest() == digest }); i >= 0 {
		return all[i], nil // find refuses one for another architecture, which needs no import
	}
	var b *bundle.Bundle
	err = progress.Track(ctx, sink, "", "bundle/import", "import "+c.File, func(ctx context.Context) error {
		b, err = bundle.Import(ctx, f)
		return err
	})
	return b, err
}
