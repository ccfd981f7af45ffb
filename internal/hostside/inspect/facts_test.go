package inspect

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/files"
)

// TestConfigureAndFactsAgree goes through the protocol: what was configured must be what the facts then report, or a plan
// would never become empty.
func TestConfigureAndFactsAgree(t *testing.T) {
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	d := facts.Desired{Files: []facts.File{
		{Path: filepath.Join(dir, "a", "plain"), Content: "one\n", Mode: 0o600},
		{Path: filepath.Join(dir, "hosts"), Block: "cluster test", Content: "10.0.0.1 cp-a\n"},
	}}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	changed, err := files.Configure.On(t.Context(), c, d)
	if err != nil || len(changed) != 2 {
		t.Fatalf("changed %v, %v", changed, err)
	}
	var keys []string
	for _, f := range d.Files {
		keys = append(keys, f.Key())
	}
	f, err := ReadFacts.On(t.Context(), c, facts.Request{Files: append(keys, filepath.Join(dir, "missing"))})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range d.Files {
		if f.Files[file.Key()] != file.Sum() {
			t.Errorf("%s: the facts say %q, want %q", file.Key(), f.Files[file.Key()], file.Sum())
		}
	}
	if len(f.Files) != 2 || f.CPUs == 0 || f.MemoryBytes == 0 || f.Kernel == "" {
		t.Errorf("odd facts: %+v", f)
	}
	if changed, err = files.Configure.On(t.Context(), c, d); err != nil || len(changed) != 0 {
		t.Errorf("a second time: changed %v, %v", changed, err)
	}
	info, err := os.Stat(filepath.Join(dir, "a", "plain"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAPIServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.conf")
	if got := apiServer(path); got != "" {
		t.Errorf("no kubeconfig leads to %q", got)
	}
	if err := os.WriteFile(path, []byte("clusters:\n- cluster:\n    certificate-authority-data: c2VydmVyOiB4\n    server: https://10.0.0.12:6443\n  name: prod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := apiServer(path); got != "https://10.0.0.12:6443" {
		t.Errorf("it leads to %q", got)
	}
}

func TestStaticPodFlags(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kube-apiserver": `spec:
  containers:
  - command: [kube-apiserver, --secure-port=6443, --encryption-provider-config=/etc/kubernetes/pki/encryption.yaml, --anonymous-auth=false]
`,
		"kube-controller-manager": `spec:
  containers:
  - command: [kube-controller-manager]
    args: [--node-monitor-grace-period=6s]
`,
		"kube-scheduler": "not a pod",
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{facts.EncryptionFlag: "/etc/kubernetes/pki/encryption.yaml", "kube-apiserver/anonymous-auth": "false",
		"kube-controller-manager/node-monitor-grace-period": "6s"}
	if got := staticPodFlags(dir); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := staticPodFlags(t.TempDir()); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
