package spec

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// etcd checks the section about an existing etcd.
func (k *checker) etcd() {
	const path = "spec.etcd"
	e := k.c.Spec.Etcd
	if !e.given() || !k.sound(path) {
		return
	}
	if k.c.StackedEtcd() {
		k.refuse(path, "set controlPlane.topology: external, or remove it", "with the topology `stacked`, etcd runs on the control planes, so another etcd is not used")
		return
	}
	if len(e.Endpoints) == 0 {
		k.refuse(path+".endpoints", "name the client URL of each member, such as https://10.0.0.41:2379", "the files of an existing etcd are set, but none of its endpoints")
	}
	seen := map[string]int{}
	for i, s := range e.Endpoints {
		at := fmt.Sprintf("%s.endpoints[%d]", path, i)
		if first, twice := seen[s]; twice {
			k.refuse(at, "remove one of the two", "`%s` is already spec.etcd.endpoints[%d]%s", s, first, k.line(fmt.Sprintf("%s.endpoints[%d]", path, first)))
			continue
		}
		seen[s] = i
		k.etcdEndpoint(at, s)
	}
	for _, f := range []struct{ name, value, what string }{
		{"caFile", e.CAFile, "the CA certificate of its servers"},
		{"certFile", e.CertFile, "a client certificate that it accepts"},
		{"keyFile", e.KeyFile, "the key of the client certificate"},
	} {
		if f.value == "" {
			k.refuse(path+"."+f.name, "set it to the path of the file on this machine", "the existing etcd lacks %s", f.what)
		}
	}
}

// etcdEndpoint refuses what is not the client URL of one member, as every control plane can use it.
func (k *checker) etcdEndpoint(path, s string) {
	const example = "write it like https://10.0.0.41:2379"
	u, err := url.Parse(s)
	if err != nil || !strings.Contains(s, "://") {
		fix := example
		if _, _, err := net.SplitHostPort(s); err == nil {
			fix = fmt.Sprintf("write `https://%s`", s)
		}
		k.refuse(path, fix, "`%s` is not a URL", s)
		return
	}
	port, _ := strconv.Atoi(u.Port())
	address, notAddress := netip.ParseAddr(u.Hostname())
	switch {
	case u.Scheme == "http":
		k.refuse(path, fmt.Sprintf("configure etcd for TLS with client certificates, and write `https%s`", strings.TrimPrefix(s, "http")),
			"without TLS, anyone who can reach `%s` can read and change the whole cluster", s)
	case u.Scheme != "https":
		k.refuse(path, example, "`%s` is not a scheme that etcd supports", u.Scheme)
	case u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		k.refuse(path, example, "`%s` is not of the form https://host:port", s)
	case u.Port() == "":
		k.refuse(path, fmt.Sprintf("write `%s:2379` if etcd listens on that port", s), "`%s` has no port", s)
	case port < 1 || port > 65535:
		k.refuse(path, "use 2379, or the port that etcd listens on", "`%s` is not a port", u.Port())
	case u.Hostname() == "localhost" || notAddress == nil && (address.IsLoopback() || address.IsUnspecified()):
		k.refuse(path, "use the address at which the control planes reach it", "`%s` is a different machine on every host", u.Hostname())
	case notAddress == nil && len(k.c.Spec.Network.Families()) > 0 && !k.c.Spec.Network.Uses(familyOf(address)):
		k.refuse(path, fmt.Sprintf("use an %s address, or a name", k.c.Spec.Network.Families()[0]), "the control planes have no %s address to reach `%s` from", familyOf(address), u.Hostname())
	case notAddress != nil && dnsLength(u.Hostname()) != "":
		k.refuse(path, example, "the name cannot be resolved: %s", dnsLength(u.Hostname()))
	case notAddress == nil && u.Hostname() == k.c.Spec.LoadBalancer.Address:
		k.refuse(path, "use the address of the etcd member, or another virtual IP", "%s is also spec.loadBalancer.address%s", u.Hostname(), k.line("spec.loadBalancer.address"))
	case notAddress != nil && len(validation.IsDNS1123Subdomain(u.Hostname())) > 0:
		k.refuse(path, example, "`%s` is neither an address nor a DNS name", u.Hostname())
	}
}

// etcdRole checks a host that has the role against the topology and its other roles.
func (k *checker) etcdRole(path string, h Host) {
	i := slices.Index(h.Roles, RoleEtcd)
	if i < 0 {
		return
	}
	at := fmt.Sprintf("%s[%d]", path, i)
	switch topology := k.c.Spec.ControlPlane.Topology; {
	case topology == TopologyStacked:
		k.refuse(at, "set controlPlane.topology: external, or remove the role", "with the topology `stacked`, etcd runs on the control planes, not on its own hosts")
	case topology != TopologyExternal: // refused already
	case h.IsNode():
		k.refuse(at, "use a separate host for etcd, or the topology `stacked`", "etcd shares `%s` with Kubernetes, but the purpose of external etcd is that it fails and is maintained independently", h.Name)
	}
}

// etcdCount refuses an external topology without an etcd, with two, or with a number of members that tolerates
// no more than a smaller one.
func (k *checker) etcdCount() bool {
	hosts := k.c.HostsWith(RoleEtcd)
	switch n := len(hosts); {
	case k.c.StackedEtcd():
		return true
	case k.c.ExistingEtcd() && n > 0:
		k.refuse("spec.etcd.endpoints", "remove the endpoints, or the role", "there are two etcds: the existing one with these endpoints, and the hosts with the role etcd, such as `%s`", hosts[0].Name)
	case k.c.ExistingEtcd():
		return true
	case !k.sound("spec.etcd"): // its endpoints could not be read
	case n == 0:
		k.refuse("spec.controlPlane.topology", "give the role etcd to three hosts, each in its own zone; or set etcd.endpoints, caFile, certFile, and keyFile of an existing etcd",
			"the topology `external` needs an etcd, and there is none")
	case n == 1:
		k.refuse("spec.hosts", "use 3, which survive the loss of one, or 5, which survive two", "one etcd host is not highly available: if `%s` fails, the cluster fails", hosts[0].Name)
	default:
		return k.votes(n, "etcd hosts")
	}
	return false
}
