package facts

import "fmt"

// EtcdTimers are those of an etcd member, in milliseconds. 0 stands for one that is not set, so that etcd's default holds.
type EtcdTimers struct {
	// Heartbeat is how often the member tells the others that it leads, if it does.
	Heartbeat int `json:"heartbeatMilliseconds,omitempty"`
	// Election is how long it waits for that sign of another leader. etcd draws each wait from this to twice as long.
	Election int `json:"electionMilliseconds,omitempty"`
}

// EtcdDefaultTimers are etcd's own (embed.DefaultTickMs and its ElectionMs).
var EtcdDefaultTimers = EtcdTimers{Heartbeat: 100, Election: 1000}

// Effective are the timers with etcd's defaults for what is not set.
func (t EtcdTimers) Effective() EtcdTimers {
	if t.Heartbeat == 0 {
		t.Heartbeat = EtcdDefaultTimers.Heartbeat
	}
	if t.Election == 0 {
		t.Election = EtcdDefaultTimers.Election
	}
	return t
}

// Same says that a member does the same with either.
func (t EtcdTimers) Same(o EtcdTimers) bool { return t.Effective() == o.Effective() }

func (t EtcdTimers) String() string {
	t = t.Effective()
	return fmt.Sprintf("an election timeout of %d ms and a heartbeat every %d ms", t.Election, t.Heartbeat)
}
