package spec

import (
	"strings"
	"time"
)

// ElectionTimeoutPath is the field of etcd's election timeout.
const ElectionTimeoutPath = "spec.failover.electionTimeout"

// What etcd's election timeout can be.
const (
	// MinElectionTimeout is about the shortest that etcd's own robustness tests use: 271 ms, with a heartbeat every 29 ms.
	MinElectionTimeout = 300 * time.Millisecond
	// MaxElectionTimeout is ten round trips of 500 ms, and etcd's tuning guide expects 350 to 400 ms between continents. etcd itself
	// accepts up to 50 s.
	MaxElectionTimeout = 5 * time.Second
	// HeartbeatsPerElection is the proportion of etcd's defaults, 1000 ms and 100 ms. etcd refuses fewer than 5.
	HeartbeatsPerElection = 10
	// electionStep is the least difference between two election timeouts: etcd counts heartbeats in milliseconds.
	electionStep = HeartbeatsPerElection * time.Millisecond
)

// EtcdElectionTimeout is the election timeout of etcd's members, and how often their leader gives a sign; 0 if the spec leaves both to etcd.
func (c *Cluster) EtcdElectionTimeout() (election, heartbeat time.Duration) {
	d, err := time.ParseDuration(c.Spec.Failover.ElectionTimeout)
	if err != nil {
		return 0, 0 // it is empty, or refused
	}
	return d, d / HeartbeatsPerElection
}

// electionTimeout checks what etcd's timers follow from.
func (k *checker) electionTimeout() {
	value := k.c.Spec.Failover.ElectionTimeout
	if value == "" {
		return
	}
	if k.c.ExistingEtcd() {
		k.refuse(ElectionTimeoutPath, "remove it, and set `--election-timeout` and `--heartbeat-interval` where your etcd is configured", "the etcd is yours, and Quorate does not configure it")
		return
	}
	const example = "write it like `300ms`, `500ms`, or `1s`"
	switch d, err := time.ParseDuration(value); {
	case err != nil:
		fix := example
		if strings.Trim(value, "0123456789") == "" {
			fix = "write `" + value + "ms`, if these are milliseconds"
		}
		k.refuse(ElectionTimeoutPath, fix, "`%s` is not a duration", value)
	case d < MinElectionTimeout:
		k.refuse(ElectionTimeoutPath, "use at least `300ms`", "with `%s`, members would replace a leader that was only waiting for a CPU or for its disk", value)
	case d > MaxElectionTimeout:
		k.refuse(ElectionTimeoutPath, "use at most `5s`, which is enough for members on different continents", "with `%s`, nothing could be written for that long, and up to twice that long, when the leader fails", value)
	case d%electionStep != 0:
		k.refuse(ElectionTimeoutPath, "use a multiple of 10ms", "`%s` is not a whole number of heartbeats: there are %d in it, each of whole milliseconds", value, HeartbeatsPerElection)
	}
}
