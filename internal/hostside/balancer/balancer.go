// Package balancer reads and controls HAProxy and keepalived on a load balancer, and contains the watchdog that runs there.
package balancer

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Read asks this host's HAProxy for its statistics, the kernel whether the virtual IP is here, and keepalived's
// configuration for the peers.
var Read = host.Define("node.balancer", func(ctx context.Context, virtualIP string) (facts.Balancer, error) {
	var b facts.Balancer
	_, b.Active = facts.Facts{Addresses: system.Addresses()}.Interface(virtualIP)
	keepalived := system.ReadTrimmed(hostconfig.KeepalivedFile)
	haproxy := system.ReadTrimmed(hostconfig.HAProxyFile)
	b.WrittenFor, b.Others = whoBalances(haproxy, keepalived)
	b.Endpoints = hostconfig.Served(haproxy)
	if running := system.ReadTrimmed(hostconfig.KeepalivedRunning); running != "" {
		keepalived = running
	}
	units, err := system.Units(ctx, "keepalived.service")
	if err != nil {
		return b, err // without it, it is unknown whether keepalived knows its peers
	}
	if units["keepalived.service"].Active == "active" {
		b.Peers = peers(keepalived)
	}
	alive := monitor(ctx, &http.Client{Timeout: time.Second}) == nil
	rows, err := haproxyStats(ctx)
	if err != nil {
		return b, nil //nolint:nilerr // an unhealthy load balancer is an answer, not an error
	}
	b.Healthy = alive
	state, err := haproxyCommand(ctx, "show servers state "+hostconfig.PoolWithEtcd)
	if err != nil {
		return b, nil //nolint:nilerr // as above
	}
	b.Backends = backends(rows, drainedServers(state))
	return b, nil
}, host.Reads)

// drainedServers reads which servers are drained. The statistics show this only for healthy servers, and a server under
// maintenance is not healthy.
func drainedServers(state string) map[string]bool {
	const name, admin = 3, 6 // columns: be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state …
	const forced, inherited = 0x08, 0x10
	drained := map[string]bool{}
	for line := range strings.Lines(state) {
		f := strings.Fields(line)
		if len(f) <= admin || f[0] == "#" {
			continue
		}
		mask, err := strconv.Atoi(f[admin])
		drained[f[name]] = err == nil && mask&(forced|inherited) != 0
	}
	return drained
}

// backends reads the statistics of the API servers.
func backends(rows []stats, drained map[string]bool) (out []facts.Backend) {
	serving := hostconfig.PoolWithEtcd
	if !anyUp(rows, serving) && anyUp(rows, hostconfig.PoolWithoutEtcd) {
		serving = hostconfig.PoolWithoutEtcd // no API server has an etcd leader
	}
	for _, row := range rows {
		if row["pxname"] != hostconfig.PoolWithEtcd || row["svname"] == "BACKEND" {
			continue
		}
		name := row["svname"]
		healthy := slices.ContainsFunc(rows, func(r stats) bool { return r["pxname"] == serving && r["svname"] == name && r.up() })
		check := slices.DeleteFunc([]string{row.check(), row["check_code"], row["last_chk"]}, func(s string) bool { return s == "" })
		out = append(out, facts.Backend{Name: name, Healthy: healthy, Drained: drained[name], Sessions: sessions(rows, name), Check: strings.Join(check, " ")})
	}
	return out
}

func anyUp(rows []stats, pool string) bool {
	return slices.ContainsFunc(rows, func(r stats) bool { return r["pxname"] == pool && r["svname"] != "BACKEND" && r.up() })
}

// sessions counts the connections to a server in all pools.
func sessions(rows []stats, server string) (n int) {
	for _, row := range rows {
		if row["svname"] == server && slices.Contains(hostconfig.Pools, row["pxname"]) {
			in, _ := strconv.Atoi(row["scur"])
			n += in
		}
	}
	return n
}
