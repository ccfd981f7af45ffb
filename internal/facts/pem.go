package facts

import (
	"encoding/pem"
	"strings"
)

// CertificatesIn are the certificates in a PEM text, in their order, as programs write them. Comments, and how lines end, do not count: the
// same authority has the same text on every host. A text without a certificate stands for itself.
func CertificatesIn(text string) string {
	var out strings.Builder
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
	if out.Len() == 0 {
		return text
	}
	return out.String()
}
