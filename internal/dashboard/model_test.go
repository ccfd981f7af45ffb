package dashboard

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/page/pagetest"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

func stateOf(f clustertest.Fixture) *cluster.State { return cluster.Evaluate(f.Spec, f.Seen) }

// many is a cluster with 200 hosts, of which a zone with its 64 workers is dead.
func many() clustertest.Fixture {
	f := clustertest.Whole()
	zones := []string{"a", "b", "c"}
	var dead []string
	for i := range 193 {
		h := spec.Host{Name: fmt.Sprintf("w-%03d", i), Zone: zones[i%3], Address: fmt.Sprintf("10.0.%d.%d", 1+i/100, 1+i%100), Roles: []string{spec.RoleWorker}}
		f.Spec.Spec.Hosts = append(f.Spec.Spec.Hosts, h)
		like := f.Seen.Hosts["w-a"]
		seen := *like.Facts
		seen.Kubernetes.NodeName = h.Name
		seen.Addresses = []facts.Address{{IP: h.Address, Prefix: 16, Interface: "eth0"}}
		like.Facts = &seen
		f.Seen.Hosts[h.Name] = like
		f.Seen.Endpoint.Hosts[h.Name] = clustertest.OK()
		f.Seen.API.Nodes = append(f.Seen.API.Nodes, facts.Node{Name: h.Name, Address: h.Address, Ready: true, Version: "v1.37.2"})
		if h.Zone == "c" {
			dead = append(dead, h.Name)
		}
	}
	f.Spec.Default()
	for _, h := range f.Spec.Spec.Hosts {
		f.Configured(h)
	}
	f.Dies(append(dead, "cp-c")...)
	for _, name := range dead {
		h, _ := f.Spec.Host(name)
		f.Seen.Hosts[name] = facts.Host{Error: name + ": dial tcp " + h.Address + ":22: i/o timeout"}
	}
	return f
}

// noQuorum is a cluster in which two of three members of etcd do not work.
func noQuorum() clustertest.Fixture {
	f := clustertest.Whole()
	f.Silent()
	for _, i := range []int{0, 2} {
		f.Seen.Etcd[i] = facts.EtcdMember{Name: f.Seen.Etcd[i].Name, ID: f.Seen.Etcd[i].ID, Started: true, PeerURL: f.Seen.Etcd[i].PeerURL, Problem: "connection refused"}
	}
	f.Seen.Etcd[1].Healthy, f.Seen.Etcd[1].Leader, f.Seen.Etcd[1].Problem = false, false, "it has no leader"
	return f
}

// inputs are the pages that are recorded, and opened in a browser by test/browser.
func inputs() map[string]Input {
	healthy := clustertest.Whole()
	healthy.Backups()
	healthy.Watch("generation")
	degraded := clustertest.Whole()
	report := degraded.Backups()
	report.Failed = map[string]facts.FailedBackup{"cp-a": {Time: clustertest.Now.Add(-5 * time.Minute), Error: "connection refused"}}
	degraded.Dies("cp-b", "w-b", "lb-b")
	degraded.Component("w-a", facts.KubeProxy, clustertest.Problem("connection refused"))
	degraded.Kubernetes("cp-a").Certificates[0].Expires = clustertest.Now.AddDate(0, 0, 3)
	degraded.Seen.Etcd[0].InUseBytes, degraded.Seen.Etcd[0].QuotaBytes = 1<<20, 8<<30
	degraded.Seen.Hosts["lb-a"].Balancer.Backends[0].Sessions = 12
	unknown := clustertest.Whole()
	unknown.AllUnknown()
	refused := &cluster.Refusal{Rule: "an-answering-api", Why: "the API does not answer", Fix: "Run `quorate recover`: it shows what is left of etcd."}
	long, back := int64(2100), int64(9000)
	drilled := &drill.Report{Cluster: "lab", Began: clustertest.Now.AddDate(0, 0, -2), Ended: clustertest.Now.AddDate(0, 0, -2).Add(time.Hour), Ledger: drill.Ledger{Acknowledged: 12480, Linearizable: "yes"}, Faults: []drill.Outcome{
		{Name: "kill/etcd/leader", Target: "cp-b", Pass: true, MarginsBackMs: &back, Clients: map[string]drill.ClientResult{"endpoint/read/new": {GapMs: 280, Requests: 900}}},
		{Name: "power-off/zone/b", Target: "zone/b", MarginsBackMs: &back, Missed: []string{"2.1 s > 2.0 s"}, Clients: map[string]drill.ClientResult{"endpoint/read/new": {GapMs: long, Requests: 900, Failed: 4}}},
	}}
	return map[string]Input{
		"healthy": {State: stateOf(healthy), Plan: Planned{Plan: &plan.Plan{Cluster: "lab"}}, Since: clustertest.Now.Add(-time.Hour)},
		"degraded": {State: stateOf(degraded), Since: clustertest.Now.Add(-time.Hour),
			Plan: Planned{Plan: &plan.Plan{Cluster: "lab", Warnings: []string{"the default of `x` will change"}, Unreachable: map[string]string{"cp-b": "dial tcp: i/o timeout"}, Steps: []plan.Step{
				{ID: "1", Kind: plan.Configure, Host: "cp-a", Title: "configure the host", Reason: "a file differs"},
				{ID: "2", Kind: plan.Configure, Host: "cp-c", Title: "configure the host", Reason: "a file differs"},
				{ID: "3", Kind: plan.RestartAgent, Host: "w-a", Title: "restart kube-proxy", Reason: "it does not work", Margins: &quorum.Margins{LoadBalancers: new(0)}},
			}}},
			Repairs: Repairs{All: []Repair{
				{Name: "units", Problem: "kubelet.service is stopped", Hosts: []string{"w-a"}, By: "root@cp-a, process 12, since noon", Began: clustertest.Now.Add(-10 * time.Minute), Ended: clustertest.Now.Add(-9 * time.Minute)},
				{Name: "hung", Problem: "haproxy does not answer", Hosts: []string{"lb-a"}, Began: clustertest.Now.Add(-20 * time.Minute), Ended: clustertest.Now.Add(-19 * time.Minute), Error: "it was not seen to work"},
				{Problem: "refused: etcd-data on cp-b: too few members work", Hosts: []string{"cp-b"}, Began: clustertest.Now.Add(-5 * time.Minute), Held: true},
			}, Unknown: map[string]string{"cp-b": "dial tcp: i/o timeout", "w-b": "dial tcp: i/o timeout"}},
			Changes: Changes(nil, stateOf(degraded).Findings(), clustertest.Now.Add(-2*time.Minute)), Drills: []Drill{{"drill.json", drilled}}},
		"unknown":    {State: stateOf(unknown), Plan: Planned{Refused: refused}, Since: clustertest.Now},
		"no-quorum":  {State: stateOf(noQuorum()), Plan: Planned{Refused: refused}, Since: clustertest.Now},
		"many-hosts": {State: stateOf(many()), Plan: Planned{Unknown: "the bundle is being prepared"}, Since: clustertest.Now},
		"stale":      {State: stateOf(healthy), Stale: &Stale{clustertest.Now, "no host can be reached from here (cp-a: dial tcp: i/o timeout)"}, Plan: Planned{Plan: &plan.Plan{Cluster: "lab"}}, Since: clustertest.Now},
		"first":      {Stale: &Stale{clustertest.Now, "the observation did not end within 40s"}},
	}
}

// TestSnapshots: each page needs nothing else, and is what is recorded. Write the records with -update after a look at the pages.
func TestSnapshots(t *testing.T) {
	for name, in := range inputs() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Of(in).Snapshot(&out); err != nil {
				t.Fatal(err)
			}
			pagetest.SelfContained(t, out.String())
			golden.Compare(t, name+".html", out.String())
		})
	}
}

// TestMargins: what could not be queried counts neither as working nor as failed.
func TestMargins(t *testing.T) {
	of := func(change func(clustertest.Fixture)) (out []string) {
		f := clustertest.Whole()
		change(f)
		for _, m := range margins(stateOf(f)) {
			out = append(out, m.Figure+" "+m.Class)
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(clustertest.Fixture)
		want   []string
	}{
		"healthy": {func(clustertest.Fixture) {}, []string{"1 good", "1 good", "1 good", "1 good"}},
		"unknown": {func(f clustertest.Fixture) { f.AllUnknown() }, []string{"unknown warn", "unknown warn", "unknown warn", "unknown warn"}},
		"a zone":  {func(f clustertest.Fixture) { f.Dies("cp-b", "w-b", "lb-b") }, []string{"0 warn", "0 warn", "0 warn", "0 warn"}},
		"a load balancer of one's own": {func(f clustertest.Fixture) {
			f.Spec.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal}
			f.Spec.Spec.Hosts = f.Spec.Spec.Hosts[:5]
		}, []string{"1 good", "1 good", "? ", "1 good"}},
	} {
		if got := of(c.change); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := margins(stateOf(noQuorum())); got[1].Figure != "lost" || got[1].Class != "bad" {
		t.Errorf("without a quorum: %+v", got[1])
	}
}

func TestMargin(t *testing.T) {
	for _, c := range []struct {
		known, possible int
		want            Margin
	}{
		{2, 2, Margin{"2", "zones may fail", "", "good"}},
		{1, 1, Margin{"1", "zone may fail", "", "good"}},
		{0, 0, Margin{"0", "zones may fail: the next one is an outage", "", "warn"}},
		{0, 1, Margin{"0", "zones may fail, as far as is known", "1, if everything works that could not be queried.", "warn"}},
		{-1, 0, Margin{"unknown", "zones: too few are known to work", "What could not be queried counts neither as working nor as failed.", "warn"}},
		{-1, -1, Margin{"lost", "zones: too few of them work", "", "bad"}},
	} {
		if got := margin("zone", c.known, c.possible); got != c.want {
			t.Errorf("%d, %d: %+v, want %+v", c.known, c.possible, got, c.want)
		}
	}
}

// TestUnknownIsNotDown: where nothing could be queried, no host, member, or load balancer is shown as broken.
func TestUnknownIsNotDown(t *testing.T) {
	f := clustertest.Whole()
	f.AllUnknown()
	p := Of(Input{State: stateOf(f)})
	for _, h := range p.Hosts {
		if h.State.Class != "warn" || !strings.HasPrefix(h.State.Words, "unknown") {
			t.Errorf("%s: %+v", h.Name, h.State)
		}
	}
	for _, m := range p.Members {
		if m.State != (Text{"unknown", "warn"}) || m.Why == "" {
			t.Errorf("%+v", m)
		}
	}
	for _, b := range p.Balancers {
		if b.State != (Text{"unknown", "warn"}) {
			t.Errorf("%+v", b)
		}
	}
	for _, fact := range p.Endpoint {
		if fact.Class == "bad" {
			t.Errorf("%+v", fact)
		}
	}
}

// TestManyHosts: 200 hosts are a page that a person can read. What is special is shown alone.
func TestManyHosts(t *testing.T) {
	p := Of(Input{State: stateOf(many())})
	if len(p.Zones) != 3 || len(p.Hosts) != 200 {
		t.Fatalf("%d zones, %d hosts", len(p.Zones), len(p.Hosts))
	}
	total := 0
	for _, z := range p.Zones {
		if len(z.Hosts) > 6 {
			t.Errorf("%s has %d boxes", z.Title, len(z.Hosts))
		}
		for _, h := range z.Hosts {
			total += max(h.Count, 1)
		}
	}
	if total != 200 {
		t.Errorf("the boxes have %d hosts", total)
	}
	c := p.Zones[2].Hosts
	if c[0].Name != "cp-c" || c[0].State.Words != "unknown" || c[1].Count != 64 || c[1].Name != "64 workers" || c[1].State.Class != "warn" || !strings.HasPrefix(c[1].Why, "w-002: dial tcp") {
		t.Errorf("%+v", c)
	}
}

func TestHostsSayWhatIsSpecial(t *testing.T) {
	f := clustertest.Whole()
	f.Watch("generation")
	f.Component("w-a", facts.KubeProxy, clustertest.Problem("connection refused"))
	p := Of(Input{State: stateOf(f)})
	marks := map[string][]string{}
	for _, z := range p.Zones {
		for _, h := range z.Hosts {
			marks[h.Name] = h.Marks
			if h.Name == "w-a" && (h.State != Text{"broken", "bad"} || h.Why != "kube-proxy does not work") {
				t.Errorf("%+v", h)
			}
			if h.Name == "cp-a" && (h.Programs[0].Name != facts.Etcd || h.Programs[1].Name != facts.APIServer) {
				t.Errorf("%+v", h.Programs)
			}
		}
	}
	if fmt.Sprint(marks["cp-b"], marks["lb-a"], marks["cp-a"], marks["w-b"]) != "[etcd leader] [virtual IP] [repairs] []" {
		t.Errorf("%v", marks)
	}
	behind := clustertest.Whole()
	behind.Seen.Etcd[0].Learner = true
	for _, h := range Of(Input{State: stateOf(behind)}).Hosts {
		if want := (Text{"degraded: etcd: learner", "warn"}); h.Name == "cp-a" && h.State != want {
			t.Errorf("%+v, want %+v", h.State, want)
		}
	}
	if p.HostsSum != "7 hosts in 3 zones, 1 with something that does not work" {
		t.Error(p.HostsSum)
	}
}

func TestSentence(t *testing.T) {
	for text, want := range map[string]string{
		"no host of zone b can be reached": "No host of zone b can be reached.",
		"cp-a has no leader.":              "cp-a has no leader.",
		"etcd has no majority":             "etcd has no majority.",
		"kube-proxy does not work":         "kube-proxy does not work.",
		"no answer; is the host up?":       "No answer; is the host up?",
		"":                                 ".",
	} {
		if got := sentence(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestChanges: a finding stays the same one when its figures change.
func TestChanges(t *testing.T) {
	finding := func(rule, summary string, severity cluster.Severity, subjects ...string) cluster.Finding {
		return cluster.Finding{Rule: rule, Summary: summary, Severity: severity, Subjects: subjects}
	}
	before := []cluster.Finding{finding("host", "cp-a cannot be reached", cluster.Warning, "cp-a"), finding("certificate", "it expires in 3 days", cluster.Critical, "cp-b", "cp-c"), finding("drained", "x", cluster.Info)}
	after := []cluster.Finding{finding("certificate", "it expires in 2 days", cluster.Critical, "cp-c", "cp-b"), finding("host", "cp-b cannot be reached", cluster.Warning, "cp-b"), finding("chosen", "y", cluster.Info)}
	var got []string
	for _, c := range Changes(before, after, clustertest.Now) {
		got = append(got, fmt.Sprint(c.Finding.Summary, " ", c.Gone))
	}
	if want := []string{"cp-b cannot be reached false", "cp-a cannot be reached true"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestSteps: a step on many hosts is one row, unless it reduces what the cluster survives.
func TestSteps(t *testing.T) {
	var steps []plan.Step
	for i := range 9 {
		host := fmt.Sprintf("w-%d", i)
		steps = append(steps, plan.Step{Kind: plan.InstallBundle, Host: host, Title: "install the bundle", Reason: "r"}, plan.Step{Kind: plan.Configure, Host: host, Title: "configure", Reason: "r"})
	}
	for _, host := range []string{"cp-a", "cp-b"} {
		steps = append(steps, plan.Step{Kind: plan.UpgradeControlPlane, Host: host, Title: "upgrade", Reason: "r", Change: &cluster.Change{}, Margins: &quorum.Margins{ControlPlanes: 1, LoadBalancers: new(0)}})
	}
	steps = append(steps, plan.Step{Kind: plan.Verify, Title: "verify", Reason: "r"})
	var got []string
	for _, r := range stepRows(steps) {
		got = append(got, r.Title+": "+r.Hosts+": "+r.Survives)
	}
	want := []string{
		"install the bundle: w-0, w-1, w-2, w-3, w-4, w-5 and 3 more: –", "configure: w-0, w-1, w-2, w-3, w-4, w-5 and 3 more: –",
		"upgrade: cp-a: 1 control plane, 0 etcd members, 0 load balancers", "upgrade: cp-b: 1 control plane, 0 etcd members, 0 load balancers", "verify: the cluster: –",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPlans(t *testing.T) {
	for want, in := range map[string]Planned{
		"Nothing to do: the cluster matches its spec.":                                          {Plan: &plan.Plan{}},
		"Nothing to do: the part of the cluster that could be observed matches its spec.":       {Plan: &plan.Plan{Unreachable: map[string]string{"cp-a": "x"}}},
		"There are no steps to run, but the cluster does not match its spec: see the findings.": {Plan: &plan.Plan{Unmet: []cluster.Finding{{}}}},
		"1 step. Steps on different hosts run in parallel.":                                     {Plan: &plan.Plan{Steps: []plan.Step{{Title: "x"}}}},
		"Refused (r): w": {Refused: &cluster.Refusal{Rule: "r", Why: "w"}},
		"Unknown: x":     {Unknown: "x"},
	} {
		var p Page
		p.plan(in)
		if p.Plan.Words.Words != want {
			t.Errorf("%q, want %q", p.Plan.Words.Words, want)
		}
	}
}

func TestBecause(t *testing.T) {
	for want, why := range map[string]map[string]string{
		"cp-a (x)":           {"cp-a": "x"},
		"the API and cp-a":   {"cp-a": "x", "": "y"},
		"cp-a and cp-b (no)": {"cp-b": "no", "cp-a": "no"},
	} {
		if got := because(why); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestDates(t *testing.T) {
	f := clustertest.Whole()
	f.Backups()
	f.Kubernetes("cp-a").Certificates[0].Expires = clustertest.Now.AddDate(0, 0, 3)
	p := Of(Input{State: stateOf(f)})
	var got []string
	for _, d := range p.Dates {
		got = append(got, strings.Join([]string{d.What, d.Where, d.Words, d.Class}, "|"))
	}
	want := []string{
		"the last good backup|cp-b|1h00m old, 2.6 MiB, in /srv/backups|good", "the next backup is due||one every 6h00m|",
		"kubelet-client|cp-a, cp-b, cp-c, w-a and w-b|the first, on cp-a, expires in 3 days|bad", "pki/apiserver.crt|cp-c, cp-b and cp-a|the first, on cp-c, expires in 363 days|good",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for d, side := range map[time.Duration]int{-time.Hour: -1, 0: 0, time.Hour: 1, 100 * 365 * 24 * time.Hour: 1, -100 * 365 * 24 * time.Hour: -1} {
		x, now := datesX(d), datesX(0)
		if x < datesLabels || x > datesWidth || (x < now) != (side < 0) || (x > now) != (side > 0) {
			t.Errorf("%s is at %d, and now at %d", d, x, now)
		}
	}
}

// TestNothingSecretIsShown: what hosts say of themselves has keys and tokens, and none of them is on the page.
func TestNothingSecretIsShown(t *testing.T) {
	const secret = "5up3rs3cr3t"
	f := clustertest.Whole()
	f.Backups()
	f.Watch("generation")
	for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
		k := f.Kubernetes(name)
		k.EtcdToken, k.Arguments, k.Kubelet = secret, map[string]map[string]string{"kube-apiserver": {"token": secret}}, map[string]any{"token": secret}
	}
	var out bytes.Buffer
	if err := Of(Input{State: stateOf(f)}).Snapshot(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), secret) {
		t.Error("a secret is on the page")
	}
}

// TestTextsAreEscaped: names and messages come from hosts, the API, and files.
func TestTextsAreEscaped(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	f := clustertest.Whole()
	f.Component("w-a", facts.KubeProxy, clustertest.Problem(evil))
	f.Seen.Etcd[0].Healthy, f.Seen.Etcd[0].Problem = false, evil
	f.Seen.Hosts["lb-a"].Balancer.Backends[0].Check = evil
	in := Input{State: stateOf(f), Stale: &Stale{clustertest.Now, evil}, Plan: Planned{Unknown: evil}, Repairs: Repairs{All: []Repair{{Name: evil, Problem: evil, Error: evil}}, Unknown: map[string]string{"cp-a": evil}},
		Drills: []Drill{{evil, &drill.Report{Cluster: evil, Interrupted: evil, Faults: []drill.Outcome{{Name: evil, Target: evil}}}}}}
	var out bytes.Buffer
	if err := Of(in).Snapshot(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "<script") {
		t.Error("a text became a script")
	}
	pagetest.SelfContained(t, out.String())
}
