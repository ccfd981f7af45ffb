package kubeadm

import (
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// hardened are the arguments that the API server, the controller manager and the scheduler share. The latter two listen only
// on loopback by kubeadm's default.
func hardened() map[string]string {
	return map[string]string{
		"profiling":         "false",
		"tls-min-version":   "VersionTLS12",
		"tls-cipher-suites": strings.Join(hostconfig.CipherSuites, ","),
	}
}

// secureAPIServer are the API server's arguments that make a cluster secure by default. They go into kubeadm's configuration,
// so that a control plane that is joined or upgraded with plain kubeadm has them too.
func secureAPIServer() map[string]string {
	args := hardened()
	maps.Copy(args, map[string]string{
		"encryption-provider-config": filepath.Join(PKIDir, encryption.File),
		// A rotation of the keys then needs no restart.
		"encryption-provider-config-automatic-reload": "true",
		"audit-log-path": hostconfig.AuditLog,
		// Without it, the API server would pass an administrator's session to any server that answers in place of a kubelet.
		"kubelet-certificate-authority": filepath.Join(PKIDir, "ca.crt"),
		// A Service's owner must not be able to take over any address (CVE-2020-8554).
		"enable-admission-plugins": "NodeRestriction,DenyServiceExternalIPs",
		// Service account tokens expire after an hour, as they state; clients have re-read them since 2019.
		"service-account-extend-token-expiration": "false",
	})
	maps.Copy(args, hostconfig.OwnArguments)
	return args
}

func apiServerVolumes() []object {
	return []object{
		{"name": "apiserver-config", "hostPath": hostconfig.APIServerDir, "mountPath": hostconfig.APIServerDir, "readOnly": true, "pathType": "Directory"},
		{"name": "audit-log", "hostPath": hostconfig.AuditLogDir, "mountPath": hostconfig.AuditLogDir, "pathType": "DirectoryOrCreate"},
	}
}

// localEtcd is the stacked etcd member, with these arguments in addition to those that every member has.
func (c Config) localEtcd(extra map[string]string) object {
	all := map[string]string{"tls-min-version": "TLS1.2", "cipher-suites": strings.Join(hostconfig.CipherSuites, ","),
		"quota-backend-bytes": strconv.Itoa(hostconfig.EtcdQuota)}
	if c.Cluster.Spec.Network.First() == spec.IPv6 {
		// kubeadm has it listen on one loopback address, that of the family of its host. Quorate asks at the other one.
		all["listen-metrics-urls"] = "http://[::1]:2381,http://127.0.0.1:2381"
	}
	for name, value := range hostconfig.EtcdArguments(hostconfig.EtcdTimers(c.Cluster)) {
		if value != "" {
			all[name] = value
		}
	}
	maps.Copy(all, extra)
	return object{"local": object{"dataDir": hostconfig.EtcdDataDir, "extraArgs": args(all)}}
}

// secureKubelet is what kubeadm's defaults do not already cover: kubeadm disables anonymous access and the read-only port,
// delegates authorization to the API, and rotates client certificates.
var secureKubelet = object{
	"serverTLSBootstrap": true,
	"tlsMinVersion":      "VersionTLS12",
	"tlsCipherSuites":    hostconfig.CipherSuites,
	"seccompDefault":     true,
	// No pod can use up the processes of its node.
	"podPidsLimit": hostconfig.PodPidsLimit,
	// The defaults, written explicitly, because kubeadm writes zeros, which look like "never" and "unlimited".
	"streamingConnectionIdleTimeout": "4h0m0s",
	"eventRecordQPS":                 50,
}
