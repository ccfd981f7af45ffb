package balancer

import (
	"slices"
	"testing"
	"time"
)

// TestCareTellsBusyFromHung: connections are closed only if the server sends nothing at all and answers nobody while
// another one does, or if it says itself for seconds that it is not ready while another one is.
func TestCareTellsBusyFromHung(t *testing.T) {
	const ms = time.Millisecond
	ok := sighting{name: "cp-b", up: true, check: "L7OK", blind: "L7OK", sessions: 9}
	okay := sighting{name: "cp-c", up: true, check: "L7OK", blind: "L7OK", sessions: 9}
	a := func(up bool, check, blind string) sighting {
		return sighting{name: "cp-a", up: up, check: check, blind: blind, sessions: 5}
	}
	hung := opinion{silent: 900 * ms, another: 5 * ms}
	type look struct {
		at       time.Duration
		seen     []sighting
		opinions map[string]opinion
	}
	always := func(s sighting, o opinion) []look {
		return []look{{10 * time.Second, []sighting{s, ok, okay}, map[string]opinion{"cp-a": o}}}
	}
	// repeat looks at the same thing every 200 ms.
	repeat := func(from, to time.Duration, seen ...sighting) (out []look) {
		for at := from; at < to; at += careInterval {
			out = append(out, look{at, seen, nil})
		}
		return out
	}
	electing := func(s sighting) sighting { s.up, s.check = false, "L7TOUT"; return s }
	said := func(s sighting) sighting { s.up, s.check = false, "L7STS"; return s }
	drained := func(s sighting) sighting { s.drained = true; return s }
	wait := func(s sighting) sighting { s.waits = true; return s }
	for name, tc := range map[string]struct {
		looks []look
		want  []string // servers whose connections are closed, in order
	}{
		"hung":                              {always(a(true, "L6TOUT", "L7OK"), hung), []string{"cp-a"}},
		"vanished":                          {always(a(false, "L4TOUT", "L4TOUT"), hung), []string{"cp-a"}},
		"a listener that nobody serves":     {always(a(true, "L7OK", "L7TOUT"), hung), []string{"cp-a"}},
		"busy: it still sends":              {always(a(false, "L6TOUT", "L6TOUT"), opinion{silent: 300 * ms, another: 5 * ms}), nil},
		"busy: it answers a new one":        {always(a(false, "L6TOUT", "L6TOUT"), opinion{silent: 900 * ms, answers: true, another: 5 * ms}), nil},
		"everything is slow":                {always(a(false, "L6TOUT", "L6TOUT"), opinion{silent: 900 * ms, another: 60 * ms}), nil},
		"it hangs where everything is slow": {always(a(false, "L6TOUT", "L6TOUT"), opinion{silent: 1500 * ms, another: 60 * ms}), []string{"cp-a"}},
		"the network is away":               {always(a(false, "L4TOUT", "L4TOUT"), opinion{silent: 5 * time.Second}), nil},
		"nobody has looked closer":          {[]look{{10 * time.Second, []sighting{a(false, "L6TOUT", "L6TOUT"), ok}, nil}}, nil},
		"it waits for etcd":                 {always(a(false, "L7TOUT", "L7OK"), hung), nil},
		"no connections":                    {always(sighting{name: "cp-a", check: "L6TOUT"}, hung), nil},
		"an election":                       {repeat(time.Minute, time.Minute+9*time.Second, electing(a(false, "", "L7OK")), electing(ok), electing(okay)), nil},
		"drained, and about to stop":        {repeat(time.Minute, time.Minute+30*time.Second, drained(said(a(false, "", "L7OK"))), ok, okay), nil},
		"drained, and finishes requests":    {always(drained(a(false, "L4CON", "L4CON")), hung), nil},
		"gone":                              {always(a(false, "L4CON", "L4CON"), hung), []string{"cp-a"}},
		"drained, and its etcd is dead":     {repeat(time.Minute, time.Minute+endsWithin+400*ms, drained(said(a(false, "", "L7OK"))), ok, okay), []string{"cp-a"}},
		"drained, and hung":                 {always(drained(a(true, "L6TOUT", "L7OK")), hung), []string{"cp-a"}},
		"its etcd is dead":                  {repeat(time.Minute, time.Minute+1800*ms, said(a(false, "", "L7OK")), ok, okay), []string{"cp-a"}},
		"not for long":                      {repeat(time.Minute, time.Minute+1400*ms, said(a(false, "", "L7OK")), ok, okay), nil},
		"its etcd hangs, and it says so":    {append(repeat(time.Minute, time.Minute+time.Second, said(a(false, "", "L7OK")), ok), repeat(time.Minute+time.Second, time.Minute+3400*ms, electing(a(false, "", "L7OK")), ok)...), []string{"cp-a"}},
		"its etcd is slow":                  {append(repeat(time.Minute, time.Minute+time.Second, said(a(false, "", "L7OK")), ok), repeat(time.Minute+time.Second, time.Minute+2800*ms, electing(a(false, "", "L7OK")), ok)...), nil},
		"it is slow, and sometimes says so": {slices.Concat(repeat(time.Minute, time.Minute+time.Second, said(a(false, "", "L7OK")), ok), repeat(time.Minute+time.Second, time.Minute+1200*ms, said(a(false, "", "L7TOUT")), ok),
			repeat(time.Minute+1200*ms, time.Minute+2600*ms, said(a(false, "", "L7OK")), ok)), nil},
		"slow, but it never said anything": {repeat(time.Minute, time.Minute+9*time.Second, electing(a(false, "", "L7OK")), ok, okay), nil},
		"the servers regain their leader one after the other": {slices.Concat(repeat(time.Minute, time.Minute+9*time.Second, said(a(false, "", "L7OK")), said(ok), said(okay)),
			repeat(time.Minute+9*time.Second, time.Minute+10400*ms, said(a(false, "", "L7OK")), ok, said(okay)), repeat(time.Minute+10400*ms, time.Minute+20*time.Second, a(true, "L7OK", "L7OK"), ok, okay)), nil},
		"a check is not answered": {[]look{{10 * time.Second, []sighting{wait(a(true, "L7OK", "L7OK")), ok}, map[string]opinion{"cp-a": hung}},
			{10*time.Second + careInterval, []sighting{wait(a(true, "L7OK", "L7OK")), ok}, map[string]opinion{"cp-a": hung}}}, []string{"cp-a"}},
		"one look meets a check": {[]look{{10 * time.Second, []sighting{wait(a(true, "L7OK", "L7OK")), ok}, map[string]opinion{"cp-a": hung}},
			{10*time.Second + careInterval, []sighting{a(true, "L7OK", "L7OK"), ok}, map[string]opinion{"cp-a": hung}}}, nil},
		"everybody waits for etcd": {[]look{{10 * time.Second, []sighting{wait(a(true, "L7OK", "L7OK")), wait(ok), wait(okay)}, nil},
			{10*time.Second + careInterval, []sighting{wait(a(true, "L7OK", "L7OK")), wait(ok), wait(okay)}, map[string]opinion{"cp-a": hung}}}, nil},
		"hung, and again": {slices.Concat(always(a(true, "L6TOUT", "L7OK"), hung), []look{
			{10*time.Second + 200*ms, []sighting{a(false, "L6TOUT", "L7OK"), ok}, map[string]opinion{"cp-a": hung}},
			{11*time.Second + 200*ms, []sighting{a(false, "L6TOUT", "L7OK"), ok}, map[string]opinion{"cp-a": hung}}}), []string{"cp-a", "cp-a"}},
	} {
		c := newCare()
		for at := time.Duration(0); at < 8*time.Second; at += careInterval { // everything has been well until now
			c.look(at, []sighting{a(true, "L7OK", "L7OK"), ok, okay})
		}
		var closed []string
		for _, l := range tc.looks {
			suspects, sound := c.look(l.at, l.seen)
			opinions := map[string]opinion{}
			for _, s := range suspects {
				if o, ok := l.opinions[s.name]; ok && len(sound) > 0 {
					opinions[s.name] = o
				}
			}
			for _, v := range c.judge(l.at, l.seen, opinions) {
				closed = append(closed, v.server)
			}
		}
		if !slices.Equal(closed, tc.want) {
			t.Errorf("%s: closed %v, want %v", name, closed, tc.want)
		}
	}
}

// TestCareLearnsFromMistakes: a server that answers soon after it was taken for hung was busy, and gets more time.
func TestCareLearnsFromMistakes(t *testing.T) {
	const ms = time.Millisecond
	sound := sighting{name: "cp-b", up: true, check: "L7OK", sessions: 9}
	well := sighting{name: "cp-a", up: true, check: "L7OK", sessions: 9}
	hung := sighting{name: "cp-a", check: "L6TOUT", sessions: 9}
	c, now := newCare(), time.Hour
	for _, step := range []struct {
		wait   time.Duration
		seen   sighting
		silent time.Duration
		closed bool
	}{
		{0, hung, 800 * ms, true},
		{5 * time.Second, well, 0, false}, // it was busy
		{time.Second, hung, 800 * ms, false},
		{time.Second, hung, 1400 * ms, true},
		{5 * time.Second, well, 0, false},
		{time.Second, hung, 2700 * ms, false},
		{time.Second, hung, 2800 * ms, true},
		{time.Minute, well, 0, false}, // it did hang
		{time.Second, hung, 2800 * ms, true},
		{time.Minute, well, 0, false},
		{10 * time.Minute, well, 0, false},
		{time.Second, hung, 800 * ms, true},
	} {
		now += step.wait
		seen := []sighting{step.seen, sound}
		c.look(now, seen)
		verdicts := c.judge(now, seen, map[string]opinion{"cp-a": {silent: step.silent, another: 5 * ms}})
		if step.seen == well {
			continue
		}
		if (len(verdicts) > 0) != step.closed {
			t.Errorf("at %s, silent for %s: closed %v", now-time.Hour, step.silent, len(verdicts) > 0)
		}
	}
}

func TestSightings(t *testing.T) {
	rows, err := parseStats("# pxname,svname,scur,status,check_status,addr,\n" +
		"control-planes,cp-a,3,UP 1/2,* L6TOUT,10.0.0.11:6443,\ncontrol-planes,cp-b,0,DOWN,L7STS,10.0.0.12:6443,\ncontrol-planes,BACKEND,3,UP,,,\n" +
		"without-etcd,cp-a,1,UP,L7OK,10.0.0.11:6443,\nunchecked,cp-a,2,no check,,10.0.0.11:6443,\n")
	if err != nil {
		t.Fatal(err)
	}
	got := sightings(rows, []string{"cp-b"})
	want := []sighting{{"cp-a", "10.0.0.11:6443", true, true, "L6TOUT", "L7OK", 6, false}, {"cp-b", "10.0.0.12:6443", false, false, "L7STS", "", 0, true}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	if !got[0].suspicious() || got[0].sound() || got[1].suspicious() {
		t.Error("the wrong server is suspicious")
	}
	if _, err := parseStats(""); err == nil {
		t.Error("no statistics are statistics")
	}
}

// TestDrainsAreRemembered: HAProxy forgets a drain when it starts or reloads.
func TestDrainsAreRemembered(t *testing.T) {
	rows := []stats{
		{"pxname": "control-planes", "svname": "cp-a", "status": "UP"}, {"pxname": "without-etcd", "svname": "cp-a", "status": "DRAIN"},
		{"pxname": "control-planes", "svname": "cp-b", "status": "DRAIN"}, {"pxname": "without-etcd", "svname": "cp-b", "status": "DRAIN"},
		{"pxname": "control-planes", "svname": "cp-c", "status": "DOWN"}, {"pxname": "unchecked", "svname": "cp-c", "status": "no check"},
		{"pxname": "control-planes", "svname": "cp-d", "status": "UP 1/2"},
	}
	if got := forgotten(rows, []string{"cp-a", "cp-b", "cp-c", "gone"}); !slices.Equal(got, []string{"cp-a"}) {
		t.Errorf("forgotten: %q", got)
	}
	if got := forgotten(rows, nil); len(got) > 0 {
		t.Errorf("nobody is drained: %q", got)
	}
}
