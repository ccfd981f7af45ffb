package drill

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/spec"
)

// What a cluster promises. The figures are those of single faults; docs/drill.md explains them.
const (
	// outageLimit is for clients of the endpoint. The longest part is an election of etcd.
	outageLimit = 1200 * time.Millisecond
	// killLimit is for the same clients when a process is killed that holds no state: nobody has to wait for an election.
	killLimit = 300 * time.Millisecond
	// The time between two requests of clients that keep their connections, and of clients in pods, and between two changes of what watches
	// watch. No gap of theirs can be measured more precisely, so they are promised that much more where it would matter.
	streamPace = 200 * time.Millisecond
	podPace    = 500 * time.Millisecond
	beatPace   = 500 * time.Millisecond
	// insideLimit is for connections that pods have open to an API server when it vanishes.
	insideLimit = 5 * time.Second
	// pathLimit is for clients of workloads when a program fails through which none of their requests go.
	pathLimit = time.Second
	// marginsLimit is how long the cluster may take until it survives as much as before, and bootLimit the same if a host boots meanwhile.
	marginsLimit = 2 * time.Minute
	bootLimit    = 10 * time.Minute
)

// replacedWithin is how long pods of a dead node may take to run elsewhere, by failover profile: with standard, the node is given up after
// 50 s, and its pods 300 s later.
var replacedWithin = map[string]time.Duration{spec.ProfileFast: 15 * time.Second, spec.ProfileStandard: 6*time.Minute + 10*time.Second}

// controlPrograms are the faults of programs through which no request of a workload goes.
const controlPrograms = "*/kube-apiserver,*/kube-controller-manager,*/kube-scheduler,*/etcd,*/haproxy,*/keepalived,*/watchdog"

// DefaultObjectives are what a cluster with the failover profile promises. They do not depend on the hosts: a promise that gets weaker on
// slow hosts is none.
func DefaultObjectives(profile string) []Objective {
	gap := func(faults, clients string, limit time.Duration) Objective {
		return Objective{Faults: faults, Clients: clients, MaxGapMs: new(limit.Milliseconds())}
	}
	back := func(faults string, limit time.Duration) Objective {
		return Objective{Faults: faults, MaxMarginsBackMs: new(limit.Milliseconds())}
	}
	replaced, known := replacedWithin[profile]
	if !known {
		replaced = replacedWithin[spec.ProfileStandard]
	}
	const requests, streams, watches = "endpoint/read,endpoint/write,endpoint/cached-read", "endpoint/*/kept,endpoint/*/http2,endpoint/cached-read", "endpoint/watch"
	return []Objective{
		gap("*", requests, outageLimit),
		gap("*", watches, outageLimit+beatPace),
		gap("kill/*", requests, killLimit),
		gap("kill/*", streams, killLimit+streamPace),
		gap("kill/*", watches, killLimit+beatPace),
		gap("kill/etcd/*", requests, outageLimit),
		gap("kill/etcd/*", watches, outageLimit+beatPace),
		gap("*", "kubernetes-service", insideLimit+podPace),
		gap("*", "kubernetes-service/*/new", outageLimit+podPace),
		gap("*", "service,node-port,dns", replaced),
		gap(controlPrograms, "service,node-port,dns,pod", pathLimit+podPace),
		back("*", marginsLimit),
		back("reboot/*", bootLimit),
	}
}

// Outside returns the objectives that can be measured without clients in pods.
func Outside(objectives []Objective) []Objective {
	return slices.DeleteFunc(slices.Clone(objectives), func(o Objective) bool {
		return o.limitsClients() && !slices.ContainsFunc(o.kinds(), func(p string) bool {
			path, _, _ := strings.Cut(p, "/")
			return matchOne(path, "endpoint")
		})
	})
}

// FromSpec are the objectives of a spec.
func FromSpec(c *spec.Cluster) []Objective { return fromSpec(c.Spec.Drill.Objectives) }

// ParseObjectives reads objectives from a file of their own (see spec.ParseObjectives).
func ParseObjectives(data []byte) ([]Objective, error) {
	all, err := spec.ParseObjectives(data, "")
	if err != nil {
		return nil, err
	}
	return fromSpec(all), nil
}

// fromSpec converts objectives that are valid.
func fromSpec(all []spec.Objective) (out []Objective) {
	milliseconds := func(text string) *int64 {
		d, err := time.ParseDuration(text)
		if err != nil { // it is left out
			return nil
		}
		return new(d.Milliseconds())
	}
	for _, o := range all {
		out = append(out, Objective{Faults: o.Faults, Clients: o.Clients, MaxGapMs: milliseconds(o.MaxGap), MaxFailed: o.MaxFailed,
			MaxDisruptionSeconds: o.MaxDisruptionSeconds, MaxMarginsBackMs: milliseconds(o.MaxMarginsBack)})
	}
	return out
}

// CheckObjectives returns an error for an objective that can never count: no fault, whether it can be injected here or not, has a name that
// matches, or none of the kinds of clients does. Without kinds, only faults are checked.
func CheckObjectives(objectives []Objective, faults []Fault, skipped []Skipped, kinds []string) error {
	names := namesOf(faults)
	for _, s := range skipped {
		names = append(names, s.Name)
	}
	for _, o := range objectives {
		for _, c := range []struct {
			what, patterns string
			names          []string
		}{{"fault", o.Faults, names}, {"kind of client", o.Clients, kinds}} {
			if c.patterns == "" || len(c.names) == 0 {
				continue
			}
			for p := range strings.SplitSeq(c.patterns, ",") {
				p = strings.TrimSpace(p)
				if !slices.ContainsFunc(c.names, func(n string) bool { return matchOne(p, n) }) {
					return fmt.Errorf("an objective would never count: no %s matches `%s`%s", c.what, p, meant(p, c.names))
				}
			}
		}
	}
	return nil
}

// kinds are the patterns for kinds of clients.
func (o Objective) kinds() (out []string) {
	if o.Clients == "" {
		return []string{"*"}
	}
	for p := range strings.SplitSeq(o.Clients, ",") {
		out = append(out, strings.TrimSpace(p))
	}
	return out
}

// limitsClients says that the objective limits what clients experience, and not only how long the margins take.
func (o Objective) limitsClients() bool {
	return o.MaxGapMs != nil || o.MaxFailed != nil || o.MaxDisruptionSeconds != nil
}

// ObjectiveFor is what was promised to a kind of client for a fault: of each limit, the last one that is set among the objectives that
// match. It returns false if none matches.
func ObjectiveFor(all []Objective, fault, client string) (Objective, bool) {
	var out Objective
	found := false
	for _, o := range all {
		if !Match(o.Faults, fault) || o.Clients != "" && !Match(o.Clients, client) {
			continue
		}
		found = true
		out.Faults, out.Clients = o.Faults, o.Clients
		override(&out.MaxGapMs, o.MaxGapMs)
		override(&out.MaxFailed, o.MaxFailed)
		override(&out.MaxDisruptionSeconds, o.MaxDisruptionSeconds)
		override(&out.MaxMarginsBackMs, o.MaxMarginsBackMs)
	}
	return out, found
}

func override[T any](limit **T, by *T) {
	if by != nil {
		*limit = by
	}
}

// Judge compares an outcome with the objectives. It adds what was missed, and what keeps it from being judged, to what the outcome says
// already, and sets Pass. An outcome about which nothing was promised, and one without results of clients to which something was
// promised, cannot be judged.
func Judge(o *Outcome, objectives []Objective) {
	var matching []Objective
	for _, x := range objectives {
		if Match(x.Faults, o.Name) {
			matching = append(matching, x)
		}
	}
	missed := func(format string, args ...any) { o.Missed = addNew(o.Missed, fmt.Sprintf(format, args...)) }
	invalid := func(format string, args ...any) { o.Invalid = addNew(o.Invalid, fmt.Sprintf(format, args...)) }
	if len(matching) == 0 {
		invalid("nothing was promised: no objective matches this fault")
	}
	kinds := slices.Sorted(maps.Keys(o.Clients))
	for _, x := range matching {
		for _, p := range x.kinds() {
			if x.limitsClients() && !slices.ContainsFunc(kinds, func(kind string) bool { return matchOne(p, kind) && o.Clients[kind].Requests > 0 }) {
				invalid("no client of the kind %s has sent a request, and something was promised to them", p)
			}
		}
	}
	for _, kind := range kinds {
		c := o.Clients[kind]
		limit, promised := ObjectiveFor(matching, o.Name, kind)
		switch {
		case !promised || !limit.limitsClients():
			continue
		case c.Requests == 0:
			invalid("%s: no request was sent", kind)
			continue
		}
		if limit.MaxGapMs != nil && c.GapMs > *limit.MaxGapMs {
			missed("%s: %s without a success; at most %s was promised", kind, exactly(c.GapMs), exactly(*limit.MaxGapMs))
		}
		if limit.MaxFailed != nil && c.Failed > *limit.MaxFailed {
			missed("%s: %d of %d requests failed; at most %d was promised", kind, c.Failed, c.Requests, *limit.MaxFailed)
		}
		if limit.MaxDisruptionSeconds != nil && c.DisruptionSeconds > *limit.MaxDisruptionSeconds {
			missed("%s: %d seconds of disruption; at most %d was promised", kind, c.DisruptionSeconds, *limit.MaxDisruptionSeconds)
		}
	}
	var back *int64
	for _, x := range matching { // for all clients alike
		override(&back, x.MaxMarginsBackMs)
	}
	switch {
	case back == nil:
	case o.MarginsBackMs == nil && len(o.Invalid) > 0: // nobody may have waited for them
	case o.MarginsBackMs == nil:
		missed("the margins did not come back; within %s was promised", exactly(*back))
	case *o.MarginsBackMs > *back:
		missed("the margins came back after %s; within %s was promised", exactly(*o.MarginsBackMs), exactly(*back))
	}
	if o.LostWrites > 0 {
		missed("%s lost", acknowledgedWrites(o.LostWrites))
	}
	o.Pass = len(o.Missed) == 0 && len(o.Invalid) == 0
}

// exactly writes milliseconds without rounding, so that a figure that is just above its limit does not look like it.
func exactly(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }

func acknowledgedWrites(n int) string {
	if n == 1 {
		return "1 acknowledged write is"
	}
	return fmt.Sprintf("%d acknowledged writes are", n)
}

func addNew(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}
