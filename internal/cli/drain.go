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
	// Closed counts the connections that did not end by themselves.
	Closed int `json:"connectionsClosed"`
}

func (a *app) drain() *cobra.Command {
	var (
		wait time.Duration
		undo bool
	)
	cmd := &cobra.Command{
		Use:   "drain HOST",
		Short: "Take a control plane out of the balancers' pools for its maintenance",
		Long: `Lets the managed balancers send no new clients to the API server of a control plane, and waits until those that
it has are gone; what is left after --wait is closed, and its clients go on with another control plane at once. Pods stay
where they are: that is for kubectl drain. With --undo it takes part again.

The balancers keep it in memory: a HAProxy that is started anew sends clients to every healthy API server.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			name := args[0]
			switch h, known := c.Host(name); {
			case !known || !h.Has(spec.RoleControlPlane):
				return usageError{fmt.Errorf("%s is no control plane of %s", name, c.Metadata.Name)}
			case c.Spec.LoadBalancer.Type == spec.BalancerExternal:
				return usageError{fmt.Errorf("the balancer of %s is your own: take %s out of its pool there", c.Metadata.Name, name)}
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
	cmd.Flags().DurationVar(&wait, "wait", 5*time.Second, "how long connections may take to end by themselves")
	cmd.Flags().BoolVar(&undo, "undo", false, "let it take part again")
	return cmd
}

func printDrained(out io.Writer, d drained) error {
	if !d.Drained {
		_, err := fmt.Fprintf(out, "The balancers send clients to %s again.\n", d.Host)
		return err
	}
	_, err := fmt.Fprintf(out, "No client is connected to %s through the balancers any more (%s had to be closed).\nWhen its maintenance is over: quorate drain --undo %[1]s\n", d.Host, ui.Plural(d.Closed, "connection"))
	return err
}
