package drill

import (
	"strings"
	"testing"
)

func TestOutages(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Report)
		want   []string
	}{
		"one repeat": {func(*Report) {}, []string{
			"| fault | repeats | new reads | writes | HTTP/2 | watches | pods: new reads |",
			"|---|---|---|---|---|---|---|",
			"| no fault | – | 0.06 | 0.07 | 0.24 | 0.90 | 0.08 |",
			"| `kill/etcd/leader` | 1 | 0.69 / 0.69 / 0.69 | 0.70 / 0.70 / 0.70 | 0.90 / 0.90 / 0.90 | 0.90 / 0.90 / 0.90 | 1.10 / 1.10 / 1.10 |",
			"| `hang/etcd/leader` | 1 | 9.80 / 9.80 / 9.80 | 0.70 / 0.70 / 0.70 | 10.40 / 10.40 / 10.40 | 0.90 / 0.90 / 0.90 | 2.20 / 2.20 / 2.20 |",
			"| `power-off/zone/b` | 0 of 1 | – | – | – | – | – |",
		}},
		"repeats": {func(r *Report) {
			o := r.Faults[0]
			o.Invalid, r.Faults = nil, nil
			for i := range int64(20) {
				o.Clients = map[string]ClientResult{"endpoint/read/new": {GapMs: 100 * (i + 1)}}
				r.Faults = append(r.Faults, o)
			}
			o.Invalid = []string{"the prober was late"}
			r.Faults, r.Quiet = append(r.Faults, o), nil
			r.Summarize()
		}, []string{"| fault | repeats | new reads |", "|---|---|---|", "| `kill/etcd/leader` | 20 of 21 | 1.00 / 1.90 / 2.00 |"}},
	} {
		r := shown()
		tc.change(r)
		var b strings.Builder
		if err := r.WriteOutages(&b); err != nil {
			t.Fatal(err)
		}
		head, table, _ := strings.Cut(b.String(), "\n\n")
		if want := strings.Join(tc.want, "\n") + "\n"; table != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, table, want)
		}
		for _, want := range []string{"Median / 95th percentile / maximum", "Kubernetes v1.37.2", "failover profile fast", "a lab on 2 processors", "0 of 2,410 acknowledged writes were lost."} {
			if !strings.Contains(head, want) || strings.Contains(head, "\n") {
				t.Errorf("%s: the text above the table is %q, without %q", name, head, want)
			}
		}
	}
}
