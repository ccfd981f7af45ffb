package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) bundle() *cobra.Command {
	w := &whichBundle{version: spec.DefaultVersion, arch: architecture(runtime.GOARCH)}
	cmd := &cobra.Command{Use: "bundle", Short: "Manage bundles: all components and images of one Kubernetes version"}
	verify, export, push := a.bundleVerify(w.open), a.bundleExport(w.open), a.bundlePush(w.open)
	build, pull, sources := a.bundleBuild(w), a.bundlePull(w), a.bundleSources(w)
	for _, c := range []*cobra.Command{build, verify, export, pull, push, sources} {
		c.Flags().StringVar(&w.version, "kubernetes-version", w.version, "the Kubernetes version")
		c.Flags().Var(&w.arch, "arch", "the architecture of the hosts: "+strings.Join(components.Architectures, " or "))
	}
	build.Flags().BoolVar(&w.monitoring, "monitoring", false, "add what spec.monitoring.prometheus.install needs")
	for _, c := range []*cobra.Command{verify, export, push} {
		c.Flags().BoolVar(&w.monitoring, "monitoring", false, "the bundle with Prometheus, which quorate bundle build --monitoring made")
	}
	list, imports := a.bundleList(), a.bundleImport()
	for _, c := range []*cobra.Command{build, list, export, imports, push, sources} {
		a.withoutSpec(c)
	}
	cmd.AddCommand(build, reads(list), reads(verify), export, imports, pull, push, reads(sources), reads(a.bundleVersions()))
	return cmd
}

// withoutSpec refuses --file for a command that reads no spec: whoever names one expects that its version, or its source, counts.
func (a *app) withoutSpec(cmd *cobra.Command) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if a.file != "" {
			hint := ""
			if cmd.Flags().Lookup("kubernetes-version") != nil {
				hint = ", and name the version with --kubernetes-version"
			}
			return usageError{fmt.Errorf("%s reads no spec: leave out -f%s", cmd.CommandPath(), hint)}
		}
		if before == nil {
			return nil
		}
		return before(cmd, args)
	}
}

// whichBundle are the flags that say which bundle is meant.
type whichBundle struct {
	version    string
	arch       architecture
	monitoring bool
}

// open opens it. If it is not in the cache, the error says how to make it, or that the other one of its version is.
func (w *whichBundle) open() (*bundle.Bundle, error) {
	b, err := bundle.Find(w.version, string(w.arch), w.monitoring)
	if !errors.Is(err, bundle.ErrNotBuilt) {
		return b, err
	}
	what, command := "the bundle of Kubernetes "+w.version, "quorate bundle build"
	if !slices.Contains(bundle.Versions(), w.version) {
		if w.monitoring {
			return nil, usageError{fmt.Errorf("the bundle of Kubernetes %s with Prometheus is not here, and such a bundle can be compiled here only for %s: name one of these with --kubernetes-version, or import the bundle from a file (`quorate bundle import FILE`)",
				w.version, strings.Join(bundle.Versions(), " and "))}
		}
		if _, _, published := components.PublishedFor(w.version, string(w.arch)); !published {
			return nil, usageError{&bundle.UnknownVersionError{Version: w.version}}
		}
		command = "quorate bundle pull" // it cannot be compiled
	}
	if w.version != spec.DefaultVersion {
		command += " --kubernetes-version " + w.version
	}
	if w.arch != architecture(runtime.GOARCH) {
		what, command = what+" for "+string(w.arch), command+" --arch "+string(w.arch)
	}
	fix := "run `" + command + "`"
	if w.monitoring {
		what, fix = what+" with Prometheus", "run `"+command+" --monitoring`"
	} else if _, err := bundle.Find(w.version, string(w.arch), true); err == nil {
		fix += ", or add --monitoring: the bundle with Prometheus is here"
	}
	return nil, fmt.Errorf("open %s: %w; %s", what, bundle.ErrNotBuilt, fix)
}

// architecture is the value of a flag.
type architecture string

func (a *architecture) String() string { return string(*a) }
func (a *architecture) Type() string   { return "ARCH" }

// Set accepts only those of which bundles can be made.
func (a *architecture) Set(s string) error {
	if !slices.Contains(components.Architectures, s) {
		return fmt.Errorf("it must be %s", strings.Join(components.Architectures, " or "))
	}
	*a = architecture(s)
	return nil
}

func (a *app) bundleBuild(of *whichBundle) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Compile the bundle from pinned Go modules",
		Long: `Compiles every component from the Go module proxy and assembles the images. Components that are already built and intact are reused.

With --arch, it compiles a bundle for hosts of another architecture than this machine's. Its programs are not run here. The C
compiler for that architecture is installed on this machine, and apt must reach a mirror with that architecture.

With --monitoring, the bundle also contains Prometheus, Alertmanager, node exporter, and kube-state-metrics, for clusters with
spec.monitoring.prometheus.install. Both bundles of a version can be in the cache: verify, export, and push have the same flag.`,
		PreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains(bundle.Versions(), of.version) {
				return &bundle.UnknownVersionError{Version: of.version}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			sink, done := a.progress()
			b, err := func() (*bundle.Bundle, error) {
				if err := require.Packages(cmd.Context(), bundle.Requirements(string(of.arch)), sink); err != nil {
					return nil, err
				}
				return bundle.Build(cmd.Context(), bundle.BuildOptions{Version: of.version, Arch: string(of.arch), Monitoring: of.monitoring, Progress: sink, Force: force})
			}()
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(describe(b), func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s: %s, %s in %s\n", b.Version(), b.Arch(), b.Digest(), ui.Bytes(b.Size()), b.Dir())
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "rebuild every component")
	return cmd
}

// bundleInfo is a bundle as the machine-readable outputs show it.
type bundleInfo struct {
	Version    string             `json:"version"`
	Arch       string             `json:"arch"`
	Digest     string             `json:"digest"`
	SizeBytes  int64              `json:"sizeBytes"`
	Dir        string             `json:"dir"`
	Components []bundle.Component `json:"components"`
	Images     []string           `json:"images"`
}

func describe(b *bundle.Bundle) bundleInfo {
	info := bundleInfo{b.Version(), b.Arch(), b.Digest(), b.Size(), b.Dir(), b.Components(), nil}
	for _, i := range b.Images() {
		info.Images = append(info.Images, i.Name)
	}
	return info
}

func (a *app) bundleList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the bundles on this machine and their contents",
		RunE: func(*cobra.Command, []string) error {
			all, err := bundle.List()
			if err != nil {
				return err
			}
			infos := []bundleInfo{}
			for _, b := range all {
				infos = append(infos, describe(b))
			}
			return a.print(infos, func(w io.Writer) error {
				if len(infos) == 0 {
					_, err := fmt.Fprintln(w, "No bundles. To build one, run: quorate bundle build")
					return err
				}
				for _, b := range infos {
					fmt.Fprintf(w, "%s %s  %s  %s  %s\n", b.Version, b.Arch, ui.Bytes(b.SizeBytes), b.Digest, b.Dir)
					t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
					fmt.Fprintln(t, "  COMPONENT\tVERSION\tSIZE\tIMAGES")
					for _, c := range b.Components {
						fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", c.Name, c.Version, ui.Bytes(c.Size), strings.Join(c.Images, ", "))
					}
					if err := t.Flush(); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) bundleVerify(open func() (*bundle.Bundle, error)) *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Check every blob against its digest, on this machine or on every host of a spec (-f)",
		Long: `Reads every blob of the bundle and compares it with its digest.

With -f, it checks the nodes of that spec instead: containerd on every node must have every image of the bundle, under
its name and with the bundle's manifest, and every blob must match its digest. Problems are listed host by host, and the
exit status is 1. quorate apply imports damaged or missing images again.`,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"kubernetes-version", "arch", "monitoring"} {
				if a.file != "" && cmd.Flags().Changed(name) {
					return usageError{errors.New("with -f, the spec says which bundle its hosts have: leave out --" + name)}
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.file != "" {
				return a.verifyHosts(cmd.Context())
			}
			b, err := open()
			if err != nil {
				return err
			}
			damages, err := b.Verify(cmd.Context())
			if err != nil {
				return explain(cmd.Context(), err)
			}
			if len(damages) > 0 {
				return &bundle.DamageError{Damages: damages}
			}
			return a.print(describe(b), func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s is intact: %d blobs, %s.\n", b.Version(), b.Arch(), len(b.Blobs()), ui.Bytes(b.Size()))
				return err
			})
		},
	}
}

func (a *app) bundleExport(open func() (*bundle.Bundle, error)) *cobra.Command {
	return &cobra.Command{
		Use: "export FILE", Short: "Write a bundle to one file, for sites without internet access", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, err := open()
			if err != nil {
				return err
			}
			if err := a.canWrite(args[0]); err != nil {
				return err
			}
			// The file has its name only when it is complete: half of it would look like a bundle.
			f, err := durable.CreateNew(args[0], 0o644)
			if errors.Is(err, os.ErrExist) {
				return usageError{fmt.Errorf("%s already exists", args[0])}
			}
			if err != nil {
				return err
			}
			defer f.Abort()
			if err := b.Export(cmd.Context(), f); err != nil {
				return explain(cmd.Context(), err)
			}
			if err := f.Commit(); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "Wrote %s. On the other machine, run: quorate bundle import %s\n", args[0], args[0])
			return nil
		},
	}
}

func (a *app) bundleImport() *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "Import an exported bundle and check every digest", Args: cobra.ExactArgs(1),
		Long: `Imports a bundle that quorate bundle export wrote, and compares every blob with its digest. This proves that the file is
intact, not who made it. quorate apply installs the programs of the bundle as root on every host. To accept only a bundle
that you have examined, set components.digest in the spec.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFile(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			sink, done := a.progress()
			var b *bundle.Bundle
			err = progress.Track(cmd.Context(), sink, "", "import", "import "+args[0], func(ctx context.Context) error { b, err = bundle.Import(ctx, f); return err })
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(describe(b), func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Imported %s %s into %s.\n", b.Version(), b.Arch(), b.Dir())
				return err
			})
		},
	}
}
