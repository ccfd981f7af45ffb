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
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var nodes = ParseNodes("cp-a 10.0.0.11\nworker-a 10.0.0.14\n\nbroken\n")

// TestBothAddressesOfANodeAreApproved in a dual-stack cluster.
func TestBothAddressesOfANodeAreApproved(t *testing.T) {
	dual := ParseNodes("cp-a 10.0.0.11 fd00::11\nworker-a 10.0.0.14 fd00::14\n")
	request := template()
	request.IPAddresses = append(request.IPAddresses, net.ParseIP("fd00::14"))
	if err := Check(spec(t, request), dual); err != nil {
		t.Errorf("a kubelet's own request: %v", err)
	}
	request.IPAddresses = append(request.IPAddresses, net.ParseIP("fd00::11"))
	if err := Check(spec(t, request), dual); err == nil || !strings.Contains(err.Error(), "the address fd00::11") {
		t.Errorf("the address of another node: %v", err)
	}
}

func template() x509.CertificateRequest {
	return x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:worker-a", Organization: []string{"system:nodes"}},
		DNSNames: []string{"worker-a"}, IPAddresses: []net.IP{net.ParseIP("10.0.0.14")},
	}
}

func spec(t *testing.T, template x509.CertificateRequest) certificatesv1.CertificateSigningRequestSpec {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: certificatesv1.KubeletServingSignerName, Username: "system:node:worker-a", Groups: []string{"system:nodes", "system:authenticated"},
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}
}

func TestOnlyTheNodeItselfIsApproved(t *testing.T) {
	if err := Check(spec(t, template()), nodes); err != nil {
		t.Errorf("a kubelet's own request: %v", err)
	}
	for want, change := range map[string]func(*x509.CertificateRequest){
		"the name api.test":       func(r *x509.CertificateRequest) { r.DNSNames = append(r.DNSNames, "api.test") },
		"the address 10.0.0.11":   func(r *x509.CertificateRequest) { r.IPAddresses = append(r.IPAddresses, net.ParseIP("10.0.0.11")) },
		"more than names":         func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@example.com"} },
		"names and addresses":     func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} },
		"subject is CN=system:no": func(r *x509.CertificateRequest) { r.Subject.CommonName = "system:node:cp-a" },
		"subject is CN=":          func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} },
	} {
		r := template()
		change(&r)
		if err := Check(spec(t, r), nodes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	for want, change := range map[string]func(*certificatesv1.CertificateSigningRequestSpec){
		"for the signer": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.SignerName = certificatesv1.KubeAPIServerClientSignerName
		},
		"does not come from":  func(s *certificatesv1.CertificateSigningRequestSpec) { s.Username = "worker-a" },
		"come from a node":    func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = nil },
		"no such node":        func(s *certificatesv1.CertificateSigningRequestSpec) { s.Username = "system:node:other" },
		`usage "client auth"`: func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = append(s.Usages, "client auth") },
		"no certificate":      func(s *certificatesv1.CertificateSigningRequestSpec) { s.Request = append(s.Request, s.Request...) },
	} {
		s := spec(t, template())
		change(&s)
		if err := Check(s, nodes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// api holds requests as the API does.
type api []*certificatesv1.CertificateSigningRequest

func (a api) List(_ context.Context, o metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error) {
	if o.FieldSelector != "spec.signerName=kubernetes.io/kubelet-serving" {
		return nil, fmt.Errorf("asked for %q", o.FieldSelector)
	}
	var list certificatesv1.CertificateSigningRequestList
	for _, csr := range a {
		list.Items = append(list.Items, *csr.DeepCopy())
	}
	return &list, nil
}

func (a api) UpdateApproval(_ context.Context, name string, csr *certificatesv1.CertificateSigningRequest, _ metav1.UpdateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	for i := range a {
		if a[i].Name == name {
			a[i] = csr.DeepCopy()
			return csr, nil
		}
	}
	return nil, fmt.Errorf("no %s", name)
}

func TestPendingRequestsAreApprovedOnce(t *testing.T) {
	stranger := spec(t, template())
	stranger.Username = "system:node:other"
	denied := certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "denied"}, Spec: spec(t, template())}
	denied.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied}}
	client := api{
		&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "good"}, Spec: spec(t, template())},
		&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: stranger}, &denied,
	}
	var log bytes.Buffer
	if err := pending(t.Context(), client, nodes, &log); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "approved: good of") || !strings.Contains(got, "not approved: bad of") || strings.Contains(got, "denied") {
		t.Errorf("it did %q", got)
	}
	log.Reset()
	if err := pending(t.Context(), client, nodes, &log); err != nil || strings.Contains(log.String(), "approved: good") {
		t.Errorf("the second time it did %q, %v", log.String(), err)
	}
}
