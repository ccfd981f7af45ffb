package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// accessFlags let a command reach a registry or a mirror without a spec.
func accessFlags(f *pflag.FlagSet, c *spec.Components) {
	f.StringVar(&c.CAFile, "ca-file", "", "certificates of authorities to trust beside this machine's own")
	f.StringVar(&c.Username, "username", "", "who logs in (without it, as Docker's configuration file says)")
	f.StringVar(&c.PasswordFile, "password-file", "", "a file with the user's password")
}

// signatureFlags say what components.signatures says in a spec.
func signatureFlags(f *pflag.FlagSet, s *spec.Signatures) {
	f.StringVar(&s.Require, "signatures", "", "published (by the projects; the default without a mirror), all (everything, by one signer) or none")
	f.StringVar(&s.PublicKeyFile, "public-key", "", "with --signatures all: the signer's public key")
	f.StringVar(&s.Identity, "identity", "", "with --signatures all: the signer's identity, where it has no key")
	f.StringVar(&s.Issuer, "issuer", "", "who made sure of the identity")
	f.StringVar(&s.TrustedRootFile, "trusted-root", "", "a trusted_root.json instead of that of sigstore's public service")
}

func checkAccess(c spec.Components) error {
	if (c.Username == "") != (c.PasswordFile == "") {
		return usageError{errors.New("--username and --password-file belong together")}
	}
	return nil
}

func (a *app) bundlePull(version *string) *cobra.Command {
	var c spec.Components
	cmd := &cobra.Command{
		Use:   "pull [REFERENCE]",
		Short: "Download a bundle: one that was pushed to a registry, or what the projects publish",
		Long: `Downloads a bundle into the cache. Everything is checked by its digest, and what was downloaded before an interruption
is gone on from.

With a REFERENCE (registry.example.com/repository@sha256:… or :tag) it is the bundle that quorate bundle push put there.
Without one it is put together from the projects' published releases and images, or from a mirror of them (--releases
and --registry). With -f it is whatever the spec's components say.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.pulled(cmd.Context(), *version, c, args)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.print(describe(b), func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s: %s, %s in %s\n", b.Version(), b.Arch(), b.Digest(), size(b.Size()), b.Dir())
				return err
			})
		},
	}
	accessFlags(cmd.Flags(), &c)
	cmd.Flags().StringVar(&c.Releases, "releases", "", "https address of a mirror of released files")
	cmd.Flags().StringVar(&c.Registry, "registry", "", "registry, with or without a path, that mirrors the images")
	signatureFlags(cmd.Flags(), &c.Signatures)
	cmd.Flags().StringVar(&c.Digest, "digest", "", "refuse any other bundle than this")
	return cmd
}

func (a *app) pulled(ctx context.Context, version string, c spec.Components, args []string) (*bundle.Bundle, error) {
	if err := checkAccess(c); err != nil {
		return nil, err
	}
	signatures := spec.CheckSignatures(c.Signatures, c.Releases != "")
	sink, done := a.progress()
	defer done()
	switch {
	case a.file != "" && (len(args) > 0 || c != spec.Components{}):
		return nil, usageError{errors.New("with -f the spec says where the bundle is from: leave the reference and the other flags out")}
	case a.file != "":
		cluster, err := a.load(a.file, true)
		if err != nil {
			return nil, err
		}
		return sources.Bundle(ctx, cluster, sink)
	case len(args) == 1 && (c.Releases != "" || c.Registry != "" || c.Signatures != spec.Signatures{}):
		return nil, usageError{errors.New("--releases, --registry and --signatures are for what the projects publish: leave the reference out, or them")}
	case len(args) == 1:
		b, err := bundle.Pull(ctx, args[0], sources.Access(c), sink)
		if err == nil && c.Digest != "" && b.Digest() != c.Digest {
			err = &bundle.PinError{What: args[0], Want: c.Digest, Got: b.Digest()}
		}
		return b, err
	case signatures != nil:
		return nil, usageError{signatures}
	case (c.Releases == "") != (c.Registry == ""):
		return nil, usageError{errors.New("a mirror has --releases and --registry, both")}
	case c.Releases != "" && !strings.HasPrefix(c.Releases, "https://"):
		return nil, usageError{errors.New("--releases must be an https address: in the clear anybody on the way could change the files together with their checksums")}
	}
	o := sources.GetOptions(version, c)
	o.Progress = sink
	return bundle.Get(ctx, o)
}

func (a *app) bundlePush(open func() (*bundle.Bundle, error)) *cobra.Command {
	var c spec.Components
	cmd := &cobra.Command{
		Use:   "push REFERENCE",
		Short: "Upload a bundle to a registry, for others to pull by its digest",
		Long: `Uploads the whole bundle to a registry, such as registry.example.com/quorate:v1.37.2, as one index whose digest is the
bundle's. The reference that it prints is what a spec's components.reference takes.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAccess(c); err != nil {
				return err
			}
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

// sourceInfo is one thing that a mirror must hold.
type sourceInfo struct {
	Kind string `json:"kind"` // file, checksum, signature or image
	From string `json:"from"`
	At   string `json:"at"` // below the mirror's base address, or its registry
}

func (a *app) bundleSources(version *string) *cobra.Command {
	return &cobra.Command{
		Use: "sources", Short: "Everything that the source official downloads, and where a mirror must have it",
		RunE: func(*cobra.Command, []string) error {
			r, ok := components.Lookup(*version)
			if !ok {
				return usageError{&bundle.UnknownVersionError{Version: *version}}
			}
			p, ok := r.Published()
			if !ok {
				return usageError{fmt.Errorf("no published releases are known for Kubernetes %s", *version)}
			}
			m := bundle.Mirror{Releases: "RELEASES", Registry: "REGISTRY"}
			infos := []sourceInfo{}
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
				fmt.Fprintln(t, "WHAT\tFROM\tAT A MIRROR")
				for _, i := range infos {
					fmt.Fprintf(t, "%s\t%s\t%s\n", i.Kind, i.From, i.At)
				}
				if err := t.Flush(); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "\nand the images that `kubeadm config images list --kubernetes-version %s` prints, at REGISTRY without registry.k8s.io/. A mirror that is verified needs the\nsignatures, too: those of images are at the tags sha256-….sig beside them.\n", *version)
				return err
			})
		},
	}
}

// verifyHosts looks at the images on every node of the spec.
func (a *app) verifyHosts(ctx context.Context) error {
	c, err := a.cluster(ctx)
	if err != nil {
		return err
	}
	b, err := bundle.Open(bundle.DefaultDir(c.Spec.Kubernetes.Version))
	if err != nil {
		return err
	}
	sink, done := a.progress()
	e := run.Open(ctx, c, sink)
	defer e.Close()
	hosts := e.VerifyImages(ctx, b)
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
				fmt.Fprintf(w, "%s could not be asked: %s\n", h.Host, h.Error)
			case h.OK():
				fmt.Fprintf(w, "%s has all %d images, intact.\n", h.Host, len(b.Images()))
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
	return fmt.Errorf("%d of %d hosts do not have every image of the bundle %s intact: `quorate apply` imports them again", bad, len(hosts), b.Digest())
}
