//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/run"
)

// authoritiesRotated replaces every authority that Quorate can replace, each under load, killed in the middle of each stage, and gone on
// with. Clients keep the kubeconfig that they have until the last stage, and get a new one before it.
func authoritiesRotated(t *testing.T, ctx context.Context, c *cluster) {
	for _, a := range facts.Authorities {
		t.Run(string(a), func(t *testing.T) { authorityRotated(t, ctx, c, a) })
	}
}

func authorityRotated(t *testing.T, ctx context.Context, c *cluster, a facts.Authority) {
	public, key := "/etc/kubernetes/pki/"+a.Public(), "/etc/kubernetes/pki/"+a.Key()
	old, oldKey := c.ssh(t, ctx, "cp-a", "cat "+public), c.ssh(t, ctx, "cp-a", "sha256sum <"+key)
	before := c.serials(t, ctx)
	oldClient, oldAPI := c.client(t, ctx)
	if steps := planned(t, c.must(t, ctx, "certs", "rotate", string(a), "-f", c.specFile(), "--dry-run", "-o", "json")); len(steps) == 0 {
		t.Error("nothing is planned")
	}
	if after := c.ssh(t, ctx, "cp-a", "cat "+public+"; ls /etc/kubernetes/pki | grep next; true"); after != old {
		t.Errorf("the dry run changed something: %s", after)
	}

	t.Run("both trusted", func(t *testing.T) { bothTrusted(t, ctx, c, a) }) // its clients end with the kubeconfig with which they began
	if _, err := oldAPI.Discovery().ServerVersion(); err != nil {
		t.Errorf("the former kubeconfig does not work before the last stage: %v", err)
	}
	t.Run("dropped", func(t *testing.T) { oldDropped(t, ctx, c, a) })
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		now := c.ssh(t, ctx, host, "cat "+public)
		if now == old || strings.Count(now, "BEGIN CERTIFICATE") != 1 || c.ssh(t, ctx, host, "sha256sum <"+key) == oldKey {
			t.Errorf("%s still has the old authority, or trusts it: %s", host, now)
		}
		if left := c.ssh(t, ctx, host, "ls /etc/kubernetes/pki | grep -E 'next|signing'; grep -l "+facts.SigningFile+" /etc/kubernetes/manifests/*; true"); left != "" {
			t.Errorf("%s still has %s", host, left)
		}
	}
	for name, serial := range c.serials(t, ctx) {
		_, certificate, _ := strings.Cut(name, " ")
		if concerned := (facts.Certificate{Name: certificate}).SignedByAuthority() == a; concerned != (serial != before[name]) {
			t.Errorf("%s: signed again %t", name, serial != before[name])
		}
	}
	if steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")); len(steps) > 0 {
		t.Errorf("something is left to do: %+v", steps)
	}
	c.whole(t, ctx)
	if a == facts.KubernetesAuthority {
		if _, err := oldAPI.Discovery().ServerVersion(); err == nil {
			t.Errorf("the former kubeconfig for %s still works", oldClient.Host)
		}
		c.kubernetesAuthorityWorks(t, ctx)
	}
	// kubeadm goes on managing what it finds.
	c.ssh(t, ctx, "cp-b", "kubeadm certs check-expiration >/dev/null && kubeadm certs renew front-proxy-client && kubeadm token create --ttl 1m --print-join-command | grep -q discovery-token-ca-cert-hash")
	c.must(t, ctx, "apply", "-f", c.specFile())
}

// bothTrusted reaches the first two stages, killed in each of them.
func bothTrusted(t *testing.T, ctx context.Context, c *cluster, a facts.Authority) {
	p := c.clients(t, ctx)
	begin := time.Now()
	command := []string{"certs", "rotate", string(a), "-f", c.specFile(), "--verbose"}
	c.killedAt(t, ctx, "copy the new key of the authority … done", command...)
	c.killedAt(t, ctx, "trust both keys of the authority "+string(a)+" … done", command...)
	s, _, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.Problems, func(f model.Finding) bool {
		return f.Rule == model.RuleRotation && strings.Contains(f.Fix, "quorate certs rotate "+string(a))
	}) {
		t.Errorf("status does not say that a rotation is in progress: %+v", s.Problems)
	}
	c.killedAt(t, ctx, "sign with the new key of the authority "+string(a)+" … done", command...)
	r := c.rotates(t, ctx, a)
	if r.Complete || r.Waits == "" {
		t.Errorf("it goes on without being asked: %+v", r)
	}
	t.Log(r.Waits)
	c.unnoticed(t, ctx, p, "rotation of "+string(a)+" until both keys are trusted and the new one signs, killed three times", begin)
}

// oldDropped reaches the last stage, killed in it.
func oldDropped(t *testing.T, ctx context.Context, c *cluster, a facts.Authority) {
	p := c.clients(t, ctx)
	begin := time.Now()
	options := []string{"--yes", "--skip-workloads"}
	c.killedAt(t, ctx, "stop trusting the old key of the authority "+string(a)+" … done", slices.Concat([]string{"certs", "rotate", string(a), "-f", c.specFile(), "--verbose"}, options)...)
	if r := c.rotates(t, ctx, a, options...); !r.Complete {
		t.Errorf("it is not complete: %+v", r)
	}
	c.unnoticed(t, ctx, p, "rotation of "+string(a)+" until the old key is not trusted any more, killed once", begin)
}

// unnoticed expects that no request of clients has failed since begin.
func (c *cluster) unnoticed(t *testing.T, ctx context.Context, p *probe.Prober, name string, begin time.Time) {
	t.Helper()
	end := time.Now()
	met, err := p.Between(ctx, begin, end)
	if err != nil {
		t.Fatal(err)
	}
	printMet(t, name, end.Sub(begin), met)
	if n := c.noticed(t, ctx, begin, end, met); n > 0 {
		t.Errorf("%d requests failed", n)
	}
}

// kubernetesAuthorityWorks tries what depends on the Kubernetes CA: logs through API servers, new certificates of kubelets, and ConfigMaps
// in a new namespace.
func (c *cluster) kubernetesAuthorityWorks(t *testing.T, ctx context.Context) {
	t.Helper()
	text := c.ssh(t, ctx, "cp-a", `set -e
for node in cp-a cp-b cp-c worker-a; do kubectl get --raw /api/v1/nodes/$node/proxy/healthz; echo; done
kubectl create namespace after-rotation >/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do kubectl -n after-rotation get configmap kube-root-ca.crt >/dev/null 2>&1 && break; sleep 1; done
kubectl -n after-rotation get configmap kube-root-ca.crt -o 'jsonpath={.data.ca\.crt}' | grep -c BEGIN
kubectl delete namespace after-rotation --wait=false >/dev/null
kubectl -n kube-system logs ds/kube-proxy --tail 1 >/dev/null
kubectl -n kube-system get configmap extension-apiserver-authentication -o 'jsonpath={.data.client-ca-file}' | grep -c BEGIN`)
	if want := "ok\nok\nok\nok\n1\n1"; text != want {
		t.Errorf("got %q, want %q", text, want)
	}
	// The controller manager signs with the new key: a kubelet that asks gets a certificate of it.
	c.ssh(t, ctx, "worker-a", "rm /var/lib/kubelet/pki/kubelet-server-current.pem && systemctl restart kubelet")
	eventually(t, ctx, "the kubelet of worker-a has a new serving certificate", func() error {
		c.ssh(t, ctx, "cp-a", "systemctl start quorate-approver.service; true") // its timer runs every five minutes
		said := c.ssh(t, ctx, "worker-a", "openssl verify -CAfile /etc/kubernetes/pki/ca.crt /var/lib/kubelet/pki/kubelet-server-current.pem 2>&1; true")
		if !strings.HasSuffix(said, ": OK") {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
}

// rotates runs a rotation to where it ends.
func (c *cluster) rotates(t *testing.T, ctx context.Context, a facts.Authority, options ...string) (out run.Rotated) {
	t.Helper()
	r := c.must(t, ctx, slices.Concat([]string{"certs", "rotate", string(a), "-f", c.specFile(), "-o", "json"}, options)...)
	if err := json.NewDecoder(bytes.NewBufferString(r.stdout)).Decode(&out); err != nil {
		t.Fatalf("%v in %s", err, r)
	}
	return out
}

// killedAt runs a command, and kills it as soon as it says something.
func (c *cluster) killedAt(t *testing.T, ctx context.Context, said string, arguments ...string) {
	t.Helper()
	killed := c.start(t, ctx, arguments...)
	if !killed.reaches(ctx, said) {
		code, all := killed.wait(t)
		t.Fatalf("it ends before it says %q: exit status %d: %s", said, code, all)
	}
	killed.signal(t, ctx, syscall.SIGKILL, 0)
	killed.wait(t)
}
