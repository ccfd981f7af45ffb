package balancer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// fakeHAProxy answers commands as HAProxy does.
type fakeHAProxy struct {
	slots    []slot
	down     []string // paths of those whose health was set to down
	sessions map[string]int
	said     []string
	ignores  string // a command that has no effect
	fails    string // one that is not answered
}

func (f *fakeHAProxy) command(_ context.Context, command string) (string, error) {
	if f.fails != "" && strings.HasPrefix(command, f.fails) {
		return "", errors.New("timeout")
	}
	var b strings.Builder
	switch command {
	case "show servers state":
		b.WriteString("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_port\n")
		for _, s := range f.slots {
			host, port, _ := net.SplitHostPort(s.address)
			admin := 4 // HAProxy remembers that the configuration disables it
			if s.maintenance {
				admin = 5
			}
			fmt.Fprintf(&b, "3 %s 1 %s %s 2 %d %s\n", s.pool, s.name, host, admin, port)
		}
		return b.String() + "\n", nil
	case "show stat":
		b.WriteString("# pxname,svname,scur,status,addr,\n")
		for _, s := range f.slots {
			fmt.Fprintf(&b, "%s,%s,%d,UP,%s,\n", s.pool, s.name, f.sessions[s.path()], s.address)
		}
		return b.String(), nil
	}
	f.said = append(f.said, command)
	if f.ignores != "" && strings.HasPrefix(command, f.ignores) {
		return "\n", nil
	}
	w := strings.Fields(command)
	i := slices.IndexFunc(f.slots, func(s slot) bool { return s.path() == w[2] })
	if i < 0 {
		return "No such server.\n", nil
	}
	switch s := &f.slots[i]; w[3] {
	case "addr":
		s.address = net.JoinHostPort(w[4], w[6])
		return "IP changed by 'stats socket command'\n", nil
	case "state":
		s.maintenance = w[4] == "maint"
	case "health":
		f.down = append(f.down, s.path())
	}
	return "\n", nil
}

func hosts(names ...string) *spec.Cluster {
	c := spec.DefaultLab("test")
	c.Spec.Hosts = nil
	for _, name := range names {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: name, Address: "10.0.0." + fmt.Sprint(name[len(name)-1]-'a'+11), Roles: []string{spec.RoleControlPlane}})
	}
	return c
}

func configOf(t *testing.T, c *spec.Cluster) string {
	t.Helper()
	for _, f := range hostconfig.Balancer(c, spec.Host{Name: "lb-a", Address: "10.0.0.9", Roles: []string{spec.RoleLoadBalancer}}, &facts.Facts{}, "CA").Files {
		if f.Path == hostconfig.HAProxyFile {
			return f.Content
		}
	}
	t.Fatal("no configuration")
	return ""
}

// started is a HAProxy that has loaded a configuration.
func started(t *testing.T, config string) *fakeHAProxy {
	t.Helper()
	f := &fakeHAProxy{sessions: map[string]int{}}
	pool := ""
	for line := range strings.Lines(config) {
		w := strings.Fields(line)
		switch {
		case len(w) > 1 && w[0] == "backend":
			pool = w[1]
		case len(w) > 2 && w[0] == "server":
			f.slots = append(f.slots, slot{pool, w[1], w[2], slices.Contains(w, "disabled")})
		}
	}
	return f
}

// TestControlPlanesComeAndGoWithoutAReload: the running HAProxy has the servers of the file after each change.
func TestControlPlanesComeAndGoWithoutAReload(t *testing.T) {
	// Each set follows the one before. A slot that was left is used again.
	sets := [][]string{{"cp-a", "cp-b", "cp-c"}, {"cp-a", "cp-b", "cp-c", "cp-d"}, {"cp-b", "cp-c", "cp-d"}, {"cp-b", "cp-c", "cp-d", "cp-e"}, {"cp-c", "cp-d", "cp-e"}, {"cp-c", "cp-d", "cp-e", "cp-a", "cp-f"}, {"cp-a"}, {"cp-b"}}
	before := configOf(t, hosts(sets[0]...))
	f := started(t, before)
	for _, set := range sets[1:] {
		c := hosts(set...)
		after := configOf(t, c)
		f.said, f.down = nil, nil
		if err := bring(t.Context(), before, after, f.command); err != nil {
			t.Fatalf("%v: %v", set, err)
		}
		var rows []stats
		for _, s := range f.slots {
			status := "UP"
			if s.maintenance {
				status = "MAINT"
			}
			rows = append(rows, stats{"pxname": s.pool, "svname": s.name, "addr": s.address, "status": status})
		}
		rows = renamed(rows, after)
		if len(rows) != len(set)*len(hostconfig.Pools) {
			t.Errorf("%v: %d servers are seen: %v", set, len(rows), rows)
		}
		for _, h := range c.Spec.Hosts {
			paths := having(rows, h.Name, hostconfig.Pools)
			if len(paths) != len(hostconfig.Pools) {
				t.Errorf("%v: %s is in %v", set, h.Name, paths)
			}
			for _, path := range paths {
				i := slices.IndexFunc(f.slots, func(s slot) bool { return s.path() == path })
				if i < 0 || f.slots[i].address != h.Address+":6443" || f.slots[i].maintenance {
					t.Errorf("%v: commands for %s go to %s", set, h.Name, path)
				}
			}
		}
		for _, path := range f.down {
			if strings.HasPrefix(path, hostconfig.PoolUnchecked+"/") {
				t.Errorf("%s has no checks, and is down for good", path)
			}
		}
		if joined := strings.Count(strings.Join(f.said, "\n"), " addr "); len(f.down) != joined/len(hostconfig.Pools)*(len(hostconfig.Pools)-1) {
			t.Errorf("%v: %d addresses were set, and %v must pass their checks first", set, joined, f.down)
		}
		before = after
	}
}

// TestHAProxyReloadsForEverythingElse, and for everything that is not certain.
func TestHAProxyReloadsForEverythingElse(t *testing.T) {
	three, four := hosts("cp-a", "cp-b", "cp-c"), hosts("cp-a", "cp-b", "cp-c", "cp-d")
	two := hosts("cp-b", "cp-c")
	larger := hosts("cp-a", "cp-b", "cp-c", "cp-d")
	larger.Spec.LoadBalancer.MaxConnections = 20000
	elsewhere := hosts("cp-a", "cp-b", "cp-c", "cp-d")
	elsewhere.Spec.Hosts[3].Address = "10.9.9.9" // in a network of its own
	for name, tc := range map[string]struct {
		to     *spec.Cluster
		damage func(*fakeHAProxy)
		want   string
		quiet  bool // nothing was changed before
	}{
		"more connections":                 {larger, nil, "not only servers change", true},
		"a new network":                    {elsewhere, nil, "not only servers change", true},
		"more hosts than spare servers":    {hosts("cp-a", "cp-b", "cp-c", "cp-d", "cp-e", "cp-f"), nil, "has no spare server for cp-", true},
		"it runs with other servers":       {four, func(f *fakeHAProxy) { f.slots[0].address = "10.0.0.99:6443" }, "does not have the servers", true},
		"somebody has stopped a server":    {four, func(f *fakeHAProxy) { f.slots[0].maintenance = true }, "does not have the servers", true},
		"one that leaves has connections":  {two, func(f *fakeHAProxy) { f.sessions[hostconfig.PoolUnchecked+"/cp-a"] = 1 }, "still has connections", true},
		"it does not do what it is told":   {four, func(f *fakeHAProxy) { f.ignores = "set server listening/" }, "did not take all servers", false},
		"it does not take a server away":   {two, func(f *fakeHAProxy) { f.ignores = "set server listening/" }, "did not take all servers", false},
		"it does not answer":               {four, func(f *fakeHAProxy) { f.fails = "show servers" }, "timeout", true},
		"it stops answering in the middle": {four, func(f *fakeHAProxy) { f.fails = "set server unchecked/" }, "timeout", false},
	} {
		before := configOf(t, three)
		f := started(t, before)
		if tc.damage != nil {
			tc.damage(f)
		}
		err := bring(t.Context(), before, configOf(t, tc.to), f.command)
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.quiet != (len(f.said) == 0) {
			t.Errorf("%s: %v, after %q", name, err, f.said)
		}
	}
	before := configOf(t, three)
	if err := bring(t.Context(), strings.Replace(before, "10.0.0.11:6443\n", "10.0.0.11:6443 weight 9\n", 1), before, started(t, before).command); err == nil || !strings.Contains(err.Error(), "settings of its own") {
		t.Errorf("a server with settings: %v", err)
	}
	for _, text := range []string{"", "1\n", "1\n# be_id be_name\n3 x\n", "1\n# be_name srv_name srv_addr srv_port srv_admin_state\nx y 10.0.0.1 6443 z\n"} {
		if slots, err := parseSlots(text); err == nil {
			t.Errorf("%q is %v", text, slots)
		}
	}
}
