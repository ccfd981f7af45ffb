package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/audit"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/spof"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) audit() *cobra.Command {
	var (
		depth    int
		specOnly bool
	)
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List every single point of failure with its fix",
		Long: `Finds everything whose failure alone takes a capability away: reading and changing the API, scheduling, new pods, cluster
DNS, traffic of Services, the cluster's data, draining nodes, and each workload. Each finding says what would be lost, for how
long, and what to do. It changes nothing.

Before there is a cluster, it judges the spec. Afterwards, it judges the cluster as it is: what does not work, which API servers
the load balancers use, where pods run, disruption budgets, volumes, admission webhooks, and registries. The same model is used
for both. With --spec-only, it connects to no host.

Name what hosts share besides their zone (a rack, a switch, a power feed) with failsWith in the spec. What this cluster could not
have closed, such as the machine below a lab, is listed and does not count. What could not be queried counts neither as up nor as
down.

-o html writes one page that needs nothing else, with a picture of each fault tree. The exit status is 0 if there is no single
point of failure, and 1 if there is one, if something does not work already, or if something could not be queried.

audit cis compares the running cluster with the CIS benchmark.`,
		Example: `  quorate audit
  quorate audit --spec-only -f prod.yaml
  quorate audit --depth 2 -o html > audit.html
  quorate audit cis`,
		PreRunE: func(*cobra.Command, []string) error {
			if depth != 1 && depth != 2 {
				return usageError{fmt.Errorf("--depth %d: must be 1 (single failures) or 2 (pairs, too)", depth)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := a.toAudit(cmd.Context(), specOnly)
			if err != nil {
				return err
			}
			in.Depth = depth
			r := spof.Audit(in)
			if a.output == "html" {
				err = spof.HTML(a.out, r)
			} else {
				err = a.print(r, func(w io.Writer) error { return spof.Text(w, r, ui.Width(w), ui.Color(w)) })
			}
			if err == nil && !r.OK() {
				return &statusError{exitFailed}
			}
			return err
		},
	}
	cmd.Flags().IntVar(&depth, "depth", 1, "how many failures at the same time to look for: 1 or 2")
	cmd.Flags().BoolVar(&specOnly, "spec-only", false, "judge the spec alone, without connecting to any host")
	cmd.AddCommand(reads(&cobra.Command{
		Use:   "cis",
		Short: "Check the control plane, etcd, and the kubelets against the CIS benchmark",
		Long: `Reads file modes and owners, the arguments of running programs, and the configuration of the kubelets on every host, and
compares them with the ` + audit.Benchmark + `. It changes nothing.

Every check has one of four results: pass; explained (the cluster deviates from the benchmark, for a stated reason); unknown
(what decides it could not be read); or fail. The exit status is 0 if every check passes or is explained, and 1 if one fails or is
unknown, or a host could not be checked.`,
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
	}))
	return outputs(cmd, "text", "json", "yaml", "html")
}

// toAudit reads the spec and, unless that is not wanted or its lab does not exist, the cluster.
func (a *app) toAudit(ctx context.Context, specOnly bool) (spof.Input, error) {
	o := spec.Options{Versions: bundle.Versions(), Managed: components.Managed()}
	note := ""
	if !specOnly {
		c, err := a.addressed(o)
		if err == nil {
			return a.observed(ctx, c), nil
		}
		if _, none := errors.AsType[*machines.NoLabError](err); !none {
			return spof.Input{}, err
		}
		note = "its machines do not exist yet"
	}
	path, err := a.specPath()
	if err != nil {
		return spof.Input{}, err
	}
	o.Lab = true
	c, err := a.check(path, o)
	if err == nil && !c.NeedsLab() {
		o.Lab = false
		c, err = a.check(path, o)
	}
	return spof.Input{Spec: c, Note: note}, err
}

// observed reads a cluster and its workloads.
func (a *app) observed(ctx context.Context, c *spec.Cluster) spof.Input {
	a.unlock(ctx, c)
	sink, done := a.progress()
	defer done()
	e := run.OpenToRead(ctx, c, sink)
	defer e.Close()
	in := spof.Input{Spec: c, State: e.State(ctx)}
	var err error
	if in.Workloads, err = e.Workloads(ctx, in.State); err != nil {
		in.WorkloadsUnknown = err.Error()
	}
	return in
}
