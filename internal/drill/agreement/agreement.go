// Package agreement compares what an audit predicts with what a drill finds: for every element that can fail, which capabilities are lost with it alone.
// It decides which fault makes an element fail, and how a drill sees that somebody has a capability. It is pure: an end-to-end test audits and
// drills.
package agreement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/spof"
)

// Where is what the name of an element does not say.
type Where struct {
	Spec *spec.Cluster
	// DNS maps the pods of CoreDNS to their nodes.
	DNS map[string]string
	// Lab says that the hosts are machines of a lab, which can lose their power.
	Lab bool
}

// FaultOf is the fault that makes an element fail for as long as it lasts. If there is none, why says the reason.
func FaultOf(e spof.Element, w Where) (f drill.Fault, why string) {
	program := func(t drill.Target) (drill.Fault, string) {
		if _, ours := w.Spec.Host(e.Name); !ours {
			return drill.Fault{}, e.Name + " is not a host of the spec, so it is not Quorate's to break"
		}
		return drill.Fault{Kind: drill.Stop, Target: t, On: e.Name}, ""
	}
	switch e.Kind {
	case spof.Kind(quorum.Members.Name):
		return program(drill.Etcd)
	case spof.Kind(quorum.APIServers.Name):
		return program(drill.APIServer)
	case spof.Kind(quorum.ControllerManagers.Name):
		return program(drill.ControllerManager)
	case spof.Kind(quorum.Schedulers.Name):
		return program(drill.Scheduler)
	case spof.Kind(quorum.Balancers.Name):
		return program(drill.HAProxy)
	case spof.Host, spof.Zone, spof.Region, spof.Shared:
		return w.together(e)
	case spof.CoreDNS:
		return w.replica(e)
	case spof.Machine:
		return f, "it is this computer, and the drill runs on it"
	case spof.Network:
		return f, "a drill cuts hosts and zones; to cut all of them from each other would leave nobody to observe it"
	case spof.VirtualIP:
		return f, "it is an address: it fails with the load balancers that can have it, and these are drilled"
	case spof.DNSName:
		return f, "it is resolved by the clients, and not by the cluster"
	case spof.YourBalancer, spof.Registry, spof.WebhookServer:
		return f, "Quorate does not manage it, so it is not Quorate's to break"
	case spof.PodNetwork:
		return f, "it is an agent on each node, and these are drilled with their hosts"
	case spof.Certificates:
		return f, "they expire with time, and a drill does not change clocks"
	case spof.Command:
		return f, "what an administrator deletes does not come back when a fault is healed"
	case spof.BackupStore, spof.Disk:
		return f, "what is lost with it does not come back when a fault is healed"
	case spof.Pod, spof.Endpoint:
		return f, "it is a pod of the user's own, and a drill breaks only programs of the cluster"
	case spof.Budget:
		return f, "it does not fail: it keeps nodes from being drained"
	}
	return f, "no fault is known for it"
}

// together is the fault of hosts that fail together: of one host, or of a zone.
func (w Where) together(e spof.Element) (f drill.Fault, why string) {
	var hosts []string
	zones := map[string]bool{}
	for _, h := range w.Spec.Spec.Hosts {
		if of := (e.Kind == spof.Host && h.Name == e.Name) || (e.Kind == spof.Zone && h.Zone == e.Name) || (e.Kind == spof.Region && h.Region == e.Name) ||
			(e.Kind == spof.Shared && slices.Contains(h.FailsWith, e.Name)); of {
			hosts = append(hosts, h.Name)
			zones[h.Zone] = true
		}
	}
	kind := drill.Cut
	if w.Lab {
		kind = drill.PowerOff
	}
	switch {
	case len(hosts) == 0:
		return f, "no host of the spec is in it"
	case len(hosts) == len(w.Spec.Spec.Hosts):
		return f, "all hosts are in it"
	case len(hosts) == 1:
		return drill.Fault{Kind: kind, Target: drill.Host, On: hosts[0]}, ""
	}
	for zone := range zones {
		whole := !slices.ContainsFunc(w.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Zone == zone && !slices.Contains(hosts, h.Name) })
		if len(zones) == 1 && whole {
			return drill.Fault{Kind: kind, Target: drill.Zone, Zone: zone}, ""
		}
	}
	return f, "a drill breaks a host or a zone, and these hosts are neither: " + cluster.List(hosts)
}

// replica is the fault of one replica of CoreDNS. It hangs: one that is killed is started again.
func (w Where) replica(e spof.Element) (f drill.Fault, why string) {
	node, known := w.DNS[e.Name]
	if !known {
		return f, "where it runs is not known"
	}
	if _, ours := w.Spec.Host(node); !ours {
		return f, "it runs on " + node + ", which is not a host of the spec"
	}
	for pod, on := range w.DNS {
		if pod != e.Name && on == node {
			return f, "another replica runs on " + node + ", and a fault there would take both"
		}
	}
	return drill.Fault{Kind: drill.Hang, Target: drill.CoreDNS, On: node}, ""
}

// Elements are everything of a cluster that a drill can break, whether or not anything is lost with it.
func Elements(w Where) (out []spof.Element) {
	add := func(kind spof.Kind, name string) {
		if e := (spof.Element{Kind: kind, Name: name}); name != "" && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	regions := map[string]bool{}
	for _, h := range w.Spec.Spec.Hosts {
		regions[h.Region] = true
	}
	for _, h := range w.Spec.Spec.Hosts {
		add(spof.Host, h.Name)
		add(spof.Zone, h.Zone)
		if len(regions) > 1 {
			add(spof.Region, h.Region)
		}
		for _, name := range h.FailsWith {
			add(spof.Shared, name)
		}
	}
	for _, p := range cluster.Intended(w.Spec) {
		for _, k := range []quorum.Kind{quorum.Members, quorum.APIServers, quorum.ControllerManagers, quorum.Schedulers, quorum.Balancers} {
			if *k.Part(&p) != quorum.Absent {
				add(spof.Kind(k.Name), p.Host)
			}
		}
	}
	for pod := range w.DNS {
		add(spof.CoreDNS, pod)
	}
	slices.SortFunc(out, func(a, b spof.Element) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// PodEvent is a step in the life of the pods that the test keeps creating, through each API server and not through the endpoint.
type PodEvent string

const (
	// Scheduled is a pod that was bound to a node.
	Scheduled PodEvent = "scheduled"
	// Finished is a pod that a controller created and that has done its work on a node.
	Finished PodEvent = "finished"
	// Tried is an attempt at either, whatever became of it.
	Tried PodEvent = "tried"
)

// Events are the moments at which something happened to pods.
type Events map[PodEvent][]time.Time

// Sign is how one sees that somebody has a capability: a request of some clients of a drill succeeds, or something happens to a pod.
type Sign struct {
	// Clients are patterns for kinds of clients of a drill; empty if the sign is a Pod.
	Clients string
	Pod     PodEvent
	// Patience is for how long nobody may have the capability until it counts as lost: longer than what takes over needs on any computer, and shorter than
	// a fault lasts.
	Patience time.Duration
}

const (
	// apiPatience is for an election of etcd, or a move of the virtual IP, and dnsPatience for nodes that use a replica of CoreDNS that is gone.
	apiPatience = 15 * time.Second
	dnsPatience = 10 * time.Second
	// workloadPatience is for nodes that use a replica of a workload that is gone.
	workloadPatience = 20 * time.Second
	// leasePatience is for the lease of a controller manager or scheduler that is gone, 15 s, and for its successor to start.
	leasePatience = 45 * time.Second
)

// Lasts is how long each fault has to last, so that a loss can be told from what takes over late.
const Lasts = leasePatience + 30*time.Second

// SignOf is how one sees that somebody has the capability. If nobody can, why says the reason.
func SignOf(capability string) (s Sign, why string) {
	switch capability {
	case spof.APIReads:
		return Sign{Clients: "endpoint/read", Patience: apiPatience}, ""
	case spof.APIWrites:
		return Sign{Clients: "endpoint/write", Patience: apiPatience}, ""
	case spof.Scheduling:
		return Sign{Pod: Scheduled, Patience: leasePatience}, ""
	case spof.NewPods:
		return Sign{Pod: Finished, Patience: leasePatience}, ""
	case spof.ClusterDNS:
		return Sign{Clients: "dns", Patience: dnsPatience}, ""
	case spof.ServiceTraffic:
		return Sign{Clients: "service/get,node-port", Patience: workloadPatience}, ""
	case spof.ClusterData:
		return s, "data that is lost does not come back when a fault is healed"
	case spof.Maintenance:
		return s, "it is lost by disruption budgets, and not by faults"
	}
	switch {
	case strings.HasPrefix(capability, spof.WorkloadPrefix), strings.HasPrefix(capability, spof.ReplacementPrefix):
		return s, "a drill has clients of its own workload, and not of the user's"
	case strings.HasPrefix(capability, spof.ChangesPrefix):
		return s, "a drill changes only objects of its own"
	}
	return s, "no client of a drill has it"
}

// Trial is one element, the fault that makes it fail, and what the audit says is lost then.
type Trial struct {
	Element spof.Element
	Fault   drill.Fault
	Lost    []string // capabilities
}

// Untried is an element that cannot be made to fail.
type Untried struct {
	Element spof.Element `json:"element"`
	// Lost are the capabilities that the audit says are lost with it.
	Lost []string `json:"lost"`
	Why  string   `json:"why"`
}

// Plan is what has to be drilled to compare an audit with reality.
type Plan struct {
	Trials  []Trial
	Untried []Untried
}

// PlanFor plans a trial for every element of the cluster: for those that the audit names, and for all others, with which nothing is lost.
// What is true only if something is down that could not be queried is not tried.
func PlanFor(r spof.Report, w Where) (out Plan) {
	elements := Elements(w)
	lost := map[spof.Element][]string{}
	note := func(e spof.Element, capabilities []string) {
		if !slices.Contains(elements, e) {
			elements = append(elements, e)
		}
		for _, c := range capabilities {
			if !slices.Contains(lost[e], c) {
				lost[e] = append(lost[e], c)
			}
		}
	}
	for _, f := range r.Findings {
		if f.Size == 1 && !f.Possible {
			note(f.Elements[0], f.Capabilities)
		}
	}
	for _, x := range r.Inherent {
		note(x.Element, x.Capabilities)
	}
	for _, e := range elements {
		if f, why := FaultOf(e, w); why != "" {
			out.Untried = append(out.Untried, Untried{e, lost[e], why})
		} else {
			out.Trials = append(out.Trials, Trial{e, f, lost[e]})
		}
	}
	return out
}

// Only is the plan's faults, for `quorate drill --only`.
func (p Plan) Only() string {
	var names []string
	for _, t := range p.Trials {
		if name := t.Fault.Name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// Result compares the prediction for one element and one capability with what was seen.
type Result struct {
	Element    spof.Element `json:"element"`
	Fault      string       `json:"fault"`
	Target     string       `json:"target,omitempty"`
	Capability string       `json:"capability"`
	// Predicted says that the capability is lost with the element, according to the audit, and Lost that it was.
	Predicted bool `json:"predicted"`
	Lost      bool `json:"lost"`
	// LongestMs is the longest time during the fault in which nobody had the capability.
	LongestMs int64 `json:"longestMs"`
	// Skipped says why the drill did not inject the fault, and Unjudged why what was seen says nothing.
	Skipped  string `json:"skipped,omitempty"`
	Unjudged string `json:"unjudged,omitempty"`
}

// Wrong says what is wrong with a result: audit and drill disagree, or nothing can be said. It is empty if they agree, and if a fault of which
// nothing bad was predicted was not injected.
func (r Result) Wrong() string {
	switch {
	case r.Skipped != "" && r.Predicted:
		return "it was predicted to be lost, and not tried: " + r.Skipped
	case r.Skipped != "":
		return ""
	case r.Unjudged != "":
		return "nothing can be said: " + r.Unjudged
	case r.Predicted && !r.Lost:
		return fmt.Sprintf("it was predicted to be lost, and nobody had it for only %s", time.Duration(r.LongestMs)*time.Millisecond)
	case !r.Predicted && r.Lost:
		return fmt.Sprintf("it was predicted to be survived, and nobody had it for %s", time.Duration(r.LongestMs)*time.Millisecond)
	}
	return ""
}

// Compare compares an audit with a drill of its plan, for every trial and every capability that worked and that can be seen.
func Compare(r spof.Report, p Plan, d drill.Report, events Events) (out []Result) {
	for _, t := range p.Trials {
		for _, c := range r.Capabilities {
			sign, why := SignOf(c.Name)
			if why != "" || c.State != spof.Works {
				continue
			}
			x := Result{Element: t.Element, Fault: t.Fault.Name(), Capability: c.Name, Predicted: slices.Contains(t.Lost, c.Name)}
			i := slices.IndexFunc(d.Faults, func(o drill.Outcome) bool { return o.Name == x.Fault })
			if i < 0 {
				x.Skipped = whyNot(d, x.Fault)
				out = append(out, x)
				continue
			}
			o := d.Faults[i]
			x.Target = o.Target
			seen, tries := moments(sign, d.Timeline, events)
			longest := Longest(seen, o.Injected, o.Healed)
			x.LongestMs, x.Lost = longest.Milliseconds(), longest > sign.Patience
			switch silent := Longest(tries, o.Injected, o.Healed); {
			case o.Healed.Sub(o.Injected) < sign.Patience:
				x.Unjudged = fmt.Sprintf("the fault lasted %s, and it takes %s to tell", o.Healed.Sub(o.Injected).Round(time.Second), sign.Patience)
			case silent > sign.Patience/2:
				x.Unjudged = fmt.Sprintf("for %s, nobody tried", silent.Round(time.Second))
			}
			out = append(out, x)
		}
	}
	return out
}

// whyNot is why a drill has not injected a fault.
func whyNot(d drill.Report, name string) string {
	if i := slices.IndexFunc(d.Skipped, func(s drill.Skipped) bool { return s.Name == name }); i >= 0 {
		return d.Skipped[i].Why
	}
	return cmp.Or(d.Interrupted, "the drill does not say why")
}

// moments are those at which somebody had a capability, and those at which somebody tried.
func moments(s Sign, timeline []drill.Sample, events Events) (had, tried []time.Time) {
	if s.Pod != "" {
		return events[s.Pod], events[Tried]
	}
	for _, x := range timeline {
		if !drill.Match(s.Clients, x.Client) || x.OK+x.Failed == 0 {
			continue
		}
		at := time.Unix(x.Second, 0)
		tried = append(tried, at)
		if x.OK > 0 {
			had = append(had, at)
		}
	}
	return had, tried
}

// Longest is the longest time between two moments in an interval. Its begin and its end count as moments.
func Longest(moments []time.Time, from, to time.Time) (longest time.Duration) {
	last := from
	for _, at := range slices.SortedFunc(slices.Values(moments), time.Time.Compare) {
		if at.Before(from) || at.After(to) {
			continue
		}
		longest, last = max(longest, at.Sub(last)), at
	}
	return max(longest, to.Sub(last))
}
