package observe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const (
	// readyTimeout is how long an API server may take to answer /readyz.
	readyTimeout = 2 * time.Second
	// callerTimeout is less: many callers cannot reach the endpoint, and an observation must not wait long for that.
	callerTimeout = time.Second
	// askers is how many hosts query the endpoint. Each has a different path through the network, so one answer is not enough,
	// and all hosts would be too many.
	askers = 3
)

// endpoint queries the API's readiness through the load balancer, as every client does, from several hosts and from the
// caller.
func endpoint(ctx context.Context, c *spec.Cluster, conns *host.Set, obs *facts.Observation) facts.Endpoint {
	ca := cluster.Evaluate(c, obs).CA()
	if ca == "" {
		return facts.Endpoint{Unknown: "no host has the cluster's CA certificate"}
	}
	var out facts.Endpoint
	var wg sync.WaitGroup
	wg.Go(func() { out.Hosts = Endpoint(ctx, c, conns, Askers(c, obs), ca) })
	wg.Go(func() {
		ctx, cancel := context.WithTimeoutCause(ctx, callerTimeout, fmt.Errorf("no answer within %s", callerTimeout))
		defer cancel()
		a := answer(readyz(ctx, (&net.Dialer{}).DialContext, endpointAddress(c), hostconfig.EndpointHost(c), ca))
		out.Caller = &a
	})
	wg.Wait()
	if len(out.Hosts) == 0 {
		out.Unknown = "no host can be reached"
	}
	return out
}

// Askers are the hosts that query the endpoint, the most informative first. The host that has the virtual IP always reaches
// it, so it is used only if there is no other. They are spread over the zones.
func Askers(c *spec.Cluster, obs *facts.Observation) []string {
	var ranked [3][]spec.Host
	for _, h := range c.Spec.Hosts {
		b := obs.Hosts[h.Name].Balancer
		switch {
		case obs.Hosts[h.Name].Facts == nil:
		case !c.Balances(h) && !h.Has(spec.RoleControlPlane):
			ranked[0] = append(ranked[0], h)
		case !c.Balances(h) || b != nil && !b.Active:
			ranked[1] = append(ranked[1], h)
		default:
			ranked[2] = append(ranked[2], h)
		}
	}
	if len(ranked[0])+len(ranked[1]) > 0 {
		ranked[2] = nil
	}
	var out []string
	zones := map[string]int{}
	for _, hosts := range ranked {
		for _, h := range hosts {
			zones[h.Zone] = 0
		}
	}
	for round := range len(c.Spec.Hosts) {
		for _, hosts := range ranked {
			for _, h := range hosts {
				if len(out) < askers && zones[h.Zone] == round && !slices.Contains(out, h.Name) {
					out = append(out, h.Name)
					zones[h.Zone]++
				}
			}
		}
	}
	return out
}

func endpointAddress(c *spec.Cluster) string {
	return net.JoinHostPort(cmp.Or(c.Spec.LoadBalancer.Address, hostconfig.EndpointHost(c)), hostconfig.EndpointPort(c))
}

// Endpoint queries the API's readiness through the load balancer, from hosts. Hosts without a session have no answer.
func Endpoint(ctx context.Context, c *spec.Cluster, conns *host.Set, from []string, ca string) map[string]facts.Answer {
	out := map[string]facts.Answer{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range from {
		conn, err := conns.Get(name)
		if err != nil {
			continue
		}
		wg.Go(func() {
			a := askReady(ctx, conn, endpointAddress(c), hostconfig.EndpointHost(c), ca)
			mu.Lock()
			defer mu.Unlock()
			out[name] = a
		})
	}
	wg.Wait()
	return out
}

// APIServer queries the readiness of an API server from its own host, and verifies its certificate for a name.
func APIServer(ctx context.Context, conn *host.Conn, h spec.Host, name, ca string) facts.Answer {
	return askReady(ctx, conn, net.JoinHostPort(h.Address, hostconfig.APIPort), name, ca)
}

// askReady asks one address for /readyz, from a host.
func askReady(ctx context.Context, conn *host.Conn, address, name, ca string) facts.Answer {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %s", readyTimeout))
	defer cancel()
	err := readyz(ctx, conn.DialContext, address, name, ca)
	if err != nil && !host.Unanswered(err) && conn.Err() != nil {
		err = conn.Err() // whatever it looked like
	}
	a := answer(err)
	a.Problem, a.Unknown = strings.TrimPrefix(a.Problem, conn.Name()+": "), strings.TrimPrefix(a.Unknown, conn.Name()+": ")
	return a
}

// answer converts an error into an answer about the queried program: a problem, or unknown.
func answer(err error) facts.Answer {
	switch {
	case err == nil:
		return facts.Answer{OK: true}
	case host.Unanswered(err):
		return facts.Answer{Unknown: err.Error()}
	}
	return facts.Answer{Problem: err.Error()}
}

// readyz requests /readyz from one address and verifies the certificate for the given name.
func readyz(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), address, name, ca string) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return errors.New("the cluster's CA file holds no certificate")
	}
	// Connect first: if ctx ends, HTTP's error would not show whether the connecting host did not answer.
	nc, err := dial(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil && !host.Unanswered(err) {
			return context.Cause(ctx)
		}
		return err
	}
	defer nc.Close()
	transport := &http.Transport{
		Proxy:             host.Direct,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return nc, nil },
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil && !host.Unanswered(err) {
			return context.Cause(ctx)
		}
		return err
	}
	defer resp.Body.Close()
	switch {
	case ctx.Err() != nil: // it may have ended the request only because the connection was being closed
		return context.Cause(ctx)
	case resp.StatusCode == http.StatusOK:
		return nil
	}
	// A server that is not ready lists its checks, with the reasons of those that fail.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	failed := ""
	for line := range strings.Lines(string(body)) {
		if check, ok := strings.CutPrefix(line, "[-]"); ok {
			failed += "; " + strings.TrimSpace(check)
		}
	}
	return fmt.Errorf("/readyz: %s%s", resp.Status, failed)
}
