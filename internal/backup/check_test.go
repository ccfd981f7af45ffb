package backup

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/staticpod"
)

const apiServer = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system, labels: {component: kube-apiserver, tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --client-ca-file=/etc/kubernetes/pki/ca.crt
    - --encryption-provider-config=/etc/enc/keys.yaml
    - --service-account-signing-key-file=/etc/kubernetes/pki/sa.key
    - --service-account-key-file=/etc/kubernetes/pki/sa.pub
    - --service-account-key-file=/etc/kubernetes/pki/old.pub
    - --tls-sni-cert-key=/etc/kubernetes/pki/sni.crt,/etc/kubernetes/pki/sni.key:api.example.com
    - --etcd-prefix=/registry
    - --authorization-always-allow-paths=/healthz,/readyz
    - --audit-log-path=/var/log/audit.log
    - --cert-dir=/tmp/certs
    - --tracing-config-file=/in/the/image.yaml
    volumeMounts:
    - {name: pki, mountPath: /etc/kubernetes/pki}
    - {name: enc, mountPath: /etc/enc}
    - {name: logs, mountPath: /var/log}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki}}
  - {name: enc, hostPath: {path: /srv/encryption}}
  - {name: logs, hostPath: {path: /var/log}}
status: {}
`

func TestWhatTheFlagsOfAPodName(t *testing.T) {
	pod, err := staticpod.Parse("kube-apiserver.yaml", []byte(apiServer))
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, r := range References(pod) {
		have = append(have, PartOf(r.Path))
	}
	want := []string{"kubernetes/pki/ca.crt", "host/srv/encryption/keys.yaml", "kubernetes/pki/sa.key", "kubernetes/pki/sa.pub", "kubernetes/pki/old.pub", "kubernetes/pki/sni.crt", "kubernetes/pki/sni.key"}
	if !slices.Equal(have, want) {
		t.Errorf("%q", have)
	}
}

// pair is a new key with a certificate and its public key.
func pair(t *testing.T) (certificate, public, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}

// testpki are the parts of a control plane.
func testpki(t *testing.T) map[string][]byte {
	t.Helper()
	ca, _, caKey := pair(t)
	_, public, secret := pair(t)
	keys, err := encryption.Keys{encryption.NewKey("key1")}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"kubernetes/manifests/kube-apiserver.yaml": []byte(apiServer), "host/srv/encryption/keys.yaml": keys, SpecPart: []byte("metadata: {name: prod}\n"),
		"kubernetes/pki/ca.crt": ca, "kubernetes/pki/ca.key": caKey, "kubernetes/pki/sa.pub": public, "kubernetes/pki/sa.key": secret,
		"kubernetes/pki/old.pub": public, "kubernetes/pki/sni.crt": ca, "kubernetes/pki/sni.key": caKey}
}

func TestPartsBelongTogether(t *testing.T) {
	good := testpki(t)
	other, _, otherKey := pair(t)
	for name, tc := range map[string]struct {
		change  func(m *Manifest, parts map[string][]byte)
		secrets map[string]string
		want    string // empty if it is good
	}{
		"good":                            {},
		"what is encrypted has its key":   {secrets: map[string]string{"k8s:enc:secretbox:v1:key1:": "/registry/secrets/a"}},
		"what is encrypted has none":      {secrets: map[string]string{"k8s:enc:secretbox:v1:key2:": "/registry/secrets/a"}, want: "key2 (such as /registry/secrets/a)"},
		"no spec":                         {func(_ *Manifest, p map[string][]byte) { delete(p, SpecPart) }, nil, "no spec.yaml"},
		"no spec, and it says so":         {func(m *Manifest, p map[string][]byte) { delete(p, SpecPart); m.Missing = []string{SpecPart} }, nil, ""},
		"the spec of another cluster":     {func(_ *Manifest, p map[string][]byte) { p[SpecPart] = []byte("metadata: {name: test}") }, nil, `of the cluster "test"`},
		"a spec that is none":             {func(_ *Manifest, p map[string][]byte) { p[SpecPart] = []byte(":") }, nil, "spec.yaml"},
		"the key of another CA":           {func(_ *Manifest, p map[string][]byte) { p["kubernetes/pki/ca.key"] = otherKey }, nil, "pki/ca.key does not belong to pki/ca.crt"},
		"another CA":                      {func(_ *Manifest, p map[string][]byte) { p["kubernetes/pki/ca.crt"] = other }, nil, "pki/ca.key does not belong to pki/ca.crt"},
		"another key of service accounts": {func(_ *Manifest, p map[string][]byte) { p["kubernetes/pki/sa.key"] = otherKey }, nil, "pki/sa.key does not belong to pki/sa.pub"},
		"a CA that is kept elsewhere": {func(m *Manifest, p map[string][]byte) {
			delete(p, "kubernetes/pki/ca.key")
			m.Missing = []string{"kubernetes/pki/ca.key"}
		}, nil, ""},
		"no encryption configuration": {func(m *Manifest, p map[string][]byte) {
			delete(p, "host/srv/encryption/keys.yaml")
			m.Missing = []string{"host/srv/encryption/keys.yaml"}
		}, nil, "no host/srv/encryption/keys.yaml (--encryption-provider-config)"},
		"no key of service accounts": {func(m *Manifest, p map[string][]byte) {
			delete(p, "kubernetes/pki/sa.key")
			m.Missing = []string{"kubernetes/pki/sa.key"}
		}, nil, "no kubernetes/pki/sa.key"},
		"another program signs": {func(m *Manifest, p map[string][]byte) {
			delete(p, "kubernetes/pki/sa.key")
			p["kubernetes/manifests/kube-apiserver.yaml"] = bytes.Replace(p["kubernetes/manifests/kube-apiserver.yaml"], []byte("signing-key-file=/etc/kubernetes/pki/sa.key"), []byte("signing-endpoint=/run/signer.sock"), 1)
		}, nil, ""},
		"no manifest":              {func(_ *Manifest, p map[string][]byte) { delete(p, "kubernetes/manifests/kube-apiserver.yaml") }, nil, "no kubernetes/manifests/kube-apiserver.yaml"},
		"a file that a flag names": {func(_ *Manifest, p map[string][]byte) { delete(p, "kubernetes/pki/old.pub") }, nil, "no kubernetes/pki/old.pub (--service-account-key-file)"},
		"half of a manifest": {func(_ *Manifest, p map[string][]byte) {
			p["kubernetes/manifests/kube-apiserver.yaml"] = []byte(apiServer[:600])
		}, nil, "incomplete"},
		"a file that is known as missing": {func(m *Manifest, p map[string][]byte) {
			delete(p, "kubernetes/pki/old.pub")
			m.Missing = []string{"kubernetes/pki/old.pub"}
		}, nil, ""},
	} {
		m, parts := manifest(), maps.Clone(good)
		if tc.change != nil {
			tc.change(&m, parts)
		}
		switch err := Check(m, parts, snapshot.Contents{Encrypted: tc.secrets}); {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

// TestKeysForARestore finds the keys that control planes share, wherever the backup or the operator has them.
func TestKeysForARestore(t *testing.T) {
	full := func() map[string][]byte {
		p := testpki(t)
		for _, name := range []string{"front-proxy-ca", "etcd/ca"} {
			p["kubernetes/pki/"+name+".crt"], _, p["kubernetes/pki/"+name+".key"] = pair(t)
		}
		return p
	}
	parts := full()
	pki, err := Unpacked{Parts: parts}.PKI("")
	if err != nil || len(pki) != 9 || !bytes.Equal(pki["encryption.yaml"], parts["host/srv/encryption/keys.yaml"]) {
		t.Errorf("%d files, %v", len(pki), err)
	}
	delete(parts, "kubernetes/pki/etcd/ca.key")
	if pki, err = (Unpacked{Parts: parts}).PKI(""); err != nil || pki["etcd/ca.crt"] != nil || len(pki) != 7 {
		t.Errorf("without the key of etcd's CA: %d files, %v", len(pki), err)
	}
	key := parts["kubernetes/pki/ca.key"]
	delete(parts, "kubernetes/pki/ca.key")
	if _, err := (Unpacked{Parts: parts}).PKI(""); err == nil || !strings.Contains(err.Error(), "does not have ca.key") || !strings.Contains(err.Error(), "--keys") {
		t.Errorf("without the CA's key: %v", err)
	}
	dir := t.TempDir()
	write := func(data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "ca.key"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(key)
	if pki, err := (Unpacked{Parts: parts}).PKI(dir); err != nil || !bytes.Equal(pki["ca.key"], key) {
		t.Errorf("with the key from elsewhere: %v", err)
	}
	_, _, other := pair(t)
	write(other)
	if _, err := (Unpacked{Parts: parts}).PKI(dir); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("with another key: %v", err)
	}
	parts = full()
	parts["kubernetes/manifests/kube-apiserver.yaml"] = regexp.MustCompile(`(?m)^.*--encryption-provider-config=.*\n`).ReplaceAll(parts["kubernetes/manifests/kube-apiserver.yaml"], nil)
	if _, err := (Unpacked{Parts: parts}).PKI(""); err == nil || !strings.Contains(err.Error(), "did not encrypt") {
		t.Errorf("without encryption: %v", err)
	}
}

// TestUsableKeys: what is left of the keys of a cluster, without what is of no use alone.
func TestUsableKeys(t *testing.T) {
	full := map[string][]byte{"encryption.yaml": []byte("x")}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd/ca"} {
		full[name+".crt"], _, full[name+".key"] = pair(t)
	}
	_, full["sa.pub"], full["sa.key"] = pair(t)
	for name, tc := range map[string]struct {
		without []string
		usable  int
		lost    []string
	}{
		"all":                        {usable: 9},
		"nothing":                    {without: slices.Collect(maps.Keys(full)), lost: []string{"ca.key", "front-proxy-ca.key", "sa.key", "encryption.yaml"}},
		"no key of the CA":           {without: []string{"ca.key"}, usable: 7, lost: []string{"ca.key"}},
		"no certificate of the CA":   {without: []string{"ca.crt"}, usable: 7, lost: []string{"ca.key"}},
		"no key of etcd's authority": {without: []string{"etcd/ca.key"}, usable: 7},
		"no public key":              {without: []string{"sa.pub"}, usable: 9},
		"no encryption key":          {without: []string{"encryption.yaml"}, usable: 8, lost: []string{"encryption.yaml"}},
	} {
		left := maps.Clone(full)
		for _, file := range tc.without {
			delete(left, file)
		}
		n := len(left)
		usable, lost, err := UsableKeys(left)
		if err != nil || len(usable) != tc.usable || !slices.Equal(lost, tc.lost) || len(left) != n {
			t.Errorf("%s: %d files, lost %v, %v", name, len(usable), lost, err)
		}
	}
	wrong := maps.Clone(full)
	_, _, wrong["ca.key"] = pair(t)
	if _, _, err := UsableKeys(wrong); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("another key: %v", err)
	}
	if usable, lost, err := UsableKeys(nil); err != nil || len(usable) > 0 || len(lost) != 4 {
		t.Errorf("none: %v, %v, %v", usable, lost, err)
	}
}

// TestABackupFromTheMiddleOfARotation restores a cluster in which one key signs, and loses nothing that is signed by another one.
func TestABackupFromTheMiddleOfARotation(t *testing.T) {
	parts := testpki(t)
	signs := map[string][]byte{}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd/ca"} {
		own, _, key := pair(t)
		other, _, _ := pair(t)
		parts["kubernetes/pki/"+name+".crt"], parts["kubernetes/pki/"+name+".key"], signs[name+".crt"] = slices.Concat(own, other), key, own
	}
	_, former, _ := pair(t)
	_, public, key := pair(t)
	parts["kubernetes/pki/sa.pub"], parts["kubernetes/pki/sa.key"], parts["kubernetes/pki/sa.former"] = slices.Concat(public, former), key, former
	parts["kubernetes/pki/old.pub"] = public
	u := Unpacked{Parts: parts}
	if got := u.InRotation(); !slices.Equal(got, facts.Authorities) {
		t.Errorf("%v", got)
	}
	pki, err := u.PKI("")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range signs {
		if !bytes.Equal(pki[name], want) {
			t.Errorf("%s has not only the certificate of the key that signs", name)
		}
	}
	if !bytes.Equal(pki["sa.pub"], parts["kubernetes/pki/sa.pub"]) || !bytes.Equal(pki["sa.former"], former) {
		t.Error("tokens that the former service account key signed would be refused")
	}
	// The key that is to follow has signed nothing yet.
	delete(parts, "kubernetes/pki/sa.former")
	parts["kubernetes/pki/sa-next.pub"] = former
	if pki, err = u.PKI(""); err != nil || !bytes.Equal(pki["sa.pub"], public) || pki["sa.former"] != nil {
		t.Errorf("%v: %s", err, pki["sa.pub"])
	}
	if got := (Unpacked{Parts: testpki(t)}).InRotation(); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

func TestNetworkingOfABackup(t *testing.T) {
	n, err := Unpacked{Parts: map[string][]byte{ConfigMaps + "kubeadm-config.json": []byte(`{"ClusterConfiguration": "networking: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16, dnsDomain: cluster.local}"}`)}}.Networking()
	if want := (Networking{"10.1.0.0/16", "10.2.0.0/16", "cluster.local"}); err != nil || n != want {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := (Unpacked{}).Networking(); err != nil || n != (Networking{}) {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestServiceAccountKeysThatSomebodyAdded: tokens that they signed may be anywhere, so a restored cluster trusts them. They are no rotation.
func TestServiceAccountKeysThatSomebodyAdded(t *testing.T) {
	_, public, key := pair(t)
	_, added, addedKey := pair(t)
	_, elsewhere, elsewhereKey := pair(t)
	_, next, _ := pair(t)
	for name, tc := range map[string]struct {
		sa, old, next []byte
		want          []byte
		rotates       bool
	}{
		"one key":                         {public, public, nil, public, false},
		"in the same file":                {slices.Concat(public, added), public, nil, slices.Concat(public, added), false},
		"in another file":                 {public, elsewhere, nil, slices.Concat(public, elsewhere), false},
		"as a private key":                {public, elsewhereKey, nil, slices.Concat(public, elsewhere), false},
		"in both":                         {slices.Concat(public, added), slices.Concat(added, elsewhere), nil, slices.Concat(public, added, elsewhere), false},
		"next to the one that follows":    {slices.Concat(public, next, added), public, next, slices.Concat(public, added), true},
		"twice":                           {slices.Concat(public, public), addedKey, nil, slices.Concat(public, added), false},
		"without a line end between them": {bytes.TrimSpace(public), bytes.TrimSpace(added), nil, slices.Concat(public, added), false},
	} {
		t.Run(name, func(t *testing.T) {
			parts := testpki(t)
			for _, ca := range []string{"front-proxy-ca", "etcd/ca"} {
				parts["kubernetes/pki/"+ca+".crt"], _, parts["kubernetes/pki/"+ca+".key"] = pair(t)
			}
			parts["kubernetes/pki/sa.pub"], parts["kubernetes/pki/sa.key"], parts["kubernetes/pki/old.pub"] = tc.sa, key, tc.old
			if tc.next != nil {
				parts["kubernetes/pki/sa-next.pub"] = tc.next
			}
			u := Unpacked{Parts: parts}
			pki, err := u.PKI("")
			if err != nil || !bytes.Equal(pki["sa.pub"], tc.want) || pki["sa.former"] != nil || pki["sa-next.pub"] != nil {
				t.Errorf("%v\n%s", err, pki["sa.pub"])
			}
			if (len(u.InRotation()) > 0) != tc.rotates {
				t.Errorf("%v", u.InRotation())
			}
		})
	}
	// The same holds for what is left on a disk.
	left := map[string][]byte{"sa.pub": slices.Concat(public, next, added), "sa.key": key, "sa-next.pub": next}
	usable, _, err := UsableKeys(left)
	if err != nil || len(usable) != 2 || !bytes.Equal(usable["sa.pub"], slices.Concat(public, added)) {
		t.Errorf("%v\n%s", err, usable["sa.pub"])
	}
}
