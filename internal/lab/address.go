package lab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// labRange is the benchmarking range of RFC 2544, which no office network uses.
var labRange = netip.MustParsePrefix("198.18.0.0/15")

// The host numbers within a lab's /24.
const (
	callerHost       = 1
	firstMachineHost = 11
	firstVirtualHost = 200
	lastVirtualHost  = 239
	gatewayHost      = 254
)

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ErrName is wrapped by the errors about names that no lab, zone, or machine can have.
var ErrName = errors.New("is not a DNS label")

func checkLabel(kind, name string) error {
	if !label.MatchString(name) {
		return fmt.Errorf("%s name %q %w: use lower-case letters, digits, and dashes, at most 63 characters", kind, name, ErrName)
	}
	return nil
}

// validate returns an error if a configuration cannot become a lab.
func validate(cfg Config) error {
	if err := checkLabel("lab", cfg.Name); err != nil {
		return err
	}
	if cfg.VirtualIPs < 0 || cfg.VirtualIPs > lastVirtualHost-firstVirtualHost+1 {
		return fmt.Errorf("lab %s: %d virtual IPs requested: must be between 0 and %d", cfg.Name, cfg.VirtualIPs, lastVirtualHost-firstVirtualHost+1)
	}
	for i, z := range cfg.Zones {
		if err := checkLabel("zone", z); err != nil {
			return err
		}
		if slices.Contains(cfg.Zones[:i], z) {
			return fmt.Errorf("lab %s: zone %s is listed twice", cfg.Name, z)
		}
	}
	seen := map[string]bool{}
	for _, m := range cfg.Machines {
		if err := checkLabel("machine", m.Name); err != nil {
			return err
		}
		if seen[m.Name] {
			return fmt.Errorf("lab %s: machine %s is listed twice", cfg.Name, m.Name)
		}
		seen[m.Name] = true
		if !slices.Contains(cfg.Zones, m.Zone) {
			return fmt.Errorf("lab %s: machine %s is in the unknown zone %q (the lab has %q)", cfg.Name, m.Name, m.Zone, cfg.Zones)
		}
	}
	if !slices.Contains(Families, cfg.family()) {
		return fmt.Errorf("lab %s: there is no IP family %q: must be ipv4, ipv6, or dual", cfg.Name, cfg.Family)
	}
	if i := slices.IndexFunc(cfg.Machines, func(m Machine) bool { return len(m.Profiles) > 0 }); i >= 0 && cfg.family() == IPv6 {
		return fmt.Errorf("lab %s: machine %s has profiles, which are for machines with IPv4: use the family ipv4 or dual", cfg.Name, cfg.Machines[i].Name)
	}
	if !slices.Contains(Images, cfg.image()) {
		return fmt.Errorf("lab %s: there is no image %q: must be one of %s", cfg.Name, cfg.Image, strings.Join(Images, ", "))
	}
	if err := checkProfiles(cfg.Machines); err != nil {
		return fmt.Errorf("lab %s: %w", cfg.Name, err)
	}
	for _, f := range cfg.Files {
		if len(f.Path) < 2 || f.Path[0] != '/' {
			return fmt.Errorf("lab %s: file %q: not an absolute path", cfg.Name, f.Path)
		}
	}
	return nil
}

// subnets lists the /24s that a lab may use: all of labRange, or the one that the given addresses need.
func subnets(machines []Machine) ([]netip.Prefix, error) {
	for _, m := range machines {
		if !m.Address.IsValid() {
			continue
		}
		if !labRange.Contains(m.Address) && !labRange6.Contains(m.Address) {
			return nil, fmt.Errorf("machine %s: address %s is outside %s and %s, the ranges for lab machines: leave the address out to have one assigned", m.Name, m.Address, labRange, labRange6)
		}
		p, _ := to4(m.Address).Prefix(24)
		return []netip.Prefix{p}, nil
	}
	var all []netip.Prefix
	a := labRange.Addr().As4()
	for i := range 512 {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{a[0], a[1] + byte(i>>8), byte(i)}), 24))
	}
	return all, nil
}

func host(subnet netip.Prefix, n int) netip.Addr {
	a := subnet.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

func (f Family) virtualIPs(subnet netip.Prefix, n int) []netip.Addr {
	var out []netip.Addr
	for i := range n {
		out = append(out, f.address(host(subnet, firstVirtualHost+i)))
	}
	return out
}

// assign assigns an address to every machine that has none. Existing addresses are kept.
func (f Family) assign(subnet netip.Prefix, machines []Machine, reserved []netip.Addr) ([]Machine, error) {
	machines, reserved = slices.Clone(machines), slices.Clone(reserved)
	for i, m := range machines {
		if m.Address.IsValid() && m.Address != f.address(m.Address) {
			return nil, fmt.Errorf("machine %s: address %s is not of the lab's family, %s", m.Name, m.Address, f)
		}
		machines[i].Address = to4(m.Address)
	}
	for i := range reserved {
		reserved[i] = to4(reserved[i])
	}
	out, err := assign(subnet, machines, reserved)
	for i := range out {
		out[i].Address = f.address(out[i].Address)
	}
	return out, err
}

func assign(subnet netip.Prefix, machines []Machine, reserved []netip.Addr) ([]Machine, error) {
	used := map[netip.Addr]string{
		host(subnet, callerHost):  "this computer",
		host(subnet, gatewayHost): "the lab's gateway",
		host(subnet, 0):           "the subnet itself",
		host(subnet, 255):         "the broadcast address",
	}
	for _, a := range reserved {
		used[a] = "a virtual IP"
	}
	out := slices.Clone(machines)
	for _, m := range out {
		if !m.Address.IsValid() {
			continue
		}
		if !subnet.Contains(m.Address) {
			return nil, fmt.Errorf("machine %s: address %s is outside the lab's subnet %s", m.Name, m.Address, subnet)
		}
		if owner, taken := used[m.Address]; taken {
			return nil, fmt.Errorf("machine %s: address %s already belongs to %s", m.Name, m.Address, owner)
		}
		used[m.Address] = m.Name
	}
	next := firstMachineHost
	for i := range out {
		if out[i].Address.IsValid() {
			continue
		}
		for taken(used, host(subnet, next)) {
			next++
		}
		if next >= firstVirtualHost {
			return nil, fmt.Errorf("no address left for machine %s: %s holds at most %d machines", out[i].Name, subnet, firstVirtualHost-firstMachineHost)
		}
		out[i].Address = host(subnet, next)
		used[out[i].Address] = out[i].Name
	}
	return out, nil
}

func taken(used map[netip.Addr]string, a netip.Addr) bool {
	_, taken := used[a]
	return taken
}

// mac derives a stable, locally administered hardware address from an IP address: a machine keeps
// its own through every power cycle.
func mac(a netip.Addr) net.HardwareAddr {
	b := to4(a).As4()
	return net.HardwareAddr{0x02, 0x51, b[0], b[1], b[2], b[3]}
}

// switchMAC pins the address of a bridge, which would otherwise follow that of its ports.
func switchMAC(subnet netip.Prefix, name string) net.HardwareAddr {
	h := fnv.New32a()
	h.Write([]byte(name))
	b := subnet.Addr().As4()
	s := h.Sum32()
	return net.HardwareAddr{0x06, 0x51, b[1], b[2], byte(s >> 8), byte(s)}
}

// port is the name of a machine's port on its zone's switch; ports live in the lab's own namespace,
// so they need to be unique there only.
func port(a netip.Addr) string { return fmt.Sprintf("m%d", to4(a).As4()[3]) }

// moreNetworks are those of the interfaces beyond the first, of machines that have them: eth1, eth2. Labs do not share them: each has switches of its own.
var moreNetworks = []netip.Prefix{netip.MustParsePrefix("10.97.0.0/24"), netip.MustParsePrefix("10.98.0.0/24")}

// moreSwitches are the names of the switches of these networks.
var moreSwitches = []string{"second", "third"}

// moreAddress is the address of a machine in one of these networks.
func moreAddress(a netip.Addr, n int) netip.Addr { return host(moreNetworks[n], int(to4(a).As4()[3])) }

// morePort is the name of a machine's port on the switch of one of these networks: s11, t11.
func morePort(a netip.Addr, n int) string { return fmt.Sprintf("%c%d", 's'+n, to4(a).As4()[3]) }

// moreNICs is how many interfaces the machine has beyond the first.
func (m Machine) moreNICs() (n int) {
	for _, p := range profilesOf(m) {
		n = max(n, p.MoreNICs)
	}
	return n
}

// morePorts are the names of the machine's ports in the networks of these interfaces.
func (m Machine) morePorts() (out []string) {
	for n := range m.moreNICs() {
		out = append(out, morePort(m.Address, n))
	}
	return out
}

// ports are the names of the machine's ports on all switches.
func (m Machine) ports() []string { return append([]string{port(m.Address)}, m.morePorts()...) }

// callerLink is the name of the caller's end of the cable into the lab, unique because its subnet is.
func callerLink(subnet netip.Prefix) string {
	a := subnet.Addr().As4()
	return fmt.Sprintf("qr-%d-%d", a[1], a[2])
}
