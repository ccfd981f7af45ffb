package agreement

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/spof"
)

// here is the cluster of package clustertest, with a rack of two hosts, a rack that is a zone, and a rack of one host.
func here() Where {
	c := clustertest.Whole().Spec
	for i, h := range c.Spec.Hosts {
		c.Spec.Hosts[i].Region = "north"
		switch {
		case h.Zone == "b":
			c.Spec.Hosts[i].FailsWith = []string{"power-b"}
		case h.Name == "cp-c":
			c.Spec.Hosts[i].FailsWith, c.Spec.Hosts[i].Region = []string{"rack-c"}, "south"
		case h.Name == "cp-a":
			c.Spec.Hosts[i].FailsWith = []string{"rack-1"}
		}
	}
	c.Spec.Hosts[slices.IndexFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "w-b" })].FailsWith = []string{"power-b", "rack-1"}
	return Where{Spec: c, DNS: map[string]string{"coredns-1": "w-a", "coredns-2": "w-b", "coredns-3": "cp-a", "coredns-4": "cp-a", "coredns-5": "elsewhere"}, Lab: true}
}

// kinds are all kinds of elements: those of package spof, as its source has them, and those of package quorum.
func kinds(t *testing.T) (out []spof.Kind) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../spof/element.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			if of, ok := v.Type.(*ast.Ident); !ok || of.Name != "Kind" {
				continue
			}
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, spof.Kind(text))
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %v were found", out)
	}
	for _, k := range []quorum.Kind{quorum.Members, quorum.APIServers, quorum.ControllerManagers, quorum.Schedulers, quorum.Balancers} {
		out = append(out, spof.Kind(k.Name))
	}
	return out
}

// Every kind of element has a fault that a drill knows, or a reason why there is none.
func TestEveryKindOfElement(t *testing.T) {
	f := clustertest.Whole()
	w := here()
	s := cluster.Evaluate(w.Spec, f.Seen)
	known := map[drill.Fault]bool{}
	for _, list := range []func(*cluster.State, drill.Limits) ([]drill.Fault, []drill.Skipped){drill.Catalogue, drill.OnHosts} {
		faults, _ := list(s, drill.Limits{Lab: true})
		for _, fault := range faults {
			known[fault] = true
		}
	}
	type want struct{ name, fault, why string }
	table := map[spof.Kind][]want{
		spof.Kind(quorum.Members.Name):            {{"cp-a", "stop/etcd/on=cp-a", ""}, {"etcd.example.com:2379", "", "not Quorate's to break"}},
		spof.Kind(quorum.APIServers.Name):         {{"cp-b", "stop/kube-apiserver/on=cp-b", ""}},
		spof.Kind(quorum.ControllerManagers.Name): {{"cp-b", "stop/kube-controller-manager/on=cp-b", ""}},
		spof.Kind(quorum.Schedulers.Name):         {{"cp-c", "stop/kube-scheduler/on=cp-c", ""}},
		spof.Kind(quorum.Balancers.Name):          {{"lb-a", "stop/haproxy/on=lb-a", ""}},
		spof.Host:                                 {{"w-a", "power-off/host/on=w-a", ""}, {"stranger", "", "no host of the spec"}},
		spof.Zone:                                 {{"a", "power-off/zone/a", ""}, {"c", "power-off/host/on=cp-c", ""}, {"z", "", "no host of the spec"}},
		spof.Region:                               {{"south", "power-off/host/on=cp-c", ""}, {"north", "", "these hosts are neither"}},
		spof.Shared:                               {{"power-b", "power-off/zone/b", ""}, {"rack-c", "power-off/host/on=cp-c", ""}, {"rack-1", "", "neither: cp-a and w-b"}},
		spof.CoreDNS: {{"coredns-1", "hang/coredns/on=w-a", ""}, {"coredns-3", "", "another replica runs on cp-a"}, {"coredns-5", "", "not a host of the spec"},
			{"1", "", "not known"}},
		spof.Machine: {{"all hosts", "", "this computer"}}, spof.Network: {{"", "", "nobody to observe"}}, spof.VirtualIP: {{"10.0.0.100", "", "load balancers"}}, spof.DNSName: {{"api", "", "clients"}},
		spof.YourBalancer: {{"10.0.0.1", "", "not manage"}}, spof.PodNetwork: {{"", "", "agent on each node"}}, spof.Registry: {{"registry.example.com", "", "not manage"}}, spof.Certificates: {{"2027-01-01", "", "clocks"}},
		spof.Command: {{"", "", "does not come back"}}, spof.BackupStore: {{"s3", "", "does not come back"}}, spof.Disk: {{"cp-a", "", "does not come back"}}, spof.Pod: {{"a/b", "", "user's own"}},
		spof.Budget: {{"a/b", "", "drained"}}, spof.Endpoint: {{"hook 1", "", "user's own"}}, spof.WebhookServer: {{"hook.example.com", "", "not manage"}},
	}
	all := kinds(t)
	for _, kind := range all {
		if len(table[kind]) == 0 {
			t.Errorf("elements of the kind %q have neither a fault nor a reason", kind)
		}
	}
	if len(table) != len(all) {
		t.Errorf("%d kinds are in the table, and there are %d", len(table), len(all))
	}
	for kind, wants := range table {
		for _, x := range wants {
			fault, why := FaultOf(spof.Element{Kind: kind, Name: x.name}, w)
			switch {
			case x.why != "":
				if !strings.Contains(why, x.why) || fault != (drill.Fault{}) {
					t.Errorf("%s %s: %q (%s), want %q", kind, x.name, why, fault.Name(), x.why)
				}
			case why != "" || fault.Name() != x.fault:
				t.Errorf("%s %s: %s (%q), want %s", kind, x.name, fault.Name(), why, x.fault)
			case fault.Once():
				t.Errorf("%s %s: %s is over in a moment, so nothing is seen of it", kind, x.name, fault.Name())
			case !known[fault]:
				t.Errorf("%s %s: no drill knows %s", kind, x.name, fault.Name())
			}
		}
	}
	if _, why := FaultOf(spof.Element{Kind: "a new kind"}, w); why == "" {
		t.Error("an unknown kind has no reason")
	}
	// Outside of a lab, nobody can give the power back.
	w.Lab = false
	if fault, why := FaultOf(spof.Element{Kind: spof.Host, Name: "cp-a"}, w); why != "" || fault.Name() != "cut/host/on=cp-a" {
		t.Errorf("%s, %q", fault.Name(), why)
	}
	if _, why := FaultOf(spof.Element{Kind: spof.Zone, Name: "a"}, oneZone(w)); !strings.Contains(why, "all hosts are in it") {
		t.Errorf("a zone with all hosts: %q", why)
	}
}

func oneZone(w Where) Where {
	for i := range w.Spec.Spec.Hosts {
		w.Spec.Spec.Hosts[i].Zone = "a"
	}
	return w
}

// Every capability of a cluster is seen by clients that a drill has, or there is a reason why nobody sees it.
func TestEveryCapability(t *testing.T) {
	have := clients.Kinds(true)
	seen := 0
	for _, c := range append(slices.Clone(spof.Capabilities), spof.WorkloadPrefix+"default/web", spof.ReplacementPrefix+"default/web", spof.ChangesPrefix+"pods", "a new one") {
		s, why := SignOf(c)
		if (why != "") == (s.Clients != "" || s.Pod != "") {
			t.Errorf("%s: %+v, %q", c, s, why)
		}
		if why != "" {
			continue
		}
		seen++
		if s.Patience <= 0 || s.Patience+20*time.Second > Lasts {
			t.Errorf("%s: %s of %s do not tell a loss", c, s.Patience, Lasts)
		}
		for p := range strings.SplitSeq(s.Clients, ",") {
			if p != "" && !slices.ContainsFunc(have, func(kind string) bool { return drill.Match(p, kind) }) {
				t.Errorf("%s: no drill has clients %s", c, p)
			}
		}
	}
	if seen != 6 {
		t.Errorf("%d capabilities can be seen", seen)
	}
}

// What can fail in the trees of a cluster is tried, or there is a reason why not.
func TestElementsAreThoseOfTheTrees(t *testing.T) {
	w := here()
	report := spof.Audit(spof.Input{Spec: w.Spec, Depth: 1})
	elements := Elements(w)
	for _, e := range report.Elements() {
		if _, why := FaultOf(e, w); why == "" && !slices.Contains(elements, e) {
			t.Errorf("%s can fail, and is not tried", e)
		}
	}
	for _, e := range elements {
		if e.Kind != spof.CoreDNS && !slices.Contains(report.Elements(), e) { // a spec does not know the names of pods
			t.Errorf("%s is tried, and no tree has it", e)
		}
	}
}

func TestPlans(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "lb-b" })
	w := Where{Spec: c, Lab: true}
	report := spof.Audit(spof.Input{Spec: c, Depth: 1})
	p := PlanFor(report, w)
	lost := map[string][]string{}
	for _, x := range p.Trials {
		lost[x.Element.String()] = x.Lost
	}
	api := []string{spof.APIReads, spof.APIWrites, spof.Scheduling, spof.NewPods}
	for e, want := range map[string][]string{"the load balancer on lb-a": api, "host lb-a": api, "zone a": api, "zone b": nil, "host cp-a": nil, "the etcd member on cp-b": nil, "the scheduler on cp-c": nil} {
		if got, tried := lost[e]; !tried || !slices.Equal(got, want) {
			t.Errorf("%s: %v (%t), want %v", e, got, tried, want)
		}
	}
	for _, x := range p.Untried {
		if x.Why == "" {
			t.Errorf("%s is not tried without a reason", x.Element)
		}
	}
	if !slices.ContainsFunc(p.Untried, func(x Untried) bool {
		return x.Element.Kind == spof.Command && slices.Contains(x.Lost, spof.ClusterData)
	}) ||
		!slices.ContainsFunc(p.Untried, func(x Untried) bool { return x.Element.Kind == spof.Machine && len(x.Lost) > 0 }) {
		t.Errorf("what the audit finds and no drill can try is not listed: %+v", p.Untried)
	}
	only := strings.Split(p.Only(), ",")
	if !slices.Contains(only, "stop/haproxy/on=lb-a") || !slices.Contains(only, "power-off/zone/a") {
		t.Errorf("%v", only)
	}
	if slices.Sort(only); len(slices.Compact(slices.Clone(only))) != len(only) {
		t.Errorf("a fault is drilled twice: %v", only)
	}
	// What is only possible is not predicted.
	report.Findings[0].Possible = true
	if p := PlanFor(report, w); slices.ContainsFunc(p.Trials, func(x Trial) bool { return x.Element == report.Findings[0].Elements[0] && len(x.Lost) > 0 }) {
		t.Errorf("%s is predicted", report.Findings[0].Elements[0])
	}
}

func TestCompare(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	report := spof.Report{Capabilities: []spof.Capability{{Name: spof.APIReads, State: spof.Works}, {Name: spof.Scheduling, State: spof.Works}, {Name: spof.ClusterDNS, State: spof.Lost}, {Name: spof.ClusterData, State: spof.Works}}}
	fault := drill.Fault{Kind: drill.Stop, Target: drill.HAProxy, On: "lb-a"}
	element := spof.Element{Kind: spof.Kind(quorum.Balancers.Name), Name: "lb-a"}
	served := func(from, to int, ok bool) (out []drill.Sample) {
		for s := from; s < to; s++ {
			x := drill.Sample{Second: at(s).Unix(), Client: "endpoint/read/new", Failed: 20}
			if ok {
				x.OK, x.Failed = 20, 0
			}
			out = append(out, x)
		}
		return out
	}
	each := func(from, to, step int) (out []time.Time) {
		for s := from; s < to; s += step {
			out = append(out, at(s))
		}
		return out
	}
	busy := Events{Scheduled: each(0, 100, 2), Tried: each(0, 100, 2)}
	outcome := drill.Outcome{Name: fault.Name(), Target: "lb-a", Injected: at(10), Healed: at(85)}
	for name, tc := range map[string]struct {
		lost     []string
		timeline []drill.Sample
		events   Events
		faults   []drill.Outcome
		skipped  []drill.Skipped
		wrong    [2]string // of reads, and of scheduling
	}{
		"survived, as predicted": {nil, served(0, 100, true), busy, []drill.Outcome{outcome}, nil, [2]string{}},
		"lost, as predicted":     {[]string{spof.APIReads}, slices.Concat(served(0, 12, true), served(12, 85, false), served(85, 100, true)), busy, []drill.Outcome{outcome}, nil, [2]string{}},
		"a failover":             {nil, slices.Concat(served(0, 12, true), served(12, 20, false), served(20, 100, true)), busy, []drill.Outcome{outcome}, nil, [2]string{}},
		"not lost":               {[]string{spof.APIReads, spof.Scheduling}, served(0, 100, true), busy, []drill.Outcome{outcome}, nil, [2]string{"predicted to be lost", "predicted to be lost"}},
		"not survived":           {nil, slices.Concat(served(0, 12, true), served(12, 100, false)), Events{Scheduled: each(0, 12, 2), Tried: each(0, 100, 2)}, []drill.Outcome{outcome}, nil, [2]string{"predicted to be survived", "predicted to be survived"}},
		"nobody tried":           {[]string{spof.APIReads}, served(0, 12, true), Events{}, []drill.Outcome{outcome}, nil, [2]string{"nobody tried", "nobody tried"}},
		"too short":              {nil, served(0, 100, true), busy, []drill.Outcome{{Name: fault.Name(), Injected: at(10), Healed: at(12)}}, nil, [2]string{"it takes", "it takes"}},
		"skipped":                {nil, served(0, 100, true), busy, nil, []drill.Skipped{{Name: fault.Name(), Why: "lb-a: its load balancer does not work"}}, [2]string{}},
		"skipped, and predicted": {[]string{spof.APIReads}, served(0, 100, true), busy, nil, []drill.Skipped{{Name: fault.Name(), Why: "lb-a: its load balancer does not work"}}, [2]string{"not tried: lb-a: its", ""}},
		"it ended early":         {[]string{spof.Scheduling}, nil, busy, nil, nil, [2]string{"", "not tried: the drill does not say why"}},
	} {
		got := Compare(report, Plan{Trials: []Trial{{element, fault, tc.lost}}}, drill.Report{Faults: tc.faults, Skipped: tc.skipped, Timeline: tc.timeline}, tc.events)
		if len(got) != 2 || got[0].Capability != spof.APIReads || got[1].Capability != spof.Scheduling {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i, want := range tc.wrong {
			if wrong := got[i].Wrong(); (want == "") != (wrong == "") || !strings.Contains(wrong, want) {
				t.Errorf("%s: %s: %q, want %q (%+v)", name, got[i].Capability, wrong, want, got[i])
			}
		}
	}
}

func TestLongest(t *testing.T) {
	at := func(seconds ...int) (out []time.Time) {
		for _, s := range seconds {
			out = append(out, time.Unix(int64(s), 0))
		}
		return out
	}
	for name, tc := range map[string]struct {
		moments []time.Time
		want    time.Duration
	}{
		"none": {nil, 20 * time.Second}, "one": {at(13), 17 * time.Second}, "at the begin": {at(10), 20 * time.Second}, "out of order": {at(25, 15, 20), 5 * time.Second},
		"outside": {at(5, 35), 20 * time.Second}, "at the end": {at(12, 24), 12 * time.Second},
	} {
		if got := Longest(tc.moments, time.Unix(10, 0), time.Unix(30, 0)); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
