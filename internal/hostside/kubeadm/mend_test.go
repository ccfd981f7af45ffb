package kubeadm

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/hostside/system"
)

func TestMend(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"pki/ca.crt": "whole", "pki/ca.key": "whole",
		"pki/apiserver.key":             "its certificate was not begun",
		"pki/front-proxy-ca.crt":        "its key is lost",
		"pki/sa.key":                    "whole",
		"pki/sa.pub":                    "whole",
		"pki/etcd/server.crt":           "whole",
		"pki/etcd/server.key":           "whole",
		"pki/etcd/healthcheck.crt":      "",
		"pki/etcd/healthcheck.key":      "its certificate was only opened",
		"admin.conf":                    "whole",
		"scheduler.conf":                "",
		"manifests/kube-apiserver.yaml": "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubelet := filepath.Join(t.TempDir(), "config.yaml")
	for range 2 { // what is mended needs no mending
		if err := mend(dir, kubelet); err != nil {
			t.Fatal(err)
		}
		var left []string
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				name, _ := filepath.Rel(dir, path)
				left = append(left, name)
			}
			return err
		})
		want := []string{"admin.conf", "manifests/kube-apiserver.yaml", "pki/ca.crt", "pki/ca.key", "pki/etcd/server.crt", "pki/etcd/server.key", "pki/sa.key", "pki/sa.pub"}
		if !slices.Equal(left, want) {
			t.Errorf("left: %v, want %v", left, want)
		}
	}
	if err := mend(filepath.Join(dir, "nowhere"), kubelet); err != nil {
		t.Errorf("a host without anything: %v", err)
	}

	for _, name := range []string{filepath.Join(dir, "pki/ca.key"), kubelet} {
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
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
	for _, tc := range []struct {
		name  string
		files map[string]string
		kept  bool
	}{
		{"complete", map[string]string{"apiserver-etcd-client.crt": "x", "apiserver-etcd-client.key": "x", "etcd/ca.crt": "x"}, true},
		{"the client's key alone", map[string]string{"apiserver-etcd-client.key": "x", "etcd/ca.crt": "x"}, false},
		{"a stacked one's half", map[string]string{"apiserver-etcd-client.crt": "x", "apiserver-etcd-client.key": "x", "etcd/ca.crt": "x", "etcd/ca.key": ""}, false},
	} {
		dir := t.TempDir()
		for name, content := range tc.files {
			file := filepath.Join(dir, "pki", name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := mend(dir, filepath.Join(dir, "config.yaml")); err != nil {
			t.Fatal(err)
		}
		if got := system.Filled(filepath.Join(dir, "pki/etcd/ca.crt")); got != tc.kept {
			t.Errorf("%s: kept %t", tc.name, got)
		}
	}
}
