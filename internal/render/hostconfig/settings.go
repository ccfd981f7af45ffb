package hostconfig

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file renders what spec.settings means for hosts.

const (
	// RegistriesDir is where containerd looks for the mirrors of a registry, before each pull.
	RegistriesDir = "/etc/containerd/certs.d"
	// WrittenRegistry is the first line of the files that Quorate writes there.
	WrittenRegistry = "# Written by quorate"
	// SettingsSysctlFile has the kernel settings of the spec.
	SettingsSysctlFile = "/etc/sysctl.d/92-quorate-settings.conf"
	// IPv6SysctlFile has those that nodes need for pods with IPv6 addresses.
	IPv6SysctlFile = "/etc/sysctl.d/91-quorate-ipv6.conf"
)

// Settings is what the settings mean for the files and the kernel of a node. Nothing restarts because of it.
func Settings(c *spec.Cluster, f *facts.Facts) facts.Desired {
	s := c.Spec.Settings
	d := facts.Desired{Sysctls: maps.Clone(s.Sysctls)}
	if len(s.Sysctls) > 0 {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
			fmt.Fprintf(&b, "%s = %s\n", name, s.Sysctls[name])
		}
		d.Files = append(d.Files, facts.File{Path: SettingsSysctlFile, Content: b.String()})
	} else if _, has := f.Files[SettingsSysctlFile]; has {
		d.Absent = append(d.Absent, SettingsSysctlFile)
	}
	if six := ipv6Sysctls(c, f); len(six) > 0 {
		var b strings.Builder
		for _, name := range facts.InOrder(six) {
			fmt.Fprintf(&b, "-%s = %s\n", name, six[name])
		}
		d.Files = append(d.Files, facts.File{Path: IPv6SysctlFile, Content: b.String()})
		for name, value := range six {
			if _, given := s.Sysctls[name]; !given {
				d.Sysctls = with(d.Sysctls, name, value)
			}
		}
	}
	for _, r := range slices.SortedFunc(slices.Values(s.Registries), func(a, b spec.Registry) int { return strings.Compare(a.Name, b.Name) }) {
		d.Files = append(d.Files, registryFiles(c, r)...)
	}
	for _, have := range f.Registries {
		if !slices.ContainsFunc(d.Files, func(file facts.File) bool { return file.Path == have }) {
			d.Absent = append(d.Absent, have)
		}
	}
	return d
}

func with(m map[string]string, name, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[name] = value
	return m
}

// acceptRA are the settings that say whether interfaces use router advertisements.
const acceptRA = "net.ipv6.conf.*.accept_ra"

// ipv6Sysctls are the settings with which a node forwards the packets of pods with IPv6 addresses. A host that forwards packets ignores
// router advertisements, unless its interface has the value 2. One that has its default route from them would lose it. Where the kernel
// does not read them, because a network manager does, the value is 0 and stays.
func ipv6Sysctls(c *spec.Cluster, f *facts.Facts) map[string]string {
	if !c.Spec.Network.Uses(spec.IPv6) {
		return nil
	}
	out := map[string]string{"net.ipv6.conf.all.forwarding": "1", "net.bridge.bridge-nf-call-ip6tables": "1"}
	for _, a := range f.Addresses {
		name := strings.Replace(acceptRA, "*", strings.ReplaceAll(a.Interface, ".", "/"), 1)
		ours := slices.ContainsFunc(c.Spec.Hosts, func(h spec.Host) bool { return slices.Contains(h.AllAddresses(), a.IP) }) ||
			slices.ContainsFunc(c.Spec.Network.PodTrafficCIDRs(), func(cidr netip.Prefix) bool { return slices.Contains(f.Within(cidr), a) })
		if value := f.Sysctls[name]; ours && isIPv6(a.IP) && (value == "1" || value == "2") {
			out[name] = "2"
		}
	}
	return out
}

func registryFiles(c *spec.Cluster, r spec.Registry) (out []facts.File) {
	name := r.Name
	if name == "*" {
		name = "_default"
	}
	ca := ""
	if r.CAFile != "" {
		ca = path.Join(RegistriesDir, name, "ca.crt")
		out = append(out, facts.File{Path: ca, Content: WrittenRegistry + "\n" + c.Content(r.CAFile)})
	}
	var b strings.Builder
	fmt.Fprintln(&b, WrittenRegistry)
	for _, mirror := range r.Mirrors {
		address, below := mirrorURL(mirror)
		fmt.Fprintf(&b, "\n[host.%q]\n  capabilities = ['pull', 'resolve']\n", address)
		if below {
			fmt.Fprintln(&b, "  override_path = true")
		}
		if ca != "" && strings.HasPrefix(address, "https:") {
			fmt.Fprintf(&b, "  ca = '%s'\n", ca)
		}
	}
	return append(out, facts.File{Path: path.Join(RegistriesDir, name, "hosts.toml"), Content: b.String()})
}

// mirrorURL is where containerd finds the API of a mirror. below says that it is not at the root of its server: the path of
// a project then follows /v2.
func mirrorURL(mirror string) (address string, below bool) {
	u, err := url.Parse(mirror)
	if err != nil {
		return mirror, false
	}
	p := strings.TrimSuffix(u.Path, "/")
	if u.Path = ""; p == "" || p == "/v2" {
		return u.String(), false
	}
	if !strings.HasPrefix(p, "/v2/") {
		p = "/v2" + p
	}
	return u.String() + p, true
}

// AuditPolicyPath is where a control plane has its audit policy: Quorate's, or that of the spec. The path of the latter changes
// with its content, so that the arguments of an API server show which policy it has read.
func AuditPolicyPath(c *spec.Cluster) string {
	return variant(AuditPolicyFile, c.Content(c.Spec.Settings.APIServer.AuditPolicyFile))
}

// AuthenticationPath is where a control plane has its authentication configuration, in the same way.
func AuthenticationPath(c *spec.Cluster) string {
	content := authenticationOf(c)
	if content == authenticationConfig() {
		return AuthenticationFile
	}
	return variant(AuthenticationFile, content)
}

func variant(file, content string) string {
	if content == "" {
		return file
	}
	return strings.TrimSuffix(file, ".yaml") + "-" + facts.Sum([]byte(content))[:12] + ".yaml"
}

// IsVariant says that a file in APIServerDir was rendered for a setting.
func IsVariant(name string) bool {
	for _, file := range []string{AuditPolicyFile, AuthenticationFile} {
		if rest, ok := strings.CutPrefix(name, strings.TrimSuffix(path.Base(file), ".yaml")+"-"); ok && strings.HasSuffix(rest, ".yaml") {
			return true
		}
	}
	return false
}

// authenticationOf is Quorate's authentication configuration with the issuers of the spec.
func authenticationOf(c *spec.Cluster) string {
	own := authenticationConfig()
	given := c.Content(c.Spec.Settings.APIServer.AuthenticationConfigFile)
	if given == "" {
		return own
	}
	var object, base map[string]any
	if yaml.Unmarshal([]byte(given), &object) != nil || yaml.Unmarshal([]byte(own), &base) != nil {
		return own // spec.Attach refuses what cannot be read
	}
	object["anonymous"] = base["anonymous"]
	out, err := yaml.Marshal(object)
	if err != nil {
		return own
	}
	return string(out)
}

// settingFiles are the API server's files that the spec brings, next to Quorate's own.
func settingFiles(c *spec.Cluster) (out []facts.File) {
	if p := AuditPolicyPath(c); p != AuditPolicyFile {
		out = append(out, facts.File{Path: p, Mode: 0o600, Content: c.Content(c.Spec.Settings.APIServer.AuditPolicyFile)})
	}
	if p := AuthenticationPath(c); p != AuthenticationFile {
		out = append(out, facts.File{Path: p, Mode: 0o600, Content: authenticationOf(c)})
	}
	return out
}

// Programs of a control plane that have settings, in the order in which they are shown.
var Programs = []string{facts.APIServer, facts.ControllerManager, facts.Scheduler}

// SizeArguments are those of the API server that the planned size of the cluster asks for. What a setting of the spec gives is not
// part of it.
func SizeArguments(c *spec.Cluster) map[string]string {
	s, out := c.ForSize(), map[string]string{}
	for name, n := range map[string]int{"max-requests-inflight": s.RequestsInFlight, "max-mutating-requests-inflight": s.MutatingInFlight} {
		if _, given := c.Spec.Settings.APIServer.ExtraArgs[name]; !given && n > 0 {
			out[name] = strconv.Itoa(n)
		}
	}
	return out
}

// SizeFields are the fields of the kubelets' configuration that the planned size of the cluster asks for. Only kubelets of the failover
// profile fast report their status as often as they look for changes.
func SizeFields(c *spec.Cluster) map[string]any {
	out := map[string]any{}
	if s := c.ForSize().StatusReportSeconds; s > 0 && c.Spec.Failover.Profile == spec.ProfileFast {
		out["nodeStatusReportFrequency"] = (time.Duration(s) * time.Second).String()
	}
	return out
}

// Arguments are those that the settings, and the planned size of the cluster, give each program.
func Arguments(c *spec.Cluster) map[string]map[string]string {
	s := c.Spec.Settings
	out := map[string]map[string]string{}
	for program, extra := range map[string]map[string]string{facts.APIServer: s.APIServer.ExtraArgs,
		facts.ControllerManager: s.ControllerManager.ExtraArgs, facts.Scheduler: s.Scheduler.ExtraArgs} {
		out[program] = map[string]string{}
		maps.Copy(out[program], extra)
		if gates := s.Gates(); gates != "" {
			out[program]["feature-gates"] = gates
		}
	}
	maps.Copy(out[facts.APIServer], SizeArguments(c))
	if p := AuditPolicyPath(c); p != AuditPolicyFile {
		out[facts.APIServer]["audit-policy-file"] = p
	}
	if p := AuthenticationPath(c); p != AuthenticationFile {
		out[facts.APIServer]["authentication-config"] = p
	}
	return out
}

// OwnArguments are those of the API server that Quorate sets and a setting can replace.
var OwnArguments = map[string]string{
	"audit-policy-file": AuditPolicyFile, "authentication-config": AuthenticationFile,
	"audit-log-maxage":    "30",  // days
	"audit-log-maxbackup": "10",  // files
	"audit-log-maxsize":   "100", // MiB
}

// WithoutSetting is the value of an argument that no setting gives: in kubeadm's configuration, and in the manifest that kubeadm
// writes. It is empty where the argument is not there.
func WithoutSetting(c *spec.Cluster, program, name string) (configured, runs string) {
	switch {
	case program == facts.APIServer && name == ReconcilerArgument && PodsUseEndpoint(c):
		return NoReconciler, NoReconciler
	case program == facts.APIServer:
		return OwnArguments[name], OwnArguments[name]
	case name == "bind-address":
		return "", "127.0.0.1"
	}
	return "", ""
}

// PodPidsLimit keeps a pod from using up the processes of its node.
const PodPidsLimit = 4096

// InContainers are the kubelets' settings, apart from failSwapOn, if all nodes are containers. A container's disk is that of
// the machine below it, and other programs may have filled most of it, so the kubelet frees space only when very little is
// left.
func InContainers() map[string]any {
	return map[string]any{
		"imageGCHighThresholdPercent": 100, // never for a part of the disk
		"evictionHard": map[string]string{
			"memory.available": "100Mi", "nodefs.inodesFree": "5%", "imagefs.inodesFree": "5%", // the defaults
			"nodefs.available": "1Gi", "imagefs.available": "1Gi", // instead of 10 % and 15 %
		},
	}
}

// evictionDefaults are the kubelet's own on Linux. It replaces all of them when one is set.
var evictionDefaults = map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}

// KubeletFields are the fields of the kubelets' configuration that the settings, and the planned size of the cluster, give.
func KubeletFields(c *spec.Cluster, nodes []*facts.Facts) map[string]any {
	s := c.Spec.Settings
	out := SizeFields(c)
	if len(s.FeatureGates) > 0 {
		out["featureGates"] = s.FeatureGates
	}
	v := reflect.ValueOf(s.Kubelet)
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); !v.Field(i).IsZero() && !(v.Field(i).Kind() == reflect.Map && v.Field(i).Len() == 0) {
			out[name] = v.Field(i).Interface()
		}
	}
	if len(s.Kubelet.EvictionHard) > 0 {
		out["evictionHard"] = EvictionHard(c, nodes)
	}
	return out
}

// EvictionHard are the limits at which kubelets evict pods, those of the settings and those that have none.
func EvictionHard(c *spec.Cluster, nodes []*facts.Facts) map[string]string {
	out := maps.Clone(evictionDefaults)
	if own, ok := KubeletWithoutSetting("evictionHard", nodes).(map[string]string); ok {
		out = maps.Clone(own)
	}
	maps.Copy(out, c.Spec.Settings.Kubelet.EvictionHard)
	return out
}

// KubeletWithoutSetting is the value of a field that no setting gives; nil if it is not there.
func KubeletWithoutSetting(field string, nodes []*facts.Facts) any {
	if field == "podPidsLimit" {
		return PodPidsLimit
	}
	if facts.AllContainers(nodes) {
		return InContainers()[field]
	}
	return nil
}

// SameField compares the values of a field, however they are written: kubeadm writes zeros for fields that are not set, and
// durations in its own way.
func SameField(a, b any) bool { return reflect.DeepEqual(canonical(a), canonical(b)) }

func canonical(v any) any {
	text, err := yaml.Marshal(v)
	var out any
	if err != nil || yaml.Unmarshal(text, &out) != nil {
		return v
	}
	switch x := out.(type) {
	case string:
		if d, err := time.ParseDuration(x); err == nil {
			out = d.String()
			if d == 0 {
				return nil
			}
		}
	case map[string]any:
		if len(x) == 0 {
			return nil
		}
	case []any:
		if len(x) == 0 {
			return nil
		}
	}
	if out == nil || reflect.ValueOf(out).IsZero() {
		return nil
	}
	return out
}
