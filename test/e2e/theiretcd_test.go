//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/spec"
)

// theirEtcd is an etcd on lab machines that Quorate does not know: with other paths, another CA, and another unit.
type theirEtcd struct {
	c         *cluster
	dir       string
	machines  []string
	authority *authority
	endpoints []string
}

func newTheirEtcd(t *testing.T, c *cluster, machines ...string) *theirEtcd {
	t.Helper()
	e := &theirEtcd{c: c, dir: t.TempDir(), machines: machines, authority: newAuthority(t, "their etcd CA")}
	e.write(t, "ca.pem", string(e.authority.pem))
	e.renewClient(t)
	return e
}

func (e *theirEtcd) file(name string) string { return filepath.Join(e.dir, name) }

func (e *theirEtcd) write(t *testing.T, name, text string) string {
	t.Helper()
	e.writeTo(t, e.file(name), text)
	return e.file(name)
}

func (e *theirEtcd) writeTo(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (e *theirEtcd) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(e.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (e *theirEtcd) renewClient(t *testing.T) {
	t.Helper()
	cert, key := e.authority.issue(t, "a cluster")
	e.write(t, "client.pem", cert)
	e.write(t, "client.key", key)
}

func (e *theirEtcd) spec(t *testing.T, endpoints []string) []byte {
	t.Helper()
	text, err := spec.Init(spec.InitOptions{Name: e.c.name, Topology: spec.TopologyExternal, ControlPlanes: 2, Workers: 1,
		Etcd: spec.Etcd{Endpoints: endpoints, CAFile: e.file("ca.pem"), CertFile: e.file("client.pem"), KeyFile: e.file("client.key")}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// start installs and starts the members, as a person would.
func (e *theirEtcd) start(t *testing.T, ctx context.Context) {
	t.Helper()
	addresses := map[string]string{}
	var ips []net.IP
	for _, m := range e.c.lab(t).Machines() {
		addresses[m.Name] = m.Address.String()
		ips = append(ips, m.Address.AsSlice())
	}
	cert, key := e.authority.issue(t, "their member", append(ips, net.IPv4(127, 0, 0, 1))...)
	var initial []string
	for _, m := range e.machines {
		initial = append(initial, fmt.Sprintf("of-%s=https://%s:2380", m, addresses[m]))
		e.endpoints = append(e.endpoints, "https://"+addresses[m]+":2379")
	}
	for _, m := range e.machines {
		unit := fmt.Sprintf(`[Service]
ExecStart=/usr/local/bin/etcd --name of-%[1]s --data-dir /srv/etcd --listen-client-urls https://0.0.0.0:2379 --advertise-client-urls https://%[2]s:2379 \
  --listen-peer-urls https://%[2]s:2380 --initial-advertise-peer-urls https://%[2]s:2380 --initial-cluster %[3]s \
  --cert-file /srv/cert --key-file /srv/key --trusted-ca-file /srv/ca --client-cert-auth \
  --peer-cert-file /srv/cert --peer-key-file /srv/key --peer-trusted-ca-file /srv/ca --peer-client-cert-auth
Restart=always
`, m, addresses[m], strings.Join(initial, ","))
		for path, text := range map[string]string{"/srv/ca": string(e.authority.pem), "/srv/cert": cert, "/srv/key": key, "/etc/systemd/system/their-etcd.service": unit} {
			e.exec(t, ctx, m, text, "cat > "+path)
		}
		e.exec(t, ctx, m, "", "systemctl daemon-reload && systemctl start their-etcd")
	}
	eventually(t, ctx, "their etcd has a leader", func() error {
		var out bytes.Buffer
		if err := e.c.lab(t).Exec(ctx, e.machines[0], []string{"sh", "-c", ctl("endpoint health")}, nil, &out, &out); err != nil {
			return fmt.Errorf("%w: %s", err, out.String())
		}
		return nil
	})
}

func (e *theirEtcd) exec(t *testing.T, ctx context.Context, machine, stdin, command string) string {
	t.Helper()
	var out bytes.Buffer
	if err := e.c.lab(t).Exec(ctx, machine, []string{"sh", "-c", command}, strings.NewReader(stdin), &out, &out); err != nil {
		t.Fatalf("%s on %s: %v: %s", command, machine, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func ctl(args string) string {
	return "etcdctl --endpoints https://127.0.0.1:2379 --cacert /srv/ca --cert /srv/cert --key /srv/key " + args
}

func (e *theirEtcd) etcdctl(t *testing.T, ctx context.Context, args string) string {
	t.Helper()
	return e.exec(t, ctx, e.machines[0], "", ctl(args))
}

// authority is a certificate authority for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue makes a certificate for servers and clients, and its key, in PEM.
func (a *authority) issue(t *testing.T, name string, ips ...net.IP) (cert, key string) {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: ips}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
