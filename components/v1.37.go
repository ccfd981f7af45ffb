package components

// v1_37 states every version of Kubernetes 1.37's bundle. Its first component takes by far the
// longest to compile, so it comes first.
var v1_37 = Release{
	dir:        "v1.37",
	Kubernetes: "v1.37.2",
	Components: []Component{
		{
			Name:     "kubernetes",
			Version:  "v1.37.2",
			Contents: map[string]string{"etcd": "v3.7.3"},
			Go: &GoBuild{
				Require: map[string]string{
					"k8s.io/kubernetes":          "v1.37.2",
					"go.etcd.io/etcd/etcdctl/v3": "v3.7.3",
					"go.etcd.io/etcd/etcdutl/v3": "v3.7.3",
					"go.etcd.io/etcd/pkg/v3":     "v3.7.3",
					"go.etcd.io/etcd/server/v3":  "v3.7.3",
				},
				Staging: "v0.37.2",
				Tags:    []string{"selinux", "notest", "grpcnotrace"}, // as Kubernetes' own releases
				Stamp: map[string]string{
					// Without them kubeadm takes itself for v0.0.0-master and refuses its own configuration.
					"k8s.io/component-base/version.gitVersion":   "v1.37.2",
					"k8s.io/component-base/version.gitMajor":     "1",
					"k8s.io/component-base/version.gitMinor":     "37",
					"k8s.io/component-base/version.gitTreeState": "clean",
					"k8s.io/component-base/version.gitCommit":    "unknown",              // a module does not say
					"k8s.io/component-base/version.buildDate":    "2026-10-27T12:01:04Z", // the module version's own
				},
				Binaries: []Binary{{Path: "usr/local/bin/kubernetes", Package: "."}},
			},
			Links: map[string]string{
				"usr/local/bin/agnhost":                 "kubernetes",
				"usr/local/bin/etcd":                    "kubernetes",
				"usr/local/bin/etcdctl":                 "kubernetes",
				"usr/local/bin/etcdutl":                 "kubernetes",
				"usr/local/bin/kube-apiserver":          "kubernetes",
				"usr/local/bin/kube-controller-manager": "kubernetes",
				"usr/local/bin/kube-proxy":              "kubernetes",
				"usr/local/bin/kube-scheduler":          "kubernetes",
				"usr/local/bin/kubeadm":                 "kubernetes",
				"usr/local/bin/kubectl":                 "kubernetes",
				"usr/local/bin/kubelet":                 "kubernetes",
			},
			Kubeadm: []string{"usr/local/bin/kubernetes", "kubeadm"},
		},
		{
			Name:    "containerd",
			Version: "v2.4.2",
			Go: &GoBuild{
				Require: map[string]string{"github.com/containerd/containerd/v2": "v2.4.2"},
				Tags:    []string{"no_btrfs", "no_devmapper", "no_zfs", "netgo", "osusergo", "static_build", "urfave_cli_no_docs"},
				Stamp: map[string]string{
					"github.com/containerd/containerd/v2/version.Version": "v2.4.2",
				},
				Binaries: []Binary{
					{Path: "usr/local/bin/containerd", Package: "github.com/containerd/containerd/v2/cmd/containerd"},
					{Path: "usr/local/bin/containerd-shim-runc-v2", Package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", Tags: []string{"no_grpc"}},
					{Path: "usr/local/bin/ctr", Package: "github.com/containerd/containerd/v2/cmd/ctr"},
				},
			},
		},
		{
			Name:    "coredns",
			Version: "v1.14.6",
			Go: &GoBuild{
				Require:  map[string]string{"github.com/coredns/coredns": "v1.14.6"},
				Tags:     []string{"grpcnotrace"},
				Binaries: []Binary{{Path: "coredns", Package: "github.com/coredns/coredns", NetBindService: true}},
			},
		},
		{
			// The daemon enforces network policies, too: one process and one connection to the API on each node.
			Name:     "flannel",
			Version:  "v0.28.10",
			Contents: map[string]string{"kube-network-policies": "v0.8.0"},
			Go: &GoBuild{
				Require: map[string]string{
					"github.com/flannel-io/flannel":     "v0.28.10",
					"sigs.k8s.io/kube-network-policies": "v0.8.0",
				},
				Stamp: map[string]string{"github.com/flannel-io/flannel/pkg/version.Version": "v0.28.10"},
				Binaries: []Binary{
					{Path: "opt/bin/flanneld", Package: "."},
					{Path: "opt/bin/install-conf", Package: "github.com/flannel-io/flannel/cmd/install_conf"},
				},
			},
		},
		{
			Name:    "cni",
			Version: "v1.9.1",
			Go: &GoBuild{
				Require: map[string]string{"github.com/containernetworking/plugins": "v1.9.1"},
				Stamp:   map[string]string{"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion": "v1.9.1"},
				Binaries: []Binary{
					{Path: "opt/cni/bin/bridge", Package: "github.com/containernetworking/plugins/plugins/main/bridge"},
					{Path: "opt/cni/bin/flannel", Package: "./flannel"},
					{Path: "opt/cni/bin/host-local", Package: "github.com/containernetworking/plugins/plugins/ipam/host-local"},
					{Path: "opt/cni/bin/loopback", Package: "github.com/containernetworking/plugins/plugins/main/loopback"},
					{Path: "opt/cni/bin/portmap", Package: "github.com/containernetworking/plugins/plugins/meta/portmap"},
				},
			},
		},
		{
			Name:    "runc",
			Version: "v1.5.2",
			Go: &GoBuild{
				Require:  map[string]string{"github.com/opencontainers/runc": "v1.5.2"},
				Cgo:      true,
				Tags:     []string{"netgo", "osusergo", "seccomp", "urfave_cli_no_docs"},
				Binaries: []Binary{{Path: "usr/local/bin/runc", Package: "github.com/opencontainers/runc"}},
			},
		},
		{
			Name:    "pause",
			Version: "3.10.2",
			C:       &CBuild{Source: "pause.c", Path: "pause", Define: map[string]string{"VERSION": `"3.10.2"`}},
		},
		{
			// kube-proxy and flanneld make their rules with it. Without the names of protocols it lists them as numbers:
			// kube-proxy then takes its own rules for somebody's leavings each time that it compares all of them, which is
			// once an hour and when its node's zone changes, and deletes them. No Service would answer until the next time.
			Name:    "nft",
			Version: "debian",
			Debian:  &DebianFiles{Package: "nftables", Program: "usr/sbin/nft"},
			Texts:   map[string]string{"etc/protocols": "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n"},
		},
		{
			// What manifests written for the upstream image expect beside the program.
			Name:    "agnhost-files",
			Version: "v1",
			Dirs:    []Dir{{Path: "tmp", Mode: 0o1777}, {Path: "uploads", Mode: 0o755}},
			Links:   map[string]string{"agnhost": "usr/local/bin/kubernetes"},
		},
	},
	Images: []Image{
		{Short: "kube-apiserver", Components: []string{"kubernetes"}, Entrypoint: []string{"kube-apiserver"}},
		{Short: "kube-controller-manager", Components: []string{"kubernetes"}, Entrypoint: []string{"kube-controller-manager"}},
		{Short: "kube-scheduler", Components: []string{"kubernetes"}, Entrypoint: []string{"kube-scheduler"}},
		{Short: "kube-proxy", Components: []string{"kubernetes", "nft"}, Entrypoint: []string{"kube-proxy"}},
		{Short: "coredns", Components: []string{"coredns"}, Entrypoint: []string{"/coredns"}, User: "65532:65532"},
		{Short: "pause", Components: []string{"pause"}, Entrypoint: []string{"/pause"}, User: "65535:65535"},
		{Short: "etcd", Components: []string{"kubernetes"}, Entrypoint: []string{"etcd"}},
		{Short: "flannel", Name: "quorate.dev/flannel:v0.28.10", Components: []string{"flannel", "nft"}, Entrypoint: []string{"/opt/bin/flanneld"}},
		{Short: "agnhost", Name: "quorate.dev/agnhost:v1.37.2", Components: []string{"kubernetes", "agnhost-files"}, Entrypoint: []string{"agnhost"}, Cmd: []string{"pause"}},
	},
	Host: Image{Short: "host", Name: "quorate.dev/host:v1.37.2", Components: []string{"kubernetes", "containerd", "runc", "cni"}},
}
