package probe

import (
	"fmt"
	"time"
)

// Operation is what a client does at every tick.
type Operation string

const (
	// Read reads an object of the API, which goes through etcd's quorum.
	Read Operation = "read"
	// CachedRead reads an object of the API from the API server's watch cache. If it succeeds where Read fails, then etcd is to
	// blame and not the API server.
	CachedRead Operation = "cached-read"
	// Ready asks an API server whether it is ready. It is how others learn when one is told to stop.
	Ready Operation = "ready"
	// Write adds an entry to a ledger. Set.Lost and Ledgers.Lost find out whether every acknowledged entry is still there.
	Write Operation = "write"
	// Beat counts up in the object that Watch watches. Its pace is slower: twice a second.
	Beat Operation = "beat"
	// Watch holds a watch and resumes it when it ends. Its requests are the events that it receives; its failures are the
	// times that it received none within the timeout although there was one, and the broken guarantees of watches, which WatchGaps counts.
	Watch Operation = "watch"
	// Register reads and writes the value of an object in turn, one request at a time, at its own pace: five times a second. Several clients
	// use the same object. Set.History returns what they did, for a check of its consistency.
	Register Operation = "register"
	// Get gets the address over HTTP: a workload, not the API.
	Get Operation = "get"
	// Echo sends messages that are to come back, over one TCP connection that stays open. A lost connection is a failure even if no message
	// is under way.
	Echo Operation = "echo"
	// Lookup looks up the address, a name, in DNS. The timeout is that of a single query.
	Lookup Operation = "lookup"
	// List lists a few hundred small objects page by page, as kubectl does.
	List Operation = "list"
)

// onAPI reports whether the operation is a request to the API.
func (o Operation) onAPI() bool {
	switch o {
	case Read, CachedRead, Ready, Write, Beat, Watch, Register, List:
		return true
	}
	return false
}

// pace is the time between two requests of a client that has no pace of its own. usual is that of the options.
func (o Operation) pace(usual time.Duration) time.Duration {
	switch o {
	case Beat:
		return BeatPace
	case Register:
		return RegisterPace
	}
	return usual
}

// waits reports whether the operation waits for something other than its pace, such as the answer to the former request: fewer requests than the
// pace allows do not mean that the client was starved.
func (o Operation) waits() bool { return o == Watch || o == Beat || o == Register }

// Client is one client: which way it goes, how it uses its connections, and what it does.
type Client struct {
	// Path names the way for people, such as "endpoint" or "service from a pod on cp-a". Way is the same without the names of hosts and numbers
	// of connections, so that all clients of one kind have it in common; if it is empty, it is Path.
	Path       string     `json:"path"`
	Way        string     `json:"way,omitempty"`
	Connection Connection `json:"connection,omitempty"`
	Operation  Operation  `json:"operation"`
	// Address is where it goes: a URL; host:port for Echo; a name for Lookup. If it is empty, it is the address of the API in the
	// configuration.
	Address string `json:"address,omitempty"`
	// Pace is the time between two requests, if it is not that of the operation or of the options.
	Pace time.Duration `json:"paceNanoseconds,omitempty"`
	// Host is the node in whose pod the client runs, or the only host that it uses, and Peer the node whose pod it uses. While one of them is
	// away, the client must fail. They are empty for clients that leave the choice to the cluster.
	Host string `json:"host,omitempty"`
	Peer string `json:"peer,omitempty"`
	// Key is the object that a Register client uses. Those with the same key use the same one.
	Key int `json:"key,omitempty"`
}

// String names the client in reports.
func (c Client) String() string {
	if c.Connection == "" {
		return fmt.Sprintf("%s: %s", c.Path, c.Operation)
	}
	return fmt.Sprintf("%s: %s, %s", c.Path, c.Operation, c.Connection)
}

// API reports whether the client uses the API, rather than a workload or DNS.
func (c Client) API() bool { return c.Operation.onAPI() }

// Result is what one client experienced in an interval.
type Result struct {
	Client Client `json:"client"`
	Outage
}
