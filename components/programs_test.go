package components_test

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/components/internal/inplace"
)

// TestPrograms runs the tests of our own programs, each in the module that a bundle compiles it in.
func TestPrograms(t *testing.T) {
	tested := map[string]bool{}
	for _, r := range components.Releases() {
		for _, c := range r.Components {
			files, err := c.FilesWithTests()
			if err != nil {
				t.Fatal(err)
			}
			id := c.Name + " " + c.Version
			isTest := func(name string) bool { return strings.HasSuffix(name, "_test.go") }
			if !c.Own() || tested[id] || !slices.ContainsFunc(slices.Collect(maps.Keys(files)), isTest) {
				continue
			}
			tested[id] = true
			t.Run(id, func(t *testing.T) {
				m, err := inplace.Open(".", t.TempDir(), c)
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", m.Tags, "./...")
				cmd.Dir, cmd.Env = m.Dir, m.Env
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
	if len(tested) == 0 {
		t.Error("no program has tests")
	}
}
