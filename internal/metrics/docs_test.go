package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumented: docs/monitoring.md lists all metrics, as they are.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, have []string
	for _, f := range Families() {
		labels := ""
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "` "
		}
		want = append(want, fmt.Sprintf("| `%s` | %s| %s |", f.Name, labels, f.Help))
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `quorate_") {
			have = append(have, strings.TrimSuffix(line, "\n"))
		}
	}
	if a, b := strings.Join(have, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("docs/monitoring.md has\n%s\n\nand these are exposed:\n%s", a, b)
	}
}
