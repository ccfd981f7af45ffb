package spec

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"k8s.io/apimachinery/pkg/api/resource"
)

const settingsPath = "spec.settings"

// Programs of a control plane, by the names of their static pods.
const (
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// Why arguments are not for the spec.
const (
	byKubeadm     = "kubeadm sets it, and other parts of the cluster rely on its value"
	byQuorate     = "Quorate sets it to keep the cluster secure (docs/decisions/0014-secure-by-default.md)"
	byReplacement = "Quorate sets it so that an API server can be replaced without an outage"
	byProfile     = "the failover profile sets it (spec.failover.profile)"
	byAnonymous   = "Quorate always sets authentication-config, and kube-apiserver accepts only one of the two; use spec.settings.apiServer.authenticationConfigFile"
	byElection    = "the failover of the controller managers and schedulers relies on it"
	byChecks      = "health checks expect the default"
	byGates       = "use spec.settings.featureGates"
	byFiles       = "it names a file, and Quorate brings no such file to the control planes"
)

// reserved are the arguments that the spec cannot set, with the reason. A name that ends in * stands for all arguments that
// begin with it.
var reserved = map[string]map[string]string{
	apiServer: {
		"advertise-address": byKubeadm, "allow-privileged": byKubeadm, "client-ca-file": byKubeadm, "enable-bootstrap-token-auth": byKubeadm,
		"etcd-*": byKubeadm, "kubelet-client-*": byKubeadm, "kubelet-preferred-address-types": byKubeadm, "proxy-client-*": byKubeadm, "requestheader-*": byKubeadm,
		"secure-port": byKubeadm, "service-account-issuer": "every service account token names the issuer, and a change would invalidate all of them",
		"service-account-key-file": byKubeadm, "service-account-signing-key-file": byKubeadm,
		"service-cluster-ip-range": "it is spec.network.serviceCIDR", "tls-cert-file": byKubeadm, "tls-private-key-file": byKubeadm, "cert-dir": byKubeadm,
		"authorization-*": "kubeadm sets the modes Node and RBAC, and the cluster's own components rely on them", "bind-address": "load balancers and kubelets reach the API server at several addresses",
		"profiling": byQuorate, "tls-min-version": byQuorate, "tls-cipher-suites": byQuorate, "encryption-provider-config*": byQuorate,
		"kubelet-certificate-authority": byQuorate, "enable-admission-plugins": byQuorate, "disable-admission-plugins": byQuorate, "service-account-extend-token-expiration": byQuorate,
		"audit-policy-file": "use spec.settings.apiServer.auditPolicyFile", "audit-log-path": byQuorate,
		"authentication-config": "use spec.settings.apiServer.authenticationConfigFile", "anonymous-auth": byAnonymous, "oidc-*": byAnonymous,
		"peer-*": byReplacement, "shutdown-*": byReplacement, "goaway-chance": byReplacement, "permit-port-sharing": byReplacement, "permit-address-sharing": byReplacement,
		"default-not-ready-toleration-seconds": byProfile, "default-unreachable-toleration-seconds": byProfile, "feature-gates": byGates,
		"admission-control-config-file": byFiles, "audit-webhook-config-file": byFiles, "egress-selector-config-file": byFiles, "tracing-config-file": byFiles, "token-auth-file": byFiles,
		"authentication-token-webhook-config-file": byFiles, "tls-sni-cert-key": byFiles,
	},
	controllerManager: {
		"allocate-node-cidrs": byKubeadm, "cluster-cidr": "it is spec.network.podCIDR", "node-cidr-mask-size*": "every node has a /24 of spec.network.podCIDR, or a /64 of an IPv6 range",
		"service-cluster-ip-range": "it is spec.network.serviceCIDR", "authentication-kubeconfig": byKubeadm, "authorization-kubeconfig": byKubeadm, "client-ca-file": byKubeadm,
		"cluster-name": byKubeadm, "cluster-signing-*": byKubeadm, "controllers": byKubeadm, "kubeconfig": byKubeadm, "requestheader-client-ca-file": byKubeadm, "root-ca-file": byKubeadm,
		"service-account-private-key-file": byKubeadm, "use-service-account-credentials": byKubeadm,
		"profiling": byQuorate, "tls-*": byQuorate, "node-monitor-*": byProfile, "kube-api-qps": byProfile, "kube-api-burst": byProfile,
		"leader-elect*": byElection, "secure-port": byChecks, "feature-gates": byGates, "cloud-config": byFiles,
	},
	scheduler: {
		"authentication-kubeconfig": byKubeadm, "authorization-kubeconfig": byKubeadm, "kubeconfig": byKubeadm, "config": byFiles,
		"profiling": byQuorate, "tls-*": byQuorate, "leader-elect*": byElection, "secure-port": byChecks, "feature-gates": byGates,
	},
}

// Reserved is the reason why the spec cannot set an argument of a control plane's program; empty if it can.
func Reserved(program, arg string) string {
	for _, name := range slices.Sorted(maps.Keys(reserved[program])) {
		if prefix, all := strings.CutSuffix(name, "*"); name == arg || all && strings.HasPrefix(arg, prefix) {
			return reserved[program][name]
		}
	}
	return ""
}

var (
	argName    = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	gateName   = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	sysctlName = regexp.MustCompile(`^[a-z0-9_]+(\.[A-Za-z0-9_-]+)+$`)
	registry   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)
)

// settings checks everything but the content of files, which [Cluster.Attach] does.
func (k *checker) settings() {
	s := k.c.Spec.Settings
	for _, name := range slices.Sorted(maps.Keys(s.FeatureGates)) {
		if !gateName.MatchString(name) {
			k.refuse(settingsPath+".featureGates["+name+"]", "write it as in Kubernetes' documentation, such as `InPlacePodVerticalScaling`", "`%s` is not the name of a feature gate", name)
		}
	}
	k.args("apiServer", apiServer, s.APIServer.ExtraArgs)
	k.args("controllerManager", controllerManager, s.ControllerManager.ExtraArgs)
	k.args("scheduler", scheduler, s.Scheduler.ExtraArgs)
	k.kubelet(s.Kubelet)
	if r := s.DNS.Replicas; r < 0 || r == 1 {
		k.refuse(settingsPath+".dns.replicas", "use at least 2, which run on different nodes", "with %d, the cluster's DNS would have a single point of failure", r)
	}
	k.registries(s.Registries)
	k.sysctls(s.Sysctls)
}

func (k *checker) args(section, program string, args map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(args)) {
		path, value := fmt.Sprintf("%s.%s.extraArgs[%s]", settingsPath, section, name), args[name]
		switch why := Reserved(program, name); {
		case strings.HasPrefix(name, "-"):
			k.refuse(path, fmt.Sprintf("write `%s`", strings.TrimLeft(name, "-")), "arguments are written without leading dashes")
		case !argName.MatchString(name):
			k.refuse(path, "write the name as `"+program+" --help` does, without dashes in front", "`%s` is not the name of an argument", name)
		case why != "":
			k.refuse(path, "remove it", "`%s` cannot be set here: %s", name, why)
		case value == "" || strings.ContainsAny(value, "\n\r"):
			k.refuse(path, "give it one line of text; a switch has the value \"true\"", "the argument has no value, or more than one line")
		case name == "bind-address" && value != "0.0.0.0" && value != "127.0.0.1" && !(value == "::" && k.c.Spec.Network.Uses(IPv6)):
			all := "0.0.0.0"
			if k.c.Spec.Network.Uses(IPv6) {
				all = "::" // that is all addresses of both families
			}
			k.refuse(path, "use `"+all+"`, so that it can be scraped, or `127.0.0.1`, which is the default", "health checks ask the program on the loopback address, and with `%s` it would not listen there", value)
		}
	}
}

// What can be reserved, and at what the kubelet can evict pods.
var (
	reservable = []string{"cpu", "memory", "ephemeral-storage", "pid"}
	evictable  = []string{"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree", "containerfs.available", "containerfs.inodesFree", "pid.available"}
)

// maxFlannelPods is how many pods find an address in the /24 of their node.
const maxFlannelPods = 250

func (k *checker) kubelet(s KubeletSettings) {
	const path = settingsPath + ".kubelet"
	for _, n := range []struct {
		name       string
		value, top int
		least      int
	}{{"maxPods", s.MaxPods, 0, 1}, {"podPidsLimit", s.PodPidsLimit, 0, 1}, {"imageGCHighThresholdPercent", s.ImageGCHighThresholdPercent, 100, 1},
		{"imageGCLowThresholdPercent", s.ImageGCLowThresholdPercent, 99, 1}, {"containerLogMaxFiles", s.ContainerLogMaxFiles, 0, 2}} {
		switch {
		case n.value != 0 && n.value < n.least:
			k.refuse(path+"."+n.name, fmt.Sprintf("use at least %d", n.least), "%d is too small", n.value)
		case n.top > 0 && n.value > n.top:
			k.refuse(path+"."+n.name, fmt.Sprintf("use at most %d", n.top), "%d is more than %d percent", n.value, n.top)
		}
	}
	if s.MaxPods > maxFlannelPods && k.c.Spec.Network.CNI == CNIFlannel && k.c.Spec.Network.Uses(IPv4) {
		k.refuse(path+".maxPods", fmt.Sprintf("use at most %d", maxFlannelPods), "each node has a /24 of spec.network.podCIDR, which has no addresses for %d pods", s.MaxPods)
	}
	high, low := s.ImageGCHighThresholdPercent, s.ImageGCLowThresholdPercent
	if high == 0 {
		high = 85
	}
	if low == 0 {
		low = 80
	}
	if low >= high {
		k.refuse(path+".imageGCHighThresholdPercent", "set both imageGCLowThresholdPercent and imageGCHighThresholdPercent, the first below the second",
			"images would be removed until the disk is %d percent full, starting at %d percent", low, high)
	}
	for _, m := range []struct {
		name   string
		values map[string]string
	}{{"systemReserved", s.SystemReserved}, {"kubeReserved", s.KubeReserved}} {
		for _, key := range slices.Sorted(maps.Keys(m.values)) {
			k.one(fmt.Sprintf("%s.%s[%s]", path, m.name, key), key, reservable)
			if at := fmt.Sprintf("%s.%s[%s]", path, m.name, key); key == "cpu" {
				k.quantity(at, m.values[key])
			} else {
				k.whole(at, m.values[key])
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.EvictionHard)) {
		k.one(fmt.Sprintf("%s.evictionHard[%s]", path, key), key, evictable)
		k.threshold(fmt.Sprintf("%s.evictionHard[%s]", path, key), s.EvictionHard[key])
	}
	if at := path + ".containerLogMaxSize"; s.ContainerLogMaxSize != "" && k.whole(at, s.ContainerLogMaxSize) {
		if q := resource.MustParse(s.ContainerLogMaxSize); !representable(q) {
			k.refuse(at, "write it without a fraction, like `500Mi`", "a kubelet does not start with `%s`", s.ContainerLogMaxSize)
		}
	}
	whole, okWhole := k.gracePeriod(path+".shutdownGracePeriod", s.ShutdownGracePeriod)
	critical, okCritical := k.gracePeriod(path+".shutdownGracePeriodCriticalPods", s.ShutdownGracePeriodCriticalPods)
	if okWhole && okCritical && critical > whole {
		k.refuse(path+".shutdownGracePeriodCriticalPods", "make it shorter than shutdownGracePeriod, which includes it", "it is longer than shutdownGracePeriod")
	}
	for i, name := range s.AllowedUnsafeSysctls {
		at := fmt.Sprintf("%s.allowedUnsafeSysctls[%d]", path, i)
		switch {
		case name == "*" || !sysctlPattern.MatchString(name):
			k.refuse(at, "name each, such as `net.core.somaxconn` or `kernel.msg*`", "`%s` is not a kernel setting", name)
		case !namespacedSysctl(name, k.c.Spec.Kubernetes.Version):
			k.refuse(at, "use kernel.sem, kernel.shm*, kernel.msg*, or settings that begin with net. or fs.mqueue.; what all nodes need goes into spec.settings.sysctls",
				"pods have no value of their own for `%s`, and a kubelet that is to allow it does not start", name)
		}
	}
}

// one refuses a key that is not among those that exist.
func (k *checker) one(path, key string, known []string) {
	if slices.Contains(known, key) {
		return
	}
	fix := "use " + or(known)
	if near := Nearest(key, known); near != "" {
		fix = fmt.Sprintf("did you mean `%s`?", near)
	}
	k.refuse(path, fix, "`%s` is not known", key)
}

// sysctlPattern is how the kubelet wants the settings that it allows pods to change.
var sysctlPattern = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`)

// namespacedSysctl says that the kubelet knows a setting, or all that a pattern stands for, as one that each pod has for itself. With any other among
// those that it is to allow, it does not start.
func namespacedSysctl(pattern, version string) bool {
	names := []string{"kernel.sem", "kernel.shm", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msg", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni"}
	prefixes := []string{"net.", "fs.mqueue."}
	if !strings.HasPrefix(version, "v1.36.") { // v1.37 knows these, too
		names, prefixes = append(names, "kernel.domainname"), append(prefixes, "user.")
	}
	name, _, _ := strings.Cut(strings.ReplaceAll(pattern, "/", "."), "*")
	return slices.Contains(names, name) || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (k *checker) quantity(path, value string) (q resource.Quantity, ok bool) {
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() < 0 {
		k.refuse(path, "write it like `500m` (of a CPU) or `1Gi`", "`%s` is not a quantity", value)
		return q, false
	}
	return q, true
}

// whole wants a number of bytes, or of other things that have no halves: `500m` is half a byte, and means nearly nothing.
func (k *checker) whole(path, value string) bool {
	q, ok := k.quantity(path, value)
	if ok && q.CmpInt64(q.Value()) != 0 {
		k.refuse(path, "write it like `500Mi` or `1Gi`; m stands for a thousandth", "`%s` is not a whole number", value)
		return false
	}
	return ok
}

// representable says that the kubelet can read a quantity as a number: it cannot for 1.5Gi.
func representable(q resource.Quantity) bool {
	_, is := q.AsInt64()
	return is
}

// threshold is when pods are evicted. 0% and 100% switch a signal off.
func (k *checker) threshold(path, value string) {
	percent, is := strings.CutSuffix(value, "%")
	if !is {
		k.whole(path, value)
		if q, err := resource.ParseQuantity(value); err == nil && q.IsZero() {
			k.refuse(path, "write `0%` to switch it off, or a limit like `500Mi` or `10%`", "a kubelet does not start with the limit `%s`", value)
		}
		return
	}
	if n, err := strconv.ParseFloat(percent, 32); err != nil || !(n >= 0 && n <= 100) {
		k.refuse(path, "write it like `10%`", "`%s` is not a percentage from 0 to 100", value)
	}
}

// gracePeriod is a duration of a second or more: a kubelet does not start with less.
func (k *checker) gracePeriod(path, value string) (time.Duration, bool) {
	d, ok := k.duration(path, value)
	if ok && value != "" && d < time.Second {
		k.refuse(path, "use 1s or more, or leave it out", "`%s` is too short", value)
		return 0, false
	}
	return d, ok
}

func (k *checker) duration(path, value string) (time.Duration, bool) {
	if value == "" {
		return 0, true
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		k.refuse(path, "write it like `30s` or `2m`", "`%s` is not a duration", value)
		return 0, false
	}
	return d, true
}

func (k *checker) registries(list []Registry) {
	seen := map[string]bool{}
	for i, r := range list {
		path := fmt.Sprintf("%s.registries[%d]", settingsPath, i)
		switch {
		case r.Name == "_default":
			k.refuse(path+".name", "write \"*\"", "`_default` is containerd's name for it")
		case r.Name != "*" && !registry.MatchString(r.Name):
			k.refuse(path+".name", "write the first part of image names, such as `docker.io` or `registry.example.com:5000`; \"*\" stands for all others", "`%s` is not the name of a registry", r.Name)
		case seen[r.Name]:
			k.refuse(path+".name", "list all mirrors of a registry in one entry", "`%s` is listed twice", r.Name)
		}
		seen[r.Name] = true
		if len(r.Mirrors) == 0 {
			k.refuse(path+".mirrors", "list at least one URL, or remove the entry", "the registry has no mirror")
		}
		secure := false
		for j, m := range r.Mirrors {
			u, err := url.Parse(m)
			secure = secure || err == nil && u.Scheme == "https"
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(m, "\"\\ \n") {
				k.refuse(fmt.Sprintf("%s.mirrors[%d]", path, j), "write it like `https://mirror.example.com` or `https://harbor.example.com/docker-hub`", "`%s` is not the URL of a mirror", m)
			}
		}
		if r.CAFile != "" && !secure && len(r.Mirrors) > 0 {
			k.refuse(path+".caFile", "remove it, or use https", "no mirror of the registry uses https")
		}
	}
}

// programSysctls are those that programs of a node set when they start, with the program.
var programSysctls = map[string]string{
	"vm.overcommit_memory": "the kubelet", "vm.panic_on_oom": "the kubelet", "kernel.panic": "the kubelet", "kernel.panic_on_oops": "the kubelet",
	"kernel.keys.root_maxkeys": "the kubelet", "kernel.keys.root_maxbytes": "the kubelet",
	"net.netfilter.nf_conntrack_max": "kube-proxy", "net.netfilter.nf_conntrack_tcp_timeout_established": "kube-proxy", "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "kube-proxy",
	"net.ipv4.conf.all.route_localnet": "kube-proxy", "net.ipv4.ip_forward": "Quorate", "net.bridge.bridge-nf-call-iptables": "Quorate", "net.bridge.bridge-nf-call-ip6tables": "Quorate",
	"net.ipv4.ip_nonlocal_bind": "Quorate",
}

func (k *checker) sysctls(values map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		path := settingsPath + ".sysctls[" + name + "]"
		switch value := values[name]; {
		case strings.Contains(name, "/"):
			k.refuse(path, "write `"+strings.ReplaceAll(name, "/", ".")+"`", "kernel settings are written with dots")
		case !sysctlName.MatchString(name):
			k.refuse(path, "write it as sysctl does, such as `vm.max_map_count`", "`%s` is not a kernel setting", name)
		case programSysctls[name] != "":
			k.refuse(path, "remove it", "%s sets `%s`", programSysctls[name], name)
		case strings.TrimSpace(value) == "" || strings.ContainsAny(value, "\n\r"):
			k.refuse(path, "give it one line of text, such as \"262144\"", "the setting has no value, or more than one line")
		}
	}
}

// judge says what is wrong with the content of a file that a setting names, and what to do.
func judge(field string, content []byte) (problem, fix string) {
	switch {
	case strings.HasSuffix(field, ".auditPolicyFile"):
		if problem, fix = judgeObject(content, "audit.k8s.io/v1", "Policy", "rules"); problem != "" {
			return problem, fix
		}
		return judgePolicy(content)
	case strings.HasSuffix(field, ".authenticationConfigFile"):
		if problem, fix = judgeObject(content, "apiserver.config.k8s.io/v1", "AuthenticationConfiguration", "jwt"); problem != "" {
			return problem, fix
		}
		var object map[string]any
		if err := yaml.Load(content, &object); err == nil && object["anonymous"] != nil {
			return "has a section `anonymous`", "remove it: Quorate allows exactly the anonymous requests that health checks and joins need"
		}
		return judgeIssuers(content)
	default:
		if block, _ := pem.Decode(content); block == nil || block.Type != "CERTIFICATE" {
			return "holds no certificate", "name a file with CA certificates in PEM"
		}
	}
	return "", ""
}

func judgeObject(content []byte, apiVersion, kind, list string) (problem, fix string) {
	var object map[string]any
	switch err := yaml.Load(bytes.TrimSpace(content), &object); {
	case err != nil:
		return "is not one YAML document: " + err.Error(), "correct it"
	case object["apiVersion"] != apiVersion || object["kind"] != kind:
		return fmt.Sprintf("is not a %s of %s", kind, apiVersion), fmt.Sprintf("begin it with `apiVersion: %s` and `kind: %s`", apiVersion, kind)
	}
	if entries, _ := object[list].([]any); len(entries) == 0 {
		return "has no " + list, "list at least one, or remove the setting"
	}
	return "", ""
}
