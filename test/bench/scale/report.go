package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"quorate.dev/quorate/internal/scale"
)

// startupObjective is within how many milliseconds 99 of 100 pods without state must have started, the pull of images left aside
// (https://github.com/kubernetes/community/blob/master/sig-scalability/slos/pod_startup_latency.md).
const startupObjective = 5000

// judge says what was missed. While faults are injected, the drill judges outages; latencies are judged in all other phases.
func (r *Result) judge() {
	miss := func(format string, args ...any) { r.Misses = append(r.Misses, fmt.Sprintf(format, args...)) }
	for _, p := range r.Phases {
		for _, l := range p.Latencies {
			if p.Name != "faults" && !l.Met {
				miss("%s: 99 of 100 requests %s take %s, and %.0f s are the objective", p.Name, l.Kind, seconds(l.P99, l.Over), l.Objective)
			}
		}
		for _, what := range p.Missing {
			if p.Name != "faults" {
				miss("%s: could not be read: %s", p.Name, what)
			}
		}
	}
	startup := func(when string, q scale.Quantiles) {
		if q.P99 > startupObjective {
			miss("%s: 99 of 100 pods start within %.1f s, and %.0f s are the objective", when, float64(q.P99)/1000, float64(startupObjective)/1000)
		}
	}
	if r.Scaled != nil && r.Scaled.Pods != nil {
		if p := r.Scaled.Pods; p.Wanted > 0 && p.Startup.Count == 0 {
			miss("grow: of no pod is known how long it took to start")
		}
		startup("grow", r.Scaled.Pods.Startup)
	}
	if r.Failed != nil && r.Failed.Failures != nil {
		startup("nodes fail", r.Failed.Failures.Replaced)
	}
	for _, f := range r.Faults {
		for _, m := range f.Missed {
			miss("%s on %s: %s", f.Name, f.Target, m)
		}
		if !f.Pass && len(f.Missed) == 0 {
			miss("%s on %s was not passed", f.Name, f.Target)
		}
	}
	if r.Ledger != nil && r.Ledger.Lost > 0 {
		miss("%d acknowledged writes were lost", r.Ledger.Lost)
	}
	r.Pass = len(r.Misses) == 0 && r.Stopped == ""
}

func seconds(v float64, over bool) string {
	if over {
		return fmt.Sprintf("more than %.0f s", v)
	}
	return fmt.Sprintf("%.3f s", v)
}

// print writes the result as tables.
func (r *Result) print(w io.Writer) {
	fmt.Fprintf(w, "%d simulated nodes and %d pods, Kubernetes %s, failover profile %s\n", r.Nodes, r.Pods, r.Kubernetes, r.Profile)
	if r.Scaled != nil && r.Scaled.Pods != nil {
		p := r.Scaled.Pods
		fmt.Fprintf(w, "pods: ready within %.2f s (median) and %.2f s (99 of 100); scheduled %.1f per second\n", float64(p.Startup.P50)/1000, float64(p.Startup.P99)/1000, p.Scheduled)
	}
	if r.Failed != nil && r.Failed.Failures != nil {
		f := r.Failed.Failures
		fmt.Fprintf(w, "failures of %d nodes: noticed within %.1f s, over within %.1f s; pods replaced within %.2f s (99 of 100)\n", f.Failures, float64(f.Noticed.Max)/1000, float64(f.Back.Max)/1000, float64(f.Replaced.P99)/1000)
	}
	for _, p := range r.Phases {
		fmt.Fprintf(w, "\n%s (%.0f s)\n", p.Name, p.Seconds)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  request\tcount\tmedian\t99 of 100\tobjective\t")
		for _, l := range p.Latencies {
			if aboutOne(l.Kind) && l.Met && l.P99 < l.Objective/10 {
				continue // the JSON has them all
			}
			verdict := "met"
			if !l.Met {
				verdict = "MISSED"
			}
			fmt.Fprintf(t, "  %s\t%.0f\t%.3f s\t%s\t%.0f s\t%s\n", l.Kind, l.Count, l.P50, seconds(l.P99, l.Over), l.Objective, verdict)
		}
		fmt.Fprintln(t, "  program\tprocesses\tmemory\tcores\t\t")
		for _, u := range p.Usage {
			fmt.Fprintf(t, "  %s\t%d\t%.0f MiB\t%.2f\t\t\n", u.Program, u.Processes, u.MemoryMiB, u.Cores)
		}
		_ = t.Flush()
		for _, e := range p.Etcd {
			fmt.Fprintf(w, "  etcd on %s: %.0f MiB, %.0f in use; 99 of 100 fsyncs within %.1f ms\n", e.Host, e.DBMiB, e.InUseMiB, e.FsyncP99)
		}
		for _, b := range p.Balancers {
			fmt.Fprintf(w, "  HAProxy on %s: %s of %s connections\n", b.Host, b.Connections, b.Limit)
		}
		if p.Rejected > 0 {
			fmt.Fprintf(w, "  %.0f requests were rejected by priority and fairness\n", p.Rejected)
		}
		for _, m := range p.Missing {
			fmt.Fprintf(w, "  not read: %s\n", m)
		}
	}
	if len(r.Faults) > 0 {
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range r.Faults {
			verdict := "passed"
			if !f.Pass {
				verdict = "missed"
			}
			fmt.Fprintf(t, "%s\ton %s\tno write for %.2f s\t%s\n", f.Name, f.Target, float64(f.WriteOutageMs)/1000, verdict)
		}
		_ = t.Flush()
	}
	for _, m := range r.Misses {
		fmt.Fprintln(w, "MISSED  "+m)
	}
	if r.Stopped != "" {
		fmt.Fprintln(w, "STOPPED "+r.Stopped)
	}
}
