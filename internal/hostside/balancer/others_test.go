package balancer

import (
	"maps"
	"reflect"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

func TestWhoBalances(t *testing.T) {
	const api = `# kubeadm's documentation, nearly
global
    log stdout format raw local0
defaults
    mode tcp
frontend apiserver
    bind *:6443
    default_backend apiserverbackend
backend apiserverbackend
    option httpchk
    server cp-a 10.0.0.11:6443 check verify none
    server cp-b 10.0.0.12:6443 check # bind *:80
`
	server := []string{"10.0.0.11:6443", "10.0.0.12:6443"}
	frontend := facts.Service{Name: "frontend apiserver", Bind: "*:6443"}
	for name, tc := range map[string]struct {
		haproxy, keepalived string
		cluster             string
		others              *facts.OthersBalancing
	}{
		"nothing": {},
		"ours":    {haproxy: "# Written by quorate for the cluster prod. Changes are undone by the next quorate apply.\nglobal\n", cluster: "prod"},
		"theirs":  {haproxy: api, others: &facts.OthersBalancing{Services: []facts.Service{frontend}, Servers: server}},
		"statistics, and an ingress": {haproxy: api + "listen stats\n  bind :9000\n  stats enable\nfrontend web\n bind 10.0.0.9:80,10.0.0.9:443 ssl\n use_backend x if { path / }\n",
			others: &facts.OthersBalancing{Servers: server, Services: []facts.Service{frontend, {Name: "listen stats", Bind: ":9000", Statistics: true},
				{Name: "frontend web", Bind: "10.0.0.9:80"}, {Name: "frontend web", Bind: "10.0.0.9:443"}}}},
		"virtual IPs": {keepalived: "vrrp_instance a {\n  unicast_peer {\n    10.0.0.3\n  }\n  virtual_ipaddress {\n    10.0.0.100/24 dev eth0 # 10.0.0.101\n    10.0.0.102\n  }\n}\nvrrp_instance b { virtual_ipaddress { 10.0.0.103 } }\n",
			others: &facts.OthersBalancing{VirtualIPs: []string{"10.0.0.100", "10.0.0.102", "10.0.0.103"}}},
		"what cannot be judged": {keepalived: "include /etc/keepalived/conf.d/*.conf\nvirtual_server 10.0.0.7 80 {\n  real_server 10.0.0.8 80 {\n }\n}\n",
			others: &facts.OthersBalancing{Services: []facts.Service{{Name: "keepalived's include /etc/keepalived/conf.d/*.conf"}, {Name: "keepalived's virtual_server 10.0.0.7 80"}}}},
	} {
		cluster, others := whoBalances(tc.haproxy, tc.keepalived)
		if cluster != tc.cluster || !reflect.DeepEqual(others, tc.others) {
			t.Errorf("%s: %q, %+v", name, cluster, others)
		}
	}
	for bind, want := range map[string]string{"*:6443": "6443", ":80": "80", "[::]:443": "443", "0.0.0.0:1-9": "1-9", "unix@/run/x": "unix@/run/x", "": ""} {
		if got := (facts.Service{Bind: bind}).Port(); got != want {
			t.Errorf("%q: port %q", bind, got)
		}
	}
}

func TestPeers(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil,
		"vrrp_instance api {\n    unicast_src_ip 10.0.0.1\n    unicast_peer {\n        10.0.0.2 min_ttl 255\n        # 10.0.0.9\n        10.0.0.3 min_ttl 255\n    }\n    virtual_ipaddress {\n        10.0.0.100/24 dev eth0\n    }\n}\n": {"10.0.0.2", "10.0.0.3"},
		"unicast_peer { 10.0.0.2 }\nvirtual_ipaddress { 10.0.0.100 }": {"10.0.0.2"},
		"unicast_peer {\n}\n": nil,
	} {
		if got := peers(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: long-term": "2.6.12",
		"HA-Proxy version 1.8.27-493ce0b 2020/11/06\n":                                          "1.8.27",
		"Keepalived v2.2.7 (01/16,2022)\n\nCopyright(C)":                                        "2.2.7",
		"exec format error": "exec format error",
	} {
		if got := version(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestARP: announcements and replies name their sender; anything else is ignored.
func TestARP(t *testing.T) {
	packet := []byte{0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 7, 10, 0, 0, 100, 2, 0, 0, 0, 0, 8, 10, 0, 0, 1, 0, 0}
	mac, ip, ok := parseARP(packet)
	if !ok || mac.String() != "02:00:00:00:00:07" || ip.String() != "10.0.0.100" {
		t.Errorf("%s %s %v", mac, ip, ok)
	}
	for _, wrong := range [][]byte{nil, packet[:27], append([]byte{0, 6}, packet[2:]...)} {
		if _, _, ok := parseARP(wrong); ok {
			t.Errorf("%v is read", wrong)
		}
	}
}

// TestNeighbors: only entries that the kernel has resolved, on the interface that leads there.
func TestNeighbors(t *testing.T) {
	const table = `IP address       HW type     Flags       HW address            Mask     Device
10.0.0.2         0x1         0x2         02:00:00:00:00:02     *        eth0
10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        eth0
10.0.0.4         0x1         0x6         02:00:00:00:00:04     *        eth0
10.0.0.2         0x1         0x2         02:00:00:00:00:99     *        eth1
10.0.0.9         0x1         0x2         02:00:00:00:00:09     *        eth0
`
	got := neighbors(table, "eth0", []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"})
	if want := map[string]string{"10.0.0.2": "02:00:00:00:00:02", "10.0.0.4": "02:00:00:00:00:04"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
