// Package spof finds the single points of failure of a cluster, and on request the pairs of failures that it does not survive.
//
// For each capability (reading the API, scheduling, cluster DNS, a workload, and so on) it makes a fault tree and computes the
// minimal cut sets (package faulttree). The tree is the same for a spec of which nothing exists yet and for a cluster that was
// observed: it is made of placements (package quorum), which say which parts run on which hosts and whether they work. An
// observation refines it: parts that do not work have failed already, load balancers have the servers that they really have, and
// pods are where they really are.
//
// What could not be queried counts neither as up nor as down. Everything is evaluated twice, once for each, and what is only true
// in the worse case is reported as possible.
//
// It is pure: package observe reads, and package cluster evaluates.
package spof

import (
	"cmp"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/quorum"
)

// Kind is a kind of element.
type Kind string

// What can fail. The programs of a control plane and the load balancers have the names of package quorum.
const (
	Machine      Kind = "machine" // one kernel below several hosts
	Region       Kind = "region"
	Zone         Kind = "zone"
	Shared       Kind = "shared" // a name of failsWith
	Host         Kind = "host"   // with its kubelet, container runtime, and kube-proxy
	Network      Kind = "network"
	VirtualIP    Kind = "virtual IP"
	DNSName      Kind = "DNS name"
	YourBalancer Kind = "your load balancer"
	CoreDNS      Kind = "CoreDNS replica"
	PodNetwork   Kind = "pod network"
	Registry     Kind = "registry"
	Certificates Kind = "certificates"
	Command      Kind = "command" // of an administrator
	BackupStore  Kind = "backup store"
	Disk         Kind = "disk"
	Pod          Kind = "pod"
	Budget       Kind = "disruption budget"
	Endpoint     Kind = "webhook endpoint"
	// WebhookServer is one outside of the cluster.
	WebhookServer Kind = "webhook server"
)

// Element is one thing that can fail. Its JSON keys are stable.
type Element struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

// String is the element in a sentence, without an article where it has a name of its own.
func (e Element) String() string {
	switch e.Kind {
	case Kind(quorum.Members.Name), Kind(quorum.APIServers.Name), Kind(quorum.ControllerManagers.Name), Kind(quorum.Schedulers.Name), Kind(quorum.Balancers.Name):
		return "the " + string(e.Kind) + " on " + e.Name
	case Shared:
		return e.Name
	case Machine:
		return "the machine below " + e.Name
	case Disk:
		return "the disk of " + e.Name
	case Command:
		return "a single command of an administrator"
	case Certificates:
		return "the certificates that expire on " + e.Name
	case VirtualIP, DNSName, PodNetwork:
		return strings.TrimSpace("the " + string(e.Kind) + " " + e.Name)
	case Network:
		return "the network between the hosts"
	case YourBalancer:
		return strings.TrimSpace("your load balancer " + e.Name)
	case BackupStore:
		return "the backup store " + e.Name
	}
	return string(e.Kind) + " " + e.Name
}

func compare(a, b Element) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

func key(set []Element) string {
	var b strings.Builder
	for _, e := range set {
		b.WriteString(string(e.Kind) + "\x00" + e.Name + "\x01")
	}
	return b.String()
}

func sorted(set []Element) []Element {
	out := slices.Clone(set)
	slices.SortFunc(out, compare)
	return out
}

func words(set []Element) (out []string) {
	for _, e := range set {
		out = append(out, e.String())
	}
	return out
}
