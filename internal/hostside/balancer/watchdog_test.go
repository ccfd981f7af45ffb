package balancer

import (
	"context"
	"fmt"
	"io"
	"log"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// simulation runs the watchdog's judgment against a HAProxy that behaves in a given way at each moment.
type simulation struct {
	w     *watchdog
	now   time.Duration
	said  []string
	told  []string // what keepalived was told, and when, in tenths of a second
	kills []time.Duration
	pid   int
}

// phase is how HAProxy behaves for a while.
type phase struct {
	lasts     time.Duration
	why       condition // why it does not answer
	answers   bool
	refuses   bool
	restarted bool // a new process begins with the phase
	aside     bool
	stall     bool // the watchdog itself does not run
	heals     bool // a kill brings it back
}

func simulate(phases ...phase) *simulation {
	s := &simulation{w: newWatchdog(time.Hour), now: time.Hour, pid: 1}
	for _, p := range phases {
		s.run(p)
	}
	return s
}

func (s *simulation) run(p phase) {
	if p.restarted {
		s.pid++
	}
	if p.stall {
		s.now += p.lasts
		return
	}
	for end := s.now + p.lasts; s.now < end; {
		s.now += watchInterval
		why := condition("")
		switch {
		case p.answers:
			s.w.answer(s.now, nil)
		case p.refuses:
			s.w.answer(s.now, fmt.Errorf("dial: %w", syscall.ECONNREFUSED))
			why = gone
		default:
			if s.w.silent(s.now) >= lookAfter {
				why = p.why
			}
			if s.w.silent(s.now) >= slowPatience {
				s.w.answer(s.now, context.DeadlineExceeded)
			}
		}
		d := s.w.judge(s.now, why, &sample{pid: s.pid}, p.aside)
		s.said = append(s.said, d.say...)
		if d.tell {
			s.told = append(s.told, fmt.Sprintf("%v@%d", d.fault, (s.now-time.Hour)/(100*time.Millisecond)))
		}
		if d.kill {
			s.kills = append(s.kills, s.now)
			s.pid++
			if p.heals {
				p.answers = true
			}
		}
	}
}

// TestWatchdogTellsKeepalived: one lost answer moves no address, and one answer of a HAProxy that hung does not bring it
// back.
func TestWatchdogTellsKeepalived(t *testing.T) {
	second := time.Second
	well := phase{lasts: 3 * second, answers: true}
	for name, tc := range map[string]struct {
		phases []phase
		told   []string
	}{
		"well":                            {[]phase{well}, nil},
		"one lost answer":                 {[]phase{well, {lasts: 300 * time.Millisecond, why: stopped}, well}, nil},
		"stopped":                         {[]phase{well, {lasts: 2 * second, why: stopped}}, []string{"true@34"}},
		"deadlocked":                      {[]phase{well, {lasts: 2 * second, why: asleep}}, []string{"true@36"}},
		"stopped, and back":               {[]phase{well, {lasts: 2 * second, why: stopped}, {lasts: 150 * time.Millisecond, answers: true}, well}, []string{"true@34", "false@54"}},
		"not quite back":                  {[]phase{well, {lasts: 2 * second, why: stopped}, {lasts: 150 * time.Millisecond, answers: true}, {lasts: second, refuses: true}}, []string{"true@34"}},
		"killed":                          {[]phase{well, {lasts: 300 * time.Millisecond, refuses: true}, {lasts: second, answers: true, restarted: true}}, []string{"true@33", "false@36"}},
		"short of CPU":                    {[]phase{well, {lasts: 2500 * time.Millisecond, why: starved}, well}, nil},
		"short of CPU for long":           {[]phase{well, {lasts: 5 * second, why: starved}}, []string{"true@60"}},
		"starting":                        {[]phase{{lasts: second, refuses: true}, {lasts: second, answers: true}}, []string{"true@3", "false@13"}},
		"aside, and back":                 {[]phase{well, {lasts: second, answers: true, aside: true}, well}, []string{"true@31", "false@42"}},
		"hung while aside":                {[]phase{well, {lasts: 2 * second, aside: true, why: stopped}, {lasts: second, why: stopped}}, []string{"true@31"}},
		"the watchdog itself did not run": {[]phase{well, {lasts: 20 * second, stall: true}, well}, nil},
	} {
		s := simulate(tc.phases...)
		if !slices.Equal(s.told, tc.told) {
			t.Errorf("%s: keepalived was told %v, want %v (%v)", name, s.told, tc.told, s.said)
		}
	}
}

// TestWatchdogKillsOnlyWhatHangs, and with patience: HAProxy on a machine twenty times slower was once killed 46 times
// while it was starting.
func TestWatchdogKillsOnlyWhatHangs(t *testing.T) {
	minute := time.Minute
	well := phase{lasts: 3 * time.Second, answers: true}
	for name, tc := range map[string]struct {
		phases []phase
		kills  int
		says   string
	}{
		"hung once":                       {[]phase{well, {lasts: minute, why: stopped, heals: true}}, 1, "has hung for 3"},
		"hung again and again":            {[]phase{well, {lasts: 5 * minute, why: stopped}}, 5, ""}, // after the first, the new processes never answer
		"short of CPU for an hour":        {[]phase{well, {lasts: time.Hour, why: starved}}, 0, "too little CPU time"},
		"starting for an hour, slowly":    {[]phase{{lasts: time.Hour, why: starved}}, 0, ""},
		"starting for an hour, not there": {[]phase{{lasts: time.Hour, refuses: true}}, 0, ""},
		"stuck since it started":          {[]phase{{lasts: 2 * minute, why: asleep}}, 1, ""},
		"short of CPU, then hung":         {[]phase{well, {lasts: 2 * time.Second, why: starved}, {lasts: 2500 * time.Millisecond, why: asleep}, {lasts: 300 * time.Millisecond, why: starved}, {lasts: 2500 * time.Millisecond, why: asleep}}, 0, ""},
		"the watchdog itself did not run": {[]phase{well, {lasts: time.Second, why: stopped}, {lasts: minute, stall: true}, {lasts: 600 * time.Millisecond, why: stopped}, well}, 0, ""},
	} {
		s := simulate(tc.phases...)
		if len(s.kills) != tc.kills || !strings.Contains(strings.Join(s.said, "\n"), tc.says) {
			t.Errorf("%s: killed %d times, want %d: %q", name, len(s.kills), tc.kills, s.said)
		}
	}
	// One that works for a minute after each kill and then hangs again.
	s := simulate(well)
	for range 120 {
		s.run(phase{lasts: minute / 2, answers: true})
		s.run(phase{lasts: minute / 2, why: stopped, heals: true})
	}
	for i, at := range s.kills {
		n := len(slices.DeleteFunc(slices.Clone(s.kills), func(k time.Duration) bool { return k <= at-time.Hour || k > at }))
		if n > curesPerHour {
			t.Errorf("%d kills within an hour", n)
		}
		if i > 0 && i < curesPerHour && at-s.kills[i-1] < firstBackoff<<(i-1) {
			t.Errorf("kill %d came %s after the one before", i, at-s.kills[i-1])
		}
	}
	if len(s.kills) < 2*curesPerHour || !strings.Contains(strings.Join(s.said, "\n"), "leaving it alone") {
		t.Errorf("%d kills in two hours: %q", len(s.kills), s.said)
	}
}

// TestTheWatchdogCountsTicksAlone: what is due at every tenth or fiftieth interval is due then, however often and however late HAProxy
// answers. systemd kills a watchdog that does not report in time.
func TestTheWatchdogCountsTicksAlone(t *testing.T) {
	const runs = time.Minute + watchInterval/2
	c := spec.DefaultLab("test")
	files := hostconfig.Balancer(c, c.Spec.Hosts[0], &facts.Facts{}, "").Files
	i := slices.IndexFunc(files, func(f facts.File) bool { return strings.HasSuffix(f.Path, hostconfig.WatchdogUnit) })
	m := regexp.MustCompile(`(?m)^WatchdogSec=(\d+)$`).FindStringSubmatch(files[i].Content)
	if m == nil {
		t.Fatal("systemd expects no reports")
	}
	limit, _ := strconv.Atoi(m[1])
	for name, answer := range map[string]func(context.Context) error{
		"HAProxy answers immediately": func(context.Context) error { return nil },
		"between two ticks":           func(context.Context) error { time.Sleep(watchInterval / 3); return nil },
		"after several ticks":         func(context.Context) error { time.Sleep(4 * watchInterval / 3); return nil },
		"refuses":                     func(context.Context) error { return syscall.ECONNREFUSED },
		"never":                       func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				now := func() time.Duration { return time.Hour + time.Since(begin) }
				var reports []time.Duration
				ready, samples, told := 0, 0, 0
				ctx, cancel := context.WithTimeout(t.Context(), runs)
				defer cancel()
				others := &strangers{looked: make(chan struct{})}
				close(others.looked)
				err := watch(ctx, log.New(io.Discard, "", 0), others, machine{
					now: now, monitor: answer,
					sample:   func() *sample { samples++; return &sample{at: now(), pid: 1, start: 1, runnable: true} },
					aside:    func(time.Duration) bool { return false },
					tell:     func(bool) error { told++; return nil },
					kill:     func(context.Context) error { t.Error("HAProxy is killed"); return nil },
					replaced: func() bool { return false },
					notify: func(state string) {
						switch state {
						case "WATCHDOG=1":
							reports = append(reports, now())
						case "READY=1":
							ready++
						}
					},
				})
				time.Sleep(2 * watchInterval) // until what HAProxy was still asked is answered
				if err != nil {
					t.Fatal(err)
				}
				if ready != 1 {
					t.Errorf("systemd was told %d times that the watchdog is ready", ready)
				}
				every := reportTicks * watchInterval
				if len(reports) != int(runs/every) || 4*every > time.Duration(limit)*time.Second {
					t.Errorf("%d reports within %s, and systemd expects one within %d s", len(reports), runs, limit)
				}
				for i, at := range reports {
					if want := time.Hour + time.Duration(i+1)*every; at != want {
						t.Errorf("report %d comes after %s, want %s", i, at-time.Hour, want-time.Hour)
					}
				}
				if well := name[0] == 'H' || name[0] == 'b'; well && (samples != 1+int(runs/(sampleTicks*watchInterval)) || told != 0) {
					t.Errorf("%d samples; keepalived was told %d times", samples, told)
				}
			})
		})
	}
}

func TestDiagnose(t *testing.T) {
	const ms = time.Millisecond
	at := func(cpu, waited time.Duration) *sample {
		return &sample{at: time.Hour + 150*ms, pid: 7, start: 9, cpu: cpu, waited: waited}
	}
	before := &sample{at: time.Hour, pid: 7, start: 9, cpu: time.Second, waited: time.Second}
	with := func(s *sample, change func(*sample)) *sample { change(s); return s }
	for name, tc := range map[string]struct {
		now  *sample
		want condition
	}{
		"gone":      {nil, gone},
		"another":   {with(at(0, 0), func(s *sample) { s.pid = 8 }), starting},
		"same ID":   {with(at(0, 0), func(s *sample) { s.start = 10 }), starting},
		"stopped":   {with(at(time.Second, time.Second), func(s *sample) { s.stopped = true }), stopped},
		"asleep":    {at(time.Second, time.Second), asleep},
		"spinning":  {with(at(time.Second+140*ms, time.Second), func(s *sample) { s.runnable = true }), spinning},
		"throttled": {with(at(time.Second, time.Second), func(s *sample) { s.runnable = true }), starved},
		"waiting":   {with(at(time.Second+10*ms, time.Second+120*ms), func(s *sample) { s.runnable = true }), starved},
		"waited":    {at(time.Second+10*ms, time.Second+120*ms), starved},
		"swapped":   {with(at(time.Second, time.Second), func(s *sample) { s.blocked = true }), starved},
		"slow":      {at(time.Second+30*ms, time.Second), starved},
	} {
		if got := diagnose(before, tc.now); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := diagnose(nil, at(0, 0)); got != starting {
		t.Errorf("never seen before: %s", got)
	}
}

// TestAsideKnowsNoWallClock: neither a clock that is set back nor a file of an earlier start of the machine keeps a load
// balancer aside.
func TestAsideKnowsNoWallClock(t *testing.T) {
	content := asideUntil("boot-1", time.Hour+asideFor)
	for name, tc := range map[string]struct {
		content []byte
		boot    string
		now     time.Duration
		want    bool
	}{
		"now":            {content, "boot-1", time.Hour, true},
		"over":           {content, "boot-1", time.Hour + asideFor, false},
		"after a reboot": {content, "boot-2", time.Second, false},
		"no file":        {nil, "boot-1", time.Second, false},
		"half a file":    {content[:9], "boot-1", time.Second, false},
	} {
		if got := standsAside(tc.content, tc.boot, tc.now); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if id := bootID(); len(id) != 36 {
		t.Errorf("boot ID %q", id)
	}
}

// TestSampleIsTheKernelsAnswer looks at this process, and at one that is stopped.
func TestSampleIsTheKernelsAnswer(t *testing.T) {
	s := sample{pid: syscall.Getpid()}
	for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; { // some CPU time
	}
	if !s.readThreads() || s.stopped || s.cpu < 10*time.Millisecond {
		t.Errorf("this process: %+v", s)
	}
	f, ok := readStat("/proc/self/stat")
	if !ok || f.pid != s.pid || f.start == 0 {
		t.Errorf("%+v", f)
	}
}
