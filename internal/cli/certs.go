package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/certs"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
)

func (a *app) certs() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Show all certificates; renew them; rotate keys",
		Long: `Shows every certificate of the cluster: those of kubeadm on control planes and etcd hosts, those inside kubeconfigs, those of
all authorities, kubelets, and Quorate's own, and those of webhooks and aggregated APIs. For each it says when it expires, who renews
it, and what restarts for that. A host that cannot be queried is listed as unknown.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			e := run.OpenToRead(cmd.Context(), c, progress.Discard)
			defer e.Close()
			r := e.Certificates(cmd.Context())
			return a.print(r, func(out io.Writer) error { return certs.Text(out, r) })
		},
	}
	cmd.AddCommand(sendsSecrets(a.renewCertificates()), sendsSecrets(a.rotateEncryptionKey()), sendsSecrets(a.rotateAuthority()))
	return cmd
}

func (a *app) renewCertificates() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Renew the certificates of control planes and etcd hosts",
		Long: `Signs new certificates on one host after the other, with the keys of the authorities that are there: those of kubeadm, and those
inside admin.conf and the other kubeconfigs. API servers and etcd read them again without a restart. Controller managers and schedulers
restart after others have taken the lead. Kubelets renew theirs automatically.

If the API answers nobody because certificates have expired, it signs new ones on all hosts, for kubelets as well, and starts the programs
again. The certificate of an authority that has expired is signed again, for the same key. It needs only SSH for that. ` + "`quorate apply`" + ` does the same, and renews certificates of which less than a third of the lifetime is left.

If it is interrupted, run it again to finish.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := open(cmd.Context(), c, sink, dryRun)
			defer e.Close()
			if dryRun {
				w, err := e.PlanRenewal(cmd.Context())
				done()
				if err != nil {
					return explain(cmd.Context(), err)
				}
				return a.print(w.Plan, func(out io.Writer) error { return printPlan(out, w.Plan) })
			}
			w, err := e.Renew(cmd.Context())
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(map[string]any{"cluster": w.Plan.Cluster, "steps": len(w.Plan.Steps)}, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "Done: %s has new certificates. Run `quorate kubeconfig` to get a new kubeconfig; the former one is valid until it expires.\n", w.Plan.Cluster)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan without changing anything")
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
			e := open(cmd.Context(), c, sink, dryRun)
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
