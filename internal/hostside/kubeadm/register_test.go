package kubeadm

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"quorate.dev/quorate/internal/hostside/system"
)

func TestRegister(t *testing.T) {
	const second = time.Second
	refused, missing := errors.New("connection refused"), apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, "cp-b")
	for name, tc := range map[string]struct {
		runs, serves, registers time.Duration // runs is before the first look, the others after it; registers without a restart
		restarts                int
	}{
		"registered in an earlier run":       {time.Hour, -59 * time.Minute, -59 * time.Minute, 1},
		"started again since it registered":  {second, -time.Hour, -time.Hour, 0},
		"waiting since it was started again": {20 * second, -time.Hour, -time.Hour, 1},
		"registered soon, looked at late":    {20 * second, -18 * second, -17 * second, 0},
		"registered late, looked at late":    {40 * second, -20 * second, -19 * second, 1},
		"an API that comes soon":             {second, 2 * second, 3 * second, 0},
		"an API that comes late":             {second, 20 * second, time.Minute, 1},
		"a kubelet that waited before":       {20 * second, second, time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, restarts := time.Now(), 0
				err := register(t.Context(), kubelet{
					node: func() (*corev1.Node, error) {
						now := time.Since(begin)
						switch n := (&corev1.Node{}); {
						case now >= tc.registers, restarts > 0:
							n.CreationTimestamp = metav1.NewTime(begin.Add(min(tc.registers, now)))
							return n, nil
						case now >= tc.serves:
							return nil, missing
						}
						return nil, refused
					},
					runs:    func() (time.Duration, error) { return tc.runs + time.Since(begin), nil },
					restart: func() error { restarts++; return nil },
				})
				if err != nil || restarts != tc.restarts {
					t.Errorf("%v after %d restarts", err, restarts)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		restarts := 0
		err := register(ctx, kubelet{
			node:    func() (*corev1.Node, error) { return nil, missing },
			runs:    func() (time.Duration, error) { return time.Minute, nil },
			restart: func() error { restarts++; return nil },
		})
		if !apierrors.IsNotFound(err) || !errors.Is(err, context.DeadlineExceeded) || restarts != 1 {
			t.Errorf("%v after %d restarts", err, restarts)
		}
	})
}

// TestTurningAKubeletCanBeKilledAnywhere: until the restart, something must say that it is due.
func TestTurningAKubeletCanBeKilledAnywhere(t *testing.T) {
	due := filepath.Join(t.TempDir(), "run", "due")
	var did []string
	step := func(name string, err error) func() error {
		return func() error {
			if !system.Exists(due) {
				t.Errorf("killed while it does the step %q, nobody would know", name)
			}
			did = append(did, name)
			return err
		}
	}
	killed := errors.New("killed")
	if err := changeKubelet(due, step("set", nil), step("restart", killed)); !errors.Is(err, killed) || !system.Exists(due) {
		t.Errorf("%v, due: %v", err, system.Exists(due))
	}
	if err := changeKubelet(due, step("set", killed), step("restart", nil)); !errors.Is(err, killed) || !system.Exists(due) {
		t.Errorf("%v, due: %v", err, system.Exists(due))
	}
	if err := changeKubelet(due, step("set", nil), step("restart", nil)); err != nil || system.Exists(due) {
		t.Errorf("%v, due: %v", err, system.Exists(due))
	}
	if want := "set restart set set restart"; strings.Join(did, " ") != want {
		t.Errorf("did %v, want %s", did, want)
	}
}
