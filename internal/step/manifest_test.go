package step

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/kube/kubetest"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/manifest"
)

// manifestServer is an API that knows roles and ConfigMaps. It keeps what is written, in order, and the run is killed at the first write whose path has at.
func manifestServer(t *testing.T, at string, kill context.CancelFunc) (*kube.Client, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var wrote []string
	list := func(group, version string, resources ...metav1.APIResource) metav1.APIResourceList {
		return metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: strings.TrimPrefix(group+"/"+version, "/"), APIResources: resources}
	}
	rbac := metav1.GroupVersionForDiscovery{GroupVersion: "rbac.authorization.k8s.io/v1", Version: "v1"}
	answers := map[string]any{
		"/api": metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}},
		"/apis": metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{
			{Name: "rbac.authorization.k8s.io", Versions: []metav1.GroupVersionForDiscovery{rbac}, PreferredVersion: rbac}}},
		"/api/v1": list("", "v1", metav1.APIResource{Name: "configmaps", Kind: "ConfigMap", Namespaced: true}),
		"/apis/rbac.authorization.k8s.io/v1": list("rbac.authorization.k8s.io", "v1", metav1.APIResource{Name: "clusterroles", Kind: "ClusterRole"},
			metav1.APIResource{Name: "clusterrolebindings", Kind: "ClusterRoleBinding"}),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			answer, known := answers[r.URL.Path]
			if !known {
				w.WriteHeader(http.StatusNotFound)
			}
			json.NewEncoder(w).Encode(answer)
			return
		}
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		wrote = append(wrote, r.Method+" "+r.URL.Path+" "+string(body))
		mu.Unlock()
		if at != "" && strings.Contains(r.URL.Path, at) {
			kill()
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		w.Write(body)
	}))
	t.Cleanup(server.Close)
	client, err := kube.FromConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(wrote)
	}
}

// TestObjectsAreNotedBeforeTheyExist: a run that is killed while it applies what may be removed later has noted that it is about to. What it notes is neither
// nothing nor the digest, so that the next plan applies it again, or removes it. What is never removed is noted only where another version is applied.
func TestObjectsAreNotedBeforeTheyExist(t *testing.T) {
	all := manifest.Optional()
	for name, tc := range map[string]struct {
		manifest, applied string
		intent            bool
	}{
		"the exporter":            {manifest.Exporter, "", true},
		"the approver":            {manifest.Approver, "", false},
		"another of the approver": {manifest.Approver, "sha256:other", true},
		"another pod network":     {manifest.Flannel, "sha256:other", true},
		"a pod network":           {manifest.Flannel, "", false},
	} {
		for _, killed := range []bool{false, true} {
			ctx, kill := context.WithCancel(t.Context())
			at := ""
			if killed {
				at = "/clusterroles/"
			}
			client, wrote := manifestServer(t, at, kill)
			e := &Env{client: client, Seen: &facts.Observation{API: &facts.API{Applied: map[string]string{tc.manifest: tc.applied}}}, Manifests: map[string]manifest.Manifest{tc.manifest: all[manifest.Exporter]}}
			if err := applyManifest(ctx, e, plan.Step{Manifest: tc.manifest}); (err == nil) == killed {
				t.Errorf("%s, killed %t: %v", name, killed, err)
			}
			kill()
			noted := func(value string) int {
				return slices.IndexFunc(wrote(), func(w string) bool {
					return strings.Contains(w, "/configmaps/"+observe.ConfigMap) && strings.Contains(w, fmt.Sprintf("%q:%q", tc.manifest, value))
				})
			}
			object := slices.IndexFunc(wrote(), func(w string) bool { return strings.Contains(w, "/clusterroles/") })
			if intent := noted(plan.BeingApplied); object < 0 || (intent >= 0) != tc.intent || intent > object {
				t.Errorf("%s, killed %t: %q", name, killed, wrote())
			}
			if done := noted(all[manifest.Exporter].Digest()); (done > object) == killed {
				t.Errorf("%s, killed %t: it is noted as applied: %q", name, killed, wrote())
			}
		}
	}
}

// TestAManifestDoesNotOutliveItsDeadline: an API server that accepts the connection and answers nothing is given up when the time for the step is over.
func TestAManifestDoesNotOutliveItsDeadline(t *testing.T) {
	client := kubetest.Hanging(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- applyObjects(ctx, client, manifest.Optional()[manifest.Exporter]) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("nothing was answered, and there is no error")
		}
	case <-time.After(10 * time.Second):
		t.Error("the step goes on although its time is over")
	}
}
