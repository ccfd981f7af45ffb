// Package sources gets the bundle of a spec from its source, and checks beforehand that the source's servers can be used.
package sources

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/registry"
	"quorate.dev/quorate/internal/spec"
)

// finding is about a server that does not serve what the bundle needs.
func finding(summary, fix string) cluster.Finding {
	return cluster.Finding{Rule: cluster.RuleSources, Severity: cluster.Error, Summary: summary, Fix: fix}
}

// Patience is how long a server may take to answer, including retries.
const Patience = 6 * time.Second

// Check requests one small file or manifest that the bundles for some architectures need from each server. It requests nothing if a bundle is
// already in the cache or is compiled here. Hosts need no access: they get everything from the caller and from each other. Without
// architectures, it is that of the bundle that a run begins with.
func Check(ctx context.Context, c *spec.Cluster, archs []string) (out []cluster.Finding) {
	if len(archs) == 0 {
		archs = []string{first(c)}
	}
	for _, arch := range archs {
		if !slices.Contains(components.Architectures, arch) {
			continue // preflight says so
		}
		for _, f := range check(ctx, c, arch, Patience) {
			if !slices.ContainsFunc(out, func(o cluster.Finding) bool { return o.Summary == f.Summary }) { // the servers are the same
				out = append(out, f)
			}
		}
	}
	return out
}

func check(ctx context.Context, c *spec.Cluster, arch string, patience time.Duration) []cluster.Finding {
	k := &checker{of: c.Spec.Components.For(arch), arch: arch, patience: patience}
	switch k.of.Source {
	case spec.SourceOfficial, spec.SourceMirror:
		if !bundle.Here(GetOptions(c.Spec.Kubernetes.Version, arch, k.of)) {
			return k.published(ctx, c.Spec.Kubernetes.Version)
		}
	case spec.SourceBundle:
		have, err := Cached(c, arch)
		if err != nil || !holds(k.of, have.Digest()) {
			return k.whole(ctx)
		}
		if lacks := monitoring.Lacking(c, func(short string) string { i, _ := have.Image(short); return i.Name }, arch); lacks != "" {
			return []cluster.Finding{finding(lacks, monitoring.MakeBundle(arch)+".")}
		}
	}
	return nil
}

// holds reports whether a bundle in the cache makes the file or the reference unnecessary.
func holds(c spec.Components, digest string) bool {
	_, referenced, _ := strings.Cut(c.Reference, "@")
	return digest == referenced || digest == c.Digest
}

type checker struct {
	of       spec.Components
	arch     string
	patience time.Duration
}

// question is one small request to a server.
type question struct {
	server, what string
	ask          func(context.Context) error
}

func (k *checker) whole(ctx context.Context) []cluster.Finding {
	if k.of.File != "" {
		f, err := os.Open(k.of.File)
		if err == nil {
			f.Close()
			return nil
		}
		return []cluster.Finding{finding(fmt.Sprintf("the bundle file cannot be read: %v", err), "Run `quorate bundle export` on a machine that has the bundle, and copy the file to this machine.")}
	}
	if k.of.Reference == "" {
		return []cluster.Finding{finding("spec.components names no bundle for hosts whose architecture is "+k.arch, "Set spec.components."+k.arch+".file or spec.components."+k.arch+".reference.")}
	}
	images, err := registry.New(Access(k.of))
	if err != nil {
		return []cluster.Finding{own(err)}
	}
	return k.all(ctx, []question{k.image(images.Hurry(k.patience), k.of.Reference)})
}

func (k *checker) published(ctx context.Context, version string) []cluster.Finding {
	_, published, ok := components.PublishedFor(version, k.arch)
	if !ok {
		return []cluster.Finding{finding("no published releases are known for Kubernetes "+version, "Use the source modules or bundle (spec.components.source).")}
	}
	mirror := Mirror(k.of)
	files, err := mirror.Access.Client(mirror.Releases)
	if err != nil {
		return []cluster.Finding{own(err)}
	}
	images, err := registry.New(mirror.Access)
	if err != nil {
		return []cluster.Finding{own(err)}
	}
	files.Patience = k.patience
	images.Hurry(k.patience)
	var ask []question
	for _, f := range published.Files {
		at := mirror.File(f.Checksum)
		if u, err := url.Parse(at); err == nil && !slices.ContainsFunc(ask, func(q question) bool { return q.server == u.Host }) {
			ask = append(ask, question{u.Host, at, func(ctx context.Context) error {
				_, err := files.Text(ctx, "a checksum", at, 1<<20)
				return err
			}})
		}
	}
	for _, i := range published.Images {
		ask = append(ask, k.image(images, mirror.Image(i.From)))
	}
	return k.all(ctx, ask)
}

func (k *checker) image(images *registry.Client, at string) question {
	server, _, _ := strings.Cut(at, "/")
	return question{"the registry " + server, at, func(ctx context.Context) error {
		ref, err := registry.Parse(at)
		if err == nil {
			_, err = images.Manifest(ctx, ref)
		}
		return err
	}}
}

// all queries all servers in parallel.
func (k *checker) all(ctx context.Context, ask []question) []cluster.Finding {
	answers := make([]error, len(ask))
	var wg sync.WaitGroup
	for i, q := range ask {
		wg.Go(func() { answers[i] = q.ask(ctx) })
	}
	wg.Wait()
	var out []cluster.Finding
	for i, err := range answers {
		if err != nil && ctx.Err() == nil {
			out = append(out, explain(ask[i], err))
		}
	}
	return out
}

func own(err error) cluster.Finding {
	return finding(err.Error(), "Correct the file, or spec.components.")
}

// explain reports where a request failed: at the name, the server, its certificate, the login, or the file itself.
func explain(q question, err error) cluster.Finding {
	var (
		failed *fetch.Error
		name   *net.DNSError
		slow   net.Error
	)
	cause := err
	if errors.As(err, &failed) {
		cause = failed.Err
	}
	at := func(format string, args ...any) string {
		return q.server + " " + fmt.Sprintf(format, args...) + " (requested: " + q.what + ")"
	}
	const open = "Start it, correct its address in the spec, or allow connections to it"
	switch {
	case errors.As(cause, &name):
		return finding(at("does not resolve: %v", name), "Correct the name or this machine's DNS. On a machine without internet access, use a mirror, or the source bundle with a file.")
	case errors.Is(cause, syscall.ECONNREFUSED):
		return finding(at("refuses the connection: nothing listens on the port, or a firewall rejects it"), open+".")
	case errors.Is(cause, syscall.ENETUNREACH), errors.Is(cause, syscall.EHOSTUNREACH):
		return finding(at("cannot be reached: there is no route"), open+". On a machine without internet access, use a mirror, or the source bundle with a file.")
	case errors.Is(cause, http.ErrSchemeMismatch):
		return finding(at("does not speak TLS"), "Set up HTTPS on the server.")
	case fetch.Silent(cause), errors.As(cause, &slow) && slow.Timeout():
		return finding(at("does not answer within %s", Patience), open+". A firewall that drops packets has this effect. Behind a proxy, set HTTPS_PROXY.")
	}
	why, fix := fetch.Explain(cause)
	if fix == "" {
		fix = open + "."
	}
	return finding(at("does not serve it: %s", why), fix)
}
