package facts

import (
	"net/netip"
	"slices"
	"time"
)

// Preflight is what only preflight reads from hosts, in addition to the observation: what they are, and whether they reach
// each other.
type Preflight struct {
	Hosts map[string]Inspection `json:"hosts"`
	// Clocks are the hosts' clocks against the caller's.
	Clocks map[string]Clock `json:"clocks,omitempty"`
	// Reach is every path that was tried.
	Reach []Reach `json:"reach,omitempty"`
	// VirtualIP is which machines answer for the virtual IP, by the name of the load balancer that probed.
	VirtualIP map[string]AddressHolders `json:"virtualIP,omitempty"`
	// Errors are hosts that answered the observation but not this, by name.
	Errors map[string]string `json:"errors,omitempty"`
}

// Clock is how far a host's clock is ahead of the caller's. The true value lies within Uncertainty of it: half of the time
// that asking took.
type Clock struct {
	Ahead       time.Duration `json:"aheadNanoseconds"`
	Uncertainty time.Duration `json:"uncertaintyNanoseconds"`
}

// InspectRequest says what to inspect on a host.
type InspectRequest struct {
	Name    string `json:"name"`    // in the spec
	Address string `json:"address"` // in the spec
	Ports   []int  `json:"ports"`   // that must be free, or be held by Kubernetes
	// Balances asks for the programs of a load balancer, too.
	Balances bool `json:"balances,omitempty"`
	// Repositories are looked at where packages are to be installed.
	Repositories bool `json:"repositories,omitempty"`
	// PodCIDR is the range of pods.
	PodCIDR string `json:"podCIDR,omitempty"`
	// PodTraffic is the address whose interface carries the packets of pods between nodes, if that is not Address.
	PodTraffic string `json:"podTraffic,omitempty"`
	// Quick leaves out what takes time and is never an error: names and their servers. Nor are repositories tried then:
	// whether they are reached is what the next step finds out.
	Quick bool `json:"quick,omitempty"`
}

// Inspection is what a host reports about itself.
type Inspection struct {
	BootID      string `json:"bootID"`                // of the kernel: hosts that have it in common are one machine
	ProductUUID string `json:"productUUID,omitempty"` // of the firmware, where it has any
	Systemd     bool   `json:"systemd"`               // it is process 1
	MAC         string `json:"mac,omitempty"`         // of the interface with the host's address
	MTU         int    `json:"mtu,omitempty"`         // of the one that carries the packets of pods

	Features    map[string]Feature `json:"features"`    // by name of the kernel's module
	Controllers []string           `json:"controllers"` // of cgroups
	ClockKept   bool               `json:"clockKept"`   // some time service keeps the kernel's clock

	// EtcdFsync is within how long 99 of 100 writes were on the disk that is to hold etcd's data; 0 if that was not measured.
	EtcdFsync time.Duration `json:"etcdFsyncNanoseconds,omitempty"`
	// EtcdFsyncError is why it could not be measured.
	EtcdFsyncError string `json:"etcdFsyncError,omitempty"`

	DiskBytes  int64   `json:"diskBytes"` // of the file system that holds /var/lib
	InodesFree float64 `json:"inodesFree"`
	// Unfit are directories that Quorate needs and that it cannot use as they are mounted.
	Unfit []Unfit `json:"unfit,omitempty"`
	// Volatile is the kind of that file system if what is written there may not outlast a boot, as in a rescue system; empty otherwise.
	Volatile        string     `json:"volatile,omitempty"`
	Listeners       []Listener `json:"listeners,omitempty"`
	Leftovers       Leftovers  `json:"leftovers"`
	OtherContainerd bool       `json:"otherContainerd"` // one that Quorate did not install has a configuration or runs
	Firewalls       []string   `json:"firewalls,omitempty"`
	// ForwardDrops are the chains that drop forwarded packets which none of their rules accepts.
	ForwardDrops []ForwardDrop `json:"forwardDrops,omitempty"`
	// Networks are those that the host has routes to, without the default route.
	Networks []Subnet `json:"networks,omitempty"`
	SELinux  string   `json:"seLinux,omitempty"` // enforcing, permissive, or empty
	// HAProxyConfined says that SELinux keeps HAProxy from ports other than the web's.
	HAProxyConfined bool `json:"haproxyConfined,omitempty"`
	// Versions are those of HAProxy and keepalived by name, as the programs print them, where they are installed. They are
	// known only of load balancers.
	Versions map[string]string `json:"versions,omitempty"`
	// NoHAProxyUser says that HAProxy is installed, and the user or group that it runs as does not exist.
	NoHAProxyUser bool `json:"noHAProxyUser,omitempty"`

	// HostsWriter is the file that has cloud-init write /etc/hosts each time that the host starts; empty if there is none.
	HostsWriter string `json:"hostsWriter,omitempty"`
	// RuleFlusher is the file with which nftables.service deletes the rules of all programs; empty if it does not.
	RuleFlusher string `json:"ruleFlusher,omitempty"`
	// CloudRoutes says that nm-cloud-setup sets up routes by source address.
	CloudRoutes bool `json:"cloudRoutes,omitempty"`
	// LaterSettings are the kernel settings in files that are read after the first of Quorate's, in their order.
	LaterSettings []Setting `json:"laterSettings,omitempty"`
	// BlockedModules are kernel modules that a file of modprobe keeps from being loaded, with that file.
	BlockedModules map[string]string `json:"blockedModules,omitempty"`
	// DropIns are files that change units which Quorate writes or starts. Its own are among them.
	DropIns []DropIn `json:"dropIns,omitempty"`
	// ServiceProxies are the proxy settings that systemd gives to all services, as NAME=value.
	ServiceProxies []string `json:"serviceProxies,omitempty"`
	// IgnoresPings says that the kernel answers no ICMP echo requests.
	IgnoresPings bool `json:"ignoresPings,omitempty"`

	// PodServers are the DNS servers that the DNS of pods would forward queries to.
	PodServers []string   `json:"podServers,omitempty"`
	Resolvers  []Resolver `json:"resolvers,omitempty"`
	OwnName    Lookup     `json:"ownName"`
	// Repositories are where the package manager would download from, if that was asked and can be told.
	Repositories []Repository `json:"repositories,omitempty"`
}

// Unfit is a directory, and the option of its mount that is in the way: ro, or noexec where programs have to run.
type Unfit struct {
	Dir    string `json:"dir"`
	Option string `json:"option"`
}

// ForwardDrop is a chain that drops forwarded packets which none of its rules accepts.
type ForwardDrop struct {
	Chain string `json:"chain"` // in words
	// Pods says that the chain, or one that it may jump to, has a rule about pods. Unknown is why some of the rules could not be read.
	Pods    bool   `json:"pods,omitempty"`
	Unknown string `json:"unknown,omitempty"`
}

// Subnet is a network that a host has a route to.
type Subnet struct {
	Prefix    string `json:"prefix"`
	Interface string `json:"interface,omitempty"`
	Gateway   bool   `json:"gateway,omitempty"` // it is behind a router
	Bridge    bool   `json:"bridge,omitempty"`  // the interface is a bridge
}

// Setting is a kernel setting in a file.
type Setting struct {
	File  string `json:"file"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// DropIn is a file that changes a unit, and the names of what it sets.
type DropIn struct {
	Unit     string   `json:"unit"`
	Path     string   `json:"path"`
	Settings []string `json:"settings"`
}

// Repository is a place of packages; Error says why it is out of reach.
type Repository struct {
	Address string `json:"address"`
	Error   string `json:"error,omitempty"`
}

// Feature reports whether a kernel has a feature.
type Feature string

// A feature is in use or built in, can be loaded, is not there, or cannot be seen.
const (
	Present  Feature = "present"
	Loadable Feature = "loadable"
	Absent   Feature = "absent"
	Unknown  Feature = "unknown"
)

// Listener is a program that listens on a TCP port.
type Listener struct {
	Port int `json:"port"`
	// Addresses are those that it accepts connections to. An unspecified one stands for all of the host: 0.0.0.0 for those of IPv4, and :: for
	// those of both families.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Program   string       `json:"program"` // empty when it cannot be seen
	PID       int          `json:"pid,omitempty"`
	// Own says that the program works with a configuration of Quorate's.
	Own bool `json:"own,omitempty"`
}

// Accepts reports whether connections to an address of its host come to the program.
func (l Listener) Accepts(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && slices.ContainsFunc(l.Addresses, func(own netip.Addr) bool { return own == a || own.IsUnspecified() && (own.Is6() || a.Is4()) })
}

// Leftovers are traces of a cluster.
type Leftovers struct {
	Files []string `json:"files,omitempty"`
	// CNI are configurations of the network that Quorate did not write.
	CNI        []string `json:"cni,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
}

// Lookup is how a name resolved.
type Lookup struct {
	Addresses []string      `json:"addresses,omitempty"`
	Elapsed   time.Duration `json:"elapsedNanoseconds"`
	Error     string        `json:"error,omitempty"`
}

// Resolver is one of a host's DNS servers.
type Resolver struct {
	Server  string        `json:"server"`
	Outcome Outcome       `json:"outcome"`
	Elapsed time.Duration `json:"elapsedNanoseconds"`
}

// Outcome is the result of an attempt to reach something.
type Outcome string

// The outcomes: what stands in the way differs between them.
const (
	Reached     Outcome = "reached"
	Refused     Outcome = "refused"     // the host answers, and the port is closed
	TimedOut    Outcome = "timeout"     // nothing came back: packets are dropped
	Unreachable Outcome = "unreachable" // a router or firewall rejects it
	Impostor    Outcome = "impostor"    // another host answers at that address
	Routed      Outcome = "routed"      // it is reached, but not on the same network segment
	Failed      Outcome = "failed"
)

// Protocols of paths.
const (
	TCP  = "tcp"
	UDP  = "udp"
	VRRP = "vrrp"
)

// Path is a network path between two hosts that the cluster will need.
type Path struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Address string `json:"address"`
	Proto   string `json:"proto"`
	Port    int    `json:"port,omitempty"`
	For     string `json:"for"` // what will use it
}

// Reach is a path that was tested.
type Reach struct {
	Path
	Outcome Outcome       `json:"outcome"`
	Detail  string        `json:"detail,omitempty"`
	After   time.Duration `json:"afterNanoseconds"`
	// Connected is after how long a TCP connection was established, which takes one round trip; 0 if it was not.
	Connected time.Duration `json:"connectedNanoseconds,omitempty"`
	// Size is the IP packet that was tried once the path was known to work, 0 for none; Fits says whether it arrived whole.
	Size int  `json:"size,omitempty"`
	Fits bool `json:"fits,omitempty"`
}
