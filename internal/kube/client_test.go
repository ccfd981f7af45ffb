package kube

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
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"quorate.dev/quorate/internal/host"
)

// TestMain has the environment name a proxy, as the shells of many companies do. Go reads it once.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		os.Setenv(name, "http://127.0.0.1:9") //nolint:errcheck // the tests would notice
	}
	os.Unsetenv("NO_PROXY") //nolint:errcheck // see above
	os.Exit(m.Run())
}

const endpoint = "api.test.internal"

// server is an API server with an admin.conf.
func server(t *testing.T, h http.HandlerFunc) (address string, admin *api.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{endpoint},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	admin = api.NewConfig()
	admin.Clusters["c"] = &api.Cluster{Server: "https://" + endpoint + ":6443", CertificateAuthorityData: cert}
	admin.AuthInfos["u"] = &api.AuthInfo{ClientCertificateData: cert, ClientKeyData: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
	admin.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	admin.CurrentContext = "x"
	return s.Listener.Addr().String(), admin
}

func write(t *testing.T, c *api.Config) []byte {
	t.Helper()
	data, err := clientcmd.Write(*c)
	if err != nil {
		t.Fatal(err)
	}
	return data
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

func version(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"gitVersion":"v1.37.2","items":[]}`)) //nolint:errcheck // the test would notice
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

// TestTheEnvironmentsProxyIsNotUsed: a proxy is there for downloads, and does not reach the cluster.
func TestTheEnvironmentsProxyIsNotUsed(t *testing.T) {
	address, admin := server(t, version)
	client, err := through([]Server{{session(t, "cp-a"), nobody(t)}, {session(t, "cp-b"), address}}, write(t, admin))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := client.Discovery().ServerVersion(); err != nil || v.GitVersion != "v1.37.2" {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

// TestWhyTheAPIDoesNotAnswer: a server that refuses connections was asked; one behind a session that ended was not.
func TestWhyTheAPIDoesNotAnswer(t *testing.T) {
	address, admin := server(t, version)
	ask := func(servers ...Server) error {
		client, err := through(servers, write(t, admin))
		if err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err = client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		}
		return err
	}
	ended := session(t, "cp-c")
	ended.Close()
	if err := ask(Server{session(t, "cp-a"), nobody(t)}); host.Unanswered(err) || !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "cp-a: ") {
		t.Errorf("a server that is down: %v", err)
	}
	if err := ask(Server{ended, address}); !host.Unanswered(err) {
		t.Errorf("a session that ended: %v", err)
	}
	if err := ask(Server{session(t, "cp-a"), nobody(t)}, Server{ended, address}); !host.Unanswered(err) {
		t.Errorf("one server is down, the other one could not be asked: %v", err)
	}
	if err := ask(Server{ended, address}, Server{session(t, "cp-a"), address}); err != nil {
		t.Errorf("one server answers: %v", err)
	}
}

// TestWhoCannotBeAsked says so, and nothing about what it has.
func TestWhoCannotBeAsked(t *testing.T) {
	away := errors.New("cp-a: no route to host")
	if _, err := Connect(t.Context(), nil, away); !errors.Is(err, away) || strings.Contains(err.Error(), "admin.conf") {
		t.Error(err)
	}
	if _, err := Connect(t.Context(), nil); err == nil || strings.Contains(err.Error(), "%!") {
		t.Error(err)
	}
}

// TestAHostCannotHaveTheCallerRunPrograms: a kubeconfig can name them.
func TestAHostCannotHaveTheCallerRunPrograms(t *testing.T) {
	_, good := server(t, version)
	if _, err := ReadAdmin(write(t, good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*api.Config){
		"a program": func(c *api.Config) {
			c.AuthInfos["u"] = &api.AuthInfo{Exec: &api.ExecConfig{Command: "id", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.NeverExecInteractiveMode}}
		},
		"the caller's files": func(c *api.Config) {
			c.AuthInfos["u"] = &api.AuthInfo{ClientCertificate: "/etc/passwd", ClientKey: "/etc/passwd"}
		},
		"another CA file": func(c *api.Config) {
			c.Clusters["c"].CertificateAuthorityData = nil
			c.Clusters["c"].CertificateAuthority = "/etc/passwd"
		},
		"no encryption": func(c *api.Config) { c.Clusters["c"].Server = "http://" + endpoint },
		"no context":    func(c *api.Config) { c.CurrentContext = "y" },
		"no server":     func(c *api.Config) { c.Clusters["c"].Server = "" },
	} {
		c := good.DeepCopy()
		change(c)
		if got, err := ReadAdmin(write(t, c)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestCredentialsThatHaveExpired: a client certificate that is valid is of no use with an authority that is not.
func TestCredentialsThatHaveExpired(t *testing.T) {
	_, admin := server(t, version)
	user, valid := admin.AuthInfos["u"], admin.Clusters["c"].CertificateAuthorityData
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(-time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	expired := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, tc := range map[string]struct {
		trusted []byte
		at      time.Time
		want    bool
	}{
		"all is valid":                        {valid, time.Now(), false},
		"the authority has expired":           {expired, time.Now(), true},
		"one of two authorities has expired":  {append(expired[:len(expired):len(expired)], valid...), time.Now(), false},
		"the client's certificate is too old": {nil, time.Now().Add(2 * time.Hour), true},
	} {
		if (Admin{CA: tc.trusted, Certificate: user.ClientCertificateData, Key: user.ClientKeyData}).Expired(tc.at) != tc.want {
			t.Errorf("%s: %t", name, !tc.want)
		}
	}
}
