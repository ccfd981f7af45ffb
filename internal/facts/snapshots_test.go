package facts

import (
	"slices"
	"strings"
	"testing"
)

// TestTheSnapshotFromBeforeAChangeIsKept, however often runs went on with the change.
func TestTheSnapshotFromBeforeAChangeIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		have string // day of the month and version
		n    int
		want string
	}{
		"none":                       {"", 3, ""},
		"few":                        {"1-v1.37.2 2-v1.37.2", 3, "1-v1.37.2 2-v1.37.2"},
		"of different changes":       {"1-v1.34.1 2-v1.35.1 3-v1.36.3 4-v1.37.2", 3, "2-v1.35.1 3-v1.36.3 4-v1.37.2"},
		"a change that went on":      {"1-v1.36.3 2-v1.37.2 3-v1.37.2 4-v1.37.2 5-v1.37.2", 3, "2-v1.37.2 4-v1.37.2 5-v1.37.2"},
		"of a change before the one": {"1-v1.37.2 2-v1.36.3 3-v1.37.2 4-v1.37.2", 3, "2-v1.36.3 3-v1.37.2 4-v1.37.2"},
		"a single one":               {"1-v1.36.3 2-v1.37.2 3-v1.37.2", 1, "2-v1.37.2"},
		"in another order":           {"3-v1.37.2 1-v1.37.2 4-v1.37.2 2-v1.37.2", 3, "1-v1.37.2 3-v1.37.2 4-v1.37.2"},
	} {
		t.Run(name, func(t *testing.T) {
			files := func(text string) (out []string) {
				for _, s := range strings.Fields(text) {
					day, version, _ := strings.Cut(s, "-")
					out = append(out, SnapshotDir+"/2026110"+day+"T000000Z-before-"+version+".db")
				}
				return out
			}
			have := files(tc.have)
			before := slices.Clone(have)
			if got := KeptSnapshots(have, tc.n); !slices.Equal(got, files(tc.want)) {
				t.Errorf("%v are kept", got)
			}
			if !slices.Equal(have, before) {
				t.Error("the argument was changed")
			}
		})
	}
	if v := SnapshotBefore("20261101T000000Z-before-v1.37.2.db"); v != "v1.37.2" {
		t.Error(v)
	}
}
