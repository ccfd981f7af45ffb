package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/byhand"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) plan() *cobra.Command {
	var detailed, byHand, diff bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what apply would do, and why",
		Long: `Observes the hosts and prints the steps from there to the spec, each with its reason. Changes nothing on them,
and compiles no bundle.

Steps that add, stop or remove something say what the cluster survives meanwhile, in the worst case.

For a kubeadm cluster that was built without Quorate, it shows what adoption would change, and what would stay as it is
although Quorate would have built it differently.

Files whose content would change are listed with the hosts, and the number of lines that are added and removed. --diff shows
the lines: what the hosts have, and what they will have. Files that may contain a key or a password are only named, and
their content stays on the host.

With --by-hand, it connects to no host and prints a guide for exactly this spec: what an operator would do without
Quorate, host by host, in the order of kubeadm's documentation, with configuration files, commands, and reasons. The guide
is a shell script. Run it on a machine that can reach the hosts, or paste parts of it. -o json prints the same as data.`,
		Example: `  quorate plan
  quorate plan --diff
  quorate plan -o json --detailed-exitcode
  quorate plan --by-hand > guide.sh`,
		PreRunE: func(*cobra.Command, []string) error {
			if byHand && (detailed || diff) {
				return usageError{errors.New("--by-hand cannot be combined with --detailed-exitcode or --diff: it connects to no host, so it cannot tell whether there are changes")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if byHand {
				return a.planByHand()
			}
			e, w, err := a.makePlan(cmd)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			defer e.Close()
			if err := e.CompareFiles(cmd.Context(), w); err != nil {
				return explain(cmd.Context(), err)
			}
			if !diff {
				w.Plan.Summarize()
			}
			if err := a.print(w.Plan, func(out io.Writer) error {
				if err := printPlan(out, w.Plan); err != nil {
					return err
				}
				return printFiles(out, w.Plan.Files, diff)
			}); err != nil {
				return err
			}
			if detailed && differs(w.Plan) {
				return &statusError{exitChanges}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit with status 5 if there are changes")
	cmd.Flags().BoolVar(&diff, "diff", false, "show which lines of files on hosts would change")
	cmd.Flags().BoolVar(&byHand, "by-hand", false, "print what an operator would do without Quorate, host by host, without connecting to any host")
	return cmd
}

// differs says that the cluster does not match its spec, whether or not a step of the plan changes that.
func differs(p *plan.Plan) bool { return !p.Empty() || len(p.Unmet) > 0 }

func (a *app) planByHand() error {
	c, err := a.addressed(spec.Options{Versions: bundle.Versions()})
	if err != nil {
		return err
	}
	guide, err := byhand.Guide(c)
	if err != nil {
		return err
	}
	return a.print(guide, guide.Script)
}

// makePlan opens the cluster and plans. The caller must close the engine, unless there is an error.
func (a *app) makePlan(cmd *cobra.Command) (*run.Engine, *run.Work, error) {
	c, err := a.cluster(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	sink, done := a.progress()
	b, err := sources.Prepared(cmd.Context(), c, sink)
	done()
	if err != nil {
		return nil, nil, err
	}
	e := run.OpenToRead(cmd.Context(), c, sink)
	w, err := e.Plan(cmd.Context(), b)
	if err != nil {
		e.Close()
		return nil, nil, err
	}
	return e, w, nil
}

func printPlan(out io.Writer, p *plan.Plan) error {
	for _, h := range slices.Sorted(maps.Keys(p.Unreachable)) {
		fmt.Fprintf(out, "Skipped, because it cannot be reached: %s\n", p.Unreachable[h])
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(out, "Warning: %s.\n", w)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(out, "Unchanged: %s.\n", n)
	}
	if p.Empty() {
		return printEmpty(out, p)
	}
	if p.Adopts {
		fmt.Fprintf(out, "%s was not built by Quorate. quorate apply --adopt adopts it with these steps and rebuilds nothing.\n", p.Cluster)
	}
	fmt.Fprintf(out, "%d steps for %s. Steps on different hosts run in parallel.\n\n", len(p.Steps), p.Cluster)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tSTEP\tREASON")
	for _, s := range p.Steps {
		host := s.Host
		if host == "" {
			host = "(cluster)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", host, s.Title, s.Reason+meanwhile(s.Margins))
	}
	return t.Flush()
}

// printFiles shows which files change or, with diff, the lines that change, once for all hosts on which they are the same.
func printFiles(out io.Writer, files []plan.FileChange, diff bool) error {
	if diff {
		for _, c := range files {
			heading := fileName(c) + " on " + strings.Join(c.Hosts, ", ")
			if note := fileNote(c); note != "" {
				heading += " " + note
			}
			fmt.Fprintf(out, "\n%s\n%s", heading, c.Diff)
		}
		return nil
	}
	changed, created := 0, map[string]bool{}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range files {
		if c.New {
			created[fileName(c)] = true
			continue
		}
		if changed++; changed == 1 {
			fmt.Fprint(out, "\nFiles whose content changes (--diff shows the lines):\n\n")
			fmt.Fprintln(t, "FILE\tHOSTS\tLINES")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", fileName(c), strings.Join(c.Hosts, ", "), cmp.Or(fileNote(c), fmt.Sprintf("+%d -%d", c.Added, c.Removed)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(created) > 0 {
		fmt.Fprintf(out, "\nNew files (--diff shows them): %d\n", len(created))
	}
	return nil
}

func fileName(c plan.FileChange) string {
	if c.Block != "" {
		return fmt.Sprintf("%s (block %q)", c.Path, c.Block)
	}
	return c.Path
}

// fileNote is what there is to say of a file whose lines are not shown.
func fileNote(c plan.FileChange) string {
	switch {
	case c.Withheld != "" && c.New:
		return "is created; not shown: " + c.Withheld
	case c.Withheld != "":
		return "differs; not shown: " + c.Withheld
	}
	return ""
}

// meanwhile says what the cluster survives while a step is made.
func meanwhile(m *quorum.Margins) string {
	if m == nil {
		return ""
	}
	parts := []string{ui.Plural(max(m.ControlPlanes, 0), "control plane"), ui.Plural(max(m.Etcd, 0), "etcd member")}
	if m.LoadBalancers != nil {
		parts = append(parts, ui.Plural(max(*m.LoadBalancers, 0), "load balancer"))
	}
	return " (meanwhile, the cluster survives the loss of " + strings.Join(parts, ", ") + ")"
}

// printEmpty claims that there is nothing to do only if the cluster was observed to match its spec.
func printEmpty(out io.Writer, p *plan.Plan) error {
	switch {
	case len(p.Unmet) > 0:
		fmt.Fprintf(out, "No steps to run, but %s does not match the spec:\n", p.Cluster)
		for _, f := range p.Unmet {
			fmt.Fprintf(out, "  %s: %s\n      %s\n", f.Severity, f.Summary, f.Fix)
		}
	case len(p.Unreachable) > 0:
		fmt.Fprintf(out, "Nothing to do: the part of %s that could be observed matches the spec.\n", p.Cluster)
	default:
		fmt.Fprintf(out, "Nothing to do: %s matches the spec.\n", p.Cluster)
	}
	return nil
}
