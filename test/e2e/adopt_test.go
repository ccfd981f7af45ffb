//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// TestAdoption builds a cluster with plain kubeadm, as an operator would, and lets Quorate adopt it while it is in use.
func TestAdoption(t *testing.T) {
	ctx := testContext(t)
	c := plainKubeadm(t, ctx, "e2e-adopt", spec.DefaultLab("e2e-adopt"))
	resolved, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}

	for _, part := range []struct {
		name string
		test func(*testing.T, context.Context, *cluster, *spec.Cluster)
	}{
		{"before", beforeAdoption},
		{"description", describedFromTheCluster},
		{"refusals", adoptionRefused},
		{"adoption", adoption},
		{"growth", adoptedGrows},
	} {
		t.Run(part.name, func(t *testing.T) {
			inTimePart(t)
			defer c.collectIfFailed(t)
			part.test(t, ctx, c, resolved)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
}

// plainKubeadm does what an operator would: it runs kubeadm as documented, with its defaults, on machines with a custom
// runtime configuration, behind load balancers that only forward TCP.
func plainKubeadm(t *testing.T, ctx context.Context, name string, shape *spec.Cluster) *cluster {
	t.Helper()
	c := newCluster(t, name)
	text, err := spec.Marshal(shape)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "shape.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "lab", "create", "-f", file)
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	names := s.Spec.LoadBalancer.Address + " " + strings.TrimSuffix(s.Spec.ControlPlane.Endpoint, ":6443") + "\n"
	servers := ""
	for _, h := range s.Spec.Hosts {
		names += h.Address + " " + h.Name + "\n"
		if h.Has(spec.RoleControlPlane) {
			servers += "    server " + h.Name + " " + h.Address + ":6443 check\n"
		}
	}
	priority := 101
	for _, h := range s.Spec.Hosts {
		c.put(t, ctx, h.Name, "/root/names", names)
		if !h.IsNode() {
			c.put(t, ctx, h.Name, "/etc/haproxy/haproxy.cfg", "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n"+
				"frontend kubernetes\n    bind *:6443\n    default_backend masters\nbackend masters\n    balance roundrobin\n"+servers+
				"listen stats\n    mode http\n    bind :9000\n    stats enable\n    stats uri /\n")
			c.put(t, ctx, h.Name, "/etc/keepalived/keepalived.conf", fmt.Sprintf("vrrp_instance VI_1 {\n    state BACKUP\n    interface eth0\n    virtual_router_id 51\n"+
				"    priority %d\n    advert_int 1\n    authentication {\n        auth_type PASS\n        auth_pass 42\n    }\n    virtual_ipaddress {\n        %s\n    }\n}\n", priority, s.Spec.LoadBalancer.Address))
			c.ssh(t, ctx, h.Name, "cat /root/names >> /etc/hosts; systemctl enable haproxy keepalived; systemctl restart haproxy keepalived")
			priority--
			continue
		}
		c.ssh(t, ctx, h.Name, "cat /root/names >> /etc/hosts; cp -a --remove-destination /opt/quorate/programs/*/usr/local/bin/. /usr/local/bin/; rm -rf /opt/quorate /var/lib/quorate/bundle.json; echo '# tuned by hand' >> /etc/containerd/config.toml; "+
			"rm /etc/systemd/system/kubelet.service.d/20-quorate.conf; systemctl daemon-reload; systemctl restart containerd")
	}
	cps := s.HostsWith(spec.RoleControlPlane)
	first := cps[0]
	c.put(t, ctx, first.Name, "/root/init.yaml", fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: %s}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: %s
controlPlaneEndpoint: %s
networking: {podSubnet: %s}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, nodefs.inodesFree: 5%%, imagefs.available: 1Gi, imagefs.inodesFree: 5%%}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
conntrack: {maxPerCore: 0, min: 0}
`, first.Address, s.Spec.Kubernetes.Version, s.Spec.ControlPlane.Endpoint, s.Spec.Network.PodCIDR))
	const ignore = " --ignore-preflight-errors=SystemVerification,Swap,FileContent--proc-sys-net-bridge-bridge-nf-call-iptables"
	out := c.ssh(t, ctx, first.Name, "kubeadm init --upload-certs --config /root/init.yaml"+ignore)
	key := regexp.MustCompile(`--certificate-key ([0-9a-f]{64})`).FindStringSubmatch(out)
	if key == nil {
		t.Fatalf("kubeadm init prints no key:\n%s", out)
	}
	b, err := bundle.Open(bundle.DefaultDir(s.Spec.Kubernetes.Version))
	if err != nil {
		t.Fatal(err)
	}
	_, manifests, err := run.Describe(s, bundle.Set{b})
	if err != nil {
		t.Fatal(err)
	}
	// Under the name that the project uses.
	flannel := regexp.MustCompile(`(kind: DaemonSet\nmetadata:\n  name: kube-flannel)`).ReplaceAllString(string(manifests["flannel"].Objects), "$1-ds")
	c.put(t, ctx, first.Name, "/root/flannel.yaml", flannel)
	c.ssh(t, ctx, first.Name, "mkdir -p /root/.kube && cp /etc/kubernetes/admin.conf /root/.kube/config && kubectl apply -f /root/flannel.yaml")
	join := c.ssh(t, ctx, first.Name, "kubeadm token create --print-join-command") + ignore
	for _, h := range cps[1:] {
		c.ssh(t, ctx, h.Name, join+" --control-plane --certificate-key "+key[1])
	}
	for _, h := range s.HostsWith(spec.RoleWorker) {
		c.ssh(t, ctx, h.Name, join)
	}
	eventually(t, ctx, "every node is Ready", func() error {
		if out := c.ssh(t, ctx, first.Name, "kubectl get nodes --no-headers"); strings.Count(out, " Ready ") != 5 {
			return fmt.Errorf("nodes:\n%s", out)
		}
		return nil
	})
	return c
}

// decoded decodes a plan.
func decoded(t *testing.T, r result) (p plan.Plan) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	return p
}

func beforeAdoption(t *testing.T, ctx context.Context, c *cluster, _ *spec.Cluster) {
	s, r, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ready := 0
	for _, n := range s.Nodes {
		if n.Ready {
			ready++
		}
	}
	if ready != 5 || len(s.Etcd.Members) != 3 || s.Etcd.Margin != 1 || !s.Endpoint.Reachable || !strings.Contains(r.stdout, "was not built by Quorate") {
		t.Errorf("status of a cluster of others: %s", r)
	}
	for _, problem := range s.Problems {
		// kubeadm starts both replicas while there is only one node.
		if problem.Severity != "info" && !strings.Contains(problem.Summary, "CoreDNS") {
			t.Errorf("%+v", problem)
		}
	}
	if r := c.run(ctx, "preflight", "-f", c.specFile(), "-o", "json"); r.code != 0 {
		t.Errorf("preflight: %s", r)
	}
	p := decoded(t, c.exits(t, ctx, 5, "plan", "-f", c.specFile(), "-o", "json", "--detailed-exitcode"))
	plain := !strings.Contains(c.ssh(t, ctx, "cp-a", "cat /etc/kubernetes/manifests/kube-apiserver.yaml"), "--encryption-provider-config")
	if noted := strings.Contains(strings.Join(p.Notes, "\n"), "secrets in etcd"); !p.Adopts || noted != plain {
		t.Errorf("adopts %v, notes %q", p.Adopts, p.Notes)
	}
	for _, s := range p.Steps {
		if !slices.Contains([]plan.Kind{plan.Mark, plan.Configure, plan.LabelNode, plan.SpreadDNS, plan.ApplyManifest, plan.RecordSpec, plan.Verify, plan.RecordVerified}, s.Kind) {
			t.Errorf("an adoption with the step %s", s.ID)
		}
	}
	printArtifact(t, "adoption.txt", c.must(t, ctx, "plan", "-f", c.specFile()).stdout)
}

// describedFromTheCluster has init write the spec of the running cluster, through one control plane. Its plan is that of the spec that was
// written by hand, and nothing on the hosts changes. Only the zones and the load balancers are not in the cluster: flags say them.
func describedFromTheCluster(t *testing.T, ctx context.Context, c *cluster, s *spec.Cluster) {
	if !*whole {
		t.Skip("it compares whole plans; this one runs with -whole")
	}
	before := fingerprint(t, ctx, c, s)
	first := s.HostsWith(spec.RoleControlPlane)[0]
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	args := []string{"init", "--from-cluster", fmt.Sprintf("root@%s:22", first.Address), "--name", s.Metadata.Name, "--zones", "a,b,c", "--to", file,
		"--ssh-key", first.SSH.KeyFile, "--ssh-known-hosts", first.SSH.KnownHostsFile, "--strict-host-keys"}
	for _, h := range s.HostsWith(spec.RoleLoadBalancer) {
		args = append(args, "--host", fmt.Sprintf("name=%s,address=%s,role=load-balancer,zone=%s", h.Name, h.Address, h.Zone))
	}
	r := c.must(t, ctx, args...)
	for _, want := range []string{"as --zones says", "lb-a, lb-b"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no note has %q: %s", want, r)
		}
	}
	if strings.Contains(r.stderr, "Cannot be adopted") {
		t.Errorf("%s", r)
	}
	same(t, before, fingerprint(t, ctx, c, s))
	shape := func(file string) string {
		p := decoded(t, c.exits(t, ctx, 5, "plan", "-f", file, "-o", "json", "--detailed-exitcode"))
		text, err := json.MarshalIndent(map[string]any{"adopts": p.Adopts, "notes": p.Notes, "warnings": p.Warnings, "steps": p.Steps}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if byHand, read := shape(c.specFile()), shape(file); byHand != read {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("the spec that was read from the cluster gives another plan:\n%s\n--- plan of the spec that was written by hand\n%s\n--- plan of this spec\n%s", text, byHand, read)
	}
}

// adoptionRefused tries to adopt with specs of other clusters, and without the flag for the right one.
func adoptionRefused(t *testing.T, ctx context.Context, c *cluster, s *spec.Cluster) {
	before := fingerprint(t, ctx, c, s)
	refused := func(change func(*spec.Cluster), words ...string) {
		t.Helper()
		other := *s
		other.Spec.Hosts = slices.Clone(s.Spec.Hosts)
		change(&other)
		text, err := spec.Marshal(&other)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "cluster.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r := c.exits(t, ctx, 3, "apply", "--adopt", "-f", file)
		for _, w := range words {
			if !strings.Contains(r.stderr, w) {
				t.Errorf("the message does not name %q: %s", w, r)
			}
		}
	}
	if r := c.exits(t, ctx, 3, "apply", "-f", c.specFile()); !strings.Contains(r.stderr, "--adopt") {
		t.Errorf("%s", r)
	}
	refused(func(o *spec.Cluster) { o.Spec.Network.PodCIDR = "10.44.0.0/16" }, "10.44.0.0/16", s.Spec.Network.PodCIDR)
	refused(func(o *spec.Cluster) {
		o.Spec.Hosts = slices.DeleteFunc(o.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-b" })
	}, "worker-b", "is not in the spec")

	// A host with the CA of another cluster.
	l := c.lab(t)
	if err := l.AddMachines(ctx, []lab.Machine{{Name: "stranger", Zone: "c"}}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.RemoveMachine(context.Background(), "stranger"); err != nil {
			t.Error(err)
		}
	})
	c.ssh(t, ctx, "stranger", "kubeadm init phase certs ca --kubernetes-version "+s.Spec.Kubernetes.Version)
	m, err := l.Machine("stranger")
	if err != nil {
		t.Fatal(err)
	}
	ssh := s.Spec.Hosts[0].SSH
	refused(func(o *spec.Cluster) {
		o.Spec.Hosts = append(o.Spec.Hosts, spec.Host{Name: "stranger", Address: m.Address.String(), Zone: "c", Roles: []string{spec.RoleWorker}, SSH: ssh})
	}, "stranger", "different clusters")

	same(t, before, fingerprint(t, ctx, c, s))
}

// fingerprint is everything that an adoption must leave as it is: identities, files, and processes that must not restart.
func fingerprint(t *testing.T, ctx context.Context, c *cluster, s *spec.Cluster) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, h := range s.Spec.Hosts {
		if h.Has(spec.RoleEtcd) {
			out["etcd on "+h.Name] = c.ssh(t, ctx, h.Name, "find /etc/etcd /etc/kubernetes /etc/systemd/system/etcd.service -type f ! -name '*-by-quorate' | sort | xargs sha256sum; pgrep -x etcd")
		}
		if !h.IsNode() {
			continue
		}
		// Except for the marks, Quorate itself, and the patches with which kubeadm would write manifests the next time.
		out["files of "+h.Name] = c.ssh(t, ctx, h.Name, "find /etc/kubernetes /etc/containerd /var/lib/kubelet/*.yaml /var/lib/kubelet/*.env /etc/systemd/system/kubelet.service "+
			"/etc/systemd/system/containerd.service -type f ! -name '*-by-quorate' ! -path '/etc/kubernetes/patches/*quorate*' | sort | xargs -r sha256sum; find /usr/local/bin -type f ! -name quorate-host | sort | xargs -r stat -c '%n %i %Y'")
		out["processes of "+h.Name] = c.ssh(t, ctx, h.Name, "pgrep -x kubelet; pgrep -x containerd")
	}
	out["etcd"] = c.ssh(t, ctx, s.EtcdHosts()[0].Name, etcdctlAsAPIServer+"member list")
	out["objects"] = c.ssh(t, ctx, "cp-a", "kubectl get nodes,services,daemonsets,deployments,secrets -A -o jsonpath='{range .items[*]}{.kind} {.metadata.namespace} {.metadata.name} {.metadata.uid}{\"\\n\"}{end}'")
	out["configuration"] = c.ssh(t, ctx, "cp-a", "kubectl -n kube-system get cm kubeadm-config kubelet-config kube-proxy -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}'")
	// Adoption moves only CoreDNS, one replica after the other.
	out["pods"] = c.ssh(t, ctx, "cp-a", "kubectl get pods -A -l k8s-app!=kube-dns -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount} {.status.containerStatuses[*].state.running.startedAt}{\"\\n\"}{end}'")
	return out
}

func same(t *testing.T, before, after map[string]string) {
	t.Helper()
	for key, was := range before {
		if was == "" || after[key] != was {
			t.Errorf("%s:\n--- before\n%s\n--- after\n%s", key, was, after[key])
		}
	}
}

func adoption(t *testing.T, ctx context.Context, c *cluster, s *spec.Cluster) {
	_, api := c.client(t, ctx)
	web, asking := serveWeb(t, ctx, c, api, s), time.Now()
	before := fingerprint(t, ctx, c, s)
	p := c.clients(t, ctx)
	begin := time.Now()
	r := c.must(t, ctx, "apply", "--adopt", "-f", c.specFile())
	if err := p.Calm(ctx, calm); err != nil {
		t.Fatal(err)
	}
	met, err := p.Between(ctx, begin, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	asked, failed := web()
	unserved := c.unserved(t, ctx, "the web pods", asking, time.Now(), failed)
	fmt.Printf("\nadopted in %.1f s; API, longest outage: new connections %.2f s, writes %.2f s, HTTP/2 %.2f s; the web pods: %d of %d requests failed\n%s\n",
		r.took.Seconds(), met.New.Longest.Seconds(), met.Writes.Longest.Seconds(), met.HTTP2.Longest.Seconds(), len(failed), asked, r.stdout)
	if len(unserved) > 0 || asked < 20 {
		t.Errorf("%d of %d requests to the workload failed: %v", len(unserved), asked, unserved)
	}
	if met.Longest() > sane {
		t.Errorf("the API was away for %s", met.Longest())
	}
	same(t, before, fingerprint(t, ctx, c, s))

	whole := c.whole(t, ctx)
	for _, b := range whole.LoadBalancers {
		if len(b.Backends) != 3 {
			t.Errorf("balancer %+v", b)
		}
		if kept := c.ssh(t, ctx, b.Name, "cat /etc/haproxy/haproxy.cfg"+facts.KeptSuffix); !strings.Contains(kept, "backend") {
			t.Errorf("%s: what was kept of its configuration: %q", b.Name, kept)
		}
		if got := c.ssh(t, ctx, b.Name, "systemctl is-active quorate-watchdog"); got != "active" {
			t.Errorf("%s: its watchdog is %s", b.Name, got)
		}
	}
	c.unchanged(t, ctx, "-f", c.specFile())     // nor is it to be adopted again
	c.must(t, ctx, "apply", "-f", c.specFile()) // without the flag, because the cluster is adopted now
	for _, n := range whole.Nodes {
		node, err := api.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil || node.Labels[corev1.LabelTopologyZone] != n.Zone {
			t.Errorf("the zone of %s is %q, %v", n.Name, node.Labels[corev1.LabelTopologyZone], err)
		}
	}
	// kubeadm alone does not do what the benchmark asks for, and adoption does not change that: the audit names it.
	if r := c.exits(t, ctx, 1, "audit", "cis", "-f", c.specFile(), "-o", "json"); !strings.Contains(r.stdout, `"outcome": "fail"`) || !strings.Contains(r.stdout, `"outcome": "pass"`) {
		t.Errorf("audit cis: %s", r)
	}
	c.must(t, ctx, "maintain", "-f", c.specFile(), "cp-b")
	c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", "cp-b")
}

// serveWeb runs two web pods and sends requests to them through one node. The returned function stops the requests and reports
// failures.
func serveWeb(t *testing.T, ctx context.Context, c *cluster, api *kubernetes.Clientset, s *spec.Cluster) func() (asked int, failed []string) {
	t.Helper()
	ownClock()
	b, err := bundle.Open(bundle.DefaultDir(s.Spec.Kubernetes.Version))
	if err != nil {
		t.Fatal(err)
	}
	image, ok := b.Image("agnhost")
	if !ok {
		t.Fatal("the bundle has no agnhost")
	}
	if _, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service := deployWeb(t, ctx, api, image.Name)
	pods(t, ctx, api, "web", 2)
	h, _ := s.Host("worker-a")
	url := fmt.Sprintf("http://%s:%d/hostname", h.Address, service.Spec.Ports[0].NodePort)
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func() error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	eventually(t, ctx, "the web pods answer", get)
	asked, failed := 0, []string{}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			asked++
			if err := get(); err != nil {
				failed = append(failed, time.Now().Format(time.TimeOnly)+": "+err.Error())
			}
		}
	}()
	end := func() (int, []string) {
		stop()
		<-done
		return asked, failed
	}
	t.Cleanup(func() { end() })
	return end
}

// adoptedGrows joins a control plane that Quorate sets up from the beginning.
func adoptedGrows(t *testing.T, ctx context.Context, c *cluster, s *spec.Cluster) {
	l := c.lab(t)
	fresh := []lab.Machine{{Name: "cp-d", Zone: "a"}, {Name: "cp-e", Zone: "b"}}
	if err := l.AddMachines(ctx, fresh, nil); err != nil {
		t.Fatal(err)
	}
	larger := *s
	for _, f := range fresh {
		m, err := l.Machine(f.Name)
		if err != nil {
			t.Fatal(err)
		}
		larger.Spec.Hosts = append(slices.Clone(larger.Spec.Hosts), spec.Host{Name: f.Name, Address: m.Address.String(), Zone: f.Zone, Roles: []string{spec.RoleControlPlane}, SSH: s.Spec.Hosts[0].SSH})
	}
	text, err := spec.Marshal(&larger)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.specFile(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "apply", "-f", c.specFile())
	c.unchanged(t, ctx, "-f", c.specFile())
	if out := members(t, ctx, c, "cp-a"); strings.Count(out, "started") != 5 {
		t.Errorf("members:\n%s", out)
	}
}
