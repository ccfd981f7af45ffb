package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Text prints the report for people: every check with its outcome, and under those that did not simply pass what was found.
func Text(w io.Writer, r Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, sections 1 to 4, on %s\n\n", r.Benchmark, r.Cluster)
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%-9s  %-6s  %s\n", c.Outcome, c.ID, c.Title)
		for _, f := range alike(c.Findings) {
			fmt.Fprintf(&b, "                   %s\n", f)
		}
	}
	fmt.Fprintf(&b, "\n%d passed, %d explained, %d failed, %d unknown.\n", r.Pass, r.Explained, r.Fail, r.Unknown)
	for _, h := range slices.Sorted(maps.Keys(r.Unreachable)) {
		fmt.Fprintf(&b, "Not checked: %s: %s\n", h, r.Unreachable[h])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// alike says once what several hosts show.
func alike(findings []Note) (out []string) {
	hosts := map[Note][]string{}
	var order []Note
	for _, f := range findings {
		key := Note{Found: f.Found, Reason: f.Reason}
		if _, seen := hosts[key]; !seen {
			order = append(order, key)
		}
		hosts[key] = append(hosts[key], f.Host)
	}
	for _, f := range order {
		line := f.Found
		if names := strings.Join(hosts[f], ", "); names != "" {
			line = names + ": " + line
		}
		if f.Reason != "" {
			line += "; " + f.Reason
		}
		out = append(out, line)
	}
	return out
}
