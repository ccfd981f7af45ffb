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
		Short: "Keys of the cluster",
	}
	cmd.AddCommand(sendsSecrets(a.rotateEncryptionKey()))
	return cmd
}

func (a *app) rotateEncryptionKey() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rotate-encryption-key",
		Short: "Replace the key that encrypts secrets in etcd",
		Long: `Makes a new key on a control plane, gives it to all of them, encrypts with it, writes every secret again, and removes the
old key. Nothing restarts: each apiserver loads the file by itself within a minute, and every stage waits until all of
them say that they have. Takes some three minutes. Interrupted at any moment, it is finished by running it again.

Backups of etcd from before need the key that they were written with: keep it with them, or make a new backup.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := run.Open(cmd.Context(), c, sink)
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
				_, err := fmt.Fprintf(out, "Done: every secret of %s is encrypted with the new key, and the old one is gone.\n", w.Plan.Cluster)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}
