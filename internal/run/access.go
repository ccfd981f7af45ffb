package run

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"quorate.dev/quorate/internal/audit"
	"quorate.dev/quorate/internal/hostside/approve"
)

// access reads who has access to the API. It uses no more of secrets than their names, and how long bootstrap tokens are valid.
func access(ctx context.Context, client kubernetes.Interface) (*audit.Access, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceTimeout, fmt.Errorf("no answer within %s", evidenceTimeout))
	defer cancel()
	var (
		out  audit.Access
		wg   sync.WaitGroup
		errs [4]error
	)
	wg.Go(func() { out.People, errs[0] = people(ctx, client) })
	wg.Go(func() { out.Certificates, errs[1] = issuedCertificates(ctx, client) })
	wg.Go(func() { out.AccountTokens, errs[2] = accountTokens(ctx, client) })
	wg.Go(func() { out.BootstrapTokens, errs[3] = bootstrapTokens(ctx, client, time.Now()) })
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("reading who has access: %w", err)
	}
	return &out, nil
}

// ownSubjects are users and groups of kubeadm and Quorate: administrators, API servers as clients of kubelets, the approver, and the exporter.
var ownSubjects = []string{"kubeadm:cluster-admins", "kube-apiserver-kubelet-client", approve.User, approve.ExporterUser}

// people are those to whom roles are bound, but for the cluster's own programs and kubeadm's administrators.
func people(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	everywhere, err := client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	somewhere, err := client.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var subjects []rbacv1.Subject
	for _, b := range everywhere.Items {
		subjects = append(subjects, b.Subjects...)
	}
	for _, b := range somewhere.Items {
		subjects = append(subjects, b.Subjects...)
	}
	var out []string
	for _, s := range subjects {
		own := strings.HasPrefix(s.Name, "system:") || slices.Contains(ownSubjects, s.Name)
		if s.Kind != rbacv1.ServiceAccountKind && !own {
			out = append(out, strings.ToLower(s.Kind)+" "+s.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// issuedCertificates are client certificates for others than the cluster's own programs.
func issuedCertificates(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	list, err := client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + certificatesv1.KubeAPIServerClientSignerName})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, csr := range list.Items {
		if len(csr.Status.Certificate) == 0 {
			continue
		}
		name := csr.Name
		if block, _ := pem.Decode(csr.Spec.Request); block != nil {
			if r, err := x509.ParseCertificateRequest(block.Bytes); err == nil {
				name = r.Subject.CommonName
			}
		}
		if name != approve.User && !strings.HasPrefix(name, "system:") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// accountTokens are secrets that hold a token of a service account. Only their names are read.
func accountTokens(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	raw, err := client.CoreV1().RESTClient().Get().Resource("secrets").
		VersionedParams(&metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)}, scheme.ParameterCodec).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	var out []string
	for _, s := range list.Items {
		out = append(out, s.Namespace+"/"+s.Name)
	}
	slices.Sort(out)
	return out, nil
}

// bootstrapTokens are those that authenticate somebody now.
func bootstrapTokens(ctx context.Context, client kubernetes.Interface, now time.Time) ([]string, error) {
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range list.Items {
		if string(s.Data["usage-bootstrap-authentication"]) != "true" {
			continue
		}
		name, until := s.Name, string(s.Data["expiration"])
		if until == "" {
			out = append(out, name+", without expiration")
			continue
		}
		end, err := time.Parse(time.RFC3339, until)
		switch {
		case err != nil:
			out = append(out, name+", until "+until)
		case end.After(now):
			out = append(out, name+", until "+end.UTC().Format(time.RFC3339))
		}
	}
	slices.Sort(out)
	return out, nil
}
