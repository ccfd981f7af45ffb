package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"

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
)

// Files reads the caller's files for an etcd that exists already, and sees whether they fit together.
func Files(e spec.Etcd) (kubeadm.EtcdClient, error) {
	var out kubeadm.EtcdClient
	for _, f := range []struct {
		name string
		into *[]byte
	}{{e.CAFile, &out.CA}, {e.CertFile, &out.Certificate}, {e.KeyFile, &out.Key}} {
		data, err := os.ReadFile(paths.Expand(f.name))
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

// Describe is what a plan has to know of the caller's files.
func Describe(e spec.Etcd) *facts.ExistingEtcd {
	files, err := Files(e)
	if err != nil {
		return &facts.ExistingEtcd{Error: err.Error()}
	}
	return &facts.ExistingEtcd{CA: string(files.CA), Client: facts.Sum(files.Certificate)}
}

// ProbeRequest asks a control plane to try an existing etcd with the caller's certificate.
type ProbeRequest struct {
	Endpoints []string
	Client    kubeadm.EtcdClient
}

// Probe tries an existing etcd from the host that it runs on. It changes no key: the write that it times is a
// transaction whose condition never holds, which etcd's members agree on and log like any other.
var Probe = host.Define("etcd.probe", func(ctx context.Context, in ProbeRequest) (facts.EtcdProbe, error) {
	p := prober{client: in.Client, seen: map[uint64]*clientv3.StatusResponse{}}
	out := facts.EtcdProbe{Endpoints: make([]facts.EtcdEndpoint, len(in.Endpoints))}
	var wg sync.WaitGroup
	for i, endpoint := range in.Endpoints {
		wg.Go(func() { out.Endpoints[i] = p.endpoint(ctx, endpoint) })
	}
	wg.Wait()
	if p.list == nil {
		out.Error = "no endpoint answers"
		return out, nil
	}
	p.others(ctx, in.Endpoints)
	out.Members = judge(p.list, p.seen, func(urls []string) string { return fmt.Sprint(urls) })
	if err := p.use(ctx, in.Endpoints, &out); err != nil {
		out.Error = err.Error()
	}
	return out, nil
})

type prober struct {
	client kubeadm.EtcdClient
	mu     sync.Mutex
	seen   map[uint64]*clientv3.StatusResponse
	list   *clientv3.MemberListResponse
}

func (p *prober) endpoint(ctx context.Context, endpoint string) facts.EtcdEndpoint {
	out := facts.EtcdEndpoint{URL: endpoint}
	status, list, err := p.ask(ctx, endpoint)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Version, out.ClusterID, out.DBSizeBytes, out.QuotaBytes = status.Version, status.Header.ClusterId, status.DbSize, status.DbSizeQuota
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[status.Header.MemberId] = status
	if p.list == nil {
		p.list = list
	}
	return out
}

// ask speaks to one member below the level of etcd's client, which waits where a connection is refused or a
// certificate does not fit: here that has to be said.
func (p *prober) ask(ctx context.Context, endpoint string) (*clientv3.StatusResponse, *clientv3.MemberListResponse, error) {
	config, err := configFor([]string{endpoint}, p.client)
	if err != nil {
		return nil, nil, err
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+u.Host, grpc.WithTransportCredentials(credentials.NewTLS(config.TLS)), grpc.WithAuthority(u.Host))
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, nil, errors.New(grpcstatus.Convert(err).Message())
	}
	list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return nil, nil, errors.New(grpcstatus.Convert(err).Message())
	}
	return (*clientv3.StatusResponse)(status), (*clientv3.MemberListResponse)(list), nil
}

// others asks the members that no endpoint led to, at the addresses that they tell their clients.
func (p *prober) others(ctx context.Context, asked []string) {
	var urls []string
	for _, m := range p.list.Members {
		if p.seen[m.ID] == nil {
			urls = append(urls, m.ClientURLs...)
		}
	}
	var wg sync.WaitGroup
	for _, u := range urls {
		if !slices.Contains(asked, u) && strings.HasPrefix(u, "https://") {
			wg.Go(func() { p.endpoint(ctx, u) })
		}
	}
	wg.Wait()
}

// use does what an API server would: reads and writes.
func (p *prober) use(ctx context.Context, endpoints []string, out *facts.EtcdProbe) error {
	client, err := dial(endpoints, p.client)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
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

func dial(endpoints []string, pem kubeadm.EtcdClient) (*clientv3.Client, error) {
	config, err := configFor(endpoints, pem)
	if err != nil {
		return nil, err
	}
	return clientv3.New(config)
}

// ClaimRequest is whose an existing etcd shall be.
type ClaimRequest struct {
	Endpoints []string
	Owner     string
}

// Claim signs an existing etcd for a cluster, in the same transaction that sees that it is nobody's and empty: of two
// clusters that are built at once on one etcd, one is refused.
var Claim = host.Define("etcd.claim", func(ctx context.Context, in ClaimRequest) (struct{}, error) {
	pem, err := kubeadm.LocalEtcdClient()
	if err != nil {
		return struct{}{}, err
	}
	client, err := dial(in.Endpoints, pem)
	if err != nil {
		return struct{}{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 4*timeout)
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
