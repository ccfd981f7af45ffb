package observe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// webhookTimeout is for everything that Webhooks reads, and handshakeTimeout for one server of those.
const (
	webhookTimeout   = 15 * time.Second
	handshakeTimeout = 3 * time.Second
)

// Webhooks reads the certificates of what API servers call: admission and conversion webhooks, and the servers of aggregated APIs. A
// control plane asks each server for the certificate that it presents. So it does with the servers of an existing etcd, which are among them
// also if no API server answers: their certificates may be why.
func Webhooks(ctx context.Context, s *cluster.State, conns *host.Set) ([]facts.WebhookCertificates, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, webhookTimeout, fmt.Errorf("no answer within %s", webhookTimeout))
	defer cancel()
	out := etcdServers(ctx, s, conns)
	var servers []kube.Server
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		if c, err := conns.Get(h.Name); err == nil && s.APIServer(h.Name).OK {
			servers = append(servers, kube.Server{Conn: c, Address: net.JoinHostPort(h.Address, hostconfig.APIPort)})
		}
	}
	if len(servers) == 0 {
		return out, errors.New("no API server answers")
	}
	client, err := kube.Connect(ctx, servers)
	if err != nil {
		return out, err
	}
	called, err := callees(ctx, client)
	if err != nil {
		return out, err
	}
	return append(out, describeAll(ctx, client, servers[0].Conn, called)...), nil
}

// etcdServers are those of an etcd of the user's own, with the authorities in the file that the spec names.
func etcdServers(ctx context.Context, s *cluster.State, conns *host.Set) []facts.WebhookCertificates {
	if !s.Spec.ExistingEtcd() || s.Seen.ExistingEtcd == nil {
		return nil
	}
	var called []callee
	for _, endpoint := range s.Spec.Spec.Etcd.Endpoints {
		called = append(called, callee{kind: "Etcd", name: s.Spec.Metadata.Name, url: endpoint, bundle: []byte(s.Seen.ExistingEtcd.CA)})
	}
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		if c, err := conns.Get(h.Name); err == nil {
			return describeAll(ctx, nil, c, called)
		}
	}
	return nil
}

// describeAll asks all of them from one host. The client is for those that are Services.
func describeAll(ctx context.Context, client *kube.Client, conn *host.Conn, called []callee) []facts.WebhookCertificates {
	out := make([]facts.WebhookCertificates, len(called))
	var wg sync.WaitGroup
	for i, c := range called {
		wg.Go(func() { out[i] = c.describe(ctx, client, conn) })
	}
	wg.Wait()
	return out
}

// callee is one server that API servers call.
type callee struct {
	kind, name, part string
	bundle           []byte // PEM
	url              string
	namespace, svc   string
	port             int32
	insecure         bool // the API servers do not verify its certificate
}

func callees(ctx context.Context, client *kube.Client) (out []callee, _ error) {
	admission := func(kind, object, part string, c admissionv1.WebhookClientConfig) {
		x := callee{kind: kind, name: object, part: part, bundle: c.CABundle, port: 443}
		if c.URL != nil {
			x.url = *c.URL
		}
		if c.Service != nil {
			x.namespace, x.svc = c.Service.Namespace, c.Service.Name
			if c.Service.Port != nil {
				x.port = *c.Service.Port
			}
		}
		out = append(out, x)
	}
	validating, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, c := range validating.Items {
		for _, w := range c.Webhooks {
			admission("ValidatingWebhookConfiguration", c.Name, w.Name, w.ClientConfig)
		}
	}
	mutating, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, c := range mutating.Items {
		for _, w := range c.Webhooks {
			admission("MutatingWebhookConfiguration", c.Name, w.Name, w.ClientConfig)
		}
	}
	for _, r := range []struct {
		resource schema.GroupVersionResource
		kind     string
		config   []string
	}{
		{schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "CustomResourceDefinition", []string{"spec", "conversion", "webhook", "clientConfig"}},
		{schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}, "APIService", []string{"spec"}},
	} {
		list, err := client.Dynamic.Resource(r.resource).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, object := range list.Items {
			if c, ok := fromObject(r.kind, object, r.config); ok {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// fromObject reads a callee from an object that has its configuration in a field. One that an API server serves itself has none.
func fromObject(kind string, object unstructured.Unstructured, field []string) (callee, bool) {
	config, found, err := unstructured.NestedMap(object.Object, field...)
	if err != nil || !found {
		return callee{}, false
	}
	out := callee{kind: kind, name: object.GetName(), port: 443}
	if text, ok, _ := unstructured.NestedString(config, "caBundle"); ok {
		out.bundle, _ = base64.StdEncoding.DecodeString(text)
	}
	out.insecure, _, _ = unstructured.NestedBool(config, "insecureSkipTLSVerify")
	out.url, _, _ = unstructured.NestedString(config, "url")
	service, has, _ := unstructured.NestedMap(config, "service")
	if has && service != nil {
		out.namespace, _, _ = unstructured.NestedString(service, "namespace")
		out.svc, _, _ = unstructured.NestedString(service, "name")
		if port, ok, _ := unstructured.NestedInt64(service, "port"); ok {
			out.port = int32(port)
		}
	}
	return out, out.svc != "" || out.url != ""
}

func (c callee) describe(ctx context.Context, client *kube.Client, conn *host.Conn) facts.WebhookCertificates {
	out := facts.WebhookCertificates{Kind: c.kind, Name: c.name, Part: c.part, Server: c.url}
	roots := x509.NewCertPool()
	for _, ca := range parse(c.bundle) {
		roots.AddCert(ca)
		out.Bundle = append(out.Bundle, certificateOf(ca))
	}
	address, serverName := "", ""
	if c.svc != "" {
		out.Server = fmt.Sprintf("%s/%s:%d", c.namespace, c.svc, c.port)
		service, err := client.CoreV1().Services(c.namespace).Get(ctx, c.svc, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			out.Problem = "its Service does not exist"
			return out
		case err != nil:
			out.Unknown = err.Error()
			return out
		case service.Spec.ClusterIP == "" || service.Spec.ClusterIP == "None":
			out.Unknown = "its Service has no address in the cluster"
			return out
		}
		address, serverName = net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(c.port))), c.svc+"."+c.namespace+".svc"
	} else {
		u, err := url.Parse(c.url)
		if err != nil {
			out.Problem = "its URL is not one: " + err.Error()
			return out
		}
		port := u.Port()
		if port == "" {
			port = "443"
		}
		address, serverName = net.JoinHostPort(u.Hostname(), port), u.Hostname()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("%s does not answer %s within %s", out.Server, conn.Name(), handshakeTimeout))
	defer cancel()
	chain, err := presented(ctx, conn, address, serverName)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		out.Unknown = err.Error()
		return out
	}
	leaf := certificateOf(chain[0])
	out.Serving = &leaf
	if c.insecure || len(out.Bundle) == 0 && c.url != "" { // the API servers' own trust store decides
		return out
	}
	between := x509.NewCertPool()
	for _, i := range chain[1:] {
		between.AddCert(i)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: serverName}); err != nil {
		out.Problem = "API servers do not accept its certificate: " + err.Error()
	}
	return out
}

// presented is the certificate that a server presents to a host, with those that it sends along.
func presented(ctx context.Context, conn *host.Conn, address, serverName string) ([]*x509.Certificate, error) {
	nc, err := conn.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	client := tls.Client(nc, &tls.Config{ServerName: serverName, InsecureSkipVerify: true}) //nolint:gosec // to look at the certificate, which is verified afterwards
	var chain []*x509.Certificate
	if err := client.HandshakeContext(ctx); err != nil {
		if chain = client.ConnectionState().PeerCertificates; len(chain) == 0 {
			return nil, err
		}
	}
	if chain = client.ConnectionState().PeerCertificates; len(chain) == 0 {
		return nil, errors.New("it presents no certificate")
	}
	return chain, nil
}

func certificateOf(c *x509.Certificate) facts.Certificate {
	return facts.Certificate{Name: c.Subject.CommonName, Begins: c.NotBefore, Expires: c.NotAfter, Issuer: c.Issuer.CommonName, CA: c.IsCA}
}

func parse(bundle []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out
}
