package approve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// signer is an API whose controller manager signs what is approved.
type signer struct {
	asleep  bool
	csr     *certificatesv1.CertificateSigningRequest
	deleted string
}

func (s *signer) Create(_ context.Context, csr *certificatesv1.CertificateSigningRequest, _ metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	s.csr = csr.DeepCopy()
	s.csr.Name = csr.GenerateName + "x"
	return s.csr.DeepCopy(), nil
}

func (s *signer) UpdateApproval(_ context.Context, name string, csr *certificatesv1.CertificateSigningRequest, _ metav1.UpdateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	if name != s.csr.Name {
		return nil, errors.New("another request is approved")
	}
	s.csr = csr.DeepCopy()
	return csr, nil
}

func (s *signer) Get(context.Context, string, metav1.GetOptions) (*certificatesv1.CertificateSigningRequest, error) {
	if len(s.csr.Status.Conditions) == 0 || s.asleep {
		return s.csr, nil
	}
	block, _ := pem.Decode(s.csr.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: request.Subject, NotAfter: time.Now().Add(time.Duration(*s.csr.Spec.ExpirationSeconds) * time.Second)}
	parent := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kubernetes"}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, request.PublicKey, key)
	s.csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return s.csr, err
}

func (s *signer) Delete(_ context.Context, name string, _ metav1.DeleteOptions) error {
	s.deleted = name
	return nil
}

// TestCredentialsAreTheApproversAlone: neither the administrator's user nor his groups are in them, and they end soon.
func TestCredentialsAreTheApproversAlone(t *testing.T) {
	cluster := &clientcmdapi.Cluster{Server: "https://api.test:6443", CertificateAuthorityData: []byte("CA")}
	api := &signer{}
	content, err := request(t.Context(), api, User, cluster)
	if err != nil {
		t.Fatal(err)
	}
	spec := api.csr.Spec
	block, _ := pem.Decode(spec.Request)
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || r.Subject.String() != "CN=quorate:approver" || len(r.DNSNames)+len(r.IPAddresses) > 0 {
		t.Errorf("requested for %s, %v", r.Subject, err)
	}
	if spec.SignerName != "kubernetes.io/kube-apiserver-client" || len(spec.Usages) != 2 || spec.Usages[1] != certificatesv1.UsageClientAuth {
		t.Errorf("requested %+v", spec)
	}
	if api.deleted != api.csr.Name {
		t.Error("the request stays in the API")
	}
	path := filepath.Join(t.TempDir(), "approver.conf")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if left := remaining(User, path, cluster, nil, now); left < lifetime-time.Minute || left > lifetime {
		t.Errorf("valid for %s", left)
	}
	if left := remaining(User, path, cluster, nil, now.Add(lifetime-renewBefore+time.Hour)); left > renewBefore || left == 0 {
		t.Errorf("not renewed in time: %s", left)
	}
	for name, other := range map[string]*clientcmdapi.Cluster{
		"another CA":       {Server: cluster.Server, CertificateAuthorityData: []byte("other")},
		"another endpoint": {Server: "https://other:6443", CertificateAuthorityData: cluster.CertificateAuthorityData},
	} {
		if left := remaining(User, path, other, nil, now); left != 0 {
			t.Errorf("with %s they count as valid for %s", name, left)
		}
	}
	if left := remaining(User, path, cluster, nil, now.Add(lifetime)); left != 0 {
		t.Errorf("expired, and valid for %s", left)
	}
	if left := remaining(User, path, cluster, &x509.Certificate{Version: 3}, now); left != 0 {
		t.Errorf("an authority that is being replaced signed them, and they count as valid for %s", left)
	}
	for name, broken := range map[string][]byte{"half": content[:len(content)/2], "empty": nil, "the administrator's": bytes.ReplaceAll(content, []byte(User), []byte("kubernetes-admin"))} {
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if left := remaining(User, path, cluster, nil, now); left != 0 {
			t.Errorf("%s: valid for %s", name, left)
		}
	}
	config, err := clientcmd.Load(content)
	if err != nil || len(config.AuthInfos) != 1 {
		t.Errorf("users %v, %v", config.AuthInfos, err)
	}
}

func TestSignerThatSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &signer{asleep: true}
		if _, err := request(t.Context(), api, User, &clientcmdapi.Cluster{}); err == nil || !strings.Contains(err.Error(), "nobody signed it") {
			t.Errorf("got %v", err)
		}
		if api.deleted == "" {
			t.Error("the request stays in the API")
		}
	})
}
