package balancer

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

// TestWatchdogActsOnNothingSingle: one lost answer moves no address, one answer of a proxy that hung does not bring it back.
func TestWatchdogActsOnNothingSingle(t *testing.T) {
	type tick struct{ ok, aside bool }
	good, bad, aside := tick{ok: true}, tick{}, tick{ok: true, aside: true}
	for name, tc := range map[string]struct {
		ticks []tick
		told  []bool
	}{
		"well":                    {[]tick{good, good, good}, nil},
		"one lost answer":         {[]tick{good, bad, good, bad, good}, nil},
		"hung":                    {[]tick{good, bad, bad, bad}, []bool{true}},
		"hung, and back":          {[]tick{bad, bad, good, good}, []bool{true, false}},
		"hung, not quite back":    {[]tick{bad, bad, good, bad, good}, []bool{true}},
		"aside, and back":         {[]tick{good, aside, aside, good}, []bool{true, false}},
		"aside while hung":        {[]tick{bad, bad, aside, aside, good}, []bool{true, false}},
		"hung while aside":        {[]tick{aside, {aside: true}, {aside: true}, bad}, []bool{true}},
		"aside for a single tick": {[]tick{aside, good}, []bool{true, false}},
	} {
		var told []bool
		w := watchdog{tell: func(fault bool) error { told = append(told, fault); return nil }}
		for _, x := range tc.ticks {
			if err := w.judge(t.Context(), x.ok, x.aside); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(told, tc.told) {
			t.Errorf("%s: keepalived was told %v, want %v", name, told, tc.told)
		}
	}
}

func TestBackends(t *testing.T) {
	row := func(backend, server, status, sessions, check, code, last string) map[string]string {
		return map[string]string{"pxname": backend, "svname": server, "status": status, "scur": sessions, "check_status": check, "check_code": code, "last_chk": last}
	}
	got := backends([]map[string]string{
		row("checks", "cp-c", "UP", "0", "L7OK", "200", ""), // where another backend checks for the pool
		row("control-planes", "cp-a", "UP", "4", "* L7OK", "200", ""),
		row("control-planes", "cp-b", "DOWN", "0", "L4CON", "", "Connection refused"),
		row("control-planes", "cp-c", "DRAIN", "1", "", "", ""),
		row("control-planes", "BACKEND", "UP", "5", "", "", ""),
		row("unchecked", "cp-a", "no check", "9", "", "", ""),
	}, drainedServers("1\n"+
		"# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n"+
		"3 control-planes 1 cp-a 10.0.0.11 2 0 1\n3 control-planes 2 cp-b 10.0.0.12 0 8 1\n3 control-planes 3 cp-c 10.0.0.13 2 8 1\n\n"))
	want := []facts.Backend{
		{Name: "cp-a", Healthy: true, Sessions: 4, Check: "L7OK 200"},
		{Name: "cp-b", Drained: true, Check: "L4CON Connection refused"}, // it is under maintenance
		{Name: "cp-c", Healthy: true, Drained: true, Sessions: 1, Check: "L7OK 200"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
