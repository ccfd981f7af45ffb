package preflight

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file judges what other programs of a host do to the files, settings, and units that Quorate writes.

func (j *judge) surroundings(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if in.HostsWriter != "" {
		j.add(warning, "rewrites", on, "Set manage_etc_hosts to false there. What is below /var/lib/cloud comes from the user data of the machine, so change that too, or run `touch /etc/cloud/cloud-init.disabled`. If DNS resolves the endpoint and all hosts, nothing is lost.",
			"cloud-init on HOSTS writes /etc/hosts from its own template each time that the host starts (manage_etc_hosts in %s): the names of the cluster would be missing until the next `quorate apply`", in.HostsWriter)
	}
	if h.IsNode() && in.RuleFlusher != "" {
		j.add(warning, "rewrites", on, "In "+in.RuleFlusher+", delete only your own tables, for example with `table inet filter` and `delete table inet filter` instead of `flush ruleset`.",
			"`flush ruleset` in %s on HOSTS deletes the rules of all programs when nftables.service is reloaded: Services and pods are cut off until kube-proxy and flannel have restored theirs", in.RuleFlusher)
	}
	if h.IsNode() && in.CloudRoutes {
		j.add(warning, "rewrites", on, "Run `systemctl disable --now nm-cloud-setup.timer nm-cloud-setup.service`, and reboot.",
			"nm-cloud-setup is enabled on HOSTS: its routes take precedence over those of the pod network")
	}
	j.settings(h, f, in)
	if !j.Joined(h) {
		j.environment(h, in)
		j.units(h, in)
	}
}

// sameSetting are the names under which the kernel has a setting as well.
var sameSetting = map[string][]string{"net.ipv4.ip_forward": {"net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding"}}

// settings looks for kernel settings that do not stay as Quorate sets them.
func (j *judge) settings(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	var desired []facts.Desired
	if h.IsNode() {
		desired = append(desired, hostconfig.Runtime(f, ""), hostconfig.Settings(j.c, f))
	}
	if j.c.Balances(h) {
		desired = append(desired, hostconfig.Balancer(j.c, h, f, ""))
	}
	own := hostconfig.Request(j.c).Files
	for _, d := range desired {
		file := slices.IndexFunc(d.Files, func(file facts.File) bool { return path.Dir(file.Path) == "/etc/sysctl.d" })
		if file < 0 {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(d.Sysctls)) {
			names := append([]string{name}, sameSetting[name]...)
			var last *facts.Setting
			for _, s := range in.LaterSettings {
				if slices.Contains(names, s.Name) && path.Base(s.File) > path.Base(d.Files[file].Path) && !slices.Contains(own, s.File) {
					last = &s
				}
			}
			if last != nil && !slices.Equal(strings.Fields(last.Value), strings.Fields(d.Sysctls[name])) {
				j.add(failure, "sysctls", on, "Remove the line from "+last.File+", and run `sysctl --system`.",
					"%s on HOSTS sets %s = %s each time that the host starts, and the cluster needs %s = %s", last.File, last.Name, last.Value, name, d.Sysctls[name])
			}
		}
	}
	if h.IsNode() && in.IgnoresPings && j.c.Spec.Network.CNI == spec.CNIFlannel {
		j.add(failure, "sysctls", on, "Run `sysctl -w net.ipv4.icmp_echo_ignore_all=0`, and remove the setting from the files below /etc/sysctl.d.",
			"the kernel of HOSTS does not answer pings (net.ipv4.icmp_echo_ignore_all is 1): nodes test the pod network with them, and would not become Ready")
	}
}

// environment judges the proxy that systemd gives to services. A kubelet and etcd use it for every address that NO_PROXY does not have.
func (j *judge) environment(h spec.Host, in facts.Inspection) {
	if !h.IsNode() && !hasMember(j.c, h) {
		return
	}
	var config httpproxy.Config
	for _, v := range in.ServiceProxies {
		name, value, _ := strings.Cut(v, "=")
		switch strings.ToLower(name) {
		case "https_proxy": // everything in the cluster is https
			config.HTTPSProxy = value
		case "no_proxy":
			config.NoProxy = value
		}
	}
	if config.HTTPSProxy == "" {
		return
	}
	proxy := config.ProxyFunc()
	var away []string
	for _, target := range contacted(j.c, h) {
		if via, err := proxy(&url.URL{Scheme: "https", Host: net.JoinHostPort(target, hostconfig.EndpointPort(j.c))}); err != nil || via != nil {
			away = append(away, target)
		}
	}
	if len(away) == 0 {
		return
	}
	add := "the endpoint's name and the addresses of all control planes and etcd hosts"
	if len(away) <= mostSources {
		add = strings.Join(away, ",")
	}
	j.add(failure, "environment", []string{h.Name}, fmt.Sprintf("Add %s to NO_PROXY where HTTPS_PROXY is set (`grep -ri proxy /etc/systemd/system.conf /etc/systemd/system.conf.d`), or remove both; then run `systemctl daemon-reexec`. Package managers have settings of their own.", add),
		"systemd on HOSTS gives all services the proxy %s, and NO_PROXY does not except %s: the kubelet and etcd would connect to the cluster through the proxy", config.HTTPSProxy, few(away))
}

// contacted are the names and addresses that programs with systemd's environment connect to on a host: a kubelet to the endpoint and to API
// servers, and a member of etcd on a host of its own to the others.
func contacted(c *spec.Cluster, h spec.Host) (out []string) {
	if h.IsNode() {
		out = append(out, hostconfig.EndpointHost(c))
	}
	for _, other := range c.Spec.Hosts {
		if h.IsNode() && other.Has(spec.RoleControlPlane) || hasMember(c, h) && hasMember(c, other) {
			out = append(out, other.Address)
		}
	}
	return out
}

// units names the files of others that change units which Quorate writes or starts.
func (j *judge) units(h spec.Host, in facts.Inspection) {
	runs := map[string]bool{"kubelet.service": h.IsNode(), "containerd.service": h.IsNode(), hostconfig.EtcdUnit: j.c.ManagedEtcd() && hasMember(j.c, h),
		"haproxy.service": j.c.Balances(h), "keepalived.service": j.c.Balances(h)}
	var own []string
	for _, file := range hostconfig.Request(j.c).Files {
		own = append(own, path.Join(path.Base(path.Dir(file)), path.Base(file))) // a file in /etc hides those of its name elsewhere
	}
	for _, d := range in.DropIns {
		switch {
		case !runs[d.Unit], slices.Contains(own, path.Join(path.Base(path.Dir(d.Path)), path.Base(d.Path))):
		case d.Unit == "containerd.service" && slices.Equal(d.Settings, []string{"Environment"}): // such as a proxy for images of your own
		default:
			j.add(warning, "units", []string{h.Name}, "Check that "+d.Unit+" still does what the cluster needs with it, or remove the file and run `systemctl daemon-reload`.",
				"%s on HOSTS changes %s: it sets %s", d.Path, d.Unit, cluster.List(d.Settings))
		}
	}
}
