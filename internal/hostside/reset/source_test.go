package reset

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// onlyRead are paths in the host side's source at which Quorate leaves nothing, or nothing that a reset should remove.
var onlyRead = []string{
	"/etc/apt", "/etc/dnf", "/etc/yum", "/etc/machine-id", "/etc/os-release", "/etc/resolv.conf", "/etc/ufw/ufw.conf", "/run/systemd", "/run/systemd/system", "/run/systemd/container",
	"/etc/rancher/", "/etc/rancher/k3s", "/etc/rancher/rke2", "/var/lib/rancher", "/var/lib/k0s", "/var/snap/microk8s", "/var/lib",
	"/var/lib/kube-proxy/config.conf", // in kube-proxy's container
	facts.KeptDir,                     // what a restore keeps stays
	"/etc/keepalived/check-haproxy",   // what plan --by-hand says
	"/etc/systemd/", "/etc/systemd/system/", "/etc/kube-flannel/net-conf.json",
	"/etc", "/var", "/opt", "/root", "/etc/haproxy", "/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni",
	"/usr/local/bin", "/usr/local/sbin", "/usr/local/bin/", "/run/netns/cni-", "/run/containerd", "/etc/containerd", "/etc/cni/net.d", "/opt/cni/bin", "/etc/etcd",
}

var absolute = regexp.MustCompile(`^/(etc|var|run|opt|root|usr/local|usr/libexec)(/[^\s:%*?]*)?$`)

// TestEveryPathInTheSourceIsKnown fails when the host side's source names a place in the file system that a reset does not know,
// so that whoever writes something new to hosts also says how it goes away.
func TestEveryPathInTheSourceIsKnown(t *testing.T) {
	found := 0
	for _, dir := range []string{"..", "../../render/hostconfig", "../../render/kubeadm", "../../facts", "../../host", "../../etcd", "../../endpoint"} {
		err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() && (e.Name() == "reset" || e.Name() == "testdata") {
				if err == nil {
					err = fs.SkipDir
				}
				return err
			}
			if e.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return nil
			}
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				literal, is := n.(*ast.BasicLit)
				if !is || literal.Kind != token.STRING {
					return true
				}
				path, err := strconv.Unquote(literal.Value)
				if err != nil || !absolute.MatchString(path) {
					return true
				}
				found++
				clean := strings.TrimSuffix(path, "/")
				if !covers(path) && !covers(clean) && !slices.ContainsFunc(allPlaces(), func(p place) bool { return p.path == clean }) && !slices.Contains(onlyRead, path) {
					t.Errorf("%s: a reset knows nothing of %s: add it to places.go, or to onlyRead if it is never written", set.Position(literal.Pos()), path)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 60 {
		t.Errorf("only %d paths were found", found)
	}
}

// TestRemoves: what a restore over a cluster reads must not be among it.
func TestRemoves(t *testing.T) {
	for dir, want := range map[string]bool{"/var/lib/etcd": true, "/var/lib/etcd-kept/x": true, "/root/../var/lib/etcd-kept/x": true, "/etc/kubernetes/pki/": true, "/var/lib/kubelet": true,
		"/root/etcd": false, "/var/lib/etcd-old": false, "/mnt/etc/kubernetes/pki": false, facts.KeptDir + "/prod-1/etcd": false} {
		if got := Removes(dir); got != want {
			t.Errorf("%s: %v", dir, got)
		}
	}
}
