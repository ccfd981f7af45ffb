package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
)

// TestMain has the environment name a proxy, which must not be used.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY"} {
		os.Setenv(name, "http://127.0.0.1:9") //nolint:errcheck // the tests would notice
	}
	os.Exit(m.Run())
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd-ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// client is a certificate of the authority, for clients and servers.
func (a authority) client(t *testing.T) kubeadm.EtcdClient {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return kubeadm.EtcdClient{CA: block("CERTIFICATE", a.cert.Raw), Certificate: block("CERTIFICATE", der), Key: block("PRIVATE KEY", raw)}
}

// member is a server that answers as a member does.
type member struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedClusterServer
	status    func() (*pb.StatusResponse, error)
	list      *pb.MemberListResponse
	address   string
	questions atomic.Int32
}

func (m *member) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	m.questions.Add(1)
	return m.status()
}

func (m *member) MemberList(_ context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		return nil, grpcstatus.Error(codes.Unavailable, "there is no quorum to ask")
	}
	if m.list == nil {
		return nil, grpcstatus.Error(codes.Unavailable, "rpc not supported for learner")
	}
	return m.list, nil
}

func (m *member) serve(t *testing.T, a authority) {
	t.Helper()
	own := a.client(t)
	pair, err := tls.X509KeyPair(own.Certificate, own.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})))
	pb.RegisterMaintenanceServer(s, m)
	pb.RegisterClusterServer(s, m)
	go s.Serve(l) //nolint:errcheck // ends with the test
	t.Cleanup(s.Stop)
}

func session(t *testing.T, name string) *host.Conn {
	t.Helper()
	c, err := host.Local(context.WithoutCancel(t.Context()), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func status(cluster, id, leader uint64, problems ...string) *pb.StatusResponse {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{ClusterId: cluster, MemberId: id}, Leader: leader, Errors: problems, DbSize: 7, DbSizeInUse: 5, DbSizeQuota: 9, Version: "3.7.3"}
}

func always(s *pb.StatusResponse) func() (*pb.StatusResponse, error) {
	return func() (*pb.StatusResponse, error) { return s, nil }
}

// TestObserve: each member is healthy, or is not and says why, or could not be asked, for a reason. These are three
// different things.
func TestObserve(t *testing.T) {
	a := newAuthority(t)
	stranger := newAuthority(t)
	client := a.client(t)
	list := &pb.MemberListResponse{}
	servers := map[string]*member{}
	var routes []Member
	var lock atomic.Int32
	add := func(id uint64, name string, m *member, signedBy authority) {
		m.serve(t, signedBy)
		servers[name] = m
		list.Members = append(list.Members, &pb.Member{ID: id, Name: name, ClientURLs: []string{"https://" + m.address}, PeerURLs: []string{"https://" + name + ":2380"}})
		routes = append(routes, Member{Host: name, Conn: session(t, name), Address: m.address})
	}
	add(1, "a", &member{status: always(status(0xc, 1, 1)), list: list}, a)
	add(2, "b", &member{status: always(status(0xc, 2, 0, "etcdserver: no leader")), list: list}, a)
	add(3, "c", &member{status: func() (*pb.StatusResponse, error) {
		if lock.Add(1) == 1 {
			return nil, grpcstatus.Error(codes.Unavailable, "a moment of weakness")
		}
		return status(0xc, 3, 1), nil
	}, list: list}, a)
	add(4, "d", &member{status: always(status(0xc, 4, 1)), list: list}, stranger)
	add(5, "e", &member{status: always(nil)}, a)
	add(6, "f", &member{status: always(status(0xc, 6, 1))}, a)
	add(7, "g", &member{status: func() (*pb.StatusResponse, error) {
		return nil, grpcstatus.Error(codes.PermissionDenied, "permission denied")
	}}, a)
	add(8, "h", &member{status: func() (*pb.StatusResponse, error) { time.Sleep(timeout); return nil, errors.New("too late") }}, a)
	add(9, "i", &member{status: always(status(0xc, 9, 1))}, a)
	list.Members = append(list.Members, &pb.Member{ID: 10, PeerURLs: []string{"https://10.0.0.10:2380"}, IsLearner: true},
		&pb.Member{ID: 11, Name: "k", PeerURLs: []string{"https://10.0.0.11:2380"}, ClientURLs: []string{"https://10.0.0.11:2379"}})
	routes[4].Address = nobody(t)
	list.Members[4].ClientURLs = []string{"https://" + routes[4].Address}
	routes[5].Conn.Close()
	routes[8].Conn, routes[8].Err = nil, errors.New("i: no SSH connection to 10.0.0.9:22: no answer within 10s")

	got, err := judge(query(t.Context(), routes, func(context.Context, Member) (kubeadm.EtcdClient, error) { return client, nil }))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range got {
		want := map[string]struct {
			healthy          bool
			problem, unknown string
		}{
			"a": {healthy: true}, "b": {problem: "it has no leader"}, "c": {healthy: true},
			"d": {unknown: "its certificate is not accepted"}, "e": {problem: "connection refused"}, "f": {unknown: "the session ended"},
			"g": {unknown: "permission denied"}, "h": {problem: "no answer within 2s"}, "i": {unknown: "no SSH connection"},
			"https://10.0.0.10:2380": {problem: "it has never started"}, "k": {unknown: "no host can be used to query it"},
		}[m.Name]
		if m.Healthy != want.healthy || !strings.Contains(m.Problem, want.problem) || !strings.Contains(m.Unknown, want.unknown) ||
			(want.problem == "") != (m.Problem == "") || (want.unknown == "") != (m.Unknown == "") {
			t.Errorf("%s: %+v", m.Name, m)
		}
	}
	if len(got) != 11 {
		t.Errorf("%d members", len(got))
	}
	if m := got[0]; !m.Leader || m.ID != "1" || m.ClusterID != "c" || m.DBSizeBytes != 7 || m.InUseBytes != 5 || m.QuotaBytes != 9 || m.Version != "3.7.3" || m.PeerURL != "https://a:2380" {
		t.Errorf("%+v", m)
	}
	if n := servers["b"].questions.Load(); n != 2 {
		t.Errorf("a member that is not well was asked %d times", n)
	}
	if n := servers["a"].questions.Load(); n != 1 {
		t.Errorf("a member that is well was asked %d times", n)
	}
}

func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestNobodyAnswers keeps apart a cluster that is down and one that could not be asked.
func TestNobodyAnswers(t *testing.T) {
	client := newAuthority(t).client(t)
	read := func(context.Context, Member) (kubeadm.EtcdClient, error) { return client, nil }
	down := Member{Host: "a", Conn: session(t, "a"), Address: nobody(t)}
	unreached := Member{Host: "b", Err: errors.New("b: no SSH connection"), Address: "10.0.0.2:2379"}
	if _, err := judge(query(t.Context(), []Member{down}, read)); err == nil || unasked(err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("down: %v", err)
	}
	if _, err := judge(query(t.Context(), []Member{down, unreached}, read)); err == nil || !unasked(err) || !strings.Contains(err.Error(), "no SSH connection") {
		t.Errorf("unknown: %v", err)
	}
	without := func(context.Context, Member) (kubeadm.EtcdClient, error) { return kubeadm.EtcdClient{}, os.ErrNotExist }
	if _, err := judge(query(t.Context(), []Member{down}, without)); !unasked(err) {
		t.Errorf("no certificate to ask with: %v", err)
	}
}

func answered(s *pb.StatusResponse, list *pb.MemberListResponse) answer {
	return answer{host: "host", address: "10.0.0.9:2379", status: s, list: list}
}

// TestAlarms belong to the member that raised them, although all members tell of them.
func TestAlarms(t *testing.T) {
	list := &pb.MemberListResponse{Members: []*pb.Member{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}}}
	for said, want := range map[string]map[string][]string{
		"memberID:2 alarm:NOSPACE ":  {"b": {"NOSPACE"}},
		"memberID:1  alarm:CORRUPT":  {"a": {"CORRUPT"}},
		"memberID:99 alarm:NOSPACE ": {"a": {"NOSPACE"}, "b": {"NOSPACE"}}, // of a member that was removed: it still stops all writes
	} {
		got, err := judge([]answer{answered(status(1, 1, 1, said), list), answered(status(1, 2, 1, said), list)})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got {
			if !slices.Equal(m.Alarms, want[m.Name]) || m.Healthy != (want[m.Name] == nil) || m.Healthy == strings.Contains(m.Problem, "alarm") {
				t.Errorf("%q: %+v", said, m)
			}
		}
	}
}

// TestTwoClusters: a spec that changed between two runs of a first build must never go unnoticed. The members' IDs are
// equal in both, as etcd computes them from the addresses.
func TestTwoClusters(t *testing.T) {
	one := &pb.MemberListResponse{Members: []*pb.Member{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}, {ID: 3, Name: "c"}}}
	other := &pb.MemberListResponse{Members: []*pb.Member{{ID: 1, Name: "a"}, {ID: 4, Name: "d"}, {ID: 5, Name: "e"}}}
	answers := []answer{
		answered(status(0xbb, 4, 4), other), answered(status(0xaa, 1, 2), one), answered(status(0xbb, 5, 4), other), answered(status(0xaa, 2, 2), one),
		answered(status(0xaa, 3, 2), one),
	}
	for range 5 {
		slices.Reverse(answers)
		got, err := judge(answers)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range got {
			names = append(names, m.Name+" "+m.ClusterID)
			strange := m.ClusterID == "bb"
			if m.Healthy == strange || m.Stranger() != strange || strange != strings.Contains(m.Problem, "cluster bb, the others to aa") {
				t.Errorf("%+v", m)
			}
		}
		if want := []string{"a aa", "b aa", "c aa", "d bb", "e bb"}; !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
	}
	// The first cluster lost a member to the other one.
	got, err := judge([]answer{answered(status(0xaa, 1, 2), one), answered(status(0xaa, 2, 2), one), answered(status(0xbb, 3, 3), &pb.MemberListResponse{Members: one.Members})})
	if err != nil {
		t.Fatal(err)
	}
	if c := got[2]; len(got) != 3 || c.Name != "c" || c.Healthy || c.ID != "3" || c.ClusterID != "" || c.OtherCluster != "bb" || c.Stranger() || !strings.Contains(c.Problem, "belongs to the cluster bb") {
		t.Errorf("got %+v", got)
	}
}

// TestAnAbandonedCluster: after a recovery from a, the machines of b and c come back. They are a majority of the cluster that was
// replaced, and nobody counts them. With b joining again, what answers there is not its new member.
func TestAnAbandonedCluster(t *testing.T) {
	now := &pb.MemberListResponse{Members: []*pb.Member{{ID: 7, Name: "a", PeerURLs: []string{"https://10.0.0.1:2380"}}}}
	old := &pb.MemberListResponse{Members: []*pb.Member{{ID: 1, Name: "a", PeerURLs: []string{"https://10.0.0.1:2380"}},
		{ID: 2, Name: "b", PeerURLs: []string{"https://10.0.0.2:2380"}}, {ID: 3, Name: "c", PeerURLs: []string{"https://10.0.0.3:2380"}}}}
	at := func(host, address string, s *pb.StatusResponse, list *pb.MemberListResponse) answer {
		return answer{host: host, address: address + ":2379", status: s, list: list}
	}
	recovered, b, c := at("cp-a", "10.0.0.1", status(0xaa, 7, 7), now), at("cp-b", "10.0.0.2", status(0xdd, 2, 2), old), at("cp-c", "10.0.0.3", status(0xdd, 3, 2), old)

	rest, apart := setApart([]answer{b, c, recovered}, []string{"dd", "ee"})
	got, err := judge(rest)
	if err != nil || len(got) != 1 || got[0].Name != "a" || !got[0].Healthy || got[0].ClusterID != "aa" {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(apart) != 2 || apart[0].Name != "cp-b" || apart[0].ClusterID != "dd" || apart[0].PeerURL != "https://10.0.0.2:2380" || apart[1].Name != "cp-c" || !apart[0].Leader {
		t.Errorf("apart are %+v", apart)
	}
	if rest, apart := setApart([]answer{b, c, recovered}, nil); len(apart) > 0 || rest[0].err != nil {
		t.Errorf("nobody knows of it, and apart are %+v", apart)
	}

	now.Members = append(now.Members, &pb.Member{ID: 8, PeerURLs: []string{"https://10.0.0.2:2380"}, IsLearner: true})
	rest, _ = setApart([]answer{b, recovered}, []string{"dd"})
	if got, err = judge(rest); err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, m := range got {
		if m.Learner && (m.Healthy || m.Unknown != "" || !strings.Contains(m.Problem, "cluster dd answers there")) {
			t.Errorf("the learner is %+v", m)
		}
	}

	rest, apart = setApart([]answer{b, c}, []string{"dd"})
	if got, err := judge(rest); err == nil || unasked(err) || len(got) > 0 || len(apart) != 2 || !strings.Contains(err.Error(), "which a recovery has replaced") {
		t.Errorf("nobody else answers: %+v, %v", got, err)
	}
}

// TestAClusterThatWorksComesFirst: two members of an old cluster of five that nobody noted as replaced wait for a majority. The recovered
// cluster of one is the one that is meant.
func TestAClusterThatWorksComesFirst(t *testing.T) {
	now := &pb.MemberListResponse{Members: []*pb.Member{{ID: 7, Name: "a"}}}
	old := &pb.MemberListResponse{Members: []*pb.Member{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}, {ID: 3, Name: "c"}, {ID: 4, Name: "d"}, {ID: 5, Name: "e"}}}
	got, err := judge([]answer{answered(status(0x11, 2, 0), old), answered(status(0x11, 3, 0), old), answered(status(0xaa, 7, 7), now)})
	if err != nil || len(got) != 3 || got[0].Name != "a" || !got[0].Healthy || got[1].Healthy || got[2].Healthy || !strings.Contains(got[1].Problem, "cluster 11, the others to aa") {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestTheFreshestListCounts: the list of members comes from the one that has applied most, and not from one that lags.
func TestTheFreshestListCounts(t *testing.T) {
	status := func(member, applied uint64) *pb.StatusResponse {
		return &pb.StatusResponse{Header: &pb.ResponseHeader{ClusterId: 1, MemberId: member}, Leader: 2, RaftAppliedIndex: applied}
	}
	list := func(ids ...uint64) *pb.MemberListResponse {
		out := &pb.MemberListResponse{}
		for _, id := range ids {
			out.Members = append(out.Members, &pb.Member{ID: id, Name: "m" + strconv.FormatUint(id, 10)})
		}
		return out
	}
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		all := []answer{{host: "a", status: status(1, 7), list: list(1, 2)}, {host: "b", status: status(2, 9), list: list(1, 2, 3)}}
		got, err := judge([]answer{all[order[0]], all[order[1]]})
		if err != nil || len(got) != 3 {
			t.Errorf("%+v, %v", got, err)
		}
	}
}
