package hostconfig

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Places on a load balancer that other packages speak to.
const (
	// HAProxySocket answers HAProxy's statistics and commands.
	HAProxySocket = "/run/haproxy/quorate.sock"
	// HAProxyMonitor answers 200 while HAProxy's own event loop turns; it asks no apiserver.
	HAProxyMonitor = "http://127.0.0.1:8404/alive"
	// HAProxyBackend is the checked pool of apiservers.
	HAProxyBackend = "control-planes"
	// FaultFile holds 1 while the watchdog finds HAProxy hung; keepalived then gives the virtual IP away.
	FaultFile = "/run/quorate/haproxy-fault"
	// AsideFile makes the watchdog do the same for a while, for as long as the file is new.
	AsideFile = "/run/quorate/stand-aside"
	// WatchdogUnit is the systemd unit of the watchdog.
	WatchdogUnit = "quorate-watchdog.service"
	// SelfPath is a link to the quorate binary that units may run.
	SelfPath = "/var/lib/quorate/bin/quorate"

	// APIPort is where every apiserver listens.
	APIPort = "6443"

	haproxyFile          = "/etc/haproxy/haproxy.cfg"
	haproxyDropInFile    = "/etc/systemd/system/haproxy.service.d/quorate.conf"
	haproxyCA            = "/etc/haproxy/quorate-ca.crt"
	keepalivedDropInFile = "/etc/systemd/system/keepalived.service.d/quorate.conf"
	keepalivedFile       = "/etc/keepalived/keepalived.conf"
	balancerSysctls      = "/etc/sysctl.d/91-quorate-balancer.conf"
)

// Balancer is HAProxy, keepalived and the watchdog between them on a host that balances.
// docs/failover.md says what each setting is for.
func Balancer(c *spec.Cluster, h spec.Host, f *facts.Facts, ca string) facts.Desired {
	link, _ := f.Interface(h.Address)
	d := facts.Desired{
		Files: []facts.File{
			{Path: haproxyCA, Content: ca, ClusterCA: true, Restart: []string{"haproxy.service"}},
			{Path: haproxyFile, Content: haproxyConfig(c, h, watched), Keep: true, Restart: []string{"haproxy.service"}},
			{Path: haproxyDropInFile, Content: haproxyDropIn, Restart: []string{"haproxy.service"}},
			{Path: "/etc/systemd/system/" + WatchdogUnit, Content: watchdogUnit, Restart: []string{WatchdogUnit}},
			{Path: keepalivedFile, Content: keepalivedConfig(c, h, watched, link.Interface, strconv.Itoa(link.Prefix)), Keep: true, Restart: []string{"keepalived.service"}},
			{Path: keepalivedDropInFile, Content: keepalivedDropIn, Restart: []string{"keepalived.service"}},
		},
		Self:   SelfPath,
		Enable: []string{"haproxy.service", WatchdogUnit, "keepalived.service"},
	}
	listenBeforeHaving(&d, h)
	return d
}

// listenBeforeHaving lets HAProxy listen on the virtual IP also while another host has it, where it listens on that alone.
func listenBeforeHaving(d *facts.Desired, h spec.Host) {
	if h.Has(spec.RoleControlPlane) {
		const nonlocal = "net.ipv4.ip_nonlocal_bind"
		d.Sysctls = map[string]string{nonlocal: "1"}
		d.Files = append(d.Files, facts.File{Path: balancerSysctls, Content: nonlocal + " = 1\n"})
	}
}

// manner is in what the balancers that Quorate looks after differ from those that a person sets up.
type manner struct {
	head   string // what the files say of themselves
	check  string // how HAProxy makes sure whom it asks
	define string // what keepalived tracks
	track  string // and how
}

// watched is Quorate's: HAProxy knows the cluster's CA, and keepalived believes the watchdog.
var watched = manner{
	head:   "Written by quorate for the cluster %s. Changes are undone by the next quorate apply.",
	check:  "verify required ca-file " + haproxyCA + " verifyhost %[1]s check-sni %[1]s",
	define: "vrrp_track_file haproxy {\n    file " + FaultFile + "\n}",
	track:  "track_file {\n        haproxy weight -254\n    }",
}

// SharesAPIPort says whether HAProxy and kube-apiserver listen on one port of one host: HAProxy on the virtual IP alone,
// kube-apiserver on every address. The kernel gives a connection to the listener whose address is the more specific, and
// lets the two be side by side only when both ask for it (SO_REUSEPORT), as HAProxy does by itself.
func SharesAPIPort(c *spec.Cluster) bool {
	return EndpointPort(c) == APIPort && slices.ContainsFunc(c.BalancerHosts(), func(h spec.Host) bool { return h.Has(spec.RoleControlPlane) })
}

// listenOn is where HAProxy takes the endpoint's connections: on a host with an apiserver, the virtual IP only.
func listenOn(c *spec.Cluster, h spec.Host) string {
	if h.Has(spec.RoleControlPlane) {
		return c.Spec.LoadBalancer.Address + ":" + EndpointPort(c)
	}
	return ":" + EndpointPort(c)
}

func haproxyConfig(c *spec.Cluster, h spec.Host, m manner) string {
	var servers, unchecked strings.Builder
	for _, cp := range byName(c.HostsWith(spec.RoleControlPlane)) {
		fmt.Fprintf(&servers, "    server %s %s:6443\n", cp.Name, cp.Address)
		fmt.Fprintf(&unchecked, "    server %s %s:6443 tcp-ut 2s\n", cp.Name, cp.Address)
	}
	return fmt.Sprintf(`# %[1]s
global
    maxconn 8000
    stats socket %[2]s mode 600 level admin

defaults
    mode tcp
    # A vanished host must not use up a client's patience: give up soon and try another one.
    timeout connect 300ms
    retries 3
    option redispatch 1
    # Watches are silent for long. Dead peers are found by keep-alives and by tcp-ut, never by idleness.
    timeout client 1h
    timeout server 1h
    option clitcpka
    option srvtcpka

frontend api
    bind %[3]s tcp-ut 5s
    # When every check fails at once the checks are wrong, or the whole site stalls: any server is better than none.
    use_backend unchecked if { nbsrv(%[4]s) eq 0 }
    default_backend %[4]s

backend %[4]s
    balance roundrobin
    option httpchk
    # Without the etcd checks: during an election every apiserver would fail them at the same moment.
    http-check send meth GET uri /readyz?exclude=etcd&exclude=etcd-readiness ver HTTP/1.1 hdr Host %[5]s
    http-check expect status 200
    default-server check check-ssl %[6]s
    # Without a timeout for checks of their own, inter bounds a whole check. With one, its connection and TLS handshake
    # would be bounded by timeout connect, and an apiserver that is only busy would be taken for dead.
    default-server inter 600ms fastinter 200ms downinter 500ms fall 2 rise 2
    # A dead server's connections are closed at once; otherwise HTTP/2 clients stay pinned to it.
    default-server on-marked-down shutdown-sessions observe layer4 on-error mark-down tcp-ut 2s
%[7]s
backend unchecked
    balance roundrobin
%[8]s
frontend alive
    mode http
    timeout client 5s
    bind 127.0.0.1:8404
    monitor-uri /alive
`, fmt.Sprintf(m.head, c.Metadata.Name), HAProxySocket, listenOn(c, h), HAProxyBackend, EndpointHost(c), fmt.Sprintf(m.check, EndpointHost(c)), servers.String(), unchecked.String())
}

// ahead lets what carries the endpoint run before everything else on its host: a balancer that waits for the processor
// for half a second is taken for dead.
const ahead = `Nice=-15
CPUWeight=1000
`

const haproxyDropIn = `[Unit]
StartLimitIntervalSec=0

[Service]
# Two sockets for each of maxconn connections, and some.
LimitNOFILE=16384
` + ahead + `Restart=always
RestartSec=100ms
`

const keepalivedDropIn = `[Unit]
StartLimitIntervalSec=0

[Service]
RuntimeDirectory=quorate
RuntimeDirectoryPreserve=yes
` + keepsUp

const keepsUp = ahead + `Restart=always
RestartSec=500ms
`

const watchdogUnit = `[Unit]
Description=Watches HAProxy and moves the virtual IP away while it hangs
Before=keepalived.service
StartLimitIntervalSec=0

[Service]
RuntimeDirectory=quorate
RuntimeDirectoryPreserve=yes
ExecStart=` + SelfPath + ` host watchdog
` + keepsUp + `
[Install]
WantedBy=multi-user.target
`

// keepalivedConfig lets the balancers share the virtual IP. keepalived asks nobody through HAProxy, so an outage
// of apiservers never moves the address; the watchdog's file does, when this host's own HAProxy hangs or is gone.
func keepalivedConfig(c *spec.Cluster, h spec.Host, m manner, link, prefix string) string {
	var peers strings.Builder
	priority := 100
	for i, lb := range byName(c.BalancerHosts()) {
		if lb.Name == h.Name {
			priority = 200 - i
			continue
		}
		fmt.Fprintf(&peers, "        %s min_ttl 255\n", lb.Address)
	}
	return fmt.Sprintf(`# %[1]s
global_defs {
    router_id %[2]s
    vrrp_version 3
    # VRRP version 3 knows no passwords: only the peers are heard, and only from the same network segment (min_ttl).
    vrrp_check_unicast_src
    vrrp_garp_master_delay 1
    vrrp_garp_master_repeat 3
    vrrp_garp_master_refresh 10
}

%[3]s

vrrp_instance api {
    # Both start as BACKUP and a returned host takes nothing back: every move of the address is an outage.
    state BACKUP
    nopreempt
    interface %[4]s
    virtual_router_id %[5]d
    priority %[6]d
    advert_int 0.1
    # A holder that is paused for a moment is not gone, and every move of the address cuts all connections.
    down_timer_adverts 6
    unicast_src_ip %[7]s
    unicast_peer {
%[8]s    }
    %[11]s
    virtual_ipaddress {
        %[9]s/%[10]s dev %[4]s
    }
}
`, fmt.Sprintf(m.head, c.Metadata.Name), h.Name, m.define, link, routerID(c), priority, h.Address, peers.String(), c.Spec.LoadBalancer.Address, prefix, m.track)
}

// routerID keeps clusters on one network apart; VRRP has room for 1 to 255.
func routerID(c *spec.Cluster) int {
	h := fnv.New32a()
	h.Write([]byte(c.Spec.LoadBalancer.Address))
	return int(h.Sum32()%255) + 1
}
