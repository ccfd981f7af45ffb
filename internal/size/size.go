// Package size says how many machines a cluster of a given number of nodes and pods needs, how large they must be, and which settings
// grow with it. Each figure has a source: see [Sources] and docs/size.md. The package is pure, and imports nothing of Quorate.
package size

import (
	"fmt"
	"math/bits"
)

// Limits of Kubernetes ([FromKubernetes]), and the density for which the figures hold.
const (
	MaxNodes       = 5000
	MaxPods        = 150_000
	MaxPodsPerNode = 110
	// PodsPerNode is the density in Kubernetes' own scalability tests. A cluster with more pods on a node is as demanding as one with
	// more nodes.
	PodsPerNode = 30
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Cluster is how large a cluster is.
type Cluster struct {
	// Nodes are all machines with a kubelet, control planes included.
	Nodes int `json:"nodes"`
	Pods  int `json:"pods"`
	// Zones are the failure domains over which everything is spread.
	Zones int `json:"zones"`
}

// Load is the size in nodes of [PodsPerNode] pods each, by which everything else goes.
func (c Cluster) Load() int { return max(c.Nodes, (c.Pods+PodsPerNode-1)/PodsPerNode) }

// Machine is how large a machine must be.
type Machine struct {
	CPUs        int   `json:"cpus"`
	MemoryBytes int64 `json:"memoryBytes"`
	DiskBytes   int64 `json:"diskBytes"`
}

// level is a row of a table: the machine for clusters of at most so many nodes.
type level struct {
	nodes int
	Machine
}

const endless = int(^uint(0) >> 1)

// The control planes of kube-up. Each CPU has 4 GiB of memory.
var controlPlanes = []level{
	{10, Machine{2, 8 * gib, 20 * gib}},
	{50, Machine{4, 16 * gib, 20 * gib}},
	{100, Machine{8, 32 * gib, 20 * gib}},
	{500, Machine{16, 64 * gib, 20 * gib}},
	{3000, Machine{32, 128 * gib, 100 * gib}},
	{endless, Machine{32, 128 * gib, 500 * gib}},
}

// Machines that run nothing but an etcd member, as etcd's documentation has them. The disk is that of kube-up for the data alone: a
// database of 8 GiB, once more while it is defragmented, the log, and snapshots.
var etcdHosts = []level{
	{50, Machine{2, 8 * gib, 20 * gib}},
	{250, Machine{4, 16 * gib, 20 * gib}},
	{500, Machine{8, 32 * gib, 20 * gib}},
	{1000, Machine{8, 32 * gib, 100 * gib}},
	{3000, Machine{16, 64 * gib, 100 * gib}},
	{endless, Machine{16, 64 * gib, 200 * gib}},
}

func at(table []level, load int) Machine {
	for _, l := range table {
		if load <= l.nodes {
			return l.Machine
		}
	}
	return table[len(table)-1].Machine
}

// Small says that a cluster is so small that the minimum of each program is enough, whatever is recommended.
func (c Cluster) Small() bool { return c.Load() <= controlPlanes[0].nodes }

// ControlPlane is how large a control plane must be: the machine of kube-up carried the whole control plane of such a cluster, etcd
// included, so any one of several can stand in for the others.
func (c Cluster) ControlPlane() Machine { return at(controlPlanes, c.Load()) }

// EtcdHost is how large a machine must be that runs nothing but an etcd member. The disk is that of etcd's data alone, which a control
// plane with a stacked member needs as well.
func (c Cluster) EtcdHost() Machine { return at(etcdHosts, c.Load()) }

// Disk is how fast the disk of etcd's data must be.
type Disk struct {
	// FsyncMillis is within how many milliseconds 99 of 100 writes of 8 KB are on the disk, fdatasync included.
	FsyncMillis int `json:"fsyncP99Milliseconds"`
	// SequentialIOPS is how many such writes follow each other within a second.
	SequentialIOPS int `json:"sequentialIOPS"`
}

// heavy is from how many nodes on the load of etcd counts as heavy: etcd's own documents call a cluster of 250 nodes medium.
const heavy = 250

// EtcdDisk is how fast the disk of an etcd member must be.
func (c Cluster) EtcdDisk() Disk {
	if c.Load() > heavy {
		return Disk{FsyncMillis: 2, SequentialIOPS: 500}
	}
	return Disk{FsyncMillis: 10, SequentialIOPS: 50}
}

// LoadBalancer is how large a machine must be that runs nothing but a load balancer with so many connections. HAProxy passes TLS on
// as it is.
func LoadBalancer(connections int) Machine {
	const base, buffers = 256 * mib, 36 << 10 // of a connection, while it transfers
	m := Machine{CPUs: 1, DiskBytes: 10 * gib, MemoryBytes: roundUp(base+int64(connections)*buffers, 512*mib)}
	if connections > Connections {
		m.CPUs = 2
	}
	return m
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// Members are how many control planes, or etcd members, there are with so many zones: a majority must be left after the loss of
// any one zone, and of any one machine.
func Members(zones int) int {
	if zones >= 5 {
		return 5
	}
	return 3
}

// Role is how many machines have a role, how large each of them is, why, and where that is from.
type Role struct {
	Count int `json:"count"`
	Machine
	Why     string   `json:"why"`
	Sources []string `json:"sources"`
}

// Room is what must be free on workers, so that the pods of a zone that is lost find a place.
type Room struct {
	// Nodes are the nodes without control planes, and Left those that are left when the largest zone is lost.
	Nodes int `json:"nodes"`
	Left  int `json:"left"`
	// PodsPerNode and PodsPerNodeLeft are how many pods each has before and after.
	PodsPerNode     int `json:"podsPerNode"`
	PodsPerNodeLeft int `json:"podsPerNodeLeft"`
	// RequestsPercent is how much of the CPU and memory of all workers pods may request at most.
	RequestsPercent int `json:"requestsPercent"`
	// Why is the reason in words.
	Why string `json:"why"`
}

// Advice is everything there is to say about a size. Its JSON keys are stable.
type Advice struct {
	Cluster
	ControlPlanes Role `json:"controlPlanes"`
	// Etcd are machines of their own for etcd. A stacked member needs only their disk, in addition to that of its control plane.
	Etcd          Role `json:"etcd"`
	EtcdDisk      Disk `json:"etcdDisk"`
	LoadBalancers Role `json:"loadBalancers"`
	Workers       Room `json:"workers"`
	// PodCIDRBits is the longest prefix of spec.network.podCIDR in which every node finds its /24.
	PodCIDRBits int       `json:"podCIDRBits"`
	Settings    []Setting `json:"settings"`
	Fixed       []string  `json:"fixed"`
	// CoreDNSMemoryBytes is what one replica of CoreDNS takes.
	CoreDNSMemoryBytes int64 `json:"coreDNSMemoryBytes"`
	// Problems are what such a cluster cannot have, or does not survive.
	Problems []string `json:"problems"`
	Sources  []Source `json:"sources"`
}

// nodeBits is the prefix of a node's part of the range of pods.
const nodeBits = 24

// PodCIDRBits is the longest prefix of a range of pods in which so many nodes find a /24 each.
func PodCIDRBits(nodes int) int {
	return nodeBits - bits.Len(uint(max(nodes, 1)-1))
}

// Advise says what a cluster of that size needs. Nodes and Zones are at least 1.
func Advise(c Cluster) Advice {
	s, n := SettingsOf(c.Nodes, c.Pods), Members(c.Zones)
	a := Advice{Cluster: c, EtcdDisk: c.EtcdDisk(), PodCIDRBits: min(16, PodCIDRBits(c.Nodes)), Settings: s.List(), Fixed: Fixed, Sources: Sources, Problems: []string{},
		CoreDNSMemoryBytes: int64(c.Pods)*1000 + 54_000_000}
	a.ControlPlanes = Role{Count: n, Machine: c.ControlPlane(), Sources: []string{FromKubernetes, FromKubeUp, FromOpenShift},
		Why: fmt.Sprintf("%d are spread over %s. Any one must be able to stand in for the others, so each has what Kubernetes' tests gave the whole control plane", n, zones(c.Zones))}
	if c.Small() {
		a.ControlPlanes.Sources = append(a.ControlPlanes.Sources, FromKubeadm)
		a.ControlPlanes.Why += ". kubeadm's minimum, 2 CPUs and 2 GB, is enough to begin with"
	}
	a.Etcd = Role{Count: n, Machine: c.EtcdHost(), Sources: []string{FromEtcd, FromKubeUp},
		Why: "if etcd has hosts of its own. Otherwise each control plane has a member, and needs a disk like that in addition to its own"}
	a.LoadBalancers = Role{Count: 2, Machine: LoadBalancer(s.Connections), Sources: []string{FromMeasurement},
		Why: fmt.Sprintf("one has the virtual IP, and must be able to serve all clients: %d connections. They can run on the control planes", s.Connections)}
	a.Workers, a.Problems = room(c, n)
	switch {
	case c.Nodes > MaxNodes:
		a.Problems = append(a.Problems, fmt.Sprintf("Kubernetes supports at most %d nodes. Split the cluster.", MaxNodes))
	case c.Pods > MaxPods:
		a.Problems = append(a.Problems, fmt.Sprintf("Kubernetes supports at most %d pods. Split the cluster.", MaxPods))
	}
	if PodCIDRBits(c.Nodes) < 16 {
		a.Problems = append(a.Problems, fmt.Sprintf("The default spec.network.podCIDR has room for 256 nodes. Set a range with a /%d or a shorter prefix before the cluster is built: it cannot be changed later.", PodCIDRBits(c.Nodes)))
	}
	return a
}

func zones(n int) string {
	if n == 1 {
		return "one zone"
	}
	return fmt.Sprintf("%d zones", n)
}

// room says what workers must have free, and what is wrong with the size.
func room(c Cluster, members int) (Room, []string) {
	problems := []string{}
	r := Room{Nodes: max(c.Nodes-members, 1), RequestsPercent: 100}
	r.Left = r.Nodes
	if c.Zones > 1 {
		r.Left = r.Nodes - (r.Nodes+c.Zones-1)/c.Zones
	} else {
		r.Left = max(r.Nodes-1, 0)
	}
	r.PodsPerNode = (c.Pods + r.Nodes - 1) / r.Nodes
	switch {
	case r.Left == 0:
		problems = append(problems, "There are too few workers: the loss of one leaves no place for its pods.")
		r.RequestsPercent = 0
	default:
		r.PodsPerNodeLeft = (c.Pods + r.Left - 1) / r.Left
		r.RequestsPercent = 100 * r.Left / r.Nodes
	}
	r.Why = fmt.Sprintf("after the loss of a zone, %d of %d workers run all pods", r.Left, r.Nodes)
	if c.Zones == 1 {
		r.Why = fmt.Sprintf("after the loss of a worker, %d of %d run all pods. All of them end with the zone", r.Left, r.Nodes)
	}
	if r.PodsPerNodeLeft > MaxPodsPerNode {
		need := (c.Pods + MaxPodsPerNode - 1) / MaxPodsPerNode
		if c.Zones > 1 {
			need = (need*c.Zones + c.Zones - 2) / (c.Zones - 1)
		} else {
			need++
		}
		problems = append(problems, fmt.Sprintf("After the loss, %d pods would have to run on each worker, and a node runs at most %d. At least %d workers are needed for %d pods.",
			r.PodsPerNodeLeft, MaxPodsPerNode, need, c.Pods))
	}
	switch {
	case c.Zones == 1:
		problems = append(problems, "With one zone, the cluster does not survive the loss of that zone.")
	case c.Zones == 2:
		problems = append(problems, "With two zones, one of them has a majority of etcd's members: the cluster does not survive the loss of that zone. Use three.")
	}
	return r, problems
}
