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
	refused, missing := errors.New("connection refused"), apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, "cp-b")
	for name, tc := range map[string]struct {
		serves, registers time.Duration // after the beginning; registers counts from the restart if there was one
		restarts          int
	}{
		"at once":                    {0, 0, 0},
		"soon after the server":      {20 * time.Second, 20*time.Second + registrationPatience/2, 0},
		"in a long pause":            {20 * time.Second, time.Minute, 1},
		"a server that takes a time": {3 * time.Minute, 3*time.Minute + registrationPatience/2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, restarts := time.Now(), 0
				get := func() error {
					switch now := time.Since(begin); {
					case now >= tc.registers, restarts > 0:
						return nil
					case now >= tc.serves:
						return missing
					}
					return refused
				}
				if err := register(t.Context(), get, func() error { restarts++; return nil }); err != nil || restarts != tc.restarts {
					t.Errorf("%v after %d restarts", err, restarts)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		restarts := 0
		if err := register(ctx, func() error { return missing }, func() error { restarts++; return nil }); !apierrors.IsNotFound(err) || restarts != 1 {
			t.Errorf("%v after %d restarts", err, restarts)
		}
	})
}
