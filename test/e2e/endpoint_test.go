//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// attempts are the requests that were made to one endpoint, each on a connection of its own.
type attempts struct {
	mu   sync.Mutex
	made []attempt
}

type attempt struct {
	begin time.Time
	err   error
}

// ask requests /readyz at an endpoint until ctx ends, as a client outside of the cluster that verifies the certificate.
func ask(ctx context.Context, ca []byte, e spec.Endpoint) *attempts {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: e.Name, MinVersion: tls.VersionTLS12}}}
	out := &attempts{}
	go func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			go func() {
				begin := time.Now()
				resp, err := client.Get("https://" + e.Address + ":" + e.Port + "/readyz")
				if err == nil {
					io.Copy(io.Discard, resp.Body) //nolint:errcheck // only the status counts
					if resp.Body.Close(); resp.StatusCode != http.StatusOK {
						err = fmt.Errorf("%s", resp.Status)
					}
				}
				out.mu.Lock()
				defer out.mu.Unlock()
				out.made = append(out.made, attempt{begin, err})
			}()
		}
	}()
	return out
}

// between counts requests, and those that failed.
func (a *attempts) between(begin, end time.Time) (requests int, failed []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.made {
		if r.begin.Before(begin) || r.begin.After(end) {
			continue
		}
		if requests++; r.err != nil {
			failed = append(failed, r.begin.Format(time.TimeOnly)+": "+r.err.Error())
		}
	}
	return requests, failed
}

// endpointChange gives a cluster another name, port, and virtual IP at once, and is killed on the way, while clients use both
// endpoints. The cluster keeps the new one.
func endpointChange(t *testing.T, c *cluster) {
	ctx := testContext(t)
	before, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	old := before.Endpoint()
	address, err := netip.ParseAddr(old.Address)
	if err != nil {
		t.Fatal(err)
	}
	now := spec.Endpoint{Name: "kube." + c.name + ".internal", Port: "8443", Address: address.Next().String()}
	file := c.edited(t, func(s *spec.Cluster) {
		s.Spec.ControlPlane.Endpoint, s.Spec.LoadBalancer.Address = now.HostPort(), now.Address
	})
	config, _ := c.client(t, ctx)
	asking, stop := context.WithCancel(ctx)
	defer stop()
	askedOld, askedNew := ask(asking, config.CAData, old), ask(asking, config.CAData, now)
	begin := time.Now()

	steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
	moved := title(t, steps, plan.MoveClients)
	r := c.start(t, ctx, "apply", "-f", file)
	if !r.reaches(ctx, moved) {
		t.Fatal(r.wait(t))
	}
	bothServe := time.Now()
	r.signal(t, ctx, os.Kill, 300*time.Millisecond)
	r.wait(t)
	if s, r, err := c.statusOf(ctx, file); err != nil || !s.Endpoint.Reachable || s.Endpoint.Address != old.HostPort() {
		t.Errorf("the cluster is not reached at its old endpoint: %v, %s", err, r)
	}
	r = c.start(t, ctx, "apply", "-f", file)
	if !r.reaches(ctx, "record the new endpoint") {
		t.Fatal(r.wait(t))
	}
	oldMayEnd := time.Now()
	if code, said := r.wait(t); code != 0 {
		t.Fatalf("exit status %d: %s", code, said)
	}
	applied := time.Now()
	c.onlyAt(t, ctx, file, now, old)
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(c.specFile(), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name       string
		of         *attempts
		begin, end time.Time
	}{
		{"the old endpoint, until it may end", askedOld, begin, oldMayEnd},
		{"the new endpoint, from when it serves", askedNew, bothServe, applied},
	} {
		requests, failed := part.of.between(part.begin, part.end)
		fmt.Printf("%s: %s: %d requests, %d failed\n", t.Name(), part.name, requests, len(failed))
		if failed = c.unserved(t, ctx, part.name, part.begin, part.end, failed); len(failed) > 0 || requests == 0 {
			t.Errorf("%s: %d of %d requests failed: %s", part.name, len(failed), requests, strings.Join(failed[:min(len(failed), 5)], "; "))
		}
	}
	fmt.Printf("%s: the change took %s\n", t.Name(), applied.Sub(begin).Round(time.Second))
}

// onlyAt checks that a cluster matches its spec, and that nothing in it refers to the endpoint that ended.
func (c *cluster) onlyAt(t *testing.T, ctx context.Context, file string, now, ended spec.Endpoint) {
	t.Helper()
	if again := c.must(t, ctx, "plan", "-f", file, "-o", "json"); len(planned(t, again)) > 0 {
		t.Errorf("something is left to do: %s", again)
	}
	for _, m := range c.lab(t).Machines() {
		have := c.ssh(t, ctx, m.Name, "cat /etc/hosts /etc/kubernetes/*.conf /etc/haproxy/haproxy.cfg /etc/keepalived/keepalived.conf 2>/dev/null; ip -o -4 addr")
		words := strings.FieldsFunc(have, func(r rune) bool { return strings.ContainsRune(" \n/@\t", r) })
		for _, gone := range []string{ended.Name, ended.HostPort(), ended.Address, ended.Address + ":" + ended.Port} {
			if slices.Contains(words, gone) {
				t.Errorf("%s still refers to %s", m.Name, gone)
			}
		}
		if !strings.Contains(have, now.Name) {
			t.Errorf("%s does not know %s", m.Name, now.Name)
		}
	}
	maps := c.ssh(t, ctx, "cp-a", "for m in kube-public/cluster-info kube-system/kube-proxy kube-system/kubeadm-config kube-system/quorate; do kubectl -n ${m%/*} get configmap ${m#*/} -o yaml; done")
	if strings.Contains(maps, ended.Name) || !strings.Contains(maps, now.HostPort()) {
		t.Errorf("ConfigMaps refer to %s: %s", ended.Name, maps)
	}
}
