package sources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/spec"
)

// Bundle returns the bundle that the spec asks for. One that is here already is used if it is the one. Otherwise it is
// downloaded, imported, or compiled, and the packages that compiling needs are installed on this machine.
func Bundle(ctx context.Context, c *spec.Cluster, sink progress.Sink) (*bundle.Bundle, error) {
	return find(ctx, c, compile, sink)
}

// Prepared is Bundle for commands that change nothing: it installs no packages and compiles nothing.
func Prepared(ctx context.Context, c *spec.Cluster, sink progress.Sink) (*bundle.Bundle, error) {
	return find(ctx, c, refuse, sink)
}

// builder compiles a bundle that is nowhere else.
type builder func(ctx context.Context, c *spec.Cluster, sink progress.Sink) (*bundle.Bundle, error)

func compile(ctx context.Context, c *spec.Cluster, sink progress.Sink) (*bundle.Bundle, error) {
	if err := require.Packages(ctx, bundle.Requirements(), sink); err != nil {
		return nil, err
	}
	return bundle.Build(ctx, bundle.BuildOptions{Version: c.Spec.Kubernetes.Version, Monitoring: c.InstallsPrometheus(), Progress: sink})
}

func refuse(_ context.Context, c *spec.Cluster, _ progress.Sink) (*bundle.Bundle, error) {
	what, command := "", "quorate bundle build"
	if c.InstallsPrometheus() {
		what, command = " with Prometheus", "quorate bundle build --monitoring"
	}
	return nil, fmt.Errorf("the bundle of Kubernetes %s%s is not compiled yet, and this command changes nothing, not even on this machine: %w: run `%s` first; `quorate apply` and `quorate up` do that themselves",
		c.Spec.Kubernetes.Version, what, bundle.ErrNotBuilt, command)
}

func find(ctx context.Context, c *spec.Cluster, build builder, sink progress.Sink) (*bundle.Bundle, error) {
	b, err := bundleFrom(ctx, c, build, sink)
	if err != nil {
		return nil, err
	}
	if want := c.Spec.Components.Digest; want != "" && b.Digest() != want {
		return nil, &bundle.PinError{What: b.Dir(), Want: want, Got: b.Digest()}
	}
	return b, nil
}

func bundleFrom(ctx context.Context, cluster *spec.Cluster, build builder, sink progress.Sink) (*bundle.Bundle, error) {
	version, c := cluster.Spec.Kubernetes.Version, cluster.Spec.Components
	have, err := bundle.Open(bundle.DefaultDir(version))
	if err != nil && !errors.Is(err, bundle.ErrNotBuilt) {
		have = nil // damaged: every source replaces it
	}
	switch c.Source {
	case spec.SourceBundle:
		return wholeBundle(ctx, have, c, sink)
	case spec.SourceOfficial, spec.SourceMirror:
		o := GetOptions(version, c)
		o.Progress = sink
		return bundle.Get(ctx, o)
	}
	// An imported bundle is as good as one that was compiled here if both have the same sources.
	if have != nil && have.Current(cluster.InstallsPrometheus()) {
		return have, nil
	}
	return build(ctx, cluster, sink)
}

// wholeBundle imports a file or pulls a reference, unless that bundle is already in the cache.
func wholeBundle(ctx context.Context, have *bundle.Bundle, c spec.Components, sink progress.Sink) (*bundle.Bundle, error) {
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
	if have != nil && have.Digest() == digest {
		return have, nil
	}
	var b *bundle.Bundle
	err = progress.Track(ctx, sink, "", "bundle/import", "import "+c.File, func(ctx context.Context) error {
		b, err = bundle.Import(ctx, f)
		return err
	})
	return b, err
}
