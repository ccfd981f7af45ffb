// Package parts runs the parts of a test that checks nothing besides them.
package parts

import (
	"strings"
	"testing"
)

// Of runs the parts of a test: all calls run for each of them, as it would call t.Run. If none of them ran, because all were skipped or none was chosen, the test is
// skipped at this point, too, unless it has failed: a test that passes says that something was checked.
func Of(t *testing.T, all func(run func(name string, test func(*testing.T)) bool)) {
	t.Helper()
	ran, without := false, []string{}
	all(func(name string, test func(*testing.T)) bool {
		t.Helper()
		return t.Run(name, func(t *testing.T) {
			defer func() {
				if t.Skipped() {
					without = append(without, t.Name())
				} else {
					ran = true
				}
			}()
			test(t)
		})
	})
	switch {
	case ran || t.Failed():
	case len(without) == 0:
		t.Skip("none of its parts was chosen, and nothing else is checked")
	default:
		t.Skipf("none of its parts ran, and nothing else is checked; each of them says why: %s", strings.Join(without, ", "))
	}
}
