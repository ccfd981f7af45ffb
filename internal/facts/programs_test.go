package facts

import (
	"slices"
	"testing"
)

func TestProgramOf(t *testing.T) {
	for file, want := range map[string]string{
		"usr/local/bin/kubelet":                 Kubelet,
		"/usr/local/bin/kubeadm":                KubeadmProgram,
		"usr/local/bin/kubectl":                 KubectlProgram,
		"usr/local/bin/containerd":              Containerd,
		"usr/local/bin/containerd-shim-runc-v2": Containerd,
		"usr/local/bin/ctr":                     Containerd,
		"usr/local/bin/runc":                    RuncProgram,
		"usr/local/bin/etcdctl":                 EtcdProgram,
		"usr/local/bin/kubernetes":              OtherPrograms,
		"usr/local/bin/kube-apiserver":          OtherPrograms,
		"opt/cni/bin/flannel":                   CNIPlugins,
		"opt/cni/bin/runc":                      CNIPlugins,
	} {
		got := ProgramOf(file)
		if got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
		if !slices.Contains(SwitchOrder, got) {
			t.Errorf("no update switches %s", got)
		}
	}
}
