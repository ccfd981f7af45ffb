package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/scale"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// scaleFlags are the flags of `quorate lab scale`.
type scaleFlags struct {
	nodes, pods        int
	rate, percent      float64
	fail, every, lasts time.Duration
	seed               uint64
	remove             bool
}

// scaled is what `quorate lab scale` reports. Its JSON keys are stable.
type scaled struct {
	Cluster  string                `json:"cluster"`
	Nodes    *scale.NodesReport    `json:"nodes,omitempty"`
	Pods     *scale.PodsReport     `json:"pods,omitempty"`
	Failures *scale.FailuresReport `json:"failures,omitempty"`
	Removed  bool                  `json:"removed,omitempty"`
	// Notes are what of the cluster does not fit its new size.
	Notes []string `json:"notes,omitempty"`
}

func (a *app) labScale(name *string) *cobra.Command {
	var f scaleFlags
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Add simulated nodes and pods to the cluster of a lab, or remove them",
		Long: `Adds simulated nodes and pods to the cluster of a lab until there are as many as the flags say, or removes those that are too many, and
waits until all are ready. kwok plays the kubelets on a machine of its own; the control plane, etcd, and the load balancers are real. The nodes
renew leases and report their status as kubelets of the cluster's failover profile do. Pods are created at a rate, and simulated nodes run
them all. No other command takes simulated nodes for hosts.

With --fail-for, nodes fail and come back meanwhile. --remove removes everything again, the machine included. docs/scale.md describes what is
simulated, and what is not.

The first time, kwok is compiled from its pinned modules.`,
		Example: `  quorate lab scale --nodes 200 --pods 6000
  quorate lab scale --nodes 200 --pods 6000 --fail-for 30m
  quorate lab scale --remove`,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return f.check(cmd.Flags().Changed) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if *name != "" && a.file == "" {
				a.file = machines.SpecFile(*name)
			}
			return a.runScale(cmd.Context(), cmd.Flags().Changed, f)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.nodes, "nodes", 0, "number of simulated nodes (default: keep the present number)")
	flags.IntVar(&f.pods, "pods", 0, "number of pods on simulated nodes (default: keep the present number)")
	flags.Float64Var(&f.rate, "rate", 10, "how many pods are created or removed per second")
	flags.DurationVar(&f.fail, "fail-for", 0, "for how long nodes fail and come back, after everything is ready")
	flags.Float64Var(&f.percent, "fail-percent", 1, "how many percent of the nodes fail together, and at least one")
	flags.DurationVar(&f.every, "fail-every", 5*time.Minute, "the time between two failures")
	flags.DurationVar(&f.lasts, "fail-lasts", 2*time.Minute, "how long a failure lasts")
	flags.Uint64Var(&f.seed, "seed", 1, "what decides which nodes fail")
	flags.BoolVar(&f.remove, "remove", false, "remove all simulated nodes, their pods, and the machine that simulates them")
	return cmd
}

func (f scaleFlags) check(changed func(string) bool) error {
	switch {
	case f.remove && (changed("nodes") || changed("pods") || changed("fail-for")):
		return usageError{errors.New("--remove cannot be combined with --nodes, --pods, and --fail-for")}
	case !f.remove && !changed("nodes") && !changed("pods") && !changed("fail-for"):
		return usageError{errors.New("say how many: --nodes, --pods, --fail-for, or --remove")}
	case f.nodes < 0 || f.nodes > size.MaxNodes:
		return usageError{fmt.Errorf("--nodes %d: use a number from 0 to %d", f.nodes, size.MaxNodes)}
	case f.pods < 0 || f.pods > size.MaxPods:
		return usageError{fmt.Errorf("--pods %d: use a number from 0 to %d", f.pods, size.MaxPods)}
	case f.rate < 0.1 || f.rate > 500:
		return usageError{errors.New("--rate must be between 0.1 and 500 pods per second")}
	case f.fail < 0 || f.percent <= 0 || f.percent > 100:
		return usageError{errors.New("--fail-for must not be negative, and --fail-percent must be above 0 and at most 100")}
	case f.every < time.Second || f.lasts < time.Second:
		return usageError{errors.New("--fail-every and --fail-lasts must be 1s or more")}
	case f.lasts >= f.every:
		return usageError{errors.New("--fail-lasts must be shorter than --fail-every: a failure ends before the next one begins")}
	}
	return nil
}

func (a *app) runScale(ctx context.Context, changed func(string) bool, f scaleFlags) error {
	var plug *labPlug
	var notes []string
	c, err := a.running(ctx, func(c *spec.Cluster) (err error) {
		plug, err = plugOf(c)
		switch {
		case err != nil:
			return err
		case plug == nil:
			return usageError{fmt.Errorf("the hosts of %s are no machines of a lab, and nodes are simulated only there", c.Metadata.Name)}
		case c.Spec.LoadBalancer.Address == "":
			return usageError{errors.New("the load balancer has no address in the spec at which simulated nodes would reach the API")}
		}
		if changed("nodes") {
			notes, err = fits(c, f)
		}
		return err
	})
	if err != nil {
		return err
	}
	sink, done := a.progress()
	out, err := scaleLab(ctx, c, plug.lab, changed, f, notes, sink)
	done()
	if out != nil {
		if e := a.print(out, func(w io.Writer) error { return writeScaled(w, out) }); e != nil {
			return e
		}
	}
	return explain(ctx, err)
}

func scaleLab(ctx context.Context, c *spec.Cluster, l *lab.Lab, changed func(string) bool, f scaleFlags, notes []string, sink progress.Sink) (*scaled, error) {
	e := run.OpenToRead(ctx, c, sink)
	defer e.Close()
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := direct(c, admin)
	if err != nil {
		return nil, err
	}
	client, err := kube.FromConfig(scale.Faster(config))
	if err != nil {
		return nil, err
	}
	s := &scale.Scaler{Client: client, Cluster: c, Sink: sink}
	out := &scaled{Cluster: c.Metadata.Name, Notes: notes}
	if f.remove {
		if err := progress.Track(ctx, sink, "", "scale/remove", "remove simulated nodes and pods", s.Remove); err != nil {
			return nil, err
		}
		out.Removed = true
		return out, l.RemoveMachine(ctx, scale.Machine)
	}
	if err := simulate(ctx, c, l, s, config.CAData, sink); err != nil {
		return nil, err
	}
	if changed("nodes") {
		err := progress.Track(ctx, sink, "", "scale/nodes", fmt.Sprintf("have %d simulated nodes", f.nodes), func(ctx context.Context) error {
			r, err := s.Nodes(ctx, f.nodes)
			out.Nodes = &r
			return err
		})
		if err != nil {
			return out, err
		}
	}
	if changed("pods") {
		err := progress.Track(ctx, sink, "", "scale/pods", fmt.Sprintf("have %d pods on simulated nodes", f.pods), func(ctx context.Context) error {
			r, err := s.Pods(ctx, f.pods, f.rate)
			out.Pods = &r
			return err
		})
		if err != nil {
			return out, err
		}
	}
	if f.fail > 0 {
		err := progress.Track(ctx, sink, "", "scale/failures", "have simulated nodes fail", func(ctx context.Context) error {
			r, err := s.Fail(ctx, scale.FailOptions{Duration: f.fail, Every: f.every, For: f.lasts, Percent: f.percent, Seed: f.seed})
			out.Failures = &r
			return err
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// direct is an administrator's configuration that reaches the endpoint from this machine, on which the machines of the lab run.
func direct(c *spec.Cluster, admin []byte) (*rest.Config, error) {
	config, err := run.ForCaller(c, admin, true)
	if err != nil {
		return nil, err
	}
	return clientcmd.NewDefaultClientConfig(*config, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// fits refuses more nodes than the range of pods has room for: a host that joins later would get no part of it. It returns what else does not
// fit the size.
func fits(c *spec.Cluster, f scaleFlags) ([]string, error) {
	own := 0
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			own++
		}
	}
	all := own + f.nodes
	if room := c.Spec.Network.Nodes(); room < all {
		need := fmt.Sprintf("a /%d", size.PodCIDRBits(all))
		if c.Spec.Network.Uses(spec.IPv6) {
			need = "a larger range"
		}
		return nil, usageError{fmt.Errorf("spec.network.podCIDR %s has room for %d nodes, and there would be %d: build the lab with %s, or a shorter prefix, and with spec.size.nodes: %d", c.Spec.Network.PodCIDR, room, all, need, all)}
	}
	planned, pods := c.Planned()
	var notes []string
	if planned < all && size.SettingsOf(all, max(pods, f.pods)) != c.ForSize() {
		notes = append(notes, fmt.Sprintf("The spec plans the cluster for %d nodes, and it will have %d. With spec.size {nodes: %d}, `quorate apply` adapts its settings.", planned, all, all))
	}
	if have, want := c.Spec.LoadBalancer.MaxConnections, size.SettingsOf(all, max(pods, f.pods)).Connections; have > 0 && have < want {
		notes = append(notes, fmt.Sprintf("The spec has each load balancer accept %d connections, and so many nodes may need %d: spec.loadBalancer.maxConnections comes before the size.", have, want))
	}
	return notes, nil
}

// simulate has kwok run on a machine of its own.
func simulate(ctx context.Context, c *spec.Cluster, l *lab.Lab, s *scale.Scaler, ca []byte, sink progress.Sink) error {
	dir, err := os.MkdirTemp("", "quorate-kwok-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "kwok")
	if err := bundle.Extra(ctx, components.Simulator, strings.TrimPrefix(scale.Program, "/"), program, sink); err != nil {
		return err
	}
	if err := progress.Track(ctx, sink, "", "scale/agents", "keep DaemonSets off simulated nodes", s.Exclude); err != nil {
		return err
	}
	access, err := s.Account(ctx, ca)
	if err != nil {
		return err
	}
	return progress.Track(ctx, sink, scale.Machine, "scale/kwok", "start kwok", func(ctx context.Context) error {
		if _, err := l.Machine(scale.Machine); err != nil {
			if err := l.AddMachines(ctx, []lab.Machine{{Name: scale.Machine, Zone: scale.Zone, Roles: []string{"simulator"}, Extra: true}}, sink); err != nil {
				return err
			}
		} else if err := l.PowerOn(ctx, scale.Machine); err != nil {
			return err
		}
		return scale.Install(ctx, c, access, program, func(ctx context.Context, argv []string, in io.Reader, out io.Writer) error {
			return l.Exec(ctx, scale.Machine, argv, in, out, out)
		})
	})
}

func writeScaled(w io.Writer, r *scaled) error {
	ms := func(n int64) string { return ui.Duration(time.Duration(n) * time.Millisecond) }
	if r.Removed {
		fmt.Fprintf(w, "%s has no simulated nodes any more.\n", r.Cluster)
	}
	if n := r.Nodes; n != nil {
		fmt.Fprintf(w, "nodes     %d of %d simulated nodes are ready after %s (%d added, %d removed)\n", n.Ready, n.Wanted, ms(int64(n.Seconds*1000)), n.Added, n.Removed)
	}
	if p := r.Pods; p != nil {
		fmt.Fprintf(w, "pods      %d of %d are ready after %s; %.1f per second were scheduled\n", p.Ready, p.Wanted, ms(int64(p.Seconds*1000)), p.Scheduled)
		if p.Startup.Count > 0 {
			fmt.Fprintf(w, "          scheduled within %s (median), %s (99 of 100); ready within %s and %s\n", ms(p.Scheduling.P50), ms(p.Scheduling.P99), ms(p.Startup.P50), ms(p.Startup.P99))
		}
	}
	if x := r.Failures; x != nil {
		fmt.Fprintf(w, "failures  %d of nodes; noticed within %s, over within %s (the longest)\n", x.Failures, ms(x.Noticed.Max), ms(x.Back.Max))
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	return nil
}
