package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/run"
)

func (a *app) certs() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Manage the cluster's keys",
	}
	cmd.AddCommand(sendsSecrets(a.rotateEncryptionKey()))
	return cmd
}

func (a *app) rotateEncryptionKey() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rotate-encryption-key",
		Short: "Replace the key that encrypts secrets in etcd",
		Long: `Generates a new key on a control plane, copies it to the others, switches encryption to it, rewrites every secret, and
removes the old key. Nothing restarts: each API server reloads the file within a minute, and every stage waits until all
API servers report that they have. The rotation takes about three minutes. If it is interrupted, run it again to finish.

Earlier backups of etcd can be read only with the old key. Keep it with them, or make a new backup.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			open := run.Open
			if dryRun {
				open = run.OpenToRead
			}
			e := open(cmd.Context(), c, sink)
			defer e.Close()
			var w *run.Work
			if dryRun {
				if w, err = e.PlanRotation(cmd.Context()); err == nil {
					done()
					return a.print(w.Plan, func(out io.Writer) error { return printPlan(out, w.Plan) })
				}
			} else {
				w, err = e.Rotate(cmd.Context())
			}
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(map[string]any{"cluster": w.Plan.Cluster, "steps": len(w.Plan.Steps)}, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "Done: every secret of %s is encrypted with the new key, and the old key is removed.\n", w.Plan.Cluster)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan without changing anything")
	return cmd
}
