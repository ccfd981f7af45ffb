package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// accessFlags adds the flags for reaching a registry or a mirror without a spec.
func accessFlags(f *pflag.FlagSet, c *spec.Components) {
	f.StringVar(&c.CAFile, "ca-file", "", "CA certificates to trust in addition to the system's")
	f.StringVar(&c.Username, "username", "", "the user name (default: the credentials in Docker's configuration file)")
	f.StringVar(&c.PasswordFile, "password-file", "", "a file that contains the user's password")
}

// signatureFlags adds the flags that correspond to components.signatures in a spec.
func signatureFlags(f *pflag.FlagSet, s *spec.Signatures) {
	f.StringVar(&s.Require, "signatures", "", "which signatures to require: published (those that the projects publish; the default without a mirror), all (one signer for everything), or none")
	f.StringVar(&s.PublicKeyFile, "public-key", "", "with --signatures all: the signer's public key")
	f.StringVar(&s.Identity, "identity", "", "with --signatures all: the signer's identity, for keyless signatures")
	f.StringVar(&s.Issuer, "issuer", "", "with --identity: the OIDC issuer that vouches for the identity")
	f.StringVar(&s.TrustedRootFile, "trusted-root", "", "a trusted_root.json to use instead of that of sigstore's public service")
}

func checkAccess(c spec.Components) error {
	if (c.Username == "") != (c.PasswordFile == "") {
		return usageError{errors.New("--username and --password-file must be set together")}
	}
	return nil
}

func (a *app) bundlePull(of *whichBundle) *cobra.Command {
	var c spec.Components
	cmd := &cobra.Command{
		Use:   "pull [REFERENCE]",
		Short: "Download a bundle from a registry, or assemble one from the projects' releases",
		Long: `Downloads a bundle into the cache. Everything is checked against its digest. An interrupted download is resumed.

With a REFERENCE (registry.example.com/repository@sha256:… or :tag), it downloads a bundle that quorate bundle push
uploaded. Without one, it assembles the bundle from the projects' published releases and images, or from a mirror of
them (--releases and --registry). With -f, the spec's components section determines the source.`,
		Args: cobra.MaximumNArgs(1),
		PreRunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"arch", "kubernetes-version"} {
				if len(args) == 1 && cmd.Flags().Changed(name) {
					return usageError{errors.New("a reference says which version and which architecture its bundle is for: leave out --" + name)}
				}
			}
			if err := checkAccess(c); err != nil {
				return err
			}
			signatures, digest := spec.CheckSignatures(c.Signatures, c.Releases != ""), spec.CheckDigest(c.Digest)
			switch {
			case a.file != "" && (len(args) > 0 || c != spec.Components{} || cmd.Flags().Changed("kubernetes-version")):
				return usageError{errors.New("with -f, the spec determines the bundle's source: leave out the reference and the other flags")}
			case a.file != "":
				return nil
			case digest != nil:
				return usageError{digest}
			case len(args) == 1 && (c.Releases != "" || c.Registry != "" || c.Signatures != spec.Signatures{}):
				return usageError{errors.New("--releases, --registry, and --signatures cannot be combined with a reference: leave out the reference, or leave out the flags")}
			case len(args) == 1:
				return nil
			case signatures != nil:
				return usageError{signatures}
			case (c.Releases == "") != (c.Registry == ""):
				return usageError{errors.New("--releases and --registry must be set together: a mirror needs both")}
			case c.Releases != "" && !strings.HasPrefix(c.Releases, "https://"):
				return usageError{errors.New("--releases must be an https address: over plain http, an attacker could change the files together with their checksums")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.pulled(cmd.Context(), of.version, string(of.arch), c, args)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(describe(b), func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s: %s, %s in %s\n", b.Version(), b.Arch(), b.Digest(), ui.Bytes(b.Size()), b.Dir())
				return err
			})
		},
	}
	accessFlags(cmd.Flags(), &c)
	cmd.Flags().StringVar(&c.Releases, "releases", "", "the https address of a mirror of the released files")
	cmd.Flags().StringVar(&c.Registry, "registry", "", "a registry that mirrors the images, with an optional path")
	signatureFlags(cmd.Flags(), &c.Signatures)
	cmd.Flags().StringVar(&c.Digest, "digest", "", "refuse a bundle with any other digest")
	return cmd
}

func (a *app) pulled(ctx context.Context, version, arch string, c spec.Components, args []string) (*bundle.Bundle, error) {
	sink, done := a.progress()
	defer done()
	switch {
	case a.file != "":
		cluster, err := a.load(a.file, true)
		if err != nil {
			return nil, err
		}
		return sources.BundleFor(ctx, cluster, arch, sink)
	case len(args) == 1:
		b, err := bundle.Pull(ctx, args[0], sources.Access(c), sink)
		if err == nil && c.Digest != "" && b.Digest() != c.Digest {
			err = &bundle.PinError{What: args[0], Want: c.Digest, Got: b.Digest()}
		}
		return b, err
	}
	o := sources.GetOptions(version, arch, c)
	o.Progress = sink
	return bundle.Get(ctx, o)
}

func (a *app) bundlePush(open func() (*bundle.Bundle, error)) *cobra.Command {
	var c spec.Components
	cmd := &cobra.Command{
		Use:   "push REFERENCE",
		Short: "Upload a bundle to a registry, to be pulled by digest",
		Long: `Uploads the bundle to a registry, for example to registry.example.com/quorate:v1.37.2, as one image index with the
bundle's digest. It prints the reference to set as components.reference in a spec.`,
		Args:    cobra.ExactArgs(1),
		PreRunE: func(*cobra.Command, []string) error { return checkAccess(c) },
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := open()
			if err != nil {
				return err
			}
			sink, done := a.progress()
			ref, err := b.Push(cmd.Context(), args[0], sources.Access(c), sink)
			done()
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(map[string]any{"reference": ref, "digest": b.Digest()}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, ref)
				return err
			})
		},
	}
	accessFlags(cmd.Flags(), &c)
	return cmd
}

// sourceInfo is one file or image that a mirror must hold.
type sourceInfo struct {
	Kind string `json:"kind"` // file, checksum, signature or image
	From string `json:"from"`
	At   string `json:"at"` // below the mirror's base address, or its registry
}

func (a *app) bundleSources(of *whichBundle) *cobra.Command {
	return &cobra.Command{
		Use: "sources", Short: "List everything that the source official downloads, and its location on a mirror",
		RunE: func(*cobra.Command, []string) error {
			_, p, ok := components.PublishedFor(of.version, string(of.arch))
			if !ok {
				return usageError{&bundle.UnknownVersionError{Version: of.version}}
			}
			m := bundle.Mirror{Releases: "RELEASES", Registry: "REGISTRY"}
			infos := []sourceInfo{}
			for _, f := range p.Files {
				if f.Kubeadm != "" && string(of.arch) != runtime.GOARCH { // the one for this machine is asked which images there are
					p.Files = append(p.Files, f.For(runtime.GOARCH))
				}
			}
			for _, f := range p.Files {
				infos = append(infos, sourceInfo{"file", f.URL, m.File(f.URL)}, sourceInfo{"checksum", f.Checksum, m.File(f.Checksum)})
				if _, signed := components.SignerOf(f.URL); signed {
					for _, suffix := range []string{".sig", ".cert"} {
						infos = append(infos, sourceInfo{"signature", f.URL + suffix, m.File(f.URL + suffix)})
					}
				}
			}
			for _, i := range p.Images {
				infos = append(infos, sourceInfo{"image", i.From, m.Image(i.From)})
			}
			return a.print(infos, func(w io.Writer) error {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "KIND\tSOURCE\tLOCATION ON A MIRROR")
				for _, i := range infos {
					fmt.Fprintf(t, "%s\t%s\t%s\n", i.Kind, i.From, i.At)
				}
				if err := t.Flush(); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "\nA mirror also needs the images that `kubeadm config images list --kubernetes-version %s` prints, at REGISTRY without registry.k8s.io/.\nTo verify signatures, it needs those of the images, too: their tags sha256-….sig in the same repositories.\n", of.version)
				return err
			})
		},
	}
}

func (a *app) bundleVersions() *cobra.Command {
	var c spec.Components
	cmd := &cobra.Command{
		Use:   "versions",
		Short: "List the Kubernetes versions of which bundles can be made here",
		Long: `Lists the versions that this quorate can compile (the source modules), those in the cache, and the patch releases of the
supported minors that the source official has, or a mirror (--releases, or -f with a spec that has one). It downloads no
release. If the source does not answer within a few seconds, the reason is printed, and the rest is listed all the same.`,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case a.file != "" && c != spec.Components{}:
				return usageError{errors.New("with -f, the spec determines the source: leave out the other flags")}
			case c.Releases != "" && !strings.HasPrefix(c.Releases, "https://"):
				return usageError{errors.New("--releases must be an https address")}
			}
			return checkAccess(c)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.file != "" {
				loaded, err := a.load(a.file, true)
				if err != nil {
					return err
				}
				if c = loaded.Spec.Components; c.Source != spec.SourceMirror {
					c = spec.Components{} // it has no addresses of its own
				}
			}
			all, problems, err := bundle.ListAvailable(cmd.Context(), sources.Mirror(c), sources.Patience)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			a.notes(problems)
			return a.print(map[string]any{"versions": all, "problems": append([]string{}, problems...)}, func(w io.Writer) error {
				yes := map[bool]string{true: "yes", false: "-"}
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "VERSION\tCOMPILED HERE (modules)\tPUBLISHED (official, mirror)\tIN THE CACHE")
				for _, v := range all {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", v.Version, yes[v.Modules], yes[v.Published], cmp.Or(here(v), "-"))
				}
				return t.Flush()
			})
		},
	}
	accessFlags(cmd.Flags(), &c)
	cmd.Flags().StringVar(&c.Releases, "releases", "", "the https address of a mirror of the released files")
	return cmd
}

// here names the bundles of a version that are in the cache; those for other architectures than this machine's say so.
func here(v bundle.Available) string {
	var out []string
	if v.Here != "" {
		out = append(out, v.Here)
	}
	for _, arch := range slices.Sorted(maps.Keys(v.Others)) {
		out = append(out, arch+": "+v.Others[arch])
	}
	for _, arch := range slices.Sorted(maps.Keys(v.Monitoring)) {
		out = append(out, arch+" with Prometheus: "+v.Monitoring[arch])
	}
	return strings.Join(out, ", ")
}

// verifyHosts checks the images on every node of the spec.
func (a *app) verifyHosts(ctx context.Context) error {
	c, err := a.cluster(ctx)
	if err != nil {
		return err
	}
	var bundles bundle.Set
	for _, arch := range components.Architectures {
		b, err := sources.Cached(c, arch)
		switch {
		case err == nil:
			bundles = append(bundles, b)
		case arch == runtime.GOARCH && !errors.Is(err, bundle.ErrNotBuilt): // a damaged one for others only matters if a host needs it
			return err
		}
	}
	b := bundles.For(runtime.GOARCH)
	if b == nil {
		if b = bundles.Main(); b == nil {
			_, err := sources.Cached(c, runtime.GOARCH)
			return err
		}
	}
	sink, done := a.progress()
	e := run.Open(ctx, c, sink)
	defer e.Close()
	hosts := e.VerifyImages(ctx, bundles)
	done()
	bad := 0
	for _, h := range hosts {
		if !h.OK() {
			bad++
		}
	}
	err = a.print(map[string]any{"digest": b.Digest(), "images": len(b.Images()), "hosts": hosts, "ok": bad == 0}, func(w io.Writer) error {
		for _, h := range hosts {
			switch {
			case h.Error != "":
				fmt.Fprintf(w, "%s could not be checked: %s\n", h.Host, h.Error)
			case h.OK():
				fmt.Fprintf(w, "%s has all %d images, and they are intact.\n", h.Host, len(b.Images()))
			}
			for _, p := range h.Problems {
				fmt.Fprintf(w, "%s: %s\n", h.Host, p)
			}
		}
		return nil
	})
	if err != nil || bad == 0 {
		return err
	}
	return fmt.Errorf("on %d of %d hosts, images of the bundle %s are missing or damaged: run `quorate apply` to import them again", bad, len(hosts), b.Digest())
}
