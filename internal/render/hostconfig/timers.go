package hostconfig

import (
	"strconv"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// The timers of an etcd member, as arguments of its static pod, and as variables of the unit of an external etcd. Both are in
// milliseconds.
const (
	EtcdHeartbeatArgument = "heartbeat-interval"
	EtcdElectionArgument  = "election-timeout"
	EtcdHeartbeatVariable = "ETCD_HEARTBEAT_INTERVAL"
	EtcdElectionVariable  = "ETCD_ELECTION_TIMEOUT"
)

// EtcdTimers are those that the spec gives etcd's members; none if it leaves them to etcd.
func EtcdTimers(c *spec.Cluster) facts.EtcdTimers {
	election, heartbeat := c.EtcdElectionTimeout()
	return facts.EtcdTimers{Heartbeat: int(heartbeat.Milliseconds()), Election: int(election.Milliseconds())}
}

// EtcdArguments are timers as arguments. One that is not set has no value.
func EtcdArguments(t facts.EtcdTimers) map[string]string {
	value := func(milliseconds int) string {
		if milliseconds == 0 {
			return ""
		}
		return strconv.Itoa(milliseconds)
	}
	return map[string]string{EtcdHeartbeatArgument: value(t.Heartbeat), EtcdElectionArgument: value(t.Election)}
}

// ReadEtcdTimers are the timers among arguments, or among variables. What is no number counts as not set: etcd does not start with it.
func ReadEtcdTimers(values map[string]string) facts.EtcdTimers {
	number := func(names ...string) int {
		for _, name := range names {
			if n, err := strconv.Atoi(values[name]); err == nil {
				return n
			}
		}
		return 0
	}
	return facts.EtcdTimers{Heartbeat: number(EtcdHeartbeatArgument, EtcdHeartbeatVariable), Election: number(EtcdElectionArgument, EtcdElectionVariable)}
}
