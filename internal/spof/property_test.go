package spof

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// anySpec is a spec of any shape, also of those that validation refuses.
func anySpec(r *rand.Rand) *spec.Cluster {
	c := spec.DefaultLab("test")
	c.Spec.Hosts = nil
	add := func(prefix string, n int, roles ...string) {
		for i := range n {
			h := spec.Host{Name: fmt.Sprintf("%s-%d", prefix, i+1), Roles: roles, Zone: string(rune('a' + r.IntN(4)))}
			for _, shared := range []string{"rack-1", "rack-2"} {
				if r.IntN(5) == 0 {
					h.FailsWith = append(h.FailsWith, shared)
				}
			}
			c.Spec.Hosts = append(c.Spec.Hosts, h)
		}
	}
	roles := []string{spec.RoleControlPlane}
	if r.IntN(3) == 0 {
		roles = append(roles, spec.RoleWorker)
	}
	add("cp", 1+r.IntN(5), roles...)
	add("worker", r.IntN(4), spec.RoleWorker)
	add("lb", r.IntN(3), spec.RoleLoadBalancer)
	if r.IntN(3) == 0 {
		c.Spec.ControlPlane.Topology = spec.TopologyExternal
		add("etcd", 1+r.IntN(5), spec.RoleEtcd)
	}
	return c
}

// domainsOf are the hosts that fail with each element, as the spec says.
func domainsOf(c *spec.Cluster) map[Element][]string {
	out := map[Element][]string{}
	for _, h := range c.Spec.Hosts {
		for _, e := range append([]Element{{Host, h.Name}, {Zone, h.Zone}}, shared(h)...) {
			out[e] = append(out[e], h.Name)
		}
	}
	return out
}

func shared(h spec.Host) (out []Element) {
	for _, name := range h.FailsWith {
		out = append(out, Element{Shared, name})
	}
	return out
}

// The cluster works, according to the arithmetic that the safety rules use, exactly as long as the trees say that the API, scheduling and
// new pods are there: for every host, zone and rack, and for every two of them.
func TestTreesAgreeWithTheSafetyRules(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 150 {
		c := anySpec(r)
		report := Audit(Input{Spec: c, Depth: 1})
		domains := domainsOf(c)
		var elements []Element
		for e := range domains {
			elements = append(elements, e)
		}
		slices.SortFunc(elements, compare)
		for i, a := range elements {
			for _, b := range elements[i:] {
				placements := cluster.Intended(c)
				workers, _ := quorum.Count(placements, quorum.Worker)
				for n := range placements {
					if p := &placements[n]; slices.Contains(domains[a], p.Host) || slices.Contains(domains[b], p.Host) {
						for _, part := range quorum.Parts {
							if *part(p) == quorum.Up {
								*part(p) = quorum.Down
							}
						}
					}
				}
				_, left := quorum.Count(placements, quorum.Worker)
				works := quorum.Works(placements)
				lost := report.Lost(a, b)
				noWorker := workers > 0 && left == 0 // takes away what needs a node, while the cluster itself works
				gone := slices.Contains(lost, APIReads) || (slices.Contains(lost, Scheduling) || slices.Contains(lost, NewPods)) && !noWorker
				if works == gone {
					t.Fatalf("%s and %s: the safety rules say that it works: %t; the trees say that this is lost: %v\n%+v", a, b, works, lost, c.Spec.Hosts)
				}
				if traffic := slices.Contains(lost, ServiceTraffic); traffic != noWorker {
					t.Fatalf("%s and %s: %d of %d workers are left, and the trees say that this is lost: %v", a, b, left, workers, lost)
				}
			}
		}
	}
}

// What is reported is what takes something away, and nothing that does is left out: every element alone, and every pair.
func TestReportsAreComplete(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		c := anySpec(r)
		report := Audit(Input{Spec: c, Depth: 2})
		reported := map[string]bool{}
		note := func(set []Element, capabilities []string) {
			for _, c := range capabilities {
				reported[key(set)+c] = true
			}
		}
		for _, f := range report.Findings {
			note(f.Elements, f.Capabilities)
			if len(f.Elements) != f.Size || f.Fix == "" || f.Loss == "" || f.Summary == "" {
				t.Fatalf("%+v", f)
			}
			for _, c := range f.Capabilities {
				if lost := report.Lost(f.Elements...); !slices.Contains(lost, c) {
					t.Fatalf("%s does not take away %s, but %v", words(f.Elements), c, lost)
				}
			}
		}
		for _, x := range report.Inherent {
			note([]Element{x.Element}, x.Capabilities)
		}
		inherent := func(set ...Element) bool {
			return slices.ContainsFunc(report.Inherent, func(x Inherent) bool { return slices.Contains(set, x.Element) })
		}
		all := report.model.elements
		for i, a := range all {
			single := report.Lost(a)
			for _, c := range single {
				if !reported[key([]Element{a})+c] {
					t.Fatalf("%s takes away %s, and that is not reported", a, c)
				}
			}
			for _, b := range all[i+1:] {
				pair := sorted([]Element{a, b})
				for _, c := range report.Lost(pair...) {
					if !reported[key(pair)+c] && !slices.Contains(single, c) && !slices.Contains(report.Lost(b), c) && !inherent(pair...) {
						t.Fatalf("%v take away %s, and that is not reported", words(pair), c)
					}
				}
			}
		}
	}
}

// A cluster that is as its spec says has the findings of its spec, and the same texts every time.
func TestLiveFactsOnlyRefine(t *testing.T) {
	f, w := live()
	w.Pods, w.Unknown = nil, map[string]string{facts.PodsPart: "not asked"} // where CoreDNS is, a spec does not say
	state := cluster.Evaluate(f.Spec, f.Seen)
	compareLines(t, lines(Audit(Input{Spec: f.Spec, State: state, Workloads: w, Depth: 2})), lines(Audit(Input{Spec: f.Spec, Depth: 2})))
}

// large is a cluster of 200 nodes with 6,000 pods.
func large() Input {
	f, _ := live()
	c := f.Spec
	for i := range 195 {
		name := fmt.Sprintf("node-%03d", i)
		h := spec.Host{Name: name, Address: fmt.Sprintf("10.0.%d.%d", 1+i/200, 1+i%200), Roles: []string{spec.RoleWorker}, Zone: string(rune('a' + i%3)), FailsWith: []string{fmt.Sprintf("rack-%d", i/10)}}
		c.Spec.Hosts = append(c.Spec.Hosts, h)
		f.Seen.Hosts[name] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{CA: "PEM", KubeletConfig: true}}}
		f.Seen.API.Nodes = append(f.Seen.API.Nodes, facts.Node{Name: name, Ready: true})
	}
	w := &facts.Workloads{Images: map[string][]string{}}
	for i := range 6000 {
		n := i / 3 // a workload
		p := pod(fmt.Sprintf("p-%d", i), fmt.Sprintf("w-%d", n), fmt.Sprintf("node-%03d", (n*7+i%3*(1+n%5))%195))
		p.Namespace = fmt.Sprintf("team-%d", n%50)
		w.Pods = append(w.Pods, p)
	}
	for i := range 195 {
		p := pod(fmt.Sprintf("agent-%d", i), "agent", fmt.Sprintf("node-%03d", i))
		p.Kind = "DaemonSet"
		w.Pods = append(w.Pods, p)
	}
	return Input{Spec: c, State: cluster.Evaluate(c, f.Seen), Workloads: w, Depth: 2}
}

func TestLargeClusters(t *testing.T) {
	in := large()
	for depth := 1; depth <= 2; depth++ {
		in.Depth = depth
		begin := time.Now()
		r := Audit(in)
		var out strings.Builder
		if err := HTML(&out, r); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		t.Logf("depth %d: %d findings, a page of %d KiB in %s", depth, len(r.Findings), out.Len()>>10, took)
		if took > time.Minute { // seconds, on a machine that does nothing else
			t.Errorf("depth %d took %s", depth, took)
		}
	}
}

// The rules are in the documentation.
func TestDocumentationHasTheRules(t *testing.T) {
	page, err := os.ReadFile("../../docs/findings.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Rules {
		var severities []string
		for _, s := range r.Severities {
			severities = append(severities, string(s))
		}
		if row := fmt.Sprintf("| `%s` | %s | %s |\n", r.ID, strings.Join(severities, ", "), r.What); !strings.Contains(string(page), row) {
			t.Errorf("docs/findings.md lacks the row\n%s", row)
		}
	}
}
