package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// wasReset is what reset prints as JSON.
type wasReset struct {
	Cluster string   `json:"cluster"`
	Hosts   []string `json:"hosts"`
}

func (a *app) reset() *cobra.Command {
	var all, yes, dryRun, force bool
	cmd := &cobra.Command{
		Use:   "reset HOST... | --all",
		Short: "Remove Kubernetes and Quorate from hosts, and leave them as they were found",
		Long: `Resets hosts: stops everything of the cluster on them, and removes it together with its data, its network interfaces, and
its rules. Files, units, and kernel settings that Quorate changed are restored. Packages of the distribution stay. On a host
that was adopted, what Quorate did not install stays, except for Kubernetes itself.

With HOST, the host leaves the cluster first: it is drained, leaves the load balancers and etcd, and its node is deleted. This
is refused with exit status 3 if the cluster cannot do without the host, or if its node cannot be drained: a disruption budget
would never allow it, or there are pods without a controller. --force has such pods deleted. A host that stays in the spec is
added again by the next quorate apply.

With --all, the whole cluster and its data are removed, in whatever condition it is: this is how to start over after a build
that cannot be finished. Hosts of another cluster are refused. Hosts that cannot be reached are reported.

Before anything is changed, the steps are shown, and you are asked for the name of the cluster. In scripts, use --yes.`,
		Example: `  quorate reset worker-b
  quorate reset --all --dry-run
  quorate reset --all --yes`,
		Args: cobra.ArbitraryArgs,
		PreRunE: func(_ *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usageError{errors.New("name the hosts to reset, or pass --all for the whole cluster, but not both")}
			case !all && len(args) == 0:
				return usageError{errors.New("name the hosts to reset, or pass --all for the whole cluster")}
			case all && force:
				return usageError{errors.New("--force cannot be combined with --all: nothing is drained when the whole cluster is removed")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.running(cmd.Context(), func(c *spec.Cluster) error { return knownHosts(c, args) })
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := open(cmd.Context(), c, sink, dryRun)
			defer e.Close()
			w, err := e.Reset(cmd.Context(), run.ResetOptions{Hosts: args, Force: force, DryRun: dryRun, Confirm: func(w *run.Work) error {
				if yes || w.Plan.Empty() {
					return nil
				}
				return a.confirmReset(w.Plan, all)
			}})
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			if dryRun {
				return a.print(w.Plan, func(out io.Writer) error { return printPlan(out, w.Plan) })
			}
			return a.print(resetHosts(w.Plan), func(out io.Writer) error { return printReset(out, c, w.Plan, all) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "reset every host of the cluster: its data is lost")
	cmd.Flags().BoolVar(&force, "force", false, "also evict pods that no controller creates again")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan without changing anything")
	return cmd
}

// knownHosts wants hosts of the spec: nobody knows how to reach others.
func knownHosts(c *spec.Cluster, names []string) error {
	for _, name := range names {
		if _, known := c.Host(name); !known {
			return usageError{unknownHost(c, name)}
		}
	}
	return nil
}

// unknownHost is the error for a name that the spec does not have.
func unknownHost(c *spec.Cluster, name string) error {
	if name == "" {
		name = `""`
	}
	hosts, hint := cluster.Names(c.Spec.Hosts), ""
	if near := spec.Nearest(name, hosts); near != "" {
		hint = fmt.Sprintf("did you mean %s? ", near)
	}
	return fmt.Errorf("%s is not a host of %s; %sits hosts are %s", name, c.Metadata.Name, hint, strings.Join(hosts, ", "))
}

// confirmReset shows what will happen and asks for the name of the cluster.
func (a *app) confirmReset(p *plan.Plan, all bool) error {
	var text strings.Builder
	if err := printPlan(&text, p); err != nil {
		return err
	}
	what := "These hosts leave the cluster, and what they store is removed. As long as they are in the spec, quorate apply adds them again."
	if all {
		what = "The cluster and everything that is stored in it will be gone."
	}
	return a.typeName(text.String()+"\n"+what+"\n", p.Cluster, "resetting hosts of "+p.Cluster+" needs a confirmation")
}

// typeName shows what will happen and asks for the name of the cluster. Needs says that it has to be typed, and for what.
func (a *app) typeName(text, cluster, needs string) error {
	answer, err := a.askAloud(text + "Type the name of the cluster to continue: ")
	if err != nil {
		return usageError{fmt.Errorf("%s, and %w: pass --yes", needs, err)}
	}
	if strings.TrimSpace(answer) != cluster {
		return usageError{fmt.Errorf("nothing was changed: the name of the cluster is %s, and not %q", cluster, answer)}
	}
	return nil
}

func resetHosts(p *plan.Plan) wasReset {
	out := wasReset{Cluster: p.Cluster, Hosts: []string{}}
	for _, s := range p.Steps {
		if s.Kind == plan.ResetHost {
			out.Hosts = append(out.Hosts, s.Host)
		}
	}
	return out
}

func printReset(out io.Writer, c *spec.Cluster, p *plan.Plan, all bool) error {
	hosts := resetHosts(p).Hosts
	for _, n := range p.Notes {
		fmt.Fprintf(out, "Unchanged: %s.\n", n)
	}
	if all {
		_, err := fmt.Fprintf(out, "Done: %s of %s are as they were found. quorate apply builds a new cluster on them.\n", ui.Plural(len(hosts), "host"), c.Metadata.Name)
		return err
	}
	_, err := fmt.Fprintf(out, "Done: %s left %s and is as it was found. As long as it is in the spec, quorate apply adds it again.\n", strings.Join(hosts, ", "), c.Metadata.Name)
	return err
}
