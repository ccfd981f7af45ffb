package hostconfig

import (
	"fmt"
	"slices"
	"strings"
)

// Spare servers are lines of HAProxy's configuration that stand for no API server. They are disabled, and have the settings of all
// others. The running HAProxy gives one the address of a control plane that joins, and need not reload: it accepts no new server
// with all of our settings (`tcp-ut`) while it runs, but it can change the address of one that it has.
const (
	// SparePrefix begins their names. No host has such a name.
	SparePrefix = "_spare_"
	// spares are enough for two hosts that are replaced between two reloads.
	spares = 2
	// spareAddress is reserved for documentation.
	spareAddress = "192.0.2.1"
)

// Server is a line of a backend of HAProxy.
type Server struct {
	Name, Address string // the address has a port
}

// ServersOf reads HAProxy's configuration: the servers of each backend except the spare ones, which of the backends check
// their servers, and everything else, by which two configurations can be compared. The error says what a server has that no server of
// Quorate has.
func ServersOf(config string) (servers map[string][]Server, checked map[string]bool, rest string, err error) {
	servers, checked = map[string][]Server{}, map[string]bool{}
	backend := ""
	var b strings.Builder
	for line := range strings.Lines(config) {
		f := strings.Fields(line)
		switch {
		case len(f) > 0 && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "#"):
			backend = ""
			if f[0] == "backend" && len(f) > 1 {
				backend = f[1]
			}
		case backend != "" && len(f) > 2 && f[0] == "server" && !strings.HasPrefix(f[1], SparePrefix):
			if len(f) > 3 {
				return nil, nil, "", fmt.Errorf("the server %s/%s has settings of its own", backend, f[1])
			}
			servers[backend] = append(servers[backend], Server{f[1], f[2]})
			continue
		case backend != "" && len(f) > 1 && f[0] == "default-server":
			checked[backend] = checked[backend] || slices.Contains(f[1:], "check")
		}
		b.WriteString(line)
	}
	return servers, checked, b.String(), nil
}
