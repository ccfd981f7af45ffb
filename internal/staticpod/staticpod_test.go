package staticpod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const manifest = `apiVersion: v1
kind: Pod
metadata:
  labels:
    component: etcd
    tier: control-plane
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --name=cp-a
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: /etc/kubernetes/pki/etcd
      name: etcd-certs
  volumes:
  - hostPath:
      path: /var/lib/etcd
    name: etcd-data
  - hostPath:
      path: /etc/kubernetes/pki/etcd
    name: etcd-certs
status: {}
`

// TestIncompleteManifests cuts a manifest off after every byte, as a program that is killed while it writes does.
func TestIncompleteManifests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd.yaml")
	for n := range len(manifest) + 1 {
		if err := os.WriteFile(path, []byte(manifest[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		pod, err := Read(path)
		if whole := strings.TrimSpace(manifest[:n]) == strings.TrimSpace(manifest); whole != (err == nil) {
			t.Errorf("after %d of %d bytes: read %t, %v", n, len(manifest), pod != nil, err)
		}
	}
	if _, err := Read(path + ".missing"); !os.IsNotExist(err) {
		t.Errorf("no manifest: %v", err)
	}
}
