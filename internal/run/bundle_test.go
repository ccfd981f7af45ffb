package run

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
)

// TestArchitectures: a bundle is obtained for each architecture of the hosts that get one, and for no other.
func TestArchitectures(t *testing.T) {
	f := clustertest.Whole()
	arch := map[string]string{"cp-a": "arm64", "cp-b": "amd64", "cp-c": "", "lb-a": "riscv64"}
	for name, h := range f.Seen.Hosts {
		if h.Facts != nil {
			h.Facts.Arch = arch[name]
		}
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	if got := Architectures(s); !slices.Equal(got, []string{"amd64", "arm64"}) {
		t.Errorf("%v", got)
	}
	if got := lacking(s, bundle.Set{}); !slices.Equal(got, []string{"amd64", "arm64"}) {
		t.Errorf("lacking %v", got)
	}
	f.Seen.Hosts["cp-c"].Facts.Arch = "riscv64" // of which no bundle can be made: the plan is refused
	if got := lacking(cluster.Evaluate(f.Spec, f.Seen), bundle.Set{}); !slices.Equal(got, []string{"amd64", "arm64"}) {
		t.Errorf("lacking %v", got)
	}
}
