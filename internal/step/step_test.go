package step

import (
	"context"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"quorate.dev/quorate/internal/plan"
)

func TestTokensAreKubeadms(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)
	seen := map[string]bool{}
	letters := map[rune]int{}
	for range 2000 {
		token := newToken()
		if !form.MatchString(token) || seen[token] {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
		for _, r := range token {
			letters[r]++
		}
	}
	for r, n := range letters {
		// 44,000 letters of 36: 1,222 each. A modulo of a byte would favour the first four by a seventh.
		if r != '.' && (n < 1000 || n > 1450) {
			t.Errorf("letter %c occurs %d times", r, n)
		}
	}
}

// TestEveryKindIsDone keeps plans and their execution together.
func TestEveryKindIsDone(t *testing.T) {
	planned := plan.Kinds()
	for _, k := range planned {
		if kinds[k] == nil {
			t.Errorf("nothing does %s", k)
		}
	}
	for k := range kinds {
		if !slices.Contains(planned, k) {
			t.Errorf("%s is done and never planned", k)
		}
	}
}

// immutable is an object that the API does not let change, and that takes a moment to go.
type immutable struct {
	dynamic.ResourceInterface
	there int // how often it can still be seen; at first as if forever
	calls []string
}

func (i *immutable) Apply(_ context.Context, name string, o *unstructured.Unstructured, _ metav1.ApplyOptions, _ ...string) (*unstructured.Unstructured, error) {
	i.calls = append(i.calls, "apply")
	if i.there > 0 {
		return nil, apierrors.NewInvalid(o.GroupVersionKind().GroupKind(), name, nil)
	}
	return o, nil
}

func (i *immutable) Delete(_ context.Context, _ string, o metav1.DeleteOptions, _ ...string) error {
	i.calls = append(i.calls, "delete in "+string(*o.PropagationPolicy))
	i.there = 2
	return nil
}

func (i *immutable) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	i.calls = append(i.calls, "get")
	if i.there--; i.there > 0 {
		return &unstructured.Unstructured{}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{}, name)
}

func TestChangedJobsAreExchanged(t *testing.T) {
	object := func(version, kind string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": "a"}}}
	}
	synctest.Test(t, func(t *testing.T) {
		job := &immutable{there: 1}
		if err := applyObject(t.Context(), job, object("batch/v1", "Job")); err != nil {
			t.Error(err)
		}
		if want := []string{"apply", "delete in Background", "get", "get", "apply"}; !slices.Equal(job.calls, want) {
			t.Errorf("got %q, want %q", job.calls, want)
		}
		other := &immutable{there: 1}
		if err := applyObject(t.Context(), other, object("v1", "ConfigMap")); !apierrors.IsInvalid(err) || len(other.calls) != 1 {
			t.Errorf("what is no Job is let be: %v, %q", err, other.calls)
		}
	})
}
