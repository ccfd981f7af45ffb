package distribute

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// world is a network of hosts in which every transfer takes its time, of synctest's clock, and every fact is recorded. What hosts do with
// real connections is tested in package node; this is about who takes what from whom.
type world struct {
	t          *testing.T
	mu         sync.Mutex
	holds      map[string]map[digest.Digest]bool
	unreach    map[string]bool // "b<a": b cannot reach a
	serving    map[string]int
	uploads    map[digest.Digest]int
	atOnce     map[string]int
	maxAtOnce  int
	failUpload map[string]bool
}

func newWorld(t *testing.T) *world {
	return &world{t: t, holds: map[string]map[digest.Digest]bool{}, unreach: map[string]bool{}, serving: map[string]int{},
		uploads: map[digest.Digest]int{}, atOnce: map[string]int{}, failUpload: map[string]bool{}}
}

type fakeHost struct {
	w    *world
	name string
}

func (h *fakeHost) Name() string { return h.name }

func (h *fakeHost) Lacking(_ context.Context, all []digest.Digest) (lacking []digest.Digest, _ error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, d := range all {
		if !h.w.holds[h.name][d] {
			lacking = append(lacking, d)
		}
	}
	return lacking, nil
}

func (h *fakeHost) Offer(context.Context) (Offer, error) { return Offer{Address: h.name}, nil }

func (h *fakeHost) Serve(ctx context.Context, _ Offer) error {
	h.w.mu.Lock()
	h.w.serving[h.name]++
	h.w.mu.Unlock()
	<-ctx.Done()
	h.w.mu.Lock()
	h.w.serving[h.name]--
	h.w.mu.Unlock()
	return nil
}

func (h *fakeHost) store(d digest.Digest) {
	if h.w.holds[h.name] == nil {
		h.w.holds[h.name] = map[digest.Digest]bool{}
	}
	h.w.holds[h.name][d] = true
}

func (h *fakeHost) Fetch(_ context.Context, b Blob, from Offer) error {
	if h.w.unreach[h.name+"<"+from.Address] {
		time.Sleep(5 * time.Second) // of synctest's clock, like every wait here
		return errors.New("no route")
	}
	h.w.mu.Lock()
	if !h.w.holds[from.Address][b.Digest] {
		h.w.mu.Unlock()
		return errors.New("not found")
	}
	h.w.atOnce[from.Address]++
	h.w.maxAtOnce = max(h.w.maxAtOnce, h.w.atOnce[from.Address])
	h.w.mu.Unlock()
	time.Sleep(time.Duration(b.Size))
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.atOnce[from.Address]--
	h.store(b.Digest)
	return nil
}

func (h *fakeHost) Upload(_ context.Context, b Blob) error {
	if h.w.failUpload[h.name] {
		return errors.New("disk full")
	}
	time.Sleep(time.Duration(b.Size))
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.uploads[b.Digest]++
	h.store(b.Digest)
	return nil
}

func blobsOf(n int) (out []Blob) {
	for i := range n {
		out = append(out, Blob{digest.FromString(fmt.Sprint(i)), int64(i%5+1) * int64(time.Second)})
	}
	return out
}

// bring runs one distribution to n hosts that start at about the same time.
func (w *world) bring(s *Swarm, n int, blobs []Blob) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			time.Sleep(time.Duration(rand.N(100)) * time.Millisecond)
			errs[i] = s.Bring(w.t.Context(), &fakeHost{w, name(i)}, blobs, func(string) {})
		})
	}
	wg.Wait()
	return errs
}

func name(i int) string { return fmt.Sprintf("h%d", i) }

func TestEachBlobLeavesTheCallerOnce(t *testing.T) {
	for _, n := range []int{1, 2, 4, 8, 25} {
		t.Run(fmt.Sprint(n, " hosts"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, blobs := newWorld(t), &Swarm{}, blobsOf(12)
				for i, err := range w.bring(s, n, blobs) {
					if err != nil || len(w.holds[name(i)]) != len(blobs) {
						t.Errorf("%s holds %d blobs, %v", name(i), len(w.holds[name(i)]), err)
					}
				}
				var sum int64
				for _, b := range blobs {
					sum += b.Size
					if w.uploads[b.Digest] != 1 {
						t.Errorf("%s was uploaded %d times", b.Digest, w.uploads[b.Digest])
					}
				}
				if got := s.Stats(); got.UploadedBytes != sum || got.PassedBytes != int64(n-1)*sum {
					t.Errorf("stats %+v", got)
				}
				if w.maxAtOnce > slots {
					t.Errorf("one host served %d at once", w.maxAtOnce)
				}
				synctest.Wait()
				for h, listening := range w.serving {
					if listening > 0 {
						t.Errorf("%s still listens", h)
					}
				}
				if n == 1 && len(w.serving) > 0 {
					t.Error("a host listened for nobody")
				}
			})
		})
	}
}

// TestSpreadIsFast holds a swarm to what a tree would do: the time grows with the logarithm of the hosts.
func TestSpreadIsFast(t *testing.T) {
	took := func(n int) (d time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			begin := time.Now()
			w.bring(&Swarm{}, n, []Blob{{digest.FromString("big"), int64(time.Minute)}})
			d = time.Since(begin)
		})
		return d
	}
	// One upload, then 1 → 3 → 9 → 27 hosts.
	if d := took(27); d > 4*time.Minute+time.Second {
		t.Errorf("27 hosts took %s", d)
	}
}

func TestHostsThatCannotReachEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, blobs := newWorld(t), &Swarm{}, blobsOf(6)
		const n = 5
		for i := range n {
			for j := range n {
				w.unreach[name(i)+"<"+name(j)] = true
			}
		}
		for i, err := range w.bring(s, n, blobs) {
			if err != nil || len(w.holds[name(i)]) != len(blobs) {
				t.Errorf("%s holds %d blobs, %v", name(i), len(w.holds[name(i)]), err)
			}
		}
		if got := s.Stats(); got.PassedBytes != 0 {
			t.Errorf("stats %+v", got)
		}
	})
}

func TestOneHostBehindAFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, blobs := newWorld(t), &Swarm{}, blobsOf(6)
		const n = 4
		for j := range n {
			w.unreach[name(0)+"<"+name(j)] = true
		}
		for i, err := range w.bring(s, n, blobs) {
			if err != nil || len(w.holds[name(i)]) != len(blobs) {
				t.Errorf("%s holds %d blobs, %v", name(i), len(w.holds[name(i)]), err)
			}
		}
		for _, b := range blobs {
			if w.uploads[b.Digest] > 2 {
				t.Errorf("%s was uploaded %d times for one host that others cannot help", b.Digest, w.uploads[b.Digest])
			}
		}
	})
}

func TestDonorsGiveWhatTheyHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, blobs := newWorld(t), &Swarm{}, blobsOf(6)
		for _, d := range []string{"whole", "liar"} {
			donor := &fakeHost{w, d}
			s.Donate(donor, blobs)
			if d == "whole" {
				for _, b := range blobs {
					donor.store(b.Digest)
				}
			}
		}
		for i, err := range w.bring(s, 3, blobs) {
			if err != nil || len(w.holds[name(i)]) != len(blobs) {
				t.Errorf("%s holds %d blobs, %v", name(i), len(w.holds[name(i)]), err)
			}
		}
		if got := s.Stats(); got.UploadedBytes != 0 {
			t.Errorf("the caller sent what a donor has: %+v", got)
		}
	})
}

func TestDonorThatLostSomethingIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, blobs := newWorld(t), &Swarm{}, blobsOf(3)
		donor := &fakeHost{w, name(0)}
		donor.store(blobs[0].Digest)
		s.Donate(donor, blobs)
		for i, err := range w.bring(s, 2, blobs) {
			if err != nil || len(w.holds[name(i)]) != len(blobs) {
				t.Errorf("%s holds %d blobs, %v", name(i), len(w.holds[name(i)]), err)
			}
		}
	})
}

func TestAFailedUploadStopsOnlyItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, blobs := newWorld(t), &Swarm{}, blobsOf(4)
		w.failUpload[name(0)] = true
		for j := range 3 {
			w.unreach[name(0)+"<"+name(j)] = true
		}
		errs := w.bring(s, 3, blobs)
		if errs[0] == nil {
			t.Error("a host that nothing can be sent to is said to be finished")
		}
		for i := 1; i < 3; i++ {
			if errs[i] != nil || len(w.holds[name(i)]) != len(blobs) {
				t.Errorf("%s holds %d blobs, %v", name(i), len(w.holds[name(i)]), errs[i])
			}
		}
	})
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, blobs := newWorld(t), &Swarm{}, blobsOf(1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- s.Bring(t.Context(), &fakeHost{w, "h0"}, blobs, func(string) {}) }()
		synctest.Wait()
		go func() { done <- s.Bring(ctx, &fakeHost{w, "h1"}, blobs, func(string) {}) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("the other got %v", err)
		}
	})
}

// TestHostsOfTwoArchitectures: each blob is sent once to hosts that need it, donors are only asked for what they have, and no host gets what is
// for the other architecture.
func TestHostsOfTwoArchitectures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 4 // of each architecture
		all := blobsOf(13)
		shared := all[12:]
		needs := map[string][]Blob{"amd64": append(all[:6:6], shared...), "arm64": append(all[6:12:12], shared...)}
		w, s := newWorld(t), &Swarm{}
		for _, arch := range []string{"amd64", "amd64 too", "amd64 as well"} { // more than a host tries before it gives up on donors
			donor := &fakeHost{w, arch}
			for _, b := range needs["amd64"] {
				donor.store(b.Digest)
			}
			s.Donate(donor, needs["amd64"])
		}
		var wg sync.WaitGroup
		for arch, blobs := range needs {
			for i := range hosts {
				wg.Go(func() {
					if err := s.Bring(t.Context(), &fakeHost{w, arch + name(i)}, blobs, func(string) {}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		for arch, blobs := range needs {
			for i := range hosts {
				have := w.holds[arch+name(i)]
				if len(have) != len(blobs) {
					t.Errorf("%s%s has %d blobs instead of %d", arch, name(i), len(have), len(blobs))
				}
				for _, b := range blobs {
					if !have[b.Digest] {
						t.Errorf("%s%s lacks a blob", arch, name(i))
					}
				}
			}
		}
		for _, b := range all[:6] {
			if w.uploads[b.Digest] > 0 {
				t.Error("the caller sent what donors have")
			}
		}
		for _, b := range all[6:12] {
			if w.uploads[b.Digest] != 1 {
				t.Errorf("the caller sent a blob for arm64 %d times", w.uploads[b.Digest])
			}
		}
		if w.uploads[shared[0].Digest] > 0 {
			t.Error("the caller sent what hosts of the other architecture have")
		}
	})
}
