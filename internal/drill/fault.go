// Package drill decides what a drill does and what its measurements mean: which faults a cluster can be given, where, in which order,
// what was promised for each, and whether the promise was kept. It is pure: run injects, and probe measures.
package drill

import (
	"cmp"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
)

// Kind is what is done.
type Kind string

// Kinds of faults. Where nothing else is said, a fault lasts until it is healed.
const (
	// Kill ends a process with SIGKILL, once. Whatever runs it starts it again.
	Kill Kind = "kill"
	// Hang suspends a process with SIGSTOP: it holds its connections and does not answer.
	Hang Kind = "hang"
	// Stop ends a process as an operator would, and keeps it from starting again.
	Stop Kind = "stop"
	// PowerOff takes the power of a host or a zone. Only a lab can give it back.
	PowerOff Kind = "power-off"
	// Freeze suspends everything on a host except for its kernel. Only a lab can do that.
	Freeze Kind = "freeze"
	// Reboot resets a host without a shutdown, once. It comes back on its own.
	Reboot Kind = "reboot"
	// Cut drops the packets of a host, a zone, or a link, or some of them.
	Cut Kind = "cut"
	// Loss drops a part of the packets of a host by chance.
	Loss Kind = "loss"
	// Fill fills the disk of a host, for root as well: the programs of a cluster run as root.
	Fill Kind = "fill"
	// Slow limits how fast the disk of a host is written.
	Slow Kind = "slow"
	// Press keeps the processors or the memory of a host busy.
	Press Kind = "press"
	// Overload sends an API server more requests than it can answer.
	Overload Kind = "overload"
)

// Target is what a fault concerns, apart from the host: a process, or a part of the host.
type Target string

// Processes that can be killed, hung, or stopped.
const (
	APIServer         Target = "kube-apiserver"
	ControllerManager Target = "kube-controller-manager"
	Scheduler         Target = "kube-scheduler"
	Etcd              Target = "etcd"
	Kubelet           Target = "kubelet"
	Containerd        Target = "containerd"
	KubeProxy         Target = "kube-proxy"
	Flannel           Target = "flannel"
	CoreDNS           Target = "coredns"
	HAProxy           Target = "haproxy"
	Keepalived        Target = "keepalived"
	Watchdog          Target = "watchdog"
)

// What else a fault can concern.
const (
	// Host is all of it: for Cut, everything that it sends and receives.
	Host Target = "host"
	// Zone is every host of a zone.
	Zone Target = "zone"
	// Incoming and Outgoing are one direction of what a host exchanges with the other hosts.
	Incoming Target = "incoming"
	Outgoing Target = "outgoing"
	// VRRP is what keepalived exchanges with its peers, and EtcdPeers what an etcd member exchanges with the others.
	VRRP      Target = "vrrp"
	EtcdPeers Target = "etcd-peers"
	// Link is between two hosts.
	Link   Target = "link"
	Disk   Target = "disk"
	Memory Target = "memory"
	CPU    Target = "cpu"
	API    Target = "api"
)

// Role says which of the hosts that have the target.
type Role string

// Roles. A cluster need not have a host for each.
const (
	// Leader is the leader of etcd for etcd and for hosts, and the leader of its kind for controller managers and schedulers.
	Leader Role = "leader"
	// Follower is a control plane or an etcd host that does not lead, and does not hold the virtual IP.
	Follower Role = "follower"
	// Holder holds the virtual IP.
	Holder Role = "holder"
	// Standby is a load balancer that does not.
	Standby Role = "standby"
	// Worker is a worker.
	Worker Role = "worker"
	// Any is a host for which its role makes no difference.
	Any Role = "any"
)

// Fault is one kind of fault of one cluster. Where it is injected is found out right before, because roles move.
type Fault struct {
	Kind   Kind
	Target Target
	Role   Role
	// Zone is the name of the zone, if the target is Zone.
	Zone string
	// On is the name of the host, for a fault of a certain host and not of a role. It has no Role.
	On string
}

// onHost begins the last part of the names of faults of certain hosts. No name of a role or of a zone contains the sign.
const onHost = "on="

// Name identifies the fault in reports and in patterns: "kill/etcd/leader", "power-off/zone/b", "stop/etcd/on=cp-a".
func (f Fault) Name() string {
	role := string(f.Role)
	switch {
	case f.Target == Zone:
		role = f.Zone
	case f.On != "":
		role = onHost + f.On
	}
	return strings.Join([]string{string(f.Kind), string(f.Target), role}, "/")
}

// Injection is a fault with the place where it is injected.
type Injection struct {
	Fault
	// Host is the host on which it happens; empty for a zone. Peer is the other end of a link.
	Host, Peer string
	// Lasts is for how long it is injected, or 0 for a fault that happens once.
	Lasts time.Duration
	// Takes is the part of the host that the fault takes away in the worst case. Empty is all of it.
	Takes cluster.Part
	// Last is why the cluster cannot lose the target, where the rules for changes do not know it: it is the last one of something that is no part of
	// a placement. It is empty otherwise.
	Last string
}

// Once says that the fault happens in one moment, and that there is nothing to heal.
func (f Fault) Once() bool { return f.Kind == Kill || f.Kind == Reboot }

// Change is what the fault takes from the cluster, for the rules that decide whether the cluster can afford it now. A program that is only
// killed counts as stopped: the rules make an exception for a restart of what the cluster has only one of, and a drill does not.
func (i Injection) Change() cluster.Change {
	if i.Target == Zone {
		return cluster.Change{Verb: cluster.Stop, Part: cluster.WholeZone, Subject: i.Zone}
	}
	return cluster.Change{Verb: cluster.Stop, Part: cmp.Or(i.Takes, cluster.WholeHost), Subject: i.Host}
}

// Where names the place of the fault: a host, "zone/NAME", or "A:B" for a link.
func (i Injection) Where() string {
	switch {
	case i.Target == Zone:
		return "zone/" + i.Zone
	case i.Peer != "":
		return i.Host + ":" + i.Peer
	}
	return i.Host
}
