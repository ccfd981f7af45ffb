package inspect

import (
	"bytes"
	"context"
	"io/fs"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
)

// This file finds what other programs of a host do to the files, settings, and units that Quorate writes. root is the host's root
// directory, or an imitation of one in tests.

// hostsWriter is the file that has cloud-init write /etc/hosts from its template each time that the host starts; empty if there is none.
// Later files win. What the user gave to the machine is stored below /var/lib/cloud and wins over everything else.
func hostsWriter(root fs.FS) (by string) {
	if !exists(root, "usr/bin/cloud-init") || exists(root, "etc/cloud/cloud-init.disabled") {
		return ""
	}
	drops, _ := fs.Glob(root, "etc/cloud/cloud.cfg.d/*.cfg")
	slices.Sort(drops)
	instance := "var/lib/cloud/instance/"
	for _, file := range slices.Concat([]string{"etc/cloud/cloud.cfg"}, drops, []string{instance + "vendor-cloud-config.txt", instance + "vendor2-cloud-config.txt", instance + "cloud-config.txt"}) {
		text, err := fs.ReadFile(root, file)
		var config struct {
			Manage any `json:"manage_etc_hosts"`
		}
		if err != nil || yaml.Unmarshal(text, &config) != nil || config.Manage == nil {
			continue
		}
		by = ""
		if v, ok := config.Manage.(string); config.Manage == true || ok && strings.EqualFold(v, "template") { // localhost only adds a line
			by = "/" + file
		}
	}
	return by
}

// ruleFlusher is the file with which nftables.service deletes all rules of the host, those of other programs included, each time that it
// is started or reloaded; empty if the unit is not enabled or deletes only its own.
func ruleFlusher(root fs.FS) string {
	if !enabled(root, "nftables.service") {
		return ""
	}
	for _, file := range []string{"etc/nftables.conf", "etc/sysconfig/nftables.conf"} {
		text, _ := fs.ReadFile(root, file)
		for line := range bytes.Lines(text) {
			if f := bytes.Fields(line); len(f) > 1 && string(f[0]) == "flush" && strings.TrimRight(string(f[1]), ";") == "ruleset" {
				return "/" + file
			}
		}
	}
	return ""
}

// enabled reports whether a unit of the system starts with the host, as its administrator has it.
func enabled(root fs.FS, unit string) bool {
	found, _ := fs.Glob(root, "etc/systemd/system/*.wants/"+unit)
	return len(found) > 0
}

func exists(root fs.FS, name string) bool { _, err := fs.Stat(root, name); return err == nil }

// overriding are the files of a kind that are read after ours, as sysctl.d(5) and modprobe.d(5) describe: sorted by their names,
// whatever directory they are in. A file hides others of its name in directories that come later in dirs.
func overriding(root fs.FS, after string, dirs ...string) (files []string) {
	seen := map[string]string{}
	for _, dir := range dirs {
		found, _ := fs.Glob(root, dir+"/*.conf")
		for _, file := range found {
			if name := path.Base(file); seen[name] == "" {
				seen[name] = file
			}
		}
	}
	for name, file := range seen {
		if name > after {
			files = append(files, file)
		}
	}
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return files
}

// firstSysctls is the first of the files in /etc/sysctl.d that Quorate writes.
const firstSysctls = "90-quorate.conf"

// laterSettings are the kernel settings in files that are read after the first of Quorate's, in the order in which they are set.
func laterSettings(root fs.FS) (out []facts.Setting) {
	for _, file := range overriding(root, firstSysctls, "etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d") {
		text, _ := fs.ReadFile(root, file)
		for line := range strings.Lines(string(text)) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			name = strings.TrimPrefix(strings.TrimSpace(name), "-")
			if !ok || name == "" || strings.ContainsAny(name[:1], "#;") {
				continue
			}
			if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' { // net/ipv4/conf/eth0.1/forwarding
				name = strings.NewReplacer("/", ".", ".", "/").Replace(name)
			}
			out = append(out, facts.Setting{File: "/" + file, Name: name, Value: strings.TrimSpace(value)})
		}
	}
	return out
}

// blockedModules are those of the features that a file of modprobe keeps from being loaded, with that file. Hardening guides have lines
// such as `install overlay /bin/false`.
func blockedModules(root fs.FS, release string) map[string]string {
	builtin, _ := fs.ReadFile(root, "lib/modules/"+release+"/modules.builtin")
	config, _ := kernelConfig(root, release)
	out := map[string]string{}
	for _, file := range overriding(root, "", "etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d") {
		text, _ := fs.ReadFile(root, file)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 3 || f[0] != "install" {
				continue
			}
			name := strings.ReplaceAll(f[1], "-", "_")
			command := path.Base(f[2])
			if symbol, ok := features[name]; ok && (command == "false" || command == "true") && config[symbol] != "y" && !moduleListed(builtin, name, "\n") {
				out[name] = "/" + file
			}
		}
	}
	return out
}

// ourUnits are those whose settings Quorate determines.
var ourUnits = []string{"containerd.service", "etcd.service", "haproxy.service", "keepalived.service", "kubelet.service"}

// dropIns are files that change the units which Quorate writes or starts: drop-ins, and the environment file of the kubelet.
func dropIns(root fs.FS) (out []facts.DropIn) {
	for _, unit := range ourUnits {
		seen := map[string]bool{}
		for _, dir := range []string{"etc/systemd/system/", "run/systemd/system/", "usr/local/lib/systemd/system/", "usr/lib/systemd/system/", "lib/systemd/system/"} {
			files, _ := fs.Glob(root, dir+unit+".d/*.conf")
			for _, file := range files {
				if name := path.Base(file); !seen[name] { // a file hides those of its name in later directories
					seen[name] = true
					if names := assigned(root, file); len(names) > 0 {
						out = append(out, facts.DropIn{Unit: unit, Path: "/" + file, Settings: names})
					}
				}
			}
		}
	}
	const environment = "etc/default/kubelet"
	if names := assigned(root, environment); len(names) > 0 {
		out = append(out, facts.DropIn{Unit: "kubelet.service", Path: "/" + environment, Settings: names})
	}
	return out
}

// assigned are the names that a file sets to something, in its order.
func assigned(root fs.FS, file string) (names []string) {
	text, _ := fs.ReadFile(root, file)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		name = strings.TrimSpace(name)
		if ok && name != "" && !strings.ContainsAny(name[:1], "#;") && strings.Trim(value, ` "'`) != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// serviceProxies are the proxy settings that systemd gives to all services of the host, as NAME=value: those of DefaultEnvironment= in
// its configuration, and of `systemctl set-environment`.
func serviceProxies(ctx context.Context) []string {
	text, err := system.Output(ctx, "systemctl", "show-environment")
	if err != nil {
		return nil
	}
	return proxyVariables(string(text))
}

func proxyVariables(environment string) (out []string) {
	for line := range strings.Lines(environment) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if value = unquoted(value); value != "" && system.IsProxy(name) {
			out = append(out, name+"="+withoutLogin(value))
		}
	}
	return out
}

// withoutLogin takes the user and the password out of the address of a proxy.
func withoutLogin(proxy string) string {
	at := strings.LastIndex(proxy, "@")
	if at < 0 {
		return proxy
	}
	scheme, _, ok := strings.Cut(proxy[:at], "://")
	if !ok {
		return proxy[at+1:]
	}
	return scheme + "://" + proxy[at+1:]
}

// unquoted undoes what systemctl does to values with unusual characters: $'…'.
func unquoted(value string) string {
	inner, ok := strings.CutPrefix(value, "$'")
	if !ok {
		return strings.Trim(value, `"`)
	}
	return strings.NewReplacer(`\\`, `\`, `\'`, `'`).Replace(strings.TrimSuffix(inner, "'"))
}

// podServers are the DNS servers to which the DNS of pods forwards queries: those of the file that kubeadm has the kubelet use, which is
// that of systemd-resolved where this runs.
func podServers(ctx context.Context, root fs.FS) []string {
	const own, resolved = "etc/resolv.conf", "run/systemd/resolve/resolv.conf"
	file := own
	if exists(root, resolved) {
		if units, err := system.Units(ctx, "systemd-resolved.service"); err != nil || units["systemd-resolved.service"].Active == "active" {
			file = resolved
		}
	}
	text, _ := fs.ReadFile(root, file)
	return nameservers(string(text))
}

// nameservers are the DNS servers in a resolv.conf.
func nameservers(resolvConf string) (out []string) {
	for line := range strings.Lines(resolvConf) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			out = append(out, f[1])
		}
	}
	return out
}
