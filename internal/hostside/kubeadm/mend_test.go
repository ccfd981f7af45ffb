package kubeadm

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/hostside/system"
)

// place makes a directory with files: those without content are there and empty.
func place(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// names are the files below a directory.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			out = append(out, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// pair is a certificate, its key, and the key's public half.
func pair(t *testing.T) (certificate, key, public string) {
	t.Helper()
	ca, _ := authority(t)
	private := ca.PrivateKey.(*ecdsa.PrivateKey)
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", ca.Certificate[0]), encode("EC PRIVATE KEY", keyDER), encode("PUBLIC KEY", publicDER)
}

// kubeconfig is one with these credentials.
func kubeconfig(t *testing.T, user *clientcmdapi.AuthInfo) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://10.0.0.11:6443"}
	config.AuthInfos["u"] = user
	config.Contexts["u@c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "u@c"
	content, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestMend(t *testing.T) {
	dir := t.TempDir()
	certificate, key, public := pair(t)
	admin := kubeconfig(t, &clientcmdapi.AuthInfo{ClientCertificateData: []byte(certificate), ClientKeyData: []byte(key)})
	half := func(s string) string { return s[:len(s)/2] }
	place(t, dir, map[string]string{
		"pki/ca.crt": certificate, "pki/ca.key": key,
		"pki/apiserver.key":                key, // its certificate was not begun
		"pki/front-proxy-ca.crt":           certificate,
		"pki/front-proxy-client.crt":       half(certificate),
		"pki/front-proxy-client.key":       key,
		"pki/apiserver-kubelet-client.crt": certificate,
		"pki/apiserver-kubelet-client.key": strings.Repeat("\x00", len(key)), // not synced before a power cut
		"pki/sa.key":                       key,
		"pki/sa.pub":                       public,
		"pki/etcd/server.crt":              certificate,
		"pki/etcd/server.key":              key,
		"pki/etcd/healthcheck.crt":         "",
		"pki/etcd/healthcheck.key":         key, // its certificate was only opened
		"admin.conf":                       admin,
		"controller-manager.conf":          half(admin),
		"scheduler.conf":                   "",
		"cloud.conf":                       "not a kubeconfig, and somebody else's",
		"manifests/kube-apiserver.yaml":    "",
	})
	kubelet := filepath.Join(t.TempDir(), "config.yaml")
	for range 2 { // what is mended needs no mending
		if err := mend(dir, kubelet); err != nil {
			t.Fatal(err)
		}
		want := []string{"admin.conf", "cloud.conf", "manifests/kube-apiserver.yaml", "pki/ca.crt", "pki/ca.key", "pki/etcd/server.crt", "pki/etcd/server.key", "pki/sa.key", "pki/sa.pub"}
		if left := names(t, dir); !slices.Equal(left, want) {
			t.Errorf("left: %v, want %v", left, want)
		}
	}
	if err := mend(filepath.Join(dir, "nowhere"), kubelet); err != nil {
		t.Errorf("a host without anything: %v", err)
	}

	if err := os.WriteFile(kubelet, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "pki/ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := mend(dir, kubelet); err != nil || !system.Filled(filepath.Join(dir, "pki/ca.crt")) {
		t.Errorf("a host that is complete, its authority's key kept elsewhere, was changed: %v", err)
	}
}

// TestMendKeepsExternalEtcdsCA: the key of its authority is on other hosts, and the certificate no leftover.
func TestMendKeepsExternalEtcdsCA(t *testing.T) {
	certificate, key, _ := pair(t)
	for _, tc := range []struct {
		name  string
		files map[string]string
		kept  bool
	}{
		{"complete", map[string]string{"apiserver-etcd-client.crt": certificate, "apiserver-etcd-client.key": key, "etcd/ca.crt": certificate}, true},
		{"the client's key alone", map[string]string{"apiserver-etcd-client.key": key, "etcd/ca.crt": certificate}, false},
		{"a stacked one's half", map[string]string{"apiserver-etcd-client.crt": certificate, "apiserver-etcd-client.key": key, "etcd/ca.crt": certificate, "etcd/ca.key": ""}, false},
	} {
		dir := t.TempDir()
		place(t, filepath.Join(dir, "pki"), tc.files)
		if err := mend(dir, filepath.Join(dir, "config.yaml")); err != nil {
			t.Fatal(err)
		}
		if got := system.Filled(filepath.Join(dir, "pki/etcd/ca.crt")); got != tc.kept {
			t.Errorf("%s: kept %t", tc.name, got)
		}
	}
}
