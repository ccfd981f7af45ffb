package hostconfig

import (
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// What a host alone knows of itself, in the files of PlainBalancer: the network interface that has its address, and how
// many bits of that address are the network's.
const (
	InterfacePlaceholder = "INTERFACE"
	PrefixPlaceholder    = "PREFIX"
)

const haproxyScript = "/etc/keepalived/check-haproxy"

// plain is what a person can set up before there is a cluster: there is no CA yet by which HAProxy could know an
// apiserver, and no watchdog, but keepalived can ask HAProxy itself.
var plain = manner{
	head:   "The API servers of the cluster %s.",
	check:  "verify none check-sni %s",
	define: "global_defs {\n    enable_script_security\n}\n\nvrrp_script haproxy {\n    script " + haproxyScript + "\n    interval 1\n    timeout 1\n    fall 2\n    rise 2\n    user root\n}",
	track:  "track_script {\n        haproxy\n    }",
}

// PlainBalancer is Balancer without Quorate on the host: the files and settings that a person gives it by hand.
func PlainBalancer(c *spec.Cluster, h spec.Host) facts.Desired {
	d := facts.Desired{
		Files: []facts.File{
			{Path: haproxyFile, Content: haproxyConfig(c, h, plain)},
			{Path: haproxyDropInFile, Content: haproxyDropIn},
			{Path: haproxyScript, Mode: 0o755, Content: askHAProxy},
			{Path: keepalivedFile, Content: keepalivedConfig(c, h, plain, InterfacePlaceholder, PrefixPlaceholder)},
			{Path: keepalivedDropInFile, Content: plainDropIn},
		},
		Enable: []string{"haproxy.service", "keepalived.service"},
	}
	listenBeforeHaving(&d, h)
	return d
}

const plainDropIn = `[Unit]
StartLimitIntervalSec=0

[Service]
` + keepsUp

// askHAProxy asks HAProxy alone. Through it, an outage of all apiservers would take the address away from every balancer.
const askHAProxy = `#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/8404 || exit 1
printf 'GET /alive HTTP/1.0\r\n\r\n' >&3
grep -q '^HTTP/1[.][01] 200' <&3
`
