// Package health is what flanneld reports about the pod network of its node. flanneld writes the report to a file, which
// the host side reads: nothing has to listen, and a report that is no longer renewed shows that flanneld does not work.
package health

import "time"

// File is where the report is on a node.
const File = "/run/flannel/health.json"

// Report is the content of the file, as JSON.
type Report struct {
	Version   string `json:"version"` // of flannel
	Network   string `json:"network"` // CIDR of all pods; of both families, with a comma, as the next ones
	Subnet    string `json:"subnet"`  // CIDR of this node's pods
	Backend   string `json:"backend"`
	Interface string `json:"interface,omitempty"` // of the overlay; only if the backend is vxlan

	Started time.Time `json:"started"` // when flanneld set up the network
	// LastSync is when flanneld last compared all that it owns on the node with what it should be.
	LastSync time.Time `json:"lastSync"`
	// ResyncSeconds is the longest time between two comparisons.
	ResyncSeconds int `json:"resyncSeconds"`
	// SyncError is why a comparison after LastSync could not be completed. What it did not compare is unknown.
	SyncError string `json:"syncError,omitempty"`

	// Problems are what was not as it should be, oldest first: those that remain, and the last ones that flanneld restored.
	Problems []Problem `json:"problems"`
}

// Kind is a kind of object that flanneld owns.
type Kind string

const (
	Rules     Kind = "rules"     // chains of nftables: masquerading, forwarding, network policies
	Interface Kind = "interface" // the overlay's interface, its MAC address, or its address
	Routes    Kind = "routes"    // routes to the pods of other nodes
	Neighbors Kind = "neighbors" // ARP, neighbor discovery, and forwarding entries of other nodes in the overlay
	Files     Kind = "files"     // files that the container runtime needs to start pods
)

// Problem is objects of one kind that were missing or wrong.
type Problem struct {
	Kind Kind `json:"kind"`
	// Objects says what was wrong with which objects. It has the first MaxObjects of Count.
	Objects []string `json:"objects"`
	Count   int      `json:"count"`

	FirstSeen time.Time `json:"firstSeen"`
	LastSeen  time.Time `json:"lastSeen"`
	// Times is how often the problem was found. A number that grows means that another program removes the objects.
	Times int `json:"times"`

	// Restored is when the objects were as they should be again. Nil means that the problem remains.
	Restored *time.Time `json:"restored,omitempty"`
	// Error is why flanneld could not restore the objects.
	Error string `json:"error,omitempty"`
}

// Limits of a report.
const (
	MaxObjects  = 10
	MaxProblems = 32
)

// Remaining are the problems that are not restored.
func (r Report) Remaining() (out []Problem) {
	for _, p := range r.Problems {
		if p.Restored == nil {
			out = append(out, p)
		}
	}
	return out
}

// Stale says that the report describes the past: flanneld has not completed a comparison for three times as long as it
// should take. The time is that of the node's clock.
func (r Report) Stale(now time.Time) bool {
	return now.Sub(r.LastSync) > 3*time.Duration(r.ResyncSeconds)*time.Second
}
