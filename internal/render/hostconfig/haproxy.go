package hostconfig

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/spec"
)

// HAProxy's backends, in the order in which a new connection chooses among them: the first that has a server.
const (
	// PoolWithEtcd contains the API servers that are ready, their connection to etcd included.
	PoolWithEtcd = "control-planes"
	// PoolWithoutEtcd contains those that are ready apart from etcd. It serves while none of them has an etcd leader.
	PoolWithoutEtcd = "without-etcd"
	// PoolListening contains those that accept TCP connections. It serves while every one of them is too busy to answer its
	// checks in time, as the only one that runs may be while a cluster is built.
	PoolListening = "listening"
	// PoolUnchecked contains all API servers. It serves while every check fails: then the checks are wrong, or the whole
	// site stalls, and any server is better than none.
	PoolUnchecked = "unchecked"
)

// Pools are HAProxy's backends, in the order of choice.
var Pools = []string{PoolWithEtcd, PoolWithoutEtcd, PoolListening, PoolUnchecked}

// limits of HAProxy. A node holds about ten connections (kubelet, kube-proxy, flannel, agents in the host's network), and one or two for
// each of its pods that use the API. An idle connection costs HAProxy 3.4 KiB and two file descriptors.
type limits struct {
	connections int
	// perSource leaves room for an office or a build farm behind one address. It is a sixteenth of all connections: no single client can
	// use them up.
	perSource int
	// perNode is the limit of a source in the cluster's networks. The pods of a node arrive with its address, and their connections must
	// not keep its kubelet out.
	perNode int
	// others is how many connections are left to sources outside of the cluster's networks.
	others int
}

func limitsOf(c *spec.Cluster) limits {
	n := cmp.Or(c.Spec.LoadBalancer.MaxConnections, c.ForSize().Connections)
	return limits{connections: n, perSource: n / 16, perNode: n / 8, others: n - n/4}
}

const (
	// refusalsLogged is how many refusals of one source are logged within ten seconds.
	refusalsLogged = 5
	// openFiles are two sockets for each of as many connections as a spec can ask for, and those for checks and listeners. It
	// does not depend on the spec: a limit of systemd changes only with a restart.
	openFiles = 2*spec.MaxConnections + 4000
)

// haproxyDropIn makes the unit the same on every distribution: RHEL's has no runtime directory and reads further files, and
// Debian's mounts a log socket that need not exist. The master process is root, but it neither talks to clients nor sees
// the cluster's keys.
var haproxyDropIn = `[Unit]
StartLimitIntervalSec=0

[Service]
RuntimeDirectory=haproxy
RuntimeDirectoryPreserve=yes
BindReadOnlyPaths=
ExecStartPre=
ExecStart=
ExecStart=/usr/sbin/haproxy -Ws -f ` + HAProxyFile + ` -p /run/haproxy.pid -S ` + HAProxyMasterSocket + `,mode,600
ExecReload=
ExecReload=/usr/sbin/haproxy -c -f ` + HAProxyFile + `
ExecReload=/bin/kill -USR2 $MAINPID
# More than the largest maxconn needs, so that it can be changed without a restart.
LimitNOFILE=` + strconv.Itoa(openFiles) + `
CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_SYS_CHROOT CAP_KILL
InaccessiblePaths=-/etc/kubernetes -/var/lib/etcd -/var/lib/kubelet
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
` + keepsRunning + `RestartSec=100ms
`

// pool is what a backend needs to know.
type pool struct {
	endpoint string // the name in the API servers' certificates
	check    string // the settings that verify them
	servers  []spec.Host
}

func (p pool) list() string {
	var b strings.Builder
	for _, cp := range p.servers {
		fmt.Fprintf(&b, "    server %s %s\n", cp.Name, net.JoinHostPort(cp.Address, APIPort))
	}
	return b.String()
}

func haproxyConfig(c *spec.Cluster, h spec.Host, m manner) string {
	p := pool{endpoint: EndpointHost(c), check: fmt.Sprintf(m.check, EndpointHost(c)), servers: byName(c.HostsWith(spec.RoleControlPlane))}
	most := limitsOf(c)
	return fmt.Sprintf(`# %[1]s
global
    # Clients talk to a process that is not root and has an empty root directory.
    user %[2]s
    group %[2]s
    chroot /var/lib/haproxy
    # To the journal. HAProxy itself prints there which servers go down and come up.
    log stderr format short daemon
    maxconn %[3]d
    # After a reload, connections of the old process live this long. It no longer checks servers.
    hard-stop-after 30s
    stats socket %[4]s mode 600 level admin

defaults
    mode tcp
    # A vanished host must not use up a client's timeout: give up early and try another one.
    timeout connect 300ms
    retries 3
    option redispatch 1
    # Watches can be silent for long. Keep-alives and tcp-ut detect dead peers; idleness proves nothing.
    timeout client 1h
    timeout server 1h
    option clitcpka
    option srvtcpka

frontend api
%[5]s    # Only connections that did not end normally: refused, timed out, without a server, closed because of one.
    log global
    option tcplog
    option dontlog-normal
    # One source cannot use up all connections, and sources outside the cluster leave some for its hosts.
    stick-table type %[12]s size 32k expire 10m store conn_cur,gpc0,gpc0_rate(10s)
%[6]s    acl greedy sc0_conn_cur gt %[7]d
    # The pods of a node arrive with its address.
    acl excessive sc0_conn_cur gt %[8]d
    acl crowded fe_conn gt %[9]d
    acl logged sc0_gpc0_rate ge %[10]d
    tcp-request connection track-sc0 src
    tcp-request connection reject if greedy !cluster logged
    tcp-request connection reject if excessive logged
    tcp-request connection reject if crowded !cluster logged
    # Counted here, where connections come one by one: many of them can be on the way to the rules below.
    tcp-request connection sc-inc-gpc0(0) if greedy !cluster or excessive or crowded !cluster
    tcp-request content reject if greedy !cluster
    tcp-request content reject if excessive
    tcp-request content reject if crowded !cluster
%[11]s
frontend alive
    mode http
    timeout client 5s
    bind 127.0.0.1:8404
    monitor-uri /alive
`, fmt.Sprintf(m.head, c.Metadata.Name), HAProxyUser, most.connections, HAProxySocket, binds(c, h), clusterACL(c), most.perSource, most.perNode, most.others, refusalsLogged, m.backends(p), sourceType(c))
}

// servedPrefix begins the comment that says which endpoints a load balancer serves: while the API does not answer, nothing else does.
const servedPrefix = "# Endpoints:"

// Served are the endpoints that HAProxy's configuration says it serves, for ParseServed.
func Served(haproxy string) []string {
	for line := range strings.Lines(haproxy) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), servedPrefix); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

// ParseServed reads one of Served.
func ParseServed(text string) (spec.Endpoint, error) {
	at, address, _ := strings.Cut(text, "@")
	name, port, err := net.SplitHostPort(at)
	return spec.Endpoint{Name: name, Port: port, Address: address}, err
}

// sourceType is the type of the table of sources. A table of IPv6 addresses also holds those of IPv4, but not the other way round.
func sourceType(c *spec.Cluster) string {
	if slices.ContainsFunc(c.Endpoints(), func(e spec.Endpoint) bool { return isIPv6(e.Address) }) {
		return "ipv6"
	}
	return "ip"
}

func isIPv6(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && a.Is6()
}

func binds(c *spec.Cluster, h spec.Host) string {
	var b strings.Builder
	b.WriteString("    " + servedPrefix)
	for _, e := range c.Endpoints() {
		b.WriteString(" " + e.HostPort() + "@" + e.Address)
	}
	b.WriteString("\n")
	for _, address := range listenOn(c, h) {
		fmt.Fprintf(&b, "    bind %s tcp-ut 5s\n", address)
	}
	return b.String()
}

// clusterACL names the networks of the cluster's hosts, and that of its pods: those on the holder of the virtual IP, and those of some
// pod networks, arrive with their own address. It uses networks instead of addresses, because a new host is usually in one of them, and
// HAProxy then need not reload.
func clusterACL(c *spec.Cluster) string {
	const perLine = 16 // HAProxy accepts 64 words on a line
	var networks []string
	for _, pods := range c.Spec.Network.PodCIDRs() {
		networks = append(networks, pods.Masked().String())
	}
	for _, h := range c.Spec.Hosts {
		for _, text := range h.AllAddresses() {
			a, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			bits := 24
			if a.Is6() {
				bits = 64
			}
			if network, err := a.Prefix(bits); err == nil {
				networks = append(networks, network.String())
			}
		}
	}
	slices.Sort(networks)
	var b strings.Builder
	for line := range slices.Chunk(slices.Compact(networks), perLine) {
		fmt.Fprintf(&b, "    acl cluster src %s\n", strings.Join(line, " "))
	}
	return b.String()
}

// watchedBackends never close a connection because of a check: a server that is slow gets no new connections, and the
// watchdog decides whether it hangs.
func watchedBackends(p pool) string {
	return fmt.Sprintf(`    use_backend %[1]s if { nbsrv(%[1]s) gt 0 }
    # During an election no API server has an etcd leader.
    use_backend %[2]s if { nbsrv(%[2]s) gt 0 }
    # All may be busy. Those that do not even listen would only cost attempts.
    use_backend %[3]s if { nbsrv(%[3]s) gt 0 }
    # When every check fails, the checks are wrong, or the whole site stalls: any server is better than none.
    default_backend %[4]s

backend %[1]s
    balance roundrobin
%[5]s    default-server check check-ssl %[6]s
    # Without timeout check, inter bounds a whole check. With it, timeout connect would bound the TLS handshake.
    default-server inter 600ms fastinter 200ms downinter 500ms fall 2 rise 2 observe layer4 on-error mark-down tcp-ut 2s
%[7]s
backend %[2]s
    balance roundrobin
%[8]s    default-server check check-ssl %[6]s
    default-server inter 2s fastinter 500ms downinter 1s fall 2 rise 2 tcp-ut 2s
%[7]s
backend %[3]s
    balance roundrobin
    default-server check inter 1s fall 1 rise 1 tcp-ut 2s
%[7]s
backend %[4]s
    balance roundrobin
    default-server tcp-ut 2s
%[7]s`, PoolWithEtcd, PoolWithoutEtcd, PoolListening, PoolUnchecked, p.ask(ReadyWithEtcd), p.check, p.list(), p.ask(readyWithoutEtcd))
}

// An API server asks etcd twice at /readyz, one after the other: for the check etcd, as at /livez, and for etcd-readiness, whose timeout is
// shorter with the failover profile fast (see etcdReadyTimeout). The former would delay the answer for two seconds.
const (
	// ReadyWithEtcd is the path at which an API server says that it is ready, its connection to etcd included.
	ReadyWithEtcd    = "/readyz?exclude=etcd"
	readyWithoutEtcd = "/readyz?exclude=etcd&exclude=etcd-readiness"
)

func (p pool) ask(uri string) string {
	return fmt.Sprintf("    option httpchk\n    http-check send meth GET uri %s ver HTTP/1.1 hdr Host %s\n    http-check expect status 200\n", uri, p.endpoint)
}
