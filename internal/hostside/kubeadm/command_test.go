package kubeadm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryCallOfKubeadmIsSettled: nothing that kubeadm writes is relied on before it is on the disk.
func TestEveryCallOfKubeadmIsSettled(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || file == "command.go" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"kubeadm"`) {
			t.Errorf("%s calls kubeadm directly: use kubeadmCommand", file)
		}
	}
}
