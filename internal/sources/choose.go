package sources

import (
	"context"
	"errors"
	"runtime"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// Choose decides where the bundle of a version that can be compiled comes from if nobody says it. A bundle that is in the cache decides. Otherwise
// it is downloaded if each of the projects' servers answers within Patience, and compiled if not. why says that in words.
//
// The answer depends on the network, so it is for somebody who writes it into a spec: a cluster must not change its programs because it is
// changed from another machine.
func Choose(ctx context.Context, version string) (source, why string) {
	return choose(ctx, version, spec.Components{Source: spec.SourceOfficial}, Patience)
}

func choose(ctx context.Context, version string, published spec.Components, patience time.Duration) (source, why string) {
	for _, monitoring := range []bool{false, true} {
		if b, err := bundle.Find(version, runtime.GOARCH, monitoring); err == nil && b.Current(monitoring) {
			return spec.SourceModules, "its bundle, compiled from modules, is in the cache"
		}
	}
	if bundle.Here(GetOptions(version, "", published)) {
		return published.Source, "its bundle was downloaded before, and is in the cache"
	}
	k := &checker{of: published, arch: runtime.GOARCH, patience: patience}
	asked, cancel := context.WithTimeout(ctx, patience+time.Second) // a request that fails late is made once more, and has its patience again
	defer cancel()
	if found := k.published(asked, version); len(found) > 0 {
		return spec.SourceModules, "what the projects publish cannot be downloaded here: " + found[0].Summary
	}
	if asked.Err() != nil {
		return spec.SourceModules, "a server of the projects does not answer in time"
	}
	return published.Source, "the servers of the projects answer: it is downloaded, and its checksums and signatures are verified"
}

// BundleOf is Bundle for a spec with another one to fall back on, which may be nil: if the bundle of the first cannot be obtained, it is that of
// the second, and so is chosen. A missing or wrong signature is returned instead: somebody has to look at it before anything else is tried.
func BundleOf(ctx context.Context, c, otherwise *spec.Cluster, sink progress.Sink) (b *bundle.Bundle, chosen *spec.Cluster, _ error) {
	return either(ctx, c, otherwise, Bundle, sink)
}

func either(ctx context.Context, c, otherwise *spec.Cluster, get func(context.Context, *spec.Cluster, progress.Sink) (*bundle.Bundle, error), sink progress.Sink) (*bundle.Bundle, *spec.Cluster, error) {
	b, err := get(ctx, c, sink)
	_, forged := errors.AsType[*bundle.SignatureError](err)
	if err == nil || otherwise == nil || forged || ctx.Err() != nil {
		return b, c, err
	}
	sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "bundle", Detail: "compiling it instead: " + err.Error()})
	b, err = get(ctx, otherwise, sink)
	return b, otherwise, err
}
