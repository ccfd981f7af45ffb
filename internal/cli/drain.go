package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/balancer"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// drained is what drain prints as JSON.
type drained struct {
	Host    string `json:"host"`
	Drained bool   `json:"drained"`
	// Closed is the number of connections that had to be closed.
	Closed int `json:"connectionsClosed"`
}

func (a *app) drain() *cobra.Command {
	var (
		wait time.Duration
		undo bool
	)
	cmd := &cobra.Command{
		Use:   "drain HOST",
		Short: "Take a control plane out of the load balancers' pools for maintenance",
		Long: `Stops the managed load balancers from sending new clients to the API server of a control plane, and waits for its
connections to end. Connections that are still open after --wait are closed; their clients reconnect to another control
plane. Pods are not affected: use kubectl drain for those. --undo puts the control plane back into the pools.

HAProxy keeps the drain in memory only: after a restart, it sends clients to every healthy API server.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			name := args[0]
			switch h, known := c.Host(name); {
			case !known || !h.Has(spec.RoleControlPlane):
				return usageError{fmt.Errorf("%s is not a control plane of %s", name, c.Metadata.Name)}
			case c.Spec.LoadBalancer.Type == spec.BalancerExternal:
				return usageError{fmt.Errorf("the load balancer of %s is not managed by Quorate: remove %s from its pool there", c.Metadata.Name, name)}
			}
			e := run.Open(cmd.Context(), c, progress.Discard)
			defer e.Close()
			d := drained{Host: name, Drained: !undo}
			if undo {
				err = balancer.Undrain(cmd.Context(), e.State(cmd.Context()), e.Conns, name)
			} else {
				d.Closed, err = balancer.Drain(cmd.Context(), e.State(cmd.Context()), e.Conns, name, wait)
			}
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(d, func(out io.Writer) error { return printDrained(out, d) })
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 5*time.Second, "how long to wait before closing open connections")
	cmd.Flags().BoolVar(&undo, "undo", false, "put the control plane back into the pools")
	return cmd
}

func printDrained(out io.Writer, d drained) error {
	if !d.Drained {
		_, err := fmt.Fprintf(out, "The load balancers send clients to %s again.\n", d.Host)
		return err
	}
	_, err := fmt.Fprintf(out, "%s is drained: no client is connected to it through the load balancers (%s had to be closed).\nAfter the maintenance, run: quorate drain --undo %[1]s\n", d.Host, ui.Plural(d.Closed, "connection"))
	return err
}
