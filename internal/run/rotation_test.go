package run

import (
	"slices"
	"testing"
)

// TestWorkloadsThatMayTrustTheOldCertificateOnly: what was started since, what mounts nothing, and what has ended is not named.
func TestWorkloadsThatMayTrustTheOldCertificateOnly(t *testing.T) {
	const (
		mounts = `"volumes": [{"name": "token", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]`
		before = `"containerStatuses": [{"name": "c", "state": {"running": {"startedAt": "2026-11-27T10:00:00Z"}}}]`
		after  = `"containerStatuses": [{"name": "c", "state": {"running": {"startedAt": "2026-11-27T12:00:01Z"}}}]`
	)
	pod := func(name, owner, volumes, statuses, phase string) string {
		return `{"metadata": {"namespace": "shop", "name": "` + name + `", "ownerReferences": [` + owner + `]}, "spec": {` + volumes + `}, "status": {"phase": "` + phase + `", ` + statuses + `}}`
	}
	owner := func(kind, name string) string {
		return `{"apiVersion": "apps/v1", "kind": "` + kind + `", "name": "` + name + `", "uid": "1", "controller": true}`
	}
	client := apiServer(t, map[string]string{
		"/api/v1/configmaps?metadata.name=kube-root-ca.crt": `{"items": [{"metadata": {"namespace": "shop", "name": "kube-root-ca.crt", "creationTimestamp": "2026-01-01T00:00:00Z",
			"managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "time": "2026-11-27T12:00:00Z"}]}}]}`,
		"/api/v1/pods": `{"items": [` +
			pod("web-1", owner("ReplicaSet", "web-7d"), mounts, before, "Running") + "," +
			pod("web-2", owner("ReplicaSet", "web-7d"), mounts, before, "Running") + "," +
			pod("db-0", owner("StatefulSet", "db"), mounts, before, "Running") + "," +
			pod("by-hand", "", mounts, before, "Running") + "," +
			pod("restarted", owner("DaemonSet", "agent"), mounts, after, "Running") + "," +
			pod("no-token", owner("DaemonSet", "other"), `"volumes": []`, before, "Running") + "," +
			pod("ended", owner("Job", "once"), mounts, before, "Succeeded") + `]}`,
		"/apis/apps/v1/replicasets": `{"items": [{"metadata": {"namespace": "shop", "name": "web-7d", "ownerReferences": [` + owner("Deployment", "web") + `]}}]}`,
	})
	found, err := staleWorkloads(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, w := range found {
		have = append(have, w.String())
	}
	if want := []string{"Deployment shop/web", "Pod shop/by-hand", "StatefulSet shop/db"}; !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
}
