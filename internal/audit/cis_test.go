package audit

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// good is the evidence of a control plane and a worker as Quorate builds them.
func good() Cluster {
	root := func(bits uint32) facts.Mode { return facts.Mode{Bits: bits, Owner: "root", Group: "root"} }
	file := func(path string) string {
		for _, f := range hostconfig.ControlPlane(spec.DefaultLab("test")).Files {
			if f.Path == path {
				return f.Content
			}
		}
		panic(path)
	}
	suites := strings.Join(hostconfig.CipherSuites, ",")
	kubelet := func() map[string]any {
		list := []any{}
		for _, s := range hostconfig.CipherSuites {
			list = append(list, s)
		}
		return map[string]any{
			"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}, "x509": map[string]any{"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
			"authorization":  map[string]any{"mode": "Webhook"}, "streamingConnectionIdleTimeout": "4h0m0s", "makeIPTablesUtilChains": true,
			"eventRecordQPS": 50.0, "rotateCertificates": true, "serverTLSBootstrap": true, "tlsCipherSuites": list, "podPidsLimit": 4096.0, "seccompDefault": true,
		}
	}
	nodeFiles := map[string]facts.Mode{
		"/etc/cni/net.d/10-flannel.conflist": root(0o644), "/etc/systemd/system/kubelet.service": root(0o600), "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf": root(0o600),
		"/etc/kubernetes/kubelet.conf": root(0o600), "/etc/kubernetes/pki/ca.crt": root(0o644), "/var/lib/kubelet/config.yaml": root(0o600),
	}
	worker := Host{Name: "worker-a", Node: true, Kubelet: kubelet(), Security: facts.Security{Files: nodeFiles, ServingIssuer: "cluster",
		Programs: map[string]map[string]string{"kubelet": {"config": "/var/lib/kubelet/config.yaml"}, "kube-proxy": {"config": "x"}}}}
	cp := Host{Name: "cp-a", Node: true, ControlPlane: true, Etcd: true, Kubelet: kubelet(), Security: facts.Security{
		Files: maps.Clone(nodeFiles), AuditPolicy: file(hostconfig.AuditPolicyFile), Authentication: file(hostconfig.AuthenticationFile),
		EncryptionProviders: []string{"secretbox"}, ServingIssuer: "cluster",
		Authorities: map[string]string{"c": "a", "e": "b"},
		Programs: map[string]map[string]string{
			"kubelet": {}, "kube-proxy": {},
			"kube-apiserver": {"enable-admission-plugins": "NodeRestriction,DenyServiceExternalIPs", "authorization-mode": "Node,RBAC", "profiling": "false",
				"authentication-config": hostconfig.AuthenticationFile, "audit-policy-file": "p", "audit-log-path": "l", "audit-log-maxage": "30", "audit-log-maxbackup": "10",
				"audit-log-maxsize": "100", "encryption-provider-config": "e", "tls-cipher-suites": suites, "service-account-extend-token-expiration": "false",
				"kubelet-client-certificate": "x", "kubelet-client-key": "x", "kubelet-certificate-authority": "x", "service-account-key-file": "x",
				"etcd-certfile": "x", "etcd-keyfile": "x", "etcd-cafile": "e", "tls-cert-file": "x", "tls-private-key-file": "x", "client-ca-file": "c"},
			"kube-controller-manager": {"profiling": "false", "use-service-account-credentials": "true", "service-account-private-key-file": "x", "root-ca-file": "x", "bind-address": "127.0.0.1"},
			"kube-scheduler":          {"profiling": "false", "bind-address": "127.0.0.1"},
			"etcd":                    {"data-dir": "/var/lib/etcd", "trusted-ca-file": "e", "cert-file": "x", "key-file": "x", "client-cert-auth": "true", "peer-cert-file": "x", "peer-key-file": "x", "peer-client-cert-auth": "true"},
		}}}
	for _, f := range []string{"manifests/kube-apiserver.yaml", "manifests/kube-controller-manager.yaml", "manifests/kube-scheduler.yaml", "manifests/etcd.yaml",
		"admin.conf", "super-admin.conf", "scheduler.conf", "controller-manager.conf", "pki/ca.key", "pki/encryption.yaml"} {
		cp.Files["/etc/kubernetes/"+f] = root(0o600)
	}
	cp.Files["/etc/kubernetes/pki"], cp.Files["/var/lib/etcd"], cp.Files[hostconfig.AuditLogDir], cp.Files[hostconfig.AuditLog] = root(0o755), root(0o700), root(0o700), root(0o600)
	return Cluster{Hosts: []Host{cp, worker}, Access: &Access{}, KubeProxy: map[string]any{"metricsBindAddress": ""}}
}

func outcomes(r Report, want Outcome) (ids []string) {
	for _, c := range r.Checks {
		if c.Outcome == want {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func TestWhatQuorateBuildsPassesOrSaysWhy(t *testing.T) {
	r := CIS("test", good())
	if failed := outcomes(r, Fail); len(failed) > 0 || !r.OK() {
		var b bytes.Buffer
		Text(&b, r)
		t.Errorf("fail: %v\n%s", failed, &b)
	}
	want := []string{"1.1.9", "1.1.12", "1.2.1", "1.2.9", "1.2.11", "3.1.1"}
	if got := outcomes(r, Explained); !slices.Equal(got, want) {
		t.Errorf("explained are %v, want %v", got, want)
	}
	for _, c := range r.Checks {
		for _, f := range c.Findings {
			if f.Reason == "" {
				t.Errorf("%s says no reason for %q", c.ID, f.Found)
			}
		}
	}
	if r.Pass+r.Explained != len(rules) || r.Unknown+r.Fail != 0 {
		t.Errorf("%d passed, %d explained, %d unknown, %d failed, of %d", r.Pass, r.Explained, r.Unknown, r.Fail, len(rules))
	}
}

func TestChecksAreUniqueAndInOrder(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules {
		if seen[r.id] || r.title == "" || (r.host == nil) == (r.cluster == nil) {
			t.Errorf("the rule %+v", r)
		}
		seen[r.id] = true
	}
}

// TestEveryCheckCanFail breaks one thing at a time.
func TestEveryCheckCanFail(t *testing.T) {
	arg := func(program, name, value string) func(*Cluster) {
		return func(c *Cluster) {
			args := c.Hosts[0].Programs[program]
			if value == "" {
				delete(args, name)
			} else {
				args[name] = value
			}
		}
	}
	mode := func(path string, bits uint32) func(*Cluster) {
		return func(c *Cluster) { m := c.Hosts[0].Files[path]; m.Bits = bits; c.Hosts[0].Files[path] = m }
	}
	owner := func(path string) func(*Cluster) {
		return func(c *Cluster) { m := c.Hosts[0].Files[path]; m.Owner = "nobody"; c.Hosts[0].Files[path] = m }
	}
	config := func(name string, value any) func(*Cluster) {
		return func(c *Cluster) { c.Hosts[1].Kubelet[name] = value }
	}
	k := "/etc/kubernetes/"
	broken := map[string]func(*Cluster){
		"1.1.1": mode(k+"manifests/kube-apiserver.yaml", 0o644), "1.1.2": owner(k + "manifests/kube-apiserver.yaml"),
		"1.1.3": mode(k+"manifests/kube-controller-manager.yaml", 0o640), "1.1.4": owner(k + "manifests/kube-controller-manager.yaml"),
		"1.1.5": mode(k+"manifests/kube-scheduler.yaml", 0o604), "1.1.6": owner(k + "manifests/kube-scheduler.yaml"),
		"1.1.7": mode(k+"manifests/etcd.yaml", 0o644), "1.1.8": owner(k + "manifests/etcd.yaml"),
		"1.1.9": mode("/etc/cni/net.d/10-flannel.conflist", 0o664), "1.1.10": owner("/etc/cni/net.d/10-flannel.conflist"),
		"1.1.11": mode("/var/lib/etcd", 0o755), "1.1.12": owner("/var/lib/etcd"),
		"1.1.13": mode(k+"super-admin.conf", 0o640), "1.1.14": owner(k + "admin.conf"),
		"1.1.15": mode(k+"scheduler.conf", 0o644), "1.1.16": owner(k + "scheduler.conf"),
		"1.1.17": mode(k+"controller-manager.conf", 0o644), "1.1.18": owner(k + "controller-manager.conf"),
		"1.1.19": owner(k + "pki/ca.key"), "1.1.20": mode(k+"pki/ca.crt", 0o664), "1.1.21": mode(k+"pki/encryption.yaml", 0o644),
		"1.2.1": arg("kube-apiserver", "authentication-config", ""), "1.2.2": arg("kube-apiserver", "token-auth-file", "x"),
		"1.2.3": arg("kube-apiserver", "enable-admission-plugins", "NodeRestriction"), "1.2.4": arg("kube-apiserver", "kubelet-client-key", ""),
		"1.2.5": arg("kube-apiserver", "kubelet-certificate-authority", ""), "1.2.6": arg("kube-apiserver", "authorization-mode", "Node,RBAC,AlwaysAllow"),
		"1.2.7": arg("kube-apiserver", "authorization-mode", "RBAC"), "1.2.8": arg("kube-apiserver", "authorization-mode", "Node"),
		"1.2.10": arg("kube-apiserver", "enable-admission-plugins", "NodeRestriction,DenyServiceExternalIPs,AlwaysAdmit"),
		"1.2.12": arg("kube-apiserver", "disable-admission-plugins", "ServiceAccount"), "1.2.13": arg("kube-apiserver", "disable-admission-plugins", "NamespaceLifecycle"),
		"1.2.14": arg("kube-apiserver", "enable-admission-plugins", "DenyServiceExternalIPs"), "1.2.15": arg("kube-apiserver", "profiling", ""),
		"1.2.16": mode(hostconfig.AuditLogDir, 0o755), "1.2.17": arg("kube-apiserver", "audit-log-maxage", "7"), "1.2.18": arg("kube-apiserver", "audit-log-maxbackup", ""),
		"1.2.19": arg("kube-apiserver", "audit-log-maxsize", "x"), "1.2.20": arg("kube-apiserver", "request-timeout", "0s"), "1.2.21": arg("kube-apiserver", "service-account-lookup", "false"),
		"1.2.22": arg("kube-apiserver", "service-account-key-file", ""), "1.2.23": arg("kube-apiserver", "etcd-keyfile", ""), "1.2.24": arg("kube-apiserver", "tls-cert-file", ""),
		"1.2.25": arg("kube-apiserver", "client-ca-file", ""), "1.2.26": arg("kube-apiserver", "etcd-cafile", ""), "1.2.27": arg("kube-apiserver", "encryption-provider-config", ""),
		"1.2.28": func(c *Cluster) { c.Hosts[0].EncryptionProviders = []string{"identity", "secretbox"} },
		"1.2.29": arg("kube-apiserver", "tls-cipher-suites", "TLS_RSA_WITH_AES_128_GCM_SHA256"), "1.2.30": arg("kube-apiserver", "service-account-extend-token-expiration", ""),
		"1.3.1": arg("kube-controller-manager", "terminated-pod-gc-threshold", "0"), "1.3.2": arg("kube-controller-manager", "profiling", "true"),
		"1.3.3": arg("kube-controller-manager", "use-service-account-credentials", ""), "1.3.4": arg("kube-controller-manager", "service-account-private-key-file", ""),
		"1.3.5": arg("kube-controller-manager", "root-ca-file", ""), "1.3.6": arg("kube-controller-manager", "feature-gates", "RotateKubeletServerCertificate=false"),
		"1.3.7": arg("kube-controller-manager", "bind-address", "0.0.0.0"), "1.4.1": arg("kube-scheduler", "profiling", ""),
		"1.4.2": arg("kube-scheduler", "bind-address", "0.0.0.0"),
		"2.1":   arg("etcd", "cert-file", ""), "2.2": arg("etcd", "client-cert-auth", "false"), "2.3": arg("etcd", "auto-tls", "true"), "2.4": arg("etcd", "peer-key-file", ""),
		"2.5": arg("etcd", "peer-client-cert-auth", ""), "2.6": arg("etcd", "peer-auto-tls", "true"),
		"2.7":   func(c *Cluster) { c.Hosts[0].Authorities["e"] = "a" },
		"3.1.1": func(c *Cluster) { c.Access.People = []string{"user jane"} },
		"3.1.2": func(c *Cluster) { c.Access.AccountTokens = []string{"default/jane"} },
		"3.1.3": func(c *Cluster) { c.Access.BootstrapTokens = []string{"bootstrap-token-abcdef"} },
		"3.2.1": arg("kube-apiserver", "audit-policy-file", ""),
		"3.2.2": func(c *Cluster) {
			c.Hosts[0].AuditPolicy = "rules: [{level: RequestResponse, resources: [{group: '', resources: [secrets]}]}, {level: Metadata}]"
		},
		"4.1.1": mode("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", 0o644), "4.1.2": owner("/etc/systemd/system/kubelet.service"),
		"4.1.3": arg("kube-proxy", "kubeconfig", "/root/x"), "4.1.4": arg("kube-proxy", "kubeconfig", "/root/x"),
		"4.1.5": mode(k+"kubelet.conf", 0o644), "4.1.6": owner(k + "kubelet.conf"), "4.1.7": mode(k+"pki/ca.crt", 0o646), "4.1.8": owner(k + "pki/ca.crt"),
		"4.1.9": mode("/var/lib/kubelet/config.yaml", 0o644), "4.1.10": owner("/var/lib/kubelet/config.yaml"),
		"4.2.1": config("authentication", map[string]any{"anonymous": map[string]any{"enabled": true}}), "4.2.2": config("authorization", map[string]any{"mode": "AlwaysAllow"}),
		"4.2.3": config("authentication", nil), "4.2.4": config("readOnlyPort", 10255.0), "4.2.5": config("streamingConnectionIdleTimeout", "0s"),
		"4.2.6": config("makeIPTablesUtilChains", false), "4.2.8": config("eventRecordQPS", 0.0), "4.2.9": func(c *Cluster) { c.Hosts[1].ServingIssuer = "other" },
		"4.2.10": config("rotateCertificates", nil), "4.2.11": config("serverTLSBootstrap", false), "4.2.12": config("tlsCipherSuites", nil),
		"4.2.13": config("podPidsLimit", -1.0), "4.2.14": config("seccompDefault", false),
		"4.3.1": func(c *Cluster) { c.KubeProxy["metricsBindAddress"] = "0.0.0.0:10249" },
	}
	neverFail := []string{"1.2.9", "1.2.11", "4.2.7"} // explained, whatever is found
	for _, r := range rules {
		if _, tried := broken[r.id]; !tried && !slices.Contains(neverFail, r.id) {
			t.Errorf("%s was not tried", r.id)
		}
	}
	for id, breakIt := range broken {
		c := good()
		breakIt(&c)
		if r := CIS("test", c); !slices.Contains(outcomes(r, Fail), id) || r.OK() {
			t.Errorf("%s does not fail: only %v do", id, outcomes(r, Fail))
		}
	}
}

// TestWhatCannotBeReadIsUnknown: nothing is inferred from it, and a cluster of which something is unknown is not said to be sound.
func TestWhatCannotBeReadIsUnknown(t *testing.T) {
	for name, tc := range map[string]struct {
		unread func(*Cluster)
		some   []string // checks that are unknown then
	}{
		"a scheduler that does not run":   {func(c *Cluster) { delete(c.Hosts[0].Programs, "kube-scheduler") }, []string{"1.4.1", "1.4.2"}},
		"a member that does not run":      {func(c *Cluster) { delete(c.Hosts[0].Programs, "etcd") }, []string{"1.1.11", "2.1", "2.7"}},
		"an API server that does not run": {func(c *Cluster) { delete(c.Hosts[0].Programs, "kube-apiserver") }, []string{"1.2.1", "1.2.16", "2.7"}},
		"a kubelet that does not answer":  {func(c *Cluster) { c.Hosts[1].Kubelet = nil }, []string{"4.2.1", "4.2.14"}},
		"the API": {func(c *Cluster) {
			c.Access, c.KubeProxy, c.AccessError = nil, nil, "no answer"
			c.Unreachable = map[string]string{"the API": "no answer"}
		}, []string{"3.1.1", "3.1.2", "3.1.3", "4.3.1"}},
		"all hosts": {func(c *Cluster) {
			c.Hosts, c.Access, c.KubeProxy = nil, nil, nil
			c.Unreachable = map[string]string{"cp-a": "no route", "worker-a": "no route", "the API": "no route"}
		}, []string{"1.1.1", "1.2.1", "2.1", "2.7", "3.1.1", "4.1.1", "4.3.1"}},
		"the control plane": {func(c *Cluster) {
			c.Hosts = c.Hosts[1:]
			c.Unreachable = map[string]string{"cp-a": "no route"}
		}, []string{"1.1.1", "1.2.1", "2.1", "2.7"}},
	} {
		c := good()
		tc.unread(&c)
		r := CIS("test", c)
		unknown := outcomes(r, Unknown)
		if failed := outcomes(r, Fail); len(failed) > 0 || r.OK() || r.Unknown != len(unknown) {
			t.Errorf("%s: %v fail, %d are unknown, all is well: %t", name, failed, r.Unknown, r.OK())
		}
		for _, id := range tc.some {
			if !slices.Contains(unknown, id) {
				t.Errorf("%s: %s is not unknown, only %v are", name, id, unknown)
			}
		}
	}
	c := good() // what fails on one host fails, whatever is unknown of another
	second := c.Hosts[0]
	second.Name, second.Programs = "cp-b", map[string]map[string]string{}
	c.Hosts[0].Programs["kube-scheduler"]["profiling"] = "true"
	c.Hosts = append(c.Hosts, second)
	if r := CIS("test", c); !slices.Contains(outcomes(r, Fail), "1.4.1") || !slices.Contains(outcomes(r, Unknown), "1.4.2") {
		t.Errorf("%v fail, %v are unknown", outcomes(r, Fail), outcomes(r, Unknown))
	}
}

// Loopback has addresses of both families.
func TestLoopbackAddresses(t *testing.T) {
	for address, loopback := range map[string]bool{"127.0.0.1": true, "127.0.0.2": true, "::1": true, "localhost": true, "::": false, "0.0.0.0": false, "10.0.0.1": false, "127.0.0.1.example.com": false} {
		c := good()
		c.Hosts[0].Programs["kube-controller-manager"]["bind-address"], c.Hosts[0].Programs["kube-scheduler"]["bind-address"] = address, address
		c.KubeProxy["metricsBindAddress"] = net.JoinHostPort(address, "10249")
		failed := outcomes(CIS("test", c), Fail)
		for _, id := range []string{"1.3.7", "1.4.2", "4.3.1"} {
			if slices.Contains(failed, id) == loopback {
				t.Errorf("%s: %s fails: %t", address, id, loopback)
			}
		}
	}
}

// external is the evidence of a cluster whose etcd runs on hosts of its own, as Quorate builds it.
func external() Cluster {
	c := good()
	cp := &c.Hosts[0]
	settings := cp.Programs["etcd"]
	delete(cp.Programs, "etcd")
	delete(cp.Files, "/etc/kubernetes/manifests/etcd.yaml")
	delete(cp.Files, "/var/lib/etcd")
	cp.Etcd = false
	root := func(bits uint32) facts.Mode { return facts.Mode{Bits: bits, Owner: "root", Group: "root"} }
	c.Hosts = append(c.Hosts, Host{Name: "etcd-a", Etcd: true, Security: facts.Security{
		Programs: map[string]map[string]string{"etcd": settings}, Authorities: map[string]string{"e": "b"},
		Files: map[string]facts.Mode{"/etc/systemd/system/etcd.service": root(0o600), "/etc/etcd/etcd.env": root(0o600), "/etc/etcd/members.env": root(0o600), "/var/lib/etcd": root(0o700)},
	}})
	return c
}

func TestExternalEtcdIsJudgedWhereItRuns(t *testing.T) {
	r := CIS("test", external())
	if failed := outcomes(r, Fail); len(failed) > 0 || !slices.Equal(outcomes(r, Explained), []string{"1.1.9", "1.1.12", "1.2.1", "1.2.9", "1.2.11", "3.1.1"}) {
		var b bytes.Buffer
		Text(&b, r) //nolint:errcheck // to memory
		t.Errorf("fail: %v\n%s", failed, &b)
	}
	for id, breakIt := range map[string]func(*Host){
		"1.1.7": func(h *Host) {
			h.Files["/etc/etcd/members.env"] = facts.Mode{Bits: 0o644, Owner: "root", Group: "root"}
		},
		"1.1.8": func(h *Host) {
			h.Files["/etc/systemd/system/etcd.service"] = facts.Mode{Bits: 0o600, Owner: "nobody", Group: "root"}
		},
		"1.1.11": func(h *Host) { h.Programs["etcd"]["data-dir"] = "/srv/etcd" },
		"1.1.12": func(h *Host) { h.Files["/var/lib/etcd"] = facts.Mode{Bits: 0o700, Owner: "nobody", Group: "root"} },
		"2.1":    func(h *Host) { delete(h.Programs["etcd"], "cert-file") },
		"2.2":    func(h *Host) { delete(h.Programs["etcd"], "client-cert-auth") },
		"2.4":    func(h *Host) { delete(h.Programs["etcd"], "peer-cert-file") },
		"2.5":    func(h *Host) { delete(h.Programs["etcd"], "peer-client-cert-auth") },
		"2.6":    func(h *Host) { h.Programs["etcd"]["peer-auto-tls"] = "true" },
		"2.7":    func(h *Host) { h.Authorities["e"] = "a" },
	} {
		c := external()
		breakIt(&c.Hosts[2])
		if r := CIS("test", c); !slices.Contains(outcomes(r, Fail), id) {
			t.Errorf("%s does not fail: only %v do", id, outcomes(r, Fail))
		}
	}
}

// TestExistingEtcdIsNotJudged: its hosts are not the cluster's. The API servers show that it is the one of the spec.
func TestExistingEtcdIsNotJudged(t *testing.T) {
	existing := func() Cluster {
		c := external()
		c.Hosts, c.ExistingEtcd = c.Hosts[:2], []string{"https://10.0.9.1:2379", "https://10.0.9.2:2379"}
		c.Hosts[0].Programs["kube-apiserver"]["etcd-servers"] = "https://10.0.9.1:2379,https://10.0.9.2:2379"
		return c
	}
	onEtcdHosts := []string{"1.1.7", "1.1.8", "1.1.11", "1.1.12", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}
	r := CIS("test", existing())
	if failed := outcomes(r, Fail); len(failed) > 0 {
		t.Errorf("fail: %v", failed)
	}
	for _, id := range onEtcdHosts {
		if !slices.Contains(outcomes(r, Explained), id) {
			t.Errorf("%s is not explained", id)
		}
	}
	for name, tc := range map[string]struct {
		breakIt func(*Cluster)
		want    Outcome
	}{
		"another etcd":  {func(c *Cluster) { c.Hosts[0].Programs["kube-apiserver"]["etcd-servers"] = "https://10.0.9.3:2379" }, Fail},
		"without TLS":   {func(c *Cluster) { c.Hosts[0].Programs["kube-apiserver"]["etcd-servers"] = "http://10.0.9.1:2379" }, Fail},
		"no API server": {func(c *Cluster) { delete(c.Hosts[0].Programs, "kube-apiserver") }, Unknown},
		"no host":       {func(c *Cluster) { c.Hosts = nil }, Fail},
	} {
		c := existing()
		tc.breakIt(&c)
		if r := CIS("test", c); !slices.Contains(outcomes(r, tc.want), "2.1") {
			t.Errorf("%s: 2.1 is not one of those with the outcome %s", name, tc.want)
		}
	}
}

// TestAccessIsLookedAt: nothing about people is explained without a look, and what could not be asked is not passed.
func TestAccessIsLookedAt(t *testing.T) {
	outcome := func(c Cluster, id string) Outcome {
		r := CIS("test", c)
		return r.Checks[slices.IndexFunc(r.Checks, func(c Check) bool { return c.ID == id })].Outcome
	}
	for name, tc := range map[string]struct {
		change func(*Cluster)
		want   map[string]Outcome
	}{
		"as built": {func(*Cluster) {}, map[string]Outcome{"3.1.1": Explained, "3.1.2": Pass, "3.1.3": Pass}},
		"no API": {func(c *Cluster) { c.Access, c.AccessError = nil, "no control plane answers" },
			map[string]Outcome{"3.1.1": Unknown, "3.1.2": Unknown, "3.1.3": Unknown}},
		"people, and an identity provider": {func(c *Cluster) {
			c.Access.People = []string{"group admins"}
			c.Hosts[0].Authentication = "jwt: [{issuer: {url: https://id.example.com}}]"
		}, map[string]Outcome{"3.1.1": Pass}},
		"an identity provider, and a certificate": {func(c *Cluster) {
			c.Access.Certificates = []string{"jane"}
			c.Hosts[0].Authentication = "jwt: [{issuer: {url: https://id.example.com}}]"
		}, map[string]Outcome{"3.1.1": Fail}},
		"super-admin.conf on two control planes": {func(c *Cluster) {
			second := c.Hosts[0]
			second.Name = "cp-b"
			c.Hosts = append(c.Hosts, second)
		}, map[string]Outcome{"3.1.1": Fail}},
	} {
		c := good()
		tc.change(&c)
		for id, want := range tc.want {
			if got := outcome(c, id); got != want {
				t.Errorf("%s: %s is %s, want %s", name, id, got, want)
			}
		}
	}
}

func TestAnonymousAccessIsExplainedOnlyWhereItIsNarrow(t *testing.T) {
	for config, want := range map[string]Outcome{
		"anonymous: {enabled: false}":                                                                 Pass,
		"anonymous: {enabled: true, conditions: [{path: /livez}]}":                                    Explained,
		"anonymous: {enabled: true, conditions: [{path: /livez}, {path: /api/v1/namespaces/x/pods}]}": Fail,
		"anonymous: {enabled: true}":                                                                  Fail,
	} {
		c := good()
		c.Hosts[0].Authentication = config
		r := CIS("test", c)
		i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.ID == "1.2.1" })
		if got := r.Checks[i].Outcome; got != want {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
}

func TestNothingIsPassedUnseen(t *testing.T) {
	r := CIS("test", Cluster{Unreachable: map[string]string{"cp-a": "dead"}})
	if r.Pass != 0 || r.OK() {
		t.Errorf("%d checks pass without any evidence", r.Pass)
	}
	var b bytes.Buffer
	if err := Text(&b, r); err != nil || !strings.Contains(b.String(), "Not checked: cp-a: dead") {
		t.Errorf("%v: %s", err, &b)
	}
}

func TestTextSaysOnceWhatHostsShare(t *testing.T) {
	got := alike([]Note{{Host: "a", Found: "x", Reason: "y"}, {Host: "b", Found: "x", Reason: "y"}, {Host: "c", Found: "z"}})
	if want := []string{"a, b: x; y", "c: z"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q", got)
	}
}
