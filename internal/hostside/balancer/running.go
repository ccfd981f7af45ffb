package balancer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// When control planes join or leave, the running HAProxy is changed through its socket, so that it need not reload: a reload ends
// every connection within 30 s. It uses only what HAProxy has had for long: it changes the address of a server, and takes servers
// into maintenance and back. A server that is added or deleted while HAProxy runs would lack `tcp-ut`, and before HAProxy 3.0 a
// deletion can crash it (see decision 92).
//
// A server of the running HAProxy, a slot, may therefore have another name than in the file, and slots that the file does not have are in
// maintenance. The rest of this package sees the names of the file: see renamed.

// needsReload says why HAProxy has to reload.
func needsReload(format string, args ...any) error {
	return fmt.Errorf("HAProxy has to reload: "+format, args...)
}

// slot is a server of the running HAProxy.
type slot struct {
	pool, name, address string
	maintenance         bool
}

// path is how commands name it.
func (s slot) path() string { return s.pool + "/" + s.name }

// parseSlots reads the answer to `show servers state`.
func parseSlots(text string) (out []slot, err error) {
	var column map[string]int
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "#":
			column = map[string]int{}
			for i, name := range f[1:] {
				column[name] = i
			}
			for _, name := range []string{"be_name", "srv_name", "srv_addr", "srv_port", "srv_admin_state"} {
				if _, ok := column[name]; !ok {
					return nil, fmt.Errorf("HAProxy's list of servers has no column %s", name)
				}
			}
		case len(f) > 1:
			if len(f) < len(column) || column == nil {
				return nil, fmt.Errorf("HAProxy's list of servers has the line %q", strings.TrimSpace(line))
			}
			admin, err := strconv.Atoi(f[column["srv_admin_state"]])
			if err != nil {
				return nil, fmt.Errorf("HAProxy's list of servers: %w", err)
			}
			const forced, inherited, unresolved = 0x01, 0x02, 0x20
			out = append(out, slot{pool: f[column["be_name"]], name: f[column["srv_name"]],
				address: net.JoinHostPort(f[column["srv_addr"]], f[column["srv_port"]]), maintenance: admin&(forced|inherited|unresolved) != 0})
		}
	}
	if column == nil {
		return nil, errors.New("HAProxy lists no servers")
	}
	return out, nil
}

// serving reports whether the slots out of maintenance are exactly the servers of a configuration.
func serving(slots []slot, servers map[string][]hostconfig.Server) bool {
	var have, want []string
	for _, s := range slots {
		if !s.maintenance {
			have = append(have, s.pool+" "+s.address)
		}
	}
	for pool, all := range servers {
		for _, s := range all {
			want = append(want, pool+" "+s.Address)
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	return slices.Equal(have, want)
}

// moves are the commands that bring the running HAProxy from one set of servers to another; left are the slots that leave. It fails if
// there are not enough slots.
func moves(slots []slot, servers map[string][]hostconfig.Server, checked map[string]bool) (join []string, left []slot, err error) {
	wanted := func(pool, address string) bool {
		return slices.ContainsFunc(servers[pool], func(s hostconfig.Server) bool { return s.Address == address })
	}
	taken := map[string]bool{}
	for _, pool := range slices.Sorted(maps.Keys(servers)) {
		for _, s := range servers[pool] {
			if slices.ContainsFunc(slots, func(o slot) bool { return o.pool == pool && o.address == s.Address && !o.maintenance }) {
				continue
			}
			free := slices.DeleteFunc(slices.Clone(slots), func(o slot) bool { return o.pool != pool || !o.maintenance || taken[o.path()] })
			// One that has the address already, or else one with an address that nobody wants.
			i := slices.IndexFunc(free, func(o slot) bool { return o.address == s.Address })
			if i < 0 {
				i = slices.IndexFunc(free, func(o slot) bool { return !wanted(pool, o.address) })
			}
			if i < 0 {
				return nil, nil, needsReload("%s has no spare server for %s", pool, s.Name)
			}
			o := free[i]
			taken[o.path()] = true
			host, port, err := net.SplitHostPort(s.Address)
			if err != nil {
				return nil, nil, needsReload("%v", err)
			}
			join = append(join, fmt.Sprintf("set server %s addr %s port %s", o.path(), host, port), "set server "+o.path()+" state ready")
			if checked[pool] { // HAProxy believes a server until a check fails; this one must pass its checks first
				join = append(join, "set server "+o.path()+" health down")
			}
		}
	}
	for _, o := range slots {
		if !o.maintenance && !wanted(o.pool, o.address) {
			left = append(left, o)
		}
	}
	return join, left, nil
}

// Bring brings the running HAProxy from a configuration that it has loaded to another one that is in its file, if they differ only in
// servers, and verifies that it then has those of the file. If it fails, HAProxy has to reload, which also ends what was done by half.
func Bring(ctx context.Context, before, after string) error {
	ctx, cancel := context.WithTimeout(ctx, bringPatience)
	defer cancel()
	worker := sampleHAProxy()
	if worker == nil {
		return needsReload("it does not run")
	}
	if err := bring(ctx, before, after, haproxyCommand); err != nil {
		return err
	}
	if now := sampleHAProxy(); now == nil || now.brought(after) != worker.brought(after) {
		return needsReload("another one has started")
	}
	return durable.WriteFile(hostconfig.BroughtFile, []byte(worker.brought(after)+"\n"), 0o644)
}

// bringPatience is how long HAProxy may take to be brought to another configuration. It answers a command within milliseconds.
const bringPatience = 10 * time.Second

func bring(ctx context.Context, before, after string, command func(context.Context, string) (string, error)) error {
	was, _, rest, err := hostconfig.ServersOf(before)
	if err != nil {
		return needsReload("%v", err)
	}
	servers, checked, same, err := hostconfig.ServersOf(after)
	if err != nil {
		return needsReload("%v", err)
	}
	if rest != same {
		return needsReload("not only servers change")
	}
	list := func() ([]slot, error) {
		text, err := command(ctx, "show servers state")
		if err != nil {
			return nil, needsReload("%v", err)
		}
		slots, err := parseSlots(text)
		if err != nil {
			return nil, needsReload("%v", err)
		}
		return slots, nil
	}
	slots, err := list()
	if err != nil {
		return err
	}
	if !serving(slots, was) {
		return needsReload("it does not have the servers that it has loaded")
	}
	join, left, err := moves(slots, servers, checked)
	if err != nil {
		return err
	}
	text, err := command(ctx, "show stat")
	if err != nil {
		return needsReload("%v", err)
	}
	rows, err := parseStats(text)
	if err != nil {
		return needsReload("%v", err)
	}
	for _, o := range left {
		// Nobody would look after them. A reload closes them between two requests.
		if i := slices.IndexFunc(rows, func(r stats) bool { return r["pxname"] == o.pool && r["svname"] == o.name }); i < 0 || rows[i]["scur"] != "0" {
			return needsReload("%s still has connections", o.path())
		}
	}
	for _, c := range join {
		if _, err := command(ctx, c); err != nil {
			return needsReload("%v", err)
		}
	}
	for _, o := range left {
		if _, err := command(ctx, "set server "+o.path()+" state maint"); err != nil {
			return needsReload("%v", err)
		}
	}
	// HAProxy answers some commands that succeed with text: what counts is the result.
	if slots, err = list(); err != nil {
		return err
	}
	if !serving(slots, servers) {
		return needsReload("it did not take all servers")
	}
	return nil
}

// Loaded is the configuration that the running HAProxy has: the content of its file if it has loaded that, or was brought to it. It is
// false if that is not certain.
func Loaded() (config string, ok bool) {
	worker := sampleHAProxy()
	if worker == nil {
		return "", false
	}
	f, err := os.Open(hostconfig.HAProxyFile)
	if err != nil {
		return "", false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", false
	}
	content, err := os.ReadFile(hostconfig.HAProxyFile)
	if err != nil {
		return "", false
	}
	changed := info.Sys().(*syscall.Stat_t).Ctim
	began := time.Now().Add(-(monotonic() - time.Duration(worker.start)*time.Second/clockTicks))
	// The start of a process is known to a hundredth of a second.
	if began.Add(-time.Second/clockTicks).After(time.Unix(changed.Unix())) || system.ReadTrimmed(hostconfig.BroughtFile) == worker.brought(string(content)) {
		return string(content), true
	}
	return "", false
}

// brought is the note that a process was brought to a configuration.
func (s *sample) brought(config string) string {
	return fmt.Sprintf("%d %d %x", s.pid, s.start, sha256.Sum256([]byte(config)))
}

// renamed gives the servers of HAProxy's statistics the names that the file has for their addresses, and leaves out those in maintenance that
// it does not have: spare ones, and those of control planes that have left. The name in HAProxy is in the column "slot".
func renamed(rows []stats, config string) (out []stats) {
	servers, _, _, err := hostconfig.ServersOf(config)
	if err != nil {
		servers = nil // of somebody else, and never changed while it runs
	}
	for _, row := range rows {
		row["slot"] = row["svname"]
		all := servers[row["pxname"]]
		i := slices.IndexFunc(all, func(s hostconfig.Server) bool { return s.Address == row["addr"] })
		switch {
		case i >= 0 && row["addr"] != "":
			row["svname"] = all[i].Name
		case len(all) > 0 && strings.HasPrefix(row["status"], "MAINT"):
			continue
		}
		out = append(out, row)
	}
	return out
}
