package etcd

import (
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// TestTimersOfAMember: they are in its static pod, or in the environment of its unit, and those of a process may be others.
func TestTimersOfAMember(t *testing.T) {
	same := func(a, b *facts.EtcdTimers) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }
	const manifest = "spec: {containers: [{command: [etcd, --name=a, --heartbeat-interval=30, '--election-timeout', '300']}]}"
	for name, tc := range map[string]struct {
		files map[string]string
		want  *facts.EtcdTimers
	}{
		"no member":             {nil, nil},
		"a static pod":          {map[string]string{hostconfig.EtcdManifest: manifest}, &facts.EtcdTimers{Heartbeat: 30, Election: 300}},
		"a static pod, plain":   {map[string]string{hostconfig.EtcdManifest: "spec: {containers: [{command: [etcd]}]}"}, &facts.EtcdTimers{}},
		"half a static pod":     {map[string]string{hostconfig.EtcdManifest: "spec: {containers"}, nil},
		"a unit":                {map[string]string{hostconfig.EtcdEnvFile: "# by quorate\nETCD_NAME=a\nETCD_ELECTION_TIMEOUT=500\n"}, &facts.EtcdTimers{Election: 500}},
		"a static pod, a unit":  {map[string]string{hostconfig.EtcdManifest: manifest, hostconfig.EtcdEnvFile: "ETCD_ELECTION_TIMEOUT=500\n"}, &facts.EtcdTimers{Heartbeat: 30, Election: 300}},
		"a unit without timers": {map[string]string{hostconfig.EtcdEnvFile: "ETCD_NAME=a\n"}, &facts.EtcdTimers{}},
	} {
		m := Member{Root: t.TempDir()}
		for path, content := range tc.files {
			m.write(t, path, content)
		}
		if got := m.Timers(); !same(got, tc.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	m := Member{Root: t.TempDir()}
	m.write(t, "/proc/7/environ", "ETCD_HEARTBEAT_INTERVAL=50\x00ETCD_ELECTION_TIMEOUT=500\x00PATH=/bin\x00")
	if got := m.Runs(7); !same(got, &facts.EtcdTimers{Heartbeat: 50, Election: 500}) {
		t.Errorf("%+v", got)
	}
	if got := m.Runs(8); got != nil {
		t.Errorf("a process that has ended has %+v", got)
	}
}
