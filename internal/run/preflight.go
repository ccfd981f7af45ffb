package run

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/endpoint"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// Preflight checks all hosts and changes nothing.
func (e *Engine) Preflight(ctx context.Context, s *cluster.State, ignore []string) (*preflight.Report, error) {
	return e.preflight(ctx, s, false, nil, ignore)
}

// preflight checks the hosts, or with names only these. Quick leaves out what takes time and is never an error, and what the
// steps of a plan find out themselves: an external load balancer is probed by one of them, while a managed virtual IP must be
// known to be free before anything is changed.
func (e *Engine) preflight(ctx context.Context, s *cluster.State, quick bool, only, ignore []string) (*preflight.Report, error) {
	var (
		seen   *facts.Preflight
		probes []endpoint.Probe
		wg     sync.WaitGroup
	)
	probe := func() { probes = endpoint.Everywhere(ctx, s, e.Conns) }
	managed := e.Cluster.Spec.LoadBalancer.Type == spec.BalancerManaged
	if managed && (!quick || !s.Exists()) {
		wg.Go(probe)
	}
	seen = observe.Preflight(ctx, s, e.Conns, quick, only)
	wg.Wait()
	if !managed && !quick {
		// The temporary listeners of preflight are behind such a load balancer, and must be gone.
		probe()
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	findings := preflight.Judge(s, seen, only)
	if len(probes) > 0 {
		findings = append(findings, endpoint.Judge(s, probes)...)
	}
	if !quick || !s.Exists() {
		findings = append(findings, e.watchFindings(ctx, preflight.WatchPaths(s, true), s)...)
	}
	if !quick {
		findings = append(findings, sources.Check(ctx, e.Cluster, Architectures(s))...)
		if s.Exists() && s.VersionChanges() {
			findings = append(findings, preflight.JudgeUpgrade(s, observe.Upgrade(ctx, s, e.Conns), preflight.ExpectedWork(s))...)
		}
	}
	return preflight.NewReport(e.Cluster, findings, ignore, only), nil
}

// Check refuses to build a cluster on hosts that cannot become it, and to add hosts to a cluster that cannot join it. Hosts
// that joined are not checked again: they have grown beyond what is asked of empty hosts.
func (e *Engine) Check(ctx context.Context, w *Work, ignore []string) error {
	if err := e.checkWatch(ctx, w, ignore); err != nil {
		return err
	}
	if err := e.checkPrometheus(ctx, w, ignore); err != nil {
		return err
	}
	if slices.ContainsFunc(w.Plan.Steps, func(s plan.Step) bool {
		return s.Kind == plan.CheckStored || s.Kind == plan.UpgradeControlPlane && w.State.VersionChanges()
	}) {
		return e.checkUpgrade(ctx, w, ignore)
	}
	joining := preflight.Joining(w.State)
	if w.State.Exists() {
		joining = slices.DeleteFunc(joining, func(name string) bool { return !planned(w.Plan, name) })
	}
	if w.Plan.Empty() || w.State.Exists() && len(joining) == 0 {
		return nil
	}
	return progress.Track(ctx, e.Progress, "", "preflight", "check the hosts", func(ctx context.Context) error {
		r, err := e.preflight(ctx, w.State, true, joining, ignore)
		if err != nil {
			return err
		}
		if refused := r.Refusal(); refused != nil {
			return refused
		}
		return nil
	})
}

// watchFindings are what would keep units on control planes from repairing hosts on these paths.
func (e *Engine) watchFindings(ctx context.Context, paths []facts.Path, s *cluster.State) []cluster.Finding {
	if len(paths) == 0 {
		return nil
	}
	return preflight.JudgeWatch(s, observe.Watch(ctx, s, e.Conns, paths))
}

// checkWatch refuses to have the control planes of a cluster that exists repair hosts that they cannot log in to.
func (e *Engine) checkWatch(ctx context.Context, w *Work, ignore []string) error {
	paths := preflight.WatchPaths(w.State, false)
	if !w.State.Exists() || len(paths) == 0 || !slices.ContainsFunc(w.Plan.Steps, func(s plan.Step) bool { return s.Kind == plan.AdmitWatch || s.Kind == plan.ConfigureWatch }) {
		return nil
	}
	return progress.Track(ctx, e.Progress, "", "preflight/watch", "check whether the control planes can repair the hosts", func(ctx context.Context) error {
		r := preflight.NewReport(e.Cluster, e.watchFindings(ctx, paths, w.State), ignore, nil)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if refused := cluster.Refuse(preflight.RulePreflight, "the control planes could not repair all hosts (spec.repair.watch); nothing was changed:",
			"`quorate preflight` checks it again. `quorate apply --ignore "+preflight.WatchCheck+"` ignores it: the units then leave these hosts alone.", r.Findings); refused != nil {
			return refused
		}
		return nil
	})
}

// checkPrometheus refuses to install Prometheus in a cluster that exists, or to have its servers store more, where that cannot run, and to take nodes from it so
// that it could not run on the others. A new cluster is judged as a whole.
func (e *Engine) checkPrometheus(ctx context.Context, w *Work, ignore []string) error {
	has := func(of func(plan.Step) bool) bool { return slices.ContainsFunc(w.Plan.Steps, of) }
	judge, where := preflight.JudgePrometheus, "the hosts"
	switch {
	case preflight.BringsPrometheus(w.State) && has(func(s plan.Step) bool { return s.Kind == plan.ApplyManifest && s.Manifest == manifest.Prometheus }):
	case preflight.TakesFromPrometheus(w.State) && has(func(s plan.Step) bool { return s.Kind == plan.RecordSpec && s.Detail == "" }): // the edit is carried out
		judge, where = preflight.JudgeStorage, "the nodes that the spec leaves to it"
	default:
		return nil
	}
	const id = "preflight/prometheus"
	title := "check whether Prometheus can run on " + where
	return progress.Track(ctx, e.Progress, "", id, title, func(ctx context.Context) error {
		r := preflight.NewReport(e.Cluster, judge(w.State, observe.Inspect(ctx, w.State, e.Conns)), ignore, nil)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e.noteWarnings(r, id, title)
		if refused := cluster.Refuse(preflight.RulePreflight, "Prometheus (spec.monitoring.prometheus) cannot run on "+where+"; nothing was changed in "+e.Cluster.Metadata.Name+":",
			"`quorate preflight` checks it again. `quorate apply --ignore CHECK` ignores one check, by its name.", r.Findings); refused != nil {
			return refused
		}
		return nil
	})
}

// noteWarnings shows the warnings of a check.
func (e *Engine) noteWarnings(r *preflight.Report, id, title string) {
	for _, f := range r.Findings {
		if f.Severity == cluster.Warning {
			e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: id, Title: title, Detail: f.Summary})
		}
	}
}

// checkReplacement refuses to give up a cluster for one that could not be built on its hosts afterwards, as far as that can be told while it is
// there. What the snapshot of its etcd needs is known. What is checked here is checked again when the hosts were reset.
func (e *Engine) checkReplacement(ctx context.Context, s *cluster.State, snapshot int64, ignore []string) error {
	return progress.Track(ctx, e.Progress, "", "preflight/replacement", "check the hosts before the cluster on them is given up", func(ctx context.Context) error {
		findings := preflight.JudgeReplacement(s, observe.Preflight(ctx, s, e.Conns, false, nil), snapshot)
		findings = append(findings, e.watchFindings(ctx, preflight.WatchPaths(s, true), s)...)
		emptied := cluster.Evaluate(e.Cluster, cluster.Emptied(s.Seen))
		probed := emptied
		if s.Reached().Endpoint() == e.Cluster.Endpoint() {
			probed = s // its CA tells whether it is this cluster that answers there, which is as good as nobody
		}
		if e.Cluster.Spec.LoadBalancer.Type != spec.BalancerManaged || !held(s, e.Cluster.Spec.LoadBalancer.Address) {
			findings = append(findings, endpoint.Judge(emptied, endpoint.Everywhere(ctx, probed, e.Conns))...)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if refused := cluster.Refuse(preflight.RulePreflight, fmt.Sprintf("the hosts could not become %s again after the cluster on them was reset; nothing was changed:", e.Cluster.Metadata.Name),
			"`quorate restore --ignore CHECK` ignores one check, by its name.", preflight.NewReport(e.Cluster, findings, ignore, nil).Findings); refused != nil {
			return refused
		}
		return nil
	})
}

// held says that one of the hosts has an address: its load balancer gives it back when it is reset.
func held(s *cluster.State, address string) bool {
	for _, h := range s.Seen.Hosts {
		if h.Facts != nil {
			if _, has := h.Facts.Interface(address); has {
				return true
			}
		}
	}
	return false
}

// checkUpgrade refuses to change the version of a cluster where its users would notice.
func (e *Engine) checkUpgrade(ctx context.Context, w *Work, ignore []string) error {
	const id, title = "upgrade/check", "check the cluster before its version changes"
	return progress.Track(ctx, e.Progress, "", id, title, func(ctx context.Context) error {
		r := preflight.NewReport(e.Cluster, preflight.JudgeUpgrade(w.State, observe.Upgrade(ctx, w.State, e.Conns), upgradeWork(w)), ignore, nil)
		e.noteWarnings(r, id, title)
		nothing := "nothing was changed"
		if w.Plan.Resumes {
			nothing = "this run changed nothing"
		}
		if refused := cluster.Refuse(preflight.RulePreflight, fmt.Sprintf("%s cannot move to %s now; %s:", e.Cluster.Metadata.Name, e.Cluster.Spec.Kubernetes.Version, nothing),
			"`quorate preflight` shows everything that was found. `quorate apply --ignore CHECK` ignores one check, by its name.", r.Findings); refused != nil {
			return refused
		}
		return nil
	})
}

// upgradeWork is what the plan does that needs space.
func upgradeWork(w *Work) preflight.UpgradeWork {
	out := preflight.UpgradeWork{Resumes: w.Plan.Resumes}
	for _, s := range w.Plan.Steps {
		switch s.Kind {
		case plan.InstallBundle:
			if f := w.State.Facts(s.Host); f == nil || !slices.Contains(f.Bundles, w.described.For(f.Arch)) {
				out.Unpacks = append(out.Unpacks, s.Host)
			}
		case plan.ImportImages:
			out.Imports = append(out.Imports, s.Host)
		case plan.SnapshotEtcd:
			out.Snapshot = s.Host
		}
	}
	return out
}

// planned says that the plan does something on the host.
func planned(p *plan.Plan, host string) bool {
	return slices.ContainsFunc(p.Steps, func(s plan.Step) bool { return s.Host == host })
}
