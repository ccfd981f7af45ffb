package inspect

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"testing/fstest"

	"quorate.dev/quorate/internal/facts"
)

// TestHostsWriter: the last file that says something counts, and what the user gave to the machine is last.
func TestHostsWriter(t *testing.T) {
	const user = "var/lib/cloud/instance/cloud-config.txt"
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no cloud-init":           {map[string]string{"etc/cloud/cloud.cfg": "manage_etc_hosts: true\n"}, ""},
		"its defaults":            {map[string]string{"usr/bin/cloud-init": "", "etc/cloud/cloud.cfg": "cloud_init_modules:\n - update_etc_hosts\n"}, ""},
		"a provider's image":      {map[string]string{"usr/bin/cloud-init": "", "etc/cloud/cloud.cfg": "manage_etc_hosts: true\n"}, "/etc/cloud/cloud.cfg"},
		"switched off again":      {map[string]string{"usr/bin/cloud-init": "", "etc/cloud/cloud.cfg": "manage_etc_hosts: true\n", "etc/cloud/cloud.cfg.d/99-own.cfg": "manage_etc_hosts: false\n"}, ""},
		"Proxmox":                 {map[string]string{"usr/bin/cloud-init": "", "etc/cloud/cloud.cfg.d/99-own.cfg": "manage_etc_hosts: false\n", user: "#cloud-config\nhostname: cp-a\nmanage_etc_hosts: true\n"}, "/" + user},
		"the template by name":    {map[string]string{"usr/bin/cloud-init": "", user: "manage_etc_hosts: template\n"}, "/" + user},
		"only a line of its own":  {map[string]string{"usr/bin/cloud-init": "", user: "manage_etc_hosts: localhost\n"}, ""},
		"cloud-init disabled":     {map[string]string{"usr/bin/cloud-init": "", user: "manage_etc_hosts: true\n", "etc/cloud/cloud-init.disabled": ""}, ""},
		"a file that is not YAML": {map[string]string{"usr/bin/cloud-init": "", "etc/cloud/cloud.cfg": "manage_etc_hosts: true\n", user: "## template: jinja\n{% if x %}\n"}, "/etc/cloud/cloud.cfg"},
	} {
		if got := hostsWriter(tree(tc.files)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func tree(files map[string]string) fstest.MapFS {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = file(text)
	}
	return root
}

func TestRuleFlusher(t *testing.T) {
	const enabled, debian, rhel = "etc/systemd/system/sysinit.target.wants/nftables.service", "etc/nftables.conf", "etc/sysconfig/nftables.conf"
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"Debian's, not enabled": {map[string]string{debian: "flush ruleset\n"}, ""},
		"Debian's":              {map[string]string{enabled: "", debian: "#!/usr/sbin/nft -f\n\nflush ruleset\n\ntable inet filter {\n"}, "/" + debian},
		"with a semicolon":      {map[string]string{enabled: "", debian: "flush ruleset; table inet x\n"}, "/" + debian},
		"RHEL's":                {map[string]string{enabled: "", rhel: "  flush ruleset\n"}, "/" + rhel},
		"a comment":             {map[string]string{enabled: "", debian: "# flush ruleset\ntable inet filter\ndelete table inet filter\n"}, ""},
		"no file":               {map[string]string{enabled: ""}, ""},
	} {
		if got := ruleFlusher(tree(tc.files)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestLaterSettings: what counts is the name of a file and not its directory, and a file hides one of its name in a later directory.
func TestLaterSettings(t *testing.T) {
	got := laterSettings(tree(map[string]string{
		"etc/sysctl.d/10-early.conf":       "net.ipv4.ip_forward = 0\n",
		"etc/sysctl.d/90-quorate.conf":     "-net.ipv4.ip_forward = 1\n",
		"etc/sysctl.d/99-sysctl.conf":      "# net.ipv4.ip_forward=1\n; a comment = 1\n\nnet.ipv4.ip_forward=0\n",
		"usr/lib/sysctl.d/99-sysctl.conf":  "net.ipv4.ip_forward = 1\n",
		"usr/lib/sysctl.d/95-vendor.conf":  "-net/ipv4/conf/eth0.1/forwarding = 0\n",
		"run/sysctl.d/98-tuned.conf":       "kernel.sched = 1\nno value\n",
		"usr/lib/sysctl.d/99-z.conf.saved": "net.ipv4.ip_forward = 5\n",
	}))
	want := []facts.Setting{
		{File: "/usr/lib/sysctl.d/95-vendor.conf", Name: "net.ipv4.conf.eth0/1.forwarding", Value: "0"},
		{File: "/run/sysctl.d/98-tuned.conf", Name: "kernel.sched", Value: "1"},
		{File: "/etc/sysctl.d/99-sysctl.conf", Name: "net.ipv4.ip_forward", Value: "0"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestBlockedModules(t *testing.T) {
	got := blockedModules(tree(map[string]string{
		"etc/modprobe.d/cis.conf":         "install cramfs /bin/false\ninstall overlay /bin/false\n# install vxlan /bin/true\nblacklist veth\ninstall bridge /bin/true\n",
		"usr/lib/modprobe.d/vendor.conf":  "install br-netfilter /usr/bin/true\ninstall nf_conntrack /sbin/modprobe --ignore-install nf_conntrack\n",
		"lib/modules/6.1/modules.builtin": "kernel/net/bridge/bridge.ko\n",
	}), "6.1")
	if want := map[string]string{"overlay": "/etc/modprobe.d/cis.conf", "br_netfilter": "/usr/lib/modprobe.d/vendor.conf"}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestDropIns(t *testing.T) {
	got := dropIns(tree(map[string]string{
		"etc/systemd/system/kubelet.service.d/0-own.conf":           "[Service]\n# Environment=A=1\nEnvironment=A=1\nExecStart=\nExecStart=/usr/bin/kubelet\n",
		"usr/lib/systemd/system/kubelet.service.d/0-own.conf":       "[Service]\nNice=5\n",
		"usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf":  "[Service]\nExecStart=/usr/bin/kubelet\n",
		"etc/systemd/system/haproxy.service.d/empty.conf":           "[Service]\n",
		"etc/systemd/system/nginx.service.d/x.conf":                 "[Service]\nNice=5\n",
		"run/systemd/system/keepalived.service.d/50-CPUWeight.conf": "[Service]\nCPUWeight=10\n",
		"etc/default/kubelet":                                       "KUBELET_EXTRA_ARGS=\"--node-ip=10.0.0.1\"\n",
	}))
	want := []facts.DropIn{
		{Unit: "keepalived.service", Path: "/run/systemd/system/keepalived.service.d/50-CPUWeight.conf", Settings: []string{"CPUWeight"}},
		{Unit: "kubelet.service", Path: "/etc/systemd/system/kubelet.service.d/0-own.conf", Settings: []string{"Environment", "ExecStart"}},
		{Unit: "kubelet.service", Path: "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", Settings: []string{"ExecStart"}},
		{Unit: "kubelet.service", Path: "/etc/default/kubelet", Settings: []string{"KUBELET_EXTRA_ARGS"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := dropIns(tree(map[string]string{"etc/default/kubelet": "KUBELET_EXTRA_ARGS=\"\"\n# X=1\n"})); got != nil {
		t.Errorf("an empty environment file counts: %+v", got)
	}
}

// TestProxyVariables reads what `systemctl show-environment` prints. The password of a proxy stays on the host.
func TestProxyVariables(t *testing.T) {
	got := proxyVariables("LANG=C.UTF-8\nPATH=/usr/bin\nHTTPS_PROXY=http://user:secret@proxy:3128\nno_proxy=$'localhost, 10.0.0.1'\nHTTP_PROXY=\nall_proxy=user:p@ss@proxy:1\n")
	if want := []string{"HTTPS_PROXY=http://proxy:3128", "no_proxy=localhost, 10.0.0.1", "all_proxy=proxy:1"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestPodServers: the list of systemd-resolved stays when it is stopped, so its file alone says nothing.
func TestPodServers(t *testing.T) {
	const stub = "nameserver 127.0.0.53\noptions edns0\n"
	withResolved := tree(map[string]string{"etc/resolv.conf": stub, "run/systemd/resolve/resolv.conf": "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"})
	for state, want := range map[string][]string{"active": {"10.0.0.1", "10.0.0.2"}, "inactive": {"127.0.0.53"}} {
		systemctl(t, "echo LoadState=loaded; echo ActiveState="+state)
		if got := podServers(t.Context(), withResolved); !slices.Equal(got, want) {
			t.Errorf("%s: %v", state, got)
		}
	}
	if got := podServers(t.Context(), tree(map[string]string{"etc/resolv.conf": "search x\nnameserver 127.0.0.1\n"})); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("without systemd-resolved: %v", got)
	}
}
