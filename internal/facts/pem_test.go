package facts

import (
	"encoding/pem"
	"strings"
	"testing"
)

func TestCertificatesIn(t *testing.T) {
	one, two := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, 100)})), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("two")}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("key")}))
	for name, tt := range map[string]struct{ text, want string }{
		"as kubeadm writes it":   {one, one},
		"a comment":              {"# Corporate root CA\n" + one, one},
		"lines that end in CRLF": {strings.ReplaceAll(one, "\n", "\r\n"), one},
		"no newline at the end":  {strings.TrimSpace(one), one},
		"two, with comments":     {"subject=/CN=one\n" + one + "\nsubject=/CN=two\n" + two + "\n", one + two},
		"a key as well":          {key + one, one},
		"nothing":                {"", ""},
		"no certificate":         {"PEM", "PEM"},
	} {
		if got := CertificatesIn(tt.text); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if EtcdOwner("c", "# a comment\n"+one) != EtcdOwner("c", one) || EtcdOwner("c", one) == EtcdOwner("c", two) {
		t.Error("who owns an etcd depends on comments, or not on the authority")
	}
}
