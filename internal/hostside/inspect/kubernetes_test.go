package inspect

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// identity is a certificate for a node, followed by its key.
func identity(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "system:node:cp-a"}, DNSNames: []string{"cp-a"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

const currentPair = "/var/lib/kubelet/pki/kubelet-client-current.pem"

// built is a control plane as Quorate builds it, as far as the facts of Kubernetes look.
func built(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	pair := identity(t)
	files := map[string]string{
		facts.EstablishedFile: "prod\n", facts.BegunFile: "prod\n", facts.AdoptedFile: "prod\n", facts.ResettingFile: "{}",
		"/etc/kubernetes/kubelet.conf": `{clusters: [{name: c, cluster: {server: "https://10.0.0.11:6443"}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x,
users: [{name: u, user: {client-certificate: ` + currentPair + `, client-key: ` + currentPair + `}}]}`,
		"/etc/kubernetes/controller-manager.conf": "clusters:\n- cluster:\n    server: https://10.0.0.100:6443\n",
		"/etc/kubernetes/super-admin.conf":        "x",
		"/etc/kubernetes/pki/apiserver.crt":       pair,
		"/var/lib/kubelet/config.yaml":            "maxPods: 110", facts.KubeletSettingsDue: "", currentPair: pair, "/var/lib/kubelet/pki/kubelet-server-current.pem": pair,
		"/etc/kubernetes/pki/encryption.yaml":           "resources: [{resources: [secrets], providers: [{secretbox: {keys: [{name: key1, secret: c2VjcmV0}]}}]}]",
		"/etc/kubernetes/manifests/kube-apiserver.yaml": "spec: {containers: [{command: [kube-apiserver, --permit-port-sharing=true, --anonymous-auth=false, --service-account-issuer=https://keys.example.com, --service-account-issuer, https://kubernetes.default.svc], " + kubeadmsProbes + "}]}",
		hostconfig.EtcdManifest: "spec: {containers: [{command: [etcd, '--initial-cluster=cp-a=https://10.0.0.11:2380', --initial-cluster-token=prod-1]}], " +
			"volumes: [{name: g, hostPath: {path: " + hostconfig.EtcdGuard + "}}]}",
		facts.WithdrawnDir + "/kube-scheduler.yaml": "x",
		hostconfig.EtcdMembersFile:                  "ETCD_INITIAL_CLUSTER=cp-a=https://10.0.0.11:2380\n",
		hostconfig.EtcdWAL + "/0.wal":               "x",
		facts.EtcdAbandonedFile:                     "c0ffee\n",
		facts.RestoreFile:                           `{"cluster": "prod", "backup": "0123", "complete": true}`,
		facts.MaintenanceFile:                       `{"since": "2026-03-04T05:06:07Z", "ready": true}`,
	}
	for _, name := range slices.Concat(facts.SharedPKI, facts.EtcdPKI, facts.EtcdClientPKI) {
		if path := "/etc/kubernetes/pki/" + name; files[path] == "" {
			files[path] = pair
		}
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(root+facts.EtcdGuardDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root+hostconfig.EtcdWAL, root+hostconfig.EtcdGuard); err != nil {
		t.Fatal(err)
	}
	return root
}

var shared = slices.Concat(facts.SharedPKI, facts.EtcdPKI)

// onlyOnHost are facts about what was read elsewhere on a host, in logs, in processes, and in what is kept: without the rest, they say nothing.
var onlyOnHost = []string{"EtcdFailure", "EtcdRuns", "Removable"}

// TestTraces: what is removed from a host that is to be used again is all by which it belonged to a cluster. Every fact about
// that is set before, so that a new one that is not removed fails the test.
func TestTraces(t *testing.T) {
	root := built(t)
	k := Kubernetes(root, shared)
	v := reflect.ValueOf(k)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "MissingPKI" && !slices.Contains(onlyOnHost, name) {
			t.Errorf("%s is not set on a host that has everything", name)
		}
	}
	if k.OnlyMark() {
		t.Error("a host that has everything has only a mark")
	}
	left := leftoverFiles(root)
	if len(left) < 5 {
		t.Errorf("preflight sees only %v", left)
	}
	for _, path := range facts.Traces {
		if err := os.RemoveAll(root + path); err != nil {
			t.Fatal(err)
		}
	}
	if got := Kubernetes(root, nil); !reflect.DeepEqual(got, facts.Kubernetes{SharedPKI: true, Flags: map[string]string{}}) {
		t.Errorf("a cleared host still has %+v", got)
	}
	if left := leftoverFiles(root); len(left) > 0 {
		t.Errorf("preflight still sees %v", left)
	}
	for _, path := range facts.Traces {
		if !strings.Contains(facts.HowToClear(), " "+path) {
			t.Errorf("nobody is told to remove %s", path)
		}
	}
}

// TestIssuers: an API server accepts all that it is given, and not only the last one.
func TestIssuers(t *testing.T) {
	if have := Kubernetes(built(t), nil).Issuers; !slices.Equal(have, []string{"https://keys.example.com", "https://kubernetes.default.svc"}) {
		t.Errorf("%q", have)
	}
}

// kubeadmsProbes are the liveness and startup probes that kubeadm 1.36 and 1.37 give an API server.
const kubeadmsProbes = `livenessProbe: {failureThreshold: 8, httpGet: {host: 10.0.0.11, path: /livez, port: probe-port, scheme: HTTPS}, initialDelaySeconds: 10, periodSeconds: 10, timeoutSeconds: 15}, ` +
	`startupProbe: {failureThreshold: 24, httpGet: {host: 10.0.0.11, path: /livez, port: probe-port, scheme: HTTPS}, initialDelaySeconds: 10, periodSeconds: 10, timeoutSeconds: 15}`

// TestWhoseProbes: kubeadm's probes are replaced, and those of an administrator stay.
func TestWhoseProbes(t *testing.T) {
	live, start, _ := strings.Cut(kubeadmsProbes, ", startupProbe")
	start = "startupProbe" + start
	other := func(probe, from, to string) string {
		t.Helper()
		if strings.Count(probe, from) != 1 {
			t.Fatalf("%q is not in %s once", from, probe)
		}
		return strings.Replace(probe, from, to, 1)
	}
	without := func(probe string) string { return other(probe, "path: /livez,", `path: "`+hostconfig.LivePath+`",`) }
	for name, tc := range map[string]struct {
		probes []string
		want   bool
	}{
		"kubeadm's":                          {[]string{live, start}, true},
		"with another timeout for the start": {[]string{live, other(start, "failureThreshold: 24", "failureThreshold: 60")}, true},
		"Quorate's":                          {[]string{without(live), other(without(start), "failureThreshold: 24", "failureThreshold: 90")}, false},
		"of which one is Quorate's":          {[]string{without(live), start}, true},
		"of which the other is Quorate's":    {[]string{live, without(start)}, true},
		"with another path":                  {[]string{other(live, "path: /livez,", "path: /livez/ping,"), start}, false},
		"with another path at the start":     {[]string{live, other(start, "path: /livez,", `path: "/livez?exclude=etcd&exclude=log",`)}, false},
		"with more attempts":                 {[]string{other(live, "failureThreshold: 8", "failureThreshold: 30"), start}, false},
		"more often":                         {[]string{live, other(start, "periodSeconds: 10", "periodSeconds: 5")}, false},
		"none for the start":                 {[]string{live}, false},
		"none":                               {nil, false},
	} {
		root := built(t)
		manifest := "spec: {containers: [{" + strings.Join(append(tc.probes, "command: [kube-apiserver]"), ", ") + "}]}"
		if err := os.WriteFile(root+"/etc/kubernetes/manifests/kube-apiserver.yaml", []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		k := Kubernetes(root, nil)
		if !slices.Contains(k.Manifests, "kube-apiserver") || k.ProbesEtcd != tc.want {
			t.Errorf("probes %s: %t, manifests %v", name, k.ProbesEtcd, k.Manifests)
		}
	}
}

// TestOnlyMark: a mark next to any other trace protects something.
func TestOnlyMark(t *testing.T) {
	all := Kubernetes(built(t), shared)
	v := reflect.ValueOf(all)
	if !(facts.Kubernetes{Established: true}).OnlyMark() || (facts.Kubernetes{}).OnlyMark() {
		t.Error("a mark alone is not told from none")
	}
	if (facts.Kubernetes{Established: true, Restore: &facts.Restore{}}).OnlyMark() {
		t.Error("a restore that did not end is taken for a mark that was forgotten")
	}
	// What says nothing by itself: these depend on the others, or on what was asked for.
	dependent := []string{"Established", "SharedPKI", "MissingPKI", "KubeletAway", "PodImages", "SharesPort", "ProbesEtcd", "Flags", "Arguments", "Issuers", "Kubelet", "KubeletDue", "Servers", "ServingNames", "SuperAdmin", "EtcdToken", "EtcdTimers", "EtcdAbandoned", "EtcdGuard", "EtcdPodGuard", "EtcdCAKey", "Clusters", "Restore", "Trust", "Maintenance"}
	dependent = append(dependent, onlyOnHost...)
	for i := range v.NumField() {
		k := facts.Kubernetes{Established: true, Clusters: []string{"prod"}}
		reflect.ValueOf(&k).Elem().Field(i).Set(v.Field(i))
		if name := v.Type().Field(i).Name; k.OnlyMark() != slices.Contains(dependent, name) {
			t.Errorf("with %s: only a mark %t", name, k.OnlyMark())
		}
	}
}

func TestInterruptedJoinIsNoIdentity(t *testing.T) {
	root := built(t)
	if !Kubernetes(root, nil).KubeletConfig {
		t.Error("a kubelet with its certificate has no identity")
	}
	// A kubelet that is joining has written its kubeconfig, and waits for the certificate.
	if err := os.Remove(root + currentPair); err != nil {
		t.Fatal(err)
	}
	if Kubernetes(root, nil).KubeletConfig {
		t.Error("a kubelet that never got its certificate has joined")
	}
}

func TestMissingSharedKeysAreNamed(t *testing.T) {
	root := built(t)
	for _, name := range []string{"ca.key", "etcd/ca.key"} {
		if err := os.Remove(root + "/etc/kubernetes/pki/" + name); err != nil {
			t.Fatal(err)
		}
	}
	if k := Kubernetes(root, shared); k.SharedPKI || !slices.Equal(k.MissingPKI, []string{"ca.key", "etcd/ca.key"}) {
		t.Errorf("%t, missing %v", k.SharedPKI, k.MissingPKI)
	}
}

func TestHalfWrittenManifestsAreNotThere(t *testing.T) {
	root := built(t)
	path := root + "/etc/kubernetes/manifests/kube-scheduler.yaml"
	if err := os.WriteFile(path, []byte("metadata:\n  labels:\n    tier: control-plane\nspec:\n  containers:\n  - command: [kube-scheduler]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k := Kubernetes(root, nil); !slices.Equal(k.Manifests, []string{"etcd", "kube-apiserver"}) {
		t.Errorf("manifests %v", k.Manifests)
	}
}
