package signature

import (
	"bytes"
	"crypto"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Root holds what is trusted: authorities that issue certificates to identities, and the two kinds of logs.
type Root struct {
	authorities        []authority
	certificates, tlog map[string]log // by the log's ID
}

type authority struct {
	root          *x509.Certificate
	intermediates []*x509.Certificate
	valid         period
}

type log struct {
	key   crypto.PublicKey
	valid period
}

type period struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

func (p period) has(t time.Time) bool {
	return !t.Before(p.Start) && (p.End.IsZero() || !t.After(p.End))
}

// public is the trusted root of sigstore's public service, in which the projects' own signatures are made.
//
//go:embed public_root.json
var public []byte

// PublicRoot is the trusted root of sigstore's public service.
func PublicRoot() (*Root, error) { return ParseRoot(public) }

// ParseRoot reads a trusted_root.json, as `cosign trusted-root create` writes it and sigstore's own repository has it.
func ParseRoot(raw []byte) (*Root, error) {
	type logs []struct {
		PublicKey struct {
			RawBytes []byte `json:"rawBytes"`
			ValidFor period `json:"validFor"`
		} `json:"publicKey"`
		LogID struct {
			KeyID []byte `json:"keyId"`
		} `json:"logId"`
	}
	var file struct {
		Tlogs       logs `json:"tlogs"`
		CTlogs      logs `json:"ctlogs"`
		Authorities []struct {
			CertChain struct {
				Certificates []struct {
					RawBytes []byte `json:"rawBytes"`
				} `json:"certificates"`
			} `json:"certChain"`
			ValidFor period `json:"validFor"`
		} `json:"certificateAuthorities"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("it is not a trusted root: %w", err)
	}
	r := &Root{certificates: map[string]log{}, tlog: map[string]log{}}
	for _, a := range file.Authorities {
		chain := make([]*x509.Certificate, len(a.CertChain.Certificates))
		for i, c := range a.CertChain.Certificates {
			var err error
			if chain[i], err = x509.ParseCertificate(c.RawBytes); err != nil {
				return nil, fmt.Errorf("parse the certificate of an authority: %w", err)
			}
		}
		if len(chain) == 0 {
			return nil, errors.New("an authority has no certificate")
		}
		last := len(chain) - 1
		r.authorities = append(r.authorities, authority{chain[last], chain[:last], a.ValidFor})
	}
	for _, kind := range []struct {
		from logs
		into map[string]log
	}{{file.Tlogs, r.tlog}, {file.CTlogs, r.certificates}} {
		for _, l := range kind.from {
			key, err := x509.ParsePKIXPublicKey(l.PublicKey.RawBytes)
			if err != nil {
				return nil, fmt.Errorf("parse the key of a log: %w", err)
			}
			kind.into[string(l.LogID.KeyID)] = log{key, l.PublicKey.ValidFor}
		}
	}
	if len(r.authorities) == 0 || len(r.tlog) == 0 || len(r.certificates) == 0 {
		return nil, errors.New("it lacks certificate authorities, transparency logs, or certificate transparency logs")
	}
	return r, nil
}

// certified checks that the certificate was given to the signer by an authority of the root, was valid at the moment, and
// is known to a log of certificates.
func (s Signer) certified(leaf *x509.Certificate, at time.Time) error {
	issuer, err := s.Root.chain(leaf, at)
	if err != nil {
		return err
	}
	if err := s.Root.inLog(leaf, issuer); err != nil {
		return err
	}
	names := slices.Clone(leaf.EmailAddresses)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if !slices.Contains(names, s.Identity) {
		return fmt.Errorf("it was signed by %v, not by %s", names, s.Identity)
	}
	if got := issuerOf(leaf); got != s.Issuer {
		return fmt.Errorf("the issuer for %s is %s, not %s", s.Identity, got, s.Issuer)
	}
	return nil
}

// chain finds who gave the certificate out.
func (r *Root) chain(leaf *x509.Certificate, at time.Time) (issuer *x509.Certificate, err error) {
	own := errors.New("its certificate belongs to an authority, not to a signer")
	if leaf.IsCA {
		return nil, own
	}
	err = errors.New("no authority is known")
	for _, a := range r.authorities {
		if !a.valid.has(at) {
			continue
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(a.root)
		for _, c := range a.intermediates {
			between.AddCert(c)
		}
		var chains [][]*x509.Certificate
		chains, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
		if err == nil && len(chains[0]) < 2 {
			return nil, own // the root itself: nobody else has given it out
		}
		if err == nil {
			return chains[0][1], nil
		}
	}
	return nil, fmt.Errorf("its certificate is not from an authority of the trusted root, or was not valid on %s: %w", at.UTC().Format(time.DateTime), err)
}

// entry is what a log of signatures promises to have, as cosign keeps it beside a signature.
type entry struct {
	// SignedEntryTimestamp is the log's signature over the payload.
	SignedEntryTimestamp []byte
	Payload              struct {
		Body           string `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       int64  `json:"logIndex"`
	}
}

// logged checks that a log of signatures has this very signature, and says since when.
func (r *Root) logged(bundle string, content, sig []byte, leaf *x509.Certificate) (time.Time, error) {
	var none time.Time
	if bundle == "" {
		return none, errors.New("it has no transparency log entry, so there is no proof of when it was made")
	}
	var e entry
	if err := json.Unmarshal([]byte(bundle), &e); err != nil {
		return none, fmt.Errorf("parse the transparency log entry: %w", err)
	}
	at := time.Unix(e.Payload.IntegratedTime, 0)
	known := false
	for id, l := range r.tlog {
		if fmt.Sprintf("%x", id) != e.Payload.LogID || !l.valid.has(at) {
			continue
		}
		known = true
		// The log signs the JSON in its canonical form: these fields in this order, without blanks.
		text, err := json.Marshal(e.Payload)
		if err != nil {
			return none, err
		}
		if verify(l.key, text, e.SignedEntryTimestamp) != nil {
			return none, errors.New("the transparency log entry was changed: the log did not sign it")
		}
	}
	if !known {
		return none, fmt.Errorf("it is in the transparency log %s, which is not in the trusted root", e.Payload.LogID)
	}
	return at, e.describes(content, sig, leaf)
}

// describes checks that the entry is about this signature and no other.
func (e entry) describes(content, sig []byte, leaf *x509.Certificate) error {
	raw, err := base64.StdEncoding.DecodeString(e.Payload.Body)
	if err != nil {
		return fmt.Errorf("check the transparency log entry: %w", err)
	}
	var body struct {
		Kind string `json:"kind"`
		Spec struct {
			Data struct {
				Hash struct {
					Algorithm string `json:"algorithm"`
					Value     string `json:"value"`
				} `json:"hash"`
			} `json:"data"`
			Signature struct {
				Content   []byte `json:"content"`
				PublicKey struct {
					Content []byte `json:"content"`
				} `json:"publicKey"`
			} `json:"signature"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return fmt.Errorf("check the transparency log entry: %w", err)
	}
	s := body.Spec
	if body.Kind != "hashedrekord" || s.Data.Hash.Algorithm != "sha256" {
		return fmt.Errorf("the transparency log entry is a %s with %s, which is not supported", body.Kind, s.Data.Hash.Algorithm)
	}
	entered, err := certificate(s.Signature.PublicKey.Content)
	if err != nil || !entered.Equal(leaf) || s.Data.Hash.Value != hash(content) || !bytes.Equal(s.Signature.Content, sig) {
		return errors.New("the transparency log entry is about another signature")
	}
	return nil
}
