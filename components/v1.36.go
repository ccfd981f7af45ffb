package components

// v1_36 is what a cluster of Kubernetes 1.36 is made of. Its etcd is newer than the one that kubeadm 1.36 names: a member can
// be upgraded to etcd 3.7 only from 3.6.11 or later.
var v1_36 = versions{
	Kubernetes: "v1.36.3",
	BuildDate:  "2026-07-22T18:07:38Z",
	Etcd:       "v3.6.16",
	Variant:    "etcd-3.6", // its etcdutl has no --timeout
	Containerd: v1_37.Containerd,
	CoreDNS:    v1_37.CoreDNS,
	Flannel:    v1_37.Flannel,
	Policies:   v1_37.Policies,
	CNI:        v1_37.CNI,
	Runc:       v1_37.Runc,
	Pause:      v1_37.Pause,

	PublishedCNIFlannel: v1_37.PublishedCNIFlannel,
	PublishedAgnhost:    v1_37.PublishedAgnhost,
}
