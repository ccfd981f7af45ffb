package spec

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// leaves are the fields of a type, and those of the structs in it, by their names in YAML.
func leaves(t reflect.Type, prefix string) (out []string) {
	for f := range t.Fields() {
		name := yamlName(f)
		switch {
		case name == "":
		case f.Type.Kind() == reflect.Struct:
			out = append(out, leaves(f.Type, prefix+name+".")...)
		default:
			out = append(out, prefix+name)
		}
	}
	return out
}

// leaf is the value of a field that leaves has named.
func leaf(v reflect.Value, path string) reflect.Value {
	name, rest, deeper := strings.Cut(path, ".")
	for f, value := range v.Fields() {
		if yamlName(f) == name {
			if deeper {
				return leaf(value, rest)
			}
			return value
		}
	}
	panic("there is no field " + path)
}

// whole is a host that sets every field.
var whole = Host{
	Name: "lb-a", Address: "10.0.0.31", SecondaryAddress: "fd00::31", FrontAddress: "192.0.2.31", Roles: []string{RoleLoadBalancer}, Zone: "a", Region: "north", FailsWith: []string{"rack-1", "power-a"},
	SSH: SSH{Address: "203.0.113.1", User: "admin", Port: 2231, HostPort: 2022, KeyFile: "~/.ssh/prod", KnownHostsFile: "~/.ssh/known_prod",
		HostKey: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Jump: "gate@outer.example.com:2022,ops@bastion.example.com:2200", JumpKeyFile: "~/.ssh/outer,~/.ssh/ops"},
}

// TestEveryFieldOfAHostCanBeImported: a field that is added to the spec must be read from everything that hosts come from, or be named as one that is not.
func TestEveryFieldOfAHostCanBeImported(t *testing.T) {
	paths := leaves(reflect.TypeFor[Host](), "")
	for _, path := range paths {
		if leaf(reflect.ValueOf(whole), path).IsZero() {
			t.Fatalf("the host of this test does not set %s", path)
		}
	}
	for name, from := range map[string]struct {
		read func() ([]Host, error)
		// dropped are the fields that it cannot have, and page says so.
		dropped []string
		page    string
	}{
		"--host": {read: func() ([]Host, error) {
			h, err := ParseHostFlag("name=lb-a,address=10.0.0.31,secondaryAddress=fd00::31,frontAddress=192.0.2.31,role=load-balancer,zone=a,region=north,failsWith=rack-1,failsWith=power-a,sshAddress=203.0.113.1," +
				"user=admin,port=2231,hostPort=2022,key=~/.ssh/prod,knownHosts=~/.ssh/known_prod,hostKey=" + whole.SSH.HostKey + ",jump=gate@outer.example.com:2022,jumpKey=~/.ssh/outer,jump=ops@bastion.example.com:2200,jumpKey=~/.ssh/ops")
			return []Host{h}, err
		}},
		"Terraform": {page: "terraform.md", read: func() ([]Host, error) {
			out, err := ReadTerraform([]byte(`{"hosts": [{"name": "lb-a", "private_address": "10.0.0.31", "secondary_address": "fd00::31", "front_address": "192.0.2.31", "roles": ["load-balancer"], "zone": "a",
				"region": "north", "fails_with": ["rack-1", "power-a"], "ssh": {"address": "203.0.113.1", "user": "admin", "port": 2231, "host_port": "2022", "key_file": "~/.ssh/prod",
				"known_hosts_file": "~/.ssh/known_prod", "host_key": "`+whole.SSH.HostKey+`", "jump": "gate@outer.example.com:2022,ops@bastion.example.com:2200", "jump_key_file": "~/.ssh/outer,~/.ssh/ops"}}]}`), "", nil)
			if err != nil {
				return nil, err
			}
			return out.Options.Hosts, nil
		}},
		"an Ansible inventory": {page: "ansible.md", read: func() ([]Host, error) {
			out, err := ReadAnsible([]byte(`
all:
  vars: {kube_pods_subnet: 10.244.0.0/16, kube_service_addresses: 10.96.0.0/12, kube_pods_subnet_ipv6: "fd01::/56", kube_service_addresses_ipv6: "fd02::/112", ipv6_stack: true}
kube_control_plane: {hosts: {cp-a: {ip: 10.0.0.11, zone: a}}}
load_balancer:
  hosts:
    lb-a:
      {ip: 10.0.0.31, ip6: "fd00::31", front_address: 192.0.2.31, zone: a, region: north, fails_with: [rack-1, power-a], ansible_host: 203.0.113.1, ansible_user: admin, ansible_port: 2231, ssh_host_port: 2022,
       ansible_ssh_private_key_file: ~/.ssh/prod, ansible_ssh_common_args: "-o UserKnownHostsFile=~/.ssh/known_prod", ssh_host_key: "`+whole.SSH.HostKey+`"}
bastion: {hosts: {gate: {ansible_host: bastion.example.com, ansible_user: ops, ansible_port: 2200, ansible_ssh_private_key_file: ~/.ssh/ops,
  ansible_ssh_common_args: '-o ProxyCommand="ssh -i ~/.ssh/outer -p 2022 -W %h:%p gate@outer.example.com"'}}}
`), "inventory.yaml", AnsibleOptions{})
			if err != nil {
				return nil, err
			}
			if len(out.Notes) > 0 {
				return nil, fmt.Errorf("notes: %q", out.Notes)
			}
			return out.Options.Hosts[1:], nil
		}},
		"the file that init writes": {read: func() ([]Host, error) {
			data, err := Init(InitOptions{Name: "prod", VirtualIP: "192.0.2.100", Topology: TopologyStacked, Hosts: []Host{
				{Name: "cp-a", Address: "10.0.0.11", SecondaryAddress: "fd00::11", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "a", Region: "north"},
				{Name: "cp-b", Address: "10.0.0.12", SecondaryAddress: "fd00::12", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "b"},
				{Name: "cp-c", Address: "10.0.0.13", SecondaryAddress: "fd00::13", Roles: []string{RoleControlPlane, RoleWorker}, Zone: "c"},
				whole, {Name: "lb-b", Address: "10.0.0.32", SecondaryAddress: "fd00::32", FrontAddress: "192.0.2.32", Roles: []string{RoleLoadBalancer}, Zone: "b"},
			}})
			if err != nil {
				return nil, err
			}
			c, err := Check(data, "cluster.yaml", Options{})
			if err != nil {
				return nil, err
			}
			return c.Spec.Hosts[3:4], nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			hosts, err := from.read()
			if err != nil || len(hosts) != 1 {
				t.Fatalf("%d hosts, %v", len(hosts), err)
			}
			for _, path := range paths {
				got, want := leaf(reflect.ValueOf(hosts[0]), path), leaf(reflect.ValueOf(whole), path)
				switch dropped := slices.Contains(from.dropped, path); {
				case dropped && !got.IsZero():
					t.Errorf("%s is read: it is not dropped", path)
				case !dropped && !reflect.DeepEqual(got.Interface(), want.Interface()):
					t.Errorf("%s is %v, want %v", path, got, want)
				}
			}
			if from.page == "" {
				return
			}
			page, err := os.ReadFile("../../docs/" + from.page)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range paths { // the page names each field, as the source or as the spec calls it
				name := path[strings.LastIndex(path, ".")+1:]
				if !strings.Contains(string(page), "`"+path+"`") && !strings.Contains(string(page), "`"+snake(name)+"`") {
					t.Errorf("docs/%s does not name %s", from.page, path)
				}
			}
		})
	}
}

// TestWhatBelongsToOneHostIsNotUsual: everything else of how hosts are reached can be said once for all of them.
func TestWhatBelongsToOneHostIsNotUsual(t *testing.T) {
	got := SSH{}.Or(whole.SSH)
	for _, path := range leaves(reflect.TypeFor[SSH](), "") {
		own := path == "address" || path == "hostKey"
		if leaf(reflect.ValueOf(got), path).IsZero() != own {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if own := (SSH{User: "root", Jump: "other"}).Or(whole.SSH); own.User != "root" || own.Jump != "other" || own.JumpKeyFile != "" {
		t.Errorf("what a host says itself counts, and its jump host has a key of its own: %+v", own)
	}
}

// TestJumpKeyFiles: there is one key for each jump host.
func TestJumpKeyFiles(t *testing.T) {
	for name, tc := range map[string]struct {
		ssh  SSH
		want []string
	}{
		"no jump host":         {SSH{KeyFile: "k"}, nil},
		"the key of the host":  {SSH{KeyFile: "k", Jump: "a,b"}, []string{"k", "k"}},
		"one key":              {SSH{KeyFile: "k", Jump: "a,b", JumpKeyFile: "j"}, []string{"j", "j"}},
		"a key for each":       {SSH{KeyFile: "k", Jump: "a,b", JumpKeyFile: "i,j"}, []string{"i", "j"}},
		"one has none":         {SSH{KeyFile: "k", Jump: "a,b", JumpKeyFile: ",j"}, []string{"k", "j"}},
		"none is said of them": {SSH{Jump: "a,b"}, []string{"", ""}},
	} {
		if got := tc.ssh.JumpKeyFiles(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestGatewayPorts: hosts behind a gateway with one address have ports there that say nothing about those of the hosts.
func TestGatewayPorts(t *testing.T) {
	at := func(name, address string, port, own int) Host {
		return Host{Name: name, SSH: SSH{Address: address, Port: port, HostPort: own}}
	}
	hosts := []Host{at("a", "203.0.113.1", 2201, 0), at("b", "203.0.113.1", 2202, 0), at("c", "203.0.113.3", 22, 0), at("d", "", 22, 0), at("e", "", 22, 0), at("f", "203.0.113.1", 2203, 22)}
	notes := GatewayPorts(hosts)
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "a, b are reached at 203.0.113.1, on a port for each of them.") || !strings.Contains(notes[0], "ssh.hostPort") {
		t.Errorf("%q", notes)
	}
}

// TestTheHostsOfAnInventoryAreReachedWhereAnsibleReachesThem: ansible_port is a port of ansible_host, and no port of another address.
func TestTheHostsOfAnInventoryAreReachedWhereAnsibleReachesThem(t *testing.T) {
	out, err := ReadAnsible([]byte(small("[all:vars]", "ansible_host=203.0.113.1", "[zones]", "n1 ip=10.0.0.1 zone=a ansible_port=2201", "n2 ip=10.0.0.2 zone=b ansible_port=2202", "n3 ip=10.0.0.3 zone=c ansible_host=10.0.0.3")), "", AnsibleOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []SSH{{Address: "203.0.113.1", Port: 2201}, {Address: "203.0.113.1", Port: 2202}, {}} {
		if got := out.Options.Hosts[i].SSH; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if !slices.ContainsFunc(out.Notes, func(n string) bool { return strings.HasPrefix(n, "n1, n2 are reached at 203.0.113.1") }) {
		t.Errorf("notes %q", out.Notes)
	}
}
