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

func TestFlags(t *testing.T) {
	got := Flags([]string{"--a=1", "--b", "2", "--c", "-d=x=y", "word", "--e"})
	for name, want := range map[string]string{"a": "1", "b": "2", "c": "true", "d": "x=y", "e": "true"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if len(got) != 5 {
		t.Errorf("flags %v", got)
	}
}
