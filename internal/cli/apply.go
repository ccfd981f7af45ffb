package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
)

func (a *app) apply() *cobra.Command {
	var o run.Options
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make the cluster match the spec; safe to interrupt and to run again",
		Long: `Runs the steps that quorate plan shows, then verifies that the cluster matches the spec, even if there was nothing to do.
It is safe to interrupt: run it again to finish the work.

While it runs, no other run can change the hosts. Every change is evaluated again right before it is made, on the current
state of the cluster. An unsafe change is refused with exit status 3.

To upgrade Kubernetes, change kubernetes.version in the spec, one minor release at a time; to go back, write the former
version. Control planes are replaced one after another, while the API and the workloads stay up (docs/upgrade.md).

Hosts that have left the spec are drained before they leave the cluster. A disruption budget that would never allow it, and pods
without a controller, are refused before anything is changed. --force has such pods deleted; nothing is evicted past a budget.

To adopt a kubeadm cluster that was built without Quorate, pass --adopt. quorate plan shows what adoption would change.
Adoption is refused unless the spec describes exactly that cluster.`,
		PreRunE: func(*cobra.Command, []string) error { return knownChecks(o.Ignore) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := run.Open(cmd.Context(), c, sink)
			defer e.Close()
			var w *run.Work
			if err = e.AnyReached(cmd.Context()); err == nil { // before a bundle is compiled, which may take half an hour
				var b *bundle.Bundle
				if b, err = sources.Bundle(cmd.Context(), c, sink); err == nil {
					w, err = e.Apply(cmd.Context(), b, o)
				}
			}
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(map[string]any{"cluster": w.Plan.Cluster, "steps": len(w.Plan.Steps)}, func(out io.Writer) error {
				if w.Plan.Empty() {
					_, err := fmt.Fprintf(out, "Nothing to do: %s was verified and matches the spec.\n", w.Plan.Cluster)
					return err
				}
				_, err := fmt.Fprintf(out, "Done: %d steps. %s was verified and matches the spec.\n", len(w.Plan.Steps), w.Plan.Cluster)
				return err
			})
		},
	}
	ignoreFlag(cmd, &o.Ignore)
	cmd.Flags().BoolVar(&o.Force, "force", false, "when hosts leave: also evict pods that no controller creates again")
	cmd.Flags().BoolVar(&o.Adopt, "adopt", false, "adopt a cluster that was built without Quorate")
	return cmd
}
