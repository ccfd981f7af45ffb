package spec

import (
	"encoding/binary"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

func readInventory(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The same inventory in the formats that people have.
func TestReadAnsible(t *testing.T) {
	ini := readInventory(t, "inventory.ini")
	for name, in := range map[string]struct{ file, text string }{
		"INI":                 {"inventory.ini", ini},
		"INI from stdin":      {"-", ini},
		"INI with a BOM":      {"hosts", "\ufeff" + ini},
		"INI in UTF-16":       {"hosts", utf16Text(ini)},
		"INI of Windows":      {"hosts", strings.ReplaceAll(ini, "\n", "\r\n")},
		"YAML":                {"inventory.yaml", readInventory(t, "inventory.yaml")},
		"YAML from stdin":     {"-", readInventory(t, "inventory.yaml")},
		"ansible-inventory":   {"-", readInventory(t, "inventory.json")},
		"old names of groups": {"-", strings.NewReplacer("kube_control_plane", "kube-master", "kube_node", "kube-node").Replace(ini)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadAnsible([]byte(in.text), in.file, AnsibleOptions{})
			if err != nil {
				t.Fatal(err)
			}
			data, err := Init(got.Options.Over(InitOptions{Name: "prod"}))
			if err != nil {
				t.Fatal(err)
			}
			c, err := Check(data, "cluster.yaml", Options{})
			if err != nil {
				t.Fatal(err)
			}
			var hosts []string
			for _, h := range c.Spec.Hosts {
				hosts = append(hosts, h.Name+" "+h.Address+" "+strings.Join(h.Roles, "+")+" "+h.Zone)
			}
			want := []string{"cp-01 10.0.0.11 control-plane a", "cp-02 10.0.0.12 control-plane b", "cp-03 10.0.0.13 control-plane c", "worker-1 10.0.0.31 worker a", "worker-2 10.0.0.32 worker b"}
			if !slices.Equal(hosts, want) {
				t.Errorf("hosts\n%q, want\n%q", hosts, want)
			}
			if got, want := c.Spec.Hosts[0].SSH, (SSH{Address: "192.0.2.11", User: "admin", Port: 2222, KeyFile: "~/.ssh/prod", Jump: "ops@bastion.example.com:2200", JumpKeyFile: "~/.ssh/ops"}); got != want {
				t.Errorf("SSH %+v, want %+v", got, want)
			}
			if got := c.Spec.Hosts[3].SSH; got.User != "debian" || got.Port != 22 {
				t.Errorf("SSH of worker-1 %+v", got)
			}
			s := c.Spec
			if s.Kubernetes.Version != "v1.37.2" || s.ControlPlane.Endpoint != "api.example.com:8443" || s.ControlPlane.Topology != TopologyStacked || s.Network.PodCIDR != "10.233.64.0/18" ||
				s.LoadBalancer.Type != BalancerExternal || s.LoadBalancer.Address != "10.0.0.100" || s.Network.CNI != CNINone {
				t.Errorf("%+v", s)
			}
			if len(s.NodePools) != 1 || !maps.Equal(s.NodePools[0].Labels, map[string]string{"example.com/tier": "web"}) || !slices.Equal(s.NodePools[0].Hosts, []string{"worker-1", "worker-2"}) ||
				!slices.Equal(s.NodePools[0].Taints, []Taint{{Key: "dedicated", Value: "web", Effect: "NoSchedule"}}) {
				t.Errorf("%+v", s.NodePools)
			}
			notes := strings.Join(got.Notes, "\n")
			for _, want := range []string{"StrictHostKeyChecking", "calico", "etcd_member_name", "router-1", "ansible_become_password was left out: use --ask-sudo-password"} {
				if !strings.Contains(notes, want) {
					t.Errorf("no note has %q:\n%s", want, notes)
				}
			}
			for _, not := range []string{"hunter2", "ansible_user", "ansible_host", "kube_version"} {
				if strings.Contains(notes, not) {
					t.Errorf("a note has %q:\n%s", not, notes)
				}
			}
		})
	}
}

func utf16Text(s string) string {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return string(out)
}

// small is an inventory of three control planes that are workers as well, after some lines.
func small(lines ...string) string {
	return "[kube_control_plane]\nn[1:3]\n[kube_node:children]\nkube_control_plane\n" + strings.Join(lines, "\n")
}

func TestReadAnsibleShapes(t *testing.T) {
	lookup := func(name string) string {
		if digit, ok := strings.CutPrefix(name, "n"); ok && len(digit) == 1 {
			return "10.0.0.1" + digit
		}
		return ""
	}
	for name, tc := range map[string]struct {
		text  string
		check func(*Ansible) bool
		note  string
	}{
		"names that resolve": {small(), func(a *Ansible) bool {
			h := a.Options.Hosts[1]
			return h.Name == "n2" && h.Address == "10.0.0.12" && slices.Equal(h.Roles, []string{RoleControlPlane, RoleWorker}) && h.Zone == "b"
		}, "as n1 resolves"},
		"a bastion with an IPv6 address": {small("[bastion]", "jump ansible_host=fd00::b ansible_port=2200 ansible_user=ops"), func(a *Ansible) bool {
			return a.Options.Hosts[0].SSH.Jump == "ops@[fd00::b]:2200"
		}, ""},
		"an IPv6 address with a port": {small("[kube_node]", "[fd00::9]:2222"), func(a *Ansible) bool {
			h := a.Options.Hosts[len(a.Options.Hosts)-1]
			return h.Address == "fd00::9" && h.SSH.Port == 2222
		}, ""},
		"a bastion": {small("[bastion]", "jump ansible_host=192.0.2.1 ansible_user=ops"), func(a *Ansible) bool {
			return len(a.Options.Hosts) == 3 && a.Options.Hosts[0].SSH.Jump == "ops@192.0.2.1"
		}, ""},
		"the jump host of a host before the bastion": {small("[bastion]", "jump ansible_host=192.0.2.1", "[kube_control_plane:vars]", "ansible_ssh_common_args='-J x@192.0.2.2'"), func(a *Ansible) bool {
			return a.Options.Hosts[0].SSH.Jump == "x@192.0.2.2"
		}, ""},
		"a variable of a child before its parent's": {small("[kube_node:vars]", "ansible_user=parent", "[kube_control_plane:vars]", "ansible_user='child' # because", "[all:vars]", "ansible_user=all", "ansible_port=2200 # ours"), func(a *Ansible) bool {
			return a.Options.Hosts[0].SSH.User == "child" && a.Options.Hosts[0].SSH.Port == 2200
		}, ""},
		"a priority before the order of names": {small("[zz]", "n1", "[aa]", "n1", "[aa:vars]", "ansible_user=aa", "ansible_group_priority=10", "[zz:vars]", "ansible_user=zz"), func(a *Ansible) bool {
			return a.Options.Hosts[0].SSH.User == "aa" && !strings.Contains(strings.Join(a.Notes, "\n"), "ansible_group_priority")
		}, ""},
		"control planes that run workloads": {small(), func(a *Ansible) bool { return a.Options.Hosts[0].Has(RoleWorker) }, "so they also run workloads: n1, n2, n3."},
		"a bastion with two addresses": {small("[bastion]", "jump ansible_host=192.0.2.1 ip=10.9.9.9"), func(a *Ansible) bool {
			return a.Options.Hosts[0].SSH.Jump == "192.0.2.1" && a.Options.Hosts[0].SSH.Address != a.Options.Hosts[0].Address
		}, ""},
		"a template in a mapping": {small("[all:vars]", "node_labels={'tier': '{{ tier }}', 'a': 'b'}"), func(a *Ansible) bool {
			return len(a.Options.NodePools) == 1 && maps.Equal(a.Options.NodePools[0].Labels, map[string]string{"a": "b"})
		}, "node_labels.tier of n1 is a template"},
		"etcd on its own hosts": {small("[etcd]", "e[1:3]", "[all:vars]", "zone=z"), func(a *Ansible) bool {
			return a.Options.Topology == TopologyExternal && slices.Equal(a.Options.Hosts[3].Roles, []string{RoleEtcd})
		}, ""},
		"etcd on some of the nodes": {small("[etcd]", "n1", "n2", "w9"), func(a *Ansible) bool { return a.Options.Topology == TopologyStacked && len(a.Options.Hosts) == 3 }, "The group etcd (n1, n2, w9) is not that of the control planes"},
		"load balancers": {small("[load-balancers]", "lb-a", "lb-b"), func(a *Ansible) bool {
			return len(a.Options.Hosts) == 5 && slices.Equal(a.Options.Hosts[4].Roles, []string{RoleLoadBalancer}) && a.Options.Hosts[4].Zone == "b"
		}, "lb-a has no address"},
		"hosts by address": {"[masters]\n10.0.0.[11:13]\n[workers]\n10.0.0.21:2222\n", func(a *Ansible) bool {
			return a.Options.Hosts[0].Name == "cp-1" && a.Options.Hosts[0].Address == "10.0.0.11" && a.Options.Hosts[3].Name == "worker-1" && a.Options.Hosts[3].SSH.Port == 2222
		}, "The spec calls it worker-1"},
		"names with dots": {strings.ReplaceAll(small(), "n[1:3]", "n[1:3].example.com ip=10.0.0.9"), func(a *Ansible) bool { return a.Options.Hosts[0].Name == "n1" }, "by its short name"},
		"a template":      {small("[all:vars]", "ansible_user={{ who }}"), func(a *Ansible) bool { return a.Options.Hosts[0].SSH.User == "" }, "is a template"},
		"a vault":         {"kube_control_plane:\n  hosts:\n    n1: {zone: a, ansible_user: !vault abc}\n", func(a *Ansible) bool { return a.Options.Hosts[0].SSH.User == "" }, "is encrypted"},
		"variables that are merged": {"kube_control_plane:\n  hosts:\n    n1: &usual\n      ansible_user: ops\n      zone: z\n    n2:\n      ansible_user: own\n      <<: *usual\n    n3:\n      <<: [*usual]\n", func(a *Ansible) bool {
			h := a.Options.Hosts
			return h[0].SSH.User == "ops" && h[1].SSH.User == "own" && h[1].Zone == "z" && h[2].SSH.User == "ops" && h[2].Zone == "z"
		}, ""},
		"a proxy command": {small("[all:vars]", `ansible_ssh_common_args='-o ProxyCommand="ssh -q -W %h:%p -i ~/j -p 2200 a@b"'`), func(a *Ansible) bool {
			return a.Options.Hosts[0].SSH.Jump == "a@b:2200" && a.Options.Hosts[0].SSH.JumpKeyFile == "~/j"
		}, ""},
		"another command":  {small("[all:vars]", `ansible_ssh_common_args='-o ProxyCommand="nc -x proxy %h %p"'`), func(a *Ansible) bool { return a.Options.Hosts[0].SSH.Jump == "" }, "-o ProxyCommand"},
		"labels as a text": {small("[all:vars]", "node_labels=tier=web", "node_taints=a=b:NoSchedule"), func(a *Ansible) bool { return len(a.Options.NodePools) == 0 }, "node_labels of n1 is a string, and no mapping"},
		"private addresses": {strings.ReplaceAll(small(), "n[1:3]", "n1 ansible_host=192.0.2.1 ip=10.0.0.1"), func(a *Ansible) bool {
			h := a.Options.Hosts[0]
			return h.Address == "10.0.0.1" && h.SSH.Address == "192.0.2.1"
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadAnsible([]byte(tc.text), "hosts", AnsibleOptions{Zones: []string{"a", "b", "c"}, Lookup: lookup})
			if err != nil {
				t.Fatal(err)
			}
			if !tc.check(got) {
				t.Errorf("%+v", got.Options)
			}
			if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, tc.note) {
				t.Errorf("no note has %q:\n%s", tc.note, notes)
			}
		})
	}
}

func TestReadAnsibleRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		text, want string
		line       int
	}{
		"nothing":                    {" \n", "it is empty", 0},
		"no control planes":          {"[kube_contol_plane]\nn1\n", "did you mean `kube_contol_plane`?", 0},
		"no zones":                   {small(), "--zones a,b,c", 0},
		"a range to nowhere":         {"[kube_control_plane]\nn[3:1]\n", "is empty", 2},
		"a huge range":               {"[kube_control_plane]\nn[1:999999999]\n", "more than 5000 hosts", 2},
		"huge ranges":                {"[kube_control_plane]\nn[1:4000][1:4000]\n", "more than 5000 hosts", 2},
		"an open range":              {"[kube_control_plane]\nn[1:3\n", "not closed", 2},
		"uneven ends":                {"[kube_control_plane]\nn[01:100]\n", "different lengths", 2},
		"an open quote":              {"[kube_control_plane]\nn1 a='b\n", "a quote is not closed", 2},
		"spaces around =":            {"[kube_control_plane]\nn1 ansible_host = 10.0.0.1\n", "without spaces", 2},
		"a space before a password":  {"[kube_control_plane]\nn1 ansible_password= hunter2\n", "what follows `ansible_password` is not a variable", 2},
		"a line that is no variable": {"[kube_control_plane]\nn1\n[all:vars]\nhunter2\n", "not a variable", 4},
		"an unknown section":         {"[kube_control_plane]\nn1\n[kube_node:hosts]\n", "is not a section", 3},
		"an unknown child":           {"[kube_control_plane]\nn1\n[kube_node:children]\nkube_controlplane\n", "did you mean `kube_control_plane`?", 3},
		"variables of nobody":        {"[kube_control_plane]\nn1\n[kube_nodes:vars]\na=b\n", "no group of that name", 3},
		"a cycle":                    {"[a:children]\nb\n[b:children]\na\n[kube_control_plane]\nn1\n", "a group contains itself: a, b", 0},
		"no port":                    {small("[all:vars]", "ansible_port=ssh"), "`ssh` is not a number", 2},
		"a local host":               {small("[all:vars]", "ansible_connection=local"), "its connection is `local`", 2},
		"a key":                      {small("[all:vars]", `ansible_ssh_private_key_file=-----BEGIN OPENSSH PRIVATE KEY-----`), "this is a private key", 2},
		"a program":                  {"#!/usr/bin/env python3\n", "it is a program", 0},
		"a vault":                    {"$ANSIBLE_VAULT;1.1;AES256\n", "ansible-vault view", 0},
		"no mapping of hosts":        {"kube_control_plane:\n  hosts: n1\n", "write each host as a key", 2},
		"an unknown field":           {"kube_control_plane:\n  host:\n    n1:\n", "did you mean `hosts`?", 0},
		"no YAML":                    {"a: b\n c: [\n", "is not a variable", 1},
		"aliases without end":        {"all:\n  children: &c\n    kube_node:\n      children: *c\n", "nested", 0},
		"no hosts":                   {"[kube_control_plane]\n", "there are no hosts", 0},
		"a mapping for a text":       {"kube_control_plane:\n  hosts:\n    n1: {ansible_user: {a: b}, zone: a}\n", "it must be a text", 0},
		"a host of two numbers":      {"[kube_control_plane]\nn[1:2:0]\n", "not a number above 0", 2},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadAnsible([]byte(tc.text), "hosts", AnsibleOptions{})
			if err == nil {
				t.Fatalf("%+v", got.Options)
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if tc.line > 0 && !strings.Contains(err.Error(), "hosts:"+string(rune('0'+tc.line))+":") {
				t.Errorf("it does not name line %d: %v", tc.line, err)
			}
		})
	}
}

func TestInitNamesThePlaceInTheInventory(t *testing.T) {
	got, err := ReadAnsible([]byte(small("[all:vars]", "zone=z")), "hosts", AnsibleOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got.Options.Hosts[0].Address = "10.0.0.1"
	if _, err = Init(got.Options); err == nil || !strings.Contains(err.Error(), "n2 (line 2).address") {
		t.Errorf("%v", err)
	}
}

func TestExpandHosts(t *testing.T) {
	for in, want := range map[string]string{
		"n":              "n",
		"n[1:3]":         "n1 n2 n3",
		"n[01:03]":       "n01 n02 n03",
		"n[098:101]":     "n098 n099 n100 n101",
		"n[a:c].x":       "na.x nb.x nc.x",
		"n[1:10:4]":      "n1 n5 n9",
		"n[:2]":          "n0 n1 n2",
		"r[1:2]-n[a:b]":  "r1-na r1-nb r2-na r2-nb",
		"10.0.0.[11:12]": "10.0.0.11 10.0.0.12",
	} {
		if got, err := expandHosts(in); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}

func TestShellWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                            nil,
		"a  b\tc":                     {"a", "b", "c"},
		`a="b c" 'd "e"' f\ g`:        {"a=b c", `d "e"`, "f g"},
		`x="a \"b\" \c"`:              {`x=a "b" \c`},
		`'' a`:                        {"", "a"},
		"n1 # a comment":              {"n1"},
		`-o ProxyCommand="ssh -W %h"`: {"-o", "ProxyCommand=ssh -W %h"},
	} {
		if got, ok := splitWords(in, true); !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %t, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{`"`, `a'b`, `a\`} {
		if got, ok := shellWords(in); ok {
			t.Errorf("%s: %q", in, got)
		}
	}
}
