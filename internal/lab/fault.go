package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// State is the power state of a machine.
type State string

// A machine is running, off, or suspended by the cgroup freezer.
const (
	Running State = "running"
	Off     State = "off"
	Frozen  State = "frozen"
)

// MachineStatus is what a machine is doing now.
type MachineStatus struct {
	Machine
	State State `json:"state"`
	// Cut is true while the machine or its zone is cut from the rest.
	Cut bool `json:"cut"`
}

// Status returns the state of every machine.
func (l *Lab) Status(ctx context.Context) ([]MachineStatus, error) {
	if err := l.load(); err != nil {
		return nil, err
	}
	var out []MachineStatus
	for _, m := range l.rec.Machines {
		state, err := l.state(m.Name)
		if err != nil {
			return nil, err
		}
		cut := slices.Contains(l.rec.Cuts, m.Name) || slices.Contains(l.rec.Cuts, "zone/"+m.Zone)
		out = append(out, MachineStatus{Machine: m, State: state, Cut: cut})
	}
	return out, ctx.Err()
}

// Cuts lists the targets that are currently cut.
func (l *Lab) Cuts() ([]string, error) {
	if err := l.load(); err != nil {
		return nil, err
	}
	return slices.Clone(l.rec.Cuts), nil
}

func (l *Lab) state(machine string) (State, error) {
	g, err := l.group(machine)
	switch {
	case err != nil:
		return "", err
	case !g.running():
		return Off, nil
	case g.frozen():
		return Frozen, nil
	}
	return Running, nil
}

// Freeze suspends every process of a machine. The machine keeps its address and its connections, but only its kernel still
// responds.
func (l *Lab) Freeze(ctx context.Context, machine string) error { return l.freeze(ctx, machine, true) }

// Thaw resumes a frozen machine.
func (l *Lab) Thaw(ctx context.Context, machine string) error { return l.freeze(ctx, machine, false) }

func (l *Lab) freeze(ctx context.Context, machine string, on bool) error {
	if _, err := l.Machine(machine); err != nil {
		return err
	}
	g, err := l.group(machine)
	if err != nil {
		return err
	}
	if !g.running() {
		if on {
			return fmt.Errorf("freeze %s: the machine is off", machine)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if err := g.freeze(ctx, on); err != nil {
		return fmt.Errorf("freeze or thaw %s: %w", machine, err)
	}
	return nil
}

// PowerOffZone powers off all machines of a zone at the same moment.
func (l *Lab) PowerOffZone(ctx context.Context, zone string) error {
	machines, err := l.inZone(zone)
	if err != nil {
		return err
	}
	for _, m := range machines { // all links first, so that no machine sees another one die
		if err := l.linkDown(m); err != nil {
			return err
		}
	}
	return l.each(machines, func(m Machine) error { return l.PowerOff(ctx, m.Name) })
}

// PowerOnZone powers on every machine of a zone.
func (l *Lab) PowerOnZone(ctx context.Context, zone string) error {
	machines, err := l.inZone(zone)
	if err != nil {
		return err
	}
	return l.each(machines, func(m Machine) error { return l.PowerOn(ctx, m.Name) })
}

func (l *Lab) inZone(zone string) ([]Machine, error) {
	if !slices.Contains(l.rec.Zones, zone) {
		return nil, fmt.Errorf("lab %s has no zone %q (it has %s)", l.Name(), zone, strings.Join(l.rec.Zones, ", "))
	}
	var out []Machine
	for _, m := range l.rec.Machines {
		if m.Zone == zone {
			out = append(out, m)
		}
	}
	return out, nil
}

// Cut silently drops everything to and from a target: "cp-a" (a machine), "zone/a" (a zone's
// uplink), "cp-a:cp-b" or "zone/a:zone/b" (what passes between the two, both ways).
func (l *Lab) Cut(ctx context.Context, target string) error {
	return l.changeCuts(ctx, "cut", target, func(cuts []string, t string) []string {
		if slices.Contains(cuts, t) {
			return cuts
		}
		return append(cuts, t)
	})
}

// Heal ends a cut.
func (l *Lab) Heal(ctx context.Context, target string) error {
	return l.changeCuts(ctx, "heal", target, func(cuts []string, t string) []string {
		return slices.DeleteFunc(cuts, func(c string) bool { return c == t })
	})
}

func (l *Lab) changeCuts(ctx context.Context, verb, target string, change func([]string, string) []string) error {
	err := l.update(ctx, func(r *record) error {
		t, err := parseTarget(target, r)
		if err != nil {
			return err
		}
		r.Cuts = change(r.Cuts, t.String())
		return l.applyCuts(r)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, target, err)
	}
	return ctx.Err()
}

// HealAll ends every fault: cuts, freezes and power-offs.
func (l *Lab) HealAll(ctx context.Context) error {
	err := l.update(ctx, func(r *record) error {
		r.Cuts = nil
		return l.applyCuts(r)
	})
	if err != nil {
		return err
	}
	return l.each(l.rec.Machines, func(m Machine) error {
		if err := l.Thaw(ctx, m.Name); err != nil {
			return err
		}
		return l.PowerOn(ctx, m.Name)
	})
}

// target is one end, or the two ends of a link.
type target struct{ a, b string }

func (t target) String() string {
	if t.b == "" {
		return t.a
	}
	return t.a + ":" + t.b
}

// parseTarget checks a target against the lab. It returns the two ends of a link in a fixed order, so that each cut has one
// spelling.
func parseTarget(s string, r *record) (target, error) {
	a, b, link := strings.Cut(s, ":")
	sides := []string{a}
	if link {
		sides = append(sides, b)
	}
	for _, side := range sides {
		zone, isZone := strings.CutPrefix(side, "zone/")
		if isZone && !slices.Contains(r.Zones, zone) {
			return target{}, fmt.Errorf("no zone %q in lab %s (it has %s)", zone, r.Name, strings.Join(r.Zones, ", "))
		}
		if !isZone && !slices.ContainsFunc(r.Machines, func(m Machine) bool { return m.Name == side }) {
			return target{}, fmt.Errorf("no machine %q in lab %s: a target is a machine, zone/NAME, or two machines or two zones joined by a colon", side, r.Name)
		}
	}
	if !link {
		return target{a: a}, nil
	}
	if strings.HasPrefix(a, "zone/") != strings.HasPrefix(b, "zone/") {
		return target{}, fmt.Errorf("%s: a link joins two machines or two zones, not one of each", s)
	}
	if a == b {
		return target{}, fmt.Errorf("%s: a link needs two different ends", s)
	}
	return target{min(a, b), max(a, b)}, nil
}

// mentions reports whether a stored cut concerns a machine.
func mentions(cut, machine string) bool {
	a, b, _ := strings.Cut(cut, ":")
	return a == machine || b == machine
}

// applyCuts configures the switches as recorded. The rules name ports, which keep their names through power cycles.
func (l *Lab) applyCuts(r *record) error {
	rules, err := switchRules(r)
	if err != nil {
		return err
	}
	nft, err := tool("nft")
	if err != nil {
		return err
	}
	return inNetNS(l.coreNS(), func() error {
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("load the nftables rules of the lab's switches: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// switchRules is the whole rule set of the lab's switches, replaced in one transaction. Packets to the caller's link must be
// for the caller, because this computer must not route for the lab.
func switchRules(r *record) (string, error) {
	var in, forward, out []string
	both := func(port string) {
		in = append(in, fmt.Sprintf("iifname %q drop", port))
		out = append(out, fmt.Sprintf("oifname %q drop", port))
	}
	for _, cut := range r.Cuts {
		t, err := parseTarget(cut, r)
		if err != nil {
			return "", err
		}
		a, b := l2(t.a, r), l2(t.b, r)
		switch {
		case t.b == "":
			both(a.port)
			for _, port := range a.more {
				both(port)
			}
		case a.mac == "":
			forward = append(forward, fmt.Sprintf("iifname %q oifname %q drop", a.port, b.port), fmt.Sprintf("iifname %q oifname %q drop", b.port, a.port))
		default:
			out = append(out, fmt.Sprintf("oifname %q ether saddr %s drop", b.port, a.mac), fmt.Sprintf("oifname %q ether saddr %s drop", a.port, b.mac))
		}
	}
	out = append(out,
		fmt.Sprintf("oifname %q ether type ip ip daddr != { %s, 255.255.255.255, %s } drop", callerPort, host(r.Subnet, callerHost), host(r.Subnet, 255)),
		toCaller6(r))
	var s strings.Builder
	s.WriteString("table bridge quorate {}\ndelete table bridge quorate\ntable bridge quorate {\n")
	for _, chain := range []struct {
		hook  string
		rules []string
	}{{"prerouting", in}, {"forward", forward}, {"postrouting", out}} {
		fmt.Fprintf(&s, "chain %s {\ntype filter hook %s priority 0; policy accept;\n%s\n}\n", chain.hook, chain.hook, strings.Join(chain.rules, "\n"))
	}
	s.WriteString("}\n")
	return s.String(), nil
}

// toCaller6 drops what is not for this computer: all of IPv6 in a lab that has only IPv4.
func toCaller6(r *record) string {
	if !r.family().six() {
		return fmt.Sprintf("oifname %q ether type ip6 drop", callerPort)
	}
	return fmt.Sprintf("oifname %q ether type ip6 ip6 daddr != { %s, fe80::/10, ff02::/16 } drop", callerPort, to6(host(r.Subnet, callerHost)))
}

// end is one side of a target as the switches know it: a machine's port and hardware address, or the core's port to a zone. more are the ports
// of the machine, or of the zone's machines, in the networks of their other interfaces, which have no zones. Only a cut of the whole machine or zone concerns them.
type end struct {
	port, mac string
	more      []string
}

func l2(side string, r *record) (out end) {
	if zone, ok := strings.CutPrefix(side, "zone/"); ok {
		out.port = corePort(slices.Index(r.Zones, zone))
		for _, m := range r.Machines {
			if m.Zone == zone {
				out.more = append(out.more, m.morePorts()...)
			}
		}
		return out
	}
	for _, m := range r.Machines {
		if m.Name == side {
			return end{port: port(m.Address), mac: mac(m.Address).String(), more: m.morePorts()}
		}
	}
	return end{}
}
