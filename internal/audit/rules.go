package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	manifests = "/etc/kubernetes/manifests/"
	conf      = "/etc/kubernetes/"
	pki       = "/etc/kubernetes/pki"

	apiserver  = "kube-apiserver"
	controller = "kube-controller-manager"
	scheduler  = "kube-scheduler"
)

var rules = []rule{
	{id: "1.1.1", title: "the apiserver's manifest is readable by root alone", host: modes(0o600, is(manifests+"kube-apiserver.yaml"))},
	{id: "1.1.2", title: "it belongs to root", host: owned("root", "root", is(manifests+"kube-apiserver.yaml"))},
	{id: "1.1.3", title: "the controller manager's manifest is readable by root alone", host: modes(0o600, is(manifests+"kube-controller-manager.yaml"))},
	{id: "1.1.4", title: "it belongs to root", host: owned("root", "root", is(manifests+"kube-controller-manager.yaml"))},
	{id: "1.1.5", title: "the scheduler's manifest is readable by root alone", host: modes(0o600, is(manifests+"kube-scheduler.yaml"))},
	{id: "1.1.6", title: "it belongs to root", host: owned("root", "root", is(manifests+"kube-scheduler.yaml"))},
	{id: "1.1.7", title: "etcd's manifest, or unit, is readable by root alone", on: onEtcd, host: etcdStart(func(match func(string) bool) func(Host) verdict { return modes(0o600, match) })},
	{id: "1.1.8", title: "it belongs to root", on: onEtcd, host: etcdStart(func(match func(string) bool) func(Host) verdict { return owned("root", "root", match) })},
	{id: "1.1.9", title: "the CNI configuration is readable by root alone", on: onNodes, host: cniMode},
	{id: "1.1.10", title: "it belongs to root", on: onNodes, host: owned("root", "root", within("/etc/cni/net.d", ""))},
	{id: "1.1.11", title: "etcd's data is accessible to its owner alone", on: onEtcd, host: etcdData(func(match func(string) bool) func(Host) verdict { return modes(0o700, match) })},
	{id: "1.1.12", title: "etcd's data belongs to etcd", on: onEtcd, host: etcdOwner},
	{id: "1.1.13", title: "the administrators' kubeconfigs are readable by root alone", host: modes(0o600, administrators)},
	{id: "1.1.14", title: "they belong to root", host: owned("root", "root", administrators)},
	{id: "1.1.15", title: "the scheduler's kubeconfig is readable by root alone", host: modes(0o600, is(conf+"scheduler.conf"))},
	{id: "1.1.16", title: "it belongs to root", host: owned("root", "root", is(conf+"scheduler.conf"))},
	{id: "1.1.17", title: "the controller manager's kubeconfig is readable by root alone", host: modes(0o600, is(conf+"controller-manager.conf"))},
	{id: "1.1.18", title: "it belongs to root", host: owned("root", "root", is(conf+"controller-manager.conf"))},
	{id: "1.1.19", title: "the PKI's directory and files belong to root", host: owned("root", "root", func(p string) bool { return p == pki || within(pki, "")(p) })},
	{id: "1.1.20", title: "certificates are writable by root alone", host: modes(0o644, within(pki, ".crt"))},
	{id: "1.1.21", title: "private keys are readable by root alone", host: modes(0o600, func(p string) bool {
		return within(pki, ".key")(p) || within(pki, ".yaml")(p)
	})},

	{id: "1.2.1", title: "nobody is served without credentials", host: anonymous},
	{id: "1.2.2", title: "no file of static tokens is used", host: flag(apiserver, "token-auth-file", unset)},
	{id: "1.2.3", title: "Services cannot claim external addresses", host: flag(apiserver, "enable-admission-plugins", lists("DenyServiceExternalIPs"))},
	{id: "1.2.4", title: "the apiserver has a client certificate for kubelets", host: all(flag(apiserver, "kubelet-client-certificate", set), flag(apiserver, "kubelet-client-key", set))},
	{id: "1.2.5", title: "the apiserver verifies kubelets' certificates", host: flag(apiserver, "kubelet-certificate-authority", set)},
	{id: "1.2.6", title: "not everything is allowed", host: flag(apiserver, "authorization-mode", listsNot("AlwaysAllow"))},
	{id: "1.2.7", title: "kubelets may only what concerns them", host: flag(apiserver, "authorization-mode", lists("Node"))},
	{id: "1.2.8", title: "rights come from roles", host: flag(apiserver, "authorization-mode", lists("RBAC"))},
	{id: "1.2.9", title: "the rate of events is limited on admission", host: because(flag(apiserver, "enable-admission-plugins", lists("EventRateLimit")),
		"the plugin has been alpha for years; kubelets limit their own events (4.2.8), and the API's priority and fairness keeps events from displacing anything else")},
	{id: "1.2.10", title: "admission does not let everything pass", host: flag(apiserver, "enable-admission-plugins", listsNot("AlwaysAdmit"))},
	{id: "1.2.11", title: "images are always pulled anew", host: because(flag(apiserver, "enable-admission-plugins", lists("AlwaysPullImages")),
		"every start of a pod would depend on a registry, a single point of failure; images of the bundle are verified by digest and come from no registry")},
	{id: "1.2.12", title: "pods get service accounts", host: flag(apiserver, "disable-admission-plugins", listsNot("ServiceAccount"))},
	{id: "1.2.13", title: "nothing is created in namespaces that are going", host: flag(apiserver, "disable-admission-plugins", listsNot("NamespaceLifecycle"))},
	{id: "1.2.14", title: "a kubelet can change its own node and pods only", host: flag(apiserver, "enable-admission-plugins", lists("NodeRestriction"))},
	{id: "1.2.15", title: "the apiserver cannot be profiled", host: flag(apiserver, "profiling", equals("false"))},
	{id: "1.2.16", title: "there is an audit log", host: all(flag(apiserver, "audit-log-path", set), modes(0o700, is(hostconfig.AuditLogDir)), modes(0o600, within(hostconfig.AuditLogDir, "")))},
	{id: "1.2.17", title: "it is kept for 30 days", host: flag(apiserver, "audit-log-maxage", atLeast(30))},
	{id: "1.2.18", title: "in 10 old files", host: flag(apiserver, "audit-log-maxbackup", atLeast(10))},
	{id: "1.2.19", title: "of 100 MiB", host: flag(apiserver, "audit-log-maxsize", atLeast(100))},
	{id: "1.2.20", title: "requests do not last for ever", host: flag(apiserver, "request-timeout", func(v string, set bool) bool { return !set || v != "0" && v != "0s" })},
	{id: "1.2.21", title: "tokens of service accounts that are gone are refused", host: flag(apiserver, "service-account-lookup", notFalse)},
	{id: "1.2.22", title: "tokens of service accounts are verified with a key of their own", host: flag(apiserver, "service-account-key-file", set)},
	{id: "1.2.23", title: "the apiserver has a client certificate for etcd", host: all(flag(apiserver, "etcd-certfile", set), flag(apiserver, "etcd-keyfile", set))},
	{id: "1.2.24", title: "the apiserver serves TLS with a certificate of the cluster", host: all(flag(apiserver, "tls-cert-file", set), flag(apiserver, "tls-private-key-file", set))},
	{id: "1.2.25", title: "clients are verified with the cluster's CA", host: flag(apiserver, "client-ca-file", set)},
	{id: "1.2.26", title: "the apiserver verifies etcd's certificate", host: flag(apiserver, "etcd-cafile", set)},
	{id: "1.2.27", title: "secrets are encrypted at rest", host: flag(apiserver, "encryption-provider-config", set)},
	{id: "1.2.28", title: "with a provider that is strong", host: encryptionProvider},
	{id: "1.2.29", title: "the apiserver's cipher suites are strong", host: flag(apiserver, "tls-cipher-suites", func(v string, _ bool) bool { return strong(strings.Split(v, ",")) })},
	{id: "1.2.30", title: "tokens of service accounts end when they say", host: flag(apiserver, "service-account-extend-token-expiration", equals("false"))},

	{id: "1.3.1", title: "pods that have ended are removed", host: flag(controller, "terminated-pod-gc-threshold", func(v string, set bool) bool { return !set || v != "0" })},
	{id: "1.3.2", title: "the controller manager cannot be profiled", host: flag(controller, "profiling", equals("false"))},
	{id: "1.3.3", title: "every controller has an account of its own", host: flag(controller, "use-service-account-credentials", equals("true"))},
	{id: "1.3.4", title: "tokens of service accounts are signed with a key of their own", host: flag(controller, "service-account-private-key-file", set)},
	{id: "1.3.5", title: "pods are given the cluster's CA", host: flag(controller, "root-ca-file", set)},
	{id: "1.3.6", title: "kubelets' serving certificates can be rotated", host: flag(controller, "feature-gates", listsNot("RotateKubeletServerCertificate=false"))},
	{id: "1.3.7", title: "the controller manager listens on loopback only", host: flag(controller, "bind-address", equals("127.0.0.1"))},
	{id: "1.4.1", title: "the scheduler cannot be profiled", host: flag(scheduler, "profiling", equals("false"))},
	{id: "1.4.2", title: "the scheduler listens on loopback only", host: flag(scheduler, "bind-address", equals("127.0.0.1"))},

	{id: "2.1", title: "etcd serves TLS", on: onEtcd, host: all(flag("etcd", "cert-file", set), flag("etcd", "key-file", set))},
	{id: "2.2", title: "etcd's clients need certificates", on: onEtcd, host: flag("etcd", "client-cert-auth", equals("true"))},
	{id: "2.3", title: "etcd does not sign its own", on: onEtcd, host: flag("etcd", "auto-tls", notTrue)},
	{id: "2.4", title: "etcd's members speak TLS", on: onEtcd, host: all(flag("etcd", "peer-cert-file", set), flag("etcd", "peer-key-file", set))},
	{id: "2.5", title: "and need certificates", on: onEtcd, host: flag("etcd", "peer-client-cert-auth", equals("true"))},
	{id: "2.6", title: "that they do not sign themselves", on: onEtcd, host: flag("etcd", "peer-auto-tls", notTrue)},
	{id: "2.7", title: "etcd has a CA of its own", cluster: ownAuthority},

	{id: "3.1.1", title: "people do not use client certificates", cluster: clientCertificates},
	{id: "3.1.2", title: "people do not use service accounts", cluster: accountTokens},
	{id: "3.1.3", title: "people do not use bootstrap tokens", cluster: bootstrapTokens},
	{id: "3.2.1", title: "there is an audit policy", host: all(flag(apiserver, "audit-policy-file", set), policy)},
	{id: "3.2.2", title: "it records who touched what matters, and no secret", host: policy},

	{id: "4.1.1", title: "the kubelet's unit is readable by root alone", on: onNodes, host: modes(0o600, kubeletUnits)},
	{id: "4.1.2", title: "it belongs to root", on: onNodes, host: owned("root", "root", kubeletUnits)},
	{id: "4.1.3", title: "kube-proxy's kubeconfig is readable by root alone", on: onNodes, host: noProxyFile},
	{id: "4.1.4", title: "it belongs to root", on: onNodes, host: noProxyFile},
	{id: "4.1.5", title: "the kubelet's kubeconfig is readable by root alone", on: onNodes, host: modes(0o600, is(conf+"kubelet.conf"))},
	{id: "4.1.6", title: "it belongs to root", on: onNodes, host: owned("root", "root", is(conf+"kubelet.conf"))},
	{id: "4.1.7", title: "the CA certificate is writable by root alone", on: onNodes, host: modes(0o644, is(pki+"/ca.crt"))},
	{id: "4.1.8", title: "it belongs to root", on: onNodes, host: owned("root", "root", is(pki+"/ca.crt"))},
	{id: "4.1.9", title: "the kubelet's configuration is readable by root alone", on: onNodes, host: modes(0o600, is("/var/lib/kubelet/config.yaml"))},
	{id: "4.1.10", title: "it belongs to root", on: onNodes, host: owned("root", "root", is("/var/lib/kubelet/config.yaml"))},

	{id: "4.2.1", title: "the kubelet serves nobody without credentials", on: onNodes, host: kubelet("authentication.anonymous.enabled", no)},
	{id: "4.2.2", title: "the API decides who may do what on it", on: onNodes, host: kubelet("authorization.mode", func(v any) bool { return v == "Webhook" })},
	{id: "4.2.3", title: "its clients are verified with the cluster's CA", on: onNodes, host: kubelet("authentication.x509.clientCAFile", func(v any) bool { return v != nil && v != "" })},
	{id: "4.2.4", title: "it has no port without TLS", on: onNodes, host: kubelet("readOnlyPort", func(v any) bool { return v == nil || v == 0.0 })},
	{id: "4.2.5", title: "idle streams end", on: onNodes, host: kubelet("streamingConnectionIdleTimeout", func(v any) bool { return v != nil && v != "0s" && v != "0" })},
	{id: "4.2.6", title: "it maintains its own packet filter chains", on: onNodes, host: kubelet("makeIPTablesUtilChains", yes)},
	{id: "4.2.7", title: "it does not give itself another name", on: onNodes, host: because(flag("kubelet", "hostname-override", unset),
		"kubeadm sets it where the spec's name and the host's differ; the certificate has the spec's")},
	{id: "4.2.8", title: "events are recorded, and not without limit", on: onNodes, host: kubelet("eventRecordQPS", func(v any) bool { n, ok := v.(float64); return ok && n > 0 })},
	{id: "4.2.9", title: "it serves TLS with a certificate of the cluster", on: onNodes, host: servingCertificate},
	{id: "4.2.10", title: "its client certificate is rotated", on: onNodes, host: kubelet("rotateCertificates", yes)},
	{id: "4.2.11", title: "so is its serving certificate", on: onNodes, host: kubelet("serverTLSBootstrap", yes)},
	{id: "4.2.12", title: "its cipher suites are strong", on: onNodes, host: kubelet("tlsCipherSuites", func(v any) bool { return strong(words(v)) })},
	{id: "4.2.13", title: "a pod's processes are limited", on: onNodes, host: kubelet("podPidsLimit", func(v any) bool { n, ok := v.(float64); return ok && n > 0 })},
	{id: "4.2.14", title: "pods have a seccomp profile by default", on: onNodes, host: kubelet("seccompDefault", yes)},
	{id: "4.3.1", title: "kube-proxy's metrics are on loopback only", cluster: proxyMetrics},
}

func because(judge func(Host) verdict, reason string) func(Host) verdict {
	return func(h Host) verdict { return judge(h).because(reason) }
}

func administrators(path string) bool {
	return path == conf+"admin.conf" || path == conf+"super-admin.conf"
}

func kubeletUnits(path string) bool {
	return strings.HasPrefix(path, "/etc/systemd/system/kubelet.service")
}

func atLeast(n int) func(string, bool) bool {
	return func(v string, _ bool) bool { have, err := strconv.Atoi(v); return err == nil && have >= n }
}

func cniMode(h Host) verdict {
	v := modes(0o600, within("/etc/cni/net.d", ""))(h)
	if modes(0o644, within("/etc/cni/net.d", ""))(h).found == "" {
		return v.because("it is the network plugin's file and holds no secret: flannel's says no more than which plugins there are")
	}
	return v
}

// etcdStart judges the files that start a member: its static pod, or its systemd unit with the files of its settings.
func etcdStart(judge func(match func(string) bool) func(Host) verdict) func(Host) verdict {
	return func(h Host) verdict {
		if _, stacked := h.Files[manifests+"etcd.yaml"]; stacked {
			return judge(is(manifests + "etcd.yaml"))(h)
		}
		return judge(func(p string) bool {
			return strings.HasPrefix(p, "/etc/systemd/system/"+hostconfig.EtcdUnit) || within("/etc/etcd", "")(p)
		})(h)
	}
}

// etcdData judges the directory in which a member that runs has its data.
func etcdData(judge func(match func(string) bool) func(Host) verdict) func(Host) verdict {
	return func(h Host) verdict {
		settings, runs := h.Programs["etcd"]
		switch {
		case !runs:
			return found("etcd does not run")
		case settings["data-dir"] == "":
			return found("data-dir is not set")
		}
		return judge(is(settings["data-dir"]))(h)
	}
}

func etcdOwner(h Host) verdict {
	owner := func(user string) verdict {
		return etcdData(func(match func(string) bool) func(Host) verdict { return owned(user, user, match) })(h)
	}
	v := owner("etcd")
	if owner("root").found == "" {
		return v.because("etcd runs as root, as with kubeadm: in a static pod, or in a unit without capabilities. Other users on the host cannot read the data, as with an owner etcd")
	}
	return v
}

// etcdElsewhere replaces the checks of etcd's hosts if etcd does not run on hosts of the cluster.
func etcdElsewhere(h Host, endpoints []string) verdict {
	args, runs := h.Programs[apiserver]
	if !runs {
		return found("%s does not run", apiserver)
	}
	servers := strings.Split(args["etcd-servers"], ",")
	for _, s := range servers {
		if !strings.HasPrefix(s, "https://") || !slices.Contains(endpoints, s) {
			return found("the API server uses the etcd at %s, and the spec names %s", args["etcd-servers"], strings.Join(endpoints, ", "))
		}
	}
	return found("the API server uses the etcd at %s", args["etcd-servers"]).because("it does not run on the hosts of this cluster, so it must be checked where it runs")
}

// anonymous is explained where only the paths that Quorate opens are open.
func anonymous(h Host) verdict {
	args, runs := h.Programs[apiserver]
	switch {
	case !runs:
		return found("%s does not run", apiserver)
	case args["anonymous-auth"] == "false":
		return verdict{}
	case args["authentication-config"] != hostconfig.AuthenticationFile:
		return found("everybody is served as system:anonymous")
	}
	var c struct {
		Anonymous struct {
			Enabled    bool
			Conditions []struct{ Path string }
		}
	}
	if err := yaml.Unmarshal([]byte(h.Authentication), &c); err != nil {
		return found("%s cannot be read: %v", hostconfig.AuthenticationFile, err)
	}
	if !c.Anonymous.Enabled {
		return verdict{}
	}
	var open []string
	for _, condition := range c.Anonymous.Conditions {
		open = append(open, condition.Path)
	}
	if len(open) == 0 {
		return found("everybody is served as system:anonymous")
	}
	v := found("open without credentials: %s", strings.Join(open, ", "))
	if slices.ContainsFunc(open, func(p string) bool { return !slices.Contains(hostconfig.AnonymousPaths, p) }) {
		return v
	}
	return v.because("balancers and the kubelet ask for health, and kubeadm join finds the cluster by that ConfigMap; every other path is refused with 401")
}

func encryptionProvider(h Host) verdict {
	switch first := append(h.EncryptionProviders, "")[0]; first {
	case "secretbox", "kms", "aescbc":
		return verdict{}
	case "":
		return found("no provider encrypts secrets")
	default:
		return found("the provider that encrypts is %s", first)
	}
}

// ownAuthority compares the CA that clients of the API server are verified with, those that API servers verify etcd with, and
// those that etcd's members verify clients with.
func ownAuthority(c Cluster) verdict {
	clients := map[string]bool{}
	type use struct{ host, what, file, sum string }
	var uses []use
	for _, h := range c.Hosts {
		if h.ControlPlane {
			args, runs := h.Programs[apiserver]
			switch {
			case !runs:
				return found("%s does not run on %s", apiserver, h.Name)
			case h.Authorities[args["client-ca-file"]] == "":
				return found("the CA of the API's clients on %s cannot be read: --client-ca-file=%s", h.Name, args["client-ca-file"])
			}
			clients[h.Authorities[args["client-ca-file"]]] = true
			uses = append(uses, use{h.Name, "--etcd-cafile", args["etcd-cafile"], h.Authorities[args["etcd-cafile"]]})
		}
		if h.Etcd {
			settings, runs := h.Programs["etcd"]
			if !runs {
				return found("etcd does not run on %s", h.Name)
			}
			uses = append(uses, use{h.Name, "etcd's trusted-ca-file", settings["trusted-ca-file"], h.Authorities[settings["trusted-ca-file"]]})
		}
	}
	for _, u := range uses {
		switch {
		case u.sum == "":
			return found("%s on %s cannot be read: %q", u.what, u.host, u.file)
		case clients[u.sum]:
			return found("%s on %s is the CA of the API's clients: %s", u.what, u.host, u.file)
		}
	}
	if len(uses) == 0 {
		return found("no host shows any evidence")
	}
	return verdict{}
}

// clientCertificates: a client certificate cannot be revoked, so it is not suitable for people.
func clientCertificates(c Cluster) verdict {
	if c.Access == nil {
		return found("who has access is unknown: %s", cmp.Or(c.AccessError, "the API was not asked"))
	}
	var super []string
	elsewhere := false
	for _, h := range c.Hosts {
		if _, has := h.Files[conf+"super-admin.conf"]; has {
			super = append(super, h.Name)
		}
		elsewhere = elsewhere || h.ControlPlane && otherAuthenticators(h)
	}
	switch {
	case len(super) > 1:
		return found("%s have super-admin.conf, whose rights no role can take away; kubeadm leaves it on one control plane, so remove it from the others", strings.Join(super, ", "))
	case len(c.Access.Certificates) > 0:
		return found("client certificates were issued for %s", strings.Join(c.Access.Certificates, ", "))
	case elsewhere:
		return verdict{}
	case len(c.Access.People) > 0:
		return found("roles are bound to %s, and the API server authenticates people only by client certificates", strings.Join(c.Access.People, ", "))
	}
	return found("roles are bound only to kubeadm's administrator, who has a client certificate (admin.conf)").
		because("it still works when an identity provider is down. Give people accounts of an identity provider: authentication.yaml accepts issuers of tokens (jwt)")
}

// otherAuthenticators says that an API server also authenticates people by something other than client certificates.
func otherAuthenticators(h Host) bool {
	args := h.Programs[apiserver]
	if args["oidc-issuer-url"] != "" || args["authentication-token-webhook-config-file"] != "" {
		return true
	}
	var config struct{ JWT []any }
	return yaml.Unmarshal([]byte(h.Authentication), &config) == nil && len(config.JWT) > 0
}

// accountTokens: the tokens of pods expire. One that does not was created to be used elsewhere.
func accountTokens(c Cluster) verdict {
	switch {
	case c.Access == nil:
		return found("who has access is unknown: %s", cmp.Or(c.AccessError, "the API was not asked"))
	case len(c.Access.AccountTokens) > 0:
		return found("service accounts have tokens that do not expire: %s", strings.Join(c.Access.AccountTokens, ", "))
	}
	return verdict{}
}

func bootstrapTokens(c Cluster) verdict {
	switch {
	case c.Access == nil:
		return found("who has access is unknown: %s", cmp.Or(c.AccessError, "the API was not asked"))
	case len(c.Access.BootstrapTokens) > 0:
		return found("whoever has one of these bootstrap tokens can join a host: %s; `quorate apply` removes those of Quorate, and `kubeadm token delete` any other", strings.Join(c.Access.BootstrapTokens, ", "))
	}
	return verdict{}
}

func servingCertificate(h Host) verdict {
	switch h.ServingIssuer {
	case "cluster":
		return verdict{}
	case "":
		return found("it has none: its request waits for approval")
	default:
		return found("it was signed by somebody else, or has expired")
	}
}

// noProxyFile: kubeadm's kube-proxy is a pod, and its kubeconfig is a ConfigMap that refers to the pod's own token.
func noProxyFile(h Host) verdict {
	if config := h.Programs["kube-proxy"]["kubeconfig"]; config != "" {
		return found("kube-proxy reads %s", config)
	}
	return verdict{}
}

func proxyMetrics(c Cluster) verdict {
	if c.KubeProxy == nil {
		return found("there is no configuration of kube-proxy in the API")
	}
	address := fmt.Sprint(c.KubeProxy["metricsBindAddress"])
	if address == "" || address == "<nil>" || strings.HasPrefix(address, "127.0.0.1:") || strings.HasPrefix(address, "localhost:") {
		return verdict{}
	}
	return found("metricsBindAddress is %s", address)
}
