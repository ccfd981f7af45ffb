package kubeadm

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// TestFormerFilesOfTheAPIServerAreRemoved: what it reads stays, and so does what Quorate's own configuration names.
func TestFormerFilesOfTheAPIServerAreRemoved(t *testing.T) {
	root := t.TempDir()
	put := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	used := hostconfig.APIServerDir + "/audit-policy-0123456789ab.yaml"
	put(staticpod.Dir+"/kube-apiserver.yaml", "kind: Pod\nspec: {containers: [{command: [kube-apiserver, --audit-policy-file="+used+", --authentication-config="+hostconfig.AuthenticationFile+"]}]}\n")
	for _, path := range []string{used, hostconfig.APIServerDir + "/audit-policy-ba9876543210.yaml", hostconfig.APIServerDir + "/authentication-ba9876543210.yaml",
		hostconfig.AuditPolicyFile, hostconfig.AuthenticationFile, hostconfig.APIServerDir + "/theirs.yaml"} {
		put(path, "x")
	}
	if err := pruneVariantsIn(root); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root + hostconfig.APIServerDir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"audit-policy-0123456789ab.yaml", "audit-policy.yaml", "authentication.yaml", "theirs.yaml"}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
