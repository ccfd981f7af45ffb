// Package kube speaks to the cluster's API through SSH sessions to its control planes, so that it works
// where the endpoint itself cannot be reached, or is what is being examined.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
)

// Server is one apiserver: the session to its host, and its address as seen from there.
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
// them and stay in memory.
func Connect(ctx context.Context, servers []Server) (*Client, error) {
	var errs []error
	for _, s := range servers {
		kubeconfig, err := kubeadm.Admin.On(ctx, s.Conn, struct{}{})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: admin.conf: %w", s.Conn.Name(), err))
			continue
		}
		config.Dial = dialer(servers)
		config.Timeout = 0
		config.QPS, config.Burst = 50, 100
		return newClient(config)
	}
	return nil, fmt.Errorf("no control plane has an admin.conf: %w", errors.Join(errs...))
}

// FromConfig makes a client of a kubeconfig's configuration, for callers that reach the endpoint themselves.
func FromConfig(config *rest.Config) (*Client, error) { return newClient(config) }

func newClient(config *rest.Config) (*Client, error) {
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

// dialer ignores the address that it is asked for, which is the endpoint's, and tries the apiservers in turn,
// beginning with the one that worked last. TLS still verifies the endpoint's name.
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
		return nil, fmt.Errorf("no apiserver accepts connections: %w", errors.Join(errs...))
	}
}
