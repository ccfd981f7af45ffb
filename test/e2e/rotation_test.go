//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/run"
)

// authoritiesRotated replaces every authority that Quorate can replace, each under load, killed in the middle of each stage, and gone on
// with. Clients keep the kubeconfig that they have until the last stage, and get a new one before it.
func authoritiesRotated(t *testing.T, ctx context.Context, c *cluster) {
	for _, a := range facts.Authorities {
		t.Run(string(a), func(t *testing.T) {
			rotation := authorityRotation{c, a, []string{"cp-a", "cp-b", "cp-c"}}
			if a == facts.ServiceAccountKey {
				accountKeyRotated(t, ctx, rotation)
				return
			}
			rotation.run(t, ctx, nil)
		})
	}
}

// authorityRotation is the rotation of an authority whose key is on these hosts.
type authorityRotation struct {
	c         *cluster
	authority facts.Authority
	hosts     []string
}

func (x authorityRotation) public() string { return "/etc/kubernetes/pki/" + x.authority.Public() }

// key names the new or the old key, as the titles of steps do.
func (x authorityRotation) key(which string) string {
	if x.authority == facts.ServiceAccountKey {
		return which + " service account key"
	}
	return which + " key of the authority " + string(x.authority)
}

// killed are the steps after which the first two stages are killed.
func (x authorityRotation) killed() []string {
	both := "trust both keys of the authority " + string(x.authority) + " … done"
	switch x.authority {
	case facts.EtcdAuthority:
		return []string{"copy the " + x.key("new") + " … done", both, "restart etcd", "sign with the " + x.key("new") + " … done", "sign certificates with the new key … done"}
	case facts.ServiceAccountKey:
		return []string{"copy the " + x.key("new") + " … done", "trust both service account keys … done", "restart kube-apiserver … done", "sign with the " + x.key("new") + " … done",
			"restart kube-controller-manager … done", "have the kubelet request its pods' tokens again … done"}
	}
	return []string{"copy the " + x.key("new") + " … done", both, "sign with the " + x.key("new") + " … done"}
}

// run replaces it. Between is called before the last stage.
func (x authorityRotation) run(t *testing.T, ctx context.Context, between func(*testing.T)) {
	c, a := x.c, x.authority
	const lists = "ls /etc/kubernetes/pki /etc/kubernetes/pki/etcd 2>/dev/null | grep -E 'next|former|signing'; true"
	key := "/etc/kubernetes/pki/" + a.Key()
	old, oldKey := c.ssh(t, ctx, x.hosts[0], "cat "+x.public()), c.ssh(t, ctx, x.hosts[0], "sha256sum <"+key)
	before := c.serials(t, ctx)
	oldClient, oldAPI := c.client(t, ctx)
	if steps := planned(t, c.must(t, ctx, "certs", "rotate", string(a), "-f", c.specFile(), "--dry-run", "-o", "json")); len(steps) == 0 {
		t.Error("nothing is planned")
	}
	if after := c.ssh(t, ctx, x.hosts[0], "cat "+x.public()+"; "+lists); after != old {
		t.Errorf("the dry run changed something: %s", after)
	}

	t.Run("both trusted", func(t *testing.T) { x.bothTrusted(t, ctx) }) // its clients end with the kubeconfig with which they began
	if _, err := oldAPI.Discovery().ServerVersion(); err != nil {
		t.Errorf("the former kubeconfig does not work before the last stage: %v", err)
	}
	if between != nil {
		between(t)
	}
	t.Run("dropped", func(t *testing.T) { x.dropped(t, ctx) })
	for _, host := range x.hosts {
		now := c.ssh(t, ctx, host, "cat "+x.public())
		if now == old || strings.Count(now, "-----BEGIN ") != 1 || c.ssh(t, ctx, host, "sha256sum <"+key) == oldKey {
			t.Errorf("%s still has the old key, or trusts it: %s", host, now)
		}
		if left := c.ssh(t, ctx, host, lists+"; grep -l "+facts.SigningFile+" /etc/kubernetes/manifests/* 2>/dev/null; true"); left != "" {
			t.Errorf("%s still has %s", host, left)
		}
	}
	for name, serial := range c.serials(t, ctx) {
		_, certificate, _ := strings.Cut(name, " ")
		if concerned := (facts.Certificate{Name: certificate}).SignedByAuthority() == a; concerned != (serial != before[name]) {
			t.Errorf("%s: signed again %t", name, serial != before[name])
		}
	}
	if r := c.certificates(t, ctx); len(r.Rotations) > 0 {
		t.Errorf("certs shows %+v", r.Rotations)
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
func (x authorityRotation) bothTrusted(t *testing.T, ctx context.Context) {
	c, a := x.c, x.authority
	p := c.clients(t, ctx)
	begin := time.Now()
	command := []string{"certs", "rotate", string(a), "-f", c.specFile(), "--verbose"}
	all := x.killed()
	for i, said := range all {
		c.killedAt(t, ctx, said, command...)
		if i != 1 {
			continue
		}
		s, _, err := c.status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(s.Problems, func(f model.Finding) bool {
			return f.Rule == model.RuleRotation && strings.Contains(f.Fix, "quorate certs rotate "+string(a))
		}) {
			t.Errorf("status does not say that a rotation is in progress: %+v", s.Problems)
		}
		if r := c.certificates(t, ctx); len(r.Rotations) != 1 || r.Rotations[0].Authority != a || r.Rotations[0].Stage != model.TrustStage {
			t.Errorf("certs shows %+v", r.Rotations)
		}
	}
	r := c.rotates(t, ctx, a)
	if r.Complete || r.Waits == "" {
		t.Errorf("it goes on without being asked: %+v", r)
	}
	t.Log(r.Waits)
	c.unnoticed(t, ctx, p, fmt.Sprintf("rotation of %s until both keys are trusted and the new one signs, killed %d times", a, len(all)), begin)
}

// dropped reaches the last stage, killed in it.
func (x authorityRotation) dropped(t *testing.T, ctx context.Context) {
	c, a := x.c, x.authority
	p := c.clients(t, ctx)
	begin := time.Now()
	options := []string{"--yes", "--skip-workloads"}
	killed := []string{"stop trusting the " + x.key("old") + " … done"}
	if a.ReadAtStart() {
		killed = append(killed, "forget the "+x.key("old")+" … done")
	}
	for _, said := range killed {
		c.killedAt(t, ctx, said, slices.Concat([]string{"certs", "rotate", string(a), "-f", c.specFile(), "--verbose"}, options)...)
	}
	if r := c.rotates(t, ctx, a, options...); !r.Complete {
		t.Errorf("it is not complete: %+v", r)
	}
	c.unnoticed(t, ctx, p, fmt.Sprintf("rotation of %s until the old key is not trusted any more, killed %d times", a, len(killed)), begin)
}

// accountKeyRotated replaces the service account key. A workload, a token in a secret, and a token that was requested from the API are from
// before.
func accountKeyRotated(t *testing.T, ctx context.Context, x authorityRotation) {
	c := x.c
	c.ssh(t, ctx, "cp-a", `set -e
kubectl -n default create serviceaccount robot >/dev/null
kubectl apply -f - >/dev/null <<'END'
apiVersion: v1
kind: Secret
metadata: {namespace: default, name: robot, annotations: {kubernetes.io/service-account.name: robot}}
type: kubernetes.io/service-account-token
END
image=$(ctr -n k8s.io images ls -q | grep /pause: | head -n 1)
kubectl -n default create deployment reader --image=$image >/dev/null
kubectl -n default rollout status deployment reader --timeout=2m >/dev/null`)
	inSecret := func() (token string) {
		eventually(t, ctx, "the secret has a token", func() error {
			if token = c.ssh(t, ctx, "cp-a", "kubectl -n default get secret robot -o 'jsonpath={.data.token}' | base64 -d"); token == "" {
				return errors.New("it has none yet")
			}
			return nil
		})
		return token
	}
	config, _ := c.client(t, ctx)
	authenticates := func(token string) error {
		with := rest.AnonymousClientConfig(config)
		with.BearerToken = token
		api, err := kubernetes.NewForConfig(with)
		if err == nil {
			_, err = api.Discovery().ServerVersion()
		}
		return err
	}
	old, requested := inSecret(), c.ssh(t, ctx, "cp-a", "kubectl -n default create token robot --duration 2h")
	x.run(t, ctx, func(t *testing.T) {
		for _, token := range []string{old, requested} {
			if err := authenticates(token); err != nil {
				t.Errorf("a token that the old key signed is refused before the last stage: %v", err)
			}
		}
		waits := func(want string) {
			t.Helper()
			if r := c.rotates(t, ctx, x.authority); r.Complete || !strings.Contains(r.Waits, want) {
				t.Errorf("it should wait because of %s: %+v", want, r)
			}
		}
		waits("default/robot")
		c.ssh(t, ctx, "cp-a", `kubectl -n default patch secret robot --type json -p '[{"op": "remove", "path": "/data/token"}]' >/dev/null`)
		if now := inSecret(); now == old || authenticates(now) != nil {
			t.Error("the controller manager does not write a new token")
		}
		waits("Deployment default/reader")
		c.ssh(t, ctx, "cp-a", "kubectl -n default rollout restart deployment reader >/dev/null && kubectl -n default rollout status deployment reader --timeout=2m >/dev/null")
		eventually(t, ctx, "the former pod is gone", func() error {
			if r := c.rotates(t, ctx, x.authority); !strings.Contains(r.Waits, "--yes") || strings.Contains(r.Waits, "reader") {
				return errors.New(r.Waits)
			}
			return nil
		})
	})
	for _, token := range []string{old, requested} {
		if err := authenticates(token); err == nil {
			t.Error("a token that the old key signed still works")
		}
	}
	if err := authenticates(inSecret()); err != nil {
		t.Errorf("the new token in the secret does not work: %v", err)
	}
	// New pods get tokens, and use the API with them.
	c.ssh(t, ctx, "cp-a", `set -e
kubectl -n default delete deployment reader >/dev/null
kubectl -n default delete serviceaccount robot >/dev/null
kubectl -n kube-system rollout restart deployment coredns >/dev/null
kubectl -n kube-system rollout status deployment coredns --timeout=3m >/dev/null`)
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

// rotates runs a rotation to where it ends. The exit status tells whether it is complete.
func (c *cluster) rotates(t *testing.T, ctx context.Context, a facts.Authority, options ...string) (out run.Rotated) {
	t.Helper()
	r := c.run(ctx, slices.Concat([]string{"certs", "rotate", string(a), "-f", c.specFile(), "-o", "json"}, options)...)
	if err := json.NewDecoder(bytes.NewBufferString(r.stdout)).Decode(&out); err != nil || r.code != map[bool]int{true: 0, false: 1}[out.Complete] {
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
