package inspect

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestProvidersAreNamedWithoutTheirKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	file := `resources:
- resources: [configmaps]
  providers: [{aesgcm: {}}]
- resources: [secrets]
  providers: [{identity: {}}, {secretbox: {keys: [{name: a, secret: SECRET}]}}]
`
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := providers(path); !slices.Equal(got, []string{"identity", "secretbox"}) {
		t.Errorf("providers %v", got)
	}
	if got := providers(path + ".missing"); got != nil {
		t.Errorf("providers of no file: %v", got)
	}
}

// TestEtcdsVariablesAreSettings: an external member has no arguments at all.
func TestEtcdsVariablesAreSettings(t *testing.T) {
	got := etcdSettings(map[string]string{"name": "by-argument", "auto-tls": "false"},
		[]string{"ETCD_NAME=by-variable", "ETCD_CERT_FILE=/etc/kubernetes/pki/etcd/server.crt", "ETCD_PEER_CLIENT_CERT_AUTH=true", "ETCD_UNUSED=", "PATH=/usr/bin", ""})
	want := map[string]string{"name": "by-argument", "auto-tls": "false", "cert-file": "/etc/kubernetes/pki/etcd/server.crt", "peer-client-cert-auth": "true"}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
