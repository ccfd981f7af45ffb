package kubeadm

import (
	"strings"
	"testing"
)

func TestJoining(t *testing.T) {
	const manifest = `apiVersion: v1
kind: Pod
metadata: {name: etcd, labels: {tier: control-plane}}
spec:
  containers:
  - command:
    - etcd
    - --initial-advertise-peer-urls=https://10.0.0.12:2380
    - --initial-cluster=cp-a=https://10.0.0.11:2380,cp-b=https://10.0.0.12:2380
    - --initial-cluster-state=new
    - --initial-cluster-token=prod-1
    - --name=cp-b
    name: etcd
status: {}
`
	members := []string{"cp-c=https://10.0.0.13:2380", "cp-b=https://10.0.0.12:2380"}
	for range 2 {
		out, err := joining([]byte(manifest), members)
		if err != nil {
			t.Fatal(err)
		}
		again, err := joining(out, members)
		if err != nil || string(again) != string(out) {
			t.Errorf("a second time: %s, %v", again, err)
		}
		for want, n := range map[string]int{"--initial-cluster=cp-c=https://10.0.0.13:2380,cp-b=https://10.0.0.12:2380\n": 1, "--initial-cluster-state=existing\n": 1, "state=new": 0, "token": 0, "--name=cp-b\n": 1} {
			if strings.Count(string(out), want) != n {
				t.Errorf("%q is not there %d times in\n%s", want, n, out)
			}
		}
	}
	for name, text := range map[string]string{"half": manifest[:200], "none": strings.ReplaceAll(manifest, "--initial-cluster=", "--x=")} {
		if out, err := joining([]byte(text), members); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	if _, err := joining([]byte(manifest), nil); err == nil {
		t.Error("without members")
	}
}
