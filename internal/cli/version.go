package cli

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/version"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of quorate and the Kubernetes versions that it can build",
		RunE: func(*cobra.Command, []string) error {
			number, revision := version.Read()
			v := map[string]any{"version": number, "revision": revision, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "kubernetes": bundle.Versions()}
			return a.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "quorate %s (%s, %s/%s, revision %s)\nbuilds Kubernetes %v\n", number, runtime.Version(), runtime.GOOS, runtime.GOARCH, revision, bundle.Versions())
				return err
			})
		},
	}
}
