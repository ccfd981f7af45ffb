package hostconfig

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestEtcdMember(t *testing.T) {
	c := cluster()
	c.Spec.ControlPlane.Topology = spec.TopologyExternal
	for _, name := range []string{"etcd-a", "etcd-b"} {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: name, Address: "10.0.1." + name[len(name)-1:], Roles: []string{spec.RoleEtcd}})
	}
	h := c.EtcdHosts()[1]
	fresh := Etcd(h, &facts.Facts{}, facts.EtcdTimers{})
	env := file(t, fresh, "/etc/etcd/etcd.env")
	for _, want := range []string{"ETCD_NAME=etcd-b\n", "ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379,https://10.0.1.b:2379\n", "ETCD_LISTEN_PEER_URLS=https://10.0.1.b:2380\n",
		"ETCD_CLIENT_CERT_AUTH=true\n", "ETCD_PEER_CLIENT_CERT_AUTH=true\n", "ETCD_LISTEN_METRICS_URLS=http://127.0.0.1:2381\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in\n%s", want, env)
		}
	}
	if strings.Contains(env, "INITIAL_CLUSTER") {
		t.Error("what every plan compares says how the cluster began")
	}
	if len(fresh.Enable) != 0 {
		t.Errorf("a member that never started is started without the others: %v", fresh.Enable)
	}
	if again := Etcd(h, &facts.Facts{Kubernetes: facts.Kubernetes{EtcdData: true}}, facts.EtcdTimers{}); !slices.Equal(again.Enable, []string{EtcdUnit}) {
		t.Errorf("a member with data is not kept running: %v", again.Enable)
	}
	for _, f := range fresh.Files {
		if len(f.Restart) != 0 {
			t.Errorf("%s restarts all members at once: %v", f.Path, f.Restart)
		}
	}
	if got := ExternalEtcd(c, "test-0123").Environment(); !strings.Contains(got, "ETCD_INITIAL_CLUSTER=etcd-a=https://10.0.1.a:2380,etcd-b=https://10.0.1.b:2380\n") ||
		!strings.Contains(got, "ETCD_INITIAL_CLUSTER_TOKEN=test-0123\n") {
		t.Errorf("members are\n%s", got)
	}
	if slices.Contains(SharedPKI(c), "etcd/ca.key") {
		t.Error("control planes share the key of an authority that is not theirs")
	}
	c.Spec.ControlPlane.Topology = spec.TopologyStacked
	if !slices.Contains(SharedPKI(c), "etcd/ca.key") {
		t.Error("control planes with an etcd lack the key of its authority")
	}
}

const (
	oneCA = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"
	twoCA = "-----BEGIN CERTIFICATE-----\nAQIE\n-----END CERTIFICATE-----\n"
)

// TestEtcdTokens: clusters of the same name and with the same members have different tokens, because their CAs differ.
func TestEtcdTokens(t *testing.T) {
	one, err := EtcdToken("prod", oneCA, "")
	if err != nil || one != "prod-039058c6f2c0cb49" { // printf '\\001\\002\\003' | sha256sum
		t.Errorf("%q, %v", one, err)
	}
	if again, err := EtcdToken("prod", "\n"+oneCA+"\n", ""); err != nil || again != one {
		t.Errorf("white space makes another token: %q, %v", again, err)
	}
	if two, err := EtcdToken("prod", twoCA, ""); err != nil || two == one {
		t.Errorf("another CA makes the same token: %q, %v", two, err)
	}
	for _, none := range []string{"", "PEM"} {
		if got, err := EtcdToken("prod", none, ""); err == nil {
			t.Errorf("a token without a CA: %q", got)
		}
	}
}

func TestEtcdClustersAreComparedWithoutOrder(t *testing.T) {
	one := EtcdCluster{Members: []string{"a=x", "b=y"}, Token: "t"}
	if !one.Equal(EtcdCluster{Members: []string{"b=y", "a=x"}, Token: "t"}) {
		t.Error("the order of members makes another cluster")
	}
	for _, other := range []EtcdCluster{{Members: one.Members}, {Members: []string{"a=x"}, Token: "t"}, {Members: []string{"a=x", "c=y"}, Token: "t"}} {
		if one.Equal(other) {
			t.Errorf("%s and %s are one cluster", one, other)
		}
	}
}

// TestGuardIsOnStackedControlPlanes, and nowhere else: without the link that Configure makes, the kubelet would start no etcd.
func TestGuardIsOnStackedControlPlanes(t *testing.T) {
	c := cluster()
	d := ControlPlane(c)
	if !d.EtcdGuard || !strings.Contains(file(t, d, kubeletGuardFile), "[ -L "+EtcdGuard+" ] && [ ! -d "+EtcdGuard+" ]") || !strings.Contains(file(t, d, etcdPatchFile), "path: "+EtcdGuard+", type: Directory") {
		t.Errorf("%+v", d)
	}
	if a := Adopted(c, c.HostsWith(spec.RoleControlPlane)[0]); !a.EtcdGuard || file(t, a, kubeletGuardFile) == "" {
		t.Error("an adopted control plane is not guarded")
	}
	if a := Adopted(c, c.HostsWith(spec.RoleWorker)[0]); a.EtcdGuard {
		t.Error("a worker has no etcd to guard")
	}
	// Nothing is missing before the cluster was complete.
	f := &facts.Facts{}
	guard := facts.Desired{EtcdGuard: true}
	if got := Missing(guard, f); len(got) > 0 {
		t.Errorf("%q", got)
	}
	f.Kubernetes.Established = true
	if got := Missing(guard, f); len(got) > 0 {
		t.Errorf("a guard that would look for data that is not there: %q", got)
	}
	f.Kubernetes.EtcdData = true
	if got := Missing(guard, f); len(got) != 1 {
		t.Errorf("a complete cluster whose guard is open: %q", got)
	}
	f.Kubernetes.EtcdGuard = true
	if got := Missing(guard, f); len(got) > 0 {
		t.Errorf("%q", got)
	}
	c.Spec.ControlPlane.Topology = spec.TopologyExternal
	if d := ControlPlane(c); d.EtcdGuard || slices.ContainsFunc(d.Files, func(f facts.File) bool { return f.Path == kubeletGuardFile || f.Path == etcdPatchFile }) {
		t.Error("a control plane without a member is guarded")
	}
}

// TestGuards runs what guards a member before the start of its unit, and of the kubelet, as systemd would.
func TestGuards(t *testing.T) {
	script := func(unit, root string) string {
		_, after, ok := strings.Cut(unit, "ExecStartPre=/bin/sh -c '")
		script, _, end := strings.Cut(after, "'\n")
		if !ok || !end {
			t.Fatalf("no guard in\n%s", unit)
		}
		for _, path := range []string{EtcdGuard, EtcdDataDir, facts.EstablishedFile} {
			script = strings.ReplaceAll(script, " "+path, " "+root+path)
		}
		return strings.ReplaceAll(script, "$$", "$") // as systemd does
	}
	for name, tc := range map[string]struct {
		unit string
		arm  func(root string) error
	}{
		"the unit of an external member": {etcdUnit, func(root string) error { return os.WriteFile(root+facts.EstablishedFile, nil, 0o600) }},
		"the kubelet of a stacked member": {kubeletGuard, func(root string) error {
			return errors.Join(os.MkdirAll(root+"/var/lib/quorate/etcd", 0o700), os.Symlink(root+EtcdWAL, root+EtcdGuard))
		}},
	} {
		root := t.TempDir()
		starts := func() bool { return exec.Command("/bin/sh", "-c", script(tc.unit, root)).Run() == nil }
		if err := os.MkdirAll(root+"/var/lib/quorate", 0o700); err != nil {
			t.Fatal(err)
		}
		if !starts() {
			t.Errorf("%s: a new member cannot begin", name)
		}
		if err := tc.arm(root); err != nil {
			t.Fatal(err)
		}
		if starts() {
			t.Errorf("%s: a member whose data is gone starts", name)
		}
		if err := os.MkdirAll(root+EtcdWAL, 0o700); err != nil {
			t.Fatal(err)
		}
		if !starts() {
			t.Errorf("%s: a member with its data does not start", name)
		}
	}
}
