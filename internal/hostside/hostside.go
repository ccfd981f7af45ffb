// Package hostside is the side of Quorate that runs on hosts. It links every package that defines operations, so that a
// program that imports it answers all of them.
package hostside

import (
	_ "quorate.dev/quorate/internal/endpoint"
	_ "quorate.dev/quorate/internal/etcd"
	_ "quorate.dev/quorate/internal/hostside/backup"
	_ "quorate.dev/quorate/internal/hostside/balancer"
	_ "quorate.dev/quorate/internal/hostside/blobs"
	_ "quorate.dev/quorate/internal/hostside/components"
	_ "quorate.dev/quorate/internal/hostside/containerd"
	_ "quorate.dev/quorate/internal/hostside/drillpods"
	_ "quorate.dev/quorate/internal/hostside/fault"
	_ "quorate.dev/quorate/internal/hostside/files"
	_ "quorate.dev/quorate/internal/hostside/inspect"
	_ "quorate.dev/quorate/internal/hostside/kubeadm"
	_ "quorate.dev/quorate/internal/hostside/lease"
	_ "quorate.dev/quorate/internal/hostside/lostquorum"
	_ "quorate.dev/quorate/internal/hostside/machine"
	_ "quorate.dev/quorate/internal/hostside/packages"
	_ "quorate.dev/quorate/internal/hostside/pods"
	_ "quorate.dev/quorate/internal/hostside/programs"
	_ "quorate.dev/quorate/internal/hostside/reach"
	_ "quorate.dev/quorate/internal/hostside/repairs"
	_ "quorate.dev/quorate/internal/hostside/reset"
	_ "quorate.dev/quorate/internal/hostside/restore"
	_ "quorate.dev/quorate/internal/hostside/watch"
)
