package balancer

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

func TestBackends(t *testing.T) {
	row := func(backend, server, status, sessions, check, code, last string) stats {
		return stats{"pxname": backend, "svname": server, "status": status, "scur": sessions, "check_status": check, "check_code": code, "last_chk": last}
	}
	drained := drainedServers("1\n" +
		"# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n" +
		"3 control-planes 1 cp-a 10.0.0.11 2 0 1\n3 control-planes 2 cp-b 10.0.0.12 0 8 1\n3 control-planes 3 cp-c 10.0.0.13 2 8 1\n\n")
	rows := []stats{
		row("control-planes", "cp-a", "UP", "4", "* L7OK", "200", ""),
		row("control-planes", "cp-b", "DOWN", "0", "L4CON", "", "Connection refused"),
		row("control-planes", "cp-c", "DRAIN", "1", "", "", ""),
		row("control-planes", "BACKEND", "UP", "5", "", "", ""),
		row("without-etcd", "cp-a", "UP", "2", "L7OK", "200", ""),
		row("unchecked", "cp-a", "no check", "9", "", "", ""),
	}
	for name, tc := range map[string]struct {
		rows []stats
		want []facts.Backend
	}{
		"as always": {rows, []facts.Backend{
			{Name: "cp-a", Healthy: true, Sessions: 15, Check: "L7OK 200"},
			{Name: "cp-b", Drained: true, Check: "L4CON Connection refused"}, // it is under maintenance
			{Name: "cp-c", Healthy: true, Drained: true, Sessions: 1, Check: ""},
		}},
		"in an election, the servers that are ready apart from etcd get the clients": {[]stats{
			row("control-planes", "cp-a", "DOWN", "1", "L7TOUT", "", ""), row("control-planes", "cp-b", "DOWN", "0", "L4TOUT", "", ""),
			row("without-etcd", "cp-a", "UP", "0", "L7OK", "200", ""), row("without-etcd", "cp-b", "DOWN", "0", "L4TOUT", "", ""),
		}, []facts.Backend{{Name: "cp-a", Healthy: true, Sessions: 1, Check: "L7TOUT"}, {Name: "cp-b", Drained: true, Check: "L4TOUT"}}},
		"everything is down": {[]stats{
			row("control-planes", "cp-a", "DOWN", "0", "L4TOUT", "", ""), row("without-etcd", "cp-a", "DOWN", "0", "L4TOUT", "", ""), row("unchecked", "cp-a", "no check", "3", "", "", ""),
		}, []facts.Backend{{Name: "cp-a", Sessions: 3, Check: "L4TOUT"}}},
	} {
		if got := backends(tc.rows, drained); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}
