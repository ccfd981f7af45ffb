package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

func kubeconfigOf(name, server, key string) *api.Config {
	c := api.NewConfig()
	c.Clusters[name] = &api.Cluster{Server: server}
	c.AuthInfos[name+"-admin"] = &api.AuthInfo{ClientKeyData: []byte(key)}
	c.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name + "-admin"}
	c.CurrentContext = name
	return c
}

// TestMergingAKubeconfig adds a cluster to the file of a user who has others.
func TestMergingAKubeconfig(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "config"), filepath.Join(dir, "link")
	theirs, err := clientcmd.Write(*kubeconfigOf("theirs", "https://theirs", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, theirs, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("config", link); err != nil {
		t.Fatal(err)
	}
	// Another name of the same file tells whether the file was rewritten in place.
	before := filepath.Join(dir, "before")
	if err := os.Link(file, before); err != nil {
		t.Fatal(err)
	}
	write := func(config *api.Config) string {
		t.Helper()
		kept, err := writeKubeconfig(link, config)
		if err != nil {
			t.Fatal(err)
		}
		return kept
	}
	if kept := write(kubeconfigOf("ours", "https://ours", "1")); kept != "" {
		t.Errorf("%s was kept, although nothing was replaced", kept)
	}
	if got, err := os.ReadFile(before); err != nil || !bytes.Equal(got, theirs) {
		t.Errorf("the file was rewritten in place: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if target, err := os.Readlink(link); err != nil || target != "config" {
		t.Errorf("the link is %q, %v", target, err)
	}
	if kept := write(kubeconfigOf("ours", "https://ours", "2")); kept != "" {
		t.Errorf("%s was kept for new credentials of the same cluster", kept)
	}
	both, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{link + ".before-quorate.1", link + ".before-quorate.2"} {
		if kept := write(kubeconfigOf("theirs", "https://"+want, "3")); kept != want {
			t.Errorf("%q was kept, want %q", kept, want)
		}
		got, err := os.ReadFile(want)
		if err != nil || !bytes.Equal(got, both) {
			t.Errorf("%s is not what was replaced: %v", want, err)
		}
		if both, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	config, err := clientcmd.LoadFromFile(file)
	if err != nil || len(config.Clusters) != 2 || config.CurrentContext != "theirs" || string(config.AuthInfos["ours-admin"].ClientKeyData) != "2" {
		t.Errorf("%v, %v", config, err)
	}
}

func TestADamagedKubeconfigIsNotReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("{damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := writeKubeconfig(file, kubeconfigOf("ours", "https://ours", "1")); err == nil {
		t.Error("a file that cannot be read was merged with")
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "{damaged" {
		t.Errorf("%q, %v", got, err)
	}
}
