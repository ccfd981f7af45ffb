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

	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/drill/probe"
)

// objective is how long no client may be without a success, and no request may take, if users are to notice nothing. An API server that
// stops may ask for a request to be repeated a second later, and kubectl says nothing of that: so much is one repetition and half a
// second for the request itself. Two are noticed. What is shorter is never a whole second of the disruption that is sampled at 1 Hz.
const objective = 1500 * time.Millisecond

// outcome is what clients experienced of one way to change a cluster.
type outcome struct {
	Contender string         `json:"contender"`
	Way       string         `json:"way"`
	Seconds   float64        `json:"seconds"`
	Results   []probe.Result `json:"results"`
	// Elections is how many terms etcd went through, and AllowedElections how many a change needs that stops one member after another.
	Elections        int `json:"elections"`
	AllowedElections int `json:"allowedElections"`
	// LateConnections reached API servers late in their shutdown. Shutdowns is how many announced ones there were.
	LateConnections int `json:"lateConnections"`
	Shutdowns       int `json:"shutdowns"`
	// Excused is, by client, what the shutdowns of the only API server that a client uses explain.
	Excused map[string]probe.Excuse `json:"excused,omitempty"`
	// LostWrites of the acknowledged Writes are missing.
	LostWrites int `json:"lostWrites"`
	Writes     int `json:"writes"`
	// Retried commands of the documented procedure had failed before.
	Retried int `json:"retried,omitempty"`
	// Invalid says why this must not be compared with others.
	Invalid []string `json:"invalid,omitempty"`
}

// isRequest reports whether a client's failures count as failed API requests.
func isRequest(c probe.Client) bool {
	return c.API() && c.Operation != probe.Watch && c.Operation != probe.Ready
}

// failedAPI counts failed API requests. A client that uses one API server and no other cannot connect to it while it is stopped.
func (o outcome) failedAPI() (n int) {
	for _, r := range o.Results {
		if isRequest(r.Client) {
			n += r.Failed - o.Excused[r.Client.String()].Requests
		}
	}
	return n
}

// repeated counts API requests that were repeated because an API server asked for it.
func (o outcome) repeated() (n int) {
	for _, r := range o.Results {
		n += r.Repeated
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
		if r.Client.API() && !strings.HasPrefix(r.Client.Path, clients.OwnServer) {
			n = max(n, r.Disruption)
		}
	}
	return n
}

// latency is how long the requests of some clients took.
func (o outcome) latency(of func(probe.Client) bool) probe.Outage {
	out := probe.Outage{Latencies: probe.Latencies{}}
	for _, r := range o.Results {
		if of(r.Client) {
			out.Latencies.Add(r.Latencies)
			out.Slowest = max(out.Slowest, o.slowest(r))
		}
	}
	return out
}

// slowest is a client's slowest request, apart from those to the only API server that it uses while that is known to be stopped.
func (o outcome) slowest(r probe.Result) time.Duration {
	if e, single := o.Excused[r.Client.String()]; single {
		return e.Slowest
	}
	return r.Slowest
}

func isWorkload(c probe.Client) bool { return !c.API() }

// noticed says what users noticed. If it is empty, they noticed nothing, as far as a valid outcome tells.
func (o outcome) noticed() (out []string) {
	for _, part := range []struct {
		n    int
		what string
	}{
		{o.failedAPI(), "failed API requests"}, {o.failedWorkload(), "failed workload requests"}, {o.brokenWatches(), "broken watches"},
		{o.LateConnections, "late connections"}, {o.LostWrites, "lost writes"},
	} {
		if part.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	if o.Elections > o.AllowedElections {
		out = append(out, fmt.Sprintf("%d elections, and no more than %d are needed", o.Elections, o.AllowedElections))
	}
	for _, r := range o.Results {
		if r.Client.Operation == probe.Ready {
			continue
		}
		if slowest := o.slowest(r); slowest > objective {
			out = append(out, fmt.Sprintf("%s: a request took %.2f s", r.Client, slowest.Seconds()))
		}
		// An object is counted up, and watched, at its own pace. A client's only API server is away while it is replaced.
		most := objective
		if r.Client.Operation == probe.Watch || r.Client.Operation == probe.Beat {
			most += probe.BeatPace
		}
		if r.Longest > most && !strings.HasPrefix(r.Client.Path, clients.OwnServer) {
			out = append(out, fmt.Sprintf("%s: no success for %.2f s from %s", r.Client, r.Longest.Seconds(), r.Since.UTC().Format(time.TimeOnly)))
		}
	}
	return out
}

// unnoticed reports whether users noticed nothing.
func (o outcome) unnoticed() bool { return len(o.Invalid) == 0 && len(o.noticed()) == 0 }

// after invalidates an outcome if clients noticed something in the time before it: the change is not the cause of that.
func (o *outcome) after(quiet outcome) {
	for _, why := range slices.Concat(quiet.Invalid, quiet.noticed()) {
		o.Invalid = append(o.Invalid, "before it began: "+why)
	}
}

func (o outcome) print() {
	fmt.Printf("\n%s, %s: %.1f s; failed: %d API requests, %d workload requests; %d API requests repeated; %d broken watches; %d late connections in %d announced shutdowns; %d of %d acknowledged writes lost; %d elections (%d allowed); %d s of disruption at 1 Hz\n",
		o.Contender, o.Way, o.Seconds, o.failedAPI(), o.failedWorkload(), o.repeated(), o.brokenWatches(), o.LateConnections, o.Shutdowns, o.LostWrites, o.Writes,
		o.Elections, o.AllowedElections, o.disruption())
	for _, part := range []struct {
		name string
		probe.Outage
	}{{"API", o.latency(isRequest)}, {"workload and DNS", o.latency(isWorkload)}} {
		fmt.Printf("  requests to the %s took: p50 %s, p99 %s, at most %s\n", part.name, quantile(part.Outage, 0.5), quantile(part.Outage, 0.99), quantile(part.Outage, 1))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  client\trequests\trepeated\tfailed\texcused\tdial\tTLS\theader\tbody\tstatus\tlongest gap\tp50\tp99\tslowest\tdisruption\terrors")
	for _, r := range o.Results {
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.2f s\t%s\t%s\t%s\t%d s\t%s\n", r.Client, r.Requests, r.Repeated, r.Failed, o.Excused[r.Client.String()].Requests,
			r.Phases[probe.Dial], r.Phases[probe.TLS], r.Phases[probe.Header], r.Phases[probe.Body], r.Phases[probe.Status], r.Longest.Seconds(),
			quantile(r.Outage, 0.5), quantile(r.Outage, 0.99), quantile(r.Outage, 1), r.Disruption, counts(r.Errors))
	}
	w.Flush()
	for _, what := range o.noticed() {
		fmt.Printf("  noticed: %s\n", what)
	}
	if o.Retried > 0 {
		fmt.Printf("  commands that failed and were repeated: %d\n", o.Retried)
	}
	for _, why := range o.Invalid {
		fmt.Printf("  not valid: %s\n", why)
	}
}

// quantile is never more than what the slowest request took.
func quantile(o probe.Outage, part float64) time.Duration {
	return min(o.Latencies.Quantile(part), o.Slowest).Round(time.Millisecond / 10)
}

func counts(m map[string]int) string {
	var out []string
	for _, text := range slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(m[b]-m[a], strings.Compare(a, b)) }) {
		out = append(out, fmt.Sprintf("%d× %s", m[text], text))
	}
	return strings.Join(out[:min(len(out), 3)], ", ")
}

// lastLine is the summary of all contenders that ran. Its numbers for Quorate are the sums of everything that it did, apart from the
// seconds, which are those of the upgrade, and from the times, of which the worst counts. What was not measured is null.
func lastLine(all []outcome) map[string]any {
	out := map[string]any{"failedApiRequests": nil, "failedWorkloadRequests": nil, "disruptionSeconds1Hz": nil, "seconds": nil,
		"documentedSeconds": nil, "documentedFailedApiRequests": nil, "ratio": nil}
	seconds := map[string]float64{}
	elections, allowed := map[string]int{}, map[string]int{}
	var slowAPI, slowWorkload, gap time.Duration
	unnoticed := true
	for _, o := range all {
		key := o.Contender + "/" + o.Way
		seconds[key] = o.Seconds
		switch key {
		case "quorate/upgrade":
			out["seconds"] = round(o.Seconds)
		case "documented/upgrade":
			out["documentedSeconds"], out["documentedFailedApiRequests"], out["documentedFailedWorkloadRequests"] = round(o.Seconds), o.failedAPI(), o.failedWorkload()
			out["documentedDisruptionSeconds1Hz"], out["documentedRetriedCommands"] = o.disruption(), o.Retried
		case withWorkaround + "/upgrade":
			out["sigtermSeconds"], out["sigtermFailedApiRequests"], out["sigtermFailedWorkloadRequests"] = round(o.Seconds), o.failedAPI(), o.failedWorkload()
			out["sigtermDisruptionSeconds1Hz"], out["sigtermRetriedCommands"] = o.disruption(), o.Retried
		default:
			out[o.Way+"Seconds"] = round(o.Seconds)
		}
		if o.Contender == "quorate" {
			add(out, "failedApiRequests", o.failedAPI())
			add(out, "failedWorkloadRequests", o.failedWorkload())
			add(out, "repeatedApiRequests", o.repeated())
			add(out, "disruptionSeconds1Hz", o.disruption())
			add(out, "brokenWatches", o.brokenWatches())
			add(out, "lateConnections", o.LateConnections)
			add(out, "lostWrites", o.LostWrites)
			elections[o.Way], allowed[o.Way] = o.Elections, o.AllowedElections
			out["elections"], out["allowedElections"] = elections, allowed
			for _, r := range o.Results {
				if r.Client.Operation != probe.Ready && !strings.HasPrefix(r.Client.Path, clients.OwnServer) {
					gap = max(gap, r.Longest)
				}
			}
			slowAPI, slowWorkload = max(slowAPI, o.latency(isRequest).Slowest), max(slowWorkload, o.latency(isWorkload).Slowest)
			out["longestGapSeconds"], out["slowestApiRequestSeconds"], out["slowestWorkloadRequestSeconds"] = round(gap.Seconds()), round(slowAPI.Seconds()), round(slowWorkload.Seconds())
			unnoticed = unnoticed && o.unnoticed()
			out["unnoticed"] = unnoticed
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
