package system

import (
	"context"
	"strings"
	"testing"
)

func TestFailedProgramSaysWhatItPrinted(t *testing.T) {
	err := Run(t.Context(), "sh", "-c", "echo first; echo the reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, "sh", "-c", "exit 0"); err != context.Canceled {
		t.Fatalf("cancelled: %v", err)
	}
}
