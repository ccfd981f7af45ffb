package kubeadm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/staticpod"
)

const controllerManagerManifest = `apiVersion: v1
kind: Pod
metadata:
  labels:
    component: kube-controller-manager
    tier: control-plane
  name: kube-controller-manager
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-controller-manager
    - --client-ca-file=/etc/kubernetes/pki/ca.crt
    - --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt
    - --cluster-signing-key-file=/etc/kubernetes/pki/ca.key
    - --root-ca-file=/etc/kubernetes/pki/ca.crt
    image: controller-manager
    name: kube-controller-manager
status: {}
`

// rotatable is kubeadm's directory on a control plane, whose authorities were made before now.
func rotatable(t *testing.T, now time.Time) (dir string) {
	t.Helper()
	dir = controlPlane(t, now.Add(-24*time.Hour), now.Add(24*time.Hour), now.AddDate(9, 0, 0))
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifests", facts.ControllerManager+".yaml"), []byte(controllerManagerManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"sa.key": {Type: "EC PRIVATE KEY", Bytes: key}, "sa.pub": {Type: "PUBLIC KEY", Bytes: public}} {
		if err := os.WriteFile(filepath.Join(dir, "pki", name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func contentOf(t *testing.T, parts ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// stage checks what a host has at a stage: the keys that are trusted, the first of which signs.
func stage(t *testing.T, dir string, a facts.Authority, keys ...string) {
	t.Helper()
	pki := filepath.Join(dir, "pki")
	if have := pkifile.KeyIDs(contentOf(t, pki, a.Public())); !slices.Equal(have, keys) {
		t.Errorf("%s has %v, want %v", a.Public(), have, keys)
	}
	if have := pkifile.PrivateKeyID(contentOf(t, pki, a.Key())); have != keys[0] {
		t.Errorf("%s is %s, want %s", a.Key(), have, keys[0])
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(pki, a.Public()), filepath.Join(pki, a.Key())); err != nil && a != facts.ServiceAccountKey {
		t.Error(err)
	}
	if st, err := os.Stat(filepath.Join(pki, a.Key())); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if a != facts.KubernetesAuthority {
		return
	}
	for _, name := range []string{"admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf"} {
		config, err := clientcmd.LoadFromFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if have := pkifile.KeyIDs(config.Clusters["prod"].CertificateAuthorityData); !slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(keys))) {
			t.Errorf("%s trusts %v, want %v", name, have, keys)
		}
	}
	path := filepath.Join(dir, "manifests", facts.ControllerManager+".yaml")
	pod, err := staticpod.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range facts.SigningArguments(len(keys) > 1) {
		if have := staticpod.Arguments(pod)[name]; have != want {
			t.Errorf("--%s=%s, want %s", name, have, want)
		}
	}
	apart := filepath.Join(pki, facts.SigningFile)
	if len(keys) == 1 {
		if _, err := os.Stat(apart); err == nil {
			t.Errorf("%s is left", apart)
		}
		return
	}
	pair, err := tls.LoadX509KeyPair(apart, apart)
	if err != nil || pkifile.KeyID(pair.Leaf) != keys[0] || len(pkifile.Certificates(contentOf(t, apart))) != 1 {
		t.Errorf("%s does not sign with %s: %v", apart, keys[0], err)
	}
	if st, err := os.Stat(apart); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestAnAuthorityIsReplacedInStages(t *testing.T) {
	now := time.Now()
	for _, a := range facts.Authorities {
		t.Run(string(a), func(t *testing.T) {
			dir := rotatable(t, now)
			pki := filepath.Join(dir, "pki")
			former := contentOf(t, pki, a.Public())
			old := pkifile.KeyIDs(former)[0]
			pair, err := makeNextAuthority(pki, a, now)
			if err != nil {
				t.Fatal(err)
			}
			again, err := makeNextAuthority(pki, a, now.Add(time.Hour))
			if err != nil || !bytes.Equal(again.Public, pair.Public) || !bytes.Equal(again.Key, pair.Key) {
				t.Fatalf("an interrupted rotation gets another key: %v", err)
			}
			next := pkifile.KeyIDs(pair.Public)[0]
			var made, present *x509.Certificate
			if a != facts.ServiceAccountKey {
				made, present = pkifile.Certificates(pair.Public)[0], pkifile.Certificates(former)[0]
				if made.Subject.CommonName != present.Subject.CommonName || bytes.Equal(made.RawSubject, present.RawSubject) || !made.IsCA || made.KeyUsage != present.KeyUsage ||
					made.NotAfter.Sub(made.NotBefore) < present.NotAfter.Sub(present.NotBefore) {
					t.Errorf("%+v", made)
				}
			}
			keeps := func(key string) { // only while something that runs may still trust it
				t.Helper()
				have, _ := os.ReadFile(filepath.Join(pki, a.FormerPublic()))
				if want := []string{key}; a.ReadAtStart() && key != "" && !slices.Equal(pkifile.KeyIDs(have), want) || (!a.ReadAtStart() || key == "") && have != nil {
					t.Errorf("%s has %v, want %q", a.FormerPublic(), pkifile.KeyIDs(have), key)
				}
			}
			var names []string
			for _, name := range allRenewable {
				if (facts.Certificate{Name: name}).Signer() == a.Certificate() {
					names = append(names, name)
				}
			}
			signed := func(by *x509.Certificate) {
				t.Helper()
				if err := renewCertificates(dir, RenewRequest{Names: names}, now); err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					if err := pairOf(t, dir, name).Leaf.CheckSignatureFrom(by); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			both := slices.Concat(former, pair.Public)
			for range 2 { // whoever is interrupted does it again
				if err := setTrust(dir, TrustRequest{Authority: a, Trusted: both}); err != nil {
					t.Fatal(err)
				}
				stage(t, dir, a, old, next)
				signed(present)
				keeps("")
			}
			reversed := slices.Concat(pair.Public, former)
			for range 2 {
				if err := setTrust(dir, TrustRequest{Authority: a, Trusted: reversed}); err != nil {
					t.Fatal(err)
				}
				stage(t, dir, a, next, old)
				signed(made)
				keeps(old)
			}
			if err := forgetAuthority(pki, a); a.ReadAtStart() && err == nil {
				t.Error("a key is forgotten that is still trusted")
			}
			for range 2 {
				if err := setTrust(dir, TrustRequest{Authority: a, Trusted: pair.Public, Former: former}); err != nil {
					t.Fatal(err)
				}
				stage(t, dir, a, next)
				signed(made)
				keeps(old)
			}
			for range 2 {
				if err := forgetAuthority(pki, a); err != nil {
					t.Fatal(err)
				}
				keeps("")
			}
			for _, pattern := range []string{"*next*", "etcd/*next*"} {
				left, err := filepath.Glob(filepath.Join(pki, pattern))
				if err != nil || len(left) > 0 {
					t.Errorf("%v, %v", left, err)
				}
			}
		})
	}
}

// TestARotationThatWasKilledBetweenKeyAndCertificate: the two belong together again afterwards.
func TestARotationThatWasKilledBetweenKeyAndCertificate(t *testing.T) {
	now := time.Now()
	dir := rotatable(t, now)
	pki, a := filepath.Join(dir, "pki"), facts.KubernetesAuthority
	former := contentOf(t, pki, a.Public())
	pair, err := makeNextAuthority(pki, a, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := setTrust(dir, TrustRequest{Authority: a, Trusted: slices.Concat(former, pair.Public)}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pki, a.Key()), pair.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setTrust(dir, TrustRequest{Authority: a, Trusted: slices.Concat(pair.Public, former)}); err != nil {
		t.Fatal(err)
	}
	stage(t, dir, a, pkifile.KeyIDs(pair.Public)[0], pkifile.KeyIDs(former)[0])
}

// TestWhatIsThereIsNotWrittenAgain: when a file was written tells whether a program has read it.
func TestWhatIsThereIsNotWrittenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pki", "etcd", "ca.crt")
	written := func() time.Time {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.ModTime()
	}
	long := time.Now().Add(-time.Hour).Truncate(time.Second)
	put := func(content string, mode os.FileMode) time.Time {
		t.Helper()
		if err := replaceFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return written()
	}
	put("x", 0o644)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	if at := put("x", 0o644); !at.Equal(long) {
		t.Errorf("the same was written again at %s", at)
	}
	if err := (PKI{"etcd/ca.crt": []byte("x")}).put(filepath.Dir(filepath.Dir(path)), "etcd/ca.crt"); err != nil || !written().Equal(long) {
		t.Errorf("the same was written again at %s: %v", written(), err)
	}
	if at := put("x", 0o600); at.Equal(long) {
		t.Error("the mode stays")
	}
	if at := put("y", 0o600); at.Equal(long) || string(contentOf(t, path)) != "y" {
		t.Error("the content stays")
	}
}

// TestWhatAMemberAccepts: a member that does not run proves nothing.
func TestWhatAMemberAccepts(t *testing.T) {
	dir := rotatable(t, time.Now())
	pki := filepath.Join(dir, "pki")
	former := contentOf(t, pki, "etcd/ca.crt")
	pair, err := makeNextAuthority(pki, facts.EtcdAuthority, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(former)
	s := httptest.NewUnstartedServer(nil)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	address := s.Listener.Addr().String()
	subjects, err := acceptable(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if err := compareSubjects(subjects, former, pair.Public); err != nil {
		t.Error(err)
	}
	if err := compareSubjects(subjects, slices.Concat(former, pair.Public), nil); err == nil || !strings.Contains(err.Error(), "does not accept") {
		t.Errorf("%v", err)
	}
	if err := compareSubjects(subjects, pair.Public, former); err == nil {
		t.Error("it has not read the new certificate")
	}
	s.Close()
	if _, err := acceptable(t.Context(), address); err == nil {
		t.Error("it does not run")
	}
}

// TestAWorkerTrustsWithoutAKey: it has neither a key nor a manifest, and gets none.
func TestAWorkerTrustsWithoutAKey(t *testing.T) {
	now := time.Now()
	source := rotatable(t, now)
	pair, err := makeNextAuthority(filepath.Join(source, "pki"), facts.KubernetesAuthority, now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pki/ca.crt"), pair.Trusted, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := keepNextAuthority(filepath.Join(dir, "pki"), pair); err == nil {
		t.Error("a host without the key of the authority gets the one that follows")
	}
	if err := setTrust(dir, TrustRequest{Authority: facts.KubernetesAuthority, Trusted: slices.Concat(pair.Trusted, pair.Public)}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "pki"))
	if err != nil || len(entries) != 1 || len(pkifile.KeyIDs(contentOf(t, dir, "pki/ca.crt"))) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestAnotherKeyThanThatOfTheOthers(t *testing.T) {
	now := time.Now()
	dir, other := rotatable(t, now), rotatable(t, now)
	pair, err := makeNextAuthority(filepath.Join(dir, "pki"), facts.FrontProxyAuthority, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := makeNextAuthority(filepath.Join(other, "pki"), facts.FrontProxyAuthority, now); err != nil {
		t.Fatal(err)
	}
	if err := keepNextAuthority(filepath.Join(other, "pki"), pair); err == nil || !strings.Contains(err.Error(), "another one") {
		t.Errorf("%v", err)
	}
	if err := setTrust(dir, TrustRequest{Authority: facts.FrontProxyAuthority, Trusted: contentOf(t, other, "pki/front-proxy-ca.crt")}); err == nil {
		t.Error("a control plane signs with a key that it does not have")
	}
}

func TestWhatAServerAccepts(t *testing.T) {
	now := time.Now()
	dir := rotatable(t, now)
	pki := filepath.Join(dir, "pki")
	former := contentOf(t, pki, "ca.crt")
	pair, err := makeNextAuthority(pki, facts.KubernetesAuthority, now)
	if err != nil {
		t.Fatal(err)
	}
	both := slices.Concat(former, pair.Public)
	listen := func(trusted []byte) string {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(trusted)
		s := httptest.NewUnstartedServer(nil)
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: pool}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	ctx := context.Background()
	if err := accepts(ctx, listen(both), both, nil); err != nil {
		t.Error(err)
	}
	if err := accepts(ctx, listen(former), both, nil); err == nil || !strings.Contains(err.Error(), "does not accept") {
		t.Errorf("%v", err)
	}
	if err := accepts(ctx, listen(both), pair.Public, former); err == nil || !strings.Contains(err.Error(), "still accepts") {
		t.Errorf("%v", err)
	}
	if err := accepts(ctx, listen(pair.Public), pair.Public, former); err != nil {
		t.Error(err)
	}
	if err := accepts(ctx, "127.0.0.1:1", both, nil); err != nil {
		t.Errorf("a server that does not run reads the file when it starts: %v", err)
	}
}

// TestAnAuthorityThatHasExpired is signed again: whatever it signed fits, programs sign as before, and every kubeconfig has the new certificate.
func TestAnAuthorityThatHasExpired(t *testing.T) {
	now := time.Now()
	dir := controlPlane(t, now.AddDate(-10, 0, 0), now.Add(time.Hour), now.Add(-time.Hour)) // one leaf of each outlives its authority
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o700); err != nil {
		t.Fatal(err)
	}
	own := strings.Replace(controllerManagerManifest, "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key", "--cluster-signing-key-file=/etc/kubernetes/pki/own.key", 1)
	manifest := filepath.Join(dir, "manifests", facts.ControllerManager+".yaml")
	if err := os.WriteFile(manifest, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range []facts.Authority{facts.KubernetesAuthority, facts.FrontProxyAuthority, facts.EtcdAuthority} {
		former := contentOf(t, dir, "pki", a.Public())
		renewed, err := renewAuthority(filepath.Join(dir, "pki"), a, now)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contentOf(t, dir, "pki", a.Public()), former) {
			t.Errorf("%s was written", a.Public())
		}
		before, after := pkifile.Certificates(former)[0], pkifile.Certificates(renewed)[0]
		if !bytes.Equal(before.RawSubject, after.RawSubject) || !bytes.Equal(before.SubjectKeyId, after.SubjectKeyId) || pkifile.KeyID(before) != pkifile.KeyID(after) ||
			before.SerialNumber.Cmp(after.SerialNumber) == 0 || !after.IsCA || after.KeyUsage != before.KeyUsage || after.NotAfter.Before(now.AddDate(9, 11, 0)) {
			t.Errorf("%+v", after)
		}
		if err := setTrust(dir, TrustRequest{Authority: a, Trusted: renewed, Renewed: true}); err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(after)
		for _, name := range allRenewable {
			if (facts.Certificate{Name: name}).Signer() != a.Certificate() {
				continue
			}
			if _, err := pairOf(t, dir, name).Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: now}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !strings.HasSuffix(name, ".conf") {
				continue
			}
			config, err := clientcmd.LoadFromFile(filepath.Join(dir, name))
			if err != nil || !pkifile.SameCertificates(config.Clusters["prod"].CertificateAuthorityData, renewed) {
				t.Errorf("%s does not trust the renewed certificate: %v", name, err)
			}
		}
	}
	if err := renewCertificates(dir, RenewRequest{Names: allRenewable}, now); err != nil {
		t.Errorf("what the renewed authorities sign: %v", err)
	}
	if string(contentOf(t, manifest)) != own {
		t.Error("with what the controller manager signs was changed")
	}
	// A kubeconfig with the former certificate for the same key is not up to date.
	renewed, err := renewAuthority(filepath.Join(dir, "pki"), facts.KubernetesAuthority, now.AddDate(11, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if stale, err := trustsOther(filepath.Join(dir, "admin.conf"), renewed); err != nil || !stale {
		t.Errorf("%v, %v", stale, err)
	}
	if _, err := renewAuthority(filepath.Join(dir, "pki"), facts.KubernetesAuthority, now); err == nil || !strings.Contains(err.Error(), "has not expired") {
		t.Errorf("a caller whose clock is wrong: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "pki", "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := renewAuthority(filepath.Join(dir, "pki"), facts.KubernetesAuthority, now); err == nil {
		t.Error("a certificate is signed without the key")
	}
}

// TestAnAuthorityWithBothCertificates: somebody put the renewed certificate next to the one that has expired. What the file has is valid, signs, and is
// cleaned when hosts get the renewed one.
func TestAnAuthorityWithBothCertificates(t *testing.T) {
	now := time.Now()
	for _, renewedFirst := range []bool{false, true} {
		dir := controlPlane(t, now.AddDate(-10, 0, 0), now.Add(time.Hour), now.Add(-time.Hour))
		pki := filepath.Join(dir, "pki")
		a := facts.KubernetesAuthority
		former := contentOf(t, pki, a.Public())
		renewed, err := renewAuthority(pki, a, now)
		if err != nil {
			t.Fatal(err)
		}
		both := slices.Concat(former, renewed)
		if renewedFirst {
			both = slices.Concat(renewed, former)
		}
		if err := os.WriteFile(filepath.Join(pki, a.Public()), both, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := renewAuthority(pki, a, now); err == nil || !strings.Contains(err.Error(), "has not expired") {
			t.Errorf("renewed first %t: it is signed once more: %v", renewedFirst, err)
		}
		var names []string
		for _, name := range allRenewable {
			if (facts.Certificate{Name: name}).Signer() == a.Certificate() {
				names = append(names, name)
			}
		}
		if err := renewCertificates(dir, RenewRequest{Names: names}, now); err != nil {
			t.Errorf("renewed first %t: %v", renewedFirst, err)
		}
		for _, name := range names {
			if leaf := pairOf(t, dir, name).Leaf; !leaf.NotAfter.After(now) {
				t.Errorf("renewed first %t: %s expires with the former authority, on %s", renewedFirst, name, leaf.NotAfter)
			}
		}
		if err := setTrust(dir, TrustRequest{Authority: a, Trusted: renewed, Renewed: true}); err != nil {
			t.Fatal(err)
		}
		if have := contentOf(t, pki, a.Public()); !bytes.Equal(have, renewed) {
			t.Errorf("renewed first %t: the one that has expired is still there", renewedFirst)
		}
	}
}

// TestARenewalDuringARotation leaves the stage as it is: the key that is to follow stays, and so does what signs.
func TestARenewalDuringARotation(t *testing.T) {
	now := time.Now()
	dir := rotatable(t, now)
	pki := filepath.Join(dir, "pki")
	next, err := makeNextAuthority(pki, facts.KubernetesAuthority, now)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := renewAuthority(pki, facts.KubernetesAuthority, now.AddDate(10, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := setTrust(dir, TrustRequest{Authority: facts.KubernetesAuthority, Trusted: renewed, Renewed: true}); err != nil {
		t.Fatal(err)
	}
	if have, err := readNextAuthority(pki, facts.KubernetesAuthority); err != nil || !bytes.Equal(have.Public, next.Public) {
		t.Errorf("the key that is to follow is gone: %v", err)
	}
}
