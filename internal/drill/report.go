package drill

import (
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/quorum"
)

// Report is everything that a drill did and measured. Its JSON form is stable: fields are only ever added.
type Report struct {
	Cluster string `json:"cluster"`
	// Quorate is the version of this program, and Kubernetes that of the cluster.
	Quorate    string    `json:"quorate"`
	Kubernetes string    `json:"kubernetes"`
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`
	// Seed decides the order of the faults. The same seed, cluster, and flags give the same order.
	Seed uint64 `json:"seed"`
	// Environment is what the figures depend on.
	Environment Environment `json:"environment"`
	// Topology are the hosts of the cluster.
	Topology []HostInfo `json:"topology"`
	// Objectives are what was promised. Of each limit, the last one counts that is set among the objectives that match: see ObjectiveFor.
	Objectives []Objective `json:"objectives"`
	// Quiet is what clients experienced before the first fault.
	Quiet *Quiet `json:"quiet,omitempty"`
	// Faults are in the order in which they were injected.
	Faults []Outcome `json:"faults"`
	// Skipped are faults that were asked for and not injected.
	Skipped []Skipped `json:"skipped,omitempty"`
	// Summaries are over the repeats of each fault.
	Summaries []Summary `json:"summaries,omitempty"`
	// Ledger is what became of all acknowledged writes.
	Ledger Ledger `json:"ledger"`
	// Timeline is what clients experienced in each second.
	Timeline []Sample `json:"timeline,omitempty"`
	// Pass says that every fault kept its objective, that nothing was lost, and that every measurement is valid.
	Pass bool `json:"pass"`
	// Advice is what would shorten outages that were longer than promised, as far as that is known.
	Advice []string `json:"advice,omitempty"`
	// Interrupted says why the drill ended early.
	Interrupted string `json:"interrupted,omitempty"`
}

// Environment is where a drill ran.
type Environment struct {
	// Lab says that the hosts are machines of a lab on one computer, which share its processors.
	Lab        bool   `json:"lab"`
	Processors int    `json:"processors"`
	Kernel     string `json:"kernel"`
	Profile    string `json:"failoverProfile"`
	Topology   string `json:"etcdTopology"`
	// PaceMs is the time between two requests of a client.
	PaceMs int64 `json:"paceMs"`
}

// HostInfo is one host in the picture of the topology.
type HostInfo struct {
	Name  string   `json:"name"`
	Zone  string   `json:"zone,omitempty"`
	Roles []string `json:"roles"`
}

// Quiet is an interval without a fault.
type Quiet struct {
	Seconds float64                 `json:"seconds"`
	Clients map[string]ClientResult `json:"clients"`
}

// Outcome is one injected fault and what it did.
type Outcome struct {
	// Name is that of the fault, and Target the host, "zone/NAME", or "A:B" for a link.
	Name   string `json:"name"`
	Target string `json:"target"`
	// Roles are what the target was for the cluster when the fault was injected: "etcd leader", "virtual IP".
	Roles    []string  `json:"roles,omitempty"`
	Injected time.Time `json:"injected"`
	// Healed is when the fault ended, or was over: for one that happens once, the same as Injected.
	Healed time.Time `json:"healed"`
	// Clients are the results by kind of client, from the injection until the margins were back.
	Clients map[string]ClientResult `json:"clients"`
	// WriteOutageMs is the longest time without an acknowledged write through the endpoint.
	WriteOutageMs int64 `json:"writeOutageMs"`
	// DetectMs is the time until an observation found something wrong; nil if none did while the fault lasted.
	DetectMs *int64 `json:"detectMs"`
	// MarginsBackMs is the time from the healing until the margins were what they had been; nil if they never were.
	MarginsBackMs *int64 `json:"marginsBackMs"`
	// LeaderChanges is how many terms etcd went through; -1 if it is not known.
	LeaderChanges int `json:"leaderChanges"`
	// PodsMoved are replicas that were created elsewhere meanwhile, and PodsMovedMs the time until the last of them was ready.
	PodsMoved   int    `json:"podsMoved"`
	PodsMovedMs *int64 `json:"podsMovedMs,omitempty"`
	LostWrites  int    `json:"lostWrites"`
	// Margins are those before the fault.
	Margins quorum.Margins `json:"margins"`
	Pass    bool           `json:"pass"`
	// Missed says which objectives were missed, and by how much.
	Missed []string `json:"missed,omitempty"`
	// Invalid says why nothing can be said about this fault: such an outcome never passes.
	Invalid []string `json:"invalid,omitempty"`
}

// ClientResult is what one kind of client experienced: the worst of its clients for times, the sum for counts.
type ClientResult struct {
	// GapMs is the longest time between two successes, and Failed the number of failed requests of Requests.
	GapMs    int64 `json:"gapMs"`
	Requests int   `json:"requests"`
	Failed   int   `json:"failed"`
	// DisruptionSeconds are the seconds in which the request failed that is sampled once a second, with a timeout of 10 s.
	DisruptionSeconds int `json:"disruptionSeconds"`
	// Phases are the failures by the part of the request: dial, tls, header, body, status. Errors are the same by description.
	Phases map[probe.Phase]int `json:"phases,omitempty"`
	Errors map[string]int      `json:"errors,omitempty"`
	// Latencies of successful requests, before, during, and after the fault.
	Before Latency `json:"before"`
	During Latency `json:"during"`
	After  Latency `json:"after"`
}

// Latency is how long requests took, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50Ms"`
	P99 float64 `json:"p99Ms"`
	Max float64 `json:"maxMs"`
}

// Skipped is a fault that was not injected, and why.
type Skipped struct {
	Name   string `json:"name"`
	Target string `json:"target,omitempty"`
	Why    string `json:"why"`
}

// Summary is over the repeats of one fault, for the kind of client that it hit worst.
type Summary struct {
	Name    string `json:"name"`
	Repeats int    `json:"repeats"`
	Valid   int    `json:"valid"`
	Passed  int    `json:"passed"`
	// By client, in milliseconds, over the valid repeats.
	Gaps map[string]Spread `json:"gapsMs"`
}

// Spread is how a figure is distributed.
type Spread struct {
	P50 int64 `json:"p50"`
	P95 int64 `json:"p95"`
	Max int64 `json:"max"`
}

// Ledger is what became of the writes of a whole drill.
type Ledger struct {
	Acknowledged int `json:"acknowledged"`
	Lost         int `json:"lost"`
	// Unknown are writes that failed or timed out: they may have happened.
	Unknown int `json:"unknown"`
	// Linearizable is "yes", "no", or "unknown: why".
	Linearizable string `json:"linearizable"`
	// Operations is how many reads and writes the check covered, over Keys keys.
	Operations int `json:"operations"`
	Keys       int `json:"keys"`
	// Watches says that watches saw every event once, in order; a fault of theirs is counted in WatchGaps.
	WatchGaps int `json:"watchGaps"`
	// History is a self-contained page with an illegal history, if there is one.
	History string `json:"history,omitempty"`
}

// Sample is what the clients of one kind experienced in one second.
type Sample struct {
	Second  int64   `json:"second"` // since 1970
	Client  string  `json:"client"`
	OK      int     `json:"ok"`
	Failed  int     `json:"failed"`
	Slowest float64 `json:"slowestMs"`
}

// Objective is a promise for the faults whose name matches a pattern (see Match).
type Objective struct {
	// Faults are patterns for names: "kill/*", "power-off/zone/*", "*".
	Faults string `json:"faults"`
	// Clients are patterns for kinds of clients: "endpoint/*/new", "dns". Empty means all.
	Clients string `json:"clients,omitempty"`
	// MaxGapMs, MaxFailed, and MaxDisruptionSeconds are limits; nil is none.
	MaxGapMs             *int64 `json:"maxGapMs,omitempty"`
	MaxFailed            *int   `json:"maxFailed,omitempty"`
	MaxDisruptionSeconds *int   `json:"maxDisruptionSeconds,omitempty"`
	// MaxMarginsBackMs is how long the margins may take after the healing.
	MaxMarginsBackMs *int64 `json:"maxMarginsBackMs,omitempty"`
}
