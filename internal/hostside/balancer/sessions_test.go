package balancer

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
)

// sess is what HAProxy 2.6 answers to `show sess all`, shortened.
const sess = `0x55d0c8a1e2b0: [26/Nov/2026:17:00:00.123456] id=4711 proto=tcpv4 source=10.0.0.5:40112
  flags=0x48, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55d0c88, pend_pos=(nil) waiting=0 epoch=0x11
  frontend=api (id=3 mode=tcp), listener=? (id=1) addr=10.0.0.100:6443
  backend=%[1]s (id=4 mode=tcp) addr=10.0.0.12:50112
  server=cp-a (id=1) addr=10.0.0.11:6443
  task=0x55d0c8a1e6f0 (state=0x00 nice=0 calls=5 rate=0 exp=59m59s tmask=0xffffffff age=8m)
  req=0x55d0c8a1e2d8 (f=0x80c020 an=0x0 pipe=0 tofwd=-1 total=1811)
      an_exp=<NEVER> rex=59m59s wex=<NEVER>
      buf=0x55d0c8a1e2e0 data=(nil) o=0 p=0 i=0 size=0
  res=0x55d0c8a1e338 (f=0x80040020 an=0x0 pipe=0 tofwd=-1 total=10211)
      an_exp=<NEVER> rex=59m59s wex=<NEVER>
      buf=0x55d0c8a1e340 data=(nil) o=0 p=0 i=0 size=0
0x55d0c8a20000: [26/Nov/2026:17:00:01.000001] id=4712 proto=unix_stream source=unix:1
  frontend=GLOBAL (id=0 mode=tcp), listener=? (id=2) addr=unix:2
  backend=<NONE> (id=-1 mode=-)
  server=<NONE> (id=-1)
  req=0x55d0c8a20028 (f=0x808000 an=0x0 pipe=0 tofwd=-1 total=14)
  res=0x55d0c8a20088 (f=0x80008002 an=0x0 pipe=0 tofwd=-1 total=3023)
`

func TestParseSessions(t *testing.T) {
	got := parseSessions(fmt.Sprintf(sess, hostconfig.PoolWithEtcd))
	want := []session{{id: "0x55d0c8a1e2b0", backend: hostconfig.PoolWithEtcd, server: "cp-a", in: 1811, out: 10211}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := parseSessions("Permission denied\n"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestConnectionsAreClosedBetweenTwoRequests follows a connection through moments of its life.
func TestConnectionsAreClosedBetweenTwoRequests(t *testing.T) {
	begin := time.Now()
	for name, tc := range map[string]struct {
		moments [][3]int64 // milliseconds, bytes from the client, bytes to it
		want    bool       // that it is closed at the last moment
		urgent  bool       // whether it is because the address leaves
	}{
		"answered, and silent":             {[][3]int64{{0, 100, 100}, {900, 150, 100}, {920, 150, 300}, {970, 150, 300}}, true, true},
		"request and answer in one moment": {[][3]int64{{0, 100, 100}, {900, 150, 300}, {950, 150, 300}}, true, true},
		"answered just now":                {[][3]int64{{0, 100, 100}, {900, 150, 100}, {920, 150, 300}, {940, 150, 300}}, false, false},
		"a request is under way":           {[][3]int64{{0, 100, 100}, {900, 150, 300}, {950, 200, 300}, {1050, 200, 300}}, false, false},
		"a request that takes long":        {[][3]int64{{0, 100, 100}, {900, 200, 100}, {1800, 200, 100}}, false, false},
		"silent for long after a frame":    {[][3]int64{{0, 100, 100}, {900, 200, 100}, {2000, 200, 100}}, true, true},
		"young":                            {[][3]int64{{0, 100, 100}, {100, 150, 300}, {200, 150, 300}}, false, true},
		"a watch that was never heard":     {[][3]int64{{0, 100, 100}, {1100, 100, 100}}, true, true},
		"an answer that has not ended":     {[][3]int64{{0, 100, 100}, {900, 150, 300}, {930, 150, 600}, {960, 150, 900}}, false, false},
		"unused":                           {[][3]int64{{0, 0, 0}, {50, 0, 0}}, false, true},
		"young, with a request under way":  {[][3]int64{{0, 100, 100}, {20, 200, 100}, {280, 200, 100}}, false, false},
		"young, and never heard":           {[][3]int64{{0, 100, 100}, {100, 100, 100}}, false, false},
		"never heard for longer":           {[][3]int64{{0, 100, 100}, {270, 100, 100}}, false, true},
	} {
		for m, want := range map[manners]bool{polite: tc.want, urgent(begin.Add(longLived)): tc.urgent} {
			w := sessionWatch{}
			var idle []string
			for _, at := range tc.moments {
				idle = w.see(begin.Add(time.Duration(at[0])*time.Millisecond), []session{{id: "0x1", in: at[1], out: at[2]}}, m)
			}
			if (len(idle) == 1) != want {
				t.Errorf("%s (%+v): closed %v", name, m, idle)
			}
		}
	}
}
