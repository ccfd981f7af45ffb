package kubeadm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/staticpod"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const ownEtcd = `apiVersion: v1
kind: Pod
metadata: {name: etcd, labels: {tier: control-plane}}
spec:
  containers:
  - command:
    - etcd
    - --name=cp-a
    - --initial-advertise-peer-urls=https://10.0.0.11:2380
    - --initial-cluster=cp-a=https://10.0.0.11:2380
    - --initial-cluster-state=new
    - --initial-cluster-token=lab-0123
    - --data-dir=/var/lib/etcd
    image: etcd
    name: etcd
status: {}
`

// TestAMemberRejoins with the others of today, from the manifest that was set aside.
func TestAMemberRejoins(t *testing.T) {
	root := t.TempDir()
	place, aside := filepath.Join(root, hostconfig.EtcdManifest), filepath.Join(root, facts.WithdrawnDir, "etcd.yaml")
	for _, dir := range []string{filepath.Dir(place), filepath.Dir(aside)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(aside, []byte(ownEtcd), 0o600); err != nil {
		t.Fatal(err)
	}
	as := hostconfig.EtcdCluster{Members: []string{"cp-a=https://10.0.0.11:2380", "cp-b=https://10.0.0.12:2380"}, Exists: true}
	for range 2 {
		if err := rejoining(root, as); err != nil {
			t.Fatal(err)
		}
		pod, err := staticpod.Read(place)
		if err != nil {
			t.Fatal(err)
		}
		args := staticpod.Arguments(pod)
		if args["initial-cluster"] != strings.Join(as.Members, ",") || args["initial-cluster-state"] != "existing" || args["initial-cluster-token"] != "" ||
			args["name"] != "cp-a" || args["initial-advertise-peer-urls"] == "" || args["data-dir"] != "/var/lib/etcd" {
			t.Errorf("%v", args)
		}
		if _, err := os.Stat(aside); err == nil {
			t.Error("the manifest is still set aside")
		}
	}
	if rejoining(root, hostconfig.EtcdCluster{}) == nil {
		t.Error("a member rejoined nobody")
	}
}
