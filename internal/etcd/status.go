// Package etcd asks etcd members how they are, through SSH sessions to their hosts.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
)

// Member is a way to a member: the session that it is asked through, and its address as seen from there.
type Member struct {
	Conn    *host.Conn
	Address string // host:port
}

// timeout for one question to one member. A member that has no leader answers Status at once and says so.
const timeout = 3 * time.Second

// Observe asks every member for its own state and one of them for the list of members. Members that nobody could ask
// are in the list as unhealthy; there may be several ways to one member. It fails only when no member answers.
func Observe(ctx context.Context, members []Member) ([]facts.EtcdMember, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		listed *clientv3.MemberListResponse
		seen   = map[uint64]*clientv3.StatusResponse{}
		errs   []error
	)
	for _, m := range members {
		wg.Go(func() {
			status, list, err := ask(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			seen[status.Header.MemberId] = status
			if listed == nil {
				listed = list
			}
		})
	}
	wg.Wait()
	if listed == nil {
		return nil, fmt.Errorf("no etcd member answers: %w", errors.Join(errs...))
	}
	return judge(listed, seen, func(urls []string) string { return nameOf(urls, members) }), nil
}

// judge puts together what the members say of each other and of themselves.
func judge(list *clientv3.MemberListResponse, seen map[uint64]*clientv3.StatusResponse, name func(peerURLs []string) string) []facts.EtcdMember {
	var out []facts.EtcdMember
	for _, e := range list.Members {
		m := facts.EtcdMember{Name: e.Name, Learner: e.IsLearner, Started: e.Name != ""}
		if !m.Started {
			m.Name = name(e.PeerURLs)
		}
		if s, ok := seen[e.ID]; ok {
			m.Healthy = s.Leader != 0 && len(s.Errors) == 0
			m.Leader = s.Leader == e.ID
			m.DBSizeBytes = s.DbSize
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b facts.EtcdMember) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// nameOf finds the host of a member that has not started, and so has not told its name yet.
func nameOf(urls []string, members []Member) string {
	for _, m := range members {
		address, _, _ := net.SplitHostPort(m.Address)
		if slices.Contains(urls, "https://"+net.JoinHostPort(address, "2380")) {
			return m.Conn.Name()
		}
	}
	return strings.Join(urls, ",")
}

func ask(ctx context.Context, m Member) (*clientv3.StatusResponse, *clientv3.MemberListResponse, error) {
	client, err := Connect(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := client.Status(ctx, client.Endpoints()[0])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: etcd: %w", m.Conn.Name(), err)
	}
	// The member's own list, without asking the quorum: it must work when there is none.
	list, err := client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return status, nil, nil //nolint:nilerr // its own state is known, and another member may have the list
	}
	return status, list, nil
}

// Connect makes a client of one member, with the certificate that the host at the other end of the session has.
func Connect(ctx context.Context, m Member) (*clientv3.Client, error) {
	pem, err := kubeadm.ReadEtcdClient.On(ctx, m.Conn, struct{}{})
	if err != nil {
		return nil, err
	}
	config, err := configFor([]string{"https://" + m.Address}, pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Conn.Name(), err)
	}
	config.DialOptions = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return m.Conn.DialContext(ctx, "tcp", m.Address)
	})}
	return clientv3.New(config)
}

func configFor(endpoints []string, pem kubeadm.EtcdClient) (clientv3.Config, error) {
	cert, err := tls.X509KeyPair(pem.Certificate, pem.Key)
	if err != nil {
		return clientv3.Config{}, fmt.Errorf("etcd client certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem.CA) {
		return clientv3.Config{}, errors.New("etcd CA: no certificate in it")
	}
	return clientv3.Config{
		Endpoints: endpoints,
		TLS:       &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		Logger:    zap.NewNop(), // errors come back from calls; retries are not the user's business
	}, nil
}
