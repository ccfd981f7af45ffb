package spec

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// monitorPort is the port on which HAProxy answers the watchdog of its host.
const monitorPort = 8404

// hosts checks each host, on its own and against the others.
func (k *checker) hosts() {
	hosts := k.c.Spec.Hosts
	names, zones := map[string]int{}, zonesOf(hosts)
	addresses := map[netip.Addr]string{}
	if a, err := netip.ParseAddr(k.c.Spec.LoadBalancer.Address); err == nil {
		addresses[a] = "spec.loadBalancer.address"
	}
	for i, h := range hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		k.hostName(path+".name", h.Name)
		if first, taken := names[h.Name]; taken && h.Name != "" {
			k.refuse(path+".name", "give each host its own name", "`%s` is already the name of spec.hosts[%d]%s", h.Name, first, k.line(fmt.Sprintf("spec.hosts[%d].name", first)))
		} else {
			names[h.Name] = i
		}
		for _, f := range []struct{ path, address string }{{path + ".address", h.Address}, {path + ".secondaryAddress", h.SecondaryAddress}, {path + ".frontAddress", h.FrontAddress}} {
			if f.address == "" {
				continue
			}
			if a, ok := k.address(f.path, f.address); ok {
				if first, taken := addresses[a]; taken {
					k.refuse(f.path, "give each host its own address", "%s is already used by %s%s", a, first, k.line(first))
				} else {
					addresses[a] = f.path
				}
			}
		}
		k.roles(path, h)
		k.zone(path+".zone", h.Zone)
		k.failsWith(path+".failsWith", h, zones)
		k.ssh(path+".ssh", h.SSH)
	}
	k.endpointPort()
	k.addressed()
	k.fronts()
	k.sshAddresses()
}

// sshAddresses refuses two hosts that SSH reaches at one place: what is meant for one would be done to the other.
func (k *checker) sshAddresses() {
	type place struct {
		address, jump string
		port          int
	}
	first := map[place]int{}
	for i, h := range k.c.Spec.Hosts {
		at := place{strings.ToLower(h.SSHAddress()), h.SSH.Jump, h.SSH.Port}
		if a, err := netip.ParseAddr(at.address); err == nil {
			at.address = a.String()
		}
		other, taken := first[at]
		switch {
		case at.address == "":
			continue
		case !taken:
			first[at] = i
			continue
		case h.SSH.Address == "" && k.c.Spec.Hosts[other].SSH.Address == "": // their addresses are the same, which is refused already
			continue
		case h.SSH.Address == "":
			i, other = other, i
		}
		k.refuse(fmt.Sprintf("spec.hosts[%d].ssh.address", i), "write the address at which this machine reaches it; behind a gateway with one address, each host needs a `port` of its own",
			"`%s` is reached there, too, on port %d", k.c.Spec.Hosts[other].Name, h.SSH.Port)
	}
}

// fronts checks that either all load balancers have an address in a network of the virtual IP's own, or none has.
func (k *checker) fronts() {
	var with, without []string
	for _, h := range k.c.BalancerHosts() {
		if h.FrontAddress != "" {
			with = append(with, h.Name)
		} else {
			without = append(without, h.Name)
		}
	}
	for i, h := range k.c.Spec.Hosts {
		path := fmt.Sprintf("spec.hosts[%d].frontAddress", i)
		switch {
		case h.FrontAddress == "":
			if len(with) > 0 && slices.Contains(without, h.Name) {
				k.refuse(path, fmt.Sprintf("add the address that `%s` has in that network, or remove frontAddress from all hosts if the virtual IP is in the network of their address", h.Name),
					"`%s` has no frontAddress, but %s: all load balancers must be in the network of the virtual IP", h.Name, haveIt(with))
			}
		case k.c.Spec.LoadBalancer.Type == BalancerExternal:
			k.refuse(path, "remove it", "`%s` has a frontAddress, but the load balancer is your own (loadBalancer.type: external)", h.Name)
		case !h.Has(RoleControlPlane) && !h.Has(RoleLoadBalancer): // control planes can be load balancers
			k.refuse(path, "remove it, or give the host the role load-balancer", "`%s` has a frontAddress and is no load balancer", h.Name)
		}
	}
}

func haveIt(names []string) string {
	if len(names) == 1 {
		return names[0] + " has one"
	}
	return few(names) + " have one"
}

// line adds the line of another field to a message, if it has one.
func (k *checker) line(path string) string {
	if p := k.c.src.problem(path, "", ""); p.Line > 0 {
		return fmt.Sprintf(" (line %d)", p.Line)
	}
	return ""
}

func (k *checker) hostName(path, name string) {
	switch {
	case name == "":
		k.refuse(path, "give it its host name, such as cp-a", "the host has no name")
	case !k.label(path, name):
	case name == "localhost":
		k.refuse(path, "use the machine's host name", "localhost is the name of every machine")
	case strings.Trim(name, "0123456789") == "":
		k.refuse(path, "start it with a letter", "`%s` would be parsed as an IP address", name)
	}
}

// addressed checks that the hosts are all real or all in the lab: lab machines and real ones never see each other.
func (k *checker) addressed() {
	hosts := k.c.Spec.Hosts
	missing := func(h Host) bool { return h.Address == "" }
	none := k.c.NeedsLab()
	switch {
	case len(hosts) == 0 || !slices.ContainsFunc(hosts, missing) || none && k.opts.Lab:
	case none:
		k.refuse("spec.hosts", "add the address of each host, or create lab machines for them with `quorate up -f`", "no host has an address")
	default:
		for i, h := range hosts {
			if missing(h) {
				k.refuse(fmt.Sprintf("spec.hosts[%d].address", i), "add its IP address; lab machines and real hosts cannot be mixed",
					"`%s` has no address, while other hosts have one", h.Name)
			}
		}
	}
}

func (k *checker) roles(path string, h Host) {
	path += ".roles"
	if len(h.Roles) == 0 {
		k.refuse(path, "give it "+or(choices["Host.roles"]), "the host has no role")
	}
	for i, role := range h.Roles {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.choose(at, "Host.roles", role)
		if slices.Contains(h.Roles[:i], role) {
			k.refuse(at, "remove one of the two", "the role `%s` is given twice", role)
		}
	}
	k.etcdRole(path, h)
}

// endpointPort refuses a port that HAProxy cannot use on one of its hosts. It can share port 6443 with kube-apiserver.
func (k *checker) endpointPort() {
	const path, fix = "spec.controlPlane.endpoint", "use " + DefaultPort
	_, text, _ := net.SplitHostPort(k.c.Spec.ControlPlane.Endpoint)
	port, err := strconv.Atoi(text)
	if err != nil {
		return
	}
	stacked := k.c.StackedEtcd()
	for _, h := range k.c.BalancerHosts() {
		switch {
		case port == monitorPort:
			k.refuse(path, fix, "port %d of `%s` is used by HAProxy for its watchdog", port, h.Name)
		case port == h.SSHPort():
			k.refuse(path, fix, "sshd already listens on port %d of `%s`, which HAProxy needs", port, h.Name)
		case port == ExporterPort && h.Has(RoleControlPlane) && k.c.Spec.Monitoring.Exporter:
			k.refuse(path, fix, "port %d of `%s` is used for its metrics (spec.monitoring.exporter)", port, h.Name)
		case port == NodeExporterPort && h.IsNode() && k.c.InstallsPrometheus():
			k.refuse(path, fix, "port %d of `%s` is used by the node exporter (spec.monitoring.prometheus)", port, h.Name)
		case (h.Has(RoleEtcd) || stacked && h.Has(RoleControlPlane)) && port >= 2379 && port <= 2381:
			k.refuse(path, fix, "port %d of `%s` belongs to etcd (2379-2381)", port, h.Name)
		case h.IsNode() && port >= 30000 && port <= 32767:
			k.refuse(path, fix, "port %d of `%s` belongs to the NodePort range 30000-32767", port, h.Name)
		case h.IsNode() && port >= 10248 && port <= 10259:
			k.refuse(path, fix, "port %d of `%s` belongs to kubelet and kube-proxy (10248-10259)", port, h.Name)
		default:
			continue
		}
		return // the same port is as wrong on the others
	}
}

func (k *checker) zone(path, zone string) {
	if zone == "" {
		k.refuse(path, "name its failure domain: a rack, a room, a provider's zone", "the host has no zone")
	} else if len(validation.IsValidLabelValue(zone)) > 0 {
		k.refuse(path, "use at most 63 letters, digits, dashes, dots, and underscores", "`%s` cannot be a zone: zones become a node label", zone)
	}
}

// failsWith checks the names of what hosts share. One that is also a zone's would be two things in an audit.
func (k *checker) failsWith(path string, h Host, zones map[string]int) {
	for i, name := range h.FailsWith {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case name == "":
			k.refuse(at, "name what the host shares with others, such as rack-1", "the name is empty")
		case len(validation.IsValidLabelValue(name)) > 0:
			k.refuse(at, "use at most 63 letters, digits, dashes, dots, and underscores", "`%s` cannot be the name of something that hosts share", name)
		case zones[name] > 0:
			k.refuse(at, "leave it out, because hosts of a zone fail together anyway, or give it another name", "`%s` is also the name of a zone", name)
		case slices.Contains(h.FailsWith[:i], name):
			k.refuse(at, "remove one of the two", "`%s` is given twice", name)
		}
	}
}

// shape checks that the hosts together are a highly available cluster. What it says rests on all
// hosts, so it is silent while one of them could not be read.
func (k *checker) shape() {
	if !k.sound("spec.hosts") {
		return
	}
	if len(k.c.Spec.Hosts) == 0 {
		k.refuse("spec.hosts", "add three control planes, two load balancers, and a worker, or start with `quorate init`", "the cluster has no hosts")
		return
	}
	if k.controlPlaneCount() && k.etcdCount() {
		k.spread()
	}
	if len(k.c.HostsWith(RoleWorker)) == 0 {
		k.refuse("spec.hosts", "add a host with the role worker, or give this role to the control planes, too", "no host runs workloads")
	}
	k.balancerHosts()
}

// controlPlaneCount refuses counts that are not highly available or pay for members that add nothing.
func (k *checker) controlPlaneCount() bool {
	const path = "spec.hosts"
	single := k.c.Spec.ControlPlane.Placement == PlacementSingle
	switch n := len(k.c.HostsWith(RoleControlPlane)); {
	case n == 1 && single:
		return true
	case n > 1 && single:
		k.refuse("spec.controlPlane.placement", "use regional with three zones, or zonal", "single placement is for one control plane, and %d hosts have the role", n)
	case n == 0:
		k.refuse(path, "give the role to three hosts, each in its own zone", "no host has the role control-plane")
	case n == 1 && !k.c.StackedEtcd():
		k.refuse(path, "use 2, which survive the loss of one, or 3, which survive two; or accept it with `placement: single`", "one control plane is not highly available: if it fails, the API fails")
	case n == 1:
		k.refuse(path, "use 3, which survive the loss of one, or 5, which survive two; or accept it with `placement: single`", "one control plane is not highly available: if it fails, the API fails")
	case !k.c.StackedEtcd():
		return true // the quorum is etcd's alone: one control plane of any number is enough
	default:
		return k.votes(n, "control planes")
	}
	return false
}

// votes judges how many hosts have an etcd member, from two on.
func (k *checker) votes(n int, what string) bool {
	const path = "spec.hosts"
	switch {
	case n > 7:
		k.refuse(path, "use 3, 5 or 7", "%d %s are too many: each write waits for %d of %d etcd members, and more than 7 members only make writes slower", n, what, n/2+1, n)
	case n == 2:
		k.refuse(path, "use 3, which survive the loss of one", "2 %s are not highly available: etcd's quorum of 2 is 2, so they tolerate no failure, just like one, but are twice as likely to have one", what)
	case n%2 == 0:
		k.refuse(path, fmt.Sprintf("use %d, or %d, which survive the loss of %d", n-1, n+1, n/2),
			"%d %s tolerate no more failures than %d: etcd's quorum of %d is %d, so they survive the loss of %d, with one more that can fail", n, what, n-1, n, n/2+1, n-(n/2+1))
	default:
		return true
	}
	return false
}

// spread checks the zones of the control planes and of etcd's members against the placement.
func (k *checker) spread() {
	const path = "spec.controlPlane.placement"
	cps := k.c.HostsWith(RoleControlPlane)
	voters, what := cps, "control planes"
	if !k.c.StackedEtcd() {
		voters, what = k.c.EtcdHosts(), "etcd hosts"
	}
	zones, votes := zonesOf(cps), zonesOf(voters)
	if zones[""]+votes[""] > 0 {
		return // already refused, and it would be counted as a zone
	}
	switch k.c.Spec.ControlPlane.Placement {
	case PlacementZonal:
		all := zonesOf(append(slices.Clone(cps), voters...))
		if len(all) > 1 && k.c.ManagedEtcd() {
			k.refuse(path, "move all of them to one zone, or use regional with three zones", "zonal placement needs all control planes and etcd hosts in one zone; they are in %d (%s)", len(all), zoneNames(all))
		} else if len(all) > 1 {
			k.refuse(path, "move all of them to one zone, or use regional with three zones", "zonal placement needs all control planes in one zone; they are in %d (%s)", len(all), zoneNames(all))
		}
	case PlacementRegional:
		if !k.c.StackedEtcd() && len(zones) < 2 {
			k.refuse(path, "spread them over two or more zones, or use zonal and accept that the cluster fails with its zone",
				"regional placement needs control planes in at least two zones; they are all in %s", zoneNames(zones))
		}
		if len(voters) == 0 {
			return
		}
		if len(votes) < 3 {
			k.refuse(path, "spread them over three zones, or use zonal and accept that the cluster fails with its zone",
				"regional placement needs %s in at least three zones; they are in %d (%s): with fewer, one zone always holds a majority", what, len(votes), zoneNames(votes))
			return
		}
		quorum := len(voters)/2 + 1
		for _, zone := range slices.Sorted(maps.Keys(votes)) {
			if votes[zone] >= quorum {
				k.refuse("spec.hosts", fmt.Sprintf("leave at most %d in any zone", len(voters)-quorum),
					"zone `%s` holds %d of %d %s: losing it loses etcd's quorum of %d", zone, votes[zone], len(voters), what, quorum)
			}
		}
	}
}

func zoneNames(zones map[string]int) string {
	return strings.Join(slices.Sorted(maps.Keys(zones)), ", ")
}

func (k *checker) balancerHosts() {
	lbs := k.c.HostsWith(RoleLoadBalancer)
	regional := k.c.Spec.ControlPlane.Placement == PlacementRegional
	switch {
	case k.c.Spec.LoadBalancer.Type == BalancerExternal && len(lbs) > 0:
		k.refuse("spec.loadBalancer.type", "use managed, or remove the role", "an external load balancer needs no hosts, but `%s` has the role load-balancer", lbs[0].Name)
	case k.c.Spec.LoadBalancer.Type != BalancerManaged || len(lbs) == 0: // the control planes' own rules cover theirs
	case len(lbs) == 1 && k.c.Spec.ControlPlane.Placement == PlacementSingle:
	case len(lbs) == 1:
		k.refuse("spec.hosts", "add a second one in another zone, or remove the role, so that the load balancers run on the control planes",
			"one load balancer, `%s`, is a single point of failure", lbs[0].Name)
	case regional && len(zonesOf(lbs)) < 2:
		k.refuse("spec.hosts", "move one to another zone", "all load balancers are in zone `%s`: if it fails, the endpoint fails, although the control planes survive", lbs[0].Zone)
	}
}

func zonesOf(hosts []Host) map[string]int {
	zones := map[string]int{}
	for _, h := range hosts {
		zones[h.Zone]++
	}
	return zones
}

// few lists the first names and counts the rest.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
