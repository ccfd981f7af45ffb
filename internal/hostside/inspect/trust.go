package inspect

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
)

// trust reads what a host has of the authorities that can be replaced; dir is kubeadm's directory.
func trust(dir string) map[facts.Authority]facts.Trust {
	read := func(name string) []byte {
		data, _ := os.ReadFile(filepath.Join(dir, "pki", name))
		return data
	}
	out := map[facts.Authority]facts.Trust{}
	for _, a := range facts.Authorities {
		public := read(a.Public())
		t := facts.Trust{Trusted: pkifile.KeyIDs(public), Key: pkifile.PrivateKeyID(read(a.Key())), PEM: string(public)}
		if len(t.Trusted) == 0 {
			continue
		}
		for _, name := range []string{a.Public(), a.Key()} {
			if st, err := os.Stat(filepath.Join(dir, "pki", name)); err == nil && st.ModTime().After(t.Written) {
				t.Written = st.ModTime()
			}
		}
		next := read(a.NextPublic())
		if keys := pkifile.KeyIDs(next); len(keys) == 1 && keys[0] == pkifile.PrivateKeyID(read(a.NextKey())) {
			t.Next, t.NextPEM = keys[0], string(next)
		}
		if former := read(a.FormerPublic()); a.ReadAtStart() && len(pkifile.KeyIDs(former)) > 0 {
			t.Former, t.FormerPEM = pkifile.KeyIDs(former)[0], string(former)
		}
		t.Until = firstExpiry(public, t.Trusted[0])
		if a == facts.KubernetesAuthority {
			t.Kubeconfigs, t.Apart = map[string][]string{}, system.Exists(filepath.Join(dir, "pki", facts.SigningFile))
			for name, text := range kubeconfigTrust(dir) {
				t.Kubeconfigs[name] = pkifile.KeyIDs(text)
				if at := firstExpiry(text, t.Trusted[0]); !at.IsZero() && at.Before(t.Until) {
					t.Until = at
				}
			}
		}
		out[a] = t
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// firstExpiry is when the first of the certificates for a key in a PEM text expires; zero if there is none.
func firstExpiry(text []byte, key string) (at time.Time) {
	for _, c := range pkifile.Certificates(text) {
		if pkifile.KeyID(c) == key && (at.IsZero() || c.NotAfter.Before(at)) {
			at = c.NotAfter
		}
	}
	return at
}

// kubeconfigTrust is what kubeconfigs of kubeadm trust, in PEM. One that names a file is not among them: it trusts what the file says.
func kubeconfigTrust(dir string) map[string][]byte {
	out := map[string][]byte{}
	paths, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
	for _, path := range paths {
		var config struct {
			Clusters []struct {
				Cluster struct {
					CA []byte `json:"certificate-authority-data"`
				} `json:"cluster"`
			} `json:"clusters"`
		}
		data, err := os.ReadFile(path)
		if err != nil || yaml.Unmarshal(data, &config) != nil || !slices.Contains(facts.Kubeconfigs, filepath.Base(path)) {
			continue
		}
		for _, c := range config.Clusters {
			if len(c.Cluster.CA) > 0 {
				out[filepath.Base(path)] = c.Cluster.CA
			}
		}
	}
	return out
}

// authorities are the certificates of all authorities on a host.
func authorities(pki string) (out []*x509.Certificate) {
	for _, file := range []string{facts.ClusterCA, facts.FrontProxyCA, facts.EtcdCA} {
		data, _ := os.ReadFile(filepath.Join(pki, "..", file))
		out = append(out, pkifile.Certificates(data)...)
	}
	return out
}

// signedBy is the key of the authority that signed a certificate; empty if it is not among them.
func signedBy(c *x509.Certificate, authorities []*x509.Certificate) string {
	for _, ca := range authorities {
		if c.CheckSignatureFrom(ca) == nil {
			return pkifile.KeyID(ca)
		}
	}
	return ""
}
