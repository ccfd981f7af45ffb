package cli

import (
	"testing"

	"quorate.dev/quorate/internal/hostside/fault"
)

// TestHostAcceptsWhatUnitsRun: a timer that heals a fault names the fault. If the command refused that, nothing would heal it.
func TestHostAcceptsWhatUnitsRun(t *testing.T) {
	for name, c := range fault.Commands {
		cmd, _, err := (&app{}).root().Find([]string{"host", name})
		if err != nil || cmd.Name() != name {
			t.Fatalf("host %s: %v", name, err)
		}
		for _, args := range [][]string{{}, {"x"}, {"x", "y"}} {
			want, err := c.Fits(name, args), cmd.Args(cmd, args)
			if (want == nil) != (err == nil) {
				t.Errorf("host %s with %d arguments: %v, but the units expect %v", name, len(args), err, want)
			}
		}
	}
}
