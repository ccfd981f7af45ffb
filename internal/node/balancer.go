package node

import (
	"bufio"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostconfig"
)

// ReadBalancer asks this host's HAProxy for its statistics, and the kernel whether the virtual IP is here.
var ReadBalancer = host.Define("node.balancer", func(ctx context.Context, virtualIP string) (facts.Balancer, error) {
	var b facts.Balancer
	_, b.Active = facts.Facts{Addresses: addresses()}.Interface(virtualIP)
	alive := monitor(ctx, &http.Client{Timeout: time.Second}) == nil
	rows, err := haproxyStat(ctx)
	if err != nil {
		return b, nil //nolint:nilerr // an unhealthy balancer is an answer, not a failure to ask
	}
	b.Healthy = alive
	for _, row := range rows {
		if row["pxname"] == hostconfig.HAProxyBackend && row["svname"] != "BACKEND" {
			b.Backends = append(b.Backends, facts.Backend{Name: row["svname"], Healthy: strings.HasPrefix(row["status"], "UP")})
		}
	}
	return b, nil
})

func haproxyStat(ctx context.Context) ([]map[string]string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", hostconfig.HAProxySocket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second)) //nolint:errcheck // a unix socket has deadlines
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		return nil, err
	}
	records, err := csv.NewReader(bufio.NewReader(conn)).ReadAll()
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

// Watchdog tells keepalived through a file whether HAProxy's event loop turns, and ends a HAProxy that hangs for good so
// that systemd starts a new one. It runs until ctx ends.
func Watchdog(ctx context.Context) error {
	w := watchdog{client: &http.Client{Timeout: watchTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
	if err := w.report(false); err != nil {
		return err
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := w.judge(ctx, monitor(ctx, w.client) == nil); err != nil {
				return err
			}
		}
	}
}

type watchdog struct {
	client  *http.Client
	streak  int // > 0: successes in a row, < 0: failures in a row
	faulted bool
}

func (w *watchdog) judge(ctx context.Context, ok bool) error {
	switch {
	case ok:
		w.streak = max(w.streak, 0) + 1
	default:
		w.streak = min(w.streak, 0) - 1
	}
	switch {
	case w.faulted && w.streak >= watchRise:
		return w.report(false)
	case !w.faulted && w.streak <= -watchFall:
		return w.report(true)
	case w.streak < 0 && -w.streak%watchKill == 0:
		// A proxy that is stopped or starting is systemd's business: the kill then finds nothing, which is fine.
		_ = Run(ctx, "systemctl", "kill", "--signal=SIGKILL", "haproxy.service")
	}
	return nil
}

func (w *watchdog) report(fault bool) error {
	w.faulted = fault
	value := "0\n"
	if fault {
		value = "1\n"
	}
	if err := os.MkdirAll(filepath.Dir(hostconfig.FaultFile), 0o755); err != nil {
		return err
	}
	return WriteFile(hostconfig.FaultFile, []byte(value), 0o644)
}
