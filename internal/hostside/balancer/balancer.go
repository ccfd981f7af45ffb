// Package balancer reads and directs a load balancer's HAProxy and keepalived, on its host.
package balancer

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Read asks this host's HAProxy for its statistics, and the kernel whether the virtual IP is here.
var Read = host.Define("node.balancer", func(ctx context.Context, virtualIP string) (facts.Balancer, error) {
	var b facts.Balancer
	_, b.Active = facts.Facts{Addresses: system.Addresses()}.Interface(virtualIP)
	b.WrittenFor, b.Others = whoBalances(system.ReadTrimmed("/etc/haproxy/haproxy.cfg"), system.ReadTrimmed("/etc/keepalived/keepalived.conf"))
	alive := monitor(ctx, &http.Client{Timeout: time.Second}) == nil
	rows, err := haproxyStat(ctx)
	if err != nil {
		return b, nil //nolint:nilerr // an unhealthy balancer is an answer, not a failure to ask
	}
	b.Healthy = alive
	state, err := haproxyCommand(ctx, "show servers state "+hostconfig.HAProxyBackend)
	if err != nil {
		return b, nil //nolint:nilerr // as above
	}
	b.Backends = backends(rows, drainedServers(state))
	return b, nil
}, host.Reads)

// drainedServers reads who was told to take no new clients. The statistics say so only while the server is healthy, and
// one under maintenance is not.
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

// backends reads the statistics of the apiservers. What a check found is said where the check is made, which need not be
// in the pool itself.
func backends(rows []map[string]string, drained map[string]bool) (out []facts.Backend) {
	checks := map[string]string{}
	for _, row := range rows {
		if check := strings.TrimPrefix(row["check_status"], "* "); check != "" { // a star while the next one runs
			checks[row["svname"]] = strings.Join(slices.DeleteFunc([]string{check, row["check_code"], row["last_chk"]}, func(s string) bool { return s == "" }), " ")
		}
	}
	for _, row := range rows {
		if row["pxname"] != hostconfig.HAProxyBackend || row["svname"] == "BACKEND" {
			continue
		}
		sessions, _ := strconv.Atoi(row["scur"])
		healthy := strings.HasPrefix(row["status"], "UP") || strings.HasPrefix(row["status"], "DRAIN")
		out = append(out, facts.Backend{Name: row["svname"], Healthy: healthy, Drained: drained[row["svname"]],
			Sessions: sessions, Check: checks[row["svname"]]})
	}
	return out
}

// haproxyCommand asks HAProxy's admin socket; what it answers to a command that it does not like is an answer, too.
func haproxyCommand(ctx context.Context, command string) (string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", hostconfig.HAProxySocket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second)) //nolint:errcheck // a unix socket has deadlines
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func haproxyStat(ctx context.Context) ([]map[string]string, error) {
	text, err := haproxyCommand(ctx, "show stat")
	if err != nil {
		return nil, err
	}
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(records) == 0 {
		return nil, fmt.Errorf("HAProxy's statistics: %w", err)
	}
	head := records[0]
	head[0] = strings.TrimPrefix(head[0], "# ")
	var rows []map[string]string
	for _, r := range records[1:] {
		row := map[string]string{}
		for i, v := range r {
			row[head[i]] = v
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func monitor(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hostconfig.HAProxyMonitor, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HAProxy answers %s", resp.Status)
	}
	return nil
}

// How the watchdog judges HAProxy. keepalived's own scripts run once a second at best; half a second
// of a hung proxy is about as long as a VRRP takeover after a power-off.
const (
	watchInterval = 150 * time.Millisecond
	watchTimeout  = 450 * time.Millisecond
	watchFall     = 2
	watchRise     = 2
	watchKill     = 20 // failures after which a proxy that is not coming back by itself is killed
)

// Watchdog tells keepalived through a file whether HAProxy's event loop turns and this host may have the virtual IP, and ends a HAProxy that hangs for good so
// that systemd starts a new one. It runs until ctx ends.
func Watchdog(ctx context.Context) error {
	client := &http.Client{Timeout: watchTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	w := watchdog{tell: tellKeepalived}
	if err := w.tell(false); err != nil {
		return err
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := w.judge(ctx, monitor(ctx, client) == nil, standsAside(time.Now())); err != nil {
				return err
			}
		}
	}
}

type watchdog struct {
	tell    func(fault bool) error
	streak  int  // > 0: successes in a row, < 0: failures in a row
	hung    bool // HAProxy does not answer
	faulted bool // what keepalived was told
}

func (w *watchdog) judge(ctx context.Context, ok, aside bool) error {
	switch {
	case ok:
		w.streak = max(w.streak, 0) + 1
	default:
		w.streak = min(w.streak, 0) - 1
	}
	switch {
	case w.hung && w.streak >= watchRise:
		w.hung = false
	case !w.hung && w.streak <= -watchFall:
		w.hung = true
	case w.streak < 0 && -w.streak%watchKill == 0:
		// A proxy that is stopped or starting is systemd's business: the kill then finds nothing, which is fine.
		_ = system.Run(ctx, "systemctl", "kill", "--signal=SIGKILL", "haproxy.service")
	}
	if fault := w.hung || aside; fault != w.faulted {
		w.faulted = fault
		return w.tell(fault)
	}
	return nil
}

func tellKeepalived(fault bool) error {
	value := "0\n"
	if fault {
		value = "1\n"
	}
	if err := os.MkdirAll(filepath.Dir(hostconfig.FaultFile), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(hostconfig.FaultFile, []byte(value), 0o644)
}

// asideFor is how long a host stands aside for one request. Whoever wants more asks again; whoever dies leaves nothing
// behind.
const asideFor = 15 * time.Second

// StandAside keeps the virtual IP away from this host, or no longer. The watchdog does it, as if HAProxy hung.
var StandAside = host.DefineChange("node.stand-aside", func(_ context.Context, aside bool) (struct{}, error) {
	if aside {
		return struct{}{}, durable.WriteFile(hostconfig.AsideFile, nil, 0o644)
	}
	err := os.Remove(hostconfig.AsideFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return struct{}{}, err
})

func standsAside(now time.Time) bool {
	info, err := os.Stat(hostconfig.AsideFile)
	return err == nil && now.Sub(info.ModTime()) < asideFor
}
