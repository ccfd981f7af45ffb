package balancer

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
)

// worker is a process of HAProxy.
type worker struct {
	socket string
	prefix string // of every command
}

// present is the worker with the present configuration.
var present = worker{socket: hostconfig.HAProxySocket}

// former is a worker that a reload has replaced: it accepts no connections, and still has some.
func former(pid string) worker {
	return worker{hostconfig.HAProxyMasterSocket, "@!" + pid + " "}
}

// commands sends commands to a worker and returns the answers. HAProxy also answers a command that it rejects.
func (w worker) commands(ctx context.Context, all ...string) (string, error) {
	return ask(ctx, w.socket, w.prefix+strings.Join(all, ";"+w.prefix))
}

// haproxyCommand sends a command to the present worker.
func haproxyCommand(ctx context.Context, command string) (string, error) {
	return present.commands(ctx, command)
}

func ask(ctx context.Context, socket, command string) (string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline := time.Now().Add(2 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline) //nolint:errcheck // a unix socket has deadlines
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	// The master process goes on listening for commands until then.
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// tell sends HAProxy a command whose answer is empty when it succeeds.
func tell(ctx context.Context, command string) error {
	said, err := haproxyCommand(ctx, command)
	if err != nil {
		return fmt.Errorf("talking to HAProxy: %w", err)
	}
	if said = strings.TrimSpace(said); said != "" {
		return fmt.Errorf("HAProxy rejects %q: %s", command, said)
	}
	return nil
}

// stats is one row of HAProxy's statistics, by the names of the columns.
type stats map[string]string

func (s stats) up() bool {
	return strings.HasPrefix(s["status"], "UP") || strings.HasPrefix(s["status"], "DRAIN")
}

// check is the code of the last check, such as L7OK; a star in front of it says that the next check is under way.
func (s stats) check() string { return strings.TrimPrefix(s["check_status"], "* ") }

func haproxyStats(ctx context.Context) ([]stats, error) {
	text, err := haproxyCommand(ctx, "show stat")
	if err != nil {
		return nil, err
	}
	return parseStats(text)
}

func parseStats(text string) ([]stats, error) {
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("HAProxy's statistics: %w", err)
	}
	if len(records) == 0 {
		return nil, errors.New("HAProxy's statistics are empty")
	}
	head := records[0]
	head[0] = strings.TrimPrefix(head[0], "# ")
	var rows []stats
	for _, r := range records[1:] {
		row := stats{}
		for i, v := range r {
			row[head[i]] = v
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// monitor checks whether HAProxy's event loop responds.
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
