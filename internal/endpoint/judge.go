package endpoint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Severity says what a finding means for a build.
type Severity string

// An Error keeps the cluster from working, a Warning its clients from finding it.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is something wrong with the way to the endpoint. Host is where it was seen; empty for the caller.
type Finding struct {
	Severity Severity `json:"severity"`
	Host     string   `json:"host,omitempty"`
	Summary  string   `json:"summary"`
	Fix      string   `json:"fix"`
}

// Judge says what the probes of Everywhere mean. Before the build nobody listens behind the endpoint yet, and a refusal
// is what a way that works looks like. A virtual IP must not be anybody's yet but one of these hosts'.
func Judge(c *spec.Cluster, obs *facts.Observation, probes []Probe) []Finding {
	j := judge{c: c, external: c.Spec.LoadBalancer.Type == spec.BalancerExternal}
	for _, h := range obs.Hosts {
		if h.Facts == nil {
			continue
		}
		j.built = j.built || h.Facts.Kubernetes.Established
		_, has := h.Facts.Interface(c.Spec.LoadBalancer.Address)
		j.held = j.held || has
	}
	j.names(probes)
	j.ways(probes)
	return j.out
}

type judge struct {
	c *spec.Cluster
	// external, built: whose balancer, and whether apiservers should be behind it. held: one of these hosts has its address.
	external, built, held bool

	out []Finding
}

func (j *judge) add(s Severity, from, fix, format string, args ...any) {
	j.out = append(j.out, Finding{Severity: s, Host: from, Summary: fmt.Sprintf(format, args...), Fix: fix})
}

// place is a probe's origin in a sentence.
func place(from string) string { return cmp.Or(from, "this machine") }

// names judges what the endpoint's name resolves to. An address in the spec is pinned in /etc/hosts by the build, so that
// hosts need no DNS; but a name that means something else there would win.
func (j *judge) names(probes []Probe) {
	name, want := hostconfig.EndpointHost(j.c), j.c.Spec.LoadBalancer.Address
	usual := ""
	if want == "" {
		usual = mostCommon(probes)
	}
	for _, p := range probes {
		have := strings.Join(p.Answer.Addresses, ", ")
		severity := Error
		if p.Host == "" {
			severity = Warning // the caller may see the network from outside
		}
		switch {
		case p.Err != nil:
		case have == "" && want != "" && p.Host != "":
		case have == "":
			fix := "add the name to DNS"
			if p.Host == "" {
				fix += ": every client outside of the cluster needs it, and kubectl here too"
			} else {
				fix += ", or set loadBalancer.address in the spec if the balancer has a fixed one"
			}
			j.add(severity, p.Host, fix, "%s does not resolve on %s: %s", name, place(p.Host), p.Answer.Unresolved)
		case want != "" && !slices.Contains(p.Answer.Addresses, want):
			j.add(severity, p.Host, "correct DNS or /etc/hosts there, or loadBalancer.address in the spec",
				"%s resolves to %s on %s, and the spec says %s", name, have, place(p.Host), want)
		case want == "" && !meets(p.Answer.Addresses, usual):
			j.add(severity, p.Host, "correct DNS or /etc/hosts there", "%s resolves to %s on %s, and to %s elsewhere", name, have, place(p.Host), usual)
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

// meets says whether one of the addresses is in the list. Balancers with several addresses are told of in any order, and
// not always completely.
func meets(have []string, list string) bool {
	return list == "" || slices.ContainsFunc(strings.Split(list, ", "), func(a string) bool { return slices.Contains(have, a) })
}

// ways judges what became of connections. What is the same from everywhere is said once.
func (j *judge) ways(probes []Probe) {
	type found struct {
		at      string
		outcome Outcome
		detail  string
	}
	from := map[found][]string{}
	var order []found
	for _, p := range probes {
		f := found{p.Answer.Dialed, p.Answer.Outcome, p.Answer.Detail}
		if p.Err != nil {
			f = found{outcome: Failed, detail: p.Err.Error()}
		}
		if f.outcome == "" || j.good(f.outcome) {
			continue
		}
		if from[f] == nil {
			order = append(order, f)
		}
		from[f] = append(from[f], p.Host)
	}
	for _, f := range order {
		hosts := from[f]
		first := hosts[0]
		if len(hosts) > 1 {
			first = ""
		}
		summary, fix := j.way(f.at, f.outcome, f.detail, hosts)
		j.add(Error, first, fix, "%s", summary)
	}
}

// good says whether an outcome is what should be.
func (j *judge) good(o Outcome) bool {
	switch {
	case j.built:
		return o == Trusted
	case j.external || j.held:
		return o == Refused || o == Closed || o == Trusted
	}
	return o == Timeout || o == NoRoute
}

func (j *judge) way(at string, o Outcome, detail string, from []string) (summary, fix string) {
	var places []string
	for _, f := range from {
		places = append(places, place(f))
	}
	who := list(places)
	balancer := "the balancer at " + at
	if !j.external && !j.built && !j.held && (o == Refused || o == Closed || o == Silent || o == Plain || o == Stranger || o == Trusted) {
		return fmt.Sprintf("the virtual IP %s is in use: a machine that has it answers %s (%s)", j.c.Spec.LoadBalancer.Address, who, o),
			"choose a free address, or take it away from that machine"
	}
	switch o {
	case Timeout:
		return balancer + " cannot be reached from " + who + ": no answer within " + ui.Duration(patience),
			"let TCP to " + at + " pass from " + who + ": a firewall on the way or on the balancer drops it, or the balancer has no route back"
	case NoRoute:
		return balancer + " cannot be reached from " + who + ": " + detail,
			"on " + who + ": `ip route get " + hostOf(at) + "` shows the way; is the balancer up, and is there a route to it?"
	case Silent:
		return balancer + " takes connections from " + who + " and then says nothing: it cannot reach the control planes",
			"let TCP port " + hostconfig.APIPort + " pass from the balancer to " + j.controlPlanes() + ": a firewall or a missing route drops it"
	case Refused, Closed:
		return balancer + " has no apiserver for " + who + ": the connection is " + string(o),
			"put " + j.controlPlanes() + " into its pool, and see whether its checks of them pass"
	case Plain:
		return balancer + " answers " + who + " without TLS: that is no Kubernetes API", "let it forward plain TCP to port " + hostconfig.APIPort + " of the control planes, " + j.controlPlanes()
	case Stranger:
		return balancer + " answers " + who + " with " + detail + ": another cluster's API or another program is behind it",
			"let it forward plain TCP to the control planes of this cluster, " + j.controlPlanes() + ", and to nothing else"
	}
	return fmt.Sprintf("the endpoint cannot be tried from %s: %s", who, detail), "see that `" + hostconfig.EndpointHost(j.c) + "` can be reached from there"
}

func (j *judge) controlPlanes() string {
	var out []string
	for _, h := range j.c.HostsWith(spec.RoleControlPlane) {
		out = append(out, h.Name+" ("+h.Address+")")
	}
	return list(out)
}

func hostOf(address string) string {
	h, _, _ := strings.Cut(address, ":")
	return h
}

// Missing says what keeps the control planes from being proven to be behind the endpoint, one finding for each.
func (m Meeting) Missing(c *spec.Cluster) []Finding {
	j := judge{c: c, external: c.Spec.LoadBalancer.Type == spec.BalancerExternal, built: true}
	j.ways(m.Lost)
	total := 0
	ours := map[string]bool{}
	for _, leaf := range m.Want {
		ours[leaf] = true
	}
	strangers := 0
	for leaf, n := range m.Met {
		total += n
		if !ours[leaf] {
			strangers += n
		}
	}
	if strangers > 0 && len(m.Lost) == 0 {
		j.add(Error, "", "let the balancer forward to "+j.controlPlanes()+" only",
			"%d of %d connections to the endpoint were answered by a server that is none of the control planes", strangers, total)
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if leaf, ok := m.Want[h.Name]; ok && m.Met[leaf] == 0 && total > 0 {
			j.add(Error, h.Name, fmt.Sprintf("add %s:%s to the balancer's pool and see whether its check of it passes (`curl -k https://%[1]s:%[2]s/readyz` there); "+
				"a balancer that keeps each client with one server must choose by connection here", h.Address, hostconfig.APIPort),
				"%s is not behind the endpoint: none of %s from %s met it", h.Name, ui.Plural(total, "connection"), ui.Plural(m.Places, "place"))
		}
	}
	return j.out
}

// list joins words: a, b and c.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
