package programs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/durable/durabletest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/blobs"
)

// TestPowerCut cuts the power during an installation and an update, every other time exactly where a phase begins, otherwise at
// an arbitrary moment of the phase. Whatever a mark claims after that is intact, every program that could be started before can
// be started, and doing it again completes it.
func TestPowerCut(t *testing.T) { cutOften(t, 6) }

func cutOften(t *testing.T, cuts int) {
	disk := durabletest.New(t, 256<<20)
	bundles := []*testBundle{makeBundle(t, "v1"), makeBundle(t, "v2", "usr/local/bin/ctr")}
	var began []time.Time
	if err := update(t.Context(), newStore(filepath.Join(disk.Dir, "uncut")), bundles, func() { began = append(began, time.Now()) }); err != nil {
		t.Fatal(err)
	}
	phases := len(began)
	began = append(began, time.Now())
	reached := map[string]int{}
	for n := range cuts {
		s := newStore(filepath.Join(disk.Dir, fmt.Sprintf("cut-%d", n)))
		phase := phases * n / cuts
		reachedPhase, powerIsOff, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			passed := 0
			failed <- update(t.Context(), s, bundles, func() {
				if passed == phase {
					close(reachedPhase)
					if n%2 == 0 {
						<-powerIsOff
					}
				}
				passed++
			})
		}()
		<-reachedPhase
		if n%2 != 0 {
			time.Sleep(rand.N(began[phase+1].Sub(began[phase]))) // the moment is the test's parameter
		}
		disk.Cut()
		close(powerIsOff)
		err := <-failed
		disk.Restore()
		state := intact(t, s, bundles)
		reached[fmt.Sprintf("%d bundles, %d programs", len(state.Bundles), len(state.Programs))]++
		if err == nil && state.Binaries != bundles[1].digest() {
			t.Errorf("what had returned is not there: %+v", state)
		}
		if t.Failed() {
			t.Fatalf("cut %d in phase %d of %d", n, phase, phases)
		}
		if err := update(t.Context(), s, bundles, func() {}); err != nil {
			t.Fatalf("cut %d in phase %d: doing it again: %v", n, phase, err)
		}
		if state := intact(t, s, bundles); state.Binaries != bundles[1].digest() || len(state.Problems) > 0 || len(state.Bundles) != 1 {
			t.Fatalf("cut %d in phase %d: after doing it again: %+v", n, phase, state)
		}
		if err := os.RemoveAll(filepath.Dir(s.root)); err != nil {
			t.Fatal(err)
		}
	}
	if len(reached) < 3 { // certain with six cuts: at three of them the work stood still until the power was off
		t.Errorf("the cuts were all at the same place: %v", reached)
	}
	t.Log(reached)
}

// update installs the first bundle, unless the second one is in use, and updates to the second. It tells when a phase begins.
func update(ctx context.Context, s store, bundles []*testBundle, phase func()) error {
	state, err := s.read(ctx)
	if err != nil {
		return err
	}
	later := false
	for _, d := range state.Programs {
		later = later || d == bundles[1].digest()
	}
	type step func() error
	var steps []step
	for i, b := range bundles {
		if i == 0 && later {
			continue
		}
		steps = append(steps, func() error { return s.bring(b) }, func() error { return s.unpack(ctx, b.index) })
		if i == 0 {
			steps = append(steps, func() error { return s.switchTo(ctx, b.digest(), nil) })
			continue
		}
		for _, p := range facts.SwitchOrder {
			steps = append(steps, func() error { return s.switchTo(ctx, b.digest(), []string{p}) })
		}
	}
	steps = append(steps, func() error { return s.prune([]string{bundles[1].digest()}, "") })
	for _, do := range steps {
		phase()
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// intact checks all claims on a disk by reading everything.
func intact(t *testing.T, s store, bundles []*testBundle) State {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.blobs.Dir, "blobs", "sha256", "[0-9a-f]*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if problem, err := blobs.CheckFile(t.Context(), f, digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(f))); problem != "" || err != nil {
			t.Errorf("a blob under its name: %s %s, %v", f, problem, err)
		}
	}
	marks, err := s.marks()
	if err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(s.dir("[0-9a-f]*.json")); err != nil || len(files) != len(marks) {
		t.Errorf("%d of %d marks can be read, %v", len(marks), len(files), err)
	}
	for _, m := range marks {
		for i := range m.Entries {
			m.Entries[i].Modified = 0 // read all
		}
		for _, e := range m.Entries {
			if problem, _, err := s.check(t.Context(), m, e.Path); problem != "" || err != nil {
				t.Errorf("bundle %s has a mark, but %s, %v", m.Bundle, problem, err)
			}
		}
	}
	state, err := s.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byDigest := map[string]*testBundle{bundles[0].digest(): bundles[0], bundles[1].digest(): bundles[1]}
	for path := range bundles[0].files {
		if b := byDigest[state.Programs[facts.ProgramOf(path)]]; b != nil && !s.runs(path, b) {
			t.Errorf("%s is not that of %s, as the state says", path, b.digest())
		}
		if _, err := os.Lstat(filepath.Join(s.root, path)); err == nil && !s.runs(path, bundles[0]) && !s.runs(path, bundles[1]) {
			t.Errorf("%s is neither program", path)
		}
	}
	return state
}
