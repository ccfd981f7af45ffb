package drill

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/page"
)

// outageColumns are the kinds of clients in the table of outages.
var outageColumns = []struct{ head, kind string }{
	{"new reads", "endpoint/read/new"}, {"writes", "endpoint/write/new"}, {"HTTP/2", "endpoint/read/http2"}, {"watches", "endpoint/watch/http2"},
	{"pods: new reads", "kubernetes-service/read/new"}, {"pods: HTTP/2", "kubernetes-service/read/http2"}, {"Service", "service/get/new"}, {"DNS", "dns/lookup"},
}

// WriteOutages writes the table of outages in Markdown, as docs/failover.md has it: for each fault and kind of client, the median, the 95th percentile, and the
// maximum of the longest time without a success, over the valid repeats. Kinds that no client was of are left out.
func (r *Report) WriteOutages(w io.Writer) error {
	columns := slices.DeleteFunc(slices.Clone(outageColumns), func(c struct{ head, kind string }) bool {
		return !slices.ContainsFunc(r.Summaries, func(s Summary) bool { _, has := s.Gaps[c.kind]; return has })
	})
	var b strings.Builder
	fmt.Fprintf(&b, "Median / 95th percentile / maximum of the longest time without a success, in seconds, over the repeats of each fault. %s. %s of %s acknowledged writes were lost.\n\n",
		r.headline(), page.Count(r.Ledger.Lost), page.Count(r.Ledger.Acknowledged))
	heads := []string{"fault", "repeats"}
	for _, c := range columns {
		heads = append(heads, c.head)
	}
	b.WriteString("| " + strings.Join(heads, " | ") + " |\n" + strings.Repeat("|---", len(heads)) + "|\n")
	row := func(name, repeats string, cell func(kind string) string) {
		cells := []string{name, repeats}
		for _, c := range columns {
			cells = append(cells, cell(c.kind))
		}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	seconds := func(ms int64) string { return fmt.Sprintf("%.2f", float64(ms)/1000) }
	if r.Quiet != nil {
		row("no fault", textNothing, func(kind string) string {
			if c, has := r.Quiet.Clients[kind]; has {
				return seconds(c.GapMs)
			}
			return textNothing
		})
	}
	for _, s := range r.Summaries {
		repeats := fmt.Sprint(s.Valid)
		if s.Valid < s.Repeats {
			repeats += fmt.Sprintf(" of %d", s.Repeats)
		}
		row("`"+s.Name+"`", repeats, func(kind string) string {
			g, has := s.Gaps[kind]
			if !has {
				return textNothing
			}
			return strings.Join([]string{seconds(g.P50), seconds(g.P95), seconds(g.Max)}, " / ")
		})
	}
	_, err := io.WriteString(w, b.String())
	return err
}
