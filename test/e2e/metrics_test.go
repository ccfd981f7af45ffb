//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// exporters are the control planes of a cluster, as Prometheus scrapes them.
type exporters struct {
	hosts  []spec.Host
	client *http.Client
}

func (c *cluster) exporters(t *testing.T, ctx context.Context, file string) exporters {
	t.Helper()
	s, err := spec.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	config, _ := c.client(t, ctx)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CAData)
	return exporters{s.HostsWith(spec.RoleControlPlane), &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: hostconfig.ExporterName, MinVersion: tls.VersionTLS12}}}}
}

// scrape reads the metrics of one control plane: values by name and labels.
func (e exporters) scrape(ctx context.Context, h spec.Host, token string) (code int, _ map[string]float64, _ error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+hostconfig.ExporterAddress(h)+"/metrics", nil)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := e.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		i := strings.LastIndexByte(lines.Text(), ' ')
		if i < 0 || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		if value, err := strconv.ParseFloat(lines.Text()[i+1:], 64); err == nil {
			out[lines.Text()[:i]] = value
		}
	}
	return answer.StatusCode, out, lines.Err()
}

// cluster reads all of them, and returns the metrics of the one that leads. It is an error if not exactly one does.
func (e exporters) cluster(ctx context.Context, name, token string) (leader string, _ map[string]float64, _ error) {
	var all map[string]float64
	var problems []error
	for _, h := range e.hosts {
		code, seen, err := e.scrape(ctx, h, token)
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("it answers %d", code)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", h.Name, err))
			continue
		}
		if seen[`quorate_exporter_leader{cluster="`+name+`"}`] == 1 {
			if leader != "" {
				return "", nil, fmt.Errorf("%s and %s lead", leader, h.Name)
			}
			leader, all = h.Name, seen
		}
	}
	if leader == "" {
		return "", nil, fmt.Errorf("nobody leads: %w", errors.Join(problems...))
	}
	return leader, all, nil
}

// exportedMetrics has the control planes expose metrics, and nothing else: they are read with and without a token, and the margins in them fall
// when the leader loses its power, and come back with it.
func exportedMetrics(t *testing.T, c *cluster) {
	if !*whole {
		t.Skip("it has not passed on a slow computer yet; this one runs with -whole")
	}
	ctx := testContext(t)
	file := c.edited(t, func(s *spec.Cluster) { s.Spec.Monitoring.Exporter = true })
	c.must(t, ctx, "apply", "-f", file)
	s := c.watching(t, ctx, file)
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("the cluster matches its spec, and the plan has steps: %+v", steps)
	}
	if !s.Watch.OnlyObserves || len(s.Watch.Units) != 3 || s.Watch.Units[0].Metrics == "" {
		t.Errorf("status says of the exporters %+v", s.Watch)
	}
	if admitted := c.ssh(t, ctx, "worker-a", "cat /var/lib/quorate/watch/admitted.json"); !strings.Contains(admitted, `"readOnly":true`) {
		t.Errorf("worker-a admits the control planes for more than reading: %s", admitted)
	}

	for _, u := range s.Watch.Units {
		exporterHasNothingElse(t, ctx, c, u.Host)
	}

	c.put(t, ctx, "cp-a", "/tmp/e2e-access.yaml", c.must(t, ctx, "monitoring", "access").stdout)
	c.ssh(t, ctx, "cp-a", "kubectl apply -f /tmp/e2e-access.yaml")
	defer c.ssh(t, ctx, "cp-a", "kubectl delete -f /tmp/e2e-access.yaml --wait=false; rm /tmp/e2e-access.yaml")
	_, api := c.client(t, ctx)
	token := func(account string) string {
		r, err := api.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Token
	}
	prometheus := token("quorate-metrics")
	e := c.exporters(t, ctx, file)
	for _, x := range []struct {
		who, token string
		code       int
	}{{"who has a role", prometheus, http.StatusOK}, {"who has none", token("default"), http.StatusForbidden}, {"nobody", "", http.StatusUnauthorized}, {"a stranger", "no.such.token", http.StatusUnauthorized}} {
		for _, h := range e.hosts {
			// The certificates, and the roles in the memory of each API server, may come later; a wrong permission never may.
			poll(t, ctx, 2*time.Second, x.who+" on "+h.Name, func() error {
				code, seen, err := e.scrape(ctx, h, x.token)
				switch {
				case err != nil:
					return err
				case code != http.StatusOK && len(seen) > 0, code == http.StatusOK && x.code != http.StatusOK:
					t.Fatalf("%s on %s: %d with %d metrics, want %d", x.who, h.Name, code, len(seen), x.code)
				case code != x.code:
					return fmt.Errorf("it answers %d, want %d", code, x.code)
				}
				return nil
			})
		}
	}
	scraped := c.must(t, ctx, "monitoring", "scrape", "-f", file).stdout
	for _, h := range e.hosts {
		if !strings.Contains(scraped, hostconfig.ExporterAddress(h)) {
			t.Errorf("Prometheus does not scrape %s: %s", h.Name, scraped)
		}
	}

	metric := func(name, labels string) string {
		return "quorate_" + name + "{cluster=\"" + c.name + "\"" + labels + "}"
	}
	margins := []string{"control_planes", "etcd_members", "load_balancers", "zones"}
	reads := func(what string, want map[string]float64, other string) (leader string, seen map[string]float64) {
		t.Helper()
		begin := time.Now()
		settles(t, ctx, 2*time.Second, what, func() (wrong []string, err error) {
			if leader, seen, err = e.cluster(ctx, c.name, prometheus); err != nil {
				return nil, err
			}
			if leader == other {
				return nil, errors.New(leader + " leads")
			}
			for key, value := range want {
				if have, there := seen[key]; !there || have != value {
					wrong = append(wrong, key)
					err = errors.Join(err, fmt.Errorf("%s: %s is %v (%t), want %v", leader, key, have, there, value))
				}
			}
			return wrong, err
		})
		fmt.Printf("metrics: %s after %.0f s, from %s\n", what, time.Since(begin).Seconds(), leader)
		return leader, seen
	}
	well := map[string]float64{metric("observation_complete", ""): 1, metric("endpoint_up", ""): 1}
	for _, of := range margins {
		well[metric("margin", `,of="`+of+`"`)] = 1
		well[metric("margin_intended", `,of="`+of+`"`)] = 1
	}
	for _, h := range e.hosts {
		well[metric("host_reachable", `,host="`+h.Name+`"`)] = 1
		well[metric("etcd_member_up", `,member="`+h.Name+`"`)] = 1
		well[metric("program_up", `,host="`+h.Name+`",program="kube-apiserver"`)] = 1
	}
	leader, _ := reads("full margins", well, "")

	c.labDo("fault", "power-off", leader)(t, ctx)
	degraded := map[string]float64{metric("observation_complete", ""): 0, metric("endpoint_up", ""): 1, metric("host_reachable", `,host="`+leader+`"`): 0,
		metric("unknown", `,host="`+leader+`",part="host"`): 1}
	for _, of := range []string{"control_planes", "etcd_members", "zones"} {
		degraded[metric("margin", `,of="`+of+`"`)] = 0
		degraded[metric("margin_intended", `,of="`+of+`"`)] = 1
	}
	_, seen := reads("the margins without "+leader, degraded, leader)
	for key := range seen { // unknown is not down
		if strings.Contains(key, `host="`+leader+`"`) && strings.HasPrefix(key, "quorate_program_up") || strings.HasPrefix(key, "quorate_etcd_member_up") && strings.Contains(key, `"`+leader+`"`) {
			t.Errorf("%s is exposed, although nobody can ask", key)
		}
	}
	c.labDo("heal", "power-off", leader)(t, ctx)
	reads("full margins again", well, "")
	c.watching(t, ctx, file)

	var removed []string
	for _, step := range planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json")) {
		if step.Kind == plan.RemoveExporter || step.Kind == plan.RemoveManifest {
			removed = append(removed, string(step.Kind)+" "+step.Host+step.Manifest)
		}
	}
	slices.Sort(removed)
	if want := []string{"remove-exporter cp-a", "remove-exporter cp-b", "remove-exporter cp-c", "remove-manifest exporter"}; !slices.Equal(removed, want) {
		t.Errorf("the plan removes %v, want %v", removed, want)
	}
	c.must(t, ctx, "apply", "-f", c.specFile())
	for _, kind := range []string{"clusterrole", "clusterrolebinding"} {
		if left := c.ssh(t, ctx, "cp-a", "kubectl get "+kind+" quorate:exporter --ignore-not-found -o name"); left != "" {
			t.Errorf("%s is left in the cluster", left)
		}
	}
	for _, m := range c.lab(t).Machines() {
		c.ssh(t, ctx, m.Name, "set -e; test ! -e /etc/systemd/system/quorate-exporter.service; test ! -e /run/quorate/exporter; test ! -e /var/lib/quorate-exporter; test ! -e /var/lib/private/quorate-exporter; if systemctl -q is-active quorate-exporter || systemctl -q is-failed quorate-exporter; then exit 3; fi")
		c.ssh(t, ctx, m.Name, "set -e; test ! -e /var/lib/quorate/watch; test ! -e /etc/systemd/system/quorate-watch.service; if systemctl -q is-active quorate-watch; then exit 3; fi; ! grep -qs quorate-watch-of /root/.ssh/authorized_keys")
	}
	for _, h := range e.hosts {
		if code, _, err := e.scrape(ctx, h, prometheus); err == nil {
			t.Errorf("%s still answers Prometheus: %d", h.Name, code)
		}
	}
	c.whole(t, ctx)
}

// exporterHasNothingElse checks on a control plane that the unit that serves metrics is a stranger there, that it sees what it serves and no key, and that nobody else sees that.
func exporterHasNothingElse(t *testing.T, ctx context.Context, c *cluster, host string) {
	t.Helper()
	// The root of its process is what it sees. Only the paths count that exist outside.
	for _, x := range []struct{ what, script string }{
		{"it runs as root", `test "$(stat -c %u /proc/$pid)" -ne 0`},
		{"it has capabilities", `test "$(awk '/^Cap(Eff|Prm|Bnd):/ {print $2}' /proc/$pid/status | sort -u)" = 0000000000000000`},
		{"its system calls are not filtered", `grep -q '^Seccomp:[[:space:]]*2$' /proc/$pid/status`},
		{"it does not see what it serves", `test -s /proc/$pid/root/var/lib/quorate/metrics.json`},
		{"it sees more of /var/lib/quorate", `test "$(ls /proc/$pid/root/var/lib/quorate)" = metrics.json`},
		{"it sees the keys of the cluster", `test -d /etc/kubernetes/pki && test ! -e /proc/$pid/root/etc/kubernetes/pki`},
		{"it sees the data of etcd", `test -d /var/lib/etcd/member && test ! -e /proc/$pid/root/var/lib/etcd/member`},
		{"others can read what it serves", `test "$(stat -c '%U %a' /run/quorate/exporter)" = 'root 700'`},
		{"others can read its credentials", `! setpriv --reuid=65534 --regid=65534 --clear-groups cat /run/credentials/quorate-exporter.service/certificate 2>/dev/null`},
		{"the unit that observes listens", `! ss -Hltnp | grep -q "pid=$(systemctl show -p MainPID --value quorate-watch),"`},
	} {
		c.ssh(t, ctx, host, "pid=$(systemctl show -p MainPID --value quorate-exporter); test $pid -ne 0; "+x.script+" || { echo '"+x.what+"' >&2; exit 1; }")
	}
}
