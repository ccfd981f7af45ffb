package hostconfig

import (
	"fmt"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Placeholders in the files of PlainBalancer for what only the host knows: the network interface that has its address in the network of
// the virtual IP, and the prefix length of that network.
const (
	InterfacePlaceholder = "INTERFACE"
	PrefixPlaceholder    = "PREFIX"
)

const haproxyScript = "/etc/keepalived/check-haproxy"

// plain is what a person can set up before the cluster exists: there is no CA yet with which HAProxy could verify an API
// server, and no watchdog. keepalived asks HAProxy itself, and HAProxy closes the connections of a server that fails its
// checks.
var plain = manner{
	head:     "The API servers of the cluster %s.",
	check:    "verify none check-sni %s",
	backends: plainBackends,
	define:   "global_defs {\n    enable_script_security\n}\n\nvrrp_script haproxy {\n    script " + haproxyScript + "\n    interval 1\n    timeout 1\n    fall 2\n    rise 2\n    user root\n}",
	track:    "track_script {\n        haproxy\n    }",
}

// PlainBalancer is Balancer without Quorate on the host: the files and settings that a person gives it by hand.
func PlainBalancer(c *spec.Cluster, h spec.Host) facts.Desired {
	at := func(string) place {
		return place{front: h.FrontAddress != "", link: InterfacePlaceholder, prefix: PrefixPlaceholder}
	}
	d := facts.Desired{
		Files: []facts.File{
			{Path: HAProxyFile, Content: haproxyConfig(c, h, plain)},
			{Path: haproxyDropInFile, Content: haproxyDropIn},
			{Path: haproxyScript, Mode: 0o755, Content: askHAProxy},
			{Path: KeepalivedFile, Content: keepalivedConfig(c, h, nil, plain, at)},
			{Path: keepalivedDropInFile, Content: keepalivedDropIn(false)},
		},
		Enable: []string{haproxyUnit, keepalivedUnit},
	}
	bindNonlocal(&d, c, h)
	return d
}

// plainBackends exclude etcd from the checks, because HAProxy closes connections when a check fails: during an election
// every API server would lose all of its clients.
func plainBackends(p pool) string {
	return fmt.Sprintf(`    # When every check fails, the checks are wrong, or the whole site stalls: any server is better than none.
    use_backend %[1]s if { nbsrv(%[2]s) eq 0 }
    default_backend %[2]s

backend %[2]s
    balance roundrobin
%[3]s    default-server check check-ssl %[4]s
    # Without timeout check, inter bounds a whole check. With it, timeout connect would bound the TLS handshake.
    default-server inter 600ms fastinter 200ms downinter 500ms fall 2 rise 2
    # The connections of a dead server are closed immediately; otherwise HTTP/2 clients stay with it.
    default-server on-marked-down shutdown-sessions observe layer4 on-error mark-down tcp-ut 2s
%[5]s
backend %[1]s
    balance roundrobin
    default-server tcp-ut 2s
%[5]s`, PoolUnchecked, PoolWithEtcd, p.ask(readyWithoutEtcd), p.check, p.list())
}

// askHAProxy queries HAProxy itself. If it queried an API server through HAProxy, a failure of all API servers would take the
// address away from every load balancer.
const askHAProxy = `#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/8404 || exit 1
printf 'GET /alive HTTP/1.0\r\n\r\n' >&3
grep -q '^HTTP/1[.][01] 200' <&3
`
