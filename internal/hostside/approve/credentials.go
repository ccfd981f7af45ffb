package approve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/pkifile"
)

// The approver reads requests from nodes, which may be compromised. So it does not have the administrator's permissions, but
// its own user, which can approve serving certificates of kubelets and nothing else. The certificate of this user is valid for
// days. A process that reads no requests of nodes renews it, with the administrator's kubeconfig. The same process renews the credentials of
// the exporter of metrics (see exporter.go), which Prometheus talks to.

const (
	// User is the approver's user in the API; the manifest approver binds its role.
	User = "quorate:approver"
	// lifetime is how long its certificate is valid. It is renewed when less than renewBefore is left.
	lifetime    = 7 * 24 * time.Hour
	renewBefore = 4 * 24 * time.Hour
	// signing is how long the controller manager may take to sign.
	signing = 30 * time.Second
)

// certificates is the part of an administrator's client that request needs.
type certificates interface {
	Create(context.Context, *certificatesv1.CertificateSigningRequest, metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error)
	UpdateApproval(context.Context, string, *certificatesv1.CertificateSigningRequest, metav1.UpdateOptions) (*certificatesv1.CertificateSigningRequest, error)
	Get(context.Context, string, metav1.GetOptions) (*certificatesv1.CertificateSigningRequest, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// Renew makes sure that the approver has credentials for the next days, and the exporter of metrics if there is one, and writes to log if it
// renewed any. As long as the approver's old ones are valid, a failure is not an error, and neither is one of the exporter's: the next run
// tries again.
func Renew(ctx context.Context, log io.Writer) error {
	admin, err := clientcmd.LoadFromFile(adminConf)
	if err != nil {
		return err
	}
	cluster, err := currentCluster(admin)
	if err != nil {
		return fmt.Errorf("%s: %w", adminConf, err)
	}
	r := &renewal{admin: admin, cluster: cluster, log: log}
	err = r.user(ctx, User, facts.ApproverFile)
	if err := r.exporter(ctx); err != nil {
		fmt.Fprintln(log, "the exporter of metrics:", err)
	}
	return err
}

// renewal is one run of Renew.
type renewal struct {
	admin   *clientcmdapi.Config
	cluster *clientcmdapi.Cluster
	log     io.Writer
	// due is a file that is made before something is replaced, for whoever uses it to be restarted; empty for nobody.
	due string
}

// user makes sure that a user has a certificate, in a kubeconfig.
func (r *renewal) user(ctx context.Context, name, path string) error {
	left := remaining(name, path, r.cluster, authority(authorityFile), time.Now())
	if left > renewBefore {
		return nil
	}
	config, err := clientcmd.NewDefaultClientConfig(*r.admin, nil).ClientConfig()
	if err != nil {
		return err
	}
	config.Proxy = host.Direct
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	content, err := request(ctx, client.CertificatesV1().CertificateSigningRequests(), name, r.cluster)
	if err == nil {
		err = r.replace(path, content)
	}
	switch {
	case err == nil:
		fmt.Fprintf(r.log, "%s has a new certificate for %s\n", name, lifetime)
	case left > 0:
		fmt.Fprintf(r.log, "the certificate of %s could not be renewed, and is valid for %s more: %v\n", name, left.Round(time.Minute), err)
		err = nil
	}
	return err
}

// replace writes new credentials, after what says that a restart is due.
func (r *renewal) replace(path string, content []byte) error {
	if r.due != "" {
		if err := durable.WriteFile(r.due, nil, 0o600); err != nil {
			return err
		}
	}
	return durable.WriteFile(path, content, 0o600)
}

func currentCluster(config *clientcmdapi.Config) (*clientcmdapi.Cluster, error) {
	if c := config.Contexts[config.CurrentContext]; c != nil && config.Clusters[c.Cluster] != nil {
		return config.Clusters[c.Cluster], nil
	}
	return nil, errors.New("it has no current context")
}

// authorityFile holds the certificate of the authority that signs now, before others that are trusted as well.
const authorityFile = "/etc/kubernetes/pki/ca.crt"

// authority reads the certificate of the authority that signs now; nil if it cannot be read.
func authority(path string) *x509.Certificate {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	if all := pkifile.Certificates(text); len(all) > 0 {
		return all[0]
	}
	return nil
}

// remaining is how long a user's credentials are valid with this cluster; 0 if they are not, or if an authority signed them that
// is being replaced.
func remaining(name, path string, cluster *clientcmdapi.Cluster, signer *x509.Certificate, now time.Time) time.Duration {
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return 0
	}
	have, err := currentCluster(config)
	if err != nil || have.Server != cluster.Server || !bytes.Equal(have.CertificateAuthorityData, cluster.CertificateAuthorityData) {
		return 0
	}
	user := config.AuthInfos[name]
	if user == nil {
		return 0
	}
	pair, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	if err != nil || signer != nil && pair.Leaf.CheckSignatureFrom(signer) != nil {
		return 0
	}
	return max(0, pair.Leaf.NotAfter.Sub(now))
}

// request gets a certificate for a user from the API's signer for clients, and returns a kubeconfig with it.
func request(ctx context.Context, api certificates, name string, cluster *clientcmdapi.Cluster) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, err
	}
	seconds := int32(lifetime / time.Second)
	csr, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: strings.ReplaceAll(name, ":", "-") + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, ExpirationSeconds: &seconds,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate for %s: %w", name, err)
	}
	defer api.Delete(context.WithoutCancel(ctx), csr.Name, metav1.DeleteOptions{}) //nolint:errcheck // the API removes requests after an hour
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue,
		Reason: "QuorateApprover", Message: "Requested and approved by an administrator, for a program of Quorate on this control plane.",
	})
	if _, err := api.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("approving the certificate for %s: %w", name, err)
	}
	certificate, err := signed(ctx, api, csr.Name)
	if err != nil {
		return nil, fmt.Errorf("the certificate for %s: %w", name, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if _, err := tls.X509KeyPair(certificate, keyPEM); err != nil {
		return nil, fmt.Errorf("the certificate for %s: %w", name, err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: cluster.Server, CertificateAuthorityData: cluster.CertificateAuthorityData}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: keyPEM}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: name}
	config.CurrentContext = name
	return clientcmd.Write(*config)
}

// signed waits for the signer.
func signed(ctx context.Context, api certificates, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, signing, fmt.Errorf("nobody signed it within %s", signing))
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		csr, err := api.Get(ctx, name, metav1.GetOptions{})
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, err
		case len(csr.Status.Certificate) > 0:
			return csr.Status.Certificate, nil
		}
		for _, c := range csr.Status.Conditions {
			if c.Type == certificatesv1.CertificateFailed || c.Type == certificatesv1.CertificateDenied {
				return nil, fmt.Errorf("%s: %s", c.Reason, c.Message)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// credentials are those that Renew made.
func credentials() (*kubernetes.Clientset, error) {
	if _, err := os.Stat(facts.ApproverFile); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the approver has no credentials yet: there is no %s", facts.ApproverFile)
	}
	config, err := clientcmd.BuildConfigFromFlags("", facts.ApproverFile)
	if err != nil {
		return nil, err
	}
	config.Proxy = host.Direct
	return kubernetes.NewForConfig(config)
}
