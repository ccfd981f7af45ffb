package machine

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/inspect"
)

// TestAHostNotesItsMaintenance: the note is found until it is removed, also if it cannot be read.
func TestAHostNotesItsMaintenance(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(root+facts.MaintenanceFile), 0o700); err != nil {
		t.Fatal(err)
	}
	noted := facts.Maintenance{Since: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Ready: true, Reboot: "boot"}
	if err := noteMaintenance(root, &noted); err != nil {
		t.Fatal(err)
	}
	if got := inspect.Kubernetes(root, nil).Maintenance; got == nil || *got != noted {
		t.Errorf("%+v", got)
	}
	if err := os.WriteFile(root+facts.MaintenanceFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if inspect.Kubernetes(root, nil).Maintenance == nil {
		t.Error("an empty note is none")
	}
	for range 2 {
		if err := noteMaintenance(root, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := inspect.Kubernetes(root, nil).Maintenance; got != nil {
		t.Errorf("afterwards: %+v", got)
	}
}
