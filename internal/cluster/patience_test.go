package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

const ms = time.Millisecond

func TestElectionTimeoutFor(t *testing.T) {
	for _, tc := range []struct{ trip, fsync, want time.Duration }{
		{0, 0, 300 * ms}, {30 * ms, 10 * ms, 300 * ms}, {30*ms + 1, 0, 310 * ms}, {0, 10*ms + 1, 310 * ms}, {ms, 14 * ms, 420 * ms}, {50 * ms, 14 * ms, 500 * ms}, {500 * ms, 0, 5 * time.Second}, {0, time.Second, 30 * time.Second},
	} {
		if got := ElectionTimeoutFor(tc.trip, tc.fsync); got != tc.want {
			t.Errorf("round trips of %s and fsyncs of %s: %s instead of %s", tc.trip, tc.fsync, got, tc.want)
		}
	}
}

// TestWhatIsNeededIsAccepted: what a finding asks for can be written into a spec, and ends the finding.
func TestWhatIsNeededIsAccepted(t *testing.T) {
	for d := time.Duration(0); d < 600*ms; d += 777 * time.Microsecond {
		for _, p := range []Patience{FsyncPatience("a", d, "x"), RoundTripPatience("a", "b", d, "x")} {
			both := []Patience{FsyncPatience("c", 0, "x"), p}
			if lack := Impatient(both, p.Needs); len(lack) > 0 {
				t.Errorf("%s is not enough: %v", p.Needs, lack)
			}
			for _, l := range Impatient(both, 10*ms) { // each fix is enough for all of them
				if !strings.Contains(l.Fix, "faster") || strings.Contains(l.Fix, "`"+p.Needs.String()+"`") != (p.Needs <= spec.MaxElectionTimeout) {
					t.Errorf("%s is needed: %s", p.Needs, l.Fix)
				}
			}
			c := spec.DefaultLab("lab")
			if c.Spec.Failover.ElectionTimeout = p.Needs.String(); p.Needs <= spec.MaxElectionTimeout && len(spec.Validate(c, spec.Options{Lab: true})) > 0 {
				t.Errorf("a spec cannot say %s", p.Needs)
			}
		}
	}
}

func TestFsyncP99(t *testing.T) {
	within := []facts.Within{{Seconds: 0.001, Count: 500}, {Seconds: 0.002, Count: 980}, {Seconds: 0.004, Count: 1000}}
	for name, tc := range map[string]struct {
		disk *facts.Durations
		want time.Duration
	}{
		"nothing":           {nil, 0},
		"too few":           {&facts.Durations{Count: 999, Within: within}, 0},
		"between":           {&facts.Durations{Count: 1000, Within: within}, 3 * ms},
		"in the first":      {&facts.Durations{Count: 1000, Within: []facts.Within{{Seconds: 0.001, Count: 1000}, {Seconds: 0.002, Count: 1000}}}, 990 * time.Microsecond},
		"beyond all limits": {&facts.Durations{Count: 2000, Within: within}, 4 * ms},
	} {
		if got := FsyncP99(tc.disk); (got - tc.want).Abs() > time.Microsecond {
			t.Errorf("%s: %s instead of %s", name, got, tc.want)
		}
	}
}

// TestSlowMembersAreFound where the spec has an election timeout, each with what it supports.
func TestSlowMembersAreFound(t *testing.T) {
	f := whole()
	for i := range f.Seen.Etcd {
		f.Seen.Etcd[i].ID = string(rune('a' + i))
	}
	members := f.Spec.EtcdHosts()
	slow := f.Seen.Hosts[members[1].Name]
	slow.EtcdDisk = &facts.Durations{Count: 1000, Within: []facts.Within{{Seconds: 0.01, Count: 0}, {Seconds: 0.02, Count: 1000}}}
	trips := func(seconds float64, n uint64) facts.Durations {
		return facts.Durations{Count: n, Within: []facts.Within{{Seconds: seconds, Count: n}}}
	}
	// A hang made two of them long.
	afterHang := facts.Durations{Count: 12, Within: []facts.Within{{Seconds: 0.08, Count: 0}, {Seconds: 0.1, Count: 10}, {Seconds: 8, Count: 12}}}
	slow.EtcdRoundTrips = map[string]facts.Durations{"a": afterHang, "b": trips(9, 100), "c": trips(9, 9), "stranger": trips(9, 100)}
	f.Seen.Hosts[members[1].Name] = slow
	for timeout, want := range map[string][]string{
		"":      nil,
		"920ms": nil,
		"910ms": {"a round trip from " + members[1].Name + " to " + f.Seen.Etcd[0].Name + " takes 92 ms", "`920ms` or more"},
		"300ms": {"99 of 100 fsyncs of etcd's disk on " + members[1].Name + " take up to 19.9 ms", "`920ms` or more", "a round trip from " + members[1].Name + " to " + f.Seen.Etcd[0].Name + " takes 92 ms"},
	} {
		f.Spec.Spec.Failover.ElectionTimeout = timeout
		text := ""
		for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
			if x.Rule == RuleEtcdPatience {
				text += x.Summary + " " + x.Fix + "\n"
			}
		}
		if (text == "") != (want == nil) {
			t.Errorf("%q: %s", timeout, text)
		}
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%q: no %q in %s", timeout, part, text)
			}
		}
	}
	// A single member elects nobody.
	alone := whole()
	alone.Spec.Spec.Hosts = slices.DeleteFunc(alone.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == members[0].Name || h.Name == members[2].Name })
	alone.Spec.Spec.Failover.ElectionTimeout = "300ms"
	alone.Seen.Hosts[members[1].Name] = slow
	for _, x := range Evaluate(alone.Spec, alone.Seen).Findings() {
		if x.Rule == RuleEtcdPatience {
			t.Errorf("a single member: %s", x.Summary)
		}
	}
	// A shorter one that members do not run with yet is for `quorate plan` to refuse.
	f.Spec.Spec.Failover.ElectionTimeout = "300ms"
	for i, m := range members {
		if k := f.Kubernetes(m.Name); i > 0 {
			k.EtcdTimers = &facts.EtcdTimers{Heartbeat: 100, Election: 1000}
		} else {
			k.EtcdTimers, k.EtcdRuns = &facts.EtcdTimers{Heartbeat: 30, Election: 300}, &facts.EtcdTimers{}
		}
	}
	for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
		if x.Rule == RuleEtcdPatience {
			t.Errorf("members run with etcd's default: %s", x.Summary)
		}
	}
}
