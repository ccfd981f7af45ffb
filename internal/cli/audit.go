package cli

import (
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/audit"
	"quorate.dev/quorate/internal/run"
)

func (a *app) audit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Audit a running cluster",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "cis",
		Short: "Check the control plane, etcd, and the kubelets against the CIS benchmark",
		Long: `Reads file modes and owners, the arguments of running programs, and the configuration of the kubelets on every host, and
compares them with the ` + audit.Benchmark + `. It changes nothing.

Every check has one of three results: pass; explained (the cluster deviates from the benchmark, for a stated reason); or
fail. The exit status is 0 if no check fails, and 1 if a check fails or a host could not be checked.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := run.OpenToRead(cmd.Context(), c, sink)
			defer e.Close()
			r := audit.CIS(c.Metadata.Name, e.Evidence(cmd.Context()))
			done()
			if err := a.print(r, func(w io.Writer) error { return audit.Text(w, r) }); err != nil {
				return err
			}
			if !r.OK() {
				return &statusError{exitFailed}
			}
			return nil
		},
	})
	return cmd
}
