package hostconfig

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func contentOf(t *testing.T, d facts.Desired, path string) string {
	t.Helper()
	for _, f := range d.Files {
		if f.Path == path {
			return f.Content
		}
	}
	t.Fatalf("%s is not among the files", path)
	return ""
}

func TestNoSettingsWriteNothing(t *testing.T) {
	c := spec.DefaultLab("test")
	if d := Settings(c, &facts.Facts{}); len(d.Files)+len(d.Absent)+len(d.Sysctls) > 0 {
		t.Errorf("%+v", d)
	}
	if AuditPolicyPath(c) != AuditPolicyFile || AuthenticationPath(c) != AuthenticationFile {
		t.Error(AuditPolicyPath(c), AuthenticationPath(c))
	}
	for program, args := range Arguments(c) {
		if len(args) > 0 {
			t.Errorf("%s: %v", program, args)
		}
	}
	if got := KubeletFields(c, nil); len(got) > 0 {
		t.Error(got)
	}
}

// TestSizeArguments: large clusters get more requests at the same time, one by one where the spec does not say how many.
func TestSizeArguments(t *testing.T) {
	c := spec.DefaultLab("test")
	for nodes, want := range map[int][2]string{0: {}, 500: {}, 501: {"1500", "500"}, 3001: {"3000", "1000"}} {
		c.Spec.Size.Nodes = nodes
		for _, args := range []map[string]string{SizeArguments(c), Arguments(c)[facts.APIServer]} {
			if args["max-requests-inflight"] != want[0] || args["max-mutating-requests-inflight"] != want[1] {
				t.Errorf("%d nodes: %v", nodes, args)
			}
		}
		if other := len(Arguments(c)[facts.Scheduler]) + len(Arguments(c)[facts.ControllerManager]); other > 0 {
			t.Errorf("%d nodes: other programs have %d arguments", nodes, other)
		}
	}
	for nodes, want := range map[int]any{100: nil, 101: "5m0s"} {
		c.Spec.Size.Nodes = nodes
		if got := KubeletFields(c, nil)["nodeStatusReportFrequency"]; got != want {
			t.Errorf("%d nodes: reports each %v", nodes, got)
		}
	}
	c.Spec.Failover.Profile = spec.ProfileStandard
	if got := KubeletFields(c, nil); len(got) > 0 {
		t.Errorf("with the profile standard, kubelets report every five minutes anyway: %v", got)
	}
	c.Spec.Size.Nodes = 600
	c.Spec.Settings.APIServer.ExtraArgs = map[string]string{"max-requests-inflight": "700"}
	if args := Arguments(c)[facts.APIServer]; args["max-requests-inflight"] != "700" || args["max-mutating-requests-inflight"] != "500" {
		t.Errorf("with one of them in the spec: %v", args)
	}
}

func TestRegistries(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Settings.Registries = []spec.Registry{{Name: "docker.io", Mirrors: []string{"https://mirror.example.com/", "https://harbor.example.com/hub", "http://10.0.0.5:5000/v2/x"}, CAFile: "ca"},
		{Name: "*", Mirrors: []string{"https://all.example.com"}}}
	if err := c.Attach(spec.SettingsFile{Field: "spec.settings.registries[0].caFile", Path: "ca"}, []byte("-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n")); err != nil {
		t.Fatal(err)
	}
	d := Settings(c, &facts.Facts{Registries: []string{RegistriesDir + "/docker.io/hosts.toml", RegistriesDir + "/quay.io/hosts.toml"}})
	want := `# Written by quorate

[host."https://mirror.example.com"]
  capabilities = ['pull', 'resolve']
  ca = '/etc/containerd/certs.d/docker.io/ca.crt'

[host."https://harbor.example.com/v2/hub"]
  capabilities = ['pull', 'resolve']
  override_path = true
  ca = '/etc/containerd/certs.d/docker.io/ca.crt'

[host."http://10.0.0.5:5000/v2/x"]
  capabilities = ['pull', 'resolve']
  override_path = true
`
	if got := contentOf(t, d, RegistriesDir+"/docker.io/hosts.toml"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := contentOf(t, d, RegistriesDir+"/_default/hosts.toml"); strings.Contains(got, "ca =") {
		t.Error(got)
	}
	if !slices.Equal(d.Absent, []string{RegistriesDir + "/quay.io/hosts.toml"}) {
		t.Error(d.Absent)
	}
	for _, f := range d.Files {
		if len(f.Restart)+len(f.Reload) > 0 || !strings.HasPrefix(f.Content, WrittenRegistry+"\n") {
			t.Errorf("%+v", f)
		}
	}
}

func TestSysctls(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Settings.Sysctls = map[string]string{"vm.max_map_count": "262144", "net.ipv4.ip_local_port_range": "20000 60000"}
	f := &facts.Facts{Files: map[string]string{}, Sysctls: map[string]string{"vm.max_map_count": "65530", "net.ipv4.ip_local_port_range": "20000\t60000"}}
	d := Settings(c, f)
	if got := contentOf(t, d, SettingsSysctlFile); got != "net.ipv4.ip_local_port_range = 20000 60000\nvm.max_map_count = 262144\n" {
		t.Error(got)
	}
	f.Files[SettingsSysctlFile] = d.Files[0].Sum()
	if got := Missing(d, f); !slices.Equal(got, []string{"vm.max_map_count is 65530 instead of 262144"}) {
		t.Error(got)
	}
	c.Spec.Settings.Sysctls = nil
	if got := Missing(Settings(c, f), f); !slices.Equal(got, []string{SettingsSysctlFile + " left the spec"}) {
		t.Error(got)
	}
}

// TestFilesOfTheAPIServer: the arguments change with the content, health checks stay allowed, and Quorate's own files stay.
func TestFilesOfTheAPIServer(t *testing.T) {
	c := spec.DefaultLab("test")
	attach := func(field, path, content string) {
		t.Helper()
		if err := c.Attach(spec.SettingsFile{Field: field, Path: path}, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	c.Spec.Settings.APIServer = spec.APIServerSettings{AuditPolicyFile: "audit", AuthenticationConfigFile: "oidc"}
	attach("spec.settings.apiServer.auditPolicyFile", "audit", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n")
	attach("spec.settings.apiServer.authenticationConfigFile", "oidc", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n"+
		"- issuer: {url: https://id.example.com, audiences: [kubernetes]}\n  claimMappings: {username: {claim: email, prefix: \"oidc:\"}}\n")
	args := Arguments(c)[facts.APIServer]
	for name, own := range map[string]string{"audit-policy-file": AuditPolicyFile, "authentication-config": AuthenticationFile} {
		if args[name] == "" || args[name] == own || !IsVariant(args[name][len(APIServerDir)+1:]) || IsVariant(own[len(APIServerDir)+1:]) {
			t.Errorf("%s: %q", name, args[name])
		}
		contentOf(t, ControlPlane(c), own)
	}
	oidc := contentOf(t, ControlPlane(c), args["authentication-config"])
	for _, p := range append(slices.Clone(AnonymousPaths), "https://id.example.com") {
		if !strings.Contains(oidc, p) {
			t.Errorf("%s is missing in\n%s", p, oidc)
		}
	}
	before := args["audit-policy-file"]
	attach("spec.settings.apiServer.auditPolicyFile", "audit", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n")
	if after := Arguments(c)[facts.APIServer]["audit-policy-file"]; after == before {
		t.Error("another policy has the same path")
	}
}

func TestKubeletFields(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Settings.FeatureGates = map[string]bool{"A": true}
	c.Spec.Settings.Kubelet = spec.KubeletSettings{MaxPods: 50, EvictionHard: map[string]string{"memory.available": "1Gi"}, ShutdownGracePeriod: "60s", AllowedUnsafeSysctls: []string{"kernel.msg*"}}
	got := KubeletFields(c, []*facts.Facts{{}})
	if want := []string{"allowedUnsafeSysctls", "evictionHard", "featureGates", "maxPods", "shutdownGracePeriod"}; !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
		t.Error(got)
	}
	if e := got["evictionHard"].(map[string]string); e["memory.available"] != "1Gi" || e["nodefs.available"] != "10%" {
		t.Errorf("the kubelet would drop its other limits: %v", e)
	}
	if e := KubeletFields(c, []*facts.Facts{{Container: "lxc"}})["evictionHard"].(map[string]string); e["nodefs.available"] != "1Gi" {
		t.Error(e)
	}
}

func TestSameField(t *testing.T) {
	for _, same := range [][2]any{{nil, 0}, {nil, "0s"}, {nil, map[string]string{}}, {"60s", "1m0s"}, {110, 110.0}, {map[string]string{"cpu": "1"}, map[string]any{"cpu": "1"}}, {false, nil}, {[]string{"a"}, []any{"a"}}} {
		if !SameField(same[0], same[1]) || !SameField(same[1], same[0]) {
			t.Errorf("%v and %v are told apart", same[0], same[1])
		}
	}
	for _, other := range [][2]any{{nil, 1}, {"60s", "61s"}, {110, 111}, {map[string]string{"cpu": "1"}, map[string]any{"cpu": "2"}}, {[]string{"a", "b"}, []any{"a"}}} {
		if SameField(other[0], other[1]) {
			t.Errorf("%v and %v are the same", other[0], other[1])
		}
	}
}
