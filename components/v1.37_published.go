package components

const (
	kubernetes1_37 = "https://dl.k8s.io/release/v1.37.2/bin/linux/{arch}/"
	etcd3_7        = "https://github.com/etcd-io/etcd/releases/download/v3.7.3/"
	containerd2_4  = "https://github.com/containerd/containerd/releases/download/v2.4.2/"
	runc1_5        = "https://github.com/opencontainers/runc/releases/download/v1.5.2/"
	cni1_9         = "https://github.com/containernetworking/plugins/releases/download/v1.9.1/"
	cniFlannel     = "https://github.com/flannel-io/cni-plugin/releases/download/v1.9.1-flannel3/"
)

// published1_37 has the versions of v1_37, as their projects publish them.
var published1_37 = Published{
	Files: []PublishedFile{
		{Component: "kubernetes", Version: "v1.37.2", URL: kubernetes1_37 + "kubeadm", Checksum: kubernetes1_37 + "kubeadm.sha512",
			Programs: map[string]string{"usr/local/bin/kubeadm": ""}, Kubeadm: "usr/local/bin/kubeadm"},
		{Component: "kubernetes", Version: "v1.37.2", URL: kubernetes1_37 + "kubelet", Checksum: kubernetes1_37 + "kubelet.sha512",
			Programs: map[string]string{"usr/local/bin/kubelet": ""}},
		{Component: "kubernetes", Version: "v1.37.2", URL: kubernetes1_37 + "kubectl", Checksum: kubernetes1_37 + "kubectl.sha512",
			Programs: map[string]string{"usr/local/bin/kubectl": ""}},
		{Component: "etcd", Version: "v3.7.3", URL: etcd3_7 + "etcd-v3.7.3-linux-{arch}.tar.gz", Checksum: etcd3_7 + "SHA256SUMS",
			Programs: map[string]string{
				"usr/local/bin/etcd":    "etcd-v3.7.3-linux-{arch}/etcd",
				"usr/local/bin/etcdctl": "etcd-v3.7.3-linux-{arch}/etcdctl",
				"usr/local/bin/etcdutl": "etcd-v3.7.3-linux-{arch}/etcdutl",
			}},
		{Component: "containerd", Version: "v2.4.2",
			URL: containerd2_4 + "containerd-static-2.4.2-linux-{arch}.tar.gz", Checksum: containerd2_4 + "containerd-static-2.4.2-linux-{arch}.tar.gz.sha256sum",
			Programs: map[string]string{
				"usr/local/bin/containerd":              "bin/containerd",
				"usr/local/bin/containerd-shim-runc-v2": "bin/containerd-shim-runc-v2",
				"usr/local/bin/ctr":                     "bin/ctr",
			}},
		{Component: "runc", Version: "v1.5.2", URL: runc1_5 + "runc.{arch}", Checksum: runc1_5 + "runc.sha256sum",
			Programs: map[string]string{"usr/local/bin/runc": ""}},
		{Component: "cni", Version: "v1.9.1",
			URL: cni1_9 + "cni-plugins-linux-{arch}-v1.9.1.tgz", Checksum: cni1_9 + "cni-plugins-linux-{arch}-v1.9.1.tgz.sha512",
			Programs: map[string]string{
				"opt/cni/bin/bridge":     "bridge",
				"opt/cni/bin/host-local": "host-local",
				"opt/cni/bin/loopback":   "loopback",
				"opt/cni/bin/portmap":    "portmap",
			}},
		{Component: "cni-flannel", Version: "v1.9.1-flannel3",
			URL: cniFlannel + "cni-plugin-flannel-linux-{arch}-v1.9.1-flannel3.tgz", Checksum: cniFlannel + "cni-plugin-flannel-linux-{arch}-v1.9.1-flannel3.tgz.sha512",
			Programs: map[string]string{"opt/cni/bin/flannel": "flannel-{arch}"}},
	},
	Images: []PublishedImage{
		{Short: "flannel", From: "ghcr.io/flannel-io/flannel:v0.28.10"},
		{Short: "agnhost", From: "registry.k8s.io/e2e-test-images/agnhost:2.66.1"},
	},
}
