package kube

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAServerThatIsNotReadyRefuses: it has not read its roles yet. What a server that is ready refuses is refused.
func TestAServerThatIsNotReadyRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		asked   int64 // how often it is asked whether it is ready until it is
		allowed bool  // then
		patient time.Duration
		sent    int64
		refused bool
	}{
		"it has just started":          {3, true, time.Minute, 2, false},
		"it was ready in between":      {1, true, time.Minute, 2, false},
		"it is ready, and refuses":     {1, false, time.Minute, 2, true},
		"it does not become ready":     {1 << 40, true, time.Second, 1, true},
		"its caller has less patience": {1 << 40, true, unreadyInterval / 2, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, sent atomic.Int64
			address, admin := server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/readyz" {
					if asked.Add(1) < tc.asked {
						w.WriteHeader(http.StatusInternalServerError)
					}
					return
				}
				if body, err := io.ReadAll(r.Body); err != nil || len(body) == 0 {
					t.Errorf("attempt %d has no body: %v", sent.Load()+1, err)
				}
				w.Header().Set("Content-Type", "application/json")
				if sent.Add(1); asked.Load() < tc.asked || !tc.allowed {
					w.WriteHeader(http.StatusForbidden)
					_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
					return
				}
				_, _ = io.WriteString(w, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`)
			})
			client, err := through([]Server{{session(t, "cp-a"), address}}, write(t, admin))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), tc.patient)
			defer cancel()
			_, err = client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			if tc.refused && !apierrors.IsForbidden(err) || !tc.refused && err != nil {
				t.Errorf("%v", err)
			}
			if got := sent.Load(); got != tc.sent {
				t.Errorf("it was sent %d times, want %d", got, tc.sent)
			}
		})
	}
}
