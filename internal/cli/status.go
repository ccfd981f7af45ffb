package cli

import (
	"context"
	"errors"
	"fmt"
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
		watch, compare bool
		interval       time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, etcd, load balancers, certificates, and margins",
		Long: `Observes the cluster once, and shows its nodes, etcd, load balancers, certificates, margins, and everything that is wrong with it.

Whether the members of etcd have the same data is what the control planes last reported, if they repair the cluster
(spec.repair.watch). With --compare-etcd, the members are compared now: each reads and hashes all of its data.

With --watch, the view is updated until it is interrupted. On a terminal, the space bar pauses it, r updates it now, the arrow
keys, Page Up, Page Down, Home, and End scroll it, and q ends it. quorate dashboard shows the same, and more, in a browser.`,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case interval < time.Second:
				return usageError{errors.New("--interval must be 1s or more")}
			case watch && compare:
				return usageError{errors.New("--compare-etcd has every member of etcd read all of its data, and cannot be combined with --watch")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context(), func(c *spec.Cluster) error {
				if !compare || !c.ExistingEtcd() {
					return nil
				}
				return usageError{errors.New("--compare-etcd compares the members of an etcd that Quorate manages, and spec.etcd.endpoints names one of your own: `etcdctl endpoint hashkv --cluster` compares its members")}
			})
			if err != nil {
				return err
			}
			observer := run.Observer{Open: func(ctx context.Context) *run.Engine { return run.OpenToRead(ctx, c, progress.Discard) }}
			defer observer.Close()
			show := func(ctx context.Context, w io.Writer) error {
				e := observer.Engine(ctx)
				state := e.State(ctx)
				if compare && e.Compare(ctx, state) == nil {
					fmt.Fprintln(a.err, "The data of etcd's members was not compared: fewer than two of them could be asked.")
				}
				s := status.Of(state)
				return a.printTo(w, s, func(w io.Writer) error { return status.Text(w, s, ui.Width(w), ui.Color(w)) })
			}
			if !watch {
				return show(cmd.Context(), a.out)
			}
			return ui.Watch(cmd.Context(), a.in, a.out, interval, show)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "update the view until interrupted")
	cmd.Flags().BoolVar(&compare, "compare-etcd", false, "compare the data of etcd's members now, which slows them down for a moment")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often --watch updates the view")
	return cmd
}
