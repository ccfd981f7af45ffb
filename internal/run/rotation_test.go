package run

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/plan"
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
			pod("simulated", owner("StatefulSet", "load"), `"nodeSelector": {"`+facts.SimulatedLabel+`": "running"}, `+mounts, before, "Running") + "," +
			pod("ended", owner("Job", "once"), mounts, before, "Succeeded") + `]}`,
		"/apis/apps/v1/replicasets": `{"items": [{"metadata": {"namespace": "shop", "name": "web-7d", "ownerReferences": [` + owner("Deployment", "web") + `]}}]}`,
	})
	found, err := staleWorkloads(t.Context(), client, "new")
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

// TestTheClustersOwnClients: the controller manager publishes what pods trust again when the new key begins to sign. What Quorate restarted before that has read
// both, and so has what was started later. What is Quorate's own and is stale all the same is not named.
func TestTheClustersOwnClients(t *testing.T) {
	pod := func(namespace, name, kind, owner, created, authority string) string {
		return `{"metadata": {"namespace": "` + namespace + `", "name": "` + name + `", "creationTimestamp": "` + created + `", "annotations": {"` + facts.AuthorityAnnotation + `": "` + authority + `"},
			"ownerReferences": [{"apiVersion": "apps/v1", "kind": "` + kind + `", "name": "` + owner + `", "uid": "1", "controller": true}]},
			"spec": {"volumes": [{"name": "token", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]},
			"status": {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": "` + created + `"}}}]}}`
	}
	published := func(namespace string) string {
		return `{"metadata": {"namespace": "` + namespace + `", "name": "kube-root-ca.crt", "creationTimestamp": "2026-01-01T00:00:00Z",
			"managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "time": "2026-11-27T12:30:00Z"}]}}`
	}
	const before, told, between = "2026-11-27T11:00:00Z", "2026-11-27T12:00:00Z", "2026-11-27T12:10:00Z"
	deployment := func(namespace, name string) string {
		return `{"metadata": {"namespace": "` + namespace + `", "name": "` + name + `-5c", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "` + name + `", "uid": "1", "controller": true}]}}`
	}
	client := apiServer(t, map[string]string{
		"/api/v1/configmaps?metadata.name=kube-root-ca.crt": `{"items": [` + published("kube-system") + "," + published("kube-flannel") + "," + published("shop") + "," + published(monitoring.Namespace) + `]}`,
		"/api/v1/pods": `{"items": [` +
			pod("kube-system", "kube-proxy-1", "DaemonSet", "kube-proxy", told, "new") + "," +
			pod("kube-system", "coredns-1", "ReplicaSet", "coredns-5c", told, "new") + "," +
			pod("kube-flannel", "kube-flannel-1", "DaemonSet", "kube-flannel", before, "former") + "," +
			pod("calico-system", "calico-node-1", "DaemonSet", "calico-node", told, "new") + "," +
			pod(monitoring.Namespace, "prometheus-1", "ReplicaSet", "prometheus-5c", before, "") + "," +
			pod(monitoring.Namespace, "kube-state-metrics-1", "ReplicaSet", "kube-state-metrics-5c", before, "") + "," +
			pod("shop", "db-0", "StatefulSet", "db", between, "") + "," +
			pod("shop", "web-1", "ReplicaSet", "web-5c", before, "") + `]}`,
		"/apis/apps/v1/replicasets": `{"items": [` + deployment("kube-system", "coredns") + "," + deployment(monitoring.Namespace, "prometheus") + "," + deployment(monitoring.Namespace, "kube-state-metrics") + "," + deployment("shop", "web") + `]}`,
	})
	found, err := staleWorkloads(t.Context(), client, "new")
	if err != nil {
		t.Fatal(err)
	}
	f := clustertest.Whole()
	f.Spec.Spec.Monitoring.Prometheus.Install = true
	own := ownClients(cluster.Evaluate(f.Spec, f.Seen))
	for skip, users := range map[bool][]string{false: {"Deployment shop/web"}, true: nil} {
		var o plan.RotateOptions
		staleFor(found, own, skip, &o)
		if !slices.Equal(o.StaleClients, users) || !o.RestartOwn || !slices.Equal(o.StaleOwn, []string{"kube-flannel/kube-flannel"}) {
			t.Errorf("found %v: %+v", words(found), o)
		}
	}
}

// TestWorkloadsThatMayUseOldTokens: what was made since the new key signs, what has no token, and what reads it again is not named.
func TestWorkloadsThatMayUseOldTokens(t *testing.T) {
	since := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	const mounts = `"volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]`
	pod := func(namespace, name, kind, owner, volumes, created string) string {
		return `{"metadata": {"namespace": "` + namespace + `", "name": "` + name + `", "creationTimestamp": "` + created + `", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "` + kind + `", "name": "` + owner + `", "uid": "1", "controller": true}]},
			"spec": {` + volumes + `}, "status": {"phase": "Running"}}`
	}
	const before, after = "2026-11-27T12:00:00Z", "2026-11-27T12:00:01Z"
	client := apiServer(t, map[string]string{
		"/api/v1/pods": `{"items": [` +
			pod("shop", "web-1", "ReplicaSet", "web-7d", mounts, before) + "," +
			pod("shop", "db-0", "StatefulSet", "db", mounts, before) + "," +
			pod("shop", "new-0", "StatefulSet", "new", mounts, after) + "," +
			pod("shop", "no-token", "DaemonSet", "other", `"volumes": []`, before) + "," +
			pod("kube-system", "coredns-1", "ReplicaSet", "coredns-5c", mounts, before) + "," +
			pod("shop", "coredns-1", "DaemonSet", "coredns", mounts, before) + "," +
			pod("kube-flannel", "kube-flannel-1", "DaemonSet", "kube-flannel", mounts, before) + "," +
			pod("calico-system", "calico-node-1", "DaemonSet", "calico-node", mounts, before) + "," + // its plugin has a token of its own on each node
			pod("kube-system", "kube-proxy-1", "DaemonSet", "kube-proxy", mounts, before) + `]}`,
		"/apis/apps/v1/replicasets": `{"items": [{"metadata": {"namespace": "shop", "name": "web-7d", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1", "controller": true}]}},
			{"metadata": {"namespace": "kube-system", "name": "coredns-5c", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "coredns", "uid": "1", "controller": true}]}}]}`,
	})
	f := clustertest.Whole()
	f.Seen.API.DaemonSets = []facts.DaemonSet{{Namespace: "kube-system", Name: facts.KubeProxy}, {Namespace: "calico-system", Name: "calico-node"}}
	found, err := staleTokens(t.Context(), client, since, ownClients(cluster.Evaluate(f.Spec, f.Seen)))
	if err != nil {
		t.Fatal(err)
	}
	if have, want := words(found), []string{"DaemonSet calico-system/calico-node", "DaemonSet shop/coredns", "Deployment shop/web", "StatefulSet shop/db"}; !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
}

// TestSecretsWithOldTokens: one whose token cannot be read may be an old one.
func TestSecretsWithOldTokens(t *testing.T) {
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	sum, other := sha256.Sum256([]byte("old")), sha256.Sum256([]byte("new"))
	token := func(key []byte) []byte {
		return []byte(encode(`{"alg":"ES256","kid":"`+base64.RawURLEncoding.EncodeToString(key)+`"}`) + "." + encode(`{"sub":"system:serviceaccount:shop:robot"}`) + ".c2ln")
	}
	secret := func(name string, text []byte) corev1.Secret {
		return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string][]byte{corev1.ServiceAccountTokenKey: text}}
	}
	have := signedSecrets([]corev1.Secret{secret("robot", token(sum[:])), secret("new", token(other[:])), secret("empty", nil), secret("damaged", []byte("x")), secret("by-others", token([]byte("2026")))}, hex.EncodeToString(sum[:]))
	if want := []string{"shop/by-others", "shop/damaged", "shop/robot"}; !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
}
