package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// clocks compares each clock with the median, and the median with the clock of the machine that runs the command.
func (j *judge) clocks() {
	var clocks []cluster.Clock
	for _, h := range j.c.Spec.Hosts {
		if c, ok := j.seen.Clocks[h.Name]; ok {
			clocks = append(clocks, cluster.Clock{Host: h.Name, Ahead: c.Ahead, Uncertainty: c.Uncertainty})
		}
	}
	skews, median := cluster.Skews(clocks)
	const fix = "Run `timedatectl set-ntp true`, or install chrony, and wait until `timedatectl` says that the clock is synchronized."
	for _, c := range skews {
		severity, why := warning, "etcd warns from one second on"
		if c.Beyond(skewError) {
			severity, why = failure, "certificates, tokens and leases depend on it"
		}
		if c.Beyond(skewWarning) {
			j.add(severity, "clock", []string{c.Host}, fix, "the clock of HOSTS is %s %s the others (measured to within %s): %s", seconds(c.Ahead.Abs()), c.Direction(), seconds(c.Uncertainty), why)
		}
	}
	if median.Abs() > callerSkew {
		here := cluster.Clock{Ahead: median}
		if median > backdated && !j.Exists() {
			j.add(failure, "clock", nil, "Set the clock of this machine: `timedatectl set-ntp true`, or `hwclock --hctosys` in a virtual machine that was suspended.",
				"the clocks of the hosts are %s %s that of this machine: it would reject the certificates that the hosts make, as not valid yet", ui.Duration(median.Abs()), here.Direction())
			return
		}
		j.add(warning, "clock", nil, "Correct whichever clock is wrong.", "the clocks of the hosts are %s %s that of this machine", ui.Duration(median.Abs()), here.Direction())
	}
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return ui.Duration(d)
}

// placeholder says that a vendor left the UUID as it found it: such a value tells nothing.
func placeholder(uuid string) bool {
	digits := strings.ReplaceAll(uuid, "-", "")
	return digits == "" || strings.Trim(digits, digits[:1]) == "" || uuid == "03000200-0400-0500-0006-000700080009"
}

func (j *judge) duplicates() {
	j.same("machine-id", "On all but one of them, run `rm /etc/machine-id && systemd-machine-id-setup`, and reboot. Clones of an image need this.",
		"HOSTS have the same machine-id, %s: addresses that systemd derives from it, flannel's among them, would be the same",
		func(f *facts.Facts, _ facts.Inspection) string { return f.MachineID })
	j.same("mac", "Give each virtual machine its own hardware address.", "HOSTS have the same hardware address, %s: switches and ARP cannot tell them apart",
		func(_ *facts.Facts, in facts.Inspection) string { return in.MAC })
	j.same("product-uuid", "Give each virtual machine its own UUID: a clone keeps that of the original.", "HOSTS have the same product UUID, %s",
		func(_ *facts.Facts, in facts.Inspection) string {
			if placeholder(in.ProductUUID) || j.sharesKernel(in) {
				return ""
			}
			return in.ProductUUID
		})
}

// sharesKernel says that the host is one of several on one kernel, and therefore has its firmware in common with them.
func (j *judge) sharesKernel(in facts.Inspection) bool {
	n := 0
	for _, other := range j.seen.Hosts {
		if other.BootID != "" && other.BootID == in.BootID {
			n++
		}
	}
	return n > 1
}

func (j *judge) same(check, fix, format string, value func(*facts.Facts, facts.Inspection) string) {
	hosts := map[string][]string{}
	for _, h := range j.c.Spec.Hosts {
		in, ok := j.seen.Hosts[h.Name]
		f := j.Facts(h.Name)
		if !ok || f == nil {
			continue
		}
		if v := value(f, in); v != "" {
			hosts[v] = append(hosts[v], h.Name)
		}
	}
	for v, on := range hosts {
		if len(on) > 1 {
			j.add(failure, check, on, fix, format, v)
		}
	}
}

func (j *judge) mtus() {
	count := map[int]int{}
	for _, in := range j.seen.Hosts {
		if in.MTU > 0 {
			count[in.MTU]++
		}
	}
	if len(count) < 2 {
		return
	}
	usual := 0
	for mtu, n := range count {
		if n > count[usual] || n == count[usual] && mtu < usual {
			usual = mtu
		}
	}
	for _, h := range j.c.Spec.Hosts {
		if mtu := j.seen.Hosts[h.Name].MTU; mtu > 0 && mtu != usual {
			j.add(warning, "mtu", []string{h.Name}, fmt.Sprintf("Give all interfaces of the cluster's network the same MTU, for example %d.", usual),
				"the MTU of HOSTS is %d, while most hosts have %d: large packets between pods may get lost", mtu, usual)
		}
	}
}

// reach turns failed paths into findings: one for all hosts that fail in the same way to reach one other.
func (j *judge) reach() {
	type way struct {
		from, to, address string
		outcome           facts.Outcome
		detail            string
	}
	ports := map[way][]string{}
	var order []way
	for _, r := range j.seen.Reach {
		if r.Size > 0 && !r.Fits {
			j.add(failure, "path-mtu", []string{r.From, r.To}, "Raise the MTU on the path between them, or lower the MTU of the hosts' interfaces to what passes.",
				"packets of %d bytes%s do not get from %s to %s, but smaller ones do: transfers between pods would hang", r.Size, j.over(r.Path), r.From, r.To)
		}
		if r.Outcome == facts.Reached {
			continue
		}
		w := way{r.From, r.To, r.Address, r.Outcome, r.Detail}
		if ports[w] == nil {
			order = append(order, w)
		}
		ports[w] = append(ports[w], portOf(r.Path)+j.over(r.Path)+" ("+r.For+")")
	}
	type group struct {
		to, address, ports string
		outcome            facts.Outcome
		detail             string
	}
	from := map[group][]string{}
	var groups []group
	for _, w := range order {
		list := slices.Compact(slices.Sorted(slices.Values(ports[w])))
		g := group{w.to, w.address, strings.Join(list, ", "), w.outcome, w.detail}
		if from[g] == nil {
			groups = append(groups, g)
		}
		from[g] = append(from[g], w.from)
	}
	for _, g := range groups {
		fix := j.reachFix(g.to, g.address, g.outcome)
		to := g.to
		if h, ok := j.c.Host(g.to); ok {
			if g.outcome != facts.Routed {
				fix = cmp.Or(j.diverted(from[g][0], g.address), fix)
			}
			if !slices.Contains(h.Addresses(), g.address) { // over says which family it is
				to += " at " + g.address
			}
		}
		j.add(failure, "reach", append(slices.Clone(from[g]), g.to), fix, "%s cannot reach %s on %s: %s", few(from[g]), to, g.ports, why(g.outcome, g.detail))
	}
}

// over names the family of a path between secondary addresses. All others have the cluster's first family.
func (j *judge) over(p facts.Path) string {
	if f := spec.FamilyOf(p.Address); f != "" && f != j.c.Spec.Network.First() {
		return " over " + string(f)
	}
	return ""
}

func portOf(p facts.Path) string {
	if p.Proto == facts.VRRP {
		return "IP protocol 112"
	}
	return fmt.Sprintf("%d/%s", p.Port, p.Proto)
}

func why(o facts.Outcome, detail string) string {
	switch o {
	case facts.Refused:
		return "refused, although something listens there, so a firewall rejects it"
	case facts.TimedOut:
		return "no answer, so a firewall or the routing drops the packets"
	case facts.Unreachable:
		return "a router or firewall forbids it (" + detail + ")"
	case facts.Impostor:
		return "another host has that address: " + detail
	case facts.Routed:
		return "it arrives through a router (" + detail + " instead of 255), and keepalived ignores such packets"
	}
	return cmp.Or(detail, string(o))
}

func (j *judge) reachFix(to, address string, o facts.Outcome) string {
	if o == facts.Impostor {
		return "Find the other host with that address (`" + askFor(address) + "`), and change the address of one of them."
	}
	if o == facts.Routed {
		return "Put all load balancers into one network segment: a virtual IP cannot move between networks."
	}
	h, _ := j.c.Host(to)
	for _, w := range j.seen.Hosts[to].Firewalls {
		return openPorts(j.c, h, w)
	}
	return "Open these ports on " + to + " for the other hosts of the cluster, in its own firewall and in that of the network."
}
