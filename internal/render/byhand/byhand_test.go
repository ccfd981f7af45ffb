package byhand

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

var update = flag.Bool("update", false, "rewrite testdata")

// load reads an example. A lab's hosts get the addresses that a lab would give them.
func load(t *testing.T, file string) *spec.Cluster {
	t.Helper()
	data, err := spec.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := spec.Check(data, file, spec.Options{Lab: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.NeedsLab() {
		for i := range c.Spec.Hosts {
			c.Spec.Hosts[i].Address = fmt.Sprintf("198.18.0.%d", 11+i)
		}
		c.Spec.LoadBalancer.Address = "198.18.0.200"
	}
	return c
}

func write(t *testing.T, c *spec.Cluster) (*Transcript, string) {
	t.Helper()
	manifests := map[string]manifest.Manifest{}
	switch c.Spec.Network.CNI {
	case spec.CNIFlannel:
		manifests[manifest.Flannel] = manifest.Manifest{Objects: []byte("kind: List\nitems: [] # flannel's objects\n")}
	case spec.CNIManifest, spec.CNIChart:
		manifests[manifest.CNI] = manifest.Manifest{Objects: []byte("kind: List\nitems: [] # the user's\n"), Namespace: "kube-system"}
	}
	tr, err := Write(c, Images{Pause: "images.example/pause:v1", Manifests: manifests})
	if err != nil {
		t.Fatal(err)
	}
	return tr, asScript(t, tr)
}

func asScript(t *testing.T, tr *Transcript) string {
	t.Helper()
	var b bytes.Buffer
	if err := tr.Script(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// parses asks bash whether a text is a script.
func parses(text string) error {
	cmd := exec.Command("bash", "-n")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

var block = regexp.MustCompile("(?ms)^[^#\n]*\\bon [^\n]*<<'" + hostMark + "'[^\n]*\n(.*?)^" + hostMark + "$")

// blocks are the parts of a script that hosts get.
func blocks(script string) (out []string) {
	for _, m := range block.FindAllStringSubmatch(script, -1) {
		out = append(out, m[1])
	}
	return out
}

func examples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("found %v, %v", files, err)
	}
	return files
}

func TestEveryExample(t *testing.T) {
	for _, file := range examples(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := load(t, file)
			tr, text := write(t, c)
			if err := parses(text); err != nil {
				t.Fatalf("the script: %v\n%s", err, text)
			}
			found := blocks(text)
			if len(found) < 3 {
				t.Fatalf("only %d blocks", len(found))
			}
			for _, b := range found {
				if err := parses("{\n" + b + "\n} </dev/null\n"); err != nil {
					t.Errorf("a block: %v\n%s", err, b)
				}
			}
			everyHost(t, c, tr, text)
			documentedOrder(t, c, text)
			noSecrets(t, tr, text)
			if again := second(write(t, c)); again != text {
				t.Error("the same spec gives another guide")
			}
		})
	}
}

func second[A, B any](_ A, b B) B { return b }

// everyHost sees to it that each host has its part, and every step and action its reason.
func everyHost(t *testing.T, c *spec.Cluster, tr *Transcript, text string) {
	t.Helper()
	done := map[string]bool{}
	for _, s := range tr.Sections {
		for _, step := range s.Steps {
			for _, h := range step.Hosts {
				done[h] = true
			}
			for _, a := range step.Actions {
				if a.Reason == "" {
					t.Errorf("%s: %s: %v has no reason", s.Title, step.Title, a.Commands)
				}
			}
			if s.Reason == "" || step.Title == "" || len(step.Hosts) == 0 {
				t.Errorf("%+v", step)
			}
		}
	}
	for _, h := range c.Spec.Hosts {
		if !done[h.Name] || !strings.Contains(text, "    "+h.Name+") ssh ") || !strings.Contains(text, "@"+h.Address) {
			t.Errorf("%s has no part in it", h.Name)
		}
	}
}

// documentedOrder: load balancers, init, pod network, control planes one after another, workers.
func documentedOrder(t *testing.T, c *spec.Cluster, text string) {
	t.Helper()
	var want []string
	if len(c.BalancerHosts()) > 0 {
		want = append(want, "systemctl restart keepalived\n")
	}
	if c.ManagedEtcd() {
		want = append(want, "etcd-ca --config", "enable --quiet --now etcd.service")
	}
	want = append(want, "kubeadm init --upload-certs --config")
	switch c.Spec.Network.CNI {
	case spec.CNIFlannel:
		want = append(want, "kubectl apply -f /root/flannel.yaml")
	case spec.CNIManifest, spec.CNIChart:
		want = append(want, "kubectl apply --namespace kube-system -f /root/cni.yaml")
	}
	for i, h := range c.HostsWith(spec.RoleControlPlane) {
		if i > 0 {
			want = append(want, "# "+h.Name+": join as a control plane\n", "certificateKey: $key", "kubeadm join --config")
		}
	}
	for _, h := range c.HostsWith(spec.RoleWorker) {
		if !h.Has(spec.RoleControlPlane) {
			want = append(want, "# "+h.Name+": join as a worker\n", "kubeadm join --config")
		}
	}
	rest := text
	for _, w := range want {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			t.Fatalf("no %q where the documentation has it, in\n%s", w, text)
		}
		rest = after
	}
	if strings.Contains(rest, "kubeadm join --config") {
		t.Error("somebody joins who should not")
	}
}

var (
	secret   = regexp.MustCompile(`PRIVATE KEY|\b[a-z0-9]{6}\.[a-z0-9]{16}\b|\b[0-9a-f]{64}\b|secret: [A-Za-z0-9+/]{43}=`)
	expanded = regexp.MustCompile("[$`\\\\]")
)

// noSecrets sees to it that secrets are made on the way and not printed, and that no command has one among its arguments.
func noSecrets(t *testing.T, tr *Transcript, text string) {
	t.Helper()
	if found := secret.FindString(text); found != "" {
		t.Errorf("the guide has a secret in it: %q", found)
	}
	for _, s := range tr.Sections {
		for _, step := range s.Steps {
			for _, a := range step.Actions {
				for _, c := range a.Commands {
					if strings.Contains(c, "$key") || strings.Contains(c, "$hash") || strings.Contains(c, "$token") {
						t.Errorf("a secret in the arguments of %q", c)
					}
				}
				for _, f := range a.Files {
					checkFile(t, f)
				}
			}
		}
	}
}

func checkFile(t *testing.T, f File) {
	t.Helper()
	if slices.Contains(strings.Split(f.Content, "\n"), fileMark) || slices.Contains(strings.Split(f.Content, "\n"), hostMark) {
		t.Errorf("%s ends too soon", f.Path)
	}
	left := f.Content
	for _, known := range []string{"$etcdtoken", "$token", "$hash", "$key", "$(head -c 32 /dev/urandom | base64)"} {
		left = strings.ReplaceAll(left, known, "")
	}
	if f.Expand && (left == f.Content || expanded.MatchString(left)) {
		t.Errorf("the shell would change %s:\n%s", f.Path, f.Content)
	}
	if f.Expand && f.Mode != "600" {
		t.Errorf("%s holds a secret and has the mode %s", f.Path, f.Mode)
	}
}

// What an operator reads is reviewed as a whole: a change of it shows as a diff. The files in it have tests of their own.
func TestGolden(t *testing.T) {
	for _, name := range []string{"lab-stacked", "external-etcd"} {
		golden := filepath.Join("testdata", name+".sh")
		tr, _ := write(t, load(t, "../../../examples/"+name+".yaml"))
		for _, s := range tr.Sections {
			for _, step := range s.Steps {
				for _, a := range step.Actions {
					for i := range a.Files {
						a.Files[i].Content = "…\n"
					}
				}
			}
		}
		got := asScript(t, tr)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs; look at it with: go test ./internal/render/byhand -update && git diff", golden)
		}
	}
}

// TestCoreDNSIsSpread: the guide makes the same conditions for the replicas of CoreDNS as a step, after the last node has joined.
func TestCoreDNSIsSpread(t *testing.T) {
	for name, tc := range map[string]struct {
		zones    string // of the hosts, in turn
		replicas int    // that the spec asks for
	}{
		"three zones":                 {"abc", 0},
		"two zones":                   {"ab", 0},
		"three zones, more of them":   {"abc", 5},
		"as many as kubeadm installs": {"abc", 2},
	} {
		c := load(t, "../../../examples/stacked.yaml")
		for i := range c.Spec.Hosts {
			c.Spec.Hosts[i].Zone = tc.zones[i%len(tc.zones):][:1]
		}
		c.Spec.Settings.DNS.Replicas = tc.replicas
		tr, text := write(t, c)
		var patch []File
		for _, step := range tr.Sections[len(tr.Sections)-1].Steps {
			for _, a := range step.Actions {
				if slices.ContainsFunc(a.Commands, func(c string) bool {
					return strings.Contains(c, "patch deployment coredns --type merge --patch-file "+dnsFile)
				}) {
					patch = append(patch, a.Files...)
				}
			}
		}
		if len(patch) != 1 || patch[0].Path != dnsFile {
			t.Errorf("%s: no patch of CoreDNS in\n%s", name, text)
			continue
		}
		var d appsv1.Deployment
		if err := yaml.UnmarshalStrict([]byte(patch[0].Content), &d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		required := map[string]int32{} // the skew, by the label
		for _, x := range d.Spec.Template.Spec.TopologySpreadConstraints {
			if x.WhenUnsatisfiable == corev1.DoNotSchedule {
				required[x.TopologyKey] = x.MaxSkew
			}
		}
		want, replicas := map[string]int32{corev1.LabelHostname: 1}, max(tc.replicas, 2)
		if len(tc.zones) > 2 {
			want[corev1.LabelTopologyZone] = int32(replicas - 1)
		}
		if !maps.Equal(required, want) {
			t.Errorf("%s: the conditions are %v, want %v", name, required, want)
		}
		if scales := d.Spec.Replicas != nil; scales != (replicas != 2) || scales && *d.Spec.Replicas != int32(replicas) {
			t.Errorf("%s: replicas: %v", name, d.Spec.Replicas)
		}
	}
}

func TestShapes(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		edit func(*spec.Cluster)
		has  []string
		not  []string
	}{
		"existing etcd": {"external-etcd", func(c *spec.Cluster) {
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleEtcd) })
			c.Spec.Etcd = spec.Etcd{Endpoints: []string{"https://10.0.0.71:2379", "https://10.0.0.72:2379"}, CAFile: "~/etcd/ca.pem", CertFile: "client cert.pem", KeyFile: "k"}
		}, []string{"put cp-a /etc/kubernetes/pki/etcd/ca.crt <~/etcd/ca.pem\n", "put cp-a /etc/kubernetes/pki/apiserver-etcd-client.crt <'client cert.pem'\n",
			"--endpoints https://10.0.0.71:2379,https://10.0.0.72:2379"}, []string{"etcd.service", "put cp-b"}},
		"a balancer of one's own": {"external-balancer", nil, []string{"/dev/tcp/api.prod.example.com/6443' || status=$?", "Your own load balancer"}, []string{"keepalived", "haproxy"}},
		"beside the control planes": {"colocated-balancer", nil, []string{"ignore=Port-6443\n", "ignore=Port-6443,SystemVerification;", "permit-port-sharing", "sysctl -q -p /etc/sysctl.d/91-quorate-balancer.conf",
			"bind 10.0.0.100:6443"}, nil},
		"no CNI plugin": {"stacked", func(c *spec.Cluster) { c.Spec.Network.CNI = spec.CNINone }, []string{"install yours now"}, []string{"flannel", "condition=Ready"}},
		"pools":         {"zonal", nil, []string{"kubectl label --overwrite node data-1 example.com/tier=data quorate.dev/pool=data\n", "kubectl taint --overwrite node data-1 example.com/dedicated=data:NoSchedule\n"}, nil},
		"standard timings": {"stacked", func(c *spec.Cluster) { c.Spec.Failover.Profile = spec.ProfileStandard }, nil,
			[]string{"node-monitor-grace-period", "encryptionAlgorithm", "bootstrapTokens"}},
	} {
		c := load(t, "../../../examples/"+tc.file+".yaml")
		if tc.edit != nil {
			tc.edit(c)
		}
		_, text := write(t, c)
		if err := parses(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range tc.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
		for _, wrong := range tc.not {
			if strings.Contains(text, wrong) {
				t.Errorf("%s: %q in\n%s", name, wrong, text)
			}
		}
	}
}
