package spec

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"quorate.dev/quorate/internal/hostkey"
	"quorate.dev/quorate/internal/size"
)

// LabRange6 is the range of the IPv6 addresses of lab machines: unique local addresses that contain LabRange.
var LabRange6 = netip.MustParsePrefix("fd51:c612::/31")

// LabRange is the range of lab addresses: the benchmarking range of RFC 2544, which is not used in real networks.
var LabRange = netip.MustParsePrefix("198.18.0.0/15")

func (k *checker) endpoint() {
	const path = "spec.controlPlane.endpoint"
	const example = "use a name, such as api.prod.example.com:" + DefaultPort
	e := k.c.Spec.ControlPlane.Endpoint
	if e == "" {
		k.refuse(path, example, "the cluster has no endpoint, the name and port that every client uses")
		return
	}
	if _, rest, ok := strings.Cut(e, "://"); ok {
		k.refuse(path, fmt.Sprintf("write `%s`", strings.TrimRight(rest, "/")), "the endpoint is host:port, without a scheme")
		return
	}
	host, port, err := net.SplitHostPort(e)
	if _, bad := netip.ParseAddr(strings.Trim(e, "[]")); err != nil && bad == nil {
		host, port, err = e, DefaultPort, nil
	}
	if err != nil {
		k.refuse(path, example, "`%s` is not host:port", e)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		k.refuse(path, "use "+DefaultPort+", or another number from 1 to 65535", "`%s` is not a port", port)
	}
	last := host[strings.LastIndex(host, ".")+1:]
	_, notAddr := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case notAddr == nil:
		k.refuse(path, fmt.Sprintf("%s, which resolves to %s", example, host),
			"the endpoint is an IP address; certificates and kubeconfigs contain it, and only a name can be moved")
	case strings.HasSuffix(host, ".") && len(validation.IsDNS1123Subdomain(strings.TrimSuffix(host, "."))) == 0:
		k.refuse(path, fmt.Sprintf("write `%s`", net.JoinHostPort(strings.TrimSuffix(host, "."), port)),
			"the endpoint's name ends with a dot, but certificates contain the name without it")
	case dnsLength(host) != "":
		k.refuse(path, "use a shorter name, such as api.prod.example.com:"+DefaultPort, "the endpoint's name cannot be resolved: %s", dnsLength(host))
	case host != strings.ToLower(host) && len(validation.IsDNS1123Subdomain(strings.ToLower(host))) == 0:
		k.refuse(path, fmt.Sprintf("write `%s`", strings.ToLower(e)), "the endpoint's name has capital letters")
	case len(validation.IsDNS1123Subdomain(host)) > 0 || strings.Trim(last, "0123456789") == "":
		k.refuse(path, example, "`%s` is not a DNS name", host)
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		k.refuse(path, example, "`%s` is a different machine on every host", host)
	case host == "cluster.local" || strings.HasSuffix(host, ".cluster.local"):
		k.refuse(path, example, "cluster.local belongs to the cluster's own DNS, so pods could not resolve `%s`", host)
	case slices.Contains(apiServiceNames, host):
		k.refuse(path, example, "`%s` is the name of the API's Service inside the cluster: pods would resolve it to another address than hosts", host)
	case k.hasHost(host):
		k.refuse(path, example, "`%s` is also the name of a host; the endpoint must be able to move between hosts", host)
	}
}

// apiServiceNames are the names under which pods reach the Service of the API; those below cluster.local are refused anyway.
var apiServiceNames = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"}

// Limits of DNS names (RFC 1035), in the form in which they are written.
const (
	maxDNSName  = 253
	maxDNSLabel = 63
)

// dnsLength says which limit of the DNS a name exceeds; empty if it exceeds none.
func dnsLength(name string) string {
	if len(name) > maxDNSName {
		return fmt.Sprintf("it has %d characters, but DNS allows %d", len(name), maxDNSName)
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > maxDNSLabel {
			return fmt.Sprintf("`%s` has %d characters, but DNS allows %d between two dots", label, len(label), maxDNSLabel)
		}
	}
	return ""
}

func (k *checker) hasHost(name string) bool {
	_, ok := k.c.Host(name)
	return ok
}

func (k *checker) balancer() {
	lb := k.c.Spec.LoadBalancer
	const path = "spec.loadBalancer.address"
	k.choose("spec.loadBalancer.type", "LoadBalancer.type", lb.Type)
	balancers := "the load-balancer hosts"
	if len(k.c.HostsWith(RoleLoadBalancer)) == 0 {
		balancers = "the control planes"
	}
	switch {
	case lb.Address != "":
		k.address(path, lb.Address)
	case lb.Type == BalancerManaged && !k.opts.Lab:
		k.refuse(path, "choose a free address in the subnet of "+balancers+", which it moves between",
			"the managed load balancer has no virtual IP")
	}
	const most = "spec.loadBalancer.maxConnections"
	switch n := lb.MaxConnections; {
	case n == 0:
	case lb.Type == BalancerExternal:
		k.refuse(most, "remove it, and set the limit in your load balancer", "it belongs to managed load balancers, and yours is external")
	case n < MinConnections || n > MaxConnections:
		k.refuse(most, fmt.Sprintf("use a number from %d to %d; the default is %d", MinConnections, MaxConnections, k.c.ForSize().Connections), "a load balancer cannot accept %d connections", n)
	}
}

// size refuses what Kubernetes does not support.
func (k *checker) size() {
	s := k.c.Spec.Size
	const nodesPath, podsPath = "spec.size.nodes", "spec.size.pods"
	if s.Nodes < 0 || s.Nodes > size.MaxNodes {
		k.refuse(nodesPath, fmt.Sprintf("use a number from 1 to %d, or split the cluster", size.MaxNodes), "Kubernetes supports no cluster of %d nodes", s.Nodes)
	}
	if s.Pods < 0 || s.Pods > size.MaxPods {
		k.refuse(podsPath, fmt.Sprintf("use a number from 1 to %d, or split the cluster", size.MaxPods), "Kubernetes supports no cluster of %d pods", s.Pods)
	}
}

// address refuses what cannot be a machine's address. Addresses are compared as text in many places, so there is one spelling of each.
func (k *checker) address(path, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	const fix = "use the IP address at which the other hosts reach it"
	switch {
	case err != nil && strings.Contains(s, "/"):
		k.refuse(path, "leave out the prefix length", "`%s` is a network, not an address", s)
	case err != nil && (strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && strings.Contains(s, "]:")):
		k.refuse(path, "leave out the port; the SSH port is ssh.port", "`%s` is not an IP address", s)
	case err != nil && bracketed(s) != "":
		k.refuse(path, "write `"+bracketed(s)+"`", "`%s` has brackets, which belong to an address with a port", s)
	case err != nil:
		k.refuse(path, fix+": etcd and certificates need an address that does not depend on DNS", "`%s` is not an IP address", s)
	case a.Is4In6():
		k.refuse(path, "write `"+a.Unmap().String()+"`", "`%s` is an IPv4 address in the form of an IPv6 address", s)
	case a.Is6() && a.IsLinkLocalUnicast():
		k.refuse(path, "use a global address or a unique local one (fd00::/8)", "%s is a link-local address, which exists on every interface: certificates, URLs, and routers cannot use it", s)
	case a.Zone() != "":
		k.refuse(path, "write `"+a.WithZone("").String()+"`", "`%s` names an interface", s)
	case a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		k.refuse(path, fix, "no other machine can reach %s", s)
	case a.String() != s:
		k.refuse(path, "write `"+a.String()+"`", "`%s` is not the usual form of this address: certificates, and lists of members, contain the usual one", s)
	default:
		return a, true
	}
	return netip.Addr{}, false
}

// bracketed is the IPv6 address between brackets; empty if it is none.
func bracketed(s string) string {
	if !strings.HasPrefix(s, "[") || !strings.HasSuffix(s, "]") {
		return ""
	}
	a, err := netip.ParseAddr(s[1 : len(s)-1])
	if err != nil {
		return ""
	}
	return a.String()
}

func (k *checker) network() {
	n := k.c.Spec.Network
	k.cni(n)
	const podPath, servicePath = "spec.network.podCIDR", "spec.network.serviceCIDR"
	pods, podsOK := k.cidrs(podPath, n.PodCIDR, Family.podExample)
	services, servicesOK := k.cidrs(servicePath, n.ServiceCIDR, Family.serviceExample)
	for _, p := range pods {
		k.podRange(podPath, p)
	}
	for _, p := range services {
		k.serviceRange(servicePath, p)
	}
	same := podsOK && servicesOK
	if same {
		if have, want := familiesOf(services), familiesOf(pods); !slices.Equal(have, want) {
			same = false
			var example []string
			for _, f := range want {
				example = append(example, limitsOf[f].services)
			}
			k.refuse(servicePath, "give the Services a range of each family of the pods, in the same order, such as "+strings.Join(example, ","),
				"the pods have %s, but the Services %s", andFamilies(want), andFamilies(have))
		}
	}
	for _, s := range services {
		for _, p := range pods {
			if p.Overlaps(s) {
				l := limitsOf[familyOf(p.Addr())]
				k.refuse(servicePath, "choose ranges that do not overlap, such as "+l.pods+" and "+l.services,
					"%s overlaps the pods' %s: an address could belong to a pod or a Service", s, p)
			}
		}
	}
	for _, p := range pods {
		k.keepsClear(podPath, "pods", p)
	}
	for _, p := range services {
		k.keepsClear(servicePath, "services", p)
	}
	k.podTraffic(pods, services)
	if same {
		k.families()
	}
}

// podTraffic checks the network that carries the packets of pods between nodes.
func (k *checker) podTraffic(pods, services []netip.Prefix) {
	const path = "spec.network.podTrafficCIDR"
	n := k.c.Spec.Network
	if n.PodTrafficCIDR == "" {
		return
	}
	if n.CNI != CNIFlannel {
		k.refuse(path, "remove it, and tell your plugin which interface it is to use", "it is for flannel, but this is `cni: %s`", n.CNI)
		return
	}
	all, ok := k.cidrs(path, n.PodTrafficCIDR, func(f Family) string { return map[Family]string{IPv4: "10.1.0.0/24", IPv6: "fd00:1::/64"}[f] })
	if !ok {
		return
	}
	if have, want := familiesOf(all), familiesOf(pods); !slices.Equal(have, want) && len(pods) > 0 {
		k.refuse(path, "give it a range of each family of the pods, in the same order", "the pods have %s, but the network between their nodes %s", andFamilies(want), andFamilies(have))
	}
	for _, p := range all {
		if p.Addr().Is6() && p.Bits()%16 != 0 {
			k.refuse(path, fmt.Sprintf("use a /%d", p.Bits()/16*16), "flannel finds its interface by the text of its addresses: a range of IPv6 needs a prefix length that is a multiple of 16, such as a /64")
		}
		for _, other := range slices.Concat(pods, services) {
			if p.Overlaps(other) {
				k.refuse(path, "write the network in which the nodes have their addresses", "%s overlaps %s, a range of pods or Services", p, other)
			}
		}
		// flannel would announce the virtual IP as the address of the node that has it.
		if vip, err := netip.ParseAddr(k.c.Spec.LoadBalancer.Address); err == nil && p.Contains(vip) && slices.ContainsFunc(k.c.BalancerHosts(), Host.IsNode) {
			k.refuse(path, "use another virtual IP, load balancers on hosts of their own, or a range without the virtual IP", "%s contains the virtual IP %s, which nodes have: flannel would take it for the address of the node", p, vip)
		}
	}
}

func (f Family) podExample() string     { return limitsOf[f].pods }
func (f Family) serviceExample() string { return limitsOf[f].services }

func familiesOf(all []netip.Prefix) (out []Family) {
	for _, p := range all {
		out = append(out, familyOf(p.Addr()))
	}
	return out
}

func andFamilies(all []Family) string {
	if len(all) == 1 {
		return "only " + string(all[0])
	}
	return string(all[0]) + " first, then " + string(all[1])
}

// podRange checks the size of a range of pods.
func (k *checker) podRange(path string, pods netip.Prefix) {
	nodes, _ := k.c.Planned()
	l := limitsOf[familyOf(pods.Addr())]
	switch bits := pods.Bits(); {
	case bits < l.minPodBits:
		k.refuse(path, fmt.Sprintf("use a /%d or smaller", l.minPodBits), "%s is too large: kubeadm accepts at most 65,536 node ranges", pods)
	case bits > l.nodeBits:
		k.refuse(path, l.largeEnough(nodes), "%s is too small: each node gets a /%d of it", pods, l.nodeBits)
	case 1<<(l.nodeBits-bits) < nodes:
		k.refuse(path, l.largeEnough(nodes),
			"%s is too small: each node gets a /%d, which is enough for %d nodes, but there are %d, or are to be", pods, l.nodeBits, 1<<(l.nodeBits-bits), nodes)
	}
}

// serviceRange checks the size of a range of Services.
func (k *checker) serviceRange(path string, services netip.Prefix) {
	l := limitsOf[familyOf(services.Addr())]
	switch bits := services.Bits(); {
	case bits < l.minServiceBits:
		k.refuse(path, "use "+l.services+", or smaller", "%s is too large: Kubernetes accepts at most a /%d of services", services, l.minServiceBits)
	case bits > l.maxServiceBits:
		k.refuse(path, fmt.Sprintf("use a /%d or larger", l.maxServiceBits), "%s is too small: the cluster's DNS uses its tenth address", services)
	}
}

// keepsClear refuses a range that contains the address of a machine: pods could not reach that machine.
func (k *checker) keepsClear(path, what string, cidr netip.Prefix) {
	inside := func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err == nil && cidr.Contains(a)
	}
	const fix = "choose a range that no machine uses"
	for _, lab := range []netip.Prefix{LabRange, LabRange6} {
		if k.opts.Lab && cidr.Overlaps(lab) {
			k.refuse(path, fix, "%s overlaps %s, the range of lab machines", cidr, lab)
		}
	}
	if vip := k.c.Spec.LoadBalancer.Address; inside(vip) {
		k.refuse(path, fix, "the range %s of the %s contains the load balancer's address %s", cidr, what, vip)
	}
	var names []string
	for _, h := range k.c.Spec.Hosts {
		if slices.ContainsFunc(h.AllAddresses(), inside) {
			names = append(names, h.Name)
		}
	}
	if len(names) > 0 {
		k.refuse(path, fix, "the range %s of the %s contains the addresses of hosts: %s", cidr, what, few(names))
	}
	var endpoints []string
	for _, e := range k.c.Spec.Etcd.Endpoints {
		if u, err := url.Parse(e); err == nil && inside(u.Hostname()) {
			endpoints = append(endpoints, u.Hostname())
		}
	}
	if len(endpoints) > 0 {
		k.refuse(path, fix, "the range %s of the %s contains the addresses of your etcd: %s", cidr, what, few(endpoints))
	}
}

// cidrs parses a range, or one of each family. It returns those that are sound, and whether all are.
func (k *checker) cidrs(path, list string, example func(Family) string) (out []netip.Prefix, ok bool) {
	ok = true
	both := example(IPv4) + "," + example(IPv6)
	if strings.Contains(list, " ") {
		k.refuse(path, "separate two ranges with a comma, without spaces, such as "+both, "`%s` contains a space", list)
		return nil, false
	}
	for text := range strings.SplitSeq(list, ",") {
		e := example(IPv4)
		if strings.Contains(text, ":") {
			e = example(IPv6)
		}
		p, sound := k.cidr(path, text, e)
		if !sound {
			ok = false
			continue
		}
		out = append(out, p)
	}
	if families := familiesOf(out); ok && (len(families) > 2 || len(families) == 2 && families[0] == families[1]) {
		k.refuse(path, "use one range, or one of each IP family, such as "+both, "`%s` has several ranges of one family", list)
		return nil, false
	}
	return out, ok
}

// cidr parses a range that is written from its first address.
func (k *checker) cidr(path, s, example string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err == nil && p.Addr().Is4In6():
		k.refuse(path, "write it like "+example, "%s is an IPv4 range in the form of an IPv6 range", p)
	case err != nil:
		k.refuse(path, "write it like "+example, "`%s` is not an address range", s)
	case p != p.Masked():
		k.refuse(path, fmt.Sprintf("write %s", p.Masked()), "%s does not start with its first address", s)
	case p.Addr().IsLoopback(), p.Addr().IsMulticast(), p.Addr().IsLinkLocalUnicast(), p.Addr().IsUnspecified():
		k.refuse(path, "use a private range, such as "+example, "%s is not a range that machines can use", s)
	case p.String() != s:
		k.refuse(path, fmt.Sprintf("write %s", p), "`%s` is not the usual form of this range", s)
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// largeEnough says which range of pods gives each node its own.
func (l familyLimits) largeEnough(nodes int) string {
	bits := l.bitsFor(nodes)
	if bits < l.usualPodBits {
		return fmt.Sprintf("use at least a /%d", bits)
	}
	return fmt.Sprintf("use a /%d, or at least a /%d", l.usualPodBits, bits)
}

// bitsFor is the smallest range, by its prefix length, that gives each node its own.
func (l familyLimits) bitsFor(nodes int) int {
	bits := l.nodeBits
	for 1<<(l.nodeBits-bits) < nodes {
		bits--
	}
	return bits
}

var (
	userName  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.@\\-]*\$?$`)
	loginForm = regexp.MustCompile(`^(?:([^@\s]+)@)?([a-zA-Z0-9][a-zA-Z0-9.-]*|\[[0-9a-fA-F:.]+\])(?::([0-9]+))?$`)
)

func (k *checker) ssh(path string, s SSH) {
	if s.Address != "" {
		if _, err := netip.ParseAddr(s.Address); err != nil && len(validation.IsDNS1123Subdomain(strings.ToLower(s.Address))) > 0 {
			k.refuse(path+".address", "write it like 203.0.113.11 or cp-a.mgmt.example.com; user, port, and jump host are fields of their own", "`%s` is neither an address nor a DNS name", s.Address)
		}
	}
	if !userName.MatchString(s.User) {
		k.refuse(path+".user", "use a login name, such as root", "`%s` is not a user name", s.User)
	}
	if s.Port < 1 || s.Port > 65535 {
		k.refuse(path+".port", "use 22, or another number from 1 to 65535", "%d is not a port", s.Port)
	}
	if s.HostPort < 0 || s.HostPort > 65535 {
		k.refuse(path+".hostPort", "use a number from 1 to 65535, or remove it if sshd has the same port there", "%d is not a port", s.HostPort)
	}
	if s.HostKey != "" {
		if _, err := hostkey.Parse(s.HostKey); err != nil {
			k.refuse(path+".hostKey", "copy the fingerprint from `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host, or the contents of that file",
				"`%s` is not a host key: %s", s.HostKey, err)
		}
	}
	k.jump(path, s)
}

// CheckJump checks flags that stand for ssh.jump and ssh.jumpKeyFile.
func CheckJump(s SSH) error {
	k := &checker{c: &Cluster{}}
	k.jump("ssh", s)
	return k.errs.orNil()
}

// jump checks the jump hosts in front of a host, and their keys.
func (k *checker) jump(path string, s SSH) {
	if s.Jump == "" {
		if s.JumpKeyFile != "" {
			k.refuse(path+".jumpKeyFile", "set jump, or remove it", "it is the key for a jump host, and there is none")
		}
		return
	}
	for jump := range strings.SplitSeq(s.Jump, ",") {
		_, name, _, ok := login(jump)
		switch {
		case !ok:
			k.refuse(path+".jump", "write user@address:port; separate several jump hosts by commas, without spaces", "`%s` is not a jump host", jump)
			return
		case dnsLength(name) != "":
			k.refuse(path+".jump", "use the name or address at which SSH reaches it", "the jump host's name cannot be resolved: %s", dnsLength(name))
			return
		}
	}
	keys, hops := strings.Split(s.JumpKeyFile, ","), strings.Count(s.Jump, ",")+1
	switch {
	case len(keys) > 1 && len(keys) != hops:
		k.refuse(path+".jumpKeyFile", "name one key for all jump hosts, or one for each of them, separated by commas, in the order of jump", "`%s` has %d keys, and jump names %d", s.JumpKeyFile, len(keys), hops)
	case slices.ContainsFunc(keys, func(key string) bool { return key != strings.TrimSpace(key) }):
		k.refuse(path+".jumpKeyFile", "separate several keys by commas, without spaces", "`%s` has a space before or after a key", s.JumpKeyFile)
	}
}

// login splits user@address:port. Without a user or a port, these are empty and 0. An IPv6 address with a port is in brackets, as in URLs;
// without one, it may be.
func login(s string) (user, address string, port int, ok bool) {
	user, rest, given := strings.Cut(s, "@")
	if !given {
		user, rest = "", s
	}
	if a, err := netip.ParseAddr(rest); err == nil && a.Is6() {
		return user, a.String(), 0, !given || userName.MatchString(user)
	}
	m := loginForm.FindStringSubmatch(s)
	if m == nil || m[1] != "" && !userName.MatchString(m[1]) {
		return "", "", 0, false
	}
	if m[3] != "" {
		n, err := strconv.Atoi(m[3])
		if err != nil || n < 1 || n > 65535 {
			return "", "", 0, false
		}
		port = n
	}
	if address = m[2]; strings.HasPrefix(address, "[") {
		if address = bracketed(address); address == "" {
			return "", "", 0, false
		}
	}
	return m[1], address, port, true
}

// ParseLogin reads user@address:port: where a host is, and how SSH reaches it. The user and the port may be missing.
func ParseLogin(s string) (address string, ssh SSH, err error) {
	user, address, port, ok := login(s)
	switch {
	case !ok:
		return "", SSH{}, fmt.Errorf("`%s` is not a host: write user@address or user@address:port, such as root@10.0.0.11", s)
	case dnsLength(address) != "":
		return "", SSH{}, fmt.Errorf("the name of the host cannot be resolved: %s", dnsLength(address))
	}
	return address, SSH{User: user, Port: port}, nil
}
