package inspect

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// TestUnfit: a directory that does not exist yet is judged by where it will be created, and a mount option that does not matter is
// not reported.
func TestUnfit(t *testing.T) {
	for name, tc := range map[string]struct {
		mounts map[string]int64
		want   []facts.Unfit
	}{
		"Debian":        {map[string]int64{"/": 0, "/etc": 0, "/var/lib": 0, "/usr/local/bin": 0, "/opt": 0}, nil},
		"hardened":      {map[string]int64{"/": 0, "/etc": 0, "/var/lib": unix.ST_NOEXEC, "/usr/local/bin": 0, "/opt": unix.ST_NOEXEC}, []facts.Unfit{{Dir: facts.ProgramsDir, Option: "noexec"}, {Dir: "/opt/cni/bin", Option: "noexec"}}},
		"its own mount": {map[string]int64{"/": 0, "/etc": 0, "/var/lib": 0, "/usr/local/bin": 0, "/opt": unix.ST_NOEXEC, facts.ProgramsDir: 0, "/opt/cni/bin": 0}, nil},
		"immutable":     {map[string]int64{"/": unix.ST_RDONLY, "/etc": 0, "/var/lib": 0, "/usr/local/bin": unix.ST_RDONLY | unix.ST_NOEXEC, "/opt": 0}, []facts.Unfit{{Dir: "/usr/local/bin", Option: "ro"}}},
		"no /opt":       {map[string]int64{"/": unix.ST_RDONLY, "/etc": 0, "/var/lib": 0, "/usr/local/bin": 0}, []facts.Unfit{{Dir: facts.ProgramsDir, Option: "ro"}, {Dir: "/opt/cni/bin", Option: "ro"}}},
	} {
		got := unfit(func(dir string) (int64, error) {
			flags, ok := tc.mounts[dir]
			if !ok {
				return 0, unix.ENOENT
			}
			return flags, nil
		})
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if got := unfit(func(string) (int64, error) { return unix.ST_RDONLY, unix.EACCES }); got != nil {
		t.Errorf("what cannot be found out is reported: %v", got)
	}
}
