// Package hostkey reads the host keys that a spec names.
package hostkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Pin is the key that a host must have: the key itself, or its fingerprint.
type Pin struct {
	key         ssh.PublicKey
	fingerprint string
}

// Parse reads a fingerprint as `ssh-keygen -l` prints it (SHA256:…) or a public key as in a .pub file.
func Parse(s string) (Pin, error) {
	s = strings.TrimSpace(s)
	if sum, ok := strings.CutPrefix(s, "SHA256:"); ok {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(sum, "="))
		if err != nil || len(raw) != sha256.Size {
			return Pin{}, errors.New("this is not the SHA-256 fingerprint of a key")
		}
		return Pin{fingerprint: "SHA256:" + base64.RawStdEncoding.EncodeToString(raw)}, nil
	}
	if strings.ContainsAny(s, "\r\n") {
		return Pin{}, errors.New("this is more than one line")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return Pin{}, errors.New("this is neither a fingerprint nor a public key")
	}
	if len(options) > 0 {
		return Pin{}, errors.New("there is something in front of the public key")
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return Pin{}, errors.New("this is a certificate, not a public key")
	}
	return Pin{key: key}, nil
}

// Matches reports whether key is the key that the host must have.
func (p Pin) Matches(key ssh.PublicKey) bool {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	if p.key != nil {
		return bytes.Equal(p.key.Marshal(), key.Marshal())
	}
	return p.fingerprint == ssh.FingerprintSHA256(key)
}

// Type is the type of the key, such as ssh-ed25519; empty if only its fingerprint is known.
func (p Pin) Type() string {
	if p.key == nil {
		return ""
	}
	return p.key.Type()
}

// String is the fingerprint.
func (p Pin) String() string {
	if p.key != nil {
		return ssh.FingerprintSHA256(p.key)
	}
	return p.fingerprint
}
