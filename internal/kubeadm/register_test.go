package kubeadm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestRegister(t *testing.T) {
	const second = time.Second
	refused, missing := errors.New("connection refused"), apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, "cp-b")
	for name, tc := range map[string]struct {
		waited, serves, registers time.Duration // waited is before the beginning, the others after it; registers without a restart
		restarts                  int
	}{
		"registered long ago":                {time.Hour, 0, 0, 0},
		"a server that comes soon":           {second, 2 * second, 3 * second, 0},
		"a server that comes late":           {second, 20 * second, time.Minute, 1},
		"a kubelet that waited before":       {20 * second, second, time.Minute, 1},
		"registered between looks, but late": {20 * second, second, second, 1},
		"registered between looks, and soon": {0, second, second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, restarts := time.Now(), 0
				err := register(t.Context(), kubelet{
					node: func() error {
						switch now := time.Since(begin); {
						case now >= tc.registers, restarts > 0:
							return nil
						case now >= tc.serves:
							return missing
						}
						return refused
					},
					runs:    func() (time.Duration, error) { return tc.waited + time.Since(begin), nil },
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
			node:    func() error { return missing },
			runs:    func() (time.Duration, error) { return time.Minute, nil },
			restart: func() error { restarts++; return nil },
		})
		if !apierrors.IsNotFound(err) || restarts != 1 {
			t.Errorf("%v after %d restarts", err, restarts)
		}
	})
}
