package balancer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/hostside/system"
)

// haproxyPIDFile contains the process ID of HAProxy's master (see hostconfig's unit). Its newest child serves clients.
const haproxyPIDFile = "/run/haproxy.pid"

// sample is what the kernel says about one process at one moment.
type sample struct {
	at       time.Duration // on the monotonic clock
	pid      int
	start    uint64        // in clock ticks since the machine started; tells processes with the same ID apart
	stopped  bool          // by a signal or a debugger
	runnable bool          // a thread runs or waits for a CPU
	blocked  bool          // a thread waits for a disk
	cpu      time.Duration // that all threads used
	waited   time.Duration // that all threads waited for a CPU
}

// condition is why a process does not answer.
type condition string

const (
	gone     condition = "it does not run"
	starting condition = "it is starting"
	stopped  condition = "it is stopped by a signal"
	asleep   condition = "it sleeps although a request waits"
	spinning condition = "it uses the CPU without answering"
	starved  condition = "it gets too little CPU time, or waits for a disk"
)

// hung reports whether the process does not answer although it could.
func (c condition) hung() bool { return c == stopped || c == asleep || c == spinning }

// diagnose compares two samples of a process that did not answer in between. A nil sample is a process that was not found.
func diagnose(before, now *sample) condition {
	switch {
	case now == nil:
		return gone
	case now.stopped:
		return stopped
	case before == nil || before.pid != now.pid || before.start != now.start:
		return starting
	}
	window := now.at - before.at
	used, waited := now.cpu-before.cpu, now.waited-before.waited
	switch {
	case waited > window/4, now.blocked, now.runnable && used < window/2:
		return starved
	case used >= window/2:
		return spinning
	case used <= window/100:
		return asleep
	}
	return starved // it works, but slowly
}

// sampleHAProxy takes a sample of HAProxy's worker process; nil if there is none.
func sampleHAProxy() *sample {
	master, err := strconv.Atoi(system.ReadTrimmed(haproxyPIDFile))
	if err != nil {
		return nil
	}
	var newest *sample
	for _, pid := range strings.Fields(system.ReadTrimmed(fmt.Sprintf("/proc/%d/task/%[1]d/children", master))) {
		if f, ok := readStat("/proc/" + pid + "/stat"); ok && (newest == nil || f.start > newest.start) {
			newest = &sample{pid: f.pid, start: f.start}
		}
	}
	if newest == nil {
		return nil
	}
	newest.at = monotonic()
	if !newest.readThreads() {
		return nil
	}
	return newest
}

func (s *sample) readThreads() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", s.pid))
	for _, dir := range threads {
		f, ok := readStat(dir + "/stat")
		if !ok {
			continue
		}
		switch f.state {
		case 'T', 't':
			s.stopped = true
		case 'R':
			s.runnable = true
		case 'D':
			s.blocked = true
		}
		var cpu, waited int64
		if _, err := fmt.Sscan(string(system.ReadAll(dir+"/schedstat")), &cpu, &waited); err != nil {
			cpu = int64(f.ticks) * int64(time.Second) / clockTicks
		}
		s.cpu += time.Duration(cpu)
		s.waited += time.Duration(waited)
	}
	return len(threads) > 0
}

// clockTicks is the unit of the times in /proc/*/stat, the same on every architecture that Linux programs know.
const clockTicks = 100

type stat struct {
	pid          int
	state        byte
	ticks, start uint64
}

// readStat reads the fields of /proc/*/stat; the name of the program, in parentheses, may contain anything.
func readStat(path string) (stat, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return stat{}, false
	}
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return stat{}, false
	}
	f := strings.Fields(string(data[end+1:]))
	const state, user, system, start = 0, 11, 12, 19 // counted from the field after the name
	if len(f) <= start || len(f[state]) != 1 {
		return stat{}, false
	}
	out := stat{state: f[state][0]}
	out.pid, _ = strconv.Atoi(strings.TrimSpace(string(data[:open])))
	u, _ := strconv.ParseUint(f[user], 10, 64)
	k, _ := strconv.ParseUint(f[system], 10, 64)
	out.ticks = u + k
	out.start, _ = strconv.ParseUint(f[start], 10, 64)
	return out, true
}
