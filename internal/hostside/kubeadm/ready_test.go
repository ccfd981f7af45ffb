package kubeadm

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestReady: the kubelet turns to an API server that is ready, and not to one that only listens.
func TestReady(t *testing.T) {
	for _, tt := range []struct {
		name         string
		node, readyz int
		want         bool
	}{
		{"it listens", http.StatusOK, http.StatusInternalServerError, false},
		{"it is ready", http.StatusOK, http.StatusOK, true},
		{"the node is not registered yet", http.StatusNotFound, http.StatusOK, true},
		{"it refuses its nodes so far", http.StatusForbidden, http.StatusForbidden, false},
		{"nodes may not ask whether it is ready", http.StatusOK, http.StatusForbidden, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				status := tt.node
				if r.URL.Path == "/readyz" {
					status = tt.readyz
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				if status == http.StatusOK {
					_, _ = w.Write([]byte(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"cp-b"}}`)) // a test of the status
				}
			}))
			defer s.Close()
			client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL})
			if err != nil {
				t.Fatal(err)
			}
			if err := ready(t.Context(), client, "cp-b"); (err == nil) != tt.want {
				t.Errorf("ready: %v, want ready %v", err, tt.want)
			}
		})
	}
}
