package step

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/distribute"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

func installBundle(ctx context.Context, e *Env, s plan.Step) error {
	c, b, err := e.bringBundle(ctx, s)
	if err != nil {
		return err
	}
	if _, err := programs.Unpack.On(ctx, c, b.Index()); err != nil || !s.Switch {
		return err
	}
	_, err = programs.Switch.On(ctx, c, programs.SwitchRequest{Bundle: b.Digest()})
	return err
}

func switchPrograms(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	b, err := e.bundleFor(s.Host)
	if err != nil {
		return err
	}
	request := programs.SwitchRequest{Bundle: b.Digest(), Programs: s.Programs, Restart: s.Restart}
	if s.Change == nil {
		_, err = programs.Switch.On(ctx, c, request)
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = programs.SwitchRunning.Make(ctx, c, permit, request)
	return err
}

func pruneBundles(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	b, err := e.bundleFor(s.Host)
	if err != nil {
		return err
	}
	keep := []string{b.Digest()}
	if h, _ := e.Cluster.Host(s.Host); h.IsNode() {
		if _, err := containerd.PruneImages.On(ctx, c, keep); err != nil {
			return err
		}
	}
	_, err = programs.Prune.On(ctx, c, keep)
	return err
}

func importImages(ctx context.Context, e *Env, s plan.Step) error {
	// The host's own copy may be what is damaged.
	c, b, err := e.bringBundle(ctx, s)
	if err != nil {
		return err
	}
	_, err = containerd.ImportImages.On(ctx, c, b.Index())
	return err
}

// bundleFor is the bundle for the architecture of a host, which was observed before the plan was made.
func (e *Env) bundleFor(host string) (*bundle.Bundle, error) {
	f := e.Seen.Hosts[host].Facts
	if f == nil {
		return nil, fmt.Errorf("%s: its architecture is unknown, because it was not observed", host)
	}
	b := e.bundles.For(f.Arch)
	if b == nil {
		return nil, fmt.Errorf("%s: this run has no bundle for its architecture (%q)", host, f.Arch)
	}
	return b, nil
}

// bringBundle makes the step's host hold all blobs that it needs of the bundle for its architecture.
func (e *Env) bringBundle(ctx context.Context, s plan.Step) (*host.Conn, *bundle.Bundle, error) {
	h, c, err := e.target(s)
	if err != nil {
		return nil, nil, err
	}
	b, err := e.bundleFor(s.Host)
	if err != nil {
		return nil, nil, err
	}
	return c, b, e.swarm.Bring(ctx, &peer{c, h.Address, b}, neededBy(h, b), func(detail string) {
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, ID: s.ID, Title: s.Title, Detail: detail})
	})
}

// neededBy are the blobs of a bundle that a host needs.
func neededBy(h spec.Host, b *bundle.Bundle) []distribute.Blob {
	needed := b.Blobs()
	if !h.IsNode() {
		needed = b.HostBlobs() // no container will run there
	}
	var blobs []distribute.Blob
	for _, n := range needed {
		blobs = append(blobs, distribute.Blob{Digest: digest.Digest(n.Digest), Size: n.Size})
	}
	return blobs
}

// enlistDonors lets hosts that hold the very bundle of their architecture pass it on.
func (e *Env) enlistDonors() {
	for _, h := range e.Cluster.Spec.Hosts {
		f := e.Seen.Hosts[h.Name].Facts
		if f == nil {
			continue
		}
		b := e.bundles.For(f.Arch)
		if b == nil || !slices.Contains(f.Bundles, b.Digest()) {
			continue
		}
		if c, err := e.Conns.Get(h.Name); err == nil {
			e.swarm.Donate(&peer{c, h.Address, b}, neededBy(h, b))
		}
	}
}

// Distribution tells how much of the bundle the caller has sent, and how much hosts have passed on.
func (e *Env) Distribution() distribute.Stats { return e.swarm.Stats() }

// peer is a host as a distribution sees it.
type peer struct {
	conn    *host.Conn
	address string // by which the other hosts reach it
	bundle  *bundle.Bundle
}

var _ distribute.Peer = (*peer)(nil)

func (p *peer) Name() string { return p.conn.Name() }

func (p *peer) Lacking(ctx context.Context, all []digest.Digest) ([]digest.Digest, error) {
	return blobs.Lacking.On(ctx, p.conn, all)
}

func (p *peer) Offer(ctx context.Context) (distribute.Offer, error) {
	return blobs.Offer.On(ctx, p.conn, p.address)
}

func (p *peer) Serve(ctx context.Context, o distribute.Offer) error {
	_, err := blobs.Serve.On(ctx, p.conn, o)
	return err
}

func (p *peer) Fetch(ctx context.Context, b distribute.Blob, from distribute.Offer) error {
	_, err := blobs.Fetch.On(ctx, p.conn, blobs.FetchRequest{Blob: b, From: from})
	return err
}

func (p *peer) Upload(ctx context.Context, b distribute.Blob) error {
	blob, err := p.bundle.OpenBlob(b.Digest.String())
	if err != nil {
		return fmt.Errorf("the bundle here: %w", err)
	}
	defer blob.Close()
	_, err = blobs.Put.Send(ctx, p.conn, b.Digest, blob)
	return err
}
