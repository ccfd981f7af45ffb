package backup

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func configured(t *testing.T, root string) *configuration {
	t.Helper()
	c, err := controlPlane{root: root}.configuration()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func link(t *testing.T, root, target, name string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

func TestTheConfigurationOfAControlPlane(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"pki/ca.key", "pki/ca.crt", "pki/sa.key", "pki/etcd/ca.crt", "pki/encryption.yaml", "admin.conf", "apiserver/audit-policy.yaml", "patches/etcd+strategic.yaml", "manifests/etcd.yaml",
		"manifests/.kube-apiserver.yaml.swp", "notes.txt", "backup/admin.conf"} {
		place(t, root, "etc/kubernetes/"+name, []byte(name))
	}
	// What kubeadm keeps of etcd.
	place(t, root, "etc/kubernetes/tmp/kubeadm-backup-etcd-2026-11-27/etcd/member/snap/db", make([]byte, totalLimit+1))
	link(t, root, "ca.crt", "etc/kubernetes/pki/link.crt")
	link(t, root, "nowhere", "etc/kubernetes/pki/broken.key")
	link(t, root, ".", "etc/kubernetes/pki/loop")
	c := configured(t, root)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.parts)) {
		names = append(names, strings.TrimPrefix(name, "kubernetes/"))
	}
	for _, name := range []string{"admin.conf", "apiserver/audit-policy.yaml", "manifests/etcd.yaml", "patches/etcd+strategic.yaml", "pki/ca.crt", "pki/ca.key", "pki/encryption.yaml", "pki/etcd/ca.crt", "pki/link.crt", "pki/sa.key"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not among %q", name, names)
		}
	}
	if c.encryption != nil {
		t.Error("a file that no flag names is taken for the encryption configuration")
	}
	if want := []string{"kubernetes/pki/broken.key", "kubernetes/pki/etcd/ca.key", "kubernetes/pki/front-proxy-ca.key"}; !slices.Equal(c.missing, want) {
		t.Errorf("missing are %v", c.missing)
	}
	place(t, root, "etc/kubernetes/pki/large", make([]byte, totalLimit))
	if _, err := (controlPlane{root: root}).configuration(); err == nil || !strings.Contains(err.Error(), "/etc/kubernetes/pki/large") {
		t.Errorf("files of any size are read into memory: %v", err)
	}
}

// An adopted cluster has its files where somebody else wanted them.
func TestTheConfigurationOfAnAdoptedControlPlane(t *testing.T) {
	root := t.TempDir()
	files := controlPlaneFiles(t)
	for name, content := range files {
		if !strings.HasPrefix(name, "etc/kubernetes/pki/") {
			place(t, root, name, content)
			continue
		}
		place(t, root, "srv/pki/"+filepath.Base(name), content)
	}
	link(t, root, "../../srv/pki", "etc/kubernetes/pki")
	const enc = `kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: vault, endpoint: unix:///run/kms.sock}
`
	place(t, root, "srv/enc.yaml", []byte(enc))
	manifest := strings.ReplaceAll(apiServer, "/etc/kubernetes/pki/encryption.yaml", "/in/the/pod/enc.yaml")
	manifest = strings.Replace(manifest, "    volumeMounts:\n", "    volumeMounts:\n    - {name: enc, mountPath: /in/the/pod/enc.yaml}\n", 1)
	manifest = strings.Replace(manifest, "  volumes:\n", "  volumes:\n  - {name: enc, hostPath: {path: /srv/enc.yaml, type: File}}\n", 1)
	place(t, root, "etc/kubernetes/manifests/kube-apiserver.yaml", []byte(manifest))
	c := configured(t, root)
	if string(c.encryption) != enc || string(c.parts["host/srv/enc.yaml"]) != enc || string(c.parts["kubernetes/pki/ca.key"]) != string(files["etc/kubernetes/pki/ca.key"]) {
		t.Errorf("the parts are %q", slices.Sorted(maps.Keys(c.parts)))
	}
	if !slices.Contains(c.missing, "the keys of the KMS provider vault") {
		t.Errorf("missing are %v", c.missing)
	}
	place(t, root, "srv/enc.yaml", []byte("kind: Pod"))
	if _, err := (controlPlane{root: root}).configuration(); err == nil || !strings.Contains(err.Error(), "/srv/enc.yaml") {
		t.Errorf("%v", err)
	}
}
