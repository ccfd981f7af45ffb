package files

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// TestFormerKernelSettings: they are known from the file, and left alone by whoever configures something else.
func TestFormerKernelSettings(t *testing.T) {
	file := settingsFile
	defer func() { settingsFile = file }()
	settingsFile = filepath.Join(t.TempDir(), "settings.conf")
	if got := settingNames(); len(got) > 0 {
		t.Error(got)
	}
	const text = "vm.max_map_count = 262144\nvm.quorate_test = 1\n"
	if err := os.WriteFile(settingsFile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := settingNames(); !slices.Equal(got, []string{"vm.max_map_count", "vm.quorate_test"}) {
		t.Error(got)
	}
	for _, d := range []facts.Desired{
		{Files: []facts.File{{Path: "/etc/hosts"}}}, // something else
		{Files: []facts.File{{Path: settingsFile}}, Sysctls: map[string]string{"vm.max_map_count": "1", "vm.quorate_test": "1"}}, // all stay
	} {
		if err := restoreSysctls(d); err != nil {
			t.Error(err)
		}
	}
	if err := removeFile(settingsFile); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(settingsFile)); err != nil {
		t.Error("its directory is not Quorate's")
	}
	if err := removeFile(settingsFile); err != nil {
		t.Errorf("a second time: %v", err)
	}
}
