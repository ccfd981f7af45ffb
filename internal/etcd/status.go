// Package etcd queries the state of etcd members through the sessions to their hosts.
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

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
)

// Member is a route to a member: the host that queries it, and its address as seen from there.
type Member struct {
	Host string
	// Conn is the session to the host; nil if there is none, for the reason in Err.
	Conn    *host.Conn
	Err     error
	Address string // host:port
	// Abandoned are the IDs of clusters that a recovery has replaced. Observe sets a member of them apart, and Connect refuses it: nothing may be
	// changed there, and what it knows of its members is not so.
	Abandoned []string
}

// On is the route to the member on a host, by the host's name and address, through the session to it; the error is why there is none. The
// observation says which clusters were abandoned.
func On(name, address string, conn *host.Conn, err error, seen *facts.Observation) Member {
	return Member{Host: name, Conn: conn, Err: err, Address: net.JoinHostPort(address, "2379"), Abandoned: seen.AbandonedEtcds()}
}

// Nothing is decided on a single probe: a member that does not answer as it should is queried again after a pause.
const (
	timeout = 2 * time.Second
	pause   = 500 * time.Millisecond
)

// Observe queries every member for its own state, and takes the list of members from those that answer. Several routes may
// lead to one member. Members that could not be queried, or did not answer, are in the list with the reason. Observe fails
// only if no member answers; host.Unanswered then reports whether some could not be queried.
//
// Members of an abandoned cluster are never in the list, however many of them agree. They are returned apart, each with the name of its host.
func Observe(ctx context.Context, members []Member) (all, apart []facts.EtcdMember, _ error) {
	var abandoned []string
	for _, m := range members {
		abandoned = append(abandoned, m.Abandoned...)
	}
	read := func(ctx context.Context, m Member) (kubeadm.EtcdClient, error) {
		return kubeadm.ReadEtcdClient.On(ctx, m.Conn, struct{}{})
	}
	answers, apart := setApart(query(ctx, members, read), abandoned)
	all, err := judge(answers)
	if err != nil {
		return nil, apart, err
	}
	lagging(ctx, all, func() ([]facts.EtcdMember, error) {
		later := slices.Clone(answers)
		var wg sync.WaitGroup
		for i, m := range members {
			if answers[i].err == nil {
				wg.Go(func() { later[i] = ask(ctx, m, read) })
			}
		}
		wg.Wait()
		return judge(later)
	})
	return all, apart, nil
}

type readClient func(context.Context, Member) (kubeadm.EtcdClient, error)

// query asks all members in parallel.
func query(ctx context.Context, members []Member, read readClient) []answer {
	answers := make([]answer, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			answers[i] = twice(ctx, func() answer { return ask(ctx, m, read) })
		})
	}
	wg.Wait()
	return answers
}

// setApart takes out the answers of members whose cluster was abandoned. For everybody else, such a member is one that does not answer.
func setApart(answers []answer, abandoned []string) (rest []answer, apart []facts.EtcdMember) {
	rest = slices.Clone(answers)
	for i, a := range rest {
		if a.err != nil || !slices.Contains(abandoned, hex(a.status.Header.ClusterId)) {
			continue
		}
		m := facts.EtcdMember{Name: a.host, Started: true, ID: hex(a.status.Header.MemberId), Learner: a.status.IsLearner}
		describe(&m, a.status)
		if a.list != nil {
			for _, e := range a.list.Members {
				if e.ID == a.status.Header.MemberId && len(e.PeerURLs) > 0 {
					m.PeerURL = e.PeerURLs[0]
				}
			}
		}
		apart = append(apart, m)
		rest[i] = answer{host: a.host, address: a.address, err: fmt.Errorf("a member of the etcd cluster %s answers there, which a recovery has replaced", m.ClusterID)}
	}
	return rest, apart
}

// answer is the result of the query over one route.
type answer struct {
	host, address string
	status        *pb.StatusResponse
	list          *pb.MemberListResponse // nil also where a member, such as a learner, does not give it
	err           error
}

// sound reports whether there is no reason to query again.
func (a answer) sound() bool {
	return a.err == nil && a.status.Leader != 0 && len(a.status.Errors) == 0
}

// twice repeats, after a pause, the queries that were not answered as they should.
func twice(ctx context.Context, ask func() answer) answer {
	a := ask()
	if a.sound() || unasked(a.err) {
		return a
	}
	select {
	case <-ctx.Done():
		return a
	case <-time.After(pause):
	}
	return ask()
}

func ask(ctx context.Context, m Member, read readClient) answer {
	a := answer{host: m.Host, address: m.Address}
	if m.Conn == nil {
		a.err = &unaskedError{m.Err}
		return a
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	pem, err := read(ctx, m)
	if err != nil {
		a.err = &unaskedError{err}
		return a
	}
	dial := func(ctx context.Context, addr string) (net.Conn, error) { return m.Conn.DialContext(ctx, "tcp", addr) }
	a.status, a.list, a.err = exchange(ctx, dial, m.Address, pem)
	if a.err != nil && m.Conn.Err() != nil {
		a.err = &unaskedError{m.Conn.Err()}
	}
	return a
}

// unaskedError says that a member could not be queried: nothing may be inferred about it.
type unaskedError struct{ err error }

func (e *unaskedError) Error() string { return e.err.Error() }
func (e *unaskedError) Unwrap() error { return e.err }

func unasked(err error) bool {
	var u *unaskedError
	return errors.As(err, &u) || host.Unanswered(err)
}

// exchange queries one member, below the level of etcd's client, which hides why a connection fails and retries. An
// *unaskedError says that the member could not be queried.
func exchange(ctx context.Context, dial func(context.Context, string) (net.Conn, error), address string, pem kubeadm.EtcdClient) (*pb.StatusResponse, *pb.MemberListResponse, error) {
	config, err := tlsConfig(pem)
	if err != nil {
		return nil, nil, &unaskedError{err}
	}
	// Connect first: if ctx ends, gRPC's error would not show whether the connecting host did not answer.
	nc, err := dial(ctx, address)
	if err != nil {
		if ctx.Err() != nil && !host.Unanswered(err) {
			err = context.Cause(ctx)
		}
		return nil, nil, err
	}
	defer nc.Close()
	var failed failures
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithAuthority(address),
		grpc.WithTransportCredentials(observed{credentials.NewTLS(config), &failed}),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nc, nil }))
	if err != nil {
		return nil, nil, &unaskedError{err}
	}
	defer conn.Close()
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, nil, why(ctx, err, failed.last())
	}
	// The member's own list, without the quorum: this must work if there is none.
	list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return status, nil, nil //nolint:nilerr // its own state is known, and another member may give the list
	}
	return status, list, nil
}

// why finds the cause of a gRPC error, which keeps only its text.
func why(ctx context.Context, err, connecting error) error {
	var certificate *tls.CertificateVerificationError
	words := grpcstatus.Convert(err).Message()
	switch {
	case connecting != nil && errors.As(connecting, &certificate):
		return &unaskedError{fmt.Errorf("its certificate is not accepted: %w", certificate.Err)}
	case strings.Contains(words, "remote error: tls: "): // with TLS 1.3 it comes after the handshake
		_, alert, _ := strings.Cut(words, "remote error: tls: ")
		return &unaskedError{fmt.Errorf("it does not accept the client certificate: %s", alert)}
	case connecting != nil && (ctx.Err() == nil || host.Unanswered(connecting)):
		return connecting
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	switch grpcstatus.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return &unaskedError{errors.New(words)}
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer within %s", timeout)
	}
	return errors.New(words)
}

// failures keeps the last reason why a connection failed.
type failures struct {
	mu  sync.Mutex
	err error
}

func (f *failures) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failures) last() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// observed notes why handshakes fail.
type observed struct {
	credentials.TransportCredentials
	failed *failures
}

func (o observed) ClientHandshake(ctx context.Context, authority string, nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := o.TransportCredentials.ClientHandshake(ctx, authority, nc)
	o.failed.note(err)
	return c, info, err
}

func (o observed) Clone() credentials.TransportCredentials {
	return observed{o.TransportCredentials.Clone(), o.failed}
}

func tlsConfig(pem kubeadm.EtcdClient) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(pem.Certificate, pem.Key)
	if err != nil {
		return nil, fmt.Errorf("etcd client certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem.CA) {
		return nil, errors.New("etcd CA: no certificate in it")
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// Connect makes a client of one member, with the client certificate of the host at the other end of the session.
func Connect(ctx context.Context, m Member) (*clientv3.Client, error) {
	if m.Conn == nil {
		return nil, m.Err
	}
	pem, err := kubeadm.ReadEtcdClient.On(ctx, m.Conn, struct{}{})
	if err != nil {
		return nil, err
	}
	client, err := connect([]string{"https://" + m.Address}, pem, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return m.Conn.DialContext(ctx, "tcp", m.Address)
	}))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Conn.Name(), err)
	}
	if err := m.counts(ctx, client); err != nil {
		client.Close()
		return nil, fmt.Errorf("%s: %w", m.Conn.Name(), err)
	}
	return client, nil
}

// counts returns an error if the member belongs to a cluster that was abandoned.
func (m Member) counts(ctx context.Context, client clientv3.Maintenance) error {
	if len(m.Abandoned) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	status, err := client.Status(ctx, "https://"+m.Address)
	if err != nil {
		return err
	}
	if id := hex(status.Header.ClusterId); slices.Contains(m.Abandoned, id) {
		return fmt.Errorf("the member there belongs to the etcd cluster %s, which a recovery has replaced", id)
	}
	return nil
}

// connect makes a client of an etcd. Without options it connects from here, as operations on a host do.
func connect(endpoints []string, pem kubeadm.EtcdClient, options ...grpc.DialOption) (*clientv3.Client, error) {
	config, err := tlsConfig(pem)
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: config,
		DialOptions: append([]grpc.DialOption{grpc.WithNoProxy()}, options...),
		Logger:      zap.NewNop(), // calls return errors, and users need not see retries
	})
}
