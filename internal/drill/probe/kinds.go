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
	// times that it could not resume, missed an event, or received none within the timeout although there was one.
	Watch Operation = "watch"
	// Get gets the address over HTTP: a workload, not the API.
	Get Operation = "get"
	// Echo sends messages that are to come back, over one TCP connection that stays open. A lost connection is a failure even if no message
	// is under way.
	Echo Operation = "echo"
	// Lookup looks up the address, a name, in DNS. The timeout is that of a single query.
	Lookup Operation = "lookup"
)

// onAPI reports whether the operation is a request to the API.
func (o Operation) onAPI() bool {
	switch o {
	case Read, CachedRead, Ready, Write, Beat, Watch:
		return true
	}
	return false
}

// Client is one client: which way it goes, how it uses its connections, and what it does.
type Client struct {
	// Path names the way for people, such as "endpoint" or "service from a pod on cp-a".
	Path       string     `json:"path"`
	Connection Connection `json:"connection,omitempty"`
	Operation  Operation  `json:"operation"`
	// Address is where it goes: a URL; host:port for Echo; a name for Lookup. If it is empty, it is the address of the API in the
	// configuration.
	Address string `json:"address,omitempty"`
	// Pace is the time between two requests, if it is not that of the options.
	Pace time.Duration `json:"paceNanoseconds,omitempty"`
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
