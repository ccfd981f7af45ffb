// Package signature verifies cosign signatures of released files and of images: those made with a key, and keyless ones with
// a short-lived certificate that sigstore's authority issued to an identity. It works offline: the proof comes with the
// signature.
package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Signer is who must have signed: the holder of a key, or an identity.
type Signer struct {
	// Key is what cosign generate-key-pair calls the public key. With it, the rest is not used.
	Key crypto.PublicKey
	// Identity is the certificate's subject, an e-mail address or a URI; Issuer is the OIDC issuer that vouched for it.
	Identity, Issuer string
	// Root holds the trusted certificate authorities and logs.
	Root *Root
}

// String names the signer in messages.
func (s Signer) String() string {
	if s.Key != nil {
		return "the key of components.signatures.publicKeyFile"
	}
	return s.Identity
}

// ParseKey reads a public key in PEM.
func ParseKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it contains no key in PEM format")
	}
	if block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("it contains a %s, not a PUBLIC KEY", block.Type)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// File verifies a file's detached signature, the FILE.sig that lies beside it. A signer without a key also needs FILE.cert.
//
// The two files do not say when the signature was made. What is verified is that the certificate was given to the
// identity, that this is in a public log of certificates, and that its key signed the file.
func (s Signer) File(content, sig, cert []byte) error {
	raw, err := decode(sig)
	if err != nil {
		return fmt.Errorf("the signature is not valid base64: %w", err)
	}
	if s.Key != nil {
		return verify(s.Key, content, raw)
	}
	leaf, err := certificate(cert)
	if err != nil {
		return err
	}
	// The log of certificates says when it came to know of this one; that is as near to the signature as can be told.
	if err := s.certified(leaf, leaf.NotBefore); err != nil {
		return err
	}
	return verify(leaf.PublicKey, content, raw)
}

// Names of what cosign writes beside an image's signature.
const (
	// PayloadType is the media type of what is signed for an image.
	PayloadType = "application/vnd.dev.cosign.simplesigning.v1+json"

	// claimType is what the payload calls itself. Whoever signs for images may sign other JSON with the same key.
	claimType = "cosign container image signature"

	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationBundle      = "dev.sigstore.cosign/bundle"
)

// Tag is where a registry has the signatures of the image with the digest, sha256:….
func Tag(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }

// Image verifies one signature of an image: what was signed, and the annotations of that layer. digests are the image's;
// one of several platforms has one for all and one for each.
func (s Signer) Image(payload []byte, annotations map[string]string, digests ...string) error {
	raw, err := decode([]byte(annotations[annotationSignature]))
	if err != nil || len(raw) == 0 {
		return errors.New("it has no base64-encoded signature")
	}
	key := s.Key
	if key == nil {
		leaf, err := certificate([]byte(annotations[annotationCertificate]))
		if err != nil {
			return err
		}
		signed, err := s.Root.logged(annotations[annotationBundle], payload, raw, leaf)
		if err != nil {
			return err
		}
		if err := s.certified(leaf, signed); err != nil {
			return err
		}
		key = leaf.PublicKey
	}
	if err := verify(key, payload, raw); err != nil {
		return err
	}
	var claim struct {
		Critical struct {
			Type  string
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
		}
	}
	if err := json.Unmarshal(payload, &claim); err != nil {
		return fmt.Errorf("the signed payload is not a claim about an image: %w", err)
	}
	if claim.Critical.Type != claimType {
		return fmt.Errorf("the signed payload is not a claim about an image but has the type %q", claim.Critical.Type)
	}
	for _, d := range digests {
		if d == claim.Critical.Image.Digest {
			return nil
		}
	}
	return fmt.Errorf("the signature is for another image, %s", claim.Critical.Image.Digest)
}

// verify checks one signature over content with the algorithms that cosign has for each kind of key.
func verify(key crypto.PublicKey, content, sig []byte) error {
	sum := sha256.Sum256(content)
	good := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(k, sum[:], sig)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(k, content, sig)
	default:
		return fmt.Errorf("a key of type %T is not supported; use ECDSA, RSA, or Ed25519", key)
	}
	if !good {
		return errors.New("the signature does not match this content and this key: one of them was changed, or someone else signed it")
	}
	return nil
}

func decode(text []byte) ([]byte, error) {
	return base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
}

// certificate reads a certificate in PEM, which some files have in base64 once more.
func certificate(text []byte) (*x509.Certificate, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("the signature has no certificate: it was made with a key; set components.signatures.publicKeyFile to its public key")
	}
	block, _ := pem.Decode(text)
	if inner, err := decode(text); block == nil && err == nil {
		block, _ = pem.Decode(inner)
	}
	if block == nil {
		return nil, errors.New("the certificate is not in PEM format")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate: %w", err)
	}
	return c, nil
}

// hash is the SHA-256 of something, as it is written in hexadecimal.
func hash(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
