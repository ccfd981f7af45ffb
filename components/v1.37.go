package components

// v1_37 is what a cluster of Kubernetes 1.37 is made of.
var v1_37 = versions{
	Kubernetes: "v1.37.2",
	BuildDate:  "2026-10-27T12:01:04Z",
	Etcd:       "v3.7.3",
	Containerd: "v2.4.2",
	CoreDNS:    "v1.14.6",
	Flannel:    "v0.28.10",
	Policies:   "v0.8.0",
	CNI:        "v1.9.1",
	Runc:       "v1.5.2",
	Pause:      "3.10.2",

	PublishedCNIFlannel: "v1.9.1-flannel3",
	PublishedAgnhost:    "2.66.1",
}
