package bundle

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/fetch"
)

// Available is a version of Kubernetes of which a bundle can be made, or is here.
type Available struct {
	Version string `json:"version"`
	// Modules says that it can be compiled here.
	Modules bool `json:"modules"`
	// Published says that its release was found at the source, where that could be asked.
	Published bool `json:"published"`
	// Here is the digest of its bundle in the cache; empty if there is none.
	Here string `json:"here,omitempty"`
	// Others are the digests of its bundles in the cache for other architectures than this machine's, by architecture.
	Others map[string]string `json:"others,omitempty"`
	// Monitoring are the digests of those that have the images of spec.monitoring.prometheus, by architecture.
	Monitoring map[string]string `json:"monitoring,omitempty"`
}

const (
	// mostAsked is how many releases are asked for at the same time.
	mostAsked = 8
	// furtherPatches is how far beyond the patch release that can be compiled a source is searched that does not say which one is the newest.
	furtherPatches = 20
	// mostPatches bounds what a source can make this machine ask for.
	mostPatches = 200
)

// ListAvailable lists the versions that can be compiled here, those in the cache, and those that a source has published, newest first. A source that
// does not answer within the patience for one request is a problem, and no error: the others are known all the same.
func ListAvailable(ctx context.Context, m Mirror, patience time.Duration) (all []Available, problems []string, _ error) {
	found := map[string]*Available{}
	at := func(version string) *Available {
		if found[version] == nil {
			found[version] = &Available{Version: version}
		}
		return found[version]
	}
	for _, v := range Versions() {
		at(v).Modules = true
	}
	here, err := List()
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, b := range here {
		v := at(b.Version())
		switch {
		case b.Monitors():
			if found, err := Find(b.Version(), b.Arch(), true); err == nil && found.Dir() == b.Dir() { // not one that an earlier version left
				add(&v.Monitoring, b)
			}
		case b.Dir() == DefaultDir(b.Version()):
			v.Here = b.Digest()
		case b.Dir() == DirFor(b.Version(), b.Arch()): // for other processors
			add(&v.Others, b)
		}
	}
	files, err := m.Access.Client(m.Releases)
	if err != nil {
		return nil, nil, err
	}
	files.Patience = patience
	minors := components.Minors()
	published, whys := make([][]string, len(minors)), make([]error, len(minors))
	var work errgroup.Group
	for i, minor := range minors {
		work.Go(func() error {
			published[i], whys[i] = publishedOf(ctx, files, m, minor)
			return nil
		})
	}
	_ = work.Wait() // the reasons are in whys
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	for i, versions := range published {
		for _, v := range versions {
			at(v).Published = true
		}
		if whys[i] != nil {
			problems = append(problems, fmt.Sprintf("the published releases of %s could not be listed: %v", minors[i], whys[i]))
		}
	}
	for _, a := range found {
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b Available) int {
		return cmp.Or(semver.Compare(b.Version, a.Version), strings.Compare(a.Version, b.Version))
	})
	return all, problems, nil
}

// add notes the digest of a bundle by its architecture.
func add(to *map[string]string, b *Bundle) {
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[b.Arch()] = b.Digest()
}

// publishedOf are the patch releases of a minor release that a source has. The newest is what the project says. A mirror need not have that file, and
// is then searched.
func publishedOf(ctx context.Context, files *fetch.Client, m Mirror, minor string) ([]string, error) {
	last := 0
	text, err := files.Text(ctx, "the newest release of "+minor, m.File(components.StableURL(minor)), 1<<10)
	stable := strings.TrimSpace(text)
	switch {
	case fetch.Missing(err):
		for _, v := range Versions() {
			if semver.MajorMinor(v) == minor {
				last = patchOf(v) + furtherPatches
			}
		}
	case err != nil:
		return nil, err
	case semver.MajorMinor(stable) != minor || patchOf(stable) < 0 || patchOf(stable) > mostPatches:
		return nil, fmt.Errorf("%s says that the newest release of %s is %q", m.File(components.StableURL(minor)), minor, stable)
	default:
		last = patchOf(stable)
	}
	has := make([]bool, last+1)
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(mostAsked)
	for patch := range has {
		work.Go(func() error {
			_, p, ok := components.PublishedFor(fmt.Sprintf("%s.%d", minor, patch), runtime.GOARCH)
			if !ok {
				return nil
			}
			// The first file is one of Kubernetes itself; the others are the same for all patch releases.
			_, err := files.Text(workCtx, "the checksum of "+p.Files[0].Name(), m.File(p.Files[0].Checksum), 1<<20)
			if has[patch] = err == nil; fetch.Missing(err) {
				return nil
			}
			return err
		})
	}
	err = work.Wait()
	var out []string
	for patch, there := range has {
		if there {
			out = append(out, fmt.Sprintf("%s.%d", minor, patch))
		}
	}
	return out, err
}

// patchOf is the third number of a version; -1 for what is no release.
func patchOf(v string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(v, semver.MajorMinor(v)+"."))
	if err != nil || n < 0 {
		return -1
	}
	return n
}
