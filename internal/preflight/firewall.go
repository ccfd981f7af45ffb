package preflight

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// opening is what a firewall must let in: ports of one protocol, from the same hosts.
type opening struct {
	proto   string
	ports   []string // none for VRRP, which has no ports
	sources []string // addresses or networks of one family; none if every client may connect
}

// openings are what a host must let in for its roles, and from whom. Only the endpoint is for everybody: etcd, kubelets,
// pod traffic, and VRRP are for the cluster's own hosts.
func openings(c *spec.Cluster, h spec.Host) (out []opening) {
	for _, in := range inbound(c, h, nil) {
		o := opening{proto: in.proto}
		if in.proto != facts.VRRP {
			o.ports = []string{fmt.Sprint(in.port)}
		}
		if c.Balances(h) && in.port == endpointPort(c) && (in.use == "endpoint" || sharesPort(c, h)) {
			out = with(out, o)
			continue
		}
		if networks := c.Spec.Network.PodTrafficCIDRs(); in.use == podPackets && len(networks) > 0 {
			for _, cidr := range networks {
				o.sources = []string{cidr.String()}
				out = with(out, o)
			}
			continue
		}
		for _, from := range c.Spec.Hosts {
			if from.Name == h.Name || !in.from(from) {
				continue
			}
			if in.proto == facts.VRRP { // the virtual IP can move from one network to the other
				o.sources = append(o.sources, from.VIPAddresses()...)
			} else if a := in.address(from); a != "" {
				o.sources = append(o.sources, a)
			}
		}
		if len(o.sources) > 0 { // otherwise, nobody comes
			out = with(out, o)
		}
	}
	return out
}

// with adds an opening to others, to one for the same hosts if there is one.
func with(all []opening, o opening) []opening {
	if i := slices.IndexFunc(all, func(x opening) bool { return x.proto == o.proto && slices.Equal(x.sources, o.sources) }); i >= 0 {
		for _, port := range o.ports { // the API and the endpoint may have one port at different addresses
			if !slices.Contains(all[i].ports, port) {
				all[i].ports = append(all[i].ports, port)
			}
		}
		return all
	}
	return append(all, o)
}

// openPorts are the commands that open a host's own firewall for its roles.
func openPorts(c *spec.Cluster, h spec.Host, firewall string) string {
	var commands []string
	for _, o := range openings(c, h) {
		if firewall == "firewalld" {
			commands = append(commands, o.firewalld()...)
		} else {
			commands = append(commands, o.ufw())
		}
	}
	if firewall == "firewalld" {
		if h.IsNode() {
			for _, pods := range c.Spec.Network.PodCIDRs() {
				commands = append(commands, "firewall-cmd --permanent --zone=trusted --add-source="+pods.String())
			}
		}
		commands = append(commands, "firewall-cmd --reload")
	} else if h.IsNode() {
		for _, pods := range c.Spec.Network.PodCIDRs() {
			commands = append(commands, "ufw route allow from "+pods.String())
		}
	}
	all := strings.Join(commands, " && ")
	out := "On " + h.Name + ", run `" + all + "`"
	if strings.Contains(all, manyNodes) {
		out += ", where " + manyNodes + " are the addresses of all nodes"
	}
	return out + ". Or turn it off, and filter in the network."
}

// mostSources is how many addresses a command lists; manyNodes stands for more.
const (
	mostSources = 16
	manyNodes   = "NODES"
)

func (o opening) ufw() string {
	if len(o.sources) == 0 {
		return fmt.Sprintf("ufw allow proto %s from any to any port %s", o.proto, strings.Join(o.ports, ","))
	}
	command := fmt.Sprintf("ufw allow proto %s from $a", o.proto)
	if len(o.ports) > 0 {
		command += " to any port " + strings.Join(o.ports, ",")
	}
	return forEach(o.sources, command)
}

func (o opening) firewalld() (out []string) {
	if len(o.sources) == 0 {
		for _, port := range o.ports {
			out = append(out, fmt.Sprintf("firewall-cmd --permanent --add-port=%s/%s", port, o.proto))
		}
		return out
	}
	what := []string{"protocol value=" + o.proto}
	if len(o.ports) > 0 {
		what = nil
		for _, port := range o.ports {
			what = append(what, fmt.Sprintf("port port=%s protocol=%s", port, o.proto))
		}
	}
	family := "ipv4"
	if strings.Contains(o.sources[0], ":") {
		family = "ipv6"
	}
	for _, w := range what {
		out = append(out, forEach(o.sources, fmt.Sprintf(`firewall-cmd --permanent --add-rich-rule="rule family=%s source address=$a %s accept"`, family, w)))
	}
	return out
}

// forEach runs a command for each address $a.
func forEach(addresses []string, command string) string {
	if len(addresses) > mostSources {
		addresses = []string{manyNodes}
	} else if len(addresses) == 1 {
		return strings.ReplaceAll(command, "$a", addresses[0])
	}
	return "for a in " + strings.Join(addresses, " ") + "; do " + command + "; done"
}
