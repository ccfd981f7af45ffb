package observe

import (
	"context"
	"testing"
	"time"

	"quorate.dev/quorate/internal/kube/kubetest"
)

// TestNoRequestOutlivesTheObservation: an API server that hangs after it has accepted the connection does not hold an observation for longer than that may take.
func TestNoRequestOutlivesTheObservation(t *testing.T) {
	client := kubetest.Hanging(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := API(ctx, client)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("nothing was answered, and there is no error")
		}
	case <-time.After(10 * time.Second):
		t.Error("the observation goes on although its time is over")
	}
}
