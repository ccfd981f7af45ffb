package findings

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
)

func TestLines(t *testing.T) {
	all := []cluster.Finding{
		{Rule: "swap", Severity: cluster.Error, Summary: "swap is enabled on cp-a", Fix: "Run `swapoff -a`.\nThen reboot."},
		{Rule: "clock", Severity: cluster.Info, Summary: "late", Fix: "Wait."},
	}
	text := func(width int, rules bool) string {
		var b strings.Builder
		for _, l := range Lines(all, width, rules) {
			b.WriteString(l.String(false) + "\n")
		}
		return b.String()
	}
	if got, want := text(0, true), "✘ swap is enabled on cp-a (swap)\n  → Run `swapoff -a`.\n    Then reboot.\n· late (clock)\n  → Wait.\n"; got != want {
		t.Errorf("%q", got)
	}
	if got, want := text(24, false), "✘ swap is enabled on\n  cp-a\n  → Run `swapoff -a`.\n    Then reboot.\n· late\n  → Wait.\n"; got != want {
		t.Errorf("%q", got)
	}
}
