package kubeadm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/staticpod"
)

// An authority is replaced in stages, each of which every host has reached before any goes on. The file of what is trusted says which
// one a host has reached, together with the private key, which always belongs to the first entry:
//
//	old        what was
//	old, new   everybody trusts what the new key will sign
//	new, old   the new key signs
//	new        nobody trusts the old one any more
//
// Until it signs, the new key is kept beside the old one, on hosts only that have the key that signs.
//
// An authority that programs read only when they start has one file more: what signed before, from when the new key signs until nothing that
// runs trusts the old one (ForgetAuthority).

// AuthorityPair is an authority on its way between control planes: what is trusted, and the private key, both in PEM. It is never
// written anywhere else.
type AuthorityPair struct {
	Authority   facts.Authority
	Public, Key []byte
	// Trusted is what the host trusts now, in PEM.
	Trusted []byte
}

// MakeNextAuthority returns the authority that is to follow. It generates it unless this host has it, or already signs with it.
var MakeNextAuthority = host.Define("kubeadm.make-next-authority", func(_ context.Context, a facts.Authority) (AuthorityPair, error) {
	return makeNextAuthority(pkiDir, a, time.Now())
}, host.Secret, host.Secret)

func makeNextAuthority(dir string, a facts.Authority, now time.Time) (AuthorityPair, error) {
	out, err := readNextAuthority(dir, a)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	if out.Public, out.Key, err = followingAuthority(dir, a, now); err != nil {
		return out, fmt.Errorf("making what is to follow %s: %w", a.Title(), err)
	}
	return out, writeNextAuthority(dir, out)
}

// readNextAuthority reads the authority that is to follow. Its error is that there is none if its files are missing or not whole: they
// were not used then, because the certificate is written last.
func readNextAuthority(dir string, a facts.Authority) (AuthorityPair, error) {
	out := AuthorityPair{Authority: a}
	var err error
	if out.Trusted, err = os.ReadFile(filepath.Join(dir, a.Public())); err != nil {
		return out, fmt.Errorf("reading %s: %w", a.Title(), err)
	}
	public, err := os.ReadFile(filepath.Join(dir, a.NextPublic()))
	if err != nil {
		return out, err
	}
	key, err := os.ReadFile(filepath.Join(dir, a.NextKey()))
	if err != nil {
		return out, err
	}
	if ids := pkifile.KeyIDs(public); len(ids) != 1 || ids[0] != pkifile.PrivateKeyID(key) {
		return out, fmt.Errorf("%s and %s do not belong together: %w", a.NextPublic(), a.NextKey(), fs.ErrNotExist)
	}
	out.Public, out.Key = public, key
	return out, nil
}

// WriteNextAuthority keeps the authority that is to follow on another host that signs. A host without the private key of the present
// one gets none.
var WriteNextAuthority = host.Define("kubeadm.write-next-authority", func(_ context.Context, in AuthorityPair) (struct{}, error) {
	return struct{}{}, keepNextAuthority(pkiDir, in)
}, host.Secret, host.Secret)

func keepNextAuthority(dir string, in AuthorityPair) error {
	have, err := readNextAuthority(dir, in.Authority)
	switch {
	case err == nil && !bytes.Equal(have.Public, in.Public):
		return fmt.Errorf("%s is another one than that of the other hosts", filepath.Join(dir, in.Authority.NextPublic()))
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case !system.Filled(filepath.Join(dir, in.Authority.Key())):
		return fmt.Errorf("%s is not on this host", filepath.Join(dir, in.Authority.Key()))
	}
	return writeNextAuthority(dir, in)
}

func writeNextAuthority(dir string, in AuthorityPair) error {
	if err := durable.WriteFile(filepath.Join(dir, in.Authority.NextKey()), in.Key, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, in.Authority.NextPublic()), in.Public, 0o644)
}

// followingAuthority makes an authority like the present one, with a key of the same kind. Its subject differs in the serial number,
// so that servers can be asked which of the two they accept, and people can tell them apart.
func followingAuthority(dir string, a facts.Authority, now time.Time) (public, key []byte, err error) {
	if a == facts.ServiceAccountKey {
		return followingKey(dir, a)
	}
	former, err := loadAuthority(filepath.Join(dir, a.Public()), filepath.Join(dir, a.Key()))
	if err != nil {
		return nil, nil, err
	}
	private, key, err := newKey(former.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	subject := former.Leaf.Subject
	subject.SerialNumber, subject.Names = now.UTC().Format("20060102T150405Z"), nil
	template := &x509.Certificate{Subject: subject, DNSNames: former.Leaf.DNSNames, KeyUsage: former.Leaf.KeyUsage, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdated), NotAfter: now.Add(former.Leaf.NotAfter.Sub(former.Leaf.NotBefore))}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), key, nil
}

// newKey generates a key of the same kind as another one. It returns it in PEM, too.
func newKey(like any) (crypto.Signer, []byte, error) {
	private, err := likewise(like)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// followingKey is followingAuthority for a key without a certificate: others trust the public key.
func followingKey(dir string, a facts.Authority) (public, key []byte, err error) {
	former, err := keyutil.PrivateKeyFromFile(filepath.Join(dir, a.Key()))
	if err != nil {
		return nil, nil, err
	}
	private, key, err := newKey(former)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), key, nil
}

// RenewAuthority signs the certificate of an authority again that has expired, for the key that it has on this host, and returns it in PEM.
// It writes nothing: SetTrust gives it to this host as to all others.
var RenewAuthority = host.Define("kubeadm.renew-authority", func(_ context.Context, a facts.Authority) ([]byte, error) {
	return renewAuthority(pkiDir, a, time.Now())
})

// authorityLifetime is kubeadm's.
const authorityLifetime = 10 * 365 * 24 * time.Hour

// renewAuthority keeps whatever makes certificates fit that the authority has signed: its name, its key and the ID of that, and its constraints.
// The serial number is another one, as for each certificate.
func renewAuthority(dir string, a facts.Authority, now time.Time) ([]byte, error) {
	former, err := loadAuthority(filepath.Join(dir, a.Public()), filepath.Join(dir, a.Key()))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", a.Title(), err)
	}
	if !former.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of an authority", filepath.Join(dir, a.Public()))
	}
	if now.Before(former.Leaf.NotAfter) { // the clock of the caller may be wrong
		return nil, fmt.Errorf("%s has not expired by the clock of this host, which shows %s", a.Title(), now.UTC().Format(time.RFC3339))
	}
	lifetime := former.Leaf.NotAfter.Sub(former.Leaf.NotBefore)
	if lifetime < shortest {
		lifetime = authorityLifetime
	}
	template := *former.Leaf
	template.NotBefore, template.NotAfter = now.Add(-backdated), now.Add(lifetime)
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm // that of an old authority may not be accepted any more
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, former.PrivateKey.(crypto.Signer).Public(), former.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("signing %s again: %w", a.Title(), err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// TrustRequest is the stage of an authority that a host is to reach.
type TrustRequest struct {
	Authority facts.Authority
	// Trusted is what is trusted then, in PEM. The first entry signs, on hosts that have its private key.
	Trusted []byte
	// Former are entries that are not trusted any more, in PEM.
	Former []byte
	// Renewed says that the stage stays, and that a certificate has expired for whose key there is another one now. What runs may not work
	// because of that, so nobody waits for it.
	Renewed bool
}

// SetTrust brings a host to a stage: the file with what is trusted, the private key that signs, what kubeconfigs trust, and what the
// controller manager signs with. The kubelet restarts if its kubeconfig changes. It returns when the API server on this host, if it
// runs, accepts exactly what the host trusts; of an authority that is read at start, it does not wait for that. Programs that read
// kubeconfigs or other files only when they start are restarted by RestartPrograms. It can be killed anywhere, and run again.
var SetTrust = host.DefineChange("kubeadm.set-trust", func(ctx context.Context, in TrustRequest) (struct{}, error) {
	if err := setTrust(kubernetesDir, in); err != nil {
		return struct{}{}, fmt.Errorf("bringing %s to the next stage: %w", in.Authority.Title(), err)
	}
	if in.Authority.ReadAtStart() {
		return struct{}{}, nil
	}
	if in.Authority == facts.KubernetesAuthority {
		stale, err := trustsOther(kubeletKubeconfig, in.Trusted)
		if err != nil {
			return struct{}{}, err
		}
		if stale || system.Exists(facts.KubeletSettingsDue) {
			change := func() error { return setConfTrust(kubeletKubeconfig, in.Trusted) }
			restart := restartKubelet
			if in.Renewed {
				restart = ForgetBackOff // one whose own certificate has expired restarts when it gets another one
			}
			if err := changeKubelet(facts.KubeletSettingsDue, change, func() error { return restart(ctx) }); err != nil {
				return struct{}{}, err
			}
		}
	}
	if in.Renewed {
		return struct{}{}, nil // it accepts the same subjects as before
	}
	if !system.Exists(filepath.Join(staticpod.Dir, facts.APIServer+".yaml")) {
		return struct{}{}, nil
	}
	return struct{}{}, within(ctx, reloadPatience, "reading "+in.Authority.Public()+" again, in the API server", func(ctx context.Context) error {
		return accepts(ctx, "127.0.0.1:6443", in.Trusted, in.Former)
	})
})

// setTrust writes the files of a stage but for the kubelet's kubeconfig. Whoever reads them meets a pair that fits at every moment: the
// controller manager, which is the only program that reads a private key of the Kubernetes CA, has its own file with both parts. No program
// reads the key of etcd's authority, and an API server accepts both service account keys when one of the two begins to sign.
func setTrust(dir string, in TrustRequest) error {
	pki := filepath.Join(dir, "pki")
	ids := pkifile.KeyIDs(in.Trusted)
	if len(ids) == 0 {
		return errors.New("nothing would be trusted")
	}
	signs, err := signingKey(pki, in.Authority, ids[0])
	if err != nil {
		return err
	}
	manages := in.Authority == facts.KubernetesAuthority && signs != nil && system.Exists(filepath.Join(dir, "manifests", facts.ControllerManager+".yaml"))
	if manages && len(ids) > 1 && (!in.Renewed || system.Exists(filepath.Join(pki, facts.SigningFile))) {
		if err := signSeparately(dir, in.Trusted, signs); err != nil {
			return err
		}
	}
	if former := formerPublic(pki, in, ids[0], signs); former != nil {
		if err := replaceFile(filepath.Join(pki, in.Authority.FormerPublic()), former, 0o644); err != nil {
			return err
		}
	}
	if signs != nil {
		if err := replaceFile(filepath.Join(pki, in.Authority.Key()), signs, 0o600); err != nil {
			return err
		}
	}
	if err := replaceFile(filepath.Join(pki, in.Authority.Public()), in.Trusted, 0o644); err != nil {
		return err
	}
	if in.Authority == facts.KubernetesAuthority {
		for _, name := range facts.Kubeconfigs {
			if name == facts.KubeletKubeconfig {
				continue
			}
			if err := setConfTrust(filepath.Join(dir, name), in.Trusted); err != nil {
				return err
			}
		}
	}
	if in.Renewed {
		return nil // with what programs sign, and which key is to follow, stays as it is
	}
	if manages && len(ids) == 1 {
		if err := setSigningArguments(dir, false); err != nil {
			return err
		}
		if err := durable.Remove(filepath.Join(pki, facts.SigningFile)); err != nil {
			return err
		}
	}
	if next := pkifile.KeyIDs(readOrNil(filepath.Join(pki, in.Authority.NextPublic()))); len(next) > 0 && next[0] != ids[0] && len(ids) > 1 {
		return nil // it does not sign yet
	}
	for _, name := range []string{in.Authority.NextPublic(), in.Authority.NextKey()} {
		if err := durable.Remove(filepath.Join(pki, name)); err != nil {
			return err
		}
	}
	return nil
}

// formerPublic is what signed before, or signs until now, as it is kept during the second and the third stage; nil if nothing is kept. In the
// first stage, the key that signs is the one that the host has, and another one is to follow.
func formerPublic(pki string, in TrustRequest, first string, signs []byte) (out []byte) {
	if !in.Authority.ReadAtStart() {
		return nil
	}
	entries := pkifile.Keys(in.Trusted)
	if len(entries) == 1 {
		if len(in.Former) == 0 {
			return nil
		}
		return in.Former
	}
	follows := slices.Contains(pkifile.KeyIDs(readOrNil(filepath.Join(pki, in.Authority.NextPublic()))), first)
	before := pkifile.PrivateKeyID(readOrNil(filepath.Join(pki, in.Authority.Key()))) != first
	if signs == nil || !follows && !before && !system.Exists(filepath.Join(pki, in.Authority.FormerPublic())) {
		return nil
	}
	for _, e := range entries[1:] {
		out = append(out, e.PEM...)
	}
	return out
}

// ForgetAuthority ends a rotation on a host: nothing that runs there trusts what signed before.
var ForgetAuthority = host.Define("kubeadm.forget-authority", func(_ context.Context, a facts.Authority) (struct{}, error) {
	return struct{}{}, forgetAuthority(pkiDir, a)
})

func forgetAuthority(dir string, a facts.Authority) error {
	former := pkifile.KeyIDs(readOrNil(filepath.Join(dir, a.FormerPublic())))
	trusted := pkifile.KeyIDs(readOrNil(filepath.Join(dir, a.Public())))
	for _, id := range former {
		if len(trusted) == 0 || slices.Contains(trusted, id) {
			return fmt.Errorf("%s still has the key that signed before", filepath.Join(dir, a.Public()))
		}
	}
	return durable.Remove(filepath.Join(dir, a.FormerPublic()))
}

func readOrNil(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return data
}

// replaceFile writes a file whose content or mode is another one. When a file was last written tells whether a program has read it.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	st, err := os.Stat(path)
	if have, failed := os.ReadFile(path); err == nil && failed == nil && bytes.Equal(have, content) && st.Mode().Perm() == mode {
		return nil
	}
	return durable.WriteFile(path, content, mode)
}

// signingKey finds the private key on this host that is to sign, in PEM; nil on a host that has no key of the authority.
func signingKey(pki string, a facts.Authority, id string) ([]byte, error) {
	present, err := os.ReadFile(filepath.Join(pki, a.Key()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, key := range [][]byte{present, readOrNil(filepath.Join(pki, a.NextKey()))} {
		if key != nil && pkifile.PrivateKeyID(key) == id {
			return key, nil
		}
	}
	return nil, fmt.Errorf("neither %s nor %s is the key that is to sign", a.Key(), a.NextKey())
}

// signSeparately gives the controller manager a file with the certificate and the key that sign, and has it use that. A controller
// manager that runs reads it again when it changes.
func signSeparately(dir string, trusted, key []byte) error {
	first, _ := pem.Decode(trusted)
	if first == nil {
		return errors.New("it holds no certificate")
	}
	content := append(pem.EncodeToMemory(first), key...)
	if _, err := tls.X509KeyPair(content, content); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, "pki", facts.SigningFile), content, 0o600); err != nil {
		return err
	}
	return setSigningArguments(dir, true)
}

// setSigningArguments changes what the manifest of the controller manager says that it signs with. The kubelet replaces the pod.
func setSigningArguments(dir string, rotates bool) error {
	path := filepath.Join(dir, "manifests", facts.ControllerManager+".yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := text
	for name, value := range facts.SigningArguments(rotates) {
		flag := regexp.MustCompile(`(?m)^(\s*- )--` + name + `=\S*$`)
		if !flag.Match(changed) {
			return fmt.Errorf("%s has no flag --%s", path, name)
		}
		changed = flag.ReplaceAll(changed, []byte("${1}--"+name+"="+value))
	}
	if bytes.Equal(changed, text) {
		return nil
	}
	if _, err := staticpod.Parse(path, changed); err != nil {
		return err
	}
	return durable.WriteFile(path, changed, 0o600)
}

// trustsOther says that the clusters of a kubeconfig trust other certificates. The order does not count, so that a kubeconfig whose program
// would have to restart is not written again when another key signs.
func trustsOther(path string, trusted []byte) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	config, err := clientcmd.Load(text)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, c := range config.Clusters {
		if len(c.CertificateAuthorityData) > 0 && !pkifile.SameCertificates(c.CertificateAuthorityData, trusted) {
			return true, nil
		}
	}
	return false, nil
}

// setConfTrust has a kubeconfig trust other certificates; one that does not exist stays absent.
func setConfTrust(path string, trusted []byte) error {
	stale, err := trustsOther(path, trusted)
	if err != nil || !stale {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	want := []byte(kubeadm.WithAuthority(string(text), trusted)) // the rest of the file stays as it is
	config, err := clientcmd.Load(want)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	otherForm := false
	for _, c := range config.Clusters {
		if len(c.CertificateAuthorityData) > 0 && !bytes.Equal(c.CertificateAuthorityData, trusted) {
			c.CertificateAuthorityData, otherForm = trusted, true
		}
	}
	if otherForm {
		if want, err = clientcmd.Write(*config); err != nil {
			return err
		}
	}
	return durable.WriteFile(path, want, 0o600)
}

// accepts returns an error unless the server at an address accepts client certificates of these authorities, and none of the former
// ones, as it says when a client connects. A server that does not run reads the file when it starts.
func accepts(ctx context.Context, address string, trusted, former []byte) error {
	subjects, err := acceptable(ctx, address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	return compareSubjects(subjects, trusted, former)
}

// compareSubjects compares what a server says that it accepts with what it should accept.
func compareSubjects(subjects [][]byte, trusted, former []byte) error {
	listed := func(c *x509.Certificate) bool {
		return slices.ContainsFunc(subjects, func(s []byte) bool { return bytes.Equal(s, c.RawSubject) })
	}
	for _, c := range pkifile.Certificates(trusted) {
		if !listed(c) {
			return fmt.Errorf("it does not accept certificates of %s yet", c.Subject)
		}
	}
	for _, c := range pkifile.Certificates(former) {
		if listed(c) {
			return fmt.Errorf("it still accepts certificates of %s", c.Subject)
		}
	}
	return nil
}

// acceptable are the subjects of the authorities that the server at an address names when it asks a client for its certificate.
func acceptable(ctx context.Context, address string) (subjects [][]byte, _ error) {
	asked := false
	config := &tls.Config{InsecureSkipVerify: true, //nolint:gosec // only to see what it accepts
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			subjects, asked = r.AcceptableCAs, true
			return &tls.Certificate{}, nil
		}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	nc, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: config}).DialContext(ctx, "tcp", address)
	if err == nil {
		nc.Close()
	}
	switch {
	case asked: // what follows from the answer does not count
		return subjects, nil
	case err != nil:
		return nil, err
	}
	return nil, errors.New("it asks no client for a certificate")
}

// MemberTrust asks the member of etcd on a host which authorities it accepts.
type MemberTrust struct {
	// Trusted and Former are certificates of authorities that it must accept, and must not accept, in PEM.
	Trusted, Former []byte
	// Addresses are where it listens for clients, and for other members.
	Addresses []string
}

// CheckMemberTrust returns an error unless the member that runs on this host accepts these authorities, and none of the former ones. It
// reads what other members present with the same file, and at the same moment, as what clients and other members present to it.
var CheckMemberTrust = host.Define("kubeadm.check-member-trust", func(ctx context.Context, in MemberTrust) (struct{}, error) {
	for _, address := range in.Addresses {
		subjects, err := acceptable(ctx, address)
		if err == nil {
			err = compareSubjects(subjects, in.Trusted, in.Former)
		}
		if err != nil {
			return struct{}{}, fmt.Errorf("asking etcd at %s which authorities it accepts: %w", address, err)
		}
	}
	return struct{}{}, nil
})

// RenewApprover has the approver of kubelets' serving certificates get new credentials, if those that it has are not signed by the
// authority that signs now.
var RenewApprover = host.Define("kubeadm.renew-approver", func(ctx context.Context, _ struct{}) (struct{}, error) {
	return struct{}{}, system.Run(ctx, "systemctl", "start", "quorate-approver.service")
})
