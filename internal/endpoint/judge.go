package endpoint

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Judge says what the probes of Everywhere mean. Before the build nothing listens behind the endpoint yet, so a refused
// connection shows that the path works. A virtual IP must not be in use before the build. Errors keep the cluster from
// working; what the machine that runs the command finds never does.
func Judge(s *cluster.State, probes []Probe) []cluster.Finding {
	j := newJudge(s.Reached())
	j.built = s.Exists()
	j.begun = slices.ContainsFunc(s.Spec.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return s.JoinedControlPlane(h.Name) })
	j.names(probes)
	if j.external || j.built || ownsVirtualIP(s) {
		j.paths(probes)
	} else {
		j.virtualIP(s, probes)
	}
	return j.out
}

type judge struct {
	c        *spec.Cluster
	external bool // the load balancer is the user's own
	built    bool // API servers should be behind it
	begun    bool // an interrupted build has started API servers

	out []cluster.Finding
}

func newJudge(c *spec.Cluster) judge {
	return judge{c: c, external: c.Spec.LoadBalancer.Type == spec.BalancerExternal}
}

// add notes a finding about the places from which it was made: names of hosts, and an empty one for the machine that runs the
// command. That is no subject.
func (j *judge) add(sev cluster.Severity, rule string, from []string, fix, format string, args ...any) {
	hosts := slices.DeleteFunc(slices.Clone(from), func(h string) bool { return h == "" })
	j.out = append(j.out, cluster.Finding{Severity: sev, Rule: rule, Subjects: hosts, Summary: fmt.Sprintf(format, args...), Fix: fix})
}

// places are the origins of probes in a sentence.
func places(from []string) string {
	var out []string
	for _, f := range from {
		out = append(out, cmp.Or(f, "this machine"))
	}
	return cluster.List(out)
}

// here says that only the machine that runs the command is meant.
func here(from []string) bool { return len(from) == 1 && from[0] == "" }

// grouped collects the places that found the same, in the order in which it was first found.
type grouped[K comparable] struct {
	order []K
	from  map[K][]string
}

func (g *grouped[K]) add(found K, place string) {
	if g.from == nil {
		g.from = map[K][]string{}
	}
	if g.from[found] == nil {
		g.order = append(g.order, found)
	}
	g.from[found] = append(g.from[found], place)
}

// names judges what the endpoint's name resolves to. The build writes an address that is in the spec into /etc/hosts, so
// hosts need no DNS for it; but a name that means something else there would win.
func (j *judge) names(probes []Probe) {
	name, want := hostconfig.EndpointHost(j.c), j.c.Spec.LoadBalancer.Address
	usual := ""
	if want == "" {
		usual = mostCommon(probes)
	}
	type found struct {
		have, unresolved string
		caller           bool // it may see the network from outside, so it is judged separately
	}
	var all grouped[found]
	for _, p := range probes {
		f := found{strings.Join(p.Answer.Addresses, ", "), p.Answer.Unresolved, p.Host == ""}
		switch {
		case p.Err != nil:
		case f.have == "" && want != "" && !f.caller:
		case f.have == "",
			want != "" && !slices.Contains(p.Answer.Addresses, want),
			want == "" && !meets(p.Answer.Addresses, usual):
			all.add(f, p.Host)
		}
	}
	for _, f := range all.order {
		from, severity := all.from[f], cluster.Error
		if f.caller {
			severity = cluster.Warning
		}
		switch {
		case f.have == "" && f.caller:
			j.add(severity, cluster.RuleEndpoint, from, "Add the name to DNS: every client outside the cluster needs it, and so does kubectl on this machine.", "%s does not resolve on this machine: %s", name, f.unresolved)
		case f.have == "":
			j.add(severity, cluster.RuleEndpoint, from, "Add the name to DNS. Or set loadBalancer.address in the spec, if the load balancer has a fixed address.", "%s does not resolve on %s: %s", name, places(from), f.unresolved)
		case want != "":
			j.add(severity, cluster.RuleEndpoint, from, "Correct DNS or /etc/hosts there, or loadBalancer.address in the spec.", "%s resolves to %s on %s, and the spec says %s", name, f.have, places(from), want)
		default:
			j.add(severity, cluster.RuleEndpoint, from, "Correct DNS or /etc/hosts there.", "%s resolves to %s on %s, and to %s elsewhere", name, f.have, places(from), usual)
		}
	}
}

// mostCommon is what most hosts resolve the name to.
func mostCommon(probes []Probe) string {
	count := map[string]int{}
	for _, p := range probes {
		if a := strings.Join(p.Answer.Addresses, ", "); a != "" && p.Host != "" {
			count[a]++
		}
	}
	best := ""
	for _, a := range slices.Sorted(maps.Keys(count)) {
		if count[a] > count[best] {
			best = a
		}
	}
	return best
}

// meets reports whether one of the addresses is in the list. DNS returns the addresses of a load balancer that has several in
// any order, and not always all of them.
func meets(have []string, list string) bool {
	return list == "" || slices.ContainsFunc(strings.Split(list, ", "), func(a string) bool { return slices.Contains(have, a) })
}

// result is how a probe's connection ended.
type result struct {
	at      string
	outcome Outcome
	detail  string
}

func resultOf(p Probe) result {
	if p.Err != nil {
		return result{outcome: Failed, detail: p.Err.Error()}
	}
	return result{p.Answer.Dialed, p.Answer.Outcome, p.Answer.Detail}
}

// paths judges how connections ended. What is the same from everywhere is one finding.
func (j *judge) paths(probes []Probe) {
	var all grouped[result]
	for _, p := range probes {
		if r := resultOf(p); r.outcome != "" && !j.good(r.outcome) {
			all.add(r, p.Host)
		}
	}
	for _, r := range all.order {
		from := all.from[r]
		summary, fix := j.path(r, from)
		severity := severityOf(r.outcome, from)
		if r.outcome == Silent && j.begun {
			severity = cluster.Warning // it may also be an API server that starts
		}
		j.add(severity, cluster.RuleEndpoint, from, fix, "%s", summary)
	}
}

// severityOf is an error where a host is concerned. Only whoever uses kubectl on the machine that runs the command needs a path
// from there; but if something else answers there, kubectl would talk to that.
func severityOf(o Outcome, from []string) cluster.Severity {
	switch {
	case !here(from):
		return cluster.Error
	case o == Timeout, o == NoRoute, o == Failed:
		return cluster.Info
	}
	return cluster.Warning
}

// good reports whether an outcome is what it should be.
func (j *judge) good(o Outcome) bool {
	if j.built {
		return o == Trusted
	}
	// An API server listens for seconds before it answers.
	return o == Refused || o == Closed || o == Trusted || o == Silent && j.begun && !j.external
}

func (j *judge) path(r result, from []string) (summary, fix string) {
	who := places(from)
	balancer := "the load balancer at " + r.at
	if here(from) && (r.outcome == Timeout || r.outcome == NoRoute || r.outcome == Failed) {
		return "this machine does not reach " + balancer + ": " + cmp.Or(r.detail, "no answer within "+ui.Duration(patience)),
			"To use kubectl on this machine, give it a route to " + hostOf(r.at) + ". Quorate does not need one."
	}
	switch r.outcome {
	case Timeout:
		return balancer + " cannot be reached from " + who + ": no answer within " + ui.Duration(patience),
			"Allow TCP to " + r.at + " from " + who + ": a firewall on the path or on the load balancer drops it, or the load balancer has no route back."
	case NoRoute:
		return balancer + " cannot be reached from " + who + ": " + r.detail,
			"On " + who + ", `ip route get " + hostOf(r.at) + "` shows the route. Check that the load balancer is up, and that there is a route to it."
	case Silent:
		return balancer + " accepts connections from " + who + ", and then sends nothing: it cannot reach the control planes",
			"Allow TCP port " + hostconfig.APIPort + " from the load balancer to " + j.controlPlanes() + ": a firewall or a missing route drops it."
	case Refused, Closed:
		return balancer + " has no API server for " + who + ": the connection is " + string(r.outcome),
			"Put " + j.controlPlanes() + " into its pool, and check that its health checks of them pass."
	case Plain:
		return balancer + " answers " + who + " without TLS, so it is not a Kubernetes API", "Make it forward plain TCP to port " + hostconfig.APIPort + " of the control planes, " + j.controlPlanes() + "."
	case Stranger:
		return balancer + " answers " + who + " with " + r.detail + ": another cluster's API or another program is behind it",
			"Make it forward plain TCP to the control planes of this cluster, " + j.controlPlanes() + ", and to nothing else."
	}
	return fmt.Sprintf("the endpoint could not be probed from %s: %s", who, r.detail), "Check that `" + hostconfig.EndpointHost(j.c) + "` can be reached from there."
}

func (j *judge) controlPlanes() string {
	var out []string
	for _, h := range j.c.HostsWith(spec.RoleControlPlane) {
		out = append(out, h.Name+" ("+h.Address+")")
	}
	return cluster.List(out)
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// Missing says what keeps the control planes from being proven to be behind the endpoint. Only errors do.
func (m Meeting) Missing(c *spec.Cluster) []cluster.Finding {
	j := newJudge(c)
	j.built = true
	j.paths(m.Lost)
	lost := slices.ContainsFunc(m.Lost, func(p Probe) bool { return p.Host != "" })
	total, strangers := 0, 0
	ours := map[string]bool{}
	for _, leaf := range m.Want {
		ours[leaf] = true
	}
	for leaf, n := range m.Met {
		total += n
		if !ours[leaf] {
			strangers += n
		}
	}
	if strangers > 0 && !lost {
		j.add(cluster.Error, cluster.RuleEndpoint, nil, "Make the load balancer forward to "+j.controlPlanes()+" only.",
			"%d of %d connections to the endpoint were answered by a server that is none of the control planes", strangers, total)
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if leaf, ok := m.Want[h.Name]; ok && m.Met[leaf] == 0 && total > 0 {
			j.add(cluster.Error, cluster.RuleEndpoint, []string{h.Name}, fmt.Sprintf("Add %s to the load balancer's pool, and check that its health check of it passes (`curl -k https://%[1]s/readyz` there). "+
				"A load balancer that keeps each client on one server must choose by connection here.", net.JoinHostPort(h.Address, hostconfig.APIPort)),
				"%s is not behind the endpoint: none of %s from %s reached it", h.Name, ui.Plural(total, "connection"), ui.Plural(m.Places, "place"))
		}
	}
	return j.out
}

// RuleEndpointPath refuses to build on, or to rely on, an endpoint that does not lead to the control planes.
const RuleEndpointPath = "path-to-the-endpoint"

// Refusal is the refusal that the errors among the findings of Judge or Missing make; nil without errors.
func Refusal(findings []cluster.Finding) *cluster.Refusal {
	return cluster.Refuse(RuleEndpointPath, "the endpoint does not lead from every host to the control planes:", "`quorate preflight` probes it again.", findings)
}
