package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/bundle"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of quorate and the Kubernetes versions that it can build",
		RunE: func(*cobra.Command, []string) error {
			version, revision := "devel", "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				if info.Main.Version != "" && info.Main.Version != "(devel)" {
					version = info.Main.Version
				}
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						revision = s.Value
					}
				}
			}
			v := map[string]any{"version": version, "revision": revision, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "kubernetes": bundle.Versions()}
			return a.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "quorate %s (%s, %s/%s, revision %s)\nbuilds Kubernetes %v\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, revision, bundle.Versions())
				return err
			})
		},
	}
}
