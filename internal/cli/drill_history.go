package cli

import (
	"io"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/run"
)

// drillHistory is the result of `drill history`.
type drillHistory struct {
	Cluster string         `json:"cluster"`
	Drills  []drill.Record `json:"drills"`
}

func (a *app) drillHistory() *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "Print how the last drills of the cluster ended",
		Long: `Prints what the cluster remembers of its last 20 drills, the newest first: when each ended and how long it took, the versions of Quorate and
Kubernetes, how many faults passed, missed an objective, or could not be judged, how many acknowledged writes were lost, and the longest outage of
clients of the endpoint. With -v, it also prints the faults by name, and the longest outage of each kind of client. Times are in UTC, by the clock of the machine
that ran the drill.

What a record does not say is shown as unknown. It changes nothing.`,
		Example: `  quorate drill history
  quorate drill history -v
  quorate drill history -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			sink, done := a.progress()
			e := run.OpenToRead(cmd.Context(), c, sink)
			defer e.Close()
			history, err := e.DrillHistory(cmd.Context())
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(drillHistory{c.Metadata.Name, history}, func(w io.Writer) error { return drill.WriteHistory(w, c.Metadata.Name, history, a.verbose) })
		},
	}
}
