package hostconfig

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/spec"
)

// keepalivedDropIn copies the configuration that keepalived loads, so that the peers that keepalived really knows can be
// read. A configuration that keepalived rejects is never loaded.
func keepalivedDropIn(managed bool) string {
	text := "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\n"
	if managed {
		text += `RuntimeDirectory=quorate
RuntimeDirectoryPreserve=yes
ExecStartPre=/bin/cp ` + KeepalivedFile + ` ` + KeepalivedRunning + `
ExecReload=
ExecReload=/usr/sbin/keepalived -t -f ` + KeepalivedFile + `
ExecReload=/bin/cp ` + KeepalivedFile + ` ` + KeepalivedRunning + `
ExecReload=/bin/kill -HUP $MAINPID
`
	}
	return text + keepsRunning + "RestartSec=500ms\n"
}

// place is where a load balancer has a virtual IP.
type place struct {
	front        bool // in the network of frontAddress
	link, prefix string
	// servers is the interface through which API servers are reached, if that is another one; empty if it is not known.
	servers string
}

// of is the address of a load balancer in that network. One that has none there was removed before the others got theirs, and hears nothing.
func (p place) of(lb spec.Host) string {
	if p.front {
		return lb.VIPAddress()
	}
	return lb.Address
}

// keepalivedConfig lets the load balancers share the virtual IP. keepalived never asks an API server, so that no failure
// of API servers moves the address. An interface that is down does, also the one through which they are reached: then this host reaches none of them. The
// watchdog's file moves it when this host's HAProxy hangs or is gone, or reaches no API server while that of another load balancer does.
func keepalivedConfig(c *spec.Cluster, h spec.Host, standbys []spec.Host, m manner, at func(vip string) place) string {
	all := slices.Concat(c.BalancerHosts(), standbys)
	var instances strings.Builder
	var held []string
	for _, e := range c.Endpoints() {
		if !slices.Contains(held, e.Address) {
			held = append(held, e.Address)
			here := at(e.Address)
			instances.WriteString(vrrpInstance(e.Address, here, between(h, all, here), m.track, vrrpPriority(all, h.Name)))
		}
	}
	return fmt.Sprintf(`# %[1]s
global_defs {
    router_id %[2]s
    vrrp_version 3
    # VRRP version 3 has no passwords: only the peers are heard, and only from the same network segment (min_ttl).
    vrrp_check_unicast_src
    vrrp_garp_master_delay 1
    vrrp_garp_master_repeat 3
    vrrp_garp_master_refresh 10
}

%[3]s
%[4]s`, fmt.Sprintf(m.head, c.Metadata.Name), h.Name, m.define, instances.String())
}

// between are the addresses between which a load balancer and the others exchange advertisements: those in the network of the virtual IP, so that one that
// network cuts off does not keep it.
func between(h spec.Host, all []spec.Host, here place) string {
	var peers strings.Builder
	own := here.of(h)
	taken := []string{own} // a load balancer that was removed may have had an address that another one has now
	for _, lb := range byName(all) {
		if address := here.of(lb); !slices.Contains(taken, address) {
			taken = append(taken, address)
			fmt.Fprintf(&peers, "        %s min_ttl 255\n", address)
		}
	}
	// keepalived rejects unicast without peers. The only load balancer of a cluster announces itself to nobody by multicast.
	if peers.Len() == 0 {
		return "mcast_src_ip " + own
	}
	out := fmt.Sprintf("unicast_src_ip %s\n    unicast_peer {\n%s    }", own, peers.String())
	if isIPv6(own) { // the TTL for IPv4 peers is 255 without it
		out = "unicast_ttl 255\n    " + out
	}
	return out
}

// vrrpInstance is one virtual IP. While the endpoint changes there are two, each with a holder of its own: load balancers reject
// advertisements that name other addresses than their own configuration, so that the addresses of an instance cannot be changed on
// one load balancer after another. The name is that of the address, and stays when the other one goes.
//
// keepalived gives an IPv6 address without duplicate address detection, so that it can be used immediately. As a /128 it is deprecated:
// the host does not choose it as the source of its own connections, which would end when the address moves.
func vrrpInstance(address string, here place, between, track string, priority int) string {
	if isIPv6(address) {
		here.prefix = "128"
	}
	if here.servers != "" {
		track += "\n    track_interface {\n        " + here.servers + "\n    }"
	}
	return fmt.Sprintf(`
vrrp_instance api-%[1]s {
    # All start as BACKUP, and a host that returns does not take the address back: every move is an outage.
    state BACKUP
    nopreempt
    interface %[2]s
    virtual_router_id %[3]d
    priority %[4]d
    advert_int 0.1
    # A holder that pauses for a moment is not gone, and every move of the address closes all connections.
    down_timer_adverts 6
    %[5]s
    %[6]s
    virtual_ipaddress {
        %[1]s/%[7]s dev %[2]s
    }
}
`, address, here.link, RouterID(address), priority, between, track, here.prefix)
}

// vrrpPriority derives the priority of a load balancer from its name, because neither the order of the hosts nor their
// number may change it: keepalived would have to reload. Hosts whose names collide take the next free priorities in the
// order of their names. The priority decides only which of several standbys takes the address first.
func vrrpPriority(hosts []spec.Host, name string) int {
	const lowest, count = 151, 100 // a low priority waits up to advert_int longer
	taken := map[int]bool{}
	for _, h := range byName(hosts) {
		n := int(sum32(h.Name) % count)
		for taken[n] && len(taken) < count {
			n = (n + 1) % count
		}
		if taken[n] = true; h.Name == name {
			return lowest + n
		}
	}
	return lowest
}

// RouterID is the identifier of a virtual IP in VRRP, which separates clusters on one network. VRRP has room for 1 to 255.
func RouterID(address string) int { return int(sum32(address)%255) + 1 }

func sum32(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}
