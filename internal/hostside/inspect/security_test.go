package inspect

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestProvidersAreNamedWithoutTheirKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	file := `resources:
- resources: [configmaps]
  providers: [{aesgcm: {}}]
- resources: [secrets]
  providers: [{identity: {}}, {secretbox: {keys: [{name: a, secret: SECRET}]}}]
`
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := providers(path); !slices.Equal(got, []string{"identity", "secretbox"}) {
		t.Errorf("providers %v", got)
	}
	if got := providers(path + ".missing"); got != nil {
		t.Errorf("providers of no file: %v", got)
	}
}
