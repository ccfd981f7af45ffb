// Package approve approves the serving certificates that kubelets request. It runs on control planes, from a timer.
package approve

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	adminConf = "/etc/kubernetes/admin.conf"
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"
)

// Run approves the pending requests that may be approved, and logs what it does with each request. The others are left to
// people: after a denial, the kubelet would only send another request.
func Run(ctx context.Context, log io.Writer) error {
	file, err := os.ReadFile(hostconfig.NodesFile)
	if err != nil {
		return err
	}
	client, err := credentials()
	if err != nil {
		return err
	}
	return pending(ctx, client.CertificatesV1().CertificateSigningRequests(), ParseNodes(string(file)), log)
}

// requests is the part of a client that Run needs.
type requests interface {
	List(context.Context, metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error)
	UpdateApproval(context.Context, string, *certificatesv1.CertificateSigningRequest, metav1.UpdateOptions) (*certificatesv1.CertificateSigningRequest, error)
}

func pending(ctx context.Context, requests requests, nodes map[string][]string, log io.Writer) error {
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + certificatesv1.KubeletServingSignerName})
	if err != nil {
		return err
	}
	var errs []error
	for _, csr := range list.Items {
		if len(csr.Status.Conditions) > 0 || len(csr.Status.Certificate) > 0 {
			continue
		}
		if err := Check(csr.Spec, nodes); err != nil {
			fmt.Fprintf(log, "not approved: %s of %s: %v\n", csr.Name, csr.Spec.Username, err)
			continue
		}
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue,
			Reason: "QuorateKnowsTheNode", Message: "Names and addresses are those of the node in the cluster's spec.",
		})
		if _, err := requests.UpdateApproval(ctx, csr.Name, &csr, metav1.UpdateOptions{}); err != nil {
			errs = append(errs, fmt.Errorf("approving %s: %w", csr.Name, err))
			continue
		}
		fmt.Fprintf(log, "approved: %s of %s\n", csr.Name, csr.Spec.Username)
	}
	return errors.Join(errs...)
}

// ParseNodes reads hostconfig.NodesFile: a name, and one or two addresses on each line.
func ParseNodes(file string) map[string][]string {
	nodes := map[string][]string{}
	for line := range strings.Lines(file) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			nodes[fields[0]] = fields[1:]
		}
	}
	return nodes
}

// Check returns why a request may not be approved; nil if it may. A kubelet may only request a certificate for itself, with
// the name and the addresses that the spec has for its host. What the node reports about itself does not count, because anyone
// who has compromised it can change that.
func Check(csr certificatesv1.CertificateSigningRequestSpec, nodes map[string][]string) error {
	name, isNode := strings.CutPrefix(csr.Username, nodeUser)
	addresses, known := nodes[name]
	switch {
	case csr.SignerName != certificatesv1.KubeletServingSignerName:
		return fmt.Errorf("it is for the signer %s", csr.SignerName)
	case !isNode || !slices.Contains(csr.Groups, nodeGroup):
		return errors.New("it does not come from a node")
	case !known:
		return errors.New("the spec has no such node")
	}
	for _, u := range csr.Usages {
		if u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment && u != certificatesv1.UsageServerAuth {
			return fmt.Errorf("it asks for the usage %q", u)
		}
	}
	block, rest := pem.Decode(csr.Request)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("it holds no certificate request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return err
	}
	switch {
	case request.Subject.CommonName != csr.Username || !slices.Equal(request.Subject.Organization, []string{nodeGroup}):
		return fmt.Errorf("its subject is %s", request.Subject)
	case len(request.EmailAddresses)+len(request.URIs) > 0:
		return errors.New("it asks for more than names and addresses")
	}
	for _, dns := range request.DNSNames {
		if dns != name {
			return fmt.Errorf("it asks for the name %s", dns)
		}
	}
	for _, ip := range request.IPAddresses {
		if !slices.ContainsFunc(addresses, func(a string) bool { return ip.Equal(net.ParseIP(a)) }) {
			return fmt.Errorf("it asks for the address %s", ip)
		}
	}
	return nil
}
