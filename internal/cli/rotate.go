package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/run"
)

func (a *app) rotateAuthority() *cobra.Command {
	var dryRun, yes, skip, published bool
	var names []string
	for _, n := range facts.Authorities {
		names = append(names, string(n))
	}
	cmd := &cobra.Command{
		Use:       "rotate ca|front-proxy-ca|etcd-ca|sa",
		Short:     "Replace an authority (CA), or the service account key, in stages",
		ValidArgs: names,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && slices.Contains(names, args[0]) {
				return nil
			}
			return errors.New("say what to replace: " + strings.Join(names, ", "))
		},
		PreRunE: func(_ *cobra.Command, args []string) error {
			if published && facts.Authority(args[0]) != facts.ServiceAccountKey {
				return usageError{errors.New("--keys-published is for sa: nobody outside of the cluster verifies tokens with another key")}
			}
			return nil
		},
		Long: `Replaces the key and the certificate of an authority, or the service account key, in three stages. No stage begins before every host
has reached the one before it.

1. trust: a new key is generated on one host and copied to the others that sign. Everything that trusts the old one trusts both.
2. sign: the new key signs. What the old one signed on the hosts is signed again, except for the certificates with which API servers serve.
3. drop: API servers serve with new certificates, and then nobody trusts the old key any more. This stage needs --yes, because whoever
   trusts only the old certificate, or has a client certificate or a token that it signed, is refused from then on.

ca: one host at a time, controller managers and schedulers restart in each stage, after others have taken the lead, and kubelets restart
once in each stage; containers go on. API servers and etcd do not restart. kube-proxy, the pod network's agents, CoreDNS, and the
kube-state-metrics of a Prometheus that Quorate installed are replaced pod by pod, once. Load balancers reload. It takes a few minutes
for each control plane, and five more before the second stage. Workloads of yours that use the API and read its certificate only when they
start must be restarted before the last stage: the command names those that may have to, and ends. Run it again afterwards. With
--skip-workloads, it goes on without that.

front-proxy-ca: nothing restarts. It takes a few minutes.

etcd-ca: in the first and the last stage, members of etcd and API servers restart, one host at a time, after clients were sent to other API
servers and others have taken the lead. Quorate does not change an existing etcd.

sa (the service account key): API servers restart in each stage, one at a time, after clients were sent to the others. In the second stage,
controller managers restart, too, and kubelets, which then request the tokens of all pods again; containers go on. Pods that read their
token only when they start must be restarted before the last stage, and tokens in secrets must be written again: the command names those
that may have to, and ends. With --skip-workloads, it goes on without that. If tokens may be verified outside of the cluster, the command
ends before the second stage, until --keys-published says that the new key is known there.

The exit status is 0 only if the rotation is complete. If it ends before that because the next stage waits for something, it says for what,
and the exit status is 1; -o json has "complete" and "waits".

If it is interrupted, run it again to finish. Until then, no host can join, and the version cannot change. ` + "`quorate status`" + ` says so.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := open(cmd.Context(), c, sink, dryRun)
			defer e.Close()
			authority, o := facts.Authority(args[0]), run.RotateOptions{Drop: yes, SkipWorkloads: skip, Published: published}
			if dryRun {
				w, err := e.PlanAuthority(cmd.Context(), authority, o)
				done()
				if err != nil {
					return explain(cmd.Context(), err)
				}
				return a.print(w.Plan, func(out io.Writer) error {
					if w.Plan.Waits != "" {
						_, err := fmt.Fprintf(out, "Stage %q waits: %s.\n", w.Plan.Rotation, w.Plan.Waits)
						return err
					}
					if _, err := fmt.Fprintf(out, "Stage %q of the rotation; the next stage is planned when every host has reached it.\n\n", w.Plan.Rotation); err != nil {
						return err
					}
					return printPlan(out, w.Plan)
				})
			}
			r, err := e.RotateAuthority(cmd.Context(), authority, o)
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.rotated(c.Metadata.Name, r)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan of the next stage without changing anything")
	cmd.Flags().BoolVar(&yes, "yes", false, "let the last stage begin: whoever depends on the old key is refused from then on")
	cmd.Flags().BoolVar(&skip, "skip-workloads", false, "let the last stage begin although workloads may trust only the old certificate, or use tokens that the old key signed")
	cmd.Flags().BoolVar(&published, "keys-published", false, "sa: confirm that everyone who verifies tokens outside of the cluster has the new key")
	return cmd
}

// rotated prints how far a rotation came, and tells with the exit status whether it is complete.
func (a *app) rotated(cluster string, r run.Rotated) error {
	return a.printDone(r, func(out io.Writer) error { return printRotated(out, cluster, r) })
}

func printRotated(out io.Writer, cluster string, r run.Rotated) error {
	if r.Unfinished() {
		_, err := fmt.Fprintf(out, "Not complete: %s.\n", r.Waits)
		return err
	}
	hint := ""
	if r.Authority == facts.KubernetesAuthority {
		hint = " Run `quorate kubeconfig` to get a new kubeconfig; those that the old key signed do not work."
	}
	_, err := fmt.Fprintf(out, "Done: %s of %s was replaced, and the old one is not trusted any more.%s\n", r.Authority.Title(), cluster, hint)
	return err
}
