package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/registry"
	"quorate.dev/quorate/internal/signature"
)

// Signatures says which signatures are verified when a bundle is assembled. The zero value requires none.
type Signatures struct {
	// Published requires the signatures that the projects publish; All requires that one signer has signed everything.
	Published, All bool
	// PublicKeyFile or Identity and Issuer are that signer.
	PublicKeyFile, Identity, Issuer string
	// TrustedRootFile replaces the trusted root of sigstore's public service.
	TrustedRootFile string
}

// SignatureError says that a file or an image lacks a required signature.
type SignatureError struct {
	What, At string
	Why      error
}

func (e *SignatureError) Error() string {
	return fmt.Sprintf("refused (signature): %s from %s: %v; do not use it; find out who changed it or did not sign it, or require other signatures in components.signatures", e.What, e.At, e.Why)
}

// Unwrap returns the reason.
func (e *SignatureError) Unwrap() error { return e.Why }

// signers knows who must have signed what.
type signers struct {
	all       *signature.Signer
	published bool
	root      *signature.Root
	// policy is the sum of all that decides.
	policy string
}

func (s Signatures) signers() (*signers, error) {
	out := &signers{published: s.Published}
	parts := []any{s.Published, s.All, s.Identity, s.Issuer}
	switch {
	case s.PublicKeyFile != "":
		text, err := paths.Read(s.PublicKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the public key for signatures: %w", err)
		}
		key, err := signature.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("read the public key for signatures from %s: %w", s.PublicKeyFile, err)
		}
		out.all, parts = &signature.Signer{Key: key}, append(parts, text)
	case s.Published || s.All:
		var err error
		if out.root, err = signature.PublicRoot(); s.TrustedRootFile != "" {
			var text []byte
			if text, err = paths.Read(s.TrustedRootFile); err == nil {
				out.root, err = signature.ParseRoot(text)
			}
			parts = append(parts, text)
		}
		if err != nil {
			return nil, fmt.Errorf("read the trusted root for signatures: %w", err)
		}
		if s.All {
			out.all = &signature.Signer{Identity: s.Identity, Issuer: s.Issuer, Root: out.root}
		}
	}
	out.policy = hashOf(parts)
	return out, nil
}

// of is who must have signed what is published at an address.
func (s *signers) of(address string) (signature.Signer, bool) {
	if s.all != nil {
		return *s.all, true
	}
	known, ok := components.SignerOf(address)
	return signature.Signer{Identity: known.Identity, Issuer: known.Issuer, Root: s.root}, ok && s.published
}

func (s *signers) none() bool { return s.all == nil && !s.published }

// note remembers that a bundle was put together from what is signed: the bundle itself is the same without.
func (s *signers) note(b *Bundle) error {
	if s.none() {
		return nil
	}
	return durable.WriteFile(s.noted(b), nil, 0o644)
}

func (s *signers) noted(b *Bundle) string {
	return paths.Cache("signatures", strings.TrimPrefix(b.Digest(), "sha256:")+"-"+s.policy)
}

func (s *signers) seen(b *Bundle) bool {
	_, err := os.Stat(s.noted(b))
	return s.none() || err == nil
}

const maxSignature = 1 << 20

var errUnsigned = errors.New("the signature is missing")

// signedFile verifies the signature that is published beside a released file.
func (g *gathering) signedFile(ctx context.Context, f components.PublishedFile, file string) error {
	signer, asked := g.signers.of(f.URL)
	if !asked {
		return nil
	}
	at := g.mirror.File(f.URL)
	beside := func(suffix string) ([]byte, error) {
		text, err := g.files.Text(ctx, "the signature of "+f.Name(), at+suffix, maxSignature)
		if fetch.Missing(err) {
			err = &SignatureError{f.Name() + " " + f.Version, at, fmt.Errorf("%w: there is no %s%s", errUnsigned, f.Name(), suffix)}
		}
		return []byte(text), err
	}
	sig, err := beside(".sig")
	if err != nil {
		return err
	}
	var cert []byte
	if signer.Key == nil {
		if cert, err = beside(".cert"); err != nil {
			return err
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := signer.File(content, sig, cert); err != nil {
		return &SignatureError{f.Name() + " " + f.Version, at, err}
	}
	return nil
}

// signedImage verifies that one of an image's signatures is the signer's.
func (g *gathering) signedImage(ctx context.Context, published string, ref name.Reference, m registry.Manifest) error {
	signer, asked := g.signers.of(published)
	if !asked {
		return nil
	}
	digests := []string{m.Digest.String()}
	if m.Index != "" {
		digests = []string{m.Index.String(), m.Digest.String()}
	}
	fail := func(why error) error { return &SignatureError{"image " + published, ref.String(), why} }
	// Whoever signs an image of several platforms may have signed it as a whole or each for itself.
	reasons := []error{}
	for _, d := range digests {
		tag := ref.Context().Tag(signature.Tag(d))
		list, err := g.images.Manifest(ctx, tag)
		if fetch.Missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		var layers v1.Manifest
		if err := json.Unmarshal(list.Raw, &layers); err != nil {
			return fail(fmt.Errorf("read its signatures: %w", err))
		}
		for _, l := range layers.Layers {
			if l.MediaType != signature.PayloadType || l.Size > maxSignature {
				continue
			}
			payload, err := g.payload(ctx, tag.Context(), l.Digest)
			if err != nil {
				return err
			}
			if err = signer.Image(payload, l.Annotations, digests...); err == nil {
				return nil
			}
			reasons = append(reasons, err)
		}
	}
	if len(reasons) == 0 {
		return fail(fmt.Errorf("%w: there is no %s", errUnsigned, signature.Tag(digests[0])))
	}
	return fail(errors.Join(reasons...))
}

func (g *gathering) payload(ctx context.Context, repo name.Repository, d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	// Its size is the registry's word until it is here, so no more is read than a signature can have.
	return g.images.Small(ctx, repo, "a signature in "+repo.String(), d, maxSignature)
}
