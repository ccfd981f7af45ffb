package kubeadm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// interruptedJoin is a host on which kubeadm join --control-plane was killed after it had added the etcd member.
func interruptedJoin(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	certificate, key, public := pair(t)
	bootstrap := kubeconfig(t, &clientcmdapi.AuthInfo{Token: "abcdef.0123456789abcdef"})
	// The kubelet writes this when it starts, and the certificate when the API has answered.
	kubelet := kubeconfig(t, &clientcmdapi.AuthInfo{ClientCertificate: "/var/lib/kubelet/pki/kubelet-client-current.pem", ClientKey: "/var/lib/kubelet/pki/kubelet-client-current.pem"})
	files := map[string]string{
		"etc/kubernetes/pki/begun-by-quorate": "prod\n", "etc/kubernetes/pki/encryption.yaml": "keys",
		"etc/kubernetes/bootstrap-kubelet.conf": bootstrap, "etc/kubernetes/kubelet.conf": kubelet, "etc/kubernetes/admin.conf": bootstrap,
		"etc/kubernetes/apiserver/audit-policy.yaml": "policy", "etc/kubernetes/patches/etcd.yaml": "patch",
		"var/lib/kubelet/config.yaml": "config", "var/lib/kubelet/kubeadm-flags.env": "flags", "var/lib/kubelet/pki/kubelet-server-current.pem": "serving",
		"var/lib/kubelet/pki/kubelet-client.key.tmp": "key",
		"var/lib/etcd/member/wal/0.wal":              "wal", "var/lib/etcd/member/snap/db": "db",
		"var/lib/quorate/nodes": "nodes",
	}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd/ca", "apiserver", "apiserver-kubelet-client", "front-proxy-client", "apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client"} {
		files["etc/kubernetes/pki/"+name+".crt"], files["etc/kubernetes/pki/"+name+".key"] = certificate, key
	}
	files["etc/kubernetes/pki/sa.key"], files["etc/kubernetes/pki/sa.pub"] = key, public
	for _, pod := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		files["etc/kubernetes/manifests/"+pod+".yaml"] = "pod"
	}
	place(t, root, files)
	return root
}

// kept is what stays of it: the shared keys, the marks, and what Quorate configured.
var kept = []string{
	"etc/kubernetes/apiserver/audit-policy.yaml", "etc/kubernetes/patches/etcd.yaml", "etc/kubernetes/pki/begun-by-quorate", "etc/kubernetes/pki/ca.crt", "etc/kubernetes/pki/ca.key",
	"etc/kubernetes/pki/encryption.yaml", "etc/kubernetes/pki/etcd/ca.crt", "etc/kubernetes/pki/etcd/ca.key", "etc/kubernetes/pki/front-proxy-ca.crt",
	"etc/kubernetes/pki/front-proxy-ca.key", "etc/kubernetes/pki/sa.key", "etc/kubernetes/pki/sa.pub", "var/lib/kubelet/pki/kubelet-server-current.pem", "var/lib/quorate/etcd/guard", "var/lib/quorate/nodes",
}

var errCrash = errors.New("the power is cut")

// undo abandons the join on the host below root. The power is cut at the n-th thing that it does, if n is not 0.
func undo(t *testing.T, root string, n int) (steps int, err error) {
	t.Helper()
	running := true // the kubelet
	do := func(f func() error) error {
		if steps++; steps == n {
			return errCrash
		}
		return f()
	}
	l := leftovers{root: root, controlPlane: true, stacked: true,
		kubelet: func(_ context.Context, verb string) error {
			return do(func() error { running = verb == "start"; return nil })
		},
		stopPods: func(context.Context) error {
			return do(func() error {
				if running {
					t.Error("pods are stopped while the kubelet would start them again")
				}
				return nil
			})
		},
		remove: func(path string) error { return do(func() error { return os.RemoveAll(path) }) }}
	err = l.abandon(t.Context())
	return steps, err
}

// TestAbandonJoinSurvivesBeingKilled cuts the power at each thing that AbandonJoin does, and runs it again.
func TestAbandonJoinSurvivesBeingKilled(t *testing.T) {
	all, err := undo(t, interruptedJoin(t), 0)
	if err != nil || all < 20 {
		t.Fatalf("%d steps, %v", all, err)
	}
	for n := range all + 1 {
		root := interruptedJoin(t)
		if _, err := undo(t, root, n); n > 0 && !errors.Is(err, errCrash) {
			t.Fatalf("step %d: %v", n, err)
		}
		if n > 0 && n < all-1 && !(etcd.Member{Root: root}).HasData() {
			t.Errorf("after step %d the data is gone and the rest is not", n)
		}
		if _, err := undo(t, root, 0); err != nil {
			t.Errorf("again after step %d: %v", n, err)
		}
		if left := names(t, root); !slices.Equal(left, kept) {
			t.Errorf("after step %d: left are %v", n, left)
		}
	}
}

func TestAbandonJoinRefuses(t *testing.T) {
	certificate, key, _ := pair(t)
	for want, change := range map[string]map[string]string{
		"has joined":            {"var/lib/kubelet/pki/kubelet-client-current.pem": certificate + key},
		"of a complete cluster": {facts.EstablishedFile: "prod\n"},
		"did not start":         nil,
		"external etcd":         {hostconfig.EtcdMembersFile: ""},
	} {
		root := interruptedJoin(t)
		place(t, root, change)
		if change == nil {
			if err := os.Remove(filepath.Join(root, facts.BegunFile)); err != nil {
				t.Fatal(err)
			}
		}
		before := names(t, root)
		steps, err := undo(t, root, 0)
		if err == nil || !strings.Contains(err.Error(), want) || steps > 0 || !slices.Equal(names(t, root), before) {
			t.Errorf("%s: %d steps, %v", want, steps, err)
		}
	}
}

// TestKubeletThatFinishesItsJoin between the look and the stop keeps what it has, and runs again.
func TestKubeletThatFinishesItsJoin(t *testing.T) {
	root := interruptedJoin(t)
	certificate, key, _ := pair(t)
	var did []string
	l := leftovers{root: root, controlPlane: true, stacked: true,
		kubelet: func(_ context.Context, verb string) error {
			if verb == "stop" {
				place(t, root, map[string]string{"var/lib/kubelet/pki/kubelet-client-current.pem": certificate + key})
			}
			did = append(did, verb)
			return nil
		},
		stopPods: func(context.Context) error { did = append(did, "stop pods"); return nil },
		remove:   func(path string) error { did = append(did, "remove "+path); return nil },
	}
	if err := l.abandon(t.Context()); err == nil || !slices.Equal(did, []string{"stop", "start"}) {
		t.Errorf("did %v, %v", did, err)
	}
}

// TestSharedKeysAreNamed that are missing, and none is created where a kubelet runs.
func TestSharedKeysAreNamed(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{"ca.crt": "x", "sa.key": "x"})
	if _, err := readPKIFrom(dir, []string{"ca.crt", "ca.key", "sa.key", "etcd/ca.key"}); err == nil || !strings.Contains(err.Error(), "ca.key and etcd/ca.key") {
		t.Errorf("missing keys: %v", err)
	}
	if pki, err := readPKIFrom(dir, []string{"ca.crt", "sa.key"}); err != nil || len(pki) != 2 {
		t.Errorf("%v, %v", pki, err)
	}
}

// TestAuthoritysKeyStaysAway: an operator who took ca.key off the control planes does not find it there again.
func TestAuthoritysKeyStaysAway(t *testing.T) {
	shared := PKI{"ca.crt": []byte("crt"), "ca.key": []byte("key"), "front-proxy-ca.key": []byte("key"), "etcd/ca.key": []byte("key"), "sa.key": []byte("key"), "encryption.yaml": []byte("keys")}
	for joined, want := range map[bool][]string{
		false: {"ca.crt", "ca.key", "encryption.yaml", "etcd/ca.key", "front-proxy-ca.key", "sa.key"},
		true:  {"ca.crt", "encryption.yaml", "sa.key"},
	} {
		dir := t.TempDir()
		if err := shared.write(dir, joined); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("joined %t: %v", joined, got)
		}
		if err := (PKI{"ca.crt": []byte("another cluster's")}).write(dir, joined); err == nil {
			t.Error("another cluster's CA was replaced")
		}
	}
}
