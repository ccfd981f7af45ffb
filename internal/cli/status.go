package cli

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) status() *cobra.Command {
	var (
		watch    bool
		interval time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, etcd, load balancers, certificates, and margins",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			show := func(ctx context.Context, w io.Writer) error {
				s := look(ctx, c)
				return a.printTo(w, s, func(w io.Writer) error { return status.Text(w, s, ui.Width(w), ui.Color(w)) })
			}
			if !watch {
				return show(cmd.Context(), a.out)
			}
			return ui.Watch(cmd.Context(), a.out, interval, show)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "update the view until interrupted")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often --watch updates the view")
	return cmd
}

// look opens new sessions each time: a host may have come back, and a session may have ended with its host.
func look(ctx context.Context, c *spec.Cluster) status.Status {
	e := run.OpenToRead(ctx, c, progress.Discard)
	defer e.Close()
	return status.Of(e.State(ctx))
}
