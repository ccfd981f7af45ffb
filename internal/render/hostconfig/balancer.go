package hostconfig

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Paths and names on a load balancer that other packages use.
const (
	// HAProxySocket is the socket for HAProxy's statistics and commands. It belongs to root.
	HAProxySocket = "/run/haproxy/quorate.sock"
	// HAProxyMasterSocket is the socket of HAProxy's master process, through which those workers can be reached, too, that a reload has
	// replaced and that still have connections. It belongs to root.
	HAProxyMasterSocket = "/run/haproxy/quorate-master.sock"
	// HAProxyMonitor answers 200 while HAProxy's event loop runs. HAProxy itself answers, without an API server.
	HAProxyMonitor = "http://127.0.0.1:8404/alive"
	// HAProxyUser is the user, and the group, that HAProxy's worker processes run as. The distributions' packages create
	// both.
	HAProxyUser = "haproxy"
	// FaultFile contains 1 while this host must not have the virtual IP, otherwise 0. The watchdog writes it, and
	// keepalived reads it.
	FaultFile = "/run/quorate/haproxy-fault"
	// AsideFile makes the watchdog keep the virtual IP away from this host. It contains the time until which it does so (see
	// package hostside/balancer).
	AsideFile = "/run/quorate/stand-aside"
	// DrainedFile contains the names of the API servers that are drained, one a line.
	DrainedFile = "/run/quorate/drained"
	// KeepalivedFile is keepalived's configuration, and KeepalivedRunning a copy of the one that keepalived loaded last.
	KeepalivedFile    = "/etc/keepalived/keepalived.conf"
	KeepalivedRunning = "/run/quorate/keepalived.conf"
	// HAProxyFile is HAProxy's configuration.
	HAProxyFile = "/etc/haproxy/haproxy.cfg"
	// HAProxyCA contains the certificates of the authorities that HAProxy verifies API servers with.
	HAProxyCA = "/etc/haproxy/quorate-ca.crt"
	// WatchdogUnit is the systemd unit of the watchdog.
	WatchdogUnit = "quorate-watchdog.service"
	// SelfPath is a copy of the quorate binary for systemd units. It is not below /var/lib, because SELinux does not let
	// systemd execute files there.
	SelfPath = "/usr/local/bin/quorate-host"

	// APIPort is the port that every API server listens on.
	APIPort = "6443"

	haproxyUnit          = "haproxy.service"
	keepalivedUnit       = "keepalived.service"
	haproxyDropInFile    = "/etc/systemd/system/haproxy.service.d/quorate.conf"
	keepalivedDropInFile = "/etc/systemd/system/keepalived.service.d/quorate.conf"
	balancerSysctls      = "/etc/sysctl.d/91-quorate-balancer.conf"
)

// Balancer configures HAProxy, keepalived, and the watchdog on a load balancer. docs/failover.md explains the settings.
// Both programs reload a changed configuration: HAProxy keeps accepting connections, and keepalived keeps the virtual IP.
//
// Standbys are load balancers that were removed while they were down. They stay peers, so that one that comes back as it was
// receives the holder's advertisements and remains a standby.
func Balancer(c *spec.Cluster, h spec.Host, f *facts.Facts, ca string, standbys ...spec.Host) facts.Desired {
	at := func(vip string) place {
		own := f.InNetworkOf(vip, h.VIPAddresses()...)
		link, _ := f.Interface(own)
		servers, _ := f.Interface(h.Address)
		if servers.Interface == link.Interface {
			servers.Interface = ""
		}
		return place{front: own != h.Address, link: link.Interface, prefix: strconv.Itoa(link.Prefix), servers: servers.Interface}
	}
	d := facts.Desired{
		Files: []facts.File{
			authority(ca),
			{Path: HAProxyFile, Content: haproxyConfig(c, h, watched), Keep: true, Reload: []string{haproxyUnit}, Check: []string{ProgramPath("haproxy"), "-c", "-f"}},
			{Path: haproxyDropInFile, Content: haproxyDropIn, Restart: []string{haproxyUnit}},
			{Path: "/etc/systemd/system/" + WatchdogUnit, Content: watchdogUnit, Restart: []string{WatchdogUnit}},
			{Path: KeepalivedFile, Content: keepalivedConfig(c, h, standbys, watched, at), Keep: true, Reload: []string{keepalivedUnit}, Check: []string{ProgramPath("keepalived"), "-t", "-f"}},
			{Path: keepalivedDropInFile, Content: keepalivedDropIn(true), Restart: []string{keepalivedUnit}},
		},
		Self:   SelfPath,
		Enable: []string{haproxyUnit, WatchdogUnit, keepalivedUnit},
	}
	// An interface that has lost its address is not replaced by another one, and a configuration without an interface is none.
	if h.FrontAddress != "" && slices.ContainsFunc(c.Endpoints(), func(e spec.Endpoint) bool { return f.LostFor(e.Address, h.VIPAddresses()...) != "" }) {
		d.Files = slices.DeleteFunc(d.Files, func(file facts.File) bool { return file.Path == KeepalivedFile })
	}
	bindNonlocal(&d, c, h)
	return d
}

// BalancerAuthority is the part of Balancer that depends on the cluster's CA.
func BalancerAuthority(ca string) facts.Desired {
	return facts.Desired{Files: []facts.File{authority(ca)}}
}

func authority(ca string) facts.File {
	return facts.File{Path: HAProxyCA, Content: ca, ClusterCA: true, Reload: []string{haproxyUnit}}
}

// Drained has the watchdog of a new load balancer drain servers as soon as HAProxy has started.
func Drained(servers []string) facts.File {
	return facts.File{Path: DrainedFile, Content: strings.Join(servers, "\n") + "\n"}
}

// bindNonlocal lets HAProxy listen on the virtual IP while another host has it. HAProxy on a control plane listens on
// nothing else.
func bindNonlocal(d *facts.Desired, c *spec.Cluster, h spec.Host) {
	if h.Has(spec.RoleControlPlane) {
		d.Sysctls = map[string]string{}
		var content strings.Builder
		for _, e := range c.Endpoints() {
			nonlocal := "net.ipv4.ip_nonlocal_bind"
			if isIPv6(e.Address) {
				nonlocal = "net.ipv6.ip_nonlocal_bind"
			}
			if d.Sysctls[nonlocal] == "" {
				d.Sysctls[nonlocal] = "1"
				content.WriteString(nonlocal + " = 1\n")
			}
		}
		d.Files = append(d.Files, facts.File{Path: balancerSysctls, Content: content.String()})
	}
}

// manner is what differs between the load balancers that Quorate manages and those that a person sets up.
type manner struct {
	head     string // the first comment of each file
	check    string // how HAProxy verifies the API servers' certificates
	backends func(pool) string
	define   string // what keepalived tracks
	track    string // and how
}

// watched is Quorate's manner: HAProxy knows the cluster's CA, and the watchdog closes the connections of API servers that
// hang and tells keepalived whether HAProxy works.
var watched = manner{
	head:     "Written by quorate for the cluster %s. The next `quorate apply` overwrites changes.",
	check:    "verify required ca-file " + HAProxyCA + " verifyhost %[1]s check-sni %[1]s",
	backends: watchedBackends,
	define:   "vrrp_track_file haproxy {\n    file " + FaultFile + "\n}",
	track:    "track_file {\n        haproxy weight -254\n    }",
}

// PortSharing is the argument of kube-apiserver that lets HAProxy listen on its port as well.
const PortSharing = "permit-port-sharing"

// SharesAPIPort reports whether HAProxy and kube-apiserver listen on the same port of one host: HAProxy on the virtual IP
// only, kube-apiserver on all addresses. The kernel gives a connection to the listener with the more specific address. It
// allows both listeners only if both set SO_REUSEPORT, as HAProxy does by default.
func SharesAPIPort(c *spec.Cluster) bool {
	return EndpointPort(c) == APIPort && slices.ContainsFunc(c.BalancerHosts(), func(h spec.Host) bool { return h.Has(spec.RoleControlPlane) })
}

// listenOn are the addresses on which HAProxy accepts the endpoint's connections: on a control plane, the virtual IP only. There
// are several while the endpoint changes. Then every address has every port, because a client with the old port may already
// resolve the name to the new address.
func listenOn(c *spec.Cluster, h spec.Host) (out []string) {
	for _, e := range c.Endpoints() {
		for _, other := range c.Endpoints() {
			address := ":" + e.Port
			switch {
			case h.Has(spec.RoleControlPlane):
				address = net.JoinHostPort(other.Address, e.Port)
			case isIPv6(other.Address):
				address = net.JoinHostPort("::", e.Port) + " v6only"
			}
			if !slices.Contains(out, address) {
				out = append(out, address)
			}
		}
	}
	return out
}

// priority gives the programs of the endpoint precedence over everything else on their host, because a load balancer that
// waits half a second for the CPU looks dead.
const priority = `Nice=-15
CPUWeight=1000
`

// keepsRunning restarts a program whenever it ends, and gives it time to start on a slow machine.
const keepsRunning = priority + `Restart=always
TimeoutStartSec=5min
`

const watchdogUnit = `[Unit]
Description=Quorate's watchdog for HAProxy and the API servers behind it
Before=keepalived.service
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
WatchdogSec=60
RuntimeDirectory=quorate
RuntimeDirectoryPreserve=yes
ExecStart=` + SelfPath + ` host watchdog
` + keepsRunning + `RestartSec=500ms

[Install]
WantedBy=multi-user.target
`
