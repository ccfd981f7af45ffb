// Package distribute copies the same blobs to many hosts. The caller sends each blob to one of them; those that have it pass
// it on, and every host that is finished serves the next ones.
package distribute

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Blob is one content to bring.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

// Offer is how a host's blobs are reached by another, for as long as the two of them need it.
type Offer struct {
	Address     string `json:"address"`     // host:port
	Fingerprint string `json:"fingerprint"` // SHA-256 of the only certificate that counts, in hex
	Token       string `json:"token"`
}

// Peer is a host in a distribution.
type Peer interface {
	Name() string
	// Lacking returns those of the blobs that the host does not have intact.
	Lacking(ctx context.Context, all []digest.Digest) ([]digest.Digest, error)
	// Offer makes the host listen; Serve then answers there until ctx ends.
	Offer(ctx context.Context) (Offer, error)
	Serve(ctx context.Context, o Offer) error
	// Fetch gets a blob from another host, Upload from the caller. Both verify it.
	Fetch(ctx context.Context, b Blob, from Offer) error
	Upload(ctx context.Context, b Blob) error
}

const (
	// slots is how many hosts one host serves in parallel. With two, the number of sources triples with each wave.
	slots = 2
	// maxBroken is after how many sources that cannot be reached a host takes everything from the caller: it is
	// behind a firewall, and trying all others would only take time.
	maxBroken = 2
)

// Stats is how much was sent in which way.
type Stats struct {
	UploadedBytes int64 `json:"uploadedBytes"` // by the caller
	PassedBytes   int64 `json:"passedBytes"`   // from host to host
}

// Swarm coordinates one distribution. Its zero value is ready for use; it is safe for use by several goroutines.
type Swarm struct {
	mu        sync.Mutex
	changed   chan struct{} // closed and replaced at every change
	sources   []*source
	uploading map[digest.Digest]bool
	active    int
	serving   context.Context
	stop      context.CancelFunc
	stats     Stats
}

// source is a host that has blobs.
type source struct {
	peer  Peer
	has   map[digest.Digest]bool
	busy  int
	offer *Offer
	// opening is held while the host is asked to listen, which happens when the first one needs it.
	opening sync.Mutex
}

// Stats tells how much went which way so far.
func (s *Swarm) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Donate adds a host that has blobs and needs none. Hosts of different architectures have different ones.
func (s *Swarm) Donate(p Peer, blobs []Blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.source(p)
	for _, b := range blobs {
		c.has[b.Digest] = true
	}
}

func (s *Swarm) source(p Peer) *source {
	for _, c := range s.sources {
		if c.peer.Name() == p.Name() {
			return c
		}
	}
	c := &source{peer: p, has: map[digest.Digest]bool{}}
	s.sources = append(s.sources, c)
	return c
}

// Bring makes a host have all the blobs. note is told what is going on.
func (s *Swarm) Bring(ctx context.Context, p Peer, blobs []Blob, note func(string)) error {
	s.enter(ctx)
	defer s.leave()
	all := make([]digest.Digest, len(blobs))
	for i, b := range blobs {
		all[i] = b.Digest
	}
	lacking, err := p.Lacking(ctx, all)
	if err != nil {
		return err
	}
	t := &taker{peer: p, note: note, broken: map[string]bool{}}
	s.mu.Lock()
	has := s.source(p).has
	clear(has) // a host that has to be asked may have lost something
	for _, b := range blobs {
		if slices.Contains(lacking, b.Digest) {
			t.lacking = append(t.lacking, b)
		} else {
			has[b.Digest] = true
		}
	}
	s.wake()
	s.mu.Unlock()
	for total := len(t.lacking); len(t.lacking) > 0; {
		job, wait := s.pick(t)
		if job == nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		note(fmt.Sprintf("blob %d of %d from %s", total-len(t.lacking)+1, total, job.origin()))
		if err := s.transfer(ctx, t, job); err != nil {
			return err
		}
	}
	return nil
}

func (s *Swarm) enter(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active++; s.active == 1 {
		// Hosts serve until no other host needs them, even if they have everything themselves.
		s.serving, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	}
}

func (s *Swarm) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active > 0 {
		return
	}
	s.stop()
	for _, c := range s.sources {
		c.offer = nil
	}
}

func (s *Swarm) wake() {
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// taker is a host that still lacks blobs.
type taker struct {
	peer    Peer
	lacking []Blob
	broken  map[string]bool // sources that it cannot use
	note    func(string)
}

// job is one transfer; from is nil when the caller sends.
type job struct {
	blob Blob
	from *source
}

func (j *job) origin() string {
	if j.from == nil {
		return "here"
	}
	return j.from.peer.Name()
}

// pick chooses the next transfer for a host, and reserves it. Without one it returns what to wait for.
func (s *Swarm) pick(t *taker) (*job, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	if s.uploading == nil {
		s.uploading = map[digest.Digest]bool{}
	}
	var best *job
	holders := map[digest.Digest]int{}
	for _, b := range t.lacking {
		for _, c := range s.usable(t, b.Digest) {
			if holders[b.Digest]++; c.busy >= slots {
				continue
			}
			if best == nil || b.Digest == best.blob.Digest && c.busy < best.from.busy {
				best = &job{b, c}
			}
		}
	}
	if best == nil {
		// Of the blobs that no host can pass on, the largest comes first, because it takes longest to distribute.
		for _, b := range t.lacking {
			if holders[b.Digest] == 0 && !s.uploading[b.Digest] && (best == nil || b.Size > best.blob.Size) {
				best = &job{blob: b}
			}
		}
	}
	switch {
	case best == nil:
		return nil, s.changed
	case best.from == nil:
		s.uploading[best.blob.Digest] = true
	default:
		best.from.busy++
	}
	return best, nil
}

// usable are the sources that the host may ask for a blob.
func (s *Swarm) usable(t *taker, d digest.Digest) []*source {
	if len(t.broken) >= maxBroken {
		return nil
	}
	var out []*source
	for _, c := range s.sources {
		if c.has[d] && c.peer.Name() != t.peer.Name() && !t.broken[c.peer.Name()] {
			out = append(out, c)
		}
	}
	return out
}

func (s *Swarm) transfer(ctx context.Context, t *taker, j *job) error {
	var err error
	if j.from == nil {
		err = t.peer.Upload(ctx, j.blob)
	} else if err = s.passOn(ctx, t, j); err != nil && ctx.Err() == nil {
		t.note(fmt.Sprintf("%s cannot get it from %s (%v): trying another source", t.peer.Name(), j.from.peer.Name(), err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	if j.from == nil {
		delete(s.uploading, j.blob.Digest)
	} else if j.from.busy--; err != nil {
		t.broken[j.from.peer.Name()] = true
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if j.from == nil {
		s.stats.UploadedBytes += j.blob.Size
	} else {
		s.stats.PassedBytes += j.blob.Size
	}
	t.lacking = slices.DeleteFunc(t.lacking, func(b Blob) bool { return b.Digest == j.blob.Digest })
	s.source(t.peer).has[j.blob.Digest] = true
	return nil
}

func (s *Swarm) passOn(ctx context.Context, t *taker, j *job) error {
	offer, err := s.open(ctx, j.from)
	if err != nil {
		return err
	}
	return t.peer.Fetch(ctx, j.blob, offer)
}

// open makes a source listen, unless it does already.
func (s *Swarm) open(ctx context.Context, c *source) (Offer, error) {
	c.opening.Lock()
	defer c.opening.Unlock()
	s.mu.Lock()
	have, serving := c.offer, s.serving
	s.mu.Unlock()
	if have != nil {
		return *have, nil
	}
	offer, err := c.peer.Offer(ctx)
	if err != nil {
		return offer, err
	}
	s.mu.Lock()
	c.offer = &offer
	s.mu.Unlock()
	go func() {
		_ = c.peer.Serve(serving, offer) // a host that fails here uses another source
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.offer == &offer {
			c.offer = nil
		}
	}()
	return offer, nil
}
