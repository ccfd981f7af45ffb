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

// LabRange is the range of lab addresses: the benchmarking range of RFC 2544, which is not used in real networks.
var LabRange = netip.MustParsePrefix("198.18.0.0/15")

// Limits of kubeadm and the API server on the address ranges (kubeadm's constants.go: node mask 24,
// at most 16 bits of pod subnets, at most 20 bits and at least 10 addresses of services).
const (
	nodeBits       = 24
	minPodBits     = nodeBits - 16
	minServiceBits = 32 - 20
	maxServiceBits = 28
)

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

// address refuses what cannot be a machine's IPv4 address.
func (k *checker) address(path, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	const fix = "use the IPv4 address at which the other hosts reach it"
	switch {
	case err != nil && strings.Contains(s, "/"):
		k.refuse(path, "leave out the prefix length", "`%s` is a network, not an address", s)
	case err != nil && strings.Count(s, ":") == 1:
		k.refuse(path, "leave out the port; the SSH port is ssh.port", "`%s` is not an IP address", s)
	case err != nil:
		k.refuse(path, fix+": etcd and certificates need an address that does not depend on DNS", "`%s` is not an IP address", s)
	case !a.Is4():
		k.refuse(path, "use an IPv4 address", "IPv6 is not supported yet, and `%s` is IPv6", s)
	case a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		k.refuse(path, fix, "no other machine can reach %s", s)
	default:
		return a, true
	}
	return netip.Addr{}, false
}

func (k *checker) network() {
	n := k.c.Spec.Network
	k.cni(n)
	const podPath, servicePath = "spec.network.podCIDR", "spec.network.serviceCIDR"
	pods, podsOK := k.cidr(podPath, n.PodCIDR, DefaultPodCIDR)
	services, servicesOK := k.cidr(servicePath, n.ServiceCIDR, DefaultServiceCIDR)
	if podsOK {
		nodes, _ := k.c.Planned()
		switch bits := pods.Bits(); {
		case bits < minPodBits:
			k.refuse(podPath, fmt.Sprintf("use a /%d or smaller", minPodBits), "%s is too large: kubeadm accepts at most 65,536 node ranges", pods)
		case bits > nodeBits:
			k.refuse(podPath, largeEnough(nodes), "%s is too small: each node gets a /%d of it", pods, nodeBits)
		case 1<<(nodeBits-bits) < nodes:
			k.refuse(podPath, largeEnough(nodes),
				"%s is too small: each node gets a /%d, which is enough for %d nodes, but there are %d, or are to be", pods, nodeBits, 1<<(nodeBits-bits), nodes)
		}
	}
	if servicesOK {
		switch bits := services.Bits(); {
		case bits < minServiceBits:
			k.refuse(servicePath, "use "+DefaultServiceCIDR+", or smaller", "%s is too large: Kubernetes accepts at most a /%d of services", services, minServiceBits)
		case bits > maxServiceBits:
			k.refuse(servicePath, fmt.Sprintf("use a /%d or larger", maxServiceBits), "%s is too small: the cluster's DNS uses its tenth address", services)
		}
	}
	if podsOK && servicesOK && pods.Overlaps(services) {
		k.refuse(servicePath, "choose ranges that do not overlap, such as "+DefaultPodCIDR+" and "+DefaultServiceCIDR,
			"%s overlaps the pods' %s: an address could belong to a pod or a Service", services, pods)
	}
	for _, r := range []struct {
		path, what string
		cidr       netip.Prefix
		ok         bool
	}{{podPath, "pods", pods, podsOK}, {servicePath, "services", services, servicesOK}} {
		if r.ok {
			k.keepsClear(r.path, r.what, r.cidr)
		}
	}
}

// keepsClear refuses a range that contains the address of a machine: pods could not reach that machine.
func (k *checker) keepsClear(path, what string, cidr netip.Prefix) {
	inside := func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err == nil && cidr.Contains(a)
	}
	const fix = "choose a range that no machine uses"
	if k.opts.Lab && cidr.Overlaps(LabRange) {
		k.refuse(path, fix, "%s overlaps %s, the range of lab machines", cidr, LabRange)
	}
	if vip := k.c.Spec.LoadBalancer.Address; inside(vip) {
		k.refuse(path, fix, "the range %s of the %s contains the load balancer's address %s", cidr, what, vip)
	}
	var names []string
	for _, h := range k.c.Spec.Hosts {
		if inside(h.Address) {
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

// cidr parses an IPv4 range that is written from its first address.
func (k *checker) cidr(path, s, example string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	switch {
	case strings.Contains(s, ",") || strings.Contains(s, ":"):
		k.refuse(path, "use one IPv4 range, such as "+example, "IPv6 and dual-stack are not supported yet")
	case err != nil:
		k.refuse(path, "write it like "+example, "`%s` is not an address range", s)
	case p != p.Masked():
		k.refuse(path, fmt.Sprintf("write %s", p.Masked()), "%s does not start with its first address", s)
	case p.Addr().IsLoopback(), p.Addr().IsMulticast(), p.Addr().IsLinkLocalUnicast(), p.Addr().IsUnspecified():
		k.refuse(path, "use a private range, such as "+example, "%s is not a range that machines can use", s)
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// largeEnough says which range of pods gives each node its own.
func largeEnough(nodes int) string {
	bits := strconv.Itoa(bitsFor(nodes))
	if bitsFor(nodes) < 16 {
		return "use at least a /" + bits
	}
	return "use a /16, or at least a /" + bits
}

// bitsFor is the smallest range, by its prefix length, that gives each node its own.
func bitsFor(nodes int) int {
	bits := nodeBits
	for 1<<(nodeBits-bits) < nodes {
		bits--
	}
	return bits
}

var (
	userName  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.@\\-]*\$?$`)
	loginForm = regexp.MustCompile(`^(?:([^@\s]+)@)?([a-zA-Z0-9][a-zA-Z0-9.-]*)(?::([0-9]+))?$`)
)

func (k *checker) ssh(path string, s SSH) {
	if !userName.MatchString(s.User) {
		k.refuse(path+".user", "use a login name, such as root", "`%s` is not a user name", s.User)
	}
	if s.Port < 1 || s.Port > 65535 {
		k.refuse(path+".port", "use 22, or another number from 1 to 65535", "%d is not a port", s.Port)
	}
	if s.HostKey != "" {
		if _, err := hostkey.Parse(s.HostKey); err != nil {
			k.refuse(path+".hostKey", "copy the fingerprint from `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host, or the contents of that file",
				"`%s` is not a host key: %s", s.HostKey, err)
		}
	}
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
}

// login splits user@address:port. Without a user or a port, these are empty and 0.
func login(s string) (user, address string, port int, ok bool) {
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
	return m[1], m[2], port, true
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
