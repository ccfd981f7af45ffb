package audit

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
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
	{id: "1.1.1", title: "only root can read the API server's manifest", host: modes(0o600, is(manifests+"kube-apiserver.yaml"))},
	{id: "1.1.2", title: "the API server's manifest is owned by root", host: owned("root", "root", is(manifests+"kube-apiserver.yaml"))},
	{id: "1.1.3", title: "only root can read the controller manager's manifest", host: modes(0o600, is(manifests+"kube-controller-manager.yaml"))},
	{id: "1.1.4", title: "the controller manager's manifest is owned by root", host: owned("root", "root", is(manifests+"kube-controller-manager.yaml"))},
	{id: "1.1.5", title: "only root can read the scheduler's manifest", host: modes(0o600, is(manifests+"kube-scheduler.yaml"))},
	{id: "1.1.6", title: "the scheduler's manifest is owned by root", host: owned("root", "root", is(manifests+"kube-scheduler.yaml"))},
	{id: "1.1.7", title: "only root can read etcd's manifest or unit", on: onEtcd, host: etcdStart(func(match func(string) bool) func(Host) verdict { return modes(0o600, match) })},
	{id: "1.1.8", title: "etcd's manifest or unit is owned by root", on: onEtcd, host: etcdStart(func(match func(string) bool) func(Host) verdict { return owned("root", "root", match) })},
	{id: "1.1.9", title: "only root can read the CNI configuration", on: onNodes, host: cniMode},
	{id: "1.1.10", title: "the CNI configuration is owned by root", on: onNodes, host: owned("root", "root", within("/etc/cni/net.d", ""))},
	{id: "1.1.11", title: "only its owner can access etcd's data directory", on: onEtcd, host: etcdData(func(match func(string) bool) func(Host) verdict { return modes(0o700, match) })},
	{id: "1.1.12", title: "etcd's data directory is owned by the user etcd", on: onEtcd, host: etcdOwner},
	{id: "1.1.13", title: "only root can read the administrator kubeconfigs", host: modes(0o600, administrators)},
	{id: "1.1.14", title: "the administrator kubeconfigs are owned by root", host: owned("root", "root", administrators)},
	{id: "1.1.15", title: "only root can read the scheduler's kubeconfig", host: modes(0o600, is(conf+"scheduler.conf"))},
	{id: "1.1.16", title: "the scheduler's kubeconfig is owned by root", host: owned("root", "root", is(conf+"scheduler.conf"))},
	{id: "1.1.17", title: "only root can read the controller manager's kubeconfig", host: modes(0o600, is(conf+"controller-manager.conf"))},
	{id: "1.1.18", title: "the controller manager's kubeconfig is owned by root", host: owned("root", "root", is(conf+"controller-manager.conf"))},
	{id: "1.1.19", title: "the PKI directory and its files are owned by root", host: owned("root", "root", func(p string) bool { return p == pki || within(pki, "")(p) })},
	{id: "1.1.20", title: "only root can write PKI certificates", host: modes(0o644, within(pki, ".crt"))},
	{id: "1.1.21", title: "only root can read PKI private keys", host: modes(0o600, func(p string) bool {
		return within(pki, ".key")(p) || within(pki, ".yaml")(p)
	})},

	{id: "1.2.1", title: "the API server rejects anonymous requests", host: anonymous},
	{id: "1.2.2", title: "the API server uses no static token file", host: flag(apiserver, "token-auth-file", unset)},
	{id: "1.2.3", title: "Services cannot claim external addresses", host: flag(apiserver, "enable-admission-plugins", lists("DenyServiceExternalIPs"))},
	{id: "1.2.4", title: "the API server has a client certificate for kubelets", host: all(flag(apiserver, "kubelet-client-certificate", set), flag(apiserver, "kubelet-client-key", set))},
	{id: "1.2.5", title: "the API server verifies kubelet serving certificates", host: flag(apiserver, "kubelet-certificate-authority", set)},
	{id: "1.2.6", title: "the authorization mode is not AlwaysAllow", host: flag(apiserver, "authorization-mode", listsNot("AlwaysAllow"))},
	{id: "1.2.7", title: "Node authorization limits what kubelets can access", host: flag(apiserver, "authorization-mode", lists("Node"))},
	{id: "1.2.8", title: "RBAC is enabled", host: flag(apiserver, "authorization-mode", lists("RBAC"))},
	{id: "1.2.9", title: "admission limits the rate of events", host: because(flag(apiserver, "enable-admission-plugins", lists("EventRateLimit")),
		"the plugin has been alpha for years; kubelets limit their own events (4.2.8), and API Priority and Fairness keeps events from displacing other requests")},
	{id: "1.2.10", title: "the admission plugin AlwaysAdmit is disabled", host: flag(apiserver, "enable-admission-plugins", listsNot("AlwaysAdmit"))},
	{id: "1.2.11", title: "admission forces every pod to pull its images", host: because(flag(apiserver, "enable-admission-plugins", lists("AlwaysPullImages")),
		"every pod start would depend on a registry, which is a single point of failure; the bundle's images are verified by digest and do not come from a registry")},
	{id: "1.2.12", title: "the admission plugin ServiceAccount is enabled", host: flag(apiserver, "disable-admission-plugins", listsNot("ServiceAccount"))},
	{id: "1.2.13", title: "objects cannot be created in namespaces that are being deleted", host: flag(apiserver, "disable-admission-plugins", listsNot("NamespaceLifecycle"))},
	{id: "1.2.14", title: "a kubelet can modify only its own Node and pods", host: flag(apiserver, "enable-admission-plugins", lists("NodeRestriction"))},
	{id: "1.2.15", title: "profiling of the API server is disabled", host: flag(apiserver, "profiling", equals("false"))},
	{id: "1.2.16", title: "the API server writes an audit log", host: all(flag(apiserver, "audit-log-path", set), modes(0o700, is(hostconfig.AuditLogDir)), modes(0o600, within(hostconfig.AuditLogDir, "")))},
	{id: "1.2.17", title: "the audit log is kept for at least 30 days", host: flag(apiserver, "audit-log-maxage", atLeast(30))},
	{id: "1.2.18", title: "at least 10 old audit log files are kept", host: flag(apiserver, "audit-log-maxbackup", atLeast(10))},
	{id: "1.2.19", title: "audit log files are rotated at 100 MiB or more", host: flag(apiserver, "audit-log-maxsize", atLeast(100))},
	{id: "1.2.20", title: "API requests have a timeout", host: flag(apiserver, "request-timeout", func(v string, set bool) bool { return !set || v != "0" && v != "0s" })},
	{id: "1.2.21", title: "tokens of deleted service accounts are rejected", host: flag(apiserver, "service-account-lookup", notFalse)},
	{id: "1.2.22", title: "service account tokens are verified with a dedicated key", host: flag(apiserver, "service-account-key-file", set)},
	{id: "1.2.23", title: "the API server has a client certificate for etcd", host: all(flag(apiserver, "etcd-certfile", set), flag(apiserver, "etcd-keyfile", set))},
	{id: "1.2.24", title: "the API server serves TLS with the cluster's certificate", host: all(flag(apiserver, "tls-cert-file", set), flag(apiserver, "tls-private-key-file", set))},
	{id: "1.2.25", title: "the API server verifies client certificates with the cluster's CA", host: flag(apiserver, "client-ca-file", set)},
	{id: "1.2.26", title: "the API server verifies etcd's certificate", host: flag(apiserver, "etcd-cafile", set)},
	{id: "1.2.27", title: "secrets are encrypted at rest", host: flag(apiserver, "encryption-provider-config", set)},
	{id: "1.2.28", title: "secrets are encrypted with a strong provider", host: encryptionProvider},
	{id: "1.2.29", title: "the API server uses only strong cipher suites", host: flag(apiserver, "tls-cipher-suites", func(v string, _ bool) bool { return strong(strings.Split(v, ",")) })},
	{id: "1.2.30", title: "the expiration of service account tokens is not extended", host: flag(apiserver, "service-account-extend-token-expiration", equals("false"))},

	{id: "1.3.1", title: "terminated pods are garbage-collected", host: flag(controller, "terminated-pod-gc-threshold", func(v string, set bool) bool { return !set || v != "0" })},
	{id: "1.3.2", title: "profiling of the controller manager is disabled", host: flag(controller, "profiling", equals("false"))},
	{id: "1.3.3", title: "each controller uses its own service account", host: flag(controller, "use-service-account-credentials", equals("true"))},
	{id: "1.3.4", title: "service account tokens are signed with a dedicated key", host: flag(controller, "service-account-private-key-file", set)},
	{id: "1.3.5", title: "pods get the cluster's CA certificate", host: flag(controller, "root-ca-file", set)},
	{id: "1.3.6", title: "rotation of kubelet serving certificates is enabled", host: flag(controller, "feature-gates", listsNot("RotateKubeletServerCertificate=false"))},
	{id: "1.3.7", title: "the controller manager listens only on loopback", host: flag(controller, "bind-address", onLoopback)},
	{id: "1.4.1", title: "profiling of the scheduler is disabled", host: flag(scheduler, "profiling", equals("false"))},
	{id: "1.4.2", title: "the scheduler listens only on loopback", host: flag(scheduler, "bind-address", onLoopback)},

	{id: "2.1", title: "etcd serves TLS", on: onEtcd, host: all(flag("etcd", "cert-file", set), flag("etcd", "key-file", set))},
	{id: "2.2", title: "etcd requires client certificates", on: onEtcd, host: flag("etcd", "client-cert-auth", equals("true"))},
	{id: "2.3", title: "etcd does not use self-signed serving certificates", on: onEtcd, host: flag("etcd", "auto-tls", notTrue)},
	{id: "2.4", title: "etcd peers use TLS", on: onEtcd, host: all(flag("etcd", "peer-cert-file", set), flag("etcd", "peer-key-file", set))},
	{id: "2.5", title: "etcd requires peer certificates", on: onEtcd, host: flag("etcd", "peer-client-cert-auth", equals("true"))},
	{id: "2.6", title: "etcd does not use self-signed peer certificates", on: onEtcd, host: flag("etcd", "peer-auto-tls", notTrue)},
	{id: "2.7", title: "etcd has its own CA", cluster: ownAuthority},

	{id: "3.1.1", title: "people do not use client certificates", cluster: clientCertificates},
	{id: "3.1.2", title: "people do not use service accounts", cluster: accountTokens},
	{id: "3.1.3", title: "people do not use bootstrap tokens", cluster: bootstrapTokens},
	{id: "3.2.1", title: "there is an audit policy", host: all(flag(apiserver, "audit-policy-file", set), policy)},
	{id: "3.2.2", title: "the audit policy records access to sensitive objects, and no secret data", host: policy},

	{id: "4.1.1", title: "only root can read the kubelet's unit", on: onNodes, host: modes(0o600, kubeletUnits)},
	{id: "4.1.2", title: "the kubelet's unit is owned by root", on: onNodes, host: owned("root", "root", kubeletUnits)},
	{id: "4.1.3", title: "only root can read kube-proxy's kubeconfig", on: onNodes, host: noProxyFile},
	{id: "4.1.4", title: "kube-proxy's kubeconfig is owned by root", on: onNodes, host: noProxyFile},
	{id: "4.1.5", title: "only root can read the kubelet's kubeconfig", on: onNodes, host: modes(0o600, is(conf+"kubelet.conf"))},
	{id: "4.1.6", title: "the kubelet's kubeconfig is owned by root", on: onNodes, host: owned("root", "root", is(conf+"kubelet.conf"))},
	{id: "4.1.7", title: "only root can write the CA certificate", on: onNodes, host: modes(0o644, is(pki+"/ca.crt"))},
	{id: "4.1.8", title: "the CA certificate is owned by root", on: onNodes, host: owned("root", "root", is(pki+"/ca.crt"))},
	{id: "4.1.9", title: "only root can read the kubelet's configuration", on: onNodes, host: modes(0o600, is("/var/lib/kubelet/config.yaml"))},
	{id: "4.1.10", title: "the kubelet's configuration is owned by root", on: onNodes, host: owned("root", "root", is("/var/lib/kubelet/config.yaml"))},

	{id: "4.2.1", title: "the kubelet rejects anonymous requests", on: onNodes, host: kubelet("authentication.anonymous.enabled", no)},
	{id: "4.2.2", title: "the kubelet asks the API to authorize requests", on: onNodes, host: kubelet("authorization.mode", func(v any) bool { return v == "Webhook" })},
	{id: "4.2.3", title: "the kubelet verifies client certificates with the cluster's CA", on: onNodes, host: kubelet("authentication.x509.clientCAFile", func(v any) bool { return v != nil && v != "" })},
	{id: "4.2.4", title: "the kubelet has no read-only port", on: onNodes, host: kubelet("readOnlyPort", func(v any) bool { return v == nil || v == 0.0 })},
	{id: "4.2.5", title: "the kubelet closes idle streams", on: onNodes, host: kubelet("streamingConnectionIdleTimeout", func(v any) bool { return v != nil && v != "0s" && v != "0" })},
	{id: "4.2.6", title: "the kubelet maintains its iptables chains", on: onNodes, host: kubelet("makeIPTablesUtilChains", yes)},
	{id: "4.2.7", title: "the kubelet does not override its host name", on: onNodes, host: because(flag("kubelet", "hostname-override", unset),
		"kubeadm sets it on hosts whose host name differs from the name in the spec; the certificate has the name in the spec")},
	{id: "4.2.8", title: "the kubelet records events, up to a limit", on: onNodes, host: kubelet("eventRecordQPS", func(v any) bool { n, ok := v.(float64); return ok && n > 0 })},
	{id: "4.2.9", title: "the kubelet serves TLS with a certificate from the cluster's CA", on: onNodes, host: servingCertificate},
	{id: "4.2.10", title: "the kubelet's client certificate is rotated", on: onNodes, host: kubelet("rotateCertificates", yes)},
	{id: "4.2.11", title: "the kubelet's serving certificate is rotated", on: onNodes, host: kubelet("serverTLSBootstrap", yes)},
	{id: "4.2.12", title: "the kubelet uses only strong cipher suites", on: onNodes, host: kubelet("tlsCipherSuites", func(v any) bool { return strong(words(v)) })},
	{id: "4.2.13", title: "the number of processes in a pod is limited", on: onNodes, host: kubelet("podPidsLimit", func(v any) bool { n, ok := v.(float64); return ok && n > 0 })},
	{id: "4.2.14", title: "pods have a seccomp profile by default", on: onNodes, host: kubelet("seccompDefault", yes)},
	{id: "4.3.1", title: "kube-proxy serves metrics only on loopback", cluster: proxyMetrics},
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
		return v.because("the file belongs to the network plugin and contains no secrets: flannel's only lists plugins")
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
			return notRunning("etcd")
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
		return v.because("etcd runs as root, as kubeadm sets it up, in a static pod or in a unit without capabilities; other users on the host cannot read the data either way")
	}
	return v
}

// etcdElsewhere replaces the checks of etcd's hosts if etcd does not run on hosts of the cluster.
func etcdElsewhere(h Host, endpoints []string) verdict {
	args, runs := h.Programs[apiserver]
	if !runs {
		return notRunning(apiserver)
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
		return notRunning(apiserver)
	case args["anonymous-auth"] == "false":
		return verdict{}
	case args["authentication-config"] != hostconfig.AuthenticationFile && !hostconfig.IsVariant(path.Base(args["authentication-config"])):
		return found("requests without credentials are served as system:anonymous")
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
		return found("requests without credentials are served as system:anonymous")
	}
	v := found("open without credentials: %s", strings.Join(open, ", "))
	if slices.ContainsFunc(open, func(p string) bool { return !slices.Contains(hostconfig.AnonymousPaths, p) }) {
		return v
	}
	return v.because("load balancers and kubelets probe the health paths, and kubeadm join discovers the cluster through that ConfigMap; every other path returns 401")
}

func encryptionProvider(h Host) verdict {
	switch first := append(h.EncryptionProviders, "")[0]; first {
	case "secretbox", "kms", "aescbc":
		return verdict{}
	case "":
		return found("no provider encrypts secrets")
	default:
		return found("secrets are encrypted with the provider %s", first)
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
				return notRunning(apiserver + " on " + h.Name)
			case h.Authorities[args["client-ca-file"]] == "":
				return found("the CA of the API's clients on %s cannot be read: --client-ca-file=%s", h.Name, args["client-ca-file"])
			}
			clients[h.Authorities[args["client-ca-file"]]] = true
			uses = append(uses, use{h.Name, "--etcd-cafile", args["etcd-cafile"], h.Authorities[args["etcd-cafile"]]})
		}
		if h.Etcd {
			settings, runs := h.Programs["etcd"]
			if !runs {
				return notRunning("etcd on " + h.Name)
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
		return nothing(c)
	}
	return verdict{}
}

// clientCertificates: a client certificate cannot be revoked, so it is not suitable for people.
func clientCertificates(c Cluster) verdict {
	if c.Access == nil {
		return unknown("it is unknown who has access: %s", cmp.Or(c.AccessError, "the API was not queried"))
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
		return found("%s have super-admin.conf, whose permissions no role can restrict; kubeadm leaves it on one control plane, so remove it from the others", strings.Join(super, ", "))
	case len(c.Access.Certificates) > 0:
		return found("client certificates were issued for %s", strings.Join(c.Access.Certificates, ", "))
	case elsewhere:
		return verdict{}
	case len(c.Access.People) > 0:
		return found("roles are bound to %s, and the API server authenticates people only by client certificates", strings.Join(c.Access.People, ", "))
	}
	return found("roles are bound only to kubeadm's administrator, who has a client certificate (admin.conf)").
		because("it still works when an identity provider is down. Give people accounts of an identity provider: authentication.yaml accepts token issuers (jwt)")
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
		return unknown("it is unknown who has access: %s", cmp.Or(c.AccessError, "the API was not queried"))
	case len(c.Access.AccountTokens) > 0:
		return found("service accounts have tokens that do not expire: %s", strings.Join(c.Access.AccountTokens, ", "))
	}
	return verdict{}
}

func bootstrapTokens(c Cluster) verdict {
	switch {
	case c.Access == nil:
		return unknown("it is unknown who has access: %s", cmp.Or(c.AccessError, "the API was not queried"))
	case len(c.Access.BootstrapTokens) > 0:
		return found("anyone who has one of these bootstrap tokens can join a host: %s; `quorate apply` removes Quorate's, and `kubeadm token delete` any other", strings.Join(c.Access.BootstrapTokens, ", "))
	}
	return verdict{}
}

func servingCertificate(h Host) verdict {
	switch h.ServingIssuer {
	case "cluster":
		return verdict{}
	case "":
		return found("the kubelet has no serving certificate: its request is waiting for approval")
	default:
		return found("the kubelet's serving certificate has expired, or was signed by another CA")
	}
}

// noProxyFile: kubeadm's kube-proxy is a pod, and its kubeconfig is a ConfigMap that refers to the pod's own token.
func noProxyFile(h Host) verdict {
	if config := h.Programs["kube-proxy"]["kubeconfig"]; config != "" {
		return found("kube-proxy reads %s", config)
	}
	return verdict{}
}

// loopback says that no other machine reaches what listens on an address.
func loopback(address string) bool {
	a, err := netip.ParseAddr(address)
	return address == "localhost" || err == nil && a.IsLoopback()
}

func onLoopback(address string, _ bool) bool { return loopback(address) }

func proxyMetrics(c Cluster) verdict {
	switch {
	case c.KubeProxy == nil && c.Access == nil:
		return unknown("the API could not be queried: %s", cmp.Or(c.AccessError, "it was not tried"))
	case c.KubeProxy == nil:
		return found("the API has no kube-proxy configuration")
	}
	address := fmt.Sprint(c.KubeProxy["metricsBindAddress"])
	if host, _, err := net.SplitHostPort(address); address == "" || address == "<nil>" || err == nil && loopback(host) {
		return verdict{}
	}
	return found("metricsBindAddress is %s", address)
}
