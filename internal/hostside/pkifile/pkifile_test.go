package pkifile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pair is a certificate with its key, and the key's public half.
func pair(t *testing.T) (certificate, key, public []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER), encode("PUBLIC KEY", publicDER)
}

// TestHalfWrittenFiles cuts every kind of file off after every byte, and fills the rest with nothing or with zeros.
func TestHalfWrittenFiles(t *testing.T) {
	certificate, key, public := pair(t)
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://10.0.0.11:6443", CertificateAuthorityData: certificate}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	config.Contexts["u@c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "u@c"
	embedded, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificate: "/var/lib/kubelet/pki/kubelet-client-current.pem", ClientKey: "/var/lib/kubelet/pki/kubelet-client-current.pem"}
	named, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		whole []byte
		check func(string) error
		// spare bytes at the end say nothing: a newline, and what a path may as well end with.
		spare int
	}{
		"certificate":                  {certificate, Certificate, 1},
		"chain":                        {append(append([]byte{}, certificate...), certificate...), Certificate, 1},
		"private key":                  {key, PrivateKey, 1},
		"public key":                   {public, PublicKey, 1},
		"kubeconfig":                   {embedded, Kubeconfig, 1},
		"kubeconfig that names a file": {named, Kubeconfig, len("/var/lib/kubelet/pki/kubelet-client-current.pem\n")},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			for n := range len(tc.whole) + 1 {
				for _, zeros := range []bool{false, true} {
					content := append([]byte{}, tc.whole[:n]...)
					if zeros {
						content = append(content, make([]byte, len(tc.whole)-n)...)
					}
					if err := os.WriteFile(path, content, 0o600); err != nil {
						t.Fatal(err)
					}
					err := tc.check(path)
					switch {
					case n == len(tc.whole) && err != nil:
						t.Errorf("whole: %v", err)
					case n < len(tc.whole)-tc.spare && err == nil && !endsWhole(name, tc.whole, n):
						t.Errorf("%d of %d bytes, zeros %t, pass", n, len(tc.whole), zeros)
					}
				}
			}
			if err := tc.check(path + ".missing"); err == nil {
				t.Error("a file that does not exist passes")
			}
		})
	}
}

// endsWhole says that a chain was cut off between two of its certificates: nobody can tell.
func endsWhole(name string, whole []byte, n int) bool {
	return name == "chain" && (n == len(whole)/2 || n == len(whole)/2-1)
}

func TestKubeconfigsWithoutCredentials(t *testing.T) {
	for name, text := range map[string]string{
		"discovery":        "apiVersion: v1\nkind: Config\nclusters: [{name: '', cluster: {server: 'https://x'}}]\n",
		"no user":          "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\n",
		"a user with none": "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {}}]\n",
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Kubeconfig(path); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

// TestACertificateThatWasRenewed is for the same key, and is another certificate all the same.
func TestACertificateThatWasRenewed(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(expires time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(expires.Unix()), Subject: pkix.Name{CommonName: "x"}, NotAfter: expires}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	now := time.Now().UTC().Truncate(time.Second)
	former, renewed := issue(now), issue(now.Add(time.Hour))
	other, _, public := pair(t)
	both := append(append([]byte{}, renewed...), former...)
	id := KeyIDs(former)[0]
	if KeyIDs(renewed)[0] != id || SameCertificates(former, renewed) || !SameCertificates(both, append(append([]byte{}, former...), renewed...)) || SameCertificates(both, other) {
		t.Error("certificates are not told apart")
	}
	for name, tc := range map[string]struct {
		text []byte
		want time.Time
	}{"former": {former, now}, "renewed": {renewed, now.Add(time.Hour)}, "both": {both, now.Add(time.Hour)}} {
		if got := Expiries(tc.text); len(got) != 1 || !got[id].Equal(tc.want) {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
	if got := Expiries(public); len(got) > 0 {
		t.Errorf("a public key does not expire: %v", got)
	}
	// A text with both has one key, and its certificate is the renewed one, whatever the order is.
	for name, text := range map[string][]byte{"renewed first": slices.Concat(both, other), "former first": slices.Concat(former, other, renewed), "twice": slices.Concat(renewed, other, renewed, other)} {
		keys := Keys(text)
		if len(keys) != 2 || keys[0].ID != id || !bytes.Equal(keys[0].PEM, renewed) || !bytes.Equal(keys[1].PEM, other) || !slices.Equal(KeyIDs(text), []string{keys[0].ID, keys[1].ID}) {
			t.Errorf("%s: %+v", name, keys)
		}
		if c := Latest(Certificates(former)[0], text); !c.NotAfter.Equal(now.Add(time.Hour)) {
			t.Errorf("%s: %s", name, c.NotAfter)
		}
	}
	if c := Latest(Certificates(renewed)[0], slices.Concat(former, other)); !c.NotAfter.Equal(now.Add(time.Hour)) {
		t.Errorf("%s", c.NotAfter)
	}
	if keys := Keys(slices.Concat(public, public)); len(keys) != 1 || !bytes.Equal(keys[0].PEM, public) {
		t.Errorf("%+v", keys)
	}
}
