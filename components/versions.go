package components

import "strings"

// versions are all that releases differ in. What they have in common is in the functions below: a component with the same
// version and the same modules is the same component in every release, compiled and stored once.
type versions struct {
	Kubernetes string
	BuildDate  string // of the module k8s.io/kubernetes at that version: its commit's
	Etcd       string
	Variant    string // of the sources of the program that contains Kubernetes; empty for those that the newest release has
	Containerd string
	CoreDNS    string
	Flannel    string
	Policies   string // of kube-network-policies, which flannel's daemon contains
	CNI        string // of the standard CNI plugins
	Runc       string
	Pause      string

	// Programs that are compiled from our own sources or from Kubernetes' and that their projects publish separately.
	PublishedCNIFlannel string
	PublishedAgnhost    string
}

// minor is the second number of the Kubernetes version.
func (v versions) minor() string { return strings.Split(v.Kubernetes, ".")[1] }

// staging is the version of the modules that Kubernetes develops in its own repository: v1.x.y becomes v0.x.y.
func (v versions) staging() string { return "v0" + strings.TrimPrefix(v.Kubernetes, "v1") }

// release lists the component that takes longest to compile first.
func (v versions) release() Release {
	return Release{
		Kubernetes: v.Kubernetes,
		versions:   v,
		Components: []Component{
			v.kubernetes(), containerd(v.Containerd), coredns(v.CoreDNS), flannel(v.Flannel, v.Policies), cni(v.CNI), runc(v.Runc),
			pause(v.Pause), nft, agnhostFiles,
		},
		Images: []Image{
			{Short: "kube-apiserver", Components: []string{"kubernetes"}, Entrypoint: []string{"kube-apiserver"}},
			{Short: "kube-controller-manager", Components: []string{"kubernetes"}, Entrypoint: []string{"kube-controller-manager"}},
			{Short: "kube-scheduler", Components: []string{"kubernetes"}, Entrypoint: []string{"kube-scheduler"}},
			{Short: "kube-proxy", Components: []string{"kubernetes", "nft"}, Entrypoint: []string{"kube-proxy"}},
			{Short: "coredns", Components: []string{"coredns"}, Entrypoint: []string{"/coredns"}, User: "65532:65532"},
			{Short: "pause", Components: []string{"pause"}, Entrypoint: []string{"/pause"}, User: "65535:65535"},
			{Short: "etcd", Components: []string{"kubernetes"}, Entrypoint: []string{"etcd"}},
			{Short: "flannel", Name: "quorate.dev/flannel:" + v.Flannel, Components: []string{"flannel", "nft"}, Entrypoint: []string{"/opt/bin/flanneld"}},
			{Short: "agnhost", Name: "quorate.dev/agnhost:" + v.Kubernetes, Components: []string{"kubernetes", "agnhost-files"}, Entrypoint: []string{"agnhost"}, Cmd: []string{"pause"}},
		},
		Host: Image{Short: "host", Name: "quorate.dev/host:" + v.Kubernetes, Components: []string{"kubernetes", "containerd", "runc", "cni"}},
	}
}

func (v versions) kubernetes() Component {
	return Component{
		Name:     "kubernetes",
		Version:  v.Kubernetes,
		Variant:  v.Variant,
		Contents: map[string]string{"etcd": v.Etcd},
		Go: &GoBuild{
			Require: map[string]string{
				"k8s.io/kubernetes":          v.Kubernetes,
				"go.etcd.io/etcd/etcdctl/v3": v.Etcd,
				"go.etcd.io/etcd/etcdutl/v3": v.Etcd,
				"go.etcd.io/etcd/pkg/v3":     v.Etcd,
				"go.etcd.io/etcd/server/v3":  v.Etcd,
			},
			Staging: v.staging(),
			Tags:    []string{"selinux", "notest", "grpcnotrace"}, // as in Kubernetes' own releases
			Stamp: map[string]string{
				// Without them kubeadm takes itself for v0.0.0-master and refuses its own configuration.
				"k8s.io/component-base/version.gitVersion":   v.Kubernetes,
				"k8s.io/component-base/version.gitMajor":     "1",
				"k8s.io/component-base/version.gitMinor":     v.minor(),
				"k8s.io/component-base/version.gitTreeState": "clean",
				"k8s.io/component-base/version.gitCommit":    "unknown", // a module does not say
				"k8s.io/component-base/version.buildDate":    v.BuildDate,
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
	}
}

func containerd(version string) Component {
	return Component{
		Name:    "containerd",
		Version: version,
		Go: &GoBuild{
			Require: map[string]string{"github.com/containerd/containerd/v2": version},
			Tags:    []string{"no_btrfs", "no_devmapper", "no_zfs", "netgo", "osusergo", "static_build", "urfave_cli_no_docs"},
			Stamp:   map[string]string{"github.com/containerd/containerd/v2/version.Version": version},
			Binaries: []Binary{
				{Path: "usr/local/bin/containerd", Package: "github.com/containerd/containerd/v2/cmd/containerd"},
				{Path: "usr/local/bin/containerd-shim-runc-v2", Package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", Tags: []string{"no_grpc"}},
				{Path: "usr/local/bin/ctr", Package: "github.com/containerd/containerd/v2/cmd/ctr"},
			},
		},
	}
}

func coredns(version string) Component {
	return Component{
		Name:    "coredns",
		Version: version,
		Go: &GoBuild{
			Require:  map[string]string{"github.com/coredns/coredns": version},
			Tags:     []string{"grpcnotrace"},
			Binaries: []Binary{{Path: "coredns", Package: "github.com/coredns/coredns", NetBindService: true}},
		},
	}
}

// flannel's daemon enforces network policies, too: one process and one connection to the API on each node.
func flannel(version, policies string) Component {
	return Component{
		Name:     "flannel",
		Version:  version,
		Contents: map[string]string{"kube-network-policies": policies},
		Go: &GoBuild{
			Require: map[string]string{
				"github.com/flannel-io/flannel":     version,
				"sigs.k8s.io/kube-network-policies": policies,
			},
			Stamp: map[string]string{"github.com/flannel-io/flannel/pkg/version.Version": version},
			Binaries: []Binary{
				{Path: "opt/bin/flanneld", Package: "."},
				{Path: "opt/bin/install-conf", Package: "github.com/flannel-io/flannel/cmd/install_conf"},
			},
		},
	}
}

func cni(version string) Component {
	return Component{
		Name:    "cni",
		Version: version,
		Go: &GoBuild{
			Require: map[string]string{"github.com/containernetworking/plugins": version},
			Stamp:   map[string]string{"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion": version},
			Binaries: []Binary{
				{Path: "opt/cni/bin/bridge", Package: "github.com/containernetworking/plugins/plugins/main/bridge"},
				{Path: "opt/cni/bin/flannel", Package: "./flannel"},
				{Path: "opt/cni/bin/host-local", Package: "github.com/containernetworking/plugins/plugins/ipam/host-local"},
				{Path: "opt/cni/bin/loopback", Package: "github.com/containernetworking/plugins/plugins/main/loopback"},
				{Path: "opt/cni/bin/portmap", Package: "github.com/containernetworking/plugins/plugins/meta/portmap"},
			},
		},
	}
}

func runc(version string) Component {
	return Component{
		Name:    "runc",
		Version: version,
		Go: &GoBuild{
			Require:  map[string]string{"github.com/opencontainers/runc": version},
			Cgo:      true,
			Tags:     []string{"netgo", "osusergo", "seccomp", "urfave_cli_no_docs"},
			Binaries: []Binary{{Path: "usr/local/bin/runc", Package: "github.com/opencontainers/runc"}},
		},
	}
}

func pause(version string) Component {
	return Component{
		Name:    "pause",
		Version: version,
		C:       &CBuild{Source: "pause.c", Path: "pause", Define: map[string]string{"VERSION": `"` + version + `"`}},
	}
}

// kube-proxy and flanneld make their rules with nft. Without the names of protocols it lists them as numbers: kube-proxy
// then takes its own rules for stale ones each time that it compares all of them, which is once an hour and when its node's
// zone changes, and deletes them. No Service would answer until the next time.
var nft = Component{
	Name:    "nft",
	Version: "debian",
	Debian:  &DebianFiles{Package: "nftables", Program: "usr/sbin/nft"},
	Texts:   map[string]string{"etc/protocols": "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n"},
}

// agnhostFiles is what manifests written for the upstream image expect in addition to the program.
var agnhostFiles = Component{
	Name:    "agnhost-files",
	Version: "v1",
	Dirs:    []Dir{{Path: "tmp", Mode: 0o1777}, {Path: "uploads", Mode: 0o755}},
	Links:   map[string]string{"agnhost": "usr/local/bin/kubernetes"},
}

// published has the same versions, as their projects publish them.
func (v versions) published() Published {
	var (
		kubernetes = "https://dl.k8s.io/release/" + v.Kubernetes + "/bin/linux/{arch}/"
		etcd       = "https://github.com/etcd-io/etcd/releases/download/" + v.Etcd + "/"
		etcdDir    = "etcd-" + v.Etcd + "-linux-{arch}"
		containerd = "https://github.com/containerd/containerd/releases/download/" + v.Containerd +
			"/containerd-static-" + strings.TrimPrefix(v.Containerd, "v") + "-linux-{arch}.tar.gz"
		runc       = "https://github.com/opencontainers/runc/releases/download/" + v.Runc + "/"
		cni        = "https://github.com/containernetworking/plugins/releases/download/" + v.CNI + "/cni-plugins-linux-{arch}-" + v.CNI + ".tgz"
		cniFlannel = "https://github.com/flannel-io/cni-plugin/releases/download/" + v.PublishedCNIFlannel +
			"/cni-plugin-flannel-linux-{arch}-" + v.PublishedCNIFlannel + ".tgz"
	)
	return Published{
		Files: []PublishedFile{
			{Component: "kubernetes", Version: v.Kubernetes, URL: kubernetes + "kubeadm", Checksum: kubernetes + "kubeadm.sha512",
				Programs: map[string]string{"usr/local/bin/kubeadm": ""}, Kubeadm: "usr/local/bin/kubeadm"},
			{Component: "kubernetes", Version: v.Kubernetes, URL: kubernetes + "kubelet", Checksum: kubernetes + "kubelet.sha512",
				Programs: map[string]string{"usr/local/bin/kubelet": ""}},
			{Component: "kubernetes", Version: v.Kubernetes, URL: kubernetes + "kubectl", Checksum: kubernetes + "kubectl.sha512",
				Programs: map[string]string{"usr/local/bin/kubectl": ""}},
			{Component: "etcd", Version: v.Etcd, URL: etcd + etcdDir + ".tar.gz", Checksum: etcd + "SHA256SUMS",
				Programs: map[string]string{
					"usr/local/bin/etcd":    etcdDir + "/etcd",
					"usr/local/bin/etcdctl": etcdDir + "/etcdctl",
					"usr/local/bin/etcdutl": etcdDir + "/etcdutl",
				}},
			{Component: "containerd", Version: v.Containerd, URL: containerd, Checksum: containerd + ".sha256sum",
				Programs: map[string]string{
					"usr/local/bin/containerd":              "bin/containerd",
					"usr/local/bin/containerd-shim-runc-v2": "bin/containerd-shim-runc-v2",
					"usr/local/bin/ctr":                     "bin/ctr",
				}},
			{Component: "runc", Version: v.Runc, URL: runc + "runc.{arch}", Checksum: runc + "runc.sha256sum",
				Programs: map[string]string{"usr/local/bin/runc": ""}},
			{Component: "cni", Version: v.CNI, URL: cni, Checksum: cni + ".sha512",
				Programs: map[string]string{
					"opt/cni/bin/bridge":     "bridge",
					"opt/cni/bin/host-local": "host-local",
					"opt/cni/bin/loopback":   "loopback",
					"opt/cni/bin/portmap":    "portmap",
				}},
			{Component: "cni-flannel", Version: v.PublishedCNIFlannel, URL: cniFlannel, Checksum: cniFlannel + ".sha512",
				Programs: map[string]string{"opt/cni/bin/flannel": "flannel-{arch}"}},
		},
		Images: []PublishedImage{
			{Short: "flannel", From: "ghcr.io/flannel-io/flannel:" + v.Flannel},
			{Short: "agnhost", From: "registry.k8s.io/e2e-test-images/agnhost:" + v.PublishedAgnhost},
		},
	}
}
