package observe

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/kube"
)

// TestNoRequestOutlivesTheObservation: an API server that hangs after it has accepted the connection does not hold an observation for longer than that may take.
func TestNoRequestOutlivesTheObservation(t *testing.T) {
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(end)
	client, err := kube.FromConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
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
