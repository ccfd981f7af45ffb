package balancer

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/ui"
)

// How the watchdog judges HAProxy. keepalived's own scripts run once a second at best; half a second of a hung proxy is
// about as long as a VRRP takeover after a power-off.
const (
	watchInterval = 150 * time.Millisecond
	// lookAfter is how long HAProxy may not answer until its process is examined, once in each interval.
	lookAfter = 2 * watchInterval
	// surePatience is how long HAProxy may not answer when it certainly cannot; hungPatience when it seems to hang; and
	// slowPatience when it is short of CPU time or starting: then another load balancer may be no better.
	surePatience = 400 * time.Millisecond
	hungPatience = 600 * time.Millisecond
	slowPatience = 3 * time.Second
	watchRise    = 2 // answers in a row that end a fault
	watchFall    = 2 // refused connections in a row, or looks that find it to hang, that begin one
	inFlight     = 4 // requests that may wait for HAProxy at the same time

	sampleTicks = 10 // intervals between two samples of a HAProxy that answers
	// reportTicks is how many intervals are between two reports to systemd: several fit into WatchdogSec of the unit.
	reportTicks = 50

	// A HAProxy that hangs for cureAfter is killed, so that systemd restarts it. One that has not answered since it started is
	// killed after stuckAfter. Each kill doubles the time until the next one, and curesPerHour limits them.
	cureAfter    = 3 * time.Second
	stuckAfter   = time.Minute
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
	curesPerHour = 5
)

// Watchdog keeps the endpoint's failover fast on this load balancer until ctx ends. It tells keepalived through a file
// whether this host may have the virtual IP, kills a HAProxy that hangs for good, closes the connections of API
// servers that hang, and those that are older than a reload. A host that reaches no API server stands aside while another load balancer does. It returns early when its own program has been replaced: systemd then starts the new one.
func Watchdog(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := log.New(os.Stderr, "", 0) // the journal adds the time
	if err := tellKeepalived(false); err != nil {
		return err
	}
	shown := &views{}
	go careForServers(ctx, logger, haproxyStats, shown)
	go careForFormer(ctx, logger)
	others := &strangers{looked: make(chan struct{})}
	go others.watch(ctx, logger, stranger)
	servers := &cutOff{}
	go servers.watch(ctx, logger, shown.take, serving)
	return watch(ctx, logger, others, thisMachine(servers))
}

// machine is what the watchdog sees of its host, and does to it. Tests have others.
type machine struct {
	now      func() time.Duration        // on a monotonic clock
	monitor  func(context.Context) error // asks HAProxy for an answer
	sample   func() *sample              // of HAProxy's process
	aside    func(time.Duration) bool    // whether the host is to stand aside at a time
	tell     func(fault bool) error      // tells keepalived
	kill     func(context.Context) error // kills HAProxy
	notify   func(state string)          // tells systemd
	replaced func() bool                 // whether this program has been replaced
}

func thisMachine(servers *cutOff) machine {
	client := &http.Client{Timeout: slowPatience, Transport: &http.Transport{DisableKeepAlives: true}}
	boot := bootID()
	return machine{
		now:     monotonic,
		monitor: func(ctx context.Context) error { return monitor(ctx, client) },
		sample:  sampleHAProxy,
		aside: func(now time.Duration) bool {
			content, _ := os.ReadFile(hostconfig.AsideFile)
			return standsAside(content, boot, now) || servers.is.Load()
		},
		tell: tellKeepalived,
		kill: func(ctx context.Context) error {
			return system.Run(ctx, "systemctl", "kill", "--signal=SIGKILL", "haproxy.service")
		},
		notify:   system.Notify,
		replaced: func() bool { return system.Replaced(hostconfig.SelfPath) },
	}
}

func watch(ctx context.Context, logger *log.Logger, others *strangers, m machine) error {
	answers := make(chan error, inFlight)
	asking := 0
	ready, looked, begun := false, false, m.now()
	w := newWatchdog(begun)
	var last *sample
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for n := 0; ; { // n counts ticks, and nothing else: some things are due at multiples of it
		select {
		case <-ctx.Done():
			return nil
		case err := <-answers:
			asking--
			w.answer(m.now(), err)
			continue
		case <-tick.C:
			n++
		}
		if asking < inFlight {
			asking++
			go func() { answers <- m.monitor(ctx) }()
		}
		for drained := false; !drained; { // a pending answer is not silence
			select {
			case err := <-answers:
				asking--
				w.answer(m.now(), err)
			default:
				drained = true
			}
		}
		now := m.now()
		why := condition("")
		if w.silent(now) >= lookAfter {
			s := m.sample()
			why, last = diagnose(last, s), s
		} else if n%sampleTicks == 0 || last == nil {
			last = m.sample()
		}
		d := w.judge(now, why, last, m.aside(now) || others.present.Load())
		for _, line := range d.say {
			logger.Print(line)
		}
		if d.tell {
			if err := m.tell(d.fault); err != nil {
				return err
			}
		}
		if d.kill {
			if err := m.kill(ctx); err != nil {
				logger.Printf("killing HAProxy: %v", err)
			}
		}
		select {
		case <-others.looked:
			looked = true
		default:
			looked = looked || now-begun > strangerWait
		}
		if !ready && looked && (w.alive || d.fault) {
			// keepalived starts only now. It does not take the virtual IP for a HAProxy that is not there, or from a machine that
			// does not send it advertisements.
			ready = true
			m.notify("READY=1")
		}
		if n%reportTicks == 0 {
			m.notify("WATCHDOG=1")
			if !d.fault && m.replaced() {
				logger.Print("quorate has been replaced: starting the new one")
				return nil
			}
		}
	}
}

// watchdog judges HAProxy by its answers and by its process. All times are of the monotonic clock.
type watchdog struct {
	looked   time.Duration // the last look
	answered time.Duration // the last answer or, if there was none yet, the start
	rise     int           // answers since the fault began
	refused  int           // refused connections since the last answer
	hangs    int           // looks in a row that found it to hang
	worker   sample        // the process that is judged
	alive    bool          // it has answered since it started
	fault    bool          // HAProxy does not work
	told     bool          // what keepalived was told
	was      condition     // the last condition that was logged

	hungSince time.Duration // 0 while it does not hang
	cures     []time.Duration
	gaveUp    bool
}

func newWatchdog(now time.Duration) *watchdog { return &watchdog{looked: now, answered: now} }

// decision is what follows from one look.
type decision struct {
	fault, tell, kill bool
	say               []string
}

func (w *watchdog) silent(now time.Duration) time.Duration { return now - w.answered }

// answer notes the outcome of one request to HAProxy.
func (w *watchdog) answer(now time.Duration, err error) {
	switch {
	case err == nil:
		w.answered, w.refused, w.hungSince, w.alive = now, 0, 0, true
		w.rise++
	case errors.Is(err, syscall.ECONNREFUSED):
		w.refused++
		w.rise = 0
	default:
		w.rise = 0
	}
}

// judge decides what to do about a HAProxy that has not answered for a while, for the reason why.
func (w *watchdog) judge(now time.Duration, why condition, process *sample, aside bool) (d decision) {
	// The watchdog itself did not run, so nothing is known about that time.
	if late := now - w.looked - watchInterval; late > watchInterval {
		w.answered += late
		if w.hungSince > 0 {
			w.hungSince += late
		}
	}
	w.looked = now
	if process != nil && (process.pid != w.worker.pid || process.start != w.worker.start) {
		w.alive = w.alive && w.silent(now) < watchInterval // a reload: the answer may have come from the new process
		w.worker, w.hungSince, w.gaveUp = *process, 0, false
	}
	if w.hangs++; !why.hung() {
		w.hangs = 0
	}
	silent := w.silent(now)
	failed := w.refused >= watchFall || silent >= slowPatience ||
		w.hangs >= watchFall && silent >= hungPatience || (why == stopped || why == gone) && silent >= surePatience
	switch {
	case !w.fault && failed:
		w.fault, w.rise, w.was = true, 0, why
		d.say = append(d.say, fmt.Sprintf("HAProxy has not answered for %s (%s): this host must not have the virtual IP", ui.Duration(silent), reason(why, w.refused)))
	case w.fault && w.rise >= watchRise:
		w.fault, w.was = false, ""
		d.say = append(d.say, "HAProxy answers again")
	case silent >= surePatience && why != w.was && why != "":
		w.was = why
		d.say = append(d.say, fmt.Sprintf("HAProxy has not answered for %s: %s", ui.Duration(silent), why))
	}
	w.cure(now, why, &d)
	d.fault = w.fault || aside
	d.tell = d.fault != w.told
	w.told = d.fault
	return d
}

func reason(why condition, refused int) string {
	if why == "" && refused > 0 {
		return "it refuses connections"
	}
	return string(why)
}

// cure kills a HAProxy that hangs permanently. Killing one that is starting or short of CPU time would make things worse.
func (w *watchdog) cure(now time.Duration, why condition, d *decision) {
	if !why.hung() {
		if why != "" {
			w.hungSince = 0
		}
		return
	}
	if w.hungSince == 0 {
		w.hungSince = now
	}
	patience := cureAfter
	if !w.alive {
		patience = stuckAfter
	}
	for len(w.cures) > 0 && now-w.cures[0] >= time.Hour {
		w.cures = w.cures[1:]
	}
	backoff := time.Duration(0)
	if n := len(w.cures); n > 0 {
		backoff = min(firstBackoff<<(n-1), lastBackoff)
	}
	switch hung := now - w.hungSince; {
	case hung < patience || backoff > 0 && now-w.cures[len(w.cures)-1] < backoff:
	case len(w.cures) >= curesPerHour:
		if !w.gaveUp {
			w.gaveUp = true
			d.say = append(d.say, fmt.Sprintf("HAProxy hangs, and killing it %d times within an hour has not helped: leaving it alone", len(w.cures)))
		}
	default:
		w.cures = append(w.cures, now)
		w.hungSince = 0
		d.kill = true
		d.say = append(d.say, fmt.Sprintf("HAProxy (process %d) has hung for %s (%s): killing it, so that systemd starts it again", w.worker.pid, ui.Duration(hung), why))
	}
}

func tellKeepalived(fault bool) error {
	value := "0\n"
	if fault {
		value = "1\n"
	}
	if err := os.MkdirAll(filepath.Dir(hostconfig.FaultFile), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(hostconfig.FaultFile, []byte(value), 0o644)
}
