package pkifile

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
)

// Token is what the token of a service account says of itself. Nobody has verified it.
type Token struct {
	// SignedBy names the key that signed it, as facts.Trust does; empty if it does not say.
	SignedBy string
	// Pod is the UID of the pod to which it is bound; empty if it is bound to none.
	Pod string
}

// ReadToken reads a token of a service account; false for a text that is none.
func ReadToken(text []byte) (out Token, is bool) {
	parts := strings.Split(strings.TrimSpace(string(text)), ".")
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}
	var claims struct {
		Subject    string `json:"sub"`
		Kubernetes struct {
			Pod struct {
				UID string `json:"uid"`
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if len(parts) != 3 || !decode(parts[0], &header) || !decode(parts[1], &claims) || header.Algorithm == "" || !strings.HasPrefix(claims.Subject, "system:serviceaccount:") {
		return Token{}, false
	}
	return Token{SignedBy: FromTokenKeyID(header.KeyID), Pod: claims.Kubernetes.Pod.UID}, true
}

// FromTokenKeyID names a key by the ID that Kubernetes gives it in tokens and in its list of keys: the same hash, written otherwise. Empty
// for an ID of somebody else.
func FromTokenKeyID(id string) string {
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(raw) != 32 {
		return ""
	}
	return hex.EncodeToString(raw)
}

func decode(part string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, into) == nil
}
