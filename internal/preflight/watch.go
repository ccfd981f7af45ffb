package preflight

import (
	"fmt"
	"maps"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// WatchCheck is the check of what the units need that observe and repair the cluster from its control planes.
const WatchCheck = cluster.RuleWatch

// WatchPaths are the paths on which these units reach the hosts, as far as both ends can be asked; none if the spec has no units. Each unit also
// logs in to its own host. Without all, they are only those that are new: from control planes whose unit has no configuration yet, and to
// hosts that admit none yet. Of the others, the units themselves report what they cannot reach.
func WatchPaths(s *cluster.State, all bool) (out []facts.Path) {
	if !s.Spec.Watched() {
		return nil
	}
	use := watchUse(s)
	has := func(host string, what func(*facts.Watch) bool) bool {
		f := s.Facts(host)
		return f.Watch != nil && what(f.Watch)
	}
	for _, from := range s.Spec.HostsWith(spec.RoleControlPlane) {
		for _, to := range s.Spec.Spec.Hosts {
			if !s.Reachable(from.Name) || !s.Reachable(to.Name) {
				continue
			}
			known := has(from.Name, func(w *facts.Watch) bool { return w.Config != nil }) && has(to.Name, func(w *facts.Watch) bool { return w.Admits != nil })
			if all || !known {
				out = append(out, facts.Path{From: from.Name, To: to.Name, Address: to.Address, Proto: facts.TCP, Port: to.SSHPort(), For: use})
			}
		}
	}
	return out
}

// watchUse is what the units log in for.
func watchUse(s *cluster.State) string {
	if s.Spec.Spec.Repair.Watch {
		return "repairs"
	}
	return "metrics"
}

// fixWatchPath is what to do where the units cannot work.
func fixWatchPath(s *cluster.State) string {
	if s.Spec.Spec.Monitoring.Exporter {
		return "Or set spec.monitoring.exporter and spec.repair.watch to false."
	}
	return "Or set spec.repair.watch to false, and run `quorate watch` on a machine that can."
}

// JudgeWatch finds what would keep units on control planes from observing and repairing hosts.
func JudgeWatch(s *cluster.State, seen facts.WatchProbe) []cluster.Finding {
	j, use := &judge{State: s, c: s.Spec}, watchUse(s)
	type way struct {
		to, detail string
		outcome    facts.Outcome
	}
	from := map[way][]string{}
	var ways []way
	for _, r := range seen.Reach {
		if r.Outcome == facts.Reached {
			continue
		}
		w := way{r.To, r.Detail, r.Outcome}
		if from[w] == nil {
			ways = append(ways, w)
		}
		from[w] = append(from[w], r.From)
	}
	for _, w := range ways {
		to, _ := j.c.Host(w.to)
		through := ""
		fix := fmt.Sprintf("Allow TCP from the control planes to port %d of %s. ", to.SSHPort(), to.Address)
		if to.SSH.Jump != "" {
			through = ". This machine reaches it through " + to.SSH.Jump + ", which control planes do not use"
		} else if to.SSH.Address != "" {
			through = ". This machine reaches it at " + to.SSH.Address + ", which control planes do not use"
			fix = fmt.Sprintf("Have sshd listen at %s on port %d, and allow TCP from the control planes. If it listens on another port there, set ssh.hostPort. ", to.Address, to.SSHPort())
		}
		slices.Sort(from[w])
		j.add(failure, WatchCheck, []string{w.to}, fix+fixWatchPath(s),
			"%s cannot log in to %s (%s), for %s: %s%s", few(from[w]), to.Name, to.Inside(), use, why(w.outcome, w.detail), through)
	}
	for _, name := range slices.Sorted(maps.Keys(seen.Errors)) {
		j.add(failure, WatchCheck, []string{name}, "Run it again.", "whether %s can log in to the others, for %s, could not be tried: %s", name, use, seen.Errors[name])
	}
	for _, name := range seen.SudoAsks {
		h, _ := j.c.Host(name)
		j.add(failure, WatchCheck, []string{name}, fmt.Sprintf("Let %s use sudo there without a password. If that holds only for `%s host serve --for-repairs *`, which is enough, ignore this check. ", h.SSH.User, hostconfig.SelfPath)+fixWatchPath(s),
			"sudo on HOSTS wants a password of %s, and control planes have none", h.SSH.User)
	}
	return j.finish(nil)
}
