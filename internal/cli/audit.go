package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/audit"
	"quorate.dev/quorate/internal/run"
)

func (a *app) audit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "What is wrong with a cluster that works",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "cis",
		Short: "The CIS benchmark for control plane, etcd and kubelets",
		Long: `Reads modes, owners, the arguments of running programs and the kubelets' own configuration on every host, and judges
them by the ` + audit.Benchmark + `. Changes nothing.

Every check has one outcome: pass; explained, which is not what the benchmark asks for and says why it is right here;
or fail. Exit status: 0 when nothing fails; 1 when a check fails or a host could not be judged.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			dial, cancel := context.WithTimeout(cmd.Context(), connectTimeout)
			defer cancel()
			e := run.Open(dial, c, sink)
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
