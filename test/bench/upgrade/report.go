package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
)

// outcome is what clients experienced of one upgrade or rollback.
type outcome struct {
	Contender string         `json:"contender"`
	Way       string         `json:"way"`
	Seconds   float64        `json:"seconds"`
	Results   []probe.Result `json:"results"`
	// Elections is how many terms etcd went through.
	Elections     int `json:"elections"`
	ControlPlanes int `json:"controlPlanes"`
	// LateConnections reached API servers late in their shutdown. Shutdowns is how many announced ones there were.
	LateConnections int `json:"lateConnections"`
	Shutdowns       int `json:"shutdowns"`
	// LostWrites of the acknowledged Writes are missing.
	LostWrites int `json:"lostWrites"`
	Writes     int `json:"writes"`
	// Invalid says why this must not be compared with others.
	Invalid []string `json:"invalid,omitempty"`
}

// failedAPI counts failed API requests. A client that uses one API server and no other cannot reach it while it is replaced: of
// its failures, those count whose connection had been accepted.
func (o outcome) failedAPI() (n int) {
	for _, r := range o.Results {
		if r.Client.API() && r.Client.Operation != probe.Watch && r.Client.Operation != probe.Ready {
			n += r.Failed
			if strings.HasPrefix(r.Client.Path, ownServer) {
				n -= r.Phases[probe.Dial]
			}
		}
	}
	return n
}

// failedWorkload counts failed requests to the workload, lost connections to it, and failed lookups.
func (o outcome) failedWorkload() (n int) {
	for _, r := range o.Results {
		if !r.Client.API() {
			n += r.Failed
		}
	}
	return n
}

// brokenWatches counts watches that could not be resumed, or missed events.
func (o outcome) brokenWatches() (n int) {
	for _, r := range o.Results {
		if r.Client.Operation == probe.Watch {
			n += r.Failed
		}
	}
	return n
}

// disruption is the longest disruption of an API client, sampled once a second, apart from those that use one API server.
func (o outcome) disruption() (n int) {
	for _, r := range o.Results {
		if r.Client.API() && !strings.HasPrefix(r.Client.Path, ownServer) {
			n = max(n, r.Disruption)
		}
	}
	return n
}

// unnoticed reports whether users noticed nothing.
func (o outcome) unnoticed() bool {
	return len(o.Invalid) == 0 && o.failedAPI()+o.failedWorkload()+o.brokenWatches()+o.LateConnections+o.LostWrites == 0 && o.Elections <= o.ControlPlanes
}

// invalid says which clients did not run, or sent too little: a tick is skipped when this computer is too busy.
func invalid(results []probe.Result, expected []probe.Client, took, pace time.Duration) (out []string) {
	have := map[string]probe.Result{}
	for _, r := range results {
		have[r.Client.String()] = r
	}
	for _, c := range expected {
		r, ok := have[c.String()]
		switch wanted := int(took / pace); {
		case !ok:
			out = append(out, c.String()+" logged nothing")
		case c.Operation == probe.Watch || c.Operation == probe.Beat: // at their own pace
		case r.Requests*10 < wanted*8:
			out = append(out, fmt.Sprintf("%s sent %d requests instead of %d", c, r.Requests, wanted))
		}
	}
	return out
}

func (o outcome) print() {
	fmt.Printf("\n%s, %s: %.1f s; failed: %d API requests, %d workload requests; %d broken watches; %d late connections in %d announced shutdowns; %d of %d acknowledged writes lost; %d elections; %d s of disruption at 1 Hz\n",
		o.Contender, o.Way, o.Seconds, o.failedAPI(), o.failedWorkload(), o.brokenWatches(), o.LateConnections, o.Shutdowns, o.LostWrites, o.Writes, o.Elections, o.disruption())
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  client\trequests\tfailed\tdial\tTLS\theader\tbody\tstatus\tlongest gap\tdisruption\terrors")
	for _, r := range o.Results {
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.2f s\t%d s\t%s\n", r.Client, r.Requests, r.Failed, r.Phases[probe.Dial], r.Phases[probe.TLS],
			r.Phases[probe.Header], r.Phases[probe.Body], r.Phases[probe.Status], r.Longest.Seconds(), r.Disruption, counts(r.Errors))
	}
	w.Flush()
	for _, why := range o.Invalid {
		fmt.Printf("  not valid: %s\n", why)
	}
}

func counts(m map[string]int) string {
	var out []string
	for _, text := range slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(m[b]-m[a], strings.Compare(a, b)) }) {
		out = append(out, fmt.Sprintf("%d× %s", m[text], text))
	}
	return strings.Join(out[:min(len(out), 3)], ", ")
}

// lastLine is the summary of all contenders that ran. Its numbers for Quorate are the sums of the upgrade and its rollback, apart from the
// seconds, which are those of the upgrade.
func lastLine(all []outcome) map[string]any {
	out := map[string]any{}
	seconds := map[string]float64{}
	for _, o := range all {
		key := o.Contender + "/" + o.Way
		seconds[key] = o.Seconds
		switch key {
		case "quorate/upgrade":
			out["seconds"] = round(o.Seconds)
		case "quorate/rollback":
			out["rollbackSeconds"] = round(o.Seconds)
		case "documented/upgrade":
			out["documentedSeconds"], out["documentedFailedApiRequests"], out["documentedFailedWorkloadRequests"] = round(o.Seconds), o.failedAPI(), o.failedWorkload()
			out["documentedDisruptionSeconds1Hz"] = o.disruption()
		case "documented-sigterm/upgrade":
			out["sigtermSeconds"], out["sigtermFailedApiRequests"], out["sigtermFailedWorkloadRequests"] = round(o.Seconds), o.failedAPI(), o.failedWorkload()
			out["sigtermDisruptionSeconds1Hz"] = o.disruption()
		}
		if o.Contender == "quorate" {
			add(out, "failedApiRequests", o.failedAPI())
			add(out, "failedWorkloadRequests", o.failedWorkload())
			add(out, "disruptionSeconds1Hz", o.disruption())
			add(out, "brokenWatches", o.brokenWatches())
			add(out, "lateConnections", o.LateConnections)
			add(out, "lostWrites", o.LostWrites)
			noticed, _ := out["unnoticed"].(bool)
			out["unnoticed"] = o.unnoticed() && (noticed || out["unnoticed"] == nil)
			most, _ := out["elections"].(int)
			out["elections"] = max(most, o.Elections)
		}
		if len(o.Invalid) > 0 {
			before, _ := out["invalid"].([]string)
			out["invalid"] = append(before, key)
		}
	}
	if q, d := seconds["quorate/upgrade"], seconds["documented/upgrade"]; q > 0 && d > 0 {
		out["ratio"] = round(q / d)
	}
	return out
}

func add(to map[string]any, key string, n int) {
	have, _ := to[key].(int)
	to[key] = have + n
}

func round(f float64) float64 { return float64(int(f*100+0.5)) / 100 }
