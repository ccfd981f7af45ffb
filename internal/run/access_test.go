package run

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const bindings = `{"items": [
	{"subjects": [{"kind": "Group", "name": "system:masters"}, {"kind": "Group", "name": "kubeadm:cluster-admins"}, {"kind": "User", "name": "quorate:approver"}, {"kind": "User", "name": "kube-apiserver-kubelet-client"}]},
	{"subjects": [{"kind": "ServiceAccount", "name": "flannel"}, {"kind": "User", "name": "jane"}]}]}`

// apiServer answers as an API server does, by path and field selector.
func apiServer(t *testing.T, answers map[string]string) kubernetes.Interface {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.URL.Path
		if s := r.URL.Query().Get("fieldSelector"); s != "" {
			key += "?" + s
		}
		if strings.HasSuffix(key, "service-account-token") && !strings.HasPrefix(r.Header.Get("Accept"), "application/json;as=PartialObjectMetadataList") {
			t.Errorf("tokens of service accounts are read: %s", r.Header.Get("Accept"))
		}
		answer, ok := answers[key]
		if !ok {
			http.Error(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "message": "not for you", "code": 403}`, http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(answer)) //nolint:errcheck // the client says it
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func token(name, expiration, authentication string) map[string]any {
	data := map[string][]byte{"token-secret": []byte("SECRET"), "usage-bootstrap-authentication": []byte(authentication)}
	if expiration != "" {
		data["expiration"] = []byte(expiration)
	}
	return map[string]any{"metadata": map[string]any{"name": name}, "data": data}
}

func TestAccess(t *testing.T) {
	now := time.Now()
	tokens, err := json.Marshal(map[string]any{"items": []any{
		token("valid", now.Add(time.Minute).Format(time.RFC3339), "true"), token("expired", now.Add(-time.Minute).Format(time.RFC3339), "true"),
		token("signing-only", "", "false"), token("eternal", "", "true"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{
		"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings":                                                      bindings,
		"/apis/rbac.authorization.k8s.io/v1/rolebindings":                                                             `{"items": [{"subjects": [{"kind": "Group", "name": "ops"}, {"kind": "User", "name": "jane"}, {"kind": "User", "name": "system:anonymous"}]}]}`,
		"/apis/certificates.k8s.io/v1/certificatesigningrequests?spec.signerName=kubernetes.io/kube-apiserver-client": `{"items": [{"metadata": {"name": "joe"}, "status": {"certificate": "eA=="}}, {"metadata": {"name": "waiting"}}]}`,
		"/api/v1/secrets?type=kubernetes.io/service-account-token":                                                    `{"items": [{"metadata": {"namespace": "default", "name": "jane"}}]}`,
		"/api/v1/namespaces/kube-system/secrets?type=bootstrap.kubernetes.io/token":                                   string(tokens),
	}
	got, err := access(t.Context(), apiServer(t, answers))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.People, []string{"group ops", "user jane"}) || !slices.Equal(got.Certificates, []string{"joe"}) || !slices.Equal(got.AccountTokens, []string{"default/jane"}) {
		t.Errorf("%+v", got)
	}
	if len(got.BootstrapTokens) != 2 || got.BootstrapTokens[0] != "eternal, without expiration" || !strings.HasPrefix(got.BootstrapTokens[1], "valid, until ") {
		t.Errorf("tokens %q", got.BootstrapTokens)
	}
	// What the API does not answer is unknown, and so is all of it: nobody is passed for want of an answer.
	for path := range answers {
		some := map[string]string{}
		for p, a := range answers {
			if p != path {
				some[p] = a
			}
		}
		if got, err := access(t.Context(), apiServer(t, some)); err == nil || got != nil {
			t.Errorf("without %s: %+v, %v", path, got, err)
		}
	}
}
