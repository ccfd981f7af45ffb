package main

import (
	"slices"
	"strings"
	"testing"
)

const metrics = `# TYPE etcd_server_has_leader gauge
etcd_server_has_leader 1
# TYPE etcd_server_leader_changes_seen_total counter
etcd_server_leader_changes_seen_total 3
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
`

func TestRead(t *testing.T) {
	if m, err := read(metrics); err != nil || m != (member{1.7e9, 3, true}) {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := read(strings.Replace(metrics, "has_leader 1", "has_leader 0", 1)); err != nil || m.leader {
		t.Errorf("without a leader: %+v, %v", m, err)
	}
	for _, missing := range []string{"etcd_server_has_leader", "etcd_server_leader_changes_seen_total", "process_start_time_seconds"} {
		if _, err := read(strings.ReplaceAll(metrics, missing, "other")); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// TestVerdicts: an election is counted once, however many members see it, and what nobody can tell is no success.
func TestVerdicts(t *testing.T) {
	members := []string{"a", "b", "c"}
	calm := map[string]member{"a": {1, 2, true}, "b": {1, 2, true}, "c": {1, 3, true}}
	change := func(host string, m member) map[string]member {
		out := map[string]member{}
		for h, x := range calm {
			out[h] = x
		}
		out[host] = m
		return out
	}
	lost := change("b", member{})
	delete(lost, "b")
	for name, tc := range map[string]struct {
		after     map[string]member
		elections int
		restarted []string
		fine      bool
	}{
		"nothing happened":         {calm, 0, nil, true},
		"an election":              {map[string]member{"a": {1, 3, true}, "b": {1, 3, true}, "c": {1, 4, true}}, 1, nil, false},
		"one member changed twice": {change("b", member{1, 4, true}), 2, nil, false},
		"a restart":                {change("b", member{9, 1, true}), 0, []string{"b"}, false},
		"no answer at the end":     {lost, 0, []string{"b"}, false},
	} {
		r := &Result{}
		r.count(members, calm, tc.after)
		if r.Elections != tc.elections || !slices.Equal(r.Restarted, tc.restarted) || (r.verdict() == nil) != tc.fine {
			t.Errorf("%s: %+v, %v", name, r, r.verdict())
		}
	}
	r := &Result{}
	r.add(3, change("a", member{1, 2, false}))
	if r.add(3, lost); r.Looks != 5 || r.Missed != 1 || r.Leaderless != 1 {
		t.Errorf("%+v", r)
	}
}

func TestBurnStops(t *testing.T) {
	rest := burn(1)
	rest()
	rest()
}
