package backup

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/staticpod"
)

// Spec is the spec in the backup; nil if the cluster had recorded none.
func (u Unpacked) Spec() (*spec.Cluster, error) {
	text, has := u.Parts[SpecPart]
	if !has {
		return nil, nil
	}
	r, err := spec.ParseRecord(text)
	if err != nil {
		return nil, err
	}
	return r.Cluster(), nil
}

// PKI are the files below /etc/kubernetes/pki that all control planes of the cluster share, by name. Keys that the backup does not have are
// read from keysDir, in which they have the same names; it may be empty. What nobody else keeps must be there. An authority of etcd
// without its key is left out: all members are new, and get a new one. So are client certificates, which are issued again. A certificate of an
// authority in keysDir replaces that of the backup, if it is for the same key and valid for longer: it was renewed.
func (u Unpacked) PKI(keysDir string) (map[string][]byte, error) {
	out, err := u.Keys(keysDir)
	if err != nil {
		return nil, err
	}
	delete(out, facts.ServiceAccountKey.FormerPublic())
	var missing []string
	for _, name := range facts.SharedPKI {
		if len(out[name]) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		why := fmt.Sprintf("the backup does not have %s", strings.Join(missing, ", "))
		if slices.Contains(missing, encryption.File) {
			return nil, fmt.Errorf("%s: its cluster did not encrypt secrets in etcd, and the clusters that Quorate builds cannot read such secrets. Restore it as it was built, with kubeadm and `etcdutl snapshot restore`: docs/backup.md says how to unpack a backup", why)
		}
		return nil, fmt.Errorf("%s, and without these keys nothing can be issued that the cluster trusts. If they are kept elsewhere, such as an offline CA key, put them into a directory and name it with --keys", why)
	}
	for _, name := range facts.EtcdPKI {
		if len(out[name]) == 0 {
			delete(out, facts.EtcdPKI[0])
			delete(out, facts.EtcdPKI[1])
		}
	}
	settle(out, u.pki, u.accountKeys()...)
	if err := checkPairs(prefixed(out)); err != nil {
		return nil, err
	}
	return out, nil
}

// Keys are the files of PKI as far as the backup and keysDir have them, and the public key of service accounts that signed before, if there is one: see UsableKeys.
func (u Unpacked) Keys(keysDir string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range slices.Concat(facts.SharedPKI, facts.EtcdPKI) {
		content, err := u.file(name, keysDir)
		if err != nil {
			return nil, err
		}
		if len(content) > 0 {
			out[name] = content
		}
	}
	if former := u.pki(facts.ServiceAccountKey.FormerPublic()); len(former) > 0 {
		out[facts.ServiceAccountKey.FormerPublic()] = former
	}
	return out, nil
}

// UsableKeys are those of the files below /etc/kubernetes/pki that a new control plane can use, of what is left of a cluster: a certificate without its
// key is none of them, and the public key of service accounts follows from the private one. Lost are the names of the keys that nobody
// has any more, without those of etcd's authority, which is replaced with its members.
func UsableKeys(left map[string][]byte) (usable map[string][]byte, lost []string, _ error) {
	usable = maps.Clone(left)
	if usable == nil {
		usable = map[string][]byte{}
	}
	if key, signs := usable["sa.key"]; signs && len(usable["sa.pub"]) == 0 {
		public, err := publicKey(key)
		if err != nil {
			return nil, nil, fmt.Errorf("sa.key: %w", err)
		}
		usable["sa.pub"] = public
	}
	for _, p := range pairs {
		public, key := strings.TrimPrefix(p[0], "pki/"), strings.TrimPrefix(p[1], "pki/")
		if len(usable[public]) > 0 && len(usable[key]) > 0 {
			continue
		}
		delete(usable, public)
		delete(usable, key)
		if !slices.Contains(facts.EtcdPKI, key) {
			lost = append(lost, key)
		}
	}
	delete(usable, facts.ServiceAccountKey.FormerPublic())
	delete(usable, facts.ServiceAccountKey.NextPublic())
	settle(usable, func(name string) []byte { return left[name] })
	if len(usable[encryption.File]) == 0 {
		delete(usable, encryption.File)
		lost = append(lost, encryption.File)
	}
	return usable, lost, checkPairs(prefixed(usable))
}

// publicKey is the public key of a private one, as kubeadm stores it.
func publicKey(key []byte) ([]byte, error) {
	signer, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// settle leaves of a rotation that was in progress only what a restored cluster can use. Everything is issued again, so the other key of an
// authority has signed nothing there, and a controller manager does not even start with two certificates. Service account keys stay trusted (see
// settleAccountKeys).
// Found are the files as they were, and also those with more service account keys.
func settle(pki map[string][]byte, found func(name string) []byte, also ...[]byte) {
	for _, a := range facts.Authorities {
		if a == facts.ServiceAccountKey {
			settleAccountKeys(pki, found, also)
			continue
		}
		if text := pki[a.Public()]; len(pkifile.Certificates(text)) > 1 {
			pki[a.Public()] = pkifile.Keys(text)[0].PEM
		}
	}
}

// settleAccountKeys keeps every key trusted that API servers trusted, because tokens in secrets are in etcd, and others may be anywhere. Only the one
// that was to follow has signed nothing yet. If one had begun to sign, the file stays that shows a rotation, which goes on.
func settleAccountKeys(pki map[string][]byte, found func(name string) []byte, also [][]byte) {
	a := facts.ServiceAccountKey
	if len(pki[a.Public()]) == 0 {
		return
	}
	var next []string
	if former := found(a.FormerPublic()); len(former) > 0 {
		pki[a.FormerPublic()] = former
	} else {
		next = pkifile.KeyIDs(found(a.NextPublic()))
	}
	var all, kept []byte
	have := map[string]bool{}
	for _, text := range append([][]byte{pki[a.Public()]}, also...) {
		for _, key := range publicKeys(text) {
			all = append(all, key.PEM...)
			if follows := len(have) > 0 && slices.Contains(next, key.ID); have[key.ID] || follows {
				continue
			}
			have[key.ID], kept = true, append(kept, key.PEM...)
		}
	}
	if len(pkifile.Keys(all)) > 1 || len(kept) != len(all) {
		pki[a.Public()] = kept
	}
}

// publicKeys are those in a PEM text that an API server reads as --service-account-key-file: it accepts certificates and private keys as well.
func publicKeys(text []byte) (out []pkifile.Key) {
	keys, err := keyutil.ParsePublicKeysPEM(text)
	if err != nil {
		return nil
	}
	for _, key := range keys {
		if der, err := x509.MarshalPKIXPublicKey(key); err == nil {
			out = append(out, pkifile.Key{ID: pkifile.PublicKeyID(key), PEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})})
		}
	}
	return out
}

// accountKeys are the files besides sa.pub with keys that API servers trusted with the signatures of tokens. The restored ones read sa.pub alone.
func (u Unpacked) accountKeys() (out [][]byte) {
	name := PartOf(Manifests[0])
	pod, err := staticpod.Parse(name, u.Parts[name])
	if err != nil {
		return nil // Check has found what is wrong with it
	}
	for _, r := range References(pod) {
		if r.Flag == facts.AccountKeyFileFlag && PartOf(r.Path) != Kubernetes+"pki/"+facts.ServiceAccountKey.Public() {
			out = append(out, u.Parts[PartOf(r.Path)])
		}
	}
	return out
}

// InRotation are the authorities that were being replaced when the backup was taken: their cluster trusted several keys. Service account keys that
// somebody else added are no rotation.
func (u Unpacked) InRotation() (out []facts.Authority) {
	for _, a := range facts.Authorities {
		rotates := a != facts.ServiceAccountKey || len(u.pki(a.FormerPublic())) > 0 || len(u.pki(a.NextPublic())) > 0
		if rotates && len(pkifile.KeyIDs(u.pki(a.Public()))) > 1 {
			out = append(out, a)
		}
	}
	return out
}

// pki is a file below /etc/kubernetes/pki.
func (u Unpacked) pki(name string) []byte { return u.Parts[Kubernetes+"pki/"+name] }

func prefixed(pki map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for name, content := range pki {
		out[Kubernetes+"pki/"+name] = content
	}
	return out
}

// file is a file of the PKI. The encryption configuration may have been elsewhere on hosts that Quorate did not set up.
func (u Unpacked) file(name, keysDir string) ([]byte, error) {
	if name == encryption.File {
		return u.encryption()
	}
	part := u.Parts[Kubernetes+"pki/"+name]
	if keysDir == "" || len(part) > 0 && filepath.Ext(name) != ".crt" {
		return part, nil
	}
	content, err := paths.Read(filepath.Join(keysDir, name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return part, nil
	case err != nil:
		return nil, err
	case len(part) == 0:
		return content, nil
	}
	if have, own := pkifile.KeyIDs(content), pkifile.KeyIDs(part); len(have) == 1 && len(own) > 0 && have[0] == own[0] && pkifile.Expiries(content)[have[0]].After(pkifile.Expiries(part)[own[0]]) {
		return content, nil
	}
	return part, nil // that in the directory is another one
}

func (u Unpacked) encryption() ([]byte, error) {
	if _, has := u.Parts[PartOf(Manifests[0])]; !has {
		return u.Parts[Kubernetes+"pki/"+encryption.File], nil
	}
	_, keys, err := APIServer(u.Parts)
	return keys, err
}

// Networking is what kubeadm's configuration in the backup says about addresses and names that are stored in etcd.
type Networking struct {
	PodSubnet     string `json:"podSubnet"`
	ServiceSubnet string `json:"serviceSubnet"`
	DNSDomain     string `json:"dnsDomain"`
}

// Networking reads kubeadm's configuration in the backup; it is empty if there is none.
func (u Unpacked) Networking() (out Networking, _ error) {
	text, has := u.Parts[ConfigMaps+kubeadmConfig+".json"]
	if !has {
		return out, nil
	}
	var stored map[string]string // the data of the ConfigMap, as Objects writes them
	if err := yaml.Unmarshal(text, &stored); err != nil {
		return out, fmt.Errorf("reading kubeadm-config in the backup: %w", err)
	}
	var config struct {
		Networking Networking `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(stored["ClusterConfiguration"]), &config); err != nil {
		return out, fmt.Errorf("reading kubeadm-config in the backup: %w", err)
	}
	return config.Networking, nil
}
