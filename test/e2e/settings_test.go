//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const settingsSpec = `apiVersion: quorate.dev/v1alpha1
kind: Cluster
metadata: {name: e2e-settings}
spec:
  controlPlane: {endpoint: "api.e2e-settings.internal:6443"}
  settings:
    apiServer: {extraArgs: {max-requests-inflight: "801"}}
    kubelet: {maxPods: 101}
  hosts:
    - {name: cp-a, roles: [control-plane], zone: a}
    - {name: cp-b, roles: [control-plane], zone: b}
    - {name: cp-c, roles: [control-plane], zone: c}
    - {name: worker-a, roles: [worker], zone: a}
`

const (
	settingsPolicy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  resources: [{group: \"\", resources: [configmaps]}]\n"
	settingsOIDC   = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: \"https://id.e2e-settings.internal\", audiences: [kubernetes]}\n" +
		"  claimMappings: {username: {claim: sub, prefix: \"oidc:\"}}\n"
)

// TestSettings changes the settings and the failover profile of a cluster while clients read and write, makes a mistake and corrects
// it, and takes everything back.
func TestSettings(t *testing.T) {
	c := newCluster(t, "e2e-settings")
	ctx := testContext(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("cluster.yaml", settingsSpec)
	c.must(t, ctx, "up", "-f", file, "--name", c.name)
	if again := c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json"); len(planned(t, again)) > 0 {
		t.Errorf("something is left to do in a new cluster: %s", again)
	}
	c.runsWith(t, ctx, "cp-b", "--max-requests-inflight=801", "maxPods: 101")
	c.hasProfile(t, ctx, spec.ProfileFast)
	t.Run("endpoint", func(t *testing.T) { endpointChange(t, c) }) // the rest of the test is at the new one

	policy, oidc := write("audit.yaml", settingsPolicy), write("oidc.yaml", settingsOIDC)
	settings := spec.Settings{
		APIServer:         spec.APIServerSettings{ExtraArgs: map[string]string{"max-requests-inflight": "802", "v": "3"}, AuditPolicyFile: policy, AuthenticationConfigFile: oidc},
		ControllerManager: spec.ProgramSettings{ExtraArgs: map[string]string{"bind-address": "0.0.0.0"}},
		Kubelet:           spec.KubeletSettings{MaxPods: 102, SystemReserved: map[string]string{"cpu": "10m"}, ContainerLogMaxFiles: 3},
		Registries:        []spec.Registry{{Name: "registry.e2e.internal", Mirrors: []string{"https://mirror.e2e.internal/hub"}}},
		Sysctls:           map[string]string{"net.ipv4.tcp_keepalive_time": "601"},
	}
	former := c.ssh(t, ctx, "worker-a", "sysctl -n net.ipv4.tcp_keepalive_time")
	_, api := c.client(t, ctx)
	containers := runningContainers(t, ctx, api)
	etcds, ready := c.ssh(t, ctx, "cp-a", "grep -lsx etcd /proc/[0-9]*/comm"), readySince(t, ctx, api)

	p := c.clients(t, ctx)
	quietly := func(name, file string) {
		t.Helper()
		begin := time.Now()
		c.must(t, ctx, "apply", "-f", file)
		end := time.Now()
		met, err := p.Between(ctx, begin, end)
		if err != nil {
			t.Fatal(err)
		}
		printMet(t, name, end.Sub(begin), met)
		if n := c.noticed(t, ctx, begin, end, met); n > 0 {
			t.Errorf("%s: %d requests failed", name, n)
		}
		if again := c.must(t, ctx, "plan", "-f", file, "-o", "json"); len(planned(t, again)) > 0 {
			t.Errorf("%s: something is left to do: %s", name, again)
		}
		now := readySince(t, ctx, api)
		if fmt.Sprint(now) != fmt.Sprint(ready) && !c.excused(t, ctx, name+": a node was taken for dead", begin, time.Now()) {
			t.Errorf("%s: a node was taken for dead: %v, %v", name, ready, now)
		}
		ready = now
	}
	slower := func(change func(*spec.Settings)) string {
		return c.edited(t, func(s *spec.Cluster) {
			s.Spec.Settings, s.Spec.Failover.Profile = settings, spec.ProfileStandard
			change(&s.Spec.Settings)
		})
	}

	all := slower(func(*spec.Settings) {})
	steps := planned(t, c.must(t, ctx, "plan", "-f", all, "-o", "json"))
	for _, s := range steps {
		if (s.Kind == plan.UpgradeControlPlane || s.Kind == plan.RestartKubelet) && !strings.Contains(s.Reason, "restart") {
			t.Errorf("%s does not say what restarts: %s", s.ID, s.Reason)
		}
	}
	if at := func(id string) int { return slices.IndexFunc(steps, func(s plan.Step) bool { return s.ID == id }) }; at("cp-c/upgrade-control-plane") > at("cp-a/restart-kubelet") {
		t.Error("a kubelet becomes slower before a controller manager is")
	}
	quietly("settings", all)
	c.hasProfile(t, ctx, spec.ProfileStandard)
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		c.runsWith(t, ctx, host, "--max-requests-inflight=802", "--v=3", "--audit-policy-file=/etc/kubernetes/apiserver/audit-policy-", "--authentication-config=/etc/kubernetes/apiserver/authentication-",
			"--bind-address=0.0.0.0", "maxPods: 102", "containerLogMaxFiles: 3", "tcp_keepalive_time = 601", "/v2/hub")
	}
	c.runsWith(t, ctx, "worker-a", "maxPods: 102", "tcp_keepalive_time = 601", "/v2/hub")
	node, err := api.CoreV1().Nodes().Get(ctx, "worker-a", metav1.GetOptions{})
	if err != nil || node.Status.Capacity.Pods().Value() != 102 {
		t.Errorf("the node has room for %v pods, %v", node.Status.Capacity.Pods(), err)
	}
	if now := c.ssh(t, ctx, "cp-a", "grep -lsx etcd /proc/[0-9]*/comm"); now != etcds {
		t.Error("etcd was restarted")
	}

	// An edit that leaves no room is refused before anything is changed.
	if r := c.exits(t, ctx, 3, "apply", "-f", slower(func(s *spec.Settings) { s.Kubelet.MaxPods = 1 })); !strings.Contains(r.stderr, "could not run all of its pods") {
		t.Errorf("%s", r)
	}
	c.runsWith(t, ctx, "worker-a", "maxPods: 102")

	// A mistake that only the API server can find stops at the first control plane. The others serve.
	begin := time.Now()
	wrong := slower(func(s *spec.Settings) { s.FeatureGates = map[string]bool{"NoSuchFeature": true} })
	if r := c.run(ctx, "apply", "-f", wrong); r.code != 1 || !strings.Contains(r.stderr, "kube-apiserver") {
		t.Errorf("%s", r)
	}
	met, err := p.Between(ctx, begin, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if n := c.noticed(t, ctx, begin, time.Now(), met); n > 0 {
		t.Errorf("%d requests failed although two API servers serve", n)
	}
	quietly("correction", all)

	none := c.edited(t, func(s *spec.Cluster) { s.Spec.Settings = spec.Settings{} })
	quietly("no settings", none)
	c.hasProfile(t, ctx, spec.ProfileFast)
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		have := c.settingsOf(t, ctx, host)
		for _, gone := range []string{"max-requests-inflight", "--v=3", "apiserver/audit-policy-", "apiserver/authentication-", "--bind-address=0.0.0.0", "maxPods", "containerLogMaxFiles", "/v2/hub", "tcp_keepalive_time = 601", "NoSuchFeature"} {
			if strings.Contains(have, gone) {
				t.Errorf("%s still has %s:\n%s", host, gone, have)
			}
		}
	}
	if now := c.ssh(t, ctx, "worker-a", "sysctl -n net.ipv4.tcp_keepalive_time"); now != former {
		t.Errorf("the kernel setting is %s instead of %s", now, former)
	}

	limited := c.edited(t, func(s *spec.Cluster) {
		s.Spec.Settings, s.Spec.LoadBalancer.MaxConnections = spec.Settings{}, 4321
	})
	quietly("limits of the load balancers", limited)
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		if has := c.ssh(t, ctx, host, "echo 'show info' | socat - UNIX-CONNECT:"+hostconfig.HAProxySocket+" | grep '^Maxconn:'"); has != "Maxconn: 4321" {
			t.Errorf("HAProxy on %s runs with %q", host, has)
		}
	}
	quietly("default limits", none)
	for name, n := range runningContainers(t, ctx, api) {
		if before, was := containers[name]; was && n != before {
			t.Errorf("the container of %s was restarted", name)
		}
	}
	lost, acked, err := p.Lost(ctx)
	if err != nil || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
}

// hasProfile checks that every controller manager and every kubelet runs with the timings of a failover profile.
func (c *cluster) hasProfile(t *testing.T, ctx context.Context, profile string) {
	t.Helper()
	_, api := c.client(t, ctx)
	for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
		running := c.ssh(t, ctx, cp, "tr '\\0' '\\n' </proc/$(pidof kube-controller-manager)/cmdline")
		if fast := strings.Contains(running, "--node-monitor-grace-period="+hostconfig.FastGracePeriod); fast != (profile == spec.ProfileFast) {
			t.Errorf("%s: the controller manager of %s runs with\n%s", profile, cp, running)
		}
	}
	for node := range readySince(t, ctx, api) {
		loaded, err := api.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("configz").DoRaw(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if fast := strings.Contains(string(loaded), `"nodeLeaseDurationSeconds":6,`); fast != (profile == spec.ProfileFast) {
			t.Errorf("%s: the kubelet of %s runs with %s", profile, node, loaded)
		}
	}
}

// readySince is when each node became Ready.
func readySince(t *testing.T, ctx context.Context, api kubernetes.Interface) map[string]time.Time {
	t.Helper()
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]time.Time{}
	for _, n := range nodes.Items {
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				out[n.Name] = condition.LastTransitionTime.UTC()
			}
		}
	}
	return out
}

// settingsOf is what a host has of settings: manifests and running programs, the kubelet's file, the API server's files, mirrors,
// and kernel settings.
func (c *cluster) settingsOf(t *testing.T, ctx context.Context, host string) string {
	t.Helper()
	return c.ssh(t, ctx, host, "grep -hs -e ' - --' /etc/kubernetes/manifests/*.yaml; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -e ^--; cat /var/lib/kubelet/config.yaml; "+
		"ls -d /etc/kubernetes/apiserver/* 2>/dev/null; cat /etc/containerd/certs.d/*/hosts.toml 2>/dev/null; cat /etc/sysctl.d/92-quorate-settings.conf 2>/dev/null; sysctl net.ipv4.tcp_keepalive_time")
}

// runsWith checks that a host has settings.
func (c *cluster) runsWith(t *testing.T, ctx context.Context, host string, parts ...string) {
	t.Helper()
	have := c.settingsOf(t, ctx, host)
	for _, part := range parts {
		if !strings.Contains(have, part) {
			t.Errorf("%s does not have %s", host, part)
			fmt.Println(have)
		}
	}
}
