package run

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
)

// TestGraphRunsEverythingInOrder runs random graphs: every step once, and never before what it needs.
func TestGraphRunsEverythingInOrder(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		steps := make([]plan.Step, 40)
		for i := range steps {
			steps[i].ID = fmt.Sprint(i)
			for range r.IntN(4) {
				if i > 0 {
					steps[i].Needs = append(steps[i].Needs, fmt.Sprint(r.IntN(i)))
				}
			}
		}
		r.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		if err := check(&plan.Plan{Steps: steps}); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		done := map[string]bool{}
		err := graph(t.Context(), steps, func(_ context.Context, s plan.Step) error {
			mu.Lock()
			defer mu.Unlock()
			for _, n := range s.Needs {
				if !done[n] {
					t.Errorf("seed %d: %s ran before %s", seed, s.ID, n)
				}
			}
			if done[s.ID] {
				t.Errorf("seed %d: %s ran twice", seed, s.ID)
			}
			done[s.ID] = true
			return nil
		})
		if err != nil || len(done) != len(steps) {
			t.Fatalf("seed %d: %d of %d steps, %v", seed, len(done), len(steps), err)
		}
	}
}

func TestGraphRunsIndependentStepsAtOnce(t *testing.T) {
	steps := []plan.Step{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	meet := sync.WaitGroup{}
	meet.Add(len(steps))
	// Each step waits for the others: run one after another they would never end.
	if err := graph(t.Context(), steps, func(context.Context, plan.Step) error { meet.Done(); meet.Wait(); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestGraphStopsAfterAFailure(t *testing.T) {
	boom := errors.New("boom")
	var mu sync.Mutex
	var ran []string
	err := graph(t.Context(), []plan.Step{{ID: "a"}, {ID: "b", Needs: []string{"a"}}, {ID: "c", Needs: []string{"b"}}}, func(_ context.Context, s plan.Step) error {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, s.ID)
		return boom
	})
	if !errors.Is(err, boom) || strings.Join(ran, "") != "a" {
		t.Fatalf("ran %v, %v", ran, err)
	}
}

// TestNothingWaitsAfterAFailure: what only waits ends when another step has failed, and is no failure of its own. What changes
// something is finished.
func TestNothingWaitsAfterAFailure(t *testing.T) {
	boom := errors.New("boom")
	var finished atomic.Bool
	begun := sync.WaitGroup{}
	begun.Add(2)
	steps := []plan.Step{{ID: "fails", Kind: plan.StartEtcd}, {ID: "waits", Kind: plan.AwaitControllers}, {ID: "changes", Kind: plan.StartKubelet}}
	ended := make(chan struct{})
	err := graph(t.Context(), steps, func(ctx context.Context, s plan.Step) error {
		switch s.ID {
		case "fails":
			begun.Wait()
			return boom
		case "waits":
			begun.Done()
			<-ctx.Done()
			close(ended)
			return context.Cause(ctx)
		}
		begun.Done()
		<-ended
		finished.Store(ctx.Err() == nil)
		return nil
	})
	if err == nil || err.Error() != "boom" || !finished.Load() {
		t.Errorf("%v, finished %t", err, finished.Load())
	}
}

func TestGraphSaysThatItWasInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := graph(ctx, []plan.Step{{ID: "a"}, {ID: "b", Needs: []string{"a"}}}, func(ctx context.Context, _ plan.Step) error {
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run it again") {
		t.Fatal(err)
	}
}

func TestCheckRefusesPlansThatCannotEnd(t *testing.T) {
	for name, steps := range map[string][]plan.Step{
		"a cycle":         {{ID: "a", Needs: []string{"b"}}, {ID: "b", Needs: []string{"a"}}},
		"not in the plan": {{ID: "a", Needs: []string{"x"}}},
		"two steps":       {{ID: "a"}, {ID: "a"}},
	} {
		if err := check(&plan.Plan{Steps: steps}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAFailedUpgradeSaysWhatRuns: whoever reads the error knows which versions there are, and that both ways are open.
func TestAFailedUpgradeSaysWhatRuns(t *testing.T) {
	failed := &StepError{Step: plan.Step{Title: "bring the kubelet to v1.37.2", Host: "cp-b"}, Err: errors.New("it does not start"),
		Versions: []cluster.Version{{Program: "kube-apiserver", Version: "v1.36.3", Hosts: []string{"cp-b", "cp-c"}}, {Program: "kube-apiserver", Version: "v1.37.2", Hosts: []string{"cp-a"}}}}
	for _, part := range []string{"could not bring the kubelet to v1.37.2 on cp-b: it does not start", "kube-apiserver v1.36.3 on cp-b and cp-c", "kube-apiserver v1.37.2 on cp-a", "go back"} {
		if !strings.Contains(failed.Error(), part) {
			t.Errorf("no %q in\n%v", part, failed)
		}
	}
	failed.Versions = nil
	if failed.Error() != "could not bring the kubelet to v1.37.2 on cp-b: it does not start" {
		t.Error(failed)
	}
}
