package cluster

import (
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
			if summary, _ := p.Lacks(p.Needs); summary != "" {
				t.Errorf("%s is not enough: %s", p.Needs, summary)
			}
			if _, fix := p.Lacks(p.Needs - 10*ms); !strings.Contains(fix, "faster") || strings.Contains(fix, "`"+p.Needs.String()+"`") != (p.Needs <= spec.MaxElectionTimeout) {
				t.Errorf("%s is needed: %s", p.Needs, fix)
			}
			c := spec.DefaultLab("lab")
			if c.Spec.Failover.ElectionTimeout = p.Needs.String(); p.Needs <= spec.MaxElectionTimeout && len(spec.Validate(c, spec.Options{Lab: true})) > 0 {
				t.Errorf("a spec cannot say %s", p.Needs)
			}
		}
	}
}

func TestFsyncP99(t *testing.T) {
	within := []facts.EtcdDiskWithin{{Seconds: 0.001, Writes: 500}, {Seconds: 0.002, Writes: 980}, {Seconds: 0.004, Writes: 1000}}
	for name, tc := range map[string]struct {
		disk *facts.EtcdDisk
		want time.Duration
	}{
		"nothing":           {nil, 0},
		"too few":           {&facts.EtcdDisk{Writes: 999, Within: within}, 0},
		"between":           {&facts.EtcdDisk{Writes: 1000, Within: within}, 3 * ms},
		"in the first":      {&facts.EtcdDisk{Writes: 1000, Within: []facts.EtcdDiskWithin{{Seconds: 0.001, Writes: 1000}, {Seconds: 0.002, Writes: 1000}}}, 990 * time.Microsecond},
		"beyond all limits": {&facts.EtcdDisk{Writes: 2000, Within: within}, 4 * ms},
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
	slow.EtcdDisk = &facts.EtcdDisk{Writes: 1000, Within: []facts.EtcdDiskWithin{{Seconds: 0.01, Writes: 0}, {Seconds: 0.02, Writes: 1000}}}
	slow.EtcdRoundTrips = map[string]float64{"a": 0.045, "b": 9, "stranger": 9}
	f.Seen.Hosts[members[1].Name] = slow
	for timeout, want := range map[string][]string{
		"":      nil,
		"600ms": nil,
		"500ms": {"99 of 100 fsyncs of etcd's disk on " + members[1].Name + " take up to 19.9 ms", "`600ms` or more"},
		"300ms": {"19.9 ms", "`600ms`", "a round trip from " + members[1].Name + " to " + f.Seen.Etcd[0].Name + " takes 45 ms", "`450ms`"},
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
}
