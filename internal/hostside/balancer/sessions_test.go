package balancer

import (
	"fmt"
	"net/netip"
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

func between(local, peer string) connection {
	return connection{netip.MustParseAddrPort(local), netip.MustParseAddrPort(peer)}
}

func TestParseSessions(t *testing.T) {
	got := parseSessions(fmt.Sprintf(sess, hostconfig.PoolWithEtcd))
	want := []session{{
		id: "0x55d0c8a1e2b0", backend: hostconfig.PoolWithEtcd,
		client: between("10.0.0.100:6443", "10.0.0.5:40112"), server: between("10.0.0.12:50112", "10.0.0.11:6443"),
	}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := parseSessions("Permission denied\n"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.5:6443": "10.0.0.5:6443", "fd00::5:6443": "[fd00::5]:6443", "::ffff:10.0.0.5:6443": "10.0.0.5:6443",
		"unix:1": "", "10.0.0.5": "", "10.0.0.5:65536": "", "": "",
	} {
		if got := endpoint(text); got.IsValid() != (want != "") || got.IsValid() && got.String() != want {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// TestConnectionsAreClosedBetweenTwoRequests looks at a connection in situations of its life.
func TestConnectionsAreClosedBetweenTwoRequests(t *testing.T) {
	now := time.Now()
	const never = -1
	for name, tc := range map[string]struct {
		age            int  // milliseconds since it was seen first
		client, server int  // milliseconds since bytes came from it, or never
		want           bool // that it is closed
		urgent         bool // whether it is because the address leaves
		impatient      bool // whether it is because the worker is about to be ended
	}{
		"answered, and silent":                      {900, 70, 50, true, true, true},
		"answered just now":                         {900, 40, 20, false, false, false},
		"a second request, not answered yet":        {900, 60, 70, false, false, false},
		"request and answer in one unit of time":    {900, 60, 60, false, false, false},
		"the same, some time later":                 {1900, 1060, 1060, true, true, true},
		"a request is under way":                    {900, 100, 150, false, false, false},
		"a request that takes long":                 {1900, 900, 1800, false, false, true},
		"silent for long after a frame":             {2900, 1100, 1900, true, true, true},
		"a watch that is silent":                    {60_000, 50_000, 49_990, true, true, true},
		"an answer that has not ended":              {900, 300, 10, false, false, false},
		"unused":                                    {900, never, never, true, true, true},
		"unused, and young":                         {60, never, never, false, true, false},
		"young":                                     {200, 110, 100, false, true, false},
		"young, with a request under way":           {200, 150, 170, false, false, false},
		"young, with a frame after the last answer": {690, 600, 610, false, false, false},
	} {
		look := func(m manners) bool {
			s := session{id: "0x1", client: between("10.0.0.100:6443", "10.0.0.5:40112"), server: between("10.0.0.12:50112", "10.0.0.11:6443")}
			heard := func(ms int) received {
				if ms == never {
					return received{silent: time.Duration(tc.age) * time.Millisecond}
				}
				return received{true, time.Duration(ms) * time.Millisecond}
			}
			w := sessionWatch{}
			w.see(now.Add(-time.Duration(tc.age)*time.Millisecond), []session{s}, nil, m)
			if idle := w.see(now, []session{s}, map[connection]received{s.client: heard(tc.client)}, m); len(idle) > 0 {
				t.Errorf("%s: closed while the kernel has only one of its connections", name)
			}
			return len(w.see(now, []session{s}, map[connection]received{s.client: heard(tc.client), s.server: heard(tc.server)}, m)) == 1
		}
		for what, have := range map[string][2]bool{
			"polite": {look(polite), tc.want}, "urgent": {look(urgent), tc.urgent}, "impatient": {look(impatient), tc.impatient},
		} {
			if have[0] != have[1] {
				t.Errorf("%s, %s: closed: %v", name, what, have[0])
			}
		}
	}
}

// TestOldAnswersAreUsedOnlyAtTheEnd: a request may have come since the kernel was asked. As long as another look follows, under the same manners or others,
// nothing is closed because of an old answer.
func TestOldAnswersAreUsedOnlyAtTheEnd(t *testing.T) {
	begin := time.Now()
	for name, tc := range map[string]struct {
		took, ago int  // milliseconds that the look took, and since the kernel was asked
		remain    int  // milliseconds from the begin of the look to the end of the time
		then      bool // whether it is used if nothing follows
		before    bool // whether it is used if other manners follow
	}{
		"a young answer":                     {30, 15, 400, true, true},
		"a young answer, at the end":         {30, 15, 20, true, true},
		"an old answer":                      {30, 16, 400, false, false},
		"an old answer, and time for a look": {30, 16, 91, false, false},
		"an old answer, at the end":          {30, 16, 90, true, false},
		"an old answer, after the end":       {30, 16, 0, true, false},
	} {
		at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
		for what, x := range map[string]struct {
			manners
			want bool
		}{"polite": {polite, tc.before}, "urgent": {urgent, tc.then}, "impatient": {impatient, tc.then}} {
			if got := x.use(begin, at(tc.took-tc.ago), at(tc.took), at(tc.remain)); got != x.want {
				t.Errorf("%s, %s: used: %v", name, what, got)
			}
		}
	}
}
