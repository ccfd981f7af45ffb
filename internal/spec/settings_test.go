package spec

import (
	"strings"
	"testing"
)

const auditPolicy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"

// withSettings is a spec that can be built, with settings.
func withSettings(t *testing.T, settings string) (*Cluster, error) {
	t.Helper()
	text := strings.Replace(real, "\n  hosts:", "\n  settings:\n    "+strings.ReplaceAll(strings.TrimSpace(settings), "\n", "\n    ")+"\n  hosts:", 1)
	if text == real {
		t.Fatal("the settings have no place")
	}
	return Check([]byte(text), "cluster.yaml", Options{})
}

func TestSettings(t *testing.T) {
	c, err := withSettings(t, `
featureGates: {B: false, A: true}
apiServer:
  extraArgs: {max-requests-inflight: "800", audit-log-maxage: "7"}
controllerManager: {extraArgs: {bind-address: 0.0.0.0}}
scheduler: {extraArgs: {v: "4"}}
kubelet:
  maxPods: 200
  systemReserved: {cpu: 500m, memory: 1Gi}
  evictionHard: {memory.available: 5%}
  shutdownGracePeriod: 60s
  shutdownGracePeriodCriticalPods: 20s
  allowedUnsafeSysctls: [net.core.somaxconn]
registries:
- {name: docker.io, mirrors: [https://mirror.example.com, "https://harbor.example.com/hub"], caFile: ca.pem}
- {name: "*", mirrors: ["http://10.0.0.5:5000"]}
sysctls: {vm.max_map_count: "262144"}
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Spec.Settings.Gates(); got != "A=true,B=false" {
		t.Error(got)
	}
	if got := c.SettingsFiles(); len(got) != 1 || got[0].Field != "spec.settings.registries[0].caFile" || got[0].Path != "ca.pem" {
		t.Errorf("%+v", got)
	}
}

// TestWrongSettings: each message says what is wrong, where, and what to do.
func TestWrongSettings(t *testing.T) {
	for settings, want := range map[string][]string{
		`apiServer: {extraArgs: {--v: "4"}}`:                                                    {"without leading dashes", "write `v`"},
		`apiServer: {extraArgs: {v: 4}}`:                                                        {"expected a string", `"4"`},
		`apiServer: {extraArgs: {v: ""}}`:                                                       {"no value"},
		`apiServer: {extraArgs: {etcd-servers: "https://x"}}`:                                   {"`etcd-servers` cannot be set here", "kubeadm sets it"},
		`apiServer: {extraArgs: {oidc-issuer-url: "https://x"}}`:                                {"authenticationConfigFile"},
		`apiServer: {extraArgs: {audit-policy-file: /x}}`:                                       {"auditPolicyFile"},
		`apiServer: {extraArgs: {feature-gates: A=true}}`:                                       {"featureGates"},
		`controllerManager: {extraArgs: {leader-elect: "false"}}`:                               {"leader-elect"},
		`scheduler: {extraArgs: {bind-address: 10.0.0.1}}`:                                      {"0.0.0.0"},
		`scheduler: {extraArgs: {bind-address: "::"}}`:                                          {"0.0.0.0"},
		`scheduler: {extraArgs: {config: /x}}`:                                                  {"names a file"},
		`featureGates: {someGate: true}`:                                                        {"someGate"},
		`featureGates: {SomeGate: "true"}`:                                                      {"true or false"},
		`kubelet: {maxPods: 300}`:                                                               {"/24", "250"},
		`kubelet: {systemReserved: {cpus: 1m}}`:                                                 {"did you mean `cpu`"},
		`kubelet: {kubeReserved: {memory: lots}}`:                                               {"`lots` is not a quantity"},
		`kubelet: {evictionHard: {memory.available: 5x%}}`:                                      {"is not a percentage"},
		`kubelet: {imageGCHighThresholdPercent: 70}`:                                            {"imageGCLowThresholdPercent"},
		`kubelet: {shutdownGracePeriod: 60}`:                                                    {"60"},
		`kubelet: {shutdownGracePeriod: 10s, shutdownGracePeriodCriticalPods: 20s}`:             {"longer"},
		`kubelet: {evictionHard: {memory.available: 110%}}`:                                     {"`110%` is not a percentage from 0 to 100"},
		`kubelet: {evictionHard: {memory.available: "0"}}`:                                      {"does not start with the limit `0`", "`0%` to switch it off"},
		`kubelet: {evictionHard: {nodefs.available: 500m}}`:                                     {"`500m` is not a whole number", "`500Mi`"},
		`kubelet: {systemReserved: {memory: 500m}}`:                                             {"`500m` is not a whole number"},
		`kubelet: {systemReserved: {memory: 10%}}`:                                              {"`10%` is not a quantity"},
		`kubelet: {containerLogMaxSize: 500m}`:                                                  {"`500m` is not a whole number"},
		`kubelet: {containerLogMaxSize: 1.5Gi}`:                                                 {"without a fraction"},
		`kubelet: {shutdownGracePeriod: 500ms}`:                                                 {"`500ms` is too short", "1s or more"},
		`kubelet: {shutdownGracePeriod: 10s, shutdownGracePeriodCriticalPods: 500ms}`:           {"`500ms` is too short"},
		`kubelet: {allowedUnsafeSysctls: [vm.max_map_count]}`:                                   {"no value of their own for `vm.max_map_count`", "spec.settings.sysctls"},
		`kubelet: {allowedUnsafeSysctls: ["kernel.*"]}`:                                         {"no value of their own for `kernel.*`"},
		`kubelet: {allowedUnsafeSysctls: ["net*"]}`:                                             {"no value of their own for `net*`"},
		`kubelet: {allowedUnsafeSysctls: [net..core]}`:                                          {"`net..core` is not a kernel setting"},
		`kubelet: {allowedUnsafeSysctls: ["net.*.x"]}`:                                          {"`net.*.x` is not a kernel setting"},
		`kubelet: {allowedUnsafeSysctls: ["*"]}`:                                                {"name each"},
		`registries: [{name: docker.io, mirrors: []}]`:                                          {"no mirror"},
		`registries: [{name: docker.io, mirrors: [mirror.example.com]}]`:                        {"not the URL of a mirror"},
		`registries: [{name: "https://docker.io", mirrors: ["https://x"]}]`:                     {"not the name of a registry"},
		`registries: [{name: a.b, mirrors: ["https://x"]}, {name: a.b, mirrors: ["http://y"]}]`: {"listed twice"},
		`registries: [{name: a.b, mirrors: ["http://x"], caFile: ca.pem}]`:                      {"uses https"},
		`sysctls: {vm/max_map_count: "1"}`:                                                      {"vm.max_map_count"},
		`sysctls: {kernel.panic: "1"}`:                                                          {"the kubelet sets"},
		`sysctls: {vm.swappiness: 1}`:                                                           {`"1"`},
	} {
		_, err := withSettings(t, settings)
		for _, part := range append(want, "spec.settings.") {
			if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), "cluster.yaml:") {
				t.Errorf("%s: want %q, got %v", settings, part, err)
			}
		}
	}
}

// TestSettingsThatAKubeletAccepts are not refused.
func TestSettingsThatAKubeletAccepts(t *testing.T) {
	for _, settings := range []string{
		`kubelet: {allowedUnsafeSysctls: [kernel.sem, "kernel.shm*", kernel.shmmax, "kernel.msg*", "fs.mqueue.*", "net.*", net/ipv4/tcp_syncookies, "user.max_user_namespaces"]}`,
		`kubelet: {evictionHard: {memory.available: 0%, nodefs.available: 100%, imagefs.available: 7.5%, pid.available: "1000"}}`,
		`kubelet: {systemReserved: {cpu: 1500m, memory: 1.5Gi, pid: "1000"}, containerLogMaxSize: 1536Mi}`,
		`kubelet: {shutdownGracePeriod: 1s, shutdownGracePeriodCriticalPods: 1s}`,
	} {
		if _, err := withSettings(t, settings); err != nil {
			t.Errorf("%s: %v", settings, err)
		}
	}
	if namespacedSysctl("user.max_user_namespaces", "v1.36.3") || !namespacedSysctl("net.core.somaxconn", "v1.36.3") {
		t.Error("v1.36 does not know the settings of user namespaces")
	}
}

func TestAttachedFiles(t *testing.T) {
	const (
		policy  = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
		jwt     = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n"
		issuer  = "- issuer: {url: https://x, audiences: [kubernetes]}\n  claimMappings: {username: {claim: email, prefix: \"oidc:\"}, groups: {claim: groups, prefix: \"\"}}\n"
		audited = "apiServer.auditPolicyFile"
		oidc    = "apiServer.authenticationConfigFile"
	)
	for name, tc := range map[string]struct{ field, content, want string }{
		"a policy":              {"apiServer.auditPolicyFile", auditPolicy, ""},
		"no YAML":               {"apiServer.auditPolicyFile", "a: [", "not one YAML document"},
		"another kind":          {"apiServer.auditPolicyFile", "apiVersion: v1\nkind: Pod\n", "begin it with"},
		"no rules":              {"apiServer.auditPolicyFile", "apiVersion: audit.k8s.io/v1\nkind: Policy\n", "has no rules"},
		"issuers":               {"apiServer.authenticationConfigFile", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n" + issuer, ""},
		"anonymous requests":    {"apiServer.authenticationConfigFile", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true}\njwt: [{}]\n", "anonymous"},
		"an expression":         {oidc, jwt + "- issuer: {url: https://x, audiences: [a, b], audienceMatchPolicy: MatchAny}\n  claimMappings: {username: {expression: claims.sub}}\n", ""},
		"http":                  {oidc, jwt + "- issuer: {url: http://x, audiences: [a]}\n", "`http://x` in jwt[0].issuer"},
		"no audience":           {oidc, jwt + "- issuer: {url: https://x}\n", "no audience in jwt[0].issuer"},
		"several audiences":     {oidc, jwt + "- issuer: {url: https://x, audiences: [a, b]}\n", "audienceMatchPolicy: MatchAny"},
		"no name":               {oidc, jwt + "- issuer: {url: https://x, audiences: [a]}\n", "which claim is the user's name"},
		"no prefix":             {oidc, jwt + "- issuer: {url: https://x, audiences: [a]}\n  claimMappings: {username: {claim: email}}\n", "has no prefix in jwt[0].claimMappings.username"},
		"twice":                 {oidc, jwt + issuer + issuer, "https://x twice"},
		"no list":               {oidc, jwt + "- issuer: {url: https://x, audiences: a}\n", "is no AuthenticationConfiguration"},
		"all of a policy":       {audited, policy + "- {level: None, nonResourceURLs: [\"*\", \"/healthz*\"]}\n- {level: RequestResponse, omitStages: [Panic], resources: [{group: \"\", resources: [pods], resourceNames: [a]}]}\n", ""},
		"a level":               {audited, policy + "- level: Metadta\n", "the level `Metadta` in rules[0]"},
		"no level":              {audited, policy + "- level: None\n- {}\n", "the level `` in rules[1]"},
		"a stage":               {audited, "omitStages: [Requested]\n" + auditPolicy, "the stage `Requested` in omitStages"},
		"a stage of a rule":     {audited, policy + "- {level: None, omitStages: [x]}\n", "the stage `x` in rules[0].omitStages"},
		"a path":                {audited, policy + "- {level: None, nonResourceURLs: [\"/a*/b\"]}\n", "`/a*/b` in rules[0].nonResourceURLs"},
		"paths and resources":   {audited, policy + "- {level: None, nonResourceURLs: [/a], namespaces: [b]}\n", "both nonResourceURLs and"},
		"names of nothing":      {audited, policy + "- {level: None, resources: [{group: apps, resourceNames: [b]}]}\n", "resourceNames without resources"},
		"no certificate":        {"registries[0].caFile", "x", "no certificate"},
		"a key instead of a CA": {"registries[0].caFile", "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n", "no certificate"},
	} {
		c := &Cluster{}
		err := c.Attach(SettingsFile{"spec.settings." + tc.field, "file"}, []byte(tc.content))
		switch {
		case tc.want == "" && (err != nil || c.Content("file") != tc.content):
			t.Errorf("%s: %v, %q", name, err, c.Content("file"))
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}
