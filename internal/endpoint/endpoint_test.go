package endpoint

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
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// testCA is an authority that signs certificates of servers.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newCA(t *testing.T, name string) testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (ca testCA) server(t *testing.T, name string) *tls.Config {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{name},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: ca.key}}}
}

// listen serves every connection with f.
func listen(t *testing.T, f func(net.Conn)) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func TestDialTellsOutcomesApart(t *testing.T) {
	ours, other := newCA(t, "kubernetes"), newCA(t, "another")
	answer := func(config *tls.Config) func(net.Conn) {
		return func(c net.Conn) { tls.Server(c, config).Handshake(); c.Close() }
	}
	dead := listen(t, func(c net.Conn) { c.Close() })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, nobody, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	for want, port := range map[Outcome]string{
		Trusted:  listen(t, answer(ours.server(t, "localhost"))),
		Stranger: listen(t, answer(other.server(t, "localhost"))),
		Closed:   dead,
		Refused:  nobody,
		Silent:   listen(t, untilTheyGo),
		Plain: listen(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			untilTheyGo(c)
		}),
	} {
		a := dial(t.Context(), Request{Name: "localhost", Port: port, Address: "127.0.0.1", CA: ours.pem, Timeout: 300 * time.Millisecond, Connections: 1})
		if a.Outcome != want || a.Dialed != "127.0.0.1:"+port {
			t.Errorf("want %s, got %+v", want, a)
		}
		if (want == Trusted || want == Stranger) != (len(a.Servers) == 1) {
			t.Errorf("%s: servers %v", want, a.Servers)
		}
	}
	wrongName := listen(t, answer(ours.server(t, "elsewhere")))
	if a := dial(t.Context(), Request{Name: "localhost", Port: wrongName, CA: ours.pem, Timeout: time.Second}); a.Outcome != Stranger || !strings.Contains(a.Detail, "kube-apiserver") {
		t.Errorf("a certificate for another name: %+v", a)
	}
}

// untilTheyGo says nothing until the other side gives up.
func untilTheyGo(c net.Conn) {
	_, _ = io.Copy(io.Discard, c)
	c.Close()
}

func TestUnconnected(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	_, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1")
	if got := unconnected(err); got != Timeout {
		t.Errorf("%v is %s", err, got)
	}
}

func world(kind string) (*spec.Cluster, *facts.Observation) {
	c := spec.DefaultLab("test")
	c.Spec.LoadBalancer = spec.LoadBalancer{Type: kind, Address: "10.0.0.100"}
	if kind == spec.BalancerExternal {
		c.Spec.Hosts = c.Spec.Hosts[:5]
	}
	obs := &facts.Observation{Hosts: map[string]facts.Host{}}
	for i := range c.Spec.Hosts {
		h := &c.Spec.Hosts[i]
		h.Address = fmt.Sprintf("10.0.0.%d", 11+i)
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Addresses: []facts.Address{{IP: h.Address}}}}
	}
	return c, obs
}

// from makes probes that all found the same, but for one.
func from(c *spec.Cluster, usual Answer, change string, other Answer) (out []Probe) {
	names := []string{}
	for _, h := range c.Spec.Hosts {
		names = append(names, h.Name)
	}
	for _, n := range append(names, "") {
		p := Probe{Host: n, Answer: usual}
		if n == change {
			p.Answer = other
		}
		out = append(out, p)
	}
	return out
}

func TestJudge(t *testing.T) {
	const at = "10.0.0.100:6443"
	found := func(o Outcome) Answer {
		return Answer{Addresses: []string{"10.0.0.100"}, Dialed: at, Outcome: o, Detail: "d"}
	}
	unresolved := Answer{Unresolved: "no such host", Dialed: at, Outcome: Refused}
	elsewhere := Answer{Addresses: []string{"10.0.0.9"}, Dialed: at, Outcome: Refused}
	const everyHost, everyMachine = "cp-a cp-b cp-c worker-a worker-b", "cp-a cp-b cp-c worker-a worker-b lb-a lb-b"
	complete := func(_ *spec.Cluster, o *facts.Observation) {
		o.Hosts["cp-a"].Facts.Kubernetes.Established = true
	}
	type want struct {
		severity cluster.Severity
		hosts    string
		words    []string
	}
	for name, tc := range map[string]struct {
		kind   string
		change func(*spec.Cluster, *facts.Observation)
		usual  Answer
		one    string // where another answer comes from
		other  Answer
		want   []want
	}{
		"nobody listens yet":            {kind: spec.BalancerExternal, usual: found(Refused), one: "cp-b", other: found(Closed)},
		"a build that goes on":          {kind: spec.BalancerExternal, usual: found(Trusted), one: "cp-b", other: found(Refused)},
		"hosts need no DNS":             {kind: spec.BalancerExternal, usual: found(Refused), one: "worker-a", other: unresolved},
		"the caller cannot resolve":     {kind: spec.BalancerExternal, usual: found(Refused), one: "", other: unresolved, want: []want{{cluster.Warning, "", []string{"does not resolve on this machine", "no such host"}}}},
		"one host resolves otherwise":   {kind: spec.BalancerExternal, usual: found(Refused), one: "worker-a", other: elsewhere, want: []want{{cluster.Error, "worker-a", []string{"resolves to 10.0.0.9 on worker-a", "the spec says 10.0.0.100"}}}},
		"the caller resolves otherwise": {kind: spec.BalancerExternal, usual: found(Refused), one: "", other: elsewhere, want: []want{{cluster.Warning, "", []string{"on this machine"}}}},
		"one host is not let through":   {kind: spec.BalancerExternal, usual: found(Refused), one: "cp-c", other: found(Timeout), want: []want{{cluster.Error, "cp-c", []string{at, "cannot be reached from cp-c", "firewall", "route back"}}}},
		"the caller is not let through": {kind: spec.BalancerExternal, usual: found(Refused), one: "", other: found(Timeout), want: []want{{cluster.Info, "", []string{"this machine does not reach the load balancer at " + at}}}},
		"one host has no route":         {kind: spec.BalancerExternal, usual: found(Refused), one: "cp-c", other: found(NoRoute), want: []want{{cluster.Error, "cp-c", []string{"cannot be reached from cp-c", "ip route get 10.0.0.100"}}}},
		"the balancer is off":           {kind: spec.BalancerExternal, usual: found(Timeout), one: "-", want: []want{{cluster.Error, everyHost, []string{"from cp-a, cp-b, cp-c, worker-a, worker-b and this machine"}}}},
		"the balancer has no way on":    {kind: spec.BalancerExternal, usual: found(Silent), one: "-", want: []want{{cluster.Error, everyHost, []string{"it cannot reach the control planes", "6443", "cp-a (10.0.0.11), cp-b (10.0.0.12) and cp-c (10.0.0.13)"}}}},
		"a build that goes on while API servers start": {kind: spec.BalancerExternal, change: func(_ *spec.Cluster, o *facts.Observation) {
			k := &o.Hosts["cp-b"].Facts.Kubernetes
			k.Begun, k.KubeletConfig, k.Manifests = true, true, []string{"etcd", "kube-apiserver"}
		}, usual: found(Silent), one: "cp-b", other: found(Refused), want: []want{{cluster.Warning, "cp-a cp-c worker-a worker-b", []string{"sends nothing"}}}},
		"our own balancer while API servers start": {kind: spec.BalancerManaged, change: func(_ *spec.Cluster, o *facts.Observation) {
			k := &o.Hosts["cp-b"].Facts.Kubernetes
			k.Begun, k.KubeletConfig, k.Manifests = true, true, []string{"etcd", "kube-apiserver"}
			f := o.Hosts["lb-a"].Facts
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.0.0.100"})
			o.Hosts["lb-a"] = facts.Host{Facts: f, Balancer: &facts.Balancer{Healthy: true, WrittenFor: "test"}}
		}, usual: found(Silent), one: "cp-b", other: found(Refused)},
		"another cluster's API": {kind: spec.BalancerExternal, usual: found(Stranger), one: "-", want: []want{{cluster.Error, everyHost, []string{"another cluster's API", "to nothing else"}}}},
		"a web server":          {kind: spec.BalancerExternal, usual: found(Plain), one: "-", want: []want{{cluster.Error, everyHost, []string{"without TLS"}}}},
		"only DNS knows, and not here": {kind: spec.BalancerExternal, change: func(c *spec.Cluster, _ *facts.Observation) { c.Spec.LoadBalancer.Address = "" },
			usual: found(Refused), one: "worker-b", other: Answer{Unresolved: "no such host"}, want: []want{{cluster.Error, "worker-b", []string{"does not resolve on worker-b", "Add the name to DNS"}}}},
		"only DNS knows, and here otherwise": {kind: spec.BalancerExternal, change: func(c *spec.Cluster, _ *facts.Observation) { c.Spec.LoadBalancer.Address = "" },
			usual: found(Refused), one: "worker-b", other: elsewhere, want: []want{{cluster.Error, "worker-b", []string{"resolves to 10.0.0.9 on worker-b, and to 10.0.0.100 elsewhere"}}}},
		"built, and nobody behind": {kind: spec.BalancerExternal, change: complete,
			usual: found(Closed), one: "-", want: []want{{cluster.Error, everyHost, []string{"has no API server", "into its pool"}}}},
		"built": {kind: spec.BalancerExternal, change: complete,
			usual: found(Trusted), one: "-"},
		"something else answers the caller": {kind: spec.BalancerExternal, usual: found(Trusted), one: "", other: found(Stranger), change: complete, want: []want{{cluster.Warning, "", []string{"this machine", "another cluster's API"}}}},
		"two hosts resolve otherwise": {kind: spec.BalancerExternal, change: func(c *spec.Cluster, o *facts.Observation) { c.Spec.Hosts = c.Spec.Hosts[:2] },
			usual: elsewhere, one: "", other: found(Refused), want: []want{{cluster.Error, "cp-a cp-b", []string{"resolves to 10.0.0.9 on cp-a and cp-b"}}}},
		"a virtual IP on an interface": {kind: spec.BalancerManaged, change: func(_ *spec.Cluster, o *facts.Observation) {
			f := o.Hosts["worker-a"].Facts
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.0.0.100"})
		}, usual: found(Refused), one: "-", want: []want{{cluster.Error, "worker-a", []string{"the virtual IP 10.0.0.100 is on an interface of worker-a already"}}}},
		"a virtual IP of another cluster's load balancer": {kind: spec.BalancerManaged, change: func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["lb-a"] = facts.Host{Facts: o.Hosts["lb-a"].Facts, Balancer: &facts.Balancer{Healthy: true, Active: true, WrittenFor: "stage"}}
		}, usual: found(Stranger), one: "-", want: []want{{cluster.Error, "lb-a", []string{"is on an interface of lb-a already"}}}},
		"a virtual IP that answers the caller alone": {kind: spec.BalancerManaged, usual: found(Timeout), one: "", other: found(Refused)},
		"a virtual IP that could not be probed":      {kind: spec.BalancerManaged, usual: found(Timeout), one: "cp-a", other: found(Failed), want: []want{{cluster.Error, "cp-a", []string{"could not be probed from cp-a"}}}},
		"a virtual IP that serves":                   {kind: spec.BalancerManaged, change: complete, usual: found(Trusted), one: "-"},
		"a virtual IP that serves no host":           {kind: spec.BalancerManaged, change: complete, usual: found(Timeout), one: "-", want: []want{{cluster.Error, everyMachine, []string{"cannot be reached from"}}}},
		"a virtual IP that is free":                  {kind: spec.BalancerManaged, usual: found(NoRoute), one: "", other: found(Timeout)},
		"a virtual IP that is taken":                 {kind: spec.BalancerManaged, usual: found(Refused), one: "-", want: []want{{cluster.Error, everyMachine, []string{"the virtual IP 10.0.0.100 is in use", "free address"}}}},
		"a virtual IP that is ours already": {kind: spec.BalancerManaged, change: func(_ *spec.Cluster, o *facts.Observation) {
			f := o.Hosts["lb-a"].Facts
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.0.0.100"})
			o.Hosts["lb-a"] = facts.Host{Facts: f, Balancer: &facts.Balancer{Healthy: true, WrittenFor: "test"}}
		}, usual: found(Closed), one: "-"},
		"a virtual IP that one of ours takes at this moment": {kind: spec.BalancerManaged, change: func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["lb-a"] = facts.Host{Facts: o.Hosts["lb-a"].Facts, Balancer: &facts.Balancer{Healthy: true, WrittenFor: "test"}}
		}, usual: found(Closed), one: "-"},
		"a virtual IP on an interface, while ours begin": {kind: spec.BalancerManaged, change: func(_ *spec.Cluster, o *facts.Observation) {
			f := o.Hosts["worker-a"].Facts
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.0.0.100"})
			o.Hosts["lb-a"] = facts.Host{Facts: o.Hosts["lb-a"].Facts, Balancer: &facts.Balancer{Healthy: true, WrittenFor: "test"}}
		}, usual: found(Closed), one: "-", want: []want{{cluster.Error, "worker-a", []string{"on an interface of worker-a already"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, obs := world(tc.kind)
			if tc.change != nil {
				tc.change(c, obs)
			}
			got := Judge(cluster.Evaluate(c, obs), from(c, tc.usual, tc.one, tc.other))
			if len(got) != len(tc.want) {
				t.Fatalf("got %+v, want %+v", got, tc.want)
			}
			for i, w := range tc.want {
				if got[i].Severity != w.severity || strings.Join(got[i].Subjects, " ") != w.hosts {
					t.Errorf("got %+v, want %+v", got[i], w)
				}
				for _, word := range w.words {
					if !strings.Contains(got[i].Summary+" "+got[i].Fix, word) {
						t.Errorf("no %q in %+v", word, got[i])
					}
				}
			}
		})
	}
}

func TestJudgeNamesAHostThatCannotBeAsked(t *testing.T) {
	c, obs := world(spec.BalancerExternal)
	got := Judge(cluster.Evaluate(c, obs), []Probe{{Host: "cp-a", Err: errors.New("the session ended")}})
	if len(got) != 1 || !slices.Equal(got[0].Subjects, []string{"cp-a"}) || !strings.Contains(got[0].Summary, "the session ended") {
		t.Errorf("%+v", got)
	}
}

func TestMissing(t *testing.T) {
	c, _ := world(spec.BalancerExternal)
	want := map[string]string{"cp-a": "A", "cp-b": "B", "cp-c": "C"}
	for name, tc := range map[string]struct {
		m     Meeting
		words []string // one for each finding
	}{
		"all are met":          {Meeting{Want: want, Met: map[string]int{"A": 10, "B": 11, "C": 9}, Places: 5}, nil},
		"one is not":           {Meeting{Want: want, Met: map[string]int{"A": 10, "B": 20}, Places: 5}, []string{"cp-c is not behind the endpoint: none of 30 connections from 5 places"}},
		"one cannot be asked":  {Meeting{Want: map[string]string{"cp-a": "A", "cp-b": "B"}, Met: map[string]int{"A": 1, "B": 1}}, nil},
		"somebody else is met": {Meeting{Want: want, Met: map[string]int{"A": 1, "B": 1, "C": 1, "X": 2}}, []string{"2 of 5 connections"}},
		"nobody is met": {Meeting{Want: want, Met: map[string]int{}, Lost: []Probe{{Host: "cp-a", Answer: Answer{Dialed: "10.0.0.100:6443", Outcome: Timeout}}}},
			[]string{"cannot be reached from cp-a"}},
		"the pool is empty": {Meeting{Want: want, Met: map[string]int{}, Lost: []Probe{{Answer: Answer{Dialed: "10.0.0.100:6443", Outcome: Closed}}}}, []string{"has no API server"}},
	} {
		got := tc.m.Missing(c)
		if len(got) != len(tc.words) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i, w := range tc.words {
			if !strings.Contains(got[i].Summary, w) || got[i].Fix == "" {
				t.Errorf("%s: no %q in %+v", name, w, got[i])
			}
		}
	}
	if fix := (Meeting{Want: want, Met: map[string]int{"A": 1, "B": 1}}).Missing(c)[0].Fix; !strings.Contains(fix, "Add 10.0.0.13:6443 to the load balancer's pool") || strings.Contains(fix, "%!") {
		t.Error(fix)
	}
}

// The caller may be where no client is: behind a jump host, outside of the load balancer's network. That keeps nothing from
// being built or verified.
func TestTheCallersViewRefusesNothing(t *testing.T) {
	c, obs := world(spec.BalancerExternal)
	const at = "10.0.0.100:6443"
	for _, o := range []Outcome{Refused, Closed, Timeout, NoRoute, Silent, Plain, Stranger, Failed} {
		probes := from(c, Answer{Addresses: []string{"10.0.0.100"}, Dialed: at, Outcome: Trusted}, "", Answer{Unresolved: "no such host", Dialed: at, Outcome: o, Detail: "d"})
		for _, established := range []bool{true, false} {
			obs.Hosts["cp-a"].Facts.Kubernetes.Established = established
			if r := Refusal(Judge(cluster.Evaluate(c, obs), probes)); r != nil {
				t.Errorf("%s: %v", o, r)
			}
		}
		m := Meeting{Want: map[string]string{"cp-a": "A"}, Met: map[string]int{"A": 1}, Lost: probes[len(probes)-1:], Places: 6}
		if r := Refusal(m.Missing(c)); r != nil {
			t.Errorf("%s: %v", o, r)
		}
	}
	r := Refusal(Judge(cluster.Evaluate(c, obs), from(c, Answer{Addresses: []string{"10.0.0.100"}, Dialed: at, Outcome: Timeout}, "-", Answer{})))
	if r == nil || r.Rule != RuleEndpointPath || len(r.Subjects) != 5 || !strings.Contains(r.Error(), "cannot be reached from cp-a") {
		t.Errorf("%v", r)
	}
}

func TestMostCommonIsStable(t *testing.T) {
	probes := []Probe{{Host: "b", Answer: Answer{Addresses: []string{"2"}}}, {Host: "a", Answer: Answer{Addresses: []string{"1"}}}}
	first := mostCommon(probes)
	slices.Reverse(probes)
	if again := mostCommon(probes); again != first {
		t.Errorf("%s, then %s", first, again)
	}
}
