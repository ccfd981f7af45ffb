package facts

import (
	"path"
	"strings"
)

// The programs of a bundle on hosts are Kubelet, Containerd (with its shim and ctr), and these. Each of them runs from one
// bundle and is switched to another one as a whole.
const (
	KubeadmProgram = "kubeadm"
	KubectlProgram = "kubectl"
	RuncProgram    = "runc"
	EtcdProgram    = "etcd"        // with etcdctl and etcdutl
	CNIPlugins     = "cni-plugins" // everything in /opt/cni/bin
	// OtherPrograms are those that no unit and no step runs.
	OtherPrograms = "other"
)

// ProgramsDir is where bundles are unpacked on hosts.
const ProgramsDir = "/opt/quorate/programs"

// SwitchOrder are all programs in the order in which an update switches them: runc and containerd before the kubelet that
// uses them, and kubeadm before everything that it configures.
var SwitchOrder = []string{KubeadmProgram, KubectlProgram, CNIPlugins, RuncProgram, Containerd, EtcdProgram, Kubelet, OtherPrograms}

// HasBundle reports whether there is any bundle of Quorate's on the host, intact or not.
func (f *Facts) HasBundle() bool {
	return f.Binaries != "" || len(f.Bundles)+len(f.Programs)+len(f.ProgramProblems) > 0
}

// ProgramOf is the program that a file of a bundle belongs to, by its path from the root.
func ProgramOf(file string) string {
	dir, name := path.Split(strings.TrimPrefix(path.Clean(file), "/"))
	switch {
	case dir == "opt/cni/bin/":
		return CNIPlugins
	case name == "containerd", name == "ctr", strings.HasPrefix(name, "containerd-shim-"):
		return Containerd
	case name == "etcd", name == "etcdctl", name == "etcdutl":
		return EtcdProgram
	case name == KubeadmProgram, name == KubectlProgram, name == Kubelet, name == RuncProgram:
		return name
	}
	return OtherPrograms
}
