package cluster

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// prometheus reports what does not run of the Prometheus that the spec installs. Apply waits for what is wrong with itself: an image, a volume, its
// configuration, or a cluster that never has room for it. It does not wait for a replica whose node is down or in maintenance, and not for one that
// finds no node while a node is down, cordoned, or in maintenance: another finding is about the node, and an apply that mends one zone must not fail
// because another one is down. Neither does it wait for the user's Secret, whose namespace the first apply creates.
func (f *findings) prometheus() {
	if f.Seen.API == nil || f.Seen.API.Prometheus == nil || !f.Spec.InstallsPrometheus() {
		return
	}
	seen := f.Seen.API.Prometheus
	if seen.Unknown != "" {
		f.unmet(RulePrometheus, Warning, "whether Prometheus and Alertmanager run is unknown: "+seen.Unknown,
			"Run `quorate status` again in a moment. If this persists, the cause is in what the API server answered, and on no host in particular.")
		return
	}
	if why := f.Relaxed(); why != "" {
		f.add(RulePrometheus, Warning, why, "If no drain goes on, `quorate repair` or `quorate apply` restores them.")
	}
	namespace := ""
	if len(seen.Workloads) > 0 {
		namespace = seen.Workloads[0].Namespace
	}
	var wrong, waits []string
	missing, nodes, secret := false, "", ""
	for _, w := range seen.Workloads {
		why, excused := f.workload(w)
		missing = missing || w.Missing
		switch {
		case w.Name == alertmanager && why != "" && f.lacksSecret(w):
			waits = append(waits, why)
			secret = "`kubectl -n " + namespace + " create secret generic " + f.Spec.Spec.Monitoring.Prometheus.AlertmanagerSecret + " --from-file=alertmanager.yaml` creates the Secret. Alertmanager then starts within minutes."
		case why != "" && excused:
			waits = append(waits, why)
			nodes = "For what waits for a node, bring back the nodes that are down, cordoned, or in maintenance."
		case why != "":
			wrong = append(wrong, why)
		}
	}
	var fixes []string
	if missing {
		fixes = append(fixes, "`quorate apply` creates what is missing.")
	}
	if len(wrong) > 0 {
		fixes = append(fixes, "`kubectl -n "+namespace+" describe pods` and `kubectl -n "+namespace+" logs POD --previous` show more.")
	}
	for _, text := range []string{secret, nodes} {
		if text != "" {
			fixes = append(fixes, text)
		}
	}
	fix := strings.Join(fixes, " ")
	summary := strings.Join(append(wrong, waits...), "; ")
	switch {
	case len(wrong) > 0:
		f.unmet(RulePrometheus, Warning, summary, fix)
	case len(waits) > 0:
		f.add(RulePrometheus, Warning, summary, fix)
	}
}

// Relaxed says which disruption budgets of Prometheus are relaxed for a drain; empty if none is.
func (s *State) Relaxed() string {
	if s.Seen.API == nil || s.Seen.API.Prometheus == nil || len(s.Seen.API.Prometheus.Relaxed) == 0 {
		return ""
	}
	all := s.Seen.API.Prometheus.Relaxed
	return plural(len(all), "the disruption budget ", "the disruption budgets ") + List(all) + plural(len(all), " lets", " let") + " all replicas go at the same time: a drain has relaxed " + plural(len(all), "it", "them") + ", and goes on or was interrupted"
}

// workload says what is wrong with a workload; empty if nothing is, or nothing but what follows from nodes that cannot run pods now. It is excused if
// nodes have to come back first.
func (s *State) workload(w facts.Workload) (why string, excused bool) {
	title, part := w.Title, "in %d of %d replicas"
	if w.Kind == "DaemonSet" {
		part = "on %d of %d nodes"
	}
	if w.Missing {
		return title + " is not in the cluster: the " + w.Kind + " " + w.Namespace + "/" + w.Name + " was removed", false
	}
	down, waits := 0, false // pods that follow their node, and pods that wait for one
	said := w.Problem
	for _, p := range w.NotReady {
		node := s.Node(p.Node)
		switch {
		case p.Node == "" && s.lacksNodes():
			waits = true
		case p.Node == "":
		case node == nil || !s.runs(*node): // a node that is not there is gone, or only simulated
			down++
			continue
		}
		if said == "" {
			said = p.Why
		}
	}
	switch {
	case w.Stale:
		return title + " was changed, and no controller manager has looked at it yet", false
	case w.Ready+down < w.Desired:
		return title + " runs " + fmt.Sprintf(part, w.Ready, w.Desired) + after(": ", said), waits
	case w.Updated < w.Desired:
		return title + " has its current configuration " + fmt.Sprintf(part, w.Updated, w.Desired) + after(": ", said), down > 0 || waits
	}
	return "", false
}

const alertmanager = "alertmanager"

// lacksSecret says whether pods wait for the Secret of the spec. Only the kubelet tells, in its own words.
func (f *findings) lacksSecret(w facts.Workload) bool {
	name := f.Spec.Spec.Monitoring.Prometheus.AlertmanagerSecret
	return name != "" && slices.ContainsFunc(w.NotReady, func(p facts.WaitingPod) bool {
		return strings.Contains(p.Why, fmt.Sprintf("secret %q not found", name))
	})
}

// LastOn says which programs of the Prometheus that Quorate installed have their last ready replica on hosts, each with the reason why another one is missing:
// their disruption budgets hold a drain of these hosts.
func (s *State) LastOn(hosts ...string) (out []string) {
	if s.Seen.API == nil || s.Seen.API.Prometheus == nil {
		return nil
	}
	for _, w := range s.Seen.API.Prometheus.Workloads {
		elsewhere := slices.ContainsFunc(w.On, func(node string) bool { return !slices.Contains(hosts, node) })
		if w.Kind == "DaemonSet" || len(w.On) == 0 || elsewhere || len(w.On) >= w.Desired {
			continue
		}
		why := fmt.Sprintf("%s runs in %d of %d replicas", w.Title, len(w.On), w.Desired)
		if len(w.NotReady) > 0 {
			why += ": " + w.NotReady[0].Why
		}
		out = append(out, why)
	}
	return out
}

// runs says whether pods can run on a node now.
func (s *State) runs(n facts.Node) bool { return n.Ready && !s.leaving(n.Name) }

// lacksNodes says whether a node of the spec takes no pods now.
func (s *State) lacksNodes() bool {
	return slices.ContainsFunc(s.Spec.Spec.Hosts, func(h spec.Host) bool {
		n := s.Node(h.Name)
		return h.Has(spec.RoleWorker) && (n == nil || !s.runs(*n) || n.Unschedulable || n.Short != "")
	})
}
