package lostquorum

import (
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// TestDataLeaveADisk: what etcd reads, and nothing else on the host.
func TestDataLeaveADisk(t *testing.T) {
	p := place{t.TempDir()}
	const dir = "/mnt/var/lib/etcd"
	for _, name := range []string{"wal/0.wal", "wal/0.tmp", "snap/db", "other"} {
		p.write(t, dir+"/member/"+name, name)
	}
	for _, named := range []string{dir, dir + "/", dir + "/member"} {
		got, err := p.listData(named)
		var names []string
		for _, f := range got.Files {
			names = append(names, f.Name)
			if f.Bytes != int64(len(f.Name)) || f.Modified.IsZero() {
				t.Errorf("%+v", f)
			}
		}
		if err != nil || !slices.Equal(names, []string{"snap/db", "wal/0.wal"}) || got.InPlace || got.Running != 0 {
			t.Errorf("%s: %+v, %v", named, got, err)
		}
		f, err := p.openData(named, "snap/db")
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(f); err != nil || string(text) != "snap/db" {
			t.Errorf("%q, %v", text, err)
		}
		f.Close()
	}
	for _, name := range []string{"other", "../../../etc/shadow", "snap/../../x", "wal", "wal/none", "/snap/db"} {
		if f, err := p.openData(dir, name); err == nil {
			t.Errorf("%s can be read", name)
			f.Close()
		}
	}
	if _, err := p.listData("/mnt/etc"); err == nil || !strings.Contains(err.Error(), "no data directory") {
		t.Errorf("no data: %v", err)
	}
	p.write(t, "/var/lib/etcd/member/wal/0.wal", "x")
	p.write(t, "/var/lib/etcd/member/snap/db", "x")
	p.write(t, "/var/lib/etcd-kept/x/member/wal/0.wal", "x")
	p.write(t, "/var/lib/etcd-kept/x/member/snap/db", "x")
	if err := os.Symlink(p.at("/var/lib/etcd-kept/x"), p.at("/mnt/old")); err != nil {
		t.Fatal(err)
	}
	if got, err := p.listData("/mnt/old"); err != nil || !got.Kept || got.InPlace {
		t.Errorf("data that were set aside, by another path: %+v, %v", got, err)
	}
	if got, err := p.listData("/var/lib/etcd"); err != nil || !got.InPlace {
		t.Errorf("the data of the host's own member: %+v, %v", got, err)
	}
}

// TestKeysOnADisk: the first directory counts that has any, and the encryption configuration that the API server used.
func TestKeysOnADisk(t *testing.T) {
	p := place{t.TempDir()}
	const disk = "/mnt/etc/kubernetes/pki"
	dirs := []string{"/mnt/none", disk}
	if got, err := p.readKeys(dirs); err != nil || got.Dir != "" || len(got.PKI) > 0 {
		t.Errorf("no keys: %+v, %v", got, err)
	}
	for _, name := range append(slices.Clone(facts.SharedPKI), "apiserver.key", "etcd/ca.crt") {
		p.write(t, disk+"/"+name, "of "+name)
	}
	got, err := p.readKeys(dirs)
	want := slices.Sorted(slices.Values(append(slices.Clone(facts.SharedPKI), "etcd/ca.crt")))
	if err != nil || got.Dir != disk || !slices.Equal(slices.Sorted(maps.Keys(got.PKI)), want) || string(got.PKI["etcd/ca.crt"]) != "of etcd/ca.crt" {
		t.Errorf("%q, %v", got, err)
	}
	for at, file := range map[string]string{"/etc/kubernetes/enc/a.yaml": "/mnt/etc/kubernetes/enc/a.yaml", "/etc/encryption/b.yaml": "/mnt/etc/encryption/b.yaml"} {
		p.write(t, "/mnt/etc/kubernetes/manifests/kube-apiserver.yaml", strings.ReplaceAll(`apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --encryption-provider-config=FILE]
    volumeMounts: [{name: enc, mountPath: FILE}]
  volumes: [{name: enc, hostPath: {path: FILE}}]
status: {}
`, "FILE", at))
		if got, err := p.readKeys(dirs); err != nil || got.PKI["encryption.yaml"] != nil {
			t.Errorf("%s is missing: %q, %v", file, got, err)
		}
		p.write(t, file, "of "+at)
		if got, err := p.readKeys(dirs); err != nil || string(got.PKI["encryption.yaml"]) != "of "+at {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}

// TestServiceAccountKeysOnADisk: an API server may trust more than sa.pub has, and what was to follow in a rotation is told from them.
func TestServiceAccountKeysOnADisk(t *testing.T) {
	p := place{t.TempDir()}
	const disk = "/mnt/etc/kubernetes/pki"
	p.write(t, disk+"/sa.pub", "own")
	p.write(t, disk+"/sa-next.pub", "next")
	p.write(t, "/mnt/srv/keys/old.pub", "old")
	p.write(t, "/mnt/etc/kubernetes/manifests/kube-apiserver.yaml", `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver, --service-account-key-file=/etc/kubernetes/pki/sa.pub, --service-account-key-file=/old/old.pub]
    volumeMounts:
    - {name: pki, mountPath: /etc/kubernetes/pki}
    - {name: old, mountPath: /old}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki}}
  - {name: old, hostPath: {path: /srv/keys}}
status: {}
`)
	got, err := p.readKeys([]string{disk})
	if err != nil || string(got.PKI["sa.pub"]) != "own\nold" || string(got.PKI["sa-next.pub"]) != "next" || len(got.PKI) != 2 {
		t.Errorf("%q, %v", got.PKI, err)
	}
}
