package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (a *app) apply() *cobra.Command {
	var (
		ignore []string
		adopt  bool
	)
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make it so; safe to interrupt and to run again",
		Long: `Runs the steps that quorate plan shows. It waits until the cluster is seen to be as the spec
says, and pods on new nodes reach pods on others, whatever the pod network is. Killed at any moment, it is finished by
running it again.

A kubeadm cluster that was built without Quorate is taken on with --adopt, once: quorate plan shows before what that
would change. It is refused unless the spec describes exactly that cluster.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownChecks(ignore); err != nil {
				return err
			}
			e, w, err := a.makePlan(cmd)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			defer e.Close()
			sink, done := a.progress()
			e.Progress, e.Adopt = sink, adopt
			if err = e.Check(cmd.Context(), w, ignore); err == nil {
				err = e.Apply(cmd.Context(), w)
			}
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(map[string]any{"cluster": w.Plan.Cluster, "steps": len(w.Plan.Steps)}, func(out io.Writer) error {
				if w.Plan.Empty() {
					return printPlan(out, w.Plan)
				}
				_, err := fmt.Fprintf(out, "Done: %d steps, and %s was seen to be as the spec says.\n", len(w.Plan.Steps), w.Plan.Cluster)
				return err
			})
		},
	}
	ignoreFlag(cmd, &ignore)
	cmd.Flags().BoolVar(&adopt, "adopt", false, "take on a cluster that was built without Quorate")
	return cmd
}
