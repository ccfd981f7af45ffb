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
	"quorate.dev/quorate/internal/kubeadm"
)

// Member is a member's host and its address as seen from there.
type Member struct {
	Conn    *host.Conn
	Address string // without port
}

// timeout for one question to one member. A member that has no leader answers Status at once and says so.
const timeout = 3 * time.Second

// Observe asks every member for its own state and one of them for the list of members. Members that nobody could ask
// are in the list as unhealthy. It fails only when no member answers.
func Observe(ctx context.Context, members []Member) ([]facts.EtcdMember, error) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		list  []facts.EtcdMember
		peers = map[string]*clientv3.StatusResponse{}
		ids   = map[string]uint64{}
		errs  []error
	)
	for _, m := range members {
		wg.Go(func() {
			status, listed, err := ask(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			peers[m.Conn.Name()] = status
			if listed == nil || list != nil {
				return
			}
			for _, e := range listed.Members {
				name := e.Name
				if name == "" {
					name = nameOf(e.PeerURLs, members)
				}
				ids[name] = e.ID
				list = append(list, facts.EtcdMember{Name: name, Learner: e.IsLearner, Started: e.Name != ""})
			}
		})
	}
	wg.Wait()
	if list == nil {
		return nil, fmt.Errorf("no etcd member answers: %w", errors.Join(errs...))
	}
	for i := range list {
		s, ok := peers[list[i].Name]
		if !ok {
			continue
		}
		list[i].Healthy = s.Leader != 0 && len(s.Errors) == 0
		list[i].Leader = s.Leader == ids[list[i].Name]
		list[i].DBSizeBytes = s.DbSize
	}
	slices.SortFunc(list, func(a, b facts.EtcdMember) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// nameOf finds the host of a member that has not started, and so has not told its name yet.
func nameOf(urls []string, members []Member) string {
	for _, m := range members {
		if slices.Contains(urls, "https://"+net.JoinHostPort(m.Address, "2380")) {
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

// Connect makes a client of one member.
func Connect(ctx context.Context, m Member) (*clientv3.Client, error) {
	pem, err := kubeadm.ReadEtcdClient.On(ctx, m.Conn, struct{}{})
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pem.Certificate, pem.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: etcd client certificate: %w", m.Conn.Name(), err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem.CA) {
		return nil, fmt.Errorf("%s: etcd CA: no certificate in it", m.Conn.Name())
	}
	address := net.JoinHostPort(m.Address, "2379")
	return clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + address},
		TLS:       &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		Logger:    zap.NewNop(), // errors come back from calls; retries are not the user's business
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return m.Conn.DialContext(ctx, "tcp", address)
		})},
	})
}
