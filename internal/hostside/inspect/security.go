package inspect

import (
	"context"
	"crypto/x509"
	"maps"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/flags"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// securedFiles are what a benchmark asks the modes and owners of.
var securedFiles = []string{
	kubernetesDir + "/manifests/*.yaml", kubernetesDir + "/*.conf", kubernetesDir + "/pki", kubernetesDir + "/pki/*", kubernetesDir + "/pki/etcd/*",
	"/etc/cni/net.d/*", "/var/lib/etcd", "/var/lib/kubelet/config.yaml", hostconfig.AuditLogDir, hostconfig.AuditLogDir + "/*",
	"/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service.d/*.conf",
	"/etc/systemd/system/" + hostconfig.EtcdUnit, "/etc/systemd/system/" + hostconfig.EtcdUnit + ".d/*.conf", "/etc/etcd/*",
}

var securedPrograms = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kubelet", "kube-proxy"}

// ReadSecurity reads how a host is secured; it changes nothing.
var ReadSecurity = host.Define("node.security", func(context.Context, struct{}) (facts.Security, error) {
	s := facts.Security{Files: map[string]facts.Mode{}, Programs: map[string]map[string]string{}, Authorities: map[string]string{}}
	for _, glob := range securedFiles {
		paths, err := filepath.Glob(glob)
		if err != nil {
			return s, err
		}
		for _, path := range paths {
			if m, ok := mode(path); ok {
				s.Files[path] = m
			}
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return s, err
	}
	for _, path := range processes {
		cmdline, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended in the meantime
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		name := filepath.Base(args[0])
		if !slices.Contains(securedPrograms, name) {
			continue
		}
		s.Programs[name] = flags.Parse(args[1:])
		if name == "etcd" {
			environ, err := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
			if err != nil {
				delete(s.Programs, name)
				continue // it has ended in the meantime
			}
			s.Programs[name] = etcdSettings(s.Programs[name], strings.Split(string(environ), "\x00"))
		}
	}
	if dir := s.Programs["etcd"]["data-dir"]; dir != "" {
		if m, ok := mode(dir); ok {
			s.Files[dir] = m
		}
	}
	args := s.Programs[facts.APIServer]
	s.AuditPolicy = system.ReadTrimmed(apiServerFile(args["audit-policy-file"], hostconfig.AuditPolicyFile))
	s.Authentication = system.ReadTrimmed(apiServerFile(args["authentication-config"], hostconfig.AuthenticationFile))
	if path := s.Programs["kube-apiserver"]["encryption-provider-config"]; path != "" {
		s.EncryptionProviders = providers(path)
	}
	authorities := []string{kubernetesDir + "/pki/ca.crt", kubernetesDir + "/pki/etcd/ca.crt",
		s.Programs["kube-apiserver"]["client-ca-file"], s.Programs["kube-apiserver"]["etcd-cafile"], s.Programs["etcd"]["trusted-ca-file"]}
	for _, path := range authorities {
		if data, err := os.ReadFile(path); err == nil {
			s.Authorities[path] = facts.Sum(data)
		}
	}
	s.ServingIssuer = servingIssuer("/var/lib/kubelet/pki/kubelet-server-current.pem", kubernetesDir+"/pki/ca.crt")
	return s, nil
}, host.Reads)

// etcdSettings are the settings of a running etcd: a variable counts where no argument says otherwise, as in etcd itself.
func etcdSettings(arguments map[string]string, environ []string) map[string]string {
	out := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if setting, is := strings.CutPrefix(name, "ETCD_"); is && value != "" {
			out[strings.ToLower(strings.ReplaceAll(setting, "_", "-"))] = value
		}
	}
	maps.Copy(out, arguments)
	return out
}

func mode(path string) (facts.Mode, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return facts.Mode{}, false
	}
	m := facts.Mode{Bits: uint32(info.Mode().Perm())}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.Owner, m.Group = strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
		if u, err := user.LookupId(m.Owner); err == nil {
			m.Owner = u.Username
		}
		if g, err := user.LookupGroupId(m.Group); err == nil {
			m.Group = g.Name
		}
	}
	return m, true
}

// providers returns the names of the encryption providers of a configuration, whoever wrote it, without their keys.
func providers(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var c struct {
		Resources []struct {
			Resources []string         `json:"resources"`
			Providers []map[string]any `json:"providers"`
		} `json:"resources"`
	}
	if yaml.Unmarshal(data, &c) != nil {
		return nil
	}
	for _, r := range c.Resources {
		if !slices.ContainsFunc(r.Resources, func(s string) bool { return s == "secrets" || s == "*." || s == "*.*" }) {
			continue
		}
		var out []string
		for _, p := range r.Providers {
			for name := range p {
				out = append(out, name)
			}
		}
		return out // the first that names a resource counts
	}
	return nil
}

func servingIssuer(certificatePath, caPath string) string {
	serving, ok := certificate(certificatePath)
	if !ok {
		return ""
	}
	roots := x509.NewCertPool()
	if text, err := os.ReadFile(caPath); err == nil { // two of them while the CA is replaced
		roots.AppendCertsFromPEM(text)
	}
	if _, err := serving.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return "other"
	}
	return "cluster"
}

// apiServerFile is the file that an API server reads: Quorate's own, or the one of a setting.
func apiServerFile(given, own string) string {
	if path.Dir(given) == hostconfig.APIServerDir && hostconfig.IsVariant(path.Base(given)) {
		return given
	}
	return own
}
