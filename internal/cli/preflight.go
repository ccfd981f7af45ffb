package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) preflight() *cobra.Command {
	var ignore []string
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Check the hosts before anything is changed on them",
		Long: `Checks all hosts in parallel and reports what prevents them from becoming the cluster of the spec, each with its reason
and its fix. It changes nothing. To test that hosts reach each other, it briefly listens on unused ports.

apply and up run the same checks before they build a new cluster, and refuse to start while there are errors. The exit
status is 3 if there are errors, and 0 otherwise.`,
		PreRunE: func(*cobra.Command, []string) error { return knownChecks(ignore) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			r, err := a.checkHosts(cmd, c, ignore)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			if err := a.print(r, func(w io.Writer) error { return r.Text(w, ui.Width(w), ui.Color(w)) }); err != nil {
				return err
			}
			if r.Errors > 0 {
				return &statusError{exitRefused}
			}
			return nil
		},
	}
	ignoreFlag(cmd, &ignore)
	return cmd
}

func (a *app) checkHosts(cmd *cobra.Command, c *spec.Cluster, ignore []string) (r *preflight.Report, err error) {
	sink, done := a.progress()
	defer done()
	err = progress.Track(cmd.Context(), sink, "", "preflight", "check "+ui.Plural(len(c.Spec.Hosts), "host"), func(ctx context.Context) error {
		e := run.OpenToRead(ctx, c, sink)
		defer e.Close()
		r, err = e.Preflight(ctx, e.State(ctx), ignore)
		return err
	})
	return r, err
}

// ignoreFlag adds --ignore, which lets a command continue despite findings. There is deliberately no value for all checks.
func ignoreFlag(cmd *cobra.Command, ignore *[]string) {
	cmd.Flags().StringSliceVar(ignore, "ignore", nil, "preflight checks to ignore: "+strings.Join(preflight.IDs(), ", "))
}

func knownChecks(ignore []string) error {
	for _, id := range ignore {
		if preflight.Known(id) {
			continue
		}
		hint := ""
		if near := spec.Nearest(id, preflight.IDs()); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		return usageError{fmt.Errorf("--ignore: unknown check %q%s", id, hint)}
	}
	return nil
}
