// Package kube talks to the cluster's API through the sessions to its control planes, so that it works where the caller
// cannot reach the endpoint, or where the endpoint is what is being examined.
package kube

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
)

// Server is one API server: the session to its host, and its address as seen from there.
type Server struct {
	Conn    *host.Conn
	Address string // host:port
}

// Client is an administrator's client.
type Client struct {
	kubernetes.Interface
	Dynamic dynamic.Interface
	Config  *rest.Config
}

// Connect makes a client that reaches any of the servers. Credentials are read from the first control plane that has
// valid ones and stay in memory. Expired ones are used only if there are no others. Away is why other control planes cannot be asked. If it or a request of the client fails, host.Unanswered says whether that is because a host
// could not be asked.
func Connect(ctx context.Context, servers []Server, away ...error) (*Client, error) {
	var errs []error
	var expired *Client
	for _, s := range servers {
		kubeconfig, err := kubeadm.Admin.On(ctx, s.Conn, struct{}{})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		client, err := through(servers, kubeconfig)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: admin.conf: %w", s.Conn.Name(), err))
			continue
		}
		if admin, err := ReadAdmin(kubeconfig); err == nil && admin.Expired(time.Now()) {
			if expired == nil {
				expired = client
			}
			continue
		}
		return client, nil
	}
	if expired != nil {
		return expired, nil // the API server says what is wrong
	}
	if len(servers) == 0 {
		return nil, cmp.Or(errors.Join(away...), errors.New("no control plane can be asked"))
	}
	return nil, fmt.Errorf("no control plane that can be asked has a usable admin.conf: %w", errors.Join(append(errs, away...)...))
}

// through makes a client that connects through the servers' sessions.
func through(servers []Server, kubeconfig []byte) (*Client, error) {
	admin, err := ReadAdmin(kubeconfig)
	if err != nil {
		return nil, err
	}
	return newClient(&rest.Config{
		Host: admin.Server, Dial: dialer(servers), QPS: 50, Burst: 100,
		TLSClientConfig: rest.TLSClientConfig{CAData: admin.CA, CertData: admin.Certificate, KeyData: admin.Key},
		WrapTransport:   func(rt http.RoundTripper) http.RoundTripper { return patient{rt} },
	})
}

// Admin is what an admin.conf of kubeadm contains.
type Admin struct {
	Server               string // URL of the endpoint
	CA, Certificate, Key []byte // PEM
}

// Expired says that its client certificate is not valid any more, or no authority that it trusts.
func (a Admin) Expired(now time.Time) bool {
	pair, err := tls.X509KeyPair(a.Certificate, a.Key)
	if err == nil && now.After(pair.Leaf.NotAfter) {
		return true
	}
	trusted := pkifile.Certificates(a.CA)
	return len(trusted) > 0 && !slices.ContainsFunc(trusted, func(c *x509.Certificate) bool { return !now.After(c.NotAfter) })
}

// ReadAdmin reads an admin.conf. It uses only what kubeadm writes: a kubeconfig can also name programs to run and files to
// read, and this one comes from a host.
func ReadAdmin(kubeconfig []byte) (Admin, error) {
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return Admin{}, err
	}
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil || config.AuthInfos[current.AuthInfo] == nil {
		return Admin{}, fmt.Errorf("it has no usable context %q", config.CurrentContext)
	}
	cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]
	out := Admin{cluster.Server, cluster.CertificateAuthorityData, user.ClientCertificateData, user.ClientKeyData}
	switch u, err := url.Parse(out.Server); {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return Admin{}, fmt.Errorf("it has no usable server %q", out.Server)
	case len(out.CA) == 0:
		return Admin{}, errors.New("it has no certificate authority")
	case len(out.Certificate) == 0 || len(out.Key) == 0:
		return Admin{}, errors.New("it has no client certificate")
	}
	return out, nil
}

// FromConfig makes a client of a kubeconfig's configuration, for callers that reach the endpoint directly.
func FromConfig(config *rest.Config) (*Client, error) { return newClient(rest.CopyConfig(config)) }

func newClient(config *rest.Config) (*Client, error) {
	config.Proxy = host.Direct
	config.WarningHandlerWithContext = warnings{}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	return &Client{Interface: typed, Dynamic: dyn, Config: config}, nil
}

// warnings are those of API servers, without the one that people can do nothing about: the Endpoints object of the API's Service is part
// of every cluster, and API servers keep it themselves.
type warnings struct{ rest.WarningLogger }

func (w warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, agent, text string) {
	if !strings.HasPrefix(text, "v1 Endpoints is deprecated") {
		w.WarningLogger.HandleWarningHeaderWithContext(ctx, code, agent, text)
	}
}

// dialer ignores the requested address, which is the endpoint's, and tries the API servers in turn, starting with the one that
// worked last. TLS still verifies the endpoint's name.
func dialer(servers []Server) func(context.Context, string, string) (net.Conn, error) {
	var last atomic.Int32
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var errs []error
		for i := range servers {
			n := (int(last.Load()) + i) % len(servers)
			attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
			nc, err := servers[n].Conn.DialContext(attempt, network, servers[n].Address)
			cancel()
			if err == nil {
				last.Store(int32(n))
				return nc, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", servers[n].Conn.Name(), err))
		}
		return nil, fmt.Errorf("no API server accepts connections: %w", errors.Join(errs...))
	}
}
