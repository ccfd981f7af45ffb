package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
)

func (a *app) repair() *cobra.Command {
	o := run.RepairOptions{Compare: true}
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Fix what is broken, one thing at a time and within the margins",
		Long: `Observes the cluster several times, and repairs what these observations agree on, one thing at a time: stopped or disabled
units, missing files and manifests, load balancers, agents, an etcd without space, and etcd members whose data cannot be
trusted. docs/repair.md lists everything that is repaired.

A repair changes no version, no setting, and no host of the spec: quorate apply does. Each change is evaluated again right
before it is made. What would be unsafe is refused, and what could not be queried is left alone. A repair is tried on a host
only so often in an hour, with pauses that grow; the hosts remember that.

Each repair is reported here and as an event in the cluster (kubectl get events -A --field-selector source=quorate).

Exit status: 1 if a repair failed; otherwise 3 if one was refused as unsafe; otherwise 0 if nothing is left to repair and nothing keeps the
cluster from matching its spec, and 1 if something is, also if a repair waits until it may be tried again. It is safe to interrupt: run
it again.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := open(cmd.Context(), c, sink, o.DryRun)
			defer e.Close()
			report, err := e.Repair(cmd.Context(), o)
			done()
			if report == nil {
				return explain(cmd.Context(), err)
			}
			return a.repaired(cmd.Context(), report, o.DryRun, err)
		},
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "print what would be repaired and change nothing")
	cmd.Flags().BoolVar(&o.Compare, "compare-etcd", true, "compare the data of etcd's members, which slows them down for a moment")
	return cmd
}

// repaired prints a report and tells with the exit status what is left. A repair that failed comes before one that was refused.
func (a *app) repaired(ctx context.Context, report *run.RepairReport, dryRun bool, err error) error {
	text := func(w io.Writer) error { return printRepairs(w, report) }
	switch {
	case err != nil:
		if len(report.Repairs) > 0 {
			if e := a.print(report, text); e != nil {
				return e
			}
		}
		return explain(ctx, err)
	case dryRun:
		return a.print(report, text)
	case report.Has(run.RepairRefused) && !report.Has(run.RepairFailed):
		if e := a.print(report, text); e != nil {
			return e
		}
		return &statusError{exitRefused}
	}
	return a.printDone(report, text)
}

func printRepairs(w io.Writer, r *run.RepairReport) error {
	for _, m := range r.Repairs {
		where := ""
		if m.Host != "" {
			where = " on " + m.Host
		}
		fmt.Fprintf(w, "%-9s %s%s: %s\n", m.Outcome, m.Name, where, m.Problem)
		for _, s := range m.Steps {
			fmt.Fprintf(w, "          - %s\n", s)
		}
		if m.Detail != "" {
			fmt.Fprintf(w, "          %s\n", m.Detail)
		}
		for _, h := range slices.Sorted(maps.Keys(m.Unnoted)) {
			fmt.Fprintf(w, "          It could not be noted on %s: %s\n", h, m.Unnoted[h])
		}
		if m.Outcome == run.Repaired {
			fmt.Fprintf(w, "          It was seen to work after %.1f s.\n", m.Seconds)
		}
	}
	if len(r.Repairs) == 0 {
		fmt.Fprintln(w, "There is nothing to repair.")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "Note: %s.\n", n)
	}
	if len(r.Left) > 0 {
		fmt.Fprintln(w, "\nLeft:")
	}
	for _, f := range r.Left {
		fmt.Fprintf(w, "  %s: %s.\n    %s\n", f.Severity, f.Summary, f.Fix)
	}
	return nil
}

func (a *app) watch() *cobra.Command {
	var interval, compare time.Duration
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Repair continuously what breaks, until interrupted",
		Long: `Does what quorate repair does, again and again, and prints one line (with -o json: one object) for each repair that it made,
that failed, or that it did not make, with the reason. It holds the hosts only while it repairs something, so other commands
can change them meanwhile; while another run does, it repairs nothing.

It runs until it is interrupted, and a repair that is being made then is finished by the next one. With spec.repair.watch, the
control planes run this as a service, and quorate status shows which of them leads.`,
		PreRunE: func(*cobra.Command, []string) error {
			if interval < time.Second {
				return usageError{errors.New("--interval must be 1s or more")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			w := run.Watcher{Interval: interval, CompareEach: compare, Tell: a.tellRepair, Note: func(text string) { fmt.Fprintln(a.err, text) },
				Open: func(ctx context.Context) *run.Engine { return run.OpenToRead(ctx, c, progress.Discard) }} // it looks again soon
			return w.Run(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", 10*time.Second, "the time between two observations")
	cmd.Flags().DurationVar(&compare, "compare-etcd", 10*time.Minute, "how often the data of etcd's members is compared (0: never)")
	return outputs(cmd, "text", "json")
}

// tellRepair prints one repair as a line.
func (a *app) tellRepair(m run.Mended) {
	if a.output == "json" {
		if err := json.NewEncoder(a.out).Encode(m); err != nil {
			fmt.Fprintln(a.err, err)
		}
		return
	}
	fmt.Fprintf(a.out, "%s %s\n", time.Now().UTC().Format(time.RFC3339), m)
}
