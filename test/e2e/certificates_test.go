//go:build e2e

package e2e

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/certs"
	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
)

const certificatesSpec = `apiVersion: quorate.dev/v1alpha1
kind: Cluster
metadata: {name: e2e-certs}
spec:
  controlPlane: {endpoint: "api.e2e-certs.internal:6443"}
  hosts:
    - {name: cp-a, roles: [control-plane], zone: a}
    - {name: cp-b, roles: [control-plane], zone: b}
    - {name: cp-c, roles: [control-plane], zone: c}
    - {name: worker-a, roles: [worker], zone: a}
`

// TestCertificates renews the certificates of a cluster while clients use it, and brings the cluster back after every certificate has
// expired, on machines that were all switched off meanwhile.
func TestCertificates(t *testing.T) {
	c := newCluster(t, "e2e-certs")
	ctx := testContext(t)
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte(certificatesSpec), 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "up", "-f", file, "--name", c.name)
	c.whole(t, ctx)
	t.Run("shown", func(t *testing.T) { certificatesShown(t, ctx, c) })
	t.Run("renewed", func(t *testing.T) { certificatesRenewed(t, ctx, c) })
	t.Run("due", func(t *testing.T) { certificatesDue(t, ctx, c) })
	if *whole { // it takes half an hour
		t.Run("rotated", func(t *testing.T) { authoritiesRotated(t, ctx, c) })
	}
	t.Run("expired", func(t *testing.T) { certificatesExpired(t, ctx, c) })
	if *whole { // four times the time of the part before it
		t.Run("authorities expired", func(t *testing.T) { authoritiesExpired(t, ctx, c) })
		t.Run("authorities expired during a maintenance", func(t *testing.T) { authoritiesExpiredInMaintenance(t, ctx, c) })
	}
}

// certificates is `quorate certs`.
func (c *cluster) certificates(t *testing.T, ctx context.Context) (out certs.Report) {
	t.Helper()
	r := c.must(t, ctx, "certs", "-f", c.specFile(), "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v in %s", err, r)
	}
	return out
}

func certificatesShown(t *testing.T, ctx context.Context, c *cluster) {
	c.ssh(t, ctx, "cp-b", "systemctl start quorate-approver.service") // its timer starts it after five minutes, and then it gets a certificate
	r := c.certificates(t, ctx)
	have := map[string][]string{}
	for _, x := range r.Certificates {
		have[x.Host] = append(have[x.Host], x.Name)
		if x.DaysLeft < 6 || x.Issuer == "" || !strings.HasPrefix(x.File, "/") || x.Due || len(x.Outdated) > 0 || x.KeyMissing {
			t.Errorf("%+v", x)
		}
	}
	want := []string{"pki/ca.crt", "pki/front-proxy-ca.crt", "pki/etcd/ca.crt", "pki/apiserver.crt", "pki/apiserver-kubelet-client.crt", "pki/apiserver-etcd-client.crt", "pki/front-proxy-client.crt",
		"pki/etcd/server.crt", "pki/etcd/peer.crt", "pki/etcd/healthcheck-client.crt", "admin.conf", "controller-manager.conf", "scheduler.conf", "kubelet-client", "kubelet-server", "quorate-approver"}
	for _, name := range want {
		if !slices.Contains(have["cp-b"], name) {
			t.Errorf("cp-b has no %s: %v", name, have["cp-b"])
		}
	}
	if !slices.Contains(have["worker-a"], "kubelet-client") || !slices.Contains(have["worker-a"], "kubelet-server") || len(r.Unknown) > 0 || len(r.OfflineKeys) > 0 {
		t.Errorf("worker-a %v, unknown %v, offline %v", have["worker-a"], r.Unknown, r.OfflineKeys)
	}
	t.Log(c.must(t, ctx, "certs", "-f", c.specFile()).stdout)
}

// serials are the serial numbers of the certificates that quorate renews, by host and name.
func (c *cluster) serials(t *testing.T, ctx context.Context) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, x := range c.certificates(t, ctx).Certificates {
		if x.RenewedBy == model.ByQuorate && !x.CA {
			leaf, _ := c.fetchPair(t, ctx, x.Host, x.Name)
			out[x.Host+" "+x.Name] = leaf.SerialNumber.String()
		}
	}
	return out
}

func certificatesRenewed(t *testing.T, ctx context.Context, c *cluster) {
	before := c.serials(t, ctx)
	dry := planned(t, c.must(t, ctx, "certs", "renew", "-f", c.specFile(), "--dry-run", "-o", "json"))
	if !slices.ContainsFunc(dry, func(s plan.Step) bool { return s.Kind == plan.RenewCertificates }) {
		t.Errorf("the plan renews nothing: %+v", dry)
	}
	p := c.clients(t, ctx)
	begin := time.Now()
	killed := c.start(t, ctx, "certs", "renew", "-f", c.specFile(), "--verbose")
	if !killed.reaches(ctx, "renew certificates … done") {
		code, all := killed.wait(t)
		t.Fatalf("renew ends early: exit status %d: %s", code, all)
	}
	killed.signal(t, ctx, syscall.SIGKILL, 0)
	killed.wait(t)
	r := c.must(t, ctx, "certs", "renew", "-f", c.specFile())
	end := time.Now()
	met, err := p.Between(ctx, begin, end)
	if err != nil {
		t.Fatal(err)
	}
	printMet(t, "certs renew, killed and run again", end.Sub(begin), met)
	fmt.Printf("%s: the second run took %s\n", t.Name(), r.took.Round(time.Millisecond))
	if n := c.noticed(t, ctx, begin, end, met); n > 0 {
		t.Errorf("%d requests failed while certificates were renewed", n)
	}
	for name, serial := range c.serials(t, ctx) {
		if serial == before[name] {
			t.Errorf("%s was not renewed", name)
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
	c.whole(t, ctx)
	// kubeadm goes on managing them.
	c.ssh(t, ctx, "cp-b", "kubeadm certs check-expiration >/dev/null && kubeadm certs renew front-proxy-client && kubeadm certs renew scheduler.conf")
	// And what it leaves to do is done by apply: the scheduler has the former certificate.
	steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json"))
	if !slices.ContainsFunc(steps, func(s plan.Step) bool {
		return s.Kind == plan.RestartPrograms && s.Host == "cp-b" && slices.Equal(s.Pods, []string{facts.Scheduler})
	}) {
		t.Errorf("nobody restarts the scheduler whose certificate kubeadm renewed: %+v", steps)
	}
}

// certificatesRenewedOnEtcdHosts renews those of an external etcd, and expects that API servers use the new client certificate.
func certificatesRenewedOnEtcdHosts(t *testing.T, ctx context.Context, c *cluster) {
	const client = "sha256sum </etc/kubernetes/pki/apiserver-etcd-client.crt"
	before, former := c.serials(t, ctx), c.ssh(t, ctx, "cp-a", client)
	c.must(t, ctx, "certs", "renew", "-f", c.specFile())
	for name, serial := range c.serials(t, ctx) {
		if serial == before[name] {
			t.Errorf("%s was not renewed", name)
		}
	}
	if c.ssh(t, ctx, "cp-a", client) == former {
		t.Error("cp-a has the former client certificate for etcd")
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
	c.whole(t, ctx)
}

// certificatesDue has apply renew what is close to expiry, and nothing else.
func certificatesDue(t *testing.T, ctx context.Context, c *cluster) {
	now := time.Now()
	c.reissue(t, ctx, "cp-a", []string{"pki/apiserver.crt"}, now.AddDate(0, -10, 0), now.AddDate(0, 2, 0))
	c.must(t, ctx, "apply", "-f", c.specFile())
	for _, x := range c.certificates(t, ctx).Certificates {
		if x.Host == "cp-a" && x.Name == "pki/apiserver.crt" && x.DaysLeft < 363 {
			t.Errorf("apply left it: %+v", x)
		}
		if len(x.Outdated) > 0 {
			t.Errorf("%+v", x)
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
}

// certificatesExpired switches all machines off, lets every certificate but the authorities' expire, and brings the cluster back.
func certificatesExpired(t *testing.T, ctx context.Context, c *cluster) {
	c.expire(t, ctx, nil)
	c.comesBack(t, ctx, 20)
}

// authoritiesExpired does the same with each authority and what it signed, and with all of them: then nothing is left that is valid.
func authoritiesExpired(t *testing.T, ctx context.Context, c *cluster) {
	for name, authorities := range map[string][]string{"etcd": {facts.EtcdCA}, "front proxy": {facts.FrontProxyCA}, "Kubernetes": {facts.ClusterCA}, "all": {facts.ClusterCA, facts.FrontProxyCA, facts.EtcdCA}} {
		t.Run(name, func(t *testing.T) {
			before := map[string]string{}
			for _, a := range authorities {
				leaf, _ := c.fetchPair(t, ctx, "cp-a", a)
				before[a] = string(leaf.RawSubjectPublicKeyInfo)
			}
			c.expire(t, ctx, authorities)
			least := 6 // the authority and its client on each control plane
			if slices.Contains(authorities, facts.ClusterCA) {
				least = 20
			}
			if name == "front proxy" {
				c.frontProxyComesBack(t, ctx)
			} else {
				c.comesBack(t, ctx, least)
			}
			for _, a := range authorities {
				if leaf, _ := c.fetchPair(t, ctx, "cp-a", a); string(leaf.RawSubjectPublicKeyInfo) != before[a] || time.Until(leaf.NotAfter) < 9*365*24*time.Hour {
					t.Errorf("%s has another key, or is valid until %s", a, leaf.NotAfter)
				}
			}
			// Clients in pods that read what they trust once, and whoever joins, get the certificate.
			for _, object := range []string{"-n kube-public get configmap cluster-info -o jsonpath='{.data.kubeconfig}' | sed -n 's/.*certificate-authority-data: //p' | base64 -d", "-n default get configmap kube-root-ca.crt -o jsonpath='{.data.ca\\.crt}'"} {
				c.ssh(t, ctx, "cp-a", "kubectl --kubeconfig /etc/kubernetes/admin.conf "+object+" | openssl x509 -noout -checkend 86400")
			}
		})
	}
}

// authoritiesExpiredInMaintenance has authorities expire while a host is in maintenance. Apply renews them on the others, and the end of the
// maintenance there.
func authoritiesExpiredInMaintenance(t *testing.T, ctx context.Context, c *cluster) {
	const away = "cp-b"
	c.must(t, ctx, "maintain", "-f", c.specFile(), away)
	c.expire(t, ctx, []string{facts.ClusterCA, facts.FrontProxyCA, facts.EtcdCA})
	c.must(t, ctx, "lab", "--lab", c.name, "fault", "power-off", away)
	eventually(t, ctx, "the other machines have booted", func() error {
		r := c.certificates(t, ctx)
		delete(r.Unknown, "webhooks")
		if len(r.Unknown) != 1 || r.Unknown[away] == "" {
			return fmt.Errorf("these cannot be queried: %v", r.Unknown)
		}
		return nil
	})
	c.must(t, ctx, "apply", "-f", c.specFile())
	c.must(t, ctx, "lab", "--lab", c.name, "heal")
	c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", away)
	c.must(t, ctx, "apply", "-f", c.specFile())
	c.whole(t, ctx)
	for _, x := range c.certificates(t, ctx).Certificates {
		if x.DaysLeft < 0 || x.Due || len(x.Outdated) > 0 {
			t.Errorf("it is still in need of renewal: %+v", x)
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
}

// frontProxyComesBack is comesBack for the authority without which everything works but aggregated APIs.
func (c *cluster) frontProxyComesBack(t *testing.T, ctx context.Context) {
	t.Helper()
	eventually(t, ctx, "all machines have booted, and the API answers", func() error {
		r := c.certificates(t, ctx)
		if s, _, err := c.status(ctx); err != nil || s.Version == "" || len(r.Unknown) > 0 {
			return fmt.Errorf("version %q, unknown %v, %v", s.Version, r.Unknown, err)
		}
		if !slices.ContainsFunc(r.Certificates, func(x certs.Certificate) bool { return x.Name == facts.FrontProxyCA && x.Due }) {
			t.Error("the authority is not due")
		}
		return nil
	})
	c.must(t, ctx, "apply", "-f", c.specFile())
	c.whole(t, ctx)
	for _, x := range c.certificates(t, ctx).Certificates {
		if x.DaysLeft < 0 {
			t.Errorf("it is still in need of renewal: %+v", x)
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
}

// expire stops kubelets, has certificates expire that authorities have signed, and these authorities, and restarts all machines. Without
// authorities, that is every certificate but theirs.
func (c *cluster) expire(t *testing.T, ctx context.Context, authorities []string) {
	t.Helper()
	_, api := c.client(t, ctx)
	if version, err := api.Discovery().ServerVersion(); err != nil {
		t.Fatal(version, err)
	}
	r := c.certificates(t, ctx)
	names := map[string][]string{}
	for _, x := range r.Certificates {
		by := facts.Certificate{Name: x.Name}.SignedByAuthority().Certificate()
		if !x.CA && x.RenewedBy != model.ByApprover && x.RenewedBy != model.ByEtcdHosts && (len(authorities) == 0 || slices.Contains(authorities, by)) {
			names[x.Host] = append(names[x.Host], x.Name)
		}
	}
	all := map[string]bool{}
	for _, x := range r.Certificates {
		all[x.Host] = true
	}
	for host := range all { // a kubelet that runs would renew its own
		c.ssh(t, ctx, host, "systemctl stop kubelet; true")
	}
	now := time.Now()
	for host, all := range names {
		c.reissue(t, ctx, host, all, now.AddDate(-1, 0, 0), now.Add(-time.Minute))
	}
	c.copyExpiredEtcdClient(t, ctx, r)
	for _, a := range authorities {
		c.expireAuthority(t, ctx, r, a, now)
	}
	for host := range all {
		c.must(t, ctx, "lab", "--lab", c.name, "fault", "power-off", host)
	}
	c.must(t, ctx, "lab", "--lab", c.name, "heal")
}

// expireAuthority gives all hosts that have an authority, and their kubeconfigs, a certificate of the same key that has expired.
func (c *cluster) expireAuthority(t *testing.T, ctx context.Context, r certs.Report, name string, now time.Time) {
	t.Helper()
	signer := slices.IndexFunc(r.Certificates, func(x certs.Certificate) bool { return x.Name == name && strings.HasPrefix(x.Host, "cp-") })
	leaf, key := c.fetchPair(t, ctx, r.Certificates[signer].Host, name)
	template := *leaf
	template.NotBefore, template.NotAfter = now.AddDate(-10, 0, 0), now.Add(-time.Minute)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for _, x := range r.Certificates {
		if x.Name != name {
			continue
		}
		c.put(t, ctx, x.Host, x.File, string(content))
		if name == facts.ClusterCA {
			c.ssh(t, ctx, x.Host, "for f in /etc/kubernetes/*.conf; do sed -i 's|certificate-authority-data: .*|certificate-authority-data: '$(base64 -w0 "+x.File+")'|' $f; done; "+
				"if [ -e /etc/haproxy/quorate-ca.crt ]; then cp "+x.File+" /etc/haproxy/quorate-ca.crt; fi")
		}
	}
}

// comesBack expects that so many certificates have expired that the API answers nobody, and that apply brings the cluster back.
func (c *cluster) comesBack(t *testing.T, ctx context.Context, least int) {
	t.Helper()
	expired := 0
	eventually(t, ctx, "all machines have booted, and their certificates have expired", func() error {
		r := c.certificates(t, ctx)
		expired = 0
		for _, x := range r.Certificates {
			if x.DaysLeft < 0 {
				expired++
			}
		}
		delete(r.Unknown, "webhooks") // nobody can ask for them
		if expired < least || len(r.Unknown) > 0 {
			return fmt.Errorf("%d have expired, and these hosts cannot be queried: %v", expired, r.Unknown)
		}
		return nil
	})
	s, _, err := c.status(ctx)
	if err != nil || s.Version != "" {
		t.Fatalf("the API answers although everything has expired: version %q, %v", s.Version, err)
	}
	if !slices.ContainsFunc(s.Problems, func(f model.Finding) bool {
		return f.Rule == model.RuleCertificate && strings.Contains(f.Summary, "expired on")
	}) {
		t.Errorf("status does not say that certificates have expired: %+v", s.Problems)
	}
	begin := time.Now()
	c.must(t, ctx, "apply", "-f", c.specFile())
	fmt.Printf("%s: %d expired certificates; the cluster is back after %s\n", t.Name(), expired, time.Since(begin).Round(time.Second))
	c.whole(t, ctx)
	for _, x := range c.certificates(t, ctx).Certificates {
		if x.DaysLeft < 0 || x.Due || len(x.Outdated) > 0 {
			t.Errorf("it is still in need of renewal: %+v", x)
		}
	}
	_, api := c.client(t, ctx)
	if _, err := api.Discovery().ServerVersion(); err != nil {
		t.Errorf("the administrator's kubeconfig: %v", err)
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
}

// fetchPair reads a certificate and its key from a machine.
func (c *cluster) fetchPair(t *testing.T, ctx context.Context, host, name string) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	path := facts.Certificate{Name: name}.File()
	certificate := []byte(c.ssh(t, ctx, host, "cat "+path))
	key := certificate
	switch {
	case strings.HasSuffix(name, ".conf"):
		config, err := clientcmd.Load(certificate)
		if err != nil {
			t.Fatal(err)
		}
		user := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
		certificate, key = user.ClientCertificateData, user.ClientKeyData
	case strings.HasSuffix(name, ".crt"):
		key = []byte(c.ssh(t, ctx, host, "cat "+strings.TrimSuffix(path, ".crt")+".key"))
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatalf("%s on %s: %v", name, host, err)
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer)
}

// reissue signs certificates of a machine again with other dates, for the keys that they have.
func (c *cluster) reissue(t *testing.T, ctx context.Context, host string, names []string, begin, end time.Time) {
	t.Helper()
	authorities := map[string]tls.Certificate{}
	for _, name := range names {
		authority := facts.Certificate{Name: name}.Signer()
		if authority == "" {
			authority = facts.ClusterCA // of kubelets
		}
		ca, read := authorities[authority]
		if !read {
			at := host
			if authority == facts.ClusterCA {
				at = "cp-a"
			}
			leaf, key := c.fetchPair(t, ctx, at, authority)
			ca = tls.Certificate{Leaf: leaf, PrivateKey: key}
			authorities[authority] = ca
		}
		leaf, key := c.fetchPair(t, ctx, host, name)
		template := &x509.Certificate{Subject: leaf.Subject, DNSNames: leaf.DNSNames, IPAddresses: leaf.IPAddresses, KeyUsage: leaf.KeyUsage, ExtKeyUsage: leaf.ExtKeyUsage,
			BasicConstraintsValid: true, NotBefore: begin, NotAfter: end}
		var err error
		if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		path := facts.Certificate{Name: name}.File()
		switch {
		case strings.HasSuffix(name, ".conf"):
			config, err := clientcmd.Load([]byte(c.ssh(t, ctx, host, "cat "+path)))
			if err != nil {
				t.Fatal(err)
			}
			config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo].ClientCertificateData = content
			if content, err = clientcmd.Write(*config); err != nil {
				t.Fatal(err)
			}
		case !strings.HasSuffix(name, ".crt"): // the kubelet keeps the key in the same file
			keyDER, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			content = append(content, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
		}
		c.put(t, ctx, host, path, string(content))
	}
}

// copyExpiredEtcdClient gives control planes the expired client certificate of an external etcd, as they would have it.
func (c *cluster) copyExpiredEtcdClient(t *testing.T, ctx context.Context, r certs.Report) {
	t.Helper()
	source := slices.IndexFunc(r.Certificates, func(x certs.Certificate) bool {
		return x.Name == facts.EtcdClientCertificate && x.RenewedBy == model.ByQuorate
	})
	for _, x := range r.Certificates {
		if x.RenewedBy != model.ByEtcdHosts {
			continue
		}
		for _, name := range []string{"apiserver-etcd-client.key", "apiserver-etcd-client.crt"} {
			path := "/etc/kubernetes/pki/" + name
			c.put(t, ctx, x.Host, path, c.ssh(t, ctx, r.Certificates[source].Host, "cat "+path)+"\n")
		}
	}
}
