package signature

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"time"

	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	// issuerOID is who made sure of the identity; the older one holds the text itself instead of a UTF8String.
	issuerOID    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oldIssuerOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	// timestampsOID are the promises of logs to have the certificate (RFC 6962).
	timestampsOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

func extension(c *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

func issuerOf(c *x509.Certificate) string {
	var text string
	if rest, err := asn1.UnmarshalWithParams(extension(c, issuerOID), &text, "utf8"); err == nil && len(rest) == 0 {
		return text
	}
	return string(extension(c, oldIssuerOID))
}

// inLog checks that a log of certificates has promised to have the certificate.
func (r *Root) inLog(leaf, issuer *x509.Certificate) error {
	var list []byte
	if rest, err := asn1.Unmarshal(extension(leaf, timestampsOID), &list); err != nil || len(rest) > 0 {
		return errors.New("its certificate has no signed certificate timestamps")
	}
	input := cryptobyte.String(list)
	var all cryptobyte.String
	if !input.ReadUint16LengthPrefixed(&all) || !input.Empty() {
		return errors.New("the signed certificate timestamps of its certificate cannot be parsed")
	}
	tbs, err := withoutTimestamps(leaf.RawTBSCertificate)
	if err != nil {
		return err
	}
	for !all.Empty() {
		var one cryptobyte.String
		if !all.ReadUint16LengthPrefixed(&one) {
			return errors.New("the signed certificate timestamps of its certificate cannot be parsed")
		}
		if r.promised(one, tbs, issuer) {
			return nil
		}
	}
	return errors.New("its certificate is in no certificate transparency log of the trusted root")
}

// promised verifies one promise: the log's signature over the certificate as it was before the promise was put into it.
func (r *Root) promised(promise cryptobyte.String, tbs []byte, issuer *x509.Certificate) bool {
	const version1, overCertificate, precertificate = 0, 0, 1
	const sha256Algorithm = 4
	var (
		version, hashed, signed uint8
		id                      []byte
		moment                  uint64
		extensions, sig         cryptobyte.String
	)
	if !promise.ReadUint8(&version) || version != version1 || !promise.ReadBytes(&id, sha256.Size) || !promise.ReadUint64(&moment) ||
		!promise.ReadUint16LengthPrefixed(&extensions) || !promise.ReadUint8(&hashed) || hashed != sha256Algorithm || !promise.ReadUint8(&signed) ||
		!promise.ReadUint16LengthPrefixed(&sig) || !promise.Empty() {
		return false
	}
	l, ok := r.certificates[string(id)]
	if !ok || moment > 1<<53 || !l.valid.has(time.UnixMilli(int64(moment))) {
		return false
	}
	by := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	var b cryptobyte.Builder
	b.AddUint8(version1)
	b.AddUint8(overCertificate)
	b.AddUint64(moment)
	b.AddUint16(precertificate)
	b.AddBytes(by[:])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(extensions) })
	text, err := b.Bytes()
	return err == nil && verify(l.key, text, sig) == nil
}

// withoutTimestamps takes the promises out of a certificate's signed part.
func withoutTimestamps(tbs []byte) ([]byte, error) {
	extensions := tags.Tag(3).Constructed().ContextSpecific()
	unreadable := errors.New("its certificate cannot be parsed")
	input := cryptobyte.String(tbs)
	var parts cryptobyte.String
	if !input.ReadASN1(&parts, tags.SEQUENCE) {
		return nil, unreadable
	}
	var kept [][]byte
	var before []byte
	for !parts.Empty() {
		var part cryptobyte.String
		var tag tags.Tag
		if !parts.ReadAnyASN1Element(&part, &tag) {
			return nil, unreadable
		}
		if tag != extensions {
			before = append(before, part...)
			continue
		}
		var inner, list cryptobyte.String
		if !part.ReadASN1(&inner, extensions) || !inner.ReadASN1(&list, tags.SEQUENCE) {
			return nil, unreadable
		}
		for !list.Empty() {
			var one, fields cryptobyte.String
			var id asn1.ObjectIdentifier
			if !list.ReadASN1Element(&one, tags.SEQUENCE) {
				return nil, unreadable
			}
			copied := one
			if !copied.ReadASN1(&fields, tags.SEQUENCE) || !fields.ReadASN1ObjectIdentifier(&id) {
				return nil, unreadable
			}
			if !id.Equal(timestampsOID) {
				kept = append(kept, one)
			}
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(tags.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(before)
		b.AddASN1(extensions, func(b *cryptobyte.Builder) {
			b.AddASN1(tags.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, e := range kept {
					b.AddBytes(e)
				}
			})
		})
	})
	return b.Bytes()
}
