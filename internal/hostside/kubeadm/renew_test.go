package kubeadm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/facts"
)

// controlPlane is kubeadm's directory with certificates that are valid from begin to end, and authorities that are valid until later.
func controlPlane(t *testing.T, begin, end, later time.Time) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issue := func(template, parent *x509.Certificate, signer crypto.Signer) (certificate, key []byte, own *x509.Certificate, private crypto.Signer) {
		t.Helper()
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = template, k
		}
		template.SerialNumber = big.NewInt(1)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		own, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), own, k
	}
	type authority struct {
		certificate *x509.Certificate
		key         crypto.Signer
	}
	authorities := map[string]authority{}
	for _, name := range []string{facts.ClusterCA, facts.FrontProxyCA, facts.EtcdCA} {
		certificate, key, own, private := issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: begin, NotAfter: later, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
		write(name, certificate)
		write("pki/"+facts.KeyOf(name), key)
		authorities[name] = authority{own, private}
	}
	for _, name := range allRenewable {
		ca := authorities[facts.Certificate{Name: name}.Signer()]
		certificate, key, _, _ := issue(&x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{"o"}}, DNSNames: []string{"cp-a", "api.example.com"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 11)},
			NotBefore: begin, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, ca.certificate, ca.key)
		if !strings.HasSuffix(name, ".conf") {
			write(name, certificate)
			write(strings.TrimSuffix(name, ".crt")+".key", key)
			continue
		}
		config := clientcmdapi.NewConfig()
		config.Clusters["prod"] = &clientcmdapi.Cluster{Server: "https://10.0.0.11:6443", CertificateAuthorityData: []byte("CA")}
		config.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
		config.Contexts["u@prod"] = &clientcmdapi.Context{Cluster: "prod", AuthInfo: "u"}
		config.CurrentContext = "u@prod"
		content, err := clientcmd.Write(*config)
		if err != nil {
			t.Fatal(err)
		}
		write(name, content)
	}
	return dir
}

var allRenewable = []string{"pki/apiserver.crt", "pki/apiserver-kubelet-client.crt", "pki/front-proxy-client.crt", "pki/apiserver-etcd-client.crt",
	"pki/etcd/server.crt", "pki/etcd/peer.crt", "pki/etcd/healthcheck-client.crt", "admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf"}

func pairOf(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	var pair tls.Certificate
	var err error
	if strings.HasSuffix(name, ".conf") {
		config, loadErr := clientcmd.LoadFromFile(filepath.Join(dir, name))
		if loadErr != nil {
			t.Fatal(loadErr)
		}
		user := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
		pair, err = tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	} else {
		pair, err = tls.LoadX509KeyPair(filepath.Join(dir, name), filepath.Join(dir, strings.TrimSuffix(name, ".crt")+".key"))
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return pair
}

// TestAKubeletThatWouldNotComeBackIsNotRestarted: it goes on with a certificate that has expired, and does not start with one.
func TestAKubeletThatWouldNotComeBackIsNotRestarted(t *testing.T) {
	now := time.Now()
	root := t.TempDir()
	kubeconfig := filepath.Join(root, kubeletKubeconfig)
	if err := os.MkdirAll(filepath.Dir(kubeconfig), 0o700); err != nil {
		t.Fatal(err)
	}
	if verb := startVerb(root, now); verb != "start" {
		t.Errorf("without an identity: %s", verb)
	}
	for verb, end := range map[string]time.Time{"restart": now.Add(time.Hour), "start": now.Add(-time.Hour)} {
		content, err := os.ReadFile(filepath.Join(controlPlane(t, now.AddDate(-1, 0, 0), end, now.AddDate(9, 0, 0)), "scheduler.conf"))
		if err == nil {
			err = os.WriteFile(kubeconfig, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := startVerb(root, now); got != verb {
			t.Errorf("a certificate that ends %s from now: %s", end.Sub(now), got)
		}
	}
}

func TestRenewal(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for name, tc := range map[string]struct {
		begin, end, later time.Time
		lifetime          time.Duration
		want              time.Time
	}{
		"due":                                 {now.AddDate(0, -11, 0), now.AddDate(0, 1, 0), now.AddDate(9, 0, 0), 90 * 24 * time.Hour, now.AddDate(0, 0, 90)},
		"expired":                             {now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0), now.AddDate(9, 0, 0), 365 * 24 * time.Hour, now.AddDate(0, 0, 365)},
		"as long as before":                   {now.AddDate(0, 0, -100), now.AddDate(0, 0, 100), now.AddDate(9, 0, 0), 0, now.AddDate(0, 0, 200)},
		"made for minutes":                    {now.Add(-3 * time.Minute), now.Add(-time.Minute), now.AddDate(9, 0, 0), 0, now.AddDate(0, 0, 365)},
		"the authority does not last as long": {now.AddDate(0, -11, 0), now.AddDate(0, 1, 0), now.AddDate(0, 2, 0), 365 * 24 * time.Hour, now.AddDate(0, 2, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := controlPlane(t, tc.begin, tc.end, tc.later)
			before := map[string]tls.Certificate{}
			for _, name := range allRenewable {
				before[name] = pairOf(t, dir, name)
			}
			if err := renewCertificates(dir, RenewRequest{Names: allRenewable, Lifetime: tc.lifetime}, now); err != nil {
				t.Fatal(err)
			}
			for _, name := range allRenewable {
				was, is := before[name].Leaf, pairOf(t, dir, name).Leaf
				if !is.NotAfter.Equal(tc.want) || is.Subject.String() != was.Subject.String() || !slices.Equal(is.DNSNames, was.DNSNames) || len(is.IPAddresses) != 1 || !is.IPAddresses[0].Equal(was.IPAddresses[0]) ||
					is.KeyUsage != was.KeyUsage || !slices.Equal(is.ExtKeyUsage, was.ExtKeyUsage) || is.IsCA {
					t.Errorf("%s: valid until %s, want %s; %s %v %v %v", name, is.NotAfter, tc.want, is.Subject, is.DNSNames, is.IPAddresses, is.ExtKeyUsage)
				}
				sameKey := is.PublicKey.(*ecdsa.PublicKey).Equal(was.PublicKey)
				if inside := strings.HasSuffix(name, ".conf"); sameKey == inside {
					t.Errorf("%s has the same key: %t", name, sameKey)
				}
				roots := x509.NewCertPool()
				ca, err := os.ReadFile(filepath.Join(dir, facts.Certificate{Name: name}.Signer()))
				if err != nil || !roots.AppendCertsFromPEM(ca) {
					t.Fatal(err)
				}
				if _, err := is.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			config, err := clientcmd.LoadFromFile(filepath.Join(dir, "admin.conf"))
			if err != nil || config.Clusters["prod"].Server != "https://10.0.0.11:6443" || string(config.Clusters["prod"].CertificateAuthorityData) != "CA" {
				t.Errorf("admin.conf lost its cluster: %+v, %v", config, err)
			}
		})
	}
}

func TestRenewalThatIsNotPossible(t *testing.T) {
	now := time.Now()
	good := func(t *testing.T) string {
		return controlPlane(t, now.AddDate(-1, 0, 0), now.AddDate(0, 1, 0), now.AddDate(1, 0, 0))
	}
	for name, tc := range map[string]struct {
		dir    func(*testing.T) string
		damage func(dir string) error
		names  []string
		want   string
	}{
		"an authority that expired": {func(t *testing.T) string {
			return controlPlane(t, now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0), now.AddDate(0, 0, -1))
		}, nil, allRenewable, "expired on"},
		"a key that is elsewhere": {good, func(dir string) error { return os.Remove(filepath.Join(dir, "pki/ca.key")) }, []string{"pki/front-proxy-client.crt", "pki/apiserver.crt"}, "reading the authority pki/ca.crt"},
		"a certificate of others": {good, nil, []string{"pki/ours.crt"}, "not one that kubeadm makes"},
		"an authority":            {good, nil, []string{"pki/ca.crt"}, "not one that kubeadm makes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tc.dir(t)
			if tc.damage != nil {
				if err := tc.damage(dir); err != nil {
					t.Fatal(err)
				}
			}
			before := pairOf(t, dir, "pki/front-proxy-client.crt").Leaf
			err := renewCertificates(dir, RenewRequest{Names: tc.names}, now)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if after := pairOf(t, dir, "pki/front-proxy-client.crt").Leaf; !after.Equal(before) {
				t.Error("it changed something")
			}
		})
	}
}

func TestWhatAServerPresents(t *testing.T) {
	now := time.Now()
	dir := controlPlane(t, now.AddDate(0, 0, -1), now.AddDate(0, 0, 1), now.AddDate(1, 0, 0))
	path := filepath.Join(dir, "pki/apiserver.crt")
	serving := pairOf(t, dir, "pki/apiserver.crt")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{serving}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			nc.(*tls.Conn).Handshake() //nolint:errcheck // it fails: etcd demands a client certificate, too
			nc.Close()
		}
	}()
	address := l.Addr().String()
	shows := func() error { // a busy machine may need more than one attempt
		return within(context.Background(), time.Minute, "a handshake", func(ctx context.Context) error { return presents(ctx, address, path) })
	}
	if err := shows(); err != nil {
		t.Error(err)
	}
	if err := renewCertificates(dir, RenewRequest{Names: []string{"pki/apiserver.crt"}}, now); err != nil {
		t.Fatal(err)
	}
	if err := presents(context.Background(), address, path); err == nil {
		t.Error("the former certificate passes for the new one")
	}
	// etcd listens at one of two addresses.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := awaitPrograms(ctx, dir, []string{"pki/apiserver.crt"}, map[string][]string{"pki/apiserver.crt": {"127.0.0.1:1", address}}); err == nil {
		t.Error("the former certificate passes for the new one at the second address")
	}
	l.Close()
	if err := shows(); err != nil {
		t.Errorf("a server that does not run: %v", err)
	}
}
