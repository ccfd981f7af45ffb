package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// maintained is what maintain prints as JSON.
type maintained struct {
	Cluster string   `json:"cluster"`
	Hosts   []string `json:"hosts"`
	// Maintenance says that the hosts are in maintenance now, and Rebooted that they were rebooted and are back.
	Maintenance bool     `json:"maintenance"`
	Rebooted    bool     `json:"rebooted,omitempty"`
	Steps       int      `json:"steps"`
	Notes       []string `json:"notes,omitempty"`
}

func (a *app) maintain() *cobra.Command {
	var undo, reboot, all, dry bool
	var o plan.MaintainOptions
	cmd := &cobra.Command{
		Use:   "maintain HOST|zone/ZONE...",
		Short: "Take a host or a zone out of service for hardware work or patching, and bring it back",
		Long: `Takes a host out of service, so that it can be powered off without anybody noticing: cordons and drains its node, moves the
virtual IP and the leadership of etcd, the controller managers, and the schedulers to other hosts, takes its API server out
of the load balancers' pools, and stops what clients would miss if it vanished. zone/ZONE does it for all hosts of a zone.

It is refused, with exit status 3, if the rest of the cluster would not keep its quorum, an API server, a load balancer, and
a worker. The cluster remembers the maintenance: quorate status shows it, nothing relies on the hosts, and quorate apply
leaves them as they are.

Pods leave through the eviction API. A disruption budget that blocks is named; nothing is evicted past it. Pods without a
controller are refused unless you pass --force. Pods of DaemonSets stay. The data of emptyDir volumes is lost.

--undo brings the hosts back: it starts what was stopped, waits until everything on them works, including the pod network,
and only then lets clients and workloads come. It also undoes a maintenance that was cut short.

--reboot reboots hosts one after the other. Each is back, with all margins, before the next one goes.

It is safe to interrupt: run it again to finish the work, or undo it.`,
		Example: `  quorate maintain cp-b                     then power it off
  quorate maintain --undo cp-b              after it was powered on
  quorate maintain zone/b
  quorate maintain --reboot worker-a worker-b
  quorate maintain --reboot --all`,
		Args: cobra.ArbitraryArgs,
		PreRunE: func(_ *cobra.Command, args []string) error {
			many := undo || reboot // only what is brought back or rebooted can be more than one
			switch {
			case all && !many:
				return usageError{errors.New("--all needs --undo or --reboot: not all hosts can be out of service at the same time")}
			case all && len(args) > 0:
				return usageError{errors.New("name hosts, or pass --all, but not both")}
			case !all && len(args) == 0:
				return usageError{errors.New("name a host of the spec, or a zone as zone/ZONE")}
			case len(args) > 1 && !many:
				return usageError{errors.New("only one host or zone can be taken out of service at a time; run it for one after the other")}
			case dry && reboot:
				return usageError{errors.New("--dry-run cannot be combined with --reboot: what there is to do for a host depends on the hosts before it")}
			case undo && (reboot || o.Force):
				return usageError{errors.New("--undo cannot be combined with --reboot or --force")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var targets []plan.Target
			c, err := a.running(ctx, func(c *spec.Cluster) (err error) {
				if targets, err = targetsOf(c, args, all); err != nil {
					return usageError{err}
				}
				return nil
			})
			if err != nil {
				return err
			}
			out := maintained{Cluster: c.Metadata.Name, Maintenance: !undo && !reboot, Rebooted: reboot}
			var hosts []spec.Host
			for _, t := range targets {
				hosts = append(hosts, t.Hosts...)
			}
			out.Hosts = cluster.Names(hosts)
			if dry {
				return a.planMaintenance(ctx, c, targets, undo, o)
			}
			sink, done := a.progress()
			var e *run.Engine
			if (undo || reboot) && !all {
				e = run.OpenAwaiting(ctx, c, sink, out.Hosts)
			} else {
				e = run.Open(ctx, c, sink)
			}
			defer e.Close()
			if reboot {
				out.Notes, err = e.Reboot(ctx, hosts, o)
			} else {
				err = out.make(ctx, e, targets, undo, o)
			}
			done()
			if err != nil {
				return explain(ctx, err)
			}
			return a.print(out, func(w io.Writer) error { return printMaintained(w, out, args) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&undo, "undo", false, "bring the hosts back into service")
	flags.BoolVar(&reboot, "reboot", false, "reboot the hosts, one after the other")
	flags.BoolVar(&all, "all", false, "with --undo or --reboot: all hosts of the spec")
	flags.BoolVar(&o.Force, "force", false, "also evict pods that no controller creates again")
	flags.BoolVar(&dry, "dry-run", false, "print the steps and change nothing")
	return cmd
}

// make takes targets out of service, or brings them back, one after the other.
func (m *maintained) make(ctx context.Context, e *run.Engine, targets []plan.Target, undo bool, o plan.MaintainOptions) error {
	for _, t := range targets {
		var w *run.Work
		var err error
		if undo {
			w, err = e.EndMaintenance(ctx, t)
		} else {
			w, err = e.Maintain(ctx, t, o)
		}
		if err != nil {
			return err
		}
		m.Steps += len(w.Plan.Steps)
		m.Notes = append(m.Notes, w.Plan.Notes...)
	}
	return nil
}

// targetsOf reads hosts and zones from the command line.
func targetsOf(c *spec.Cluster, args []string, all bool) ([]plan.Target, error) {
	if all {
		args = cluster.Names(c.Spec.Hosts)
	}
	var out []plan.Target
	for _, arg := range args {
		zone, isZone := strings.CutPrefix(arg, "zone/")
		t := plan.Target{Zone: zone}
		if !isZone {
			t.Zone = ""
			h, known := c.Host(arg)
			if !known {
				return nil, unknownHost(c, arg)
			}
			t.Hosts = []spec.Host{h}
		} else {
			for _, h := range c.Spec.Hosts {
				if h.Zone == zone && zone != "" {
					t.Hosts = append(t.Hosts, h)
				}
			}
			if len(t.Hosts) == 0 {
				return nil, fmt.Errorf("%q is not a zone of %s; its zones are %s", zone, c.Metadata.Name, strings.Join(zonesOf(c), ", "))
			}
		}
		for _, h := range t.Hosts {
			if slices.ContainsFunc(out, func(o plan.Target) bool { return slices.Contains(cluster.Names(o.Hosts), h.Name) }) {
				return nil, fmt.Errorf("%s is named twice", h.Name)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func zonesOf(c *spec.Cluster) (out []string) {
	for _, h := range c.Spec.Hosts {
		if h.Zone != "" && !slices.Contains(out, h.Zone) {
			out = append(out, h.Zone)
		}
	}
	slices.Sort(out)
	return out
}

// planMaintenance prints what would be done.
func (a *app) planMaintenance(ctx context.Context, c *spec.Cluster, targets []plan.Target, undo bool, o plan.MaintainOptions) error {
	sink, done := a.progress()
	e := run.OpenToRead(ctx, c, sink)
	defer e.Close()
	state := e.State(ctx)
	done()
	var whole *plan.Plan
	for _, t := range targets {
		var p *plan.Plan
		var err error
		if undo {
			p, err = plan.EndMaintenance(state, t)
		} else {
			p, err = plan.Maintain(state, t, o)
		}
		if err != nil {
			return explain(ctx, err)
		}
		if whole == nil {
			whole = p
			continue
		}
		whole.Steps, whole.Notes = append(whole.Steps, p.Steps...), append(whole.Notes, p.Notes...)
	}
	return a.print(whole, func(out io.Writer) error {
		if whole.Empty() {
			_, err := fmt.Fprintln(out, "Nothing to do.")
			return err
		}
		return printPlan(out, whole)
	})
}

func printMaintained(w io.Writer, m maintained, args []string) error {
	names := strings.Join(m.Hosts, ", ")
	is, them := "is", "it"
	if len(m.Hosts) > 1 {
		is, them = "are", "them"
	}
	for _, n := range m.Notes {
		fmt.Fprintf(w, "Note: %s.\n", n)
	}
	var err error
	switch {
	case m.Rebooted:
		_, err = fmt.Fprintf(w, "Done: %s %s back in service after a reboot.\n", names, is)
	case m.Maintenance && m.Steps == 0:
		_, err = fmt.Fprintf(w, "Nothing to do: %s %s in maintenance and can be powered off.\nAfterwards, run: quorate maintain --undo %s\n", names, is, strings.Join(args, " "))
	case m.Maintenance:
		_, err = fmt.Fprintf(w, "%s %s in maintenance and can be powered off.\nAfterwards, power %s on and run: quorate maintain --undo %s\n", names, is, them, strings.Join(args, " "))
	case m.Steps == 0:
		_, err = fmt.Fprintf(w, "Nothing to do: %s %s not in maintenance.\n", names, is)
	default:
		_, err = fmt.Fprintf(w, "Done: %s %s back in service.\n", names, is)
	}
	return err
}
