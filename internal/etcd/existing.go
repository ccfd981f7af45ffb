package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/spec"
)

const (
	// kubernetesPrefix is where every API server of kubeadm's keeps its objects.
	kubernetesPrefix = "/registry/"
	// ownerKey says which cluster an existing etcd belongs to.
	ownerKey = "/quorate.dev/owner"
	// writes is how many writes a probe times.
	writes = 9
	// useTimeout is how long reading and writing may take.
	useTimeout = 3 * time.Second
)

// Files reads the caller's files for an existing etcd, and checks that they match.
func Files(e spec.Etcd) (kubeadm.EtcdClient, error) {
	var out kubeadm.EtcdClient
	for _, f := range []struct {
		name string
		into *[]byte
	}{{e.CAFile, &out.CA}, {e.CertFile, &out.Certificate}, {e.KeyFile, &out.Key}} {
		data, err := paths.Read(f.name)
		if err != nil {
			return out, fmt.Errorf("reading the existing etcd's certificates: %w", err)
		}
		*f.into = data
	}
	if !x509.NewCertPool().AppendCertsFromPEM(out.CA) {
		return out, fmt.Errorf("%s holds no certificate", e.CAFile)
	}
	if _, err := tls.X509KeyPair(out.Certificate, out.Key); err != nil {
		return out, fmt.Errorf("%s and %s: %w", e.CertFile, e.KeyFile, err)
	}
	return out, nil
}

// Describe is what a plan needs to know about the caller's files.
func Describe(e spec.Etcd) *facts.ExistingEtcd {
	files, err := Files(e)
	if err != nil {
		return &facts.ExistingEtcd{Error: err.Error()}
	}
	return &facts.ExistingEtcd{CA: string(files.CA), Client: facts.Sum(files.Certificate)}
}

// ProbeRequest asks a control plane to test an existing etcd with the caller's certificate.
type ProbeRequest struct {
	Endpoints []string
	Client    kubeadm.EtcdClient
}

// Probe tests an existing etcd from the host that it runs on. It changes no key: the write that it times is a transaction
// whose condition never holds, which etcd's members agree on and log like any other.
var Probe = host.Define("etcd.probe", func(ctx context.Context, in ProbeRequest) (facts.EtcdProbe, error) {
	p := prober{client: in.Client, answers: map[string]answer{}}
	out := facts.EtcdProbe{Endpoints: make([]facts.EtcdEndpoint, len(in.Endpoints))}
	var wg sync.WaitGroup
	for i, endpoint := range in.Endpoints {
		wg.Go(func() { out.Endpoints[i] = p.endpoint(ctx, endpoint) })
	}
	wg.Wait()
	p.others(ctx)
	members, err := judge(slices.Collect(maps.Values(p.answers)))
	if err != nil {
		out.Error = "no endpoint answers"
		return out, nil
	}
	out.Members = members
	if err := p.use(ctx, in.Endpoints, &out); err != nil {
		out.Error = err.Error()
	}
	return out, nil
}, host.Secret|host.Reads)

type prober struct {
	client  kubeadm.EtcdClient
	mu      sync.Mutex
	answers map[string]answer // by URL
}

func (p *prober) endpoint(ctx context.Context, endpoint string) facts.EtcdEndpoint {
	out := facts.EtcdEndpoint{URL: endpoint}
	a := twice(ctx, func() answer { return p.ask(ctx, endpoint) })
	p.mu.Lock()
	p.answers[endpoint] = a
	p.mu.Unlock()
	if a.err != nil {
		out.Error = a.err.Error()
		return out
	}
	out.Version, out.ClusterID, out.DBSizeBytes, out.QuotaBytes = a.status.Version, a.status.Header.ClusterId, a.status.DbSize, a.status.DbSizeQuota
	return out
}

func (p *prober) ask(ctx context.Context, endpoint string) answer {
	u, err := url.Parse(endpoint)
	if err != nil {
		return answer{host: endpoint, err: &unaskedError{err}}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	a := answer{host: u.Host, address: u.Host}
	a.status, a.list, a.err = exchange(ctx, func(ctx context.Context, addr string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}, u.Host, p.client)
	return a
}

// others queries the members that no endpoint led to, at the client URLs that they advertise.
func (p *prober) others(ctx context.Context) {
	urls := map[string]bool{}
	for _, a := range p.answers {
		for _, m := range a.list.GetMembers() {
			for _, u := range m.ClientURLs {
				if _, asked := p.answers[u]; !asked && strings.HasPrefix(u, "https://") {
					urls[u] = true
				}
			}
		}
	}
	var wg sync.WaitGroup
	for u := range urls {
		wg.Go(func() { p.endpoint(ctx, u) })
	}
	wg.Wait()
}

// use does what an API server would: reads and writes.
func (p *prober) use(ctx context.Context, endpoints []string, out *facts.EtcdProbe) error {
	client, err := connect(endpoints, p.client)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, useTimeout)
	defer cancel()
	keys, err := client.Get(ctx, kubernetesPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	out.Keys = keys.Count
	owner, err := client.Get(ctx, ownerKey)
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if len(owner.Kvs) > 0 {
		out.Owner = string(owner.Kvs[0].Value)
	}
	var took []time.Duration
	for range writes {
		begin := time.Now()
		_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Version(ownerKey), "<", 0)).Then(clientv3.OpPut(ownerKey, "")).Commit()
		if err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	out.Write = took[len(took)/2]
	return nil
}

// ClaimRequest is the cluster that claims an existing etcd.
type ClaimRequest struct {
	Endpoints []string
	Owner     string
}

// Claim marks an existing etcd as a cluster's, in the same transaction that checks that it is unclaimed and empty: of two
// clusters that are built on one etcd at the same time, one is refused.
var Claim = host.Define("etcd.claim", func(ctx context.Context, in ClaimRequest) (struct{}, error) {
	pem, err := kubeadm.LocalEtcdClient()
	if err != nil {
		return struct{}{}, err
	}
	client, err := connect(in.Endpoints, pem)
	if err != nil {
		return struct{}{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 4*useTimeout)
	defer cancel()
	r, err := client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(ownerKey), "=", 0),
		clientv3.Compare(clientv3.CreateRevision(kubernetesPrefix), "=", 0).WithPrefix(),
	).Then(clientv3.OpPut(ownerKey, in.Owner)).Else(clientv3.OpGet(ownerKey)).Commit()
	if err != nil {
		return struct{}{}, fmt.Errorf("claiming the existing etcd: %w", err)
	}
	if r.Succeeded {
		return struct{}{}, nil
	}
	switch kvs := r.Responses[0].GetResponseRange().Kvs; {
	case len(kvs) == 0:
		return struct{}{}, errors.New("the existing etcd holds another cluster's data: use an etcd that is empty")
	case string(kvs[0].Value) != in.Owner:
		return struct{}{}, fmt.Errorf("the existing etcd belongs to the cluster %s: use an etcd of this cluster's own", kvs[0].Value)
	}
	return struct{}{}, nil
})
